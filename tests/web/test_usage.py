"""The page of requests: that it shows what the ledger says, all of it, once, and to nobody else."""

from __future__ import annotations

import csv
import html
import io
import random
import re
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from gateway.desk import requests as desk_requests
from gateway.ids import parse_id, render_id
from gateway.storage import requests as stored
from gateway.storage.recovery import find_open_hold
from gateway.storage.rows import Served
from gateway.usage import Usage
from gateway.web.text import count, exact, plain, spent
from tests.desk_tools import act
from tests.gateway_tools import open_gateway
from tests.web.scene import DAY_MS, HAIKU, NOW_MS, OPUS, SONNET, Scene, open_scene
from tests.web.tools import DEMO, Visitor, make_visitor, open_site

NASTY = "<img src=x onerror=alert(1)>\"'"
LAPTOP = ("ines", "claude-code · laptop")
STATUSES = ("", "done", "estimated", "partial", "recovered", "void", "running")
TIMES = {
    "today": (NOW_MS - NOW_MS % DAY_MS, NOW_MS - NOW_MS % DAY_MS + DAY_MS),
    "7d": (NOW_MS - NOW_MS % DAY_MS - 6 * DAY_MS, NOW_MS - NOW_MS % DAY_MS + DAY_MS),
    "30d": (NOW_MS - NOW_MS % DAY_MS - 29 * DAY_MS, NOW_MS - NOW_MS % DAY_MS + DAY_MS),
    "month": (int(datetime(2026, 11, 1, tzinfo=UTC).timestamp()) * 1000, NOW_MS - NOW_MS % DAY_MS + DAY_MS),
    "last-month": tuple(int(datetime(2026, month, 1, tzinfo=UTC).timestamp()) * 1000 for month in (10, 11)),
}


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    async with open_scene(tmp_path, requests_per_day=6) as scene:
        yield scene
        await scene.gateway.house.writer.run(lambda ledger: None)


async def everything(scene: Scene, user: str = "ines") -> list[dict[str, Any]]:
    """Every request of somebody as the tables have it, read without the code under test."""
    columns = ("id", "state", "key", "model", "ended", "cost", "source", "session", "tokens")
    rows = await scene.gateway.table(
        f"""
        select h.id, h.state, h.key_id, h.model, h.resolved_at_ms, coalesce(u.cost_nanos, 0), u.source, coalesce(d.session, ''),
          u.input_tokens + u.output_tokens + u.cache_read_tokens + u.cache_write_5m_tokens + u.cache_write_1h_tokens
        from holds as h join accounts as a on a.id = h.wallet_id join users as p on p.id = a.user_id
        left join usage as u on u.request_id = h.id left join request_details as d on d.request_id = h.id
        where p.name = '{user}' order by h.id desc
        """
    )
    return [dict(zip(columns, row, strict=True)) for row in rows]


def fits(row: dict[str, Any], time: str, key: int | None, model: str, status: str, session: str) -> bool:
    start, end = TIMES[time]
    ended = NOW_MS if row["ended"] is None else row["ended"]
    result = {"open": "running", "void": "void"}.get(row["state"]) or {"reported": "done"}.get(row["source"], row["source"])
    return (
        start <= ended < end
        and key in (None, row["key"])
        and model in ("", row["model"])
        and status in ("", result)
        and session in ("", row["session"])
    )


async def show(visitor: Visitor, expected: int = 200, /, **query: Any) -> str:
    answer = await visitor.get(f"/dashboard/usage?{urlencode(query)}")
    assert answer.status == expected, (query, answer.body)
    return answer.body.decode()


def ids_on(page: str) -> list[int | None]:
    return [parse_id(text) for text in re.findall(r'<tr id="(req_\w+)"', page)]


def link(page: str, words: str) -> str | None:
    found = re.search(rf'<a class="btn sm" href="([^"]+)">{words}</a>', page)
    return html.unescape(found.group(1)) if found else None


def tile(page: str, name: str) -> str:
    found = re.search(rf"<dt>{name}</dt><dd[^>]*>([^<]*)</dd>", page)
    assert found, name
    return html.unescape(found.group(1))


def text_of(page: str) -> str:
    whole_amounts = re.sub(r'<span class="tail">(\d+)</span>', r"\1", page)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", whole_amounts)).split())


# ── what is shown ────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_every_filter_shows_what_the_tables_say(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(desk_requests, "PAGE_ROWS", 1_000)
    ines = await scene.visitor("ines")
    rows = await everything(scene)
    # One of each kind that the scene has few of.
    assert {row["state"] for row in rows} == {"open", "void", "settled"}
    session = next(row["session"] for row in rows if row["session"])
    keys = {None, scene.keys[LAPTOP]["id"], scene.keys["ines", "openclaw-home"]["id"]}
    seen = 0
    for time in TIMES:
        for key in keys:
            for model in ("", HAIKU):
                for status in STATUSES:
                    for asked_session in ("", session) if key is None else ("",):
                        asked = (time, key, model, status, asked_session)
                        page = await show(ines, time=time, key=key or "", model=model, status=status, q=asked_session)
                        expected = [row for row in rows if fits(row, *asked)]
                        if asked_session:
                            expected = [row for row in expected if row["state"] != "open"]
                        assert ids_on(page) == [row["id"] for row in expected], asked
                        assert tile(page, "Requests") == count(len(expected)), asked
                        cost = sum(row["cost"] for row in expected)
                        assert f'<dd title="{plain(cost)}">{html.escape(spent(cost))}</dd>' in page, asked
                        seen += len(expected)
    assert seen > 1_000


async def test_a_page_says_the_same_as_the_api_and_the_ledger(scene: Scene) -> None:
    ines, secret = await scene.visitor("ines"), scene.keys[LAPTOP]["secret"]
    rows = [row for row in await everything(scene) if row["state"] == "settled"]
    for row in rows[:20] + [row for row in rows if row["source"] != "reported"]:
        name = render_id(row["id"])
        page = await show(ines, time="30d", open=name)
        told = (await scene.gateway.request("GET", f"/v1/usage/{name}", headers={"x-api-key": secret})).json
        assert told["cost_nanos"] == row["cost"]
        assert f'<span class="proof">{exact(row["cost"])}</span>' in page, name
        assert f"How {plain(row['cost'])} came about" in page
        moved = await scene.gateway.table(
            f"select id, amount_nanos from transfers where reference = '{name}' and kind = 'settle'"
        )
        assert [amount for _, amount in moved] == [row["cost"]] and f"#{moved[0][0]:,} in the ledger" in page
        steps = re.findall(r'<td class="n">(−?)\$([\d,]+\.\d\d)<span class="tail">(\d+)</span></td>', page)
        listed = sum(
            (-1 if sign else 1) * int((whole + tail).replace(".", "").replace(",", "").ljust(1)) for sign, whole, tail in steps
        )
        assert listed == 2 * row["cost"], name  # the classes, and the list price that they add up to (no factor here)
    report = (await scene.gateway.request("GET", "/v1/usage?group_by=day", headers={"x-api-key": secret})).json["total"]
    page = await show(ines, time="30d")
    assert f'title="{plain(report["cost_nanos"])}"' in page and f"{report['requests']} charged" in text_of(page)


async def test_a_price_that_changes_later_changes_nothing(tmp_path: Path) -> None:
    shown = []
    for factor in ("1.1", "3"):
        async with open_gateway(tmp_path, more=f'[billing]\nfactor = "{factor}"\n{DEMO}') as gateway:
            if factor == "1.1":
                ada = await make_visitor(gateway, "ada")
                created = await act(gateway.house, "keys.create", user="ada", name="laptop")
                body = {"model": "claude-sonnet-5-5", "max_tokens": 50, "messages": [{"role": "user", "content": "hi"}]}
                answer = await gateway.request("POST", "/v1/messages", headers={"x-api-key": created["secret"]}, json=body)
                assert answer.status == 200
                await gateway.house.writer.run(lambda ledger: None)
            else:
                ada = Visitor(gateway)
                await ada.sign_in("ada")
            page = await show(ada, open=answer.request_id)
            shown.append(re.findall(r'<tr><th scope="row">.*', page) + re.findall(r'<span class="proof">.*?</span></span>', page))
            assert "Your price: 10 % above list" in page and "× 1.1" in page
            await gateway.assert_settled()
    assert shown[0] == shown[1] and len(shown[0]) > 3


async def test_a_request_is_told_with_all_that_is_known(scene: Scene) -> None:
    ines = await scene.visitor("ines")
    usage = Usage(1_204, 2_411, 6_118, 2_048, 148_320, 2)
    one = await scene.request(LAPTOP, OPUS, usage, session="5d2e-c41b", agent="explore", failed_first=True)
    await act(scene.gateway.house, "wallets.refund", request_id=render_id(one), amount="0.01", note="our fault")
    page = await show(ines, open=render_id(one))
    text = text_of(page[page.index("How $") :])
    for words in (
        *("Input", "Cache read", "Cache write, 5 min", "Cache write, 1 hour", "Output", "Web search", "2 searches", "List price"),
        *("148,320", "Upstream was overloaded (529) after 48 ms", "Answered (200)", "usage reported by the upstream", "HTTP 200"),
        *(
            "not charged; the next one was asked before you received a byte",
            "Admission 2 ms",
            "First byte 590 ms",
            "Streaming 2.4 s",
            "Total 3.0 s",
        ),
        *("5d2e-c41b", "agent explore", "never extended", "given back", "streamed", "198.51.100.7", "The cache saved"),
        *("Refunded", "−$0.010000000", render_id(one)),
    ):
        assert words in text, words
    assert "refunded $0.0100" in text_of(page)
    # Accounts are nobody's business but the operator's.
    assert not re.search("console-eu|spare|req_theirs", page) and "our fault" not in page
    root = await scene.visitor("root")
    answer = await root.get(f"/admin/requests?id=req_theirs{one}")
    assert answer.headers["location"] == f"/admin/requests/{render_id(one)}"
    page = (await root.follow(answer)).body.decode()
    assert "console-eu" in page and "spare" in page and f"req_theirs{one}" in page and "Margin" in page and ">ines<" in page
    assert 'href="/admin/users/' in page and f"/refund?request={render_id(one)}" in page
    for path in (
        "/admin/requests?id=req_none",
        f"/admin/requests/{render_id(7)}",
        "/admin/requests/%00",
        "/admin/requests?id=%ED%A0%BD",
    ):
        assert (await root.get(path)).status == 404, path


@pytest.mark.parametrize("seen", [False, True])
async def test_what_died_with_its_server_is_said_to_be_unknown(scene: Scene, seen: bool) -> None:
    """Not made up: the crash left neither attempts nor times nor whether it was streamed."""
    house = scene.gateway.house
    request_id = await scene.request(LAPTOP, OPUS, Usage(input_tokens=100), end="running", hold_nanos=10**9)
    row = await house.writer.run(lambda ledger: find_open_hold(ledger.conn, request_id))
    assert row is not None
    if seen:
        served = Served("console-eu", OPUS, house.walk.router.deployments(OPUS)[0].terms, Usage(input_tokens=100), 10**6)
        resolution = replace(row.resolution, settled=True, pay_nanos=10**6)
        row = replace(row, resolution=resolution, served=served, source="recovered", reason="")
    await house.writer.submit_acknowledged(replace(row, at_ms=scene.clock.at_ms()))
    for name, path in (("ines", "/dashboard/usage?open="), ("root", "/admin/requests/")):
        text = text_of((await (await scene.visitor(name)).get(path + render_id(request_id))).body.decode())
        assert "Not known: the server stopped while it ran." in text
        assert not re.search("None was made|in one piece|not kept any more", text)
        assert "unknown: the server stopped while it ran" in text or name == "ines" or not seen
    row_shown = text_of((await (await scene.visitor("root")).get("/admin")).body.decode())
    assert "0 ms" not in row_shown[row_shown.index("Latest requests") : row_shown.index("Failed attempts")]


@pytest.mark.parametrize(
    ("end", "words"),
    [
        ("void", ("Nothing was charged", "had been held for it was given back in full", "Upstream was overloaded (529)")),
        ("estimated", ("estimated", "output counted here")),
        ("partial", ("Broken off", "partial", "what had been sent is charged")),
        ("running", ("Still running", "is held for it", "Listed when it ends.")),
    ],
)
async def test_what_did_not_end_well_is_told_too(end: Any, words: tuple[str, ...], scene: Scene) -> None:
    ines = await scene.visitor("ines")
    one = await scene.request(LAPTOP, SONNET, Usage(10, 20, 0, 0, 0), end=end)
    page = await show(ines, open=render_id(one))
    assert ids_on(page)[0] == one
    for each in words:
        assert each in text_of(page), each


async def test_an_id_is_found_whatever_the_filter_says(scene: Scene) -> None:
    ines = await scene.visitor("ines")
    oldest = (await everything(scene))[-1]
    theirs = f"req_theirs{next(row['id'] for row in await everything(scene) if row['source'] == 'reported')}"
    for text in (render_id(oldest["id"]), f" {render_id(oldest['id'])} "):
        page = await show(ines, time="today", q=text, status="running")
        assert ids_on(page) == [oldest["id"]] and tile(page, "Requests") == "1"
    assert [f"req_theirs{one}" for one in ids_on(await show(ines, time="today", q=theirs))] == [theirs]
    assert "There is no request of this id among yours." in await show(ines, q="req_0000000000000")
    # One that is open but not on this page is shown above it.
    page = await show(ines, time="today", open=render_id(oldest["id"]))
    assert f'<section class="sheet" id="{render_id(oldest["id"])}"' in page


# ── pages of it ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("scan_rows", [50_000, 3])
@pytest.mark.parametrize("query", [{}, {"model": OPUS}, {"status": "estimated"}, {"status": "void"}, {"status": "done"}])
async def test_pages_show_each_request_once_while_new_ones_come(
    query: dict[str, str], scan_rows: int, scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Older to the end and Newer back to the top; with little patience too, when pages are short."""
    monkeypatch.setattr(desk_requests, "PAGE_ROWS", 7)
    monkeypatch.setattr(stored, "SCAN_ROWS", scan_rows)
    monkeypatch.setattr(stored, "SPANS_MAX", 2 if scan_rows == 3 else 200)
    ines = await scene.visitor("ines")
    expected = [
        row["id"]
        for row in await everything(scene)
        if fits(row, "30d", None, query.get("model", ""), query.get("status", ""), "")
    ]
    page = await show(ines, time="30d", **query)
    found, turns = ids_on(page), 0
    while (older := re.search(r'<a class="btn(?: sm)?" href="([^"]+)">Older</a>', page)) is not None:
        await scene.request(LAPTOP, OPUS, Usage(1, 1))
        page = (await ines.get(html.unescape(older.group(1)))).body.decode()
        found += ids_on(page)
        turns += 1
        assert turns < 300
    assert found == expected
    back: list[int | None] = []
    while (newer := link(page, "Newer")) is not None:
        page = (await ines.get(newer)).body.decode()
        if link(page, "Newer") is not None:
            back = ids_on(page) + back
        turns -= 1
        assert turns > -300
    assert [one for one in expected if one in set(back)] == [one for one in back if one in set(expected)]
    assert len(back) == len(set(back))


async def test_sums_say_when_they_are_not_of_all(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    ines = await scene.visitor("ines")
    monkeypatch.setattr(stored, "SCAN_ROWS", 2)
    rows = [row for row in await everything(scene) if fits(row, "30d", None, "", "", "")]
    for status, source in (("done", "reported"), ("estimated", "estimated"), ("partial", "partial")):
        page = await show(ines, time="30d", status=status)
        expected = [row for row in rows if row["source"] == source]
        # How many there are, the roll-ups know; of these the newest are summed.
        assert tile(page, "Requests") == count(len(expected)), status
        found = re.search(r"only the newest (\d+)", text_of(page))
        assert found and int(found.group(1)) < len(expected), status
        cost = sum(row["cost"] for row in expected[: int(found.group(1))])
        assert f'title="{plain(cost)}"' in page, status
    assert re.search(r"<dt>Requests</dt><dd>2\+</dd>", await show(ines, time="30d", status="void"))
    assert "only the newest" not in await show(ines, time="30d")  # the roll-ups know


# ── the file ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("rows", [7, 1_000])
async def test_the_file_has_every_request_of_the_filter_once(rows: int, scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(desk_requests, "CSV_ROWS", rows)
    ines = await scene.visitor("ines")
    listed = await everything(scene)
    for query in ({"time": "30d"}, {"time": "7d", "status": "void"}, {"time": "30d", "model": HAIKU}):
        answer = await ines.get(f"/dashboard/usage.csv?{urlencode(query)}")
        assert answer.status == 200 and not answer.cut
        assert answer.headers["content-type"].startswith("text/csv") and answer.headers["cache-control"] == "no-store"
        assert re.fullmatch(r'attachment; filename="usage-2026-\d\d-\d\d-2026-11-20\.csv"', answer.headers["content-disposition"])
        found = list(csv.DictReader(io.StringIO(answer.body.decode())))
        expected = [row for row in listed if fits(row, query["time"], None, query.get("model", ""), query.get("status", ""), "")]
        assert [parse_id(row["request_id"]) for row in found] == [row["id"] for row in expected]
        assert [row["cost_nanos"] for row in found if row["status"] != "running"] == [
            str(row["cost"]) for row in expected if row["state"] != "open"
        ]
        assert {row["status"] for row in found} <= {"settled", "void", "running"}
    head = await ines._ask("HEAD", "/dashboard/usage.csv?time=30d")
    assert head.status == 200 and head.body == b""
    assert (await ines.get("/dashboard/usage.csv?time=never")).status == 400


async def test_no_cell_of_the_file_is_a_formula(tmp_path: Path) -> None:
    async with open_site(tmp_path) as gateway:
        ada = await make_visitor(gateway, "ada")
        created = await act(gateway.house, "keys.create", user="ada", name='=HYPERLINK("http://evil.example")')
        body = {"model": "claude-haiku-5-5", "max_tokens": 50, "messages": [{"role": "user", "content": "hi"}]}
        told = {"x-api-key": created["secret"], "x-claude-code-session-id": "@SUM(1+1)", "x-claude-code-agent-id": "-2+3"}
        assert (await gateway.request("POST", "/v1/messages", headers=told, json=body)).status == 200
        await gateway.house.writer.run(lambda ledger: None)
        rows = list(csv.reader(io.StringIO((await ada.get("/dashboard/usage.csv")).body.decode())))
        assert len(rows) == 2
        assert all(not cell.startswith(("=", "+", "-", "@")) for cell in rows[1])
        assert "'=HYPERLINK" in rows[1][5] and "'@SUM(1+1)" in rows[1] and "'-2+3" in rows[1]
        await gateway.assert_settled()


# ── what is asked, and by whom ───────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ({"time": "yesterday"}, "time"),
        ({"time": "custom", "start": "soon"}, "start"),
        ({"time": "custom", "start": "2026-13-40"}, "start"),
        ({"start": "2026-11-20", "end": "2026-11-01"}, "start"),
        ({"start": "2024-01-01", "end": "2026-11-01"}, "start"),
        ({"end": "99999-01-01"}, "end"),
        ({"end": "0001-01-01"}, "end"),
        ({"start": "2026-11-21"}, "start"),
        ({"key": "mine"}, "key"),
        ({"key": "999999"}, "key"),
        ({"key": "9" * 5_000}, "key"),
        ({"key": "١"}, "key"),
        ({"status": "great"}, "status"),
        ({"q": "x" * 129}, "q"),
        ({"q": "a\x00b"}, "q"),
        ({"session": "\x1b[31m"}, "q"),
        ({"model": "m" * 129}, "model"),
    ],
)
async def test_a_filter_that_cannot_be_read_says_where(query: dict[str, str], field: str, tmp_path: Path) -> None:
    async with open_scene(tmp_path, requests_per_day=1) as scene:
        ines = await scene.visitor("ines")
        page = await show(ines, 400, **query)
        assert re.search(rf'id="f-{field}"[^>]*aria-invalid="true"[^>]*aria-describedby="e-{field}"', page), field
        assert f'id="e-{field}"' in page and not ids_on(page) and "Nothing is shown" in page


async def test_nothing_that_is_asked_breaks_the_page(scene: Scene) -> None:
    ines, dice = await scene.visitor("ines"), random.Random(7)
    names = ("time", "start", "end", "key", "model", "status", "q", "session", "before", "after", "open", "nonsense")
    odd = (
        *(
            "",
            " ",
            "0",
            "-1",
            "1e9",
            "custom",
            "today",
            "30d",
            "done",
            "void",
            "2026-11-01",
            "2026-02-30",
            "9999-12-31",
            "1969-12-31",
        ),
        *("req_", "req_0000000000000", "req_ZZZZZZZZZZZZZ", "req_7ZZZZZZZZZZZZ", "%", "'", '"', "--", NASTY, "\u202e", "é" * 60),
        *(SONNET, "😀", "\x00", "\x7f", str(2**63), str(2**64), str(scene.keys[LAPTOP]["id"]), "a" * 8_000),
    )
    seen = set()
    for _ in range(250):
        query = {name: dice.choice(odd) for name in dice.sample(names, dice.randrange(1, 7))}
        for path in ("/dashboard/usage", "/dashboard/usage.csv"):
            answer = await ines.get(f"{path}?{urlencode(query)}")
            assert answer.status in (200, 400, 404), (path, query)
            assert b"<img" not in answer.body
            seen.add(answer.status)
    for raw in ("?key=%ff", "?q=%ED%A0%BD", "?model=%00", "?before=%F0%9F", "?=", "?&&", "?key=1&key=2", "?open=%ED%A0%BD"):
        assert (await ines.get("/dashboard/usage" + raw)).status in (200, 400, 404), raw
    assert seen == {200, 400, 404}


async def test_others_requests_are_nowhere(scene: Scene) -> None:
    ines, other = await scene.visitor("ines"), (await everything(scene, "tidewater"))[0]
    name, key = render_id(other["id"]), scene.keys["tidewater", "default"]["id"]
    assert (await ines.get(f"/dashboard/usage?open={name}")).status == 404
    assert (await ines.get(f"/dashboard/usage?open=req_theirs{other['id']}")).status == 404
    for query, status in (({"q": name}, 200), ({"key": key}, 400), ({"q": f"req_theirs{other['id']}"}, 200)):
        assert ids_on(await show(ines, status, time="30d", **query)) == []
        answer = await ines.get(f"/dashboard/usage.csv?{urlencode({'time': '30d', **query})}")
        assert answer.status == 404 if "key" in query else answer.body.count(b"\r\n") == 1
    mine = {row["id"] for row in await everything(scene)}
    assert set(ids_on(await show(ines, time="30d", before=name))) <= mine
    tidewater = await scene.visitor("tidewater")
    assert ids_on(await show(tidewater, time="30d", q=name)) == [other["id"]]
    # An admin's own page is their own; others' requests have a page for that.
    root = await scene.visitor("root")
    assert (await root.get(f"/dashboard/usage?open={name}")).status == 404
    assert (await root.get(f"/admin/requests/{name}")).status == 200
    assert (await ines.get(f"/admin/requests/{name}")).status == 404


async def test_names_and_headers_of_strangers_are_text(tmp_path: Path) -> None:
    async with open_site(tmp_path) as gateway:
        ada, root = await make_visitor(gateway, "ada"), await make_visitor(gateway, "root", role="admin")
        created = await act(gateway.house, "keys.create", user="ada", name=NASTY)
        body = {"model": "claude-haiku-5-5", "max_tokens": 50, "messages": [{"role": "user", "content": "hi"}]}
        told = {"x-claude-code-session-id": NASTY, "x-claude-code-agent-id": NASTY, "user-agent": NASTY}
        answer = await gateway.request("POST", "/v1/messages", headers={"x-api-key": created["secret"], **told}, json=body)
        assert answer.status == 200
        await gateway.house.writer.run(lambda ledger: None)
        opened = await show(ada, open=answer.request_id)
        admins = (await root.get(f"/admin/requests/{answer.request_id}")).body.decode()
        asked = await show(ada, model=NASTY, q=NASTY, time="30d")
        wrong = await show(ada, 400, status=NASTY, time=NASTY, start=NASTY, end=NASTY, key=NASTY)
        nothing = (await root.get(f"/admin/requests?{urlencode({'id': NASTY})}")).body.decode()
        for page in (opened, admins, asked, wrong, nothing):
            assert "<img" not in page and "onerror=alert(1)>\"'" not in page
        assert opened.count(html.escape(NASTY, quote=False)[:8]) >= 3 and "&lt;img" in admins and "&lt;img" in asked
        # The link of a session leads to its requests.
        session = re.search(r'<dt>Session</dt><dd class="any"><a href="([^"]+)"', opened)
        assert session and ids_on((await ada.get(html.unescape(session.group(1)))).body.decode()) == [parse_id(answer.request_id)]
        await gateway.assert_settled()


async def test_an_empty_page_says_what_to_do(scene: Scene) -> None:
    new, ines = await scene.visitor("new"), await scene.visitor("ines")
    page = await show(new)
    assert "No requests from" in page and 'href="/dashboard/keys"' in page and "Export CSV" not in page
    assert "No request fits" in await show(ines, model="no-such-model")
