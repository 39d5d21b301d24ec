"""The request as a whole: fields, and what is chosen for the upstream that it goes to."""

from __future__ import annotations

import hashlib
from typing import Any, Literal

import msgspec

from gateway.errors import ClientError
from gateway.wire.anthropic_to_openai.fields import NULL, REFUSED, decode, refusal
from gateway.wire.anthropic_to_openai.messages import Conversation, Message, OutputConfig, ReasoningField
from gateway.wire.anthropic_to_openai.tools import Tool, ToolChoice, choice_of, is_strict, tools_at_end
from gateway.wire.sse import BOM

Json = dict[str, Any]
MaxTokensField = Literal["max_tokens", "max_completion_tokens"]
EffortWithTools = Literal["as_asked", "none"]

STOP_SEQUENCES_MAX = 4
# The longest that api.openai.com takes (its error says so).
USER_LENGTH_MAX = 64
# Each object becomes a Python object of some 200 bytes. A conversation that fills a context of a million tokens has a tenth.
OBJECTS_MAX = 250_000


class _Format(msgspec.Struct):
    type: str
    schema: msgspec.Raw


class _Metadata(msgspec.Struct):
    user_id: str | None = None


class _Thinking(msgspec.Struct):
    type: str = ""
    display: str | None = None


class _Wants(msgspec.Struct):
    thinking: _Thinking | None = None


class _Request(msgspec.Struct):
    messages: list[Message]
    max_tokens: int
    stream: bool | None = None
    system: msgspec.Raw = NULL
    tools: list[Tool] | None = None
    tool_choice: ToolChoice | None = None
    stop_sequences: list[str] | None = None
    temperature: float | None = None
    top_p: float | None = None
    metadata: _Metadata | None = None
    output_config: OutputConfig | None = None
    output_format: msgspec.Raw = NULL  # the name of output_config.format while it was a beta
    compaction: msgspec.Raw = NULL
    container: msgspec.Raw = NULL
    inference_geo: str | None = None
    mcp_servers: msgspec.Raw = NULL
    thread: msgspec.Raw = NULL


_request = msgspec.json.Decoder(_Request)
_wants = msgspec.json.Decoder(_Wants)
_format = msgspec.json.Decoder(_Format | None)
_schema = msgspec.json.Decoder()


def translate_request(
    body: bytes,
    *,
    model: str,
    max_tokens_field: MaxTokensField = "max_tokens",
    max_output_tokens: int | None = None,
    effort_with_tools: EffortWithTools = "as_asked",
    reasoning_field: ReasoningField = "",
) -> bytes:
    """A Messages request as a Chat Completions request for the upstream's `model`; usage is always asked for.

    `max_tokens_field`: api.openai.com's reasoning models take only max_completion_tokens and refuse the other; some servers
    (Ollama, DeepSeek) know only max_tokens and *ignore* the other, which leaves the output without a limit. The silent mistake is
    the worse one, so that max_tokens is the default.
    `max_output_tokens`: the most that the model can write. A higher limit (Claude Code asks for 128,000) is lowered to it, which
    changes nothing; servers refuse it otherwise.
    `effort_with_tools`: from gpt-5.4 on api.openai.com refuses function tools on this endpoint beside a reasoning_effort other
    than "none", from gpt-5.6 on also beside its default one.
    `reasoning_field`: DeepSeek and others refuse a tool turn that comes back without the reasoning that they gave. With their
    field named here they get it back, provided that the client was shown it (`show_thinking` of the answer).

    Raises ClientError (invalid_request, `param` names the place) for what cannot be carried.
    """
    if body.count(b"{") > OBJECTS_MAX:
        raise ClientError("invalid_request", f"The body has more than {OBJECTS_MAX} objects, too many to be translated.")
    request = decode(_request, body.removeprefix(BOM), "")
    _refuse_fields(request)
    conversation = Conversation(reasoning_field)
    conversation.add_system(request.system)
    last_user = max((number for number, message in enumerate(request.messages) if message.role == "user"), default=-1)
    for number, message in enumerate(request.messages):
        # A reminder for one turn is shown until the next user message.
        if message.clear_at != "next_user_message" or number > last_user:
            conversation.add(message, f"messages[{number}]")
    if conversation.last_role == "assistant":
        # The provider's own words, which clients know.
        reason = REFUSED["messages[-1].role=assistant"]
        raise refusal(
            "messages",
            f"This model does not support assistant message prefill. The conversation must end with a user message: {reason}.",
        )
    out: Json = {"model": model, "messages": conversation.finish()}
    tools = tools_at_end(request.tools or [], conversation.tools)
    if tools:
        out["tools"] = tools
        if request.tool_choice is not None:
            out |= choice_of(request.tool_choice)
    limit = request.max_tokens if max_output_tokens is None else min(request.max_tokens, max_output_tokens)
    out[max_tokens_field] = limit
    if request.temperature is not None:
        out["temperature"] = request.temperature
    if request.top_p is not None:
        out["top_p"] = request.top_p
    if request.stop_sequences:
        out["stop"] = request.stop_sequences
    effort = "none" if tools and effort_with_tools == "none" else _effort(request)
    if effort:
        out["reasoning_effort"] = effort
    response_format = _response_format(request)
    if response_format:
        out["response_format"] = response_format
    if request.metadata is not None and request.metadata.user_id:
        out["user"] = _user_of(request.metadata.user_id)
    if request.stream:
        out["stream"] = True
        out["stream_options"] = {"include_usage": True}
    return msgspec.json.encode(out)


def wants_thinking(body: bytes) -> bool:
    """Whether the request asks for thinking that is shown, so that its client knows what a thinking block is."""
    try:
        thinking = _wants.decode(body.removeprefix(BOM)).thinking
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return thinking is not None and thinking.type in ("enabled", "adaptive") and thinking.display != "omitted"


def _refuse_fields(request: _Request) -> None:
    for name in ("compaction", "container", "mcp_servers", "thread"):
        if bytes(getattr(request, name)) not in (b"null", b"[]", b"{}"):
            raise refusal(name, f"{name} cannot be carried: {REFUSED[name]}.")
    if request.inference_geo not in (None, "", "global"):
        raise refusal("inference_geo", f"inference_geo cannot be carried: {REFUSED['inference_geo']}.")
    if len(request.stop_sequences or []) > STOP_SEQUENCES_MAX:
        raise refusal("stop_sequences", f"stop_sequences cannot be carried: {REFUSED['stop_sequences']}.")


def _effort(request: _Request) -> str:
    """What the latest turn asks for, if the request asks for any effort at all.

    Claude Code, told that effort is unsupported, leaves it out of the request, but not out of its turns (seen with 2.1.329). Both
    specifications have low, medium, high, xhigh and max.
    """
    asked = request.output_config.effort if request.output_config is not None else None
    if not asked:
        return ""
    turns = [message.output_config.effort for message in request.messages if message.output_config is not None]
    return next((effort for effort in reversed(turns) if effort), asked)


def _response_format(request: _Request) -> Json | None:
    raw = request.output_config.format if request.output_config is not None else NULL
    path = "output_config.format"
    if bytes(raw) == b"null":
        raw, path = request.output_format, "output_format"
    wanted = decode(_format, raw, path)
    if wanted is None:
        return None
    if wanted.type != "json_schema":
        raise refusal(f"{path}.type", f'{path}.type must be "json_schema".')
    schema = decode(_schema, wanted.schema, f"{path}.schema")
    answer: Json = {"name": "answer", "schema": wanted.schema}
    if is_strict(schema):
        answer["strict"] = True
    return {"type": "json_schema", "json_schema": answer}


def _user_of(user_id: str) -> str:
    """`user` for the upstream: as it is, or its hash if it is long; Claude Code's names a device, an account and a session."""
    return user_id if len(user_id) <= USER_LENGTH_MAX else hashlib.sha256(user_id.encode()).hexdigest()
