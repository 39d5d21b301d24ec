"""What the scripted upstream says: one `Reply` renders as a whole message and as the events of a stream, with the same numbers.

Field names and event order as seen on the wire (docs/PROTOCOL.md, "Anthropic stream"). Pure.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

from gateway.usage import Usage

USUAL_USAGE = Usage(input_tokens=25, output_tokens=12)


@dataclass(frozen=True)
class Reply:
    """`usage` is both what is reported and what is billed; `reporting` says how much of it the answer tells:

    full: as the provider does. none: no usage anywhere (what is billed stays). cumulative: a message_delta after each delta,
    each with the output so far. start_only: message_start alone has usage. Zero usage is `usage=Usage()`.
    `usage.web_searches` adds the blocks of a web search. Each text, thinking and tool piece is one delta.
    """

    text: tuple[str, ...] = ("Hello", ", this is", " the scripted upstream.")
    thinking: tuple[str, ...] = ()
    tool: str = ""  # name of a tool to call, with tool_input
    tool_input: dict[str, Any] = field(default_factory=dict)
    more_tools: tuple[tuple[str, dict[str, Any]], ...] = ()  # called beside `tool`, in one turn
    usage: Usage = USUAL_USAGE
    model: str = ""  # what the answer calls itself; "": as requested
    stop_reason: str = ""  # "": end_turn or tool_use
    reporting: Literal["full", "none", "cumulative", "start_only"] = "full"
    cache_split: bool = True  # tells 5m and 1h writes apart, as the provider does; else only their sum
    pings: int = 1


class Event(NamedTuple):
    data: bytes
    output_tokens: int  # billed once this event was produced


def render_event(fields: dict[str, Any]) -> bytes:
    return f"event: {fields['type']}\ndata: {json.dumps(fields)}\n\n".encode()


PING = render_event({"type": "ping"})


def render_error(kind: str, message: str) -> bytes:
    return json.dumps({"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_upstream_error"}).encode()


def render_error_event(kind: str = "overloaded_error", message: str = "Overloaded") -> bytes:
    return b"event: error\ndata: %s\n\n" % render_error(kind, message)


def render_usage(reply: Reply, output_tokens: int, *, searched: bool) -> dict[str, Any]:
    usage = reply.usage
    fields: dict[str, Any] = {
        "input_tokens": usage.input_tokens,
        "cache_creation_input_tokens": usage.cache_write_5m_tokens + usage.cache_write_1h_tokens,
        "cache_read_input_tokens": usage.cache_read_tokens,
        "output_tokens": output_tokens,
        "service_tier": usage.service_tier or "standard",
    }
    if reply.cache_split:
        fields["cache_creation"] = {
            "ephemeral_5m_input_tokens": usage.cache_write_5m_tokens,
            "ephemeral_1h_input_tokens": usage.cache_write_1h_tokens,
        }
    if searched and usage.web_searches:
        fields["server_tool_use"] = {"web_search_requests": usage.web_searches}
    if usage.speed:
        fields["speed"] = usage.speed
    if usage.geography:
        fields["inference_geo"] = usage.geography
    return fields


def render_message(reply: Reply, model: str) -> bytes:
    """The body of a non-streamed answer."""
    message = _frame(reply, model) | {
        "content": [block for block, _ in _blocks(reply)],
        "stop_reason": _stop_reason(reply),
        "usage": render_usage(reply, reply.usage.output_tokens, searched=True),
    }
    if reply.reporting == "none":
        del message["usage"]
    return json.dumps(message).encode()


def render_stream(reply: Reply, model: str) -> list[Event]:
    """The events of a streamed answer; output is billed evenly over the deltas."""
    total = reply.usage.output_tokens
    count = sum(len(deltas) for _, deltas in _blocks(reply))
    silent = reply.reporting == "none"
    start = _frame(reply, model) | {"content": [], "stop_reason": None}
    if not silent:
        start["usage"] = render_usage(reply, min(1, total), searched=False)
    events = [Event(render_event({"type": "message_start", "message": start}), 0)]
    done = 0
    for index, (block, deltas) in enumerate(_blocks(reply)):
        opening = {key: value for key, value in block.items() if not deltas or key in ("type", "id", "name")}
        opening |= {"text": ""} if block["type"] == "text" else {}
        opening |= {"thinking": "", "signature": ""} if block["type"] == "thinking" else {}
        opening |= {"input": {}} if block["type"] == "tool_use" else {}
        events.append(Event(_indexed("content_block_start", index, content_block=opening), total * done // max(count, 1)))
        if index == 0:
            events += [Event(PING, 0)] * reply.pings
        for delta in deltas:
            done += 1
            produced = -(-total * done // count)
            events.append(Event(_indexed("content_block_delta", index, delta=delta), produced))
            if reply.reporting == "cumulative":
                events.append(Event(_message_delta(reply, None, produced), produced))
        events.append(Event(_indexed("content_block_stop", index), total * done // max(count, 1)))
    events.append(Event(_message_delta(reply, _stop_reason(reply), total), total))
    events.append(Event(render_event({"type": "message_stop"}), total))
    return events


def usage_so_far(reply: Reply, output_tokens: int) -> Usage:
    return replace(reply.usage, output_tokens=output_tokens)


def _frame(reply: Reply, model: str) -> dict[str, Any]:
    return {"id": "msg_scripted", "type": "message", "role": "assistant", "model": reply.model or model, "stop_sequence": None}


def _stop_reason(reply: Reply) -> str:
    return reply.stop_reason or ("tool_use" if reply.tool else "end_turn")


def _message_delta(reply: Reply, stop_reason: str | None, output_tokens: int) -> bytes:
    fields: dict[str, Any] = {"type": "message_delta", "delta": {"stop_reason": stop_reason, "stop_sequence": None}}
    if reply.reporting in ("full", "cumulative"):
        fields["usage"] = render_usage(reply, output_tokens, searched=True)
    return render_event(fields)


def _indexed(kind: str, index: int, **fields: Any) -> bytes:
    return render_event({"type": kind, "index": index, **fields})


def _blocks(reply: Reply) -> list[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """Each block as a whole message shows it, and the deltas that a stream makes it of (none: it comes whole)."""
    blocks: list[tuple[dict[str, Any], list[dict[str, Any]]]] = []
    if reply.thinking:
        deltas: list[dict[str, Any]] = [{"type": "thinking_delta", "thinking": piece} for piece in reply.thinking]
        deltas.append({"type": "signature_delta", "signature": "c2lnbmF0dXJl"})
        blocks.append(({"type": "thinking", "thinking": "".join(reply.thinking), "signature": "c2lnbmF0dXJl"}, deltas))
    for number in range(reply.usage.web_searches):
        use_id = f"srvtoolu_{number}"
        blocks.append(({"type": "server_tool_use", "id": use_id, "name": "web_search", "input": {"query": "weather"}}, []))
        blocks.append(({"type": "web_search_tool_result", "tool_use_id": use_id, "content": []}, []))
    if reply.text:
        deltas = [{"type": "text_delta", "text": piece} for piece in reply.text]
        blocks.append(({"type": "text", "text": "".join(reply.text)}, deltas))
    calls = [(reply.tool, reply.tool_input), *reply.more_tools] if reply.tool else []
    for number, (name, given) in enumerate(calls, start=1):
        text = json.dumps(given)
        deltas = [{"type": "input_json_delta", "partial_json": part} for part in (text[:5], text[5:])]
        blocks.append(({"type": "tool_use", "id": f"toolu_{number}", "name": name, "input": given}, deltas))
    return blocks
