"""How much of a Chat Completions body is text, and what else is in it; `weight.py` says the same of an Anthropic one.

An image counts as one, whatever its size. Audio, video and files count as documents by the length of their base64: a second of
speech is some 10 tokens and, compressed, 10 kB of base64, so that it is never estimated too low.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from gateway.wire.weight import Weight

_NULL = msgspec.Raw(b"null")


class _Message(msgspec.Struct):
    content: msgspec.Raw = _NULL


class _Part(msgspec.Struct):
    type: object = None
    image_url: msgspec.Raw = _NULL
    video_url: msgspec.Raw = _NULL
    input_audio: msgspec.Raw = _NULL
    file: msgspec.Raw = _NULL


class _Source(msgspec.Struct):
    url: msgspec.Raw = _NULL
    data: msgspec.Raw = _NULL
    file_data: msgspec.Raw = _NULL


_messages = msgspec.json.Decoder(list[_Message])
_parts = msgspec.json.Decoder(list[_Part])
_source = msgspec.json.Decoder(_Source)

_PAYLOADS = (b'"image_url"', b'"video_url"', b'"input_audio"', b'"file"')


def weigh_chat(body: bytes, fields: Mapping[str, bytes]) -> Weight:
    """Weigh `body`, whose top-level raw values are `fields`. Not for dense bodies (`splice.is_dense`)."""
    payload_bytes = images = 0
    documents = []
    try:
        for message in _messages.decode(fields["messages"]):
            content = bytes(message.content)
            if not content.startswith(b"[") or not any(name in content for name in _PAYLOADS):
                continue
            for part in _parts.decode(content):
                if part.type == "image_url":
                    payload_bytes += _url_payload(_inside(part.image_url, "url"))
                    images += 1
                    continue
                payload = _document_payload(part)
                if payload is not None:
                    payload_bytes += payload
                    documents.append(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return weigh_chat_coarsely(body)
    return Weight(len(body) - payload_bytes, images, tuple(documents))


def weigh_chat_coarsely(body: bytes) -> Weight:
    """Everything as text: for a body that is too dense or too strange to be taken apart."""
    return Weight(len(body), images=body.count(b'"type":"image_url"'))


def _document_payload(part: _Part) -> int | None:
    if part.type == "input_audio":
        return _bare_payload(_inside(part.input_audio, "data"))
    if part.type == "video_url":
        return _url_payload(_inside(part.video_url, "url"))
    if part.type == "file":
        return _bare_payload(_inside(part.file, "file_data"))
    return None


def _inside(raw: msgspec.Raw, name: str) -> bytes:
    """The raw value of a field; some clients write the URL itself where the object should be."""
    value = bytes(raw)
    return bytes(getattr(_source.decode(raw), name)) if value.startswith(b"{") else value


def _url_payload(text: bytes) -> int:
    """The base64 within a raw data URL, 0 of any other URL."""
    comma = text.find(b",", 0, 200) if text.startswith(b'"data:') else -1
    return len(text) - comma - 2 if comma > 0 else 0


def _bare_payload(text: bytes) -> int:
    """The same of a raw text that is base64 by itself, or a data URL."""
    if text.startswith((b'"data:', b'"http')):
        return _url_payload(text)
    return max(0, len(text) - 2) if text.startswith(b'"') else 0
