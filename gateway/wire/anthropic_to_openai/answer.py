"""A whole answer as an Anthropic message, and what a stream's chunks have in common with it.

Servers differ; what is read here besides the specification is said of the servers named, and was not tried on each of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from gateway.errors import UpstreamError
from gateway.usage import Usage, tokens_of_bytes
from gateway.wire.anthropic_to_openai.ids import ClientIds
from gateway.wire.anthropic_to_openai.refusal import known_message, read_problem
from gateway.wire.openai_usage import ChatUsageReader

Json = dict[str, Any]

UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

_STOP_REASONS = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "end_turn",  # without a call; with one it is tool_use
    "function_call": "end_turn",
    "content_filter": "refusal",
    "model_length": "model_context_window_exceeded",  # Mistral
}
# The upstream gave up (vLLM, SGLang; OpenRouter; DeepSeek): no end of ours.
BROKEN = ("abort", "error", "insufficient_system_resource")


def translate_answer(
    body: bytes, *, model: str, message_id: str, input_tokens_estimate: int = 0, show_thinking: bool = False
) -> bytes:
    """A chat.completion as an Anthropic message, under the name that the client asked for.

    `input_tokens_estimate` stands where the upstream reports no usage. Raises UpstreamError for what is no finished answer: an
    error with status 200 (reason "error_in_200"), or a shape that cannot be read ("not_a_completion").
    """
    try:
        answer = msgspec.json.decode(body)
    except UNREADABLE:
        answer = None
    problem = read_problem(answer)
    if problem is not None:
        told = known_message(problem) or problem.message or "The upstream answered with an error."
        raise UpstreamError("upstream_failed", told, reason="error_in_200", detail=problem.message)
    choice = first_choice(answer)
    message = choice.get("message")
    if not isinstance(answer, dict) or not isinstance(message, dict):
        raise UpstreamError("upstream_failed", "The upstream's answer cannot be read.", reason="not_a_completion")
    finish = choice.get("finish_reason")
    if finish in BROKEN:
        raise UpstreamError("upstream_failed", "The upstream broke its answer off.", reason=f"finish_{finish}")
    thoughts, texts, refusals = collected(message)
    content: list[Json] = []
    if show_thinking and thoughts.strip():
        content.append({"type": "thinking", "thinking": thoughts, "signature": ""})
    if (texts + refusals).strip():
        content.append({"type": "text", "text": texts + refusals})
    ids = ClientIds(message_id)
    calls = [call for call in as_list(message.get("tool_calls")) if isinstance(call, dict)]
    for call in calls:
        function = as_dict(call.get("function"))
        tool_input = msgspec.Raw(input_of(argument_text(function.get("arguments"))))
        call_id, name = ids.next(as_text(call.get("id"))), as_text(function.get("name"))
        content.append({"type": "tool_use", "id": call_id, "name": name, "input": tool_input})
    usage = read_usage(answer)
    if usage is None:
        inputs = [argument_text(as_dict(call.get("function")).get("arguments")) for call in calls]
        usage = estimated_usage(input_tokens_estimate, sum(len(text.encode()) for text in (thoughts, texts, refusals, *inputs)))
    stop_reason, stop_sequence = stop_of(choice, bool(calls), bool(refusals))
    return msgspec.json.encode(
        {
            "id": message_id,
            "type": "message",
            "role": "assistant",
            "model": model,
            "content": content,
            "stop_reason": stop_reason,
            "stop_sequence": stop_sequence,
            "usage": render_usage(usage),
        }
    )


# --- what is read of a message and of a delta alike ---


def collected(message: Json) -> tuple[str, str, str]:
    """Reasoning, text and refusal of a message or a delta.

    `reasoning_content` is DeepSeek's and vLLM's, `reasoning` OpenRouter's, Groq's and newer vLLM's; who sends both says it twice.
    Content may be a list of parts (Mistral's reasoning models).
    """
    thoughts = as_text(message.get("reasoning_content")) or as_text(message.get("reasoning"))
    content = message.get("content")
    text = as_text(content)
    for part in as_list(content):
        if isinstance(part, dict):
            text += as_text(part.get("text"))
            thought = part.get("thinking")
            thoughts += as_text(thought) + "".join(as_text(as_dict(piece).get("text")) for piece in as_list(thought))
    return thoughts, text, as_text(message.get("refusal"))


def stop_of(choice: Json, has_calls: bool, refused: bool) -> tuple[str, str | None]:
    """`stop_reason` and `stop_sequence`. A reason that we do not know is an end all the same: the upstream says it ended."""
    finish = as_text(choice.get("finish_reason"))
    # What cut the answer counts before what is in it: the last call may be half.
    reason = _STOP_REASONS.get(finish, "end_turn")
    if reason != "end_turn":
        return reason, None
    if has_calls:
        return "tool_use", None
    if refused:
        return "refusal", None
    # vLLM and SGLang say which sequence it was; elsewhere nobody can know.
    sequence = as_text(choice.get("stop_reason")) or as_text(choice.get("matched_stop"))
    return ("stop_sequence", sequence) if finish == "stop" and sequence else (reason, None)


def argument_text(arguments: object) -> str:
    """A call's arguments as text; some servers send the object itself."""
    if isinstance(arguments, dict):
        return msgspec.json.encode(arguments).decode()
    return as_text(arguments)


def input_of(text: str) -> bytes:
    """The arguments as a JSON object, which the input of a tool_use must be.

    None at all ("", null) are {}. An object within a string is taken out. What is no object is wrapped as Anthropic's
    documentation of fine-grained tool streaming advises, so that the tool refuses it and the model sees what it wrote.
    """
    if not text.strip():
        return b"{}"
    try:
        value = msgspec.json.decode(text.encode())
        if isinstance(value, str):
            value = msgspec.json.decode(value)
            text = msgspec.json.encode(value).decode()
    except (*UNREADABLE, UnicodeEncodeError):
        value = text
    if value is None:
        return b"{}"
    return text.strip().encode() if isinstance(value, dict) else msgspec.json.encode({"INVALID_JSON": text})


@dataclass(frozen=True, slots=True)
class Counted:
    usage: Usage
    thinking_tokens: int | None


def read_usage(answer: Mapping[str, object]) -> Counted | None:
    """The usage of an answer or a chunk, None if it has none: what is shown is what the meter charges.

    Groq's streams carry it as x_groq.usage, Moonshot's in a choice.
    """
    reader = ChatUsageReader()
    for usage in (as_dict(answer.get("x_groq")).get("usage"), first_choice(answer).get("usage"), answer.get("usage")):
        reader.read(usage)
    return Counted(reader.total(), reader.reasoning_tokens) if reader.told else None


def estimated_usage(input_tokens: int, output_bytes: int) -> Counted:
    """For an upstream that reports nothing: numbers all the same, as clients count with them."""
    return Counted(Usage(input_tokens=input_tokens, output_tokens=tokens_of_bytes(output_bytes)), None)


def render_usage(counted: Counted) -> Json:
    usage = counted.usage
    shown: Json = {
        "input_tokens": usage.input_tokens,
        "cache_creation_input_tokens": usage.cache_write_5m_tokens,
        "cache_read_input_tokens": usage.cache_read_tokens,
        "output_tokens": usage.output_tokens,
    }
    if counted.thinking_tokens is not None:
        shown["output_tokens_details"] = {"thinking_tokens": min(counted.thinking_tokens, usage.output_tokens)}
    return shown


def first_choice(answer: object) -> Json:
    for choice in as_list(as_dict(answer).get("choices")):
        if isinstance(choice, dict) and choice.get("index", 0) in (0, None):
            return choice
    return {}


def as_dict(value: object) -> Json:
    return value if isinstance(value, dict) else {}


def as_list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def as_text(value: object) -> str:
    return value if isinstance(value, str) else ""
