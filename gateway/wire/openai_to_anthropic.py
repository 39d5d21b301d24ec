"""An OpenAI client on an Anthropic upstream: the request, field by field, and the door to the rest of this direction.

    openai_to_anthropic.py             the body of a request
      openai_to_anthropic_fields.py    what is carried, dropped, refused, and why
      openai_to_anthropic_messages.py  its messages
      openai_to_anthropic_tools.py     its tools and the choice among them
      claude_models.py                 what a model takes
    openai_to_anthropic_answers.py     whole answers and refusals
    openai_to_anthropic_stream.py      streams

What becomes of each field stands in openai_to_anthropic_fields.py and web/docs/translation.md; a field that neither knows is
refused, since leaving it out might change the answer, and so would both providers. The result is sent with anthropic-version
2023-06-01: the later one refuses temperature and top_p whatever the model.

Sources, read 2026-11-20: developers.openai.com/api/docs (Chat Completions) and the types of the openai SDK 3.52;
platform.claude.com/docs/en/api/{messages,versioning}, /cli-sdks-libraries/libraries/openai-sdk (what the provider's own
compatibility endpoint does: temperature capped at 1, blank stop sequences not working, `thinking` by extra_body).
"""

from __future__ import annotations

from typing import Any

import msgspec

from gateway.errors import ClientError
from gateway.wire.claude_models import EFFORTS, Effort, Traits, traits_of
from gateway.wire.openai_to_anthropic_answers import translate_answer, translate_refusal
from gateway.wire.openai_to_anthropic_fields import CARRIED, DROPPED, HARMLESS, REFUSED, misfit, refused
from gateway.wire.openai_to_anthropic_messages import (
    CacheControl,
    Message,
    Turn,
    carries_breakpoint,
    has_open_call_without_thinking,
    translate_messages,
)
from gateway.wire.openai_to_anthropic_stream import StreamTranslator
from gateway.wire.openai_to_anthropic_tools import Function, Named, Tool, ToolChoice, translate_tools
from gateway.wire.sse import BOM

# All of this direction is had from here.
__all__ = [
    "CARRIED",
    "DROPPED",
    "REFUSED",
    "Request",
    "StreamTranslator",
    "asks_for_functions",
    "translate_answer",
    "translate_refusal",
    "translate_request",
]

# Where many objects are made of few bytes. A text that needs more would not fit into any model's context.
_OBJECTS_MAX = 500_000

# platform.claude.com/docs/en/build-with-claude/extended-thinking: at least 1,024 and below max_tokens; above 32,000 the provider
# advises against. The shares are those that OpenRouter documents for its reasoning efforts.
_BUDGET_MIN = 1_024
_BUDGET_MAX = 32_000
_BUDGET_PERCENT: dict[Effort, int] = {"low": 20, "medium": 50, "high": 80, "xhigh": 90, "max": 90}
# Longer than any value under which a field of REFUSED says nothing.
_HARMLESS_BYTES_MAX = 64


class _StreamOptions(msgspec.Struct):
    include_usage: bool | None = None


class _JsonSchema(msgspec.Struct):
    schema: dict[str, msgspec.Raw] | None = None
    description: str | None = None


class _ResponseFormat(msgspec.Struct):
    type: str
    json_schema: _JsonSchema | None = None


class _Thinking(msgspec.Struct, omit_defaults=True):
    type: str
    budget_tokens: int | None = None
    display: str | None = None


class _CacheOptions(msgspec.Struct):
    mode: str | None = None
    ttl: str | None = None


class Request(msgspec.Struct, forbid_unknown_fields=True):
    """The body of a request; what is dropped or refused is not looked into."""

    messages: list[Message]
    model: str
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    max_completion_tokens: int | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    stop: str | list[str] | None = None
    tools: list[Tool] | None = None
    tool_choice: str | ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    functions: list[Function] | None = None
    function_call: str | Named | None = None
    response_format: _ResponseFormat | None = None
    reasoning_effort: str | None = None
    thinking: _Thinking | None = None
    safety_identifier: str | None = None
    user: str | None = None
    prompt_cache_options: _CacheOptions | None = None

    metadata: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    prediction: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    prompt_cache_key: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    prompt_cache_retention: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    seed: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    store: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET

    audio: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    frequency_penalty: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    logit_bias: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    logprobs: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    modalities: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    moderation: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    n: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    presence_penalty: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    service_tier: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    top_logprobs: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    verbosity: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    web_search_options: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class _Functions(msgspec.Struct):
    functions: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


_request = msgspec.json.Decoder(Request)
_functions = msgspec.json.Decoder(_Functions)


def translate_request(body: bytes, *, model: str, max_tokens_default: int, model_max_tokens: int, cache: bool = False) -> bytes:
    """The Messages request for `model` (the upstream's name). `max_tokens_default` or `model_max_tokens` may be 0: none known.

    With `cache` the end of the system prompt (or of the tools) and of the last message become breakpoints of the prompt cache,
    unless the client set its own: writing costs 1.25 times the input price, reading a tenth or less. Raises ClientError
    (invalid_request, `param` names the field) for what cannot be carried.
    """
    request = _read(body)
    for field in REFUSED:
        _reject(request, field)
    traits = traits_of(model)
    options = request.prompt_cache_options or _CacheOptions()
    system, turns = translate_messages(request.messages, later_system=traits.takes_later_system, breakpoint_ttl=options.ttl)
    tools, choice = translate_tools(
        request.tools or (),
        request.functions,
        request.tool_choice,
        request.function_call,
        parallel=request.parallel_tool_calls is not False,
    )
    max_tokens = _max_tokens(request, max_tokens_default, model_max_tokens)
    thinking, effort = _thinking(request, traits, max_tokens, turns, forced=choice.get("type") in ("any", "tool"))
    output = _output_format(request)
    if effort:
        output["effort"] = effort
    if cache and options.mode != "explicit" and not carries_breakpoint(system, turns) and not carries_breakpoint(tools, ()):
        for last in (system or tools, turns[-1]["content"]):
            if last and last[-1].get("type") not in ("thinking", "redacted_thinking"):
                last[-1]["cache_control"] = CacheControl("ephemeral")
    translated: dict[str, Any] = {
        "model": model,
        "max_tokens": max_tokens,
        "system": system,
        "messages": turns,
        "tools": tools,
        "tool_choice": choice,
        "thinking": thinking,
        "output_config": output,
        "stop_sequences": _stops(request),
        "metadata": _metadata(request),
        "stream": request.stream,
    }
    # No field that says nothing: the provider refuses some of them.
    translated = {name: value for name, value in translated.items() if value}
    sampling = _sampling(request)
    if traits.samples and (thinking is None or thinking.type == "disabled"):
        translated |= sampling
    return msgspec.json.encode(translated)


def asks_for_functions(body: bytes) -> bool:
    """Whether the deprecated `functions` are used, so that the answer speaks of a `function_call`."""
    if b'"functions"' not in body:
        return False
    try:
        functions = _functions.decode(body.removeprefix(BOM)).functions
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return functions is not msgspec.UNSET and bytes(functions).startswith(b"[")


def _read(body: bytes) -> Request:
    if body.count(b"{") > _OBJECTS_MAX:
        raise ClientError("invalid_request", f"The body holds more than {_OBJECTS_MAX} objects.")
    try:
        return _request.decode(body.removeprefix(BOM))
    except msgspec.ValidationError as error:
        raise _misshapen(str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise ClientError("invalid_request", "The body is not valid JSON.") from None


def _misshapen(words: str) -> ClientError:
    """The decoder's words name a type and a place, and never quote a value."""
    reason, _, place = words.partition(" - at `$")
    if reason.startswith("Object contains unknown field `") and not place:
        field = reason.split("`")[1][:80]
        return misfit(field, "this field is not known here, so that it cannot be carried; leave it out")
    param = place.strip("`.")
    if reason.startswith("Object missing required field `"):
        return misfit(f"{param}.{reason.split('`')[1]}".strip("."), "is required")
    return misfit(param or "body", reason[:1].lower() + reason[1:])


def _reject(request: Request, field: str) -> None:
    raw = getattr(request, field, msgspec.UNSET)
    if raw is msgspec.UNSET:
        return
    if len(bytes(raw)) > _HARMLESS_BYTES_MAX:
        raise refused(field, field)
    try:
        value = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise refused(field, field) from None
    harmless = HARMLESS.get(field, ())
    # True is 1 to Python, but not to the client.
    if value is not None and not any(value == item and isinstance(value, bool) == isinstance(item, bool) for item in harmless):
        raise refused(field, field)


def _max_tokens(request: Request, default: int, model_max: int) -> int:
    field = "max_completion_tokens" if request.max_completion_tokens is not None else "max_tokens"
    asked: int | None = getattr(request, field)
    if asked is None:
        asked = default or model_max
        if not asked:
            raise misfit("max_tokens", "is required for this model")
    elif asked < 1:
        raise misfit(field, "must be at least 1")
    # More than the model can is refused by the provider and changes nothing.
    return min(asked, model_max) if model_max else asked


def _thinking(
    request: Request, traits: Traits, max_tokens: int, turns: list[Turn], *, forced: bool
) -> tuple[_Thinking | None, Effort | None]:
    """`thinking` and `output_config.effort`."""
    asked = request.reasoning_effort
    if asked is not None and asked not in ("none", "minimal", *EFFORTS):
        raise misfit("reasoning_effort", f"must be none, minimal, {', '.join(EFFORTS[:-1])} or {EFFORTS[-1]}")
    own = request.thinking
    if own is not None and own.budget_tokens is not None and own.budget_tokens >= max_tokens:
        raise misfit("thinking.budget_tokens", f"must be below max_tokens ({max_tokens})")
    if asked is None:
        return own, None
    if asked == "none":
        if traits.off is None:
            return own, "low"
        return own or (_Thinking(traits.off) if traits.off else None), None
    wanted: Effort = "low" if asked == "minimal" else next(effort for effort in EFFORTS if effort == asked)
    if not traits.efforts:
        return own or _budget(wanted, max_tokens, turns, forced=forced), None
    effort = wanted if wanted in traits.efforts else "high"
    adaptive = _Thinking("adaptive") if traits.thinks == "asked" and not forced else None
    return own or adaptive, effort


def _budget(effort: Effort, max_tokens: int, turns: list[Turn], *, forced: bool) -> _Thinking | None:
    """None where a budget would be refused, or leave no room for an answer."""
    if max_tokens < 2 * _BUDGET_MIN or forced or has_open_call_without_thinking(turns):
        return None
    return _Thinking("enabled", max(_BUDGET_MIN, min(_BUDGET_MAX, max_tokens * _BUDGET_PERCENT[effort] // 100)))


def _output_format(request: Request) -> dict[str, Any]:
    wanted = request.response_format
    if wanted is None or wanted.type == "text":
        return {}
    if wanted.type == "json_object":
        raise refused("response_format.json_object", "response_format.type")
    if wanted.type != "json_schema":
        raise misfit("response_format.type", "must be text or json_schema")
    if wanted.json_schema is None or wanted.json_schema.schema is None:
        raise misfit("response_format.json_schema.schema", "is required")
    schema: dict[str, Any] = dict(wanted.json_schema.schema)
    if wanted.json_schema.description:
        schema.setdefault("description", wanted.json_schema.description)
    return {"format": {"type": "json_schema", "schema": schema}}


def _stops(request: Request) -> list[str]:
    stops = [request.stop] if isinstance(request.stop, str) else request.stop or []
    if any(not stop.strip() for stop in stops):
        raise misfit("stop", "a sequence of blanks only cannot be carried; the provider takes none")
    return stops


def _metadata(request: Request) -> dict[str, str]:
    identity = request.safety_identifier or request.user
    return {"user_id": identity} if identity else {}


def _sampling(request: Request) -> dict[str, float]:
    """What is not the default: 1 for both, and some models refuse even that."""
    sampling = {}
    if request.temperature is not None:
        if not 0 <= request.temperature <= 2:
            raise misfit("temperature", "must be between 0 and 2")
        if request.temperature < 1:
            sampling["temperature"] = request.temperature
    if request.top_p is not None:
        if not 0 <= request.top_p <= 1:
            raise misfit("top_p", "must be between 0 and 1")
        if request.top_p < 1:
            sampling["top_p"] = request.top_p
    return sampling
