"""Answers: one table, each case whole, streamed and dripped; read strictly by the openai SDK's types and streaming helpers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import UpstreamError
from gateway.wire.openai_to_anthropic import StreamTranslator, translate_answer, translate_refusal, translate_request
from gateway.wire.sse import Splitter

openai = pytest.importorskip("openai", reason="the openai package is not installed")
httpx2 = pytest.importorskip("httpx2", reason="the openai package is not installed")
chat = pytest.importorskip("openai.types.chat")
streaming = pytest.importorskip("openai.lib.streaming.chat._completions")

NAME, ID, CREATED = "public-name", "chatcmpl-1", 1_795_000_000


def text(*pieces: str) -> dict[str, Any]:
    return {"type": "text", "text": "".join(pieces), "pieces": pieces}


def thinking(*pieces: str, signature: str = "sig") -> dict[str, Any]:
    return {"type": "thinking", "thinking": "".join(pieces), "signature": signature, "pieces": pieces}


def tool(identity: str, *pieces: str) -> dict[str, Any]:
    arguments = json.loads("".join(pieces) or "{}")
    return {"type": "tool_use", "id": identity, "name": "weather", "input": arguments, "pieces": pieces}


REDACTED = {"type": "redacted_thinking", "data": "xyz", "pieces": ()}
SEARCH = {"type": "server_tool_use", "id": "srv", "name": "web_search", "input": {"q": 1}, "pieces": ('{"q":', "1}")}
USAGE = {
    "input_tokens": 10,
    "cache_creation_input_tokens": 300,
    "cache_read_input_tokens": 2_000,
    "cache_creation": {"ephemeral_5m_input_tokens": 100, "ephemeral_1h_input_tokens": 200},
    "output_tokens": 55,
}
USAGE_OUT = {
    "prompt_tokens": 2_310,
    "completion_tokens": 55,
    "total_tokens": 2_365,
    "prompt_tokens_details": {"cached_tokens": 2_000, "cache_write_tokens": 300},
}
WITH_THINKING = USAGE | {"output_tokens_details": {"thinking_tokens": 40}}

Case = tuple[list[dict[str, Any]], dict[str, Any], dict[str, Any]]
# (content, the rest of the message, what is expected beside `role`)
CASES: dict[str, Case] = {
    "text": (
        [text("Hel", 'lo \u2028 "é"')],
        {"stop_reason": "end_turn"},
        {"content": 'Hello \u2028 "é"', "finish_reason": "stop"},
    ),
    "two texts": (
        [text("a"), text("b")],
        {"stop_reason": "stop_sequence", "stop_sequence": "x"},
        {"content": "ab", "finish_reason": "stop"},
    ),
    "nothing": ([], {"stop_reason": "end_turn"}, {"content": "", "finish_reason": "stop"}),
    "an empty text": ([text()], {"stop_reason": "end_turn"}, {"content": "", "finish_reason": "stop"}),
    "cut by max_tokens": ([text("a")], {"stop_reason": "max_tokens"}, {"content": "a", "finish_reason": "length"}),
    "cut by the context": (
        [text("a")],
        {"stop_reason": "model_context_window_exceeded"},
        {"content": "a", "finish_reason": "length"},
    ),
    "paused": ([text("a")], {"stop_reason": "pause_turn"}, {"content": "a", "finish_reason": "length"}),
    "an unknown reason": ([text("a")], {"stop_reason": "bored"}, {"content": "a", "finish_reason": "stop"}),
    "no reason": ([text("a")], {"stop_reason": None}, {"content": "a", "finish_reason": "stop"}),
    "refused": (
        [text("I ")],
        {"stop_reason": "refusal", "stop_details": {"type": "refusal", "category": "bio", "explanation": "No."}},
        {"content": "I ", "refusal": "No.", "finish_reason": "content_filter"},
    ),
    "refused without a word": (
        [],
        {"stop_reason": "refusal", "stop_details": None},
        {"content": "", "finish_reason": "content_filter"},
    ),
    "a tool": (
        [tool("toolu_1", '{"city":', ' "Köln"}')],
        {"stop_reason": "tool_use"},
        {"content": None, "tool_calls": [("toolu_1", {"city": "Köln"})], "finish_reason": "tool_calls"},
    ),
    "a tool without arguments": (
        [tool("toolu_1")],
        {"stop_reason": "tool_use"},
        {"content": None, "tool_calls": [("toolu_1", {})], "finish_reason": "tool_calls"},
    ),
    "tools are counted from 0": (
        [text("let me"), tool("a", "", '{"x":1}'), tool("b", "{}")],
        {"stop_reason": "tool_use"},
        {"content": "let me", "tool_calls": [("a", {"x": 1}), ("b", {})], "finish_reason": "tool_calls"},
    ),
    "thinking": (
        [thinking("h", "m"), text("so")],
        {"stop_reason": "end_turn", "usage": WITH_THINKING},
        {
            "content": "so",
            "reasoning_content": "hm",
            "thinking_blocks": [{"index": 0, "type": "thinking", "thinking": "hm", "signature": "sig"}],
            "finish_reason": "stop",
            "usage": USAGE_OUT | {"completion_tokens_details": {"reasoning_tokens": 40}},
        },
    ),
    "thinking that is not shown": (
        [thinking(), text("so")],
        {"stop_reason": "end_turn"},
        {
            "content": "so",
            "thinking_blocks": [{"index": 0, "type": "thinking", "thinking": "", "signature": "sig"}],
            "finish_reason": "stop",
        },
    ),
    "thinking without a signature": (
        [thinking("hm", signature=""), text("so")],
        {"stop_reason": "end_turn"},
        {"content": "so", "reasoning_content": "hm", "finish_reason": "stop"},
    ),
    "thinking between calls": (
        [REDACTED, text("a"), thinking("b"), tool("t1", "{}"), thinking("c", signature="s2"), tool("t2", "{}")],
        {"stop_reason": "tool_use"},
        {
            "content": "a",
            "reasoning_content": "bc",
            "thinking_blocks": [
                {"index": 0, "type": "redacted_thinking", "data": "xyz"},
                {"index": 2, "type": "thinking", "thinking": "b", "signature": "sig"},
                {"index": 4, "type": "thinking", "thinking": "c", "signature": "s2"},
            ],
            "tool_calls": [("t1", {}), ("t2", {})],
            "finish_reason": "tool_calls",
        },
    ),
    "what server tools leave": (
        [SEARCH, text("found")],
        {"stop_reason": "end_turn"},
        {"content": "found", "finish_reason": "stop"},
    ),
}


def whole_of(content: list[dict[str, Any]], rest: dict[str, Any]) -> bytes:
    blocks = [{name: value for name, value in block.items() if name != "pieces"} for block in content]
    message = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "claude-x",
        "content": blocks,
        "stop_sequence": None,
        "usage": USAGE,
    }
    return json.dumps(message | rest, ensure_ascii=False).encode()


def event(kind: str, **data: Any) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **data}, ensure_ascii=False)}\n\n".encode()


DELTAS = {"text": ("text_delta", "text"), "thinking": ("thinking_delta", "thinking")}
EMPTY = {
    "text": {"text": ""},
    "thinking": {"thinking": "", "signature": ""},
    "tool_use": {"input": {}},
    "server_tool_use": {"input": {}},
}


def events_of(content: list[dict[str, Any]], rest: dict[str, Any]) -> list[bytes]:
    usage = rest.get("usage", USAGE)
    start = {"id": "msg_1", "type": "message", "role": "assistant", "model": "claude-x", "content": [], "stop_reason": None}
    events = [event("message_start", message=start | {"usage": USAGE | {"output_tokens": 1}}), event("ping")]
    for index, block in enumerate(content):
        kind = block["type"]
        shown = {name: value for name, value in block.items() if name != "pieces"} | EMPTY.get(kind, {})
        events.append(event("content_block_start", index=index, content_block=shown))
        for piece in block["pieces"]:
            name, field = DELTAS.get(kind, ("input_json_delta", "partial_json"))
            events.append(event("content_block_delta", index=index, delta={"type": name, field: piece}))
        if block.get("signature"):
            events.append(
                event("content_block_delta", index=index, delta={"type": "signature_delta", "signature": block["signature"]})
            )
        events.append(event("content_block_stop", index=index))
    ending = {
        "stop_reason": rest["stop_reason"],
        "stop_details": rest.get("stop_details"),
        "stop_sequence": rest.get("stop_sequence"),
    }
    details = {"output_tokens_details": usage["output_tokens_details"]} if "output_tokens_details" in usage else {}
    return [
        *events,
        event("message_delta", delta=ending, usage={"output_tokens": usage["output_tokens"]} | details),
        event("message_stop"),
    ]


def translator(*, include_usage: bool = True, functions: bool = False) -> StreamTranslator:
    return StreamTranslator(NAME, ID, CREATED, include_usage, functions)


def stream_of(events: list[bytes], **options: bool) -> bytes:
    translate = translator(**options)
    return b"".join(chunk for one in events for chunk in translate.feed(one)) + b"".join(translate.finish())


def chunks_in(stream: bytes) -> Iterator[dict[str, Any]]:
    """The chunks, each read strictly by the SDK's type."""
    assert stream.endswith(b"\n\n")
    for one in stream.removesuffix(b"\n\n").split(b"\n\n"):
        if one.startswith(b":") or one == b"data: [DONE]":
            continue
        data = one.removeprefix(b"data: ")
        chat.ChatCompletionChunk.model_validate_json(data, strict=True)
        yield json.loads(data)


def by_sdk(stream: bytes) -> dict[str, Any]:
    """What the SDK's own client and accumulator make of a stream."""
    answer = httpx2.Response(200, headers={"content-type": "text/event-stream"}, content=stream)
    transport = httpx2.MockTransport(lambda request: answer)
    state = streaming.ChatCompletionStreamState()
    with openai.OpenAI(api_key="k", base_url="http://x/v1", http_client=httpx2.Client(transport=transport)) as client:
        for chunk in client.chat.completions.create(model="m", messages=[], stream=True):
            state.handle_chunk(chunk)
    return read(json.loads(state.current_completion_snapshot.model_dump_json()))


def read(completion: dict[str, Any]) -> dict[str, Any]:
    (choice,) = completion["choices"]
    message = choice["message"]
    assert (completion["id"], completion["created"], completion["model"]) == (ID, CREATED, NAME)
    assert message["role"] == "assistant"
    found = {name: message[name] for name in ("refusal", "reasoning_content", "thinking_blocks") if message.get(name) is not None}
    calls = message.get("tool_calls")
    if calls:
        found["tool_calls"] = [(call["id"], json.loads(call["function"]["arguments"])) for call in calls]
        assert {(call["type"], call["function"]["name"]) for call in calls} == {("function", "weather")}
    usage = json.loads(json.dumps(completion["usage"]))
    for part in (usage, usage["prompt_tokens_details"], usage.get("completion_tokens_details") or {}):
        for name in [name for name, value in part.items() if value is None]:
            del part[name]
    return found | {"content": message["content"], "finish_reason": choice["finish_reason"], "usage": usage}


@pytest.mark.parametrize("name", CASES)
def test_an_answer_whole_and_streamed(name: str) -> None:
    content, rest, expected = CASES[name]
    whole = translate_answer(whole_of(content, rest), model=NAME, completion_id=ID, created=CREATED)
    chat.ChatCompletion.model_validate_json(whole, strict=True)
    assert read(json.loads(whole)) == {"usage": USAGE_OUT} | expected
    stream = stream_of(events_of(content, rest))
    assert stream.endswith(b"data: [DONE]\n\n")
    chunks = list(chunks_in(stream))
    assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks if chunk["choices"]][:-1] == [None] * (len(chunks) - 2)
    assert chunks[-1]["choices"] == []
    assert all(chunk["usage"] is None for chunk in chunks[:-1])
    assert by_sdk(stream) == read(json.loads(whole))


@pytest.mark.parametrize("step", [1, 7, 100])
@pytest.mark.parametrize("name", ["thinking between calls", "text"])
def test_a_dripped_stream_is_the_same(name: str, step: int) -> None:
    content, rest, _ = CASES[name]
    events = events_of(content, rest)
    stream = b"".join(events)
    splitter, translate = Splitter(), translator()
    dripped = [splitter.feed(stream[at : at + step]) for at in range(0, len(stream), step)]
    assert b"".join(chunk for found in dripped for one in found for chunk in translate.feed(one)) == stream_of(events)


def test_a_call_begins_with_its_name_and_goes_on_in_the_providers_fragments() -> None:
    content, rest, _ = CASES["tools are counted from 0"]
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks_in(stream_of(events_of(content, rest), include_usage=False))]
    assert [delta["tool_calls"][0] for delta in deltas if "tool_calls" in delta] == [
        {"index": 0, "id": "a", "type": "function", "function": {"name": "weather", "arguments": ""}},
        {"index": 0, "function": {"arguments": '{"x":1}'}},
        {"index": 1, "id": "b", "type": "function", "function": {"name": "weather", "arguments": ""}},
        {"index": 1, "function": {"arguments": "{}"}},
    ]


def test_usage_comes_only_when_asked_for_and_never_from_the_placeholder() -> None:
    content, rest, _ = CASES["text"]
    quiet = list(chunks_in(stream_of(events_of(content, rest), include_usage=False)))
    assert all("usage" not in chunk and chunk["choices"] for chunk in quiet)
    without = [one for one in events_of(content, rest) if b"message_delta" not in one]
    assert list(chunks_in(stream_of(without)))[-1]["usage"]["completion_tokens"] == 0
    none = [one.replace(b'"usage"', b'"usages"') for one in events_of(content, rest)]
    assert list(chunks_in(stream_of(none)))[-1]["choices"]
    assert b'"usage"' not in translate_answer(
        whole_of(content, rest | {"usage": None}), model=NAME, completion_id=ID, created=CREATED
    )


def test_a_cut_stream_is_given_no_end() -> None:
    content, rest, _ = CASES["tools are counted from 0"]
    events = events_of(content, rest)
    for length in range(len(events)):
        stream = stream_of(events[:length])
        assert b"[DONE]" not in stream
        assert all(chunk["choices"][0]["finish_reason"] is None for chunk in chunks_in(stream)) if stream else True


def test_an_error_ends_the_stream_and_raises_in_the_sdk() -> None:
    content, rest, _ = CASES["text"]
    error = event("error", error={"type": "overloaded_error", "message": "Overloaded"})
    stream = stream_of([*events_of(content, rest)[:4], error, *events_of(content, rest)[4:]])
    assert stream.endswith(b'data: {"error":{"message":"Overloaded","type":"server_error","param":null,"code":null}}\n\n')
    assert b"[DONE]" not in stream
    with pytest.raises(openai.APIError, match="Overloaded"):
        by_sdk(stream)


@pytest.mark.parametrize(
    ("one", "given"),
    [
        (b'event: ping\ndata: {"type": "ping"}\n\n', [b": keep-alive\n\n"]),
        (b": a comment\n\n", [b": keep-alive\n\n"]),
        (b"\n\n", []),
        (event("content_block_delta", index=7, delta={"type": "input_json_delta", "partial_json": "x"}), []),
        (event("content_block_stop", index=7), []),
        (event("news_of_tomorrow", delta=7), []),
    ],
)
def test_what_says_nothing_of_the_answer(one: bytes, given: list[bytes]) -> None:
    assert translator().feed(one) == given


def test_nothing_follows_the_end() -> None:
    translate = translator()
    assert translate.feed(event("message_stop"))[-1] == b"data: [DONE]\n\n"
    assert translate.feed(event("message_stop")) == translate.feed(event("ping")) == translate.finish() == []


@pytest.mark.parametrize(
    "one",
    [
        b"data: {\n\n",
        b"data: []\n\n",
        b'data: {"type":"content_block_delta","index":0}\n\n',
        b'data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":7}}\n\n',
        b'data: {"type":"content_block_start","index":"x","content_block":{}}\n\n',
        b'data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"\xff"}}\n\n',
    ],
)
def test_a_piece_that_cannot_be_read_is_never_left_out(one: bytes) -> None:
    with pytest.raises(UpstreamError) as raised:
        translator().feed(one)
    assert raised.value.reason == "unreadable_event"


@pytest.mark.parametrize(
    "body", [b"", b"{}", b"[]", b'{"type":"error","content":[]}', b'{"type":"message","content":7}', b"\xff", b"[" * 5_000]
)
def test_what_is_no_answer_is_the_upstreams_failure(body: bytes) -> None:
    with pytest.raises(UpstreamError) as raised:
        translate_answer(body, model=NAME, completion_id=ID, created=CREATED)
    assert raised.value.reason == "unreadable_answer"


def test_the_deprecated_functions_are_answered_in_kind() -> None:
    content, rest, _ = CASES["tools are counted from 0"]
    whole = json.loads(translate_answer(whole_of(content, rest), model=NAME, completion_id=ID, created=CREATED, functions=True))
    choice = whole["choices"][0]
    assert (choice["finish_reason"], choice["message"].get("tool_calls")) == ("function_call", None)
    assert choice["message"]["function_call"] == {"name": "weather", "arguments": '{"x": 1}'}
    choices = [
        chunk["choices"][0] for chunk in chunks_in(stream_of(events_of(content, rest), functions=True)) if chunk["choices"]
    ]
    calls = [one["delta"]["function_call"] for one in choices if "function_call" in one["delta"]]
    assert calls == [{"name": "weather", "arguments": ""}, {"arguments": '{"x":1}'}]
    assert choices[-1]["finish_reason"] == "function_call"


# --- refusals ---


def error_body(kind: str, message: str) -> bytes:
    return json.dumps({"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_1"}).encode()


@pytest.mark.parametrize(
    ("status", "body", "error"),
    [
        (
            400,
            error_body("invalid_request_error", "max_tokens: 9 > 8, which is the maximum"),
            ("max_tokens: 9 > 8, which is the maximum", "invalid_request_error", "max_tokens", None),
        ),
        (
            400,
            error_body("invalid_request_error", "`temperature` is deprecated"),
            ("`temperature` is deprecated", "invalid_request_error", None, None),
        ),
        (
            400,
            error_body("invalid_request_error", "system.0.text: too odd"),
            ("system.0.text: too odd", "invalid_request_error", "messages", None),
        ),
        (400, error_body("invalid_request_error", "Note: this"), ("Note: this", "invalid_request_error", None, None)),
        (
            400,
            error_body("invalid_request_error", "prompt is too long: 9 tokens > 8 maximum"),
            ("prompt is too long: 9 tokens > 8 maximum", "invalid_request_error", "messages", "context_length_exceeded"),
        ),
        (413, error_body("request_too_large", "Too large"), ("Too large", "invalid_request_error", None, None)),
        (402, error_body("billing_error", "No money"), ("No money", "insufficient_quota", None, "insufficient_quota")),
        (404, error_body("not_found_error", "model: x"), ("model: x", "invalid_request_error", "model", "model_not_found")),
        (429, error_body("rate_limit_error", "Slow"), ("Slow", "rate_limit_error", None, "rate_limit_exceeded")),
        (529, error_body("overloaded_error", "Overloaded"), ("Overloaded", "server_error", None, None)),
        (400, error_body("error_of_tomorrow", "Odd"), ("Odd", "server_error", None, None)),
        (502, b"<html>", ("The provider refused the request with status 502.", "server_error", None, None)),
        (500, b'{"error": "x"}', ("The provider refused the request with status 500.", "server_error", None, None)),
    ],
)  # fmt: skip
def test_a_refusal_keeps_its_status_and_its_words(status: int, body: bytes, error: tuple[str | None, ...]) -> None:
    answered, translated = translate_refusal(status, body)
    assert answered == status
    assert json.loads(translated) == {"error": dict(zip(("message", "type", "param", "code"), error, strict=True))}


# --- there and back ---


@pytest.mark.parametrize("name", ["thinking", "thinking between calls", "tools are counted from 0", "text"])
@pytest.mark.parametrize("streamed", [False, True])
def test_an_answer_that_is_sent_back_is_what_the_provider_said(name: str, streamed: bool) -> None:
    """As a client of the SDK does it: `messages.append(message)`."""
    content, rest, _ = CASES[name]
    if streamed:
        state = streaming.ChatCompletionStreamState()
        for chunk in chunks_in(stream_of(events_of(content, rest))):
            state.handle_chunk(chat.ChatCompletionChunk.model_validate(chunk))
        message = state.current_completion_snapshot.choices[0].message
    else:
        whole = translate_answer(whole_of(content, rest), model=NAME, completion_id=ID, created=CREATED)
        message = chat.ChatCompletion.model_validate_json(whole).choices[0].message
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}, json.loads(message.model_dump_json())]}
    turns = json.loads(
        translate_request(json.dumps(body).encode(), model="claude-opus-5-5", max_tokens_default=9, model_max_tokens=0)
    )["messages"]
    assert turns[1]["content"] == [{key: value for key, value in block.items() if key != "pieces"} for block in content]


# --- generated streams ---


pieces = st.lists(st.text(max_size=5), max_size=4)
arguments = st.dictionaries(st.text(max_size=3), st.integers() | st.text(max_size=3), max_size=2).map(
    lambda value: json.dumps(value, ensure_ascii=False)
)


@st.composite
def tools(draw: st.DrawFn) -> dict[str, Any]:
    whole = draw(arguments)
    cut = draw(st.integers(0, len(whole)))
    return tool(
        draw(st.text("abc", min_size=1, max_size=3)),
        *((whole[:cut], whole[cut:]) if whole != "{}" or draw(st.booleans()) else ()),
    )


blocks = st.one_of(
    pieces.map(lambda given: text(*given)),
    st.builds(lambda given, signature: thinking(*given, signature=signature), pieces, st.sampled_from(["", "sig"])),
    tools(),
    st.just(REDACTED),
    st.just(SEARCH),
)
reasons = st.sampled_from(["end_turn", "max_tokens", "stop_sequence", "tool_use", "pause_turn", "refusal", "tomorrow"])


@given(st.lists(blocks, max_size=5), reasons, st.booleans())
def test_a_generated_stream_says_what_the_whole_says(content: list[dict[str, Any]], reason: str, functions: bool) -> None:
    rest = {"stop_reason": reason}
    whole = json.loads(
        translate_answer(whole_of(content, rest), model=NAME, completion_id=ID, created=CREATED, functions=functions)
    )
    stream = stream_of(events_of(content, rest), functions=functions)
    state = streaming.ChatCompletionStreamState()
    for chunk in chunks_in(stream):
        state.handle_chunk(chat.ChatCompletionChunk.model_validate(chunk))
    snapshot = json.loads(state.current_completion_snapshot.model_dump_json())
    assert read(snapshot) == read(whole)
    shown = snapshot["choices"][0]["message"].get("function_call")
    meant = whole["choices"][0]["message"].get("function_call")
    assert (shown and json.loads(shown["arguments"])) == (meant and json.loads(meant["arguments"]))
