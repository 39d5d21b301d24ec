"""The disk is slow, full, or says no: nothing unrecorded is relayed, nothing is lost, and service comes back by itself."""

from __future__ import annotations

import asyncio
from contextlib import closing
from pathlib import Path

import pytest

from gateway.errors import HouseError
from gateway.storage.database import open_reader
from gateway.storage.ledger import LedgerWriter
from gateway.storage.writer import Writer
from tests.gateway_tools import ScriptedUpstream, open_gateway, until
from tests.upstreams import scripts
from tests.upstreams.replies import Reply

TEN = 10_000_000_000
ACK = "[timeouts]\nhold_ack_s = 0.3\n"


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_no_byte_is_relayed_before_the_hold_is_on_disk(tmp_path: Path, stream: bool) -> None:
    async with ScriptedUpstream() as up, open_gateway(tmp_path, up.url, more=ACK) as gateway:
        alice = await gateway.make_user("alice", "10")
        async with gateway.writer_held_back():
            answer = await gateway.ask(alice, stream=stream)
            # The upstream was asked at once, and did its work; the client sees nothing of it and pays nothing.
            assert up.journal[0].billed is not None
            assert (answer.status, answer.error["type"], answer.headers["retry-after"]) == (503, "api_error", "2")
            answer.assert_clean()
            assert gateway.balance(alice) == TEN and gateway.house.walk.book.wallet(alice.key.wallet_id).held_nanos == 0
        # The late commit writes hold and void together.
        assert await gateway.table("select state, reason from holds") == [("void", "unbilled")]
        assert await gateway.attempts() == [("up1", 200, "unbilled")]
        assert await gateway.usage_rows() == []
        assert (await gateway.ask(alice, stream=stream)).status == 200
        await gateway.assert_settled()


async def test_a_hold_that_is_late_but_in_time_delays_the_first_byte_only(tmp_path: Path) -> None:
    async with ScriptedUpstream() as up, open_gateway(tmp_path, up.url) as gateway:
        alice = await gateway.make_user("alice", "10")
        async with gateway.writer_held_back():
            asking = asyncio.ensure_future(gateway.ask(alice, stream=True))
            await up.arrived(1)
            await asyncio.sleep(0.2)
            assert not asking.done()
        answer = await asking
        assert answer.status == 200 and not answer.cut
        await gateway.assert_settled()


async def test_a_silent_stream_is_not_opened_before_its_hold_is_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.proxy.dispatch.SILENCE_S", 0.05)
    async with ScriptedUpstream() as up, open_gateway(tmp_path, up.url, more=ACK) as gateway:
        alice = await gateway.make_user("alice", "10")
        up.script(scripts.answer(quiet=(0, 4, 0.15)))
        async with gateway.writer_held_back():
            answer = await gateway.ask(alice, stream=True)
        assert answer.status == 503
        assert await gateway.void_reasons() == ["unbilled"]
        await gateway.assert_settled()


async def test_while_the_writer_stalls_nothing_is_admitted_and_nothing_in_flight_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.storage.writer.STALLED_MS", 400)
    released = asyncio.Event()
    async with ScriptedUpstream() as up, open_gateway(tmp_path, up.url) as gateway:
        alice = await gateway.make_user("alice", "10")
        up.default = scripts.answer(released=released)
        asking = [asyncio.ensure_future(gateway.ask(alice, stream=number % 2 == 0)) for number in range(50)]
        await up.arrived(50)
        async with gateway.writer_held_back():
            released.set()
            answers = await asyncio.gather(*asking)
            # Their holds were on disk: they are answered, and their settles wait in the queue.
            assert [answer.status for answer in answers] == [200] * 50
            await until(lambda: not gateway.house.writer.accepting)
            refused = await gateway.ask(alice)
            assert (refused.status, refused.headers["retry-after"]) == (503, "2")
            assert (await gateway.get(None, "/readyz")).status == 503
            assert (await gateway.get(None, "/healthz")).status == 200
        await until(lambda: gateway.house.writer.accepting)
        assert (await gateway.get(None, "/readyz")).status == 200
        assert (await gateway.ask(alice)).status == 200
        assert len(await gateway.usage_rows()) == 51 == len(up.journal)
        await gateway.assert_settled()


async def test_requests_that_arrive_while_the_writer_stalls_are_refused_and_cost_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.storage.writer.STALLED_MS", 400)
    async with ScriptedUpstream() as up, open_gateway(tmp_path, up.url, more=ACK) as gateway:
        alice = await gateway.make_user("alice", "10")
        async with gateway.writer_held_back():
            answers = await asyncio.gather(*(gateway.ask(alice, stream=number % 2 == 0) for number in range(50)))
            assert {answer.status for answer in answers} == {503}
        await until(lambda: gateway.house.writer.accepting)
        assert (await gateway.ask(alice)).status == 200
        assert len(await gateway.usage_rows()) == 1
        assert set(await gateway.void_reasons()) == {"unbilled"}
        await gateway.assert_settled()


async def test_a_full_disk_between_hold_and_settle_loses_nothing(tmp_path: Path) -> None:
    released = asyncio.Event()
    async with ScriptedUpstream() as up, open_gateway(tmp_path, up.url) as gateway:
        alice = await gateway.make_user("alice", "10")
        up.default = scripts.answer(Reply(), released=released)
        asking = [asyncio.ensure_future(gateway.ask(alice, stream=number % 2 == 0)) for number in range(20)]
        await up.arrived(20)

        def fill(ledger: LedgerWriter) -> int:
            (pages,) = ledger.conn.execute("pragma page_count").fetchone()
            ledger.conn.execute(f"pragma max_page_count = {pages}")
            return int(pages)

        await gateway.house.writer.run(fill)
        # What fits in half-empty pages still fits; this takes all that is left.
        await fill_pages(gateway.house.writer)
        released.set()
        answers = await asyncio.gather(*asking)
        assert [answer.status for answer in answers] == [200] * 20
        await until(lambda: not gateway.house.writer.accepting)
        refused = await gateway.ask(alice)
        assert (refused.status, refused.error["type"]) == (503, "api_error")
        assert "disk" not in refused.error["message"] and "full" not in refused.error["message"]
        # Somebody makes room. (Not by a job: those wait behind what cannot be written.)
        gateway.house.writer._conn.execute("pragma max_page_count = 1000000")
        await until(lambda: gateway.house.writer.accepting)
        up.default = scripts.answer(Reply())
        assert (await gateway.ask(alice)).status == 200
        rows = await gateway.usage_rows()
        assert len(rows) == 21 and len({row["request_id"] for row in rows}) == 21
        assert gateway.balance(alice) == TEN - sum(row["cost_nanos"] for row in rows)
        await gateway.assert_settled()


async def fill_pages(writer: Writer) -> None:
    """Leave hardly a free byte in the pages that there are: rows of falling size, until none fits."""
    for size in (2000, 200, 20):
        for number in range(200):
            text = f"{size}-{number}".ljust(size, "x")

            def one(ledger: LedgerWriter, text: str = text) -> None:
                ledger.conn.execute("insert into prices (terms, at_ms) values (?, 0)", (text,))
                ledger.conn.execute("insert into audit_log (at_ms, actor, action, subject) values (0, '', '', ?)", (text,))

            try:
                await writer.run(one)
            except HouseError:
                break


async def test_a_wallet_whose_hold_the_ledger_refuses_is_frozen_and_the_others_are_not(tmp_path: Path) -> None:
    async with ScriptedUpstream() as up, open_gateway(tmp_path, up.url) as gateway:
        alice, bob = await gateway.make_user("alice", "10"), await gateway.make_user("bob", "10")
        # Somebody went around us: the database has less than the book believes.
        await gateway.house.writer.run(
            lambda ledger: ledger.post(0, "withdraw", alice.key.wallet_id, 1, TEN - 1000, "behind our back") and None
        )
        answers = await asyncio.gather(*(gateway.ask(user, stream=stream) for user in (alice, bob) for stream in (False, True)))
        assert [answer.status for answer in answers] == [503, 503, 200, 200]
        assert answers[0].headers["retry-after"] == "2"
        assert "alice" not in answers[0].body.decode()
        again = await gateway.ask(alice)
        assert again.status == 503 and "frozen" in again.error["message"]
        await until(lambda: not gateway.house.walk.running)
        await gateway.usage_rows()
        with closing(open_reader(gateway.house.database)) as conn:
            assert conn.execute("select count(*) from holds where state = 'open'").fetchone() == (0,)
            assert conn.execute("select frozen, held_nanos from accounts where kind = 'wallet' order by id").fetchall() == [
                (1, 0),
                (0, 0),
            ]
        assert [row["wallet_id"] for row in await gateway.usage_rows()] == [bob.key.wallet_id] * 2


async def test_a_stream_goes_on_while_the_disk_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its hold is recorded; its progress and its settle can wait."""
    monkeypatch.setattr("gateway.proxy.relay.PROGRESS_AFTER_MS", 0)
    go_on = asyncio.Event()
    async with ScriptedUpstream() as up, open_gateway(tmp_path, up.url, tick_s=0.02) as gateway:
        alice = await gateway.make_user("alice", "10")
        up.script(scripts.answer(Reply(text=("x" * 50,) * 20), pace_s=0.02, pause=(4, go_on)))
        asking = asyncio.ensure_future(gateway.ask(alice, stream=True))
        await until(lambda: bool(up.journal) and up.journal[0].events_sent == 4)
        await gateway.house.writer.run(lambda ledger: None)
        async with gateway.writer_held_back():
            go_on.set()
            answer = await asking
            assert not answer.cut and answer.events[-1][0] == "message_stop"
        assert len(await gateway.usage_rows()) == 1
        assert await gateway.table("select * from progress") == []
        await gateway.assert_settled()
