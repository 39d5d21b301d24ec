"""Wallet, vouchers and invites in a real browser: at every width, for everybody, and without script."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from playwright.async_api import Page, expect

from tests.desk_tools import act
from tests.web.browser import assert_no_sideways_scroll, browsing, find_barriers, needs_axe, needs_chromium, tab
from tests.web.scene import Scene, open_scene
from tests.web.test_wallet import NASTY

pytestmark = [pytest.mark.timeout(240), needs_chromium]

PAGES = {
    "ines": ("/dashboard/wallet", "/dashboard/wallet?day=2026-11-12"),
    "tidewater": ("/dashboard/wallet", "/dashboard/wallet?month=2026-10"),
    "new": ("/dashboard/wallet",),
    "root": (
        *("/admin/vouchers", "/admin/vouchers/1", "/admin/vouchers/2/void", "/admin/vouchers/2/void-batch"),
        *("/admin/invites", "/admin/invites/1/revoke"),
    ),
}


@needs_axe
async def test_nothing_keeps_people_out_and_nothing_scrolls_sideways(tmp_path: Path) -> None:
    async with open_scene(tmp_path) as scene, browsing() as browser:
        house = scene.gateway.house
        await act(
            house, "vouchers.create", count=2, amount="1000.123456789", batch=f"{'longest' * 6} {NASTY[:20]}", expires="90d"
        )
        for note in ("", f"{'longest' * 20} {NASTY}"):
            await act(
                house, "invites.create", credit="999999.999999999", plan="pro", email=f"{'zoe' * 20}@example.com", note=note
            )
        await act(house, "wallets.topup", user="tidewater", amount="999999.999999999", reference="r" * 128, note="n" * 500)
        await act(house, "wallets.withdraw", user="tidewater", amount="900000", reference="w" * 128)
        for name, paths in PAGES.items():
            async with tab(browser, scene.gateway) as page:
                await come_as(page, scene, name)
                for path in paths:
                    response = await page.goto(path)
                    assert response is not None and response.status == 200
                    assert await find_barriers(page) == [], path
                    await assert_no_sideways_scroll(page)


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
