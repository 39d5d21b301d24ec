"""The audit log as a page: who did what, newest first, found by who, what, about whom and when."""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Any

import pytest

from gateway.desk.audit import ENTRIES_DEFAULT
from gateway.web.admin.audit import Change, changes
from tests.desk_tools import act
from tests.fakes import FakeClock
from tests.gateway_tools import Answer, open_gateway
from tests.signin_tools import PASSWORD, add_app, enter
from tests.web.tools import DEMO, make_visitor, open_site

DAY_MS = 86_400_000


def entries(answer: Answer) -> list[str]:
    """Such as "users.create user:ada", in the order of the page."""
    rows = re.findall(r'<tr id="a\d+">(.*?)</tr>', answer.body.decode(), re.DOTALL)
    return [" ".join(html.unescape(text) for text in re.findall(r"<a [^>]*>([^<]*)</a>", row)[:2]) for row in rows]


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("subject=user:ada&action=users", ["users.disable user:ada", "users.create user:ada"]),
        ("action=users.disable", ["users.disable user:ada"]),
        ("actor=web:root&action=wallets", ["wallets.freeze user:ada"]),
        ("actor=web:roo", []),
        ("actor=web:root+127.0.0.1&action=wallets", ["wallets.freeze user:ada"]),
        ("day=2026-06-01&action=users.disable", ["users.disable user:ada"]),
        ("day=2026-06-01&action=users.create", []),
        ("day=2026-05-31&action=users.create", []),
        ("action=%25", []),
        ("subject=user:nobody", []),
    ],
)
async def test_entries_are_found_by_who_what_about_whom_and_when(query: str, found: list[str], tmp_path: Path) -> None:
    clock = FakeClock()  # 28 May 2026
    async with open_gateway(tmp_path, more=DEMO, clock=clock) as gateway:
        root = await make_visitor(gateway, "root", role="admin", balance="0")
        await act(gateway.house, "users.create", name="ada")
        await root.post("/admin/users/2/freeze")
        clock.wall_ms += 4 * DAY_MS
        await act(gateway.house, "users.disable", user="ada")
        await root.sign_in("root")  # the session of four days ago is over
        answer = await root.get("/admin/audit?" + query)
        assert answer.status == 200 and entries(answer) == found
        assert found or "Nothing of this kind was done" in answer.body.decode()


async def test_the_log_comes_page_by_page_each_entry_once(tmp_path: Path) -> None:
    async with open_site(tmp_path) as gateway:
        root = await make_visitor(gateway, "root", role="admin", balance="0")
        for number in range(2 * ENTRIES_DEFAULT + 10):
            await act(gateway.house, "users.create", name=f"user-{number:03}")
        seen: list[str] = []
        path = "/admin/audit?action=users.create"
        for _ in range(4):
            answer = await root.get(path)
            seen += entries(answer)
            more = re.search(r'<a href="([^"]*)" rel="next"', answer.body.decode())
            if more is None:
                break
            path = html.unescape(more.group(1))
        assert len(seen) == len(set(seen)) == 2 * ENTRIES_DEFAULT + 11
        assert seen[:2] == ["users.create user:user-109", "users.create user:user-108"] and seen[-1] == "users.create user:root"
        assert "Newest" in answer.body.decode()


@pytest.mark.parametrize("query", ["day=yesterday", "day=2026-02-30", "day=2026-11-20T00:00:00Z"])
async def test_a_day_that_is_none_is_told_beside_its_field(query: str, tmp_path: Path) -> None:
    async with open_site(tmp_path) as gateway:
        root = await make_visitor(gateway, "root", role="admin", balance="0")
        answer = await root.get(f"/admin/audit?{query}&actor=web:root")
        assert answer.status == 400 and 'id="e-day"' in answer.body.decode() and 'value="web:root"' in answer.body.decode()


async def test_what_is_no_number_leads_to_the_newest(tmp_path: Path) -> None:
    async with open_site(tmp_path) as gateway:
        root = await make_visitor(gateway, "root", role="admin", balance="0")
        for before in ("x", "0", "-1", "9" * 30, "%F0%9F"):
            answer = await root.get(f"/admin/audit?before={before}")
            assert answer.status == 200 and entries(answer)[-1] == "users.create user:root", before


async def test_nothing_secret_is_in_it(tmp_path: Path) -> None:
    async with open_site(tmp_path, '[web]\nsignup = "invite"\n') as gateway:
        house = gateway.house
        root = await make_visitor(gateway, "root", role="admin", balance="0")
        await act(house, "users.create", name="ada")
        await act(house, "users.set_password", user="ada", password=PASSWORD)
        signed_in = await enter(house, "ada")
        _, codes = await add_app(house, signed_in)
        made: list[dict[str, Any]] = [
            await act(house, "keys.create", user="ada"),
            await act(house, "admin_keys.create", name="deploy"),
            await act(house, "users.create_link", user="ada"),
            await act(house, "invites.create"),
            *(await act(house, "vouchers.create", amount="5", batch="b", count=2))["vouchers"],
        ]
        secrets = [
            signed_in.token,
            PASSWORD,
            *codes,
            *(each[name] for each in made for name in ("secret", "token", "code") if name in each),
        ]
        assert len(secrets) == 2 + len(codes) + 6
        page = (await root.get("/admin/audit")).body.decode()
        assert "users.create_link" in page and "vouchers.create" in page
        for secret in secrets:
            assert secret not in page and secret.replace("-", "") not in page


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        (None, None, []),
        ({"frozen": False}, {"frozen": True}, [("frozen", "no", "yes")]),
        ({"low_balance_nanos": None}, {"low_balance_nanos": 1_500_000_000}, [("low balance", "—", "$1.500000000")]),
        ({"revoked_at_ms": None}, {"revoked_at_ms": 0}, [("revoked", "—", "1970-01-01 00:00:00 UTC")]),
        (None, {"note": "", "models": None, "models2": [], "count": 0}, [("count", None, "0")]),
        ({"models": ["a", "b"]}, {"models": None}, [("models", "a, b", "—")]),
        (None, {"spend_per_day": "10.00", "spend_total": None}, [("spend per day", None, "$10.00")]),
        (None, {"nested": {"a": [1]}}, [("nested", None, '{"a": [1]}')]),
    ],
)
def test_a_change_is_told_in_words(before: Any, after: Any, told: list[tuple[str, str | None, str | None]]) -> None:
    assert changes({"before": before, "after": after}) == [Change(*each) for each in told]
