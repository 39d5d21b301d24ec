"""What stands between a client and an upstream for one attempt: nothing but a renamed model, or a whole translation.

                      client speaks Anthropic              client speaks OpenAI
    Anthropic         AnthropicBridge                      OpenAIToAnthropicBridge
    OpenAI            AnthropicToOpenAIBridge              OpenAIBridge

Within one dialect bytes pass untouched but for the model's name (and, toward OpenAI, our question for usage, whose chunk is
hidden again from a client that had not asked). The meter always reads the upstream's own bytes, so a translated answer is charged
as an untranslated one. Made anew for each attempt; `feed` and `finish` belong to one stream.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

import orjson

from gateway.wire import anthropic_to_openai, openai_to_anthropic, openai_to_anthropic_answers, openai_to_anthropic_stream
from gateway.wire.anthropic import read_error_type
from gateway.wire.call import Call, Dialect
from gateway.wire.meter import AnthropicMeter, Meter, WholeReading, classify, meter_whole
from gateway.wire.openai import ask_for_usage, is_usage_chunk, read_error, rename_chunk_model
from gateway.wire.openai_meter import OpenAIMeter, classify_chunk, meter_whole_openai
from gateway.wire.splice import rename_answer_model, rename_message_start, replace_value
from gateway.wire.sse import event_data

# What a first event may be: only a real one opens the client's stream.
FirstEvent = Literal["ping", "error", "real"]
MaxTokensField = Literal["max_tokens", "max_completion_tokens"]
ReasoningField = Literal["", "reasoning_content", "reasoning"]

_OVERLOADED_CODES = ("overloaded_error", "server_overloaded", "overloaded")
_LIMITED_CODES = ("rate_limit_error", "rate_limit_exceeded", "rate_limit_reached")


@dataclass(frozen=True, slots=True)
class Habits:
    """What one server of the Chat Completions API wants otherwise than another (see `anthropic_to_openai.translate_request`)."""

    max_tokens_field: MaxTokensField = "max_tokens"
    effort_with_tools: Literal["as_asked", "none"] = "as_asked"
    reasoning_field: ReasoningField = ""


@dataclass(frozen=True, slots=True)
class Crossing:
    """What a bridge is made for: the client's call, the upstream's name for the model and what it can, and the ids of the answer
    (`created` in Unix seconds)."""

    call: Call
    model: str
    max_output_tokens: int
    input_estimate: int
    answer_id: str
    created: int
    habits: Habits = Habits()


class Bridge(Protocol):
    thinking_hidden: bool
    """The upstream may think at length and show nothing of it."""

    def request(self) -> bytes:
        """The body for the upstream. Raises ClientError for what cannot be carried."""
        ...

    def meter(self) -> Meter:
        """What reads the upstream's stream."""
        ...

    def meter_whole(self, body: bytes) -> WholeReading: ...

    def classify(self, event: bytes) -> FirstEvent: ...

    def read_error(self, event: bytes) -> str:
        """The type of an error event, in Anthropic's words where they have one."""
        ...

    def answer(self, body: bytes) -> bytes:
        """A whole answer as the client gets it. Raises UpstreamError for what is none."""
        ...

    def feed(self, event: bytes) -> bytes:
        """What the client gets for an event of the upstream's stream. Raises UpstreamError for what cannot be read."""
        ...

    def finish(self) -> bytes:
        """What is left to say at the upstream's proper end."""
        ...

    def is_over(self, meter: Meter) -> bool:
        """Whether the client's stream has its end or an error, so that nothing may follow; `meter` has read the upstream's."""
        ...

    def refusal(self, status: int, body: bytes) -> tuple[int, bytes]:
        """An error answer as the client gets it."""
        ...


class _FromAnthropic:
    """Reading an Anthropic upstream."""

    def meter(self) -> Meter:
        return AnthropicMeter()

    def meter_whole(self, body: bytes) -> WholeReading:
        return meter_whole(body)

    def classify(self, event: bytes) -> FirstEvent:
        kind = classify(event)
        if kind == "error":
            return "error"
        return "ping" if kind == "ping" or event_data(event) == b"" else "real"

    def read_error(self, event: bytes) -> str:
        return read_error_type(event)


class _FromOpenAI:
    """Reading an OpenAI upstream."""

    def meter(self) -> Meter:
        return OpenAIMeter()

    def meter_whole(self, body: bytes) -> WholeReading:
        return meter_whole_openai(body)

    def classify(self, event: bytes) -> FirstEvent:
        kind = classify_chunk(event)
        if kind == "error":
            return "error"
        # An end before anything else is no answer.
        return "real" if kind == "chunk" else "ping"

    def read_error(self, event: bytes) -> str:
        error = read_error(event_data(event))
        words = (error.type, error.code)
        if any(word in _LIMITED_CODES for word in words):
            return "rate_limit_error"
        return "overloaded_error" if any(word in _OVERLOADED_CODES for word in words) else error.type


class _Verbatim:
    """Where nothing is translated the upstream's end and its errors are the client's."""

    def finish(self) -> bytes:
        return b""

    def is_over(self, meter: Meter) -> bool:
        return meter.ended or meter.errored

    def refusal(self, status: int, body: bytes) -> tuple[int, bytes]:
        return status, body


class AnthropicBridge(_FromAnthropic, _Verbatim):
    def __init__(self, crossing: Crossing) -> None:
        self._call, self._model = crossing.call, crossing.model
        self.thinking_hidden = crossing.call.thinking_hidden
        self._renamed = self._model != self._call.model
        self._started = False

    def request(self) -> bytes:
        return renamed(self._call, self._model)

    def answer(self, body: bytes) -> bytes:
        return rename_answer_model(body, self._call.model) if self._renamed else body

    def feed(self, event: bytes) -> bytes:
        # The model stands in message_start alone.
        if self._renamed and not self._started and b"message_start" in event:
            self._started = True
            return rename_message_start(event, self._call.model)
        return event


class OpenAIBridge(_FromOpenAI, _Verbatim):
    def __init__(self, crossing: Crossing) -> None:
        self._call, self._model = crossing.call, crossing.model
        self.thinking_hidden = crossing.call.thinking_hidden
        self._renamed = self._model != self._call.model

    def request(self) -> bytes:
        body = renamed(self._call, self._model)
        return ask_for_usage(body) if self._call.stream else body

    def answer(self, body: bytes) -> bytes:
        return rename_answer_model(body, self._call.model) if self._renamed else body

    def feed(self, event: bytes) -> bytes:
        if not self._call.usage_asked and is_usage_chunk(event):
            return b""
        return rename_chunk_model(event, self._call.model) if self._renamed else event

    def refusal(self, status: int, body: bytes) -> tuple[int, bytes]:
        # llama.cpp says 500 to a picture that it cannot see: told so, the client mends it, and the server is not taken for ill.
        return (400 if status >= 500 and anthropic_to_openai.is_clients_fault(body) else status), body


class AnthropicToOpenAIBridge(_FromOpenAI):
    """An Anthropic client on an OpenAI upstream."""

    # Reasoning models there think unasked, and most show nothing of it.
    thinking_hidden = True

    def __init__(self, crossing: Crossing) -> None:
        self._crossing = crossing
        call, habits = crossing.call, crossing.habits
        # A server that wants its reasoning back gets it back only if the client was shown it.
        self._shows_thinking = bool(habits.reasoning_field) or anthropic_to_openai.wants_thinking(call.body)
        self._stream = anthropic_to_openai.StreamTranslator(
            call.model, crossing.answer_id, crossing.input_estimate, show_thinking=self._shows_thinking
        )

    def request(self) -> bytes:
        crossing, habits = self._crossing, self._crossing.habits
        return anthropic_to_openai.translate_request(
            crossing.call.body,
            model=crossing.model,
            max_tokens_field=habits.max_tokens_field,
            max_output_tokens=crossing.max_output_tokens,
            effort_with_tools=habits.effort_with_tools,
            reasoning_field=habits.reasoning_field,
        )

    def answer(self, body: bytes) -> bytes:
        crossing = self._crossing
        return anthropic_to_openai.translate_answer(
            body,
            model=crossing.call.model,
            message_id=crossing.answer_id,
            input_tokens_estimate=crossing.input_estimate,
            show_thinking=self._shows_thinking,
        )

    def feed(self, event: bytes) -> bytes:
        return b"".join(self._stream.feed(event))

    def finish(self) -> bytes:
        return b"".join(self._stream.finish())

    def is_over(self, meter: Meter) -> bool:
        return self._stream.ended or self._stream.errored

    def refusal(self, status: int, body: bytes) -> tuple[int, bytes]:
        return anthropic_to_openai.translate_refusal(status, body)


class OpenAIToAnthropicBridge(_FromAnthropic):
    """An OpenAI client on an Anthropic upstream."""

    def __init__(self, crossing: Crossing) -> None:
        self._crossing = crossing
        call = crossing.call
        self.thinking_hidden = call.thinking_hidden
        self._functions = openai_to_anthropic.asks_for_functions(call.body)
        self._stream = openai_to_anthropic_stream.StreamTranslator(
            call.model, crossing.answer_id, crossing.created, include_usage=call.usage_asked, functions=self._functions
        )

    def request(self) -> bytes:
        crossing = self._crossing
        return openai_to_anthropic.translate_request(
            crossing.call.body, model=crossing.model, max_tokens_default=0, model_max_tokens=crossing.max_output_tokens
        )

    def answer(self, body: bytes) -> bytes:
        crossing = self._crossing
        return openai_to_anthropic_answers.translate_answer(
            body,
            model=crossing.call.model,
            completion_id=crossing.answer_id,
            created=crossing.created,
            functions=self._functions,
        )

    def feed(self, event: bytes) -> bytes:
        return b"".join(self._stream.feed(event))

    def finish(self) -> bytes:
        return b"".join(self._stream.finish())

    def is_over(self, meter: Meter) -> bool:
        return self._stream.over

    def refusal(self, status: int, body: bytes) -> tuple[int, bytes]:
        return openai_to_anthropic_answers.translate_refusal(status, body)


_BRIDGES: dict[tuple[Dialect, Dialect], Callable[[Crossing], Bridge]] = {
    ("anthropic", "anthropic"): AnthropicBridge,
    ("openai", "openai"): OpenAIBridge,
    ("anthropic", "openai"): AnthropicToOpenAIBridge,
    ("openai", "anthropic"): OpenAIToAnthropicBridge,
}


def bridge_to(upstream: Dialect, crossing: Crossing) -> Bridge:
    """The bridge from the call's client to an upstream of that dialect."""
    return _BRIDGES[crossing.call.dialect, upstream](crossing)


def renamed(call: Call, model: str) -> bytes:
    """The client's bytes, with the model renamed if the upstream calls it otherwise."""
    return call.body if model == call.model else replace_value(call.body, "model", orjson.dumps(model))
