"""What administration has at hand. Every act is a plain async function on it, used alike by the socket, the web and commands.

An act checks, runs one job on the writer (with its audit row in the same transaction), then lets memory follow: the book, the
key ring. When it returns it is in force.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from gateway.access import KeyRing, Plan
from gateway.admins import AdminRing
from gateway.book import Book
from gateway.catalog import Catalog
from gateway.clock import Clock
from gateway.desk.errand import Errand
from gateway.desk.gate import Gate
from gateway.desk.readers import Readers
from gateway.desk.upstream_events import UpstreamEvents
from gateway.desk.upstream_history import HourlyFigures
from gateway.limits import Limits
from gateway.sessions import SessionRing
from gateway.storage.writer import Writer


class Upstreams(Protocol):
    """What the desk asks about provider accounts; every dict can be told as JSON."""

    def show(self) -> list[dict[str, Any]]: ...

    async def test(self, name: str) -> dict[str, Any]: ...


class Declared(Protocol):
    """What the configuration alone says: a running house has it, and whoever has read the file."""

    @property
    def catalog(self) -> Catalog: ...

    @property
    def plans(self) -> Mapping[str, Plan]: ...


@dataclass(slots=True)
class Desk:
    """`database` is the file, for readers of one's own; ids of this start's requests are above `booted_above_id`.

    What is declared (catalogue, plans, prefix, the gate's rules) is replaced by `reload`, which a server sets: None where nothing
    can be reloaded.
    """

    database: Path
    writer: Writer
    book: Book
    keys: KeyRing
    limits: Limits
    catalog: Catalog
    plans: Mapping[str, Plan]
    clock: Clock
    key_prefix: str
    upstreams: Upstreams
    admins: AdminRing
    sessions: SessionRing
    gate: Gate
    booted_above_id: int
    upstream_events: UpstreamEvents
    upstream_figures: HourlyFigures = field(default_factory=HourlyFigures)
    readers: Readers = field(default_factory=Readers)
    # The audit that somebody asked for at a page.
    checking: Errand = field(default_factory=lambda: Errand("an audit"))
    backing_up: Errand = field(default_factory=lambda: Errand("a backup"))
    reload: Callable[[str | None], Awaitable[dict[str, Any]]] | None = None
