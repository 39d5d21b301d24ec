"""/dashboard: what one has and how long it lasts, what today and this month cost, where it went, and the latest requests.

/dashboard/live is those parts alone that change with every request, each under its id, for whoever keeps an open page fresh.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from gateway.desk.overview import DAYS as COST_DAYS
from gateway.desk.overview import Live, Rest, Standing, add_up, read_live, read_rest, standing_of
from gateway.ids import render_id
from gateway.storage.rollups import DAY_MS
from gateway.web import charts
from gateway.web.page import HOME_PATH, Page, Route
from gateway.web.text import about, percent, spent

TOKEN_DAYS = 14
SPARK_DAYS = 14
_CLASSES = tuple(charts.Series(name, tone) for name, tone in charts.TOKEN_CLASSES.items())
# How sure its figures are, as a state: tone, mark, words (`state` in _forms.html).
_RESULTS = {
    "reported": ("ok", "s-done", "Done"),
    "estimated": ("", "s-half", "Cut short"),
    "partial": ("bad", "s-bad", "Broke off"),
    "recovered": ("warn", "s-warn", "Recovered"),
}


async def show_overview(page: Page) -> None:
    standing, live = await _read_live(page)
    member, now_ms = page.member, live.now_ms
    rest = await page.look(lambda conn: read_rest(conn, member.id, member.wallet_id, now_ms))
    new = live.first_at_ms is None and not standing.holds
    shown = {} if new else {**_charts(page, live), **_month(live, rest)}
    await page.show("dashboard/overview.html", new=new, rest=rest, **_live(page, standing, live), **shown)


async def show_live(page: Page) -> None:
    standing, live = await _read_live(page)
    await page.show("dashboard/_overview_live.html", **_live(page, standing, live))


ROUTES = (
    Route(HOME_PATH, "overview", "user", get=show_overview),
    Route(f"{HOME_PATH}/live", "overview/live", "user", get=show_live),
)


# ── leaves ───────────────────────────────────────────────────────────────────────────────────────────────────────────


async def _read_live(page: Page) -> tuple[Standing, Live]:
    wallet_id, now_ms = page.member.wallet_id, page.now_ms
    standing = standing_of(page.desk.book, wallet_id)
    return standing, await page.look(lambda conn: read_live(conn, wallet_id, standing, now_ms))


def _live(page: Page, standing: Standing, live: Live) -> dict[str, Any]:
    own = page.member.low_balance_nanos
    warn_nanos = own if own is not None else page.house.settings.notices.low_balance_nanos
    full_nanos = live.topped_up[1] if live.topped_up else 0
    available, per_day = standing.available_nanos, live.burn.nanos_per_day
    recent = [live.by_day[day] for day in live.days[-SPARK_DAYS:]]
    month = [live.by_day[day] for day in live.days if day >= live.month_ms]
    return {
        "standing": standing,
        "live": live,
        "warn_nanos": warn_nanos,
        "lasts_ms": available * DAY_MS // per_day if per_day else None,
        "full_nanos": max(full_nanos, standing.balance_nanos),
        "gauge": charts.gauge(available, standing.held_nanos, full_nanos, warn_nanos),
        "month_name": f"{_date(live.now_ms):%B}",
        "sparks": {
            "today": charts.spark([day.cost_nanos for day in recent]),
            "month": charts.spark(list(itertools.accumulate(day.cost_nanos for day in month))),
            "share": charts.spark([int(10_000 * day.cache_share) for day in recent]),
            "saved": charts.spark([max(0, day.saved_nanos) for day in recent]),
        },
        "results": _RESULTS,
        "latest": [{**row, "id": render_id(row["request_id"])} for row in live.latest],
    }


def _charts(page: Page, live: Live) -> dict[str, Any]:
    """What a chart says in a sentence comes with it: its title."""
    days = live.days[-COST_DAYS:]
    costs: dict[str, int] = {}
    for day in days:
        for model, nanos in live.models[day].items():
            costs[model] = costs.get(model, 0) + nanos
    series, places = charts.model_series(costs, lambda model: _model_name(page, model))
    by_day = {day: _stacked(live.models[day], places, len(series)) for day in days}
    dearest = max(days, key=lambda day: sum(by_day[day]))
    cost = charts.stack(charts.day_slots(by_day, days, live.today_ms, len(series)), series, spent, charts.axis_usd)
    words = f"Cost per day in the last {COST_DAYS} days, stacked by model. Total {cost.total}"
    if costs:
        words += f"; the dearest day was {_date(dearest).day} {_date(dearest):%B} with {spent(sum(by_day[dearest]))}"
    token_days = live.days[-TOKEN_DAYS:]
    tokens = {day: _by_class(live, day) for day in token_days}
    classes = charts.stack(charts.day_slots(tokens, token_days, live.today_ms, len(_CLASSES)), _CLASSES, about, charts.axis_count)
    share = percent(add_up([live.by_day[day] for day in token_days]).cache_share)
    told = f"Tokens per day in the last {TOKEN_DAYS} days, by class. {share} of the prompt tokens were read from cache."
    return {
        "cost_chart": cost,
        "cost_words": words + ".",
        "token_chart": classes,
        "token_words": told,
        "cost_days": COST_DAYS,
        "token_days": TOKEN_DAYS,
    }


def _month(live: Live, rest: Rest) -> dict[str, Any]:
    """Rows of bars; what the dearest keys leave of the month is the others', so that they add up to it."""
    start = f"{_date(live.month_ms):%Y-%m-%d}"
    others = live.month.cost_nanos - sum(key["cost_nanos"] for key in rest.keys)
    most = max((key["cost_nanos"] for key in rest.keys), default=0)
    dearest = max((session["cost_nanos"] for session in rest.sessions), default=0)
    return {
        "month_start": start,
        "keys": [{**key, "width": charts.bar(key["cost_nanos"], most)} for key in rest.keys],
        "other_keys": {"cost_nanos": others, "width": charts.bar(min(others, most), most)} if others > 0 else None,
        "sessions": [{**session, "width": charts.bar(session["cost_nanos"], dearest)} for session in rest.sessions],
    }


def _stacked(costs: dict[str, int] | Any, places: dict[str, int], series: int) -> tuple[int, ...]:
    values = [0] * series
    for model, nanos in costs.items():
        values[places[model]] += nanos
    return tuple(values)


def _by_class(live: Live, day: int) -> Sequence[int]:
    """In the order of TOKEN_CLASSES."""
    sums = live.by_day[day]
    measures = sums.measures
    return (measures["cache_read_tokens"], sums.cache_write_tokens, measures["input_tokens"], measures["output_tokens"])


def _model_name(page: Page, model_id: str) -> str:
    model = page.desk.catalog.find(model_id)
    return model.display_name.removeprefix("Claude ") if model is not None else model_id


def _date(at_ms: int) -> datetime:
    return datetime.fromtimestamp(at_ms / 1000, UTC)
