"""Parts of pages that stay up to date: server-sent events (HTML Living Standard §9.2, read 2026-11-20) that bring ready HTML.

    every 2 s or rarer, per audience (one user; all admins together)       however many look, it is read and rendered once
      whose session has ended leaves ─▶ read, render ─▶ changed? ─▶ wake the viewers ─▶ each is sent the latest

A room declares a part with one line, and its page says with another that it has one:

    ROUTES = (…, live_route("/dashboard/live", "overview/live", "user", "dashboard/_overview_live.html", read_live))

    async def read_live(house: House, member: Member) -> Mapping[str, Any]      what the template needs; the page shows it too
    {{ live_note("/dashboard/live", "/dashboard", now_ms) }}                    from _parts.html: "Live", or when, and "Reload"

The template is one or more elements with an id, which stand on the page under the same ids: there they are renewed. It may use
`now_ms` and `brand` beside what is read, and nothing else of a page's frame; it holds no form. Of an admin's part `member` is any
one of those who look. Whatever asks without `Accept: text/event-stream` gets the part once, as HTML.

A part that costs a look into the database for each user says by its `stamp` what of memory changes whenever it does: while that
stays, it is read once a minute only.

Nothing is sent while nothing changes, but a comment every 15 s, by which proxies and we find out who has left. A stream ends for
good (event `end`) when its session does, or when its user opens too many; a shutdown ends it at once, and the browser comes back.
A session does not count as seen for looking on: one that is left open ends as any other.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from gateway.api.sink import HttpSink
from gateway.desk.signin import must_set_up_totp
from gateway.desk.users import Member
from gateway.errors import HouseError
from gateway.house import House
from gateway.upstreams.base import Headers
from gateway.web.pages import Pages

logger = logging.getLogger(__name__)

EVENT_STREAM = "text/event-stream"
TICK_S = 2.0
# What takes long to read (a database of many users on a small machine) is read less often: 2 % of the time at most.
REST_PER_READ = 50
KEEP_ALIVE_S = 15.0
# Whoever does not take what they are sent within this time is let go.
WRITE_S = 10.0
# What a browser waits before it asks again for a stream that broke off.
RETRY_MS = 3_000
# Windows that one looks at (those out of sight close their stream); of one user's the oldest makes room.
STREAMS_PER_USER_MAX = 6
STREAMS_MAX = 100
# A part whose stamp stays is read this often all the same: midnight comes by itself.
SAME_STAMP_S = 60.0

Read = Callable[[House, Member], Awaitable[Mapping[str, Any]]]
Stamp = Callable[[House, Member], Hashable]
Ended = Literal["", "gone", "session", "elsewhere", "closing"]


@dataclass(frozen=True, slots=True)
class Part:
    """A live part: under which name it is told of, for whom, its template, and how what that shows is read (from memory on the
    loop, from the database in a thread)."""

    name: str
    who: Literal["user", "admin"]
    template: str
    read: Read
    stamp: Stamp | None = None


@dataclass(slots=True, eq=False)
class _Viewer:
    """One open stream."""

    user_id: int
    token: str
    ended: Ended = ""
    wake: asyncio.Event = field(default_factory=asyncio.Event)

    def end(self, why: Ended) -> None:
        self.ended = self.ended or why
        self.wake.set()


@dataclass(slots=True, eq=False)
class _Audience:
    """Those who are shown the same; `frame` is the latest, b"" before the first. `stamp` is that of the last tick, `again` that
    it was new then: what it stands for may have been on its way to the disk when it was read, at `read_s`."""

    part: Part
    member: Member
    viewers: set[_Viewer] = field(default_factory=set)
    frame: bytes = b""
    stamp: Hashable = None
    again: bool = True
    read_s: float = 0.0


class Live:
    """All live parts of one house."""

    def __init__(self, house: House, pages: Pages) -> None:
        self._house = house
        self._pages = pages
        self._audiences: dict[tuple[str, int], _Audience] = {}
        self._viewers: list[_Viewer] = []
        self._tasks: set[asyncio.Task[None]] = set()
        house.at_closing.append(self.close)

    def __len__(self) -> int:
        """How many streams are open."""
        return len(self._viewers)

    async def render(self, part: Part, member: Member) -> bytes:
        values = await part.read(self._house, member)
        return self._pages.render_part(part.template, now_ms=self._house.desk.clock.at_ms(), **values)

    async def stream(self, part: Part, member: Member, token: str, headers: Headers, sink: HttpSink) -> None:
        """Keep one viewer up to date until they leave or may look no longer. Raises HouseError if too many look on."""
        viewer = self._enter(member.id, token)
        audience = self._audience(part, member)
        audience.viewers.add(viewer)
        sink.on_gone(lambda: viewer.end("gone"))
        try:
            await sink.start(200, [("content-type", EVENT_STREAM), ("x-accel-buffering", "no"), *headers])
            await self._relay(audience, viewer, sink)
        finally:
            audience.viewers.discard(viewer)
            self._viewers.remove(viewer)

    def close(self) -> None:
        """End all at once: the house closes."""
        for viewer in self._viewers:
            viewer.end("closing")
        for task in self._tasks:
            task.cancel()

    # ── leaves ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def _enter(self, user_id: int, token: str) -> _Viewer:
        mine = [viewer for viewer in self._viewers if viewer.user_id == user_id and not viewer.ended]
        if len(mine) >= STREAMS_PER_USER_MAX:
            mine[0].end("elsewhere")
        if len(self._viewers) >= STREAMS_MAX:
            raise HouseError("unavailable", "Too many pages are kept up to date already; reload this one.", retry_after_s=60)
        viewer = _Viewer(user_id, token)
        self._viewers.append(viewer)
        return viewer

    def _audience(self, part: Part, member: Member) -> _Audience:
        key = (part.name, 0 if part.who == "admin" else member.id)
        if key not in self._audiences:
            audience = self._audiences[key] = _Audience(part, member)
            task = asyncio.get_running_loop().create_task(self._keep(key, audience))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return self._audiences[key]

    async def _keep(self, key: tuple[str, int], audience: _Audience) -> None:
        """Look and tell until nobody looks on."""
        loop = asyncio.get_running_loop()
        try:
            # A first viewer is there before this runs.
            while audience.viewers:
                begun_s = loop.time()
                for viewer in audience.viewers:
                    if not self._may_look(audience.part, viewer):
                        viewer.end("session")
                if self._may_have_changed(audience, begun_s):
                    await self._renew(audience)
                took_s = loop.time() - begun_s
                await asyncio.sleep(max(TICK_S, took_s * REST_PER_READ))
        finally:
            del self._audiences[key]

    def _may_have_changed(self, audience: _Audience, now_s: float) -> bool:
        if audience.part.stamp is None:
            return True
        stamp = audience.part.stamp(self._house, audience.member)
        is_new = stamp != audience.stamp
        if not is_new and not audience.again and now_s - audience.read_s < SAME_STAMP_S:
            return False
        audience.stamp, audience.again, audience.read_s = stamp, is_new, now_s
        return True

    async def _renew(self, audience: _Audience) -> None:
        try:
            frame = _event(await self.render(audience.part, audience.member))
        except Exception:
            # Such as a database that is busy: what was shown last stays, and the next look is not spared.
            logger.exception("%s could not be brought up to date", audience.part.name)
            audience.again = True
            return
        if frame != audience.frame:
            audience.frame = frame
            for viewer in audience.viewers:
                viewer.wake.set()

    def _may_look(self, part: Part, viewer: _Viewer) -> bool:
        desk = self._house.desk
        session = desk.sessions.peek(viewer.token, desk.clock.at_ms(), desk.clock.now_ms())
        return session is not None and not must_set_up_totp(desk, session) and (part.who == "user" or session.role == "admin")

    async def _relay(self, audience: _Audience, viewer: _Viewer, sink: HttpSink) -> None:
        await _write(viewer, sink, b"retry: %d\n\n" % RETRY_MS)
        sent = b""
        while not viewer.ended:
            viewer.wake.clear()
            if audience.frame != sent:
                # Those that came while the last one was being taken are passed over.
                sent = audience.frame
                await _write(viewer, sink, sent)
                continue
            try:
                async with asyncio.timeout(KEEP_ALIVE_S):
                    await viewer.wake.wait()
            except TimeoutError:
                await _write(viewer, sink, b":\n\n")
        if viewer.ended in ("session", "elsewhere"):
            await _write(viewer, sink, b"event: end\ndata: %s\n\n" % viewer.ended.encode())
        await sink.end()


async def _write(viewer: _Viewer, sink: HttpSink, data: bytes) -> None:
    try:
        async with asyncio.timeout(WRITE_S):
            await sink.write(data)
    except TimeoutError:
        sink.abort()
        viewer.end("gone")


def _event(html: bytes) -> bytes:
    """As an event `part`; a line's end inside it is the beginning of another `data:`."""
    lines = html.replace(b"\r", b" ").strip().split(b"\n")
    return b"event: part\n" + b"".join(b"data: %s\n" % line for line in lines) + b"\n"
