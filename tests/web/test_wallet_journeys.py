"""Wallet, vouchers and invites in a real browser: with and without script."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from playwright.async_api import Page, expect

from tests.web.browser import browsing, needs_chromium, tab
from tests.web.scene import Scene, open_scene

pytestmark = [pytest.mark.timeout(240), needs_chromium]


@pytest.mark.parametrize("script", [True, False])
async def test_a_voucher_from_hand_to_hand(tmp_path: Path, script: bool) -> None:
    async with open_scene(tmp_path) as scene, browsing() as browser:
        async with tab(browser, scene.gateway, java_script_enabled=script) as page:
            await come_as(page, scene, "root")
            await page.goto("/admin/vouchers")
            await page.get_by_label("Name of the batch").fill("For the choir")
            await page.get_by_label("US dollars each").fill("ten")
            await page.get_by_role("button", name="Create vouchers").click()
            await expect(page.locator(".err")).to_contain_text("'ten' is not an amount")
            assert await page.get_by_label("Name of the batch").input_value() == "For the choir"
            await page.get_by_label("US dollars each").fill("10.50")
            await page.get_by_role("button", name="Create vouchers").click()
            await expect(page.locator("h1")).to_have_text("For the choir")
            code = await page.locator("#codes").inner_text()
            async with page.expect_download() as download:
                await page.get_by_role("button", name="Download CSV").click()
            assert code in Path(await (await download.value).path()).read_text()
            await page.reload()
            assert await page.locator("#codes").count() == 0
        async with tab(browser, scene.gateway, java_script_enabled=script) as page:
            await come_as(page, scene, "new")
            await page.goto("/dashboard/wallet")
            await page.get_by_label("Voucher code").fill(code[:-1])
            await page.get_by_role("button", name="Redeem voucher").click()
            await expect(page.locator(".err")).to_contain_text("There is no voucher of this code")
            await page.get_by_label("Voucher code").fill(code.lower())
            await page.get_by_role("button", name="Redeem voucher").click()
            await expect(page.locator(".flash.ok")).to_have_text("Voucher redeemed: $10.50 was added. The balance is $10.50 now.")
            await expect(page.locator(".sum .total dd")).to_have_text("$10.500000000")
            await expect(page.locator("tbody b").first).to_have_text("Voucher")
        async with tab(browser, scene.gateway, java_script_enabled=script) as page:
            await come_as(page, scene, "ines")
            await page.goto("/dashboard/wallet")
            await page.locator("a.fold").first.click()
            await expect(page.locator("h2#period")).to_have_text("19 Nov")
            await page.get_by_role("link", name="Charge").first.click()
            await expect(page).to_have_url(re.compile(r"/dashboard/usage\?open=(req_\w+)#\1$"))
            assert await page.locator(f"[id={page.url.rpartition('#')[2]}]").count() == 1
            await page.go_back()
            await page.get_by_role("link", name="All of November").click()
            await page.get_by_role("link", name="October").click()
            await expect(page.locator("h2#period")).to_have_text("October")


async def come_as(page: Page, scene: Scene, name: str) -> None:
    visitor = await scene.visitor(name)
    cookies = [{"name": key, "value": value, "url": scene.gateway.url} for key, value in visitor.cookies.items()]
    await page.context.add_cookies(cookies)
