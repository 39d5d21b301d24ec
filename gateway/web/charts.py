"""Charts as positions: numbers in, percentages across and pixels up out; `_charts.html` draws them as SVG (DESIGN-UI, "Charts").

    stack     stacked columns by day, with axis figures, tooltips, legend and the same figures as a table
    spark     a line of a few days, from zero
    gauge     available and held, of what was there after the last top-up
    bar       one of several horizontal bars: its share of the longest

Whole numbers in (nanos, tokens), so nothing is drawn that was not counted. Knows nothing of where they come from, nor of HTML.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from gateway.money import NANOS_PER_USD, format_usd
from gateway.web.text import about

# The plot is so many pixels high; below it stand the dates.
BASE = 176
HEIGHT = 200
# What the highest column leaves free: a hover must not touch the upper edge.
_HEADROOM = 3
_LINES_MAX = 4
_DATES_MAX = 5
# The column's share of its day, in hundredths.
_BAR, _MARGIN = 72, 14
# A sparkline lies in 100 × 28, its line from the 26th to the 2nd.
_SPARK_LOW, _SPARK_HIGH = 26, 2

# The numbers of the colours (k1 … k5 in style.css): the same series has the same one everywhere.
FAMILIES = {"opus": 1, "sonnet": 2, "haiku": 5}
FURTHER, OTHERS = 4, 3
TOKEN_CLASSES = {"cache read": 3, "cache write": 2, "input": 1, "output": 5}

Tell = Callable[[int], str]


@dataclass(frozen=True, slots=True)
class Series:
    """`tone` is the number of its colour."""

    name: str
    tone: int


@dataclass(frozen=True, slots=True)
class Slot:
    """A day (or hour): `name` in tooltips, `short` at the axis and in the table; a value per series, all ≥ 0."""

    name: str
    short: str
    values: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Segment:
    tone: int
    y: int
    height: int


@dataclass(frozen=True, slots=True)
class Column:
    """`x` and `width` are of all its day, which is where its tooltip shows; `bar_x` and `bar_width` of what is drawn."""

    words: str
    x: str
    width: str
    bar_x: str
    bar_width: str
    segments: tuple[Segment, ...]


@dataclass(frozen=True, slots=True)
class Mark:
    """A text at an axis: `at` is a percentage across, or pixels down."""

    at: str
    text: str
    anchor: str = "end"


@dataclass(frozen=True, slots=True)
class Stack:
    """`legend` has each series with its total; `rows` (the latest first) and `total` are the figures as a table."""

    lines: tuple[Mark, ...]
    columns: tuple[Column, ...]
    dates: tuple[Mark, ...]
    legend: tuple[tuple[Series, str], ...]
    rows: tuple[tuple[str, tuple[str, ...], str], ...]
    total: str
    height: int = HEIGHT
    base: int = BASE


@dataclass(frozen=True, slots=True)
class Spark:
    """Paths."""

    line: str
    area: str


@dataclass(frozen=True, slots=True)
class Gauge:
    """Widths, and where the mark is; "" for none."""

    free: str
    held: str
    mark: str


def stack(slots: Sequence[Slot], series: Sequence[Series], tell: Tell, axis: Tell) -> Stack:
    """The first series lies at the bottom. `tell` writes values in tooltips and the table, `axis` those beside the lines."""
    totals = [sum(slot.values) for slot in slots]
    most = max(totals, default=0)
    columns = []
    for place, slot in enumerate(slots):
        # From edge to edge in hundredths of a percent: neighbours meet, and the last one ends with the plot.
        left, right = 10_000 * place // len(slots), 10_000 * (place + 1) // len(slots)
        columns.append(
            Column(
                _words(slot, series, tell),
                _percent(left),
                _percent(right - left),
                _percent(left + (right - left) * _MARGIN // 100),
                _percent((right - left) * _BAR // 100),
                segments([each.tone for each in series], slot.values, most),
            )
        )
    sums = [sum(slot.values[place] for slot in slots) for place in range(len(series))]
    return Stack(
        lines=tuple(Mark(str(BASE - _pixels(value, most)), axis(value)) for value in axis_values(most)),
        columns=tuple(columns),
        dates=_dates(slots),
        legend=tuple((each, tell(value)) for each, value in zip(series, sums, strict=True)),
        rows=tuple(
            (slot.short, tuple(tell(value) for value in slot.values), tell(total))
            for slot, total in zip(reversed(slots), reversed(totals), strict=True)
        ),
        total=tell(sum(totals)),
    )


def axis_values(most: int) -> list[int]:
    """0 and at most four lines above it, none above `most`: multiples of 1, 2 or 5 and a power of ten."""
    step = next(
        digit * 10**power
        for power in range(len(str(most)) + 1)
        for digit in (1, 2, 5)
        if most // (digit * 10**power) <= _LINES_MAX
    )
    return list(range(0, most + 1, step))


def segments(tones: Sequence[int], values: Sequence[int], most: int) -> tuple[Segment, ...]:
    """One column. Edges are rounded, not heights, so that what is drawn adds up to the column's own height; between two segments
    one pixel is left free where there is room. What is thinner than half a pixel is left to the tooltip, but never all of it."""
    found: list[Segment] = []
    below = height = 0
    for tone, value in zip(tones, values, strict=True):
        below += value
        edge = max(_pixels(below, most), 1 if below else 0)
        if edge > height:
            gap = 1 if found and edge - height > 1 else 0
            found.append(Segment(tone, BASE - edge, edge - height - gap))
            height = edge
    return tuple(found)


def spark(values: Sequence[int]) -> Spark:
    """Values ≥ 0, the oldest first; at least one."""
    most = max(values) or 1
    heights = [_SPARK_LOW - (_SPARK_LOW - _SPARK_HIGH) * value / most for value in values]
    if len(heights) == 1:
        heights *= 2
    line = " ".join(f"{'L' if place else 'M'}{100 * place / (len(heights) - 1):.1f} {y:.1f}" for place, y in enumerate(heights))
    return Spark(line, f"{line} L100 28 L0 28 Z")


def gauge(free: int, held: int, full: int, mark: int) -> Gauge:
    """`full` is the whole width, or what is there if that is more; a `mark` of 0 is none, one beyond it is at its end."""
    full = max(full, free + held, 1)
    free_width, held_width = (_percent(10_000 * part // full) for part in (free, held))
    return Gauge(free_width, held_width, _percent(min(10_000 * mark // full, 10_000)) if mark else "")


def bar(value: int, most: int) -> str:
    """The width of a horizontal bar beside one of `most`; what is not nothing is visible."""
    return _percent(max(10_000 * value // most, 60)) if value else _percent(0)


def day_slots(values: Mapping[int, Sequence[int]], days: Sequence[int], today_ms: int, series: int) -> list[Slot]:
    """A slot per day (ms at its beginning) in order; a day without values is empty. The last label is "today" where it is."""
    slots = []
    for day_ms in days:
        moment = datetime.fromtimestamp(day_ms / 1000, UTC)
        short = f"{moment.day} {moment:%b}"
        slots.append(
            Slot(f"{moment:%a} {short}", "today" if day_ms == today_ms else short, tuple(values.get(day_ms, (0,) * series)))
        )
    return slots


def model_series(costs: Mapping[str, int], name_of: Callable[[str], str]) -> tuple[list[Series], dict[str, int]]:
    """Series for models with what each cost, the dearest first, and the place of each model's series.

    A family has one colour and one series, whatever its versions; the dearest model of no family has one of its own, all further
    ones are "others".
    """
    strangers = sorted((model for model in costs if _family(model) is None), key=lambda model: (-costs[model], model))
    groups: dict[Series, list[str]] = {}
    for model in sorted(costs):
        family = _family(model)
        if family is not None:
            series = Series(family.title(), FAMILIES[family])
        elif model == strangers[0]:
            series = Series(name_of(model), FURTHER)
        else:
            series = Series("others", OTHERS)
        groups.setdefault(series, []).append(model)
    ordered = sorted(groups.items(), key=lambda group: -sum(costs[model] for model in group[1]))
    # The only one of its family goes by its own name.
    named = [replace(series, name=name_of(models[0])) if len(models) == 1 else series for series, models in ordered]
    return named, {model: place for place, (_, models) in enumerate(ordered) for model in models}


def axis_usd(nanos: int) -> str:
    """Dollars beside a line: $2, $0.50, $12 k."""
    dollars, rest = divmod(nanos, NANOS_PER_USD)
    if not nanos:
        return "0"
    return f"${format_usd(nanos)}" if rest else f"${about(dollars)}"


def axis_count(number: int) -> str:
    return about(number)


# ── leaves ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _family(model: str) -> str | None:
    return next((family for family in FAMILIES if family in model), None)


def _words(slot: Slot, series: Sequence[Series], tell: Tell) -> str:
    """Thu 22 Oct: $6.02 (Opus 5.5 $2.31, Sonnet 5.5 $3.71); of what is nothing nothing is said."""
    parts = ", ".join(f"{each.name} {tell(value)}" for each, value in zip(series, slot.values, strict=True) if value)
    return f"{slot.name}: {tell(sum(slot.values))}" + (f" ({parts})" if parts else "")


def _pixels(value: int, most: int) -> int:
    """Rounded half up, in whole numbers."""
    return (2 * value * (BASE - _HEADROOM) + most) // (2 * most) if most else 0


def _percent(hundredths: int) -> str:
    return f"{hundredths // 100}.{hundredths % 100:02d}%"


def _dates(slots: Sequence[Slot]) -> tuple[Mark, ...]:
    """The last one, and so many before it, a week (or several) apart, that they do not run into one another."""
    last = len(slots) - 1
    step = 7 if last <= 7 * _DATES_MAX else -(-last // _DATES_MAX)
    marks = [
        Mark(_percent(5_000 * (2 * place + 1) // len(slots)), slots[place].short, "middle")
        for place in range(last - step, -1, -step)
    ]
    return (*reversed(marks), *([Mark(_percent(10_000), slots[last].short)] if slots else []))
