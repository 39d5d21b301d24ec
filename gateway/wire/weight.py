"""How much of an Anthropic body is text, and what else is in it: what an estimate of its input is made from; and whether its
earlier answers hold signed thinking.

An estimate only sizes a hold. So nothing is refused here: on any surprise everything counts as text, which holds too much, and
what looks signed counts as signed, which keeps a conversation where it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

# tool_result is the only block with content of its own that may hold images; the API nests it once.
_NESTING_MAX = 3


@dataclass(frozen=True, slots=True)
class Weight:
    text_bytes: int
    images: int = 0
    document_bytes: tuple[int, ...] = ()
    signed: bool = False


class _Message(msgspec.Struct):
    role: object = None
    content: msgspec.Raw = msgspec.Raw(b"null")


class _Source(msgspec.Struct):
    type: object = None
    data: msgspec.Raw = msgspec.Raw(b'""')


class _Block(msgspec.Struct):
    type: object = None
    source: msgspec.Raw = msgspec.Raw(b"null")
    content: msgspec.Raw = msgspec.Raw(b"null")


class _Thought(msgspec.Struct):
    type: object = None
    signature: object = None


_messages = msgspec.json.Decoder(list[_Message])
_blocks = msgspec.json.Decoder(list[_Block])
_thoughts = msgspec.json.Decoder(list[_Thought])
_source = msgspec.json.Decoder(_Source)


def weigh(body: bytes, fields: Mapping[str, bytes]) -> Weight:
    """Weigh `body`, whose top-level raw values are `fields`.

    Images and documents of every kind (base64, url, file) have a `source`, so that a body without the word is all text. An image
    counts as one, whatever its size; a document by the length of its base64. Thinking that is signed has a `signature`, or is
    redacted. Not for dense bodies (`splice.is_dense`).
    """
    has_sources, may_be_signed = b'"source"' in body, _may_be_signed(body)
    if not has_sources and not may_be_signed:
        return Weight(len(body))
    scale = _Scale()
    signed = False
    try:
        for message in _messages.decode(fields["messages"]):
            if has_sources:
                scale.add_content(message.content, 0)
            if may_be_signed and not signed and message.role == "assistant":
                signed = _is_signed(bytes(message.content))
        if has_sources:
            scale.add_content(fields.get("system", b"null"), 0)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return weigh_coarsely(body)
    return Weight(len(body) - scale.payload_bytes, scale.images, tuple(scale.documents), signed)


def weigh_coarsely(body: bytes) -> Weight:
    """Everything as text: for a body that is too dense or too strange to be taken apart."""
    return Weight(len(body), images=body.count(b'"type":"image"'), signed=_may_be_signed(body))


def _may_be_signed(raw: bytes) -> bool:
    """Quoted within a text the words have backslashes before their quotes, so that talk about them is mostly no hit.

    Without its last letter and quote, which are everywhere in JSON, the first word is looked for in half the time.
    """
    return b'"signatur' in raw or b'"redacted_thinking"' in raw


def _is_signed(content: bytes) -> bool:
    if not content.startswith(b"[") or not _may_be_signed(content):
        return False
    thoughts = _thoughts.decode(content)
    return any(
        thought.type == "redacted_thinking" or (thought.type == "thinking" and thought.signature not in (None, ""))
        for thought in thoughts
    )


class _Scale:
    def __init__(self) -> None:
        self.payload_bytes = 0
        self.images = 0
        self.documents: list[int] = []

    def add_content(self, content: msgspec.Raw | bytes, nesting: int) -> None:
        raw = bytes(content)
        if not raw.startswith(b"[") or b'"source"' not in raw or nesting > _NESTING_MAX:
            return  # a plain string, or text only
        for block in _blocks.decode(raw):
            if block.type in ("image", "document"):
                self._add_source(block)
            self.add_content(block.content, nesting + 1)

    def _add_source(self, block: _Block) -> None:
        source = _source.decode(block.source)
        payload = len(bytes(source.data)) - 2 if source.type == "base64" else 0  # without its quotes
        self.payload_bytes += payload
        if block.type == "image":
            self.images += 1
        else:
            self.documents.append(payload)
