from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.usage import Usage
from gateway.wire.meter import AnthropicMeter, classify, estimated_usage, meter_whole


def event(kind: str, **data: Any) -> bytes:
    text = json.dumps({"type": kind, **data}, separators=(",", ":"), ensure_ascii=False)
    return f"event: {kind}\ndata: {text}\n\n".encode()


def start(usage: Any, model: str = "claude-opus-5-5") -> bytes:
    return event("message_start", message={"type": "message", "model": model, "content": [], "usage": usage})


def end(usage: Any) -> bytes:
    return event("message_delta", delta={"stop_reason": "end_turn", "stop_sequence": None}, usage=usage)


def delta(**fields: Any) -> bytes:
    return event("content_block_delta", index=0, delta=fields)


def metered(*events: bytes) -> AnthropicMeter:
    meter = AnthropicMeter()
    for each in events:
        meter.feed(each)
    return meter


START = {"input_tokens": 10, "cache_creation_input_tokens": 100, "cache_read_input_tokens": 1000, "output_tokens": 3}

# (message_start's usage, each message_delta's usage, what is to be charged)
USAGES: list[tuple[Any, list[Any], Usage]] = [
    (START, [{"output_tokens": 7}], Usage(10, 7, 100, 0, 1000)),
    (START, [{"output_tokens": 7}, {"output_tokens": 9}], Usage(10, 9, 100, 0, 1000)),
    (START, [], Usage(10, 0, 100, 0, 1000)),
    (START, [{"output_tokens": 0, "input_tokens": 0}], Usage(0, 0, 100, 0, 1000)),
    (START, [{"output_tokens": 7, "input_tokens": None, "cache_read_input_tokens": None}], Usage(10, 7, 100, 0, 1000)),
    (START, [{"output_tokens": 7, "input_tokens": 500}], Usage(500, 7, 100, 0, 1000)),
    (
        START | {"cache_creation": {"ephemeral_5m_input_tokens": 60, "ephemeral_1h_input_tokens": 40}},
        [{"output_tokens": 1}],
        Usage(10, 1, 60, 40, 1000),
    ),
    (START | {"cache_creation": {"ephemeral_1h_input_tokens": 40}}, [], Usage(10, 0, 60, 40, 1000)),
    (START | {"cache_creation": {"ephemeral_1h_input_tokens": 0}}, [], Usage(10, 0, 100, 0, 1000)),
    ({"cache_creation": {"ephemeral_5m_input_tokens": 5, "ephemeral_1h_input_tokens": 4}}, [], Usage(0, 0, 5, 4)),
    (
        START | {"speed": "fast", "inference_geo": "us", "service_tier": "standard"},
        [{"output_tokens": 1, "service_tier": None, "server_tool_use": {"web_search_requests": 2, "web_fetch_requests": 9}}],
        Usage(10, 1, 100, 0, 1000, 2, "fast", "us", "standard"),
    ),
    # Compaction is billed and not contained in the fields above it; the turns are.
    (
        {"input_tokens": 23_000},
        [
            {
                "output_tokens": 1000,
                "iterations": [
                    {"type": "compaction", "input_tokens": 180_000, "output_tokens": 3500, "cache_read_input_tokens": 7},
                    {"type": "message", "input_tokens": 23_000, "output_tokens": 1000},
                ],
            }
        ]
        * 2,
        Usage(203_000, 4500, 0, 0, 7),
    ),
]


@pytest.mark.parametrize(("first", "later", "expected"), USAGES)
def test_a_stream_is_charged_as_reported(first: Any, later: list[Any], expected: Usage) -> None:
    meter = metered(start(first), *[end(usage) for usage in later], event("message_stop"))
    assert meter.usage == expected
    assert meter.output_reported == bool(later)
    assert (meter.started, meter.ended, meter.errored, meter.malformed) == (True, True, False, False)
    assert (meter.model, meter.unknown_fields) == ("claude-opus-5-5", set())
    assert meter.stop_reason == ("end_turn" if later else "")


@pytest.mark.parametrize(("first", "later", "expected"), [case for case in USAGES if len(case[1]) == 1])
def test_a_whole_answer_is_charged_alike(first: Any, later: list[Any], expected: Usage) -> None:
    last = {name: value for name, value in later[0].items() if value is not None}
    content = [{"type": "tool_use", "input": {"usage": {"input_tokens": 5}, "model": "x"}}]
    body = {"type": "message", "model": "m", "content": content, "stop_reason": "end_turn", "usage": first | last}
    reading = meter_whole(json.dumps(body).encode())
    assert reading.usage == expected
    assert (reading.is_message, reading.model, reading.stop_reason) == (True, "m", "end_turn")


@pytest.mark.parametrize("value", ["7", -1, True, 1.0, 7.5, 10**9 + 1, 10**30, [], {}])
def test_what_is_no_count_is_left_out_and_flagged(value: Any) -> None:
    meter = metered(start(START), end({"output_tokens": value, "input_tokens": 11}))
    assert meter.usage.output_tokens == 0
    assert not meter.output_reported
    if value != {}:
        assert meter.malformed


def test_unknown_numbers_are_flagged_by_name_and_their_number_is_bounded() -> None:
    meter = metered(
        start(START | {"cache_creation": {"ephemeral_1d_input_tokens": 4}, "note": "text", "flag": True, "later": None}),
        end({"output_tokens": 1, "video_tokens": 3, "iterations": [{"type": "advisor_message", "input_tokens": 5}]}),
    )
    assert meter.unknown_fields == {"cache_creation.ephemeral_1d_input_tokens", "video_tokens", "iterations.advisor_message"}
    flooded = metered(start({f"x{i}\n" + "y" * 500: 1 for i in range(1000)}))
    assert len(flooded.unknown_fields) == 32
    assert all(len(name) <= 80 and "\n" not in name for name in flooded.unknown_fields)


@pytest.mark.parametrize(
    "event_bytes",
    [
        b'event: message_start\ndata: {"usage"\n\n',
        b'event: message_delta\ndata: {"usage":' + b"[" * 100_000 + b"\n\n",
        b'event: message_delta\ndata: {"type":"message_delta","usage":7}\n\n',
        b'event: message_delta\ndata: {"type":"message_delta","usage":{"output_tokens":' + b"9" * 5000 + b"}}\n\n",
        b'event: message_delta\ndata: "usage"\n\n',
    ],
)
def test_a_hostile_event_raises_nothing(event_bytes: bytes) -> None:
    meter = metered(event_bytes)
    assert meter.malformed
    assert meter.usage == Usage()


DELTAS = [
    (delta(type="text_delta", text="hello"), 5),
    (delta(type="text_delta", text='say "hi"\n\\n \\'), len('say "hi"\n\\n \\')),
    (delta(type="text_delta", text="é€😀"), 9),
    (delta(type="input_json_delta", partial_json='{"text":"a\\"b"}'), len('{"text":"a\\"b"}')),
    (delta(type="thinking_delta", thinking="hmm"), 3),
    (delta(text="hi", type="text_delta"), 2),
    (delta(type="text_delta", text=""), 0),
    (delta(type="signature_delta", signature="x" * 100), 0),
    (delta(type="citations_delta", citation={"cited_text": "x" * 100}), 0),
    (b'event: content_block_delta\ndata: {"delta": {"type": "text_delta", "text": "\\u00e9\\ud83d\\ude00a"}}\n\n', 7),
    (b'event: content_block_delta\ndata: {"delta":{"text":"\\ud800x"}}\n\n', 7),
    (b'data: {"type":"content_block_delta","delta":{"type":"text_delta","text":"abc"}}\n\n', 3),
    (b'event: content_block_delta\r\ndata: {"delta":{"text":"abc"}}\r\n\r\n', 3),
    (b'event: content_block_delta\ndata: {"delta":{"text":"never closed\n\n', 0),
    (event("content_block_start", index=0, content_block={"type": "text", "text": "abc"}), 0),
]


@pytest.mark.parametrize(("event_bytes", "visible"), DELTAS)
def test_visible_bytes_are_those_a_client_can_read(event_bytes: bytes, visible: int) -> None:
    assert metered(event_bytes).visible_bytes == visible


@given(st.text(st.characters(exclude_categories=["Cs"])), st.booleans())
def test_visible_bytes_do_not_depend_on_how_text_is_escaped(text: str, ascii_only: bool) -> None:
    data = json.dumps({"delta": {"type": "text_delta", "text": text}}, ensure_ascii=ascii_only)
    meter = metered(f"event: content_block_delta\ndata: {data}\n\n".encode())
    assert meter.visible_bytes == len(text.encode())


def test_text_that_speaks_of_usage_is_not_read_as_usage() -> None:
    meter = metered(start(START), delta(type="text_delta", text='"usage":{"output_tokens":99}'))
    assert meter.usage.output_tokens == 0
    start_of_block = event("content_block_start", content_block={"type": "tool_use", "input": {"usage": {"output_tokens": 9}}})
    assert metered(start_of_block).usage == Usage()


@pytest.mark.parametrize(
    ("event_bytes", "kind"),
    [
        (event("ping"), "ping"),
        (event("error", error={}), "error"),
        (event("message_start"), "message_start"),
        (event("message_delta"), "message_delta"),
        (event("message_stop"), "message_stop"),
        (event("content_block_stop"), "other"),
        (b'data: {"type": "error"}\n\n', "error"),
        (b'data: {"type": ["error"]}\n\n', "other"),
        (b"data: [DONE]\n\n", "other"),
        (b": keep-alive\n\n", "other"),
        (b"event: error\n\n", "error"),
    ],
)
def test_events_are_told_apart(event_bytes: bytes, kind: str) -> None:
    assert classify(event_bytes) == kind
    assert metered(event_bytes).errored == (kind == "error")


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"[]", b'{"usage":', b'{"usage":null}', b'{"usage":7}', b"{}", b'{"usage":' + b"[" * 100_000]
)
def test_a_whole_answer_without_usage_has_none(body: bytes) -> None:
    assert meter_whole(body).usage is None


def test_a_client_that_leaves_pays_for_what_was_made() -> None:
    meter = metered(start(START), delta(type="text_delta", text="x" * 35))
    assert estimated_usage(meter) == Usage(10, 10, 100, 0, 1000)
    assert estimated_usage(meter, 36).output_tokens == 11
    meter.feed(end({"output_tokens": 50}))
    assert estimated_usage(meter).output_tokens == 50
    assert meter.last_reported_output == 50


def test_nothing_seen_is_nothing_charged() -> None:
    assert estimated_usage(AnthropicMeter()) == Usage()
