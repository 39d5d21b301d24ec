"""What an Anthropic client makes of a stream: each event strictly of the official SDK's types, put together by its own helper."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from anthropic.lib.streaming._messages import accumulate_event
from anthropic.types import Message, RawMessageStreamEvent
from pydantic import BaseModel, TypeAdapter

from gateway.wire.sse import event_data, event_name

_EVENT: TypeAdapter[Any] = TypeAdapter(RawMessageStreamEvent)


def check_message(body: bytes) -> dict[str, Any]:
    """A whole message, strictly of the SDK's type and without anything that the SDK does not know."""
    message = Message.model_validate_json(body, strict=True)
    _no_extras(message)
    assert message.content is not None and message.usage.input_tokens is not None
    return dict(json.loads(body))


def reassemble(events: Iterable[bytes], *, extras: bool = False) -> dict[str, Any]:
    """The message of a whole stream. Fails on an event of the wrong shape, in the wrong place, or with the wrong index.

    `extras`: what the SDK does not know may be there, as it is in the provider's own.
    """
    snapshot: Any = None
    buffers: dict[int, bytes] = {}
    opened, is_open, stopped = 0, False, False
    names: list[str] = []
    for event in events:
        name = event_name(event).decode()
        data = json.loads(event_data(event))
        assert event.endswith(b"\n\n") and data["type"] == name
        if name == "ping":
            continue
        assert not stopped, "nothing follows message_stop"
        names.append(name)
        parsed = _EVENT.validate_json(event_data(event), strict=True)
        if not extras:
            _no_extras(parsed)
        if name == "content_block_start":
            assert not is_open and data["index"] == opened, "blocks come one after another"
            opened, is_open = opened + 1, True
        elif name in ("content_block_delta", "content_block_stop"):
            assert is_open and data["index"] == opened - 1
            is_open = name == "content_block_delta"
        elif name == "message_start":
            assert all(value is not None for value in data["message"]["usage"].values())
        stopped = name == "message_stop"
        snapshot = accumulate_event(event=parsed, current_snapshot=snapshot, json_bufs=buffers)
    assert not is_open and names[0] == "message_start" and names[-2:] == ["message_delta", "message_stop"]
    assert names.count("message_start") == names.count("message_delta") == 1
    message: dict[str, Any] = json.loads(snapshot.to_json(exclude_none=False, exclude_unset=True))
    assert message.pop("stop_details") is None  # the helper adds it
    return message


def _no_extras(value: object) -> None:
    if isinstance(value, BaseModel):
        assert not value.model_extra, f"unknown to the SDK: {value.model_extra}"
        for each in value.__dict__.values():
            _no_extras(each)
    elif isinstance(value, list):
        for each in value:
            _no_extras(each)
