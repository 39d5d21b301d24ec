"""Measure the gateway beside nginx: CPU per request and per relayed SSE event, memory, start-up. See README.md.

load.py ──> nginx ────┐
        └─> gateway ──┴─> mock_upstream.py        all on loopback, all ended by this process
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import platform
import shlex
import signal
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from answers import EVENTS_MIN
from servers import (
    BenchError,
    GatewayPlace,
    Recipe,
    Server,
    cpu_s,
    machine_busy_s,
    memory_kb,
    mock_stats,
    nginx_recipe,
    run_load,
    sleeps,
    start_mock,
    stop,
)

SETTLE_S = 0.5  # after the last answer: settling, its commit and its fsync belong to the requests
WARM_UP_S = 1.0
DIRECT_S = 2.0
IDLE_S = 2.0
CONCURRENCY_MAX = 400  # the gateway's server.max_in_flight is 512
BASELINE = "nginx"


@dataclass(slots=True)
class Phase:
    """One measurement: one server, one kind, one concurrency, one round."""

    server: str
    kind: str  # json | sse
    concurrency: int
    round: int
    seconds: float
    requests: int
    units: int  # requests, or events
    cpu_s: float
    sleeps: int  # how often the server went to sleep; per unit it tells how much one wake-up carries
    load_cpu_s: float
    mock_cpu_s: float
    others_cpu_s: float  # everybody else on the machine, the load generator's start included
    upstream_requests: int
    upstream_connections: int
    latency_ms: dict[str, float]
    first_byte_ms: dict[str, float]
    errors: dict[str, int]
    sample: str

    @property
    def cpu_us(self) -> float:
        """CPU microseconds of the server per unit."""
        return self.cpu_s * 1e6 / self.units if self.units else float("nan")


@dataclass(slots=True)
class Facts:
    """What is measured of a server beside the phases."""

    startup_ms: list[float] = field(default_factory=list)
    idle_cpu_ms_per_s: float = 0.0
    memory_start_kb: dict[str, int] = field(default_factory=dict)
    memory_end_kb: dict[str, int] = field(default_factory=dict)
    audit: str = ""


class Bench:
    def __init__(self, options: argparse.Namespace, mock_pid: int, mock_port: int) -> None:
        self.options = options
        self.mock_pid = mock_pid
        self.mock_port = mock_port

    def measure(self, server: Server, kind: str, concurrency: int, number: int, seconds: float) -> Phase:
        options = self.options
        stream = kind == "sse"
        arguments = ["--seconds", str(seconds), "--concurrency", str(concurrency), "--events", str(options.events)]
        arguments += ["--count", str(options.count), "--stream"] if stream else ["--count", str(options.count)]
        arguments += ["--rate", str(options.rate)] if options.rate and not stream else []
        stats_before = mock_stats(self.mock_port)
        sleeps_before = sleeps(server.process.pid)
        before = self._cpu(server)
        began = time.perf_counter()
        result: dict[str, Any] = run_load(server.port_stream if stream else server.port_json, server.key, arguments, seconds + 60)
        time.sleep(SETTLE_S)
        took_s = time.perf_counter() - began
        used = [now - then for now, then in zip(self._cpu(server), before, strict=True)]
        stats = mock_stats(self.mock_port)
        others_s = used[2] - used[0] - used[1] - result["cpu_s"]
        if server.process.pid == self.mock_pid:
            others_s += used[1]
        return Phase(
            server=server.name,
            kind=kind,
            concurrency=concurrency,
            round=number,
            seconds=result["seconds"],
            requests=result["good"],
            units=result["events"] if stream else result["good"],
            cpu_s=round(used[0], 6),
            sleeps=sleeps(server.process.pid) - sleeps_before,
            load_cpu_s=result["cpu_s"],
            mock_cpu_s=round(used[1], 6),
            others_cpu_s=round(max(0.0, others_s) / took_s * result["seconds"], 3),
            upstream_requests=stats["requests"] - stats_before["requests"],
            upstream_connections=stats["connections"] - stats_before["connections"] - 1,  # one was for the stats
            latency_ms=result["latency_ms"],
            first_byte_ms=result["first_byte_ms"],
            errors=result["errors"],
            sample=result["sample"],
        )

    def _cpu(self, server: Server) -> list[float]:
        return [cpu_s(server.process.pid), cpu_s(self.mock_pid), machine_busy_s()]


def start_measured(recipe: Recipe, times: int, stack: ExitStack) -> tuple[Server, Facts]:
    """Start `times` times for the start-up figure; the last one stays."""
    facts = Facts()
    for left in reversed(range(times)):
        server = recipe.start()
        facts.startup_ms.append(round(server.startup_ms, 1))
        if left:
            stop(server.process)
    stack.callback(stop, server.process)
    facts.memory_start_kb = memory_kb(server.process.pid)
    used = cpu_s(server.process.pid)
    time.sleep(IDLE_S)
    facts.idle_cpu_ms_per_s = round((cpu_s(server.process.pid) - used) * 1000 / IDLE_S, 1)
    return server, facts


def run(options: argparse.Namespace, folder: Path, stack: ExitStack, say: Callable[[str], None]) -> dict[str, Any]:
    server_cpus: frozenset[int] = frozenset()
    if options.pin:
        cpus = sorted(os.sched_getaffinity(0))
        server_cpus = frozenset(cpus[-1:])
        os.sched_setaffinity(0, cpus[:-1])  # inherited by the mock and the load generator
    mock, mock_port = start_mock(options.latency_ms, options.gap_ms, options.events)
    stack.callback(stop, mock)
    bench = Bench(options, mock.pid, mock_port)
    place: GatewayPlace | None = None
    servers: list[Server] = []
    facts: dict[str, Facts] = {}
    for name in options.servers:
        say(f"starting {name}")
        if name == "nginx":
            recipe = nginx_recipe(folder / "nginx", options.nginx, mock_port)
        else:
            place = GatewayPlace(folder / "gateway", options.gateway, mock_port)
            recipe = place.recipe()
        recipe.cpus = server_cpus
        server, facts[name] = start_measured(recipe, options.starts, stack)
        servers.append(server)

    direct = Server("direct", mock, mock_port, mock_port)
    tools: list[Phase] = []
    phases: list[Phase] = []
    for concurrency in options.concurrency:
        for kind in options.kinds:
            say(f"{kind}, {concurrency} in flight: direct, warm-up")
            tools.append(bench.measure(direct, kind, concurrency, 0, DIRECT_S))
            for server in servers:
                bench.measure(server, kind, concurrency, 0, WARM_UP_S)
            for round_ in range(1, options.rounds + 1):
                for server in servers:  # A B A B …: what the neighbours do, they do to both
                    phase = bench.measure(server, kind, concurrency, round_, options.seconds)
                    phases.append(phase)
                    say(f"{kind}, {concurrency} in flight, round {round_}: {name_and_figure(phase)}")
    for server in servers:
        facts[server.name].memory_end_kb = memory_kb(server.process.pid)
    if place is not None:
        stop(next(server.process for server in servers if server.name == "gateway"))
        audit = place.run("ledger", "audit")
        facts["gateway"].audit = "clean" if audit.returncode == 0 else f"FAILED ({audit.returncode})"
    return {"tools": tools, "phases": phases, "facts": facts}


def name_and_figure(phase: Phase) -> str:
    return f"{phase.server} {phase.cpu_us:.1f} µs {phase.errors or ''}".rstrip()


# --- report


def machine(folder: Path) -> dict[str, str]:
    models = [
        line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")
    ]
    kind = subprocess.run(["stat", "--file-system", "--format=%T", str(folder)], capture_output=True, text=True, check=False)
    return {
        "cpu": models[0] if models else platform.machine(),
        "cores": str(os.cpu_count()),
        "load_average": " ".join(f"{value:.2f}" for value in os.getloadavg()),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "data_on": kind.stdout.strip() or "?",
    }


def ratios(phases: list[Phase], server: str, kind: str, concurrency: int) -> list[float]:
    """CPU per unit over the baseline's of the same round."""

    def by_round(name: str) -> dict[int, float]:
        mine = [phase for phase in phases if (phase.server, phase.kind, phase.concurrency) == (name, kind, concurrency)]
        return {phase.round: phase.cpu_us for phase in mine if phase.units}

    base = by_round(BASELINE)
    return [value / base[number] for number, value in by_round(server).items() if base.get(number)]


def summarise(phases: list[Phase], options: argparse.Namespace) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for kind in options.kinds:
        for concurrency in options.concurrency:
            for server in options.servers:
                mine = [p for p in phases if (p.server, p.kind, p.concurrency) == (server, kind, concurrency)]
                values = [p.cpu_us for p in mine if p.units]
                timing = [p.latency_ms if kind == "json" else p.first_byte_ms for p in mine if p.units]
                over = ratios(phases, server, kind, concurrency)
                row = {
                    "kind": kind,
                    "concurrency": concurrency,
                    "server": server,
                    "cpu_us": round(statistics.median(values), 1) if values else None,
                    "cpu_us_min": round(min(values), 1) if values else None,
                    "cpu_us_max": round(max(values), 1) if values else None,
                    "ratio": round(statistics.median(over), 2) if over else None,
                    "ratio_min": round(min(over), 2) if over else None,
                    "ratio_max": round(max(over), 2) if over else None,
                    "units_per_s": round(statistics.median(p.units / p.seconds for p in mine)),
                    "cpu_share": round(statistics.median(p.cpu_s / p.seconds for p in mine), 3),
                    "ms": {name: statistics.median(t[name] for t in timing) for name in ("p50", "p95", "p99")} if timing else {},
                    "sleeps_per_unit": round(statistics.median(p.sleeps / p.units for p in mine if p.units), 2)
                    if values
                    else None,
                    "errors": sum(sum(p.errors.values()) for p in mine),
                    "extra_upstream_requests": sum(p.upstream_requests - p.requests for p in mine),
                }
                rows.append(row)
    return rows


def show(title: str, header: list[str], rows: list[list[str]]) -> None:
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
    print(f"\n{title}")
    for row in [header, *rows]:
        cells = [
            cell.ljust(width) if n == 0 else cell.rjust(width) for n, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        print("  " + "  ".join(cells).rstrip())


def number(value: float | None, digits: int = 1) -> str:
    return "–" if value is None else f"{value:,.{digits}f}"


def spread(least: float | None, most: float | None, digits: int) -> str:
    return "" if least is None else f"({number(least, digits)}–{number(most, digits)})"


def report(options: argparse.Namespace, about: dict[str, str], found: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    print(f"{about['cpu']}, {about['cores']} cores, load {about['load_average']}, kernel {about['kernel']}")
    print(f"python {about['python']}, sqlite {about['sqlite']}, data on {about['data_on']}")
    print(
        f"upstream answers after {options.latency_ms:g} ms; {options.rounds} rounds of {options.seconds:g} s, interleaved; "
        "medians, (least–most); ratios are taken within a round" + ("; server pinned to a core of its own" if options.pin else "")
    )
    for kind, concurrency in [(k, c) for k in options.kinds for c in options.concurrency]:
        unit = "request" if kind == "json" else "event"
        what = (
            f"POST /v1/messages, 1 kB → JSON, {concurrency} in flight; ms to the whole answer"
            if kind == "json"
            else f"SSE, {concurrency} streams of {options.events} events, one per {options.gap_ms:g} ms; ms to the first byte"
        )
        header = [
            "",
            f"CPU µs/{unit}",
            "",
            "× nginx",
            "",
            f"{unit}s/s",
            "one core",
            "sleeps",
            "p50",
            "p95",
            "p99",
            "errors",
            "extra upstream",
        ]
        show(
            what,
            header,
            [
                [
                    row["server"],
                    number(row["cpu_us"]),
                    spread(row["cpu_us_min"], row["cpu_us_max"], 1),
                    number(row["ratio"], 2),
                    spread(row["ratio_min"], row["ratio_max"], 2),
                    number(row["units_per_s"], 0),
                    f"{row['cpu_share']:.0%}",
                    number(row["sleeps_per_unit"], 2),
                    *(number(row["ms"].get(name)) for name in ("p50", "p95", "p99")),
                    str(row["errors"]),
                    str(row["extra_upstream_requests"]),
                ]
                for row in rows
                if (row["kind"], row["concurrency"]) == (kind, concurrency)
            ],
        )
    show(
        "Memory and start-up (spawn → /readyz 200)",
        ["", "RSS MB at start", "RSS MB after", "peak MB", "threads", "start-up ms", "idle CPU ms/s", "ledger audit"],
        [
            [
                name,
                number(facts.memory_start_kb["VmRSS"] / 1024),
                number(facts.memory_end_kb["VmRSS"] / 1024),
                number(facts.memory_end_kb["VmHWM"] / 1024),
                str(facts.memory_end_kb["Threads"]),
                number(statistics.median(facts.startup_ms), 0),
                number(facts.idle_cpu_ms_per_s),
                facts.audit or "–",
            ]
            for name, facts in found["facts"].items()
        ],
    )
    show(
        "The tools, load → mock without a proxy (share of a core; here and, at most, during the rounds)",
        ["", "units/s", "p50 ms", "p99 ms", "load", "mock", "load, rounds", "mock, rounds", "others, rounds"],
        [
            tool_row(tool, [p for p in found["phases"] if (p.kind, p.concurrency) == (tool.kind, tool.concurrency)])
            for tool in found["tools"]
        ],
    )
    for phase in found["phases"]:
        if phase.errors:
            print(f"\n{phase.server} {phase.kind} round {phase.round}: {phase.errors}; first: {phase.sample}")


def tool_row(tool: Phase, phases: list[Phase]) -> list[str]:
    timing = tool.latency_ms if tool.kind == "json" else tool.first_byte_ms
    return [
        f"{tool.kind} {tool.concurrency}",
        number(tool.units / tool.seconds, 0),
        number(timing.get("p50")),
        number(timing.get("p99")),
        f"{tool.load_cpu_s / tool.seconds:.0%}",
        f"{tool.mock_cpu_s / tool.seconds:.0%}",
        f"{max(p.load_cpu_s / p.seconds for p in phases):.0%}",
        f"{max(p.mock_cpu_s / p.seconds for p in phases):.0%}",
        f"{max(p.others_cpu_s / p.seconds for p in phases):.0%}",
    ]


# --- entry


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=8, help="of each measurement (a round has one per server and kind)")
    parser.add_argument("--concurrency", default="64", help="requests in flight; a list such as 64,256 measures each")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write everything measured")
    parser.add_argument("--latency-ms", type=float, default=20, help="of the upstream")
    parser.add_argument("--events", type=int, default=200, help="of a stream")
    parser.add_argument("--gap-ms", type=float, default=10, help="between two events of a stream")
    parser.add_argument("--rate", type=float, default=0, help="JSON requests per second for both; 0 = as answers come")
    parser.add_argument("--count", type=int, default=200_000, help="at most so many requests per measurement")
    parser.add_argument("--kinds", default="json,sse")
    parser.add_argument("--servers", default="nginx,gateway")
    parser.add_argument("--starts", type=int, default=3, help="starts per server, for the start-up figure")
    parser.add_argument("--pin", action="store_true", help="the server on the last core, the tools on the others")
    parser.add_argument("--nginx", default="/usr/sbin/nginx")
    parser.add_argument(
        "--gateway", default=shlex.join([sys.executable, "-m", "gateway"]), help="the program, run in the repository"
    )
    parser.add_argument("--work-dir", type=Path, help="where the temporary folder is made; a real disk, not tmpfs")
    options = parser.parse_args()
    options.servers = options.servers.split(",")
    options.kinds = options.kinds.split(",")
    options.concurrency = [int(word) for word in options.concurrency.split(",")]
    if not set(options.servers) <= {"nginx", "gateway"} or not set(options.kinds) <= {"json", "sse"}:
        parser.error("servers are nginx and gateway, kinds are json and sse")
    if not all(1 <= value <= CONCURRENCY_MAX for value in options.concurrency):
        parser.error(f"concurrency is 1 to {CONCURRENCY_MAX}")
    if options.pin and len(os.sched_getaffinity(0)) < 2:
        parser.error("--pin needs two cores")
    if options.events < EVENTS_MIN or min(options.rounds, options.starts) < 1 or not 0 < options.seconds <= 600:
        parser.error(f"at least {EVENTS_MIN} events, one round and one start; seconds up to 600")
    return options


def _stop_orderly(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main() -> int:
    options = parse_options()
    signal.signal(signal.SIGTERM, _stop_orderly)

    def say(text: str) -> None:
        print(f"[{time.perf_counter() - began:5.1f} s] {text}", file=sys.stderr, flush=True)

    began = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="pagegrid-bench-", dir=options.work_dir) as name, ExitStack() as stack:
        about = machine(Path(name))
        try:
            found = run(options, Path(name), stack, say)
        except (BenchError, OSError, http.client.HTTPException, subprocess.TimeoutExpired) as error:
            print(f"bench: {error}", file=sys.stderr)
            return 1
        rows = summarise(found["phases"], options)
    if options.json is not None:
        settings = {name: str(value) if isinstance(value, Path) else value for name, value in vars(options).items()}
        whole = {
            "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "machine": about,
            "options": settings,
            "summary": rows,
            "facts": {name: asdict(facts) for name, facts in found["facts"].items()},
            "phases": [asdict(phase) | {"cpu_us": phase.cpu_us} for phase in found["phases"]],
            "tools": [asdict(phase) for phase in found["tools"]],
        }
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
    report(options, about, found, rows)
    bad = sum(row["errors"] for row in rows) or any("FAILED" in facts.audit for facts in found["facts"].values())
    return 1 if bad else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
