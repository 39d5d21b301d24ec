"""Secrets that stand in files: read, judged, and never repeated in a message. A file that cannot be read is not named at all."""

from __future__ import annotations

import re
import stat
from pathlib import Path
from typing import Literal

from pydantic import SecretStr

from gateway.config.errors import Findings, Where

# What becomes of secrets that stand outside the configuration:
#     needed      a server works with them: one that is missing is an error
#     checked     somebody only looks: a variable may be set for the server alone, so that is a warning
#     unneeded    administration needs none: neither the environment nor a file is read
Secrets = Literal["needed", "checked", "unneeded"]

# Providers' keys are under 200 characters, cloud tokens reach some thousands; what is longer is some other file.
SECRET_CHARS_MAX = 16_384

NO_SECRET = SecretStr("")


def secret_of_file(
    written: str, option: Where, findings: Findings, folder: Path, secrets: Secrets, warnings: list[str]
) -> SecretStr:
    """The secret in the file that an option names, relative to `folder`; none if it names none, or if none is needed."""
    if not written or secrets == "unneeded":
        return NO_SECRET
    text = read_secret_file(folder / written, option, findings, warnings)
    return NO_SECRET if text is None else check_secret(text, option, findings)


def check_secret(text: str, option: Where, findings: Findings) -> SecretStr:
    """The secret without the blanks around it; a finding says what is wrong with it."""
    text = text.strip()
    if not text:
        findings.add(option, "the secret is empty")
    elif len(text) > SECRET_CHARS_MAX or not re.fullmatch(r"[!-~]+", text):
        # It becomes a header: anything else could end that header and start another.
        findings.add(option, f"the secret must be one line of at most {SECRET_CHARS_MAX} visible ASCII characters")
    return SecretStr(text)


def read_secret_file(path: Path, option: Where, findings: Findings, warnings: list[str]) -> str | None:
    """None if it cannot be read, with a finding that says so."""
    try:
        text = path.read_text(encoding="utf-8-sig")
        if path.stat().st_mode & stat.S_IROTH:
            warnings.append(f"{findings.name(option)}: every user of this machine can read that file; chmod 600 {path}.")
    except OSError as error:
        findings.add(option, f"the file cannot be read: {error.strerror}; a relative path starts beside the config file")
        return None
    except ValueError:
        # Not UTF-8, or a path with a NUL in it.
        findings.add(option, "that is not the path of a text file")
        return None
    return text
