"""`pagegrid doctor` as it is typed: without anything, without a server, beside one, and beside one that is not well."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest

from gateway.api import door
from tests.certificates import make_certificate, needs_openssl
from tests.cli.test_serve import run, serving
from tests.cli.tools import Shell
from tests.cli.visitors import open_door, type_in
from tests.gateway_tools import ScriptedUpstream
from tests.upstreams import scripts

# What this machine is like is its own matter.
OF_THE_MACHINE = {"clock", "memory", "open files", "file system", "disk"}


def faults(found: Any) -> dict[str, str]:
    """What is not well with the house: {check: what is said}."""
    return {
        each["check"]: each["says"]
        for each in found["findings"]
        if each["verdict"] != "ok" and each["check"] not in OF_THE_MACHINE
    }


def doctor(folder: Path) -> Any:
    done = run(folder, "doctor", "--json")
    assert "Traceback" not in done.stderr, done.stderr
    found = json.loads(done.stdout)
    assert done.returncode == (0 if found["ok"] else 1)
    return found


def told(found: Any, check: str) -> list[str]:
    return [each["says"] for each in found["findings"] if each["check"] == check]


def test_without_anything_all_is_well_and_nothing_is_made(shell: Shell) -> None:
    shell.config.write_text('[server]\nport = 0\n[[upstreams]]\nname = "demo"\nkind = "demo"\n')
    done = shell.run("doctor")
    assert done.exit_code == 0 and "upstreams    demo answers" in done.stdout and "0 failures" in done.stderr
    assert not shell.data.exists()


def test_a_failure_is_exit_1_and_has_its_next_step_below(shell: Shell) -> None:
    shell.config.write_text("[server]\nprot = 1\n")
    done = shell.run("doctor", "--offline")
    assert done.exit_code == 1 and "Traceback" not in done.output
    lines = done.stdout.splitlines()
    (place,) = [number for number, line in enumerate(lines) if line.startswith("failure  config") and "server.prot" in line]
    assert any("→ correct that" in line for line in lines[place:])
    done = shell.run("doctor", "--offline", "--json")
    assert done.exit_code == 1 and json.loads(done.stdout)["ok"] is False


async def test_without_a_server_upstreams_are_asked_with_their_secrets(shell: Shell) -> None:
    async with ScriptedUpstream() as good, ScriptedUpstream(default=scripts.refuse(401)) as revoked:
        shell.config.write_text(
            "[server]\nport = 0\n"
            + "".join(
                f'[[upstreams]]\nname = "{name}"\nkind = "anthropic"\nbase_url = "{url}"\napi_key = "secret-of-{name}"\n'
                for name, url in (("good", good.url), ("revoked", revoked.url), ("gone", "http://127.0.0.1:9"))
            )
            + '[[upstreams]]\nname = "elsewhere"\nkind = "anthropic"\napi_key_env = "NOT_SET_HERE"\n'
        )
        shell.config.chmod(0o600)
        code, stdout, _ = await type_in(shell, "doctor", "--json", "--config", str(shell.config))
    found = json.loads(stdout)
    assert code == 1 and [text.split(":")[0] for text in told(found, "upstreams")] == [
        f"good answers in {told(found, 'upstreams')[0].split()[3]} ms",
        "revoked refuses with status 401",
        "gone is not reached",
    ]
    assert good.journal[0].header("x-api-key") == "secret-of-good" and "secret-of" not in stdout
    assert "NOT_SET_HERE" in faults(found)["config"]


@needs_openssl
def test_beside_a_running_server(tmp_path: Path) -> None:
    files = make_certificate(tmp_path / "tls")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    (tmp_path / "pagegrid.toml").write_text(
        f'[server]\nport = {port}\ntls_certificate_file = "tls/server.pem"\ntls_key_file = "tls/server.key"\n'
        '[[upstreams]]\nname = "demo"\nkind = "demo"\n'
    )
    with serving(tmp_path) as server:
        found = doctor(tmp_path)
        assert faults(found) == {}
        # Not the file's: `serve --port` counts over it, and the server says where it is.
        bound = server.url.rpartition(":")[2]
        assert bound != str(port) and told(found, "port") == [f"the server is ready on 127.0.0.1:{bound}"]
        assert told(found, "server")[0].endswith("is running and answers at its door")
        assert told(found, "upstreams")[0].startswith("demo answers")
        # Renewed, and nobody has told the server.
        renewed = make_certificate(tmp_path / "tls", "renewed")
        files.certificate.write_bytes(renewed.certificate.read_bytes())
        files.key.write_bytes(renewed.key.read_bytes())
        found = doctor(tmp_path)
        assert list(faults(found)) == ["port"] and "older certificate" in faults(found)["port"]
        assert server.stop()[0] == 0
    found = doctor(tmp_path)
    assert faults(found) == {} and told(found, "port") == [f"127.0.0.1:{port} is free"]


async def test_a_server_of_another_release_is_told_and_asked_nothing(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "VERSION", "0.0.9")
    async with open_door(shell.data):
        code, stdout, stderr = await type_in(shell, "doctor", "--json", "--config", str(shell.config))
    found = json.loads(stdout)
    assert code == 1 and "the running server is pagegrid 0.0.9" in faults(found)["server"], stderr
    assert told(found, "upstreams") == ["not asked"]


async def test_the_latest_backup_of_a_server_is_known(shell: Shell) -> None:
    shell.config.write_text('[server]\nport = 0\n[[upstreams]]\nname = "main"\nkind = "anthropic"\napi_key = "x"\n')
    shell.config.chmod(0o600)
    async with open_door(shell.data):
        words = ("doctor", "--offline", "--json", "--config", str(shell.config))
        before = json.loads((await type_in(shell, *words))[1])
        assert (await type_in(shell, "backup", str(shell.folder / "copy.db")))[0] == 0
        after = json.loads((await type_in(shell, *words))[1])
    assert told(before, "backup") == ["this database knows of no backup that a running server made"]
    assert told(after, "backup") == ["the latest backup is 0 min old"]
