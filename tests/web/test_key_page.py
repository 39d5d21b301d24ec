"""/key: what is left on a key, for whoever holds it; for nobody else, and not by guessing."""

from __future__ import annotations

import html
import logging
from pathlib import Path

import pytest

from gateway.access import make_secret
from tests.desk_tools import act
from tests.fakes import FakeClock
from tests.gateway_tools import open_gateway
from tests.web.tools import DEMO, Visitor, open_site


async def test_a_key_shows_what_is_left_on_it_and_nobodys_name(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with open_site(tmp_path) as gateway:
        alice = await gateway.make_user("alice-in-person", "10", limits={"requests_per_day": 50})
        other = await act(gateway.house, "keys.create", user="alice-in-person", name="another-key")
        for _ in range(22):
            assert (await gateway.ask(alice)).status == 200
        await gateway.assert_settled()
        stranger = Visitor(gateway)
        assert 'href="/key"' in (await stranger.get("/login")).body.decode()
        assert (await stranger.get("/key")).status == 200
        answer = await stranger.post("/key", key=f" {alice.secret}\n")
        page = html.unescape(answer.body.decode())
        left = gateway.balance(alice)
        assert answer.status == 200 and answer.headers["cache-control"] == "no-store"
        assert f"${left // 10**9}.{left % 10**9 // 10**7:02d}<" in page and "22 of 50 requests today" in page
        assert page.count("claude-sonnet-5-5</td>") == 20
        assert alice.secret[:17] + "…" in page
        for hidden in (alice.secret, alice.secret[20:], "alice", other["hint"], "another-key"):
            assert hidden not in page, hidden
        assert alice.secret[20:] not in caplog.text
        # Asked for as an address, it is an address.
        assert "of 50 requests" not in (await stranger.get(f"/key?key={alice.secret}")).body.decode()


async def test_what_is_no_key_from_here_shows_nothing(tmp_path: Path) -> None:
    async with open_site(tmp_path) as gateway:
        await gateway.make_user("alice")
        far = await act(gateway.house, "keys.create", user="alice", addresses=["192.0.2.0/24"])
        dead = await act(gateway.house, "keys.create", user="alice")
        await act(gateway.house, "keys.revoke", key_id=dead["id"])
        admin = await act(gateway.house, "admin_keys.create", name="root")
        stranger = Visitor(gateway)
        await stranger.get("/key")
        for typed, status, words in (
            ("", 400, "Paste the whole key"),
            ("hunter2", 400, "is not a key of this gateway"),
            ("sk-pgrid-0123", 400, "mistyped or cut"),
            (make_secret("sk-pgrid-"), 400, "unknown here"),
            (dead["secret"], 400, "unknown here"),
            (admin["secret"], 400, "admin key"),
            (far["secret"], 403, "may not be used from 127.0.0.1"),
            ("\ud83d".encode(errors="replace").decode(), 400, "is not a key"),
            ("<img src=x>", 400, "is not a key"),
        ):
            answer = await stranger.post("/key", key=typed)
            page = html.unescape(answer.body.decode())
            assert answer.status == status and words in page and 'id="e-key"' in page, typed
            assert "Balance" not in page.partition("</h1>")[2].partition("<form")[0].replace("Balance, limits", "")
            assert not typed or typed not in page, "a key is not written back"


async def test_guessing_is_slowed_down_by_address(tmp_path: Path) -> None:
    clock = FakeClock()
    async with open_gateway(tmp_path, more=DEMO, clock=clock) as gateway:
        alice = await gateway.make_user("alice")
        stranger = Visitor(gateway)
        await stranger.get("/key")
        for _ in range(30):
            assert (await stranger.post("/key", key=alice.secret)).status == 200
        for _ in range(20):
            assert (await stranger.post("/key", key=make_secret("sk-pgrid-"))).status == 400
        answer = await stranger.post("/key", key=alice.secret)
        assert answer.status == 429 and int(answer.headers["retry-after"]) >= 1 and b"Too many tries" in answer.body
        # The door to the account is another.
        assert (await gateway.ask(alice)).status == 200
        await gateway.assert_settled()
        clock.advance(3_600_000)
        assert (await stranger.post("/key", key=alice.secret)).status == 200
