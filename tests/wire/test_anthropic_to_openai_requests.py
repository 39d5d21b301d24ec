"""Requests of Anthropic clients as an OpenAI-compatible upstream gets them: field by field, in tables; and any conversation."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import ClientError
from gateway.wire.anthropic_to_openai import DROPPED, REFUSED, translate_request, wants_thinking
from gateway.wire.anthropic_to_openai.request import OBJECTS_MAX
from tests.wire.bodies import claude_code, compact
from tests.wire.chat_requests import check_request

Json = dict[str, Any]

USER: Json = {"role": "user", "content": "hi"}
SCHEMA: Json = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"], "additionalProperties": False}
TOOL: Json = {"name": "Bash", "description": "Runs.", "input_schema": SCHEMA}
PNG: Json = {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}
PDF: Json = {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0="}
DATA_URL = "data:image/png;base64,iVBORw0KGgo="


def body(*messages: Json, **fields: Any) -> Json:
    return {"model": "claude-opus-5-5", "max_tokens": 100, "messages": list(messages) or [USER], **fields}


def translated(request: Json, **options: Any) -> Json:
    out: Json = json.loads(translate_request(compact(request), model="up-1", **options))
    return out


def checked(request: Json, **options: Any) -> Json:
    out = translated(request, **options)
    check_request(out)
    assert out["model"] == "up-1"
    return out


def refused(request: Json) -> ClientError:
    with pytest.raises(ClientError) as caught:
        translated(request)
    assert caught.value.code == "invalid_request"
    return caught.value


def t(value: str) -> Json:
    return {"type": "text", "text": value}


def use(call_id: str, name: str = "Bash", value: Json | None = None) -> Json:
    return {"type": "tool_use", "id": call_id, "name": name, "input": value or {}}


def result(call_id: str, content: Any = "ok", **extra: Any) -> Json:
    return {"type": "tool_result", "tool_use_id": call_id, "content": content, **extra}


def called(call_id: str, arguments: str = "{}", name: str = "Bash") -> Json:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def returned(call_id: str, content: str = "ok") -> Json:
    return {"role": "tool", "tool_call_id": call_id, "content": content}


MEDIA = "(What this tool returned besides text follows in the next user message.)"
IMAGE_PART: Json = {"type": "image_url", "image_url": {"url": DATA_URL}}
FILE_PART: Json = {"type": "file", "file": {"filename": "document.pdf", "file_data": "data:application/pdf;base64,JVBERi0="}}

# --- fields: what is sent, and what the upstream gets of it ---

FIELDS: list[tuple[Json, Json]] = [
    ({}, {"max_tokens": 100}),
    ({"stream": True}, {"stream": True, "stream_options": {"include_usage": True}}),
    ({"stream": False}, {}),
    ({"temperature": 0.5, "top_p": 0.9, "top_k": 5}, {"temperature": 0.5, "top_p": 0.9}),
    ({"temperature": 1}, {"temperature": 1}),
    ({"stop_sequences": ["a", "b", "c", "d"]}, {"stop": ["a", "b", "c", "d"]}),
    ({"stop_sequences": []}, {}),
    ({"metadata": {"user_id": "u-1"}}, {"user": "u-1"}),
    ({"metadata": {"user_id": "x" * 65}}, {"user": hashlib.sha256(b"x" * 65).hexdigest()}),
    ({"metadata": {}}, {}),
    ({"output_config": {"effort": "xhigh"}}, {"reasoning_effort": "xhigh"}),
    ({"output_config": {"effort": None, "task_budget": {"type": "tokens", "total": 9}}}, {}),
    (
        {"output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA, "strict": True}}},
    ),
    (
        {"output_format": {"type": "json_schema", "schema": {**SCHEMA, "required": []}}},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "answer", "schema": {**SCHEMA, "required": []}}}},
    ),
    ({"thinking": {"type": "enabled", "budget_tokens": 99}}, {}),
    ({"thinking": {"type": "adaptive", "display": "omitted"}}, {}),
    ({"context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]}}, {}),
    ({"container": None, "mcp_servers": [], "inference_geo": None, "thread": None}, {}),
    ({"cache_control": {"type": "ephemeral"}, "service_tier": "auto", "speed": "fast", "safeguards": {"x": 1}}, {}),
    ({"a_field_of_next_year": {"deep": [1]}}, {}),
    ({"tool_choice": {"type": "any"}}, {}),
]


@pytest.mark.parametrize(("fields", "expected"), FIELDS)
def test_a_field(fields: Json, expected: Json) -> None:
    out = checked(body(**fields))
    assert out == {"model": "up-1", "messages": [USER], "max_tokens": 100, **expected}


TOOL_OUT: Json = {"type": "function", "function": {"name": "Bash", "description": "Runs.", "parameters": SCHEMA}}
FREE: Json = {"type": "object"}
SEARCH = {"type": "tool_search_tool_regex_20251119", "name": "tool_search_tool_regex"}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"tools": [TOOL]}, {"tools": [TOOL_OUT]}),
        ({"tools": []}, {}),
        (
            {"tools": [{**TOOL, "type": "custom", "cache_control": {"type": "ephemeral"}, "input_examples": [{}]}]},
            {"tools": [TOOL_OUT]},
        ),
        (
            {"tools": [{**TOOL, "strict": True}]},
            {"tools": [{"type": "function", "function": {**TOOL_OUT["function"], "strict": True}}]},
        ),
        # Anthropic's strict allows what is not required; the other refuses it.
        (
            {"tools": [{"name": "a", "input_schema": {**SCHEMA, "required": []}, "strict": True}]},
            {"tools": [{"type": "function", "function": {"name": "a", "parameters": {**SCHEMA, "required": []}}}]},
        ),
        (
            {"tools": [{"name": "a", "input_schema": FREE}]},
            {"tools": [{"type": "function", "function": {"name": "a", "parameters": {**FREE, "properties": {}}}}]},
        ),
        ({"tools": [TOOL], "tool_choice": {"type": "auto"}}, {"tools": [TOOL_OUT], "tool_choice": "auto"}),
        ({"tools": [TOOL], "tool_choice": {"type": "any"}}, {"tools": [TOOL_OUT], "tool_choice": "required"}),
        ({"tools": [TOOL], "tool_choice": {"type": "none"}}, {"tools": [TOOL_OUT], "tool_choice": "none"}),
        (
            {"tools": [TOOL], "tool_choice": {"type": "tool", "name": "Bash", "disable_parallel_tool_use": True}},
            {
                "tools": [TOOL_OUT],
                "tool_choice": {"type": "function", "function": {"name": "Bash"}},
                "parallel_tool_calls": False,
            },
        ),
        (
            {"tools": [TOOL, SEARCH, {**TOOL, "name": "B", "defer_loading": True}]},
            {"tools": [TOOL_OUT, {**TOOL_OUT, "function": {**TOOL_OUT["function"], "name": "B"}}]},
        ),
        ({"tools": [TOOL, {**TOOL, "name": "B", "defer_loading": True}]}, {"tools": [TOOL_OUT]}),
    ],
)
def test_tools(fields: Json, expected: Json) -> None:
    assert checked(body(**fields)) == {"model": "up-1", "messages": [USER], "max_tokens": 100, **expected}


def test_what_the_upstream_needs_is_chosen_by_the_caller() -> None:
    request = body(tools=[TOOL], output_config={"effort": "high"}) | {"max_tokens": 128_000}
    out = checked(request, max_tokens_field="max_completion_tokens", max_output_tokens=16_384, effort_with_tools="none")
    assert (out["max_completion_tokens"], out["reasoning_effort"]) == (16_384, "none") and "max_tokens" not in out
    assert checked(body(output_config={"effort": "high"}), effort_with_tools="none")["reasoning_effort"] == "high"
    assert checked(body(), max_output_tokens=16_384)["max_tokens"] == 100


# --- conversations: messages, and the upstream's ---

CONVERSATIONS: list[tuple[str, list[Json], list[Json]]] = [
    ("a string", [USER], [USER]),
    ("a block", [{"role": "user", "content": [t("hi")]}], [USER]),
    ("blocks", [{"role": "user", "content": [t("a"), t(""), t("b")]}], [{"role": "user", "content": [t("a"), t("b")]}]),
    ("nothing", [{"role": "user", "content": []}], [{"role": "user", "content": ""}]),
    (
        "neighbours are one turn",
        [USER, {"role": "user", "content": [t("you")]}],
        [{"role": "user", "content": [t("hi"), t("you")]}],
    ),
    (
        "an image between texts, by data and by address",
        [
            {
                "role": "user",
                "content": [
                    t("a"),
                    {"type": "image", "source": PNG, "cache_control": {"type": "ephemeral"}},
                    {"type": "image", "source": {"type": "url", "url": "https://x/y.png"}},
                    t("b"),
                ],
            }
        ],
        [
            {
                "role": "user",
                "content": [t("a"), IMAGE_PART, {"type": "image_url", "image_url": {"url": "https://x/y.png"}}, t("b")],
            }
        ],
    ),
    (
        "documents",
        [
            {
                "role": "user",
                "content": [
                    {"type": "document", "source": PDF},
                    {"type": "document", "source": PDF, "title": "plan.pdf", "context": "Old.", "citations": {"enabled": False}},
                    {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "words"}, "title": "T"},
                    {"type": "document", "source": {"type": "content", "content": [t("one"), {"type": "image", "source": PNG}]}},
                    {"type": "document", "source": {"type": "content", "content": "two"}, "title": None},
                ],
            }
        ],
        [
            {
                "role": "user",
                "content": [
                    FILE_PART,
                    t("Old."),
                    {"type": "file", "file": {**FILE_PART["file"], "filename": "plan.pdf"}},
                    t("Document: T\n\nwords"),
                    t("one"),
                    IMAGE_PART,
                    t("two"),
                ],
            }
        ],
    ),
    (
        "a search result, a summary",
        [
            {
                "role": "user",
                "content": [
                    {"type": "compaction", "content": "So far: x"},
                    {"type": "compaction", "content": None},
                    {"type": "search_result", "source": "https://x", "title": "X", "content": [t("found")]},
                ],
            }
        ],
        [{"role": "user", "content": [t("So far: x"), t("X (https://x)"), t("found")]}],
    ),
    (
        "a call and its result",
        [
            USER,
            {"role": "assistant", "content": [t("Looking."), use("toolu_01", value={"a": "x"})]},
            {"role": "user", "content": [result("toolu_01")]},
        ],
        [
            USER,
            {"role": "assistant", "content": "Looking.", "tool_calls": [called("toolu_01", '{"a":"x"}')]},
            returned("toolu_01"),
        ],
    ),
    (
        "results in another order, one with an image, and words after them",
        [
            USER,
            {"role": "assistant", "content": [use("toolu_01"), use("toolu_02")]},
            {
                "role": "user",
                "content": [
                    result("toolu_02", [t("a"), {"type": "image", "source": PNG}, t("b")]),
                    result("toolu_01", "no such file", is_error=True),
                    t("and?"),
                ],
            },
        ],
        [
            USER,
            {"role": "assistant", "content": None, "tool_calls": [called("toolu_01"), called("toolu_02")]},
            returned("toolu_02", f"a\n\nb\n\n{MEDIA}"),
            returned("toolu_01", "Error: no such file"),
            {"role": "user", "content": [t("Returned by the tool call toolu_02:"), IMAGE_PART, t("and?")]},
        ],
    ),
    (
        "results over several messages, words between them",
        [
            USER,
            {"role": "assistant", "content": [use("toolu_01")]},
            {"role": "assistant", "content": [t("Both."), use("toolu_02")]},
            {"role": "user", "content": [t("first"), result("toolu_02")]},
            {"role": "system", "content": "Mind."},
            {"role": "user", "content": [result("toolu_01", None), t("second")]},
        ],
        [
            USER,
            {"role": "assistant", "content": "Both.", "tool_calls": [called("toolu_01"), called("toolu_02")]},
            returned("toolu_02"),
            returned("toolu_01", ""),
            {"role": "user", "content": "first"},
            {"role": "system", "content": "Mind."},
            {"role": "user", "content": "second"},
        ],
    ),
    (
        "errors that say so, an empty one",
        [
            USER,
            {"role": "assistant", "content": [use("toolu_01"), use("toolu_02"), use("toolu_03")]},
            {
                "role": "user",
                "content": [
                    result("toolu_01", "ERROR 5", is_error=True),
                    result("toolu_02", [], is_error=True),
                    {"type": "tool_result", "tool_use_id": "toolu_03"},
                ],
            },
        ],
        [
            USER,
            {"role": "assistant", "content": None, "tool_calls": [called("toolu_01"), called("toolu_02"), called("toolu_03")]},
            returned("toolu_01", "ERROR 5"),
            returned("toolu_02", "Error: "),
            returned("toolu_03", ""),
        ],
    ),
    (
        "thinking is left out, signed or not",
        [
            USER,
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "SECRET", "signature": "c2ln"},
                    {"type": "thinking", "thinking": "SECRET", "signature": ""},
                    {"type": "redacted_thinking", "data": "SECRET"},
                    t("Yes."),
                ],
            },
            {"role": "user", "content": "go on"},
            {"role": "assistant", "content": [{"type": "thinking", "thinking": "SECRET", "signature": ""}]},
            USER,
        ],
        [USER, {"role": "assistant", "content": "Yes."}, {"role": "user", "content": [t("go on"), t("hi")]}],
    ),
    (
        "one text cut in two is one, others are paragraphs",
        [
            USER,
            {"role": "assistant", "content": [t("It is "), t("so."), use("toolu_01"), t("Done.")]},
            {"role": "user", "content": [result("toolu_01")]},
        ],
        [USER, {"role": "assistant", "content": "It is so.\n\nDone.", "tool_calls": [called("toolu_01")]}, returned("toolu_01")],
    ),
    (
        "system messages in mid-conversation, one of them for a turn that is over",
        [
            USER,
            {"role": "system", "content": [t("A."), t("B.")], "output_config": {"effort": "low"}},
            {"role": "assistant", "content": "ok"},
            USER,
            {"role": "system", "content": "gone", "clear_at": "next_user_message"},
            {"role": "assistant", "content": "ok"},
            USER,
            {"role": "system", "content": "here", "clear_at": "next_user_message"},
        ],
        [
            USER,
            {"role": "system", "content": "A.\n\nB."},
            {"role": "assistant", "content": "ok"},
            USER,
            {"role": "assistant", "content": "ok"},
            USER,
            {"role": "system", "content": "here"},
        ],
    ),
    (
        "ids in the upstream's own form, and too long for some",
        [
            USER,
            {"role": "assistant", "content": [use("toolu_x" + b"functions.Bash:0".hex()), use("x" * 41)]},
            {"role": "user", "content": [result("toolu_x" + b"functions.Bash:0".hex()), result("x" * 41)]},
        ],
        [
            USER,
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [called("functions.Bash:0"), called("call_" + hashlib.sha256(b"x" * 41).hexdigest()[:32])],
            },
            returned("functions.Bash:0"),
            returned("call_" + hashlib.sha256(b"x" * 41).hexdigest()[:32]),
        ],
    ),
]


@pytest.mark.parametrize(("messages", "expected"), [row[1:] for row in CONVERSATIONS], ids=[row[0] for row in CONVERSATIONS])
def test_a_conversation(messages: list[Json], expected: list[Json]) -> None:
    request = body(*messages)
    out = checked(request)
    assert out["messages"] == expected
    assert "SECRET" not in json.dumps(out)


@pytest.mark.parametrize(
    ("system", "expected"),
    [
        (None, []),
        ("", []),
        ("Be brief.", ["Be brief."]),
        ([t("x-anthropic-billing-header: cc_version=2.1.329.bc8;"), t("A"), t("B")], ["A\n\nB"]),
        # Only the first is the provider's business.
        ([t("A"), t("x-anthropic-billing-header: mine")], ["A\n\nx-anthropic-billing-header: mine"]),
        ("x-anthropic-billing-header: alone", []),
    ],
)
def test_the_system_prompt(system: Any, expected: list[str]) -> None:
    out = checked(body(system=system))
    assert [message["content"] for message in out["messages"][:-1]] == expected


def test_deferred_tools_are_shown_once_something_names_them() -> None:
    """Claude Code's ToolSearch answers with references; other clients add and remove tools in system messages."""
    tools = [TOOL, *({**TOOL, "name": name, "defer_loading": True} for name in ("Found", "Added", "Hidden"))]
    loaded = result("toolu_01", [{"type": "tool_reference", "tool_name": "Found"}])
    changes: list[Json] = [
        {"type": "tool_addition", "tool": {"type": "tool_reference", "name": "Added"}},
        {"type": "tool_addition", "tool": {"type": "tool_definition", "definition": {**TOOL, "name": "Inline"}}},
        {"type": "tool_removal", "tool": {"type": "tool_reference", "name": "Bash"}},
    ]
    messages: list[Json] = [
        USER,
        {"role": "assistant", "content": [use("toolu_01", "ToolSearch")]},
        {"role": "user", "content": [loaded]},
        {"role": "system", "content": changes},
    ]
    out = checked(body(*messages, tools=tools))
    assert [tool["function"]["name"] for tool in out["tools"]] == ["Found", "Added", "Inline"]
    assert out["messages"][-1] == returned("toolu_01", "The tool Found can be called now.")


def test_an_upstream_that_wants_its_reasoning_back_gets_its_own_and_no_other() -> None:
    foreign = {"type": "thinking", "thinking": "SECRET", "signature": "c2ln"}
    own = {"type": "thinking", "thinking": "so, ls", "signature": ""}
    messages: list[Json] = [
        USER,
        {"role": "assistant", "content": [foreign, own, use("toolu_01")]},
        {"role": "user", "content": [result("toolu_01")]},
        {"role": "assistant", "content": [foreign, use("toolu_02")]},
        {"role": "user", "content": [result("toolu_02")]},
        {"role": "assistant", "content": [foreign, t("x")]},
        USER,
    ]
    out = translated(body(*messages), reasoning_field="reasoning_content")
    assistants = [message for message in out["messages"] if message["role"] == "assistant"]
    # DeepSeek refuses a call without the field, whoever made it.
    assert [message.get("reasoning_content") for message in assistants] == ["so, ls", "", None]


def test_the_effort_is_the_latest_turns() -> None:
    messages: list[Json] = [USER, {"role": "system", "content": "x", "output_config": {"effort": "low"}}]
    assert checked(body(*messages, output_config={"effort": "high"}))["reasoning_effort"] == "low"
    # Claude Code takes it out here when it was refused, and leaves it there.
    assert "reasoning_effort" not in checked(body(*messages))


# --- refusals ---

REFUSALS: list[tuple[str, str, Json]] = [
    ("container", "container", {"container": "c_1"}),
    ("mcp_servers", "mcp_servers", {"mcp_servers": [{"type": "url", "url": "https://x", "name": "x"}]}),
    ("thread", "thread", {"thread": {"id": "t"}}),
    ("compaction", "compaction", {"compaction": {"type": "summarize"}}),
    ("inference_geo", "inference_geo", {"inference_geo": "us"}),
    ("stop_sequences", "stop_sequences", {"stop_sequences": list("abcde")}),
    ("tools[].type", "tools[1].type", {"tools": [TOOL, {"type": "web_search_20250305", "name": "web_search"}]}),
    ("tools[].type", "tools[0].type", {"tools": [{"type": "bash_20250124", "name": "bash"}]}),
    ("messages[-1].role=assistant", "messages", {"messages": [USER, {"role": "assistant", "content": "Well,"}]}),
    (
        "content.*",
        "messages[0].content[1]",
        {"messages": [{"role": "user", "content": [t("x"), {"type": "container_upload", "file_id": "f"}]}]},
    ),
    (
        "content.*",
        "messages[1].content[0]",
        {
            "messages": [
                USER,
                {"role": "assistant", "content": [{"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}}]},
                USER,
            ]
        },
    ),
    (
        "content.*",
        "messages[0].content[0].content[0]",
        {"messages": [{"role": "user", "content": [result("toolu_01", [{"type": "browser_state"}])]}]},
    ),
    ("content.*", "system[0]", {"system": [{"type": "image", "source": PNG}]}),
    (
        "content.*",
        "messages[1].content[0]",
        {"messages": [USER, {"role": "assistant", "content": [{"type": "image", "source": PNG}]}, USER]},
    ),
    (
        "image.source.file",
        "messages[0].content[0].source",
        {"messages": [{"role": "user", "content": [{"type": "image", "source": {"type": "file", "file_id": "f"}}]}]},
    ),
    (
        "document.source.file",
        "messages[0].content[0].source",
        {"messages": [{"role": "user", "content": [{"type": "document", "source": {"type": "file", "file_id": "f"}}]}]},
    ),
    (
        "document.source.url",
        "messages[0].content[0].source",
        {"messages": [{"role": "user", "content": [{"type": "document", "source": {"type": "url", "url": "https://x"}}]}]},
    ),
    (
        "citations.enabled",
        "messages[0].content[0].citations",
        {"messages": [{"role": "user", "content": [{"type": "document", "source": PDF, "citations": {"enabled": True}}]}]},
    ),
]


@pytest.mark.parametrize(("key", "param", "fields"), REFUSALS)
def test_what_cannot_be_carried_is_named(key: str, param: str, fields: Json) -> None:
    error = refused(body() | fields)
    assert error.param == param and REFUSED[key] in error.message


def test_every_refusal_of_the_table_is_reached() -> None:
    assert {key for key, _, _ in REFUSALS} == set(REFUSED)


DROPS: dict[str, Json] = {
    "betas": {"betas": ["x-2026-01-01"]},
    "billing_policy": {"billing_policy": {"type": "x"}},
    "cache_control": {"cache_control": {"type": "ephemeral"}},
    "content.fallback": {
        "messages": [USER, {"role": "assistant", "content": [{"type": "fallback", "from": {}, "to": {}}, t("x")]}, USER]
    },
    "content.redacted_thinking": {
        "messages": [USER, {"role": "assistant", "content": [{"type": "redacted_thinking", "data": "d"}, t("x")]}, USER]
    },
    "content.thinking": {
        "messages": [
            USER,
            {"role": "assistant", "content": [{"type": "thinking", "thinking": "h", "signature": "s"}, t("x")]},
            USER,
        ]
    },
    "context_management": {"context_management": {"edits": []}},
    "diagnostics": {"diagnostics": {"previous_message_id": "msg_1"}},
    "fallback_credit_token": {"fallback_credit_token": "t"},
    "fallbacks": {"fallbacks": [{"model": "m"}]},
    "image.transformations": {
        "messages": [{"role": "user", "content": [{"type": "image", "source": PNG, "transformations": {}}]}]
    },
    "output_config.task_budget": {"output_config": {"task_budget": {"type": "tokens", "total": 1}}},
    "safeguards": {"safeguards": {"a": 1}},
    "service_tier": {"service_tier": "standard_only"},
    "speed": {"speed": "fast"},
    "system[x-anthropic-billing-header]": {"system": [t("x-anthropic-billing-header: x")]},
    "thinking": {"thinking": {"type": "disabled"}},
    "tool_use.caller": {
        "messages": [
            USER,
            {"role": "assistant", "content": [{**use("toolu_01"), "caller": {"type": "direct"}}]},
            {"role": "user", "content": [result("toolu_01")]},
        ]
    },
    "tools[].allowed_callers": {"tools": [{**TOOL, "allowed_callers": ["direct"]}]},
    "tools[].eager_input_streaming": {"tools": [{**TOOL, "eager_input_streaming": True}]},
    "tools[].input_examples": {"tools": [{**TOOL, "input_examples": [{"a": "b"}]}]},
    "tools[].type=tool_search_tool": {
        "tools": [TOOL, {"type": "tool_search_tool_bm25_20251119", "name": "tool_search_tool_bm25"}]
    },
    "top_k": {"top_k": 4},
    "user_profile_id": {"user_profile_id": "u"},
    "workspace_id": {"workspace_id": "w"},
}


@pytest.mark.parametrize("key", sorted(DROPPED))
def test_what_is_dropped_leaves_the_same_request_as_without_it(key: str) -> None:
    fields = DROPS[key]
    # The rows of blocks and of whole tools are taken out as such.
    name = "" if "=" in key or key.startswith(("content.", "system[")) else key.rpartition(".")[2]
    out = checked(body() | fields)

    def without(value: Any) -> Any:
        if isinstance(value, list):
            return [without(each) for each in value if not _is_dropped_block(each, key)]
        if isinstance(value, dict):
            return {field: without(each) for field, each in value.items() if field != name}
        return value

    assert out == checked(body() | without(fields))


def _is_dropped_block(value: Any, key: str) -> bool:
    if not isinstance(value, dict):
        return False
    kind = str(value.get("type", ""))
    if key.startswith("tools[].type="):
        return kind.startswith("tool_search_tool")
    if key.startswith("system["):
        return str(value.get("text", "")).startswith("x-anthropic-billing-header")
    return key == f"content.{kind}"


@pytest.mark.parametrize(
    ("raw", "param"),
    [
        (b'"messages":[{"role":"user","content":[{"type":"text","text":5}]}]', "messages[0].content[0].text"),
        (b'"messages":[{"role":"user","content":5}]', "messages[0].content"),
        (b'"messages":[{"role":"user","content":[{"text":"x"}]}]', "messages[0].content[0]"),
        (b'"messages":[{"role":"tool","content":"x"}]', "messages[0].role"),
        (b'"messages":[{"content":"x"}]', "messages[0]"),
        (b'"messages":[],"tools":[{"name":"x"}]', "tools[0].input_schema"),
        (b'"messages":[],"tools":[{"name":"x","input_schema":{},"defer_loading":1}]', "tools[0].defer_loading"),
        (b'"messages":[],"tools":[{"name":"x","input_schema":{}}],"tool_choice":{"type":"x"}', "tool_choice.type"),
        (b'"messages":[],"temperature":"hot"', "temperature"),
        (b'"messages":[],"output_config":{"format":{"type":"grammar","schema":{}}}', "output_config.format.type"),
        (
            b'"messages":[{"role":"assistant","content":[{"type":"tool_use","id":"abc","name":"n","input":[]}]}]',
            "messages[0].content[0].input",
        ),
        (b'"messages":[{"role":"user","content":"\\ud800"}]', None),
        (b'"messages":5', "messages"),
        (b'"messages"', None),
    ],
)
def test_what_is_malformed_is_named_and_never_quoted(raw: bytes, param: str | None) -> None:
    with pytest.raises(ClientError) as caught:
        translate_request(b'{"model":"m","max_tokens":1,%b}' % raw, model="up-1")
    assert caught.value.code == "invalid_request" and caught.value.param == param
    assert "hot" not in caught.value.message


def test_a_body_of_nothing_but_objects_is_refused_before_it_is_decoded() -> None:
    raw = b'{"model":"m","max_tokens":1,"messages":[' + b",".join([b"{}"] * (OBJECTS_MAX + 1)) + b"]}"
    with pytest.raises(ClientError, match="objects"):
        translate_request(raw, model="up-1")


# --- Claude Code ---


@pytest.mark.parametrize("size", [20_000, 180_000])
def test_a_body_of_claude_code(size: int) -> None:
    request = claude_code(
        size,
        thinking={"type": "adaptive", "display": "omitted"},
        output_config={"effort": "medium"},
        context_management={"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
    )
    request["messages"].append({"role": "system", "content": "# Environment", "output_config": {"effort": "medium"}})
    request["tools"].append(
        {"name": "DeferredToolPlaceholder", "input_schema": {"type": "object", "properties": {}}, "defer_loading": True}
    )
    out = checked(request, max_output_tokens=32_768)
    assert "x-anthropic-billing-header" not in json.dumps(out) and out["stream_options"] == {"include_usage": True}
    assert (out["max_tokens"], out["reasoning_effort"]) == (32_768, "medium")
    assert [tool["function"]["name"] for tool in out["tools"]] == [tool["name"] for tool in request["tools"][:-1]]
    assert [message["role"] for message in out["messages"]] == ["system", "user", "system"]
    # Device, account and session stay here; what stands for them is the same in every turn of the session.
    assert out["user"] == hashlib.sha256(request["metadata"]["user_id"].encode()).hexdigest()


def test_input_and_schemas_keep_their_bytes() -> None:
    raw = (
        b'{"model":"m","max_tokens":1,"messages":[{"role":"assistant","content":[{"type":"tool_use","id":"toolu_01","name":"n",'
        b'"input":{"big": 123456789012345678901234567890, "f":1.0, "u":"\\u00e9"}}]},{"role":"user","content":"x"}],'
        b'"tools":[{"name":"n","input_schema":{"type":"object","properties":{"f":{"default":1.0, "type":"number"}}}}]}'
    )
    out = translate_request(raw, model="up-1")
    arguments = json.loads(out)["messages"][0]["tool_calls"][0]["function"]["arguments"]
    assert arguments == '{"big": 123456789012345678901234567890, "f":1.0, "u":"\\u00e9"}'
    assert b'{"f":{"default":1.0, "type":"number"}}' in out


@pytest.mark.parametrize(
    ("thinking", "wanted"),
    [
        (None, False),
        ({"type": "disabled"}, False),
        ({"type": "adaptive"}, True),
        ({"type": "adaptive", "display": "omitted"}, False),
        ({"type": "adaptive", "display": "summarized"}, True),
        ({"type": "enabled", "budget_tokens": 2048}, True),
        ("odd", False),
    ],
)
def test_who_wants_to_see_thinking(thinking: Any, wanted: bool) -> None:
    assert wants_thinking(compact(body(thinking=thinking))) is wanted
    assert not wants_thinking(b"{")


# --- any conversation ---

words = st.text(max_size=12)
ids = st.from_regex(r"[a-zA-Z0-9_-]{1,45}", fullmatch=True)
values = st.dictionaries(words, st.none() | st.integers() | words | st.lists(words, max_size=2), max_size=3)
media = st.sampled_from([{"type": "image", "source": PNG}, {"type": "document", "source": PDF}])
texts = words.map(t)


@st.composite
def conversations(draw: st.DrawFn) -> list[Json]:
    messages: list[Json] = []
    asked: list[str] = []
    for number in range(draw(st.integers(1, 5))):
        results = [
            result(each, draw(words | st.lists(texts | media, max_size=3)), is_error=draw(st.booleans())) for each in asked
        ]
        content = draw(st.permutations(results)) + draw(st.lists(texts | media, max_size=3))
        messages.append({"role": "user", "content": content if content or draw(st.booleans()) else draw(words)})
        if draw(st.booleans()):
            messages.append({"role": "system", "content": draw(words | st.lists(texts, max_size=2))})
        names = draw(st.lists(ids, max_size=3, unique=True))
        asked = [f"{each}-{number}" for each in names]
        blocks = draw(st.lists(texts | st.just({"type": "thinking", "thinking": "SECRET", "signature": ""}), max_size=3))
        messages.append({"role": "assistant", "content": blocks + [use(each, "Tool", draw(values)) for each in asked]})
    closing = [result(each) for each in asked]
    return [*messages, {"role": "user", "content": [*closing, t("go on")]}]


@settings(max_examples=200, deadline=None)
@given(conversations(), st.booleans())
def test_any_conversation_is_a_valid_request_that_keeps_every_word(messages: list[Json], stream: bool) -> None:
    out = checked(body(*messages, stream=stream))
    sent = out["messages"]
    unanswered: set[str] = set()
    for message in sent:
        if message["role"] == "tool":
            assert message["tool_call_id"] in unanswered, "a result follows its call at once"
            unanswered.discard(message["tool_call_id"])
        else:
            assert not unanswered
        unanswered |= {each["id"] for each in message.get("tool_calls", [])}
    assert not unanswered and "SECRET" not in json.dumps(out)
    given_media = sum(_count(message["content"], ("image", "document")) for message in messages)
    assert sum(_count(message["content"], ("image_url", "file")) for message in sent) == given_media
    calls = [json.loads(each["function"]["arguments"]) for message in sent for each in message.get("tool_calls", [])]
    assert calls == [
        block["input"]
        for message in messages
        for block in message["content"]
        if isinstance(block, dict) and block["type"] == "tool_use"
    ]
    for role in ("user", "assistant", "system"):
        kept = "".join(_words(message["content"]) for message in sent if message["role"] == role)
        for word in (word for message in messages if message["role"] == role for word in _texts(message["content"])):
            assert word in kept


def _count(content: Any, kinds: tuple[str, ...]) -> int:
    if not isinstance(content, list):
        return 0
    return sum((each["type"] in kinds) + _count(each.get("content"), kinds) for each in content)


def _texts(content: Any) -> list[str]:
    return [content] if isinstance(content, str) else [each["text"] for each in content if each["type"] == "text"]


def _words(content: Any) -> str:
    return "\n".join(_texts(content or ""))
