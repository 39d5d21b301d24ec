from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import ClientError, HouseError
from gateway.wire import splice
from gateway.wire.anthropic import PING, error_event, parse_call, render_error
from gateway.wire.call import Call
from gateway.wire.sse import event_data, event_name
from tests.wire.bodies import SESSION, claude_code, compact

MINIMAL: dict[str, Any] = {"model": "claude-opus-5-5", "max_tokens": 10, "messages": []}


def parse(**changes: Any) -> Call:
    return parse_call(compact(MINIMAL | changes))


def test_a_real_body_is_read_and_not_touched() -> None:
    body = compact(claude_code(100_000))
    call = parse_call(body)
    assert call.body is body
    assert (call.model, call.max_tokens, call.stream, call.dialect) == ("claude-opus-5-5", 128_000, True, "anthropic")
    assert (call.cache, call.session, call.fingerprint) == ("1h", SESSION, "")
    assert (call.text_bytes, call.images, call.document_bytes) == (len(body), 0, ())
    assert call.thinking_hidden
    assert not (call.fast or call.us)


# (the body, the field that the refusal names)
REFUSED: list[tuple[bytes, str | None]] = [
    (b"", None),
    (b"[]", None),
    (b"null", None),
    (b'{"model":"a","max_tokens":1,"messages":[]} x', None),
    (b'{"model":"a","max_tokens":1,"messages":[],"x":NaN}', None),
    (b'{"model":"a","max_tokens":1,"messages":[],"x":Infinity}', None),
    (b'{"model":"\\ud800","max_tokens":1,"messages":[]}', None),
    (b'{"model":"a","max_tokens":1,"messages":' + b"[" * 201 + b"]" * 201 + b"}", None),
    (b'{"model":"a","max_tokens":1,"messages":[' + b'{"":' * 100 + b"[" * 101 + b"]" * 101 + b"}" * 100 + b"]}", None),
    (b'{"model":"a","max_tokens":1,"messages":' + b"[" * 100_000 + b"]" * 100_000 + b"}", None),
    (b'{"max_tokens":1,"messages":[]}', "model"),
    (b'{"model":null,"max_tokens":1,"messages":[]}', "model"),
    (b'{"model":7,"max_tokens":1,"messages":[]}', "model"),
    (b'{"model":"","max_tokens":1,"messages":[]}', "model"),
    (b'{"model":"a b","max_tokens":1,"messages":[]}', "model"),
    (b'{"model":"a\\n","max_tokens":1,"messages":[]}', "model"),
    (b'{"model":"../a","max_tokens":1,"messages":[]}', "model"),
    (b'{"model":"' + b"a" * 129 + b'","max_tokens":1,"messages":[]}', "model"),
    (b'{"model":"a","messages":[]}', "max_tokens"),
    (b'{"model":"a","max_tokens":0,"messages":[]}', "max_tokens"),
    (b'{"model":"a","max_tokens":-1,"messages":[]}', "max_tokens"),
    (b'{"model":"a","max_tokens":true,"messages":[]}', "max_tokens"),
    (b'{"model":"a","max_tokens":1.0,"messages":[]}', "max_tokens"),
    (b'{"model":"a","max_tokens":"1","messages":[]}', "max_tokens"),
    (b'{"model":"a","max_tokens":null,"messages":[]}', "max_tokens"),
    (b'{"model":"a","max_tokens":' + b"9" * 5000 + b',"messages":[]}', "max_tokens"),
    (b'{"model":"a","max_tokens":1,"messages":[],"stream":1}', "stream"),
    (b'{"model":"a","max_tokens":1,"messages":[],"stream":"true"}', "stream"),
    (b'{"model":"a","max_tokens":1}', "messages"),
    (b'{"model":"a","max_tokens":1,"messages":{}}', "messages"),
    (b'{"model":"a","max_tokens":1,"messages":null}', "messages"),
    (b'{"model":"a","max_tokens":1,"messages":[],"model":"b"}', "model"),
    (b'{"model":"a","max_tokens":1,"messages":[],"mod\\u0065l":"b"}', "model"),
    (b'{"model":"a","max_tokens":1,"messages":[],"max\\u005ftokens":9}', "max_tokens"),
    (b'{"stream":true,"model":"a","max_tokens":1,"messages":[],"stream":false}', "stream"),
    (b'{"stream_options":1,"model":"a","max_tokens":1,"messages":[],"stream_options":2}', "stream_options"),
]


@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize(("body", "param"), REFUSED)
def test_a_bad_request_is_told_which_field(body: bytes, param: str | None, dense: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if dense:
        monkeypatch.setattr(splice, "is_dense", lambda _: True)
    with pytest.raises(ClientError) as caught:
        parse_call(body)
    assert (caught.value.code, caught.value.param) == ("invalid_request", param)
    assert param is None or param in caught.value.message
    assert len(caught.value.message) < 250


def test_a_syntax_error_has_its_place_and_no_text_of_the_body() -> None:
    with pytest.raises(ClientError, match=r"byte 21") as caught:
        parse_call(b'{"messages":["secret"x]}')
    assert "secret" not in caught.value.message


@pytest.mark.parametrize("cut", range(0, 120, 7))
def test_a_body_cut_anywhere_is_refused(cut: int) -> None:
    body = compact(MINIMAL | {"system": "x" * 60, "metadata": {"user_id": "é"}})
    with pytest.raises(ClientError):
        parse_call(body[:cut])


@pytest.mark.parametrize("depth", [1, 150, 197])
def test_a_depth_that_a_person_might_send_passes(depth: int) -> None:
    brackets = '["]]]]\\"' * 1 + '",' + "[" * depth + "]" * depth + "]"
    parse_call(b'{"model":"a","max_tokens":1,"messages":' + brackets.encode() + b',"x":"' + b"[" * 500 + b'"}')


@pytest.mark.parametrize("model", ["claude-opus-5-5", "anthropic/claude:beta", "a", "m@2026", "claude[1m]", "a" * 128])
def test_model_ids_of_every_house_pass(model: str) -> None:
    assert parse(model=model).model == model


@pytest.mark.parametrize(("stream", "expected"), [(True, True), (False, False), (None, False)])
def test_stream_may_be_left_out(stream: bool | None, expected: bool) -> None:
    assert parse(stream=stream).stream == expected
    assert not parse().stream


@pytest.mark.parametrize("body", [b'{"model":"a","messages":[]}', b'\xef\xbb\xbf { "model":"a","messages":[]}'])
def test_a_default_for_max_tokens_is_spliced_in(body: bytes) -> None:
    call = parse_call(body, default_max_tokens=4096)
    assert call.max_tokens == 4096
    assert json.loads(call.body.removeprefix(b"\xef\xbb\xbf")) == {"max_tokens": 4096, "model": "a", "messages": []}
    assert call.text_bytes == len(call.body)


def test_count_tokens_needs_no_max_tokens() -> None:
    call = parse_call(b'{"model":"a","messages":[]}', operation="count_tokens", default_max_tokens=9)
    assert (call.max_tokens, call.body) == (None, b'{"model":"a","messages":[]}')


ODD: list[Any] = [None, 7, True, "text", [], {}, [7], ["x"], [None], {"type": 7}, [{"type": []}], [[[]]], [{"content": 7}]]


@pytest.mark.parametrize("field", ["system", "tools", "thinking", "metadata", "speed", "inference_geo", "context_management"])
@pytest.mark.parametrize("value", ODD)
def test_an_odd_shape_where_we_only_estimate_is_never_refused(field: str, value: Any) -> None:
    body = compact(MINIMAL | {field: value, "x": {"source": "base64"}})
    assert parse_call(body).text_bytes == len(body)


@pytest.mark.parametrize("value", [value for value in ODD if isinstance(value, list)])
def test_odd_messages_are_never_refused(value: Any) -> None:
    for content in (value, [{"role": "user", "content": value}], [{"role": "user", "content": [{"source": value}]}]):
        body = compact(MINIMAL | {"messages": content, "x": {"source": "base64"}})
        assert parse_call(body).text_bytes == len(body)


IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "A" * 4000}}
LINKED = {"type": "image", "source": {"type": "url", "url": "https://example.com/a.png"}}
DOCUMENT = {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "B" * 900}}
TEXT_DOCUMENT = {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "C" * 50}}


@pytest.mark.parametrize(
    ("blocks", "payload", "images", "documents"),
    [
        ([IMAGE], 4000, 1, ()),
        ([IMAGE, {"type": "text", "text": "and"}, IMAGE, DOCUMENT], 8900, 2, (900,)),
        ([{"type": "tool_result", "tool_use_id": "t", "content": [IMAGE, DOCUMENT]}], 4900, 1, (900,)),
        ([{"type": "tool_result", "content": "plain"}, LINKED], 0, 1, ()),
        ([TEXT_DOCUMENT], 0, 0, (0,)),
        ([{"type": "tool_use", "input": {"type": "image", "source": {"type": "base64", "data": "D" * 99}}}], 0, 0, ()),
        # A shape that we do not know: all of it counts as text, and images are counted by their looks.
        ([IMAGE, 7], 0, 1, ()),
        ([{"type": "image", "source": "base64"}, IMAGE], 0, 2, ()),
    ],
)
def test_payloads_are_weighed_apart(blocks: list[Any], payload: int, images: int, documents: tuple[int, ...]) -> None:
    body = compact(MINIMAL | {"messages": [{"role": "user", "content": "hi"}, {"role": "user", "content": blocks}]})
    call = parse_call(body)
    assert (call.text_bytes, call.images, call.document_bytes) == (len(body) - payload, images, documents)
    spaced = parse_call(json.dumps(json.loads(body)).encode())
    if payload:
        assert (spaced.images, spaced.document_bytes) == (images, documents)


@pytest.mark.parametrize(
    ("system", "cache"),
    [
        ("plain", "none"),
        ([{"type": "text", "text": "x", "cache_control": {"type": "ephemeral"}}], "5m"),
        ([{"type": "text", "text": "x", "cache_control": {"type": "ephemeral", "ttl": "5m"}}], "5m"),
        ([{"type": "text", "text": "x", "cache_control": {"type": "ephemeral", "ttl": "1h"}}], "1h"),
    ],
)
def test_the_cache_class_is_what_the_body_asks_for(system: Any, cache: str) -> None:
    assert parse(system=system).cache == cache
    assert parse_call(json.dumps(MINIMAL | {"system": system}).encode()).cache == cache


@pytest.mark.parametrize(
    ("tools", "searches"),
    [
        ([], 0),
        ([{"name": "web_search_mine"}], 0),
        ([{"type": "web_search_20250305", "name": "web_search"}], 5),
        ([{"type": "web_search_20250305", "max_uses": 3}, {"type": "web_search_20260318", "max_uses": 0}], 3),
        ([{"type": "web_search_20250305", "max_uses": True}, {"type": "custom"}], 5),
        ([{"type": "web_search_20250305", "max_uses": 10**9}], 1000),
    ],
)
def test_searches_are_those_the_tools_allow(tools: Any, searches: int) -> None:
    assert parse(tools=tools).searches_max == searches


def test_fast_and_us_are_what_the_request_asks_for() -> None:
    assert parse(speed="fast").fast
    assert not parse(speed="standard").fast
    assert parse(inference_geo="us").us
    assert not parse(inference_geo="global").us


@pytest.mark.parametrize(
    ("thinking", "hidden"),
    [
        ({"type": "disabled"}, False),
        ({"type": "adaptive"}, True),
        ({"type": "adaptive", "display": "omitted"}, True),
        ({"type": "adaptive", "display": "updates"}, True),
        ({"type": "adaptive", "display": "summarized"}, False),
        ({"type": "enabled", "budget_tokens": 2000}, True),
        ({"type": "enabled", "budget_tokens": 2000, "display": "summarized"}, False),
        (None, False),
    ],
)
def test_thinking_is_hidden_unless_it_is_asked_for(thinking: Any, hidden: bool) -> None:
    assert parse(thinking=thinking).thinking_hidden == hidden


THOUGHT = {"type": "thinking", "thinking": "hm", "signature": "EqQBCgIYAhIM"}
SAYS = {"type": "text", "text": "hi"}


@pytest.mark.parametrize(
    ("messages", "signed"),
    [
        ([{"role": "assistant", "content": [THOUGHT, SAYS]}], True),
        ([{"role": "assistant", "content": [SAYS, {"type": "redacted_thinking", "data": "EmwKAhgB"}]}], True),
        (
            [
                {"role": "user", "content": "a"},
                {"role": "assistant", "content": [SAYS]},
                {"role": "assistant", "content": [THOUGHT]},
            ],
            True,
        ),
        ([{"role": "assistant", "content": [THOUGHT | {"signature": ""}]}], False),
        ([{"role": "assistant", "content": [{"type": "thinking", "thinking": "hm"}]}], False),
        # Talk of signatures, tools that have one, what a user says: none of it is an answer's thinking.
        ([{"role": "assistant", "content": 'see "signature" and {"type":"redacted_thinking"}'}], False),
        ([{"role": "assistant", "content": [{"type": "tool_use", "input": {"signature": "x", "type": "thinking"}}]}], False),
        ([{"role": "user", "content": [THOUGHT]}], False),
        ([{"role": "assistant", "content": None}, {"role": None}], False),
    ],
)
def test_signed_thinking_is_seen_in_earlier_answers_only(messages: list[Any], signed: bool) -> None:
    for more in ({}, {"tools": [{"name": "sign", "input_schema": {"signature": {"type": "string"}}}]}):
        body = MINIMAL | more | {"messages": messages}
        assert parse_call(compact(body)).thinking_signed == signed
        assert parse_call(json.dumps(body).encode()).thinking_signed == signed
    # Beside an image, where messages are taken apart anyway.
    image = {"role": "user", "content": [{"type": "image", "source": {"type": "base64", "data": "aGk="}}]}
    call = parse(messages=[image, *messages])
    assert (call.thinking_signed, call.images) == (signed, 1)


def test_a_body_too_dense_or_odd_to_be_taken_apart_counts_as_signed_if_it_looks_so(monkeypatch: pytest.MonkeyPatch) -> None:
    odd = parse(messages=[{"role": "assistant", "content": [7, THOUGHT]}])
    assert odd.thinking_signed and not parse(messages=[{"role": "assistant", "content": [7]}]).thinking_signed
    monkeypatch.setattr(splice, "DENSE_BYTES_MIN", 1)
    monkeypatch.setattr(splice, "DENSE_COMMAS_MAX", 1)
    assert parse(messages=[{"role": "assistant", "content": [THOUGHT]}]).thinking_signed
    assert not parse(messages=[{"role": "assistant", "content": [SAYS]}]).thinking_signed


@given(st.dictionaries(st.sampled_from(["model", "messages", "max_tokens", "tools", "system", "x"]), st.sampled_from(ODD)))
def test_any_object_is_read_or_refused_and_never_breaks_us(value: dict[str, Any]) -> None:
    try:
        parse_call(compact(value))
    except ClientError:
        pass


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"a","max_tokens":1,"messages":[],' + b",".join(b'"%x":1' % i for i in range(300_000)) + b"}",
        b'{"model":"a","max_tokens":1,"source":1,"messages":[' + b",".join([b'{"":[]}'] * 300_000) + b"]}",
        b'{"model":"a","max_tokens":1,"messages":["' + b"\\\\," * 1_000_000 + b'"]}',
    ],
)
def test_a_body_of_nothing_but_members_is_read_without_a_stall(body: bytes) -> None:
    began = time.perf_counter()
    assert parse_call(body).text_bytes == len(body)
    assert time.perf_counter() - began < 1  # some 30 ms


def test_an_error_is_rendered_as_clients_expect_it() -> None:
    error = ClientError("balance_too_low", 'needs "more"')
    assert json.loads(render_error(error, "req_1")) == {
        "type": "error",
        "error": {"type": "billing_error", "message": 'needs "more"'},
        "request_id": "req_1",
    }
    event = error_event(HouseError("unavailable", "line\nbreak"), "req_1")
    assert event_name(event) == b"error"
    assert json.loads(event_data(event))["error"] == {"type": "api_error", "message": "line\nbreak"}
    assert event.endswith(b"}\n\n")
    assert event_name(PING) == b"ping"
