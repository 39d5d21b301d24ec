"""What the walk asks of a provider: how to address it, how to sign, how to judge what it answers. Pure.

A provider is one file beside this one that offers a `Provider`, plus one line in `registry.py`. It opens no connection:
`transport.py` does, from the `Outgoing` that a provider makes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from gateway.wire.bridge import Habits
from gateway.wire.call import Dialect

# A provider serves those of its dialect: Anthropic's are messages and count_tokens, OpenAI's chat and models.
Operation = Literal["messages", "count_tokens", "chat", "models"]
Headers = Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One HTTP request to a provider, complete with its credential; never logged, never shown (no repr of headers)."""

    url: str
    headers: tuple[tuple[str, str], ...]
    body: bytes
    stream: bool
    method: Literal["POST", "GET"] = "POST"

    def __repr__(self) -> str:
        return f"Outgoing({self.url}, {len(self.body)} bytes)"


# verbatim: the client's to mend, its body passes unchanged. next: another deployment may try.
# final: no other deployment can help, and the client sees our own body.
Course = Literal["verbatim", "next", "final"]


@dataclass(frozen=True, slots=True)
class Judgement:
    """What an answer that is not 2xx means: what becomes of the request, and one short word for the attempt's row."""

    course: Course
    reason: str
    retry_after_s: int | None = None
    alarm: bool = False


class Provider(Protocol):
    kind: str
    dialect: Dialect
    estimates_tokens: bool
    """Whether its count_tokens is a guess; the client is told so by a header."""
    signs_thinking: bool
    """Whether its thinking blocks carry a signature that only this kind takes back."""
    habits: Habits
    """What a request that is translated for it must look like."""
    probe: Operation
    """What is asked to see whether it can be reached and takes our secret: free everywhere."""

    def address(self, operation: Operation, query: str, headers: Headers, body: bytes, *, stream: bool) -> Outgoing:
        """The request to send for a client's request; `headers` are the client's, lower-case names, in order."""
        ...

    def judge(self, status: int, headers: Headers, body: bytes) -> Judgement:
        """What a status ≥ 300 means; `body` may be cut at some kilobytes."""
        ...

    def response_headers(self, headers: Headers) -> list[tuple[str, str]]:
        """Those of the provider's answer headers that a client may see (an allowlist)."""
        ...

    def upstream_request_id(self, headers: Headers) -> str:
        """The id under which the provider knows the request, "" if it names none."""
        ...
