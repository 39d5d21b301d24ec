"""Answers of OpenAI-compatible servers as an Anthropic client gets them: one table, whole and streamed, in every chunking."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import anthropic
import httpx2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import UpstreamError
from gateway.wire.anthropic import PING
from gateway.wire.anthropic_to_openai import StreamTranslator, translate_answer
from gateway.wire.anthropic_to_openai.ids import upstream_tool_id
from gateway.wire.meter import AnthropicMeter, meter_whole
from gateway.wire.sse import Splitter, event_data, event_name
from tests.wire import chat_answers
from tests.wire.anthropic_streams import check_message, reassemble
from tests.wire.chat_answers import CASES, STYLES, USAGE, Case, call, chunk, delta, sse, text, tool_use

MESSAGE_ID = "msg_01ABCDEFGHJKMNPQRSTVWXYZ"
MODEL = "claude-opus-5-5"
ESTIMATE = 77


def whole(case: Case) -> dict[str, Any]:
    return check_message(
        translate_answer(
            case.body, model=MODEL, message_id=MESSAGE_ID, input_tokens_estimate=ESTIMATE, show_thinking=case.show_thinking
        )
    )


def streamed(stream: bytes, *, size: int = 10**9, show_thinking: bool = False, clean_end: bool = True) -> list[bytes]:
    splitter = Splitter()
    translator = StreamTranslator(MODEL, MESSAGE_ID, ESTIMATE, show_thinking=show_thinking)
    events: list[bytes] = []
    for start in range(0, len(stream), size):
        for event in splitter.feed(stream[start : start + size]):
            events += translator.feed(event)
    return events + (translator.finish() if clean_end else [])


def names(events: list[bytes]) -> list[str]:
    return [event_name(event).decode() for event in events]


# --- the table ---


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_whole_answer(case: Case) -> None:
    message = whole(case)
    assert message["content"] == case.content
    assert (message["stop_reason"], message["stop_sequence"]) == case.stop
    assert message["usage"] == case.usage_shown
    assert (message["id"], message["model"], message["role"]) == (MESSAGE_ID, MODEL, "assistant")


@pytest.mark.parametrize("style", STYLES, ids=lambda style: style.__name__)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_stream_put_together_is_the_whole_answer(case: Case, style: Callable[[Case], bytes]) -> None:
    expected = whole(case)
    stream = style(case)
    for size in (10**9, 1, 7):
        assert reassemble(streamed(stream, size=size, show_thinking=case.show_thinking)) == expected


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_our_own_meter_reads_what_was_translated(case: Case) -> None:
    meter = AnthropicMeter()
    for event in streamed(chat_answers.openai(case), show_thinking=case.show_thinking):
        meter.feed(event)
    assert meter.started and meter.ended and meter.output_reported and not meter.unknown_fields and not meter.malformed
    reading = meter_whole(json.dumps(whole(case)).encode())
    assert meter.usage == reading.usage and reading.is_message and not reading.unknown_fields


@pytest.mark.parametrize(
    "case", [case for case in CASES if case.show_thinking or "tool" in case.name], ids=lambda case: case.name
)
def test_the_official_client_gets_the_message(case: Case) -> None:
    events = streamed(chat_answers.openai(case), show_thinking=case.show_thinking)

    def answer(request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, headers={"content-type": "text/event-stream"}, content=b"".join(events))

    with anthropic.Anthropic(
        api_key="k", http_client=anthropic.DefaultHttpxClient(transport=httpx2.MockTransport(answer))
    ) as client:
        asked: Any = {"role": "user", "content": "hi"}
        with client.messages.stream(model=MODEL, max_tokens=10, messages=[asked]) as stream:
            message = stream.get_final_message()
    assert [block.type for block in message.content] == [block["type"] for block in case.content]
    assert [block.input for block in message.content if block.type == "tool_use"] == [
        block["input"] for block in case.content if block["type"] == "tool_use"
    ]
    assert message.stop_reason == case.stop[0]
    assert message.usage.input_tokens == case.usage_shown["input_tokens"]


# --- what a stream alone can do ---


def test_message_start_carries_an_estimate_and_the_end_what_is_true() -> None:
    events = streamed(chat_answers.openai(CASES[0]))
    start, end = json.loads(event_data(events[0])), json.loads(event_data(events[-2]))
    assert start["message"]["usage"] == {
        "input_tokens": ESTIMATE,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 0,
        "output_tokens": 0,
    }
    assert end["usage"] == chat_answers.USAGE_SHOWN


def test_usage_in_the_first_chunk_is_told_at_once() -> None:
    start = json.loads(event_data(streamed(chat_answers.usage_everywhere(CASES[0]))[0]))
    assert start["message"]["usage"]["input_tokens"] == 200
    assert start["message"]["usage"]["output_tokens"] == 0


def test_text_and_arguments_go_out_as_they_come() -> None:
    translator = StreamTranslator(MODEL, MESSAGE_ID, ESTIMATE)
    given_out: list[list[str]] = []
    fragments = [
        {"index": 0, **call("call_abcdef", "Bash", "")},
        *({"index": 0, "function": {"arguments": x}} for x in ('{"a"', ":1}")),
    ]
    for each in [{"content": "He"}, {"content": "llo"}, *({"tool_calls": [fragment]} for fragment in fragments)]:
        given_out.append(names(translator.feed(sse([delta(each)], done=False))))
    assert given_out == [
        ["message_start", "content_block_start", "content_block_delta"],
        ["content_block_delta"],
        ["content_block_stop"],
        ["content_block_start", "content_block_delta"],
        ["content_block_delta"],
    ]


def test_what_comes_beside_an_unfinished_call_waits_for_it() -> None:
    chunks = [
        delta({"tool_calls": [{"index": 0, **call("call_aaaaaa", "A", '{"x":')}]}),
        delta({"content": "meanwhile "}),
        delta({"tool_calls": [{"index": 1, **call("call_bbbbbb", "B", '{"y":')}]}),
        delta({"content": "more"}),
        delta({"tool_calls": [{"index": 0, "function": {"arguments": "1}"}}]}),
        delta({"tool_calls": [{"index": 1, "function": {"arguments": "2}"}}]}),
        chunk([{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]),
    ]
    message = reassemble(streamed(sse(chunks)))
    assert message["content"] == [
        tool_use("call_aaaaaa", "A", {"x": 1}),
        text("meanwhile "),
        tool_use("call_bbbbbb", "B", {"y": 2}),
        text("more"),
    ]
    assert message["stop_reason"] == "tool_use"


def test_a_cut_call_is_shown_as_far_as_it_came() -> None:
    """As Anthropic does at max_tokens: the client sees half of the arguments, and why."""
    chunks = [
        delta({"tool_calls": [{"index": 0, **call("call_aaaaaa", "Write", '{"path":"/x","text":"ab')}]}),
        chunk([{"index": 0, "delta": {}, "finish_reason": "length"}]),
    ]
    message = reassemble(streamed(sse(chunks)))
    assert (message["stop_reason"], message["content"][0]["input"]["path"]) == ("max_tokens", "/x")
    cut = Case("", {"tool_calls": [call("call_aaaaaa", "Write", '{"path":"/x","text":"ab')]}, [], finish="length")
    assert whole(cut)["content"][0]["input"] == {"INVALID_JSON": '{"path":"/x","text":"ab'}


def test_arguments_as_an_object() -> None:
    each = call("call_aaaaaa", "A", {"x": [1]})
    assert whole(Case("", {"tool_calls": [each]}, []))["content"] == [tool_use("call_aaaaaa", "A", {"x": [1]})]
    stream = sse([delta({"tool_calls": [{"index": 0, **each}]}), chunk([{"index": 0, "delta": {}, "finish_reason": "stop"}])])
    assert reassemble(streamed(stream))["content"] == [tool_use("call_aaaaaa", "A", {"x": [1]})]


def test_content_in_parts_as_mistral_thinks() -> None:
    parts = [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}, {"type": "text", "text": "yes"}]
    case = Case("", {"content": parts}, [], show_thinking=True)
    assert [block["type"] for block in whole(case)["content"]] == ["thinking", "text"]
    stream = sse([delta({"content": [part]}) for part in parts] + chat_answers.ended(case))
    assert reassemble(streamed(stream, show_thinking=True)) == whole(case)


@pytest.mark.parametrize(
    "calls", [[("call_0", "call_1"), ("call_0", "call_1")], [("", ""), ("", "")], [("same-id-123", "same-id-123")] * 2]
)
def test_ids_that_are_short_missing_or_twice_become_unique(calls: list[tuple[str, str]]) -> None:
    seen: list[str] = []
    for number, ids in enumerate(calls):
        message_id = f"msg_{number}"
        case = Case("", {"tool_calls": [call(each, "A", '{"x":1}') for each in ids]}, [])
        body = json.loads(translate_answer(case.body, model=MODEL, message_id=message_id))
        fed = StreamTranslator(MODEL, message_id, 0)
        events = [event for each in Splitter().feed(chat_answers.openai(case)) for event in fed.feed(each)]
        in_message = [block["id"] for block in body["content"]]
        assert [block["id"] for block in reassemble(events)["content"]] == in_message
        assert len(set(in_message)) == 2
        seen += in_message
    if calls[0][0] != "same-id-123":
        assert len(set(seen)) == len(seen), "another turn has other ids"


@given(st.text(min_size=1, max_size=60))
def test_an_id_finds_its_way_back(upstream_id: str) -> None:
    case = Case("", {"tool_calls": [call(upstream_id, "A", "{}")]}, [])
    client_id = whole(case)["content"][0]["id"]
    assert all(letter.isascii() and (letter.isalnum() or letter in "_-") for letter in client_id)
    back = upstream_tool_id(client_id)
    assert len(back) <= 40
    if 9 <= len(upstream_id) <= 40:
        assert back == upstream_id
        # OpenClaw takes the underscore out.
        if not client_id.startswith("toolu_x"):
            return
        assert upstream_tool_id(client_id.replace("_", "")) == upstream_id


# --- ends that are none ---


def test_a_stream_without_a_finish_reason_gets_no_end() -> None:
    for stream in (sse([delta({"content": "half"})], done=False), sse([delta({"content": "half"})])):
        assert names(streamed(stream)) == ["message_start", "content_block_start", "content_block_delta"]
    assert streamed(b"") == []
    assert names(streamed(sse([], done=True))) == []


def test_the_end_is_told_once() -> None:
    translator = StreamTranslator(MODEL, MESSAGE_ID, ESTIMATE)
    for event in Splitter().feed(chat_answers.openai(CASES[0])):
        last = translator.feed(event)
    assert names(last) == ["content_block_stop", "message_delta", "message_stop"] and translator.ended
    assert translator.finish() == [] == translator.feed(sse([delta({"content": "late"})], done=False))


@pytest.mark.parametrize(
    ("event", "kind", "message"),
    [
        ({"error": {"message": "boom", "type": "server_error"}}, "api_error", "boom"),
        ({"error": "boom"}, "api_error", "boom"),
        ({"object": "error", "message": "boom", "code": 500}, "api_error", "boom"),
        (
            {"error": {"code": 502, "message": "down"}, "choices": [{"index": 0, "delta": {}, "finish_reason": "error"}]},
            "api_error",
            "down",
        ),
        (chunk([{"index": 0, "delta": {}, "finish_reason": "abort"}]), "api_error", "The upstream broke its answer off."),
        (
            {
                "error": {
                    "message": "This model's maximum context length is 10 tokens. However, your messages resulted in 12 tokens."
                }
            },
            "invalid_request_error",
            "prompt is too long: 12 tokens > 10 maximum",
        ),
    ],
)
@pytest.mark.parametrize("before", [0, 1])
def test_an_error_in_the_stream(event: dict[str, Any], kind: str, message: str, before: int) -> None:
    stream = sse([delta({"content": "x"})] * before + [event, *chat_answers.ended(CASES[0])])
    events = streamed(stream)
    assert names(events)[-1] == "error" and "message_stop" not in names(events)
    assert json.loads(event_data(events[-1])) == {"type": "error", "error": {"type": kind, "message": message}}
    if not before and "choices" not in event:
        assert len(events) == 1


def test_an_event_that_cannot_be_read_ends_it() -> None:
    assert names(streamed(sse([delta({"content": "x"})], done=False) + b"data: {oops\n\n" + b"data: [DONE]\n\n"))[-1] == "error"


def test_a_comment_is_a_ping() -> None:
    assert StreamTranslator(MODEL, MESSAGE_ID, 0).feed(b": OPENROUTER PROCESSING\n\n") == [PING]
    assert StreamTranslator(MODEL, MESSAGE_ID, 0).feed(b"\n\n") == []


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"<html>", "not_a_completion"),
        (b"[]", "not_a_completion"),
        (b'{"choices":[]}', "not_a_completion"),
        (b'{"choices":[{"message":null}]}', "not_a_completion"),
        (b'{"error":{"message":"boom"}}', "error_in_200"),
        (json.dumps({"choices": [{"message": {"content": "x"}, "finish_reason": "abort"}]}).encode(), "finish_abort"),
    ],
)
def test_what_is_no_answer_is_the_upstreams_failure(body: bytes, reason: str) -> None:
    with pytest.raises(UpstreamError) as caught:
        translate_answer(body, model=MODEL, message_id=MESSAGE_ID)
    assert caught.value.reason == reason and caught.value.retryable


# --- anything ---

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)
inputs = st.dictionaries(st.text(max_size=8), json_values, max_size=4)
said = st.text(max_size=40)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    values = draw(st.lists(inputs, max_size=3))
    message: dict[str, Any] = {"content": draw(said | st.none())}
    if draw(st.booleans()):
        message["reasoning_content"] = draw(said)
    if values:
        message["tool_calls"] = [
            call(f"call_{number}abcdefgh", f"Tool{number}", json.dumps(value)) for number, value in enumerate(values)
        ]
    return Case(
        "drawn", message, [], finish=draw(st.sampled_from(["stop", "length", "tool_calls"])), show_thinking=draw(st.booleans())
    )


@settings(max_examples=150, deadline=None)
@given(cases(), st.sampled_from(STYLES), st.sampled_from([1, 3, 50, 10**9]))
def test_any_answer_is_the_same_whole_and_streamed(case: Case, style: Callable[[Case], bytes], size: int) -> None:
    expected = whole(case)
    assert reassemble(streamed(style(case), size=size, show_thinking=case.show_thinking)) == expected
    calls = case.message.get("tool_calls") or []
    assert [block["input"] for block in expected["content"] if block["type"] == "tool_use"] == [
        json.loads(each["function"]["arguments"]) for each in calls
    ]


@settings(max_examples=150, deadline=None)
@given(st.lists(json_values | st.fixed_dictionaries({}, optional={
    "choices": st.lists(st.fixed_dictionaries({}, optional={
        "index": st.sampled_from([0, 1, None, "0"]),
        "delta": st.fixed_dictionaries({}, optional={
            "content": json_values, "reasoning": json_values, "refusal": json_values,
            "tool_calls": st.lists(st.fixed_dictionaries({}, optional={
                "index": st.sampled_from([0, 1, -1, None]), "id": json_values,
                "function": st.fixed_dictionaries({}, optional={"name": json_values, "arguments": json_values}),
            }), max_size=3) | json_values,
        }) | json_values,
        "finish_reason": st.sampled_from(["stop", "tool_calls", None, 3]),
    }), max_size=2) | json_values,
    "usage": json_values,
}), max_size=8))  # fmt: skip
def test_nothing_that_an_upstream_sends_raises_or_breaks_the_order(chunks: list[Any]) -> None:
    events = streamed(sse(chunks))
    kinds = names(events)
    if kinds and kinds[-1] == "message_stop":
        try:
            reassemble(events)
        except ValueError as error:
            # The SDK takes no half or wrong JSON; a server that begins an object must go on with one.
            assert "Unable to parse tool parameter JSON" in str(error)
    else:
        assert "message_delta" not in kinds
    try:
        translate_answer(
            json.dumps({"choices": [{"message": chunks[0] if chunks else None}], "usage": USAGE}).encode(),
            model=MODEL,
            message_id=MESSAGE_ID,
        )
    except UpstreamError:
        pass
