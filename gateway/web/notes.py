"""What an act leaves for the page that follows it: a message, or a secret that is shown once. In memory, for minutes, and once.

A reload of that page shows it no more; another tab of the same person does not take it away, as it waits for its own path.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Tone = Literal["ok", "warn", "bad", ""]

NOTE_MS = 5 * 60_000
# The oldest goes: a message that nobody came for.
NOTES_MAX = 1_000


@dataclass(frozen=True, slots=True)
class Note:
    """`shown` may hold a secret, so that it does not stand in the note's own words."""

    message: str
    tone: Tone = "ok"
    shown: Mapping[str, Any] = field(default_factory=dict, repr=False)


class Notes:
    def __init__(self) -> None:
        self._waiting: OrderedDict[tuple[int, str], tuple[int, Note]] = OrderedDict()

    def put(self, session_id: int, path: str, note: Note, now_ms: int) -> None:
        self._waiting.pop((session_id, path), None)
        self._waiting[session_id, path] = (now_ms + NOTE_MS, note)
        # In the order in which they end: what has ended stands first.
        while self._waiting and (len(self._waiting) > NOTES_MAX or next(iter(self._waiting.values()))[0] <= now_ms):
            self._waiting.popitem(last=False)

    def take(self, session_id: int, path: str, now_ms: int) -> Note | None:
        until_ms, note = self._waiting.pop((session_id, path), (0, None))
        return note if now_ms < until_ms else None
