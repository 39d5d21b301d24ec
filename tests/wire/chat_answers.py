"""Answers of OpenAI-compatible servers, as one table: each case whole, and in every manner of streaming told of some server.

for case in CASES: case.body                    the chat.completion
for style in STYLES: style(case)                its stream, as bytes
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

Json = dict[str, Any]

USAGE: Json = {
    "prompt_tokens": 1200,
    "completion_tokens": 90,
    "total_tokens": 1290,
    "prompt_tokens_details": {"cached_tokens": 1000},
    "completion_tokens_details": {"reasoning_tokens": 40},
}
USAGE_SHOWN: Json = {
    "input_tokens": 200,
    "cache_creation_input_tokens": 0,
    "cache_read_input_tokens": 1000,
    "output_tokens": 90,
    "output_tokens_details": {"thinking_tokens": 40},
}


def call(call_id: str | None, name: str, arguments: Any) -> Json:
    function = {"name": name, "arguments": arguments}
    return {"id": call_id, "type": "function", "function": function} if call_id is not None else {"function": function}


@dataclass(frozen=True)
class Case:
    """`message` and `finish` are what the server says; `content` and `stop` what the client must get."""

    name: str
    message: Json
    content: list[Json]
    finish: str | None = "stop"
    stop: tuple[str, str | None] = ("end_turn", None)
    choice: Json = field(default_factory=dict)
    usage: Json | None = field(default_factory=lambda: USAGE)
    usage_shown: Json = field(default_factory=lambda: USAGE_SHOWN)
    show_thinking: bool = False

    @property
    def body(self) -> bytes:
        message = {"role": "assistant", "content": None, **self.message}
        choice = {"index": 0, "message": message, "finish_reason": self.finish, **self.choice}
        answer = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "up-1", "choices": [choice]}
        return json.dumps(answer | ({"usage": self.usage} if self.usage is not None else {})).encode()

    def ending(self) -> Json:
        return {"index": 0, "delta": {}, "finish_reason": self.finish, **self.choice}


def text(value: str) -> Json:
    return {"type": "text", "text": value}


def thinking(value: str) -> Json:
    return {"type": "thinking", "thinking": value, "signature": ""}


def tool_use(call_id: str, name: str, value: Json) -> Json:
    return {"type": "tool_use", "id": call_id, "name": name, "input": value}


LONG_ID = "call_Xq7p3mL2vT9cB4nK8wZs1yRa"
OTHER_ID = "chatcmpl-tool-6c1d2a3b4c5d6e7f8091a2b3c4d5e6f7"
LS = {"command": 'ls -la "x y"', "n": 1.5, "deep": {"list": [1, None, "é\n\U0001f600"]}}
KIMI = "functions.Bash:0"
KIMI_CODED = "toolu_x" + KIMI.encode().hex()

CASES = [
    Case("text", {"content": "Hello, é \U0001f600 “you”\n"}, [text("Hello, é \U0001f600 “you”\n")]),
    Case("nothing", {"content": ""}, []),
    Case("null", {}, []),
    Case("blanks only", {"content": " \n\n"}, []),
    Case("blanks before text stay", {"content": "\n\nHi"}, [text("\n\nHi")]),
    Case("length", {"content": "cut"}, [text("cut")], finish="length", stop=("max_tokens", None)),
    Case("filtered", {"content": "some"}, [text("some")], finish="content_filter", stop=("refusal", None)),
    Case("refusal", {"refusal": "I can't help."}, [text("I can't help.")], stop=("refusal", None)),
    Case("an unknown end is an end", {"content": "x"}, [text("x")], finish="eos"),
    Case("context full", {"content": "x"}, [text("x")], finish="model_length", stop=("model_context_window_exceeded", None)),
    Case("a stop sequence (vLLM)", {"content": "x"}, [text("x")], choice={"stop_reason": "END"}, stop=("stop_sequence", "END")),
    Case("a stop token (vLLM)", {"content": "x"}, [text("x")], choice={"stop_reason": 128009}),
    Case("a stop sequence (SGLang)", {"content": "x"}, [text("x")], choice={"matched_stop": "\n"}, stop=("stop_sequence", "\n")),
    Case("reasoning, not asked for", {"reasoning_content": "hm", "content": "yes"}, [text("yes")]),
    Case(
        "reasoning (DeepSeek, vLLM)",
        {"reasoning_content": "hm, so", "content": "yes"},
        [thinking("hm, so"), text("yes")],
        show_thinking=True,
    ),
    Case("reasoning (OpenRouter)", {"reasoning": "hm", "content": "yes"}, [thinking("hm"), text("yes")], show_thinking=True),
    Case(
        "reasoning said twice",
        {"reasoning": "hm", "reasoning_content": "hm", "content": "yes"},
        [thinking("hm"), text("yes")],
        show_thinking=True,
    ),
    Case("only reasoning", {"reasoning": "hm"}, [thinking("hm")], finish="length", stop=("max_tokens", None), show_thinking=True),
    Case(
        "a tool",
        {"content": "Looking.", "tool_calls": [call(LONG_ID, "Bash", json.dumps(LS))]},
        [text("Looking."), tool_use(LONG_ID, "Bash", LS)],
        finish="tool_calls",
        stop=("tool_use", None),
    ),
    Case(
        "a tool after thoughts and blanks",
        {"reasoning_content": "ls, then", "content": "\n", "tool_calls": [call(LONG_ID, "Bash", json.dumps(LS))]},
        [thinking("ls, then"), tool_use(LONG_ID, "Bash", LS)],
        finish="tool_calls",
        stop=("tool_use", None),
        show_thinking=True,
    ),
    Case(
        "three tools, one end of another kind",
        {
            "tool_calls": [
                call(LONG_ID, "Bash", '{"a": {"b": "}"}}'),
                call(OTHER_ID, "Read", '{"p":"/x"}'),
                call("abcDEF123", "Read", "{}"),
            ]
        },
        [
            tool_use(LONG_ID, "Bash", {"a": {"b": "}"}}),
            tool_use(OTHER_ID, "Read", {"p": "/x"}),
            tool_use("abcDEF123", "Read", {}),
        ],
        finish="stop",
        stop=("tool_use", None),
    ),
    Case(
        "a tool without arguments",
        {"tool_calls": [call(LONG_ID, "Now", "")]},
        [tool_use(LONG_ID, "Now", {})],
        finish="tool_calls",
        stop=("tool_use", None),
    ),
    Case(
        "arguments null, and a tool after them",
        {"tool_calls": [call(LONG_ID, "Now", "null"), call(OTHER_ID, "Read", '{"p":1}')]},
        [tool_use(LONG_ID, "Now", {}), tool_use(OTHER_ID, "Read", {"p": 1})],
        finish="tool_calls",
        stop=("tool_use", None),
    ),
    Case(
        "arguments that are no object",
        {"tool_calls": [call(LONG_ID, "Bash", "[1, 2]"), call(OTHER_ID, "Bash", "ls -la")]},
        [tool_use(LONG_ID, "Bash", {"INVALID_JSON": "[1, 2]"}), tool_use(OTHER_ID, "Bash", {"INVALID_JSON": "ls -la"})],
        finish="tool_calls",
        stop=("tool_use", None),
    ),
    Case(
        "arguments in a string in a string",
        {"tool_calls": [call(LONG_ID, "Bash", json.dumps(json.dumps(LS)))]},
        [tool_use(LONG_ID, "Bash", LS)],
        finish="tool_calls",
        stop=("tool_use", None),
    ),
    Case(
        "an id in a form of its own (Kimi)",
        {"tool_calls": [call(KIMI, "Bash", "{}")]},
        [tool_use(KIMI_CODED, "Bash", {})],
        finish="tool_calls",
        stop=("tool_use", None),
    ),
    Case("usage without details", {"content": "x"}, [text("x")], usage={"prompt_tokens": 7, "completion_tokens": 3}, usage_shown={
        "input_tokens": 7, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0, "output_tokens": 3,
    }),
    Case("usage with a written cache", {"content": "x"}, [text("x")], usage={
        "prompt_tokens": 50, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 10, "cache_write_tokens": 30},
    }, usage_shown={
        "input_tokens": 10, "cache_creation_input_tokens": 30, "cache_read_input_tokens": 10, "output_tokens": 3,
    }),
    Case("usage of DeepSeek", {"content": "x"}, [text("x")], usage={
        "prompt_tokens": 50, "completion_tokens": 3, "prompt_cache_hit_tokens": 48, "prompt_cache_miss_tokens": 2,
    }, usage_shown={
        "input_tokens": 2, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 48, "output_tokens": 3,
    }),
    Case("no usage at all", {"content": "x" * 35}, [text("x" * 35)], usage=None, usage_shown={
        "input_tokens": 77, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0, "output_tokens": 10,
    }),
]  # fmt: skip


# --- the manners of streaming ---


def chunk(choices: list[Json], **extra: Any) -> Json:
    return {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "up-1", "choices": choices, **extra}


def delta(fields: Json, **extra: Any) -> Json:
    return chunk([{"index": 0, "delta": fields, "finish_reason": None}], **extra)


def sse(chunks: list[Json], *, line_end: str = "\n", done: bool = True) -> bytes:
    lines = [f"data: {json.dumps(each, ensure_ascii=False)}" for each in chunks] + (["data: [DONE]"] if done else [])
    return "".join(line + 2 * line_end for line in lines).encode()


def pieces(value: str, size: int) -> Iterator[str]:
    for start in range(0, len(value), size):
        yield value[start : start + size]


def spoken(case: Case, size: int) -> Iterator[Json]:
    """Everything but the calls, in fragments."""
    for name in ("reasoning", "reasoning_content"):
        if name not in ("reasoning_content",) or "reasoning" not in case.message:
            for piece in pieces(case.message.get(name) or "", size):
                both = (
                    {"reasoning": piece, "reasoning_content": piece}
                    if {"reasoning", "reasoning_content"} <= case.message.keys()
                    else {name: piece}
                )
                yield delta(both)
    for name in ("content", "refusal"):
        for piece in pieces(case.message.get(name) or "", size):
            yield delta({name: piece})


def ended(case: Case) -> list[Json]:
    return [chunk([case.ending()])] + ([chunk([], usage=case.usage)] if case.usage is not None else [])


def calls_of(case: Case) -> list[Json]:
    return list(case.message.get("tool_calls") or [])


def openai(case: Case) -> bytes:
    """api.openai.com: role first, a call's name first, then fragments; usage in a chunk of its own, null before."""
    chunks = [delta({"role": "assistant", "content": "", "refusal": None}, usage=None), *spoken(case, 4)]
    for index, each in enumerate(calls_of(case)):
        chunks.append(delta({"tool_calls": [{"index": index, **each, "function": {**each["function"], "arguments": ""}}]}))
        chunks += [
            delta({"tool_calls": [{"index": index, "function": {"arguments": piece}}]})
            for piece in pieces(each["function"]["arguments"], 3)
        ]
    return sse([*chunks, *ended(case)])


def at_once(case: Case) -> bytes:
    """Whole calls in one chunk, with the finish reason and the usage in it, lines ended by \\r\\n (Gemini, Ollama, Groq)."""
    last = chunk([{**case.ending(), "delta": {"tool_calls": [{"index": i, **each} for i, each in enumerate(calls_of(case))]}}])
    return sse(
        [*spoken(case, 1000), last | ({"x_groq": {"usage": case.usage}} if case.usage is not None else {})], line_end="\r\n"
    )


def without_index(case: Case) -> bytes:
    """No index; the id in every chunk; comments between; no [DONE]."""
    chunks = list(spoken(case, 2))
    for each in calls_of(case):
        chunks.append(delta({"tool_calls": [{**each, "function": {**each["function"], "arguments": ""}}]}))
        chunks += [
            delta({"tool_calls": [{"id": each["id"], "function": {"arguments": piece}}]})
            for piece in pieces(each["function"]["arguments"], 5)
        ]
    return b": PROCESSING\n\n" + sse([*chunks, *ended(case)], done=False)


def name_repeated(case: Case) -> bytes:
    """Name and id in every chunk of a call, an empty chunk at its end."""
    chunks = list(spoken(case, 7))
    for index, each in enumerate(calls_of(case)):
        for piece in [*pieces(each["function"]["arguments"], 2), ""]:
            chunks.append(delta({"tool_calls": [{"index": index, **each, "function": {**each["function"], "arguments": piece}}]}))
    return sse([*chunks, *ended(case)])


def name_in_pieces(case: Case) -> bytes:
    chunks = list(spoken(case, 1))
    for index, each in enumerate(calls_of(case)):
        name = each["function"]["name"]
        chunks.append(
            delta({"tool_calls": [{"index": index, "id": each["id"], "type": "function", "function": {"name": name[:2]}}]})
        )
        chunks.append(delta({"tool_calls": [{"index": index, "function": {"name": name[2:], "arguments": None}}]}))
        chunks += [
            delta({"tool_calls": [{"index": index, "function": {"arguments": piece}}]})
            for piece in pieces(each["function"]["arguments"], 1)
        ]
    return sse([*chunks, *ended(case)])


def interleaved(case: Case) -> bytes:
    """The fragments of parallel calls by turns, after all names."""
    calls = calls_of(case)
    chunks = list(spoken(case, 3))
    chunks += [
        delta(
            {"tool_calls": [{"index": i, **each, "function": {"name": each["function"]["name"]}} for i, each in enumerate(calls)]}
        )
    ]
    rows = [list(pieces(each["function"]["arguments"], 2)) for each in calls]
    for number in range(max(map(len, rows), default=0)):
        for index, row in enumerate(rows):
            if number < len(row):
                chunks.append(delta({"tool_calls": [{"index": index, "function": {"arguments": row[number]}}]}))
    return sse([*chunks, *ended(case)])


def all_index_zero(case: Case) -> bytes:
    """Each call whole, each with index 0 (some Gemini proxies)."""
    chunks = [delta({"tool_calls": [{"index": 0, **each}]}) for each in calls_of(case)]
    return sse([*spoken(case, 9), *chunks, *ended(case)])


def usage_everywhere(case: Case) -> bytes:
    """vLLM with continuous_usage_stats: a growing usage in every chunk."""
    if case.usage is None:
        return openai(case)
    growing = [each | {"usage": {**case.usage, "completion_tokens": number}} for number, each in enumerate(spoken(case, 3))]
    chunks = [delta({"tool_calls": [{"index": i, **each}]}) for i, each in enumerate(calls_of(case))]
    return sse([*growing, *chunks, *ended(case)])


STYLES: list[Callable[[Case], bytes]] = [
    openai, at_once, without_index, name_repeated, name_in_pieces, interleaved, all_index_zero, usage_everywhere,
]  # fmt: skip
