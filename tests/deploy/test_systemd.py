"""The unit of deploy/: what it promises the service, and that the service runs under its strictest rule."""

from __future__ import annotations

import ctypes
import json
import platform
import shlex
import shutil
import subprocess
import sys
import urllib.request
from collections import defaultdict
from pathlib import Path

import pytest

from gateway.cli import main
from gateway.config import Server, Timeouts

UNIT = Path(__file__).parent.parent.parent / "deploy" / "pagegrid.service"
PROGRAM = "/opt/pagegrid/bin/pagegrid"
# prctl(2): what systemd's MemoryDenyWriteExecute= sets where the kernel (6.3) has it; passed on to what is executed.
PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN = 65, 1

needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze here")


def settings() -> dict[str, list[str]]:
    found = defaultdict(list)
    for line in UNIT.read_text().splitlines():
        name, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            found[name].append(value)
    return found


def test_it_gives_a_stop_its_time_and_requests_their_files() -> None:
    found = settings()
    # Once for what runs to end, once for what is cut to be settled.
    assert int(found["TimeoutStopSec"][0]) > 2 * Timeouts().shutdown_s
    assert int(found["LimitNOFILE"][0]) >= Server().open_files_needed


def test_it_calls_the_program_as_it_wants_to_be_called() -> None:
    (start,) = settings()["ExecStart"]
    program, command, *options = shlex.split(start)
    assert program == PROGRAM
    known = {text for parameter in main.commands[command].params for text in parameter.opts}
    assert {word for word in options if word.startswith("--")} <= known


@needs_systemd
def test_systemd_finds_nothing_wrong_with_it(tmp_path: Path) -> None:
    unit = tmp_path / "pagegrid.service"
    unit.write_text(UNIT.read_text().replace(PROGRAM, sys.executable))
    done = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    # In tenths, 100 is a service without any protection; this one has 15 (systemd 252).
    words = ["systemd-analyze", "security", "--offline=true", "--threshold=25", unit]
    assert subprocess.run(words, capture_output=True, timeout=30, check=False).returncode == 0


@pytest.mark.skipif(platform.system() != "Linux", reason="only Linux has prctl")
def test_it_serves_without_memory_that_is_written_and_executed(tmp_path: Path) -> None:
    """MemoryDenyWriteExecute: uvloop, orjson, msgspec and aiohttp's parser at work, a backup and a stop."""
    assert "yes" in settings()["MemoryDenyWriteExecute"]
    if ctypes.CDLL(None).prctl(66, 0, 0, 0, 0) < 0:  # PR_GET_MDWE
        pytest.skip("this kernel cannot deny writable executable memory")
    denied = (
        f"import ctypes, os, sys; assert ctypes.CDLL(None).prctl({PR_SET_MDWE}, {PR_MDWE_REFUSE_EXEC_GAIN}, 0, 0, 0) == 0; "
        "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
    )
    data = ["--data-dir", str(tmp_path / "data")]
    words = [sys.executable, "-c", denied, "-m", "gateway", "serve", "--port", "0", *data]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            secret = url = ""
            for line in process.stdout:
                if line.strip().startswith("sk-pgrid-"):
                    secret = line.strip()
                if " listens on " in line:
                    url = line.split()[-1]
                    break
            body = {"model": "claude-haiku-5-5", "max_tokens": 20, "messages": [{"role": "user", "content": "say hi"}]}
            request = urllib.request.Request(url + "/v1/messages", json.dumps(body).encode(), {"x-api-key": secret})
            with urllib.request.urlopen(request, timeout=10) as answer:
                assert json.load(answer)["type"] == "message"
            backup = [sys.executable, "-m", "gateway", "backup", str(tmp_path / "copy.db"), *data]
            assert subprocess.run(backup, capture_output=True, timeout=30, check=False).returncode == 0
        finally:
            process.terminate()
            _, said = process.communicate(timeout=30)
        assert process.returncode == 0 and "all settled" in said
