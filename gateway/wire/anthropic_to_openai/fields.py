"""What may happen to the fields of a request, and reading one so that what is wrong names its place.

A field is carried, or stands in one of two tables: DROPPED, where dropping changes nothing but tuning, and REFUSED, where the
answer would be another one. A top-level field that we do not know is dropped, so that a new release of a client goes on working;
a content block that we do not know is refused, because content is what was said. web/docs/translation.md shows the tables.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TypeVar

import msgspec

from gateway.errors import ClientError

# Keys of both tables: a top-level field, `a.b` and `a[].b` inside of one, `content.T` a content block of type T.
DROPPED: Mapping[str, str] = {
    "betas": "betas are a header's business",
    "billing_policy": "how the provider would bill; here the gateway bills",
    "cache_control": "marks what the provider caches; others cache by themselves, or not at all",
    "content.fallback": "marks where another model took over; the provider does not show it to the model either",
    "content.redacted_thinking": "encrypted for the provider that wrote it",
    "content.thinking": "belongs to the model that wrote it; an upstream that wants back what it thought itself gets that",
    "context_management": "clears old tool results and thinking to save input; the whole conversation is sent instead",
    "diagnostics": "asks for an explanation of cache misses",
    "fallback_credit_token": "belongs to fallbacks",
    "fallbacks": "which model follows after a failure is decided by this gateway's own routing",
    "image.transformations": "how the provider scales an image before the model sees it",
    "output_config.task_budget": "tells the model how much it may spend in all; it limits nothing",
    "safeguards": "tunes the provider's own filters",
    "service_tier": "chooses the provider's capacity",
    "speed": "chooses the provider's faster mode",
    "system[x-anthropic-billing-header]": "a note of Claude Code to its provider, which strips it before the model sees it",
    "thinking": "there is no budget: the upstream thinks as it does by itself, and `output_config.effort` is carried",
    "tool_use.caller": "says who called; only the model can have",
    "tools[].allowed_callers": "allows calls from code that runs at the provider; there is none",
    "tools[].eager_input_streaming": "how a tool's input is cut into events",
    "tools[].input_examples": "examples beside the schema",
    "tools[].type=tool_search_tool": "finds deferred tools at the provider; all of them are sent instead",
    "top_k": "tunes sampling; Chat Completions has only top_p",
    "user_profile_id": "names somebody to the provider",
    "workspace_id": "names a workspace at the provider",
}

_ELSEWHERE = "runs at Anthropic, and this model is served elsewhere"
REFUSED: Mapping[str, str] = {
    "citations.enabled": "only Anthropic's models cite by position; ask without citations",
    "compaction": f"compaction {_ELSEWHERE}; ask for a summary in a message",
    "container": f"a container {_ELSEWHERE}",
    "content.*": f"it was written by or for a tool that {_ELSEWHERE}; leave it out, or start a new conversation",
    "document.source.file": "the file was uploaded to Anthropic; send its data (base64)",
    "document.source.url": "Chat Completions takes no address of a document; send its data (base64)",
    "image.source.file": "the file was uploaded to Anthropic; send its data (base64) or its address (url)",
    "inference_geo": "promises where the data is processed, which this upstream cannot",
    "mcp_servers": f"the MCP connector {_ELSEWHERE}; connect the server to the client",
    "messages[-1].role=assistant": "Chat Completions cannot continue a message that was begun",
    "stop_sequences": "Chat Completions takes at most 4",
    "thread": "the conversation of a thread is kept at Anthropic, and this model is served elsewhere; send all messages",
    "tools[].type": f"the tool {_ELSEWHERE}, or is known to Anthropic's models only; declare it with a name and an input_schema",
}

NULL = msgspec.Raw(b"null")
_PATH = re.compile(r" - at `\$\.?([^`]*)`$")
_Decoded = TypeVar("_Decoded")
_string = msgspec.json.Decoder(str | None)


def decode(decoder: msgspec.json.Decoder[_Decoded], raw: bytes | msgspec.Raw, path: str) -> _Decoded:
    """Decodes, or raises ClientError that names the place: `path` and what the decoder says of it."""
    try:
        return decoder.decode(raw)
    except msgspec.ValidationError as error:
        words = str(error)
        inner = _PATH.search(words)
        where = path + (("." if path and not inner[1].startswith("[") else "") + inner[1] if inner else "")
        # Its words name types and fields, never values.
        reason = words[: inner.start()] if inner else words
        raise refusal(where or None, f"{where or 'The body'}: {reason[:1].lower()}{reason[1:]}.") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise refusal(path or None, f"{path or 'The body'} is not valid JSON.") from None


def read_text(raw: msgspec.Raw, path: str) -> str:
    """A string; null is ""."""
    return decode(_string, raw, path) or ""


def refusal(param: str | None, message: str) -> ClientError:
    """The error for a field at the place `param`."""
    return ClientError("invalid_request", message, param=param)
