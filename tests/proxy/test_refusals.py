"""What an upstream refuses, and what becomes of it: the client's view, the attempt's row, and books that did not move."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.gateway_tools import ScriptedUpstream, open_gateway
from tests.upstream import Script
from tests.upstreams import replies, scripts
from tests.upstreams.replies import Reply

# house.py builds one transport too many for a second upstream of a kind, and drops it unclosed.

TEN = 10_000_000_000
# Nobody listens there, and nobody will: port 1 needs root, and tcpmux died decades ago.
DEAD = "http://127.0.0.1:1"

FAILED = "The provider"


@dataclass(frozen=True)
class Case:
    """An upstream's first answer, and what the client of a gateway with this one upstream sees."""

    name: str
    script: Script
    status: int
    type: str
    reason: str
    seen: int | None
    says: str = ""
    retry_after: str | None = None
    should_retry: str | None = None
    never_says: str = ""


def _json(status: int, body: bytes) -> Script:
    return scripts.raw(
        b"HTTP/1.1 %d X\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (status, len(body), body), keep=True
    )


ONE_UPSTREAM = [
    Case("401", scripts.refuse(401), 502, "api_error", "secret_refused", 401, FAILED, never_says="x-api-key"),
    Case("402", scripts.refuse(402), 502, "api_error", "credit_exhausted", 402, FAILED, never_says="organization"),
    Case("403", scripts.refuse(403), 502, "api_error", "status_403", 403, FAILED, never_says="permission"),
    Case(
        "credit exhausted",
        scripts.refuse(400, scripts.CREDIT_EXHAUSTED),
        *(502, "api_error", "credit_exhausted", 400, FAILED),
        never_says="credit balance",
    ),
    Case(
        "429", scripts.refuse(429, retry_after="7"), 429, "rate_limit_error", "rate_limited", 429, "limits", "7", None, "organiz"
    ),
    Case("429, no time", scripts.refuse(429), 429, "rate_limit_error", "rate_limited", 429, "limits"),
    Case(
        "429, an hour",
        scripts.refuse(429, retry_after="3600"),
        429,
        "rate_limit_error",
        "rate_limited",
        429,
        "3600 s",
        "3600",
        "false",
    ),
    Case("500", scripts.refuse(500), 502, "api_error", "status_500", 500, FAILED),
    Case("503", scripts.refuse(503), 502, "api_error", "status_503", 503, FAILED),
    Case("504", scripts.refuse(504), 504, "timeout_error", "status_504", 504, FAILED, "1"),
    Case("529", scripts.refuse(529), 529, "overloaded_error", "overloaded", 529, "overloaded"),
    Case("HTML", scripts.html(), 502, "api_error", "html", 200, FAILED, never_says="Sorry"),
    Case("HTML 503", scripts.html(503), 502, "api_error", "status_503", 503, FAILED, never_says="Sorry"),
    Case("gzip", scripts.zipped(), 502, "api_error", "encoded", 200, FAILED),
    Case("not HTTP", scripts.raw(b"SSH-2.0-OpenSSH_9.6\r\n"), 502, "api_error", "protocol", None, FAILED),
    Case("101", scripts.raw(b"HTTP/1.1 101 Switching\r\nupgrade: x\r\n\r\n"), 502, "api_error", "protocol", None, FAILED),
    Case("too many headers", scripts.answer(headers=[(f"x-{n}", "y") for n in range(200)]), 502, "api_error", "protocol", None),
]
NOT_AN_ANSWER = [
    Case(
        "200 with an error in it",
        _json(200, replies.render_error("api_error", "Sorry")),
        502,
        "api_error",
        "content_type",
        200,
        FAILED,
    ),
    Case("200 with half a body", _json(200, b'{"type":"message","usage":{"in'), 502, "api_error", "content_type", 200, FAILED),
    Case("200 with a list", _json(200, b"[1]"), 502, "api_error", "content_type", 200, FAILED),
    Case("204", scripts.raw(b"HTTP/1.1 204 None\r\n\r\n", keep=True), 502, "api_error", "content_type", 204, FAILED),
]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("case", ONE_UPSTREAM, ids=lambda case: case.name)
async def test_a_refusal_of_the_only_upstream(tmp_path: Path, case: Case, stream: bool) -> None:
    await check(tmp_path, case, stream)


@pytest.mark.parametrize("case", NOT_AN_ANSWER, ids=lambda case: case.name)
async def test_what_is_no_message_is_no_answer(tmp_path: Path, case: Case) -> None:
    await check(tmp_path, case, stream=False)


async def check(tmp_path: Path, case: Case, stream: bool) -> None:
    async with ScriptedUpstream() as up, open_gateway(tmp_path, up.url) as gateway:
        alice = await gateway.make_user("alice", "10")
        up.script(case.script)
        answer = await gateway.ask(alice, stream=stream)
        assert (answer.status, answer.error["type"]) == (case.status, case.type)
        answer.assert_clean()
        assert answer.json["request_id"] == answer.request_id
        assert case.says in answer.error["message"]
        assert not case.never_says or case.never_says not in answer.body.decode()
        assert answer.headers.get("retry-after") == (case.retry_after or ("1" if case.status == 502 else None))
        assert answer.headers.get("x-should-retry") == case.should_retry
        assert await gateway.attempts() == [("up1", case.seen, case.reason)]
        assert await gateway.void_reasons() == [case.reason]
        assert await gateway.usage_rows() == [] and gateway.balance(alice) == TEN
        assert len(up.journal) == 1
        await gateway.assert_settled()


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("status", [400, 413, 422, 404])
async def test_a_refusal_that_is_the_clients_to_mend_passes_byte_for_byte(tmp_path: Path, status: int, stream: bool) -> None:
    body = (
        b'{"type": "error",\n "error": {"type":"invalid_request_error","message":"\\u00fcber \xc3\xbc"},"request_id":"req_x" }\n'
    )

    async def refuse(exchange: Any) -> None:
        headers = [("content-type", "application/json; charset=x"), ("x-should-retry", "false"), *scripts.LEAKY]
        await exchange.body(status, headers, body)

    async with ScriptedUpstream(default=refuse) as up, open_gateway(tmp_path, up.url) as gateway:
        alice = await gateway.make_user("alice", "10", rpm=0 if status == 404 else 2)
        # More of them than the key may make in a minute: each gives its place back.
        for _ in range(5):
            answer = await gateway.ask(alice, stream=stream)
            if status == 404 and answer.body != body:
                # A model that its only provider does not know rests: it is asked once a second, meanwhile we say so ourselves.
                assert (answer.status, answer.error["type"]) == (404, "not_found_error")
                continue
            assert (answer.status, answer.body) == (status, body)
            assert answer.headers["content-type"] == "application/json; charset=x"
            assert answer.headers["x-should-retry"] == "false"
            answer.assert_clean()
        assert gateway.balance(alice) == TEN
        assert {(status, reason) for _, status, reason in await gateway.attempts()} == {
            (status, "model_not_found" if status == 404 else f"status_{status}")
        }
        assert set(await gateway.void_reasons()) <= {"refused_upstream", *(["all_resting"] if status == 404 else [])}
        await gateway.assert_settled()


async def test_a_400_in_gzip_is_not_passed_as_if_it_were_text(tmp_path: Path) -> None:
    async def zipped(exchange: Any) -> None:
        await exchange.body(400, [("content-type", "application/json"), ("content-encoding", "gzip")], b"\x1f\x8b\x08nonsense")

    async with ScriptedUpstream(default=zipped) as up, open_gateway(tmp_path, up.url) as gateway:
        alice = await gateway.make_user("alice", "10")
        answer = await gateway.ask(alice)
        assert (answer.status, answer.error["type"]) == (502, "api_error")
        await gateway.assert_settled()


async def test_only_so_many_refusals_give_their_place_back(tmp_path: Path) -> None:
    async with ScriptedUpstream(default=scripts.refuse(400)) as up, open_gateway(tmp_path, up.url) as gateway:
        alice = await gateway.make_user("alice", "10", rpm=1)
        statuses = [(await gateway.ask(alice)).status for _ in range(23)]
        # 20 are given back: the 21st request keeps its place, and the next are too many.
        assert statuses == [400] * 21 + [429] * 2


@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_a_redirect_is_never_followed(tmp_path: Path, status: int) -> None:
    async with ScriptedUpstream() as elsewhere, ScriptedUpstream() as up, open_gateway(tmp_path, up.url) as gateway:
        alice = await gateway.make_user("alice", "10")
        up.script(scripts.redirect(elsewhere.url + "/v1/messages", status))
        answer = await gateway.ask(alice)
        assert answer.status == 502 and elsewhere.url not in repr(answer.headers) + answer.body.decode()
        answer.assert_clean()
        assert elsewhere.journal == [] and len(up.journal) == 1
        assert await gateway.attempts() == [("up1", status, "redirect")]
        await gateway.assert_settled()


async def test_cookies_of_one_customer_are_not_sent_for_the_next(tmp_path: Path) -> None:
    async with ScriptedUpstream() as up, open_gateway(tmp_path, up.url) as gateway:
        alice, bob = await gateway.make_user("alice"), await gateway.make_user("bob")
        for user in (alice, bob):
            answer = await gateway.ask(user, headers={"cookie": "mine=1"})
            assert answer.status == 200
            answer.assert_clean()
        assert [seen.header("cookie") for seen in up.journal] == [None, None]
        await gateway.assert_settled()


FIRST_FAILS = [
    ("401", scripts.refuse(401), (401, "secret_refused")),
    ("403", scripts.refuse(403), (403, "status_403")),
    ("404", scripts.refuse(404), (404, "model_not_found")),
    ("429", scripts.refuse(429, retry_after="60"), (429, "rate_limited")),
    ("500", scripts.refuse(500), (500, "status_500")),
    ("529", scripts.refuse(529), (529, "overloaded")),
    ("credit", scripts.refuse(400, scripts.CREDIT_EXHAUSTED), (400, "credit_exhausted")),
    ("html", scripts.html(), (200, "html")),
    ("gzip", scripts.zipped(), (200, "encoded")),
    ("redirect", scripts.redirect("http://127.0.0.1:9/"), (307, "redirect")),
    ("cut at request", scripts.cut("request"), (None, "reset")),
    ("cut at head", scripts.cut("head"), (200, "reset")),
    ("error first", scripts.error_first(), (200, "overloaded")),
    ("ended at once", scripts.cut("head", "clean"), (200, "empty")),
]


@pytest.mark.parametrize(("script", "seen"), [case[1:] for case in FIRST_FAILS], ids=[case[0] for case in FIRST_FAILS])
async def test_another_upstream_answers_before_the_first_byte(
    tmp_path: Path, script: Script, seen: tuple[int | None, str]
) -> None:
    async with ScriptedUpstream() as one, ScriptedUpstream() as two, open_gateway(tmp_path, one.url, two.url) as gateway:
        alice = await gateway.make_user("alice", "10")
        one.script(script)
        answer = await gateway.ask(alice, stream=True)
        assert answer.status == 200 and not answer.cut
        answer.assert_clean()
        assert [name for name, _ in answer.events][-1] == "message_stop"
        assert "error" not in [name for name, _ in answer.events]
        assert await gateway.attempts() == [("up1", *seen), ("up2", 200, "ok")]
        assert two.journal[0].header("x-api-key") == "upstream-secret-2"
        assert [row["upstream"] for row in await gateway.usage_rows()] == ["up2"]
        await gateway.assert_settled()


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_a_dead_upstream_is_passed_over(tmp_path: Path, stream: bool) -> None:
    async with ScriptedUpstream() as up, open_gateway(tmp_path, DEAD, up.url) as gateway:
        alice = await gateway.make_user("alice", "10")
        answer = await gateway.ask(alice, stream=stream)
        assert answer.status == 200
        assert await gateway.attempts() == [("up1", None, "connect"), ("up2", 200, "ok")]
        await gateway.assert_settled()


async def test_nobody_listens(tmp_path: Path) -> None:
    async with open_gateway(tmp_path, DEAD) as gateway:
        alice = await gateway.make_user("alice", "10")
        answer = await gateway.ask(alice)
        assert (answer.status, answer.error["type"]) == (502, "api_error")
        assert "127.0.0.1" not in answer.body.decode()
        assert await gateway.attempts() == [("up1", None, "connect")]
        await gateway.assert_settled()


async def test_three_attempts_and_no_more(tmp_path: Path) -> None:
    async with ScriptedUpstream(default=scripts.refuse(500)) as up, open_gateway(tmp_path, *[up.url] * 4) as gateway:
        alice = await gateway.make_user("alice", "10")
        answer = await gateway.ask(alice)
        assert answer.status == 502
        assert [upstream for upstream, _, _ in await gateway.attempts()] == ["up1", "up2", "up3"]
        await gateway.assert_settled()


async def test_a_refusal_that_no_upstream_could_mend_is_not_tried_elsewhere(tmp_path: Path) -> None:
    async with ScriptedUpstream() as one, ScriptedUpstream() as two, open_gateway(tmp_path, one.url, two.url) as gateway:
        alice = await gateway.make_user("alice", "10")
        one.script(scripts.refuse(400))
        assert (await gateway.ask(alice)).status == 400
        assert two.journal == []
        await gateway.assert_settled()


async def test_when_all_are_limited_the_soonest_is_named(tmp_path: Path) -> None:
    async with ScriptedUpstream() as one, ScriptedUpstream() as two, open_gateway(tmp_path, one.url, two.url) as gateway:
        alice = await gateway.make_user("alice", "10")
        one.script(scripts.refuse(429, retry_after="7"))
        two.script(scripts.refuse(429, retry_after="300"))
        answer = await gateway.ask(alice)
        assert (answer.status, answer.headers["retry-after"]) == (429, "7")
        assert "x-should-retry" not in answer.headers
        await gateway.assert_settled()


@pytest.mark.parametrize(
    ("kind", "status", "type"),
    [
        ("overloaded_error", 529, "overloaded_error"),
        ("rate_limit_error", 429, "rate_limit_error"),
        ("api_error", 502, "api_error"),
        ("x" * 500, 502, "api_error"),
    ],
)
async def test_an_error_first_is_a_refusal_told_late(tmp_path: Path, kind: str, status: int, type: str) -> None:
    async with ScriptedUpstream() as up, open_gateway(tmp_path, up.url) as gateway:
        alice = await gateway.make_user("alice", "10")
        up.script(scripts.error_first(kind, "their own words"))
        answer = await gateway.ask(alice, stream=True)
        assert (answer.status, answer.error["type"]) == (status, type)
        assert "their own words" not in answer.error["message"]
        answer.assert_clean()
        assert len((await gateway.attempts())[0][2]) < 64
        assert gateway.balance(alice) == TEN
        await gateway.assert_settled()


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_an_upstream_that_is_too_slow_is_given_up(tmp_path: Path, stream: bool) -> None:
    more = "[timeouts]\nfirst_byte_s = 0.3\nfirst_byte_stream_s = 0.3"
    async with ScriptedUpstream(default=scripts.never()) as up, open_gateway(tmp_path, up.url, more=more) as gateway:
        alice = await gateway.make_user("alice", "10")
        answer = await gateway.ask(alice, stream=stream)
        assert (answer.status, answer.error["type"]) == (504, "timeout_error")
        answer.assert_clean()
        assert await gateway.attempts() == [("up1", None, "timeout")]
        async with asyncio.timeout(2):
            await up.journal[0].gone.wait()
        await gateway.assert_settled()


@pytest.mark.parametrize("status", [200, 400, 500])
async def test_a_body_that_never_ends_is_given_up(tmp_path: Path, status: int) -> None:
    head = b"HTTP/1.1 %d X\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n" % status

    async def stall(exchange: Any) -> None:
        await exchange.raw(head + b'{"type":')
        await asyncio.Event().wait()

    async with ScriptedUpstream(default=stall) as up, open_gateway(tmp_path, up.url, more="[timeouts]\nidle_s = 0.3") as gateway:
        alice = await gateway.make_user("alice", "10")
        answer = await gateway.ask(alice)
        assert (answer.status, answer.error["type"]) == (504, "timeout_error")
        assert await gateway.attempts() == [("up1", status, "silent")]
        async with asyncio.timeout(2):
            await up.journal[0].gone.wait()
        await gateway.assert_settled()


async def test_an_answer_that_is_slow_but_comes_is_an_answer(tmp_path: Path) -> None:
    async with ScriptedUpstream() as up, open_gateway(tmp_path, up.url, more="[timeouts]\nidle_s = 0.3") as gateway:
        alice = await gateway.make_user("alice", "10")
        up.script(scripts.answer(before_s=0.4), scripts.answer(pace_s=0.1))
        assert (await gateway.ask(alice)).status == 200
        answer = await gateway.ask(alice, stream=True)
        assert answer.status == 200 and not answer.cut
        await gateway.assert_settled()


async def test_an_answer_without_end_is_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.proxy.dispatch.WHOLE_BODY_BYTES_MAX", 100_000)
    async with ScriptedUpstream() as up, open_gateway(tmp_path, up.url) as gateway:
        alice = await gateway.make_user("alice", "10")
        up.script(scripts.answer(Reply(text=("x" * 200_000,))))
        answer = await gateway.ask(alice)
        assert (answer.status, answer.error["type"]) == (502, "api_error")
        assert await gateway.attempts() == [("up1", 200, "too_large")]
        await gateway.assert_settled()
