"""What is refused, and by whom: every refusal in the client's dialect, and requests that only one kind of upstream can take."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

from gateway.errors import KINDS
from tests.fakes import FakeClock
from tests.proxy.dialects import CHAT, CLIENTS, MESSAGES, Client, open_pair
from tests.upstreams import scripts
from tests.upstreams.replies import Reply

each_client = pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.dialect)
each_upstream = pytest.mark.parametrize("model", ["house-a", "house-o"])
whole_or_stream = pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])

SIGNED = [
    {"role": "user", "content": "hi"},
    {"role": "assistant", "content": [{"type": "thinking", "thinking": "t", "signature": "c2ln"}, {"type": "text", "text": "x"}]},
    {"role": "user", "content": "go on"},
]
# What the other kind cannot take, and the place that the refusal names.
UNTRANSLATABLE: dict[str, tuple[dict[str, Any], str]] = {
    "anthropic": ({"mcp_servers": [{"type": "url", "url": "https://x", "name": "y"}]}, "mcp_servers"),
    "openai": ({"logit_bias": {"50256": -100}}, "logit_bias"),
}


def own(client: Client) -> str:
    return {"anthropic": "house-a", "openai": "house-o"}[client.dialect]


def foreign(client: Client) -> str:
    return {"anthropic": "house-o", "openai": "house-a"}[client.dialect]


# ── our own ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@each_client
async def test_each_refusal_of_ours(tmp_path: Path, client: Client) -> None:
    more = "[server]\nmax_body_mb = 1\n"
    async with open_pair(tmp_path, more=more) as pair:
        ask = pair.gateway.ask
        broke = await pair.gateway.make_user("broke", "0")
        fast = await pair.gateway.make_user("fast", "10", rpm=1)
        bound = await pair.gateway.make_user("bound", "10", models=frozenset({"house-a"}))
        body = json.dumps(client.body("house-o")).encode()
        path = client.path
        await ask(fast, path=path, raw=body)
        cases: list[tuple[str, Any]] = [
            ("unauthenticated", await ask(None, path=path, raw=body)),
            ("balance_too_low", await ask(broke, path=path, raw=body)),
            ("forbidden", await ask(bound, path=path, raw=body)),
            ("not_found", await pair.ask(client, "house-x")),
            ("method_not_allowed", await pair.gateway.get(pair.alice, path)),
            (
                "too_large",
                await pair.gateway.request(
                    "POST", path, headers={"x-api-key": pair.alice.secret}, data=io.BytesIO(b"x" * 2**20 + b"x")
                ),
            ),
            ("encoded_body", await ask(pair.alice, path=path, raw=body, headers={"content-encoding": "gzip"})),
            ("rate_limited", await ask(fast, path=path, raw=body)),
            ("invalid_request", await ask(pair.alice, path=path, raw=b"{")),
        ]
        for code, answer in cases:
            kind = KINDS[code]  # type: ignore[index]
            error = client.error(answer)
            assert (answer.status, error["type"]) == (kind.status, getattr(kind, client.dialect)), code
            answer.assert_clean()
            assert answer.headers["content-type"] == "application/json"
        by_code = dict(cases)
        assert by_code["unauthenticated"].headers["x-should-retry"] == "false"
        assert by_code["method_not_allowed"].headers["allow"] == "POST"
        assert client.limit_header in by_code["rate_limited"].headers and "retry-after" in by_code["rate_limited"].headers
        if client is CHAT:
            told = {code: answer.error["code"] for code, answer in cases}
            assert told["unauthenticated"] == "invalid_api_key" and told["balance_too_low"] == "insufficient_quota"
            assert told["rate_limited"] == "rate_limit_exceeded" and told["not_found"] == "model_not_found"
            assert by_code["not_found"].error["param"] == "model"
        await pair.assert_settled()


@pytest.mark.parametrize(
    "path", ["/v1/chat/completions", "/v1/v1/chat/completions", "/chat/completions", "/api/v1/chat/completions"]
)
async def test_every_path_of_the_chat_endpoint(tmp_path: Path, path: str) -> None:
    async with open_pair(tmp_path) as pair:
        raw = json.dumps(CHAT.body("house-a")).encode()
        assert (await pair.gateway.ask(pair.alice, path=path, raw=raw)).status == 200
        for method in ("GET", "HEAD", "PUT", "OPTIONS"):
            answer = await pair.gateway.request(method, path)
            assert (answer.status, answer.headers["allow"]) == (405, "POST")
        await pair.assert_settled()


@pytest.mark.parametrize(
    ("raw", "param"),
    [
        (b'{"model":"house-a","model":"house-o","messages":[{"role":"user","content":"x"}]}', "model"),
        (b'{"model":"house-o","n":1,"n":9,"messages":[{"role":"user","content":"x"}]}', "n"),
        (b'{"model":"house-o","max_tokens":1,"max_tok\\u0065ns":9,"messages":[{"role":"user","content":"x"}]}', "max_tokens"),
        (b'{"model":"house-o","stream":"yes","messages":[{"role":"user","content":"x"}]}', "stream"),
        (b'{"model":"house-o","stream":true,"stream_options":7,"messages":[{"role":"user","content":"x"}]}', "stream_options"),
        (b'{"model":"house-o","messages":7}', "messages"),
        (b'{"messages":[]}', "model"),
    ],
)
async def test_a_chat_body_that_steers_twice_or_nonsense_names_the_field(tmp_path: Path, raw: bytes, param: str) -> None:
    async with open_pair(tmp_path) as pair:
        answer = await pair.gateway.ask(pair.alice, path=CHAT.path, raw=raw)
        assert answer.status == 400 and CHAT.error(answer)["param"] == param
        assert pair.gpt.journal == [] and pair.claude.journal == []
        await pair.assert_settled()


@each_client
@each_upstream
@pytest.mark.parametrize(
    "content_type", ["application/json; charset=utf-8", "text/plain", "", "application/x-www-form-urlencoded"]
)
async def test_odd_content_types_and_a_bom(tmp_path: Path, client: Client, model: str, content_type: str) -> None:
    async with open_pair(tmp_path) as pair:
        raw = b"\xef\xbb\xbf" + json.dumps(client.body(model)).encode()
        answer = await pair.gateway.ask(pair.alice, path=client.path, raw=raw, headers={"content-type": content_type})
        # A BOM is passed on within a dialect, as it came; nothing breaks on it here.
        assert answer.status == 200
        assert "json" in (pair.upstream(model).journal[0].header("content-type") or "")
        await pair.assert_settled()


# ── the upstream's ───────────────────────────────────────────────────────────────────────────────────────────────────

VERBATIM = (400, 404, 413, 422)
OWN_WORDS = {401: 502, 402: 502, 403: 502, 429: 429, 500: 502, 503: 502, 504: 504, 529: 529}


@whole_or_stream
@each_client
@each_upstream
async def test_each_refusal_of_an_upstream(tmp_path: Path, client: Client, model: str, stream: bool) -> None:
    clock = FakeClock()
    async with open_pair(tmp_path, clock=clock) as pair:
        up = pair.upstream(model)
        for status in (*VERBATIM, *OWN_WORDS):
            clock.advance(3_600_000)
            up.script(scripts.refuse(status, "messages.0: leave x out" if status in (400, 422) else ""))
            answer = await pair.ask(client, model, stream=stream)
            error = client.error(answer) if model != own(client) or status not in VERBATIM else answer.error
            answer.assert_clean()
            assert answer.status == OWN_WORDS.get(status, status)
            if status in VERBATIM:
                words = (scripts.ERRORS if model == "house-a" else scripts.CHAT_ERRORS)[status][-1]
                assert error["message"] == ("messages.0: leave x out" if status in (400, 422) else words)
                if model != own(client):
                    assert b"req_upstream" not in answer.body
            else:
                assert "provider behind this gateway" in error["message"]
                assert b"organization" not in answer.body and b"api key" not in answer.body.lower()
            await pair.gateway.house.writer.run(lambda ledger: None)
        assert await pair.gateway.usage_rows() == []
        await pair.assert_settled()


@each_client
@each_upstream
@pytest.mark.parametrize("content_type", ["text/html; charset=utf-8", "text/plain"])
async def test_a_refusal_that_is_no_json(tmp_path: Path, client: Client, model: str, content_type: str) -> None:
    body = b"<html>no</html>" if "html" in content_type else b"no such thing"
    head = b"HTTP/1.1 400 X\r\ncontent-type: %s\r\ncontent-length: %d\r\n\r\n" % (content_type.encode(), len(body))
    async with open_pair(tmp_path) as pair:
        pair.upstream(model).script(scripts.raw(head + body, keep=True))
        answer = await pair.ask(client, model)
        assert answer.status == 400
        if model == own(client):
            assert (answer.body, answer.headers["content-type"]) == (body, content_type)
        else:
            assert answer.headers["content-type"] == "application/json"
            assert client.error(answer)["message"]
        await pair.assert_settled()


# ── what one kind cannot take ────────────────────────────────────────────────────────────────────────────────────────


@whole_or_stream
@each_client
async def test_what_cannot_be_carried_is_told_and_nobody_is_asked(tmp_path: Path, client: Client, stream: bool) -> None:
    fields, place = UNTRANSLATABLE[client.dialect]
    async with open_pair(tmp_path) as pair:
        user = await pair.gateway.make_user("bob", "10", rpm=2)
        # Clients repeat it at once, with less in it: the token is given back, as for what an upstream refuses.
        for _ in range(5):
            answer = await pair.ask(client, foreign(client), user=user, stream=stream, **fields)
            assert answer.status == 400 and place in client.error(answer)["message"]
            if client is CHAT:
                assert answer.error["param"] == place
        assert pair.claude.journal == [] and pair.gpt.journal == []
        assert await pair.gateway.attempts() == [] and await pair.gateway.void_reasons() == ["invalid_request"] * 5
        router, clock = pair.gateway.house.walk.router, pair.gateway.house.walk.clock
        (deployment,) = router.deployments(foreign(client))
        state, running = router.standing(deployment.upstream, "", clock.now_ms())
        assert running == 0 and state.until_ms <= clock.now_ms()
        # Within the dialect it passes.
        assert (await pair.ask(client, own(client), user=user, stream=stream, **fields)).status == 200
        await pair.assert_settled()


@whole_or_stream
@each_client
@pytest.mark.parametrize("model", ["both-a", "both-o"])
async def test_what_one_kind_cannot_take_goes_to_the_other(tmp_path: Path, client: Client, model: str, stream: bool) -> None:
    fields, _ = UNTRANSLATABLE[client.dialect]
    async with open_pair(tmp_path) as pair:
        answer = await pair.ask(client, model, stream=stream, **fields)
        client.read(answer, stream=stream, translated=False)
        ours, other = (pair.claude, pair.gpt) if client is MESSAGES else (pair.gpt, pair.claude)
        assert (len(ours.journal), len(other.journal)) == (1, 0)
        assert [(status, reason) for _, status, reason in await pair.gateway.attempts()] == [(200, "ok")]
        await pair.assert_settled()


@whole_or_stream
@each_client
@pytest.mark.parametrize("model", ["both-a", "both-o"])
async def test_an_outage_is_told_as_one_though_the_other_kind_could_not_have_taken_it(
    tmp_path: Path, client: Client, model: str, stream: bool
) -> None:
    """A client that is told 400 drops the field for good; one that is told 529 comes back."""
    fields, _ = UNTRANSLATABLE[client.dialect]
    async with open_pair(tmp_path) as pair:
        ours = pair.claude if client is MESSAGES else pair.gpt
        ours.default = scripts.refuse(529)
        first = await pair.ask(client, model, stream=stream, **fields)
        assert first.status == 529, first.body
        # Also while it rests, when nobody is asked at all.
        for _ in range(8):
            later = await pair.ask(client, model, stream=stream, **fields)
            assert later.status in (529, 503), later.body
        assert (pair.gpt if client is MESSAGES else pair.claude).journal == []
        await pair.assert_settled()


@whole_or_stream
@each_client
@pytest.mark.parametrize("model", ["both-a", "both-o", "any-a"])
@pytest.mark.parametrize(
    "script", [scripts.refuse(500), scripts.refuse(429), scripts.cut("request"), scripts.html(), scripts.zipped()]
)
async def test_the_other_kind_takes_over(tmp_path: Path, client: Client, model: str, stream: bool, script: Any) -> None:
    first = "gpt" if model == "both-o" else "claude"
    async with open_pair(tmp_path) as pair:
        getattr(pair, first).script(script)
        answer = await pair.ask(client, model, stream=stream)
        said = client.read(answer, stream=stream, translated=False)
        assert said.text == "".join(Reply().text) and f'"{model}"'.encode() in answer.body
        assert (len(pair.claude.journal), len(pair.gpt.journal)) == (1, 1)
        (row,) = await pair.gateway.usage_rows()
        assert row["source"] == "reported" and row["cost_nanos"] == 25 * 2_000 + 12 * 10_000
        await pair.assert_settled()


@whole_or_stream
@each_client
async def test_signed_thinking_stays_with_the_kind_that_signed_it(tmp_path: Path, client: Client, stream: bool) -> None:
    blocks = [{"index": 0, "type": "thinking", "thinking": "t", "signature": "c2ln"}]
    chat_signed = [SIGNED[0], {"role": "assistant", "content": "x", "thinking_blocks": blocks}, SIGNED[2]]
    messages = SIGNED if client is MESSAGES else chat_signed
    async with open_pair(tmp_path) as pair:
        for model in ("both-a", "both-o"):
            assert (await pair.ask(client, model, stream=stream, messages=messages)).status == 200
        assert len(pair.claude.journal) == 2 and all(b"c2ln" in seen.body for seen in pair.claude.journal)
        pair.claude.default = scripts.refuse(529)
        for model in ("both-a", "both-o"):
            answer = await pair.ask(client, model, stream=stream, messages=messages)
            assert answer.status in (529, 503) and "signed" in client.error(answer)["message"]
        assert pair.gpt.journal == []
        # Where only the other kind serves the model, nobody could read it; what is translated leaves it out.
        assert (await pair.ask(client, "house-o", stream=stream, messages=messages)).status == 200
        assert (b"c2ln" in pair.gpt.journal[0].body) == (client is CHAT)
        await pair.assert_settled()


async def test_a_request_that_the_client_may_mend_is_not_asked_for_elsewhere(tmp_path: Path) -> None:
    for number, (client, model) in enumerate((c, m) for c in CLIENTS for m in ("both-a", "both-o")):
        async with open_pair(tmp_path / str(number)) as pair:
            first, second = (pair.claude, pair.gpt) if model == "both-a" else (pair.gpt, pair.claude)
            first.script(scripts.refuse(400, "nonsense"))
            answer = await pair.ask(client, model)
            assert answer.status == 400 and answer.error["message"] == "nonsense" and second.journal == []
            await pair.assert_settled()


# ── what is sent ─────────────────────────────────────────────────────────────────────────────────────────────────────


@each_client
@each_upstream
async def test_nothing_of_the_client_reaches_an_upstream_but_its_body_and_what_its_dialect_names(
    tmp_path: Path, client: Client, model: str
) -> None:
    sent = {
        "anthropic-version": "2026-10-21",
        "anthropic-beta": "context-1m-2025-08-07",
        "openai-organization": "org-mine",
        "cookie": "a=b",
        "x-forwarded-for": "10.1.1.1",
        "user-agent": "me/1",
    }
    async with open_pair(tmp_path) as pair:
        raw = json.dumps(client.body(model)).encode()
        path = client.path + "?beta=true"
        assert (await pair.gateway.ask(pair.alice, path=path, raw=raw, headers=sent)).status == 200
        (seen,) = pair.upstream(model).journal
        names = {name for name, _ in seen.headers}
        assert not {"cookie", "x-forwarded-for", "openai-organization"} & names
        assert pair.alice.secret not in repr(seen.headers) and pair.alice.secret.encode() not in seen.body
        if model == "house-a":
            same = client is MESSAGES
            assert seen.header("anthropic-version") == ("2026-10-21" if same else "2023-06-01")
            assert (seen.header("anthropic-beta") is not None, seen.query) == ((True, "beta=true") if same else (False, ""))
        else:
            assert not [name for name in names if name.startswith("anthropic")] and seen.query == ""
        await pair.assert_settled()


async def test_the_output_limit_is_what_the_serving_model_can_write(tmp_path: Path) -> None:
    more = '[[models]]\nid = "wide"\nserves = ["house-o", "claude-haiku-5-5"]\nmax_output_tokens = 1000\n'
    async with open_pair(tmp_path, more=more) as pair:
        assert (await pair.ask(MESSAGES, "wide", max_tokens=128_000)).status == 200
        assert pair.gpt.journal[0].json["max_tokens"] == 64_000
        # An OpenAI client need not name a limit, an Anthropic upstream must get one.
        assert (await pair.ask(CHAT, "house-a", max_tokens=None)).status == 200
        assert pair.claude.journal[0].json["max_tokens"] == 64_000
        await pair.assert_settled()


@pytest.mark.parametrize("model", ["house-a", "house-o", "both-a", "both-o", "any-a"])
async def test_tokens_are_counted_whoever_serves(tmp_path: Path, model: str) -> None:
    async with open_pair(tmp_path) as pair:
        raw = json.dumps({"model": model, "messages": SIGNED[:1], "mcp_servers": [{"name": "x"}]}).encode()
        answer = await pair.gateway.ask(pair.alice, path="/v1/messages/count_tokens", raw=raw)
        assert answer.status == 200 and answer.json["input_tokens"] > 0 and set(answer.json) == {"input_tokens"}
        ours = model in ("house-o", "both-o")
        assert answer.headers.get("x-gateway-estimated") == ("true" if ours else None)
        assert pair.gpt.journal == []
        await pair.assert_settled()
