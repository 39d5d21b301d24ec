"""What an answer says it used, and what is charged for it; and the name that the client asked for, given back."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gateway.catalog import load_builtin
from gateway.desk import acts
from gateway.pricing import Rates
from gateway.usage import Usage
from tests.gateway_tools import MODEL, ScriptedUpstream, open_gateway
from tests.upstream import Exchange, Script
from tests.upstreams import replies, scripts
from tests.upstreams.replies import Reply

TEN = 10_000_000_000
# claude-sonnet-5-5, nanos per token (data/catalog.toml): input 2000, output 10000, writes 2500 and 4000, read 100; a search 1 ¢.
IN, OUT, WRITE_5M, WRITE_1H, READ, SEARCH = 2_000, 10_000, 2_500, 4_000, 100, 10_000_000

SPENT = Usage(input_tokens=1000, output_tokens=100)
CACHED = Usage(input_tokens=7, output_tokens=100, cache_write_5m_tokens=300, cache_write_1h_tokens=50, cache_read_tokens=9000)
TABLE: list[tuple[str, Reply, int, str]] = [
    ("plain", Reply(usage=SPENT), 1000 * IN + 100 * OUT, "reported"),
    ("explicit zero", Reply(usage=Usage()), 0, "reported"),
    ("zero output", Reply(usage=Usage(input_tokens=1000)), 1000 * IN, "reported"),
    ("cumulative deltas", Reply(usage=SPENT, reporting="cumulative"), 1000 * IN + 100 * OUT, "reported"),
    (
        "cache classes, split",
        Reply(usage=CACHED),
        *(7 * IN + 100 * OUT + 300 * WRITE_5M + 50 * WRITE_1H + 9000 * READ, "reported"),
    ),
    (
        "cache classes, one sum",
        Reply(usage=CACHED, cache_split=False),
        7 * IN + 100 * OUT + 350 * WRITE_5M + 9000 * READ,
        "reported",
    ),
    ("web search", Reply(usage=replace(SPENT, web_searches=3)), 1000 * IN + 100 * OUT + 3 * SEARCH, "reported"),
    (
        "tool",
        Reply(text=(), tool="read", tool_input={"usage": {"input_tokens": 10**6}}, usage=SPENT),
        1000 * IN + 100 * OUT,
        "reported",
    ),
    ("thinking", Reply(thinking=("hmm", "so"), usage=SPENT), 1000 * IN + 100 * OUT, "reported"),
    ("nothing said", Reply(text=(), usage=SPENT), 1000 * IN + 100 * OUT, "reported"),
]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize(("reply", "cost", "source"), [case[1:] for case in TABLE], ids=[case[0] for case in TABLE])
async def test_what_is_reported_is_charged(tmp_path: Path, reply: Reply, cost: int, source: str, stream: bool) -> None:
    async with ScriptedUpstream() as up, open_gateway(tmp_path, up.url) as gateway:
        alice = await gateway.make_user("alice", "10")
        up.script(scripts.answer(reply))
        answer = await gateway.ask(alice, stream=stream)
        assert answer.status == 200 and not answer.cut
        answer.assert_clean()
        assert answer.body == rendered(reply, stream)
        (row,) = await gateway.usage_rows()
        assert (row["cost_nanos"], row["source"], row["flags"]) == (cost, source, "")
        assert gateway.balance(alice) == TEN - cost
        assert up.journal[0].billed is not None
        if reply.cache_split:
            assert used(row) == replace(up.journal[0].billed.usage, service_tier="standard")
        if not stream:
            assert answer.headers["x-gateway-cost-micro"] == str((cost + 500) // 1000)
            assert answer.headers["x-gateway-balance-micro"] == str((TEN - cost + 500) // 1000)
        assert await gateway.table("select cost_nanos, upstream_request_id from attempts") == [(cost, "req_upstream_1")]
        await gateway.assert_settled()


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_missing_usage_is_estimated_and_marked_and_stays_below_the_hold(tmp_path: Path, stream: bool) -> None:
    async with ScriptedUpstream() as up, open_gateway(tmp_path, up.url) as gateway:
        alice = await gateway.make_user("alice", "10")
        up.script(
            scripts.answer(Reply(text=("x" * 700,), reporting="none")),
            scripts.answer(Reply(text=("x" * 90_000,), reporting="none")),
        )
        for _ in range(2):
            assert (await gateway.ask(alice, stream=stream, max_tokens=1000)).status == 200
        rows = await gateway.usage_rows()
        assert [(row["source"], row["flags"]) for row in rows] == [("estimated", "usage_missing")] * 2
        assert rows[0]["output_tokens"] >= 200 and rows[0]["input_tokens"] >= 500
        held = await gateway.table("select amount_nanos from holds order by id")
        assert [row["cost_nanos"] <= amount for row, (amount,) in zip(rows, held, strict=True)] == [True, True]
        assert 0 < rows[0]["cost_nanos"] < rows[1]["cost_nanos"] == held[1][0]
        await gateway.assert_settled()


async def test_a_stream_whose_output_nobody_reports_is_estimated(tmp_path: Path) -> None:
    """The figure of message_start is a placeholder: it is never priced."""
    async with ScriptedUpstream() as up, open_gateway(tmp_path, up.url) as gateway:
        alice = await gateway.make_user("alice", "10")
        up.script(scripts.answer(Reply(text=("x" * 350, "y" * 350), usage=SPENT, reporting="start_only")))
        answer = await gateway.ask(alice, stream=True)
        assert answer.events[-1][0] == "message_stop"
        (row,) = await gateway.usage_rows()
        assert (row["source"], row["input_tokens"], row["output_tokens"]) == ("estimated", 1000, 200)
        await gateway.assert_settled()


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_what_we_do_not_know_is_flagged(tmp_path: Path, stream: bool) -> None:
    async with ScriptedUpstream() as up, open_gateway(tmp_path, up.url) as gateway:
        alice = await gateway.make_user("alice", "10")
        # A model of its own, and a new kind of token in the middle of the usage.
        reply = Reply(model="claude-cheaper-1", usage=SPENT)

        async def new_usage(exchange: Any) -> None:
            events = b"".join(event.data for event in replies.render_stream(reply, MODEL))
            body = events if stream else replies.render_message(reply, MODEL)
            body = body.replace(b'"service_tier"', b'"dream_tokens": 5, "service_tier"')
            await exchange.body(200, [("content-type", "text/event-stream" if stream else "application/json")], body)

        up.script(new_usage)
        assert (await gateway.ask(alice, stream=stream)).status == 200
        (row,) = await gateway.usage_rows()
        assert set(row["flags"].split()) == {"model_mismatch", "unknown_usage:dream_tokens"}
        assert row["cost_nanos"] == 1000 * IN + 100 * OUT
        await gateway.assert_settled()


async def test_fast_is_priced_by_what_was_served_not_by_what_was_asked(tmp_path: Path) -> None:
    async with ScriptedUpstream() as up, open_gateway(tmp_path, up.url) as gateway:
        alice = await gateway.make_user("alice", "10")
        fast = replace(SPENT, speed="fast", geography="us")
        up.script(scripts.answer(Reply(usage=SPENT)), scripts.answer(Reply(usage=fast)))
        for _ in range(2):
            await gateway.ask(alice, model="claude-opus-5-5", speed="fast", inference_geo="us")
        plain = 1000 * 4_000 + 100 * 20_000
        # Twice for fast, 1.1 times for the geography.
        assert [row["cost_nanos"] for row in await gateway.usage_rows()] == [plain, plain * 22 // 10]
        await gateway.assert_settled()


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_what_a_batch_served_costs_half_and_the_derivation_says_so(tmp_path: Path, stream: bool) -> None:
    async with ScriptedUpstream() as up, open_gateway(tmp_path, up.url) as gateway:
        alice = await gateway.make_user("alice", "10")
        up.script(scripts.answer(Reply(usage=replace(SPENT, service_tier="batch"))))
        answer = await gateway.ask(alice, stream=stream)
        (row,) = await gateway.usage_rows()
        assert (row["cost_nanos"], row["service_tier"]) == ((1000 * IN + 100 * OUT) // 2, "batch")
        # What the provider bills us is halved alike.
        assert await gateway.table("select cost_nanos from attempts") == [(row["cost_nanos"],)]
        found = await acts.perform(gateway.house.desk, "test", "usage.get", {"request_id": answer.request_id})
        assert found["derivation"]["multipliers"] == [{"name": "batch", "factor": "0.5"}]
        await gateway.assert_settled()


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_large_events_and_answers_pass_unchanged(tmp_path: Path, stream: bool) -> None:
    async with ScriptedUpstream() as up, open_gateway(tmp_path, up.url) as gateway:
        alice = await gateway.make_user("alice", "10")
        reply = Reply(text=("x" * 1_000_000,), usage=SPENT)
        up.script(scripts.answer(reply))
        answer = await gateway.ask(alice, stream=stream)
        assert answer.body == rendered(reply, stream)
        await gateway.assert_settled()


async def test_an_event_above_a_megabyte_ends_the_stream_with_an_error(tmp_path: Path) -> None:
    async with ScriptedUpstream() as up, open_gateway(tmp_path, up.url) as gateway:
        alice = await gateway.make_user("alice", "10")
        up.script(scripts.huge_event(1_500_000))
        answer = await gateway.ask(alice, stream=True)
        assert answer.status == 200 and answer.cut
        assert answer.events[-1][0] == "error" and "message_stop" not in [name for name, _ in answer.events]
        (row,) = await gateway.usage_rows()
        assert (row["source"], row["input_tokens"]) == ("partial", 25)
        await gateway.assert_settled()


# ── names ────────────────────────────────────────────────────────────────────────────────────────────────────────────

ROUTED = """
[[models]]
id = "claude-sonnet-5-5"
aliases = ["house-model"]
routes = [{ upstream = "up1", model = "their/sonnet-v9" }]
"""


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("asked", [MODEL, "anthropic/" + MODEL, "house-model", "anthropic/house-model"])
async def test_a_renamed_model_is_renamed_back(tmp_path: Path, asked: str, stream: bool) -> None:
    async with ScriptedUpstream() as up, open_gateway(tmp_path, up.url, more=ROUTED) as gateway:
        alice = await gateway.make_user("alice", "10")
        # The name also stands where it must not be touched.
        text = f'"model": "{asked}", "model": "their/sonnet-v9"'
        reply = Reply(text=(text,), tool="f", tool_input={"model": "their/sonnet-v9"}, usage=SPENT)
        up.script(at_once(reply, stream))
        sent = (
            b'{"tools":[{"name":"f","input_schema":{"model":"NAME"}}], "max_tokens": 99,'
            b'"messages":[{"role":"user","content":"\\"model\\":\\"NAME\\""}],'
            b'"stream":STREAM ,  "model" : "NAME","metadata":{"model":"NAME"}}'
        ).replace(b"NAME", asked.encode())
        sent = sent.replace(b"STREAM", b"true" if stream else b"false")
        answer = await gateway.ask(alice, raw=sent)
        assert answer.status == 200
        # One value changed, and not a byte beside it; on the way back too.
        assert up.journal[0].body == sent.replace(b'"model" : "%s"' % asked.encode(), b'"model" : "their/sonnet-v9"')
        back = rendered(reply, stream, "their/sonnet-v9")
        assert answer.body == back.replace(b'"model": "their/sonnet-v9"', b'"model": "%s"' % asked.encode(), 1)
        assert answer.body.count(b"their/sonnet-v9") == back.count(b"their/sonnet-v9") - 1
        (row,) = await gateway.usage_rows()
        assert (row["model"], row["upstream_model"], row["flags"]) == (MODEL, "their/sonnet-v9", "")
        await gateway.assert_settled()


@pytest.mark.parametrize("asked", [MODEL, "anthropic/" + MODEL])
async def test_a_dated_answer_is_no_mismatch(tmp_path: Path, asked: str) -> None:
    async with ScriptedUpstream() as up, open_gateway(tmp_path, up.url) as gateway:
        alice = await gateway.make_user("alice", "10")
        up.script(scripts.answer(Reply(model=MODEL + "-20261001")))
        answer = await gateway.ask(alice, model=asked)
        assert up.journal[0].model == MODEL
        # Where we sent the name as it came, the provider's answer is left as it is.
        assert answer.json["model"] == (MODEL + "-20261001" if asked == MODEL else asked)
        (row,) = await gateway.usage_rows()
        assert row["flags"] == ""
        await gateway.assert_settled()


async def test_bytes_query_and_headers_reach_the_upstream_as_they_came(tmp_path: Path) -> None:
    body = '{ "model":"NAME","max_tokens":5,\t"messages":[{"role":"user","content":"\\u00e9é"}],"new":{"x":[1,2.50,1e3]} }\n'
    body = body.replace("NAME", MODEL)
    async with ScriptedUpstream() as up, open_gateway(tmp_path, up.url) as gateway:
        alice = await gateway.make_user("alice", "10")
        sent = {
            "anthropic-version": "2026-10-21",
            "anthropic-beta": "a-1,b-2, c",
            "anthropic-new-thing": "yes",
            "authorization": "Bearer somebody-elses",
            "x-stainless-lang": "python",
            "cookie": "a=b",
            "x-forwarded-for": "1.2.3.4",
        }
        answer = await gateway.ask(alice, raw=body.encode(), path="/v1/messages?beta=true&x=%20y", headers=sent)
        assert answer.status == 200
        seen = up.journal[0]
        assert seen.body == body.encode()
        assert seen.target == "/v1/messages?beta=true&x=%20y"
        forwarded = {name: value for name, value in seen.headers if name not in ("host", "content-length")}
        assert forwarded == {
            "anthropic-version": "2026-10-21",
            "anthropic-beta": "a-1,b-2, c",
            "anthropic-new-thing": "yes",
            "content-type": "application/json",
            "accept": "*/*",
            "accept-encoding": "identity",
            "x-api-key": "upstream-secret-1",
        }
        await gateway.assert_settled()


def rendered(reply: Reply, stream: bool, model: str = MODEL) -> bytes:
    return (
        b"".join(event.data for event in replies.render_stream(reply, model)) if stream else replies.render_message(reply, model)
    )


def at_once(reply: Reply, stream: bool) -> Script:
    """An answer in one piece: what is done to its first event must not be done to those that come with it."""

    async def script(exchange: Exchange) -> None:
        kind = "text/event-stream" if stream else "application/json"
        await exchange.body(200, [("content-type", kind)], rendered(reply, stream, exchange.seen.model))

    return script


def used(row: dict[str, Any]) -> Usage:
    return Usage(**{name: row[name] for name in Usage.__slots__})


def test_the_table_is_priced_as_the_catalogue_says() -> None:
    """The constants above are this catalogue's."""
    price = next(model.price for model in load_builtin() if model.id == MODEL)
    found = (*(getattr(price.rates, name) for name in Rates.__slots__), price.web_search)
    assert found == tuple(nanos * 1_000_000 for nanos in (IN, OUT, WRITE_5M, WRITE_1H, READ, SEARCH))
