"""What becomes of provider accounts, remembered beyond a restart: noted as the router's health changes, written behind it.

    cools, cools again within a minute, answers     one event that has grown, with the number of rests
    cools, is over, cools an hour later             two

`note` is called in the midst of requests and only keeps in mind; `flush`, a second later, gives it to the writer. What a process
that was killed had not written is lost, a second at most.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace

from gateway.clock import Clock
from gateway.desk.jobs import whole
from gateway.errors import HouseError
from gateway.health import Change
from gateway.storage.ledger import LedgerWriter
from gateway.storage.upstream_events import Event, State, mark_seen, prune_events, write_events
from gateway.storage.writer import Writer

# What fails again so soon after it was back had not been back: one event, so that a storm fills no disk.
SAME_MS = 60_000
KEPT_DAYS = 7
# A disk in trouble keeps nobody waiting at the end.
CLOSE_S = 2


class UpstreamEvents:
    def __init__(self, clock: Clock, writer: Writer) -> None:
        self._clock = clock
        self._writer = writer
        self._latest: dict[tuple[str, str], Event] = {}
        self._disabled: dict[str, Event] = {}
        self._unwritten: list[Event] = []
        self._flushing = asyncio.Lock()

    def note(self, change: Change) -> None:
        """On the loop: something rests, or answers again."""
        at_ms = self._clock.at_ms()
        subject = change.upstream, change.model
        event = self._latest.get(subject)
        if change.cause is None:
            if event is not None and event.ended_at_ms is None:
                event.ended_at_ms = at_ms
                self._keep(event)
            return
        state: State = "rejected" if change.cause in ("secret", "credit") else "cooling"
        until_ms = at_ms + change.rest_ms
        if event is not None and event.cause == change.cause and at_ms <= event.over_ms(at_ms) + SAME_MS:
            event.reason, event.until_ms, event.ended_at_ms, event.asked_ms = change.reason, until_ms, None, change.asked_ms
            event.rests += not change.prolonged
        else:
            if event is not None and event.ended_at_ms is None:
                event.ended_at_ms = min(at_ms, event.over_ms(at_ms))
                self._keep(event)
            event = Event(*subject, state, change.cause, change.reason, at_ms, until_ms, asked_ms=change.asked_ms)
            self._latest[subject] = event
        self._keep(event)

    def declare(self, upstreams: Iterable[tuple[str, bool]]) -> None:
        """Which accounts there are, each by its name, and whether it is enabled: at the start and after a reload."""
        at_ms = self._clock.at_ms()
        enabled = dict(upstreams)
        for name, event in list(self._disabled.items()):
            if enabled.get(name, True):
                event.ended_at_ms = at_ms
                self._keep(event)
                del self._disabled[name]
        for name in enabled:
            if not enabled[name] and name not in self._disabled:
                self._disabled[name] = Event(name, "", "disabled", "", "", at_ms)
                self._keep(self._disabled[name])

    @whole
    async def flush(self) -> None:
        """Everything noted so far is on disk when this returns. Raises HouseError for a disk in trouble; nothing is forgotten."""
        async with self._flushing:
            events, self._unwritten = self._unwritten, []
            if not events:
                return
            at_ms, rows = self._clock.at_ms(), [replace(event) for event in events]

            def job(ledger: LedgerWriter) -> list[int]:
                mark_seen(ledger.conn, at_ms)
                return write_events(ledger.conn, rows)

            try:
                ids = await self._writer.run(job)
            except HouseError:
                self._unwritten = [*events, *(event for event in self._unwritten if event not in events)]
                raise
            for event, row_id in zip(events, ids, strict=True):
                event.id = row_id

    async def keep(self) -> None:
        """Every minute: a sign of life, by which a later start knows since when nobody was here; and what is old is forgotten."""
        at_ms = self._clock.at_ms()
        before_ms = at_ms - KEPT_DAYS * 86_400_000

        def job(ledger: LedgerWriter) -> None:
            mark_seen(ledger.conn, at_ms)
            prune_events(ledger.conn, before_ms)

        await self._writer.run(job)

    async def catch_up(self, limit_s: float) -> None:
        """As `flush`, for whoever can do without: no longer than the limit, and a disk in trouble is not theirs to tell."""
        with suppress(HouseError, TimeoutError):
            async with asyncio.timeout(limit_s):
                await self.flush()

    async def close(self) -> None:
        await self.catch_up(CLOSE_S)
        with suppress(HouseError, TimeoutError):
            async with asyncio.timeout(CLOSE_S):
                await self.keep()

    def _keep(self, event: Event) -> None:
        if event not in self._unwritten:
            self._unwritten.append(event)
