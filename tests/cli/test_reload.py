"""`pagegrid reload` and SIGHUP, on a server that is a process of its own."""

from __future__ import annotations

import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cli.test_serve import serving

DEMO = '[[upstreams]]\nname = "demo"\nkind = "demo"\n'


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "gateway", "--data-dir", str(folder / "data"), *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=30)


def test_a_good_file_is_in_force_when_the_command_returns_and_a_bad_one_changes_nothing(tmp_path: Path) -> None:
    config = tmp_path / "pagegrid.toml"
    config.write_text(DEMO)
    with serving(tmp_path) as server:
        config.write_text(DEMO + "[plans.tiny]\nrpm = 1\n")
        done = run(tmp_path, "reload")
        assert (done.returncode, done.stderr) == (0, "Reloaded: plans.\n")
        assert run(tmp_path, "users", "create", "ada", "--plan", "tiny").returncode == 0
        config.write_text(DEMO + "[plans.tiny]\nrpn = 1\n")
        refused = run(tmp_path, "reload")
        assert (
            refused.returncode == 1
            and "did you mean plans.tiny.rpm?" in refused.stderr
            and "nothing was reloaded" in refused.stderr
        )
        config.write_text(DEMO)
        for words in (["reload"], ["config", "check"]):
            refused = run(tmp_path, *words)
            assert refused.returncode == 1 and "tiny (1 user)" in refused.stderr
        config.write_text(DEMO + "[server]\nport = 9\n[plans.tiny]\n")
        # The command line's port counts over the file's, as it did at the start.
        assert run(tmp_path, "reload").stderr == "Reloaded: plans.\n"
        assert run(tmp_path, "reload").stderr == f"Nothing had changed in {config}.\n"
        # Naming the server's own file is right, another is refused: it would be ignored.
        link = tmp_path / "link.toml"
        link.symlink_to(config)
        assert run(tmp_path, "reload", "--config", str(link)).returncode == 0
        other = tmp_path / "other.toml"
        other.write_text(DEMO + "[plans.tiny]\nrpm = 7\n")
        refused = run(tmp_path, "reload", "--config", str(other))
        assert (
            refused.returncode == 1 and f"the server uses {config}" in refused.stderr and "nothing was reloaded" in refused.stderr
        )
        code, _ = server.stop()
        assert code == 0
    refused = run(tmp_path, "reload")
    assert refused.returncode == 1 and "no server is running" in refused.stderr


def test_a_start_with_a_plan_in_use_that_is_not_declared_is_refused(tmp_path: Path) -> None:
    config = tmp_path / "pagegrid.toml"
    config.write_text(DEMO + "[plans.tiny]\n")
    assert run(tmp_path, "users", "create", "ada", "--plan", "tiny").returncode == 0
    config.write_text(DEMO)
    check = run(tmp_path, "config", "check")
    assert check.returncode == 1 and "tiny (1 user)" in check.stderr and "Traceback" not in check.stderr
    refused = run(tmp_path, "serve", "--port", "0")
    assert refused.returncode == 1 and "tiny (1 user)" in refused.stderr and "Traceback" not in refused.stderr
    # Commands work all the same, or nobody could be moved.
    assert run(tmp_path, "users", "set-plan", "ada", "default").returncode == 0


def test_a_reload_says_what_became_of_the_demo_credit(tmp_path: Path) -> None:
    config = tmp_path / "pagegrid.toml"
    with serving(tmp_path) as server:
        config.write_text('[[upstreams]]\nname = "main"\nkind = "anthropic"\nbase_url = "http://127.0.0.1:9"\napi_key = "x"\n')
        config.chmod(0o600)
        told = run(tmp_path, "reload").stderr
        assert "What was left of the demo credit ($10.00) was taken back" in told and "wallets topup" in told
        config.write_text(config.read_text() + "[plans.pro]\n")
        assert "taken back" not in run(tmp_path, "reload").stderr
        server.stop()


def test_a_file_that_is_gone_does_not_make_the_demo_answer(tmp_path: Path) -> None:
    config = tmp_path / "pagegrid.toml"
    with serving(tmp_path) as server:
        # Without a file from the start on, one may come.
        config.write_text(DEMO.replace('"demo"\nk', '"mine"\nk'))
        assert run(tmp_path, "reload").stderr == "Reloaded: upstreams, models.\n"
        config.unlink()
        refused = run(tmp_path, "reload")
        assert refused.returncode == 1 and f"{config}: it was in force, and is not there any more" in refused.stderr
        assert "nothing was reloaded" in refused.stderr
        assert "mine" in run(tmp_path, "upstreams", "list").stdout
        assert server.stop()[0] == 0


@pytest.mark.skipif(not Path("/proc/self/limits").exists(), reason="the system does not tell a process's limits")
def test_more_requests_at_once_take_the_open_files_that_they_need(tmp_path: Path) -> None:
    config = tmp_path / "pagegrid.toml"
    config.write_text(DEMO)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (512, hard))
    try:
        with serving(tmp_path) as server:
            config.write_text("[server]\nmax_in_flight = 700\n" + DEMO)
            assert run(tmp_path, "reload").returncode == 0
            limits = Path(f"/proc/{server.process.pid}/limits").read_text()
            assert re.search(r"Max open files +1656 ", limits), limits
            assert server.stop()[0] == 0
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_hang_up_reloads_and_the_log_says_what_came_of_it(tmp_path: Path) -> None:
    config = tmp_path / "pagegrid.toml"
    config.write_text(DEMO)
    with serving(tmp_path) as server:
        for text in (DEMO + "[plans.tiny]\n", DEMO + "[plan.tiny]\n"):
            config.write_text(text)
            server.process.send_signal(signal.SIGHUP)
            time.sleep(0.7)
        code, said = server.stop()
    assert code == 0
    assert "reloaded: plans" in said
    assert "not reloaded" in said and "did you mean plans?" in said
