"""The demo answers as a provider would: same numbers streamed or not, limits respected, malformed requests refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gateway.errors import UpstreamError
from gateway.upstreams.demo import PACE_S, DemoIncoming, DemoProvider, DemoTransport

TOOL = {
    "name": "write_file",
    "input_schema": {
        "type": "object",
        "properties": {
            "path": {"type": "string"},
            "mode": {"enum": ["w", "a"]},
            "lines": {"type": "integer", "minimum": 3},
            "tags": {"type": "array", "minItems": 2, "items": {"type": "boolean"}},
            "note": {"anyOf": [{"type": "null"}, {"type": "string"}]},
            "at": {"$ref": "#/$defs/place"},
            "optional": {"type": "string"},
        },
        "required": ["path", "mode", "lines", "tags", "note", "at"],
        "$defs": {"place": {"type": "object", "properties": {"x": {"type": "number"}}, "required": ["x"]}},
    },
}


class Slept:
    """A sleep that only remembers."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)


def body(text: Any = "Say hi", **fields: Any) -> bytes:
    messages = [{"role": "user", "content": text}]
    return json.dumps({"model": "claude-sonnet-5-5", "max_tokens": 1000, "messages": messages} | fields).encode()


async def opened(raw: bytes, operation: Any = "messages", sleep: Any = None) -> DemoIncoming:
    outgoing = DemoProvider().address(operation, "beta=true", [("x-api-key", "k")], raw, stream=False)
    return await DemoTransport(sleep or Slept()).open(outgoing, connect_s=1, head_s=1)


async def read(incoming: DemoIncoming) -> list[bytes]:
    parts = []
    while part := await incoming.read():
        parts.append(part)
    return parts


async def whole(raw: bytes, operation: Any = "messages") -> Any:
    incoming = await opened(raw, operation)
    assert ("content-type", "application/json") in incoming.headers
    return json.loads(b"".join(await read(incoming)))


async def streamed(raw: bytes) -> list[Any]:
    incoming = await opened(json.dumps(json.loads(raw) | {"stream": True}).encode())
    assert ("content-type", "text/event-stream; charset=utf-8") in incoming.headers
    events = []
    for part in await read(incoming):
        name, data, *end = part.decode().split("\n")
        fields = json.loads(data.removeprefix("data: "))
        assert (name, end) == (f"event: {fields['type']}", ["", ""])
        events.append(fields)
    return events


def assembled(events: list[Any]) -> Any:
    """The message that a client puts together from a stream."""
    message = events[0]["message"]
    block = dict(events[1]["content_block"])
    text = partial = ""
    for event in events:
        if event["type"] == "content_block_delta":
            text += event["delta"].get("text", "")
            partial += event["delta"].get("partial_json", "")
    block |= {"text": text} if block["type"] == "text" else {"input": json.loads(partial)}
    return message | events[-2]["delta"] | {"content": [block], "usage": events[-2]["usage"]}


CASES = {
    "plain": body("Say hi"),
    "long": body("word " * 200),
    "not latin": body("日本語のテキスト 🙂" * 10, max_tokens=40),
    "cut": body(max_tokens=7),
    "stopped": body(stop_sequences=["demo", "model"]),
    "tool": body("please USE THE TOOL", tools=[TOOL]),
    "forced": body(tools=[{"type": "web_search_20250305", "name": "web_search"}, TOOL], tool_choice={"type": "any"}),
    "tool does not fit": body(tools=[TOOL], tool_choice={"type": "any"}, max_tokens=2),
    "blocks": body([{"type": "text", "text": "<reminder>"}, {"type": "text", "text": "Hello there"}], system="Be brief."),
    "json": body(output_config={"format": {"type": "json_schema", "schema": TOOL["input_schema"]}}),
}


@pytest.mark.parametrize("raw", CASES.values(), ids=CASES.keys())
async def test_streamed_or_not_it_is_the_same_message(raw: bytes) -> None:
    plain, events = await whole(raw), await streamed(raw)
    kinds = [event["type"] for event in events]
    assert kinds[:3] == ["message_start", "content_block_start", "ping"]
    assert kinds[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    assert set(kinds[3:-3]) <= {"content_block_delta"}
    told = assembled(events)
    for message in (plain, told):
        assert message.pop("id").startswith("msg_demo_")
        message["content"][0].pop("id", None)
    assert told == plain
    assert plain["model"] == "claude-sonnet-5-5"
    assert 1 <= plain["usage"]["output_tokens"] <= json.loads(raw)["max_tokens"]


async def test_the_same_request_gets_the_same_answer() -> None:
    assert await whole(body()) == await whole(body())
    assert (await whole(body()))["id"] != (await whole(body("Other")))["id"]


async def test_it_says_that_it_is_a_demo_and_echoes_a_little() -> None:
    message = await whole(body("word " * 200))
    text = message["content"][0]["text"]
    assert "demo" in text and "1 message," in text
    assert text.count("word") == 16
    blocks = await whole(CASES["blocks"])
    assert "Hello there" in blocks["content"][0]["text"] and "reminder" not in blocks["content"][0]["text"]


async def test_tokens_are_a_quarter_of_the_bytes() -> None:
    message = await whole(body("x" * 400, system="y" * 40))
    assert message["usage"]["input_tokens"] == (400 + 40 + len("user") + len("") + 3) // 4
    assert message["usage"]["output_tokens"] == -(-len(message["content"][0]["text"]) // 4)
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "A" * 100_000}}
    assert (await whole(body([image])))["usage"]["input_tokens"] < 20


async def test_counting_agrees_with_what_is_billed() -> None:
    raw = body("x" * 400)
    uncapped = json.dumps({key: value for key, value in json.loads(raw).items() if key != "max_tokens"}).encode()
    assert await whole(uncapped, "count_tokens") == {"input_tokens": (await whole(raw))["usage"]["input_tokens"]}


async def test_max_tokens_and_stop_sequences() -> None:
    cut = await whole(CASES["cut"])
    assert (cut["stop_reason"], cut["usage"]["output_tokens"], len(cut["content"][0]["text"])) == ("max_tokens", 7, 28)
    stopped = await whole(CASES["stopped"])
    assert (stopped["stop_reason"], stopped["stop_sequence"]) == ("stop_sequence", "demo")
    assert stopped["content"][0]["text"] == "This is PageGrid's built-in "
    at_once = await whole(body(stop_sequences=["This", ""]))
    assert (at_once["content"][0]["text"], at_once["usage"]["output_tokens"]) == ("", 1)
    assert (await whole(body(stop_sequences=["model"], max_tokens=3)))["stop_reason"] == "max_tokens"


async def test_a_tool_is_called_with_what_its_schema_requires() -> None:
    message = await whole(CASES["tool"])
    assert message["stop_reason"] == "tool_use"
    block = message["content"][0]
    assert block["name"] == "write_file" and block["id"].startswith("toolu_demo_")
    assert block["input"] == {"path": "demo", "mode": "w", "lines": 3, "tags": [False, False], "note": None, "at": {"x": 1}}


@pytest.mark.parametrize(
    "raw",
    [
        body("hello", tools=[TOOL]),
        body("use the tool"),
        body("use the tool", tools=[TOOL], tool_choice={"type": "none"}),
        body("use the tool", tools=[TOOL], tool_choice={"type": "tool", "name": "other"}),
        body("use the tool", tools=[{"type": "web_search_20250305", "name": "web_search"}]),
        body([{"type": "tool_result", "tool_use_id": "toolu_1", "content": "done"}], tools=[TOOL], tool_choice={"type": "any"}),
    ],
)
async def test_otherwise_it_answers_in_words(raw: bytes) -> None:
    assert (await whole(raw))["content"][0]["type"] == "text"


async def test_a_schema_that_never_ends_is_given_up() -> None:
    again = {"$ref": "#/$defs/n"}
    properties = {"a": again, "b": {"type": "array", "minItems": 10, "items": again}}
    node = {"type": "object", "required": ["a", "b"], "properties": properties}
    tool = {"name": "t", "input_schema": {"$defs": {"n": node}, **again}}
    message = await whole(body(tools=[tool], tool_choice={"type": "any"}, max_tokens=100_000))
    assert message["stop_reason"] == "tool_use" and len(json.dumps(message)) < 10_000


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (b"{", "not valid JSON"),
        (b"[]", "valid dictionary"),
        (b"{}", "model: Field required"),
        (b'{"model":1}', "model: Input"),
        (body(max_tokens=None), "max_tokens: Input"),
        (body(max_tokens=True), "max_tokens: Input"),
        (body(max_tokens=0), "greater than or equal to 1"),
        (b'{"model":"m"}', "max_tokens: Field required"),
        (b'{"model":"m","max_tokens":1}', "messages: Field required"),
        (body(messages="hi"), "messages: Input"),
        (body(messages=[]), "at least one message"),
        (body(messages=["hi"]), "messages.0.role"),
        (body(messages=[{"role": "user", "content": "a"}, {"role": "robot"}]), "messages.1.role"),
        (body(messages=[{"role": "user"}]), "messages.0.content"),
    ],
)
async def test_malformed_requests_are_refused_as_the_provider_does(raw: bytes, says: str) -> None:
    incoming = await opened(raw)
    assert incoming.status == 400
    error = json.loads(b"".join(await read(incoming)))
    assert error["type"] == "error" and error["error"]["type"] == "invalid_request_error"
    assert says in error["error"]["message"]


async def test_a_prompt_beyond_the_context_window_is_refused_as_the_provider_does() -> None:
    too_long = body("x" * 4 * 1_000_000)
    refused = await opened(too_long)
    error = json.loads(b"".join(await read(refused)))["error"]
    assert (refused.status, error["type"]) == (400, "invalid_request_error")
    assert error["message"].startswith("prompt is too long: 10000") and error["message"].endswith(" tokens > 1000000 maximum")
    assert (await whole(too_long, "count_tokens"))["input_tokens"] > 1_000_000
    small = DemoTransport(Slept(), context_tokens=10)
    for text, status in (("x" * 30, 200), ("x" * 60, 400)):
        outgoing = DemoProvider().address("messages", "", [], body(text), stream=False)
        assert (await small.open(outgoing, connect_s=1, head_s=1)).status == status


@pytest.mark.parametrize(
    "odd",
    [
        {"system": 1},
        {"tools": {"a": 1}},
        {"tools": [None, {"name": 1, "input_schema": {}}]},
        {"tool_choice": "any", "tools": [TOOL]},
        {"tools": [{"name": "t", "input_schema": {"type": [], "required": 1}}], "tool_choice": {"type": "any"}},
        {"tools": [{"name": "t", "input_schema": {"$ref": "#/a/b"}}], "tool_choice": {"type": "any"}},
        {"stop_sequences": [1, None]},
        {"output_config": {"format": "json"}},
        {"messages": [{"role": "user", "content": [1, {"type": "text"}, {"type": "text", "text": 5}]}]},
        {"messages": [{"role": "assistant", "content": "only me"}]},
    ],
)
async def test_odd_fields_do_no_harm(odd: dict[str, Any]) -> None:
    assert (await whole(body(**odd)))["type"] == "message"


async def test_a_stream_has_a_natural_pace() -> None:
    slept = Slept()
    incoming = await opened(body(stream=True), sleep=slept)
    parts = await read(incoming)
    assert slept.seconds == [PACE_S] * len(parts)


async def test_abort_ends_it() -> None:
    incoming = await opened(body(stream=True))
    await incoming.read()
    incoming.abort()
    with pytest.raises(UpstreamError) as caught:
        await incoming.read()
    assert caught.value.reason == "aborted"


def test_it_forwards_and_shows_nothing() -> None:
    provider = DemoProvider()
    assert provider.address("messages", "a=b", [("authorization", "x")], b"{}", stream=True).headers == ()
    assert provider.response_headers([("content-type", "a"), ("request-id", "b")]) == [("content-type", "a")]
