"""/dashboard: what one has and how long it lasts, what today and this month cost, where it went, and the latest requests.

All of it below the heading changes with every request, and is kept up to date while somebody looks.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from gateway.desk.overview import DAYS as COST_DAYS
from gateway.desk.overview import Figures, Shares, Standing, add_up, read_figures, read_shares, standing_of
from gateway.desk.signin import look
from gateway.desk.users import Member
from gateway.house import House
from gateway.ids import render_id
from gateway.storage.rollups import DAY_MS
from gateway.web import charts
from gateway.web.page import HOME_PATH, Page, Route, live_route
from gateway.web.requests import prompt_of, state_of
from gateway.web.text import about, percent, spent

TOKEN_DAYS = 14
SPARK_DAYS = 14
_CLASSES = tuple(charts.Series(name, tone) for name, tone in charts.TOKEN_CLASSES.items())


async def show_overview(page: Page) -> None:
    await page.show("dashboard/overview.html", **await read_overview(page.house, page.member))


async def read_overview(house: House, member: Member) -> dict[str, Any]:
    """All that the page shows of somebody; `new` if they have nothing yet that a chart could show."""
    wallet_id, now_ms = member.wallet_id, house.desk.clock.at_ms()
    standing = standing_of(house.desk.book, wallet_id)
    figures, shares = await look(
        house.desk,
        lambda conn: (read_figures(conn, wallet_id, standing, now_ms), read_shares(conn, member.id, wallet_id, now_ms)),
        member.id,
    )
    new = figures.nothing_yet and not standing.holds
    shown = {} if new else {**_tiles(figures), **_charts(house, figures), **_went(figures, shares)}
    return {"new": new, "figures": figures, "shares": shares, **_wallet(house, member, standing, figures), **shown}


def stamp_of(house: House, member: Member) -> tuple[object, ...]:
    """What changes with every request of theirs, and with everything else that moves their money."""
    wallet = house.desk.book.wallet(member.wallet_id)
    return wallet.balance_nanos, wallet.held_nanos, wallet.owed_nanos, wallet.frozen


ROUTES = (
    Route(HOME_PATH, "overview", "user", get=show_overview),
    live_route(f"{HOME_PATH}/live", "overview/live", "user", "dashboard/_overview_live.html", read_overview, stamp_of),
)


# ── leaves ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _wallet(house: House, member: Member, standing: Standing, figures: Figures) -> dict[str, Any]:
    own = member.low_balance_nanos
    warn_nanos = own if own is not None else house.settings.notices.low_balance_nanos
    full_nanos = figures.topped_up[1] if figures.topped_up else 0
    available, per_day = standing.available_nanos, figures.burn.nanos_per_day
    return {
        "standing": standing,
        "warn_nanos": warn_nanos,
        "lasts_ms": available * DAY_MS // per_day if per_day else None,
        "full_nanos": max(full_nanos, standing.balance_nanos),
        "bar_of_wallet": charts.gauge(available, standing.held_nanos, full_nanos, warn_nanos),
    }


def _tiles(figures: Figures) -> dict[str, Any]:
    recent = [figures.by_day[day] for day in figures.days[-SPARK_DAYS:]]
    month = [figures.by_day[day] for day in figures.days if day >= figures.month_ms]
    return {
        "month_name": f"{_date(figures.now_ms):%B}",
        "sparks": {
            "today": charts.spark([day.cost_nanos for day in recent]),
            "month": charts.spark(list(itertools.accumulate(day.cost_nanos for day in month))),
            "share": charts.spark([int(10_000 * day.cache_share) for day in recent]),
            "saved": charts.spark([max(0, day.saved_nanos) for day in recent]),
        },
        "running": [{**row, "id": render_id(row["request_id"])} for row in figures.running],
        "latest": [
            {**row, "id": render_id(row["request_id"]), "told": state_of(row), "prompt": prompt_of(row)} for row in figures.latest
        ],
    }


def _charts(house: House, figures: Figures) -> dict[str, Any]:
    """What a chart says in a sentence comes with it: its title."""
    days = figures.days[-COST_DAYS:]
    costs: dict[str, int] = {}
    for day in days:
        for model, nanos in figures.models[day].items():
            costs[model] = costs.get(model, 0) + nanos
    series, places = charts.model_series(costs, lambda model: _model_name(house, model))
    by_day = {day: _stacked(figures.models[day], places, len(series)) for day in days}
    dearest = max(days, key=lambda day: sum(by_day[day]))
    cost = charts.stack(charts.day_slots(by_day, days, figures.today_ms, len(series)), series, spent, charts.axis_usd)
    words = f"Cost per day in the last {COST_DAYS} days, stacked by model. Total {cost.total}"
    if costs:
        words += f"; the most expensive day was {_date(dearest).day} {_date(dearest):%B} with {spent(sum(by_day[dearest]))}"
    token_days = figures.days[-TOKEN_DAYS:]
    tokens = {day: _by_class(figures, day) for day in token_days}
    classes = charts.stack(
        charts.day_slots(tokens, token_days, figures.today_ms, len(_CLASSES)), _CLASSES, about, charts.axis_count
    )
    share = percent(add_up([figures.by_day[day] for day in token_days]).cache_share)
    told = f"Tokens per day in the last {TOKEN_DAYS} days, by class. {share} of the prompt tokens were read from cache."
    return {
        "cost_chart": cost,
        "cost_words": words + ".",
        "token_chart": classes,
        "token_words": told,
        "cost_days": COST_DAYS,
        "token_days": TOKEN_DAYS,
    }


def _went(figures: Figures, shares: Shares) -> dict[str, Any]:
    """Rows of bars; what the dearest keys leave of the month is the others', so that they add up to it."""
    start = f"{_date(figures.month_ms):%Y-%m-%d}"
    others = figures.month.cost_nanos - sum(key["cost_nanos"] for key in shares.keys)
    most = max((key["cost_nanos"] for key in shares.keys), default=0)
    dearest = max((session["cost_nanos"] for session in shares.sessions), default=0)
    return {
        "month_start": start,
        "keys": [{**key, "width": charts.bar(key["cost_nanos"], most)} for key in shares.keys],
        "other_keys": {"cost_nanos": others, "width": charts.bar(min(others, most), most)} if others > 0 else None,
        "sessions": [{**session, "width": charts.bar(session["cost_nanos"], dearest)} for session in shares.sessions],
    }


def _stacked(costs: dict[str, int] | Any, places: dict[str, int], series: int) -> tuple[int, ...]:
    values = [0] * series
    for model, nanos in costs.items():
        values[places[model]] += nanos
    return tuple(values)


def _by_class(figures: Figures, day: int) -> Sequence[int]:
    """In the order of TOKEN_CLASSES."""
    sums = figures.by_day[day]
    measures = sums.measures
    return (measures["cache_read_tokens"], sums.cache_write_tokens, measures["input_tokens"], measures["output_tokens"])


def _model_name(house: House, model_id: str) -> str:
    model = house.desk.catalog.find(model_id)
    return model.display_name.removeprefix("Claude ") if model is not None else model_id


def _date(at_ms: int) -> datetime:
    return datetime.fromtimestamp(at_ms / 1000, UTC)
