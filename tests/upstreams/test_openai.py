"""How a request is addressed to a Chat Completions server, and what its refusals mean."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gateway.errors import ClientError
from gateway.upstreams.base import Headers, Judgement, Outgoing
from gateway.upstreams.openai import OpenAIProvider
from tests.upstreams.scripts import CHAT_ERRORS, LEAKY

PROVIDER = OpenAIProvider("https://api.openai.com/v1", "sk-proj-secret")
SIGNED = ("authorization", "Bearer sk-proj-secret")


def addressed(headers: Headers, query: str = "") -> Outgoing:
    return PROVIDER.address("chat", query, headers, b"{}", stream=False)


@pytest.mark.parametrize(
    ("base_url", "expected"),
    [
        ("https://api.openai.com/v1", "https://api.openai.com/v1/chat/completions"),
        ("https://openrouter.ai/api/v1/", "https://openrouter.ai/api/v1/chat/completions"),
        ("https://api.groq.com/openai/v1", "https://api.groq.com/openai/v1/chat/completions"),
        ("http://localhost:11434/v1", "http://localhost:11434/v1/chat/completions"),
        ("https://api.deepseek.com", "https://api.deepseek.com/chat/completions"),
        ("https://house.openai.azure.com/openai/v1//", "https://house.openai.azure.com/openai/v1/chat/completions"),
        (" http://[::1]:8000/v1 ", "http://[::1]:8000/v1/chat/completions"),
    ],
)
def test_the_base_url_is_all_that_stands_before_the_path(base_url: str, expected: str) -> None:
    assert OpenAIProvider(base_url, "s").address("chat", "", [], b"", stream=True).url == expected


@pytest.mark.parametrize("base_url", ["", "api.openai.com", "ftp://host", "https://u:p@host", "https://host?x=1", "https://h/#x"])
def test_an_address_that_is_none_is_refused_without_being_repeated(base_url: str) -> None:
    with pytest.raises(ValueError, match="base_url") as caught:
        OpenAIProvider(base_url, "sk-proj-secret")
    assert "sk-proj" not in str(caught.value)


@pytest.mark.parametrize(
    ("client", "forwarded"),
    [
        ([], ["application/json", "application/json"]),
        ([("accept", "text/event-stream")], ["application/json", "text/event-stream"]),
        ([("content-type", "application/json; charset=utf-8")], ["application/json; charset=utf-8", "application/json"]),
        ([("content-type", "application/x-www-form-urlencoded")], ["application/json", "application/json"]),
    ],
)
def test_which_headers_are_forwarded(client: Headers, forwarded: list[str]) -> None:
    kept = zip(("content-type", "accept"), forwarded, strict=True)
    assert list(addressed(client).headers) == [*kept, ("accept-encoding", "identity"), SIGNED]


def test_nothing_else_of_the_client_is_forwarded_and_no_query() -> None:
    others = "authorization x-api-key api-key cookie host openai-organization openai-project openai-beta anthropic-version"
    others += " anthropic-beta x-stainless-os user-agent http-referer x-title content-length"
    assert addressed([(name, "client") for name in others.split()], "beta=true") == addressed([])


def test_the_operators_own_headers_go_with_every_request() -> None:
    provider = OpenAIProvider("https://openrouter.ai/api/v1", "s", (("HTTP-Referer", "https://me.example"), ("X-Title", "Me")))
    for operation in ("chat", "models"):
        headers = provider.address(operation, "", [], b"{}", stream=False).headers  # type: ignore[arg-type]
        assert headers[-3:-1] == (("http-referer", "https://me.example"), ("x-title", "Me"))


def test_a_server_of_ones_own_may_want_no_secret() -> None:
    outgoing = OpenAIProvider("http://127.0.0.1:8080/v1", "").address("chat", "", [], b"{}", stream=False)
    assert "authorization" not in dict(outgoing.headers)


def test_its_probe_is_a_list_of_models() -> None:
    outgoing = PROVIDER.address("models", "", [("content-type", "text/plain")], b"ignored", stream=False)
    assert (outgoing.method, outgoing.url, outgoing.body) == ("GET", "https://api.openai.com/v1/models", b"")
    assert SIGNED in outgoing.headers and "content-type" not in dict(outgoing.headers)


def test_a_header_that_cannot_stand_in_a_request_is_the_clients_fault() -> None:
    with pytest.raises(ClientError, match="accept"):
        addressed([("accept", "a\r\nx: y")])


def test_the_secret_shows_in_no_repr() -> None:
    assert "sk-proj" not in repr(addressed([])) + repr(PROVIDER)


def error(kind: object = None, code: object = None, message: object = "x", **more: Any) -> bytes:
    return json.dumps({"error": {"message": message, "type": kind, "param": None, "code": code, **more}}).encode()


CREDIT = Judgement("next", "credit_exhausted", alarm=True)
NO_MODEL = Judgement("next", "model_not_found")


@pytest.mark.parametrize(
    ("status", "headers", "body", "expected"),
    [
        (400, [], error("invalid_request_error", "context_length_exceeded"), Judgement("verbatim", "status_400")),
        (400, [], b"<html>", Judgement("verbatim", "status_400")),
        (400, [], b"[]", Judgement("verbatim", "status_400")),
        (413, [], b"", Judgement("verbatim", "status_413")),
        (422, [], b'{"detail":[{"loc":["body"],"msg":"x"}]}', Judgement("verbatim", "status_422")),
        (401, [], error("invalid_request_error", "invalid_api_key"), Judgement("next", "secret_refused", alarm=True)),
        # Nothing left to spend: OpenAI, its finer codes, its old form, Moonshot, DeepSeek, OpenRouter.
        (429, [("retry-after", "7")], error("insufficient_quota", "insufficient_quota"), CREDIT),
        (429, [], error("insufficient_quota", "project_spend_limit_exceeded"), CREDIT),
        (400, [], error("invalid_request_error", "billing_hard_limit_reached"), CREDIT),
        (403, [], error("exceeded_current_quota_error"), CREDIT),
        (402, [], error("unknown_error", "invalid_request_error", "Insufficient Balance"), CREDIT),
        (402, [], error(code=402, message="This request requires more credits"), CREDIT),
        # Said by the client and quoted in a message: not the provider's account.
        (400, [], error("invalid_request_error", None, "insufficient_quota"), Judgement("verbatim", "status_400")),
        # The model is not there.
        (404, [], error("invalid_request_error", "model_not_found"), NO_MODEL),
        (404, [], b'{"detail":"Not Found"}', NO_MODEL),
        (404, [], b'{"object":"error","message":"The model does not exist.","type":"NotFoundError","code":404}', NO_MODEL),
        (403, [], error("invalid_request_error", "model_not_found"), NO_MODEL),
        (400, [], error("invalid_request_error", "invalid_request_error", "Model Not Exist"), NO_MODEL),
        (400, [], b'{"object":"error","message":"Invalid model","type":"invalid_model","code":"1500"}', NO_MODEL),
        (403, [], error(code=403, metadata={"reasons": ["x"], "flagged_input": "…"}), Judgement("verbatim", "moderated")),
        (403, [], b"", Judgement("next", "status_403")),
        (405, [], b"", Judgement("next", "status_405")),
        (408, [], b"", Judgement("next", "status_408")),
        (415, [], b"", Judgement("final", "status_415")),
        (429, [("retry-after", "7")], error("requests", "rate_limit_exceeded"), Judgement("next", "rate_limited", 7)),
        (429, [], b"", Judgement("next", "rate_limited")),
        (498, [], b"", Judgement("next", "status_498")),
        (307, [("location", "https://x")], b"", Judgement("next", "redirect")),
        (500, [], b"", Judgement("next", "status_500")),
        (503, [("retry-after", "3")], b"", Judgement("next", "status_503", 3)),
        (529, [], b"", Judgement("next", "overloaded")),
    ],
)
def test_what_a_refusal_means(status: int, headers: Headers, body: bytes, expected: Judgement) -> None:
    assert PROVIDER.judge(status, headers, body) == expected


def test_the_scripted_refusals_are_judged_as_the_real_ones() -> None:
    reasons = {
        status: PROVIDER.judge(status, [], error(kind, code, words)) for status, (kind, code, words) in CHAT_ERRORS.items()
    }
    assert [(status, found.course) for status, found in reasons.items() if found.course == "verbatim"] == [
        (400, "verbatim"),
        (413, "verbatim"),
        (422, "verbatim"),
    ]
    assert reasons[402].reason == "credit_exhausted" and reasons[404].reason == "model_not_found"


def limit(name: str, remaining: str, reset: str) -> list[tuple[str, str]]:
    return [(f"x-ratelimit-remaining-{name}", remaining), (f"x-ratelimit-reset-{name}", reset)]


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        (limit("requests", "0", "6m0s"), 360),
        (limit("requests", "0", "1s"), 1),
        (limit("tokens", "0", "12ms"), 1),
        (limit("tokens", "0", "2m59.56s"), 180),
        (limit("tokens", "0", "1h0m0.5s"), 3601),
        (limit("tokens", "0", "59"), 59),
        (limit("tokens", "0", "0"), 1),
        # What is exhausted counts, the latest of it.
        ([*limit("requests", "9", "1s"), *limit("tokens", "0", "40s")], 40),
        ([*limit("requests", "0", "8.64s"), *limit("tokens", "0", "40s")], 40),
        ([*limit("requests", "9", "2s"), *limit("tokens", "7", "40s")], 2),
        ([("retry-after", "5"), *limit("requests", "0", "6m0s")], 5),
        (limit("requests", "0", ""), None),
        (limit("requests", "0", "soon"), None),
        (limit("requests", "0", "1s2m"), None),
        (limit("requests", "0", "9" * 5000 + "s"), None),
        (limit("requests", "0", "\u0663s"), None),
        ([("x-ratelimit-reset", "1795168800000")], None),
    ],
)
def test_when_a_rate_limit_is_over(headers: Headers, expected: int | None) -> None:
    assert PROVIDER.judge(429, headers, b"").retry_after_s == expected


def test_of_the_answers_headers_only_an_allowlist_is_shown() -> None:
    shown = [("content-type", "text/event-stream"), ("retry-after", "3"), ("x-should-retry", "false")]
    hidden = [*LEAKY, ("x-request-id", "req_1"), ("openai-processing-ms", "3"), ("x-ratelimit-limit-requests", "50")]
    assert PROVIDER.response_headers([*hidden, *shown]) == shown


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ([("x-request-id", "req_011")], "req_011"),
        ([("x-generation-id", "gen-1795-x")], "gen-1795-x"),
        ([("x-request-id", "a b")], ""),
        ([], ""),
    ],
)
def test_the_upstreams_own_request_id(headers: Headers, expected: str) -> None:
    assert PROVIDER.upstream_request_id(headers) == expected
