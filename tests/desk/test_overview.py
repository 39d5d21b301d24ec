"""What the overview reckons beyond reports: the balance after the last top-up, what the cache saved, how long the money lasts."""

from __future__ import annotations

import random
from collections import Counter
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gateway.desk.overview import BURN_DAYS, Burn, Figures, add_up, read_figures, read_shares, standing_of
from gateway.house import House
from gateway.money import Factor
from gateway.pricing import Price, Rates
from gateway.storage import overview, wallets
from gateway.storage.database import open_reader
from gateway.storage.rows import DetailRow, HoldRow, ResolutionRow, Served
from gateway.usage import Usage
from tests.desk_tools import act, authenticate, desk_house, make_ada, open_request, settle_request, void_request
from tests.fakes import FakeClock
from tests.ledger_tools import open_ledger, usd

HOUR_MS, DAY_MS = 3_600_000, 86_400_000
# Some minutes into a day of a month that is not over.
START_MS = 20_400 * DAY_MS + 7 * 60_000
PRICE = Price("one", Rates(3 * 10**9, 15 * 10**9, 375 * 10**7, 6 * 10**9, 3 * 10**8))


@pytest.mark.parametrize("seed", range(6))
async def test_the_balance_after_the_last_top_up_is_that_of_the_statement(seed: int, tmp_path: Path) -> None:
    """Whatever moved since, however much of it is rolled up: seconds or weeks ago."""
    dice, clock = random.Random(seed), FakeClock(at_ms=START_MS)
    async with open_ledger(tmp_path, clock) as ledger:
        ada = await ledger.make_wallet("ada")
        eve = await ledger.make_wallet("eve", usd("5"))
        with closing(open_reader(ledger.path)) as conn:
            assert overview.last_top_up(conn, ada, clock.at_ms()) is None
        settled: list[int] = []
        looks = 0
        for number in range(160):
            clock.advance(dice.choice((0, 1, 900, 60_000, 20 * 60_000, 3 * HOUR_MS, 9 * HOUR_MS)))
            wallet = ledger.book.wallet(ada)
            roll = dice.random()
            if roll < 0.03 or not number:
                await ledger.deposit(ada, usd("1") + number, f"d{number}")
            elif roll < 0.05:
                await ledger.grant_promo(ada, usd("0.5") + number, f"p{number}")
            elif roll < 0.08 and wallet.available_nanos > 9:
                await ledger.withdraw(ada, 7, f"w{number}")
            elif roll < 0.13 and settled:
                await ledger.refund(settled.pop(), 1)
            elif roll < 0.18:
                until = dice.choice(settled) if settled else 0
                await ledger.writer.run(lambda writer, until=until: writer.roll_up(until))
            elif wallet.available_nanos > 1_000_000:
                hold = ledger.admit(ada, 1_000_000)
                # (Now and then more than was held, and more than there is.)
                await ledger.settle(
                    hold, dice.choice((900_000, 1_000_000, 3_000_000, wallet.balance_nanos + 5)) if roll > 0.9 else 800_000
                )
                settled.append(hold.id)
            await ledger.settle(ledger.admit(eve, 1_000), 999)
            if number % 8 == 0:
                await ledger.drained()
                with closing(open_reader(ledger.path)) as conn:
                    topped_up = overview.last_top_up(conn, ada, clock.at_ms())
                    lines = wallets.statement(conn, ada, 10_000)
                last = next(line for line in lines if line["kind"] in ("deposit", "promo"))
                assert topped_up == (last["at_ms"], last["balance_after_nanos"]), number
                looks += 1
        assert looks == 20


async def use(house: House, secret: str, usage: Usage, price: Price = PRICE, model: str = "one", session: str = "") -> int:
    """A request that costs a dollar, at these terms."""
    key, at_ms = authenticate(house, secret), house.desk.clock.at_ms()
    request_id = house.walk.ids.next(at_ms)
    hold = house.desk.book.admit(request_id, key.wallet_id, 10**9, 10**9)
    await house.writer.submit_acknowledged(HoldRow(request_id, key.wallet_id, key.id, model, 10**9, at_ms))
    done = house.desk.book.settle(hold, 10**9)
    detail = DetailRow(True, 200, session, "", "::1", 1, 2, 3)
    served = Served("first", "theirs", price.terms(), usage, 10**9)
    await house.writer.submit_acknowledged(ResolutionRow(done, key.id, model, at_ms, (), detail, served=served))
    return request_id


async def live_of(house: House, user: str = "ada") -> Figures:
    await house.writer.run(lambda ledger: None)
    with closing(open_reader(house.desk.database)) as conn:
        (wallet_id,) = conn.execute(
            "select a.id from accounts a join users u on u.id = a.user_id where u.name = ?", (user,)
        ).fetchone()
        return read_figures(conn, wallet_id, standing_of(house.desk.book, wallet_id), house.desk.clock.at_ms())


def cached(read: int, write_5m: int = 0, write_1h: int = 0) -> Usage:
    return Usage(input_tokens=10, cache_read_tokens=read, cache_write_5m_tokens=write_5m, cache_write_1h_tokens=write_1h)


async def test_what_the_cache_saved_is_reckoned_at_the_price_of_its_time(tmp_path: Path) -> None:
    """The same figure whether nothing, something or everything is rolled up; prices change from one hour to the next, factors
    count, and another key's and model's price is its own."""
    clock = FakeClock(at_ms=START_MS)
    dearer = replace(PRICE, rates=replace(PRICE.rates, input=4 * 10**9), factors=(Factor.parse("0.5"),))
    # Read at the price of plain input: nothing to save.
    flat = replace(PRICE, model="flat", rates=replace(PRICE.rates, cache_read=3 * 10**9))
    async with desk_house(tmp_path, clock) as house:
        ada = await make_ada(house, "100")
        other = await act(house, "keys.create", user="ada", name="other")
        expected: Counter[int] = Counter()
        extra: Counter[int] = Counter()
        ids = []
        for hour, price in enumerate((PRICE, PRICE, dearer, PRICE, dearer)):
            for key in (ada, other):
                ids.append(await use(house, key["secret"], cached(1_000_000 + hour, 1_000_000, 500_000), price))
                ids.append(await use(house, key["secret"], cached(7), flat, "flat"))
                factor = 1 if price is PRICE else 0.5
                expected[hour] += int((1_000_000 + hour) * (price.rates.input - 3 * 10**8) * factor) // 10**6
                extra[hour] += (
                    int((10**6 * (375 * 10**7 - price.rates.input) + 500_000 * (6 * 10**9 - price.rates.input)) * factor) // 10**6
                )
            clock.advance(HOUR_MS)
        for until in (0, ids[2], ids[9], ids[-1]):
            await house.writer.run(lambda ledger, until=until: ledger.roll_up(until))
            live = await live_of(house)
            assert live.today.saved_nanos == sum(expected.values()), until
            assert live.today.write_extra_nanos == sum(extra.values())
            assert live.month.saved_nanos == live.today.saved_nanos
            assert live.today.measures["cache_read_tokens"] == 2 * (5_000_010 + 35)


async def test_days_and_months_are_utc(tmp_path: Path) -> None:
    """Of a request a millisecond before midnight, and one before the first of the month."""
    first_ms = 1_793_491_200_000  # 2026-11-01
    clock = FakeClock(at_ms=first_ms - 1)
    async with desk_house(tmp_path, clock) as house:
        ada = await make_ada(house, "100")
        await use(house, ada["secret"], cached(1))
        live = await live_of(house)
        assert (live.today.requests, live.month.requests) == (1, 1)
        clock.advance(1)
        await use(house, ada["secret"], cached(1))
        live = await live_of(house)
        assert (live.today.requests, live.month.requests) == (1, 1)
        assert add_up(list(live.by_day.values())).requests == 2 and len(live.days) == 30
        clock.wall_ms = first_ms + 31 * DAY_MS - 61 * DAY_MS - 1  # back to October, where the clock must not lead us astray
        assert (await live_of(house)).today.requests == 0
        clock.wall_ms = first_ms + 30 * DAY_MS - 1
        live = await live_of(house)
        assert live.month.requests == 1 and len(live.days) == 30
        clock.wall_ms = first_ms + 30 * DAY_MS + 30 * DAY_MS  # 31 December: the month is longer than the chart
        assert len((await live_of(house)).days) == 31


async def test_a_day_costs_the_mean_of_the_whole_days_that_there_are(tmp_path: Path) -> None:
    clock = FakeClock(at_ms=START_MS)
    async with desk_house(tmp_path, clock) as house:
        ada = await make_ada(house, "100")
        assert (await live_of(house)).burn == Burn(0, BURN_DAYS)
        await use(house, ada["secret"], cached(1))
        assert (await live_of(house)).burn == Burn(10**9, 1)
        clock.advance(DAY_MS + HOUR_MS)
        await use(house, ada["secret"], cached(1))
        assert (await live_of(house)).burn == Burn(10**9, 1)
        clock.advance(DAY_MS)
        assert (await live_of(house)).burn == Burn(5 * 10**8, 2)
        clock.advance(4 * DAY_MS)
        assert (await live_of(house)).burn == Burn(10**9 // 6, 6)
        clock.advance(DAY_MS)
        assert (await live_of(house)).burn == Burn(10**9 // 7, 7)
        clock.advance(DAY_MS)
        assert (await live_of(house)).burn == Burn(0, 7)


async def test_what_ended_while_the_page_was_read_stands_in_it_once(tmp_path: Path) -> None:
    clock = FakeClock(at_ms=START_MS)
    async with desk_house(tmp_path, clock) as house:
        ada = await make_ada(house)
        first, key = await open_request(house, ada["secret"])
        second, _ = await open_request(house, ada["secret"])
        standing = standing_of(house.desk.book, key.wallet_id)
        await settle_request(house, first, key)
        with closing(open_reader(house.desk.database)) as conn:
            live = read_figures(conn, key.wallet_id, standing, clock.at_ms())
        assert [row["request_id"] for row in live.running] == [second]
        assert [row["request_id"] for row in live.latest] == [first]
        await void_request(house, second, key, "upstream_failed")


async def test_where_the_month_went(tmp_path: Path) -> None:
    """The dearest first, of this user alone; requests of no session are no session; what is pruned is not told in part."""
    clock = FakeClock(at_ms=START_MS)
    async with desk_house(tmp_path, clock) as house:
        ada = await make_ada(house, "100")
        await act(house, "users.create", name="eve")
        await act(house, "wallets.topup", user="eve", amount="50", reference="eve")
        eve = await act(house, "keys.create", user="eve", name="eve's")
        second = await act(house, "keys.create", user="ada", name="second")
        for secret, session in (
            (ada["secret"], "a"),
            (second["secret"], "b"),
            (second["secret"], "b"),
            (second["secret"], ""),
            *[(eve["secret"], "eve's")] * 5,
        ):
            last = await use(house, secret, cached(1), session=session)
        clock.advance(DAY_MS)
        await use(house, ada["secret"], cached(1), session="a")

        def rest() -> Any:
            with closing(open_reader(house.desk.database)) as conn:
                wallet_id = authenticate(house, ada["secret"]).wallet_id
                return read_shares(conn, authenticate(house, ada["secret"]).user_id, wallet_id, clock.at_ms())

        for until in (0, last):
            await house.writer.run(lambda ledger, until=until: ledger.roll_up(until))
            found = rest()
            assert [(key["key_name"], key["cost_nanos"]) for key in found.keys] == [("second", 3 * 10**9), ("default", 2 * 10**9)]
            assert [(each["session"], each["requests"]) for each in found.sessions] == [("a", 2), ("b", 2)]
            assert found.sessions_from_ms is None and found.has_key
        await house.writer.run(
            lambda ledger: ledger.conn.execute("update rollup_mark set detail_from_ms = ?", (START_MS + DAY_MS - 7 * 60_000,))
        )
        found = rest()
        assert [(each["session"], each["requests"]) for each in found.sessions] == [("a", 1)]
        assert found.sessions_from_ms == START_MS + DAY_MS - 7 * 60_000
        for key in (ada, second):
            await act(house, "keys.revoke", key_id=key["id"])
        with closing(open_reader(house.desk.database)) as conn:
            assert not read_shares(conn, 1, 1, clock.at_ms()).has_key
