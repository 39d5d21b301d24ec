"""What an examination looks at, and what it may find.

A check is a plain function `(Patient) -> iterable of Finding`; all are listed in `checks.py`. What is read of the machine comes
in one frozen value, so that a test can hand in another machine. Nothing here, and no check, changes anything anywhere.
"""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import sqlite3
import struct
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import aiohttp

from gateway.api.guard import has_c_extension
from gateway.config import Settings
from gateway.storage.database import FILE_NAME
from gateway.storage.readonly import peeking

Verdict = Literal["ok", "warning", "failure"]


@dataclass(frozen=True, slots=True)
class Finding:
    """`says` is a sentence without its full stop; what is not ok has a `next_step`."""

    verdict: Verdict
    says: str
    next_step: str = ""


def ok(says: str) -> Finding:
    return Finding("ok", says)


def warning(says: str, next_step: str) -> Finding:
    return Finding("warning", says, next_step)


def failure(says: str, next_step: str) -> Finding:
    return Finding("failure", says, next_step)


@dataclass(frozen=True, slots=True)
class Machine:
    """`memory_bytes`: of the machine, or less if a container may have less; 0 if it cannot be told. `clock_synchronised` None:
    it cannot be told. `open_files` is what a process may have, `open_files_max` what it may raise that to by itself."""

    python: tuple[int, ...]
    sqlite: tuple[int, ...]
    aiohttp: tuple[int, ...]
    aiohttp_c_extension: bool
    at_ms: int
    clock_synchronised: bool | None
    monotonic_resolution_s: float
    memory_bytes: int
    open_files: int
    open_files_max: int


@dataclass(frozen=True, slots=True)
class Server:
    """Who listens at the door of the data directory; `port` None if it does not say where it answers over HTTP."""

    version: str
    pid: int | None
    port: int | None = None


@dataclass(frozen=True, slots=True)
class Patient:
    """`settings` is None if the configuration cannot be used: `config_problems` say why then. `server` is None if none answers;
    `door_problem` says what is odd about that. `test_upstreams` is None where nobody is to be asked."""

    machine: Machine
    data_dir: Path
    config: Path | None
    settings: Settings | None
    config_problems: tuple[str, ...]
    server: Server | None
    door_problem: str
    test_upstreams: Callable[[], list[dict[str, Any]]] | None

    @property
    def database(self) -> Path:
        return self.data_dir / FILE_NAME

    @contextmanager
    def open_database(self) -> Iterator[sqlite3.Connection]:
        """Raises HouseError if it cannot be read, `folder.Busy` while a command without a door writes."""
        with peeking(self.data_dir, beside_server=self.server is not None) as conn:
            yield conn


Check = Callable[[Patient], Iterable[Finding]]


def look_at_machine() -> Machine:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return Machine(
        python=sys.version_info[:3],
        sqlite=sqlite3.sqlite_version_info,
        aiohttp=parse_version(aiohttp.__version__),
        aiohttp_c_extension=has_c_extension(),
        at_ms=time.time_ns() // 1_000_000,
        clock_synchronised=_clock_synchronised(),
        monotonic_resolution_s=time.get_clock_info("monotonic").resolution,
        memory_bytes=_memory_bytes(),
        open_files=_endless(soft),
        open_files_max=_endless(hard),
    )


def parse_version(text: str) -> tuple[int, ...]:
    """The numbers at the front: (3, 14, 5) of "3.14.5rc1"."""
    numbers = []
    for part in text.split("."):
        digits = part[: len(part) - len(part.lstrip("0123456789"))]
        if not digits:
            break
        numbers.append(int(digits))
    return tuple(numbers)


def version_text(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


# ── leaves ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _endless(limit: int) -> int:
    return sys.maxsize if limit == resource.RLIM_INFINITY else limit


def _memory_bytes() -> int:
    try:
        found = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return 0
    try:
        container = Path("/sys/fs/cgroup/memory.max").read_text().strip()
    except OSError:
        container = ""
    return min(found, int(container)) if container.isdigit() else found


def _clock_synchronised() -> bool | None:
    """What the kernel was told by an NTP service (adjtimex(2), modes = 0: only read); None on other systems."""
    if platform.system() != "Linux" or struct.calcsize("P") != 8:
        return None
    try:
        adjtimex = ctypes.CDLL(None, use_errno=True).adjtimex
    except (OSError, AttributeError):
        return None
    timex = ctypes.create_string_buffer(256)  # struct timex has 208 bytes on 64-bit Linux
    state = int(adjtimex(timex))
    time_error = 5
    return None if state < 0 else state != time_error
