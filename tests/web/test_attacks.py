"""What somebody does to these pages on purpose: everything at once, over real sockets, and beside what forms would send."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from gateway.access import Own, hash_secret
from gateway.desk import requests
from gateway.ids import render_id
from gateway.storage.keys import insert_key, revoke_key
from gateway.storage.ledger import LedgerWriter
from tests.desk_tools import act
from tests.gateway_tools import Gateway
from tests.web.scene import open_scene
from tests.web.tools import Visitor, look, make_visitor, open_site

AT_ONCE = 30


async def test_whoever_asks_for_everything_at_once_waits_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Ada's looks take long; Bob's pages and files come, strangers sign in, and the names of providers are found."""
    go_on = threading.Event()
    list_csv = requests.list_csv

    def hold(*arguments: Any, **options: Any) -> Any:
        if options.get("user_id") == of_bob:
            return list_csv(*arguments, **options)
        go_on.wait(10)
        raise LookupError("held")

    async with open_site(tmp_path) as gateway:
        ada, bob = await make_visitor(gateway, "ada"), await make_visitor(gateway, "bob")
        of_bob = await _id_of(gateway, "bob")
        monkeypatch.setattr("gateway.web.dashboard.overview.read_figures", hold)
        monkeypatch.setattr("gateway.desk.requests.list_csv", hold)
        paths = ("/dashboard", "/dashboard/live", "/dashboard/usage.csv")
        asked = [asyncio.ensure_future(ada.get(path)) for path in paths for _ in range(AT_ONCE)]
        await asyncio.sleep(1)  # all of them wait by now
        try:
            async with asyncio.timeout(5):
                assert (await bob.get("/dashboard/keys")).status == 200
                assert (await bob.get("/dashboard/usage.csv")).status == 200
                assert (await Visitor(gateway).sign_in("bob")).status == 303
                await asyncio.get_running_loop().getaddrinfo("localhost", 80)
        finally:
            go_on.set()
            await asyncio.gather(*asked)


async def test_too_much_of_ones_own_is_refused_in_time(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    go_on = threading.Event()
    monkeypatch.setattr("gateway.desk.readers.WAIT_S", 0.2)

    async with open_site(tmp_path) as gateway:
        ada = await make_visitor(gateway, "ada")
        held = asyncio.ensure_future(gateway.house.desk.readers.run(lambda: go_on.wait(10), (await _id_of(gateway, "ada"))))
        await asyncio.sleep(0.05)
        answer = await ada.get("/dashboard")
        assert answer.status == 503 and answer.headers["retry-after"] == "5"
        go_on.set()
        await held
        assert (await ada.get("/dashboard")).status == 200


async def _id_of(gateway: Gateway, name: str) -> int:
    [(user_id,)] = await gateway.table(f"select id from users where name = '{name}'")
    return int(user_id)


@pytest.mark.parametrize(
    ("public_url", "planted"),
    [
        ("", "session={mallory}; session={ada}"),
        ("https://ai.example", "session={mallory}; __Host-session={ada}; session={mallory}"),
    ],
)
async def test_a_cookie_that_another_host_planted_names_nobody(public_url: str, planted: str, tmp_path: Path) -> None:
    more = f'[server]\npublic_url = "{public_url}"\n' if public_url else ""
    async with open_site(tmp_path, more) as gateway:
        mallory, ada = await make_visitor(gateway, "mallory"), await make_visitor(gateway, "ada-lovelace")
        [of_mallory], [of_ada] = mallory.cookies.values(), ada.cookies.values()
        for path in ("/dashboard/settings", "/models", "/dashboard/keys/999"):
            page = await look(gateway, path, {"cookie": planted.format(mallory=of_mallory, ada=of_ada)})
            assert b"ada-lovelace" in page.body and b"mallory" not in page.body, path


async def test_forms_sent_many_times_at_once_move_their_money_once(tmp_path: Path) -> None:
    async with open_scene(tmp_path) as scene:
        gateway = scene.gateway
        root, ines, tide = [await scene.visitor(name) for name in ("root", "ines", "tidewater")]
        user = f"/admin/users/{await _id_of(gateway, 'ines')}"
        [(paid,)] = await gateway.table(
            "select u.request_id from usage as u join keys as k on k.id = u.key_id join users as p on p.id = k.user_id "
            "where p.name = 'ines' and u.cost_nanos > 1000000 limit 1"
        )
        made = await act(gateway.house, "vouchers.create", count=1, amount="7", batch="race")
        code = made["vouchers"][0]["code"]
        before = dict(await gateway.table("select kind, sum(amount_nanos) from transfers group by kind"))

        async def send(path: str, visitor: Visitor = root, **fields: str) -> int:
            return (await visitor.post(path, **fields)).status

        sent: list[Any] = []
        for _ in range(AT_ONCE):
            sent.append(send(f"{user}/topup", amount="3", reference="race-1"))
            sent.append(send(f"{user}/withdraw", amount="2", reference="race-2"))
            sent.append(send(f"{user}/refund", request=render_id(paid)))
            sent.append(send(f"{user}/refund", request=render_id(paid), amount="0.0005", number="1"))
            sent += [send("/dashboard/wallet", visitor, code=code) for visitor in (ines, tide)]
        assert set(await asyncio.gather(*sent)) <= {303, 400, 429}
        after = dict(await gateway.table("select kind, sum(amount_nanos) from transfers group by kind"))
        moved = {kind: after[kind] - before.get(kind, 0) for kind in after if after[kind] != before.get(kind, 0)}
        [(cost,)] = await gateway.table(f"select cost_nanos from usage where request_id = {paid}")
        assert moved["deposit"] == 3_000_000_000 and moved["withdraw"] == 2_000_000_000 and moved["promo"] == 7_000_000_000
        assert moved["refund"] <= cost


async def test_no_more_keys_than_the_most_however_they_are_asked_for(tmp_path: Path) -> None:
    async with open_site(tmp_path) as gateway:
        ada = await make_visitor(gateway, "ada")
        made = await asyncio.gather(*(ada.post("/dashboard/keys", name=f"key {number}") for number in range(AT_ONCE)))
        assert Counter(answer.status for answer in made) == {303: 20, 400: AT_ONCE - 20}
        [(key_id,)] = await gateway.table("select id from keys limit 1")
        rotated = await asyncio.gather(*(ada.post(f"/dashboard/keys/{key_id}/rotate", grace="24h") for _ in range(AT_ONCE)))
        assert Counter(answer.status for answer in rotated) == {303: 1, 400: AT_ONCE - 1}


async def test_a_script_does_not_fill_the_audit_log(tmp_path: Path) -> None:
    """What is written down for ever has its pace, also of who may do it."""
    async with open_site(tmp_path) as gateway:
        ada = await make_visitor(gateway, "ada")
        await ada.post("/dashboard/keys", name="laptop")
        [(key_id,)] = await gateway.table("select id from keys")
        edited = await asyncio.gather(*(ada.post(f"/dashboard/keys/{key_id}/edit", name=f"{number}") for number in range(80)))
        assert Counter(answer.status for answer in edited) == {303: 60, 429: 20}
        assert {answer.headers["retry-after"] for answer in edited if answer.status == 429} == {"1"}
        rows = await gateway.table("select count(*) from audit_log")
        for _ in range(3):
            assert (await ada.post("/dashboard/settings/sessions/end-others")).status == 303
        assert await gateway.table("select count(*) from audit_log") == rows
        gate, now_ms = gateway.house.desk.gate, gateway.house.desk.clock.now_ms()
        for _ in range(60):
            gate.let_in("127.0.0.1", "ada", now_ms)
        assert (await Visitor(gateway).sign_in("ada")).status == 429
        assert (await Visitor(gateway).sign_in("bob")).status == 400  # nobody, and not slowed down


async def test_years_of_dead_keys_make_no_page_long(tmp_path: Path) -> None:
    async with open_site(tmp_path) as gateway:
        ada, root = await make_visitor(gateway, "ada"), await make_visitor(gateway, "root", role="admin")
        user_id = await _id_of(gateway, "ada")

        def rotate(ledger: LedgerWriter) -> None:
            at: dict[str, Any] = {"user_id": user_id, "own": Own(), "expires_at_ms": None, "at_ms": 1}
            before: int | None = None
            for number in range(1_000):
                secret = hash_secret(str(number))
                now = insert_key(ledger.conn, name=f"n{number}", secret_hash=secret, hint="sk-", rotated_from=before, **at)
                if before is not None:
                    revoke_key(ledger.conn, before, 2)
                before = now

        await gateway.house.writer.run(rotate)
        [(oldest, newest)] = await gateway.table("select min(id), max(id) from keys")
        page = (await ada.get(f"/dashboard/usage?key={oldest}")).body
        assert page.count(b"<option") < 250 and b">n0<" in page and b">n999<" in page
        page = (await root.get(f"/admin/users/{user_id}")).body
        assert b"800 older keys are not shown" in page and f"/keys/{newest}/revoke".encode() in page
        assert (await ada.post(f"/dashboard/keys/{oldest}/rotate", grace="0")).status == 400
        assert (await ada.post(f"/dashboard/keys/{newest}/rotate", grace="0")).status == 303


async def test_a_file_ends_with_the_session(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Whoever is signed out everywhere, as their cookie was stolen, is so in the middle of a download too."""
    monkeypatch.setattr(requests, "CSV_ROWS", 20)
    async with open_scene(tmp_path) as scene:
        ines, sessions, list_csv = await scene.visitor("ines"), scene.gateway.house.desk.sessions, requests.list_csv
        whole = await ines.get("/dashboard/usage.csv?time=30d")
        assert not whole.cut and whole.body.count(b"\r\n") > 100

        def sign_out(*arguments: Any, **options: Any) -> Any:
            if options["before_id"] is not None:
                sessions.drop_user(options["user_id"])
            return list_csv(*arguments, **options)

        monkeypatch.setattr(requests, "list_csv", sign_out)
        told = {"cookie": f"session={ines.cookies['session']}"}
        part = await scene.gateway.request("GET", "/dashboard/usage.csv?time=30d", headers=told)
        assert part.cut and part.body.count(b"\r\n") <= 41
