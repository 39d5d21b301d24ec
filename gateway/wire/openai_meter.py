"""Reading a Chat Completions answer while it passes: what it consumed, how much of it can be seen, how it ended.

Every chunk is decoded, at 0.5 µs for an ordinary one: text, reasoning and tool arguments stand in many places, and servers do
not agree on them. An answer comes from outside: whatever it says, nothing is raised; what cannot be a count is left out and
flagged.

How a stream ends: with `data: [DONE]`; or, at servers that do not send it, with the proper end of its body after every choice
has told its `finish_reason` (`end_of_body`): nothing of the answer can be missing then but its usage, which is estimated. An
`error` in the data, at the top or in a choice, is no end, whatever follows.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from gateway.usage import Usage
from gateway.wire.meter import WholeReading
from gateway.wire.openai_usage import ChatUsageReader
from gateway.wire.sse import event_data, event_name

ChunkKind = Literal["ping", "error", "done", "chunk"]

_DONE = b"[DONE]"
# One reasoning under several names: vLLM writes two of them at once, OpenRouter details beside the text.
_REASONING = frozenset(("reasoning_content", "reasoning", "reasoning_details"))
# Where a part of a content, or of reasoning details, has its text.
_TEXTS = ("text", "thinking", "summary")
_ERROR = "error"
_TEXT_LENGTH_MAX = 200
# Mistral nests texts: content, its parts, the text within a thinking part.
_NESTING_MAX = 4
# More than a request may ask for: what a hostile stream names is not remembered without end.
_CHOICES_MAX = 1_000


class _Chunk(msgspec.Struct):
    """The parts of a chunk, or of a whole answer, that are read; anything may be of any type."""

    kind: object = msgspec.field(default=None, name="object")
    model: object = None
    choices: object = None
    usage: object = None
    error: object = None
    service_tier: object = None
    x_groq: object = None


_chunk = msgspec.json.Decoder(_Chunk)

# RecursionError: untrusted bytes may be nested without end.
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class OpenAIMeter:
    """Fed with each event of a stream, in order (`meter.Meter`).

    `started` is the first chunk with a choice or usage. Usage is cumulative where a server tells it with every chunk (vLLM, xAI):
    the last wins. `visible_bytes` are the UTF-8 bytes of text, refusals, tool arguments and displayed reasoning.
    """

    def __init__(self) -> None:
        self.started = False
        self.ended = False
        self.errored = False
        self.output_reported = False
        self.visible_bytes = 0
        self.last_reported_output = 0
        self.model = ""
        self.stop_reason = ""
        self._reader = ChatUsageReader()
        self._unreadable = False
        self._begun: set[int] = set()
        self._finished: set[int] = set()

    @property
    def usage(self) -> Usage:
        return self._reader.total()

    @property
    def unknown_fields(self) -> set[str]:
        """What in `usage` we do not know, and so do not price."""
        return self._reader.unknown_fields

    @property
    def malformed(self) -> bool:
        """Something that should be a count was none."""
        return self._unreadable or self._reader.malformed

    def feed(self, event: bytes) -> None:
        data = event_data(event)
        if not data:
            return  # a comment
        if _names_error(event):
            self.errored = True
        if data.startswith(_DONE):
            self.ended = not self.errored
            return
        try:
            chunk = _chunk.decode(data)
        except _UNREADABLE:
            self._unreadable = self._unreadable or b'"usage"' in data
            return
        if chunk.error or chunk.kind == _ERROR:
            self.errored = True
        if isinstance(chunk.model, str) and chunk.model:
            self.model = chunk.model[:_TEXT_LENGTH_MAX]
        if isinstance(chunk.choices, list):
            for choice in chunk.choices:
                if isinstance(choice, dict):
                    self._read_choice(choice)
        if chunk.service_tier is not None:
            self._reader.read_tier(chunk.service_tier)
        if isinstance(chunk.x_groq, dict):
            self._read_usage(chunk.x_groq.get("usage"))
        self._read_usage(chunk.usage)

    def end_of_body(self) -> None:
        if self._finished and self._begun <= self._finished and not self.errored:
            self.ended = True

    def _read_choice(self, choice: dict[str, object]) -> None:
        self.started = True
        index = choice.get("index")
        number = index if type(index) is int else 0
        if len(self._begun) < _CHOICES_MAX:
            self._begun.add(number)
        reason = choice.get("finish_reason")
        if isinstance(reason, str) and reason:
            self.stop_reason = reason[:_TEXT_LENGTH_MAX]
            if number in self._begun:
                self._finished.add(number)
            self.errored = self.errored or reason == _ERROR
        delta = choice.get("delta")
        if isinstance(delta, dict):
            self.visible_bytes += _visible_bytes(delta)
        self._read_usage(choice.get("usage"))

    def _read_usage(self, usage: object) -> None:
        if usage is None:
            return
        self._reader.read(usage)
        self.started = self.started or self._reader.told
        reported = self._reader.output_tokens
        if reported is not None:
            self.output_reported = True
            self.last_reported_output = reported


def classify_chunk(event: bytes) -> ChunkKind:
    """What an event is: a comment, the end, a failure told inside the stream, or some of the answer."""
    data = event_data(event)
    if not data:
        return "ping"
    if data.startswith(_DONE):
        return "done"
    if _names_error(event):
        return "error"
    if b'"error"' not in data:
        return "chunk"
    try:
        return "error" if _is_error(_chunk.decode(data)) else "chunk"
    except _UNREADABLE:
        return "chunk"


def meter_whole_openai(body: bytes) -> WholeReading:
    """Read a non-streamed answer. An error told with status 200 is no message, and has no usage."""
    try:
        whole = _chunk.decode(body)
    except _UNREADABLE:
        return WholeReading(None, "", "", frozenset(), malformed=True, is_message=False)
    reader = ChatUsageReader()
    reader.read(whole.usage)
    reader.read_tier(whole.service_tier)
    choices = [choice for choice in whole.choices if isinstance(choice, dict)] if isinstance(whole.choices, list) else []
    reasons = [reason for choice in choices if isinstance(reason := choice.get("finish_reason"), str)]
    return WholeReading(
        usage=reader.total() if reader.told else None,
        model=whole.model[:_TEXT_LENGTH_MAX] if isinstance(whole.model, str) else "",
        stop_reason=reasons[-1][:_TEXT_LENGTH_MAX] if reasons else "",
        unknown_fields=frozenset(reader.unknown_fields),
        malformed=reader.malformed,
        is_message=bool(choices) and not _is_error(whole),
    )


def _is_error(chunk: _Chunk) -> bool:
    """OpenAI and most: a top-level `error`. Older vLLM: `"object": "error"`. OpenRouter: a choice that finishes with "error"."""
    if chunk.error or chunk.kind == _ERROR:
        return True
    return isinstance(chunk.choices, list) and any(
        isinstance(choice, dict) and choice.get("finish_reason") == _ERROR for choice in chunk.choices
    )


def _names_error(event: bytes) -> bool:
    """Whether the event is called `error`; ordinary ones have no name, and begin with their data."""
    return not event.startswith(b"data:") and event_name(event) == b"error"


def _visible_bytes(delta: dict[str, object]) -> int:
    visible = reasoning = 0
    for name, value in delta.items():
        if name in ("content", "refusal"):
            visible += _text_bytes(value)
        elif name in _REASONING:
            reasoning = max(reasoning, _text_bytes(value))
        elif name == "tool_calls" and isinstance(value, list):
            visible += sum(_argument_bytes(call) for call in value)
        elif name == "function_call":
            visible += _argument_bytes({"function": value})
        elif name == "audio" and isinstance(value, dict):
            visible += _text_bytes(value.get("transcript"))
    return visible + reasoning


def _argument_bytes(call: object) -> int:
    if not isinstance(call, dict):
        return 0
    function, custom = call.get("function"), call.get("custom")
    arguments = function.get("arguments") if isinstance(function, dict) else None
    return _text_bytes(arguments) + _text_bytes(custom.get("input") if isinstance(custom, dict) else None)


def _text_bytes(value: object, nesting: int = 0) -> int:
    if isinstance(value, str):
        return len(value) if value.isascii() else len(value.encode())
    if nesting > _NESTING_MAX:
        return 0
    if isinstance(value, list):
        return sum(_text_bytes(part, nesting + 1) for part in value)
    if isinstance(value, dict):
        return sum(_text_bytes(value.get(name), nesting + 1) for name in _TEXTS)
    return 0
