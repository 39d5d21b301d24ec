"""The processes of a run: the mock, nginx, the gateway. Started on loopback, measured through /proc, ended by their own pid."""

from __future__ import annotations

import http.client
import json
import os
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

BENCH = Path(__file__).resolve().parent
REPOSITORY = BENCH.parent
START_LIMIT_S = 30
STOP_LIMIT_S = 40  # the gateway lets streams run for 30 s
CLI_LIMIT_S = 60
TICKS_PER_S = os.sysconf("SC_CLK_TCK")

# One worker that is also the master, so that one pid holds all its CPU. Two ports: a plain proxy at its best buffers small JSON
# and does not buffer streams. Keep-alive limits are out of the way; the access log is off.
NGINX_CONFIG = """
daemon off; master_process off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/error.log warn;
events {{ worker_connections 4096; }}
http {{
    access_log off; tcp_nodelay on; keepalive_timeout 300s; keepalive_requests 100000000;
    client_body_buffer_size 64k; client_max_body_size 32m;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
    upstream mock {{ server 127.0.0.1:{mock_port}; keepalive 1024; keepalive_requests 100000000; keepalive_timeout 300s; }}
    proxy_http_version 1.1; proxy_set_header Connection ""; proxy_read_timeout 600s;
    server {{
        listen 127.0.0.1:{json_port} backlog=1024;
        location = /readyz {{ return 200; }}
        location / {{ proxy_pass http://mock; }}
    }}
    server {{
        listen 127.0.0.1:{stream_port} backlog=1024;
        location / {{ proxy_pass http://mock; proxy_buffering off; }}
    }}
}}
"""

GATEWAY_CONFIG = """
[[upstreams]]
name = "mock"
kind = "anthropic"
base_url = "http://127.0.0.1:{mock_port}"
api_key = "bench"
"""


class BenchError(Exception):
    """The run cannot go on; the message says why."""


@dataclass(slots=True)
class Server:
    """A running server under test."""

    name: str
    process: subprocess.Popen[bytes]
    port_json: int
    port_stream: int
    key: str = "none"
    startup_ms: float = 0.0


@dataclass(slots=True)
class Recipe:
    """How to start a server, as often as wanted."""

    name: str
    command: list[str]
    port_json: int
    port_stream: int
    log: Path
    key: str = "none"
    cwd: Path = REPOSITORY
    env: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    cpus: frozenset[int] = frozenset()  # where it may run; empty: where it likes

    def start(self) -> Server:
        """Spawn, and wait for GET /readyz to say 200."""
        began = time.perf_counter()
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.cwd,
                env=self.env,
                preexec_fn=(lambda: os.sched_setaffinity(0, self.cpus)) if self.cpus else None,
            )
        server = Server(self.name, process, self.port_json, self.port_stream, self.key)
        try:
            while not is_ready(self.port_json):
                if process.poll() is not None:
                    raise BenchError(f"{self.name} ended with {process.returncode} at start:\n{log_tail(self.log)}")
                if time.perf_counter() - began > START_LIMIT_S:
                    raise BenchError(f"{self.name} is not ready after {START_LIMIT_S} s:\n{log_tail(self.log)}")
                time.sleep(0.002)
        except BaseException:
            stop(process)
            raise
        server.startup_ms = (time.perf_counter() - began) * 1000
        return server


def nginx_recipe(folder: Path, binary: str, mock_port: int) -> Recipe:
    folder.mkdir()
    json_port, stream_port = free_ports(2)
    config = folder / "nginx.conf"
    config.write_text(
        NGINX_CONFIG.format(folder=folder, mock_port=mock_port, json_port=json_port, stream_port=stream_port), encoding="utf-8"
    )
    # -e: without it nginx first writes to the log it was compiled for
    command = [binary, "-p", str(folder), "-c", str(config), "-e", str(folder / "error.log")]
    return Recipe("nginx", command, json_port, stream_port, folder / "output.log")


@dataclass(slots=True)
class GatewayPlace:
    """A gateway's files and how to call it; the data directory lies on a real disk, as the ledger's fsync is part of the cost."""

    folder: Path
    program: str
    mock_port: int

    def __post_init__(self) -> None:
        self.folder.mkdir(mode=0o700)
        self.config.write_text(GATEWAY_CONFIG.format(mock_port=self.mock_port), encoding="utf-8")
        self.config.chmod(0o600)

    @property
    def config(self) -> Path:
        return self.folder / "bench.toml"

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def env(self) -> dict[str, str]:
        return {name: value for name, value in os.environ.items() if not name.startswith("PAGEGRID_")}

    def run(self, *words: str) -> subprocess.CompletedProcess[bytes]:
        """An administration command on this data directory, no server running."""
        places = ["--data-dir", str(self.data), "--config", str(self.config)]
        command = [*shlex.split(self.program), *words, *places]
        return subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, cwd=REPOSITORY, env=self.env, timeout=CLI_LIMIT_S, check=False
        )

    def run_json(self, *words: str) -> dict[str, object]:
        done = self.run(*words, "--json")
        try:
            value = json.loads(done.stdout) if done.returncode == 0 else None
        except ValueError:
            value = None
        if not isinstance(value, dict):  # stdout of `keys create` may hold a secret, even if only a throw-away one: not shown
            raise BenchError(f"`{' '.join(words)}` failed ({done.returncode}):\n{done.stderr.decode(errors='replace')[-2000:]}")
        return value

    def recipe(self) -> Recipe:
        """A user with a wallet and a key without a rate limit, and the command that serves."""
        self.run_json("users", "create", "bench")
        self.run_json("wallets", "topup", "bench", "100000", "--reference", "bench-1")
        return self.serving(str(self.run_json("keys", "create", "bench", "--rpm", "0")["secret"]))

    def serving(self, secret: str) -> Recipe:
        """The command alone, on data that are there; `secret` is of a key that is among them."""
        (port,) = free_ports(1)
        command = [*shlex.split(self.program), "serve", "--config", str(self.config), "--data-dir", str(self.data)]
        command += ["--host", "127.0.0.1", "--port", str(port)]
        return Recipe("gateway", command, port, port, self.folder / "output.log", secret, env=self.env)


def start_mock(latency_ms: float, gap_ms: float, events: int) -> tuple[subprocess.Popen[bytes], int]:
    command = [sys.executable, str(BENCH / "mock_upstream.py"), "--latency-ms", str(latency_ms)]
    command += ["--gap-ms", str(gap_ms), "--events", str(events)]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line.strip().isdigit():
        stop(process)
        raise BenchError("the mock upstream did not start")
    return process, int(line)


def mock_stats(port: int) -> dict[str, int]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/stats")
        stats: dict[str, int] = json.loads(connection.getresponse().read())
        return stats
    finally:
        connection.close()


def run_load(port: int, key: str, arguments: Sequence[str], limit_s: float) -> dict[str, object]:
    """One run of load.py in a process of its own; its result."""
    command = [sys.executable, str(BENCH / "load.py"), "--port", str(port), "--key", key, *arguments]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=limit_s, check=False)
    if done.returncode != 0:
        raise BenchError(f"load.py failed:\n{done.stderr.decode(errors='replace')[-2000:]}")
    result: dict[str, object] = json.loads(done.stdout)
    return result


def stop(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM, patience, then SIGKILL; this process only."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(5)
    if process.stdout is not None:
        process.stdout.close()


def is_ready(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=2) as connection:
            connection.sendall(b"GET /readyz HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n")
            return connection.recv(64)[9:12] == b"200"
    except OSError:
        return False


def free_ports(count: int) -> list[int]:
    """Ports that are free now; all held open until the last is known, so that they differ."""
    holders = [socket.socket() for _ in range(count)]
    try:
        for holder in holders:
            holder.bind(("127.0.0.1", 0))
        return [int(holder.getsockname()[1]) for holder in holders]
    finally:
        for holder in holders:
            holder.close()


def log_tail(path: Path) -> str:
    return path.read_text(errors="replace")[-2000:]


# --- /proc


def cpu_s(pid: int) -> float:
    """utime + stime of all threads, living and ended, to the nanosecond.

    The same sum as fields 14 and 15 of /proc/PID/stat, which come in ticks of 10 ms, too coarse for a second of nginx. The
    clock id is what clock_getcpuclockid(3) computes; if the two disagree, the coarse one is right.
    """
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    coarse_s = (int(fields[11]) + int(fields[12])) / TICKS_PER_S
    try:
        fine_s = time.clock_gettime((~pid << 3) | 2)
    except OSError:
        return coarse_s
    return fine_s if abs(fine_s - coarse_s) < 3 / TICKS_PER_S else coarse_s


def memory_kb(pid: int) -> dict[str, int]:
    wanted = {"VmRSS", "VmHWM", "Threads"}
    lines = (line.split() for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return {words[0][:-1]: int(words[1]) for words in lines if words and words[0][:-1] in wanted}


def sleeps(pid: int) -> int:
    """How often its threads went to sleep, and so were woken (voluntary context switches)."""
    texts = [(task / "status").read_text() for task in Path(f"/proc/{pid}/task").iterdir()]
    return sum(int(text.partition("\nvoluntary_ctxt_switches:")[2].split()[0]) for text in texts)


def machine_busy_s() -> float:
    """CPU seconds that the whole machine has used: user, nice, system, irq, softirq, steal."""
    fields = [int(word) for word in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    return (sum(fields) - fields[3] - fields[4]) / TICKS_PER_S
