"""An Anthropic upstream's stream as an OpenAI client reads it: each event becomes the chunks that say the same.

    message_start          the first chunk: the role
    text                   content
    tool_use               tool_calls: `index` counts the calls from 0 (never the blocks); id and name first, then the arguments
                           in the provider's own fragments
    thinking               reasoning_content; once a block is complete, and signed, one entry of thinking_blocks
    message_stop           finish_reason, the usage if it was asked for, [DONE]: an end is told only where the provider told one
    ping                   a comment, `: keep-alive`: ignored by both SDKs, and it keeps a silent connection alive
    error                  a chunk with `error`, and nothing after it

What each thing is called is said in openai_to_anthropic_answers.py. Sources, read 2026-11-20: platform.claude.com/docs/en
/build-with-claude/streaming; developers.openai.com/api/docs (streaming events) and `lib/streaming` of the openai SDK 3.52, which
joins the entries of lists by their `index`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import msgspec

from gateway.wire.anthropic_usage import UsageReader
from gateway.wire.openai import KEEP_ALIVE
from gateway.wire.openai_to_anthropic_answers import (
    UNREADABLE,
    Block,
    StopDetails,
    error_body,
    finish_reason_of,
    refusal_of,
    render_call,
    render_error,
    render_thinking,
    render_usage,
    unreadable,
)
from gateway.wire.sse import event_data

DONE = b"data: [DONE]\n\n"


class _Typed(msgspec.Struct):
    type: str


class _Started(msgspec.Struct):
    usage: object = None


class _MessageStart(msgspec.Struct):
    message: _Started


class _BlockStart(msgspec.Struct):
    index: int
    content_block: Block


class _Delta(msgspec.Struct):
    type: str
    text: str = ""
    partial_json: str = ""
    thinking: str = ""
    signature: str = ""


class _BlockDelta(msgspec.Struct):
    index: int
    delta: _Delta


class _BlockStop(msgspec.Struct):
    index: int


class _Ending(msgspec.Struct):
    stop_reason: str | None = None
    stop_details: StopDetails | None = None


class _MessageDelta(msgspec.Struct):
    delta: _Ending
    usage: object = None


_typed = msgspec.json.Decoder(_Typed)
_message_start = msgspec.json.Decoder(_MessageStart)
_block_start = msgspec.json.Decoder(_BlockStart)
_block_delta = msgspec.json.Decoder(_BlockDelta)
_block_stop = msgspec.json.Decoder(_BlockStop)
_message_delta = msgspec.json.Decoder(_MessageDelta)
_encode = msgspec.json.encode


@dataclass(slots=True)
class _Open:
    """A block that has begun: what it began with, and what came since."""

    block: Block
    number: int = 0
    fragments: bool = False
    thinking: list[str] = field(default_factory=list)
    signature: list[str] = field(default_factory=list)


class StreamTranslator:
    """One stream: fed with each whole event in order, it returns what the client gets for it.

    Raises UpstreamError (unreadable_event) where a piece of the answer cannot be read: the caller ends the stream with an error,
    since leaving it out would make another answer. Events after the end, and kinds that are not known, give nothing.
    """

    def __init__(self, model: str, completion_id: str, created: int, include_usage: bool, functions: bool = False) -> None:
        """`created` in Unix seconds; `functions` where the request used the deprecated `functions`."""
        head = {"id": completion_id, "object": "chat.completion.chunk", "created": created, "model": model}
        self._head = b"data: " + _encode(head)[:-1]
        self._tail = b',"usage":null}\n\n' if include_usage else b"}\n\n"
        self._include_usage = include_usage
        self._functions = functions
        self._usage: UsageReader | None = None
        self._open: dict[int, _Open] = {}
        self._calls = 0
        self._begun = False
        self._has_text = False
        self._ending = _Ending()
        self.over = False

    def feed(self, event: bytes) -> list[bytes]:
        data = event_data(event)
        if self.over:
            return []
        if not data:
            return [KEEP_ALIVE] if event.startswith(b":") else []
        try:
            return self._translate(_typed.decode(data).type, data)
        except UNREADABLE:
            raise unreadable("event") from None

    def finish(self) -> list[bytes]:
        """What is owed once the upstream has closed: nothing. [DONE] went out with message_stop; without one nothing ends."""
        return []

    def _translate(self, kind: str, data: bytes) -> list[bytes]:
        if kind == "content_block_delta":
            return self._delta(_block_delta.decode(data))
        if kind == "content_block_start":
            return self._start(_block_start.decode(data))
        if kind == "content_block_stop":
            return self._stop(_block_stop.decode(data).index)
        if kind == "message_start":
            usage = _message_start.decode(data).message.usage
            if isinstance(usage, dict):
                usage.pop("output_tokens", None)  # a placeholder, see meter.py
            self._read_usage(usage)
            return self._begin()
        if kind == "message_delta":
            ending = _message_delta.decode(data)
            self._ending = ending.delta
            self._read_usage(ending.usage)
            return []
        if kind == "message_stop":
            return self._end()
        if kind == "error":
            self.over = True
            return [
                b"data: "
                + _encode({"error": render_error(error_body.decode(data).error, "The provider broke off its answer.")})
                + b"\n\n"
            ]
        return [KEEP_ALIVE] if kind == "ping" else []

    def _begin(self) -> list[bytes]:
        if self._begun:
            return []
        self._begun = True
        return [self._chunk({"role": "assistant", "content": None})]

    def _start(self, start: _BlockStart) -> list[bytes]:
        block = start.content_block
        opened = self._open[start.index] = _Open(block)
        if block.type == "text":
            return self._text(block.text or "")
        if block.type == "thinking":
            return self._think(opened, block.thinking or "", block.signature or "")
        if block.type != "tool_use":
            return []
        opened.number = self._calls
        self._calls += 1
        call = render_call(block) | {"index": opened.number}
        call["function"] = {"name": block.name or "", "arguments": ""}
        return self._call(call)

    def _delta(self, event: _BlockDelta) -> list[bytes]:
        delta = event.delta
        if delta.type == "text_delta":
            return self._text(delta.text)
        opened = self._open.get(event.index)
        if opened is None:
            return []
        if delta.type == "input_json_delta" and opened.block.type == "tool_use" and delta.partial_json:
            opened.fragments = True
            return self._arguments(opened, delta.partial_json)
        if delta.type == "thinking_delta":
            return self._think(opened, delta.thinking, "")
        if delta.type == "signature_delta":
            return self._think(opened, "", delta.signature)
        return []

    def _stop(self, index: int) -> list[bytes]:
        opened = self._open.pop(index, None)
        if opened is None:
            return []
        block = opened.block
        if block.type == "tool_use" and not opened.fragments:
            # A call without arguments streams none; "" would be no JSON.
            return self._arguments(opened, bytes(block.input).decode())
        block.thinking, block.signature = "".join(opened.thinking), "".join(opened.signature)
        thought = render_thinking(index, block)
        return [self._chunk({"thinking_blocks": [thought]})] if thought is not None else []

    def _end(self) -> list[bytes]:
        self.over = True
        delta: dict[str, Any] = {}
        refusal = refusal_of(self._ending.stop_details)
        if refusal is not None:
            delta["refusal"] = refusal
        if not self._has_text and not self._calls:
            delta["content"] = ""  # an answer of nothing is an empty text, not a missing one
        chunks = [*self._begin(), self._chunk(delta, finish_reason_of(self._ending.stop_reason, functions=self._functions))]
        if self._include_usage and self._usage is not None:
            chunks.append(self._head + b',"choices":[],"usage":' + _encode(render_usage(self._usage)) + b"}\n\n")
        return [*chunks, DONE]

    def _text(self, text: str) -> list[bytes]:
        if not text:
            return []
        self._has_text = True
        return [*self._begin(), self._chunk({"content": text})]

    def _think(self, opened: _Open, thinking: str, signature: str) -> list[bytes]:
        opened.signature.append(signature)
        if not thinking:
            return []
        opened.thinking.append(thinking)
        return [*self._begin(), self._chunk({"reasoning_content": thinking})]

    def _arguments(self, opened: _Open, fragment: str) -> list[bytes]:
        return self._call({"index": opened.number, "function": {"arguments": fragment}})

    def _call(self, call: dict[str, Any]) -> list[bytes]:
        if not self._functions:
            return [*self._begin(), self._chunk({"tool_calls": [call]})]
        # Such a client knows one call only, and was promised no more (disable_parallel_tool_use).
        return [*self._begin(), self._chunk({"function_call": call["function"]})] if call["index"] == 0 else []

    def _chunk(self, delta: dict[str, Any], finish_reason: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return self._head + b',"choices":[' + _encode(choice) + b"]" + self._tail

    def _read_usage(self, usage: object) -> None:
        if isinstance(usage, dict):
            self._usage = self._usage or UsageReader()
            self._usage.read(usage)
