"""Anthropic Messages: reading a request, and rendering what we say ourselves in that dialect.

Validates only what we act on and forwards the rest unread: bodies are modern (PROTOCOL.md, item 12) and the provider judges them
better. The body is decoded once, at its top level; what is acted on is then read from the raw values, each by itself, so that an
odd shape in one of them costs only that one. Follows platform.claude.com/docs/en/api/messages and the types of the anthropic SDK
2.11 (read 2026-11-20). Sizes are in `weight.py`, sessions and fingerprints in `conversation.py`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Literal

import msgspec

from gateway.errors import KINDS, ClientError, GatewayError
from gateway.wire import splice
from gateway.wire.call import CacheClass, Call
from gateway.wire.conversation import fingerprint_of, session_of
from gateway.wire.sse import event_data
from gateway.wire.weight import weigh, weigh_coarsely

Operation = Literal["messages", "count_tokens"]

PING = b'event: ping\ndata: {"type": "ping"}\n\n'

# The keys that steer billing and routing: a second one could show us another request than the upstream sees.
STEERING_KEYS = ("model", "max_tokens", "stream", "stream_options")

DEPTH_MAX = 200
# Counting depth exactly costs as much as ten decodes, so that it is done where it is cheap. Beyond, the decoder's own guard
# (some 900 levels) refuses; nothing in this house recurses over values that it does not act on, and the upstream has a limit too.
_DEPTH_COUNTED_BYTES_MAX = 16_384
# Above any model's; what is stored and multiplied stays an ordinary integer.
_MAX_TOKENS_MAX = 2**31 - 1
# PRICES.md: a web search tool without max_uses may search; LEDGER.md reserves for five.
_SEARCHES_DEFAULT = 5
_SEARCHES_MAX = 1_000

_MODEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@\[\]-]{0,127}")
_MODEL_LENGTH_MAX = 128
_TTL_1H = re.compile(rb'"ttl"\s*:\s*"1h"')
_NOT_BRACKETS = bytes(byte for byte in range(256) if byte not in b"[]{}")
_BRACES_TO_BRACKETS = bytes.maketrans(b"{}", b"[]")


class _Top(msgspec.Struct):
    """The fields that are read, for bodies that are too dense to be taken apart whole."""

    model: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    max_tokens: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    stream: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    messages: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    system: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    tools: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    thinking: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    metadata: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    speed: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    inference_geo: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


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


_top = msgspec.json.Decoder(_Top)
_error_event = msgspec.json.Decoder(_ErrorEvent)
_string = msgspec.json.Decoder(str)
_integer = msgspec.json.Decoder(int)
_tools = msgspec.json.Decoder(list[_Tool])
_thinking = msgspec.json.Decoder(_Thinking)

_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def parse_call(body: bytes, *, default_max_tokens: int = 0, operation: Operation = "messages") -> Call:
    """Read a request. Raises ClientError (invalid_request, `param` names the field) for what could not be acted on.

    With `default_max_tokens` > 0 a missing `max_tokens` is spliced into `Call.body`; count_tokens has none and gets none.
    """
    if not body:
        raise ClientError("invalid_request", "The body is empty; send a JSON object.")
    fields = _read_top(body)
    _reject_depth(body)
    model = _read_model(fields)
    max_tokens = _read_max_tokens(fields)
    stream = _read_stream(fields)
    if not fields.get("messages", b"").startswith(b"["):
        raise _refusal("messages", "messages is required and must be a list.")
    if max_tokens is None and operation == "messages":
        if default_max_tokens <= 0:
            raise _refusal("max_tokens", "max_tokens is required.")
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
    except _UNREADABLE:
        return ""
    return kind if isinstance(kind, str) else ""


# --- the fields, each by itself ---


def _read_top(body: bytes) -> Mapping[str, bytes]:
    """The top level's raw values, with each steering key known to be there once at most and written plainly."""
    members = splice.find_members(body)
    if members is not None:
        return {key: member.value for key, member in members.items()}
    top = splice.decode_object(_top, body)
    splice.reject_duplicates(body, STEERING_KEYS)
    return {key: bytes(raw) for key, raw in msgspec.structs.asdict(top).items() if raw is not msgspec.UNSET}


def _reject_depth(body: bytes) -> None:
    """Refuses a small body that is nested too deeply; it is known to be JSON. See `_DEPTH_COUNTED_BYTES_MAX`."""
    if len(body) > _DEPTH_COUNTED_BYTES_MAX or body.count(b"[") + body.count(b"{") <= DEPTH_MAX:
        return
    # Every other piece between unescaped quotes is outside of strings.
    outside = b"".join(body.replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"')[::2])
    brackets = outside.translate(_BRACES_TO_BRACKETS, _NOT_BRACKETS)
    for _ in range(DEPTH_MAX):
        if not brackets:
            return
        brackets = brackets.replace(b"[]", b"")  # takes the innermost level off
    if brackets:
        raise ClientError("invalid_request", f"The body is nested more than {DEPTH_MAX} levels deep.")


def _read_model(fields: Mapping[str, bytes]) -> str:
    if "model" not in fields:
        raise _refusal("model", "model is required.")
    try:
        model = _string.decode(fields["model"])
    except _UNREADABLE:
        raise _refusal("model", "model must be a string.") from None
    if not _MODEL.fullmatch(model):
        raise _refusal("model", f"model is not a model id: {model[:_MODEL_LENGTH_MAX]!r}")
    return model


def _read_max_tokens(fields: Mapping[str, bytes]) -> int | None:
    if "max_tokens" not in fields:
        return None
    try:
        max_tokens = _integer.decode(fields["max_tokens"])
    except _UNREADABLE:
        max_tokens = 0
    if not 1 <= max_tokens <= _MAX_TOKENS_MAX:
        raise _refusal("max_tokens", "max_tokens must be a whole number of at least 1.")
    return max_tokens


def _read_stream(fields: Mapping[str, bytes]) -> bool:
    stream = fields.get("stream", b"null")
    if stream not in (b"true", b"false", b"null"):
        raise _refusal("stream", "stream must be true or false.")
    return stream == b"true"


def _read_tools(fields: Mapping[str, bytes]) -> list[_Tool]:
    if "tools" not in fields:
        return []
    try:
        return _tools.decode(fields["tools"])
    except _UNREADABLE:
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
    except _UNREADABLE:
        return False
    return thinking.type in ("enabled", "adaptive") and thinking.display not in ("summarized", "full")


def _refusal(param: str, message: str) -> ClientError:
    return ClientError("invalid_request", message, param=param)
