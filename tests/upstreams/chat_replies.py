"""What the scripted upstream says to a Chat Completions request: the same `Reply`, in the manner of one server or another.

Chunks and their order as the real API sends them: a chunk with the role, one for each delta, one with the finish_reason, one
with usage if the request asks for it, [DONE]. Pure.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal

from gateway.usage import Usage
from tests.upstreams.replies import Event, Reply

KEEP_ALIVE = b": OPENROUTER PROCESSING\n\n"
DONE = b"data: [DONE]\n\n"

STOP_REASONS = {"end_turn": "stop", "tool_use": "tool_calls", "max_tokens": "length", "refusal": "content_filter"}


@dataclass(frozen=True)
class Manner:
    """How servers differ. `usage` is the shape of the object, and where a stream has it:

    openai    details; a chunk of its own, and null in every other
    bare      three numbers, no details (Ollama); a chunk of its own
    deepseek  prompt_cache_hit_tokens; in the chunk with the finish_reason
    groq      times; under x_groq in the last chunk if it was not asked for
    moonshot  cached_tokens at the top; inside the last choice, and in a chunk of its own
    openrouter cost, writes; a chunk of its own, also for who did not ask
    xai       completion_tokens without reasoning; cumulative in every chunk
    """

    usage: Literal["openai", "bare", "deepseek", "groq", "moonshot", "openrouter", "xai"] = "openai"
    done: bool = True
    reasoning: str = "reasoning_content"
    service_tier: str = ""


OPENAI = Manner()


def render_chat(reply: Reply, manner: Manner, request: dict[str, Any]) -> bytes:
    """The body of a non-streamed answer."""
    message: dict[str, Any] = {"role": "assistant", "content": "".join(reply.text) or None, "refusal": None}
    if reply.thinking:
        message[manner.reasoning] = "".join(reply.thinking)
    if _calls(reply):
        message["tool_calls"] = [
            {"id": f"call_{number}", "type": "function", "function": {"name": name, "arguments": json.dumps(given)}}
            for number, (name, given) in enumerate(_calls(reply))
        ]
    count = request.get("n") or 1
    answer = _frame(reply, manner, request, "chat.completion") | {
        "choices": [
            {"index": index, "message": message, "logprobs": None, "finish_reason": _stop_reason(reply)} for index in range(count)
        ]
    }
    if reply.reporting != "none":
        answer["usage"] = render_chat_usage(reply.usage, manner, reply.usage.output_tokens)
    return json.dumps(answer).encode()


def render_chunks(reply: Reply, manner: Manner, request: dict[str, Any]) -> list[Event]:
    """The events of a streamed answer; output is billed evenly over the deltas."""
    asked = (request.get("stream_options") or {}).get("include_usage") is True
    silent = reply.reporting == "none"
    total = reply.usage.output_tokens
    frame = _frame(reply, manner, request, "chat.completion.chunk")
    if asked and manner.usage == "openai" and not silent:
        frame["usage"] = None
    indexes = range(request.get("n") or 1)
    deltas = [(index, delta) for delta in _deltas(reply, manner) for index in indexes]

    def chunk(index: int, delta: dict[str, Any], reason: str | None, output_tokens: int) -> dict[str, Any]:
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": reason}
        told = {} if silent or manner.usage != "xai" else {"usage": render_chat_usage(reply.usage, manner, output_tokens)}
        return frame | {"choices": [choice]} | told

    opening = {"role": "assistant", "content": "" if reply.text else None, "refusal": None}
    events = [Event(render_chunk(chunk(index, opening, None, 0)), 0) for index in indexes]
    events += [Event(KEEP_ALIVE, 0)] * reply.pings
    for done, (index, delta) in enumerate(deltas, start=1):
        produced = -(-total * done // len(deltas))
        events.append(Event(render_chunk(chunk(index, delta, None, produced)), produced))
    for index in indexes:
        last = chunk(index, {}, _stop_reason(reply), total)
        if index == indexes[-1] and not silent:
            _add_usage(last, reply.usage, manner, asked)
        events.append(Event(render_chunk(last), total))
    if not silent and (manner.usage == "openrouter" or (asked and manner.usage in ("openai", "bare", "groq", "moonshot"))):
        usage = render_chat_usage(reply.usage, manner, total)
        events.append(Event(render_chunk(frame | {"choices": [], "usage": usage}), total))
    if manner.done:
        events.append(Event(DONE, total))
    return events


def render_chat_usage(usage: Usage, manner: Manner, output_tokens: int) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": output_tokens,
        "total_tokens": usage.prompt_tokens + output_tokens,
    }
    written = usage.cache_write_5m_tokens
    if manner.usage in ("openai", "openrouter"):
        fields["prompt_tokens_details"] = {
            "cached_tokens": usage.cache_read_tokens,
            "audio_tokens": 0,
            "cache_write_tokens": written,
        }
        fields["completion_tokens_details"] = {"reasoning_tokens": output_tokens // 2, "audio_tokens": 0}
    if manner.usage == "openrouter":
        fields |= {"cost": 0.0125, "is_byok": False, "cost_details": {"upstream_inference_cost": 0.0125}}
        if usage.web_searches:
            fields["server_tool_use"] = {"web_search_requests": usage.web_searches}
    elif manner.usage == "deepseek":
        fields["prompt_cache_hit_tokens"] = usage.cache_read_tokens
        fields["prompt_cache_miss_tokens"] = usage.prompt_tokens - usage.cache_read_tokens
    elif manner.usage == "groq":
        fields |= {"queue_time": 0.06, "prompt_time": 0.0002, "completion_time": 0.8, "total_time": 0.8}
        fields["prompt_tokens_details"] = {"cached_tokens": usage.cache_read_tokens}
    elif manner.usage == "moonshot":
        fields["cached_tokens"] = usage.cache_read_tokens
    elif manner.usage == "xai":
        reasoning = output_tokens // 2
        fields["completion_tokens"] = output_tokens - reasoning
        fields["prompt_tokens_details"] = {"cached_tokens": usage.cache_read_tokens, "text_tokens": usage.prompt_tokens}
        fields["completion_tokens_details"] = {"reasoning_tokens": reasoning}
        fields["num_sources_used"] = 0
    return fields


def render_chunk(fields: dict[str, Any]) -> bytes:
    return b"data: %s\n\n" % json.dumps(fields, separators=(",", ":"), ensure_ascii=False).encode()


def render_chat_error(kind: str, message: str, code: str | None = None) -> bytes:
    return json.dumps({"error": {"message": message, "type": kind, "param": None, "code": code}}).encode()


def render_chat_error_event(kind: str, message: str) -> bytes:
    return b"data: %s\n\n" % render_chat_error(kind, message)


def _frame(reply: Reply, manner: Manner, request: dict[str, Any], kind: str) -> dict[str, Any]:
    frame: dict[str, Any] = {
        "id": "chatcmpl-scripted",
        "object": kind,
        "created": 1795168800,
        "model": reply.model or request["model"],
        "system_fingerprint": "fp_scripted",
    }
    if manner.service_tier:
        frame["service_tier"] = manner.service_tier
    return frame


def _add_usage(last: dict[str, Any], usage: Usage, manner: Manner, asked: bool) -> None:
    """To the chunk with the finish_reason, where a server has it there."""
    rendered = render_chat_usage(usage, manner, usage.output_tokens)
    if manner.usage == "deepseek" and asked:
        last["usage"] = rendered
    elif manner.usage == "groq" and not asked:
        last["x_groq"] = {"id": "req_1", "usage": rendered}
    elif manner.usage == "moonshot":
        last["choices"][0]["usage"] = rendered


def _deltas(reply: Reply, manner: Manner) -> list[dict[str, Any]]:
    deltas: list[dict[str, Any]] = [{manner.reasoning: piece} for piece in reply.thinking]
    deltas += [{"content": piece} for piece in reply.text]
    for number, (name, given) in enumerate(_calls(reply)):
        text = json.dumps(given)
        call = {"index": number, "id": f"call_{number}", "type": "function", "function": {"name": name, "arguments": ""}}
        deltas.append({"tool_calls": [call]})
        pieces = (text[:5], text[5:])
        deltas += [{"tool_calls": [{"index": number, "function": {"arguments": piece}}]} for piece in pieces if piece]
    return deltas


def _calls(reply: Reply) -> list[tuple[str, dict[str, Any]]]:
    return [(reply.tool, reply.tool_input), *reply.more_tools] if reply.tool else []


def _stop_reason(reply: Reply) -> str:
    given = STOP_REASONS.get(reply.stop_reason, reply.stop_reason)
    return given or ("tool_calls" if reply.tool else "stop")
