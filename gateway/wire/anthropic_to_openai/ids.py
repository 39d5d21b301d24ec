"""Ids of tool calls: the upstream's own wherever they can stand, and the way back from those that could not.

The upstream keeps nothing between requests: an id only has to be the same in a call and in its result, and both are in each body.
The client does keep them, so that no two in a conversation may be alike.
"""

from __future__ import annotations

import hashlib
import re

# The longest that api.openai.com takes (its error says so).
UPSTREAM_ID_LENGTH_MAX = 40
# Ids of fewer letters (call_0) come again in the next turn, and clients look results up by id: those are written anew. Mistral's
# have nine.
_PLAIN_ID = re.compile(r"[a-zA-Z0-9_-]{9,}")
# Letters and digits alone: OpenClaw takes all else out of an id.
_CODED_ID = re.compile(r"toolu_?x((?:[0-9a-f]{2})+)")


class ClientIds:
    """Ids for the calls of one message: the upstream's own where they can stand, and no two alike."""

    def __init__(self, message_id: str) -> None:
        self._message_id = message_id
        self._given: set[str] = set()

    def next(self, upstream_id: str) -> str:
        client_id = _client_id(upstream_id)
        if not client_id or client_id in self._given:
            digest = hashlib.sha256(f"{self._message_id}/{len(self._given)}".encode()).hexdigest()
            client_id = f"toolu_{digest[:24]}"
        self._given.add(client_id)
        return client_id


def upstream_tool_id(client_id: str) -> str:
    """The id as the upstream gave it; another provider's as it is, or a hash of it where it is too long for some."""
    own = _plain_id(client_id)
    if len(own) <= UPSTREAM_ID_LENGTH_MAX:
        return own
    return "call_" + hashlib.sha256(own.encode()).hexdigest()[:32]


def _plain_id(client_id: str) -> str:
    """The upstream's own id, of one that was coded for the client; every other as it is."""
    coded = _CODED_ID.fullmatch(client_id)
    if coded is None:
        return client_id
    try:
        upstream_id = bytes.fromhex(coded[1]).decode()
    except UnicodeDecodeError:
        return client_id
    return upstream_id if _client_id(upstream_id).replace("_", "", 1) == client_id.replace("_", "", 1) else client_id


def _client_id(upstream_id: str) -> str:
    """The id in a form that Anthropic allows; "" if it is too short to be unlike others."""
    if _PLAIN_ID.fullmatch(upstream_id):
        return upstream_id
    # Such as functions.Bash:0, which Kimi's template wants back as it was.
    return f"toolu_x{upstream_id.encode().hex()}" if len(upstream_id) >= 9 else ""
