"""A wallet's month, or one day of it, as its owner reads it: opening + added + refunded − taken out − spent = closing.

Everything that ever moved the wallet is summed up, before, within and after the period; together that must be the account's
balance, which the ledger keeps beside its rows. Only then is a statement `proven`. Times are UTC.

    a month     each day's charges in one line, everything else line by line; of today also the latest charges
    a day       every transfer, a page at a time; its charges must also be what the month says of it

In a month the charges of a day stand after its other movements, so a balance between them may be one that the wallet had in
another order; a day has the ledger's order.
"""

from __future__ import annotations

import re
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from gateway.desk.checks import get_wallet, refused
from gateway.ids import parse_id
from gateway.storage import movements
from gateway.storage.movements import Movement
from gateway.storage.readonly import snapshot
from gateway.storage.refunds import refunded_request
from gateway.storage.rollups import DAY_MS

# Of today, charge by charge.
LATEST = 8
# Of one kind on one day; more are one line.
SINGLE_MAX = 10
PAGE = 100
HELD_MAX = 20

_DAY = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)


@dataclass(frozen=True, slots=True)
class Period:
    """A month or a day. `name` is how an address says it: 2026-11, 2026-11-20."""

    name: str
    start_ms: int
    end_ms: int

    @property
    def is_day(self) -> bool:
        return self.end_ms - self.start_ms == DAY_MS


@dataclass(frozen=True, slots=True)
class Line:
    """What moved the balance. `count` is above 1, and `transfer_id` None, where it stands for several; a line `settle` of several
    is the charges of `count` requests. `request_id` is that of a charge or a refund."""

    what: str
    at_ms: int
    amount_nanos: int
    balance_after_nanos: int = 0
    count: int = 1
    transfer_id: int | None = None
    reference: str = ""
    note: str = ""
    request_id: int | None = None
    model: str = ""
    key_name: str = ""
    source: str = ""
    overrun_nanos: int = 0

    @property
    def folded(self) -> bool:
        return self.transfer_id is None


@dataclass(frozen=True, slots=True)
class Held:
    """What running requests hold; `requests` are the latest of them. `proven`: together it is what the account holds."""

    requests: Sequence[Mapping[str, Any]]
    count: int
    nanos: int
    available_nanos: int
    proven: bool


@dataclass(frozen=True, slots=True)
class Statement:
    """`counts` and `sums` are by what moved the balance, as Line.what says it; `off_nanos` is by how much the account's balance
    is another than all its rows say."""

    period: Period
    before: Period | None
    after: Period | None
    counts: Mapping[str, int]
    sums: Mapping[str, int]
    opening_nanos: int
    balance_nanos: int
    owed_nanos: int
    frozen: bool
    off_nanos: int
    held: Held
    lines: Sequence[Line]
    newer: int | None = None
    older: int | None = None
    paged: bool = False

    @property
    def proven(self) -> bool:
        return self.off_nanos == 0

    @property
    def added_nanos(self) -> int:
        return self._sum("deposit", "voucher", "invite", "promo")

    @property
    def refunded_nanos(self) -> int:
        return self._sum("refund")

    @property
    def taken_nanos(self) -> int:
        return -self._sum("withdraw", "promo_reversed")

    @property
    def spent_nanos(self) -> int:
        return -self._sum("settle", "overrun_collected")

    @property
    def closing_nanos(self) -> int:
        return self.opening_nanos + sum(self.sums.values())

    def _sum(self, *whats: str) -> int:
        return sum(self.sums.get(what, 0) for what in whats)


def parse_period(now_ms: int, *, month: str | None = None, day: str | None = None) -> Period:
    """Of such as 2026-11 or 2026-11-20; the present month if neither is asked for. Raises ClientError, also for the future."""
    if month is None and day is None:
        return _period(_moment(now_ms), is_day=False)
    text, param = (f"{month}-01", "month") if day is None else (day, "day")
    try:
        begins = datetime.fromisoformat(text).replace(tzinfo=UTC) if _DAY.fullmatch(text) else None
    except ValueError:
        begins = None
    if begins is None or begins.year < 1970:
        hint = "2026-11" if day is None else "2026-11-20"
        raise refused(f"There is no such {param}; write one such as {hint}.", param)
    if begins > _moment(now_ms):
        raise refused(f"That {param} has not begun yet.", param)
    return _period(begins, is_day=day is not None)


def read_statement(
    conn: sqlite3.Connection,
    user_id: int,
    period: Period,
    *,
    now_ms: int,
    since_ms: int,
    before: int | None = None,
) -> Statement:
    """`since_ms` is when the wallet came to be: nobody is led to months before. `before` is the id of a transfer, for older pages
    of a day."""
    with snapshot(conn):
        wallet = get_wallet(conn, user_id)
        wallet_id, balance = wallet["id"], wallet["balance_nanos"]
        days = movements.sum_charges(conn, wallet_id)
        others = movements.sum_movements(conn, wallet_id, period.start_ms, period.end_ms)
        within = [day for day in days if period.start_ms <= day.day_at_ms < period.end_ms]
        counts, sums = Counter(settle=sum(day.requests for day in within)), Counter(settle=-sum(day.paid_nanos for day in within))
        for when, what, count, nanos in others:
            if when == 0:
                counts[what] += count
                sums[what] += nanos
        opening = sum(nanos for when, _, _, nanos in others if when < 0)
        opening -= sum(day.paid_nanos for day in days if day.day_at_ms < period.start_ms)
        moved = sum(nanos for _, _, _, nanos in others) - sum(day.paid_nanos for day in days)
        statement = Statement(
            period,
            *_neighbours(period, now_ms, since_ms),
            counts,
            sums,
            opening,
            balance,
            wallet["owed_nanos"],
            bool(wallet["frozen"]),
            balance - moved,
            _read_held(conn, wallet),
            (),
        )
        if period.is_day:
            return _with_day(conn, wallet_id, statement, before)
        singles = movements.list_movements(conn, wallet_id, period.start_ms, period.end_ms)
        today = now_ms - now_ms % DAY_MS
        latest = movements.list_day(conn, wallet_id, today, before=None, limit=LATEST) if period.end_ms > today else []
        charges = _charges_of(conn, latest)
    lines = list(_lines_of_month(within, singles, [charges[each.id] for each in latest if each.id in charges], today))
    return replace(statement, lines=_with_balances(lines, statement.closing_nanos))


# ── a month ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def _lines_of_month(
    days: Iterable[movements.DayOfCharges], singles: Iterable[Movement], latest: Sequence[Line], today: int
) -> Iterator[Line]:
    """The latest first: of each day its charges, then everything else; of today the latest charges one by one before both."""
    by_day: dict[int, list[Line]] = defaultdict(list)
    for movement in singles:
        by_day[movement.at_ms - movement.at_ms % DAY_MS].append(_line_of(movement))
    charges = {day.day_at_ms: day for day in days}
    for day_at_ms in sorted({*by_day, *charges}, reverse=True):
        lines = _folded(day_at_ms, by_day[day_at_ms])
        shown = list(latest) if day_at_ms == today else []
        rest = None
        if day := charges.get(day_at_ms):
            paid = day.paid_nanos + sum(line.amount_nanos for line in shown)
            overrun = day.cost_nanos - day.paid_nanos - sum(line.overrun_nanos for line in shown)
            rest = Line("settle", day_at_ms, -paid, count=day.requests - len(shown), overrun_nanos=overrun)
        # What came after the first of those that are shown stands among them.
        first = shown[-1].transfer_id or 0 if shown else 0
        among = [line for line in lines if shown and (line.transfer_id or 0) > first]
        yield from sorted(shown + among, key=lambda line: line.transfer_id or 0, reverse=True)
        if rest is not None and (rest.count or rest.amount_nanos):
            yield rest
        yield from (line for line in lines if line not in among)


def _folded(day_at_ms: int, lines: Sequence[Line]) -> list[Line]:
    """Kinds of which there are many on a day become one line each, after the others."""
    many = [what for what, count in Counter(line.what for line in lines).items() if count > SINGLE_MAX]
    folded = []
    for what in many:
        alike = [line for line in lines if line.what == what]
        folded.append(Line(what, day_at_ms, sum(line.amount_nanos for line in alike), count=len(alike)))
    return [line for line in lines if line.what not in many] + folded


def _with_balances(lines: Iterable[Line], balance: int) -> list[Line]:
    """`balance` is that after the first line, which is the latest."""
    told = []
    for line in lines:
        told.append(replace(line, balance_after_nanos=balance))
        balance -= line.amount_nanos
    return told


# ── a day ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _with_day(conn: sqlite3.Connection, wallet_id: int, statement: Statement, before: int | None) -> Statement:
    day_at_ms = statement.period.start_ms
    found = movements.list_day(conn, wallet_id, day_at_ms, before=before, limit=PAGE + 1)
    later, newer = (0, None) if before is None else movements.above(conn, wallet_id, day_at_ms, before, PAGE)
    moved, _ = movements.above(conn, wallet_id, day_at_ms, 0, 0)
    charges = _charges_of(conn, found)
    lines = [charges.get(movement.id) or _line_of(movement) for movement in found[:PAGE]]
    return replace(
        statement,
        lines=_with_balances(lines, statement.closing_nanos - later),
        off_nanos=statement.off_nanos or moved - sum(statement.sums.values()),
        paged=before is not None,
        newer=newer,
        older=found[PAGE - 1].id if len(found) > PAGE else None,
    )


# ── leaves ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _line_of(movement: Movement) -> Line:
    request_id = refunded_request(movement.reference) if movement.what == "refund" else parse_id(movement.reference)
    return Line(
        movement.what,
        movement.at_ms,
        movement.amount_nanos,
        transfer_id=movement.id,
        reference=movement.reference,
        note=movement.note,
        request_id=request_id if movement.what in ("settle", "refund", "overrun_collected") else None,
    )


def _charges_of(conn: sqlite3.Connection, found: Iterable[Movement]) -> dict[int, Line]:
    """Those of them that are charges, by transfer, with what each request was."""
    lines = [_line_of(movement) for movement in found if movement.what == "settle"]
    known = movements.describe_charges(conn, [line.request_id for line in lines if line.request_id is not None])
    return {line.transfer_id or 0: replace(line, **known.get(line.request_id or 0, {})) for line in lines}


def _read_held(conn: sqlite3.Connection, wallet: Mapping[str, Any]) -> Held:
    requests, count, nanos = movements.list_held(conn, wallet["id"], HELD_MAX)
    return Held(requests, count, nanos, wallet["balance_nanos"] - wallet["held_nanos"], nanos == wallet["held_nanos"])


def _neighbours(period: Period, now_ms: int, since_ms: int) -> tuple[Period | None, Period | None]:
    """The periods before and after, where there is something to be seen."""
    before = _period(_moment(period.start_ms - 1), is_day=period.is_day)
    after = _period(_moment(period.end_ms), is_day=period.is_day)
    return before if before.end_ms > since_ms else None, after if after.start_ms <= now_ms else None


def _period(moment: datetime, *, is_day: bool) -> Period:
    """The one in which this moment lies."""
    if is_day:
        start = moment.replace(hour=0, minute=0, second=0, microsecond=0)
        start_ms = int(start.timestamp()) * 1000
        return Period(f"{start:%Y-%m-%d}", start_ms, start_ms + DAY_MS)
    start = moment.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    end = start.replace(year=start.year + start.month // 12, month=start.month % 12 + 1)
    return Period(f"{start:%Y-%m}", int(start.timestamp()) * 1000, int(end.timestamp()) * 1000)


def _moment(at_ms: int) -> datetime:
    return datetime.fromtimestamp(at_ms // 1000, UTC)
