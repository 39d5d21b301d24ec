"""Requests: tables of fields and messages, what is refused, and generated conversations under the anthropic SDK's own types."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any, get_args

import anthropic.types
import msgspec
import pytest
from anthropic.types.message_create_params import MessageCreateParamsNonStreaming, MessageCreateParamsStreaming
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ConfigDict, TypeAdapter
from typing_extensions import is_typeddict

from gateway.errors import ClientError
from gateway.wire import openai_to_anthropic as translation
from gateway.wire.openai_to_anthropic import CARRIED, DROPPED, REFUSED, Request, asks_for_functions, translate_request
from gateway.wire.openai_to_anthropic_fields import HARMLESS

HI = [{"role": "user", "content": "hi"}]
HI_OUT = [{"role": "user", "content": [{"type": "text", "text": "hi"}]}]
OPUS, HAIKU_45, SONNET_46, OPUS_48 = "claude-opus-5-5", "claude-haiku-4-5", "claude-sonnet-4-6", "claude-opus-4-8"
PNG = base64.b64encode(b"\x89PNG").decode()
PDF = base64.b64encode(b"%PDF-1.7").decode()
TEXT = base64.b64encode("é, 1".encode()).decode()
WEATHER = {
    "type": "function",
    "function": {"name": "weather", "description": "how it is", "parameters": {"type": "object", "properties": {}}},
}
CLOCK = {"type": "function", "function": {"name": "clock"}}
WEATHER_OUT = {"name": "weather", "description": "how it is", "input_schema": {"type": "object", "properties": {}}}
CLOCK_OUT = {"name": "clock", "input_schema": {"type": "object", "properties": {}}}


def translate(model: str = OPUS, **changes: Any) -> dict[str, Any]:
    body = {"model": "public", "messages": HI} | changes
    translated: dict[str, Any] = json.loads(
        translate_request(json.dumps(body).encode(), model=model, max_tokens_default=0, model_max_tokens=64_000)
    )
    assert translated.pop("model") == model
    return translated


def refusal(**changes: Any) -> ClientError:
    with pytest.raises(ClientError) as raised:
        translate(**changes)
    assert raised.value.code == "invalid_request"
    assert raised.value.param
    assert raised.value.message.startswith(f"{raised.value.param}: ")
    return raised.value


def call(identity: str, name: str = "weather", arguments: str = "{}") -> dict[str, Any]:
    return {"id": identity, "type": "function", "function": {"name": name, "arguments": arguments}}


def text(said: str, **more: Any) -> dict[str, Any]:
    return {"type": "text", "text": said, **more}


FORMAT = {
    "type": "json_schema",
    "json_schema": {"name": "n", "strict": True, "schema": {"type": "object", "additionalProperties": False}},
}

# (model, fields of the request, what they become)
FIELDS: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    (OPUS, {}, {}),
    (OPUS, {"stream": True, "stream_options": {"include_usage": True}}, {"stream": True}),
    (OPUS, {"stream": False}, {}),
    (OPUS, {"max_tokens": 5}, {"max_tokens": 5}),
    (OPUS, {"max_tokens": 5, "max_completion_tokens": 6}, {"max_tokens": 6}),
    (OPUS, {"max_tokens": None, "max_completion_tokens": 99_999_999}, {"max_tokens": 64_000}),
    (HAIKU_45, {"temperature": 0}, {"temperature": 0}),
    (HAIKU_45, {"temperature": 0.5, "top_p": 0.9}, {"temperature": 0.5, "top_p": 0.9}),
    (HAIKU_45, {"temperature": 1.7, "top_p": 1}, {}),
    (HAIKU_45, {"temperature": 1.0}, {}),
    (OPUS, {"temperature": 0, "top_p": 0.5}, {}),
    ("other-model", {"temperature": 0.2}, {"temperature": 0.2}),
    (
        SONNET_46,
        {"temperature": 0.2, "reasoning_effort": "low"},
        {"thinking": {"type": "adaptive"}, "output_config": {"effort": "low"}},
    ),
    (OPUS, {"stop": "END"}, {"stop_sequences": ["END"]}),
    (OPUS, {"stop": ["a", "b\n"]}, {"stop_sequences": ["a", "b\n"]}),
    (OPUS, {"stop": []}, {}),
    (OPUS, {"user": "u"}, {"metadata": {"user_id": "u"}}),
    (OPUS, {"user": "u", "safety_identifier": "s"}, {"metadata": {"user_id": "s"}}),
    (OPUS, {"response_format": {"type": "text"}}, {}),
    (
        OPUS,
        {"response_format": FORMAT, "reasoning_effort": "high"},
        {"output_config": {"format": {"type": "json_schema", "schema": FORMAT["json_schema"]["schema"]}, "effort": "high"}},  # type: ignore[index]
    ),
    # thinking
    (OPUS, {"reasoning_effort": "minimal"}, {"output_config": {"effort": "low"}}),
    (OPUS, {"reasoning_effort": "max"}, {"output_config": {"effort": "max"}}),
    (OPUS, {"reasoning_effort": "none"}, {"output_config": {"effort": "low"}}),
    ("claude-opus-5", {"reasoning_effort": "none"}, {"thinking": {"type": "disabled"}}),
    ("claude-sonnet-5-5", {"reasoning_effort": "none"}, {"thinking": {"type": "between_tools"}}),
    (OPUS_48, {"reasoning_effort": "none"}, {}),
    (OPUS_48, {"reasoning_effort": "xhigh"}, {"thinking": {"type": "adaptive"}, "output_config": {"effort": "xhigh"}}),
    (SONNET_46, {"reasoning_effort": "xhigh"}, {"thinking": {"type": "adaptive"}, "output_config": {"effort": "high"}}),
    (HAIKU_45, {"reasoning_effort": "none"}, {}),
    (HAIKU_45, {"reasoning_effort": "low"}, {"thinking": {"type": "enabled", "budget_tokens": 12_800}}),
    (HAIKU_45, {"reasoning_effort": "high"}, {"thinking": {"type": "enabled", "budget_tokens": 32_000}}),
    (
        HAIKU_45,
        {"reasoning_effort": "low", "max_tokens": 2_048},
        {"max_tokens": 2_048, "thinking": {"type": "enabled", "budget_tokens": 1_024}},
    ),
    (HAIKU_45, {"reasoning_effort": "max", "max_tokens": 2_047}, {"max_tokens": 2_047}),
    (HAIKU_45, {"reasoning_effort": "low", "temperature": 0.3}, {"thinking": {"type": "enabled", "budget_tokens": 12_800}}),
    (
        OPUS,
        {"thinking": {"type": "adaptive", "display": "summarized"}},
        {"thinking": {"type": "adaptive", "display": "summarized"}},
    ),
    (
        HAIKU_45,
        {"thinking": {"type": "enabled", "budget_tokens": 2_000}},
        {"thinking": {"type": "enabled", "budget_tokens": 2_000}},
    ),
    (HAIKU_45, {"thinking": {"type": "disabled"}, "temperature": 0.5}, {"thinking": {"type": "disabled"}, "temperature": 0.5}),
    # tools
    (OPUS, {"tools": [WEATHER, CLOCK]}, {"tools": [WEATHER_OUT, CLOCK_OUT]}),
    (OPUS, {"tools": []}, {}),
    (
        OPUS,
        {
            "tools": [
                {"type": "function", "function": CLOCK["function"] | {"strict": True, "parameters": {"properties": {"a": {}}}}}
            ]
        },  # type: ignore[operator]
        {"tools": [{"name": "clock", "strict": True, "input_schema": {"type": "object", "properties": {"a": {}}}}]},
    ),
    (OPUS, {"tools": [CLOCK], "tool_choice": "auto"}, {"tools": [CLOCK_OUT]}),
    (OPUS, {"tools": [CLOCK], "tool_choice": "none"}, {"tools": [CLOCK_OUT], "tool_choice": {"type": "none"}}),
    (OPUS, {"tools": [CLOCK], "tool_choice": "required"}, {"tools": [CLOCK_OUT], "tool_choice": {"type": "any"}}),
    (
        OPUS,
        {"tools": [CLOCK], "tool_choice": {"type": "function", "function": {"name": "clock"}}},
        {"tools": [CLOCK_OUT], "tool_choice": {"type": "tool", "name": "clock"}},
    ),
    (
        OPUS,
        {
            "tools": [WEATHER, CLOCK],
            "tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [CLOCK]}},
        },
        {"tools": [CLOCK_OUT], "tool_choice": {"type": "any"}},
    ),
    (OPUS, {"tools": [CLOCK], "parallel_tool_calls": True}, {"tools": [CLOCK_OUT]}),
    (
        OPUS,
        {"tools": [CLOCK], "parallel_tool_calls": False},
        {"tools": [CLOCK_OUT], "tool_choice": {"type": "auto", "disable_parallel_tool_use": True}},
    ),
    (
        OPUS,
        {"tools": [CLOCK], "parallel_tool_calls": False, "tool_choice": "required"},
        {"tools": [CLOCK_OUT], "tool_choice": {"type": "any", "disable_parallel_tool_use": True}},
    ),
    (
        OPUS,
        {"tools": [CLOCK], "parallel_tool_calls": False, "tool_choice": "none"},
        {"tools": [CLOCK_OUT], "tool_choice": {"type": "none"}},
    ),
    (OPUS, {"tool_choice": "none", "parallel_tool_calls": False}, {}),
    (
        OPUS,
        {"functions": [WEATHER["function"]], "function_call": {"name": "weather"}},
        {"tools": [WEATHER_OUT], "tool_choice": {"type": "tool", "name": "weather", "disable_parallel_tool_use": True}},
    ),
    # A forced tool and thinking refuse each other.
    (
        SONNET_46,
        {"tools": [CLOCK], "tool_choice": "required", "reasoning_effort": "high"},
        {"tools": [CLOCK_OUT], "tool_choice": {"type": "any"}, "output_config": {"effort": "high"}},
    ),
    (
        HAIKU_45,
        {"tools": [CLOCK], "tool_choice": "required", "reasoning_effort": "high", "temperature": 0.5},
        {"tools": [CLOCK_OUT], "tool_choice": {"type": "any"}, "temperature": 0.5},
    ),
    (
        OPUS,
        {"tools": [CLOCK | {"cache_control": {"type": "ephemeral"}}]},
        {"tools": [CLOCK_OUT | {"cache_control": {"type": "ephemeral"}}]},
    ),
    *((OPUS, {field: None}, {}) for field in Request.__struct_fields__ if field not in ("messages", "model")),
    *((OPUS, {field: value}, {}) for field, values in HARMLESS.items() for value in values),
    *((OPUS, {field: value}, {}) for field in DROPPED if "." not in field for value in ("x", 7, {"a": [True]})),
]


@pytest.mark.parametrize(("model", "given_fields", "expected"), FIELDS)
def test_a_field_becomes_what_the_page_says(model: str, given_fields: dict[str, Any], expected: dict[str, Any]) -> None:
    translated = translate(model, **given_fields)
    assert translated == {"max_tokens": 64_000, "messages": HI_OUT} | expected
    check(translated, model)


LATER = {"role": "system", "content": "from now on"}
ASSISTANT = {"role": "assistant", "content": "yes"}
USER_OUT = {"role": "user", "content": [text("hi")]}
ASSISTANT_OUT = {"role": "assistant", "content": [text("yes")]}
RESULT = {"type": "tool_result", "tool_use_id": "a", "content": [text("sunny")]}
USE = {"type": "tool_use", "id": "a", "name": "weather", "input": {}}
SIGNED = {"type": "thinking", "thinking": "hm", "signature": "sig"}

# (messages, system, messages of the translation), for a model that takes system messages later on
MESSAGES: dict[str, tuple[list[dict[str, Any]], list[dict[str, Any]], list[dict[str, Any]]]] = {
    "leading instructions": (
        [{"role": "system", "content": "a"}, {"role": "developer", "content": [text("b"), text("c")]}, *HI],
        [text("a"), text("b"), text("c")],
        [USER_OUT],
    ),
    "a later instruction": ([*HI, LATER], [], [USER_OUT, {"role": "system", "content": [text("from now on")]}]),
    "a later instruction before its turn": (
        [*HI, ASSISTANT, LATER, {"role": "developer", "content": "and"}, *HI, ASSISTANT],
        [],
        [USER_OUT, ASSISTANT_OUT, USER_OUT, {"role": "system", "content": [text("from now on"), text("and")]}, ASSISTANT_OUT],
    ),
    "an instruction between two answers": (
        [*HI, ASSISTANT, LATER, ASSISTANT],
        [],
        [USER_OUT, ASSISTANT_OUT, {"role": "user", "content": [text("from now on")]}, ASSISTANT_OUT],
    ),
    "an instruction after the last answer": (
        [*HI, ASSISTANT, LATER],
        [],
        [USER_OUT, ASSISTANT_OUT, {"role": "user", "content": [text("from now on")]}],
    ),
    "an instruction between call and result": (
        [*HI, {"role": "assistant", "tool_calls": [call("a")]}, LATER, {"role": "tool", "tool_call_id": "a", "content": "sunny"}],
        [],
        [
            USER_OUT,
            {"role": "assistant", "content": [USE]},
            {"role": "user", "content": [RESULT]},
            {"role": "system", "content": [text("from now on")]},
        ],
    ),
    "blank texts are left out": (
        [{"role": "system", "content": " "}, {"role": "user", "content": ""}, *HI, {"role": "assistant", "content": "\n"}, *HI],
        [],
        [USER_OUT, USER_OUT],
    ),
    "a blank answer ends no user turn": (
        [*HI, LATER, {"role": "assistant", "content": ""}, *HI],
        [],
        [USER_OUT, USER_OUT, {"role": "system", "content": [text("from now on")]}],
    ),
    "a prefill": ([*HI, ASSISTANT], [], [USER_OUT, ASSISTANT_OUT]),
    "consecutive ones stay": ([*HI, *HI, ASSISTANT, ASSISTANT], [], [USER_OUT, USER_OUT, ASSISTANT_OUT, ASSISTANT_OUT]),
    "a user's name": (
        [
            {"role": "user", "name": "ann", "content": "hi"},
            {"role": "user", "name": "bob", "content": [{"type": "image_url", "image_url": "https://x/y"}]},
        ],
        [],
        [
            {"role": "user", "content": [text("ann: hi")]},
            {"role": "user", "content": [text("bob:"), {"type": "image", "source": {"type": "url", "url": "https://x/y"}}]},
        ],
    ),
    "others' names": (
        [{"role": "system", "name": "s", "content": "a"}, *HI, ASSISTANT | {"name": "robot"}],
        [text("a")],
        [USER_OUT, ASSISTANT_OUT],
    ),
    "images": (
        [
            {
                "role": "user",
                "content": [
                    text("look"),
                    {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}", "detail": "low"}},
                    {"type": "image_url", "image_url": {"url": f"DATA:image/JPG;base64,{PNG}"}},
                    {"type": "image_url", "image_url": {"url": "HTTPS://example.com/a.png"}},
                ],
            }
        ],
        [],
        [
            {
                "role": "user",
                "content": [
                    text("look"),
                    {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}},
                    {"type": "image", "source": {"type": "base64", "media_type": "image/jpeg", "data": PNG}},
                    {"type": "image", "source": {"type": "url", "url": "HTTPS://example.com/a.png"}},
                ],
            }
        ],
    ),
    "files": (
        [
            {
                "role": "user",
                "content": [
                    {"type": "file", "file": {"filename": "a.pdf", "file_data": f"data:application/pdf;base64,{PDF}"}},
                    {"type": "file", "file": {"file_data": PDF}},
                    {"type": "file", "file": {"filename": "a.csv", "file_data": f"data:text/csv;charset=utf-8;base64,{TEXT}"}},
                    {"type": "file", "file": {"file_data": f"data:image/webp;base64,{PNG}"}},
                ],
            }
        ],
        [],
        [
            {
                "role": "user",
                "content": [
                    {
                        "type": "document",
                        "source": {"type": "base64", "media_type": "application/pdf", "data": PDF},
                        "title": "a.pdf",
                    },
                    {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": PDF}},
                    {
                        "type": "document",
                        "source": {"type": "text", "media_type": "text/plain", "data": "é, 1"},
                        "title": "a.csv",
                    },
                    {"type": "image", "source": {"type": "base64", "media_type": "image/webp", "data": PNG}},
                ],
            }
        ],
    ),
    "calls and results": (
        [
            *HI,
            {"role": "assistant", "content": None, "tool_calls": [call("a"), call("b", arguments=' {"x": [1.50, "é"]} ')]},
            {"role": "tool", "tool_call_id": "a", "content": "sunny"},
            {
                "role": "tool",
                "tool_call_id": "b",
                "content": [text("see"), text(""), {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}}],
            },
            {"role": "user", "content": "hi"},
        ],
        [],
        [
            USER_OUT,
            {"role": "assistant", "content": [USE, USE | {"id": "b", "input": {"x": [1.5, "é"]}}]},
            {
                "role": "user",
                "content": [
                    RESULT,
                    {
                        "type": "tool_result",
                        "tool_use_id": "b",
                        "content": [
                            text("see"),
                            {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}},
                        ],
                    },
                ],
            },
            USER_OUT,
        ],
    ),
    "results of two rounds": (
        [
            *HI,
            {"role": "assistant", "content": "yes", "tool_calls": [call("a", arguments="")]},
            {"role": "tool", "tool_call_id": "a", "content": ""},
            {"role": "assistant", "content": "", "tool_calls": [call("a")]},
            {"role": "tool", "tool_call_id": "a", "content": "sunny"},
        ],
        [],
        [
            USER_OUT,
            {"role": "assistant", "content": [text("yes"), USE]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "a"}]},
            {"role": "assistant", "content": [USE]},
            {"role": "user", "content": [RESULT]},
        ],
    ),
    "ids of other makers": (
        [
            {"role": "assistant", "tool_calls": [call("functions.weather:0")]},
            {"role": "tool", "tool_call_id": "functions.weather:0", "content": "sunny"},
        ],
        [],
        [
            {"role": "assistant", "content": [USE | {"id": "functions_weather_0_c8cf4471"}]},
            {"role": "user", "content": [RESULT | {"tool_use_id": "functions_weather_0_c8cf4471"}]},
        ],
    ),
    "the deprecated function_call": (
        [
            *HI,
            {"role": "assistant", "content": None, "function_call": {"name": "weather", "arguments": "{}"}},
            {"role": "function", "name": "weather", "content": "sunny"},
        ],
        [],
        [
            USER_OUT,
            {"role": "assistant", "content": [USE | {"id": "call_1"}]},
            {"role": "user", "content": [RESULT | {"tool_use_id": "call_1"}]},
        ],
    ),
    "refusals": (
        [
            *HI,
            {"role": "assistant", "content": None, "refusal": "no"},
            {"role": "assistant", "content": [{"type": "refusal", "refusal": "never"}]},
        ],
        [],
        [USER_OUT, {"role": "assistant", "content": [text("no")]}, {"role": "assistant", "content": [text("never")]}],
    ),
    "signed thinking, in front": (
        [
            *HI,
            ASSISTANT
            | {
                "reasoning_content": "hm",
                "thinking_blocks": [
                    SIGNED,
                    {"type": "redacted_thinking", "data": "x"},
                    {"type": "thinking", "thinking": "unsigned"},
                ],
                "tool_calls": [call("a")],
            },
            {"role": "tool", "tool_call_id": "a", "content": "sunny"},
        ],
        [],
        [
            USER_OUT,
            {"role": "assistant", "content": [SIGNED, {"type": "redacted_thinking", "data": "x"}, text("yes"), USE]},
            {"role": "user", "content": [RESULT]},
        ],
    ),
    "signed thinking, in its place": (
        [
            *HI,
            ASSISTANT
            | {
                "thinking_blocks": [SIGNED | {"index": 0}, SIGNED | {"index": 3, "signature": "t"}],
                "tool_calls": [call("a"), call("a")],
            },
        ],
        [],
        [USER_OUT, {"role": "assistant", "content": [SIGNED, text("yes"), USE, SIGNED | {"signature": "t"}, USE]}],
    ),
    "unsigned thinking is never text": (
        [
            *HI,
            {
                "role": "assistant",
                "content": None,
                "reasoning_content": "hm",
                "thinking_blocks": [{"type": "thinking", "thinking": "hm"}],
            },
        ],
        [],
        [USER_OUT],
    ),
    "marks of the prompt cache": (
        [
            {"role": "system", "content": "a", "cache_control": {"type": "ephemeral", "ttl": "1h"}},
            {
                "role": "user",
                "content": [
                    text("hi", cache_control={"type": "ephemeral"}),
                    text("b", prompt_cache_breakpoint={"mode": "explicit"}),
                ],
            },
            {"role": "assistant", "tool_calls": [call("a")]},
            {
                "role": "tool",
                "tool_call_id": "a",
                "content": [text("sunny", prompt_cache_breakpoint={"mode": "explicit", "ttl": "30m"})],
            },
        ],
        [text("a", cache_control={"type": "ephemeral", "ttl": "1h"})],
        [
            {
                "role": "user",
                "content": [text("hi", cache_control={"type": "ephemeral"}), text("b", cache_control={"type": "ephemeral"})],
            },
            {"role": "assistant", "content": [USE]},
            {"role": "user", "content": [RESULT | {"cache_control": {"type": "ephemeral", "ttl": "1h"}}]},
        ],
    ),
}


@pytest.mark.parametrize("case", MESSAGES)
def test_messages_become_turns(case: str) -> None:
    messages, system, turns = MESSAGES[case]
    translated = translate(messages=messages)
    assert translated.get("system", []) == system
    assert translated["messages"] == turns
    check(translated, OPUS)


@pytest.mark.parametrize("model", ["claude-sonnet-5", "claude-haiku-4-5-20251001", "other-model"])
def test_a_model_without_later_instructions_gets_them_at_the_front(model: str) -> None:
    translated = translate(model, messages=[{"role": "system", "content": "a"}, *HI, LATER, ASSISTANT, *HI])
    assert translated["system"] == [text("a"), text("from now on")]
    assert translated["messages"] == [USER_OUT, ASSISTANT_OUT, USER_OUT]


def test_tool_input_keeps_its_bytes() -> None:
    arguments = '{"b":1.0,"a" : 12345678901234567890123, "e":"\\u00e9"}'
    body = {"model": "m", "messages": [*HI, {"role": "assistant", "tool_calls": [call("a", arguments=arguments)]}]}
    raw = translate_request(json.dumps(body).encode(), model=OPUS, max_tokens_default=9, model_max_tokens=0)
    assert arguments.encode() in raw


def test_a_budget_is_left_out_where_the_tool_loop_came_back_without_its_thinking() -> None:
    asks = {"role": "assistant", "tool_calls": [call("a")]}
    answers = {"role": "tool", "tool_call_id": "a", "content": "sunny"}
    effort = {"reasoning_effort": "low", "tools": [WEATHER]}
    assert "thinking" not in translate(HAIKU_45, messages=[*HI, asks, answers], **effort)
    assert "thinking" in translate(HAIKU_45, messages=[*HI, asks | {"thinking_blocks": [SIGNED]}, answers], **effort)
    assert "thinking" in translate(HAIKU_45, messages=[*HI, asks, answers, ASSISTANT, *HI], **effort)
    assert "thinking" in translate(OPUS_48, messages=[*HI, asks, answers], **effort)


@pytest.mark.parametrize(
    ("default", "maximum", "expected"), [(100, 0, 100), (100, 64, 64), (0, 64, 64), (100, 200, 100)]
)  # fmt: skip
def test_without_max_tokens_the_default_or_the_models_maximum_counts(default: int, maximum: int, expected: int) -> None:
    body = json.dumps({"model": "m", "messages": HI}).encode()
    assert (
        json.loads(translate_request(body, model=OPUS, max_tokens_default=default, model_max_tokens=maximum))["max_tokens"]
        == expected
    )


def test_without_any_limit_it_is_asked_for() -> None:
    with pytest.raises(ClientError) as raised:
        translate_request(
            json.dumps({"model": "m", "messages": HI}).encode(), model=OPUS, max_tokens_default=0, model_max_tokens=0
        )
    assert raised.value.param == "max_tokens"


EPHEMERAL = {"type": "ephemeral"}


@pytest.mark.parametrize(
    ("changes", "marked"),
    [
        ({}, ["messages"]),
        ({"messages": [{"role": "system", "content": "a"}, *HI], "tools": [CLOCK]}, ["system", "messages"]),
        ({"tools": [CLOCK]}, ["tools", "messages"]),
        ({"messages": [{"role": "user", "content": [text("hi", cache_control=EPHEMERAL)]}], "tools": [CLOCK]}, ["messages"]),
        ({"prompt_cache_options": {"mode": "explicit"}}, []),
    ],
)
def test_breakpoints_are_set_only_when_told_and_only_where_the_client_set_none(
    changes: dict[str, Any], marked: list[str]
) -> None:
    body = json.dumps({"model": "m", "messages": HI, "max_tokens": 9} | changes).encode()
    plain = translate_request(body, model=OPUS, max_tokens_default=0, model_max_tokens=0)
    assert (b"cache_control" in plain) == (b"cache_control" in body)
    cached = json.loads(translate_request(body, model=OPUS, max_tokens_default=0, model_max_tokens=0, cache=True))
    assert [field for field in ("system", "tools", "messages") if "cache_control" in json.dumps(cached.get(field))] == marked
    assert json.dumps(cached).count("cache_control") == len(marked)


def test_of_the_clients_breakpoints_the_latest_four_count() -> None:
    parts = [text(str(number), prompt_cache_breakpoint={"mode": "explicit"}) for number in range(6)]
    (turn,) = translate(messages=[{"role": "user", "content": parts}])["messages"]
    assert ["cache_control" in block for block in turn["content"]] == [False, False, True, True, True, True]


# --- what cannot be carried ---


def image(url: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": url}


def file(**fields: str) -> dict[str, Any]:
    return {"type": "file", "file": fields}


# (a part of a message, the role of that message, what is named of it)
PARTS: list[tuple[dict[str, Any], str, str]] = [
    ({"type": "text"}, "user", ""),
    ({"type": "input_audio", "input_audio": {}}, "user", ".type"),
    ({"type": "video_url"}, "user", ".type"),
    (image("https://x"), "system", ".type"),
    (image("https://x"), "assistant", ".type"),
    (image("data:image/bmp;base64,AA"), "user", ".image_url"),
    (image("data:image/png,AA"), "user", ".image_url"),
    (image("ftp://x"), "user", ".image_url"),
    (file(file_id="f"), "user", ".file"),
    (file(file_data="AAAA"), "user", ".file"),
    (file(file_data="data:text/csv;base64,/w=="), "user", ".file"),
]
# (a message after a first one, what is named of it)
SECONDS: list[tuple[dict[str, Any], str]] = [
    ({"role": "robot", "content": "x"}, ".role"),
    ({"content": "x"}, ".role"),
    ({"role": "user", "content": 7}, ".content"),
    ({"role": "assistant", "audio": {"id": "a"}}, ".audio"),
    ({"role": "assistant", "tool_calls": [call("a", arguments="{")]}, ".tool_calls[0].function.arguments"),
    ({"role": "assistant", "tool_calls": [call("a", arguments="[1]")]}, ".tool_calls[0].function.arguments"),
    ({"role": "assistant", "tool_calls": [{"id": "a", "type": "custom", "custom": {}}]}, ".tool_calls[0].type"),
    ({"role": "assistant", "function_call": {"name": "f", "arguments": "7"}}, ".function_call.arguments"),
    ({"role": "tool", "content": "x"}, ".tool_call_id"),
    ({"role": "function", "name": "f", "content": "x"}, ".name"),
]
REFUSALS: list[tuple[dict[str, Any], str]] = [
    *(({"messages": [{"role": role, "content": [part]}]}, f"messages[0].content[0]{named}") for part, role, named in PARTS),
    *(({"messages": [*HI, second]}, f"messages[1]{named}") for second, named in SECONDS),
    ({"messages": []}, "messages"),
    ({"messages": [{"role": "system", "content": "only"}]}, "messages"),
    ({"messages": [{"role": "user", "content": " "}]}, "messages"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_completion_tokens": -1}, "max_completion_tokens"),
    ({"temperature": 2.1}, "temperature"),
    ({"temperature": "warm"}, "temperature"),
    ({"top_p": -0.1}, "top_p"),
    ({"stop": "\n"}, "stop"),
    ({"stop": ["a", ""]}, "stop"),
    ({"reasoning_effort": "extreme"}, "reasoning_effort"),
    ({"thinking": {"type": "enabled", "budget_tokens": 2_000}, "max_tokens": 2_000}, "thinking.budget_tokens"),
    ({"response_format": {"type": "json_object"}}, "response_format.type"),
    ({"response_format": {"type": "grammar"}}, "response_format.type"),
    ({"response_format": {"type": "json_schema"}}, "response_format.json_schema.schema"),
    ({"tools": [{"type": "custom", "custom": {"name": "c"}}]}, "tools[0].type"),
    ({"tools": [CLOCK, {"type": "web_search"}]}, "tools[1].type"),
    ({"tools": [{"type": "function", "function": {"name": "f", "parameters": []}}]}, "tools[0].function.parameters"),
    ({"tools": [CLOCK], "tool_choice": "always"}, "tool_choice"),
    ({"tools": [CLOCK], "tool_choice": {"type": "custom", "custom": {"name": "c"}}}, "tool_choice.type"),
    ({"tools": [CLOCK], "tool_choice": {"type": "function", "function": {"name": "weather"}}}, "tool_choice"),
    (
        {"tools": [CLOCK], "tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [WEATHER]}}},
        "tool_choice.allowed_tools.tools",
    ),
    ({"tool_choice": "required"}, "tool_choice"),
    ({"functions": [], "function_call": {"name": "f"}}, "function_call"),
    ({"top_k": 5}, "top_k"),
    ({"n": True}, "n"),
    ({"n": 2}, "n"),
    ({"logprobs": True, "top_logprobs": 3}, "logprobs"),
    ({"modalities": ["text", "audio"]}, "modalities"),
    ({"service_tier": "flex"}, "service_tier"),
    ({"presence_penalty": 0.1}, "presence_penalty"),
    ({"logit_bias": {"50256": -100}}, "logit_bias"),
    ({"web_search_options": {}}, "web_search_options"),
    ({"verbosity": "low"}, "verbosity"),
    *(({field: ["anything"] * 99}, field) for field in REFUSED if "." not in field),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "param"), REFUSALS)
def test_what_cannot_be_carried_is_refused_by_name(changes: dict[str, Any], param: str) -> None:
    assert refusal(**changes).param == param


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"null", b'{"model":"m","messages":[' + b"[" * 5_000, b'{"model":"\xff","messages":[]}', b'{"n":1e999}'],
)
def test_what_is_no_request_is_refused(body: bytes) -> None:
    with pytest.raises(ClientError):
        translate_request(body, model=OPUS, max_tokens_default=0, model_max_tokens=9)


def test_a_body_of_nothing_but_objects_is_refused_before_it_is_taken_apart() -> None:
    body = b'{"model":"m","messages":[' + b"{}," * 600_000 + b"{}]}"
    with pytest.raises(ClientError, match="more than 500000 objects"):
        translate_request(body, model=OPUS, max_tokens_default=0, model_max_tokens=9)


def test_a_refusal_quotes_no_value() -> None:
    assert "sekret" not in refusal(messages=[{"role": "user", "content": [{"type": 7, "text": "sekret"}]}]).message
    assert "sekret" not in refusal(stop=["sekret", " "]).message


def test_the_deprecated_functions_are_noticed() -> None:
    assert asks_for_functions(b'{"functions": [{}]}')
    assert not asks_for_functions(b'{"functions": null}')
    assert not asks_for_functions(b'{"tools": [{"functions": []}]}')
    assert not asks_for_functions(b'{"messages": [{"content": "\\"functions\\""}]}')
    assert not asks_for_functions(b'{"functions": ')


# --- the tables, the code and the page ---


def test_every_field_is_in_exactly_one_table() -> None:
    tables = [{field for field in table if "." not in field} for table in (CARRIED, DROPPED, REFUSED)]
    assert sorted(field for table in tables for field in table) == sorted(Request.__struct_fields__)
    assert set(HARMLESS) <= set(REFUSED)


def test_every_field_of_the_openai_sdk_is_known() -> None:
    params = pytest.importorskip("openai.types.chat.completion_create_params", reason="the openai package is not installed")
    known = {field for kind in get_args(params.CompletionCreateParams) for field in kind.__annotations__}
    assert known <= set(Request.__struct_fields__)


def test_every_reason_to_refuse_is_used() -> None:
    source = "".join(path.read_text() for path in Path(translation.__file__).parent.glob("openai_to_anthropic*.py"))
    for what in REFUSED:
        if "." in what:
            assert source.count(f'"{what}"') > 1, what


def test_the_page_says_what_the_code_does() -> None:
    page = (Path(translation.__file__).parents[1] / "web/docs/translation.md").read_text()
    section = page.split("## OpenAI client, Anthropic upstream\n")[1].split("\n## ")[0]
    for heading, table in (("Carried", CARRIED), ("Dropped, because dropping changes nothing", DROPPED), ("Refused", REFUSED)):
        rows = re.findall(r"^\| `([^`]+)` \| (.*) \|$", section.split(f"### {heading}\n")[1].split("\n### ")[0], re.MULTILINE)
        assert rows == list(table.items())


# --- generated conversations ---


def _strict_types() -> TypeAdapter[Any]:
    """The SDK's parameter types; without a config of their own they would let unknown keys pass."""
    for name in dir(anthropic.types):
        kind = getattr(anthropic.types, name)
        if is_typeddict(kind) and not hasattr(kind, "__pydantic_config__"):
            kind.__pydantic_config__ = ConfigDict(extra="forbid", strict=True, arbitrary_types_allowed=True)
    config = ConfigDict(extra="forbid", strict=True, arbitrary_types_allowed=True)
    return TypeAdapter(list[MessageCreateParamsNonStreaming | MessageCreateParamsStreaming], config=config)


STRICT = _strict_types()
# A message's content may also be made of the SDK's *answer* types, which let anything pass; ours is not.
STRICT_BLOCK: TypeAdapter[Any] = TypeAdapter(anthropic.types.ContentBlockParam)


def exhaust(value: Any) -> None:
    """Iterables are validated as they are read."""
    if isinstance(value, dict):
        value = value.values()
    if not isinstance(value, str | bytes) and hasattr(value, "__iter__"):
        for item in value:
            exhaust(item)


def check(translated: dict[str, Any], model: str) -> None:
    # The 2.x SDK knows the later API version only, which has no sampling parameters.
    known = {name: value for name, value in translated.items() if name not in ("temperature", "top_p")}
    exhaust(STRICT.validate_python([known | {"model": model}]))
    turns = translated["messages"]
    assert turns[0]["role"] in ("user", "assistant")
    for before, turn, after in zip([None, *turns], turns, [*turns[1:], None], strict=False):
        assert turn["content"]
        if turn["role"] == "system":
            assert before["role"] == "user"
            assert after is None or after["role"] == "assistant"
        for block in turn["content"]:
            exhaust(STRICT_BLOCK.validate_python(block))
            assert block["type"] != "text" or block["text"].strip()
    budget = translated.get("thinking", {}).get("budget_tokens")
    assert budget is None or 1_024 <= budget < translated["max_tokens"]


texts = st.text(max_size=8)
names = st.from_regex(r"[a-z]{1,5}", fullmatch=True)
images = st.sampled_from(["https://x/a.png", f"data:image/png;base64,{PNG}"]).map(
    lambda url: {"type": "image_url", "image_url": {"url": url}}
)
files = st.sampled_from([{"file_data": PDF}, {"file_data": f"data:text/plain;base64,{TEXT}", "filename": "a"}]).map(
    lambda file: {"type": "file", "file": file}
)
text_parts = texts.map(lambda said: {"type": "text", "text": said})
instructions = st.fixed_dictionaries(
    {"role": st.sampled_from(["system", "developer"]), "content": texts | st.lists(text_parts, max_size=3)},
    optional={"name": names},
)
users = st.fixed_dictionaries(
    {"role": st.just("user"), "content": texts | st.lists(text_parts | images | files, max_size=3)}, optional={"name": names}
)
thoughts = st.sampled_from(
    [SIGNED, SIGNED | {"index": 1}, {"type": "redacted_thinking", "data": "x"}, {"type": "thinking", "thinking": "u"}]
)
arguments = st.dictionaries(names, st.integers() | texts | st.none(), max_size=2).map(json.dumps)


@st.composite
def rounds(draw: st.DrawFn) -> list[dict[str, Any]]:
    """An assistant message, and a result for each of its calls."""
    message: dict[str, Any] = {"role": "assistant", "content": draw(texts | st.none() | st.lists(text_parts, max_size=2))}
    identities = draw(st.lists(st.text("ab.:_", min_size=1, max_size=6), max_size=3, unique=True))
    if identities:
        message["tool_calls"] = [call(identity, draw(names), draw(arguments)) for identity in identities]
    if draw(st.booleans()):
        message["thinking_blocks"] = draw(st.lists(thoughts, max_size=3))
        message["reasoning_content"] = "u"
    content = texts | st.lists(text_parts | images, max_size=2)
    return [message, *({"role": "tool", "tool_call_id": identity, "content": draw(content)} for identity in identities)]


conversations = st.lists(rounds() | users.map(lambda one: [one]) | instructions.map(lambda one: [one]), max_size=8).map(
    lambda parts: [message for part in parts for message in part]
)
options = st.fixed_dictionaries(
    {},
    optional={
        "max_tokens": st.integers(1, 100_000),
        "temperature": st.floats(0, 2),
        "top_p": st.floats(0, 1),
        "stop": st.sampled_from(["x", ["a", "b"]]),
        "tools": st.just([WEATHER, CLOCK]),
        "parallel_tool_calls": st.booleans(),
        "tool_choice": st.sampled_from(["auto", "none"]),
        "reasoning_effort": st.sampled_from(["none", "minimal", "low", "medium", "high", "xhigh", "max"]),
        "response_format": st.just(FORMAT),
        "user": texts,
        "stream": st.booleans(),
        "seed": st.integers(),
        "n": st.just(1),
    },
)
models = st.sampled_from([OPUS, OPUS_48, SONNET_46, HAIKU_45, "claude-opus-5", "claude-sonnet-5", "claude-sonnet-5-5", "other"])


@given(conversations, options, models, st.booleans())
def test_a_generated_conversation_becomes_a_valid_request(
    messages: list[dict[str, Any]], fields: dict[str, Any], model: str, cache: bool
) -> None:
    body = json.dumps({"model": "public", "messages": messages} | fields).encode()
    try:
        raw = translate_request(body, model=model, max_tokens_default=0, model_max_tokens=64_000, cache=cache)
    except ClientError as error:
        assert error.param == "messages"  # nothing was said in it
        return
    translated = json.loads(raw)
    check(translated, model)
    said = json.dumps(translated)
    # Nothing is lost, nothing is said twice, and what was thought unsigned is never shown.
    calls = [one for message in messages for one in message.get("tool_calls") or ()]
    uses = [block for turn in translated["messages"] for block in turn["content"] if block["type"] == "tool_use"]
    results = [
        block["tool_use_id"] for turn in translated["messages"] for block in turn["content"] if block["type"] == "tool_result"
    ]
    assert [use["input"] for use in uses] == [json.loads(one["function"]["arguments"]) for one in calls]
    assert [use["id"] for use in uses] == results
    assert len(set(results)) == len({one["id"] for one in calls})
    assert '"thinking": "u"' not in said
    shown = [block["text"] for turn in translated["messages"] for block in turn["content"] if block["type"] == "text"]
    shown += [block["text"] for block in translated.get("system", ())]
    given_texts = [part for message in messages if message["role"] != "tool" for part in _texts_of(message)]
    assert len(shown) == len(given_texts) + sum(
        1
        for message in messages
        if message.get("name") and message["role"] == "user" and not _texts_of(message) and _media_of(message)
    )


keys = st.sampled_from([*Request.__struct_fields__, "role", "content", "type", "text", "function", "name", "arguments", "id"])
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=12,
)


@given(anything)
def test_whatever_comes_it_is_translated_or_refused(value: Any) -> None:
    body = value if isinstance(value, dict) else {"model": "m", "messages": value}
    try:
        translate_request(msgspec.json.encode(body), model=OPUS, max_tokens_default=9, model_max_tokens=9)
    except ClientError as error:
        assert error.message


def _texts_of(message: dict[str, Any]) -> list[str]:
    content = message["content"]
    parts = (
        [content or ""]
        if content is None or isinstance(content, str)
        else [part["text"] for part in content if part["type"] == "text"]
    )
    return [part for part in parts if part.strip()]


def _media_of(message: dict[str, Any]) -> bool:
    return not isinstance(message["content"], str) and any(part["type"] != "text" for part in message["content"] or ())
