"""The house: every room built from the settings, wired, and closed again in the right order.

    lock ─ migrate ─ boot ─ recover ─ audit ─ writer ─ book, keys ─ upstreams ─ walk, desk        (opening)
    running requests end ─ their settles are queued ─ notices ─ upstreams ─ writer ─ lock         (closing)

Nothing here decides anything about a request or an account; it only knows who needs whom.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field, replace
from pathlib import Path

import aiosqlite

from gateway.access import KeyRing
from gateway.admins import AdminRing
from gateway.book import Book
from gateway.catalog import Model
from gateway.chores import start_chores
from gateway.clock import Clock, SystemClock
from gateway.config import Settings
from gateway.desk.desk import Desk
from gateway.desk.gate import Gate, GateRules
from gateway.desk.history import read_history
from gateway.desk.ledger import tell_findings
from gateway.desk.upstream_events import UpstreamEvents
from gateway.errors import HouseError
from gateway.ids import IdSource
from gateway.limits import Limits
from gateway.metrics import alarm, audited
from gateway.money import ONE
from gateway.notices import Notifier
from gateway.proxy.walk import Door, Releases, Rules, Station, Walk
from gateway.router import Deployment, Router
from gateway.sessions import SessionRing
from gateway.storage import (
    admin_keys,
    audit,
    audits,
    database,
    folder,
    keys,
    migrate,
    recovery,
    sessions,
    upstream_events,
    wallets,
)
from gateway.storage.writer import Writer
from gateway.switchboard import Switchboard
from gateway.upstreams.demo import DemoTransport
from gateway.upstreams.registry import KINDS
from gateway.upstreams.transport import HttpTransport
from gateway.version import VERSION

Transports = dict[type[HttpTransport] | type[DemoTransport], HttpTransport | DemoTransport]


@dataclass(slots=True)
class House:
    """`settings` are those in force; a reload replaces them (reload.py). `at_closing` are called first of all when it closes: by
    what would run on for ever, and has nothing to settle."""

    settings: Settings
    data_dir: Path
    walk: Walk
    desk: Desk
    writer: Writer
    reader: aiosqlite.Connection
    transports: Transports
    notifier: Notifier
    closing: bool = False
    at_closing: list[Callable[[], None]] = field(default_factory=list)

    @property
    def database(self) -> Path:
        return self.data_dir / database.FILE_NAME

    async def drain(self, limit_s: float) -> None:
        """Let running requests end; cut the streams that have not after `limit_s`, and wait as long again.

        Every settle is queued when this returns, but those of calls that ran on (not streamed, twice the limit): the server
        cancels them, and they are void.
        """
        self.closing = True
        for end in self.at_closing:
            end()
        if self.walk.tasks:
            await asyncio.wait(list(self.walk.tasks), timeout=limit_s)
        self.walk.closing = True
        for stream in list(self.walk.streams):
            stream.shut_down()
        if self.walk.tasks:
            await asyncio.wait(list(self.walk.tasks), timeout=limit_s)


@asynccontextmanager
async def open_house(settings: Settings, data_dir: Path, clock: Clock | None = None) -> AsyncIterator[House]:
    """Open the house on a data directory and close it at the end. Raises HouseError, `folder.Busy` if another has it."""
    clock = clock or SystemClock()
    folder.prepare(data_dir)
    lock = folder.Lock(data_dir)
    try:
        path = data_dir / database.FILE_NAME
        conn, boot_id = _open_ledger(path, clock)
        async with database.reading(path) as reader:
            house = await _build(settings, data_dir, conn, reader, boot_id, clock)
            chores = start_chores(house.walk, house.desk, house.notifier, lambda: house.settings.usage.retention_days)
            try:
                yield house
            finally:
                for chore in chores:
                    chore.cancel()
                await asyncio.gather(*chores, return_exceptions=True)
                await house.desk.checking.close()
                await house.desk.backing_up.close()
                await house.drain(settings.timeouts.shutdown_s)
                await house.notifier.close()
                await house.desk.upstream_events.close()
                for transport in house.transports.values():
                    await transport.close()
                house.desk.gate.hasher.close()
                house.desk.readers.close()
                await house.writer.close()
    finally:
        lock.release()


async def _build(
    settings: Settings, data_dir: Path, conn: sqlite3.Connection, reader: aiosqlite.Connection, boot_id: int, clock: Clock
) -> House:
    releases = Releases()
    book = Book(releases.released)
    for wallet in wallets.load_wallets(conn):
        book.open_wallet(wallet)
    ring = KeyRing(keys.load_live_keys(conn, clock.at_ms()), settings.plans)
    booted_above_id = recovery.highest_request_id(conn)
    ids = IdSource(booted_above_id)
    limits = Limits()
    limited = {key.root_id for key in ring if key.terms.need_history}
    for history in read_history(conn, limited, booted_above_id, clock.at_ms()):
        limits.load(*history)
    notifier = Notifier(book, reader, clock, settings.notices, settings.webhook_secret)
    await notifier.look()

    def freeze(wallet_id: int) -> None:
        book.freeze(wallet_id)
        stored = asyncio.ensure_future(writer.run(lambda ledger: wallets.set_frozen(ledger.conn, wallet_id, True)))
        freezing.add(stored)
        stored.add_done_callback(frozen)

    def frozen(stored: asyncio.Future[None]) -> None:
        freezing.discard(stored)
        if not stored.cancelled() and stored.exception() is not None:
            alarm("freeze", f"a wallet is frozen in memory only, until the next start: {stored.exception()}")

    freezing: set[asyncio.Future[None]] = set()
    writer = Writer(conn, boot_id, clock, on_refused=freeze)
    events = UpstreamEvents(clock, writer)
    events.declare(names_of(settings))
    transports: Transports = {}
    stations = build_stations(settings, transports)
    rules = build_rules(settings)
    walk = Walk(
        rules=rules,
        clock=clock,
        ids=ids,
        keys=ring,
        catalog=settings.catalog,
        limits=limits,
        router=Router(build_deployments(settings, stations), build_caps(settings), events.note),
        book=book,
        store=writer,
        stations=stations,
        door=Door(rules),
        releases=releases,
    )
    path = data_dir / database.FILE_NAME
    at_ms, now_ms = clock.at_ms(), clock.now_ms()
    switchboard = Switchboard(settings, walk.router, stations, clock)
    desk = Desk(
        database=path,
        writer=writer,
        book=book,
        keys=ring,
        limits=limits,
        catalog=settings.catalog,
        plans=settings.plans,
        clock=clock,
        key_prefix=settings.brand.key_prefix,
        upstreams=switchboard,
        admins=AdminRing(admin_keys.load_live_admin_keys(conn)),
        sessions=SessionRing(sessions.load_sessions(conn, at_ms), at_ms, now_ms),
        gate=Gate(build_gate_rules(settings)),
        booted_above_id=booted_above_id,
        upstream_events=events,
    )
    return House(settings, data_dir, walk, desk, writer, reader, transports, notifier)


def build_gate_rules(settings: Settings) -> GateRules:
    return GateRules(settings.web.signup, settings.web.require_totp_for_admins, settings.brand.name)


def build_stations(settings: Settings, transports: Transports) -> dict[str, Station]:
    """One station per enabled upstream; upstreams of one transport share it, and so its pool of connections."""
    stations = {}
    for upstream in settings.upstreams:
        if not upstream.enabled:
            continue
        kind = KINDS[upstream.kind]
        if kind.transport not in transports:
            transports[kind.transport] = kind.transport()
        transport = transports[kind.transport]
        provider = kind.build(upstream.base_url, upstream.secret.get_secret_value(), upstream.headers)
        stations[upstream.name] = Station(upstream.name, provider, transport)
    return stations


def names_of(settings: Settings) -> list[tuple[str, bool]]:
    """Of the upstreams, and whether each is enabled."""
    return [(upstream.name, upstream.enabled) for upstream in settings.upstreams]


def build_caps(settings: Settings) -> dict[str, int]:
    """Requests at once, by upstream; 0 is no cap."""
    return {upstream.name: upstream.max_concurrent for upstream in settings.upstreams}


def build_deployments(settings: Settings, stations: Mapping[str, Station]) -> dict[str, tuple[Deployment, ...]]:
    return {model.id: tuple(_deployments_of(model, settings, stations)) for model in settings.catalog}


def _deployments_of(model: Model, settings: Settings, stations: Mapping[str, Station]) -> Iterator[Deployment]:
    """The model's deployments, each place once; of a virtual model those of the models that it serves, in their order."""
    upstreams = {upstream.name: upstream for upstream in settings.upstreams}
    places: set[tuple[str, str]] = set()
    for rank, member in enumerate(settings.catalog.members(model)):
        for route in settings.routes[member.id]:
            if (route.upstream, route.model) in places:
                continue
            places.add((route.upstream, route.model))
            upstream = upstreams[route.upstream]
            factors = tuple(factor for factor in (settings.billing.factor, upstream.factor, route.factor) if factor != ONE)
            price = replace(member.price if model.priced_as_served else model.price, factors=factors)
            yield Deployment(
                *(upstream.name, route.model, price, price.terms(), member.price),
                priority=upstream.priority,
                weight=upstream.weight,
                rank=rank,
                signer=upstream.kind if stations[upstream.name].provider.signs_thinking else "",
            )


def build_rules(settings: Settings) -> Rules:
    server, billing, timeouts = settings.server, settings.billing, settings.timeouts
    return Rules(
        key_prefix=settings.brand.key_prefix,
        default_max_tokens=server.default_max_tokens,
        max_in_flight=server.max_in_flight,
        body_bytes_max=server.max_body_bytes,
        body_bytes_total_max=server.max_body_total_bytes,
        output_hold_tokens=billing.output_hold_tokens,
        tokens_per_second_max=billing.tokens_per_second_max,
        drain_s=None if billing.on_disconnect == "drain" else billing.drain_seconds,
        connect_s=timeouts.connect_s,
        head_stream_s=timeouts.first_byte_stream_s,
        head_whole_s=timeouts.first_byte_s,
        idle_s=timeouts.idle_s,
        total_s=timeouts.total_s,
        attempts_s=timeouts.attempts_s,
        hold_ack_s=timeouts.hold_ack_s,
        client_write_s=timeouts.client_write_s,
    )


def _open_ledger(path: Path, clock: Clock) -> tuple[sqlite3.Connection, int]:
    """The writing connection and the id of this boot, after migration, recovery and an audit. Raises HouseError."""
    try:
        conn = database.open_writer(path)
        try:
            migrate.migrate(conn, path)
            boot_id = recovery.start_boot(conn, clock.at_ms(), VERSION)
            recovery.recover(conn, boot_id, clock.at_ms())
            upstream_events.end_left_open(conn)
            _audit_at_start(conn, path, clock)
        except BaseException:
            conn.close()
            raise
    except sqlite3.Error as error:
        raise HouseError(
            "unavailable",
            f"the database {path} cannot be used ({error}). If it is damaged, restore a backup of it; keep the damaged file, it "
            "may still be readable.",
        ) from error
    return conn, boot_id


def _audit_at_start(conn: sqlite3.Connection, path: Path, clock: Clock) -> None:
    """From the last checkpoint: start stays fast. A wallet whose books are broken is frozen; money is not guessed at."""
    at_ms, began_ms = clock.at_ms(), clock.now_ms()
    with closing(database.open_reader(path)) as reader:
        report = audit.audit(reader, since_checkpoint=True)
    # What a whole one found stays known until the next whole one.
    whole, _ = audits.latest_audits(conn)
    if whole is not None:
        audited(True, whole.at_ms, len(whole.findings))
    audits.insert_audit(conn, report, at_ms=at_ms, took_ms=clock.now_ms() - began_ms, by="start", whole=False)
    tell_findings(report, at_ms)
    for wallet_id in report.wallets:
        wallets.set_frozen(conn, wallet_id, True)
