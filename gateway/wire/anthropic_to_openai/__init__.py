"""An Anthropic client, above all Claude Code, on an OpenAI-compatible upstream.

    translate_request     a Messages request        → a Chat Completions request      request, messages, blocks, tools, ids
    translate_answer      a chat.completion         → an Anthropic message            answer
    StreamTranslator      its stream, event by event → Anthropic's events             stream
    translate_refusal     an error answer           → one that clients act on         refusal

`fields` has the tables of what is dropped and what is refused; web/docs/translation.md shows them. Follows
platform.claude.com/docs/en/api/messages with the types of the anthropic SDK 2.11, the reference of Chat Completions with those of
the openai SDK 3.52 (both read 2026-11-20), and what Claude Code 2.1.197 and 2.1.329 were seen to send and to act on that day.
"""

from __future__ import annotations

from gateway.wire.anthropic_to_openai.answer import translate_answer
from gateway.wire.anthropic_to_openai.fields import DROPPED, REFUSED
from gateway.wire.anthropic_to_openai.refusal import is_clients_fault, translate_refusal
from gateway.wire.anthropic_to_openai.request import translate_request, wants_thinking
from gateway.wire.anthropic_to_openai.stream import StreamTranslator

__all__ = [
    "DROPPED",
    "REFUSED",
    "StreamTranslator",
    "is_clients_fault",
    "translate_answer",
    "translate_refusal",
    "translate_request",
    "wants_thinking",
]
