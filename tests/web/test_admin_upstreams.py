"""/admin/upstreams: states, timeline and figures are those of what scripted providers did."""

from __future__ import annotations

import html
import re
from pathlib import Path

import pytest

from gateway.config import Settings, parse
from gateway.desk.upstream_history import WINDOW_MS, Segment
from gateway.health import Change
from gateway.reload import reload
from gateway.web.admin import upstreams as room
from gateway.web.standing import reason_words
from tests.desk_tools import act
from tests.fakes import FakeClock
from tests.gateway_tools import Gateway, ScriptedUpstream, open_gateway, settings_text
from tests.upstreams import scripts
from tests.web.tools import Visitor, make_visitor

PATH = "/admin/upstreams"
MINUTE_MS = 60_000
NASTY = "<img src=x onerror=alert(1)>"
OFF = '[[upstreams]]\nname = "spare"\nkind = "anthropic"\napi_key = "none-at-all"\nenabled = false\n'
ONE_MODEL = """
[[models]]
id = "claude-sonnet-5-5"
routes = [{ upstream = "up1" }, { upstream = "up2" }]
"""


async def page_of(visitor: Visitor, path: str = PATH) -> str:
    answer = await visitor.get(path)
    assert answer.status == 200, answer.body
    return html.unescape(answer.body.decode())


def counts(page: str) -> dict[str, int]:
    return {
        word: int(number) for word, number in re.findall(r"([A-Z][a-z]+)</dt><dd>(\d+)</dd>", page.partition("Accounts</dt>")[0])
    }


def account(page: str, name: str) -> str:
    """An account's item, its marks taken away."""
    item = page.partition(f'<li id="{name}">')[2].partition('<li id="')[0]
    assert item
    return item


def words(text: str) -> str:
    return " ".join(re.sub(r"<[^>]+>", " ", text).split())


def state_of(page: str, name: str) -> str:
    return words(account(page, name).partition('<div class="why">')[2].partition("</p>")[0])


def bars(page: str, name: str) -> list[tuple[str, float, float]]:
    found = re.findall(r'<rect class="(\w+)" x="([\d.]+)%" width="([\d.]+)%"', account(page, name))
    return [(css, float(x), float(width)) for css, x, width in found]


async def test_a_storm_is_seen_as_it_was(tmp_path: Path) -> None:
    clock = FakeClock()
    async with (
        ScriptedUpstream() as first,
        ScriptedUpstream() as second,
        open_gateway(tmp_path, first.url, second.url, more=OFF + ONE_MODEL, clock=clock) as gateway,
    ):
        root = await make_visitor(gateway, "root", role="admin")
        alice = await gateway.make_user("alice")
        clock.advance(WINDOW_MS)
        root = Visitor(gateway)
        await root.sign_in("root")
        page = await page_of(root)
        assert counts(page) == {"Serving": 2, "Cooling": 0, "Rejected": 0, "Disabled": 1}
        assert "up1" in page and bars(page, "up1") == [("serving", 0, 100)] and bars(page, "spare") == [("disabled", 0, 100)]

        # The only model that is asked for is limited at up1; all others serve there.
        first.script(scripts.refuse(429, retry_after="900"))
        assert (await gateway.ask(alice)).status == 200
        page = await page_of(root)
        assert "1 of" in state_of(page, "up1") and "429 rate limited" in state_of(page, "up1")
        assert "429 rate limited, provider asked for 900 s" in words(account(page, "up1"))
        assert counts(page)["Serving"] == 2

        # The other provider takes our key no more: the account is out, and there is an alarm with what to do.
        clock.advance(10 * MINUTE_MS)
        second.script(scripts.refuse(401))
        assert (await gateway.ask(alice)).status == 502
        page = await page_of(root)
        assert counts(page) == {"Serving": 1, "Cooling": 0, "Rejected": 1, "Disabled": 1}
        assert "up2 is rejected by its provider since" in page and "pagegrid reload" in page
        assert state_of(page, "up2").startswith("Rejected since") and "Next try at" in state_of(page, "up2")
        assert "claude-sonnet-5-5 is not served now" in page or "models are not served now" in page
        assert "not served now" in (front := await page_of(root, "/admin")) and 'href="/admin/upstreams">Upstreams' in front

        # It says no again and again; nobody asks it meanwhile, and it stays rejected.
        clock.advance(20 * MINUTE_MS)
        page = await page_of(root)
        assert "The next request tries it" in state_of(page, "up2") and counts(page)["Rejected"] == 1
        assert "cooling" not in state_of(page, "up1")  # its quarter of an hour is over
        assert (await gateway.ask(alice)).status == 200
        page = await page_of(root)
        day = WINDOW_MS / MINUTE_MS
        ((x, width),) = [(x, width) for css, x, width in bars(page, "up1") if css == "partly"]
        assert (x, width) == pytest.approx((100 - 30 / day * 100, 15 / day * 100), abs=0.02)
        ((x, width),) = [(x, width) for css, x, width in bars(page, "up2") if css == "refused"]
        assert (x, width) == pytest.approx((100 - 20 / day * 100, 20 / day * 100), abs=0.02)
        shown = {each["name"]: each for each in await act(gateway.house, "upstreams.list")}
        assert (shown["up1"]["state"], shown["up2"]["state"], shown["spare"]["state"]) == ("serving", "cooling", "disabled")

        figures = {name: words(account(page, name).partition("succeeded")[2].partition("</div>")[0]) for name in ("up1", "up2")}
        attempts = await gateway.attempts()
        for name, figure in figures.items():
            mine = [reason for upstream, _, reason in attempts if upstream == name]
            assert figure.split()[0] == str(len(mine))
            assert figure.split()[1] == f"{sum(reason == 'ok' for reason in mine) / len(mine) * 100:.1f}"
        await gateway.assert_settled()


async def test_a_restart_forgets_no_event_and_a_gap_is_shown_as_one(tmp_path: Path) -> None:
    clock = FakeClock()
    async with ScriptedUpstream() as first, ScriptedUpstream() as second:
        async with open_gateway(tmp_path, first.url, second.url, clock=clock) as gateway:
            await make_visitor(gateway, "root", role="admin")
            alice = await gateway.make_user("alice")
            clock.advance(WINDOW_MS)
            first.script(scripts.refuse(401))
            assert (await gateway.ask(alice)).status == 200
            clock.advance(60 * MINUTE_MS)
        clock.advance(30 * MINUTE_MS)
        async with open_gateway(tmp_path, first.url, second.url, clock=clock) as gateway:
            clock.advance(10 * MINUTE_MS)
            root = Visitor(gateway)
            await root.sign_in("root")
            page = await page_of(root)
            assert [css for css, _, _ in sorted(bars(page, "up1"), key=lambda bar: bar[1])] == [
                "serving",
                "refused",
                "down",
                "serving",
            ]
            assert [css for css, _, _ in sorted(bars(page, "up2"), key=lambda bar: bar[1])] == ["serving", "down", "serving"]
            ((x, width),) = [(x, width) for css, x, width in bars(page, "up1") if css == "refused"]
            assert (x, width) == pytest.approx((100 - 100 / 14.4, 60 / 14.4), abs=0.02)
            assert "401, the provider does not accept the key" in words(account(page, "up1"))
            assert state_of(page, "up1") == "Serving"  # what was known of it went with the process
            assert '<i class="key-down"></i>not running' in page


async def test_all_models_cooling_is_an_account_that_cools(tmp_path: Path) -> None:
    clock = FakeClock()
    more = '[[models]]\nid = "claude-sonnet-5-5"\nroutes = [{ upstream = "up1" }]\n'
    only = '[[upstreams]]\nname = "rest"\nkind = "demo"\n'
    async with ScriptedUpstream() as up, open_gateway(tmp_path, up.url, more=only + more, clock=clock) as gateway:
        house = gateway.house
        root = await make_visitor(gateway, "root", role="admin")
        alice = await gateway.make_user("alice")
        models = {
            place.model
            for model in house.walk.catalog
            for place in house.walk.router.deployments(model.id)
            if place.upstream == "up1"
        }
        for model in sorted(models):
            up.script(scripts.refuse(429, retry_after="600"))
            await gateway.ask(alice, model=model)
        page = await page_of(root)
        assert state_of(page, "up1").startswith("Cooling until") and "provider asked for 600 s" in state_of(page, "up1")
        assert counts(page)["Cooling"] == 1
        clock.advance(601_000)
        page = await page_of(root)
        assert counts(page)["Cooling"] == 0 and counts(page)["Serving"] == 2


async def test_the_button_asks_and_tells(tmp_path: Path) -> None:
    async with ScriptedUpstream() as up, ScriptedUpstream() as bad, open_gateway(tmp_path, up.url, bad.url, more=OFF) as gateway:
        root = await make_visitor(gateway, "root", role="admin")
        bad.default = scripts.refuse(401, NASTY)
        page = html.unescape((await root.follow(await root.post(f"{PATH}/up1/test"))).body.decode())
        assert "up1 was reached with its key: status 200" in page
        answer = await root.follow(await root.post(f"{PATH}/up2/test"))
        assert "up2 failed the test: status 401, 401, the provider does not accept the key" in html.unescape(answer.body.decode())
        assert NASTY not in answer.body.decode()
        page = html.unescape((await root.follow(await root.post(f"{PATH}/test"))).body.decode())
        assert "1 of 2 passed the test." in page and "up2 failed the test" in page
        page = html.unescape((await root.follow(await root.post(f"{PATH}/spare/test"))).body.decode())
        assert "spare was not tested: the upstream spare is disabled; enable it first." in page
        await root.get("/dashboard/settings")
        assert (await root.post(f"{PATH}/nowhere/test")).status == 404
        assert "upstream-secret" not in await page_of(root)


async def test_a_reload_disables_and_brings_back(tmp_path: Path) -> None:
    async with ScriptedUpstream() as up, open_gateway(tmp_path, up.url, up.url) as gateway:
        root = await make_visitor(gateway, "root", role="admin")
        text = settings_text(up.url, up.url)
        await reload(gateway.house, _parsed(gateway, text + "enabled = false\n"))
        page = await page_of(root)
        assert counts(page) == {"Serving": 1, "Cooling": 0, "Rejected": 0, "Disabled": 1}
        assert "enabled = false" in state_of(page, "up2") and "Test up2" not in page
        await reload(gateway.house, _parsed(gateway, text))
        assert counts(await page_of(root))["Disabled"] == 0
        assert await gateway.table("select state, ended_at_ms is not null from upstream_events") == [("disabled", 1)]


def _parsed(gateway: Gateway, text: str) -> Settings:
    return parse(text, str(gateway.house.settings.folder / "pagegrid.toml"), {})


async def test_what_a_provider_calls_its_error_is_shown_as_it_wrote_it(tmp_path: Path) -> None:
    async with ScriptedUpstream() as up, open_gateway(tmp_path, up.url) as gateway:
        root = await make_visitor(gateway, "root", role="admin")
        desk = gateway.house.desk
        desk.upstream_events.note(Change("up1", NASTY, "failing", f"stream_error:{NASTY}", 10**6))
        answer = (await root.get(PATH)).body.decode()
        assert NASTY not in answer and answer.count(html.escape(NASTY)) >= 3


async def test_a_disk_in_trouble_still_shows_how_accounts_stand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "CATCH_UP_S", 0.05)
    async with ScriptedUpstream() as up, ScriptedUpstream() as other, open_gateway(tmp_path, up.url, other.url) as gateway:
        root = await make_visitor(gateway, "root", role="admin")
        alice = await gateway.make_user("alice")
        up.script(scripts.refuse(401))
        assert (await gateway.ask(alice)).status == 200
        async with gateway.writer_held_back():
            page = await page_of(root)
            assert state_of(page, "up1").startswith("Rejected")
        await gateway.assert_settled()


def test_a_storm_of_short_rests_is_drawn_in_few_pieces() -> None:
    now_ms = 1_780_000_000_000
    segments = [
        Segment(
            "cooling" if number % 2 else "serving",
            now_ms - WINDOW_MS + number * MINUTE_MS,
            now_ms - WINDOW_MS + (number + 1) * MINUTE_MS,
        )
        for number in range(1440)
    ]
    drawn = room._bars(segments, now_ms)
    assert len(drawn) <= 3 and drawn[-1].title.endswith("720 times")
    assert all(0 <= float(bar.x[:-1]) <= 100 - room.NARROWEST_PERCENT for bar in drawn)


def test_reasons_have_words() -> None:
    assert reason_words("rate_limited") == "429 rate limited" and reason_words("status_502") == "status 502"
    assert reason_words("stream_error:overloaded_error") == "stream error:overloaded error"
