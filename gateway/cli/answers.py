"""Reading a stranger's answer: what it should be, and what is said when it is not.

Knows JSON, Anthropic's event order (platform.claude.com/docs/en/build-with-claude/streaming, read 2026-11-20), and that nothing
can be taken for granted.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from gateway.errors import GatewayError
from gateway.wire.sse import Splitter, event_data, event_name


class Failed(Exception):
    """The endpoint did not do what clients rely on; the text says what it did."""


class Unusable(Failed):
    """The endpoint cannot be asked anything at all: it is not there, is no API, or refuses the key."""


@dataclass(slots=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        try:
            return orjson.loads(self.body)
        except orjson.JSONDecodeError:
            raise Failed(f"status {self.status}, and the body is not JSON: {shown(self.body)}") from None


def expect(holds: object, otherwise: str) -> None:
    if not holds:
        raise Failed(otherwise)


def expect_status(answer: Answer, status: int) -> None:
    expect(answer.status == status, f"status {answer.status}, expected {status}: {shown(answer.body)}")


def shown(value: object) -> str:
    """A stranger's text, short and on one line."""
    text = value.decode(errors="replace") if isinstance(value, bytes) else str(value)
    return re.sub(r"[^ -~]+", " ", text)[:160] or "(empty)"


def count_in(usage: dict[str, Any], name: str) -> int:
    count = usage.get(name)
    expect(type(count) is int and count > 0, f"{name} is {shown(count)}, expected a number above 0")
    assert isinstance(count, int)
    return count


def as_dict(value: Any) -> dict[str, Any]:
    expect(isinstance(value, dict), f"expected a JSON object, found {shown(value)}")
    return dict(value)


def as_list(value: Any) -> list[Any]:
    expect(isinstance(value, list), f"expected a JSON list, found {shown(value)}")
    return list(value)


# ── the order of a stream ────────────────────────────────────────────────────────────────────────────────────────────


def check_events(events: list[tuple[str, dict[str, Any]]]) -> str:
    """(name, data) of every event. Raises Failed unless they are one whole message in order."""
    meant = [(name, data) for name, data in events if name != "ping"]
    for name, data in meant:
        expect(name != "error", f"an error event: {shown(data.get('error'))}")
        expect(data.get("type") == name, f"event {shown(name)} carries type {shown(data.get('type'))}")
    names = [name for name, _ in meant]
    expect(names, "no events")
    expect(names[0] == "message_start", f"it begins with {shown(names[0])}")
    expect(names[-1] == "message_stop", f"it ends with {shown(names[-1])}, not message_stop")
    expect(names[-2] == "message_delta", f"before message_stop comes {shown(names[-2])}, not message_delta")
    _check_blocks(meant[1:])
    start, end = as_dict(meant[0][1].get("message")), meant[-2][1]
    tokens_in = count_in(as_dict(start.get("usage")), "input_tokens")
    tokens_out = count_in(as_dict(end.get("usage")), "output_tokens")
    expect(as_dict(end.get("delta")).get("stop_reason"), "message_delta has no stop_reason")
    return f"{len(events)} events, {tokens_in} tokens in, {tokens_out} out"


def _check_blocks(events: list[tuple[str, dict[str, Any]]]) -> None:
    """Blocks are numbered 0, 1, 2 …, one open at a time, every delta inside its block, nothing after the last message_delta."""
    opened: int | None = None
    number = 0
    for name, data in events:
        if name == "content_block_start":
            expect(opened is None and data.get("index") == number, f"content block {data.get('index')} starts out of order")
            opened = number
        elif name == "content_block_delta":
            expect(opened is not None and data.get("index") == opened, f"a delta of block {data.get('index')} is out of order")
        elif name == "content_block_stop":
            expect(opened is not None and data.get("index") == opened, f"block {data.get('index')} stops out of order")
            opened, number = None, number + 1
        elif name == "message_delta":
            expect(opened is None, "message_delta comes inside a content block")
        elif name == "message_start":
            raise Failed("message_start comes twice")
    expect(number, "no content block")


def parse_events(body: bytes) -> list[tuple[str, dict[str, Any]]]:
    splitter = Splitter()
    try:
        events = [event for event in splitter.feed(body) if event_data(event)]
    except GatewayError:
        raise Failed("an event is longer than 1 MB") from None
    expect(not splitter.tail.strip(), f"the stream is cut within an event: {shown(splitter.tail)}")
    parsed = []
    for event in events:
        try:
            parsed.append((event_name(event).decode(errors="replace"), as_dict(orjson.loads(event_data(event)))))
        except orjson.JSONDecodeError:
            raise Failed(f"an event's data is not JSON: {shown(event_data(event))}") from None
    return parsed
