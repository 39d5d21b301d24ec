"""What the walk hands to the writer: one frozen value per fact, in the order in which the book decided them."""

from __future__ import annotations

from dataclasses import dataclass

from gateway.book import Resolution
from gateway.usage import Source, Usage


@dataclass(frozen=True, slots=True)
class HoldRow:
    """A hold was admitted."""

    request_id: int
    wallet_id: int
    key_id: int
    model: str
    amount_nanos: int
    at_ms: int


@dataclass(frozen=True, slots=True)
class HoldChangeRow:
    """A hold was raised (delta > 0) or lowered (delta < 0); `number` counts from 1."""

    request_id: int
    wallet_id: int
    number: int
    delta_nanos: int


@dataclass(frozen=True, slots=True)
class Served:
    """What was served, by whom, and under which price terms (canonical text of `pricing.Price.terms`)."""

    upstream: str
    upstream_model: str
    terms: str
    usage: Usage
    cost_nanos: int


@dataclass(frozen=True, slots=True)
class ProgressRow:
    """What a running stream has cost so far: what a crash would be settled from."""

    request_id: int
    at_ms: int
    served: Served


@dataclass(frozen=True, slots=True)
class AttemptRow:
    number: int
    upstream: str
    upstream_model: str
    status: int | None
    reason: str
    started_at_ms: int
    duration_ms: int
    cost_nanos: int = 0
    upstream_request_id: str = ""


@dataclass(frozen=True, slots=True)
class DetailRow:
    """What the request looked like from outside; times are milliseconds from its head."""

    stream: bool
    status: int
    session: str
    agent: str
    address: str
    admitted_ms: int
    first_byte_ms: int | None
    total_ms: int


@dataclass(frozen=True, slots=True)
class ResolutionRow:
    """A hold was settled (`served` and `source` say for what) or voided (`reason` says why), with what was tried."""

    resolution: Resolution
    key_id: int
    model: str
    at_ms: int
    attempts: tuple[AttemptRow, ...]
    detail: DetailRow
    served: Served | None = None
    source: Source = "reported"
    flags: str = ""
    reason: str | None = None
    had_progress: bool = False


Row = HoldRow | HoldChangeRow | ProgressRow | ResolutionRow
