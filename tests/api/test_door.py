"""The door: who is let in, how much they may carry, how long they may take; cheap before dear."""

from __future__ import annotations

import asyncio
import http.client
import json
import logging
import re
from pathlib import Path
from typing import Any

import pytest

from gateway.access import make_secret
from tests.api.raw import raw_client
from tests.gateway_tools import MODEL, ScriptedUpstream, open_gateway, until
from tests.upstreams import scripts

BODY = json.dumps({"model": MODEL, "max_tokens": 9, "messages": []}).encode()
MB = 2**20


# ── credentials ──────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_each_way_to_send_a_key(tmp_path: Path) -> None:
    async with ScriptedUpstream() as up, open_gateway(tmp_path, up.url) as gateway:
        alice = await gateway.make_user("alice")
        key, foreign = alice.secret, "sk-ant-api03-" + "a" * 80
        for headers in (
            {"x-api-key": key},
            {"x-api-key": f"  {key} "},
            {"api-key": key},
            {"authorization": f"Bearer {key}"},
            {"authorization": f"bearer   {key}"},
            {"x-api-key": key, "authorization": f"Bearer {key}"},
            {"x-api-key": foreign, "authorization": f"Bearer {key}"},
            {"x-api-key": key, "authorization": f"Bearer {foreign}"},
            {"x-api-key": "", "api-key": "none", "authorization": f"Bearer {key}"},
            {"x-api-key": key, "authorization": "Basic dXNlcjpwYXNz"},
        ):
            assert (await gateway.ask(None, headers=headers)).status == 200, headers
        # Not one of them was forwarded.
        sent = {name: value for seen in up.journal for name, value in seen.headers}
        assert sent["x-api-key"] == "upstream-secret-1" and "authorization" not in sent and "api-key" not in sent


async def test_each_way_to_be_a_stranger(tmp_path: Path) -> None:
    async with ScriptedUpstream() as up, open_gateway(tmp_path, up.url) as gateway:
        alice, bob = await gateway.make_user("alice"), await gateway.make_user("bob")
        late = await gateway.make_user("late", expires_at_ms=1)
        unknown = make_secret("sk-pgrid-")
        cases: list[tuple[dict[str, str], str]] = [
            ({}, "No key was sent"),
            ({"x-api-key": ""}, "No key was sent"),
            ({"x-api-key": "sk-ant-api03-" + "a" * 80}, "not a key of this gateway"),
            ({"x-api-key": alice.secret[:-1]}, "mistyped or cut"),
            ({"x-api-key": alice.secret.upper()}, "not a key"),
            ({"x-api-key": unknown}, "unknown here"),
            ({"x-api-key": late.secret}, "has expired"),
            ({"x-api-key": alice.secret, "authorization": f"Bearer {bob.secret}"}, "Two different keys"),
            ({"x-api-key": "\u00e9\u00ff"}, "not a key"),
        ]
        for headers, says in cases:
            answer = await gateway.ask(None, headers=headers)
            assert (answer.status, answer.error["type"]) == (401, "authentication_error"), headers
            assert answer.headers["x-should-retry"] == "false" and says in answer.error["message"]
            answer.assert_clean()
            for value in headers.values():
                assert not value or value.split()[-1] not in answer.body.decode()
            assert "invalid x-api-key" not in answer.error["message"]
        assert up.journal == []


async def test_a_stranger_never_costs_us_a_body(tmp_path: Path) -> None:
    async with open_gateway(tmp_path, "http://127.0.0.1:1") as gateway:
        for framing in (f"content-length: {100 * MB}", "transfer-encoding: chunked"):
            async with raw_client(gateway) as client:
                await client.send(f"POST /v1/messages HTTP/1.1\r\nhost: x\r\nx-api-key: nobody\r\n{framing}\r\n\r\n")
                status, headers, _ = await client.answer(1)
                assert (status, headers["x-should-retry"]) == (401, "false")
                await client.rest()  # and the connection is closed, soon


# ── bodies ───────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_an_encoded_body_is_refused_unread(tmp_path: Path) -> None:
    async with ScriptedUpstream() as up, open_gateway(tmp_path, up.url) as gateway:
        alice = await gateway.make_user("alice")
        for encoding in ("gzip", "br", "deflate, gzip", "zstd"):
            answer = await gateway.ask(alice, raw=b"\x1f\x8b" + b"\0" * 1000, headers={"content-encoding": encoding})
            assert (answer.status, answer.error["type"]) == (415, "invalid_request_error")
        for encoding in ("identity", "Identity"):
            assert (await gateway.ask(alice, headers={"content-encoding": encoding})).status == 200
        await gateway.assert_settled()


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
async def test_a_client_that_sends_too_much_can_read_the_refusal(tmp_path: Path, chunked: bool) -> None:
    """http.client sends all of its body before it reads anything, as most blocking clients do."""

    def send(url: str, key: str) -> tuple[int, Any]:
        connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=10)
        pieces = (b"x" * 65_536 for _ in range(48))
        connection.request(
            *("POST", "/v1/messages", pieces if chunked else b"x" * 3 * MB),
            headers={"x-api-key": key},
            encode_chunked=chunked,
        )
        answer = connection.getresponse()
        found = answer.status, json.loads(answer.read())
        connection.close()
        return found

    async with ScriptedUpstream() as up, open_gateway(tmp_path, up.url, more="[server]\nmax_body_mb = 1") as gateway:
        alice = await gateway.make_user("alice")
        status, body = await asyncio.to_thread(send, gateway.url, alice.secret)
        assert (status, body["error"]["type"]) == (413, "request_too_large")
        assert "1 MiB" in body["error"]["message"]
        assert up.journal == [] and gateway.house.walk.door.body_bytes == 0


async def test_a_body_larger_than_all_bodies_together_is_too_large_not_a_matter_of_time(tmp_path: Path) -> None:
    more = "[server]\nmax_body_mb = 1\nmax_body_total_mb = 2"
    async with open_gateway(tmp_path, "http://127.0.0.1:1", more=more) as gateway:
        alice = await gateway.make_user("alice")
        async with raw_client(gateway) as client:
            head = f"POST /v1/messages HTTP/1.1\r\nhost: x\r\nx-api-key: {alice.secret}\r\ncontent-length: {3 * MB}\r\n\r\n"
            await client.send(head)
            assert (await client.answer(1))[0] == 413


@pytest.mark.parametrize("framing", ["content-length: 1048576", "transfer-encoding: chunked"])
async def test_bodies_in_memory_are_bounded_in_all(tmp_path: Path, framing: str) -> None:
    more = "[server]\nmax_body_mb = 1\nmax_body_total_mb = 2"
    async with open_gateway(tmp_path, "http://127.0.0.1:1", more=more) as gateway:
        alice = await gateway.make_user("alice")
        head = f"POST /v1/messages HTTP/1.1\r\nhost: x\r\nx-api-key: {alice.secret}\r\n{framing}\r\n\r\n"
        async with raw_client(gateway) as one, raw_client(gateway) as two, raw_client(gateway) as three:
            await one.send(head)
            await two.send(head)
            await until(lambda: gateway.house.walk.door.body_bytes == 2 * MB)
            await three.send(head)
            status, headers, body = await three.answer(1)
            assert (status, headers["retry-after"]) == (503, "1") and json.loads(body)["error"]["type"] == "api_error"
        await until(lambda: gateway.house.walk.door.body_bytes == 0)
        await gateway.assert_settled()


async def test_requests_in_flight_are_bounded(tmp_path: Path) -> None:
    released = asyncio.Event()
    up_script = scripts.answer(released=released)
    async with (
        ScriptedUpstream(default=up_script) as up,
        open_gateway(tmp_path, up.url, more="[server]\nmax_in_flight = 2") as gateway,
    ):
        alice = await gateway.make_user("alice")
        asking = [asyncio.ensure_future(gateway.ask(alice)) for _ in range(2)]
        await up.arrived(2)
        answer = await gateway.ask(alice)
        assert (answer.status, answer.error["type"], answer.headers["retry-after"]) == (503, "api_error", "1")
        assert (await gateway.ask(alice, path="/v1/messages/count_tokens")).status == 503
        assert (await gateway.get(alice, "/v1/models")).status == 200
        released.set()
        assert [answer.status for answer in await asyncio.gather(*asking)] == [200, 200]
        assert (await gateway.ask(alice)).status == 200
        await gateway.assert_settled()


async def test_a_slow_head_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.api.guard.HEAD_S", 0.2)
    async with (
        open_gateway(tmp_path, "http://127.0.0.1:1") as gateway,
        raw_client(gateway) as silent,
        raw_client(gateway) as slow,
        raw_client(gateway) as second,
    ):
        await slow.send("POST /v1/messages HTTP/1.1\r\nhost:")
        await second.send("GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
        assert (await second.answer())[0] == 200
        # An idle connection between two requests is none; half of the next request's head is.
        await asyncio.sleep(0.3)
        assert await silent.rest(2) == b"" and await slow.rest(2) == b""
        await second.send("GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
        assert (await second.answer())[0] == 200
        await second.send("GET /hea")
        assert await second.rest(2) == b""


async def test_a_slow_body_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.api.guard.BODY_S", 0.2)
    monkeypatch.setattr("gateway.api.guard.LINGER_S", 0.1)
    async with open_gateway(tmp_path, "http://127.0.0.1:1") as gateway:
        alice = await gateway.make_user("alice")
        for framing, begun in (("content-length: 500", '{"mo'), ("transfer-encoding: chunked", '4\r\n{"mo\r\n')):
            async with raw_client(gateway) as client:
                head = f"POST /v1/messages HTTP/1.1\r\nhost: x\r\nx-api-key: {alice.secret}\r\n{framing}\r\n\r\n"
                await client.send(head + begun)
                status, _, body = await client.answer(2)
                assert status == 400 and "in time" in json.loads(body)["error"]["message"]
                await client.rest()
        await gateway.assert_settled()


@pytest.mark.parametrize(
    ("framing", "rest"),
    [
        ("transfer-encoding: chunked", b"zz\r\nabc\r\n0\r\n\r\n"),
        ("transfer-encoding: chunked", b"3\r\nabcdefgh\r\n"),
    ],
)
async def test_a_broken_body_is_a_400_and_no_traceback(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, framing: str, rest: bytes
) -> None:
    # aiohttp does not tell who reads the body; the body's own time limit does.
    monkeypatch.setattr("gateway.api.guard.BODY_S", 0.3)
    async with open_gateway(tmp_path, "http://127.0.0.1:1") as gateway:
        alice = await gateway.make_user("alice")
        async with raw_client(gateway) as client:
            await client.send(f"POST /v1/messages HTTP/1.1\r\nhost: x\r\nx-api-key: {alice.secret}\r\n{framing}\r\n\r\n")
            await asyncio.sleep(0.05)  # the head alone, so that the body is being read when it breaks
            await client.send(rest)
            status, _, body = await client.answer()
            assert status == 400 and json.loads(body)["error"]["type"] == "invalid_request_error"
        assert not [record for record in caplog.records if record.exc_info or record.levelno >= logging.ERROR]
        await gateway.assert_settled()


async def test_a_client_that_leaves_in_the_middle_of_its_body(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with open_gateway(tmp_path, "http://127.0.0.1:1") as gateway:
        alice = await gateway.make_user("alice")
        async with raw_client(gateway) as client:
            await client.send(
                f"POST /v1/messages HTTP/1.1\r\nhost: x\r\nx-api-key: {alice.secret}\r\ncontent-length: 500\r\n\r\nabc"
            )
            await until(lambda: gateway.house.walk.door.in_flight == 1)
        await until(lambda: gateway.house.walk.door.in_flight == 0)
        assert not [record for record in caplog.records if record.exc_info or record.levelno >= logging.ERROR]
        await gateway.assert_settled()


# ── what is asked ────────────────────────────────────────────────────────────────────────────────────────────────────

MALFORMED: list[tuple[bytes, str]] = [
    (b"", "empty"),
    (b"{", "not valid JSON"),
    (b"[]", "must be a JSON object"),
    (b'{"max_tokens":1,"messages":[]}', "model is required"),
    (b'{"model":7,"max_tokens":1,"messages":[]}', "model must be a string"),
    (b'{"model":"../x y","max_tokens":1,"messages":[]}', "not a model id"),
    (b'{"model":"claude-sonnet-5-5","messages":[]}', "max_tokens is required"),
    (b'{"model":"claude-sonnet-5-5","max_tokens":0,"messages":[]}', "max_tokens must be"),
    (b'{"model":"claude-sonnet-5-5","max_tokens":true,"messages":[]}', "max_tokens must be"),
    (b'{"model":"claude-sonnet-5-5","max_tokens":1.5,"messages":[]}', "max_tokens must be"),
    (b'{"model":"claude-sonnet-5-5","max_tokens":1}', "messages is required"),
    (b'{"model":"claude-sonnet-5-5","max_tokens":1,"messages":[],"stream":"yes"}', "stream must be"),
    (b'{"model":"a","model":"b","max_tokens":1,"messages":[]}', "model"),
    (b'{"model":"a","mod\\u0065l":"b","max_tokens":1,"messages":[]}', "model"),
]


async def test_what_we_act_on_is_checked_before_money_moves(tmp_path: Path) -> None:
    async with ScriptedUpstream() as up, open_gateway(tmp_path, up.url) as gateway:
        # Without a cent: a malformed request is told so, whatever the wallet says.
        alice = await gateway.make_user("alice", "0")
        for raw, says in MALFORMED:
            answer = await gateway.ask(alice, raw=raw)
            assert (answer.status, answer.error["type"]) == (400, "invalid_request_error"), raw
            assert says in answer.error["message"], answer.error
            answer.assert_clean()
        answer = await gateway.ask(alice, model="claude-sonet-5-5")
        assert (answer.status, answer.error["type"]) == (404, "not_found_error")
        assert "Did you mean claude-sonnet-5-5?" in answer.error["message"]
        carol = await gateway.make_user("carol", "0", models=frozenset({"claude-haiku-5-5", "claude-opus-5-5"}))
        answer = await gateway.ask(carol)
        assert (answer.status, answer.error["type"]) == (403, "permission_error")
        assert "allowed: claude-haiku-5-5, claude-opus-5-5" in answer.error["message"]
        assert (await gateway.ask(carol, model="anthropic/claude-haiku-5-5")).status == 402
        assert up.journal == [] and await gateway.table("select * from holds") == []


async def test_a_default_for_max_tokens_is_spliced_in(tmp_path: Path) -> None:
    async with ScriptedUpstream() as up, open_gateway(tmp_path, up.url, more="[server]\ndefault_max_tokens = 77") as gateway:
        alice = await gateway.make_user("alice")
        raw = b' {"model":"claude-sonnet-5-5", "messages":[] }'
        assert (await gateway.ask(alice, raw=raw)).status == 200
        assert up.journal[0].body == b' {"max_tokens":77,"model":"claude-sonnet-5-5", "messages":[] }'
        await gateway.assert_settled()


async def test_requests_per_minute(tmp_path: Path) -> None:
    async with ScriptedUpstream() as up, open_gateway(tmp_path, up.url) as gateway:
        alice = await gateway.make_user("alice", rpm=3)
        assert [(await gateway.ask(alice)).status for _ in range(3)] == [200] * 3
        # The door's refusal comes before the body is looked at.
        answer = await gateway.ask(alice, raw=b"nonsense")
        assert (answer.status, answer.error["type"]) == (429, "rate_limit_error")
        assert 15 <= int(answer.headers["retry-after"]) <= 20 and "x-should-retry" not in answer.headers
        assert "3 requests per minute" in answer.error["message"]
        # Counting tokens has a bucket of its own, and costs nothing.
        answers = await asyncio.gather(*(gateway.ask(alice, path="/v1/messages/count_tokens") for _ in range(26)))
        assert {(answer.status, answer.body) for answer in answers} == {(200, b'{"input_tokens": 42}')}
        assert len(await gateway.usage_rows()) == 3
        await gateway.assert_settled()


# ── HTTP itself ──────────────────────────────────────────────────────────────────────────────────────────────────────

SECRET = "sk-pgrid-" + "5ec2e7" * 10

NONSENSE = [
    f"GET /v1/models HTTP/1.1\r\nhost: x\r\nAuthorization\x00: Bearer {SECRET}\r\n\r\n",
    f"GET /v1/models HTTP/1.1\r\nhost: x\r\nAuthorization Bearer {SECRET}\r\n\r\n",
    f"GET /{SECRET} HTTP/9.9\r\nhost: x\r\n\r\n",
    f"{SECRET}\r\n\r\n",
    f"GET / HTTP/1.1\r\nhost: x\r\nx-api-key: {SECRET}\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
    f"GET / HTTP/1.1\r\nhost: x\r\nx-long: {SECRET * 2000}\r\n\r\n",
    f"POST /v1/messages HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\nx-api-key: {SECRET}\r\n\r\n",
]


@pytest.mark.parametrize("nonsense", NONSENSE, ids=range(len(NONSENSE)))
async def test_what_is_not_http_is_answered_without_an_echo(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str], nonsense: str
) -> None:
    caplog.set_level(logging.DEBUG)
    async with open_gateway(tmp_path, "http://127.0.0.1:1") as gateway, raw_client(gateway) as client:
        await client.send(nonsense)
        heard = await client.rest()
    head, _, body = heard.partition(b"\r\n\r\n")
    assert head.startswith((b"HTTP/1.1 400 ", b"HTTP/1.0 400 "))
    assert json.loads(body)["type"] == "error"
    assert b"5ec2e7" not in heard and b"aiohttp" not in heard.lower() and b"python" not in heard.lower()
    assert "5ec2e7" not in caplog.text and "5ec2e7" not in "".join(capsys.readouterr())
    assert not [record for record in caplog.records if record.exc_info]


async def test_pipelined_requests_are_answered_in_order(tmp_path: Path) -> None:
    async with ScriptedUpstream() as up, open_gateway(tmp_path, up.url) as gateway:
        alice = await gateway.make_user("alice")
        one = (
            f"POST /v1/messages HTTP/1.1\r\nhost: x\r\nx-api-key: {alice.secret}\r\ncontent-length: {len(BODY)}\r\n\r\n".encode()
            + BODY
        )
        async with raw_client(gateway) as client:
            await client.send(one + b"GET /nowhere/v1 HTTP/1.1\r\nhost: x\r\n\r\n" + one)
            assert [(await client.answer())[0] for _ in range(3)] == [200, 404, 200]
        await gateway.assert_settled()


async def test_an_http_1_0_client_gets_its_stream(tmp_path: Path) -> None:
    async with ScriptedUpstream() as up, open_gateway(tmp_path, up.url) as gateway:
        alice = await gateway.make_user("alice")
        body = BODY[:-1] + b',"stream":true}'
        async with raw_client(gateway) as client:
            await client.send(
                f"POST /v1/messages HTTP/1.0\r\nx-api-key: {alice.secret}\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body
            )
            heard = await client.rest()
        assert heard.startswith(b"HTTP/1.0 200") and heard.endswith(b"\n\n") and b"message_stop" in heard
        await gateway.assert_settled()


async def test_every_answer_tells_where_the_keys_own_bucket_stands(tmp_path: Path) -> None:
    async with ScriptedUpstream() as up, open_gateway(tmp_path, up.url) as gateway:
        alice, bob = await gateway.make_user("alice", "10", rpm=2), await gateway.make_user("bob", "10", rpm=0)
        answers = [await gateway.ask(alice, stream=stream) for stream in (False, True, False)]
        name = "anthropic-ratelimit-requests-"
        assert [(answer.status, answer.headers[name + "limit"], answer.headers[name + "remaining"]) for answer in answers] == [
            (200, "2", "1"),
            (200, "2", "0"),
            (429, "2", "0"),
        ]
        assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", answer.headers[name + "reset"]) for answer in answers)
        unlimited = await gateway.ask(bob)
        assert not [header for header in unlimited.headers if "ratelimit" in header]
        await gateway.assert_settled()
