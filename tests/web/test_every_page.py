"""Every page of those who are signed in, and the doors, in a real browser in a filled house: what holds for all of them.

A page that is added is looked at with the others: each route that shows a page needs an address here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import pytest
from playwright.async_api import Page

from gateway.desk.credentials import create_link
from gateway.ids import render_id
from gateway.web.site import ROUTES
from tests.desk_tools import act
from tests.web.browser import browsing, find_barriers, needs_axe, needs_chromium, tab
from tests.web.scene import Scene, open_scene
from tests.web.test_wallet import NASTY
from tests.web.tools import PASSWORD, Visitor

pytestmark = [pytest.mark.timeout(400), needs_chromium, needs_axe]

WIDTHS = (1440, 1024, 800, 390, 320)
LONG = "W" * 64
# What answers with a file, with a part of a page, or with another page.
NO_PAGES = {"/dashboard/live", "/admin/live", "/dashboard/usage.csv", "/dashboard/wallet/statement.csv", "/login/code"}


async def fill(scene: Scene) -> dict[str, list[object]]:
    """All that is long, large or out of the ordinary; what stands in addresses, by the placeholder of routes."""
    house = scene.gateway.house
    email = f"{'a' * 60}@{'b' * 60}.{'c' * 60}.{'d' * 60}.example"
    long = await act(house, "users.create", name=LONG, email=email, role="admin")
    await act(house, "users.set_password", user=LONG, password=PASSWORD)
    await act(house, "wallets.topup", user=LONG, amount="1000000", reference="r" * 128, note="n" * 500)
    await act(house, "wallets.topup", user=LONG, amount="234567.890123456", reference="second")
    await act(house, "wallets.withdraw", user=LONG, amount="0.000000001", reference="w" * 128)
    wide = await act(
        house,
        "keys.create",
        user=LONG,
        name=LONG,
        spend_per_day="999999.890123456",
        tokens_per_month=12_000_000_000,
        addresses=["2001:db8:ffff:ffff:ffff:ffff:ffff:ffff/128"],
    )
    await act(house, "wallets.freeze", user="tidewater")
    batch = f"{'longest' * 6} {NASTY[:20]}"
    vouchers = await act(house, "vouchers.create", count=2, amount="1000.123456789", batch=batch, expires="90d")
    invite = await act(
        house, "invites.create", credit="999999.999999999", plan="pro", email=f"guest-{email}"[:254], note="longest" * 20 + NASTY
    )
    link = await create_link(house.desk, "cli:test", user="new")
    sources = await scene.gateway.table("select max(request_id) from usage group by source")
    void = await scene.gateway.table("select max(id) from holds where state = 'void'")
    ((refund,),) = await scene.gateway.table("select reference from transfers where kind = 'refund'")
    return {
        "{token}": [invite["token"], link["token"]],
        "{user}": [1, 2, 3, 5, long["id"]],
        "{key}": [scene.keys["ines", "openclaw-home"]["id"], wide["id"]],
        "{request}": [
            *(render_id(number) for (number,) in (*sources, *void)),
            render_id(scene.requests[-1]),
            refund.partition(":")[0],
        ],
        "{voucher}": [1, vouchers["vouchers"][0]["id"]],
        "{invite}": [invite["id"]],
    }


def pages_of(who: str, names: dict[str, list[object]]) -> list[str]:
    """The addresses of all routes for `who`; a route that names something stands there once for each that there is."""
    found = []
    for route in ROUTES:
        if route.who == who and route.get is not None and route.path not in NO_PAGES:
            paths = [route.path]
            for placeholder in re.findall(r"{\w+}", route.path):
                paths = [path.replace(placeholder, str(name)) for path in paths for name in names[placeholder]]
            found += paths
    return found


async def look_at(page: Page, wrong: list[object]) -> set[str]:
    """The addresses that the page links to; what it owes to everybody and has not is noted in `wrong`."""
    path = await page.evaluate("location.pathname + location.search")
    await page.evaluate("document.querySelectorAll('details:not(.menu)').forEach(each => { each.open = true; })")
    wrong += [(path, *barrier) for barrier in await find_barriers(page)]
    for width in WIDTHS:
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


async def follow(visitor: Visitor, links: Iterable[str], wrong: list[object]) -> None:
    """Nothing that a page offers leads to nothing, nor to a place that its page has not."""
    places: dict[str, set[str]] = {}
    for link in links:
        address, _, place = link.partition("#")
        places.setdefault(address, set()).add(place)
    for address, named in places.items():
        answer = await visitor.get(address)
        if answer.status not in (200, 302, 303):
            wrong.append((address, answer.status))
        elif answer.status == 200:
            wrong += [(address, place) for place in named if place and f'id="{place}"'.encode() not in answer.body]


async def come_as(page: Page, visitor: Visitor) -> None:
    url = visitor.gateway.url
    await page.context.clear_cookies()
    await page.context.add_cookies([{"name": name, "value": value, "url": url} for name, value in visitor.cookies.items()])


@pytest.mark.parametrize("who", ["user", "admin"])
async def test_every_page(who: str, tmp_path: Path) -> None:
    """axe-core finds nothing, nothing scrolls sideways; one h1, each id once, a title, and no link into nothing."""
    async with open_scene(tmp_path) as scene, browsing() as browser, tab(browser, scene.gateway) as page:
        names = await fill(scene)
        wrong: list[object] = []
        if who == "user":
            requests = names["{request}"]
            names["{key}"] = names["{key}"][:1]
            tour = {
                "": pages_of("anyone", names),
                "ines": [
                    *pages_of("user", names),
                    *(f"/dashboard/usage?time=30d&open={each}" for each in requests),
                    "/dashboard/usage?time=custom&end=2026-11-31&key=0&q=%00",
                    "/dashboard/usage?model=none",
                    "/dashboard/wallet?day=2026-11-19",
                    "/docs/claude-code",
                    "/no/such/page",
                ],
                "new": ["/dashboard", "/dashboard/keys", "/dashboard/usage", "/dashboard/wallet"],
                "tidewater": ["/dashboard", "/dashboard/wallet?month=2026-10"],
                LONG: ["/dashboard", "/dashboard/keys", "/dashboard/wallet", "/dashboard/settings"],
            }
        else:
            # Of one user who is like others, and of one with whom all is long; everything else once.
            some = {name: known[:1] for name, known in names.items()}
            long = pages_of("admin", {**names, "{user}": names["{user}"][-1:], "{key}": names["{key}"][-1:]})
            mine = f"/admin/users/{names['{user}'][-1]}"
            tour = {
                "root": [
                    *pages_of("admin", {**some, "{user}": [2], "{request}": names["{request}"][:2]}),
                    *(path for path in long if path.startswith(mine)),
                    *(f"{mine}/withdraw?amount=5&reference={LONG * 2}&note={LONG}", f"{mine}/refund?request=x"),
                    *("/admin/users/1", "/admin/users/3", "/admin/users?q=nobody", "/admin/audit?day=x"),
                    f"/admin/users/2/refund?request={names['{request}'][0]}",
                    f"/admin/vouchers/{names['{voucher}'][-1]}",
                    "/admin/models?open=claude-sonnet-5-5",
                    "/admin/requests?id=req_none",
                ]
            }
        for name, paths in tour.items():
            visitor = await scene.visitor(name) if name else Visitor(scene.gateway)
            await come_as(page, visitor)
            links = set()
            for path in dict.fromkeys(paths):
                await page.goto(path)
                links |= await look_at(page, wrong)
            await follow(visitor, sorted(links), wrong)
        assert wrong == [], "\n".join(map(str, wrong))
