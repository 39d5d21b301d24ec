"""Anthropic Messages: reading a request, and rendering what we say ourselves in that dialect.

Validates only what we act on and forwards the rest unread: bodies are modern (PROTOCOL.md, item 12) and the provider judges them
better. Follows platform.claude.com/docs/en/api/messages and the types of the anthropic SDK 2.11 (read 2026-11-20). What both
dialects read alike is in `fields.py`, sizes are in `weight.py`, sessions and fingerprints in `conversation.py`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Literal

import msgspec

from gateway.errors import KINDS, GatewayError
from gateway.wire import splice
from gateway.wire.call import CacheClass, Call
from gateway.wire.conversation import fingerprint_of, session_of
from gateway.wire.fields import UNREADABLE, read_count, read_model, read_stream, read_top, refusal, require_messages, top_of
from gateway.wire.sse import event_data
from gateway.wire.weight import weigh, weigh_coarsely

Operation = Literal["messages", "count_tokens"]

PING = b'event: ping\ndata: {"type": "ping"}\n\n'

# The keys that steer billing and routing: a second one could show us another request than the upstream sees.
STEERING_KEYS = ("model", "max_tokens", "stream", "stream_options")

# PRICES.md: a web search tool without max_uses may search; LEDGER.md reserves for five.
_SEARCHES_DEFAULT = 5
_SEARCHES_MAX = 1_000

_TTL_1H = re.compile(rb'"ttl"\s*:\s*"1h"')


class _Tool(msgspec.Struct):
    type: object = None
    name: object = None
    max_uses: object = None


class _Thinking(msgspec.Struct):
    type: object = None
    display: object = None


class _Error(msgspec.Struct):
    type: object = None


class _ErrorEvent(msgspec.Struct):
    error: _Error


_top = top_of(*("model", "max_tokens", "stream", "messages", "system", "tools", "thinking", "metadata", "speed", "inference_geo"))
_error_event = msgspec.json.Decoder(_ErrorEvent)
_tools = msgspec.json.Decoder(list[_Tool])
_thinking = msgspec.json.Decoder(_Thinking)


def parse_call(body: bytes, *, default_max_tokens: int = 0, operation: Operation = "messages") -> Call:
    """Read a request. Raises ClientError (invalid_request, `param` names the field) for what could not be acted on.

    With `default_max_tokens` > 0 a missing `max_tokens` is spliced into `Call.body`; count_tokens has none and gets none.
    """
    fields = read_top(body, _top, STEERING_KEYS)
    model = read_model(fields)
    max_tokens = read_count(fields, "max_tokens")
    stream = read_stream(fields)
    require_messages(fields)
    if max_tokens is None and operation == "messages":
        if default_max_tokens <= 0:
            raise refusal("max_tokens", "max_tokens is required.")
        max_tokens = default_max_tokens
        body = splice.insert_first(body, "max_tokens", b"%d" % default_max_tokens)
    dense = splice.is_dense(body)
    weight = weigh_coarsely(body) if dense else weigh(body, fields)
    tools = [] if dense else _read_tools(fields)
    session = session_of(fields)
    return Call(
        dialect="anthropic",
        body=body,
        model=model,
        stream=stream,
        max_tokens=max_tokens,
        text_bytes=weight.text_bytes,
        images=weight.images,
        document_bytes=weight.document_bytes,
        cache=_cache_class(body),
        searches_max=_searches_max(tools),
        fast=fields.get("speed") == b'"fast"',
        us=fields.get("inference_geo") == b'"us"',
        thinking_hidden=_thinking_hidden(fields),
        thinking_signed=weight.signed,
        session=session,
        # Costs a hash of the prompt, so that only clients without a session pay for it.
        fingerprint="" if session else fingerprint_of({} if dense else fields, model, [tool.name for tool in tools]),
    )


def render_error(error: GatewayError, request_id: str) -> bytes:
    """The body of a refusal."""
    shown = {"type": KINDS[error.code].anthropic, "message": error.message}
    return msgspec.json.encode({"type": "error", "error": shown, "request_id": request_id})


def error_event(error: GatewayError, request_id: str) -> bytes:
    """A failure told inside a stream, between two events."""
    return b"event: error\ndata: " + render_error(error, request_id) + b"\n\n"


def render_limits(what: str, limit: int, remaining: int, full_at_ms: int) -> list[tuple[str, str]]:
    """The headers that tell of a bucket of `what` (platform.claude.com/docs/en/api/rate-limits, read 2026-11-20)."""
    full_at = datetime.fromtimestamp(full_at_ms // 1000, UTC).isoformat().replace("+00:00", "Z")
    name = f"anthropic-ratelimit-{what}-"
    return [(name + "limit", str(limit)), (name + "remaining", str(remaining)), (name + "reset", full_at)]


def read_error_type(event: bytes) -> str:
    """The `error.type` of an error event, "" if it does not say."""
    try:
        kind = _error_event.decode(event_data(event)).error.type
    except UNREADABLE:
        return ""
    return kind if isinstance(kind, str) else ""


# --- the fields, each by itself ---


def _read_tools(fields: Mapping[str, bytes]) -> list[_Tool]:
    if "tools" not in fields:
        return []
    try:
        return _tools.decode(fields["tools"])
    except UNREADABLE:
        return []


def _searches_max(tools: list[_Tool]) -> int:
    searches = 0
    for tool in tools:
        if isinstance(tool.type, str) and tool.type.startswith("web_search_"):
            given = tool.max_uses
            searches += given if type(given) is int and given >= 0 else _SEARCHES_DEFAULT
    return min(searches, _SEARCHES_MAX)


def _cache_class(body: bytes) -> CacheClass:
    """By scans of the whole body: a false hit in some tool's schema makes the hold larger, never the price."""
    if b"cache_control" not in body:
        return "none"
    return "1h" if b'"ttl"' in body and _TTL_1H.search(body) else "5m"


def _thinking_hidden(fields: Mapping[str, bytes]) -> bool:
    """Whether the model may think at length without showing it, so that visible bytes say nothing of running output.

    Without a `display` the model decides, and current ones omit: hidden, unless the request asks to see it. It sizes the hold
    only, where too much is the safe side.
    """
    if "thinking" not in fields:
        return False
    try:
        thinking = _thinking.decode(fields["thinking"])
    except UNREADABLE:
        return False
    return thinking.type in ("enabled", "adaptive") and thinking.display not in ("summarized", "full")
