"""/admin/ledger: the sum, what audits found and where, the accounts, the transfers."""

from __future__ import annotations

import asyncio
import html
import inspect
import re
from pathlib import Path

import pytest

from gateway.desk.ledger import run_audit
from gateway.desk.operation import broken_invariants
from gateway.metrics import audits
from gateway.money import parse_usd as usd
from gateway.storage import audit as audit_room
from gateway.storage.audit import invariants
from gateway.web.admin import ledger as room
from gateway.web.text import exact
from tests.desk_tools import act
from tests.gateway_tools import until
from tests.storage.test_audit import tampering
from tests.web.tools import Visitor, make_visitor, open_site

PATH = "/admin/ledger"
CHECK = PATH + "/check"
NASTY = "<img src=x onerror=alert(1)>\"'"


async def page_of(visitor: Visitor, path: str = PATH) -> str:
    answer = await visitor.get(path)
    assert answer.status == 200, answer.body
    return answer.body.decode()


async def check_now(visitor: Visitor) -> str:
    answer = await visitor.post(CHECK)
    assert (answer.status, answer.headers["location"]) == (303, PATH)
    return (await visitor.follow(answer)).body.decode()


def broken_in(page: str) -> set[str]:
    """The numbers of the invariants that the page shows as broken."""
    return {number for state, number in _states(page) if state == "Broken"}


def _states(page: str) -> list[tuple[str, str]]:
    found = []
    for item in page.partition('<ul class="proofs">')[2].partition("</ul>")[0].split("<li")[1:]:
        state = re.search(r"</svg>([A-Z][a-z ]+)</span>", item)
        number = re.search(r'class="nr">(\w+)<', item)
        assert state and number, item
        found.append((state.group(1), number.group(1)))
    return found


def has_double_rule(page: str) -> bool:
    sum_has, table_has = 'class="total" data-op="="' in page, 'class="proof"' in page
    assert sum_has == table_has
    return sum_has


async def test_the_sum_is_what_the_accounts_say_and_what_is_asked_for_elsewhere(tmp_path: Path) -> None:
    async with open_site(tmp_path) as gateway:
        root = await make_visitor(gateway, "root", role="admin", balance="0")
        await act(gateway.house, "users.create", name="ada")
        await act(gateway.house, "wallets.topup", user="ada", amount="12.345678901", reference="INV-1")
        await act(gateway.house, "wallets.withdraw", user="ada", amount="2", reference="cash")
        ada = await gateway.make_user("bob", "1")
        assert (await gateway.ask(ada)).status == 200
        await gateway.assert_settled()
        page = await page_of(root)
        shown = re.findall(r'<dd>([−$0-9,.]+)<span class="tail">(\d{7})</span></dd>', page)
        nanos = [(-1 if whole[0] == "−" else 1) * usd(whole.lstrip("−$").replace(",", "") + tail) for whole, tail in shown]
        assert len(nanos) == 5 and sum(nanos[:4]) == nanos[4] == 0
        balances = [(await act(gateway.house, "users.show", user=name)) for name in ("ada", "bob")]
        assert nanos[1] == sum(user["balance_nanos"] for user in balances)
        assert nanos[0] == -usd("11.345678901") and nanos[2] == usd("1") - balances[1]["balance_nanos"] > 0
        assert has_double_rule(page) and "must be zero, and is" in page
        for user in balances:
            assert str(exact(user["balance_nanos"])) in page


async def test_every_invariant_is_there_with_the_query_that_the_audit_runs(tmp_path: Path) -> None:
    async with open_site(tmp_path) as gateway:
        root = await make_visitor(gateway, "root", role="admin")
        page = await page_of(root)
        queries = [html.unescape(text) for text in re.findall(r"<pre [^>]*><code>(.*?)</code></pre>", page, re.DOTALL)]
        assert queries == [inspect.cleandoc(invariant.sql) for invariant in invariants()]
        assert len(queries) == len(audit_room.AT_ONCE) + len(audit_room.PER_REQUESTS) + len(audit_room.PER_TRANSFERS) + 3
        # What a start looks at, and what only an audit from the first transfer on.
        assert {number for state, number in _states(page) if state == "Not checked"} == {"2b", "7"}
        assert {state for state, number in _states(page) if number not in ("2b", "7")} == {"Holds"}
        page = await check_now(root)
        assert "everything holds" in page and {state for state, _ in _states(page)} == {"Holds"}
        assert await gateway.table("select by, whole, findings from audits order by id desc limit 1") == [
            ("web:root 127.0.0.1", 1, "[]")
        ]
        assert "by web:root 127.0.0.1" in page


async def test_looking_runs_no_audit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_site(tmp_path) as gateway:
        root = await make_visitor(gateway, "root", role="admin")
        monkeypatch.setattr(audit_room, "audit", lambda *_, **__: pytest.fail("a page ran an audit"))
        await page_of(root)


TAMPERINGS = [
    ("money from nowhere", "update accounts set balance_nanos = balance_nanos + 1 where id = 3", {"1", "2"}),
    (
        "held without a hold",
        "update accounts set held_nanos = held_nanos + 1 where kind = 'wallet' and balance_nanos > 0",
        {"3a"},
    ),
    ("a cost", "update usage set cost_nanos = cost_nanos + 1", {"4a"}),
    ("a transfer taken away", "delete from transfers where kind = 'deposit'", {"2", "5a"}),
    ("usage taken away", "delete from usage", {"4b"}),
    ("a guard taken away", "drop index transfers_once", {"5c"}),
    ("more owed", "update accounts set owed_nanos = 5 where kind = 'wallet'", {"2b"}),
    ("a row that points nowhere", "insert into passwords values (99, '$argon2id$x', 1)", {"7"}),
]


@pytest.mark.parametrize("sql,broken", [case[1:] for case in TAMPERINGS], ids=[case[0] for case in TAMPERINGS])
async def test_a_tampered_ledger_is_red_where_it_was_tampered_with(sql: str, broken: set[str], tmp_path: Path) -> None:
    async with open_site(tmp_path) as gateway:
        root = await make_visitor(gateway, "root", role="admin", balance="0")
        bob = await gateway.make_user("bob", "1")
        assert (await gateway.ask(bob)).status == 200
        await gateway.assert_settled()
        assert broken_in(await check_now(root)) == set()
        with tampering(gateway.house.database) as conn:
            conn.executescript(sql)
        page = await check_now(root)
        assert broken_in(page) == broken and not has_double_rule(page)
        # Broken ones stand first, with their rows, and what to do.
        assert [state for state, _ in _states(page)][: len(broken)] == ["Broken"] * len(broken)
        assert page.count('<div class="found">') == len(broken) and "The books are broken" in page
        if "3a" in broken:
            assert "wallet of bob" in page and "A restart resolves" in page
            assert (await act(gateway.house, "wallets.show", user="bob"))["frozen"]
            assert '<span class="tag">frozen</span>' in page


async def test_what_a_whole_audit_found_stays_red_until_a_whole_one_finds_it_no_more(tmp_path: Path) -> None:
    async with open_site(tmp_path) as gateway:
        root = await make_visitor(gateway, "root", role="admin")
        await check_now(root)
        # Before the checkpoint: what is audited by the hour does not see it.
        with tampering(gateway.house.database) as conn:
            conn.execute("update accounts set owed_nanos = 1 where kind = 'wallet'")
        assert broken_in(await check_now(root)) == {"2b"}
        await run_audit(gateway.house.desk, "hourly", since_checkpoint=True)
        page = await page_of(root)
        assert broken_in(page) == {"2b"} and "by the hour" in page
    audits.clear()  # as a new process has none
    async with open_site(tmp_path) as gateway:
        root = Visitor(gateway)
        await root.sign_in("root")
        page = await page_of(root)
        assert broken_in(page) == {"2b"} and "at the start" in page and not has_double_rule(page)
        assert broken_invariants() == 1  # the navigation's
        with tampering(gateway.house.database) as conn:
            conn.execute("update accounts set owed_nanos = 0 where kind = 'wallet'")
        await root.get("/dashboard/settings")
        page = await check_now(root)
        assert broken_in(page) == set() and has_double_rule(page)


async def test_a_long_check_goes_on_alone_and_its_result_is_there_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "WAIT_S", 0.01)
    async with open_site(tmp_path) as gateway:
        root = await make_visitor(gateway, "root", role="admin")
        async with gateway.writer_held_back():
            page = await check_now(root)
            assert "The check goes on" in page and "A check is running" in page
            page = await check_now(root)
            assert "A check was running already" in page
            assert "A check is running" in await page_of(root)
        await until(lambda: gateway.house.desk.checking.since_ms is None)
        page = await page_of(root)
        assert "A check is running" not in page and "Not checked" not in page
        assert await gateway.table("select count(*) from audits where whole = 1") == [(1,)]


async def test_a_check_that_fails_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_site(tmp_path) as gateway:
        root = await make_visitor(gateway, "root", role="admin")

        def fail(*_: object, **__: object) -> None:
            raise RuntimeError("disk I/O error")

        monkeypatch.setattr(audit_room, "audit", fail)
        page = await check_now(root)
        assert "did not come to its end: disk I/O error" in page


async def test_a_house_that_closes_does_not_wait_for_a_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "WAIT_S", 0.01)
    slices = iter(range(10**9))

    def endless(*_: object, pause: object = None, **__: object) -> None:
        while True:
            next(slices)
            pause()  # type: ignore[operator]

    async with open_site(tmp_path) as gateway:
        root = await make_visitor(gateway, "root", role="admin")
        monkeypatch.setattr(audit_room, "audit", endless)
        assert "The check goes on" in await check_now(root)
        monkeypatch.undo()
        closing_from = next(slices)
    await asyncio.sleep(0.1)
    ended_at = next(slices)
    await asyncio.sleep(0.1)
    assert next(slices) == ended_at + 1 > closing_from


async def test_transfers_are_paged_without_a_gap_or_a_double(tmp_path: Path) -> None:
    async with open_site(tmp_path) as gateway:
        root = await make_visitor(gateway, "root", role="admin", balance="0")
        await act(gateway.house, "users.create", name="ada")
        for number in range(60):
            await act(gateway.house, "wallets.topup", user="ada", amount="1", reference=f"INV-{number}")

        def ids(page: str) -> list[int]:
            return [int(text) for text in re.findall(r'hide-s">#(\d+)</td>', page)]

        def link(page: str, rel: str) -> str | None:
            found = re.search(rf'<a href="([^"#]+)#transfers" rel="{rel}">', page)
            return html.unescape(found.group(1)) if found else None

        seen: list[int] = []
        path: str | None = PATH
        while path:
            page = await page_of(root, path)
            seen += ids(page)
            path = link(page, "next")
        assert seen == list(range(60, 0, -1))
        back = link(page, "prev")
        assert back and ids(await page_of(root, back)) == list(range(35, 10, -1))
        assert link(await page_of(root), "prev") is None
        for wrong in ("x", "-1", "9" * 30, "1e3"):
            assert (await root.get(f"{PATH}?before={wrong}")).status == 400


async def test_what_people_wrote_is_shown_as_they_wrote_it(tmp_path: Path) -> None:
    async with open_site(tmp_path) as gateway:
        root = await make_visitor(gateway, "root", role="admin", balance="0")
        await act(gateway.house, "users.create", name="ada")
        await act(gateway.house, "wallets.topup", user="ada", amount="1", reference=NASTY, note=NASTY)
        with tampering(gateway.house.database) as conn:
            conn.execute("update transfers set kind = 'settle' where id = 1")
        page = await check_now(root)
        assert broken_in(page) == {"4d"}
        assert (
            NASTY not in page
            and page.count(html.escape(NASTY, quote=True).replace("&quot;", "&#34;").replace("&#x27;", "&#39;")) == 3
        )


async def test_the_books_of_a_house_without_users(tmp_path: Path) -> None:
    """Nothing was ever moved: the sum is zero, and the page says what would come first."""
    async with open_site(tmp_path) as gateway:
        root = await make_visitor(gateway, "root", role="admin", balance="0")
        page = await page_of(root)
        assert "No transfer yet" in page and has_double_rule(page)
