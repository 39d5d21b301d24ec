"""GET /v1/usage: a user's own requests and sums, in pages, as JSON and CSV; and nobody else's."""

from __future__ import annotations

import asyncio
import csv
import io
from pathlib import Path
from typing import Any

import pytest

from gateway.api import usage as endpoint
from gateway.api.accept import prefers
from gateway.clock import rfc3339
from gateway.desk.usage_reports import OWNER_DIMENSIONS, REQUEST_COLUMNS
from gateway.storage.recovery import highest_request_id
from gateway.storage.rollups import DAY_MS
from tests.fakes import FakeClock
from tests.gateway_tools import MODEL, Answer, Gateway, ScriptedUpstream, User, open_gateway
from tests.upstreams import scripts

SESSION = "2f8c1c1e-0000-4000-8000-000000000001"
CSV = {"accept": "text/csv"}


def claude_code(session: str = SESSION, agent: str = "") -> dict[str, str]:
    return {"x-claude-code-session-id": session, **({"x-claude-code-agent-id": agent} if agent else {})}


async def report(gateway: Gateway, user: User, query: str = "") -> Any:
    answer = await gateway.get(user, f"/v1/usage?{query}")
    answer.assert_clean()
    assert answer.status == 200, answer.body
    return answer.json


def table(answer: Answer) -> list[dict[str, str]]:
    assert answer.headers["content-type"] == "text/csv; charset=utf-8; header=present"
    return list(csv.DictReader(io.StringIO(answer.body.decode(), newline="")))


async def test_what_a_session_and_its_subagents_cost(tmp_path: Path) -> None:
    async with ScriptedUpstream() as up, open_gateway(tmp_path, up.url) as gateway:
        alice, bob = await gateway.make_user("alice"), await gateway.make_user("bob")
        for headers in (claude_code(), claude_code(agent="a1"), claude_code(agent="a1"), claude_code("other"), {}):
            assert (await gateway.ask(alice, headers=headers, stream=True)).status == 200
        await gateway.ask(bob, headers=claude_code())
        costs = [row["cost_nanos"] for row in await gateway.usage_rows()]
        for rolled in (False, True):
            by_session = await report(gateway, alice, "group_by=session")
            assert [(row["session"], row["requests"], row["cost_nanos"]) for row in by_session["data"]] == [
                (None, 1, costs[4]),
                ("other", 1, costs[3]),
                (SESSION, 3, sum(costs[:3])),
            ]
            assert by_session["total"]["cost_nanos"] == sum(costs[:5]) and by_session["detail_since"] is None
            by_agent = await report(gateway, alice, f"group_by=agent&session={SESSION}")
            assert [(row["agent"], row["requests"]) for row in by_agent["data"]] == [("a1", 2), (None, 1)]
            of_session = await report(gateway, alice, f"session={SESSION}&agent=a1")
            assert [(row["session"], row["agent"]) for row in of_session["data"]] == [(SESSION, "a1")] * 2
            assert (await report(gateway, alice, "session="))["data"][0]["session"] is None
            if not rolled:
                await gateway.house.writer.run(lambda ledger: ledger.roll_up(highest_request_id(ledger.conn)))
        await gateway.assert_settled()


async def test_every_grouping_adds_up_to_the_single_requests(tmp_path: Path) -> None:
    async with ScriptedUpstream() as up, open_gateway(tmp_path, up.url) as gateway:
        alice = await gateway.make_user("alice")
        for number in range(7):
            await gateway.ask(alice, model="claude-opus-5-5" if number % 2 else MODEL, headers=claude_code(f"s{number % 3}"))
            if number == 4:
                await gateway.house.writer.run(lambda ledger: ledger.roll_up(highest_request_id(ledger.conn)))
        single = await report(gateway, alice)
        assert single["type"] == "usage_list" and len(single["data"]) == 7 and not single["has_more"]
        newest = single["data"][0]
        one = await gateway.get(alice, f"/v1/usage/{newest['request_id']}")
        told = {
            "request_id",
            "created_at_ms",
            "model",
            "upstream_model",
            "key_id",
            "input_tokens",
            "cache_creation",
            "cost_nanos",
        }
        told |= {"output_tokens", "cache_read_input_tokens", "web_search_requests", "cost_micro", "source", "flags", "timings"}
        assert {name: one.json[name] for name in told} == {name: newest[name] for name in told}
        assert (newest["stream"], newest["http_status"], newest["key_name"]) == (False, 200, "alice's key")
        cost = sum(row["cost_nanos"] for row in single["data"])
        for dimension in OWNER_DIMENSIONS:
            for query in (f"group_by={dimension}", f"group_by=model,{dimension}", f"group_by=day&group_by={dimension}"):
                found = await report(gateway, alice, query)
                assert found["type"] == "usage_report" and dimension in found["group_by"]
                assert sum(row["cost_nanos"] for row in found["data"]) == found["total"]["cost_nanos"] == cost
                assert sum(row["requests"] for row in found["data"]) == found["total"]["reported_requests"] == 7
        by_model = (await report(gateway, alice, "group_by=model"))["data"]
        assert [(row["model"], row["requests"]) for row in by_model] == [("claude-opus-5-5", 3), (MODEL, 4)]
        by_key = (await report(gateway, alice, "group_by=key"))["data"]
        assert [(row["key_id"], row["key_name"], row["key_hint"]) for row in by_key] == [
            (alice.key.id, "alice's key", alice.secret[:17])
        ]
        # An alias, or the name with its provider, is the model.
        assert len((await report(gateway, alice, f"model=anthropic%2F{MODEL}"))["data"]) == 4
        assert alice.secret not in str(by_key)
        await gateway.assert_settled()


async def test_the_whole_user_is_seen_by_each_key_and_nobody_else(tmp_path: Path) -> None:
    async with ScriptedUpstream() as up, open_gateway(tmp_path, up.url) as gateway:
        alice, bob = await gateway.make_user("alice"), await gateway.make_user("bob")
        await gateway.ask(alice)
        await gateway.ask(bob)
        for query in ("", "group_by=day", "group_by=key", "group_by=session"):
            assert len((await report(gateway, alice, query))["data"]) == 1
        assert (await report(gateway, alice, f"key={alice.key.id}"))["data"]
        for key_id in (bob.key.id, 999):  # whether there is such a key is not told
            refused = await gateway.get(alice, f"/v1/usage?key={key_id}")
            assert (refused.status, refused.error["message"]) == (
                404,
                f"key: you have no key {key_id}; GET /v1/usage?group_by=key lists yours.",
            )
        assert (await gateway.get(None, "/v1/usage")).status == 401
        await gateway.assert_settled()


@pytest.mark.parametrize("query", ["", "group_by=session", "group_by=day", "group_by=day,model", "group_by=key,agent"])
async def test_pages_are_the_whole_without_a_gap(tmp_path: Path, query: str) -> None:
    clock = FakeClock()
    async with ScriptedUpstream() as up, open_gateway(tmp_path, up.url, clock=clock) as gateway:
        alice = await gateway.make_user("alice")
        for number in range(9):
            model = MODEL if number % 2 else "claude-opus-5-5"
            assert (await gateway.ask(alice, model=model, headers=claude_code(f"s{number // 2}", f"a{number}"))).status == 200
            await gateway.usage_rows()  # its time is that of its settle
            clock.wall_ms += DAY_MS // 4
            if number == 3:
                await gateway.house.writer.run(lambda ledger: ledger.roll_up(highest_request_id(ledger.conn)))
        whole = await report(gateway, alice, query)
        paged: list[Any] = []
        cursor = ""
        while True:
            page = await report(gateway, alice, f"{query}&limit=2{cursor}")
            assert len(page["data"]) <= 2 and page.get("total") == whole.get("total")
            paged += page["data"]
            if not page["has_more"]:
                assert page["next_cursor"] is None
                break
            cursor = f"&cursor={page['next_cursor']}"
        assert paged == whole["data"] and len(paged) > 2
        rows = table(await gateway.get(alice, f"/v1/usage?{query}", CSV))
        assert [row["cost_nanos"] for row in rows] == [str(row["cost_nanos"]) for row in whole["data"]]
        if "day" in query:
            assert [row["day"] for row in paged] == sorted((row["day"] for row in paged), reverse=True)
        await gateway.assert_settled()


async def test_csv_is_a_download_that_no_spreadsheet_obeys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "CSV_LIMIT_MAX", 2)
    async with ScriptedUpstream() as up, open_gateway(tmp_path, up.url) as gateway:
        alice = await gateway.make_user("alice")
        for session in ("=HYPERLINK(1)", 'a "quoted", name', "@x"):
            await gateway.ask(alice, headers=claude_code(session))
        answer = await gateway.get(alice, "/v1/usage", CSV)
        answer.assert_clean()
        today = rfc3339(gateway.house.walk.clock.at_ms())[:10]
        assert answer.headers["content-disposition"].startswith('attachment; filename="usage-')
        assert answer.headers["content-disposition"].endswith(f'-{today}.csv"')
        rows = table(answer)
        assert [row["session"] for row in rows] == ["'@x", 'a "quoted", name'] and tuple(rows[0]) == REQUEST_COLUMNS
        rest = await gateway.get(alice, f"/v1/usage?cursor={answer.headers['x-next-cursor']}", CSV)
        assert [row["session"] for row in table(rest)] == ["'=HYPERLINK(1)"] and "x-next-cursor" not in rest.headers
        sums = table(await gateway.get(alice, "/v1/usage?group_by=day,key", CSV))
        assert [(row["day"], row["key_name"], row["requests"]) for row in sums] == [(today, "alice's key", "3")]
        empty = await gateway.get(alice, "/v1/usage?start=2020-01-01&end=2020-01-02&group_by=model", CSV)
        assert empty.body.startswith(b"model,requests,") and empty.body.count(b"\r\n") == 1
        assert (await gateway.get(alice, "/v1/usage?limit=3", CSV)).error["message"].startswith("limit: ")
        head = await gateway.request("HEAD", "/v1/usage", headers={"x-api-key": alice.secret, **CSV})
        assert head.status == 200 and head.body == b"" and head.headers["content-type"].startswith("text/csv")
        await gateway.assert_settled()


@pytest.mark.parametrize(
    ("accept", "as_csv"),
    [
        ("text/csv", True),
        ("text/csv, */*", True),
        ("TEXT/CSV;q=0.9, application/json;q=0.5", True),
        ("text/csv;q=0.5, application/json", False),
        ("application/json, text/csv", False),
        ("text/csv;q=0", False),
        ("text/csv;q=x", False),
        ("*/*", False),
        ("text/*", False),
        ("", False),
    ],
)
def test_when_csv_is_meant(accept: str, as_csv: bool) -> None:
    assert prefers([accept], "text/csv", over="application/json") is as_csv


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("group_by=user", "group_by: write one or more of day, model, key, session, agent, such as"),
        ("group_by=", "group_by: write one or more"),
        ("groupby=day", "'groupby' is no parameter; there are group_by, start,"),
        ("start=yesterday", "start: write a day (2026-11-20, UTC) or a time with its offset"),
        ("start=2026-11-20T08:00:00", "start: write a day"),
        ("start=2026-11-20T08:00:00+02:00", "start: write a day"),  # a + in a URL is a blank
        ("start=2026-02-30", "start: write a day"),
        ("start=99999-01-01", "start: write a day"),
        ("end=2026-01-01T00:00:00%2B99:00", "end: write a day"),
        ("start=2026-02-02&end=2026-02-01", "start: must be before end"),
        ("start=2100-01-01", "start: lies in the future"),
        ("start=2020-01-01", "start: a report covers at most 366 days"),
        ("limit=0", "limit: write a whole number from 1 to 1000"),
        ("limit=1001", "limit: write a whole number from 1 to 1000"),
        ("limit=" + "9" * 4000, "limit: write a whole number"),
        ("limit=5&limit=6", "limit is given twice"),
        ("key=laptop", "key: write a whole number from 1 to"),
        ("key=9223372036854775808", "key: write a whole number from 1 to"),
        ("model=", "model: write 1 to 128 printable characters"),
        ("session=" + "x" * 129, "session: write at most 128 printable characters"),
        ("cursor=x", "cursor: give the next_cursor of the page before, with the same grouping"),
        ("cursor=WzEuNV0", "cursor: give"),  # [1.5]
        ("cursor=WzEsMl0", "cursor: give"),  # [1,2]
        ("cursor=WzkyMjMzNzIwMzY4NTQ3NzU4MDdd", "cursor: give"),  # [2**63 - 1]
        ("group_by=model&cursor=WzFd", "cursor: give"),  # [1], where a name is meant
    ],
)
async def test_a_wrong_question_is_told_what_is_wrong(tmp_path: Path, query: str, message: str) -> None:
    async with open_gateway(tmp_path, "http://127.0.0.1:1") as gateway:
        alice = await gateway.make_user("alice")
        answer = await gateway.get(alice, f"/v1/usage?{query}")
        answer.assert_clean()
        assert (answer.status, answer.error["type"]) == (400, "invalid_request_error")
        assert answer.error["message"].startswith(message)


@pytest.mark.parametrize(
    ("query", "start", "end"),
    [
        ("start=2026-05-01&end=2026-05-03", "2026-05-01T00:00:00Z", "2026-05-04T00:00:00Z"),
        ("start=2026-05-01T07:30:00Z&end=2026-05-01T08:00:00.5Z&group_by=day", "2026-05-01T07:00:00Z", "2026-05-01T09:00:00Z"),
        ("start=2026-05-01t07:30:00%2B02:00&end=2026-05-01T06:00:00Z", "2026-05-01T05:30:00Z", "2026-05-01T06:00:00Z"),
        ("end=2026-05-28", "2026-04-29T00:00:00Z", "2026-05-29T00:00:00Z"),
        ("group_by=day", "2026-04-29T00:00:00Z", "2026-05-28T21:00:00Z"),
    ],
)
async def test_the_answer_says_from_when_to_when(tmp_path: Path, query: str, start: str, end: str) -> None:
    async with open_gateway(tmp_path, "http://127.0.0.1:1", clock=FakeClock()) as gateway:  # 2026-05-28T20:26:40Z
        alice = await gateway.make_user("alice")
        found = await report(gateway, alice, query)
        assert (found["start"], found["end"]) == (start, end)


async def test_reports_wait_for_one_another_and_not_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "WAIT_S", 0.05)
    async with ScriptedUpstream(default=scripts.answer()) as up, open_gateway(tmp_path, up.url) as gateway:
        alice = await gateway.make_user("alice")
        many = await asyncio.gather(*(gateway.get(alice, "/v1/usage?group_by=day") for _ in range(10)))
        assert {answer.status for answer in many} <= {200, 503}
        monkeypatch.setattr(endpoint, "WAIT_S", 10)
        many = await asyncio.gather(*(gateway.get(alice, "/v1/usage?group_by=day") for _ in range(10)))
        assert {answer.status for answer in many} == {200}


async def test_a_request_that_is_just_settled_is_in_the_next_report(tmp_path: Path) -> None:
    async with ScriptedUpstream() as up, open_gateway(tmp_path, up.url) as gateway:
        alice = await gateway.make_user("alice")
        asked = await gateway.ask(alice)
        found = (await report(gateway, alice))["data"]
        assert [row["request_id"] for row in found] == [asked.request_id]
        await gateway.assert_settled()
