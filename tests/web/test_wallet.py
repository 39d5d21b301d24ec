"""The Wallet page: its sum adds up or says that it does not, whatever moved the money; vouchers go in once."""

from __future__ import annotations

import asyncio
import csv
import html
import io
import re
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest

from gateway.clock import rfc3339
from gateway.desk import months
from gateway.desk.gate import RARE_PACE
from gateway.desk.months import Period, Statement, parse_period, read_statement
from gateway.errors import ClientError
from gateway.ids import render_id
from gateway.money import parse_usd as usd
from gateway.storage.database import open_reader
from gateway.storage.rollups import DAY_MS
from gateway.storage.rows import ResolutionRow, Served
from gateway.usage import Usage
from tests.desk_tools import DETAIL, USAGE, act
from tests.fakes import FakeClock
from tests.gateway_tools import Answer, Gateway, open_gateway
from tests.web.scene import CONFIG, SONNET, Scene, open_scene
from tests.web.tools import Visitor, make_visitor, open_site

NASTY = """<img src=x onerror=alert(1)>"'"""
KEY = ("ada", NASTY)


def shown(answer: Answer) -> str:
    """What is read on a page, in one line."""
    text = re.sub(r"<(?:script|svg).*?</(?:script|svg)>|<[^>]+>", " ", answer.body.decode(), flags=re.S)
    return " ".join(html.unescape(text).split()).replace("$ ", "$")


def exact(text: str) -> str:
    """Without the blank that stands where the pale digits begin."""
    return re.sub(r"(\.\d\d) (\d{7})", r"\1\2", text)


def statement_of(scene: Scene, user: str = "ada", **asked: Any) -> Statement:
    now_ms, before = scene.clock.at_ms(), asked.pop("before", None)
    with closing(open_reader(scene.gateway.house.database)) as conn:
        user_id, since_ms = conn.execute("select id, created_at_ms from users where name = ?", (user,)).fetchone()
        period = parse_period(now_ms, **asked)
        return read_statement(conn, user_id, period, now_ms=now_ms, since_ms=since_ms, before=before)


def assert_adds_up(statement: Statement) -> None:
    """The sum, and every line of it."""
    assert statement.proven and statement.off_nanos == 0
    assert (
        statement.opening_nanos + statement.added_nanos + statement.refunded_nanos - statement.taken_nanos - statement.spent_nanos
        == statement.closing_nanos
    )
    if statement.paged or statement.older:
        return
    balance = statement.opening_nanos
    for line in reversed(statement.lines):
        balance += line.amount_nanos
        assert line.balance_after_nanos == balance
    assert balance == statement.closing_nanos


@asynccontextmanager
async def open_wallet(folder: Path) -> AsyncIterator[tuple[Scene, Visitor]]:
    """ada, with ten dollars since 1 October 2026, and a key whose name is markup."""
    clock = FakeClock(1_790_812_800_000 + 12 * 3_600_000)
    async with open_gateway(folder, more=CONFIG, clock=clock) as gateway:
        scene = Scene(gateway, clock)
        ada = await make_visitor(gateway, "ada")
        scene.keys[KEY] = await act(gateway.house, "keys.create", user="ada", name=NASTY)
        yield scene, ada
        await gateway.assert_settled()


async def spend(scene: Scene, times: int = 1, **more: Any) -> list[int]:
    return [await scene.request(KEY, SONNET, Usage(input_tokens=1_001, output_tokens=33), **more) for _ in range(times)]


async def test_everything_that_moves_money_is_a_line_and_they_add_up(tmp_path: Path) -> None:
    async with open_wallet(tmp_path) as (scene, ada):
        house, clock = scene.gateway.house, scene.clock
        october = await spend(scene, 3)
        await act(house, "wallets.withdraw", user="ada", amount="1.000000001", reference="back-1", note=NASTY)
        clock.advance(40 * DAY_MS)  # 10 November
        await spend(scene, 2)
        await act(house, "wallets.refund", request_id=render_id(october[0]), note="upstream fault")
        clock.advance(DAY_MS)
        [voucher] = (await act(house, "vouchers.create", amount="25", batch="meetup"))["vouchers"]
        await act(house, "vouchers.redeem", user="ada", code=voucher["code"])
        await act(house, "wallets.topup", user="ada", amount="7", reference="INV-2068", note="bank transfer")
        await spend(scene, 12, end="estimated")

        november = statement_of(scene)
        assert_adds_up(november)
        assert [(line.what, line.count, line.folded) for line in november.lines] == [
            *[("settle", 1, False)] * months.LATEST,
            ("settle", 4, True),
            ("deposit", 1, False),
            ("voucher", 1, False),
            ("settle", 2, True),
            ("refund", 1, False),
        ]
        assert (november.added_nanos, november.counts["settle"]) == (usd("32"), 14)
        before = statement_of(scene, month="2026-10")
        assert_adds_up(before)
        assert before.closing_nanos == november.opening_nanos and before.taken_nanos == usd("1.000000001")
        assert (before.before, before.after and before.after.name) == (None, "2026-11")
        for day in range(1, 12):
            assert_adds_up(statement_of(scene, day=f"2026-11-{day:02d}"))

        ada = await scene.visitor("ada")  # the first session has ended since
        page = await ada.get("/dashboard/wallet")
        text = exact(shown(page))
        balance = house.desk.book.wallet(scene_wallet(scene)).balance_nanos
        assert f"equals Balance now ${balance // 10**9}.{balance % 10**9:09d}" in text
        assert "Added $32.000000000 1 top-up, 1 voucher" in text and "Adds up" in text and "Top-up reference INV-2068" in text
        assert page.body.count(b'class="total"') == 1
        assert f"Voucher {voucher['code'][:4]}… of meetup" in text and "upstream fault" in text
        assert f'href="/dashboard/usage?open={render_id(scene.requests[-1])}#' in page.body.decode()
        october_page = await ada.get("/dashboard/wallet?month=2026-10")
        assert "minus Taken out $1.000000001 1 withdrawal" in exact(shown(october_page))
        for answer in (page, october_page, await ada.get("/dashboard/wallet?day=2026-10-01")):
            assert b"<img" not in answer.body
            assert NASTY in shown(answer)


def scene_wallet(scene: Scene, user: str = "ada") -> int:
    with closing(open_reader(scene.gateway.house.database)) as conn:
        row = conn.execute(
            "select a.id from accounts as a join users as u on u.id = a.user_id where u.name = ?", (user,)
        ).fetchone()
        return int(row[0])


@pytest.mark.parametrize("rolled_up", [False, True])
async def test_a_day_is_shown_a_page_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rolled_up: bool) -> None:
    monkeypatch.setattr(months, "PAGE", 4)
    async with open_wallet(tmp_path) as (scene, ada):
        await spend(scene, 6)
        await act(scene.gateway.house, "wallets.topup", user="ada", amount="1", reference="in the middle")
        await spend(scene, 4)
        if rolled_up:
            await scene.gateway.house.writer.run(lambda ledger: ledger.roll_up(scene.requests[-1]))
        scene.clock.advance(3 * DAY_MS)
        await spend(scene, 2)
        seen, before, pages = [], None, 0
        while True:
            statement = statement_of(scene, day="2026-10-01", before=before)
            assert_adds_up(statement)
            seen += statement.lines
            pages += 1
            if statement.older is None:
                break
            assert len(statement.lines) == 4
            back = statement_of(scene, day="2026-10-01", before=statement.older)
            assert back.newer == (before if pages > 1 else None)
            before = statement.older
        # The opening deposit, six, one, four.
        assert pages == 3 and [line.transfer_id for line in seen] == list(range(12, 0, -1))
        balance = statement.opening_nanos
        for line in reversed(seen):
            balance += line.amount_nanos
            assert line.balance_after_nanos == balance
        assert balance == statement.closing_nanos
        ada = await scene.visitor("ada")
        page = await ada.get(f"/dashboard/wallet?day=2026-10-01&before={seen[3].transfer_id}")
        assert page.body.count(b'rel="prev" href="/dashboard/wallet?day=2026-10-01#period"') == 1
        assert f"before={seen[7].transfer_id}#period".encode() in page.body
        assert "Brought forward" not in shown(page)


@pytest.mark.parametrize("back_ms", [20 * 60_000, 59 * 60_000])
async def test_a_clock_that_was_set_back_over_midnight_loses_no_transfer(tmp_path: Path, back_ms: int) -> None:
    async with open_wallet(tmp_path) as (scene, _):
        scene.clock.advance(12 * 3_600_000 + 10 * 60_000)  # 2 October, 00:10
        await spend(scene, 3)
        scene.clock.wall_ms -= back_ms
        await spend(scene, 3)
        scene.clock.advance(DAY_MS)
        await spend(scene, 2)
        days = [statement_of(scene, day=f"2026-10-0{day}") for day in (1, 2)]
        for statement in (*days, statement_of(scene)):
            assert_adds_up(statement)
        assert [len(statement.lines) for statement in days] == [1 + 3, 3 + 2]


async def test_what_there_is_much_of_on_a_day_is_one_line(tmp_path: Path) -> None:
    async with open_wallet(tmp_path) as (scene, ada):
        for request in await spend(scene, months.SINGLE_MAX + 1):
            await act(scene.gateway.house, "wallets.refund", request_id=render_id(request))
        statement = statement_of(scene)
        assert_adds_up(statement)
        [refunds] = [line for line in statement.lines if line.what == "refund"]
        assert refunds.folded and refunds.count == months.SINGLE_MAX + 1
        assert f"{refunds.count} refunds of 1 Oct, show each" in shown(await ada.get("/dashboard/wallet"))
        await act(scene.gateway.house, "wallets.topup", user="ada", amount="1", reference="last")
        assert_adds_up(statement_of(scene))


@pytest.mark.parametrize(
    ("sql", "off"),
    [
        ("update accounts set balance_nanos = balance_nanos + 5 where kind in ('wallet', 'revenue')", 5),
        ("update accounts set balance_nanos = balance_nanos - 7 where kind = 'wallet'", -7),
    ],
)
@pytest.mark.parametrize("path", ["", "?month=2026-10", "?day=2026-10-01"])
async def test_what_does_not_add_up_says_so_and_has_no_double_rule(tmp_path: Path, sql: str, off: int, path: str) -> None:
    async with open_wallet(tmp_path) as (scene, ada):
        await spend(scene, 3)

        def tamper(text: str) -> None:
            with closing(sqlite3.connect(scene.gateway.house.database)) as conn, conn:
                conn.execute(text)

        tamper(sql)
        page = await ada.get(f"/dashboard/wallet{path}")
        tamper(sql.replace(" + 5", " - 5") if off > 0 else sql.replace(" - 7", " + 7"))
        assert "This statement does not add up" in shown(page) and "Does not add up" in shown(page)
        assert "Adds up" not in shown(page) and b'class="total"' not in page.body
        assert f"${abs(off) / 10**9:.9f}" in exact(shown(page))


async def test_a_day_whose_charges_are_not_those_of_the_month_says_so(tmp_path: Path) -> None:
    """Roll-ups that were tampered with so that all still adds up in all: a nano from one day to another."""
    async with open_wallet(tmp_path) as (scene, _):
        await spend(scene, 3)
        scene.clock.advance(DAY_MS)
        await spend(scene, 3)
        await scene.gateway.house.writer.run(lambda ledger: ledger.roll_up(scene.requests[-1]))

        def move(nanos: int) -> None:
            with closing(sqlite3.connect(scene.gateway.house.database)) as conn, conn:
                days = [row[0] for row in conn.execute("select day_at_ms from usage_days order by 1")]
                for day, delta in zip(days, (nanos, -nanos), strict=True):
                    conn.execute("update usage_days set paid_nanos = paid_nanos + ? where day_at_ms = ?", (delta, day))

        move(1)
        proven = [statement_of(scene, **asked).proven for asked in ({}, {"day": "2026-10-01"}, {"day": "2026-10-02"})]
        move(-1)
        assert proven == [True, False, False]


async def test_a_statement_adds_up_at_every_moment(tmp_path: Path) -> None:
    """While requests hold and settle, money comes in, and the roll-ups move."""
    async with open_site(tmp_path) as gateway:
        bob = await gateway.make_user("bob", "10")
        house = gateway.house
        now_ms = house.desk.clock.at_ms()

        def read(asked: Period) -> Statement:
            with closing(open_reader(house.database)) as conn:
                return read_statement(conn, 1, asked, now_ms=now_ms, since_ms=now_ms)

        async def use(number: int) -> None:
            for _ in range(6):
                assert (await gateway.ask(bob)).status == 200
            await act(house, "wallets.topup", user="bob", amount="0.01", reference=f"top-up {number}")

        users = [asyncio.ensure_future(use(number)) for number in range(8)]
        periods = (parse_period(now_ms), parse_period(now_ms, day=rfc3339(now_ms)[:10]))
        seen: list[Statement] = []
        while not all(user.done() for user in users):
            for asked in periods:
                seen.append(await asyncio.to_thread(read, asked))
            await house.writer.run(lambda ledger: ledger.roll_up(house.walk.ids.next(now_ms)))
        await asyncio.gather(*users)
        assert {(statement.proven, statement.held.proven) for statement in seen} == {(True, True)}
        assert len({statement.closing_nanos for statement in seen}) > 3
        await gateway.assert_settled()


async def test_what_running_requests_hold(tmp_path: Path) -> None:
    async with open_wallet(tmp_path) as (scene, ada):
        assert "No request is running. All of $10.00 is available." in shown(await ada.get("/dashboard/wallet"))
        await spend(scene, months.HELD_MAX + 2, end="running", hold_nanos=usd("0.1"))
        scene.clock.advance(14_000)
        statement = statement_of(scene)
        assert (statement.held.count, statement.held.nanos, statement.held.proven) == (22, usd("2.2"), True)
        text = exact(shown(await ada.get("/dashboard/wallet")))
        assert "Held $2.200000000 Available $7.800000000" in text and "and 2 more that began before" in text and "14.0 s" in text
        for hold in list(scene.gateway.house.desk.book.open_holds()):
            await settle(scene, hold.id, usd("0.01"))
        assert_adds_up(statement_of(scene))


async def settle(scene: Scene, request_id: int, cost: int) -> None:
    house = scene.gateway.house
    key = next(key for key in house.walk.keys if key.id == scene.keys[KEY]["id"])
    deployment = house.walk.router.deployments(SONNET)[0]
    hold = next(hold for hold in house.desk.book.open_holds() if hold.id == request_id)
    done = house.desk.book.settle(hold, cost)
    served = Served("console-eu", SONNET, deployment.terms, USAGE, cost)
    at_ms = scene.clock.at_ms()
    await house.writer.submit_acknowledged(ResolutionRow(done, key.id, SONNET, at_ms, (), DETAIL, served=served))


async def test_an_overrun_is_owed_and_told_where_it_was_and_where_it_is_collected(tmp_path: Path) -> None:
    async with open_wallet(tmp_path) as (scene, ada):
        first, second = await spend(scene, 2, end="running", hold_nanos=usd("5"))
        await settle(scene, first, usd("6"))
        text = exact(shown(await ada.get("/dashboard/wallet")))
        assert "Owed Overruns: what requests cost beyond the money." in text and "$1.000000000" in text
        assert "overrun of $1.00 beyond the money, not in this amount" in text
        await settle(scene, second, usd("0.5"))
        statement = statement_of(scene)
        assert_adds_up(statement)
        assert (statement.spent_nanos, statement.owed_nanos) == (usd("6.5"), 0)
        text = exact(shown(await ada.get("/dashboard/wallet")))
        assert f"Overrun collected when {render_id(second)} ended" in text and "2 requests, 1 overrun collected" in text
        scene.clock.advance(DAY_MS)
        assert statement_of(scene).lines[0].overrun_nanos == usd("1")


async def test_a_new_account_is_told_what_to_do_and_a_frozen_one_why(tmp_path: Path) -> None:
    async with open_site(tmp_path) as gateway:
        ada = await make_visitor(gateway, "ada", balance="0")
        assert "Nothing has moved yet" in shown(await ada.get("/dashboard/wallet"))
        await act(gateway.house, "wallets.freeze", user="ada")
        assert "This wallet is frozen." in shown(await ada.get("/dashboard/wallet"))


@pytest.mark.parametrize(
    "query",
    [
        *(
            "month=2026-13",
            "month=2026-1",
            "month=x",
            "month=",
            "month=9999-12",
            "month=0000-01",
            "month=1969-12",
            "month=2026-12",
        ),
        *("day=2026-02-30", "day=2026-11-20T00", "day=", "day=2099-01-01", "day=2026-10-01&before=x", "day=2026-10-01&before=-1"),
        "day=2026-10-01&before=" + "9" * 40,
        "month=" + NASTY,
    ],
)
async def test_what_is_no_period_is_refused(tmp_path: Path, query: str) -> None:
    async with open_wallet(tmp_path) as (_, ada):
        answer = await ada.get(f"/dashboard/wallet?{query}")
        assert answer.status == 400 and b"<img" not in answer.body
        if query.startswith("month"):
            assert (await ada.get(f"/dashboard/wallet/statement.csv?{query}")).status == 400


def test_periods() -> None:
    now_ms = 1_795_192_934_000  # 20 November 2026
    assert parse_period(now_ms).name == "2026-11"
    december = parse_period(now_ms, month="2025-12")
    assert (december.end_ms - december.start_ms) // DAY_MS == 31 and not december.is_day
    assert parse_period(now_ms, month="2026-02", day="2026-11-20").is_day
    with pytest.raises(ClientError):
        parse_period(now_ms, day="2026-11-21")


async def test_a_statement_as_csv(tmp_path: Path) -> None:
    async with open_wallet(tmp_path) as (scene, ada):
        await spend(scene, 10)
        await act(scene.gateway.house, "wallets.topup", user="ada", amount="1", reference="=cmd()", note="a, b")
        answer = await ada.get("/dashboard/wallet/statement.csv?month=2026-10")
        assert answer.headers["content-disposition"] == 'attachment; filename="wallet-2026-10.csv"'
        rows = list(csv.DictReader(io.StringIO(answer.body.decode())))
        assert rows[0]["reference"] == "'=cmd()" and rows[0]["amount_usd"] == "1.00"
        assert [row["what"] for row in rows] == ["Top-up", *["Charge"] * 7, "Charges", "Top-up"]
        total = sum(usd(row["amount_usd"].lstrip("-")) * (-1 if row["amount_usd"][0] == "-" else 1) for row in rows)
        assert total == statement_of(scene).closing_nanos


async def test_nobody_sees_anothers_money(tmp_path: Path) -> None:
    async with open_scene(tmp_path, 8) as scene:
        ines, tidewater = await scene.visitor("ines"), await scene.visitor("tidewater")
        for path in ("", "?month=2026-10", "?day=2026-10-23"):
            theirs, other = (
                shown(await ines.get(f"/dashboard/wallet{path}")),
                shown(await tidewater.get(f"/dashboard/wallet{path}")),
            )
            assert "invoice-2042" not in theirs and "invoice-2041" not in other and "openclaw-home" not in other
            assert "console-eu" not in theirs + other
        for user in ("ines", "tidewater", "new", "root"):
            assert_adds_up(statement_of(scene, user))
            assert_adds_up(statement_of(scene, user, month="2026-10"))


# ── vouchers ─────────────────────────────────────────────────────────────────────────────────────────────────────────


async def make_code(gateway: Gateway, **more: Any) -> str:
    made = await act(gateway.house, "vouchers.create", **{"amount": "5", "batch": "spring", **more})
    return str(made["vouchers"][0]["code"])


async def test_a_voucher_is_redeemed_at_the_page(tmp_path: Path) -> None:
    async with open_site(tmp_path) as gateway:
        ada = await make_visitor(gateway, "ada")
        code = await make_code(gateway)
        answer = await ada.post("/dashboard/wallet", code=f"  {code.lower().replace('-', ' ')} ")
        assert answer.headers["location"] == "/dashboard/wallet"
        page = await ada.follow(answer)
        assert "Voucher redeemed: $5.00 was added. The balance is $15.00 now." in shown(page)
        assert f"Voucher {code[:4]}… of spring" in shown(page)
        assert "Voucher redeemed" not in shown(await ada.get("/dashboard/wallet"))
        again = await ada.post("/dashboard/wallet", code=code)
        assert again.status == 400 and "This voucher was redeemed already; nothing was moved." in shown(again)
        assert f'value="{code}"' in again.body.decode() and 'aria-invalid="true"' in again.body.decode()
        rows = await gateway.table("select actor from audit_log where action = 'vouchers.redeem'")
        assert [actor.split()[0] for (actor,) in rows] == ["web:ada"] or rows[0][0].startswith("web:ada")
        await gateway.assert_settled()


@pytest.mark.parametrize(
    ("typed", "status", "words"),
    [
        ("", 404, "There is no voucher of this code"),
        (NASTY, 404, "There is no voucher of this code"),
        ("VOID", 400, "This voucher was withdrawn; nothing was moved."),
        ("\ud83d".encode(errors="replace").decode(), 404, "There is no voucher of this code"),
    ],
)
async def test_a_wrong_code_is_told_beside_the_field_and_kept(tmp_path: Path, typed: str, status: int, words: str) -> None:
    async with open_site(tmp_path) as gateway:
        ada = await make_visitor(gateway, "ada")
        code = typed
        if typed == "VOID":
            code = await make_code(gateway)
            await act(gateway.house, "vouchers.void", batch="spring")
        answer = await ada.post("/dashboard/wallet", code=code)
        assert answer.status == status and words in shown(answer) and b"<img" not in answer.body
        body = html.unescape(answer.body.decode())
        assert f'value="{code}"' in body and 'id="e-code"' in body
        assert (await ada.post("/dashboard/wallet")).status == 404  # without the field
        await gateway.assert_settled()


async def test_guessing_is_slowed_down(tmp_path: Path) -> None:
    async with open_site(tmp_path) as gateway:
        ada, bob = await make_visitor(gateway, "ada"), await make_visitor(gateway, "bob")
        for _ in range(RARE_PACE.free):
            assert (await ada.post("/dashboard/wallet", code="wrong")).status == 404
        code = await make_code(gateway)
        slowed = await ada.post("/dashboard/wallet", code=code)
        assert slowed.status == 429 and int(slowed.headers["retry-after"]) > 0 and "Too many tries; try again in" in shown(slowed)
        assert (await bob.post("/dashboard/wallet", code=code)).status == 303
        await gateway.assert_settled()


async def test_fifty_people_redeem_one_voucher_at_the_same_moment(tmp_path: Path) -> None:
    async with open_site(tmp_path) as gateway:
        people = [await make_visitor(gateway, f"user{number}", balance="0") for number in range(50)]
        code = await make_code(gateway)
        answers = await asyncio.gather(*(visitor.post("/dashboard/wallet", code=code) for visitor in people))
        assert sorted(answer.status for answer in answers) == [303, *[400] * 49]
        for answer in answers:
            assert answer.status == 303 or "This voucher was redeemed already; nothing was moved." in shown(answer)
        winner = next(visitor for visitor, answer in zip(people, answers, strict=True) if answer.status == 303)
        assert "The balance is $5.00 now." in shown(await winner.get("/dashboard/wallet"))
        assert sum(wallet.balance_nanos for wallet in gateway.house.desk.book.wallets()) == usd("5")
        assert await gateway.table("select count(*), sum(amount_nanos) from transfers where kind = 'promo'") == [(1, usd("5"))]
        await gateway.assert_settled()


async def test_one_person_in_fifty_tabs_redeems_once(tmp_path: Path) -> None:
    async with open_site(tmp_path) as gateway:
        ada = await make_visitor(gateway, "ada", balance="0")
        code = await make_code(gateway)
        answers = await asyncio.gather(*(ada.post("/dashboard/wallet", code=code) for _ in range(50)))
        assert sum(answer.status == 303 for answer in answers) == 1
        assert {answer.status for answer in answers} <= {303, 400, 429}
        assert sum(wallet.balance_nanos for wallet in gateway.house.desk.book.wallets()) == usd("5")
        await gateway.assert_settled()
