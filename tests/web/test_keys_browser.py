"""The pages of keys in a real browser: all of it works without script."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from playwright.async_api import Page, expect

from tests.web.browser import browsing, needs_chromium, tab
from tests.web.scene import open_scene
from tests.web.tools import Visitor

pytestmark = [pytest.mark.timeout(240), needs_chromium]

PATH = "/dashboard/keys"


async def sign_in(page: Page, visitor: Visitor) -> None:
    url = visitor.gateway.url
    await page.context.add_cookies([{"name": name, "value": value, "url": url} for name, value in visitor.cookies.items()])


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
