"""`pagegrid serve` with a certificate: the URL it prints works, and what is wrong is told before anything is made."""

from __future__ import annotations

import json
import socket
import ssl
import subprocess
import time
import urllib.request
from pathlib import Path

import pytest

from tests.certificates import Files, make_certificate, needs_openssl, trusting
from tests.cli.test_serve import Server, run, serving

pytestmark = needs_openssl

CONFIG = """
[server]
tls_certificate_file = "tls/{certificate}"
tls_key_file = "tls/{key}"
[[upstreams]]
name = "demo"
kind = "demo"
"""


def configure(folder: Path, files: Files) -> None:
    text = CONFIG.format(certificate=files.certificate.name, key=files.key.name)
    (folder / "pagegrid.toml").write_text(text)


def test_it_prints_https_and_means_it(tmp_path: Path) -> None:
    """As a self-hoster runs it, on uvloop, with paths beside the config file."""
    files = make_certificate(tmp_path / "tls")
    configure(tmp_path, files)
    with serving(tmp_path) as server:
        assert server.url.startswith("https://127.0.0.1:")
        start = server.greeting.index("curl ")
        command = server.greeting[start : server.greeting.index("\n\n", start)].replace(
            "curl ", f"curl -sS --cacert {files.certificate} "
        )
        done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=20)
        assert json.loads(done.stdout)["type"] == "message", done.stderr
        stream(server, trusting(files))
        code, said = server.stop()
        assert code == 0 and "Warning" not in said and "Traceback" not in said


def stream(server: Server, trust: ssl.SSLContext) -> None:
    body = {"model": "claude-haiku-5-5", "max_tokens": 50, "stream": True, "messages": [{"role": "user", "content": "say hi"}]}
    headers = {"x-api-key": server.secret, "content-type": "application/json"}
    request = urllib.request.Request(server.url + "/v1/messages", json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=10, context=trust) as answer:
        assert answer.read().rstrip().endswith(b'{"type":"message_stop"}')


def test_a_renewed_certificate_is_taken_over_told_and_remembered(tmp_path: Path) -> None:
    """The names of its files are the old ones, so the configuration itself says nothing of it."""
    files = make_certificate(tmp_path / "tls")
    configure(tmp_path, files)
    with serving(tmp_path) as server:
        assert run(tmp_path, "reload").stderr.startswith("Nothing had changed in ")
        renewed = make_certificate(tmp_path / "tls", "renewed")
        files.certificate.write_bytes(renewed.certificate.read_bytes())
        files.key.write_bytes(renewed.key.read_bytes())
        assert run(tmp_path, "reload").stderr == "Reloaded: TLS certificate.\n"
        stream(server, trusting(renewed))
        assert run(tmp_path, "reload").stderr.startswith("Nothing had changed in ")
        (entry,) = json.loads(run(tmp_path, "audit", "list", "--action", "configuration", "--json").stdout)["entries"]
        assert entry["after"] == {"changed": ["TLS certificate"]}
        assert server.stop()[0] == 0


def test_a_stalled_handshake_does_not_keep_a_stop_waiting(tmp_path: Path) -> None:
    configure(tmp_path, make_certificate(tmp_path / "tls"))
    with serving(tmp_path) as server:
        port = int(server.url.rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port)):
            began = time.monotonic()
            assert server.stop()[0] == 0
            assert time.monotonic() - began < 8


@pytest.mark.parametrize("command", [("serve", "--port", "0"), ("config", "check", "--config", "pagegrid.toml")])
def test_bad_files_end_the_start_with_the_next_step(tmp_path: Path, command: tuple[str, ...]) -> None:
    files = make_certificate(tmp_path / "tls")
    files.key.write_bytes(make_certificate(tmp_path / "tls", "other").key.read_bytes())
    configure(tmp_path, files)
    words = [word.replace("pagegrid.toml", str(tmp_path / "pagegrid.toml")) for word in command]
    done = run(tmp_path, *words)
    assert done.returncode == 1 and "does not belong to" in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "data").exists()


def test_an_expired_certificate_is_served_with_a_warning(tmp_path: Path) -> None:
    configure(tmp_path, make_certificate(tmp_path / "tls", days=-1))
    with serving(tmp_path) as server:
        code, said = server.stop()
        assert code == 0 and "Warning: the TLS certificate" in said and "expired on" in said
    done = run(tmp_path, "config", "check", "--config", str(tmp_path / "pagegrid.toml"))
    assert done.returncode == 0 and "expired on" in done.stderr
