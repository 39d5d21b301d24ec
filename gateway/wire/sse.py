"""Server-sent events: cutting a byte stream into whole events, and reading one event.

Knows line ends, comments, fields and the byte order mark (WHATWG HTML §9.2.6); nothing of what the events say. Bytes are only
cut, never changed: everything returned plus the tail is everything that was fed.

    fed        event: a\\ndata: 1\\n\\n event: b\\nda
               └───── returned ─────┘ └── tail ──┘
"""

from __future__ import annotations

import re

from gateway.errors import UpstreamError

# DESIGN.md, "The first byte": a tail is kept until its blank line, 1 MB at most. Real events stay below 100 kB.
TAIL_BYTES_MAX = 1_048_576

BOM = b"\xef\xbb\xbf"

# Two line ends in a row. `\r(?!\n)` keeps \r\n from counting as two. A \r that ends what has arrived counts at once, although a
# \n may follow: waiting would hold back the last event of a stream that ends its lines with \r. Such a \n then opens the next
# piece, where it is an empty line, which means nothing.
_BLANK_LINE = re.compile(rb"(?:\r\n|\n|\r(?!\n)){2}")
_LINE_END = re.compile(rb"\r\n|\n|\r")


class Splitter:
    """Cuts a stream into whole events, each with its blank line. Stray blank lines open the event that follows them."""

    def __init__(self, max_tail_bytes: int = TAIL_BYTES_MAX) -> None:
        self._max_tail_bytes = max_tail_bytes
        self._tail = bytearray()
        self._carriage_returns = False

    @property
    def tail(self) -> bytes:
        return bytes(self._tail)

    def feed(self, data: bytes) -> list[bytes]:
        """The events that are whole now. Raises UpstreamError (event_too_long) when what is left exceeds the limit."""
        if not self._carriage_returns and b"\r" in data:
            self._carriage_returns = True
        events = self._cut_any(data) if self._carriage_returns else self._cut_plain(data)
        if len(self._tail) > self._max_tail_bytes:
            raise UpstreamError("upstream_failed", "The upstream sent an event that is too long.", reason="event_too_long")
        return events

    def _cut_plain(self, data: bytes) -> list[bytes]:
        """No \\r was ever seen, so that an event ends at \\n\\n and nowhere else."""
        if not self._tail:
            if data.find(b"\n\n") == len(data) - 2 >= 0:
                return [data]  # the ordinary case: one chunk, one event, not even copied
            *whole, rest = data.split(b"\n\n")
        else:
            # Only the seam and the new bytes are searched, so that a drip of single bytes does not cost their square.
            searched = len(self._tail) - 1
            self._tail += data
            if self._tail.find(b"\n\n", searched) < 0:
                return []
            *whole, rest = bytes(self._tail).split(b"\n\n")
        self._tail = bytearray(rest)
        return [event + b"\n\n" for event in whole]

    def _cut_any(self, data: bytes) -> list[bytes]:
        searched = max(0, len(self._tail) - 2)  # a pending line end is \r\n at most
        self._tail += data
        events: list[bytes] = []
        start = 0
        for blank in _BLANK_LINE.finditer(self._tail, searched):
            events.append(bytes(self._tail[start : blank.end()]))
            start = blank.end()
        # Cut in place only once the iterator is gone: a bytearray that is looked at cannot be resized.
        if start:
            self._tail = self._tail[start:]
        return events


def event_name(event: bytes) -> bytes:
    """The event's type, b"" if it names none. The last `event` line wins."""
    data_at = _ordinary_data_at(event)
    if data_at:
        return event[7 : data_at - 7]
    return _last_value(event, b"event")


def event_data(event: bytes) -> bytes:
    """What the `data` lines say, joined by \\n; b"" if there are none."""
    data_at = _ordinary_data_at(event)
    if data_at:
        return event[data_at:-2]
    if event.startswith(b"data: ") and event.find(b"\n", 6) == len(event) - 2 and event.endswith(b"\n") and b"\r" not in event:
        return event[6:-2]  # exactly `data: Y\n\n`, as OpenAI's are
    return b"\n".join(value for name, value in _fields(event) if name == b"data")


def _ordinary_data_at(event: bytes) -> int:
    """Where the data begins if this is exactly `event: X\\ndata: Y\\n\\n`, which nearly every event is; else 0."""
    if not event.startswith(b"event: "):
        return 0
    name_end = event.find(b"\n", 7)
    data_at = name_end + 7
    if not event.startswith(b"data: ", name_end + 1) or event.find(b"\n", data_at) != len(event) - 2:
        return 0
    return data_at if event.endswith(b"\n\n") and b"\r" not in event else 0


def _last_value(event: bytes, wanted: bytes) -> bytes:
    found = b""
    for name, value in _fields(event):
        if name == wanted:
            found = value
    return found


def _fields(event: bytes) -> list[tuple[bytes, bytes]]:
    """Name and value of each line that is a field; a comment has an empty name and is left out."""
    fields = []
    for line in _LINE_END.split(event.removeprefix(BOM)):
        name, _, value = line.partition(b":")
        if name:
            fields.append((name, value.removeprefix(b" ")))
    return fields
