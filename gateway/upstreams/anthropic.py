"""Anthropic's Messages API: how to address it, how to sign, and what its refusals mean. Pure.

Sources: platform.claude.com/docs/en/api/errors and /rate-limits, code.claude.com/docs/en/llm-gateway-protocol, and what was seen
on the wire (docs/PROTOCOL.md), all read 2026-11-20. The request's body and query pass as they came; of its headers only those
below do; of the answer's headers only an allowlist, because the account behind the secret is shared by all customers.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime
from email.utils import parsedate_to_datetime
from urllib.parse import quote

import orjson

from gateway.upstreams.base import Headers, Judgement, Operation, Outgoing
from gateway.upstreams.headers import checked, content_type, first, parse_base_url, request_id, retry_after_s, shown
from gateway.wire.bridge import Habits
from gateway.wire.call import Dialect

PATHS: dict[Operation, str] = {"messages": "/v1/messages", "count_tokens": "/v1/messages/count_tokens"}
# Sent only for a client that names no version; the later one refuses temperature, top_p and top_k.
VERSION_DEFAULT = "2023-06-01"
# The whole message names the organisation's billing page, so only its beginning is fixed. It comes with status 400.
CREDIT_EXHAUSTED = "Your credit balance is too low"

_RATE_LIMIT_RESET = re.compile(r"anthropic-ratelimit-([a-z-]+)-reset")
# RFC 3986 §3.4, with the brackets and bars that clients send bare and servers take.
_QUERY_CHARACTERS = "!$&'()*+,;=:@/?%[]|-._~"


class AnthropicProvider:
    kind = "anthropic"
    dialect: Dialect = "anthropic"
    estimates_tokens = False
    signs_thinking = True
    habits = Habits()
    probe: Operation = "count_tokens"

    def __init__(self, base_url: str, secret: str) -> None:
        """`base_url` with or without a trailing slash or `/v1`. Raises ValueError if it is not a plain http(s) address."""
        self._base = parse_base_url(base_url, "/v1")
        self._secret = secret

    def address(self, operation: Operation, query: str, headers: Headers, body: bytes, *, stream: bool) -> Outgoing:
        """Raises ClientError if a header that would be forwarded cannot stand in a request."""
        forwarded = [(name, checked(name, value)) for name, value in headers if name.startswith("anthropic-")]
        if not any(name == "anthropic-version" for name, _ in forwarded):
            forwarded.append(("anthropic-version", VERSION_DEFAULT))
        forwarded += [
            ("content-type", checked("content-type", content_type(headers))),
            ("accept", checked("accept", first(headers, "accept", "application/json"))),
            # Identity: bytes are relayed as they come, and metered in passing.
            ("accept-encoding", "identity"),
            ("x-api-key", self._secret),
        ]
        url = self._base + PATHS[operation]
        if query:
            # Legal characters stay as they are, "%" too; a blank or "#" would end the target early.
            url += "?" + quote(query, safe=_QUERY_CHARACTERS)
        return Outgoing(url, tuple(forwarded), body, stream)

    def judge(self, status: int, headers: Headers, body: bytes) -> Judgement:
        word = f"status_{status}"
        if status == 400 and _error_message(body).startswith(CREDIT_EXHAUSTED):
            return Judgement("next", "credit_exhausted", alarm=True)
        if status in (400, 413, 422):
            return Judgement("verbatim", word)
        if status < 400:
            return Judgement("next", "redirect")
        if status == 401:
            return Judgement("next", "secret_refused", alarm=True)
        if status == 402:  # documented as a billing problem of the account, beside the 400 above
            return Judgement("next", "credit_exhausted", alarm=True)
        if status == 404:
            # The model is not at this deployment; where no deployment is left the dispatcher passes it verbatim.
            return Judgement("next", "model_not_found")
        if status == 429:
            wait_s = retry_after_s(headers)
            return Judgement("next", "rate_limited", _reset_s(headers) if wait_s is None else wait_s)
        if status == 529:
            return Judgement("next", "overloaded", retry_after_s(headers))
        if status >= 500 or status in (403, 405, 408, 409, 410, 425):
            # Below 500: of this account, address or moment, not of the request.
            return Judgement("next", word, retry_after_s(headers))
        # 406, 411, 414, 415, 431 …: every upstream would say the same of this request.
        return Judgement("final", word)

    def response_headers(self, headers: Headers) -> list[tuple[str, str]]:
        return shown(headers)

    def upstream_request_id(self, headers: Headers) -> str:
        return request_id(headers, "request-id")


def _error_message(body: bytes) -> str:
    try:
        message = orjson.loads(body)["error"]["message"]
    except (orjson.JSONDecodeError, KeyError, TypeError, IndexError):
        return ""
    return message if isinstance(message, str) else ""


def _reset_s(headers: Headers) -> int | None:
    """Until the exhausted limit is refilled: from the reset headers (RFC 3339), against the answer's own `date`.

    The provider's date rather than our clock: the judge stays pure, and a clock that is wrong here does no harm. The latest of
    the limits that have nothing left, or the earliest of all if none admits to it. None without a date.
    """
    now_s = _seconds(parsedate_to_datetime, first(headers, "date", ""))
    if now_s is None:
        return None
    waits, exhausted = [], []
    for name, value in headers:
        match = _RATE_LIMIT_RESET.fullmatch(name)
        reset_s = _seconds(datetime.fromisoformat, value) if match else None
        if match and reset_s is not None:
            waits.append(max(1, reset_s - now_s))
            if first(headers, f"anthropic-ratelimit-{match[1]}-remaining", "") == "0":
                exhausted.append(waits[-1])
    return max(exhausted) if exhausted else min(waits, default=None)


def _seconds(parse: Callable[[str], datetime], text: str) -> int | None:
    """Unix seconds of a date in words; None if it is none, or names no time zone (some reset headers hold a plain number)."""
    try:
        moment = parse(text)
    except ValueError:
        return None
    return int(moment.timestamp()) if moment.tzinfo else None
