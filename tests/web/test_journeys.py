"""What people do here, from the first page to the last, in a real browser: each test is one person's way."""

from __future__ import annotations

import asyncio
import base64
import csv
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
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
        await page.get_by_role("button", name="Continue").click()
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


async def test_from_an_invite_to_a_price_that_equals_the_ledger(tmp_path: Path) -> None:
    """The operator invites and tops up; the guest joins, makes a key, asks with the copied line, and sees what it cost."""
    async with (
        open_site(tmp_path, '[web]\nsignup = "invite"\n') as gateway,
        browsing() as browser,
        person(browser, gateway, "root", "admin", "0") as root,
        tab(browser, gateway, permissions=["clipboard-read", "clipboard-write"]) as guest,
    ):
        await root.goto("/admin/invites")
        await root.get_by_label("Credit in US dollars").fill("2.50")
        await root.get_by_role("button", name="Create invite").click()
        link = (await root.locator("#link").inner_text()).strip()
        assert link.startswith(f"{gateway.url}/join/")

        await guest.goto(link)
        await expect(guest.locator("dl.facts")).to_contain_text("$2.50")
        await guest.get_by_label("Name").fill("ines")
        await guest.get_by_label("Password", exact=True).fill(PASSWORD)
        await guest.get_by_label("The same again").fill(PASSWORD)
        await guest.get_by_role("button", name="Create account").click()
        await expect(guest).to_have_url(f"{gateway.url}/dashboard")
        await expect(guest.locator(".sum .total")).to_contain_text("$2.50")
        await guest.get_by_role("link", name="Create your first key").click()
        await guest.get_by_label("Name").fill("laptop")
        await guest.locator("#new").get_by_role("button", name="Create key").click()
        first = await guest.locator("#secret").inner_text()
        await guest.locator("label").get_by_text("curl", exact=True).click()
        await guest.locator(".tabs.rail > .panel:visible button.copy").click()
        await expect(guest.locator("#said")).to_have_text("Copied")
        line = await guest.evaluate("navigator.clipboard.readText()")
        assert first in line
        asked = await shell(line.replace("curl ", "curl -sS -D head.txt ", 1), tmp_path)
        assert json.loads(asked)["type"] == "message"
        head = (tmp_path / "head.txt").read_text().lower()
        (request_id,) = re.findall(r"^request-id: (\S+)", (tmp_path / "head.txt").read_text(), re.M | re.I)
        assert "200" in head.splitlines()[0]

        await guest.goto("/dashboard/usage")
        row = guest.locator(f"tr[id={request_id}]")
        await row.locator("a.fold").click()
        detail = guest.locator("tr.detail")
        await expect(detail).to_contain_text("How $")
        ((cost,),) = await gateway.table("select cost_nanos from usage")
        ((settled,),) = await gateway.table("select amount_nanos from transfers where kind = 'settle'")
        assert cost == settled > 0
        told = f"${cost / 10**9:.9f}"
        assert await detail.locator("h2").inner_text() == f"How {told} came about"
        assert (await detail.locator("tfoot .proof, tfoot .total").last.inner_text()).split()[-1] == told
        # The sum of the classes, as it stands on the page.
        amounts = await detail.locator("tbody td:last-child").all_inner_texts()
        assert sum(round(Decimal(text.strip().lstrip("$")) * 10**9) for text in amounts) == cost
        async with guest.expect_download() as download:
            await guest.get_by_role("link", name="Export CSV").click()
        rows = list(csv.DictReader(Path(await (await download.value).path()).read_text().splitlines()))
        assert [row["request_id"] for row in rows] == [request_id]

        # Rotated: the old one lives on for an hour; revoked: dead at once.
        await guest.goto("/dashboard/keys")
        await guest.get_by_role("link", name="laptop").click()
        await guest.get_by_role("link", name="Rotate…").click()
        await guest.get_by_role("button", name="Rotate key").click()
        second = await guest.locator("#secret").inner_text()
        ask = 'curl -sS -o /dev/null -w "%{http_code}" ' + line.removeprefix("curl ")
        assert await shell(ask.replace(first, second), tmp_path) == "200"
        await guest.get_by_role("link", name="Revoke…").click()
        await guest.get_by_role("button", name="Revoke key").click()
        assert await shell(ask.replace(first, second), tmp_path) == "401"

        await root.goto("/admin/users")
        await root.get_by_role("link", name="ines").click()
        await root.get_by_role("link", name="Top up…").click()
        await root.get_by_label("Amount").fill("7.25")
        await root.get_by_role("button", name="Top up").click()
        await expect(root.locator(".flash.ok")).to_be_visible()
        await guest.goto("/dashboard/wallet")
        await expect(guest.locator("tbody").first).to_contain_text("+$7.25")
        balance = 9_750_000_000 - sum(nanos for (nanos,) in await gateway.table("select cost_nanos from usage"))
        digits = f"${balance / 10**9:.9f}"
        await expect(guest.locator(".sum .total dd").first).to_have_text(digits)
        assert "Adds up" in await guest.locator("main").inner_text()
        await gateway.assert_settled()


async def shell(command: str, folder: Path) -> str:
    """What a person's terminal prints."""
    process = await asyncio.create_subprocess_shell(command, cwd=folder, stdout=asyncio.subprocess.PIPE)
    out, _ = await asyncio.wait_for(process.communicate(), 30)
    return out.decode()
