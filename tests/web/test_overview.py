"""/dashboard: its figures are those of the API and the ledger, and of nobody else; a new account is shown the way."""

from __future__ import annotations

import re
from contextlib import closing
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import expect

from gateway.clock import rfc3339
from gateway.desk.rollups import in_slices
from gateway.ids import render_id
from gateway.money import parse_usd
from gateway.pricing import Price, Rates, parse_terms
from gateway.storage import wallets
from gateway.storage.database import open_reader
from gateway.storage.ledger import LedgerWriter
from gateway.storage.rows import DetailRow, HoldRow, ResolutionRow, Served
from gateway.usage import Usage
from gateway.web.text import about, count, exact, plain, spent
from tests.desk_tools import MODEL, act, authenticate, open_request, settle_request, void_request
from tests.web.browser import browsing, needs_chromium, tab
from tests.web.scene import NOW_MS, Scene, open_scene
from tests.web.tools import Visitor, make_visitor, open_site

DAY_MS = 86_400_000
EVIL = """<img src=x onerror=alert(1)>"'"""


async def page_of(visitor: Visitor, path: str = "/dashboard") -> str:
    answer = await visitor.get(path)
    assert answer.status == 200, answer.body
    return answer.body.decode()


def words(html: str) -> str:
    """As it is read: no markup, single blanks."""
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]*>", "", html)))


def tile(html: str, label: str) -> str:
    found = re.search(rf'<div class="tile"><dt>{label}</dt><dd[^>]*>(.*?)</dd><dd class="note">(.*?)</dd>', html)
    assert found, label
    return f"{words(found.group(1))}|{words(found.group(2))}"


def table(html: str, name: str) -> list[list[str]]:
    """The rows of a chart as a table, with its foot."""
    found = re.search(rf'aria-label="{name}, as a table">(.*?)</table>', html, re.DOTALL)
    assert found, name
    rows = re.findall(r"<tr[^>]*>(.*?)</tr>", found.group(1), re.DOTALL)
    return [[words(cell) for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row)] for row in rows]


async def usage(scene: Scene, secret: str, query: str) -> dict[str, Any]:
    answer = await scene.gateway.request("GET", f"/v1/usage?{query}", headers={"x-api-key": secret})
    assert answer.status == 200, answer.body
    told: dict[str, Any] = answer.json
    return told


async def end_running(scene: Scene) -> None:
    house = scene.gateway.house
    for hold in list(house.desk.book.open_holds()):
        key = next(authenticate(house, key["secret"]) for key in scene.keys.values())
        await void_request(house, hold.id, key, "client_left")


@pytest.mark.parametrize("rolled_up", ["some", "all", "none"])
async def test_every_figure_is_that_of_the_api_and_the_ledger(rolled_up: str, tmp_path: Path) -> None:
    async with open_scene(tmp_path) as scene:
        if rolled_up == "all":
            await in_slices(scene.gateway.house.desk, lambda ledger: ledger.roll_up(scene.requests[-1]))
        elif rolled_up == "none":
            await scene.gateway.house.writer.run(_forget_rollups)
        owner = ("ines", "claude-code · laptop")
        secret = scene.keys[owner]["secret"]
        # Something today, so that no tile is empty.
        scene.clock.advance(60_000)
        await scene.request(
            owner, "claude-opus-5-5", Usage(input_tokens=500, output_tokens=900, cache_read_tokens=80_000), session="s1"
        )
        page = await page_of(await scene.visitor("ines"))
        today = (await usage(scene, secret, "group_by=day&start=2026-11-20"))["total"]
        month = (await usage(scene, secret, "group_by=day&start=2026-11-01"))["total"]

        assert today["requests"] > 1
        told = f"{spent(today['cost_nanos'])}|{count(today['requests'])} requests, "
        assert tile(page, "Spent today").startswith(told)
        assert tile(page, "Spent in November") == f"{spent(month['cost_nanos'])}|{count(month['requests'])} requests"
        writes = sum(month["cache_creation"].values())
        prompt = month["input_tokens"] + month["cache_read_input_tokens"] + writes
        share = f"{100 * month['cache_read_input_tokens'] / prompt:.1f} %"
        assert tile(page, "Read from cache") == f"{share}|of {about(prompt)} prompt tokens in November"

        # Charts: each cell of both tables, each total.
        by_model: dict[tuple[str, str], int] = {}
        for row in (await usage(scene, secret, "group_by=day,model&start=2026-10-22&limit=1000"))["data"]:
            by_model[row["day"], row["model"].removeprefix("claude-").split("-")[0].title() + " 5.5"] = row["cost_nanos"]
        head, *rows = table(page, "Cost by day and model")
        assert sorted(head[1:-1]) == ["Haiku 5.5", "Opus 5.5", "Sonnet 5.5"] and head[0] == "Day" and len(rows) == 31
        for place, row in enumerate(rows[:-1]):
            day = _day(NOW_MS - place * DAY_MS)
            assert row[1:-1] == [spent(by_model.get((day, name), 0)) for name in head[1:-1]], day
            assert row[-1] == spent(sum(nanos for (other, _), nanos in by_model.items() if other == day))
        whole = [sum(nanos for (_, other), nanos in by_model.items() if other == name) for name in head[1:-1]]
        assert whole == sorted(whole, reverse=True), "the largest at the bottom"
        assert rows[-1] == ["All", *map(spent, whole), spent(sum(whole))]
        days = {row["day"]: row for row in (await usage(scene, secret, "group_by=day&start=2026-11-07"))["data"]}
        _, *rows = table(page, "Tokens by day and class")
        assert len(rows) == 15
        for place, row in enumerate(rows[:-1]):
            told = days.get(_day(NOW_MS - place * DAY_MS))
            figures = (
                [
                    told["cache_read_input_tokens"],
                    sum(told["cache_creation"].values()),
                    told["input_tokens"],
                    told["output_tokens"],
                ]
                if told
                else [0] * 4
            )
            assert row[1:] == [about(figure) for figure in (*figures, sum(figures))]

        # Where the month went: by key, by session.
        keys = (await usage(scene, secret, "group_by=key&start=2026-11-01"))["data"]
        for key in keys:
            link = f'href="/dashboard/usage?start=2026-11-01&amp;key={key["key_id"]}"'
            assert re.search(
                rf"{re.escape(link)}[^>]*>{re.escape(key['key_name'])}<.*{re.escape(spent(key['cost_nanos']))}<", page
            )
        sessions = (await usage(scene, secret, "group_by=session&start=2026-11-01&limit=1000"))["data"]
        named = sorted((each for each in sessions if each["session"]), key=lambda each: -each["cost_nanos"])[:5]
        shown = re.findall(r'session=([0-9a-z]+)"[^>]*>\1</a>.*?<span class="n">([^<]*)</span>', page)
        assert shown == [(each["session"], spent(each["cost_nanos"])) for each in named] and len(named) == 5

        # The latest: what runs, then what ended.
        latest = await scene.gateway.table(
            "select h.id, h.state from holds h join accounts a on a.id = h.wallet_id join users m on m.id = a.user_id "
            "where m.name = 'ines' and h.state <> 'open' order by h.id desc limit 8"
        )
        assert re.findall(r"\?open=(req_\w+)#\1\"", page) == [render_id(request_id) for request_id, _ in latest]
        costs = {row["request_id"]: row["cost_nanos"] for row in (await usage(scene, secret, "limit=8"))["data"]}
        shown_as = {request_id: costs[render_id(request_id)] if state == "settled" else 0 for request_id, state in latest}
        assert 0 in shown_as.values(), "one of them cost nothing, and is there"
        for request_id, nanos in shown_as.items():
            row = re.search(rf'<tr id="row-{render_id(request_id)}">.*?</tr>', page)
            assert row and f'title="{plain(nanos)}"' in row.group() and (nanos or "not charged" in row.group())
        assert page.count('class="sub">held<') == 2

        # The cache: reads at what plain input would have cost, by the terms of each request.
        rows_of = await scene.gateway.table(
            "select u.at_ms, u.cache_read_tokens, p.terms from usage u join prices p on p.id = u.price_id "
            "join accounts a on a.id = u.wallet_id join users m on m.id = a.user_id where m.name = 'ines'"
        )
        saved = 0
        for at_ms, tokens, terms in rows_of:
            rates = parse_terms(terms).rates
            saved += tokens * (rates.input - rates.cache_read) if _day(at_ms) >= "2026-11-01" else 0
        assert tile(page, "Saved by the cache").startswith(f"${saved // 10**13 / 100:.2f}|in November")

        # balance − held = available, as the ledger has it.
        with closing(open_reader(scene.gateway.house.database)) as conn:
            (wallet_id,) = conn.execute(
                "select a.id from accounts a join users u on u.id = a.user_id where u.name = 'ines'"
            ).fetchone()
            wallet = wallets.find_wallet(conn, 2)
            assert wallet is not None and wallet["id"] == wallet_id
            topped_up = next(line for line in wallets.statement(conn, wallet_id, 1000) if line["kind"] in ("deposit", "promo"))
        available = wallet["balance_nanos"] - wallet["held_nanos"]
        sums = [words(found) for found in re.findall(r"<dd>(\$[^/]*</span>)</dd>", page)]
        assert sums == [words(exact(nanos)) for nanos in (wallet["balance_nanos"], wallet["held_nanos"], available)]
        assert wallet["held_nanos"] == 2 * 512_400_000
        full = topped_up["balance_after_nanos"] // 10**7
        assert f"full bar: ${full / 100:.2f}, after the top-up of" in words(page)
        week = (await usage(scene, secret, "group_by=day&start=2026-11-13T17:00:00Z&end=2026-11-20T17:00:00Z"))["total"]
        assert f"at {spent(week['cost_nanos'] // 7)} a day, the mean of the last 7 days" in words(page)
        await end_running(scene)
        await scene.gateway.assert_settled()


def _forget_rollups(ledger: LedgerWriter) -> None:
    """As before the first roll-up: every report is read from usage itself."""
    for name in ("usage_hours", "usage_days", "usage_sessions"):
        ledger.conn.execute(f"delete from {name}")
    ledger.conn.execute("update rollup_mark set request_id = 0")


def _day(at_ms: int) -> str:
    return rfc3339(at_ms)[:10]


async def test_nobody_sees_what_is_anothers(tmp_path: Path) -> None:
    async with open_scene(tmp_path, requests_per_day=6) as scene:
        theirs = await page_of(await scene.visitor("tidewater"))
        ines = await page_of(await scene.visitor("ines"))
        sessions = {
            row[0] for row in await scene.gateway.table("select distinct session from request_details where session <> ''")
        }
        assert sessions and any(session in ines for session in sessions)
        assert not [session for session in sessions if session in theirs]
        assert "claude-code" not in theirs and "Running" not in theirs and "no request is running" in theirs
        assert "$0.51" in ines and "Running" in ines
        ids = {name: set(re.findall(r"req_\w+", page)) for name, page in (("ines", ines), ("tidewater", theirs))}
        assert ids["ines"] and ids["tidewater"] and not ids["ines"] & ids["tidewater"]
        for page in (theirs, ines):
            assert "console-eu" not in page and "spare" not in page, "no account of an upstream"
        live = await page_of(await scene.visitor("tidewater"), "/dashboard/live")
        assert "claude-code" not in live
        await end_running(scene)
        await scene.gateway.assert_settled()


async def test_a_new_account_is_shown_three_steps(tmp_path: Path) -> None:
    async with open_site(tmp_path) as gateway:
        ada = await make_visitor(gateway, "ada", balance="0")
        page = await page_of(ada)
        assert "Three steps to the first request" in page and "Create your first key" in page
        home = await page_of(ada, "/")
        assert "One URL, one" in home and 'href="/dashboard">Dashboard' in home, "the start page is everybody's"
        assert f'export ANTHROPIC_BASE_URL=<b class="mine">{gateway.url}</b>' in page
        assert 'class="tiles"' not in page and 'class="chart"' not in page and 'class="gauge' not in page
        assert "Redeem a voucher, or ask the operator" in words(page)
        key = await act(gateway.house, "keys.create", user="ada")
        await act(gateway.house, "wallets.topup", user="ada", amount="10", reference="first")
        page = await page_of(ada)
        assert "You have one already" in page and "Create your first key" not in page
        assert "nothing was spent yet" in page and "full bar: $10.00, after the top-up of" in words(page)
        request_id, held_by = await open_request(gateway.house, key["secret"])
        page = await page_of(ada)
        assert "Three steps" not in page and "for 1 running request, given back or charged when it ends" in words(page)
        await void_request(gateway.house, request_id, held_by, "upstream_failed")
        page = await page_of(ada)
        assert "Three steps" not in page and "not charged" in page and render_id(request_id) in page
        request_id, held_by = await open_request(gateway.house, key["secret"])
        await settle_request(gateway.house, request_id, held_by)
        page = await page_of(ada)
        assert "Three steps" not in page and render_id(request_id) in page
        await gateway.assert_settled()


async def test_what_runs_is_held_until_it_ends(tmp_path: Path) -> None:
    async with open_site(tmp_path) as gateway:
        ada, eve = await make_visitor(gateway, "ada"), await make_visitor(gateway, "eve")
        secrets = {
            name: (await act(gateway.house, "keys.create", user=name, name=f"{name}'s"))["secret"] for name in ("ada", "eve")
        }
        first, key = await open_request(gateway.house, secrets["ada"], hold_nanos=parse_usd("1.5"))
        second, _ = await open_request(gateway.house, secrets["ada"], hold_nanos=parse_usd("0.25"))
        other, others_key = await open_request(gateway.house, secrets["eve"], hold_nanos=parse_usd("9"))
        page = await page_of(ada, "/dashboard/live")
        assert [words(found) for found in re.findall(r"<dd>(\$[^/]*</span>)</dd>", page)] == [
            "$10.000000000",
            "$1.750000000",
            "$8.250000000",
        ]
        assert "for 2 running requests" in page
        assert re.findall(r'title="(\$[0-9.]+)">\$[0-9.]+</span><span class="sub">held', page) == ["$0.250000000", "$1.500000000"]
        assert "eve" not in page and "$9" not in page
        cost = await settle_request(gateway.house, first, key)
        page = await page_of(ada, "/dashboard/live")
        assert page.count('class="sub">held<') == 1 and render_id(first) in page and f'title="{plain(cost)}"' in page
        assert "for 1 running request," in page
        await void_request(gateway.house, second, key, "upstream_failed")
        await void_request(gateway.house, other, others_key, "upstream_failed")
        page = await page_of(ada, "/dashboard/live")
        assert "no request is running" in page and page.count('class="sub">held<') == 0
        await page_of(eve)
        await gateway.assert_settled()


async def test_a_hold_that_is_not_on_disk_yet_counts_all_the_same(tmp_path: Path) -> None:
    async with open_site(tmp_path) as gateway:
        ada = await make_visitor(gateway, "ada")
        house = gateway.house
        wallet_id = next(wallet.id for wallet in house.desk.book.wallets())
        hold = house.desk.book.admit(house.walk.ids.next(house.desk.clock.at_ms()), wallet_id, 10**9, 10**9)
        page = await page_of(ada)
        assert "for 1 running request," in page and "$9.00" in words(page)
        house.desk.book.disown(hold)
        await gateway.assert_settled()


async def test_many_keys_and_many_running_requests_are_told_in_sum(tmp_path: Path) -> None:
    """Where the month went adds up to the month; what is held adds up to what is shown and how many more there are."""
    async with open_site(tmp_path) as gateway:
        ada = await make_visitor(gateway, "ada", balance="100")
        costs = []
        for number in range(1, 9):
            made = await act(gateway.house, "keys.create", user="ada", name=f"key {number}")
            request_id, key = await open_request(gateway.house, made["secret"])
            costs.append(await settle_request(gateway.house, request_id, key, usage=Usage(output_tokens=1_000 * number)))
        bars = re.search(r'<div class="bars-h">(.*?)</div>', await page_of(ada), re.DOTALL)
        assert bars
        told = re.findall(r">([^<]+)</a>.*?<span class=\"n\">([^<]+)</span>", bars.group(1))
        dearest = [(f"key {number}", spent(costs[number - 1])) for number in (8, 7, 6, 5, 4)]
        assert told == [*dearest, ("All other keys", spent(sum(costs[:3])))]
        running = [await open_request(gateway.house, made["secret"], hold_nanos=10**6) for _ in range(11)]
        page = await page_of(ada)
        assert "for 11 running requests" in page and page.count('class="sub">held<') == 8 and "3 more requests run." in page
        for request_id, key in running:
            await void_request(gateway.house, request_id, key, "upstream_failed")
        await gateway.assert_settled()


async def test_names_are_no_markup(tmp_path: Path) -> None:
    """Of keys, sessions and models: shown as they are, in text, titles, tooltips and links."""
    async with open_site(tmp_path) as gateway:
        ada = await make_visitor(gateway, "ada")
        house = gateway.house
        made = await act(house, "keys.create", user="ada", name=EVIL)
        for end in ("settled", "running"):
            key, at_ms = authenticate(house, made["secret"]), house.desk.clock.at_ms()
            request_id = house.walk.ids.next(at_ms)
            hold = house.desk.book.admit(request_id, key.wallet_id, 10**6, 10**6)
            await house.writer.submit_acknowledged(HoldRow(request_id, key.wallet_id, key.id, EVIL, 10**6, at_ms))
            if end == "settled":
                terms = Price(EVIL, Rates(1, 1, 1, 1, 1)).terms()
                served = Served("up", EVIL, terms, Usage(input_tokens=1), 10**6)
                detail = DetailRow(True, 200, f"{EVIL}&session=x", EVIL, EVIL, 1, 2, 3)
                row = ResolutionRow(house.desk.book.settle(hold, 10**6), key.id, EVIL, at_ms, (), detail, served=served)
                await house.writer.submit_acknowledged(row)
        page = await page_of(ada)
        assert "<img" not in page and 'alert(1)>"' not in page
        # Twice in the table, as the key's bar; the model in the legend, a tooltip, the chart's table and twice in the table.
        assert page.count("&lt;img src=x onerror=alert(1)&gt;") >= 10
        assert "session=%3Cimg%20src%3Dx%20onerror%3Dalert%281%29%3E%22%27%26session%3Dx&#34;" not in page
        assert 'session=%3Cimg%20src%3Dx%20onerror%3Dalert%281%29%3E%22%27%26session%3Dx"' in page
        await void_request(house, request_id, key, "upstream_failed")
        await gateway.assert_settled()


async def test_money_that_runs_out_is_said(tmp_path: Path) -> None:
    async with open_site(tmp_path, '[notices]\nlow_balance = "2.00"\n') as gateway:
        ada = await make_visitor(gateway, "ada", balance="3")
        secret = (await act(gateway.house, "keys.create", user="ada"))["secret"]
        assert "warning below $2.00" in words(await page_of(ada))
        await act(gateway.house, "users.set_low_balance", user="ada", amount="2.50")
        assert "warning below $2.50" in words(await page_of(ada))
        await act(gateway.house, "users.set_low_balance", user="ada", amount="off")
        page = await page_of(ada)
        assert "warning" not in words(page) and 'class="tick"' not in page
        await act(gateway.house, "users.set_low_balance", user="ada", amount="3.50")
        assert "below your warning mark of $3.50" in words(await page_of(ada))
        # More than there is: the rest is owed.
        request_id, key = await open_request(gateway.house, secret, hold_nanos=parse_usd("3"))
        deployment = gateway.house.walk.router.deployments(MODEL)[0]
        many = Usage(output_tokens=10**9 * parse_usd("1") // deployment.price.rates.output)
        cost = await settle_request(gateway.house, request_id, key, usage=many)
        page = words(await page_of(ada))
        assert f"Owed ${cost - parse_usd('3'):,}"[:6] in page and "never from a later top-up" in page
        assert "Redeem a voucher, or ask the operator" in page
        await act(gateway.house, "wallets.freeze", user="ada")
        assert "Frozen: new requests are refused until the operator lifts it" in words(await page_of(ada))
        await gateway.assert_settled()


async def test_what_changes_can_be_had_alone(tmp_path: Path) -> None:
    async with open_scene(tmp_path, requests_per_day=6) as scene:
        ines = await scene.visitor("ines")
        page, live = await page_of(ines), await page_of(ines, "/dashboard/live")
        assert "<html" not in live and "<h1" not in live
        assert live.strip().startswith('<div class="wrap" id="live-overview">') and live.strip() in page
        await end_running(scene)


async def test_a_month_that_begins(tmp_path: Path) -> None:
    """Nothing yet today, nothing yet this month, and then nothing for longer than the charts reach."""
    async with open_scene(tmp_path, requests_per_day=6) as scene:
        await end_running(scene)
        scene.clock.wall_ms += 12 * DAY_MS
        ines = await scene.visitor("ines")
        page = await page_of(ines)
        assert tile(page, "Spent in December") == "$0.00|0 requests"
        assert tile(page, "Read from cache") == "–|no prompt in December yet"
        assert "Nothing was spent in December yet." in page and "nothing was spent in the last 7 days" in words(page)
        assert table(page, "Cost by day and model")[-1][-1] != "$0.00"
        scene.clock.wall_ms += 80 * DAY_MS
        page = await page_of(await scene.visitor("ines"))
        assert "No request in the last 30 days" in page and table(page, "Cost by day and model")[-1] == ["All", "$0.00"]
        assert "Total $0.00." in page
        await scene.gateway.assert_settled()


@pytest.mark.timeout(240)
@needs_chromium
async def test_in_a_browser_a_request_that_ends_shows_by_itself(tmp_path: Path) -> None:
    """Without a reload, and without closing what the reader has opened; from the three steps to the first figures too."""
    async with open_scene(tmp_path, requests_per_day=6) as scene, browsing() as browser:
        scene.keys["new", "first"] = await act(scene.gateway.house, "keys.create", user="new", name="first")
        await act(scene.gateway.house, "wallets.topup", user="new", amount="5", reference="first")
        for owner in (("ines", "openclaw-home"), ("new", "first")):
            visitor = await scene.visitor(owner[0])
            async with tab(browser, scene.gateway) as page:
                await page.context.add_cookies(
                    [{"name": name, "value": value, "url": scene.gateway.url} for name, value in visitor.cookies.items()]
                )
                await page.goto("/dashboard")
                await expect(page.locator(".live")).to_contain_text("Live")
                for summary in await page.locator(".chart-table summary").all():
                    await summary.click()
                request_id = await scene.request(owner, "claude-haiku-5-5", Usage(input_tokens=9, output_tokens=900))
                row = page.locator(f"#row-{render_id(request_id)}")
                await expect(row).to_contain_text("Done", timeout=30_000)
                assert await page.locator(".chart-table[open]").count() == (2 if owner[0] == "ines" else 0)
                await row.get_by_role("link").click()
                await expect(page.locator(f"#{render_id(request_id)}")).to_be_visible()
        await end_running(scene)
        await scene.gateway.assert_settled()
