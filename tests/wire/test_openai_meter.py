from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from gateway.errors import HouseError
from gateway.usage import Usage, tokens_of_bytes
from gateway.wire.meter import Meter, estimated_usage
from gateway.wire.openai import error_event, is_usage_chunk
from gateway.wire.openai_meter import OpenAIMeter, classify_chunk, meter_whole_openai
from gateway.wire.sse import Splitter, event_data
from tests.upstreams.chat_replies import Manner, render_chat, render_chunks
from tests.upstreams.replies import Reply

SPENT = Usage(input_tokens=20, output_tokens=41, cache_read_tokens=1000, cache_write_5m_tokens=300)
RICH = Reply(
    text=("It ", "räins 😀."),
    thinking=("Let me", ' see: "usage"'),
    tool="note",
    tool_input={"a": 'x"y'},
    more_tools=(("look", {"b": [1, {"c": "é"}]}),),
    usage=SPENT,
    model="gpt-5.6-2026-09-01",
)
ASKED = {"model": "gpt-5.6", "stream_options": {"include_usage": True}}
MANNERS = [Manner(usage=shape) for shape in ("openai", "bare", "deepseek", "groq", "moonshot", "openrouter", "xai")]


def expected_of(manner: Manner, spent: Usage = SPENT) -> Usage:
    """What is left of the classes where a server does not tell them apart."""
    if manner.usage in ("openai", "openrouter"):
        return spent
    if manner.usage == "bare":
        return Usage(input_tokens=spent.prompt_tokens, output_tokens=spent.output_tokens)
    read = spent.cache_read_tokens
    return Usage(input_tokens=spent.prompt_tokens - read, output_tokens=spent.output_tokens, cache_read_tokens=read)


def chunk(*choices: Any, **fields: Any) -> bytes:
    return b"data: " + json.dumps({"id": "c", "model": "m", "choices": list(choices)} | fields).encode() + b"\n\n"


def choice(finish_reason: str | None = None, index: int = 0, **delta: Any) -> dict[str, Any]:
    return {"index": index, "delta": delta, "finish_reason": finish_reason}


DONE = b"data: [DONE]\n\n"


def metered(*events: bytes) -> OpenAIMeter:
    meter = OpenAIMeter()
    for event in events:
        meter.feed(event)
    return meter


def reading(meter: Meter) -> tuple[Any, ...]:
    flags = (meter.started, meter.ended, meter.errored, meter.output_reported, meter.malformed)
    return (*flags, meter.usage, meter.visible_bytes, meter.last_reported_output, meter.model, frozenset(meter.unknown_fields))


def dripped(stream: bytes, sizes: list[int]) -> OpenAIMeter:
    splitter, meter, at = Splitter(), OpenAIMeter(), 0
    for size in [*sizes, len(stream)]:
        for event in splitter.feed(stream[at : at + size]):
            meter.feed(event)
        at += size
    return meter


@pytest.mark.parametrize("manner", MANNERS, ids=lambda manner: manner.usage)
def test_every_manner_is_metered_alike_streamed_and_whole(manner: Manner) -> None:
    meter = metered(*(event.data for event in render_chunks(RICH, manner, ASKED)))
    assert meter.usage == expected_of(manner)
    assert (meter.started, meter.ended, meter.errored, meter.malformed) == (True, True, False, False)
    assert (meter.output_reported, meter.last_reported_output) == (True, 41)
    assert (meter.model, meter.stop_reason, meter.unknown_fields) == ("gpt-5.6-2026-09-01", "tool_calls", set())
    whole = meter_whole_openai(render_chat(RICH, manner, ASKED))
    assert whole.usage == meter.usage
    assert (whole.is_message, whole.model, whole.stop_reason) == (True, meter.model, "tool_calls")
    assert (whole.unknown_fields, whole.malformed) == (frozenset(), False)


@pytest.mark.parametrize("manner", MANNERS, ids=lambda manner: manner.usage)
def test_visible_bytes_are_those_a_client_can_read(manner: Manner) -> None:
    meter = metered(*(event.data for event in render_chunks(RICH, manner, ASKED)))
    arguments = json.dumps(RICH.tool_input) + json.dumps(RICH.more_tools[0][1])
    assert meter.visible_bytes == len("".join([*RICH.text, *RICH.thinking, arguments]).encode())


@pytest.mark.parametrize("manner", MANNERS, ids=lambda manner: manner.usage)
def test_who_did_not_ask_sees_no_usage_chunk_and_is_metered_if_the_server_tells(manner: Manner) -> None:
    events = [event.data for event in render_chunks(RICH, manner, {"model": "m"})]
    told = manner.usage in ("groq", "moonshot", "openrouter", "xai")
    assert metered(*events).output_reported == told
    assert [event for event in events if is_usage_chunk(event)] == ([events[-2]] if manner.usage == "openrouter" else [])


@pytest.mark.parametrize("manner", MANNERS, ids=lambda manner: manner.usage)
def test_every_split_of_a_stream_gives_the_same_reading(manner: Manner) -> None:
    stream = b"".join(event.data for event in render_chunks(RICH, manner, ASKED))
    whole = reading(dripped(stream, []))
    assert reading(dripped(stream, [1] * len(stream))) == whole
    for at in range(1, len(stream), 7):
        assert reading(dripped(stream, [at])) == whole
    assert reading(dripped(stream.replace(b"\n", b"\r\n"), [1] * len(stream) * 2)) == whole


@settings(max_examples=50)
@given(st.sampled_from(MANNERS), st.lists(st.integers(1, 300), max_size=40), st.integers(1, 3), st.booleans())
def test_any_split_of_any_stream(manner: Manner, sizes: list[int], choices: int, asked: bool) -> None:
    request = {"model": "m", "n": choices} | ({"stream_options": {"include_usage": True}} if asked else {})
    stream = b"".join(event.data for event in render_chunks(RICH, manner, request))
    assert reading(dripped(stream, sizes)) == reading(dripped(stream, []))


@pytest.mark.parametrize("manner", MANNERS, ids=lambda manner: manner.usage)
def test_the_official_types_take_what_the_scripts_say(manner: Manner) -> None:
    for event in render_chunks(RICH, manner, ASKED):
        data = event_data(event.data)
        if data and data != b"[DONE]":
            ChatCompletionChunk.model_validate_json(data, strict=True)
    ChatCompletion.model_validate_json(render_chat(RICH, manner, ASKED), strict=True)


@pytest.mark.parametrize("reporting", ["full", "none"])
def test_without_usage_the_output_is_to_be_estimated(reporting: Any) -> None:
    meter = metered(*(event.data for event in render_chunks(Reply(reporting=reporting), Manner(), ASKED)))
    assert meter.ended and meter.output_reported == (reporting == "full")
    if reporting == "none":
        assert meter.usage == Usage()
        assert estimated_usage(meter) == Usage(output_tokens=tokens_of_bytes(meter.visible_bytes))
    whole = meter_whole_openai(render_chat(Reply(reporting=reporting), Manner(), ASKED))
    assert whole.is_message and (whole.usage is None) == (reporting == "none")


def test_an_explicit_zero_is_a_zero() -> None:
    meter = metered(*(event.data for event in render_chunks(Reply(usage=Usage()), Manner(), ASKED)))
    assert meter.output_reported and meter.usage == Usage()
    whole = meter_whole_openai(render_chat(Reply(usage=Usage()), Manner(), ASKED))
    assert whole.usage == Usage()


# --- how a stream ends ---

TEXT, STOP = chunk(choice(content="hi")), chunk(choice("stop"))
USAGE = chunk(usage={"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10})
ERROR = b'data: {"error":{"message":"x","type":"server_error"}}\n\n'


@pytest.mark.parametrize(
    ("events", "ended", "after_the_body"),
    [
        ([TEXT, STOP, USAGE, DONE], True, True),
        ([TEXT, STOP, DONE], True, True),
        ([DONE], True, True),
        ([b"data:[DONE]\r\n\r\n"], True, True),
        ([TEXT, STOP, USAGE], False, True),
        ([TEXT, STOP], False, True),
        ([TEXT, USAGE], False, False),
        ([TEXT], False, False),
        ([], False, False),
        # Every choice must have come to its end.
        ([TEXT, chunk(choice(content="x", index=1)), STOP], False, False),
        ([TEXT, chunk(choice(content="x", index=1)), STOP, chunk(choice("length", index=1))], False, True),
        ([TEXT, ERROR], False, False),
        ([TEXT, STOP, ERROR], False, False),
        ([TEXT, ERROR, DONE], False, False),
        ([b"event: error\ndata: broken\n\n", STOP, DONE], False, False),
    ],
)
def test_how_a_stream_ends(events: list[bytes], ended: bool, after_the_body: bool) -> None:
    meter = metered(*events)
    assert meter.ended == ended
    meter.end_of_body()
    assert meter.ended == after_the_body


ERRORS = [
    ERROR,
    b'data: {"error":"text"}\n\n',
    b'data: {"error":{"code":502,"message":"x"},"choices":[{"index":0,"delta":{"content":""},"finish_reason":"error"}]}\n\n',
    b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"error","error":{"code":502}}]}\n\n',
    b'data: {"object":"error","message":"x","type":"InternalServerError","code":500}\n\n',
    b"event: error\ndata: Internal error\n\n",
    b'event: error\ndata: {"message":"x"}\n\n',
    error_event(HouseError("unavailable", "restarting"), "req_1"),
]


@pytest.mark.parametrize("event", ERRORS)
def test_a_failure_told_inside_the_stream_is_one(event: bytes) -> None:
    assert classify_chunk(event) == "error"
    meter = metered(TEXT, event)
    assert meter.errored and meter.usage == Usage() and meter.visible_bytes == 2


@pytest.mark.parametrize(
    ("event", "kind"),
    [
        (b": keep-alive\n\n", "ping"),
        (b": OPENROUTER PROCESSING\r\n\r\n", "ping"),
        (b"\n\n", "ping"),
        (b"event: ping\n\n", "ping"),
        (DONE, "done"),
        (TEXT, "chunk"),
        (USAGE, "chunk"),
        (chunk(choice(content='"error"')), "chunk"),
        (b'data: {"error":null,"choices":[]}\n\n', "chunk"),
        (b'data: {"x":{"error":1}}\n\n', "chunk"),
        (b'data: {"error":\n\n', "chunk"),
    ],
)
def test_events_are_told_apart(event: bytes, kind: str) -> None:
    assert classify_chunk(event) == kind
    assert not metered(event).errored


def test_the_answer_begins_with_its_first_choice_or_usage() -> None:
    assert not metered(b": c\n\n", chunk(prompt_filter_results=[]), ERROR).started
    assert metered(chunk(choice(role="assistant"))).started
    assert metered(USAGE).started


DELTAS: list[tuple[dict[str, Any], int]] = [
    ({"content": "hello"}, 5),
    ({"role": "assistant", "content": "é€😀", "refusal": None}, 9),
    ({"refusal": "no"}, 2),
    ({"reasoning_content": "hmm"}, 3),
    # One reasoning under several names.
    ({"content": "a", "reasoning_content": "hmm", "reasoning": "hmm"}, 4),
    ({"reasoning": "hmm", "reasoning_details": [{"type": "reasoning.text", "text": "hmm", "signature": "xxxxxxxx"}]}, 3),
    ({"reasoning_details": [{"type": "reasoning.summary", "summary": "hmm"}, {"type": "reasoning.encrypted", "data": "xxx"}]}, 3),
    ({"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}, {"type": "text", "text": "yes"}]}, 5),
    ({"tool_calls": [{"index": 0, "id": "c", "type": "function", "function": {"name": "f", "arguments": '{"a'}}]}, 3),
    ({"tool_calls": [{"function": {"arguments": "ab"}}, {"index": 1, "function": {"arguments": "cd"}}]}, 4),
    ({"tool_calls": [{"custom": {"name": "f", "input": "abc"}}]}, 3),
    ({"function_call": {"name": "f", "arguments": "abc"}}, 3),
    ({"audio": {"id": "a", "data": "QUJD" * 99, "transcript": "hi"}}, 2),
    ({"content": ""}, 0),
    ({}, 0),
    ({"content": 7, "tool_calls": [7, {"function": 7}, {"custom": []}], "function_call": "x", "audio": "x", "refusal": {}}, 0),
    ({"content": [[[[[[["deep"]]]]]]]}, 0),
]


@pytest.mark.parametrize(("delta", "visible"), DELTAS)
def test_what_of_a_delta_is_visible(delta: dict[str, Any], visible: int) -> None:
    assert metered(chunk(choice(**delta))).visible_bytes == visible
    assert metered(chunk(choice(**delta), choice(index=1, **delta))).visible_bytes == 2 * visible


@given(st.text(st.characters(exclude_categories=["Cs"])), st.booleans())
def test_visible_bytes_do_not_depend_on_how_text_is_escaped(text: str, ascii_only: bool) -> None:
    data = json.dumps({"choices": [{"delta": {"content": text}}]}, ensure_ascii=ascii_only)
    assert metered(f"data: {data}\n\n".encode()).visible_bytes == len(text.encode())


@pytest.mark.parametrize(
    "event",
    [
        b'data: {"usage"\n\n',
        b'data: {"usage":' + b"[" * 100_000 + b"\n\n",
        b'data: {"usage":7}\n\n',
        b'data: {"usage":{"completion_tokens":' + b"9" * 5000 + b"}}\n\n",
        b'data: {"usage":{"completion_tokens":"7"}}\n\n',
    ],
)
def test_a_hostile_event_raises_nothing(event: bytes) -> None:
    meter = metered(event)
    assert meter.malformed and meter.usage == Usage() and not meter.output_reported


def test_a_stream_of_endless_choices_is_not_remembered() -> None:
    meter = OpenAIMeter()
    for number in range(20_000):
        meter.feed(chunk(choice("stop", index=number, content="x")))
    assert len(meter._begun) == len(meter._finished) == 1000 and meter.visible_bytes == 20_000


ODD = st.recursive(
    st.none() | st.booleans() | st.integers() | st.sampled_from([0.5, "", "stop", "error", "priority", "é"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "choices",
                    "delta",
                    "content",
                    "usage",
                    "prompt_tokens",
                    "total_tokens",
                    "index",
                    "finish_reason",
                    "error",
                    "x_groq",
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=15,
)


@given(st.dictionaries(st.sampled_from(["choices", "usage", "model", "object", "x_groq", "service_tier"]), ODD))
def test_any_chunk_and_any_answer_is_read_without_a_word(value: dict[str, Any]) -> None:
    meter = metered(b"data: " + json.dumps(value).encode() + b"\n\n")
    assert meter.visible_bytes >= 0
    whole = meter_whole_openai(json.dumps(value).encode())
    for usage in (meter.usage, whole.usage or Usage()):
        assert min(usage.input_tokens, usage.output_tokens, usage.cache_read_tokens, usage.cache_write_5m_tokens) >= 0


@pytest.mark.parametrize(
    ("body", "is_message"),
    [
        (b"", False),
        (b"<html>", False),
        (b"[]", False),
        (b"{}", False),
        (b'{"object":"error","message":"x"}', False),
        (b'{"error":{"message":"x","code":502}}', False),
        (b'{"choices":[],"usage":null}', False),
        (b'{"choices":[{"message":{"content":""},"finish_reason":"error"}],"usage":{"cost":0,"is_byok":true}}', False),
        (b'{"choices":[{"message":{"content":"x"},"finish_reason":"stop"}]}', True),
        (b'{"choices":[{"message":{"content":"x"}}],"usage":7}', True),
    ],
)
def test_a_whole_answer_without_usage_has_none(body: bytes, is_message: bool) -> None:
    whole = meter_whole_openai(body)
    assert (whole.usage, whole.is_message) == (None, is_message)


def test_text_that_speaks_of_usage_is_not_read_as_usage() -> None:
    assert metered(chunk(choice(content='"usage":{"completion_tokens":99}'))).usage == Usage()
