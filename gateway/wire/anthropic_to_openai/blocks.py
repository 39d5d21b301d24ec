"""Content blocks of the request, as content parts: text, images, documents, search results."""

from __future__ import annotations

from typing import Any

import msgspec

from gateway.errors import ClientError
from gateway.wire.anthropic_to_openai.fields import DROPPED, NULL, REFUSED, decode, read_text, refusal

Json = dict[str, Any]

BLANK_LINE = "\n\n"


class Block(msgspec.Struct):
    """Any content block. What other types hold under the same names is not decoded, so that each type is refused as itself."""

    type: str
    text: msgspec.Raw = NULL
    id: msgspec.Raw = NULL
    name: msgspec.Raw = NULL
    input: msgspec.Raw = msgspec.Raw(b"{}")
    tool_use_id: msgspec.Raw = NULL
    tool_name: msgspec.Raw = NULL
    content: msgspec.Raw = msgspec.Raw(b"[]")
    is_error: bool | None = None
    source: msgspec.Raw = NULL
    title: msgspec.Raw = NULL
    context: msgspec.Raw = NULL
    citations: msgspec.Raw = NULL
    thinking: msgspec.Raw = NULL
    signature: msgspec.Raw = NULL
    tool: msgspec.Raw = NULL


class _Source(msgspec.Struct):
    type: str
    media_type: str | None = None
    data: str = ""
    url: str = ""
    content: msgspec.Raw = NULL


class _Citations(msgspec.Struct):
    enabled: bool | None = None


_content = msgspec.json.Decoder(str | list[Block] | None)
_source = msgspec.json.Decoder(_Source | str)
_citations = msgspec.json.Decoder(_Citations | list[msgspec.Raw] | None)


def blocks_of(content: msgspec.Raw, path: str) -> list[Block]:
    """Content as blocks; a string, however short, is a text block."""
    decoded = decode(_content, content, path)
    if isinstance(decoded, str):
        return [Block("text", text=content)] if decoded else []
    return decoded or []


def parts_of(block: Block, path: str) -> list[Json]:
    """A block of a user turn, or of a tool's result, as content parts."""
    if block.type == "text":
        text = read_text(block.text, f"{path}.text")
        return [_text_part(text)] if text else []
    if block.type == "image":
        return [_image_part(decode(_source, block.source, f"{path}.source"), f"{path}.source")]
    if block.type == "document":
        return _document_parts(block, path)
    if block.type == "search_result":
        _refuse_citations(block, path)
        source = decode(_source, block.source, f"{path}.source")
        heading = f"{read_text(block.title, f'{path}.title')} ({source if isinstance(source, str) else source.url})"
        return [_text_part(heading), *_inner_parts(block.content, f"{path}.content")]
    if block.type == "compaction":
        # The summary of what was left out; null is a compaction that failed and says nothing.
        return _inner_parts(block.content, f"{path}.content")
    if f"content.{block.type}" in DROPPED:
        return []
    raise unknown_block(block, path)


def _inner_parts(content: msgspec.Raw, path: str) -> list[Json]:
    blocks = blocks_of(content, path)
    for number, block in enumerate(blocks):
        if block.type not in ("text", "image"):
            raise unknown_block(block, f"{path}[{number}]")
    return [part for number, block in enumerate(blocks) for part in parts_of(block, f"{path}[{number}]")]


def _document_parts(block: Block, path: str) -> list[Json]:
    _refuse_citations(block, path)
    title = read_text(block.title, f"{path}.title")
    context = read_text(block.context, f"{path}.context")
    source = decode(_source, block.source, f"{path}.source")
    heading = [f"Document: {title}"] if title else []
    heading += [context] if context else []
    if isinstance(source, str) or source.type in ("url", "file"):
        kind = "file" if isinstance(source, str) or source.type == "file" else "url"
        raise refusal(f"{path}.source", f"{path}.source cannot be carried: {REFUSED[f'document.source.{kind}']}.")
    if source.type == "text":
        return [_text_part(BLANK_LINE.join([*heading, source.data]))]
    inner: list[Json]
    if source.type == "base64":
        data = f"data:{source.media_type or 'application/pdf'};base64,{source.data}"
        inner = [{"type": "file", "file": {"filename": title or "document.pdf", "file_data": data}}]
        heading = heading[1:] if title else heading  # the title is the file's name
    elif source.type == "content":
        inner = _inner_parts(source.content, f"{path}.source.content")
    else:
        raise unknown_block(block, path)
    return [*map(_text_part, heading), *inner]


def _text_part(text: str) -> Json:
    return {"type": "text", "text": text}


def _image_part(source: _Source | str, path: str) -> Json:
    if isinstance(source, _Source) and source.type == "base64":
        return {"type": "image_url", "image_url": {"url": f"data:{source.media_type or 'image/png'};base64,{source.data}"}}
    if isinstance(source, _Source) and source.type == "url":
        return {"type": "image_url", "image_url": {"url": source.url}}
    raise refusal(path, f"{path} cannot be carried: {REFUSED['image.source.file']}.")


def _refuse_citations(block: Block, path: str) -> None:
    citations = decode(_citations, block.citations, f"{path}.citations")
    if isinstance(citations, _Citations) and citations.enabled:
        raise refusal(f"{path}.citations", f"{path}.citations cannot be carried: {REFUSED['citations.enabled']}.")


def unknown_block(block: Block, path: str) -> ClientError:
    return refusal(path, f"{path}: {block.type!r} cannot be carried: {REFUSED['content.*']}.")
