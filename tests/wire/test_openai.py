from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import KINDS, ClientError, HouseError
from gateway.wire import splice
from gateway.wire.call import Call
from gateway.wire.conversation import conversation_of
from gateway.wire.openai import (
    KEEP_ALIVE,
    ask_for_usage,
    error_event,
    is_usage_chunk,
    parse_chat,
    read_error,
    rename_chunk_model,
    render_error,
    render_limits,
)
from gateway.wire.sse import event_data
from tests.wire.bodies import SESSION, claude_code, compact

MINIMAL: dict[str, Any] = {"model": "gpt-5.6", "messages": []}


def parse(**changes: Any) -> Call:
    return parse_chat(compact(MINIMAL | changes))


def test_a_body_is_read_and_not_touched() -> None:
    body = compact(MINIMAL | {"stream": True, "max_completion_tokens": 9, "stream_options": {"include_usage": True}, "n": 2})
    call = parse_chat(body)
    assert call.body is body
    assert (call.dialect, call.model, call.stream, call.max_tokens) == ("openai", "gpt-5.6", True, 9)
    assert (call.choices, call.usage_asked, call.cache, call.text_bytes) == (2, True, "none", len(body))
    assert len(call.fingerprint) == 32


# (the body, the field that the refusal names)
REFUSED: list[tuple[bytes, str | None]] = [
    (b"", None),
    (b"[]", None),
    (b'{"model":"a","messages":[]} x', None),
    (b'{"model":"a","messages":[],"x":NaN}', None),
    (b'{"model":"a","messages":' + b"[" * 201 + b"]" * 201 + b"}", None),
    (b'{"model":"a","messages":' + b"[" * 100_000 + b"]" * 100_000 + b"}", None),
    (b'{"messages":[]}', "model"),
    (b'{"model":null,"messages":[]}', "model"),
    (b'{"model":"a b","messages":[]}', "model"),
    (b'{"model":"' + b"a" * 129 + b'","messages":[]}', "model"),
    (b'{"model":"a"}', "messages"),
    (b'{"model":"a","messages":{}}', "messages"),
    (b'{"model":"a","messages":[],"max_tokens":0}', "max_tokens"),
    (b'{"model":"a","messages":[],"max_tokens":true}', "max_tokens"),
    (b'{"model":"a","messages":[],"max_tokens":1.5}', "max_tokens"),
    (b'{"model":"a","messages":[],"max_completion_tokens":"7"}', "max_completion_tokens"),
    (b'{"model":"a","messages":[],"max_completion_tokens":' + b"9" * 5000 + b"}", "max_completion_tokens"),
    (b'{"model":"a","messages":[],"n":0}', "n"),
    (b'{"model":"a","messages":[],"n":129}', "n"),
    (b'{"model":"a","messages":[],"n":"2"}', "n"),
    (b'{"model":"a","messages":[],"stream":1}', "stream"),
    (b'{"model":"a","messages":[],"stream_options":[]}', "stream_options"),
    (b'{"model":"a","messages":[],"stream_options":true}', "stream_options"),
    (b'{"model":"a","messages":[],"stream_options":{"include_usage":"yes"}}', "stream_options"),
    (b'{"model":"a","messages":[],"stream_options":{"include_usage":true,"include_usage":false}}', "include_usage"),
    (b'{"model":"a","messages":[],"model":"b"}', "model"),
    (b'{"model":"a","messages":[],"mod\\u0065l":"b"}', "model"),
    (b'{"n":1,"model":"a","messages":[],"n":100}', "n"),
    (b'{"max_tokens":1,"model":"a","messages":[],"max_tokens":9}', "max_tokens"),
    (b'{"model":"a","messages":[],"max\\u005fcompletion_tokens":9}', "max_completion_tokens"),
    (b'{"stream":true,"model":"a","messages":[],"stream":false}', "stream"),
    (b'{"stream_options":{},"model":"a","messages":[],"stream_options":{}}', "stream_options"),
]


@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize(("body", "param"), REFUSED)
def test_a_bad_request_is_told_which_field(body: bytes, param: str | None, dense: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if dense:
        monkeypatch.setattr(splice, "is_dense", lambda _: True)
    with pytest.raises(ClientError) as caught:
        parse_chat(body)
    assert (caught.value.code, caught.value.param) == ("invalid_request", param)
    assert param is None or param in caught.value.message
    assert len(caught.value.message) < 250


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens", "n", "stream", "stream_options"])
def test_null_is_as_good_as_nothing(name: str) -> None:
    call = parse(**{name: None})
    assert (call.max_tokens, call.choices, call.stream, call.usage_asked) == (None, 1, False, False)


@pytest.mark.parametrize(
    ("fields", "limit"),
    [
        ({}, None),
        ({"max_tokens": 7}, 7),
        ({"max_completion_tokens": 8}, 8),
        # No two servers take the same one of two: the hold is for the larger.
        ({"max_tokens": 7, "max_completion_tokens": 8}, 8),
        ({"max_tokens": 9, "max_completion_tokens": 8}, 9),
    ],
)
def test_the_limit_has_two_names(fields: dict[str, int], limit: int | None) -> None:
    assert parse(**fields).max_tokens == limit
    assert parse_chat(compact(MINIMAL | fields), default_max_tokens=99).max_tokens == (limit or 99)


@pytest.mark.parametrize(
    ("body", "spliced"),
    [
        (b'{ "model":"a","messages":[]}', b'{"max_completion_tokens":99, "model":"a","messages":[]}'),
        (
            b'{"model":"a", "max_completion_tokens" : null,"messages":[]}',
            b'{"model":"a", "max_completion_tokens" : 99,"messages":[]}',
        ),
        (b'{"max_tokens":null,"model":"a","messages":[]}', None),
    ],
)
def test_a_default_limit_is_put_into_the_body(body: bytes, spliced: bytes | None) -> None:
    call = parse_chat(body, default_max_tokens=99)
    assert spliced is None or call.body == spliced
    assert json.loads(call.body)["max_completion_tokens"] == 99 == call.max_tokens
    assert parse_chat(call.body).max_tokens == 99


ODD: list[Any] = [None, 7, True, "text", [], {}, [7], ["x"], [None], {"type": 7}, [{"type": []}], [[[]]], [{"content": 7}]]


@pytest.mark.parametrize("field", ["tools", "user", "prompt_cache_key", "usage", "service_tier", "reasoning_effort", "functions"])
@pytest.mark.parametrize("value", ODD)
def test_an_odd_shape_where_we_only_estimate_is_never_refused(field: str, value: Any) -> None:
    body = compact(MINIMAL | {field: value, "x": {"image_url": 1}})
    assert parse_chat(body).text_bytes == len(body)


@pytest.mark.parametrize("value", [value for value in ODD if isinstance(value, list)])
def test_odd_messages_are_never_refused(value: Any) -> None:
    for content in (value, [{"role": "user", "content": value}], [{"role": "user", "content": [{"image_url": value}]}]):
        body = compact(MINIMAL | {"messages": content, "x": {"file": 1}})
        assert parse_chat(body).text_bytes == len(body)


IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 4000, "detail": "low"}}
BARE_IMAGE = {"type": "image_url", "image_url": "data:image/png;base64," + "A" * 4000}
LINKED = {"type": "image_url", "image_url": {"url": "https://example.com/a,b.png"}}
AUDIO = {"type": "input_audio", "input_audio": {"data": "B" * 900, "format": "wav"}}
VIDEO = {"type": "video_url", "video_url": {"url": "data:video/mp4;base64," + "E" * 700}}
FILE = {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64," + "C" * 800}}
BARE_FILE = {"type": "file", "file": {"filename": "a.pdf", "file_data": "C" * 800}}
LINKED_FILE = {"type": "file", "file": {"file_data": "https://example.com/a.pdf"}}
UPLOADED = {"type": "file", "file": {"file_id": "file-1"}}


@pytest.mark.parametrize(
    ("parts", "payload", "images", "documents"),
    [
        ([IMAGE], 4000, 1, ()),
        ([BARE_IMAGE, {"type": "text", "text": "and"}, LINKED], 4000, 2, ()),
        ([AUDIO, VIDEO], 1600, 0, (900, 700)),
        ([FILE, BARE_FILE, LINKED_FILE, UPLOADED], 1600, 0, (800, 800, 0, 0)),
        ([{"type": "text", "text": '"image_url"'}], 0, 0, ()),
        ([{"type": "image_url"}], 0, 1, ()),
        # A shape that we do not know: all of it counts as text, and images are counted by their looks.
        ([IMAGE, 7], 0, 1, ()),
    ],
)
def test_payloads_are_weighed_apart(parts: list[Any], payload: int, images: int, documents: tuple[int, ...]) -> None:
    messages = [{"role": "system", "content": "hi"}, {"role": "user", "content": parts}, {"role": "tool", "content": "x"}]
    body = compact(MINIMAL | {"messages": messages})
    call = parse_chat(body)
    assert (call.text_bytes, call.images, call.document_bytes) == (len(body) - payload, images, documents)
    spaced = parse_chat(json.dumps(json.loads(body)).encode())
    if payload:
        assert (spaced.images, spaced.document_bytes) == (images, documents)


@pytest.mark.parametrize(
    ("changes", "cache"),
    [
        ({}, "none"),
        ({"prompt_cache_key": "k", "prompt_cache_retention": "24h"}, "none"),
        ({"messages": [{"role": "user", "content": "talk of cache_control and prompt_cache_breakpoint"}]}, "none"),
        ({"messages": [{"content": [{"type": "text", "prompt_cache_breakpoint": {"mode": "explicit", "ttl": "30m"}}]}]}, "5m"),
        ({"messages": [{"content": [{"type": "text", "cache_control": {"type": "ephemeral"}}]}]}, "5m"),
        ({"messages": [{"content": [{"type": "text", "cache_control": {"type": "ephemeral", "ttl": "1h"}}]}]}, "1h"),
    ],
)
def test_the_cache_class_is_what_the_body_asks_for(changes: Any, cache: str) -> None:
    assert parse(**changes).cache == cache


@pytest.mark.parametrize(
    ("changes", "asked"),
    [
        ({}, False),
        ({"stream_options": {}}, False),
        ({"stream_options": {"include_usage": False}}, False),
        ({"stream_options": {"include_usage": None, "include_obfuscation": False}}, False),
        ({"stream_options": {"include_obfuscation": False, "include_usage": True}}, True),
        ({"x": {"stream_options": {"include_usage": True}}}, False),
        ({"usage": {"include": True}}, True),
        ({"usage": {"include": 1}}, False),
    ],
)
def test_whether_the_client_wants_the_usage_chunk(changes: Any, asked: bool) -> None:
    assert parse(stream=True, **changes).usage_asked == asked


def test_what_sizes_the_hold_beside_the_tokens() -> None:
    assert parse(service_tier="priority").fast and parse(service_tier="fast").fast and not parse(service_tier="flex").fast
    assert parse(web_search_options={}).searches_max == 1 and parse(web_search_options=None).searches_max == 0
    assert parse().thinking_hidden and parse(reasoning_effort="low").thinking_hidden
    assert not parse(reasoning_effort="none").thinking_hidden


CLAUDE_CODES = json.dumps({"device_id": "d", "account_uuid": "", "session_id": SESSION})


@pytest.mark.parametrize(
    ("changes", "session"),
    [
        ({"prompt_cache_key": "conv-7"}, "conv-7"),
        ({"prompt_cache_key": "conv-7", "user": CLAUDE_CODES}, "conv-7"),
        ({"user": CLAUDE_CODES}, SESSION),
        ({"safety_identifier": f"user_ab12_account_1_session_{SESSION}", "user": "alice"}, SESSION),
        ({"user": "alice", "safety_identifier": "bob"}, ""),
        ({"user": '{"session_id":', "prompt_cache_key": ""}, ""),
    ],
)
def test_the_conversation_is_named_by_what_shares_a_cache(changes: Any, session: str) -> None:
    call = parse(**changes)
    assert call.session == session
    assert bool(call.fingerprint) != bool(session)
    assert conversation_of([], call).startswith("session:" if session else "fingerprint:")


def test_a_long_cache_key_is_shown_by_its_hash() -> None:
    assert parse(prompt_cache_key="x y" * 500).session.startswith("#") and len(parse(prompt_cache_key="x y" * 500).session) == 33


SYSTEM = {"role": "system", "content": "You help."}
HELLO = {"role": "user", "content": "hello"}
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {}}}, {"type": "custom", "custom": {"name": "g"}}]


def fingerprint(**changes: Any) -> str:
    return parse(**({"messages": [SYSTEM, HELLO], "tools": TOOLS} | changes)).fingerprint


@pytest.mark.parametrize(
    "changes",
    [
        {"messages": [SYSTEM, HELLO, {"role": "assistant", "content": "hi"}, {"role": "user", "content": "more"}]},
        {"messages": [SYSTEM, {"role": "user", "content": [{"type": "text", "text": "hello"}]}]},
        {"messages": [SYSTEM | {"role": "developer"}, HELLO]},
        {"temperature": 1, "user": "alice"},
        {"tools": [TOOLS[0] | {"strict": True}, TOOLS[1]]},
    ],
)
def test_turns_of_one_conversation_share_a_fingerprint(changes: Any) -> None:
    assert fingerprint(**changes) == fingerprint()


@pytest.mark.parametrize(
    "changes",
    [
        {"messages": [HELLO]},
        {"messages": [SYSTEM, {"role": "user", "content": "else"}]},
        {"messages": [SYSTEM, SYSTEM, HELLO]},
        {"tools": TOOLS[:1]},
        {"model": "gpt-5.5"},
    ],
)
def test_other_conversations_have_others(changes: Any) -> None:
    assert fingerprint(**changes) != fingerprint()


@given(
    st.dictionaries(st.sampled_from(["model", "messages", "n", "tools", "stream_options", "usage", "x"]), st.sampled_from(ODD))
)
def test_any_object_is_read_or_refused_and_never_breaks_us(value: dict[str, Any]) -> None:
    try:
        parse_chat(compact(value))
    except ClientError:
        pass


def test_a_body_of_nothing_but_members_is_read_without_a_stall() -> None:
    body = b'{"model":"a","messages":[{"image_url":1},' + b",".join([b'{"":[]}'] * 300_000) + b'],"stream_options":{}}'
    began = time.process_time()
    call = parse_chat(body)
    assert call.text_bytes == len(body) and json.loads(ask_for_usage(body))["stream_options"] == {"include_usage": True}
    assert time.process_time() - began < 2  # some 60 ms


# --- asking for usage ---


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{ "model":"a" }', b'{"stream_options":{"include_usage":true}, "model":"a" }'),
        (b'{"a":1,"stream_options" : null }', b'{"a":1,"stream_options" : {"include_usage":true} }'),
        (b'{"stream_options":{}}', b'{"stream_options":{"include_usage":true}}'),
        (b'{"stream_options":{ "x": 1 },"a":2}', b'{"stream_options":{"include_usage":true, "x": 1 },"a":2}'),
        (b'{"stream_options":{"x":1, "include_usage" : false}}', b'{"stream_options":{"x":1, "include_usage" : true}}'),
        (b'{"stream_options":{"include_usage":null}}', b'{"stream_options":{"include_usage":true}}'),
        (
            b'{"stream_options":{"y":{"include_usage":false}}}',
            b'{"stream_options":{"include_usage":true,"y":{"include_usage":false}}}',
        ),
        (b'{"x":{"stream_options":{"include_usage":false}},"a":2}', None),
    ],
)
def test_usage_is_asked_for_and_nothing_else_changes(body: bytes, expected: bytes | None) -> None:
    asked = ask_for_usage(body)
    assert expected is None or asked == expected
    assert json.loads(asked) == json.loads(body) | {"stream_options": json.loads(asked)["stream_options"]}
    assert json.loads(asked)["stream_options"]["include_usage"] is True
    assert ask_for_usage(asked) == asked


def test_who_asks_already_is_left_alone() -> None:
    body = b'{"stream_options": { "include_usage" :true ,"x":[1, 2]},"model":"a"}'
    assert ask_for_usage(body) == body


OPTIONS = st.none() | st.dictionaries(
    st.sampled_from(["include_usage", "include_obfuscation", "é", 'a"b']), st.none() | st.booleans()
)


@given(st.booleans(), OPTIONS, st.sampled_from([None, 1]), st.booleans())
def test_asking_keeps_every_other_option(given_any: bool, options: Any, indent: int | None, ascii_only: bool) -> None:
    value = {"messages": [{"role": "user", "content": 'say "stream_options": {} é'}]} | claude_code(0)
    if given_any:
        value["stream_options"] = options
    body = json.dumps(value, indent=indent, ensure_ascii=ascii_only).encode()
    asked = ask_for_usage(body)
    assert json.loads(asked) == value | {"stream_options": (options or {} if given_any else {}) | {"include_usage": True}}
    assert len(asked) - len(body) <= len(b'"stream_options":{"include_usage":true},')


# --- answers ---

CHUNK = b'data: {"id":"x","model":"up-7","choices":[{"index":0,"delta":{"content":"say \\"model\\":\\"up-7\\""}}]}\n\n'


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        (CHUNK, CHUNK.replace(b'"model":"up-7","', b'"model":"pub","')),
        (CHUNK.replace(b"\n", b"\r\n"), CHUNK.replace(b"\n", b"\r\n").replace(b'"model":"up-7","', b'"model":"pub","')),
        (b": c\n" + CHUNK, (b": c\n" + CHUNK).replace(b'"model":"up-7","', b'"model":"pub","')),
        (b'data: {"model" : "a", "x":{"model":"b"}}\n\n', b'data: {"model" : "pub", "x":{"model":"b"}}\n\n'),
        (b'data: {"x":{"model":"b"},"model":"a"}\n\n', b'data: {"x":{"model":"b"},"model":"pub"}\n\n'),
        (b'data: {"model":null,"object":"model"}\n\n', b'data: {"model":"pub","object":"model"}\n\n'),
        (b'data: {"object":"model"}\n\n', None),
        (b'data: {"x":{"model":"b"}}\n\n', None),
        (b'data: {"model":"a","mod\\u0065l":"b"}\n\n', None),
        (b'data: {"model":"a","model":"b"}\n\n', None),
        (b'data: {"model":\ndata: "a"}\n\n', None),
        (b"data: [DONE]\n\n", None),
        (b"data: {broken\n\n", None),
        (b'data: [{"model":"a"}]\n\n', None),
        (KEEP_ALIVE, None),
    ],
)
def test_a_chunk_gets_the_public_name(event: bytes, expected: bytes | None) -> None:
    assert rename_chunk_model(event, "pub") == (event if expected is None else expected)


JSONS = st.recursive(
    st.none() | st.integers(-5, 5) | st.sampled_from(["model", '"model":"x"', "é", "\\", "a\nb"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["model", "x", 'a"model', "é"]), inner, max_size=3)
    ),
    max_leaves=10,
)


@given(st.dictionaries(st.sampled_from(["model", "x", "choices", 'a"model']), JSONS), st.booleans(), st.booleans())
def test_a_renamed_chunk_differs_in_nothing_else(value: dict[str, Any], ascii_only: bool, spaced: bool) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only, separators=(", ", ": ") if spaced else (",", ":"))
    event = f"data: {text}\n\n".encode()
    renamed = rename_chunk_model(event, "pub")
    assert json.loads(event_data(renamed)) == value | ({"model": "pub"} if "model" in value else {})
    if "model" not in value:
        assert renamed == event


USAGE = '"usage":{"prompt_tokens":1,"completion_tokens":2}'


@pytest.mark.parametrize(
    ("data", "only_usage"),
    [
        ('{"choices":[],' + USAGE + "}", True),
        ('{"choices": [], "timings":{"x":1}, ' + USAGE + "}", True),
        ('{"choices":null,' + USAGE + "}", True),
        ("{" + USAGE + "}", True),
        # Usage beside something else stays: Groq, Gemini, DeepSeek.
        ('{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}],' + USAGE + "}", False),
        ('{"choices":[{"delta":{"content":"x"}}],"usage":null}', False),
        # Azure's first chunk.
        ('{"choices":[],"prompt_filter_results":[],"usage":null}', False),
        ('{"choices":[],"prompt_filter_results":[]}', False),
        ('{"error":{"message":"x"},"choices":[],' + USAGE + "}", False),
        ('{"choices":[],"usage":', False),
        ("[DONE]", False),
    ],
)
def test_the_chunk_that_only_tells_usage(data: str, only_usage: bool) -> None:
    assert is_usage_chunk(f"data: {data}\n\n".encode()) == only_usage
    assert is_usage_chunk(f"data:{data}\r\n\r\n".encode()) == only_usage


@pytest.mark.parametrize(
    ("error", "shown"),
    [
        (
            ClientError("balance_too_low", 'needs "more"'),
            {"message": 'needs "more"', "type": "insufficient_quota", "param": None, "code": "insufficient_quota"},
        ),
        (
            ClientError("invalid_request", "n must be", param="n"),
            {"message": "n must be", "type": "invalid_request_error", "param": "n", "code": "invalid_request"},
        ),
        (
            ClientError("not_found", "model: x", param="model"),
            {"message": "model: x", "type": "invalid_request_error", "param": "model", "code": "model_not_found"},
        ),
        (
            ClientError("unauthenticated", "no key"),
            {"message": "no key", "type": "authentication_error", "param": None, "code": "invalid_api_key"},
        ),
        (
            ClientError("rate_limited", "slow"),
            {"message": "slow", "type": "rate_limit_error", "param": None, "code": "rate_limit_exceeded"},
        ),
        (
            HouseError("unavailable", "line\nbreak"),
            {"message": "line\nbreak", "type": "server_error", "param": None, "code": "unavailable"},
        ),
    ],
)
def test_an_error_is_rendered_as_clients_expect_it(error: Any, shown: dict[str, Any]) -> None:
    assert json.loads(render_error(error, "req_1")) == {"error": shown}
    event = error_event(error, "req_1")
    assert event.startswith(b"data: {") and event.endswith(b"}\n\n") and event.count(b"\n") == 2
    assert json.loads(event_data(event)) == {"error": shown}
    assert read_error(event_data(event)) == (shown["type"], shown["code"], shown["message"])


def test_every_code_of_the_house_has_a_rendering() -> None:
    for code, kind in KINDS.items():
        shown = json.loads(render_error(HouseError(code, "x"), "r"))["error"]
        assert shown["type"] == kind.openai and shown["code"]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"error":{"message":"m","type":"t","param":null,"code":"c"}}', ("t", "c", "m")),
        (b'{"error":{"code":429,"message":"m","metadata":{}}}', ("", "429", "m")),
        (b'{"object":"error","message":"m","type":"BadRequestError","param":null,"code":400}', ("BadRequestError", "400", "m")),
        (b'{"detail":"Not Found"}', ("", "", "Not Found")),
        (b'{"detail":[{"loc":["body"]}]}', ("", "", "")),
        (b'{"error":"text"}', ("", "", "text")),
        (b'{"error":null}', ("", "", "")),
        (b'{"error":{"message":7,"code":true,"type":[]}}', ("", "", "7")),
        (b"[]", ("", "", "")),
        (b"<html>", ("", "", "")),
        (b"", ("", "", "")),
        (b"[" * 100_000, ("", "", "")),
    ],
)
def test_an_upstreams_error_is_read_in_every_shape(body: bytes, expected: tuple[str, str, str]) -> None:
    assert read_error(body) == expected


@pytest.mark.parametrize(
    ("reset_ms", "text"),
    [
        (0, "0ms"),
        (12, "12ms"),
        (999, "999ms"),
        (1000, "1s"),
        (1001, "2s"),
        (60_000, "1m0s"),
        (360_000, "6m0s"),
        (5_025_000, "1h23m45s"),
    ],
)
def test_limits_are_told_with_a_duration(reset_ms: int, text: str) -> None:
    assert render_limits("requests", 60, 59, reset_ms) == [
        ("x-ratelimit-limit-requests", "60"),
        ("x-ratelimit-remaining-requests", "59"),
        ("x-ratelimit-reset-requests", text),
    ]
