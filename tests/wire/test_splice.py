from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import ClientError
from gateway.wire import splice
from gateway.wire.splice import (
    find_value,
    insert_first,
    reject_duplicates,
    rename_answer_model,
    rename_message_start,
    replace_value,
)
from tests.wire.bodies import claude_code, compact

# (body, the value of "model" as it stands, None if it is not there)
FOUND = [
    (b'{"model":"a"}', b'"a"'),
    (b'{"x":{"model":"no"},"model":"a"}', b'"a"'),
    (b'{"model":"a","x":[{"model":"no"}]}', b'"a"'),
    (b' \n{ "x" : 1 , "model" :\t"a" , "y" : [ ] } \n', b'"a"'),
    (b'\xef\xbb\xbf{"model":"a"}', b'"a"'),
    (b'\xef\xbb\xbf {"x":"\xc3\xa9","model":true}', b"true"),
    (b'{"model":{"model":{"model":1}}}', b'{"model":{"model":1}}'),
    (b'{"model":[1, 2],"x":null}', b"[1, 2]"),
    (b'{"model":-1.5e3}', b"-1.5e3"),
    (b'{"model":null}', b"null"),
    (b'{"x":"\\"model\\":1","a\\"model":2,"model":3}', b"3"),
    (b'{"a\\"model":2}', None),
    (b'{"x":1,"x":2,"model":"a"}', b'"a"'),
    (b'{"x":1,"model":"a","y":{"model":2},"x":2}', b'"a"'),
    (b'{"\\u0061bc":1,"model":"a","y":{"model":"a"}}', b'"a"'),
    ('{"é":1,"model":"a"}'.encode(), b'"a"'),
    (b"{}", None),
    (b'{"x":{"model":1}}', None),
    (b'{"x":1,"x":{"model":1}}', None),
]

TWICE = [
    b'{"model":"a","model":"b"}',
    b'{"model":"a","x":1,"model":"a"}',
    b'{"model":"a","mod\\u0065l":"b"}',
    b'{"mod\\u0065l":"a","model":"b"}',
    b'{"mod\\u0065l":"a","m\\u006fdel":"b"}',
    b'{"mod\\u0065l":"b"}',
    b'{"x":{"model":"b"},"mod\\u0065l":"b"}',
    b'{"model":"a","y":{"model":1},"\\u006dodel":0}',
    b'{"x":[{"model":1}],"model":"a","model":1}',
    b'{"a\\"model":1,"mod\\u0065l":"b"}',
]

NOT_OBJECTS = [
    b"",
    b"[]",
    b'"model"',
    b"{",
    b'{"model":NaN}',
    b'{"model":1} x',
    b'{"model":1}{}',
    b'{"a":"\\ud800"}',
    b"{'model':1}",
    b'{"model":1,}',
    b'{"a":' + b"[" * 100_000,
    b"\xff\xfe{\x00}\x00",
]


@pytest.fixture(params=["walk", "markers"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every case both ways: by the walk, and as if each body were too dense for it."""
    if request.param == "markers":
        monkeypatch.setattr(splice, "DENSE_BYTES_MIN", -1)
        monkeypatch.setattr(splice, "DENSE_COMMAS_MAX", -1)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize(("body", "value"), FOUND)
def test_the_top_level_value_is_found(body: bytes, value: bytes | None) -> None:
    span = find_value(body, "model")
    assert (None if span is None else body[slice(*span)]) == value
    reject_duplicates(body, ["model", "max_tokens"])


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("body", TWICE)
def test_a_key_that_is_there_twice_or_escaped_is_refused(body: bytes) -> None:
    for call in (lambda: find_value(body, "model"), lambda: reject_duplicates(body, ["stream", "model"])):
        with pytest.raises(ClientError, match="rite the key plainly") as caught:
            call()
        assert (caught.value.code, caught.value.param) == ("invalid_request", "model")
        assert "model" in caught.value.message
    reject_duplicates(body, ["stream"])


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("body", NOT_OBJECTS)
def test_what_is_no_object_is_refused(body: bytes) -> None:
    with pytest.raises(ClientError) as caught:
        find_value(body, "model")
    assert caught.value.code == "invalid_request"


def test_a_key_that_is_not_utf8_is_refused() -> None:
    with pytest.raises(ClientError, match="UTF-8"):
        find_value(b'{"\xff":1}', "model")


def test_a_body_that_lies_about_its_walk_is_not_believed() -> None:
    # Walked by the *lengths* of the values alone, this is a proper object: the last model's length, counted from the first one,
    # leads into the blanks inside the last, whose `"k":7}` is then taken for the member k.
    body = b'{"model":1,"k":77,"model":{"a":1' + b" " * 12 + b',"k":7}}'
    with pytest.raises(ClientError):
        find_value(body, "model")


def test_too_many_keys_are_refused_and_not_counted_for_ever() -> None:
    body = b'{"x":1,"x":[' + b",".join([b'{"model":1}'] * 20_000) + b'],"model":"a"}'
    with pytest.raises(ClientError, match="too many"):
        find_value(body, "model")


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"{}", b'{"k":1}'),
        (b"{ }", b'{"k":1 }'),
        (b' {"a":2}', b' {"k":1,"a":2}'),
        (b'\xef\xbb\xbf\n{\n"a":2}', b'\xef\xbb\xbf\n{"k":1,\n"a":2}'),
    ],
)
def test_a_key_is_put_first(body: bytes, expected: bytes) -> None:
    assert insert_first(body, "k", b"1") == expected


@pytest.mark.parametrize("body", [b"", b"[]", b"x{}"])
def test_nothing_is_put_into_what_is_no_object(body: bytes) -> None:
    with pytest.raises(ClientError):
        insert_first(body, "k", b"1")


KEYS = st.sampled_from(["model", "x", 'a"model', "é", "max_tokens", "\\", "mod\nel", ""])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.sampled_from(["model", '"model":', 'a"', "claude", "\\", "é\n"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=12,
)


@given(st.dictionaries(KEYS, VALUES), st.sampled_from([None, 1]), st.booleans(), st.sampled_from([(",", ":"), (" , ", ": ")]))
def test_a_replaced_body_differs_in_nothing_else(value: dict[str, Any], indent: int | None, ascii_only: bool, seps: Any) -> None:
    body = json.dumps(value, indent=indent, ensure_ascii=ascii_only, separators=seps).encode()
    replaced = replace_value(body, "model", b'"new"')
    if "model" not in value:
        assert replaced == body
        return
    assert json.loads(replaced) == value | {"model": "new"}
    span = find_value(body, "model")
    assert span is not None
    assert replaced == body[: span[0]] + b'"new"' + body[span[1] :]
    assert splice._find_by_markers(body, "model") == span
    assert json.loads(insert_first(body, "k", b"7")) == value | {"k": 7}


@given(st.lists(st.tuples(st.sampled_from(["model", "mod\\u0065l", "x", "\\u0078", 'y\\"model']), VALUES), max_size=5))
def test_duplicates_are_refused_exactly_when_there_are_some(members: list[tuple[str, Any]]) -> None:
    body = ("{" + ",".join(f'"{key}":{json.dumps(value)}' for key, value in members) + "}").encode()
    plain = sum(key == "model" for key, _ in members)
    escaped = sum(key == "mod\\u0065l" for key, _ in members)
    if escaped or plain > 1:
        with pytest.raises(ClientError):
            find_value(body, "model")
        with pytest.raises(ClientError):
            reject_duplicates(body, ["model"])
    else:
        assert (find_value(body, "model") is not None) == bool(plain)
        reject_duplicates(body, ["model"])


def test_a_real_body_keeps_every_other_byte() -> None:
    value = claude_code(100_000)
    value["model"] = value.pop("model")  # last, behind the tools that have one of their own
    body = compact(value)
    assert body.count(b'"model":') > 5
    replaced = replace_value(body, "model", b'"m"')
    assert replaced == body.replace(b'"model":"claude-opus-5-5"', b'"model":"m"')


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"content":[{"input":{"model":"x"}}],"model":"up"}', b'{"content":[{"input":{"model":"x"}}],"model":"pub\\"lic"}'),
        (b"<html>", b"<html>"),
        (b'{"model":1,"model":2}', b'{"model":1,"model":2}'),
        (b'{"type":"error"}', b'{"type":"error"}'),
    ],
)
def test_an_answer_gets_the_public_name(body: bytes, expected: bytes) -> None:
    assert rename_answer_model(body, 'pub"lic') == expected


START = b'event: message_start\ndata: {"model":"no","message":{"x":{"model":"no"},"model":"up","usage":{}}}\n\n'


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        (START, START.replace(b'"up"', b'"pub"')),
        (START.replace(b"\n", b"\r\n"), START.replace(b"\n", b"\r\n").replace(b'"up"', b'"pub"')),
        (b": c\n" + START, (b": c\n" + START).replace(b'"up"', b'"pub"')),
        (b'data: {"message":\ndata: {"model":"up"}}\n\n', None),
        (b'event: x\ndata: {"message":{}}\n\n', None),
        (b'event: x\ndata: {"message":"text"}\n\n', None),
        (b"event: x\ndata: [\n\n", None),
        (b": ping\n\n", None),
    ],
)
def test_a_message_start_gets_the_public_name(event: bytes, expected: bytes | None) -> None:
    assert rename_message_start(event, "pub") == (event if expected is None else expected)
