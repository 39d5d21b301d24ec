"""The pages of keys in a real browser: nothing keeps anybody out or scrolls sideways, and all of it works without script."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from playwright.async_api import Page, expect

from gateway.web.manual import USES
from tests.web.browser import assert_no_sideways_scroll, browsing, find_barriers, needs_axe, needs_chromium, tab
from tests.web.scene import Scene, open_scene
from tests.web.tools import Visitor

pytestmark = [pytest.mark.timeout(240), needs_chromium]

PATH = "/dashboard/keys"


async def sign_in(page: Page, visitor: Visitor) -> None:
    url = visitor.gateway.url
    await page.context.add_cookies([{"name": name, "value": value, "url": url} for name, value in visitor.cookies.items()])


async def pages_of(scene: Scene, page: Page) -> list[str]:
    """Shown to ines, with a key of each state; the last page that was opened shows a secret."""
    await sign_in(page, await scene.visitor("ines"))
    key_id = scene.keys["ines", "openclaw-home"]["id"]
    return [PATH, *(f"{PATH}/{key_id}{path}" for path in ("", "/edit", "/rotate", "/revoke")), "/key", "/docs/claude-code"]


@needs_axe
async def test_nothing_keeps_people_out(tmp_path: Path) -> None:
    async def check(page: Page, what: str) -> None:
        assert await find_barriers(page) == [], what

    async with open_scene(tmp_path) as scene, browsing() as browser, tab(browser, scene.gateway) as page:
        for path in await pages_of(scene, page):
            await page.goto(path)
            await check(page, path)
        await page.goto(PATH)
        await page.locator("details.fold-dead > summary").click()
        await page.locator("details.menu > summary").first.click()
        await page.get_by_text("Limits, models and addresses").click()
        await check(page, "all unfolded")
        await page.get_by_label("Name").fill("build-server")
        await page.locator("#new").get_by_role("button", name="Create key").click()
        for label, _, _ in USES:
            await page.locator("label").get_by_text(label, exact=True).click()
            await check(page, label)
        await page.goto("/key")
        await page.get_by_label("Key", exact=True).fill(scene.keys["ines", "openclaw-home"]["secret"])
        await page.get_by_role("button", name="Show what is left").click()
        await expect(page.get_by_role("heading", name="Latest requests")).to_be_visible()
        await check(page, "what is left")


async def test_no_page_scrolls_sideways(tmp_path: Path) -> None:
    async with open_scene(tmp_path) as scene, browsing() as browser, tab(browser, scene.gateway) as page:
        paths = await pages_of(scene, page)
        await page.goto(PATH)
        await page.get_by_label("Name").fill("W" * 64)
        await page.locator("#new").get_by_role("button", name="Create key").click()
        await expect(page.locator("#secret")).to_be_visible()
        for path in (None, *paths):
            if path is not None:
                await page.goto(path)
            await assert_no_sideways_scroll(page)


@pytest.mark.parametrize("script", [True, False])
async def test_from_a_new_account_to_lines_that_can_be_pasted(tmp_path: Path, script: bool) -> None:
    options = {"permissions": ["clipboard-read", "clipboard-write"]} if script else {}
    async with (
        open_scene(tmp_path) as scene,
        browsing() as browser,
        tab(browser, scene.gateway, java_script_enabled=script, **options) as page,
    ):
        await sign_in(page, await scene.visitor("new"))
        await page.goto(PATH)
        await page.get_by_label("Name").fill("laptop")
        await page.locator("#new").get_by_role("button", name="Create key").click()
        secret = await page.locator("#secret").inner_text()
        assert re.fullmatch(r"sk-pgrid-[0-9a-f]{64}", secret)
        shown = page.locator(".tabs.rail > .panel:visible")
        await page.locator("label").get_by_text("PowerShell", exact=True).click()
        assert f'$env:ANTHROPIC_AUTH_TOKEN = "{secret}"' in await shown.locator("pre:visible").inner_text()
        # By keys from one program to the next.
        await page.locator(".tabs.rail > input").first.focus()
        await page.keyboard.press("ArrowDown")
        assert f'"apiKey": "{secret}"' in await shown.locator("pre:visible").inner_text()
        await page.locator("label").get_by_text("curl", exact=True).click()
        if script:
            await shown.locator("button.copy").click()
            copied = await page.evaluate("navigator.clipboard.readText()")
            assert copied.startswith(f"curl {scene.gateway.url}/v1/messages") and secret in copied
        else:
            assert await page.locator("button.copy:visible").count() == 0
        await page.reload()
        assert await page.locator("#secret").count() == 0 and secret not in await page.content()
        await page.get_by_role("link", name="Revoke…").click()
        await page.get_by_role("button", name="Revoke key").click()
        await expect(page.get_by_role("status").first).to_contain_text("Key revoked: laptop.")
