"""OpenAI Chat Completions: reading a request, and rendering what we say ourselves in that dialect.

Validates only what we act on and forwards the rest unread, as `anthropic.py` does. Follows the types of the openai SDK 3.52,
developers.openai.com/api/docs and what compatible servers were seen to send (read 2026-11-20). What both dialects read alike is
in `fields.py`, sizes are in `openai_weight.py`, sessions and fingerprints in `conversation.py`, usage in `openai_meter.py`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from gateway.errors import KINDS, ClientError, Code, GatewayError
from gateway.wire import splice
from gateway.wire.call import CacheClass, Call
from gateway.wire.conversation import chat_fingerprint_of, chat_session_of
from gateway.wire.fields import UNREADABLE, read_count, read_model, read_stream, read_top, refusal, require_messages, top_of
from gateway.wire.openai_weight import weigh_chat, weigh_chat_coarsely
from gateway.wire.sse import event_data

# A comment: every reader of server-sent events drops it.
KEEP_ALIVE = b": keep-alive\n\n"

# The keys that steer billing and routing: a second one could show us another request than the upstream sees.
STEERING_KEYS = ("model", "max_tokens", "max_completion_tokens", "stream", "stream_options", "n")

# OpenAI's own limit; it bounds what is held.
CHOICES_MAX = 128

_USAGE_ASKED = b'{"include_usage":true}'
_USAGE_OBJECT = re.compile(rb'"usage"\s*:\s*\{')
_TTL_1H = re.compile(rb'"ttl"\s*:\s*"1h"')
_TEXT_LENGTH_MAX = 2_000

# The codes that clients look for. Every other refusal shows the house's own word.
_CODES: dict[Code, str] = {
    "unauthenticated": "invalid_api_key",
    "balance_too_low": "insufficient_quota",
    "rate_limited": "rate_limit_exceeded",
    "balance_held": "rate_limit_exceeded",
}


class _Function(msgspec.Struct):
    name: object = None


class _Tool(msgspec.Struct):
    function: _Function | None = None
    custom: _Function | None = None


class _UsageOption(msgspec.Struct):
    include: object = None


class _Chunk(msgspec.Struct):
    choices: object = None
    usage: object = None
    error: object = None


_top = top_of(
    *("model", "max_tokens", "max_completion_tokens", "n", "stream", "stream_options", "messages", "tools", "usage"),
    *("prompt_cache_key", "user", "safety_identifier", "service_tier", "reasoning_effort", "web_search_options"),
)
_tools = msgspec.json.Decoder(list[_Tool])
_usage_option = msgspec.json.Decoder(_UsageOption)
_chunk = msgspec.json.Decoder(_Chunk)


class ErrorText(NamedTuple):
    """What an error says; "" for what it does not say. `code` is a number at some providers, here always its text."""

    type: str
    code: str
    message: str


# --- requests ---


def parse_chat(body: bytes, *, default_max_tokens: int = 0) -> Call:
    """Read a request. Raises ClientError (invalid_request, `param` names the field) for what could not be acted on.

    No limit on the output is a request as good as any. With `default_max_tokens` > 0 it gets that one, spliced into `Call.body`
    as `max_completion_tokens`, the only name of the two that OpenAI's reasoning models take.
    """
    fields = read_top(body, _top, STEERING_KEYS)
    fields = {name: raw for name, raw in fields.items() if raw != b"null" or name not in STEERING_KEYS}
    model = read_model(fields)
    stream = read_stream(fields)
    require_messages(fields)
    choices = read_count(fields, "n", CHOICES_MAX) or 1
    usage_asked = _read_usage_asked(fields)
    # Of two limits no two servers take the same one: the larger is what it may come to.
    limits = [read_count(fields, name) for name in ("max_tokens", "max_completion_tokens")]
    max_tokens = max((limit for limit in limits if limit is not None), default=None)
    if max_tokens is None and default_max_tokens > 0:
        max_tokens = default_max_tokens
        body = _put(body, "max_completion_tokens", b"%d" % default_max_tokens)
    dense = splice.is_dense(body)
    weight = weigh_chat_coarsely(body) if dense else weigh_chat(body, fields)
    session = chat_session_of(fields)
    return Call(
        dialect="openai",
        body=body,
        model=model,
        stream=stream,
        max_tokens=max_tokens,
        text_bytes=weight.text_bytes,
        images=weight.images,
        document_bytes=weight.document_bytes,
        cache=_cache_class(body),
        # One for each answer of a model that searches; what it really did, its usage does not say.
        searches_max=int(fields.get("web_search_options", b"null") != b"null"),
        fast=fields.get("service_tier") in (b'"priority"', b'"fast"'),
        # Reasoning models think unless they are told not to, and most show nothing of it. It sizes the hold only.
        thinking_hidden=fields.get("reasoning_effort") != b'"none"',
        # What an Anthropic upstream signed is given to clients in these, and comes back in them.
        thinking_signed=b'"thinking_blocks"' in body,
        choices=choices,
        session=session,
        # Costs a hash of the prompt, so that only clients that name no conversation pay for it.
        fingerprint="" if session else chat_fingerprint_of({} if dense else fields, model, [] if dense else _tool_names(fields)),
        usage_asked=usage_asked,
    )


def ask_for_usage(body: bytes) -> bytes:
    """The body of a stream with `stream_options.include_usage` true, every other byte as it was; unchanged if it asks already.

    Raises ClientError as `parse_chat`, which has seen the same body.
    """
    span = splice.find_value(body, "stream_options")
    if span is None:
        return splice.insert_first(body, "stream_options", _USAGE_ASKED)
    options = body[span[0] : span[1]]
    asked = _USAGE_ASKED if options == b"null" else _put(options, "include_usage", b"true")
    return body[: span[0]] + asked + body[span[1] :]


# --- answers ---


def rename_chunk_model(event: bytes, public: str) -> bytes:
    """A chunk under the name that the client asked for; every other byte stays, and what names no model plainly too.

    For every chunk of a stream, since each names the model. Data on several lines is left alone: no provider sends it so.
    """
    data = event_data(event)
    data_at = event.find(data) if data.startswith(b"{") else -1
    if data_at < 0:
        return event
    try:
        model = splice.find_single_value(data, "model")
    except ClientError:
        return event
    if model is None:
        return event
    return event[: data_at + model[0]] + msgspec.json.encode(public) + event[data_at + model[1] :]


def is_usage_chunk(event: bytes) -> bool:
    """Whether a chunk tells usage and nothing else, so that a client that did not ask for it must not see it.

    Clients read `choices[0]` of every chunk. Usage in a chunk that has choices (Groq, Gemini, some vLLM), or `"usage":null` in
    all of them (OpenAI, when asked), stays: there it disturbs nobody, and the bytes stay the provider's own. Azure's first
    chunk has no choices and no usage: not one of these.
    """
    if _USAGE_OBJECT.search(event) is None:
        return False
    try:
        chunk = _chunk.decode(event_data(event))
    except UNREADABLE:
        return False
    return isinstance(chunk.usage, dict) and not chunk.choices and not chunk.error


def render_error(error: GatewayError, request_id: str) -> bytes:
    """The body of a refusal. The dialect has no place for `request_id`: clients read it from the x-request-id header."""
    shown = {
        "message": error.message,
        "type": KINDS[error.code].openai,
        "param": error.param,
        "code": _code(error),
    }
    return msgspec.json.encode({"error": shown})


def error_event(error: GatewayError, request_id: str) -> bytes:
    """A failure told inside a stream, between two chunks; no [DONE] follows it."""
    return b"data: " + render_error(error, request_id) + b"\n\n"


def render_limits(what: str, limit: int, remaining: int, reset_ms: int) -> list[tuple[str, str]]:
    """The headers that tell of a bucket of `what`, full again in `reset_ms` (developers.openai.com/api/docs/guides/rate-limits,
    "Rate limits in headers", read 2026-11-20)."""
    return [
        (f"x-ratelimit-limit-{what}", str(limit)),
        (f"x-ratelimit-remaining-{what}", str(remaining)),
        (f"x-ratelimit-reset-{what}", _duration(reset_ms)),
    ]


def read_error(data: bytes) -> ErrorText:
    """What an error body says, or the data of an error event.

    OpenAI, Groq, Ollama: {"error":{"message","type","param","code"}}. OpenRouter, llama.cpp: the same, with a number as code.
    Older vLLM: {"object":"error","message","type","code"}. FastAPI: {"detail":"…"}. Some: {"error":"…"}.
    """
    try:
        body = msgspec.json.decode(data)
    except UNREADABLE:
        return ErrorText("", "", "")
    if not isinstance(body, dict):
        return ErrorText("", "", "")
    error = body.get("error") or body
    if not isinstance(error, dict):
        return ErrorText("", "", _text(error))
    return ErrorText(_text(error.get("type")), _text(error.get("code")), _text(error.get("message") or error.get("detail")))


# --- the parts, each by itself ---


def _read_usage_asked(fields: Mapping[str, bytes]) -> bool:
    """Whether the client wants the usage chunk: as OpenAI has it, or as OpenRouter does ("usage": {"include": true})."""
    options = fields.get("stream_options", b"{}")
    if not options.startswith(b"{"):
        raise refusal("stream_options", "stream_options must be an object.")
    span = splice.find_value(options, "include_usage")
    asked = options[span[0] : span[1]] if span else b"null"
    if asked not in (b"true", b"false", b"null"):
        raise refusal("stream_options", "stream_options.include_usage must be true or false.")
    if asked == b"true":
        return True
    try:
        return _usage_option.decode(fields.get("usage", b"{}")).include is True
    except UNREADABLE:
        return False


def _tool_names(fields: Mapping[str, bytes]) -> list[object]:
    try:
        tools = _tools.decode(fields.get("tools", b"[]"))
    except UNREADABLE:
        return []
    return [named.name for tool in tools if (named := tool.function or tool.custom) is not None]


def _cache_class(body: bytes) -> CacheClass:
    """Of an explicit breakpoint, whose writes cost more: OpenAI's from GPT-5.6 on, or a `cache_control` that OpenRouter and its
    like pass on to Claude. What a provider caches by itself nobody asked for, and the hold does not count on it."""
    if b'"prompt_cache_breakpoint"' not in body and b'"cache_control"' not in body:
        return "none"
    return "1h" if b'"ttl"' in body and _TTL_1H.search(body) else "5m"


def _put(body: bytes, key: str, value: bytes) -> bytes:
    """`body` with `value` at its top-level `key`, replaced or put first."""
    if splice.find_value(body, key) is None:
        return splice.insert_first(body, key, value)
    return splice.replace_value(body, key, value)


def _code(error: GatewayError) -> str:
    if error.code == "not_found" and error.param == "model":
        return "model_not_found"
    return _CODES.get(error.code, error.code)


def _duration(ms: int) -> str:
    """As Go writes durations, which is how OpenAI's headers look: 120ms, 8s, 6m0s, 23h59m1s. From one second on in whole
    seconds, upwards."""
    if ms < 1000:
        return f"{ms}ms"
    minutes, seconds = divmod(-(-ms // 1000), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes}m{seconds}s"
    return f"{minutes}m{seconds}s" if minutes else f"{seconds}s"


def _text(value: object) -> str:
    if type(value) is int:
        return str(value)
    return value[:_TEXT_LENGTH_MAX] if isinstance(value, str) else ""
