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
        user_id = _metadata.decode(fields["metadata"]).user_id
        if not isinstance(user_id, str):
            return ""
        if not user_id.startswith("{"):
            old = _OLD_USER_ID.fullmatch(user_id)
            return old[1] if old else ""
        session = _user_id.decode(user_id).session_id
    except _UNREADABLE:
        return ""
    return _short(session) if isinstance(session, str) else ""


def fingerprint_of(fields: Mapping[str, bytes], model: str, tool_names: Iterable[object]) -> str:
    """A hash of model, system, tool names and the first user message: what the turns of one conversation share.

    Of system and message the *text* counts, not the bytes: clients move `cache_control` from turn to turn, and write the same
    text now as a string, now as a block.
    """
    digest = hashlib.sha256()
    system = _texts(fields.get("system", b"null"))
    if system and system[0].startswith(_BILLING_BLOCK):
        del system[0]
    parts = (
        [model],
        system,
        [name for name in tool_names if isinstance(name, str)],
        _first_user_texts(fields.get("messages", b"null")),
    )
    for part in parts:
        # Lengths in front, so that no two different lists look alike.
        digest.update(b"%d;" % len(part))
        for text in part:
            data = text.encode()
            digest.update(b"%d:" % len(data))
            digest.update(data)
    return digest.hexdigest()[:_HASH_HEX]


def _first_user_texts(messages: bytes) -> list[str]:
    try:
        for message in _messages.decode(messages):
            if message.role == "user":
                return _texts(bytes(message.content))
    except _UNREADABLE:
        pass
    return []


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
