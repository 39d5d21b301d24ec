"""Ids: ever rising, whatever the clock does, and the same number in both forms."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.ids import IdSource, lowest_id, parse_id, render_id

ids = st.integers(0, 2**63 - 1)


@given(st.integers(0, 2**42), st.lists(st.integers(-(10**9), 10**9), max_size=50))
def test_ids_rise_also_when_the_clock_steps_back(start_ms: int, steps: list[int]) -> None:
    source, at_ms, given_out = IdSource(), start_ms, []
    for step in steps:
        at_ms = max(0, at_ms + step)
        given_out.append(source.next(at_ms))
        assert given_out[-1] >= lowest_id(at_ms)
    assert given_out == sorted(set(given_out))
    assert all(0 < number < 2**63 for number in given_out)


def test_within_one_millisecond_there_is_room_for_half_a_million() -> None:
    source = IdSource()
    numbers = [source.next(1_780_000_000_000) for _ in range(10_000)]
    assert numbers == sorted(set(numbers))
    assert numbers[-1] < lowest_id(1_780_000_000_001)


def test_a_new_source_goes_on_above_what_is_stored() -> None:
    stored = IdSource().next(1_780_000_000_000)
    assert IdSource(stored).next(1_780_000_000_000 - 86_400_000) == stored + 1
    assert IdSource(stored).next(1_780_000_000_001) > stored


@given(ids)
def test_the_text_of_an_id_reads_back(number: int) -> None:
    text = render_id(number)
    assert len(text) == 17 and text.startswith("req_") and not set(text[4:]) & set("ILOU")
    assert parse_id(text) == number
    assert parse_id("req_" + text[4:].lower()) == number


@given(ids, ids)
def test_texts_stand_in_the_order_of_their_numbers(one: int, other: int) -> None:
    assert (render_id(one) < render_id(other)) == (one < other)


@pytest.mark.parametrize(
    "text",
    [
        *("", "req_", "req_0", "req_00000000000000", "0000000000000", "REQ_0000000000000", "req-0000000000000"),
        *("req_000000000000I", "req_000000000000L", "req_000000000000O", "req_000000000000U", "req_000000000000 "),
        *("req_req_000000000", "req_ZZZZZZZZZZZZZ", "req_8000000000000", "invoice 1", "req_-000000000001", "req_00000000000_1"),
        *(
            "req_000000000000ß",
            "req_00000000000ßß",
            "req_000000000000ſ",
            "req_000000000000１",
            "req_000000000000\n",
            "msg_0000000000000",
        ),
    ],
)
def test_what_is_no_id_of_ours_is_none(text: str) -> None:
    assert parse_id(text) is None


@given(st.text(max_size=20) | st.text("0123456789ABCDEFGHJKMNPQRSTVWXYZilouß", min_size=13, max_size=13).map("req_".__add__))
def test_a_text_that_is_an_id_is_the_one_text_of_that_id_but_for_case(text: str) -> None:
    number = parse_id(text)
    assert number is None or render_id(number)[4:] == text[4:].upper()
