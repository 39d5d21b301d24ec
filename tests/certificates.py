"""Certificates for tests, made by the openssl command (in CI it is installed; without it what needs one is skipped)."""

from __future__ import annotations

import shutil
import ssl
import subprocess
from pathlib import Path

import pytest

from gateway.api.tls import Files

needs_openssl = pytest.mark.skipif(
    shutil.which("openssl") is None, reason="there is no openssl command to make certificates with"
)


def make_certificate(folder: Path, name: str = "server", *, days: int = 90, passphrase: str = "") -> Files:
    """A self-signed certificate for localhost and 127.0.0.1, valid from now for `days`; -1 is one that expired yesterday."""
    folder.mkdir(parents=True, exist_ok=True)
    files = Files(folder / f"{name}.pem", folder / f"{name}.key")
    request, more = folder / f"{name}.csr", folder / f"{name}.ext"
    more.write_text("subjectAltName = DNS:localhost, IP:127.0.0.1\n")
    secret = ["-passout", f"pass:{passphrase}"] if passphrase else ["-nodes"]
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    known = ["-passin", f"pass:{passphrase}"] if passphrase else []
    _openssl("req", "-new", *curve, *secret, "-keyout", str(files.key), "-out", str(request), "-subj", f"/CN={name}")
    # `req -x509` refuses days below 1, `x509 -req` does not.
    signing = ["-signkey", str(files.key), "-days", str(days), "-extfile", str(more)]
    _openssl("x509", "-req", "-in", str(request), *signing, *known, "-out", str(files.certificate))
    files.key.chmod(0o600)
    return files


def trusting(*files: Files) -> ssl.SSLContext:
    """A client's context that knows exactly these."""
    context = ssl.create_default_context(cafile=files[0].certificate)
    for more in files[1:]:
        context.load_verify_locations(more.certificate)
    return context


def _openssl(*words: str) -> None:
    done = subprocess.run(["openssl", *words], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
