"""What people do here, from the first page to the last, in a real browser: each test is one person's way."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from playwright.async_api import Browser, Page, expect

from gateway.desk.credentials import create_link
from gateway.passcodes import STEP_MS, totp_code
from tests.desk_tools import act
from tests.gateway_tools import Gateway
from tests.signin_tools import PASSWORD
from tests.web.browser import browsing, needs_chromium, tab
from tests.web.tools import open_site

pytestmark = [pytest.mark.timeout(240), needs_chromium]


async def sign_in(page: Page, name: str, password: str = PASSWORD) -> None:
    await page.goto("/login")
    await page.get_by_label("Name or e-mail").fill(name)
    await page.get_by_label("Password").fill(password)
    await page.get_by_role("button", name="Sign in").click()


@asynccontextmanager
async def person(browser: Browser, gateway: Gateway, name: str, role: str = "user", balance: str = "10") -> AsyncIterator[Page]:
    """Somebody in their own browser, signed in."""
    await act(gateway.house, "users.create", name=name, role=role)
    await act(gateway.house, "users.set_password", user=name, password=PASSWORD)
    if balance != "0":
        await act(gateway.house, "wallets.topup", user=name, amount=balance, reference=f"opening-{name}")
    async with tab(browser, gateway) as page:
        await sign_in(page, name)
        await expect(page).to_have_url(f"{gateway.url}/dashboard")
        yield page


async def test_from_the_first_link_to_a_second_factor_and_back(tmp_path: Path) -> None:
    """The admin's one-time link, a password, an authenticator app; then in with a code, and in with a recovery code."""
    async with open_site(tmp_path) as gateway, browsing() as browser, tab(browser, gateway) as page:
        await act(gateway.house, "users.create", name="admin", role="admin")
        link = await create_link(gateway.house.desk, "cli:test", user="admin")
        await page.goto(f"/welcome/{link['token']}")
        await page.get_by_label("New password").fill(PASSWORD)
        await page.get_by_label("The same again").fill(PASSWORD + "!")
        await page.get_by_role("button", name="Set password").click()
        await expect(page.locator(".err")).to_contain_text("The two passwords differ")
        await page.get_by_label("New password").fill(PASSWORD)
        await page.get_by_label("The same again").fill(PASSWORD)
        await page.get_by_role("button", name="Set password").click()
        await expect(page).to_have_url(f"{gateway.url}/dashboard")

        await page.goto("/dashboard/settings")
        await page.get_by_role("link", name="Switch on").click()
        await page.get_by_label("Your password").fill(PASSWORD)
        await page.get_by_role("button", name="Go on").click()
        secret = base64.b32decode(await page.locator("#secret").inner_text())
        assert await page.locator(".qr-box svg").is_visible()
        await page.get_by_label("Code", exact=True).fill("000000")
        await page.get_by_role("button", name="Switch on").click()
        await expect(page.locator(".err")).to_contain_text("not right")
        assert base64.b32decode(await page.locator("#secret").inner_text()) == secret

        def code(steps: int) -> str:
            return totp_code(secret, gateway.house.desk.clock.at_ms() // STEP_MS + steps)

        await page.get_by_label("Code", exact=True).fill(code(-1))
        await page.get_by_role("button", name="Switch on").click()
        recovery = (await page.locator("#recovery").inner_text()).split()
        assert len(recovery) == 10
        await page.reload()
        assert await page.locator("#recovery").count() == 0

        await page.get_by_role("button", name="Sign out").click()
        await page.goto("/dashboard/settings")
        await expect(page).to_have_url(f"{gateway.url}/login?next=%2Fdashboard%2Fsettings")
        for answer in (code(0), recovery[3]):
            await page.goto("/login?next=%2Fdashboard%2Fsettings")
            await page.get_by_label("Name or e-mail").fill("admin")
            await page.get_by_label("Password").fill(PASSWORD)
            await page.get_by_role("button", name="Sign in").click()
            await page.get_by_label("Code", exact=True).fill(answer)
            await page.get_by_role("button", name="Sign in").click()
            await expect(page).to_have_url(f"{gateway.url}/dashboard/settings")
            await page.get_by_role("button", name="Sign out").click()
        assert await gateway.table("select count(*) from recovery_codes where used_at_ms is not null") == [(1,)]


async def test_all_of_settings_without_script(tmp_path: Path) -> None:
    async with (
        open_site(tmp_path) as gateway,
        browsing() as browser,
        person(browser, gateway, "ada") as other,
        tab(browser, gateway, java_script_enabled=False) as page,
    ):
        await sign_in(page, "ada")
        await page.goto("/dashboard/settings")
        await page.get_by_role("button", name="Dark").click()
        assert await page.locator("html").get_attribute("data-theme") == "dark"
        await page.get_by_role("link", name="Change password").click()
        await page.get_by_label("Your password now").fill(PASSWORD)
        await page.get_by_label("New password").fill("correct horse battery 2")
        await page.get_by_label("The new one again").fill("correct horse battery 2")
        await page.get_by_role("button", name="Change password").click()
        await expect(page.locator(".flash.ok")).to_contain_text("Password changed")
        await other.goto("/dashboard/settings")
        await expect(other).to_have_url(f"{gateway.url}/login?next=%2Fdashboard%2Fsettings")
        await sign_in(other, "ada", "correct horse battery 2")
        await page.reload()
        await page.get_by_role("button", name="End all others").click()
        await expect(page.locator(".flash.ok")).to_contain_text("The other session has ended")
        await other.goto("/dashboard/settings")
        await expect(other).to_have_url(f"{gateway.url}/login?next=%2Fdashboard%2Fsettings")
