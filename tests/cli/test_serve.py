"""`pagegrid serve` as a process: the first start, the next ones, and how it ends."""

from __future__ import annotations

import json
import re
import resource
import signal
import socket
import sqlite3
import stat
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.ledger_tools import assert_books_balance

SECRET = re.compile(r"sk-pgrid-[0-9a-f]{64}")


class Server:
    def __init__(self, process: subprocess.Popen[str], greeting: str, url: str) -> None:
        self.process = process
        self.greeting = greeting
        self.url = url

    @property
    def secret(self) -> str:
        found = SECRET.search(self.greeting)
        assert found is not None
        return found.group()

    def ask(self, secret: str, **fields: Any) -> Any:
        body = {"model": "claude-haiku-5-5", "max_tokens": 50, "messages": [{"role": "user", "content": "say hi"}], **fields}
        headers = {"x-api-key": secret, "content-type": "application/json"}
        request = urllib.request.Request(self.url + "/v1/messages", json.dumps(body).encode(), headers)
        return urllib.request.urlopen(request, timeout=10)

    def stop(self) -> tuple[int, str]:
        """SIGTERM; the exit code and what was said to stderr."""
        self.process.send_signal(signal.SIGTERM)
        _, said = self.process.communicate(timeout=30)
        return self.process.returncode, said


@contextmanager
def serving(folder: Path, *options: str) -> Iterator[Server]:
    command = [sys.executable, "-m", "gateway", "serve", "--data-dir", str(folder / "data"), "--port", "0", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        greeting = ""
        try:
            assert process.stdout is not None
            for line in process.stdout:
                greeting += line
                if " listens on " in line:
                    break
            else:
                raise AssertionError(process.communicate()[1])
            yield Server(process, greeting, greeting.split()[-1])
        finally:
            process.kill()


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "gateway", *arguments, "--data-dir", str(folder / "data")]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


def test_the_first_start_works_at_once_and_the_second_prints_no_secret(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        assert len(set(SECRET.findall(server.greeting))) == 1
        for words in ("curl ", "ANTHROPIC_BASE_URL", "ANTHROPIC_AUTH_TOKEN", "Anthropic(base_url"):
            assert words in server.greeting
        secret = server.secret
        with server.ask(secret) as answer:
            assert "demo" in json.load(answer)["content"][0]["text"].lower()
        code, said = server.stop()
        assert code == 0 and "all settled" in said and secret not in said
    data = tmp_path / "data"
    assert stat.S_IMODE(data.stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in data.iterdir()} == {0o600}
    with serving(tmp_path) as server:
        assert SECRET.search(server.greeting) is None
        with server.ask(secret) as answer:
            assert answer.status == 200
        assert server.stop()[0] == 0
    assert_books_balance(data / "pagegrid.db")


def test_the_printed_curl_line_works_as_it_is(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        start = server.greeting.index("curl ")
        command = server.greeting[start : server.greeting.index("\n\n", start)]
        done = subprocess.run(["sh", "-c", command.replace("curl ", "curl -sS ")], capture_output=True, text=True, timeout=20)
        assert json.loads(done.stdout)["type"] == "message", done.stderr
        server.stop()


def test_what_is_left_of_the_demo_credit_is_taken_back_with_a_real_upstream(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        server.ask(server.secret).close()
        server.stop()
    run(tmp_path, "wallets", "topup", "admin", "5", "--reference", "invoice-1")
    config = tmp_path / "pagegrid.toml"
    config.write_text('[[upstreams]]\nname = "main"\nkind = "anthropic"\nbase_url = "http://127.0.0.1:9"\napi_key = "x"\n')
    config.chmod(0o600)
    for reversed_now in (True, False):
        with serving(tmp_path) as server:
            _, said = server.stop()
            assert ("taken back" in said) is reversed_now
    shown = json.loads(run(tmp_path, "wallets", "show", "admin", "--json").stdout)
    assert shown["balance_nanos"] == 5_000_000_000
    assert_books_balance(tmp_path / "data" / "pagegrid.db")


def test_a_configuration_that_was_moved_away_turns_no_paying_house_into_a_demo(tmp_path: Path) -> None:
    config = tmp_path / "pagegrid.toml"
    config.write_text('[[upstreams]]\nname = "main"\nkind = "demo"\n')
    with serving(tmp_path) as server:
        server.ask(server.secret).close()
        server.stop()
    config.rename(tmp_path / "moved.toml")
    done = run(tmp_path, "serve", "--port", "0")
    assert done.returncode == 1 and "'main' has served" in done.stderr and "--config" in done.stderr
    assert_books_balance(tmp_path / "data" / "pagegrid.db")
    (tmp_path / "moved.toml").rename(config)
    with serving(tmp_path) as server:
        server.stop()


def test_a_second_server_on_the_same_data_is_refused_with_the_next_step(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        done = run(tmp_path, "serve", "--port", "0")
        assert done.returncode == 1 and "--data-dir" in done.stderr and "Traceback" not in done.stderr
        server.stop()


def test_a_port_in_use_is_told_with_the_next_step(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = run(tmp_path, "serve", "--port", str(taken.getsockname()[1]))
    assert done.returncode == 1 and "--port" in done.stderr and "Traceback" not in done.stderr


def test_a_stream_that_runs_at_sigterm_comes_to_its_end(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        answer = server.ask(server.secret, stream=True)
        assert answer.readline().startswith(b"event: message_start")
        server.process.send_signal(signal.SIGTERM)
        assert b"message_stop" in answer.read()
        assert server.process.wait(timeout=20) == 0
    assert_books_balance(tmp_path / "data" / "pagegrid.db")


def test_a_first_start_that_cannot_listen_makes_nothing_that_would_be_lost(tmp_path: Path) -> None:
    """The key is shown once: it may not be made before the port is ours."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert run(tmp_path, "serve", "--port", str(taken.getsockname()[1])).returncode == 1
    with serving(tmp_path) as server:
        with server.ask(server.secret) as answer:
            assert answer.status == 200
        server.stop()


def test_a_configuration_that_names_only_the_demo_is_still_a_first_start(tmp_path: Path) -> None:
    config = tmp_path / "pagegrid.toml"
    config.write_text('[billing]\ndemo_credit = "3"\n[[upstreams]]\nname = "demo"\nkind = "demo"\n')
    with serving(tmp_path) as server:
        assert "$3.00" in server.greeting and SECRET.search(server.greeting)
        server.stop()


def test_a_start_without_users_says_how_to_make_one(tmp_path: Path) -> None:
    (tmp_path / "pagegrid.toml").write_text('[[upstreams]]\nname = "main"\nkind = "anthropic"\napi_key = "x"\n')
    with serving(tmp_path) as server:
        said = server.stop()[1]
        assert "pagegrid users create alice" in said
        # What it says makes an admin does.
        for line in (line.split()[1:] for line in said.splitlines() if line.startswith("  pagegrid") and "root" in line):
            done = run(tmp_path, *line)
            assert done.returncode == 0, done.stderr
        assert "/welcome/" in done.stdout and "admin" in run(tmp_path, "users", "show", "root").stdout


@pytest.mark.parametrize("column", ["balance_nanos", "held_nanos"])
def test_a_wallet_whose_books_were_tampered_with_is_frozen_at_the_next_start(tmp_path: Path, column: str) -> None:
    with serving(tmp_path) as server:
        secret = server.secret
        server.stop()
    with closing(sqlite3.connect(tmp_path / "data" / "pagegrid.db")) as conn:
        conn.execute(f"update accounts set {column} = {column} + 1000000 where kind = 'wallet'")
        conn.commit()
    with serving(tmp_path) as server:
        with pytest.raises(urllib.error.HTTPError) as refused:
            server.ask(secret)
        assert refused.value.code == 503 and "frozen" in refused.value.read().decode()
        refused.value.close()
        assert "pagegrid ledger audit" in server.stop()[1]


def test_a_damaged_database_is_told_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir(mode=0o700)
    (tmp_path / "data" / "pagegrid.db").write_bytes(b"no database at all, but long enough to be read as one" * 50)
    done = run(tmp_path, "serve", "--port", "0")
    assert done.returncode == 1 and "restore a backup" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.skipif(not Path("/proc/self/limits").exists(), reason="the system does not tell a process's limits")
def test_it_takes_the_open_files_that_its_requests_need(tmp_path: Path) -> None:
    (tmp_path / "pagegrid.toml").write_text('[server]\nmax_in_flight = 600\n[[upstreams]]\nname = "demo"\nkind = "demo"\n')
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (512, hard))
    try:
        with serving(tmp_path) as server:
            limits = Path(f"/proc/{server.process.pid}/limits").read_text()
            assert re.search(r"Max open files +1456 ", limits), limits
            server.stop()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
