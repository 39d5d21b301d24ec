"""What holds for every page that knows whom it is for, read off the table of routes: a page that is added is tested with it."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.web.page import LOGIN_PATH, Route
from gateway.web.site import ROUTES
from tests.web.tools import Visitor, make_visitor, open_site

MEMBERS = [route for route in ROUTES if route.who != "anyone"]
FORMS = [route for route in ROUTES if route.post is not None]
READ = [route for route in ROUTES if route.get is not None]


def address(route: Route) -> str:
    """A path of the route; what it names is nobody's."""
    return "/".join("999999" if part.startswith("{") else part for part in route.path.split("/"))


def name(route: Route) -> str:
    return route.path


@pytest.mark.parametrize("route", MEMBERS, ids=name)
async def test_strangers_are_asked_to_sign_in_and_nothing_is_done(route: Route, tmp_path: Path) -> None:
    async with open_site(tmp_path) as gateway:
        stranger = Visitor(gateway)
        await stranger.get("/login")
        if route.get:
            answer = await stranger.get(address(route) + "?a=b")
            assert answer.status == 303 and answer.headers["location"].startswith(LOGIN_PATH + "?next=%2F")
            assert "session" not in stranger.cookies
        if route.post:
            answer = await stranger.post(address(route))
            assert answer.status == 401, answer.body
        assert await gateway.table("select count(*) from audit_log") == [(0,)]


async def test_what_is_for_admins_is_not_there_for_others(tmp_path: Path) -> None:
    async with open_site(tmp_path) as gateway:
        ada = await make_visitor(gateway, "ada")
        nothing = (await ada.get("/admin/no-such-page")).body
        for route in ROUTES:
            if route.who != "admin":
                continue
            if route.get:
                answer = await ada.get(address(route))
                assert answer.status == 404 and len(answer.body) == len(nothing), route.path
            if route.post:
                assert (await ada.post(address(route))).status == 404, route.path


async def test_a_form_needs_the_token_of_its_own_session(tmp_path: Path) -> None:
    async with open_site(tmp_path) as gateway:
        ada, eve = await make_visitor(gateway, "ada", role="admin"), await make_visitor(gateway, "eve", role="admin")
        stranger = Visitor(gateway)
        await stranger.get("/login")
        before = await gateway.table("select count(*) from audit_log")
        for route in FORMS:
            for wrong in ("", "0" * 64, eve.csrf, stranger.csrf, "\ud83d".encode(errors="replace").decode()):
                answer = await ada.post(address(route), csrf=wrong)
                assert answer.status == 403, (route.path, wrong)
            for headers in ({"sec-fetch-site": "cross-site"}, {"sec-fetch-site": "same-site"}):
                assert (await ada.post(address(route), headers=headers)).status == 403, route.path
            answer = await ada.post(address(route), headers={"content-type": "text/plain"})
            assert answer.status == 400, route.path
            if route.who == "anyone":
                assert (await stranger.post(address(route), csrf=ada.csrf)).status == 403
        assert await gateway.table("select count(*) from audit_log") == before


async def test_asking_changes_nothing(tmp_path: Path) -> None:
    """Every page by GET, of things that are not there too: no row of the database is another afterwards."""
    async with open_site(tmp_path) as gateway:
        ada = await make_visitor(gateway, "ada", role="admin")
        names = [table for (table,) in await gateway.table("select name from sqlite_master where type = 'table' order by name")]
        tables = [table for table in names if not table.startswith("sqlite_")]
        before = [await gateway.table(f"select * from {table}") for table in tables]
        for route in ROUTES:
            if route.post and not route.get:
                assert (await ada.get(address(route))).status == 405, route.path
            elif route.get:
                assert (await ada.get(address(route))).status in (200, 303, 404), route.path
        assert [await gateway.table(f"select * from {table}") for table in tables] == before


@pytest.mark.parametrize("who", ["stranger", "ada"])
async def test_every_page_has_its_policy_and_nobody_keeps_it(who: str, tmp_path: Path) -> None:
    async with open_site(tmp_path) as gateway:
        visitor = Visitor(gateway) if who == "stranger" else await make_visitor(gateway, "ada", role="admin")
        for route in READ:
            answer = await visitor.get(address(route))
            assert answer.headers["cache-control"] == "no-store", route.path
            for header in ("content-security-policy", "x-content-type-options", "x-frame-options", "referrer-policy"):
                assert header in answer.headers, (route.path, header)
            assert b"style=" not in answer.body and b"<style" not in answer.body and b" onclick" not in answer.body


async def test_cookies_say_how_they_may_be_used(tmp_path: Path) -> None:
    async with open_site(tmp_path) as gateway:
        await make_visitor(gateway, "ada")
        visitor = Visitor(gateway)
        cookie = (await visitor.get("/login")).headers["set-cookie"]
        assert cookie.startswith("form=") and cookie.endswith("; Path=/; HttpOnly; SameSite=Lax")
        answer = await visitor.sign_in("ada")
        assert answer.headers["set-cookie"].startswith(("session=", "form="))
        assert set(visitor.cookies) == {"session"}
    (tmp_path / "tls").mkdir()
    async with open_site(tmp_path / "tls", '[server]\npublic_url = "https://gateway.example"\n') as gateway:
        visitor = Visitor(gateway)
        cookie = (await visitor.get("/login")).headers["set-cookie"]
        assert cookie.startswith("__Host-form=") and cookie.endswith("; Path=/; HttpOnly; SameSite=Lax; Secure")
        await make_visitor(gateway, "ada")
        await visitor.sign_in("ada")
        assert set(visitor.cookies) == {"__Host-session"}
        # What plain HTTP could have set opens nothing here.
        planted = Visitor(gateway, {"session": visitor.cookies["__Host-session"]})
        assert (await planted.get("/dashboard/settings")).status == 303
