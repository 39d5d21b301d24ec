"""There and back: a request that crosses to the other dialect and returns still asks for the same."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.wire import anthropic_to_openai, openai_to_anthropic

Json = dict[str, Any]

words = st.text('abc äñ漢🙂\n"\\{}<>', min_size=1, max_size=12).filter(lambda text: text.strip() != "")
names = st.sampled_from(["Read", "Bash", "get_weather"])
values = st.dictionaries(words, st.integers(-5, 5) | words | st.none() | st.lists(st.booleans(), max_size=2), max_size=3)
PIXEL = "iVBORw0KGgo="


def to_openai(body: Json) -> Json:
    translated = anthropic_to_openai.translate_request(json.dumps(body).encode(), model="gpt-x", max_output_tokens=64_000)
    return dict(json.loads(translated))


def to_anthropic(body: Json) -> Json:
    translated = openai_to_anthropic.translate_request(
        json.dumps(body).encode(), model="claude-sonnet-4-5", max_tokens_default=0, model_max_tokens=64_000
    )
    return dict(json.loads(translated))


def said(blocks: Any) -> str:
    if isinstance(blocks, str):
        return blocks.strip()
    return "\n\n".join(block["text"] for block in blocks or () if block.get("type") == "text").strip()


def meaning_of_anthropic(body: Json) -> Json:
    """What is said by whom, what is called with what, and which call each result answers; ids by the order of the calls."""
    order: dict[str, int] = {}
    turns: list[Any] = []
    for message in body["messages"]:
        content = message["content"]
        blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
        for block in blocks:
            kind = block["type"]
            if kind == "tool_use":
                order[block["id"]] = len(order)
                turns.append(("call", order[block["id"]], block["name"], block["input"]))
            elif kind == "tool_result":
                turns.append(("result", order[block["tool_use_id"]], said(block.get("content"))))
            elif kind == "image":
                turns.append(("image", message["role"], block["source"].get("data") or block["source"].get("url")))
            elif kind == "text" and block["text"].strip():
                turns.append(("text", message["role"], block["text"].strip()))
    return _meaning(turns, said(body.get("system")), body.get("tools"), "input_schema", body)


def meaning_of_openai(body: Json) -> Json:
    order: dict[str, int] = {}
    turns: list[Any] = []
    system = []
    for message in body["messages"]:
        role, content = message["role"], message.get("content")
        if role in ("system", "developer"):
            system.append(said(content))
            continue
        if role == "tool":
            turns.append(("result", order[message["tool_call_id"]], said(content)))
            continue
        for part in [{"type": "text", "text": content}] if isinstance(content, str) else content or ():
            if part["type"] == "text" and part["text"].strip():
                turns.append(("text", role, part["text"].strip()))
            elif part["type"] == "image_url":
                turns.append(("image", role, part["image_url"]["url"].rpartition("base64,")[2]))
        for call in message.get("tool_calls") or ():
            order[call["id"]] = len(order)
            turns.append(("call", order[call["id"]], call["function"]["name"], json.loads(call["function"]["arguments"])))
    tools = [tool["function"] for tool in body.get("tools") or ()]
    return _meaning(turns, "\n\n".join(system).strip(), tools, "parameters", body)


def _meaning(turns: list[Any], system: str, tools: Any, schema: str, body: Json) -> Json:
    # Texts of one role that stand side by side are one text, however many blocks they came in.
    merged: list[Any] = []
    for turn in turns:
        if merged and turn[0] == "text" and merged[-1][:2] == turn[:2]:
            merged[-1] = (*turn[:2], merged[-1][2] + "\n" + turn[2])
        else:
            merged.append(turn)
    squeezed = [(*turn[:2], "".join(turn[2].split())) if turn[0] in ("text", "result") else turn for turn in merged]
    return {
        "turns": squeezed,
        "system": "".join(system.split()),
        "tools": [(tool["name"], tool.get("description"), tool[schema]) for tool in tools or ()],
        "stream": body.get("stream", False),
    }


TOOLS = [
    {"name": name, "description": f"Does {name}", "input_schema": {"type": "object", "properties": {"x": {"type": "string"}}}}
    for name in ("Read", "Bash", "get_weather")
]


@st.composite
def anthropic_requests(draw: st.DrawFn) -> Json:
    messages: list[Json] = []
    asked: list[str] = []
    for number in range(draw(st.integers(1, 4))):
        results = [{"type": "tool_result", "tool_use_id": each, "content": draw(words)} for each in asked]
        extra = draw(st.lists(words.map(lambda text: {"type": "text", "text": text}), min_size=0 if results else 1, max_size=2))
        image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PIXEL}}
        messages.append({"role": "user", "content": [*results, *extra, *([image] if draw(st.booleans()) else [])]})
        asked = [f"toolu_{number}_{place}" for place in range(draw(st.integers(0, 2)))]
        blocks: list[Json] = [{"type": "text", "text": draw(words)}] if draw(st.booleans()) or not asked else []
        blocks += [{"type": "tool_use", "id": each, "name": draw(names), "input": draw(values)} for each in asked]
        messages.append({"role": "assistant", "content": blocks})
    closing: list[Json] = [{"type": "tool_result", "tool_use_id": each, "content": draw(words)} for each in asked]
    messages.append({"role": "user", "content": [*closing, {"type": "text", "text": draw(words)}]})
    body: Json = {"model": "m", "max_tokens": draw(st.integers(1, 9_000)), "messages": messages, "tools": TOOLS}
    if draw(st.booleans()):
        body["system"] = draw(words | st.lists(words.map(lambda text: {"type": "text", "text": text}), min_size=1, max_size=2))
    if draw(st.booleans()):
        body["stream"] = True
    if draw(st.booleans()):
        body["stop_sequences"] = draw(st.lists(words, min_size=1, max_size=3, unique=True))
    if draw(st.booleans()):
        body["tool_choice"] = draw(
            st.sampled_from([{"type": "auto"}, {"type": "any"}, {"type": "tool", "name": "Bash"}, {"type": "none"}])
        )
    return body


@settings(max_examples=200, deadline=None)
@given(anthropic_requests())
def test_an_anthropic_request_comes_back_as_it_went(body: Json) -> None:
    crossed = to_openai(body)
    # Halfway it says the same, too.
    assert meaning_of_openai(crossed) == meaning_of_anthropic(body)
    back = to_anthropic(crossed)
    assert meaning_of_anthropic(back) == meaning_of_anthropic(body)
    assert back["max_tokens"] == body["max_tokens"]
    assert back.get("stop_sequences", []) == body.get("stop_sequences", [])
    assert back.get("tool_choice", {"type": "auto"})["type"] == body.get("tool_choice", {"type": "auto"})["type"]


@st.composite
def openai_requests(draw: st.DrawFn) -> Json:
    messages: list[Json] = [{"role": "system", "content": draw(words)}] if draw(st.booleans()) else []
    asked: list[str] = []
    for number in range(draw(st.integers(1, 4))):
        messages += [{"role": "tool", "tool_call_id": each, "content": draw(words)} for each in asked]
        parts: list[Json] = [{"type": "text", "text": draw(words)}]
        if draw(st.booleans()):
            parts.append({"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}"}})
        messages.append({"role": "user", "content": draw(words) if draw(st.booleans()) else parts})
        asked = [f"call_{number}_{place}" for place in range(draw(st.integers(0, 2)))]
        message: Json = {"role": "assistant", "content": draw(words) if draw(st.booleans()) or not asked else None}
        if asked:
            message["tool_calls"] = [
                {"id": each, "type": "function", "function": {"name": draw(names), "arguments": json.dumps(draw(values))}}
                for each in asked
            ]
        messages.append(message)
    messages += [{"role": "tool", "tool_call_id": each, "content": draw(words)} for each in asked]
    messages.append({"role": "user", "content": draw(words)})
    functions = [{"name": tool["name"], "description": tool["description"], "parameters": tool["input_schema"]} for tool in TOOLS]
    body: Json = {
        "model": "m",
        "messages": messages,
        "tools": [{"type": "function", "function": function} for function in functions],
        "max_tokens": draw(st.integers(1, 9_000)),
    }
    if draw(st.booleans()):
        body["tool_choice"] = draw(
            st.sampled_from(["auto", "none", "required", {"type": "function", "function": {"name": "Bash"}}])
        )
    if draw(st.booleans()):
        body["stop"] = draw(st.lists(words, min_size=1, max_size=4, unique=True))
    return body


@settings(max_examples=200, deadline=None)
@given(openai_requests())
def test_an_openai_request_comes_back_as_it_went(body: Json) -> None:
    crossed = to_anthropic(body)
    assert meaning_of_anthropic(crossed) == meaning_of_openai(body)
    back = to_openai(crossed)
    assert meaning_of_openai(back) == meaning_of_openai(body)
    assert back["max_tokens"] == body["max_tokens"]
    assert back.get("stop", []) == body.get("stop", [])
    assert back.get("tool_choice", "auto") == body.get("tool_choice", "auto")
