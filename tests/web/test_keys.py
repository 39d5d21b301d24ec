"""/dashboard/keys: made, shown once, used, changed, rotated, revoked; and whose they are."""

from __future__ import annotations

import html
import logging
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from markupsafe import escape

from gateway.web.manual import TITLES, USES
from gateway.web.markdown import fences
from tests.desk_tools import act
from tests.fakes import FakeClock
from tests.gateway_tools import Answer, Gateway, open_gateway
from tests.web.scene import open_scene
from tests.web.tools import DEMO, Visitor, make_visitor, open_site

SONNET, HAIKU = "claude-sonnet-5-5", "claude-haiku-5-5"
PATH = "/dashboard/keys"
NASTY = "<img src=x onerror=alert(1)>\"'"
PLAN = f"""
[plans.default]
rpm = 60
spend_per_day = "10"
models = ["{SONNET}", "{HAIKU}"]
keys_expire = "90d"
"""


@asynccontextmanager
async def ada_at(folder: Path, more: str = "") -> AsyncIterator[tuple[Gateway, Visitor]]:
    async with open_site(folder, more) as gateway:
        ada = await make_visitor(gateway, "ada")
        await ada.get(PATH)
        yield gateway, ada


async def create(visitor: Visitor, **fields: str) -> tuple[int, str, Answer]:
    """(id, secret, the page that shows it)"""
    answer = await visitor.post(PATH, **{"name": "laptop", **fields})
    shown = await visitor.follow(answer)
    found = re.search(r'<code id="secret">([^<]+)</code>', text_of(shown))
    assert found is not None, text_of(shown)
    return int(answer.headers["location"].rsplit("/", 1)[1]), found.group(1), shown


def text_of(answer: Answer) -> str:
    return html.unescape(answer.body.decode())


def rest_of(text: str, secret: str) -> str:
    """What nobody but the secret's holder knows of it."""
    return secret[20:] if secret in text or secret[20:] in text else "nothing of it"


async def ask(gateway: Gateway, secret: str, **fields: Any) -> Answer:
    return await gateway.ask(SimpleNamespace(secret=secret), **fields)  # type: ignore[arg-type]


async def test_from_the_form_to_the_first_answer(tmp_path: Path) -> None:
    async with ada_at(tmp_path) as (gateway, ada):
        assert "No key yet" in text_of(await ada.get(PATH))
        key_id, secret, _ = await create(ada)
        assert (await ask(gateway, secret)).status == 200
        await gateway.assert_settled()
        page = text_of(await ada.get(PATH))
        assert "laptop" in page and secret[:17] + "…" in page and "1 request<" in page and "Active" in page
        assert f'href="/dashboard/usage?key={key_id}"' in page
        [(action, actor)] = await gateway.table("select action, actor from audit_log where action like 'keys.%'")
        assert action == "keys.create" and actor == "web:ada 127.0.0.1"


async def test_a_secret_is_seen_once_and_is_nowhere_else(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with ada_at(tmp_path) as (gateway, ada):
        key_id, first, shown = await create(ada)
        answer = await ada.post(f"{PATH}/{key_id}/rotate", grace="1h")
        shown_again = await ada.follow(answer)
        second = re.search(r'<code id="secret">([^<]+)</code>', text_of(shown_again))
        assert second is not None and second.group(1) != first
        for secret, page in ((first, shown), (second.group(1), shown_again)):
            assert page.headers["cache-control"] == "no-store"
            assert secret in text_of(page) and len(secret) == len("sk-pgrid-") + 64
        for secret in (first, second.group(1)):
            for path in (PATH, f"{PATH}/{key_id}", answer.headers["location"], f"{PATH}/{key_id}/revoke", "/docs/claude-code"):
                assert rest_of(text_of(await ada.get(path)), secret) == "nothing of it", path
            names = [name for (name,) in await gateway.table("select name from sqlite_master where type = 'table'")]
            for name in names:
                assert rest_of(repr(await gateway.table(f"select * from {name}")), secret) == "nothing of it", name
            assert rest_of(caplog.text, secret) == "nothing of it"


async def test_the_panel_is_the_docs_filled_in(tmp_path: Path) -> None:
    """Each piece of code beside a new key stands in the docs, word for word; and the secret stands where the key does."""
    async with ada_at(tmp_path) as (gateway, ada):
        _, secret, shown = await create(ada)
        docs = {slug: (await gateway.get(None, f"/docs/{slug}.md")).body.decode() for slug in TITLES}
        page = shown.body.decode()
        panels = re.split(r'<input type="radio" name="use"', page)[1:]
        assert [re.findall(r"<label[^>]*>([^<]+)<", panel)[0] for panel in panels] == [use[0] for use in USES]
        for panel, (label, slug, _) in zip(panels, USES, strict=True):
            written = [text.strip() for _, text in fences(docs[slug])]
            blocks = re.findall(r"<pre[^>]*><code>(.*?)</code></pre>", panel, re.DOTALL)
            codes = [html.unescape(re.sub(r"</?b[^>]*>", "", block)) for block in blocks]
            assert all(code.replace(secret, "sk-pgrid-YOUR-KEY") in written for code in codes), label
            assert len(set(re.findall(r'data-copy="([^"]+)"', panel))) == len(codes)
            counts = {"Claude Code": 4, "Cline": 3, "Roo Code": 3, "Codex": 0, "Python": 2}
            assert len(codes) == counts.get(label, 1), label
            if codes:
                assert any(secret in code for code in codes) and any(gateway.url in code for code in codes)
        codex = next(panel for panel in panels if ">Codex<" in panel)
        assert "OpenAI's Responses" in html.unescape(codex) and secret not in codex
        # A key that may not use the docs' example is shown one that it may.
        haiku = (await create(ada, which="some", **{f"model.{HAIKU}": "on"}))[2].body.decode().partition('id="use"')[2]
        assert SONNET in page.partition('id="use"')[2] and SONNET not in haiku and haiku.count(HAIKU) > 8
        ids = re.findall(r' id="([^"]+)"', page)
        assert len(ids) == len(set(ids)) and "YOUR-KEY" not in page and "pagegrid.invalid" not in page


async def test_what_is_typed_becomes_the_keys_terms(tmp_path: Path) -> None:
    async with ada_at(tmp_path, "[plans.default]\nrpm = 6000\n") as (gateway, ada):
        fields = {"rpm": "5,000", "tpm": "9", "concurrent": "2", "requests_per_day": "7", "tokens_per_month": "1000"}
        money = {"spend_per_day": "10", "spend_per_month": "$10.50", "spend_total": "0.000000001"}
        more = {"which": "some", f"model.{HAIKU}": "on", "addresses": "127.0.0.1, 10.0.0.0/8", "expires": "7d"}
        key_id, secret, _ = await create(ada, **fields, **money, **more)
        shown = await act(gateway.house, "keys.show", key_id=key_id)
        wanted = {name: int(text.replace(",", "")) for name, text in fields.items()}
        assert {name: shown[name] for name in fields} == wanted
        assert [shown[name] for name in money] == ["10.00", "10.50", "0.000000001"]
        assert (shown["models"], shown["addresses"]) == ([HAIKU], ["127.0.0.1/32", "10.0.0.0/8"])
        assert (await ask(gateway, secret)).status == 403
        # The form of a change shows all of it.
        page = text_of(await ada.get(f"{PATH}/{key_id}/edit"))
        for name, value in {**wanted, "spend_per_month": "10.50", "addresses": "127.0.0.1/32 10.0.0.0/8"}.items():
            assert f'name="{name}" value="{value}"' in page
        assert f'name="model.{HAIKU}" checked' in page and f'name="model.{SONNET}" checked' not in page
        assert 'value="some" checked' in page
        # Sent as it is, nothing changes; left empty, all is the plan's.
        same = {"name": "laptop", **{name: str(shown[name]) for name in (*fields, *money)}, **more}
        await ada.post(f"{PATH}/{key_id}/edit", **same)
        assert await act(gateway.house, "keys.show", key_id=key_id) == shown
        await ada.post(f"{PATH}/{key_id}/edit", name="new name")
        shown = await act(gateway.house, "keys.show", key_id=key_id)
        assert all(shown[name] is None for name in (*fields, *money, "models", "addresses")) and shown["name"] == "new name"
        assert (await ask(gateway, secret)).status == 200
        await gateway.assert_settled()


REFUSALS: list[tuple[dict[str, str], str, str]] = [
    ({"name": "x" * 65}, "name", "Write 1 to 64 printable characters"),
    ({"name": "a\tb"}, "name", "Write 1 to 64 printable"),
    ({"rpm": "sixty"}, "rpm", "Write a whole number such as 60"),
    ({"rpm": "-1"}, "rpm", "Write a whole number"),
    ({"rpm": "1.5"}, "rpm", "Write a whole number"),
    ({"rpm": "٣"}, "rpm", "Write a whole number"),
    ({"rpm": "61"}, "rpm", "You were given 60; write that or less"),
    ({"rpm": "0"}, "rpm", "You were given 60"),
    ({"tpm": "9999999999999"}, "tpm", "Write a whole number from 1"),
    ({"spend_per_day": "ten"}, "spend_per_day", "'ten' is not an amount"),
    ({"spend_per_day": "10.01"}, "spend_per_day", "You were given $10.00"),
    ({"spend_total": "-1"}, "spend_total", "is not an amount"),
    ({"spend_total": "9" * 12}, "spend_total", "Write at most"),
    ({"which": "some"}, "models", "Tick at least one model"),
    ({"which": "some", "model.claude-opus-5-5": "on"}, "models", "This key may not have claude-opus-5-5"),
    ({"which": "some", f"model.{NASTY}": "on"}, "models", "is not offered here"),
    ({"addresses": "here"}, "addresses", "Write addresses or CIDR ranges"),
    ({"addresses": "10.0.0.1/8"}, "addresses", "without bits beyond"),
]
OF_NEW_KEYS: list[tuple[dict[str, str], str, str]] = [
    ({"expires": "soon"}, "expires", "Write a duration"),
    ({"expires": "365d"}, "expires", "Your plan lets a key live for 90d at most"),
    ({"expires": "never"}, "expires", "Your plan lets"),
]


async def test_every_refusal_stands_beside_its_field_with_what_was_typed(tmp_path: Path) -> None:
    async with ada_at(tmp_path, PLAN) as (gateway, ada):
        key_id, _, _ = await create(ada)
        before = await gateway.table("select * from keys"), await gateway.table("select count(*) from audit_log")
        cases = [(PATH, case) for case in (*REFUSALS, *OF_NEW_KEYS)] + [(f"{PATH}/{key_id}/edit", case) for case in REFUSALS]
        for path, (fields, field, words) in cases:
            typed = {"name": NASTY, "tokens_per_month": "12", "addresses": "10.0.0.1", **fields}
            answer = await ada.post(path, **typed)
            page = answer.body.decode()
            assert answer.status == 400, (path, fields)
            beside = re.search(rf'id="e-{field}"[^>]*>(?:<svg.*?</svg>)?(.*?)</p>', page)
            assert beside is not None and words in html.unescape(beside.group(1)), (path, fields, beside)
            assert f'<a href="#f-{field}">' in page and f'id="f-{field}"' in page
            for name, text in typed.items():
                if name not in ("which", "expires") and not name.startswith("model."):
                    assert f'name="{name}"' in page and f'value="{escape(text)}"' in page, (path, name)
            assert "<img" not in page and (path != PATH or '<details class="disc" open>' in page)
        assert (await gateway.table("select * from keys"), await gateway.table("select count(*) from audit_log")) == before


async def test_all_that_is_wrong_is_told_at_once(tmp_path: Path) -> None:
    async with ada_at(tmp_path) as (_, ada):
        page = text_of(await ada.post(PATH, name="x", rpm="many", spend_per_day="ten", which="some"))
        for field in ("rpm", "spend_per_day", "models"):
            assert f'<a href="#f-{field}">' in page and f'id="e-{field}"' in page


async def test_what_the_plan_gives_is_said(tmp_path: Path) -> None:
    async with ada_at(tmp_path, PLAN) as (gateway, ada):
        page = text_of(await ada.get(PATH))
        assert "Empty: 60, as your plan has it" in page and "Empty: $10.00, as your plan has it" in page
        assert "Empty: no limit, as your plan has it" in page and "After 90d, as your plan has it" in page
        assert "In a year" not in page and "claude-opus-5-5" not in page and f"model.{HAIKU}" in page
        made = await act(gateway.house, "keys.create", user="ada", rpm=5)
        assert "Empty: 5, as the operator set it" in text_of(await ada.get(f"{PATH}/{made['id']}/edit"))
        answer = await ada.post(f"{PATH}/{made['id']}/edit", name="x", rpm="6")
        assert answer.status == 400 and "You were given 5" in text_of(answer)


async def test_a_rotation_lets_the_old_secret_live_for_its_grace(tmp_path: Path) -> None:
    clock = FakeClock()
    async with open_gateway(tmp_path, more=DEMO, clock=clock) as gateway:
        ada = await make_visitor(gateway, "ada")
        await ada.get(PATH)
        old_id, old, _ = await create(ada, rpm="7")
        answer = await ada.post(f"{PATH}/{old_id}/rotate", grace="1h")
        new_id = int(answer.headers["location"].rsplit("/", 1)[1])
        shown = text_of(await ada.follow(answer))
        new = re.findall(r'<code id="secret">([^<]+)</code>', shown)[0]
        assert "Key rotated." in shown and old_id != new_id
        assert (await ask(gateway, old)).status == (await ask(gateway, new)).status == 200
        page = text_of(await ada.get(PATH))
        assert f"by {new[:17]}…, works until" in page and f"{PATH}/{old_id}/rotate" not in page
        await gateway.assert_settled()
        clock.advance(3_600_000)
        assert (await ask(gateway, old)).status == 401 and (await ask(gateway, new)).status == 200
        assert "1 revoked, replaced or expired" in text_of(await ada.get(PATH))
        for grace in ("", "30d", "-1"):
            assert (await ada.post(f"{PATH}/{new_id}/rotate", grace=grace)).status == 400
        await ada.follow(await ada.post(f"{PATH}/{new_id}/rotate", grace="0"))
        assert (await ask(gateway, new)).status == 401
        await gateway.assert_settled()


async def test_a_revoked_key_is_dead_at_once(tmp_path: Path) -> None:
    async with ada_at(tmp_path) as (gateway, ada):
        key_id, secret, _ = await create(ada, name=NASTY)
        question = text_of(await ada.get(f"{PATH}/{key_id}/revoke"))
        assert f"Revoke “{NASTY}”?" in question and "cannot be undone" in question
        assert (await ask(gateway, secret)).status == 200
        told = text_of(await ada.follow(await ada.post(f"{PATH}/{key_id}/revoke")))
        assert "Key revoked" in told and "1 revoked" in told and "No key in use" in told
        assert (await ask(gateway, secret)).status == 401
        assert "dead before" in text_of(await ada.follow(await ada.post(f"{PATH}/{key_id}/revoke")))
        for path in ("edit", "rotate"):
            assert (await ada.get(f"{PATH}/{key_id}/{path}")).status == 400
            assert (await ada.post(f"{PATH}/{key_id}/{path}", name="x", grace="0")).status == 400
        assert (await ada.get(f"{PATH}/{key_id}")).status == 200
        await gateway.assert_settled()


async def test_anothers_key_is_not_there(tmp_path: Path) -> None:
    async with ada_at(tmp_path) as (gateway, ada):
        eve = await make_visitor(gateway, "eve", role="admin")
        key_id, secret, _ = await create(ada)
        await eve.get(PATH)
        before = await gateway.table("select * from keys"), await gateway.table("select count(*) from audit_log")
        nothing = len((await eve.get(f"{PATH}/999999")).body)
        for wanted in (key_id, 0, 2**63 - 1, 2**63, "x", "-1", "1e3"):
            for path in ("", "/edit", "/rotate", "/revoke"):
                answer = await eve.get(f"{PATH}/{wanted}{path}")
                assert answer.status == 404, (wanted, path)
                assert len(answer.body) == nothing or wanted != key_id
                if path:
                    assert (await eve.post(f"{PATH}/{wanted}{path}", name="mine", grace="0")).status == 404
        assert secret[:17] not in text_of(await eve.get(PATH))
        assert (await gateway.table("select * from keys"), await gateway.table("select count(*) from audit_log")) == before
        assert (await ask(gateway, secret)).status == 200


async def test_a_name_stays_a_name(tmp_path: Path) -> None:
    async with ada_at(tmp_path) as (_, ada):
        key_id, _, shown = await create(ada, name=NASTY)
        pages = [
            await ada.get(path) for path in (PATH, *(f"{PATH}/{key_id}{path}" for path in ("", "/edit", "/rotate", "/revoke")))
        ]
        for page in (shown, *pages, await ada.get("/docs/sdks")):
            assert page.status == 200 and b"<img" not in page.body and NASTY in text_of(page)


async def test_where_a_key_stands(tmp_path: Path) -> None:
    """States with their causes, and limits with what is used of them."""
    clock = FakeClock()
    async with open_gateway(tmp_path, more=DEMO, clock=clock) as gateway:
        ada = await make_visitor(gateway, "ada")
        await ada.get(PATH)
        _, slow, _ = await create(ada, name="slow", rpm="1")
        _, few, _ = await create(ada, name="few", requests_per_day="1")
        await create(ada, name="short", expires="1d")
        for secret in (slow, few):
            assert (await ask(gateway, secret)).status == 200
        rows = {name: row for row in rows_of(await ada.get(PATH)) for name in ("slow", "few", "short") if f">{name}<" in row}
        assert "At its limit" in rows["slow"] and "1 a minute used up, all free again in" in rows["slow"]
        assert "1 of 1 request today, until" in rows["few"] and 'class="v hi" width="100%"' in rows["few"]
        assert "Active" in rows["short"] and "expires" in rows["short"] and "never" in rows["short"]
        await gateway.assert_settled()
        clock.advance(86_400_000)
        ada = Visitor(gateway)
        await ada.sign_in("ada")
        rows = {name: row for row in rows_of(await ada.get(PATH)) for name in ("slow", "few", "short") if f">{name}<" in row}
        assert "Active" in rows["slow"] and "Active" in rows["few"] and "0 of 1 request today" in rows["few"]
        assert "Expired" in rows["short"]
        await gateway.assert_settled()


def rows_of(answer: Answer) -> list[str]:
    return re.findall(r"<tr.*?</tr>", text_of(answer), re.DOTALL)


async def test_cost_and_requests_are_those_of_the_month(tmp_path: Path) -> None:
    async with open_scene(tmp_path) as scene:
        ines = await scene.visitor("ines")
        page = await ines.get(PATH)
        assert ">November<" in text_of(page)
        found = await scene.gateway.table(
            """
            select k.name, count(*), sum(u.cost_nanos) from usage as u join keys as k on k.id = u.key_id
            join users as p on p.id = k.user_id
            where p.name = 'ines' and u.at_ms >= unixepoch('2026-11-01') * 1000 group by k.id
            """
        )
        assert len(found) == 3
        for name, count, nanos in found:
            [row] = [row for row in rows_of(page) if f">{name}</a>" in row]
            assert f"{count} request" in row and f'title="${nanos // 10**9}.{nanos % 10**9:09d}"' in row
            [row_id] = set(re.findall(rf"{PATH}/(\d+)\"", row))
            assert f"for {count} request" in text_of(await ines.get(f"{PATH}/{row_id}"))


async def test_the_docs_show_whose_key_it_is(tmp_path: Path) -> None:
    async with ada_at(tmp_path) as (gateway, ada):
        stranger = Visitor(gateway)
        before = await stranger.get("/docs/claude-code")
        assert "sk-pgrid-YOUR-KEY" in text_of(before) and PATH + '">' not in before.body.decode().split("<h1>")[0]
        assert "sk-pgrid-YOUR-KEY" in text_of(await ada.get("/docs/claude-code"))
        first_id, first, _ = await create(ada, name="first")
        _, second, _ = await create(ada, name="second")
        page = await ada.get("/docs/claude-code")
        assert f"{second[:17]}…" in text_of(page) and "YOUR-KEY" not in text_of(page) and second[:18] not in text_of(page)
        assert f'stands for your key <a href="{PATH}">second</a>' in text_of(page)
        assert page.headers["vary"] == "accept, cookie" and "private" in page.headers["cache-control"]
        # Who has it gets it again only while it is right.
        etag = {"if-none-match": page.headers["etag"]}
        assert (await ada.get("/docs/claude-code", headers=etag)).status == 304
        await ada.get(PATH)
        await ada.post(f"{PATH}/{first_id + 1}/revoke")
        answer = await ada.get("/docs/claude-code", headers=etag)
        assert answer.status == 200 and f"{first[:17]}…" in text_of(answer)
        # Pages without a key say nothing of it; markdown is everybody's.
        assert "stands for your key" not in text_of(await ada.get("/docs/pricing"))
        assert "YOUR-KEY" in text_of(await ada.get("/docs/claude-code.md"))
        assert text_of(await stranger.get("/docs/claude-code")) == text_of(before)


async def test_where_only_the_operator_makes_keys_the_page_says_so(tmp_path: Path) -> None:
    async with open_site(tmp_path, "[plans.default]\nmax_keys = 0\n") as gateway:
        ada = await make_visitor(gateway, "ada")
        page = await ada.get("/dashboard/keys")
        assert b"Keys are made by the operator here." in page.body and b"Create a key" not in page.body
        answer = await ada.post("/dashboard/keys", name="mine", expires="")
        assert answer.status == 403 and b"Keys are made by the operator here; ask them for one." in answer.body
        made = await act(gateway.house, "keys.create", user="ada", name="given")
        rotated = await ada.follow(await ada.post(f"/dashboard/keys/{made['id']}/rotate", grace="0"))
        assert b"Use this key" in rotated.body
