"""Charts as positions: nothing overflows, what is drawn adds up, and the templates draw it."""

from __future__ import annotations

import itertools

import jinja2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.web import charts
from gateway.web.charts import BASE, Series, Slot
from gateway.web.text import FILTERS, spent

DAY_MS = 86_400_000
VALUES = st.lists(st.integers(0, 10**19), min_size=1, max_size=5)
DAYS = st.integers(1, 5).flatmap(
    lambda series: st.lists(st.lists(st.integers(0, 10**19), min_size=series, max_size=series), min_size=1, max_size=60)
)


def percent(text: str) -> int:
    """Hundredths of "12.34%"."""
    whole, _, rest = text.removesuffix("%").partition(".")
    return int(whole) * 100 + int(rest)


@given(VALUES, st.integers(1, 10**20))
def test_what_is_drawn_of_a_column_adds_up_to_its_height(values: list[int], more: int) -> None:
    most = max(sum(values), more)
    total = sum(values)
    drawn = charts.segments(range(len(values)), values, most)
    assert bool(drawn) == bool(total)
    edge = BASE
    for segment in drawn:
        assert segment.height >= 1
        gap = edge - segment.y - segment.height
        assert gap == (1 if edge != BASE and edge - segment.y > 1 else 0)
        edge = segment.y
    height = BASE - edge
    assert 0 <= height < BASE
    if total:
        # As high as the column's own value, to half a pixel; never nothing.
        assert height == 1 or abs(height - total * (BASE - 3) / most) <= 0.51
        assert [segment.tone for segment in drawn] == sorted(segment.tone for segment in drawn)


@given(DAYS)
def test_no_column_leaves_the_plot_or_its_day(days: list[list[int]]) -> None:
    series = [Series(f"s{place}", place + 1) for place in range(len(days[0]))]
    stack = charts.stack([Slot("day", "d", tuple(day)) for day in days], series, str, str)
    end = 0
    for column, day in zip(stack.columns, days, strict=True):
        assert percent(column.x) == end
        end += percent(column.width)
        assert percent(column.x) < percent(column.bar_x)
        assert percent(column.bar_x) + percent(column.bar_width) < end
        assert all(0 < segment.y < segment.y + segment.height <= BASE for segment in column.segments)
        assert column.words.startswith(f"day: {sum(day)}")
    assert end == 10_000
    assert [(int(total)) for _, total in stack.legend] == [sum(column) for column in zip(*days, strict=True)]
    assert int(stack.total) == sum(int(total) for _, _, total in stack.rows) == sum(map(sum, days))
    assert [[int(figure) for figure in figures] for _, figures, _ in reversed(stack.rows)] == days
    assert 1 <= len(stack.dates) <= 6


@given(st.integers(0, 10**21))
def test_axis_figures_are_round_and_few(most: int) -> None:
    values = charts.axis_values(most)
    assert values[0] == 0 and values[-1] <= most and len(values) <= 5
    if most:
        assert len(values) >= 2, "somebody must see how high a column is"
        step = values[1]
        assert str(step).rstrip("0") in ("1", "2", "5")
        assert values == [step * place for place in range(len(values))]


@pytest.mark.parametrize(
    ("most", "shown"),
    [
        (0, ["0"]),
        (8_740_000_000, ["0", "$2", "$4", "$6", "$8"]),
        (1_300_000_000, ["0", "$0.50", "$1"]),
        (3_000_000, ["0", "$0.001", "$0.002", "$0.003"]),
        (55_000 * 10**9, ["0", "$20 k", "$40 k"]),
    ],
)
def test_dollars_beside_the_lines(most: int, shown: list[str]) -> None:
    assert [charts.axis_usd(value) for value in charts.axis_values(most)] == shown


@given(st.integers(0, 2**62), st.integers(0, 2**62), st.integers(0, 2**62), st.integers(0, 2**62))
def test_a_gauge_never_overflows(free: int, held: int, full: int, mark: int) -> None:
    found = charts.gauge(free, held, full, mark)
    assert percent(found.free) + percent(found.held) <= 10_000
    assert bool(found.mark) == bool(mark)
    assert not mark or percent(found.mark) <= 10_000
    if free + held >= max(full, 1):
        assert percent(found.free) + percent(found.held) >= 9_998, "full is full"


@given(st.lists(st.integers(0, 2**62), min_size=1, max_size=40))
def test_a_sparkline_stays_in_its_box(values: list[int]) -> None:
    line = charts.spark(values).line
    points = [(float(x), float(y)) for x, y in (point[1:].split(" ") for point in line.replace(" L", "|L").split("|"))]
    assert len(points) == max(2, len(values))
    assert points[0][0] == 0 and points[-1][0] == 100
    assert all(2 <= y <= 26 for _, y in points)
    assert (min(y for _, y in points) == 2) == any(values), "the highest day is at the top, from zero"


@given(st.integers(0, 2**62), st.integers(0, 2**62))
def test_horizontal_bars(value: int, more: int) -> None:
    width = percent(charts.bar(value, value + more))
    assert width <= 10_000 and (width > 0) == (value > 0)
    assert more or not value or width == 10_000


@pytest.mark.parametrize("count", [1, 2, 7, 8, 14, 30, 31, 36, 90, 366])
def test_dates_never_run_into_one_another(count: int) -> None:
    days = [place * DAY_MS for place in range(count)]
    stack = charts.stack(charts.day_slots({}, days, days[-1], 1), [Series("a", 1)], str, str)
    places = [percent(date.at) for date in stack.dates]
    assert stack.dates[-1].text == "today" and stack.dates[-1].anchor == "end"
    assert all(later - earlier >= 1_400 for earlier, later in itertools.pairwise(places)), places
    assert len(stack.dates) == (1 if count <= 7 else len(stack.dates))


def test_days_without_values_are_there_and_empty() -> None:
    slots = charts.day_slots({0: (1, 2)}, [0, DAY_MS], 5 * DAY_MS, 2)
    assert slots == [Slot("Thu 1 Jan", "1 Jan", (1, 2)), Slot("Fri 2 Jan", "2 Jan", (0, 0))]


def test_a_family_has_its_colour() -> None:
    costs = {
        "claude-opus-5-5": 5,
        "claude-sonnet-5-5": 9,
        "claude-sonnet-4-5": 1,
        "claude-haiku-5-5": 1,
        "gpt-5": 7,
        "gpt-5-mini": 6,
        "glm": 2,
    }
    series, places = charts.model_series(costs, lambda model: model.removeprefix("claude-"))
    told = [(each.name, each.tone) for each in series]
    assert told == [("Sonnet", 2), ("others", 3), ("gpt-5", 4), ("opus-5-5", 1), ("haiku-5-5", 5)]
    assert {model: series[place].name for model, place in places.items()} == {
        "claude-opus-5-5": "opus-5-5",
        "claude-sonnet-5-5": "Sonnet",
        "claude-sonnet-4-5": "Sonnet",
        "claude-haiku-5-5": "haiku-5-5",
        "gpt-5": "gpt-5",
        "gpt-5-mini": "others",
        "glm": "others",
    }
    assert charts.model_series({}, str) == ([], {})
    # A model that is called as our own word for the rest is no part of it.
    series, places = charts.model_series({"others": 3, "x": 2}, str)
    assert [(each.name, each.tone) for each in series] == [("others", 4), ("x", 3)] and places == {"others": 0, "x": 1}


def test_the_templates_draw_it() -> None:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("gateway.web", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )
    environment.filters |= FILTERS
    macros = environment.get_template("_charts.html").module
    evil = """<img src=x onerror=alert(1)>"'"""
    stack = charts.stack([Slot("Thu", "1 Jan", (10**9, 0))], [Series(evil, 1), Series("b", 2)], spent, charts.axis_usd)
    drawn = str(macros.stacked("c", stack, evil)) + str(macros.legend(stack)) + str(macros.as_table(stack, evil))  # type: ignore[attr-defined]
    drawn += str(macros.sparkline(charts.spark([1, 2]), evil)) + str(macros.gauge(charts.gauge(1, 1, 4, 1), evil))  # type: ignore[attr-defined]
    drawn += str(macros.bar("/x", evil, charts.bar(1, 2), "$1.00", 2, evil))  # type: ignore[attr-defined]
    assert "<img" not in drawn and "style" not in drawn and 'alert(1)>"' not in drawn
    assert "<title>Thu: $1.00 (&lt;img src=x onerror=alert(1)&gt;&#34;&#39; $1.00)</title>" in drawn
    assert '<rect class="k1" x="14.00%" width="72.00%" y="3" height="173"/>' in drawn
    assert '<rect class="free" width="25.00%" height="14"/><rect class="held" x="25.00%" width="25.00%" height="14"/>' in drawn
