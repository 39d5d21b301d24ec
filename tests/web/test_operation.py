"""The operator's first page: its figures are the ledger's, what runs and what failed is there, and nobody else sees any of it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest

from gateway import metrics
from gateway.desk.operation import Earned, broken_invariants, read_books
from gateway.health import Failure
from gateway.ids import lowest_id, render_id
from gateway.storage.database import open_reader
from gateway.usage import Usage
from gateway.web import live
from tests.desk_tools import act
from tests.gateway_tools import open_gateway, until
from tests.upstream import ScriptedUpstream
from tests.web.scene import DAY_MS, OPUS, Scene, open_scene
from tests.web.test_live import watching
from tests.web.tools import make_visitor, open_site

XSS = "<img src=x onerror=alert(1)>\"'"


@pytest.fixture(autouse=True)
def counted_nothing(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Counts of this process are not those of other tests."""
    monkeypatch.setattr(metrics, "counters", metrics.counters.__class__())
    monkeypatch.setattr(metrics, "limits_hit", metrics.limits_hit.__class__())
    monkeypatch.setattr(metrics, "audits", {})
    yield


async def test_the_sums_are_the_ledgers(tmp_path: Path) -> None:
    async with open_scene(tmp_path) as scene:
        # Two refunds of today, of requests of earlier days: they are taken off today.
        for request_id in scene.requests[-12:-10]:
            await refund(scene, request_id)
        at_ms = scene.clock.at_ms()
        today = at_ms - at_ms % DAY_MS
        month = int(datetime(2026, 11, 1, tzinfo=UTC).timestamp() * 1000)
        with closing(open_reader(scene.gateway.house.database)) as conn:
            books = read_books(conn, at_ms, 10**9)
            for found, start_ms in ((books.today, today), (books.month, month)):
                settled, overrun, refunds, refunded = conn.execute(
                    """
                    select coalesce(sum(amount_nanos) filter (where kind = 'settle'), 0),
                      coalesce(sum(amount_nanos) filter (where kind = 'overrun'), 0),
                      count(*) filter (where kind = 'refund'), coalesce(sum(amount_nanos) filter (where kind = 'refund'), 0)
                    from transfers where at_ms >= ?
                    """,
                    (start_ms,),
                ).fetchone()
                upstream, requests = conn.execute(
                    """
                    select coalesce(sum((select sum(cost_nanos) from attempts where attempts.request_id = usage.request_id)), 0),
                      count(*)
                    from usage where at_ms >= ?
                    """,
                    (start_ms,),
                ).fetchone()
                assert found == Earned(requests, settled, refunds, refunded, upstream, 0, overrun)
                assert found.margin_nanos == settled - refunded - upstream
            assert books.today.refunds == 2 and books.month.refunds == 3 and books.month.requests > 100
            # Revenue as the account has it: what came in, less what went back.
            (balance,) = conn.execute("select balance_nanos from accounts where kind = 'revenue'").fetchone()
            (earlier,) = conn.execute(
                "select coalesce(sum(case credit_account when 3 then amount_nanos else -amount_nanos end), 0)"
                " from transfers where 3 in (credit_account, debit_account) and at_ms < ?",
                (month,),
            ).fetchone()
            month_earned = books.month.revenue_nanos + books.month.overrun_nanos - books.month.refunded_nanos
            assert balance == earlier + month_earned
            void, held = conn.execute(
                "select count(*) filter (where state = 'void'), count(*) from holds where id >= ?", (lowest_id(at_ms - DAY_MS),)
            ).fetchone()
            assert (books.uncharged_24h, books.requests_24h) == (void, held)
        root = await scene.visitor("root")
        shown = (await root.get("/admin")).body.decode()
        for found in (books.today, books.month):
            for nanos in (found.revenue_nanos, found.refunded_nanos, found.upstream_nanos, found.margin_nanos):
                whole, rest = divmod(abs(nanos), 10**9)
                assert f'${whole:,}.{rest // 10**7:02d}<span class="tail">{rest % 10**7:07d}</span>' in shown


async def test_what_was_not_rolled_up_yet_counts(tmp_path: Path) -> None:
    async with ScriptedUpstream() as up, open_gateway(tmp_path, up.url) as gateway:
        alice = await gateway.make_user("alice", "10")
        for _ in range(3):
            assert (await gateway.ask(alice)).status == 200
        rows = await gateway.usage_rows()
        with closing(open_reader(gateway.house.database)) as conn:
            books = read_books(conn, gateway.house.desk.clock.at_ms(), 0)
        assert books.today.revenue_nanos == sum(row["paid_nanos"] for row in rows) > 0
        assert [row["user_name"] for row in books.latest] == ["alice"] * 3
        await gateway.assert_settled()


async def test_what_runs_shows_while_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "TICK_S", 0.1)
    async with ScriptedUpstream() as up, open_gateway(tmp_path, up.url) as gateway:
        alice = await gateway.make_user("alice", "10")
        root = await make_visitor(gateway, "root", role="admin")
        assert "No request is running" in (await root.get("/admin")).body.decode()
        async with watching(root, "/admin/live") as watcher, gateway.writer_held_back():
            # Its hold is not on the disk, so nothing is relayed yet.
            asking = asyncio.ensure_future(gateway.ask(alice))
            await until(lambda: bool(watcher.parts) and "Running requests by model" in watcher.parts[-1])
            assert "claude-sonnet-5-5" in watcher.parts[-1] and "oldest:" in watcher.parts[-1]
        assert (await asking).status == 200
        async with watching(root, "/admin/live") as watcher:
            await until(lambda: bool(watcher.parts) and "No request is running" in watcher.parts[-1])
            request_id = (await asking).request_id
            assert f'href="/admin/requests/{request_id}"' in watcher.parts[-1]
        await gateway.assert_settled()


async def test_the_page_and_its_live_part_say_the_same(tmp_path: Path) -> None:
    async with open_scene(tmp_path) as scene:
        root = await scene.visitor("root")
        page, part = [(await root.get(path)).body.decode() for path in ("/admin", "/admin/live")]
        assert part.strip() in page
        assert "<form" not in part and 'data-live="/admin/live"' in page and 'href="/admin">Reload' in page


async def test_failures_limits_alarms_and_who_needs_attention(tmp_path: Path) -> None:
    async with open_scene(tmp_path) as scene:
        house = scene.gateway.house
        await scene.request(("ines", "openclaw-home"), OPUS, Usage(input_tokens=10, output_tokens=1), failed_first=True)
        await act(house, "wallets.freeze", user="tidewater")
        await act(house, "users.set_low_balance", user="ines", amount="1000")
        metrics.alarm("overrun", "a test's own")
        metrics.limit_hit("spend_per_day_nanos")
        root = await scene.visitor("root")
        shown = (await root.get("/admin")).body.decode()
        text = " ".join(re.sub(r"<[^>]+>", " ", shown).split())
        assert "529 overloaded console-eu" in text
        assert "A request cost more than its wallet had" in text and "Spend per day 1" in text
        assert "tidewater Frozen every request is refused" in text and "ines Low below $1000.00" in text.replace("1,000", "1000")
        # Those who never used anything are not low, nor is a disabled account.
        needy = text[text.index("Wallets that need attention") : text.index("Upstreams All upstreams")]
        assert "new" not in needy and "closed-account" not in needy


async def test_entries_that_need_attention_say_so(tmp_path: Path) -> None:
    async with open_scene(tmp_path) as scene:
        root = await scene.visitor("root")
        assert "needs attention" not in (await root.get("/dashboard/settings")).body.decode()
        router = scene.gateway.house.walk.router
        router.failed("m", "", router.deployments(OPUS)[0], Failure("connect", "connect", "c", 1), scene.clock.now_ms())
        metrics.audited(True, scene.clock.at_ms(), 3)
        shown = " ".join(re.sub(r"<[^>]+>", " ", (await root.get("/dashboard/settings")).body.decode()).split())
        assert "Upstreams 1 needs attention" in shown and "Ledger 3 need attention" in shown
        ines = await scene.visitor("ines")
        assert "attention" not in (await ines.get("/dashboard/settings")).body.decode()


@pytest.mark.parametrize(
    ("audits", "broken"),
    [
        ({}, 0),
        ({"recent": (5, 2)}, 2),
        ({"whole": (9, 0), "recent": (5, 2)}, 0),
        ({"whole": (5, 1), "recent": (9, 0)}, 1),
        ({"whole": (5, 0), "recent": (9, 2)}, 2),
    ],
)
def test_broken_invariants_are_those_that_no_later_audit_cleared(
    audits: dict[str, tuple[int, int]], broken: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "audits", audits)
    assert broken_invariants() == broken


async def test_names_are_text(tmp_path: Path) -> None:
    async with open_site(tmp_path) as gateway:
        root = await make_visitor(gateway, "root", role="admin")
        user = await gateway.make_user("eve" + XSS)
        assert (await gateway.ask(user)).status == 200
        await gateway.usage_rows()
        shown = (await root.get("/admin")).body.decode()
        assert "eve&lt;img" in shown and "<img" not in shown


async def test_an_empty_house_says_what_will_be_there(tmp_path: Path) -> None:
    async with open_site(tmp_path) as gateway:
        root = await make_visitor(gateway, "root", role="admin", balance="0")
        shown = (await root.get("/admin")).body.decode()
        for words in ("No request yet", "No request is running", "nothing was earned", "No wallet is frozen", "Every attempt"):
            assert words in shown, words


@pytest.mark.parametrize("path", ["/admin", "/admin/live"])
async def test_it_is_not_there_for_others(path: str, tmp_path: Path) -> None:
    async with open_site(tmp_path) as gateway:
        ada = await make_visitor(gateway, "ada")
        for headers in ({}, {"accept": "text/event-stream"}):
            assert (await ada.get(path, headers=headers)).status == 404


# ── leaves ───────────────────────────────────────────────────────────────────────────────────────────────────────────


async def refund(scene: Scene, request_id: int) -> None:
    await act(scene.gateway.house, "wallets.refund", request_id=render_id(request_id), note="a test's own")
