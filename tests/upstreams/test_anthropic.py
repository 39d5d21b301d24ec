"""How a request is addressed to Anthropic, and what its refusals mean."""

from __future__ import annotations

import json

import pytest

from gateway.errors import ClientError
from gateway.upstreams.anthropic import AnthropicProvider
from gateway.upstreams.base import Headers, Judgement, Outgoing
from tests.upstreams.scripts import CREDIT_EXHAUSTED, LEAKY

PROVIDER = AnthropicProvider("https://api.anthropic.com", "sk-ant-secret")
OURS = [("content-type", "application/json"), ("accept", "application/json"), ("accept-encoding", "identity")]


def addressed(headers: Headers, query: str = "") -> Outgoing:
    return PROVIDER.address("messages", query, headers, b"{}", stream=False)


@pytest.mark.parametrize(
    ("base_url", "expected"),
    [
        ("https://api.anthropic.com", "https://api.anthropic.com/v1/messages"),
        ("https://api.anthropic.com/", "https://api.anthropic.com/v1/messages"),
        ("https://api.anthropic.com/v1", "https://api.anthropic.com/v1/messages"),
        (" https://api.anthropic.com/v1/ ", "https://api.anthropic.com/v1/messages"),
        ("http://127.0.0.1:4000/anthropic//", "http://127.0.0.1:4000/anthropic/v1/messages"),
        ("https://host.example/anthropic/v1", "https://host.example/anthropic/v1/messages"),
        ("http://[::1]:4000", "http://[::1]:4000/v1/messages"),
    ],
)
def test_the_base_url_may_end_in_several_ways(base_url: str, expected: str) -> None:
    assert AnthropicProvider(base_url, "s").address("messages", "", [], b"", stream=True).url == expected


@pytest.mark.parametrize(
    "base_url", ["", "api.anthropic.com", "ftp://host", "https://", "https://u:p@host", "https://host?x=1", "https://host/#x"]
)
def test_an_address_that_is_none_is_refused_without_being_repeated(base_url: str) -> None:
    with pytest.raises(ValueError, match="base_url") as caught:
        AnthropicProvider(base_url, "sk-ant-secret")
    assert "secret" not in str(caught.value).replace("the secret has", "")


def test_count_tokens_has_its_own_path() -> None:
    outgoing = PROVIDER.address("count_tokens", "beta=true", [], b"{}", stream=False)
    assert outgoing.url == "https://api.anthropic.com/v1/messages/count_tokens?beta=true"


@pytest.mark.parametrize(
    ("query", "sent"),
    [
        ("beta=true", "beta=true"),
        ("beta=true&a=%2F%20&b[]=~;,:@!$'()*+", "beta=true&a=%2F%20&b[]=~;,:@!$'()*+"),
        ("a=b c\r\nx-evil: 1#frag", "a=b%20c%0D%0Ax-evil:%201%23frag"),
        ("a=\u00e4\x00", "a=%C3%A4%00"),
    ],
)
def test_the_query_is_forwarded_and_cannot_leave_its_place(query: str, sent: str) -> None:
    assert addressed([], query).url == "https://api.anthropic.com/v1/messages?" + sent


@pytest.mark.parametrize(
    ("client", "forwarded"),
    [
        ([], [("anthropic-version", "2023-06-01"), *OURS]),
        (
            [("anthropic-version", "2026-10-21"), ("anthropic-beta", "b,a"), ("x-app", "cli")],
            [("anthropic-version", "2026-10-21"), ("anthropic-beta", "b,a"), *OURS],
        ),
        (
            [("anthropic-beta", "two"), ("anthropic-new-thing", " v\t1 "), ("anthropic-beta", "one")],
            [
                ("anthropic-beta", "two"),
                ("anthropic-new-thing", " v\t1 "),
                ("anthropic-beta", "one"),
                ("anthropic-version", "2023-06-01"),
                *OURS,
            ],
        ),
        (
            [("content-type", "application/json; charset=utf-8"), ("accept", "text/event-stream")],
            [
                ("anthropic-version", "2023-06-01"),
                ("content-type", "application/json; charset=utf-8"),
                ("accept", "text/event-stream"),
                ("accept-encoding", "identity"),
            ],
        ),
    ],
)
def test_which_headers_are_forwarded(client: Headers, forwarded: Headers) -> None:
    assert list(addressed(client).headers) == [*forwarded, ("x-api-key", "sk-ant-secret")]


def test_nothing_else_of_the_client_is_forwarded() -> None:
    others = "authorization x-api-key api-key cookie x-forwarded-for forwarded host connection te user-agent x-stainless-os"
    others += " x-claude-code-session-id accept-encoding content-length anthropic"
    assert addressed([(name, "client") for name in others.split()]) == addressed([])


@pytest.mark.parametrize("value", ["a\r\nx: y", "a\x00", "a\udcff"])
@pytest.mark.parametrize("name", ["anthropic-beta", "accept"])
def test_a_header_that_cannot_stand_in_a_request_is_the_clients_fault(name: str, value: str) -> None:
    with pytest.raises(ClientError, match=name) as caught:
        addressed([(name, value)])
    assert caught.value.code == "invalid_request"


@pytest.mark.parametrize("named", ["application/x-www-form-urlencoded", "text/plain", "a\r\nx: y", ""])
def test_a_body_is_sent_as_the_json_that_it_is(named: str) -> None:
    assert ("content-type", "application/json") in addressed([("content-type", named)]).headers


def test_the_secret_shows_in_no_repr() -> None:
    assert "sk-ant" not in repr(addressed([])) + repr(PROVIDER)


def error(message: object) -> bytes:
    return json.dumps({"type": "error", "error": {"type": "invalid_request_error", "message": message}}).encode()


@pytest.mark.parametrize(
    ("status", "headers", "body", "expected"),
    [
        (400, [], error("messages: Field required"), Judgement("verbatim", "status_400")),
        (400, [], error(CREDIT_EXHAUSTED), Judgement("next", "credit_exhausted", alarm=True)),
        # Said by the client and quoted in the provider's message: not the provider's account.
        (400, [], error(f"messages.0: unexpected '{CREDIT_EXHAUSTED}'"), Judgement("verbatim", "status_400")),
        (400, [], error(["x"]), Judgement("verbatim", "status_400")),
        (400, [], b"<html>", Judgement("verbatim", "status_400")),
        (400, [], b"[]", Judgement("verbatim", "status_400")),
        (400, [], b'{"error":[]}', Judgement("verbatim", "status_400")),
        (400, [], b"", Judgement("verbatim", "status_400")),
        (413, [], b"", Judgement("verbatim", "status_413")),
        (422, [], b"", Judgement("verbatim", "status_422")),
        (401, [], error("invalid x-api-key"), Judgement("next", "secret_refused", alarm=True)),
        (402, [], b"", Judgement("next", "credit_exhausted", alarm=True)),
        (403, [], b"", Judgement("next", "status_403")),
        (404, [], b"", Judgement("next", "model_not_found")),
        (405, [], b"", Judgement("next", "status_405")),
        (408, [], b"", Judgement("next", "status_408")),
        (409, [], b"", Judgement("next", "status_409")),
        (415, [], b"", Judgement("final", "status_415")),
        (431, [], b"", Judgement("final", "status_431")),
        (429, [("retry-after", "7")], b"", Judgement("next", "rate_limited", 7)),
        (429, [("retry-after", "0")], b"", Judgement("next", "rate_limited", 0)),
        (429, [("retry-after", "soon")], b"", Judgement("next", "rate_limited")),
        (429, [("retry-after", "-1")], b"", Judgement("next", "rate_limited")),
        (429, [("retry-after", "9" * 5000)], b"", Judgement("next", "rate_limited")),
        (429, [], b"", Judgement("next", "rate_limited")),
        (300, [], b"", Judgement("next", "redirect")),
        (307, [("location", "https://x")], b"", Judgement("next", "redirect")),
        (500, [], b"", Judgement("next", "status_500")),
        (503, [("retry-after", "3")], b"", Judgement("next", "status_503", 3)),
        (529, [], b"", Judgement("next", "overloaded")),
        (529, [("retry-after", "2")], b"", Judgement("next", "overloaded", 2)),
    ],
)
def test_what_a_refusal_means(status: int, headers: Headers, body: bytes, expected: Judgement) -> None:
    assert PROVIDER.judge(status, headers, body) == expected


DATE = ("date", "Fri, 20 Nov 2026 10:00:00 GMT")


def limit(name: str, remaining: str, reset: str) -> list[tuple[str, str]]:
    return [(f"anthropic-ratelimit-{name}-remaining", remaining), (f"anthropic-ratelimit-{name}-reset", reset)]


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ([DATE, *limit("requests", "0", "2026-11-20T10:00:42Z")], 42),
        # What is exhausted counts, the latest of it.
        ([DATE, *limit("requests", "9", "2026-11-20T10:00:02Z"), *limit("input-tokens", "0", "2026-11-20T10:00:40Z")], 40),
        ([DATE, *limit("tokens", "0", "2026-11-20T10:00:10Z"), *limit("input-tokens", "0", "2026-11-20T12:00:50+02:00")], 50),
        ([DATE, *limit("requests", "9", "2026-11-20T10:00:02Z"), *limit("tokens", "7", "2026-11-20T10:00:40Z")], 2),
        ([DATE, *limit("requests", "0", "2026-11-20T09:59:00Z")], 1),
        ([DATE, ("retry-after", "5"), *limit("requests", "0", "2026-11-20T10:00:42Z")], 5),
        ([DATE, *limit("unified", "0", "1795168800")], None),
        ([DATE, *limit("unified", "0", "1795168800"), *limit("tokens", "0", "2026-11-20T10:00:03Z")], 3),
        ([DATE, *limit("requests", "0", "2026-11-20T10:00:42")], None),
        ([DATE, *limit("requests", "0", "whenever")], None),
        ([("date", "yesterday"), *limit("requests", "0", "2026-11-20T10:00:42Z")], None),
        (limit("requests", "0", "2026-11-20T10:00:42Z"), None),
    ],
)
def test_when_a_rate_limit_is_over(headers: Headers, expected: int | None) -> None:
    assert PROVIDER.judge(429, headers, b"").retry_after_s == expected


def test_of_the_answers_headers_only_an_allowlist_is_shown() -> None:
    shown = [("content-type", "text/event-stream"), ("retry-after", "3"), ("x-should-retry", "false")]
    hidden = [*LEAKY, ("request-id", "req_1"), ("content-length", "3"), ("content-encoding", "gzip"), ("transfer-encoding", "x")]
    assert PROVIDER.response_headers([*hidden, *shown]) == shown


@pytest.mark.parametrize(
    ("value", "expected"), [("req_011CSHoEeqs5", "req_011CSHoEeqs5"), ("a b", ""), ("", ""), ("x" * 129, "")]
)
def test_the_upstreams_own_request_id(value: str, expected: str) -> None:
    assert PROVIDER.upstream_request_id([("request-id", value)]) == expected
    assert PROVIDER.upstream_request_id([]) == ""
