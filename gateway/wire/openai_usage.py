"""The `usage` object of Chat Completions as many servers write it: untrusted numbers in, `Usage` out, and what we do not know.

LEDGER.md ("What a request costs") is the law: `prompt_tokens` includes what was read from and written to a cache,
`completion_tokens` includes reasoning. What servers were seen to send (2026-11):

| | |
| --- | --- |
| OpenAI, vLLM, llama.cpp, Ollama, xAI | prompt_tokens_details.cached_tokens (Ollama and vLLM may leave the details out) |
| OpenAI from GPT-5.6 on, OpenRouter | prompt_tokens_details.cache_write_tokens beside it: writes cost more than input there |
| DeepSeek | prompt_cache_hit_tokens, prompt_cache_miss_tokens |
| Moonshot | cached_tokens at the top, and in a stream the whole object inside the last choice |
| LiteLLM, Vercel | cache_creation_input_tokens, cache_read_input_tokens at the top |
| Groq | times in seconds; in a stream under x_groq unless include_usage was asked |
| OpenRouter | cost, cost_details; server_tool_use.web_search_requests |
| xAI, Gemini | completion_tokens *without* reasoning; only total_tokens contains it |

Tokens of audio, and of images that were made, have prices of their own: they are charged as text and flagged. So is a tier of
service that is not the standard one; only "priority" (xAI, OpenAI) and "fast" are priced, as `Usage.speed` "fast".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from gateway.usage import Usage
from gateway.wire.anthropic_usage import COUNT_MAX

# Names come from outside and end up in a log line.
_UNKNOWN_FIELDS_MAX = 32
_NAME_LENGTH_MAX = 80

_PROMPT, _COMPLETION, _TOTAL = "prompt_tokens", "completion_tokens", "total_tokens"
_REASONING = "completion_tokens_details.reasoning_tokens"
_WEB_SEARCHES = "server_tool_use.web_search_requests"
# The same count under several names, of which a server may write more than one.
_READ = ("prompt_tokens_details.cached_tokens", "prompt_cache_hit_tokens", "cached_tokens", "cache_read_input_tokens")
_WRITTEN = (
    "prompt_tokens_details.cache_write_tokens",
    "prompt_tokens_details.cache_creation_tokens",
    "cache_creation_input_tokens",
)
_COUNTS = frozenset((_PROMPT, _COMPLETION, _TOTAL, _REASONING, _WEB_SEARCHES, *_READ, *_WRITTEN))
# Known, and without a price of its own: parts of what is counted above, or no tokens at all.
_FREE = frozenset(
    (
        *(f"prompt_tokens_details.{kind}_tokens" for kind in ("text", "image", "video")),
        *(f"completion_tokens_details.{kind}_tokens" for kind in ("text", "accepted_prediction", "rejected_prediction")),
        *("prompt_cache_miss_tokens", "reasoning", "reasoning_tokens", "cost", "cost_in_usd_ticks"),
        *("queue_time", "prompt_time", "completion_time", "total_time"),
    )
)
_FREE_OBJECTS = frozenset(("cost", "cost_details"))
_STANDARD_TIERS = frozenset(("", "auto", "default", "standard", "on_demand"))
_FAST_TIERS = frozenset(("priority", "fast"))


class ChatUsageReader:
    """Takes in usage objects as they come; for each field the last value that is not null wins, and nothing is ever added up."""

    def __init__(self) -> None:
        self.unknown_fields: set[str] = set()
        self.malformed = False
        self._counts: dict[str, int] = {}
        self._tier = ""

    def read(self, usage: object) -> None:
        """Take in one usage object. What is not as it should be is left out and flagged; nothing is raised."""
        if not isinstance(usage, dict):
            self.malformed = self.malformed or usage is not None
            return
        self._read_counts(usage, "")
        if self._is_beside():
            self._flag(_PROMPT)
        if self._missing_output() not in (0, self._counts.get(_REASONING, 0)):
            self._flag(_TOTAL)

    def read_tier(self, tier: object) -> None:
        """The `service_tier` that an answer says it was served with."""
        if isinstance(tier, str) and tier:
            self._tier = tier[:_NAME_LENGTH_MAX]
            if tier not in _STANDARD_TIERS:
                self._flag(f"service_tier={tier}")

    @property
    def told(self) -> bool:
        """Whether any of what is paid for was told: an object with neither tokens read nor written tells nothing."""
        return _PROMPT in self._counts or _COMPLETION in self._counts

    @property
    def output_tokens(self) -> int | None:
        """None as long as nobody told."""
        return self.total().output_tokens if _COMPLETION in self._counts else None

    @property
    def reasoning_tokens(self) -> int | None:
        """A part of the output; None if nobody told."""
        return self._counts.get(_REASONING)

    def total(self) -> Usage:
        counts = self._counts
        read, written = self._most(_READ), self._most(_WRITTEN)
        inside = 0 if self._is_beside() else read + written
        hidden = self._missing_output()
        if hidden and hidden != counts.get(_REASONING, 0) and (read or written):
            hidden = 0  # it may be the cache, counted once more: flagged, not charged
        return Usage(
            input_tokens=counts.get(_PROMPT, 0) - inside,
            output_tokens=counts.get(_COMPLETION, 0) + hidden,
            cache_write_5m_tokens=written,
            cache_read_tokens=read,
            web_searches=counts.get(_WEB_SEARCHES, 0),
            speed="fast" if self._tier in _FAST_TIERS else "",
        )

    def _is_beside(self) -> bool:
        """Whether the cache is counted beside `prompt_tokens`, as Anthropic does: more was cached than was read in all."""
        return self._most(_READ) + self._most(_WRITTEN) > self._counts.get(_PROMPT, 0)

    def _missing_output(self) -> int:
        """What `total_tokens` has beyond prompt and completion."""
        counts = self._counts
        if not {_PROMPT, _COMPLETION, _TOTAL} <= counts.keys():
            return 0
        return max(0, counts[_TOTAL] - counts[_PROMPT] - counts[_COMPLETION])

    def _most(self, names: Iterable[str]) -> int:
        return max(self._counts.get(name, 0) for name in names)

    def _read_counts(self, fields: Mapping[str, object], prefix: str) -> None:
        for key, value in fields.items():
            name = prefix + key
            if isinstance(value, dict):
                if not prefix and key not in _FREE_OBJECTS:  # details: one level, never deeper
                    self._read_counts(value, f"{key}.")
            elif name in _COUNTS:
                if type(value) is int and 0 <= value <= COUNT_MAX:
                    self._counts[name] = value
                elif value is not None:
                    self.malformed = True
            elif name not in _FREE and type(value) in (int, float) and value:
                # Of what is unknown a zero costs nothing, and servers write many of them.
                self._flag(name)

    def _flag(self, name: str) -> None:
        if len(self.unknown_fields) < _UNKNOWN_FIELDS_MAX:
            self.unknown_fields.add(ascii(name)[1:-1][:_NAME_LENGTH_MAX])
