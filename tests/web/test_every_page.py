"""Every page of those who are signed in, and the doors, in a real browser in a filled house: what holds for all of them.

A page that is added is looked at with the others: each route that shows a page has an address here, or the test fails.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from playwright.async_api import Page

from gateway.desk.credentials import create_link
from gateway.ids import render_id
from gateway.web.site import ROUTES
from tests.desk_tools import act
from tests.web.browser import browsing, find_barriers, needs_axe, needs_chromium, tab
from tests.web.scene import Scene, open_scene
from tests.web.tools import Visitor

pytestmark = [pytest.mark.timeout(400), needs_chromium]

# What answers with a file, a part of a page, or a page of another address.
NO_PAGES = {"/dashboard/live", "/admin/live", "/dashboard/usage.csv", "/dashboard/wallet/statement.csv", "/login/code"}
# What a signed-in user's pages hold beyond the addresses of their routes.
MORE = [
    "/dashboard/usage?key=999999",
    "/dashboard/usage?q=nothing-of-the-kind",
    "/dashboard/wallet?day=2026-11-19",
    "/dashboard/wallet?month=2026-10",
    "/docs/getting-started",
    "/no/such/page",
]


def page_routes(who: set[str]) -> list[str]:
    return [route.path for route in ROUTES if route.get is not None and route.who in who and route.path not in NO_PAGES]


def addresses(routes: list[str], names: dict[str, list[object]]) -> list[str]:
    """Each route's path, with what `names` has for its placeholder: a route of several names stands there as often."""
    found = []
    for path in routes:
        placeholders = re.findall(r"{(\w+)}", path)
        for number in range(len(names[placeholders[-1]]) if placeholders else 1):
            concrete = path
            for each in placeholders:
                concrete = concrete.replace(f"{{{each}}}", str(names[each][min(number, len(names[each]) - 1)]))
            found.append(concrete)
    return found


async def look_at(page: Page, path: str, wrong: list[object]) -> set[str]:
    """The addresses that the page links to; what it owes and has not is noted in `wrong`."""
    await page.goto(path)
    wrong += [(path, *barrier) for barrier in await find_barriers(page)]
    for width in (1440, 1024, 800, 390, 320):
        await page.set_viewport_size({"width": width, "height": 800})
        if (found := await page.evaluate("document.documentElement.scrollWidth")) > width:
            wrong.append((path, "scrolls sideways", width, found))
    title, headings, ids, links = await page.evaluate(
        """() => [document.title, document.querySelectorAll("h1").length,
                  [...document.querySelectorAll("[id]")].map(each => each.id),
                  [...document.querySelectorAll("a")].map(each => each.getAttribute("href"))]"""
    )
    if not re.fullmatch(r"\S.* · PageGrid", title) or headings != 1:
        wrong.append((path, title, headings))
    wrong += [(path, "twice", each) for each in set(ids) if ids.count(each) > 1]
    wrong += [(path, "leads nowhere", link) for link in links if not link or (link[0] == "#" and link[1:] not in ids)]
    return {link for link in links if link and link.startswith("/")}


async def follow_all(visitor: Visitor, links: set[str], wrong: list[object]) -> None:
    """Nothing that a page offers leads nowhere, nor to a place that its page has not."""
    for address in sorted({link.partition("#")[0] for link in links}):
        answer = await visitor.get(address)
        places = {link.partition("#")[2] for link in links if link.startswith(f"{address}#")}
        if answer.status not in (200, 302, 303):
            wrong.append((address, answer.status))
        elif answer.status == 200:
            wrong += [(address, place) for place in places if f'id="{place}"'.encode() not in answer.body]


async def fill(scene: Scene) -> dict[str, list[object]]:
    """What the scene lacks; the names that stand in addresses."""
    house = scene.gateway.house
    invite = await act(house, "invites.create", credit="2.50", email="guest@studio-nord.example", note="of the choir")
    link = await create_link(house.desk, "cli:test", user="new")
    await act(house, "wallets.freeze", user="tidewater")
    await act(house, "users.create", name="w" * 64, email=f"{'a' * 60}@{'b' * 60}.{'c' * 60}.{'d' * 60}.example")
    await act(house, "keys.create", user="ines", name="W" * 64, spend_per_day="1234567.890123456")
    return {
        "token": [invite["token"]],
        "welcome": [link["token"]],
        "user": [2, 3, 5, 6],
        "key": [scene.keys["ines", "openclaw-home"]["id"]],
        "request": [render_id(each) for each in scene.requests[-3:]],
        "voucher": [1],
        "invite": [invite["id"]],
        "session": [1],
    }


@needs_axe
@pytest.mark.parametrize("name", ["ines", "root"])
async def test_every_page(name: str, tmp_path: Path) -> None:
    """axe-core finds nothing, nothing scrolls sideways, one h1, every id once, a title of its own, no link into nothing."""
    async with open_scene(tmp_path) as scene, browsing() as browser, tab(browser, scene.gateway) as page:
        names = await fill(scene)
        visitor, url = await scene.visitor(name), scene.gateway.url
        if name == "ines":
            months = await scene.gateway.table("select request_id from usage order by request_id desc limit 4")
            opened = [f"/dashboard/usage?open={render_id(each)}" for (each,) in months]
            doors = ["/login", f"/welcome/{names['welcome'][0]}", f"/join/{names['token'][0]}", "/key", "/join"]
            inside = [*addresses(page_routes({"user"}), names), *MORE, *opened]
        else:
            doors, inside = [], addresses(page_routes({"admin"}), names)
        wrong: list[object] = []
        for visitor_paths, cookies in ((doors, {}), (inside, visitor.cookies)):
            await page.context.add_cookies([{"name": key, "value": value, "url": url} for key, value in cookies.items()])
            links = set[str]().union(*[await look_at(page, path, wrong) for path in visitor_paths])
            await follow_all(Visitor(scene.gateway, dict(cookies)), links, wrong)
        assert wrong == [], "\n".join(map(str, wrong))
