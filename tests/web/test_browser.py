"""The pages in a real browser: headless Chromium, on a desk and on a phone, in both themes, with and without script."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.async_api import expect

from gateway.web.manual import TITLES
from tests.web.browser import PHONE, assert_no_sideways_scroll, browsing, find_barriers, needs_axe, needs_chromium, tab
from tests.web.tools import open_site

pytestmark = [pytest.mark.timeout(240), needs_chromium]

PAGES = [
    "/",
    "/models",
    "/models?q=haiku&sort=output",
    "/models?q=nothing+of+the+kind",
    "/models/claude-haiku-5-5",
    "/models/one-for-all",
    "/no/such/page",
    *(f"/docs/{slug}" for slug in TITLES),
]
# A house that has everything: factors, plans, a virtual model, words to whom one turns, and names that are long.
HOUSE = """
[brand]
name = "The Gateway of the Department of Applied Phonetics"
support = "Write to ai-support@phonetics.example, or come to room 2.17 on weekdays between nine and five."
[billing]
factor = "1.1"
[plans.pro]
factor = "0.9"
[[models]]
id = "one-for-all"
display_name = "One for all"
description = "Goes to Sonnet, and to Haiku while Sonnet rests."
serves = ["claude-sonnet-5-5", "claude-haiku-5-5"]
aliases = ["one", "a-second-name-for-the-same-model-that-is-rather-long-and-has-no-blank-in-it"]
"""


@needs_axe
async def test_nothing_keeps_people_out(tmp_path: Path) -> None:
    """axe-core finds nothing: WCAG 2.2 A and AA and what it calls best practice, at both widths; contrast in both themes."""
    async with open_site(tmp_path, HOUSE) as gateway, browsing() as browser, tab(browser, gateway) as page:
        for path in PAGES:
            await page.goto(path)
            assert await find_barriers(page) == [], path


async def test_no_page_scrolls_sideways(tmp_path: Path) -> None:
    async with open_site(tmp_path, HOUSE) as gateway, browsing() as browser, tab(browser, gateway) as page:
        for path in PAGES:
            await page.goto(path)
            await assert_no_sideways_scroll(page)


async def test_through_the_docs(tmp_path: Path) -> None:
    async with open_site(tmp_path) as gateway, browsing() as browser, tab(browser, gateway) as page:
        await page.goto("/")
        await page.get_by_role("link", name="Get started").click()
        assert await page.title() == "Getting started · Docs · PageGrid"
        # Every page once, by "Next".
        seen = [await page.locator("h1").inner_text()]
        while await page.locator(".pager a[rel=next]").count():
            await page.locator(".pager a[rel=next]").click()
            current = await page.locator(".docs > .docs-nav a[aria-current=page]").inner_text()
            assert await page.locator(".docs > .docs-nav a[aria-current=page]").count() == 1
            seen.append(current)
        assert seen == list(TITLES.values())
        await page.locator(".docs > .docs-nav").get_by_role("link", name="Claude Code").click()
        await page.locator(".toc").get_by_role("link", name="When it does not work").click()
        assert page.url.endswith("/docs/claude-code#when-it-does-not-work")
        await expect(page.locator(".toc a[aria-current]")).to_have_text("When it does not work")
        await page.get_by_role("link", name="As markdown").click()
        assert page.url.endswith("/docs/claude-code.md")


async def test_on_a_phone_the_pages_are_behind_one_line(tmp_path: Path) -> None:
    async with (
        open_site(tmp_path) as gateway,
        browsing() as browser,
        tab(browser, gateway, viewport=PHONE, has_touch=True) as page,
    ):
        await page.goto("/docs/pricing")
        menu = page.locator("details.docs-menu")
        assert not await menu.locator("nav").is_visible() and not await page.locator(".docs > .docs-nav").is_visible()
        await menu.locator("summary").tap()
        await menu.get_by_role("link", name="Wallet and billing").tap()
        assert await page.locator("h1").inner_text() == "Wallet and billing"


async def test_copying(tmp_path: Path) -> None:
    async with open_site(tmp_path) as gateway, browsing() as browser:
        async with tab(browser, gateway, permissions=["clipboard-read", "clipboard-write"]) as page:
            await page.goto("/docs/claude-code")
            button = page.locator(".tabs .panel:visible button.copy")
            await button.click()
            await expect(page.locator("#said")).to_have_text("Copied")
            assert "Copied" in await button.inner_text()
            copied = await page.evaluate("navigator.clipboard.readText()")
            assert copied.splitlines()[0] == f"export ANTHROPIC_BASE_URL={gateway.url}"
        async with tab(browser, gateway, java_script_enabled=False) as page:
            await page.goto("/docs/claude-code")
            assert await page.locator("button.copy:visible").count() == 0


async def test_shells_are_chosen_by_keys_and_without_script(tmp_path: Path) -> None:
    async with open_site(tmp_path) as gateway, browsing() as browser:
        for script in (True, False):
            async with tab(browser, gateway, java_script_enabled=script) as page:
                await page.goto("/docs/claude-code")
                shown = page.locator(".tabs .panel:visible pre")
                assert (await shown.inner_text()).startswith("export ")
                await page.locator(".tabs input").first.focus()
                await page.keyboard.press("ArrowRight")
                assert (await shown.inner_text()).startswith("$env:")
                await page.get_by_text("settings.json", exact=True).first.click()
                assert (await shown.inner_text()).startswith("{")


async def test_who_uses_keys_may_skip_to_the_content(tmp_path: Path) -> None:
    async with open_site(tmp_path) as gateway, browsing() as browser, tab(browser, gateway) as page:
        await page.goto("/models")
        await page.keyboard.press("Tab")
        skip = page.get_by_role("link", name="Skip to content")
        box = await skip.bounding_box()
        assert box is not None and box["x"] >= 0 and await skip.evaluate("link => link === document.activeElement")
        await page.keyboard.press("Enter")
        await page.keyboard.press("Tab")
        assert await page.evaluate("document.activeElement.closest('main') !== null")


LIGHT, DARK = "rgb(245, 247, 247)", "rgb(13, 18, 20)"


@pytest.mark.parametrize("script", [True, False])
async def test_the_theme_is_the_devices_until_somebody_chooses(tmp_path: Path, script: bool) -> None:
    async with open_site(tmp_path) as gateway, browsing() as browser:
        for scheme, theirs, other, others in (("light", LIGHT, "Dark", DARK), ("dark", DARK, "Light", LIGHT)):
            async with tab(browser, gateway, color_scheme=scheme, java_script_enabled=script) as page:
                ground = page.locator("body")
                await page.goto("/docs/pricing")
                await expect(ground).to_have_css("background-color", theirs)
                await page.get_by_role("button", name=other, exact=True).click()
                await expect(ground).to_have_css("background-color", others)
                assert page.url.endswith("/docs/pricing")
                await page.goto("/models")
                await expect(ground).to_have_css("background-color", others)
                assert await page.get_by_role("button", name=other, exact=True).get_attribute("aria-pressed") == "true"
                await page.get_by_role("button", name="System", exact=True).click()
                await expect(ground).to_have_css("background-color", theirs)


@pytest.mark.parametrize("script", [True, False])
async def test_models_are_filtered_and_opened(tmp_path: Path, script: bool) -> None:
    async with (
        open_site(tmp_path, HOUSE) as gateway,
        browsing() as browser,
        tab(browser, gateway, java_script_enabled=script) as page,
    ):
        await page.goto("/models")
        assert await page.locator("#list").inner_text() == "16 models"
        await page.get_by_label("Name or description").fill("haiku")
        await page.get_by_label("Context").select_option("1 M or more")
        await page.get_by_role("button", name="Filter").click()
        assert await page.locator("#list").inner_text() == "2 of 16 models"
        assert await page.get_by_label("Name or description").input_value() == "haiku"
        await page.get_by_role("link", name="Claude Haiku 5.5").click()
        assert await page.locator("h1").inner_text() == "Claude Haiku 5.5"
        # The list says 0.10, the house takes 10 % more.
        assert (await page.locator("#prices").locator("xpath=../..").locator("tbody tr").first.inner_text()).split() == [
            *("Input", "$0.10", "$0.11", "$0.55")
        ]
