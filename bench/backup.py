"""What requests feel of a backup: one run under an even load, with backups now and then, and each request put to its side.

load.py ──200/s──> gateway (a ledger of 300,000 requests) ──> mock_upstream.py
                      └── pagegrid backup FILE, again and again, with as long a rest between

A request counts as "during" if any moment of it fell into a backup, from the command's start to its end. Latencies are from when
a request was due, so that a stall is not hidden by requests that could not be sent. Every copy is audited once more at the end,
on its own. Linux only, in the gateway's own environment (it writes the ledger's past with its code); see README.md.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

from load import percentiles_ms
from servers import BenchError, GatewayPlace, cpu_s, machine_busy_s, run_load, start_mock, stop

from gateway.book import Resolution
from gateway.ids import lowest_id
from gateway.pricing import Price, Rates
from gateway.storage.database import FILE_NAME, open_writer
from gateway.storage.ledger import LedgerWriter
from gateway.storage.rows import AttemptRow, DetailRow, HoldRow, ResolutionRow, Row, Served
from gateway.usage import Usage

MODEL = "claude-haiku-4-5"
BATCH = 2_000
HISTORY_DAYS = 30
COST_NANOS, HELD_NANOS = 12_345, 20_000_000
WARM_UP_S = 2.0


@dataclass(slots=True)
class Copy:
    file: Path
    began: float  # perf_counter
    ended: float
    ok: bool
    said: str


def fill(data: Path, requests: int) -> None:
    """A past of `requests` settled requests, evenly over HISTORY_DAYS, written as the gateway writes them."""
    terms = Price(MODEL, Rates(10**9, 5 * 10**9, 125 * 10**7, 2 * 10**9, 10**8)).terms()
    with closing(open_writer(data / FILE_NAME)) as conn:
        conn.execute("pragma synchronous = off")  # of a database that can be made again
        (wallet_id,) = conn.execute("select id from accounts where kind = 'wallet'").fetchone()
        (key_id,) = conn.execute("select id from keys").fetchone()
        (boot_id,) = conn.execute("select max(id) from boots").fetchone()
        ledger = LedgerWriter(conn, boot_id)
        now_ms, step_ms = time.time_ns() // 10**6, HISTORY_DAYS * 86_400_000 // requests
        usage = Usage(input_tokens=2_113, output_tokens=420, cache_read_tokens=31_000, cache_write_5m_tokens=800)
        for start in range(0, requests, BATCH):
            rows: list[Row] = []
            for number in range(start, min(start + BATCH, requests)):
                at_ms = now_ms - (requests - number) * step_ms - 3_600_000
                request_id = lowest_id(at_ms) + number % 1000
                rows.append(HoldRow(request_id, wallet_id, key_id, MODEL, HELD_NANOS, at_ms))
                attempt = AttemptRow(1, "mock", MODEL, 200, "ok", at_ms, 900, COST_NANOS, f"req_{number:024d}")
                detail = DetailRow(True, 200, f"00000000-0000-4000-8000-{number // 40:012d}", "", "203.0.113.7", 3, 700, 9_000)
                rows.append(
                    ResolutionRow(
                        Resolution(request_id, wallet_id, HELD_NANOS, True, COST_NANOS),
                        *(key_id, MODEL, at_ms + 9_000, (attempt,), detail),
                        served=Served("mock", MODEL, terms, usage, COST_NANOS),
                    )
                )
            conn.execute("begin immediate")
            ledger.write(rows)
            conn.execute("commit")
        conn.execute("pragma wal_checkpoint(truncate)")


def keep_backing_up(place: GatewayPlace, folder: Path, until: float, copies: list[Copy]) -> None:
    """Rest as long as the last one took, at least 3 s; begin none that could not end in time."""
    took_s = 3.0
    time.sleep(took_s)
    while time.perf_counter() + 1.5 * took_s < until:
        file = folder / f"copy-{len(copies)}.db"
        began = time.perf_counter()
        done = place.run("backup", str(file))
        ended = time.perf_counter()
        copies.append(Copy(file, began, ended, done.returncode == 0, done.stderr.decode(errors="replace").strip()))
        took_s = max(3.0, ended - began)
        time.sleep(took_s)


def audit(place: GatewayPlace, copy: Copy, folder: Path) -> str:
    """The whole audit of a copy, restored as a person would."""
    restored = GatewayPlace(folder / f"restored-{copy.file.stem}", place.program, place.mock_port)
    restored.data.mkdir(mode=0o700)
    copy.file.rename(restored.data / FILE_NAME)
    done = restored.run("ledger", "audit")
    shutil.rmtree(restored.folder)
    return done.stdout.decode().strip().splitlines()[-1] if done.returncode == 0 else f"FAILED: {done.stdout.decode()[:300]}"


def run(options: argparse.Namespace, folder: Path, stack: ExitStack) -> int:
    mock, mock_port = start_mock(options.latency_ms, 10, 20)
    stack.callback(stop, mock)
    place = GatewayPlace(folder / "gateway", options.gateway, mock_port)
    recipe = place.recipe()
    say(f"writing a past of {options.requests:,} requests")
    fill(place.data, options.requests)
    say(f"the database has {(place.data / FILE_NAME).stat().st_size / 2**20:,.0f} MiB")
    server = recipe.start()
    stack.callback(stop, server.process)
    load = ["--rate", str(options.rate), "--concurrency", str(options.concurrency), "--trace", str(folder / "trace.json")]
    run_load(server.port_json, server.key, [*load, "--seconds", str(WARM_UP_S)], WARM_UP_S + 60)

    say(f"{options.rate:g} requests/s for {options.seconds:g} s")
    copies: list[Copy] = []
    before = [cpu_s(server.process.pid), machine_busy_s()]
    began = time.perf_counter()
    backing_up = threading.Thread(target=keep_backing_up, args=(place, folder, began + options.seconds, copies))
    backing_up.start()
    result = run_load(server.port_json, server.key, [*load, "--seconds", str(options.seconds)], options.seconds + 60)
    backing_up.join()
    took_s = time.perf_counter() - began
    used = [now - then for now, then in zip([cpu_s(server.process.pid), machine_busy_s()], before, strict=True)]
    stop(server.process)

    trace: list[tuple[float, float]] = json.loads((folder / "trace.json").read_text())
    sides: dict[str, list[float]] = {"without": [], "during": []}
    for due, answered in trace:
        during = any(due <= copy.ended and answered >= copy.began for copy in copies)
        sides["during" if during else "without"].append(answered - due)
    print(f"\n| {options.rate:g}/s, ledger of {options.requests:,} | requests | p50 ms | p95 | p99 | max |")
    print("| --- | --- | --- | --- | --- | --- |")
    for side, latencies in sides.items():
        found = percentiles_ms(latencies)
        print(
            f"| {side} | {len(latencies):,} | "
            + " | ".join(f"{found.get(name, 0):.1f}" for name in ("p50", "p95", "p99", "max"))
            + " |"
        )
    print(f"\nserver {used[0] / took_s:.0%} of a core, the whole machine {used[1] / took_s:.0%}; errors {result['errors'] or 0}")
    bad = bool(result["errors"]) or not copies
    for copy in copies:
        verdict = audit(place, copy, folder) if copy.ok else "no copy"
        bad = bad or not copy.ok or verdict.startswith("FAILED")
        print(f"backup of {copy.ended - copy.began:.1f} s: {copy.said}  Alone: {verdict}")
    final = place.run("ledger", "audit")
    print(f"the ledger itself: {final.stdout.decode().strip()}")
    return 1 if bad or final.returncode else 0


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--requests", type=int, default=300_000, help="that the ledger holds already")
    parser.add_argument("--rate", type=float, default=200, help="requests per second")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--latency-ms", type=float, default=20, help="of the upstream")
    parser.add_argument("--gateway", default=f"{sys.executable} -m gateway", help="the program, run in the repository")
    parser.add_argument("--work-dir", type=Path, help="where the temporary folder is made; a real disk, not tmpfs")
    options = parser.parse_args()
    if not 0 < options.seconds <= 600 or not 0 < options.rate <= 1000 or not 1000 <= options.requests <= 10**7:
        parser.error("seconds up to 600, rate up to 1000, requests from 1000 to 10 million")
    with tempfile.TemporaryDirectory(prefix="pagegrid-bench-", dir=options.work_dir) as name, ExitStack() as stack:
        try:
            return run(options, Path(name), stack)
        except (BenchError, OSError, subprocess.TimeoutExpired) as error:
            print(f"bench: {error}", file=sys.stderr)
            return 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
