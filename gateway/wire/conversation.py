"""Which conversation a request belongs to: what keeps its turns at one deployment, where its prompt cache is warm.

From the surest sign to the weakest: Claude Code's headers, the session in `metadata.user_id`, a fingerprint of what does not
change between turns. Clients choose these freely; whoever uses them puts the key they came with in front.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from gateway.wire.call import Call

_SESSION_HEADER = "x-claude-code-session-id"
_AGENT_HEADER = "x-claude-code-agent-id"

# Claude Code's first system block: the provider strips it, and it changes with every release.
_BILLING_BLOCK = "x-anthropic-billing-header:"

_OLD_USER_ID = re.compile(r"user_[^_]*_account_.*_session_([0-9A-Za-z-]{8,64})")
# Everything else is shown by its hash: header values have any length and any bytes.
_PLAIN = re.compile(r"[0-9A-Za-z._-]{1,64}")
_HASH_HEX = 32


class _Metadata(msgspec.Struct):
    user_id: object = None


class _UserId(msgspec.Struct):
    session_id: object = None


class _Message(msgspec.Struct):
    role: object = None
    content: msgspec.Raw = msgspec.Raw(b"null")


class _Block(msgspec.Struct):
    type: object = None
    text: object = None


_metadata = msgspec.json.Decoder(_Metadata)
_user_id = msgspec.json.Decoder(_UserId)
_messages = msgspec.json.Decoder(list[_Message])
_blocks = msgspec.json.Decoder(list[_Block])
_string = msgspec.json.Decoder(str)

_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def conversation_of(headers: Sequence[tuple[str, str]], call: Call) -> str:
    """The name of the conversation; each source has a prefix of its own, so that two never meet by chance."""
    session = _header(headers, _SESSION_HEADER)
    if session:
        return f"claude-code:{_short(session)}:{_short(_header(headers, _AGENT_HEADER))}"
    if call.session:
        return f"session:{_short(call.session)}"
    return f"fingerprint:{call.fingerprint}"


def session_of(fields: Mapping[str, bytes]) -> str:
    """The session id in `metadata.user_id`, in either form (PROTOCOL.md, "Claude Code"), "" if there is none."""
    if "metadata" not in fields:
        return ""
    try:
        return _session_in(_metadata.decode(fields["metadata"]).user_id)
    except _UNREADABLE:
        return ""


def chat_session_of(fields: Mapping[str, bytes]) -> str:
    """What a Chat Completions body names its conversation by, "" if it names none.

    `prompt_cache_key` stands for what shares a prefix, and so a cache. `user` and `safety_identifier` name a person, whose
    conversations are many: they count only where they hold Claude Code's own text, as a translating gateway leaves it there.
    """
    key = _text(fields, "prompt_cache_key")
    return _short(key) or _session_in(_text(fields, "user")) or _session_in(_text(fields, "safety_identifier"))


def fingerprint_of(fields: Mapping[str, bytes], model: str, tool_names: Iterable[object]) -> str:
    """A hash of model, system, tool names and the first user message: what the turns of one conversation share.

    Of system and message the *text* counts, not the bytes: clients move `cache_control` from turn to turn, and write the same
    text now as a string, now as a block.
    """
    system = _texts(fields.get("system", b"null"))
    if system and system[0].startswith(_BILLING_BLOCK):
        del system[0]
    _, first = _beginning(fields.get("messages", b"null"))
    return _fingerprint(model, system, tool_names, first)


def chat_fingerprint_of(fields: Mapping[str, bytes], model: str, tool_names: Iterable[object]) -> str:
    """The same of a Chat Completions body, whose system texts are messages before the first of the user."""
    system, first = _beginning(fields.get("messages", b"null"))
    return _fingerprint(model, system, tool_names, first)


def _fingerprint(model: str, system: list[str], tool_names: Iterable[object], first: list[str]) -> str:
    digest = hashlib.sha256()
    for part in ([model], system, [name for name in tool_names if isinstance(name, str)], first):
        # Lengths in front, so that no two different lists look alike.
        digest.update(b"%d;" % len(part))
        for text in part:
            data = text.encode()
            digest.update(b"%d:" % len(data))
            digest.update(data)
    return digest.hexdigest()[:_HASH_HEX]


def _beginning(messages: bytes) -> tuple[list[str], list[str]]:
    """The texts of what comes before the user's first message, and of that message."""
    before: list[str] = []
    try:
        for message in _messages.decode(messages):
            if message.role == "user":
                return before, _texts(bytes(message.content))
            before += _texts(bytes(message.content))
    except _UNREADABLE:
        pass
    return before, []


def _session_in(user_id: object) -> str:
    """The session of Claude Code's user id, in either form; "" of any other."""
    if not isinstance(user_id, str):
        return ""
    if not user_id.startswith("{"):
        old = _OLD_USER_ID.fullmatch(user_id)
        return old[1] if old else ""
    try:
        session = _user_id.decode(user_id).session_id
    except _UNREADABLE:
        return ""
    return _short(session) if isinstance(session, str) else ""


def _text(fields: Mapping[str, bytes], name: str) -> str:
    try:
        return _string.decode(fields.get(name, b""))
    except _UNREADABLE:
        return ""


def _texts(content: bytes) -> list[str]:
    """The texts of a string or of a list of blocks; none of anything else."""
    try:
        if content.startswith(b'"'):
            return [_string.decode(content)]
        if content.startswith(b"["):
            return [block.text for block in _blocks.decode(content) if block.type == "text" and isinstance(block.text, str)]
    except _UNREADABLE:
        pass
    return []


def _header(headers: Sequence[tuple[str, str]], wanted: str) -> str:
    for name, value in headers:
        if name.lower() == wanted:
            return value.strip()
    return ""


def _short(value: str) -> str:
    if not value or _PLAIN.fullmatch(value):
        return value
    # `#` stands in no plain value.
    return "#" + hashlib.sha256(value.encode("utf-8", "surrogateescape")).hexdigest()[:_HASH_HEX]
