"""/admin: what was earned, what runs, what failed, who needs attention; kept up to date while somebody looks."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from gateway import metrics
from gateway.desk.operation import broken_invariants, read_books
from gateway.desk.signin import look
from gateway.desk.users import Member
from gateway.house import House
from gateway.proxy.walk import Running
from gateway.web.page import Page, Route, live_route
from gateway.web.requests import state_of
from gateway.web.standing import STATES, Standing, account_state, find_stranded, reason_words, standing_of

PATH = "/admin"

# What rang, as an operator would say it; the log has each with its particulars.
ALARMS = {
    "audit": "An audit found an invariant broken",
    "forgotten_hold": "A hold was held by no running request, and was resolved",
    "freeze": "A wallet is frozen in memory only",
    "ledger": "The ledger refused what the book had admitted",
    "overrun": "A request cost more than its wallet had",
    "rollups": "The roll-ups were not what the usage says, and were mended",
    "upstream": "A provider refused our secret, or its credit is exhausted",
    "writer": "The ledger could not be written",
}
LIMITS = {
    "rpm": "Requests per minute",
    "tpm": "Tokens per minute",
    "concurrent": "Requests at once",
    "requests_per_day": "Requests per day",
    "tokens_per_month": "Tokens per month",
    "spend_per_day": "Spend per day",
    "spend_per_month": "Spend per month",
    "spend_total": "Spend in all",
    "count_tokens": "Token counts per minute",
}


@dataclass(frozen=True, slots=True)
class Account:
    """An upstream in one line; `resting` are those of its models that rest by themselves while it serves."""

    name: str
    kind: str
    standing: Standing
    resting: list[tuple[str, Standing]]
    models: int
    running: int
    most: int


@dataclass(frozen=True, slots=True)
class InFlight:
    """Requests that run now. `places` are (model, upstream, how many), the most first; upstream "" before it has answered."""

    total: int
    streams: int
    oldest_ms: int
    oldest_id: str
    places: list[tuple[str, str, int]]


async def show_overview(page: Page) -> None:
    await page.show("admin/overview.html", **await read_overview(page.house, page.member))


async def read_overview(house: House, member: Member) -> Mapping[str, Any]:
    """The same for every admin. Memory is read on the loop, the database in a thread."""
    desk, walk, writer = house.desk, house.walk, house.writer
    read = functools.partial(read_books, at_ms=desk.clock.at_ms(), low_balance_nanos=house.settings.notices.low_balance_nanos)
    books = await look(desk, read, member.id)
    upstreams = desk.upstreams.show()
    rung = {name: metrics.counters[f"alarm_{name}"] for name in ALARMS if metrics.counters[f"alarm_{name}"]}
    hit = {LIMITS.get(name, name): count for name, count in metrics.limits_hit.most_common() if count}
    return {
        "books": books,
        "flight": _in_flight(walk.running.values(), len(walk.streams), walk.clock.now_ms()),
        "in_flight_max": walk.rules.max_in_flight,
        "accounts": [_account(each) for each in upstreams],
        "stranded": find_stranded(walk, upstreams),
        "writer": {"accepting": writer.accepting, "pending": writer.pending, "lag_ms": writer.lag_ms},
        "broken": broken_invariants(),
        "audited_at_ms": max((at_ms for at_ms, _ in metrics.audits.values()), default=None),
        "alarms": {ALARMS[name]: count for name, count in rung.items()},
        "limits": hit,
        "latest": [{**row, "result": state_of(row)} for row in books.latest],
        "failures": [{**row, "words": _sentence(reason_words(row["cause"]))} for row in books.failures],
        "states": STATES,
        "started_at_ms": metrics.started_at_ms,
    }


ROUTES = (
    Route(PATH, "admin/overview", "admin", get=show_overview),
    live_route(f"{PATH}/live", "admin/overview/live", "admin", "admin/_overview_live.html", read_overview),
)


# ── leaves ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _in_flight(running: Iterable[Running], streams: int, now_ms: int) -> InFlight:
    """`now_ms` is the running clock."""
    requests = list(running)
    places = Counter((each.model.id, each.at.upstream if each.at is not None else "") for each in requests)
    oldest = min(requests, key=lambda each: each.inbound.received_ms, default=None)
    return InFlight(
        total=len(requests),
        streams=streams,
        oldest_ms=now_ms - oldest.inbound.received_ms if oldest is not None else 0,
        oldest_id=oldest.inbound.text_id if oldest is not None else "",
        places=[(model, upstream, count) for (model, upstream), count in sorted(places.items(), key=lambda item: -item[1])],
    )


def _account(shown: Mapping[str, Any]) -> Account:
    whole = account_state(shown)
    resting = [(each["model"], standing_of(each)) for each in shown["resting_models"]] if whole.state == "serving" else []
    return Account(
        name=shown["name"],
        kind=shown["kind"],
        standing=replace(whole, reason=_sentence(reason_words(whole.reason))),
        resting=[(model, replace(each, reason=reason_words(each.reason))) for model, each in resting if each.state != "serving"],
        models=shown["models"],
        running=shown["running"],
        most=shown["max_concurrent"],
    )


def _sentence(words: str) -> str:
    return words[:1].upper() + words[1:]
