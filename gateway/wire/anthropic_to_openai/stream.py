"""A stream's chunks as Anthropic's events.

    reasoning ─ text ─ tool calls     as they arrive; Anthropic's blocks come one after another, each ended before the next begins

So a tool call is streamed while it is the only open one. What arrives beside it waits until its arguments are a whole JSON
object, to which nothing can be added, or until the end. Calls come in all forms, as issue trackers tell (read 2026-11-20): some
gave every parallel call index 0, or none at all; arguments in fragments or at once, as text, as an object, or as "" for none; two
calls with one id, an id in every chunk; names in pieces, or repeated in every chunk.

Thinking is shown only to clients that asked to see some, in blocks without a signature: clients give those back or leave them
out, and no provider takes them for its own. Nothing is invented: a stream without a finish_reason gets no end from here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

import msgspec

from gateway.usage import Usage
from gateway.wire.anthropic import PING
from gateway.wire.anthropic_to_openai.answer import (
    BROKEN,
    UNREADABLE,
    Counted,
    Json,
    argument_text,
    as_dict,
    as_list,
    as_text,
    collected,
    estimated_usage,
    first_choice,
    input_of,
    read_usage,
    render_usage,
    stop_of,
)
from gateway.wire.anthropic_to_openai.ids import ClientIds
from gateway.wire.anthropic_to_openai.refusal import Problem, known_message, read_problem
from gateway.wire.sse import event_data

Kind = Literal["thinking", "text"]

_DONE = b"[DONE]"


@dataclass(eq=False, slots=True)
class _Call:
    """A tool call on its way; `sent` is how many pieces of its arguments the client has, -1 before the block began."""

    id: str
    upstream_id: str
    name: str = ""
    pieces: list[str] = field(default_factory=list)
    sent: int = -1
    is_object: bool = False
    _looked_at: int = 0
    _is_whole: bool = False

    @property
    def arguments(self) -> str:
        return "".join(self.pieces)

    @property
    def is_whole(self) -> bool:
        """Whether the arguments are one whole JSON object. Looked at again only when they have grown."""
        if self._looked_at != len(self.pieces):
            self._looked_at = len(self.pieces)
            self._is_whole = self.pieces[-1].rstrip().endswith("}") and _is_object(self.arguments)
        return self._is_whole

    def add(self, piece: str) -> None:
        if not piece.strip() and not self.pieces:
            return  # blanks before anything
        self.is_object = self.is_object or (not self.pieces and piece.lstrip().startswith("{"))
        if piece:
            self.pieces.append(piece)


@dataclass(eq=False, slots=True)
class _Waiting:
    kind: Kind
    text: str


class StreamTranslator:
    """Fed with the upstream's events, whole and in order; gives the events for the client.

    `started`: message_start went out. `ended`: message_stop did. `errored`: an error event did, after which nothing follows.
    An event may give nothing (reasoning that is not shown): silence is the relay's to fill.
    """

    def __init__(self, model: str, message_id: str, input_tokens_estimate: int, *, show_thinking: bool = False) -> None:
        self.started = False
        self.ended = False
        self.errored = False
        self._model = model
        self._message_id = message_id
        self._input_tokens_estimate = input_tokens_estimate
        self._show_thinking = show_thinking
        self._ids = ClientIds(message_id)
        self._usage: Counted | None = None
        self._shown_bytes = 0
        self._choice: Json = {}  # the last that said why it ended
        self._refused = False
        self._calls: list[_Call] = []
        self._by_index: dict[int, _Call] = {}
        self._open: _Call | Kind | None = None
        self._waiting: list[_Call | _Waiting] = []
        self._blocks = 0
        self._blank = _Waiting("text", "")

    def feed(self, event: bytes) -> list[bytes]:
        """The client's events for one of the upstream's."""
        if self.ended or self.errored:
            return []
        data = event_data(event)
        if not data:
            return [PING] if event.lstrip().startswith(b":") else []  # a comment says that the upstream lives
        if data.strip() == _DONE:
            return self.finish()
        try:
            chunk = msgspec.json.decode(data)
        except UNREADABLE:
            return self._fail(Problem("", ""), "The upstream sent an event that cannot be read.")
        problem = read_problem(chunk)
        if problem is not None:
            return self._fail(problem, "The upstream broke its answer off.")
        return list(self._chunk(chunk)) if isinstance(chunk, dict) else []

    def finish(self) -> list[bytes]:
        """The end, if the upstream said why it ended; else nothing: the answer was cut, and the caller must say so."""
        if self.ended or self.errored or not self._choice:
            return []
        events = list(self._flush(at_end=True))
        stop_reason, stop_sequence = stop_of(self._choice, bool(self._calls), self._refused)
        delta = {"stop_reason": stop_reason, "stop_sequence": stop_sequence}
        usage = self._usage or estimated_usage(self._input_tokens_estimate, self._shown_bytes)
        events.append(_event("message_delta", {"delta": delta, "usage": render_usage(usage)}))
        events.append(_event("message_stop", {}))
        self.ended = True
        return events

    def _chunk(self, chunk: Json) -> Iterator[bytes]:
        usage = read_usage(chunk)
        if usage is not None:
            self._usage = usage
        if not self.started:
            self.started = True
            yield self._message_start()
        choice = first_choice(chunk)
        finish = choice.get("finish_reason")
        if finish in BROKEN:
            yield from self._fail(Problem("", ""), "The upstream broke its answer off.")
            return
        delta = choice.get("delta")
        if isinstance(delta, dict):
            yield from self._delta(delta)
        if isinstance(finish, str) and finish:
            self._choice = choice

    def _delta(self, delta: Json) -> Iterator[bytes]:
        thoughts, text, refusal = collected(delta)
        self._shown_bytes += len(thoughts.encode()) + len(text.encode()) + len(refusal.encode())
        self._refused = self._refused or bool(refusal)
        if thoughts and self._show_thinking:
            yield from self._say("thinking", thoughts)
        if text or refusal:
            yield from self._say("text", text + refusal)
        for piece in as_list(delta.get("tool_calls")):
            if isinstance(piece, dict):
                yield from self._tool(piece)

    def _say(self, kind: Kind, text: str) -> Iterator[bytes]:
        if self._open != kind or self._waiting:
            # A block of nothing but blanks, which many servers send before a call, is refused when it comes back.
            if self._blank.kind == kind:
                text = self._blank.text + text
            self._blank = _Waiting(kind, "")
            last = self._waiting[-1] if self._waiting else None
            if isinstance(last, _Waiting) and last.kind == kind:
                last.text += text
            elif not text.strip():
                self._blank.text = text
                return
            else:
                self._waiting.append(_Waiting(kind, text))
            yield from self._flush()
        else:
            yield self._text_delta(kind, text)

    def _tool(self, piece: Json) -> Iterator[bytes]:
        function = as_dict(piece.get("function"))
        name = as_text(function.get("name"))
        arguments = argument_text(function.get("arguments"))
        self._shown_bytes += len(arguments.encode())
        self._blank.text = ""
        call = self._call_of(piece, name, arguments)
        if call.sent < 0 and name != call.name:
            call.name += name  # in pieces; a name that comes again is no piece
        call.add(arguments)
        if call is self._open:
            yield from self._grow(call)
        yield from self._flush()

    def _call_of(self, piece: Json, name: str, arguments: str) -> _Call:
        """The call that a piece belongs to: by its index, else by its id, else the last; or a new one, if it cannot be that."""
        upstream_id = as_text(piece.get("id"))
        index = piece.get("index")
        if type(index) is int:
            call = self._by_index.get(index)
        else:
            same = [call for call in self._calls if not upstream_id or call.upstream_id == upstream_id]
            call = same[-1] if same else None
        if call is not None:
            other_id = bool(upstream_id and call.upstream_id and upstream_id != call.upstream_id)
            other_name = name != call.name and upstream_id != call.upstream_id
            # A whole object cannot grow: more of it, or another name, is the next call, wherever the server counts it.
            if not (name and (other_id or (call.is_whole and (other_name or arguments.strip())))):
                return call
        call = _Call(self._ids.next(upstream_id), upstream_id)
        self._calls.append(call)
        if type(index) is int:
            self._by_index[index] = call
        self._waiting.append(call)
        return call

    def _flush(self, at_end: bool = False) -> Iterator[bytes]:
        """Opens what waits, in order, as far as what is open may be closed."""
        while self._waiting:
            if isinstance(self._open, _Call) and not at_end and not self._open.is_whole:
                return
            yield from self._close()
            item = self._waiting.pop(0)
            if isinstance(item, _Call):
                self._open = item
                yield from self._grow(item)
            else:
                self._open = item.kind
                empty = {"thinking": "", "signature": ""} if item.kind == "thinking" else {"text": ""}
                yield self._block_start({"type": item.kind, **empty})
                yield self._text_delta(item.kind, item.text)
        if at_end:
            yield from self._close()

    def _grow(self, call: _Call) -> Iterator[bytes]:
        """Sends what the client has not of a call's arguments, if they are an object; what is none waits for the end."""
        if call.sent < 0:
            if not call.is_object or not call.name:
                return
            yield self._tool_start(call)
        if len(call.pieces) > call.sent:
            yield self._tool_delta("".join(call.pieces[call.sent :]))
            call.sent = len(call.pieces)

    def _close(self) -> Iterator[bytes]:
        call = self._open
        if call is None:
            return
        if isinstance(call, _Call) and call.sent < 0:
            yield self._tool_start(call)
            # Late, whole, and made an object if they are none.
            repaired = input_of(call.arguments).decode()
            if repaired != "{}":
                yield self._tool_delta(repaired)
        yield _event("content_block_stop", {"index": self._blocks - 1})
        self._open = None

    def _message_start(self) -> bytes:
        started = self._usage or Counted(Usage(input_tokens=self._input_tokens_estimate), None)
        usage = render_usage(started) | {"output_tokens": 0}
        message: Json = {
            "id": self._message_id,
            "type": "message",
            "role": "assistant",
            "model": self._model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": usage,
        }
        return _event("message_start", {"message": message})

    def _block_start(self, block: Json) -> bytes:
        self._blocks += 1
        return _event("content_block_start", {"index": self._blocks - 1, "content_block": block})

    def _tool_start(self, call: _Call) -> bytes:
        call.sent = 0
        return self._block_start({"type": "tool_use", "id": call.id, "name": call.name, "input": {}})

    def _tool_delta(self, text: str) -> bytes:
        return self._block_delta({"type": "input_json_delta", "partial_json": text})

    def _text_delta(self, kind: Kind, text: str) -> bytes:
        return self._block_delta({"type": f"{kind}_delta", kind: text})

    def _block_delta(self, delta: Json) -> bytes:
        return _event("content_block_delta", {"index": self._blocks - 1, "delta": delta})

    def _fail(self, problem: Problem, otherwise: str) -> list[bytes]:
        self.errored = True
        told = known_message(problem)
        error = {"type": "invalid_request_error" if told else "api_error", "message": told or problem.message or otherwise}
        return [_event("error", {"error": error})]


def _event(name: str, fields: Json) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (name.encode(), msgspec.json.encode({"type": name, **fields}))


def _is_object(text: str) -> bool:
    try:
        return isinstance(msgspec.json.decode(text), dict)
    except (*UNREADABLE, UnicodeEncodeError):
        return False
