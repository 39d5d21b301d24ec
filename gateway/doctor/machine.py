"""The machine and what is installed on it: versions with their known holes, clock, memory, open files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from gateway.doctor.patient import Finding, Patient, failure, ok, version_text, warning
from gateway.storage import facts

PYTHON_MIN = (3, 11)
# STRICT tables came with it.
SQLITE_MIN = (3, 37)
# Before it, two connections of one file that write or checkpoint at the same moment can corrupt it.
SQLITE_SAFE_FOR_TWO = (3, 51, 3)
# Older ones have known request-smuggling and out-of-bounds-read holes.
AIOHTTP_MIN = (3, 14, 5)
# A process of its own: interpreter, packages, caches.
RESIDENT_BYTES = 150 * 2**20
# Buckets count in milliseconds.
MONOTONIC_RESOLUTION_S_MAX = 0.02
# A provider's answer may be a second old, and a link slow.
STEP_BACK_MS_MAX = 5_000
MB = 2**20


def check_python(patient: Patient) -> Iterator[Finding]:
    version = version_text(patient.machine.python)
    if patient.machine.python < PYTHON_MIN:
        yield failure(f"Python {version} is too old", f"install Python {version_text(PYTHON_MIN)} or later")
    else:
        yield ok(f"Python {version}")


def check_sqlite(patient: Patient) -> Iterator[Finding]:
    found = patient.machine.sqlite
    version = version_text(found)
    if found < SQLITE_MIN:
        yield failure(
            f"SQLite {version} is too old: it has no STRICT tables",
            f"use a Python that is linked with SQLite {version_text(SQLITE_MIN)} or later",
        )
        return
    refused = facts.pragmas_refused()
    if refused:
        kept = ", ".join(f"{name} is {value}" for name, value in refused.items())
        yield failure(f"SQLite {version} does not keep the writer's settings: {kept}", "use a Python with an unaltered SQLite")
    alone = (
        "" if found >= SQLITE_SAFE_FOR_TWO else f"; before {version_text(SQLITE_SAFE_FOR_TWO)} nothing else may write the file"
    )
    yield ok(f"SQLite {version} takes the writer's settings{alone}")


def check_litestream(patient: Patient) -> Iterator[Finding]:
    """Its folder beside the file is how it is known: it checkpoints by itself, a second writer by any other name."""
    if not (patient.data_dir / f".{patient.database.name}-litestream").exists():
        yield ok("no other program is known to write the database")
        return
    next_step = "stop Litestream for this file, remove its folder beside it, and use `pagegrid backup FILE`"
    if patient.machine.sqlite < SQLITE_SAFE_FOR_TWO:
        yield failure(
            "Litestream works on the database, and checkpoints by itself: with this SQLite that can corrupt the file", next_step
        )
    else:
        yield warning("Litestream works on the database, and its checkpoints come between the writer's commits", next_step)


def check_aiohttp(patient: Patient) -> Iterator[Finding]:
    found = patient.machine.aiohttp
    next_step = "install the locked packages again: pip install --require-hashes -r requirements.lock"
    if found < AIOHTTP_MIN:
        yield failure(f"aiohttp {version_text(found)} has known request-smuggling and out-of-bounds-read holes", next_step)
    elif not patient.machine.aiohttp_c_extension:
        yield failure("aiohttp is without its C extension, and its Python parser has known smuggling holes", next_step)
    else:
        yield ok(f"aiohttp {version_text(found)} with its C extension")


def check_clock(patient: Patient) -> Iterator[Finding]:
    """Against the kernel's own word and what the database remembers; `upstreams` compares it with providers."""
    machine = patient.machine
    if machine.monotonic_resolution_s > MONOTONIC_RESOLUTION_S_MAX:
        yield warning(
            f"the monotonic clock ticks in steps of {machine.monotonic_resolution_s * 1000:.0f} ms: limits are inexact",
            "choose another clock source for this (virtual) machine",
        )
    if patient.database.exists():
        with patient.open_database() as conn:
            latest_at_ms = facts.life(conn, "").latest_at_ms
        if latest_at_ms is not None and latest_at_ms - machine.at_ms > STEP_BACK_MS_MAX:
            yield failure(
                f"the clock is {(latest_at_ms - machine.at_ms) / 1000:.0f} s behind what the database has seen already",
                "set the clock (timedatectl set-ntp true); days and months of limits are counted by it",
            )
    if machine.clock_synchronised is None:
        yield ok("the clock runs; whether it is synchronised cannot be told here")
    elif machine.clock_synchronised:
        yield ok("the clock is synchronised")
    else:
        yield warning(
            "the kernel does not know the clock to be synchronised", "run an NTP service: timedatectl set-ntp true, or chrony"
        )


def check_memory(patient: Patient) -> Iterator[Finding]:
    has = patient.machine.memory_bytes
    if patient.settings is None or not has:
        yield ok("how much memory there is cannot be compared here")
        return
    bodies = patient.settings.server.max_body_total_bytes
    if bodies + RESIDENT_BYTES > has:
        yield failure(
            f"bodies may take {bodies // MB} MiB, and there are {has // MB} MiB in all: the kernel would end the server",
            "lower server.max_body_total_mb, or give it more memory",
        )
    elif bodies + RESIDENT_BYTES > has * 3 // 4:
        yield warning(
            f"bodies may take {bodies // MB} of {has // MB} MiB: little is left for anything else",
            "lower server.max_body_total_mb, or give it more memory",
        )
    else:
        yield ok(f"bodies may take {bodies // MB} of {has // MB} MiB")


def check_open_files(patient: Patient) -> Iterator[Finding]:
    """The running server's own limit where the system tells it, else what a start would have."""
    if patient.settings is None:
        yield ok("how many open files are needed cannot be told without a configuration")
        return
    need = patient.settings.server.open_files_needed
    running = _limit_of(patient.server.pid) if patient.server and patient.server.pid else None
    has = patient.machine.open_files_max if running is None else running
    if has < need:
        who = "a start may raise that to" if running is None else "the server may have"
        yield warning(
            f"server.max_in_flight needs {need} open files, and {who} {has}: beyond them connections are refused",
            "raise it (systemd: LimitNOFILE; docker: --ulimit nofile), or lower server.max_in_flight",
        )
    else:
        yield ok(f"{need} open files are needed at most, and that many may be had")


def _limit_of(pid: int) -> int | None:
    try:
        lines = Path(f"/proc/{pid}/limits").read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        if line.startswith("Max open files"):
            soft = line.split()[3]
            return int(soft) if soft.isdigit() else None
    return None
