"""/admin/requests: any request by its id, with its upstream accounts and what they cost."""

from __future__ import annotations

from gateway.desk.requests import get_request
from gateway.errors import ClientError
from gateway.ids import render_id
from gateway.web.forms import Form
from gateway.web.page import Page, Route
from gateway.web.requests import ITEMS, tell

PATH = "/admin/requests"


async def find_request(page: Page) -> None:
    """Ours or the provider's id; whoever finds one goes to its own page."""
    page.form = Form({"id": page.query.get("id", "")})
    text = page.form.get("id")
    if not text:
        await page.show("admin/request.html", told=None, items=ITEMS)
        return
    try:
        told = await page.look(lambda conn: get_request(conn, text))
    except ClientError as error:
        await page.refuse("admin/request.html", error, told=None, items=ITEMS)
        return
    await page.go(f"{PATH}/{render_id(told.row['request_id'])}")


async def show_request(page: Page) -> None:
    text = page.request.match_info["request"]
    told = await page.look(lambda conn: get_request(conn, text))
    page.form = Form({"id": text})
    await page.show("admin/request.html", told=tell(told), items=ITEMS)


ROUTES = (
    Route(PATH, "admin/requests", "admin", get=find_request),
    Route(f"{PATH}/{{request}}", "admin/requests/id", "admin", get=show_request),
)
