"""The messages of a Chat Completions request as Anthropic's `system` and `messages`.

    system, developer at the front      → system, in order
    system, developer later on          → a system message at the end of the user turn it stands in or before; in `system` where
                                          the model takes none there; a user message of its own where no user turn is near
    user                                → user; not merged with its neighbours, the provider joins consecutive ones itself
    tool, function (several in a row)   → one user message with a tool_result each
    assistant                           → assistant: thinking with signatures, text, tool_use; also as the last one (a prefill,
                                          which the provider takes or refuses by the model)

Sources, read 2026-11-20: developers.openai.com/api/docs (Chat Completions) and the types of the openai SDK 3.52;
platform.claude.com/docs/en/api/messages and /build-with-claude/mid-conversation-system-messages ("must follow a user message,
and be last or followed by an assistant turn"); docs.litellm.ai for `thinking_blocks`; openrouter.ai for `name` before the text.
That blank text is refused ("text content blocks must contain non-whitespace text") was seen in many clients' issues.
"""

from __future__ import annotations

import binascii
import hashlib
import re
from collections.abc import Sequence
from typing import Any

import msgspec

from gateway.wire.openai_to_anthropic_fields import misfit, refused

Block = dict[str, Any]
Turn = dict[str, Any]

_IMAGES = {
    "image/jpeg": "image/jpeg",
    "image/jpg": "image/jpeg",
    "image/png": "image/png",
    "image/gif": "image/gif",
    "image/webp": "image/webp",
}
_PDF = "application/pdf"
# `%PDF-` in base64: a file may come without a word on what it is.
_PDF_BASE64 = "JVBERi"
_TEXTS = ("text/", "application/json", "application/xml", "application/x-yaml", "application/yaml")
_BREAKPOINTS_MAX = 4
# platform.claude.com/docs/en/api/messages: `^[a-zA-Z0-9_-]+$`. Other makers' ids have dots and colons.
_TOOL_ID = re.compile(r"[a-zA-Z0-9_-]+")
_NOT_IN_TOOL_ID = re.compile(r"[^a-zA-Z0-9_-]")


class CacheControl(msgspec.Struct, omit_defaults=True):
    type: str
    ttl: str | None = None


class _Breakpoint(msgspec.Struct):
    mode: str = "explicit"
    ttl: str | None = None


class _ImageUrl(msgspec.Struct):
    url: str


class _File(msgspec.Struct):
    file_data: str | None = None
    file_id: str | None = None
    filename: str | None = None


class _Part(msgspec.Struct):
    type: str
    text: str | None = None
    refusal: str | None = None
    image_url: _ImageUrl | str | None = None
    file: _File | None = None
    cache_control: CacheControl | None = None
    prompt_cache_breakpoint: _Breakpoint | None = None


class _FunctionCall(msgspec.Struct):
    name: str
    arguments: str = ""


class _ToolCall(msgspec.Struct):
    id: str
    type: str = "function"
    function: _FunctionCall | None = None


class _Thinking(msgspec.Struct):
    """`index` is the block's place in the answer it came with; only ours says so (openai_to_anthropic_answers.py)."""

    type: str
    thinking: str | None = None
    signature: str | None = None
    data: str | None = None
    index: int | None = None


class _Audio(msgspec.Struct):
    id: str | None = None


class Message(msgspec.Struct):
    role: str
    content: str | list[_Part] | None = None
    name: str | None = None
    refusal: str | None = None
    tool_calls: list[_ToolCall] | None = None
    tool_call_id: str | None = None
    function_call: _FunctionCall | None = None
    thinking_blocks: list[_Thinking] | None = None
    audio: _Audio | None = None
    cache_control: CacheControl | None = None


def translate_messages(
    messages: Sequence[Message], *, later_system: bool, breakpoint_ttl: str | None
) -> tuple[list[Block], list[Turn]]:
    """`system` blocks and turns. `later_system`: whether the model takes instructions in the middle of a conversation.

    `breakpoint_ttl` is that of the whole request's prompt_cache_options. Raises ClientError naming what cannot be carried.
    """
    conversation = _Conversation(later_system, breakpoint_ttl)
    for number, message in enumerate(messages):
        conversation.add(message, f"messages[{number}]")
    conversation.place_waiting()
    conversation.drop_early_breakpoints()
    if not conversation.turns:
        raise misfit("messages", "the provider needs at least one message of a user or an assistant that is not blank")
    return conversation.system, conversation.turns


class _Conversation:
    def __init__(self, later_system: bool, breakpoint_ttl: str | None) -> None:
        self.system: list[Block] = []
        self.turns: list[Turn] = []
        self._later_system = later_system
        self._breakpoint_ttl = breakpoint_ttl
        self._waiting: list[Block] = []
        self._in_results = False
        self._function_ids: dict[str, str] = {}
        self._breakpoints: list[Block] = []

    def add(self, message: Message, at: str) -> None:
        in_results, self._in_results = self._in_results, False
        if message.role in ("system", "developer"):
            blocks = self._mark_last(self._texts(message, at), message)
            (self._waiting if self.turns else self.system).extend(blocks)
            self._in_results = in_results
        elif message.role == "user":
            self._add_turn("user", self._mark_last(self._user(message, at), message))
        elif message.role in ("tool", "function"):
            result = self._mark_last([self._result(message, at)], message)
            if in_results:
                self.turns[-1]["content"] += result
            else:
                self._add_turn("user", result)
            self._in_results = True
        elif message.role == "assistant":
            blocks = self._mark_last(self._assistant(message, at), message)
            if blocks:
                self.place_waiting()
                self._add_turn("assistant", blocks)
        else:
            raise misfit(f"{at}.role", "must be system, developer, user, assistant, tool or function")

    def place_waiting(self) -> None:
        """Instructions from the middle, at the end of the user turn that is now complete."""
        blocks, self._waiting = self._waiting, []
        if not blocks:
            return
        if self.turns[-1]["role"] != "user":
            # Nowhere else to stand but before the model's own words, which would then be taken for a prefill.
            self._add_turn("user", blocks)
        elif self._later_system:
            self._add_turn("system", blocks)
        else:
            self.system += blocks

    def drop_early_breakpoints(self) -> None:
        """OpenAI takes any number and writes the latest four; the provider refuses a fifth."""
        for block in self._breakpoints[:-_BREAKPOINTS_MAX]:
            del block["cache_control"]

    def _add_turn(self, role: str, content: list[Block]) -> None:
        if content:
            self.turns.append({"role": role, "content": content})

    # --- what a message of each role holds ---

    def _texts(self, message: Message, at: str) -> list[Block]:
        blocks = []
        for part, where in _parts(message, at):
            if part.type != "text":
                raise refused("messages.part", f"{where}.type")
            blocks += self._marked(_text(part.text, where), part)
        return blocks

    def _user(self, message: Message, at: str) -> list[Block]:
        blocks: list[Block] = []
        for part, where in _parts(message, at):
            blocks += self._marked(_text(part.text, where) if part.type == "text" else _media(part, where), part)
        if message.name and blocks:
            spoken = next((block for block in blocks if block["type"] == "text"), None)
            if spoken is None:
                blocks.insert(0, {"type": "text", "text": f"{message.name}:"})
            else:
                spoken["text"] = f"{message.name}: {spoken['text']}"
        return blocks

    def _result(self, message: Message, at: str) -> Block:
        if message.role == "tool":
            if not message.tool_call_id:
                raise misfit(f"{at}.tool_call_id", "is required in a message of role tool")
            block: Block = {"type": "tool_result", "tool_use_id": _tool_id(message.tool_call_id)}
        else:
            block = {"type": "tool_result", "tool_use_id": self._function_ids.get(message.name or "", "")}
            if not block["tool_use_id"]:
                raise misfit(f"{at}.name", "must be the name of a function that an assistant message before it called")
        content: list[Block] = []
        for part, where in _parts(message, at):
            content += _text(part.text, where) if part.type == "text" else _media(part, where)
            # Its parts are no places for a breakpoint, the result as a whole is.
            self._marked([block], part)
        if content:
            block["content"] = content
        return block

    def _assistant(self, message: Message, at: str) -> list[Block]:
        if message.audio is not None:
            raise refused("messages.audio", f"{at}.audio")
        blocks: list[Block] = []
        for part, where in _parts(message, at):
            if part.type not in ("text", "refusal"):
                raise refused("messages.part", f"{where}.type")
            blocks += self._marked(_text(part.refusal if part.type == "refusal" else part.text, where), part)
        blocks += _text(message.refusal or "", at)
        for number, call in enumerate(message.tool_calls or ()):
            where = f"{at}.tool_calls[{number}]"
            if call.function is None:
                raise refused("tools.custom", f"{where}.type")
            blocks.append(_tool_use(_tool_id(call.id), call.function, f"{where}.function"))
        if message.function_call is not None:
            # The deprecated form has no ids; a place in the conversation is one.
            identity = f"call_{len(self.turns)}"
            self._function_ids[message.function_call.name] = identity
            blocks.append(_tool_use(identity, message.function_call, f"{at}.function_call"))
        return _with_thinking(blocks, message.thinking_blocks or ())

    # --- breakpoints of the prompt cache ---

    def _marked(self, blocks: list[Block], part: _Part) -> list[Block]:
        if blocks and part.cache_control is not None:
            blocks[-1]["cache_control"] = part.cache_control
        elif blocks and part.prompt_cache_breakpoint is not None:
            # OpenAI's shortest life is half an hour; the provider's five minutes cost less, so that an hour must be asked for.
            asked = part.prompt_cache_breakpoint.ttl or self._breakpoint_ttl
            if "cache_control" not in blocks[-1]:
                self._breakpoints.append(blocks[-1])
            blocks[-1]["cache_control"] = CacheControl("ephemeral", "1h" if asked else None)
        return blocks

    def _mark_last(self, blocks: list[Block], message: Message) -> list[Block]:
        if blocks and message.cache_control is not None:
            blocks[-1]["cache_control"] = message.cache_control
        return blocks


def _parts(message: Message, at: str) -> list[tuple[_Part, str]]:
    if message.content is None or isinstance(message.content, str):
        return [(_Part("text", text=message.content or ""), f"{at}.content")]
    return [(part, f"{at}.content[{number}]") for number, part in enumerate(message.content)]


def _text(text: str | None, at: str) -> list[Block]:
    if text is None:
        raise misfit(at, "text is required in a part of type text")
    return [{"type": "text", "text": text}] if text.strip() else []


def _media(part: _Part, at: str) -> list[Block]:
    if part.type == "image_url" and part.image_url is not None:
        return [_image(part.image_url if isinstance(part.image_url, str) else part.image_url.url, f"{at}.image_url")]
    if part.type == "file" and part.file is not None:
        return [_file(part.file, f"{at}.file")]
    raise refused("messages.audio" if part.type == "input_audio" else "messages.part", f"{at}.type")


def _image(url: str, at: str) -> Block:
    if url[:8].lower().startswith(("http://", "https://")):
        return {"type": "image", "source": {"type": "url", "url": url}}  # fetched by the provider, never by us
    media_type, data = _split_data_url(url)
    if media_type not in _IMAGES or data is None:
        raise refused("messages.media_type", at)
    return {"type": "image", "source": {"type": "base64", "media_type": _IMAGES[media_type], "data": data}}


def _file(file: _File, at: str) -> Block:
    if file.file_data is None:
        raise refused("messages.file_id", at)
    media_type, data = _split_data_url(file.file_data)
    if data is None:
        # Not a data URL: the bare base64, and what it is must be seen from it.
        media_type, data = (_PDF if file.file_data.startswith(_PDF_BASE64) else ""), file.file_data
    if media_type in _IMAGES:
        return _image(file.file_data, at)
    if media_type == _PDF:
        source = {"type": "base64", "media_type": _PDF, "data": data}
    elif media_type.startswith(_TEXTS):
        source = {"type": "text", "media_type": "text/plain", "data": _decoded_text(data, at)}
    else:
        raise refused("messages.media_type", at)
    return {"type": "document", "source": source} | ({"title": file.filename} if file.filename else {})


def _split_data_url(url: str) -> tuple[str, str | None]:
    """Media type and base64 of a data URL (RFC 2397); None for anything else."""
    head, comma, data = url.partition(",") if url[:5].lower() == "data:" else ("", "", "")
    media_type, *attributes = head[5:].lower().split(";")
    return (media_type.strip(), data) if comma and "base64" in attributes else ("", None)


def _decoded_text(data: str, at: str) -> str:
    try:
        return binascii.a2b_base64(data).decode()
    except (binascii.Error, ValueError):
        raise misfit(at, "file_data is not the base64 of text in UTF-8") from None


def _tool_use(identity: str, call: _FunctionCall, at: str) -> Block:
    arguments = call.arguments.strip() or "{}"  # what some providers stream for a call without arguments
    try:
        raw = arguments.encode()
        msgspec.json.decode(raw, type=dict[str, msgspec.Raw])
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        raise misfit(f"{at}.arguments", "must be the JSON of an object") from None
    # As it came: a cached prefix is found by its bytes.
    return {"type": "tool_use", "id": identity, "name": call.name, "input": msgspec.Raw(raw)}


def _tool_id(identity: str) -> str:
    if _TOOL_ID.fullmatch(identity):
        return identity
    # The hash keeps two apart that differ only in what is replaced.
    return f"{_NOT_IN_TOOL_ID.sub('_', identity)}_{hashlib.sha256(identity.encode()).hexdigest()[:8]}"


def _with_thinking(blocks: list[Block], thinking: Sequence[_Thinking]) -> list[Block]:
    """`blocks` with what was thought where it was thought, as far as known; else at the front. What is unsigned is left out."""
    front = 0
    for entry in thinking:
        if entry.type == "thinking" and entry.signature:
            block: Block = {"type": "thinking", "thinking": entry.thinking or "", "signature": entry.signature}
        elif entry.type == "redacted_thinking" and entry.data:
            block = {"type": "redacted_thinking", "data": entry.data}
        else:
            continue
        # Places rise, so that each is final when it is filled.
        blocks.insert(front if entry.index is None else max(0, entry.index), block)
        front += 1
    return blocks


def has_open_call_without_thinking(turns: Sequence[Turn]) -> bool:
    """Whether the last turn answers tool calls that came back without the thinking before them.

    A model that thinks by a budget then refuses to think on: "a final assistant message must start with a thinking block".
    """
    answered = (
        bool(turns) and turns[-1]["role"] == "user" and any(block["type"] == "tool_result" for block in turns[-1]["content"])
    )
    before = next((turn for turn in reversed(turns) if turn["role"] == "assistant"), None)
    return answered and before is not None and before["content"][0]["type"] not in ("thinking", "redacted_thinking")


def carries_breakpoint(system: Sequence[Block], turns: Sequence[Turn]) -> bool:
    return any("cache_control" in block for block in system) or any(
        "cache_control" in block for turn in turns for block in turn["content"]
    )
