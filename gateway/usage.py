"""What one request consumed, in tokens by price class, and how we know it.

Knows nothing of dialects (the meter fills it) or prices (pricing multiplies it).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

# reported: by the provider, complete. estimated: the client left, output counted from bytes. partial: the upstream
# failed mid-stream. recovered: settled after a crash from the last progress row.
Source = Literal["reported", "estimated", "partial", "recovered"]

# Plain text is about 3.5 bytes per token; used wherever output must be charged that no provider reported.
BYTES_PER_OUTPUT_TOKEN_TENTHS = 35


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens by price class. `speed`, `geography` and `service_tier` are what the *answer* says was served ("" if nothing)."""

    input_tokens: int = 0
    output_tokens: int = 0
    cache_write_5m_tokens: int = 0
    cache_write_1h_tokens: int = 0
    cache_read_tokens: int = 0
    web_searches: int = 0
    speed: str = ""
    geography: str = ""
    service_tier: str = ""

    @property
    def prompt_tokens(self) -> int:
        """Everything that was read: what a price tier is judged by."""
        return self.input_tokens + self.cache_read_tokens + self.cache_write_5m_tokens + self.cache_write_1h_tokens

    @property
    def counted_tokens(self) -> int:
        """What token limits count: everything but cache reads."""
        return self.input_tokens + self.cache_write_5m_tokens + self.cache_write_1h_tokens + self.output_tokens


def tokens_of_bytes(output_bytes: int) -> int:
    """⌈bytes ÷ 3.5⌉, in whole numbers."""
    return -(-output_bytes * 10 // BYTES_PER_OUTPUT_TOKEN_TENTHS)
