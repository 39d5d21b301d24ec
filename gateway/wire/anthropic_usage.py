"""Anthropic's `usage` object: untrusted numbers in, `Usage` out, and what in it we do not know.

Follows platform.claude.com/docs/en/api/messages and the types of the anthropic SDK 2.11 (read 2026-11-20). LEDGER.md ("What a
request costs") is the law. What the law does not mention yet: with `context_management` an answer may carry `iterations`, and
the tokens of its `compaction` entries are billed but *not* contained in the fields above them, so that they are added here. An
`advisor_message` (another model, another price) and any other unknown entry cannot be priced by these counts: flagged.
"""

from __future__ import annotations

from collections.abc import Mapping

from gateway.usage import Usage

# Above this a count is a mistake or an attack: the largest context is 10^6 tokens.
COUNT_MAX = 10**9

# Names come from outside and end up in a log line.
_UNKNOWN_FIELDS_MAX = 32
_NAME_LENGTH_MAX = 80

_COUNTS = ("input_tokens", "output_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")
_5M = "cache_creation.ephemeral_5m_input_tokens"
_1H = "cache_creation.ephemeral_1h_input_tokens"
_WEB_SEARCHES = "server_tool_use.web_search_requests"
# Known, and without a price of its own: fetches are free, thinking is inside output_tokens.
_FREE = ("server_tool_use.web_fetch_requests", "output_tokens_details.thinking_tokens")
_KNOWN = frozenset((*_COUNTS, _5M, _1H, _WEB_SEARCHES, *_FREE))
# What an entry of `iterations` counts is either inside the fields above it (message) or added to them (compaction).
_INSIDE = "message"
_ADDED = "compaction"


class UsageReader:
    """Takes in usage objects as they come; for each field the last value that is not null wins, and nothing is ever added up."""

    def __init__(self) -> None:
        self.unknown_fields: set[str] = set()
        self.malformed = False
        self._counts: dict[str, int] = {}
        self._compacted = Usage()
        self._speed = ""
        self._geography = ""
        self._service_tier = ""

    def read(self, usage: object) -> None:
        """Take in one usage object. What is not as it should be is left out and flagged; nothing is raised."""
        if not isinstance(usage, dict):
            self.malformed = self.malformed or usage is not None
            return
        self._read_counts(usage, "")
        self._speed = self._text(usage, "speed") or self._speed
        self._geography = self._text(usage, "inference_geo") or self._geography
        self._service_tier = self._text(usage, "service_tier") or self._service_tier
        iterations = usage.get("iterations")
        if isinstance(iterations, list):
            self._read_iterations(iterations)

    def count(self, name: str) -> int | None:
        """The last figure for a field, None if there was none."""
        return self._counts.get(name)

    def total(self) -> Usage:
        counts = self._counts
        write_1h = counts.get(_1H, 0)
        write_5m = counts.get(_5M, 0)
        # What the split leaves over is 5m. A split above its total is believed: it is what the provider bills by.
        write_5m = max(write_5m, counts.get("cache_creation_input_tokens", 0) - write_1h)
        compacted = self._compacted
        return Usage(
            input_tokens=counts.get("input_tokens", 0) + compacted.input_tokens,
            output_tokens=counts.get("output_tokens", 0) + compacted.output_tokens,
            cache_write_5m_tokens=write_5m + compacted.cache_write_5m_tokens,
            cache_write_1h_tokens=write_1h + compacted.cache_write_1h_tokens,
            cache_read_tokens=counts.get("cache_read_input_tokens", 0) + compacted.cache_read_tokens,
            web_searches=counts.get(_WEB_SEARCHES, 0),
            speed=self._speed,
            geography=self._geography,
            service_tier=self._service_tier,
        )

    def _read_counts(self, fields: Mapping[str, object], prefix: str) -> None:
        for key, value in fields.items():
            name = prefix + key
            if isinstance(value, dict):
                if not prefix:  # the split of writes, server tools, details: one level, never deeper
                    self._read_counts(value, f"{key}.")
            elif name not in _KNOWN:
                if type(value) in (int, float):
                    self._flag(name)
            elif type(value) is int and 0 <= value <= COUNT_MAX:
                self._counts[name] = value
            elif value is not None:
                self.malformed = True

    def _read_iterations(self, iterations: list[object]) -> None:
        """The latest list replaces the one before, as it is cumulative too."""
        compactions = []
        for entry in iterations:
            kind = entry.get("type") if isinstance(entry, dict) else None
            if isinstance(entry, dict) and kind == _ADDED:
                reader = UsageReader()
                reader._read_counts(entry, "")
                compactions.append(reader.total())
                self.malformed = self.malformed or reader.malformed
            elif kind != _INSIDE:
                self._flag(f"iterations.{kind if isinstance(kind, str) else '?'}")
        self._compacted = Usage(
            input_tokens=sum(part.input_tokens for part in compactions),
            output_tokens=sum(part.output_tokens for part in compactions),
            cache_write_5m_tokens=sum(part.cache_write_5m_tokens for part in compactions),
            cache_write_1h_tokens=sum(part.cache_write_1h_tokens for part in compactions),
            cache_read_tokens=sum(part.cache_read_tokens for part in compactions),
        )

    def _text(self, fields: Mapping[str, object], name: str) -> str:
        value = fields.get(name)
        if isinstance(value, str):
            return value[:_NAME_LENGTH_MAX]
        self.malformed = self.malformed or value is not None
        return ""

    def _flag(self, name: str) -> None:
        if len(self.unknown_fields) < _UNKNOWN_FIELDS_MAX:
            self.unknown_fields.add(ascii(name)[1:-1][:_NAME_LENGTH_MAX])
