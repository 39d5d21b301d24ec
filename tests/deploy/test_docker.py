"""The Dockerfile, as far as it can be read without Docker: what it copies is there, and it is called without a shell."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
TEXT = (ROOT / "deploy" / "Dockerfile").read_text()
WORDS = re.sub(r"\\\n\s*", "", re.sub(r"^\s*#.*\n", "", TEXT, flags=re.MULTILINE)).splitlines()


def test_what_it_copies_is_there_and_is_let_through() -> None:
    let_through = (ROOT / "deploy" / "Dockerfile.dockerignore").read_text().splitlines()
    copied = [word for line in WORDS if line.startswith("COPY ") and "--from" not in line for word in line.split()[1:-1]]
    assert copied and all((ROOT / name).exists() and f"!{name}" in let_through for name in copied)


def test_it_is_called_without_a_shell_and_not_as_root() -> None:
    command = json.loads(next(line for line in WORDS if line.startswith("CMD ")).removeprefix("CMD "))
    assert command[:2] == ["pagegrid", "serve"]
    health = next(line for line in WORDS if line.startswith("HEALTHCHECK "))
    assert "/readyz" in json.loads(health.partition(" CMD ")[2])[2]
    assert WORDS.index("USER pagegrid") > max(number for number, line in enumerate(WORDS) if line.startswith("RUN "))
    assert "VOLUME /data" in WORDS


def test_what_builds_the_wheel_is_locked_with_its_hashes() -> None:
    (expression,) = re.findall(r"sed -n '([^']+)' requirements-test\.lock", TEXT)
    found = subprocess.run(["sed", "-n", expression, ROOT / "requirements-test.lock"], capture_output=True, text=True, check=True)
    lines = found.stdout.splitlines()
    assert lines[0].startswith("setuptools==") and all("--hash=sha256:" in line for line in lines[1:]) and len(lines) > 1
