"""What the load generator asks and the mock upstream answers: fixed bytes, made once, known to both.

Because both sides know them, the load generator proves an answer with a length and a CRC instead of parsing it.
Shapes follow the Anthropic Messages API (PROTOCOL.md, "Anthropic stream").
"""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass

MODEL = "claude-haiku-4-5"
REQUEST_BYTES = 1024
# message_start, content_block_start, ping, (deltas), content_block_stop, message_delta, message_stop
EVENTS_AROUND_DELTAS = 6
EVENTS_MIN = EVENTS_AROUND_DELTAS + 1


@dataclass(frozen=True, slots=True)
class Expected:
    """A whole answer body, as it must arrive."""

    size_bytes: int
    crc32: int
    events: int


def request_body(*, stream: bool) -> bytes:
    """A Messages request of exactly REQUEST_BYTES bytes; the mock looks for `"stream":true` in it, without a space."""
    filler = "Please tell me, in a few plain words, how a lighthouse keeps its lamp turning through a long winter night. " * 20

    def render(text: str) -> bytes:
        request = {
            "model": MODEL,
            "max_tokens": 1024,
            "stream": stream,
            "system": "You are a helpful assistant who answers briefly.",
            "metadata": {"user_id": "bench"},
            "messages": [{"role": "user", "content": text}],
        }
        return json.dumps(request, separators=(",", ":")).encode()

    return render(filler[: REQUEST_BYTES - len(render(""))])


def json_answer() -> bytes:
    """A small non-streamed message, about 400 bytes."""
    message: dict[str, object] = {
        "id": "msg_01BenchBenchBenchBenchBe",
        "type": "message",
        "role": "assistant",
        "model": MODEL,
        "content": [{"type": "text", "text": "A clockwork of falling weights turns the lens; the keeper winds it."}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {
            "input_tokens": 250,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 0,
            "output_tokens": 24,
        },
    }
    return json.dumps(message, separators=(",", ":")).encode()


def stream_events(count: int) -> list[bytes]:
    """`count` whole SSE events (at least EVENTS_MIN), from message_start to message_stop; a text delta has about 130 bytes."""
    if count < EVENTS_MIN:
        raise ValueError(f"a stream has at least {EVENTS_MIN} events, not {count}")
    usage = {"input_tokens": 250, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0, "output_tokens": 1}
    message: dict[str, object] = {
        "id": "msg_01BenchBenchBenchBenchBe",
        "type": "message",
        "role": "assistant",
        "model": MODEL,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": usage,
    }
    deltas = count - EVENTS_AROUND_DELTAS
    return [
        _event("message_start", message=message),
        _event("content_block_start", index=0, content_block={"type": "text", "text": ""}),
        _event("ping"),
        *(_event("content_block_delta", index=0, delta={"type": "text_delta", "text": f" weight {n}"}) for n in range(deltas)),
        _event("content_block_stop", index=0),
        _event("message_delta", delta={"stop_reason": "end_turn", "stop_sequence": None}, usage={"output_tokens": 3 * deltas}),
        _event("message_stop"),
    ]


def expected(*, stream: bool, events: int) -> Expected:
    body = b"".join(stream_events(events)) if stream else json_answer()
    return Expected(len(body), zlib.crc32(body), events if stream else 0)


def _event(kind: str, **fields: object) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **fields}, separators=(',', ':'))}\n\n".encode()
