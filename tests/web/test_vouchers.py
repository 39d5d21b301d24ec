"""The admin's vouchers: made in batches, shown once, void when the admin says so."""

from __future__ import annotations

import csv
import html
import io
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from gateway.money import parse_usd as usd
from gateway.web.admin import vouchers
from tests.desk_tools import act
from tests.fakes import FakeClock
from tests.gateway_tools import Answer, Gateway, open_gateway
from tests.web.scene import NOW_MS
from tests.web.test_wallet import NASTY, shown
from tests.web.tools import DEMO, Visitor, make_visitor

CODE = re.compile(r"[0-9A-Z]{4}(?:-[0-9A-Z]{4}){4}")


@asynccontextmanager
async def open_admin(folder: Path) -> AsyncIterator[tuple[Gateway, Visitor, FakeClock]]:
    clock = FakeClock(NOW_MS)
    async with open_gateway(folder, more=DEMO, clock=clock) as gateway:
        yield gateway, await make_visitor(gateway, "root", role="admin"), clock
        await gateway.assert_settled()


async def make(root: Visitor, **fields: str) -> tuple[str, Answer]:
    """(path of the batch, its page with the codes)"""
    answer = await root.post("/admin/vouchers", **{"batch": "spring", "count": "3", "amount": "5", "expires": "", **fields})
    assert answer.status == 303, shown(answer)
    return answer.headers["location"], await root.follow(answer)


async def test_a_batch_is_made_and_its_codes_are_shown_once(tmp_path: Path) -> None:
    async with open_admin(tmp_path) as (gateway, root, _):
        assert "No vouchers yet" in shown(await root.get("/admin/vouchers"))
        path, page = await make(root, amount="2.50", expires="90d")
        codes = CODE.findall(shown(page))
        assert len(set(codes)) == 3 and "Their codes are shown here, once." in shown(page)
        again = await root.get(path)
        assert CODE.findall(shown(again)) == [] and "Download CSV" not in shown(again)
        assert f"{codes[0][:4]}…" in shown(again) and "$7.50 3 codes until 18 Feb 2027 16:42" in shown(again)
        assert (await gateway.table("select actor, action from audit_log order by id desc limit 1")) == [
            ("web:root 127.0.0.1", "vouchers.create")
        ]
        stored = repr(await gateway.table("select * from audit_log"))
        assert not any(code in stored for code in codes)
        listed = shown(await root.get("/admin/vouchers"))
        assert "spring $2.50 each $2.50 0 of 3" in listed and "3 open" in listed


async def test_the_codes_as_a_file_once_and_for_who_made_them(tmp_path: Path) -> None:
    async with open_admin(tmp_path) as (gateway, root, clock):
        other = await make_visitor(gateway, "eve", role="admin")
        path, page = await make(root, batch="=cmd()", expires="90d")
        codes = CODE.findall(shown(page))
        for visitor in (other, await make_visitor(gateway, "ada")):
            assert b"-" not in (await visitor.post(f"{path}/codes.csv")).body[:5]
        answer = await root.post(f"{path}/codes.csv")
        assert answer.headers["content-disposition"] == 'attachment; filename="vouchers-1.csv"'
        rows = list(csv.DictReader(io.StringIO(answer.body.decode())))
        assert [row["code"] for row in rows] == codes
        assert rows[0] == {**rows[0], "amount_usd": "5.00", "expires_at": "2027-02-18T16:42:00Z", "batch": "'=cmd()"}
        refused = await root.follow(await root.post(f"{path}/codes.csv"))
        assert "they cannot be shown again" in shown(refused)
        path, _ = await make(root, batch="late")
        clock.advance(5 * 60_000)
        assert "they cannot be shown again" in shown(await root.follow(await root.post(f"{path}/codes.csv")))


@pytest.mark.parametrize(
    ("fields", "field", "words"),
    [
        ({"count": "0"}, "count", "Write a number from 1 to 1000."),
        ({"count": "1001"}, "count", "Write a number from 1 to 1000."),
        ({"count": "two"}, "count", "Write a number from 1 to 1000."),
        ({"count": "٣"}, "count", "Write a number from 1 to 1000."),
        ({"count": "9" * 40}, "count", "Write a number from 1 to 1000."),
        ({"amount": "x"}, "amount", "is not an amount"),
        ({"amount": "0"}, "amount", "is out of range"),
        ({"amount": "1e3"}, "amount", "is not an amount"),
        ({"amount": NASTY}, "amount", "is not an amount"),
        ({"batch": ""}, "batch", "Write 1 to 64 printable characters"),
        ({"batch": "b" * 65}, "batch", "Write 1 to 64 printable characters"),
        ({"batch": "taken"}, "batch", "There are vouchers of 'taken' already"),
        ({"expires": "soon"}, "expires", "Write a duration"),
    ],
)
async def test_what_is_refused_keeps_what_was_typed(tmp_path: Path, fields: dict[str, str], field: str, words: str) -> None:
    async with open_admin(tmp_path) as (gateway, root, _):
        await act(gateway.house, "vouchers.create", amount="1", batch="taken")
        typed = {"batch": f"for {NASTY}", "count": "7", "amount": "2.50", "expires": "30d", **fields}
        answer = await root.post("/admin/vouchers", **typed)
        assert answer.status == 400 and b"<img" not in answer.body
        assert words in shown(answer) and f'id="e-{field}"' in answer.body.decode()
        body = html.unescape(answer.body.decode())
        assert all(f'value="{value}"' in body for value in typed.values())
        assert await gateway.table("select count(*) from vouchers") == [(1,)]


async def test_a_batch_shows_what_became_of_its_codes(tmp_path: Path) -> None:
    async with open_admin(tmp_path) as (gateway, root, clock):
        path, page = await make(root, batch=NASTY, count="4", expires="12h")
        codes = CODE.findall(shown(page))
        await make_visitor(gateway, "ada")
        await act(gateway.house, "vouchers.redeem", user="ada", code=codes[0])
        question = await root.get("/admin/vouchers/2/void")
        assert "Void the voucher" in shown(question) and NASTY in shown(question) and f'href="{path}"' in question.body.decode()
        assert await gateway.table("select count(*) from vouchers where voided_at_ms is not null") == [(0,)]
        done = await root.follow(await root.post("/admin/vouchers/2/void"))
        assert "Voucher void." in shown(done) and "Redeemed by ada" in shown(done)
        assert "It was void already." in shown(await root.follow(await root.post("/admin/vouchers/2/void")))
        refused = await root.follow(await root.post("/admin/vouchers/1/void"))
        assert "Nothing was changed: voucher 1 was redeemed by ada already." in shown(refused)
        page = await root.get("/admin/vouchers/3")  # any of its vouchers leads to the batch
        assert b"<img" not in page.body and "Redeemed $5.00 1 of 4 codes" in shown(page) and "Void $5.00 1 code" in shown(page)
        listed = await root.get("/admin/vouchers")
        assert b"<img" not in listed.body and NASTY in shown(listed) and "1 of 4" in shown(listed) and "1 void" in shown(listed)
        assert "2 of 4 vouchers are open" in shown(await root.get(f"{path}/void-batch"))
        clock.advance(12 * 3_600_000 - 1)
        root = await visit(gateway, "root")
        assert "Expired" not in shown(await root.get(path))
        clock.advance(1)
        assert "Expired" in shown(await root.get(path)) and "Expired" in shown(await root.get("/admin/vouchers"))
        assert "Batch void" in shown(await root.follow(await root.post(f"{path}/void-batch")))
        assert "Nothing was open." in shown(await root.follow(await root.post(f"{path}/void-batch")))
        assert await gateway.table("select count(*) from vouchers where voided_at_ms is not null") == [(3,)]
        assert sum(wallet.balance_nanos for wallet in gateway.house.desk.book.wallets()) == usd("25")


async def visit(gateway: Gateway, name: str) -> Visitor:
    visitor = Visitor(gateway)
    await visitor.sign_in(name)
    await visitor.get("/dashboard/settings")
    return visitor


async def test_what_is_not_there(tmp_path: Path) -> None:
    async with open_admin(tmp_path) as (_, root, _):
        for path in (
            "/admin/vouchers/1",
            "/admin/vouchers/0",
            "/admin/vouchers/x",
            f"/admin/vouchers/{2**63}",
            f"/admin/vouchers/{2**63 - 1}",
        ):
            for end in ("", "/void", "/void-batch"):
                assert (await root.get(path + end)).status == 404, path + end
        for end in ("/void", "/void-batch"):
            assert (await root.post(f"/admin/vouchers/1{end}")).status == 404


async def test_many_are_shown_a_page_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vouchers, "PAGE", 2)
    async with open_admin(tmp_path) as (_, root, _):
        for number in range(5):
            path, _ = await make(root, batch=f"batch {number}", count="3")
        for start, name in (("/admin/vouchers", rb'scope="row"'), (path, rb'<th scope="row"><code>')):
            seen, at = 0, start
            while True:
                page = await root.get(at)
                seen += len(re.findall(name, page.body))
                found = re.search(rb'rel="next" href="([^"]+)"', page.body)
                assert (b'rel="prev"' in page.body) == (at != start)
                if not found:
                    break
                at = found.group(1).decode()
            assert seen == (5 if start == "/admin/vouchers" else 3)
        assert (await root.get("/admin/vouchers?before=x")).status == 200
