"""Parts of pages that stay up to date, over real sockets: what arrives, when a stream ends, and how many there may be."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import jinja2
import pytest

from gateway.desk.users import Member
from gateway.house import House
from gateway.web import live, site
from gateway.web.dashboard import overview
from gateway.web.page import live_route
from gateway.web.pages import Pages
from tests.desk_tools import act
from tests.gateway_tools import Gateway, until
from tests.web.tools import Visitor, make_visitor, open_site

TEMPLATES = {
    "own.html": "<p>{{ name }} has {{ nanos|had }}</p>\n<p>{{ word }}</p>",
    "all.html": "<p>{{ word }} {{ reads }}</p>",
}


class Told:
    """What the parts of these tests show: a word that a test changes, and how often it was read."""

    word = "one"
    reads = 0


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Told:
    """Two parts, one of each user's own and one for all admins, that look ten times as often."""
    told = Told()

    async def read_own(house: House, member: Member) -> Mapping[str, Any]:
        told.reads += 1
        return {"name": member.name, "nanos": house.desk.book.wallet(member.wallet_id).balance_nanos, "word": told.word}

    async def read_all(house: House, member: Member) -> Mapping[str, Any]:
        told.reads += 1
        if told.word == "broken":
            raise RuntimeError("a test's own")
        return {"word": told.word, "reads": ""}

    added = (
        live_route("/dashboard/test-live", "test/live", "user", "own.html", read_own),
        live_route("/admin/test-live", "test/admin-live", "admin", "all.html", read_all),
    )
    monkeypatch.setattr(site, "ROUTES", (*site.ROUTES, *added))
    monkeypatch.setattr(live, "TICK_S", 0.2)
    plain = Pages.__init__

    def init(pages: Pages, *arguments: Any) -> None:
        plain(pages, *arguments)
        loader = pages._environment.loader
        pages._environment.loader = jinja2.ChoiceLoader([jinja2.DictLoader(TEMPLATES), loader])

    monkeypatch.setattr(Pages, "__init__", init)
    return told


class Watcher:
    """An open stream: the events that came, as (name, data); comments as ("", ":")."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self.response = response
        self.events: list[tuple[str, str]] = []
        self.ended = False
        self._task = asyncio.ensure_future(self._read())

    @property
    def parts(self) -> list[str]:
        return [data for name, data in self.events if name == "part"]

    async def _read(self) -> None:
        name, data = "", []
        async for raw in self.response.content:
            line = raw.decode().rstrip("\n")
            field, _, value = line.partition(": ")
            if line == ":":
                self.events.append(("", ":"))
            elif field == "event":
                name = value
            elif field == "data":
                data.append(value)
            elif not line and data:
                self.events.append((name, "\n".join(data)))
                name, data = "", []
        self.ended = True

    async def leave(self) -> None:
        self._task.cancel()
        self.response.close()


@asynccontextmanager
async def watching(visitor: Visitor, path: str) -> AsyncIterator[Watcher]:
    watcher = await watch(visitor, path)
    try:
        yield watcher
    finally:
        await watcher.leave()


async def watch(visitor: Visitor, path: str) -> Watcher:
    headers = {"accept": "text/event-stream", "cookie": visitor._cookie()}
    response = await visitor.gateway.session.get(visitor.gateway.url + path, headers=headers, allow_redirects=False)
    assert response.status == 200, await response.text()
    return Watcher(response)


async def test_a_change_arrives_and_nothing_arrives_without_one(told: Told, tmp_path: Path) -> None:
    async with open_site(tmp_path) as gateway:
        ada = await make_visitor(gateway, "ada")
        async with watching(ada, "/dashboard/test-live") as watcher:
            assert watcher.response.headers["content-type"].startswith("text/event-stream")
            assert watcher.response.headers["cache-control"] == "no-store, no-transform"
            assert watcher.response.headers["x-accel-buffering"] == "no"
            assert "content-security-policy" in watcher.response.headers
            await until(lambda: len(watcher.parts) == 1)
            assert watcher.parts == ["<p>ada has $10.00</p>\n<p>one</p>"]
            reads = told.reads
            await until(lambda: told.reads >= reads + 3)
            assert len(watcher.parts) == 1
            told.word = "<img src=x onerror=alert(1)>\r\ndata: forged\n\nevent: end"
            await until(lambda: len(watcher.parts) == 2)
            assert "<img" not in watcher.parts[1] and not watcher.ended
            await act(gateway.house, "wallets.topup", user="ada", amount="5", reference="more")
            await until(lambda: len(watcher.parts) == 3)
            assert "ada has $15.00" in watcher.parts[2]
        # Nobody looks on: nothing is read.
        await until(lambda: open_streams(gateway) == 0)
        await asyncio.sleep(0.5)
        reads = told.reads
        await asyncio.sleep(0.5)
        assert told.reads == reads


async def test_what_many_look_at_is_read_once_and_everybody_sees_their_own(told: Told, tmp_path: Path) -> None:
    async with open_site(tmp_path) as gateway:
        ada, eve = await make_visitor(gateway, "ada", role="admin"), await make_visitor(gateway, "eve", role="admin")
        watchers = [await watch(visitor, "/admin/test-live") for visitor in (ada, eve, ada, eve)]
        await until(lambda: all(watcher.parts for watcher in watchers))
        begun, reads = time.monotonic(), told.reads
        await until(lambda: told.reads >= reads + 3)
        assert time.monotonic() - begun > 0.4, "four viewers, one reading in 0.2 s"
        own = [await watch(visitor, "/dashboard/test-live") for visitor in (ada, eve)]
        await until(lambda: all(watcher.parts for watcher in own))
        assert "ada has" in own[0].parts[0] and "eve has" in own[1].parts[0]
        for watcher in (*watchers, *own):
            await watcher.leave()


@pytest.mark.parametrize("by", ["sign-out", "disabling", "another window", "the operator"])
async def test_it_ends_with_the_session(by: str, told: Told, tmp_path: Path) -> None:
    async with open_site(tmp_path) as gateway:
        ada, root = await make_visitor(gateway, "ada", role="admin"), await make_visitor(gateway, "root", role="admin")
        async with watching(ada, "/admin/test-live") as watcher, watching(root, "/admin/test-live") as other:
            await until(lambda: bool(watcher.parts and other.parts))
            if by == "sign-out":
                await ada.post("/logout")
            elif by == "disabling":
                await act(gateway.house, "users.disable", user="ada")
            elif by == "another window":
                again = Visitor(gateway)
                await again.sign_in("ada")
                await again.get("/dashboard/settings")
                await again.post("/dashboard/settings/sessions/end-others")
            else:
                await act(gateway.house, "users.end_sessions", user="ada")
            told.word = "secret from now on"
            await until(lambda: watcher.ended, 5)
            assert watcher.events[-1] == ("end", "session") and not any("secret" in part for part in watcher.parts)
            await until(lambda: any("secret" in part for part in other.parts))
            assert not other.ended


async def test_looking_on_does_not_count_as_being_there(told: Told, tmp_path: Path) -> None:
    async with open_site(tmp_path) as gateway:
        ada = await make_visitor(gateway, "ada")
        async with watching(ada, "/dashboard/test-live") as watcher:
            await until(lambda: bool(watcher.parts))
            (session,) = gateway.house.desk.sessions.of_user(
                1, gateway.house.desk.clock.at_ms(), gateway.house.desk.clock.now_ms()
            )
            reads = told.reads
            await until(lambda: told.reads >= reads + 3)
            (later,) = gateway.house.desk.sessions.of_user(1, gateway.house.desk.clock.at_ms(), gateway.house.desk.clock.now_ms())
            assert later.seen_at_ms == session.seen_at_ms


async def test_how_many_there_may_be(told: Told, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(live, "STREAMS_PER_USER_MAX", 2)
    monkeypatch.setattr(live, "STREAMS_MAX", 3)
    async with open_site(tmp_path) as gateway:
        ada, eve = await make_visitor(gateway, "ada"), await make_visitor(gateway, "eve")
        first, second, third = [await watch(ada, "/dashboard/test-live") for _ in range(3)]
        await until(lambda: first.ended)
        assert first.events[-1] == ("end", "elsewhere")
        await until(lambda: open_streams(gateway) == 2)
        fourth = await watch(eve, "/dashboard/test-live")
        answer = await eve.get("/dashboard/test-live", headers={"accept": "text/event-stream"})
        assert (answer.status, answer.headers["retry-after"]) == (503, "60")
        assert not second.ended and not third.ended and not fourth.ended
        for watcher in (first, second, third, fourth):
            await watcher.leave()
        await until(lambda: open_streams(gateway) == 0)


async def test_a_shutdown_is_not_held_up(told: Told, tmp_path: Path) -> None:
    async with open_site(tmp_path) as gateway:
        ada = await make_visitor(gateway, "ada")
        watchers = [await watch(ada, "/dashboard/test-live") for _ in range(4)]
        await until(lambda: all(watcher.parts for watcher in watchers))
        begun = time.monotonic()
        await gateway.house.drain(30)
        assert time.monotonic() - begun < 1
        await until(lambda: all(watcher.ended for watcher in watchers))
        assert all(name != "end" for watcher in watchers for name, _ in watcher.events), "the browser comes back"


async def test_who_does_not_read_is_let_go(told: Told, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(live, "WRITE_S", 0.3)
    async with open_site(tmp_path) as gateway:
        ada, eve = await make_visitor(gateway, "ada", role="admin"), await make_visitor(gateway, "eve", role="admin")
        _, writer = await asyncio.open_connection("127.0.0.1", int(gateway.url.rpartition(":")[2]), limit=1024)
        writer.write(
            f"GET /admin/test-live HTTP/1.1\r\nhost: x\r\naccept: text/event-stream\r\ncookie: {ada._cookie()}\r\n\r\n".encode()
        )
        async with watching(eve, "/admin/test-live") as watcher:
            await until(lambda: open_streams(gateway) == 2)
            for number in range(40):
                told.word = f"{number} " + "x" * 400_000
                await asyncio.sleep(0.1)
                if open_streams(gateway) == 1:
                    break
            assert open_streams(gateway) == 1 and not watcher.ended
        writer.close()


async def test_a_reading_that_fails_leaves_what_was_shown(told: Told, tmp_path: Path) -> None:
    async with open_site(tmp_path) as gateway:
        ada = await make_visitor(gateway, "ada", role="admin")
        async with watching(ada, "/admin/test-live") as watcher:
            await until(lambda: bool(watcher.parts))
            told.word = "broken"
            reads = told.reads
            await until(lambda: told.reads >= reads + 2)
            told.word = "mended"
            await until(lambda: len(watcher.parts) == 2)
            assert "mended" in watcher.parts[1]


async def test_what_no_stamp_announces_is_not_read(told: Told, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The dashboard's: read when the wallet moved, once more a tick later (rows may have been on their way), then not."""
    read: list[bool] = []
    plain = overview.read_overview

    async def counted(house: House, member: Member) -> Mapping[str, Any]:
        read.append(True)
        return await plain(house, member)

    part = live_route("/dashboard/counted", "counted", "user", "dashboard/_overview_live.html", counted, overview.stamp_of)
    monkeypatch.setattr(site, "ROUTES", (*site.ROUTES, part))
    async with open_site(tmp_path) as gateway:
        ada = await make_visitor(gateway, "ada")
        async with watching(ada, "/dashboard/counted") as watcher:
            await until(lambda: len(read) == 2)
            await asyncio.sleep(0.8)
            assert (len(read), len(watcher.parts)) == (2, 1)
            await act(gateway.house, "wallets.topup", user="ada", amount="5", reference="more")
            await until(lambda: len(watcher.parts) == 2)
            assert "$15.00" in watcher.parts[1]
            await until(lambda: len(read) == 4)
            await asyncio.sleep(0.8)
            assert len(read) == 4
            monkeypatch.setattr(live, "SAME_STAMP_S", 0)
            await until(lambda: len(read) > 6)


async def test_it_keeps_alive(told: Told, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(live, "KEEP_ALIVE_S", 0.2)
    async with open_site(tmp_path) as gateway:
        ada = await make_visitor(gateway, "ada")
        async with watching(ada, "/dashboard/test-live") as watcher:
            await until(lambda: ("", ":") in watcher.events)


async def test_without_script_it_is_there_once(told: Told, tmp_path: Path) -> None:
    async with open_site(tmp_path) as gateway:
        ada = await make_visitor(gateway, "ada")
        answer = await ada.get("/dashboard/test-live")
        assert answer.status == 200 and answer.body == b"<p>ada has $10.00</p>\n<p>one</p>"
        assert answer.headers["cache-control"] == "no-store"
        assert (await ada.get("/admin/test-live", headers={"accept": "text/event-stream"})).status == 404
        assert (await Visitor(gateway).get("/dashboard/test-live", headers={"accept": "text/event-stream"})).status == 303
        assert open_streams(gateway) == 0


def open_streams(gateway: Gateway) -> int:
    """The requests that run: a stream is one that does not end."""
    return len(gateway.house.walk.tasks)
