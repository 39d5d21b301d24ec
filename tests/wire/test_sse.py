from __future__ import annotations

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import UpstreamError
from gateway.wire.sse import Splitter, event_data, event_name

# (one event, its name, its data)
EVENTS = [
    (b"event: ping\ndata: {}\n\n", b"ping", b"{}"),
    (b"event:ping\ndata:{}\n\n", b"ping", b"{}"),
    (b"event: ping\r\ndata: {}\r\n\r\n", b"ping", b"{}"),
    (b"event: ping\rdata: {}\r\r", b"ping", b"{}"),
    (b"event: ping\r\ndata: {}\n\r\n", b"ping", b"{}"),
    (b"\xef\xbb\xbfevent: ping\ndata: 1\n\n", b"ping", b"1"),
    (b": a comment\n\n", b"", b""),
    (b": c\nevent: a\n: d\ndata: 1\n\n", b"a", b"1"),
    (b"data: 1\ndata: 2\n\n", b"", b"1\n2"),
    (b"data\ndata:\n\n", b"", b"\n"),
    (b"data: 1\nevent: a\n\n", b"a", b"1"),
    (b"event: a\ndata: 1\nevent: b\n\n", b"b", b"1"),
    (b"event: a\nid: 7\ndata:  two blanks\n\n", b"a", b" two blanks"),
    (b"event: a\ndata: \n\n", b"a", b""),
    (b"event: a\n\n", b"a", b""),
    (b"\n\n", b"", b""),
    (b"\nevent: a\ndata: 1\n\n", b"a", b"1"),
    (b"data: 1\n\n", b"", b"1"),
    (b"data:  1 \n\n", b"", b" 1 "),
    (b"data: \n\n", b"", b""),
    (b"data: 1\r\n\n", b"", b"1"),
    (b"data: 1\rdata: 2\n\n", b"", b"1\n2"),
    (b"data: 1\ndata: 2\n\n", b"", b"1\n2"),
]


def meaning(events: list[bytes]) -> list[tuple[bytes, bytes]]:
    """What a client understands, empty events left out."""
    pairs = [(event_name(event), event_data(event)) for event in events]
    return [pair for pair in pairs if pair != (b"", b"")]


@pytest.mark.parametrize(("event", "name", "data"), EVENTS)
def test_an_event_is_read(event: bytes, name: bytes, data: bytes) -> None:
    assert event_name(event) == name
    assert event_data(event) == data


@pytest.mark.parametrize(("event", "name", "data"), EVENTS)
@pytest.mark.parametrize("step", [1, 2, 3, 7, 1000])
@pytest.mark.parametrize("trailing", [b"", b"event: b\nda"])
def test_an_event_comes_out_whole_however_it_comes_in(event: bytes, name: bytes, data: bytes, step: int, trailing: bytes) -> None:
    stream = event * 3 + trailing
    splitter = Splitter()
    events = [out for at in range(0, len(stream), step) for out in splitter.feed(stream[at : at + step])]
    assert b"".join(events) + splitter.tail == stream
    expected = [] if (name, data) == (b"", b"") else [(name, data)] * 3
    if event.startswith(b"\xef\xbb\xbf"):  # a mark is one only at the start of a stream
        expected = meaning(events)
        assert expected[0] == (name, data)
    assert meaning(events) == expected
    assert splitter.tail.endswith(trailing)


def test_the_ordinary_chunk_is_handed_on_without_a_copy() -> None:
    chunk = b"event: ping\ndata: {}\n\n"
    assert Splitter().feed(chunk)[0] is chunk


def test_nothing_in_gives_nothing_out() -> None:
    splitter = Splitter()
    assert splitter.feed(b"") == []
    assert splitter.feed(b"a") == []
    assert splitter.feed(b"") == []
    assert splitter.tail == b"a"


@given(st.lists(st.sampled_from([b"\n", b"\r", b"\r\n", b"data: x", b"event: y", b":", b"z"])), st.data())
def test_what_comes_out_and_the_tail_are_what_went_in(pieces: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(pieces)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)))))
    splitter = Splitter()
    events = []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        events += splitter.feed(stream[start:end])
    assert b"".join(events) + splitter.tail == stream
    assert meaning(events) == meaning(Splitter().feed(stream))
    assert all(re.search(rb"[\r\n][\r\n]\Z", event) for event in events)


@pytest.mark.parametrize("start", [b"", b"\r\n"])
def test_a_tail_without_end_is_the_upstreams_fault(start: bytes) -> None:
    splitter = Splitter(max_tail_bytes=10)
    splitter.feed(start)
    assert splitter.feed(b"data: " + b"x" * 100 + b"\n\n")  # a whole event may be longer
    with pytest.raises(UpstreamError) as caught:
        splitter.feed(b"data: 12345")
    assert (caught.value.code, caught.value.reason) == ("upstream_failed", "event_too_long")


@pytest.mark.parametrize("start", [b"", b"\r"])
def test_a_drip_of_single_bytes_does_not_cost_their_square(start: bytes) -> None:
    splitter = Splitter()
    splitter.feed(start)
    began = time.perf_counter()
    for _ in range(200_000):
        splitter.feed(b"x")
    assert time.perf_counter() - began < 3  # 0.1 s; quadratic takes minutes
