"""The README's pictures: `scripts/screenshots` draws them from the house of `scene.py`, the same each time but for its port."""

from __future__ import annotations

import asyncio
import sys
import tempfile
from pathlib import Path

from tests.web.browser import DESK, PHONE, browsing, tab
from tests.web.scene import open_scene

# file name → whose eyes, which page, how wide, which theme
PICTURES = {
    "overview": ("ines", "/dashboard", DESK, "light"),
    "overview-phone": ("ines", "/dashboard", PHONE, "dark"),
    "usage": ("ines", "/dashboard/usage", DESK, "light"),
    "wallet": ("ines", "/dashboard/wallet", DESK, "dark"),
    "admin": ("root", "/admin", DESK, "light"),
    "ledger": ("root", "/admin/ledger", DESK, "light"),
}


async def draw(folder: Path) -> None:
    with tempfile.TemporaryDirectory() as data:
        async with open_scene(Path(data)) as scene, browsing() as browser:
            for name, (who, path, viewport, theme) in PICTURES.items():
                visitor = await scene.visitor(who)
                cookies = [{"name": key, "value": value, "url": scene.gateway.url} for key, value in visitor.cookies.items()]
                async with tab(browser, scene.gateway, viewport=viewport, color_scheme=theme) as page:
                    await page.context.add_cookies(cookies)
                    await page.goto(path)
                    if name == "usage":
                        # The sum of one price is what this page is for.
                        await page.locator("a.fold").nth(3).click()
                        await page.locator("tr.open").scroll_into_view_if_needed()
                    await page.screenshot(path=folder / f"{name}.png")


if __name__ == "__main__":
    asyncio.run(draw(Path(sys.argv[1])))
