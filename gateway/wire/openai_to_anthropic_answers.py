"""An Anthropic upstream's whole answers and refusals as an OpenAI client reads them. Streams: openai_to_anthropic_stream.py.

    text             content
    tool_use         tool_calls; arguments are the provider's own JSON
    thinking         reasoning_content, as DeepSeek, vLLM and LiteLLM name it, and with its signature an entry of thinking_blocks,
                     as LiteLLM names them. `index` is its place in the answer, so that a client that sends it back (any that
                     keeps a message's fields) restores the provider's order
    anything else    nothing: what server tools leave behind comes only with server tools, which this dialect cannot ask for

Sources, read 2026-11-20: platform.claude.com/docs/en/api/{messages,errors} and /build-with-claude/handling-stop-reasons;
developers.openai.com/api/docs (Chat Completions) and the types of the openai SDK 3.52; docs.litellm.ai (reasoning content).
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from gateway.errors import KINDS, UpstreamError
from gateway.wire.anthropic_usage import UsageReader

# An unknown one ended the answer in a way that we cannot name; a client needs one of its own words.
_FINISH_REASONS = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "tool_use": "tool_calls",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    # Unfinished, to be sent back and continued: never a "stop", which would pass for a whole answer.
    "pause_turn": "length",
    "refusal": "content_filter",
}
_FINISH_UNKNOWN = "stop"

_ERROR_TYPES = {kind.anthropic: kind.openai for kind in KINDS.values()}
_ERROR_CODES = {
    "authentication_error": "invalid_api_key",
    "billing_error": "insufficient_quota",
    "not_found_error": "model_not_found",
    "rate_limit_error": "rate_limit_exceeded",
}
# The one code that clients act on: they shorten the conversation and try again.
_TOO_LONG = re.compile(r"prompt is too long|exceed context limit|context window")
_TOO_LONG_CODE = "context_length_exceeded"
# The provider begins with the place: "messages.1.content.0: …". Places are those of the translated body, of which only the first
# name can be told in the client's words.
_PLACE = re.compile(r"([a-z_]+)(?:\.[A-Za-z0-9_.]+)?: ")
_PARAMS = {
    "max_tokens": "max_tokens",
    "messages": "messages",
    "metadata": "user",
    "model": "model",
    "output_config": "response_format",
    "stop_sequences": "stop",
    "system": "messages",
    "temperature": "temperature",
    "thinking": "reasoning_effort",
    "tool_choice": "tool_choice",
    "tools": "tools",
    "top_p": "top_p",
}


class StopDetails(msgspec.Struct):
    explanation: str | None = None


class Block(msgspec.Struct):
    type: str = ""
    text: str | None = None
    thinking: str | None = None
    signature: str | None = None
    data: str | None = None
    id: str | None = None
    name: str | None = None
    input: msgspec.Raw = msgspec.Raw(b"{}")


class _Message(msgspec.Struct):
    type: str
    content: list[Block]
    stop_reason: str | None = None
    stop_details: StopDetails | None = None
    usage: object = None


class ProviderError(msgspec.Struct):
    type: str = ""
    message: str = ""


class ErrorBody(msgspec.Struct):
    error: ProviderError


_message = msgspec.json.Decoder(_Message)
error_body = msgspec.json.Decoder(ErrorBody)
_encode = msgspec.json.encode

UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def translate_answer(body: bytes, *, model: str, completion_id: str, created: int, functions: bool = False) -> bytes:
    """A whole answer. `created` in Unix seconds; `functions` where the request used the deprecated `functions`.

    Raises UpstreamError (unreadable_answer) for what is no message.
    """
    try:
        answer = _message.decode(body)
    except UNREADABLE:
        raise unreadable("answer") from None
    if answer.type != "message":
        raise unreadable("answer")
    calls = [render_call(block) for block in answer.content if block.type == "tool_use"]
    thoughts = [render_thinking(place, block) for place, block in enumerate(answer.content)]
    signed = [thought for thought in thoughts if thought is not None]
    reasoning = "".join(block.thinking or "" for block in answer.content if block.type == "thinking")
    text = "".join(block.text or "" for block in answer.content if block.type == "text")
    message: dict[str, Any] = {
        "role": "assistant",
        "content": text if text or not calls else None,
        "refusal": refusal_of(answer.stop_details),
    }
    if reasoning:
        message["reasoning_content"] = reasoning
    if signed:
        message["thinking_blocks"] = signed
    if calls:
        message |= {"function_call": calls[0]["function"]} if functions else {"tool_calls": calls}
    finish_reason = finish_reason_of(answer.stop_reason, functions=functions)
    whole: dict[str, Any] = {
        "id": completion_id,
        "object": "chat.completion",
        "created": created,
        "model": model,
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": finish_reason}],
    }
    if isinstance(answer.usage, dict):
        reader = UsageReader()
        reader.read(answer.usage)
        whole["usage"] = render_usage(reader)
    return _encode(whole)


def translate_refusal(status: int, body: bytes) -> tuple[int, bytes]:
    """An error answer: its status and message stay; type, param and code are put in the client's words."""
    try:
        error = error_body.decode(body).error
    except UNREADABLE:
        error = ProviderError()
    return status, _encode({"error": render_error(error, f"The provider refused the request with status {status}.")})


def render_usage(reader: UsageReader) -> dict[str, Any]:
    """In OpenAI's shape, where the prompt contains what was read from the cache and written to it."""
    usage = reader.total()
    rendered: dict[str, Any] = {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.prompt_tokens + usage.output_tokens,
        "prompt_tokens_details": {
            "cached_tokens": usage.cache_read_tokens,
            "cache_write_tokens": usage.cache_write_5m_tokens + usage.cache_write_1h_tokens,
        },
    }
    thinking = reader.count("output_tokens_details.thinking_tokens")
    if thinking is not None:
        rendered["completion_tokens_details"] = {"reasoning_tokens": thinking}
    return rendered


def render_call(block: Block) -> dict[str, Any]:
    return {
        "id": block.id or "",
        "type": "function",
        "function": {"name": block.name or "", "arguments": bytes(block.input).decode()},
    }


def render_thinking(place: int, block: Block) -> dict[str, Any] | None:
    """The entry of thinking_blocks; None for what cannot be sent back."""
    if block.type == "thinking" and block.signature:
        return {"index": place, "type": "thinking", "thinking": block.thinking or "", "signature": block.signature}
    if block.type == "redacted_thinking" and block.data:
        return {"index": place, "type": "redacted_thinking", "data": block.data}
    return None


def finish_reason_of(stop_reason: str | None, *, functions: bool) -> str:
    reason = _FINISH_REASONS.get(stop_reason or "", _FINISH_UNKNOWN)
    return "function_call" if functions and reason == "tool_calls" else reason


def refusal_of(details: StopDetails | None) -> str | None:
    """Why the provider's safeguards stopped the answer, in their words."""
    return details.explanation if details is not None else None


def render_error(error: ProviderError, message_default: str) -> dict[str, Any]:
    place = _PLACE.match(error.message)
    too_long = error.type == "invalid_request_error" and _TOO_LONG.search(error.message)
    return {
        "message": error.message or message_default,
        "type": _ERROR_TYPES.get(error.type, "server_error"),
        "param": "messages" if too_long else _PARAMS.get(place[1]) if place else None,
        "code": _TOO_LONG_CODE if too_long else _ERROR_CODES.get(error.type),
    }


def unreadable(what: str) -> UpstreamError:
    return UpstreamError("upstream_failed", f"The provider sent an {what} that cannot be read.", reason=f"unreadable_{what}")
