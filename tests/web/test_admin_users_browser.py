"""Users and audit in a real browser: all of it works without script."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.async_api import Page, expect

from tests.desk_tools import act
from tests.signin_tools import PASSWORD
from tests.web.browser import browsing, needs_chromium, tab
from tests.web.scene import open_scene
from tests.web.tools import Visitor

pytestmark = [pytest.mark.timeout(240), needs_chromium]

LONG = "W" * 64


async def sign_in(page: Page, visitor: Visitor) -> None:
    url = visitor.gateway.url
    await page.context.add_cookies([{"name": name, "value": value, "url": url} for name, value in visitor.cookies.items()])


@pytest.mark.parametrize("script", [True, False])
async def test_from_a_name_to_somebody_who_is_in_and_has_money(tmp_path: Path, script: bool) -> None:
    async with (
        open_scene(tmp_path) as scene,
        browsing() as browser,
        tab(browser, scene.gateway, java_script_enabled=script) as page,
        tab(browser, scene.gateway, java_script_enabled=script) as theirs,
    ):
        await sign_in(page, await scene.visitor("root"))
        await page.goto("/admin/users")
        await page.get_by_role("link", name="Create user").click()
        await page.get_by_label("Name", exact=True).fill("bob")
        await page.get_by_role("button", name="Create user").click()
        await expect(page.get_by_role("heading", name="bob", exact=True)).to_be_visible()
        await page.get_by_role("button", name="Create sign-in link").click()
        link = await page.locator("#link-text").inner_text()
        await theirs.goto(link)
        await theirs.get_by_label("New password").fill(PASSWORD)
        await theirs.get_by_label("The same again").fill(PASSWORD)
        await theirs.get_by_role("button", name="Set password and sign in").click()
        await expect(theirs.get_by_role("heading", level=1)).to_be_visible()
        assert theirs.url == scene.gateway.url + "/dashboard"
        # Money, by a hand that clicks twice.
        await page.get_by_role("link", name="Top up…").click()
        await page.get_by_label("Amount").fill("12.5")
        await page.get_by_role("button", name="Top up").dblclick()
        await expect(page.locator(".flash")).to_contain_text("$12.50")
        assert (await act(scene.gateway.house, "wallets.show", user="bob"))["available_usd"] == "12.50"
        await page.get_by_role("link", name="Withdraw…").click()
        await page.get_by_label("Amount").fill("2")
        await page.get_by_role("button", name="Continue…").click()
        await page.get_by_role("button", name="Withdraw $2.00").click()
        await expect(page.get_by_text("Withdrawn: $2.00")).to_be_visible()
        wallet = await act(scene.gateway.house, "wallets.show", user="bob")
        assert wallet["available_usd"] == "10.50"
        await page.get_by_role("link", name="Disable user…").click()
        await page.get_by_role("button", name="Disable", exact=True).click()
        await expect(page.get_by_text("bob is disabled.")).to_be_visible()
        await theirs.goto("/dashboard")
        assert theirs.url.startswith(scene.gateway.url + "/login")
