"""Live parts in a real browser: what changes is renewed in its place, and nobody loses theirs."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from playwright.async_api import Page, expect

from gateway.health import Failure
from gateway.metrics import alarm, limit_hit
from gateway.web import live
from tests.desk_tools import act
from tests.gateway_tools import Gateway, open_gateway, until
from tests.upstream import ScriptedUpstream
from tests.web.browser import DESK, assert_no_sideways_scroll, browsing, find_barriers, needs_axe, needs_chromium, tab
from tests.web.scene import OPUS, open_scene
from tests.web.tools import make_visitor, open_site

pytestmark = [pytest.mark.timeout(240), needs_chromium]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "TICK_S", 0.1)


async def enter(page: Page, gateway: Gateway, cookies: dict[str, str]) -> None:
    await page.context.add_cookies([{"name": name, "value": value, "url": gateway.url} for name, value in cookies.items()])


async def test_rows_come_and_focus_stays(tmp_path: Path) -> None:
    async with ScriptedUpstream() as up, open_gateway(tmp_path, up.url) as gateway, browsing() as browser:
        alice = await gateway.make_user("alice", "10")
        first = (await gateway.ask(alice)).request_id
        root = await make_visitor(gateway, "root", role="admin")
        async with tab(browser, gateway) as page:
            await enter(page, gateway, root.cookies)
            await page.goto("/admin")
            await expect(page.locator(".live .state")).to_be_visible()
            await expect(page.get_by_role("link", name="Reload")).to_be_hidden()
            link = page.locator(f'[id="{first}"] a')
            await link.focus()
            await page.evaluate("id => { window.kept = document.getElementById(id); }", first)
            for number in range(2, 5):
                await gateway.ask(alice)
                await expect(page.locator("#live-operation tr[id^=req_]")).to_have_count(number)
            # The same row in another place, with the focus that it had; the latest one is on top.
            assert await page.evaluate("id => window.kept === document.getElementById(id)", first)
            assert await page.evaluate("document.activeElement.closest('tr').id") == first
            rows = await page.locator("#live-operation tr[id^=req_]").evaluate_all("rows => rows.map(row => row.id)")
            assert rows == sorted(rows, reverse=True) and rows[-1] == first
            # Rows leave at the end, but not under somebody's focus.
            for _ in range(10):
                await gateway.ask(alice)
            await expect(page.locator("#live-operation tr[id^=req_]")).to_have_count(11)
            assert await page.evaluate("document.activeElement.closest('tr').id") == first
            await page.locator("h1").click()
            await page.evaluate("document.activeElement.blur()")
            await gateway.ask(alice)
            await expect(page.locator("#live-operation tr[id^=req_]")).to_have_count(10)
            assert not await page.evaluate("document.querySelector('#live-operation').closest('[aria-live]')")
        await gateway.assert_settled()


async def test_the_morph_of_a_part(tmp_path: Path) -> None:
    """A table of befores and afters: the outcome is the after, and what has an id stays itself."""
    cases = (
        ("<p>one</p>", "<p>two</p>"),
        ("<p>one</p><ul><li>a</li></ul>", "<ul><li>a</li><li>b</li></ul>"),
        ('<tr id="a"></tr>', ""),
        ("", '<b id="x">x</b>'),
        ('\n<i id="a">1</i>\n<i id="b">2</i>\n', '\n<i id="c">3</i>\n<i id="b">2</i>\n'),
        ('<i id="a">1</i><i id="b">2</i>', '<i id="b">2</i><i id="a">1</i>'),
        ('<i id="a" class="off" title="t">1</i>', '<i id="a" hidden>1</i>'),
        ('<i id="a">1</i>', '<b id="a">1</b>'),
        ("text", "<p>text</p>"),
        ('<svg><rect width="3"></rect></svg>', '<svg><rect width="5"></rect><line x1="2"></line></svg>'),
    )
    async with open_site(tmp_path) as gateway, browsing() as browser, tab(browser, gateway) as page:
        await page.goto("/models")
        for before, after in cases:
            found, same = await page.evaluate(
                """([before, after]) => {
                      const old = document.createElement("div"), fresh = document.createElement("div");
                      old.innerHTML = before; fresh.innerHTML = after;
                      const had = new Map([...old.children].map((child) => [child.id + child.nodeName, child]));
                      const wanted = fresh.innerHTML;
                      renew(old, fresh);
                      const kept = [...old.children].every((child) => !child.id || !had.has(child.id + child.nodeName)
                        || had.get(child.id + child.nodeName) === child);
                      return [old.innerHTML === wanted ? "" : `${old.innerHTML} for ${wanted}`, kept];
                    }""",
                [before, after],
            )
            assert found == "" and same, (before, after)
        # An open disclosure stays open, one that is not stays shut.
        html = await page.evaluate(
            """() => {
                  const old = document.createElement("div"), fresh = document.createElement("div");
                  old.innerHTML = "<details open><summary>a</summary>1</details>";
                  fresh.innerHTML = "<details><summary>a</summary>2</details>";
                  renew(old, fresh);
                  return old.innerHTML;
                }"""
        )
        assert html == '<details open=""><summary>a</summary>2</details>'


async def test_a_window_out_of_sight_gives_its_stream_back_and_a_sign_out_ends_it(tmp_path: Path) -> None:
    async with open_site(tmp_path) as gateway, browsing() as browser:
        ada = await make_visitor(gateway, "ada")
        async with tab(browser, gateway) as page:
            await enter(page, gateway, ada.cookies)
            await page.goto("/dashboard")
            await expect(page.locator(".live .state")).to_be_visible()
            assert len(gateway.house.walk.tasks) == 1
            await act(gateway.house, "wallets.topup", user="ada", amount="5", reference="more")
            await expect(page.locator("#live-overview")).to_contain_text("$15.00")
            await page.evaluate(
                """() => {
                  Object.defineProperty(document, "hidden", {value: true, configurable: true});
                  document.dispatchEvent(new Event("visibilitychange"));
                }"""
            )
            await until(lambda: not gateway.house.walk.tasks)
            await page.evaluate(
                """() => {
                  Object.defineProperty(document, "hidden", {value: false, configurable: true});
                  document.dispatchEvent(new Event("visibilitychange"));
                }"""
            )
            await until(lambda: len(gateway.house.walk.tasks) == 1)
            await ada.post("/logout")
            await expect(page.get_by_role("link", name="Reload")).to_be_visible()
            await until(lambda: not gateway.house.walk.tasks)
            await asyncio.sleep(0.5)
            assert not gateway.house.walk.tasks


async def test_without_script_there_is_a_link(tmp_path: Path) -> None:
    async with open_site(tmp_path) as gateway, browsing() as browser:
        root = await make_visitor(gateway, "root", role="admin")
        async with tab(browser, gateway, java_script_enabled=False, viewport=DESK) as page:
            await enter(page, gateway, root.cookies)
            await page.goto("/admin")
            await page.get_by_role("link", name="Reload").click()
            await expect(page.get_by_role("heading", name="Operation")).to_be_visible()
            await expect(page.locator(".live .state")).to_be_hidden()


@needs_axe
async def test_the_operators_pages_have_no_barriers(tmp_path: Path) -> None:
    async with open_scene(tmp_path) as scene, browsing() as browser:
        router, now_ms = scene.gateway.house.walk.router, scene.clock.now_ms()
        first, second = router.deployments(OPUS)
        router.failed("m", "", first, Failure("secret", "secret_refused", "c", 1), now_ms)
        router.failed("m", "", second, Failure("limited", "rate_limited", "c", 1, 900_000), now_ms)
        alarm("overrun", "a test's own")
        limit_hit("rpm")
        await act(scene.gateway.house, "wallets.freeze", user="tidewater")
        root = await scene.visitor("root")
        async with tab(browser, scene.gateway, bypass_csp=True) as page:
            await enter(page, scene.gateway, root.cookies)
            for path in ("/admin", "/admin/system"):
                await page.goto(path)
                for summary in await page.locator("main details > summary").all():
                    await summary.click()
                await assert_no_sideways_scroll(page)
                assert await find_barriers(page) == [], path
