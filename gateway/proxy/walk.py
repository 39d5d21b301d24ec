"""What every request's walk has at hand, and the state of one that is running.

`Walk` is built once by the house. `Inbound` is a client's request as the face hands it in, `Running` the same request once money
is held for it, `Record` what the log line will say.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, Protocol

from gateway.access import Key, KeyRing
from gateway.book import Book, Hold
from gateway.catalog import Catalog, Model
from gateway.clock import Clock
from gateway.errors import HouseError
from gateway.ids import IdSource
from gateway.limits import Lease, Limits
from gateway.proxy.ports import Store, Transport
from gateway.router import Deployment, Router
from gateway.storage.rows import AttemptRow
from gateway.upstreams.base import Headers, Provider
from gateway.usage import Source, Usage
from gateway.wire.call import Call, Dialect
from gateway.wire.speech import SPEECHES, Speech


@dataclass(frozen=True, slots=True)
class Rules:
    """The numbers a walk obeys; config.example.toml says what each is for. `drain_s` None: read to the end."""

    key_prefix: str
    default_max_tokens: int
    max_in_flight: int
    body_bytes_max: int
    body_bytes_total_max: int
    output_hold_tokens: int
    tokens_per_second_max: int
    drain_s: float | None
    connect_s: float
    head_stream_s: float
    head_whole_s: float
    idle_s: float
    total_s: float
    attempts_s: float
    hold_ack_s: float
    client_write_s: float


@dataclass(frozen=True, slots=True)
class Station:
    """An upstream ready to be asked: its name in the configuration, how to speak to it, and over what."""

    name: str
    provider: Provider
    transport: Transport


@dataclass(slots=True)
class Record:
    """One request as its log line tells it; filled along the walk."""

    key: Key | None = None
    model: str = ""
    upstream: str = ""
    stream: bool = False
    usage: Usage | None = None
    cost_nanos: int = 0
    source: str = ""
    error: str = ""
    first_byte_ms: int | None = None


@dataclass(slots=True)
class Inbound:
    """A client's request whose body is still unread. `headers` have lower-case names, in order; `query` has no "?"."""

    request_id: int
    text_id: str
    headers: Headers
    query: str
    address: str
    body_bytes: int | None
    read_body: Callable[[int], Awaitable[bytes]]
    received_ms: int
    dialect: Dialect = "anthropic"
    record: Record = field(default_factory=Record)
    # What every answer to this request carries beside its own headers.
    limit_headers: list[tuple[str, str]] = field(default_factory=list)

    @property
    def speech(self) -> Speech:
        """How we speak to this client."""
        return SPEECHES[self.dialect]

    def header(self, name: str) -> str:
        """The first value of a header, "" if it is not there."""
        return next((value for header, value in self.headers if header == name), "")


# (model, conversation): whose running request is held at cache-read price.
Discount = tuple[str, str]


@dataclass(slots=True)
class Running:
    """One admitted request until its hold is resolved, and with it what it has reserved of the key's limits (`lease`).

    `offered`: who might serve it when it was admitted, at the prices that its hold was made from. `acknowledged`: the hold is on
    disk. `opened`: the client has its first byte, nothing can change any more. `gone`: it left. `at`: whose answer it is being
    given, until the books are closed.
    """

    inbound: Inbound
    key: Key
    model: Model
    call: Call
    conversation: str
    hold: Hold
    lease: Lease
    acknowledged: asyncio.Future[None]
    acknowledge_by_ms: int
    admitted_ms: int
    input_estimate: int
    cached_estimate: int
    output_max: int
    discount: Discount | None
    offered: tuple[Deployment, ...]
    attempts: list[AttemptRow] = field(default_factory=list)
    had_progress: bool = False
    at: Deployment | None = None
    opened: bool = False
    gone: bool = False

    @property
    def request_id(self) -> int:
        return self.inbound.request_id


# The flag of a row whose 2xx answer had no usage at all.
USAGE_MISSING = "usage_missing"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a request came to: who served it, what was used, and how we know. `usage` None: nothing was seen, nothing charged."""

    deployment: Deployment | None
    usage: Usage | None
    source: Source = "reported"
    flags: tuple[str, ...] = ()
    status: int = 200
    reason: str = ""


class Door:
    """How many are inside, and how many bytes they carry: both bounded, so that strangers cannot fill the memory."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self.in_flight = 0
        self.body_bytes = 0

    def obey(self, rules: Rules) -> None:
        """Other bounds, from now on; who is inside stays."""
        self._rules = rules

    def enter(self, announced_bytes: int | None) -> int:
        """Returns the bytes reserved, to be given to `leave`. A body that does not announce its size may be as large as any."""
        largest = self._rules.body_bytes_max
        body_bytes = largest if announced_bytes is None else min(announced_bytes, largest)
        if self.in_flight >= self._rules.max_in_flight:
            raise HouseError(
                "unavailable",
                f"The gateway is at its limit of {self._rules.max_in_flight} running requests; try again in a second.",
                retry_after_s=1,
            )
        if self.body_bytes + body_bytes > self._rules.body_bytes_total_max:
            raise HouseError(
                "unavailable", "The gateway is at its limit of request bodies in memory; try again in a second.", retry_after_s=1
            )
        self.in_flight += 1
        self.body_bytes += body_bytes
        return body_bytes

    def leave(self, body_bytes: int) -> None:
        self.in_flight -= 1
        self.body_bytes -= body_bytes


class Releases:
    """Who waits for something to be released, per wallet, in the order in which they came."""

    def __init__(self) -> None:
        self._waiting: dict[int, dict[asyncio.Future[None], None]] = {}

    def count(self, wallet_id: int) -> int:
        """How many wait."""
        return len(self._waiting.get(wallet_id, ()))

    async def wait(self, wallet_id: int, limit_s: float) -> None:
        """Until something is released, for `limit_s` at most."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiting = self._waiting.setdefault(wallet_id, {})
        waiting[future] = None
        try:
            await asyncio.wait([future], timeout=limit_s)
        finally:
            waiting.pop(future, None)

    def released(self, wallet_id: int) -> None:
        for future in self._waiting.pop(wallet_id, ()):
            future.set_result(None)


class Stream(Protocol):
    """An open stream, as the house watches it."""

    def tick(self, now_ms: int) -> None:
        """Called once a second."""
        ...

    def shut_down(self) -> None:
        """End it now, told to the client."""
        ...


@dataclass(slots=True)
class Walk:
    """What every request shares. `settling` holds the settles that are decided and queued: who asks for one waits for it."""

    rules: Rules
    clock: Clock
    ids: IdSource
    keys: KeyRing
    catalog: Catalog
    limits: Limits
    router: Router
    book: Book
    store: Store
    stations: dict[str, Station]
    door: Door
    releases: Releases
    running: dict[int, Running] = field(default_factory=dict)
    discounts: set[Discount | None] = field(default_factory=set)
    settling: dict[int, asyncio.Future[None]] = field(default_factory=dict)
    streams: set[Stream] = field(default_factory=set)
    tasks: set[asyncio.Task[Any]] = field(default_factory=set)
    # Streams are cut now, those that begin too.
    closing: bool = False

    def spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run `work` as a task that the house keeps and awaits at shutdown."""
        task = asyncio.get_running_loop().create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return task
