"""A real browser for tests: headless Chromium, and axe-core, which looks for what keeps people out.

Chromium is the system's (`PAGEGRID_CHROMIUM` names another), axe-core what scripts/install-browser has put into
PAGEGRID_BROWSER (default: .browser in this checkout). What is not there is skipped, visibly. No page may break its own rules:
anything that the browser complains of (the Content-Security-Policy above all) fails the test.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser, Page, async_playwright, expect

from tests.gateway_tools import Gateway

CHROMIUM = os.environ.get("PAGEGRID_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser") or ""
FOLDER = Path(os.environ.get("PAGEGRID_BROWSER") or Path(__file__).resolve().parents[2] / ".browser")
AXE = FOLDER / "node_modules/axe-core/axe.min.js"

needs_chromium = pytest.mark.skipif(
    not CHROMIUM, reason="there is no Chromium here: apt-get install chromium, or name one in PAGEGRID_CHROMIUM"
)
needs_axe = pytest.mark.skipif(not AXE.exists(), reason=f"axe-core is not in {FOLDER}: run scripts/install-browser")

# A machine that does much else at once is slow, not wrong.
expect.set_options(timeout=20_000)

DESK, PHONE = {"width": 1440, "height": 900}, {"width": 390, "height": 844}
# Debian's runs as root in CI, and would ask the world for updates of itself.
ARGUMENTS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]


@asynccontextmanager
async def browsing() -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        try:
            yield browser
        finally:
            await browser.close()


@asynccontextmanager
async def tab(browser: Browser, gateway: Gateway, **options: Any) -> AsyncIterator[Page]:
    """A page in a profile of its own, whose complaints fail the test."""
    context = await browser.new_context(base_url=gateway.url, **{"viewport": DESK, **options})
    page = await context.new_page()
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: None if request.url.startswith(gateway.url) else complaints.append(request.url))
    yield page
    await context.close()
    # A refusal says so with its status, and browsers repeat that.
    told = [text for text in complaints if "the server responded with a status of 4" not in text]
    assert told == [], told


async def find_barriers(page: Page) -> list[tuple[str, str, str]]:
    """What axe-core finds wrong with the page as it stands: (rule, impact, the first place)."""
    await page.evaluate(AXE.read_text())
    found = []
    for scheme, viewport, rules in (("light", DESK, {}), ("light", PHONE, {}), ("dark", DESK, {"runOnly": ["color-contrast"]})):
        await page.emulate_media(color_scheme=scheme)
        await page.set_viewport_size(viewport)
        result = await page.evaluate("options => axe.run(document, options)", rules)
        found += [(each["id"], each["impact"], each["nodes"][0]["html"][:200]) for each in result["violations"]]
    return found


async def assert_no_sideways_scroll(page: Page) -> None:
    for width in (1440, 1024, 800, 390, 320):
        await page.set_viewport_size({"width": width, "height": 800})
        assert await page.evaluate("document.documentElement.scrollWidth") <= width, (page.url, width)
