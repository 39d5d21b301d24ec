"""A mock Anthropic upstream that must not be the bottleneck: raw bytes on asyncio.Protocol, every answer precomputed.

It reads of a request what it must: where it ends, and whether `"stream":true` stands in it. A JSON answer leaves in one write,
an SSE event in one write (and so, with TCP_NODELAY, in one segment). Only `request-id` differs from answer to answer, as a
gateway may keep it. `GET /stats` tells what was seen, so that a proxy's retries and reconnects do not stay hidden.
Prints its port as its only line and runs until SIGTERM. Loopback only, Linux only.

An event loop's timers tick in milliseconds: 64 streams then speak in chorus, the proxy wakes once for a dozen events and looks
three times as cheap as it is (nginx: 4.7 µs per event so, 14 when they come one by one). So there is a timer of our own, exact to
some microseconds; a stream keeps its own absolute schedule, and latencies vary by ±10 %, as else closed loops fall into step.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import gc
import heapq
import itertools
import json
import os
import random
import re
import signal
import struct
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import cast

import uvloop
from answers import json_answer, stream_events

CONTENT_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
LATENCY_VARIES = 0.1
TFD_NONBLOCK_CLOEXEC = os.O_NONBLOCK | os.O_CLOEXEC
TFD_TIMER_ABSTIME = 1
CHUNKED = re.compile(rb"\r\ntransfer-encoding: *chunked", re.IGNORECASE)


@dataclass(slots=True)
class Stats:
    connections: int = 0
    requests: int = 0
    streams: int = 0
    in_flight: int = 0
    in_flight_max: int = 0
    cut: int = 0


class Due:
    """Something to be done at a time; `cancelled` when it is not to be done."""

    __slots__ = ("action", "cancelled")

    def __init__(self, action: Callable[[], None]) -> None:
        self.action = action
        self.cancelled = False


class Timer:
    """A heap of deadlines (time.monotonic) and one timerfd set to the earliest; os.timerfd_create came only with Python 3.13."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.libc = ctypes.CDLL(None, use_errno=True)
        self.fd: int = self.libc.timerfd_create(time.CLOCK_MONOTONIC, TFD_NONBLOCK_CLOEXEC)
        if self.fd < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create")
        self.heap: list[tuple[float, int, Due]] = []
        self.order = itertools.count()
        self.armed = float("inf")
        loop.add_reader(self.fd, self._tick)

    def call_at(self, when: float, action: Callable[[], None]) -> Due:
        due = Due(action)
        heapq.heappush(self.heap, (when, next(self.order), due))
        if when < self.armed:
            self._arm(when)
        return due

    def _arm(self, when: float) -> None:
        self.armed = when
        seconds = int(when)
        # struct itimerspec: no interval, then the deadline; all zero would disarm
        spec = struct.pack("qqqq", 0, 0, seconds, int((when - seconds) * 1e9) + 1)
        self.libc.timerfd_settime(self.fd, TFD_TIMER_ABSTIME, spec, None)

    def _tick(self) -> None:
        try:
            os.read(self.fd, 8)
        except BlockingIOError:
            return
        heap = self.heap
        self.armed = 0.0  # what is called here must not arm: the end of this does
        while heap and heap[0][0] <= time.monotonic():
            due = heapq.heappop(heap)[2]
            if not due.cancelled:
                due.action()
        self.armed = float("inf")
        if heap:
            self._arm(heap[0][0])


class Script:
    """The bytes to say, and when."""

    def __init__(self, latency_s: float, gap_s: float, events: int) -> None:
        head = b"HTTP/1.1 200 OK\r\ndate: Thu, 01 Jan 2026 00:00:00 GMT\r\nrequest-id: req_bench_%d\r\n"  # % the request's number
        self.answer = head + json_rest(json_answer()).replace(b"%", b"%%")
        self.stream_head = (
            head + b"content-type: text/event-stream; charset=utf-8\r\n"
            b"cache-control: no-cache\r\ntransfer-encoding: chunked\r\n\r\n"
        )
        self.chunks = [b"%x\r\n%s\r\n" % (len(event), event) for event in stream_events(events)]
        self.chunks[-1] += b"0\r\n\r\n"
        self.latency_s = latency_s
        self.gap_s = gap_s


class Upstream(asyncio.Protocol):
    def __init__(self, timer: Timer, script: Script, stats: Stats) -> None:
        self.timer = timer
        self.script = script
        self.stats = stats
        self.transport: asyncio.Transport
        self.buffer = b""
        self.sent = 0  # events of the running stream
        self.at = 0.0  # when the next step is due
        self.due: Due | None = None  # one answer at a time; set while one is due

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's are no subclass
        self.stats.connections += 1

    def connection_lost(self, exc: Exception | None) -> None:
        if self.due is not None:
            self.due.cancelled = True
            self.stats.in_flight -= 1
            self.stats.cut += 1

    def data_received(self, data: bytes) -> None:
        if self.buffer:
            data = self.buffer + data
        end = _request_end(data)
        if end < 0 or self.due is not None:
            self.buffer = data
            return
        self.buffer = data[end:]
        if data.startswith(b"POST"):
            self._begin(stream=data.find(b'"stream":true', 0, end) >= 0)
        elif data.startswith(b"GET /stats"):
            self.transport.write(b"HTTP/1.1 200 OK\r\n" + json_rest(json.dumps(asdict(self.stats)).encode()))
        else:
            self.transport.write(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n")

    def _begin(self, *, stream: bool) -> None:
        stats = self.stats
        stats.requests += 1
        stats.streams += stream
        stats.in_flight += 1
        if stats.in_flight > stats.in_flight_max:
            stats.in_flight_max = stats.in_flight
        self.at = time.monotonic() + self.script.latency_s * random.uniform(1 - LATENCY_VARIES, 1 + LATENCY_VARIES)
        self.due = self.timer.call_at(self.at, self._start_stream if stream else self._answer)

    def _answer(self) -> None:
        self.transport.write(self.script.answer % self.stats.requests)
        self._end()

    def _start_stream(self) -> None:
        self.transport.write(self.script.stream_head % self.stats.requests + self.script.chunks[0])
        self.sent = 1
        self.at += self.script.gap_s
        self.due = self.timer.call_at(self.at, self._next_event)

    def _next_event(self) -> None:
        chunks = self.script.chunks
        self.transport.write(chunks[self.sent])
        self.sent += 1
        if self.sent < len(chunks):
            self.at += self.script.gap_s
            self.due = self.timer.call_at(self.at, self._next_event)
        else:
            self._end()

    def _end(self) -> None:
        self.due = None
        self.stats.in_flight -= 1
        if self.buffer:
            self.data_received(b"")


def json_rest(body: bytes) -> bytes:
    """An answer after its first lines."""
    return b"content-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body)


def _request_end(data: bytes) -> int:
    """Where the first request in `data` ends, −1 while it is incomplete."""
    head_end = data.find(b"\r\n\r\n")
    if head_end < 0:
        return -1
    length = CONTENT_LENGTH.search(data, 0, head_end)
    if length is not None:
        end = head_end + 4 + int(length[1])
        return end if len(data) >= end else -1
    if CHUNKED.search(data, 0, head_end):  # our bodies are JSON text: a last chunk cannot stand inside them
        last = data.find(b"\r\n0\r\n\r\n", head_end)
        return last + 7 if last >= 0 else -1
    return head_end + 4


async def serve(port: int, script: Script) -> None:
    loop = asyncio.get_running_loop()
    stats = Stats()
    stop = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    loop.add_signal_handler(signal.SIGINT, stop.set)
    random.seed(1)
    timer = Timer(loop)
    server = await loop.create_server(lambda: Upstream(timer, script, stats), "127.0.0.1", port, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    gc.freeze()
    await stop.wait()
    server.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--port", type=int, default=0, help="0: any free one")
    parser.add_argument("--latency-ms", type=float, default=20, help="until the answer, or a stream's first event")
    parser.add_argument("--gap-ms", type=float, default=10, help="between two events of a stream")
    parser.add_argument("--events", type=int, default=200, help="events in a stream")
    options = parser.parse_args()
    uvloop.run(serve(options.port, Script(options.latency_ms / 1000, options.gap_ms / 1000, options.events)))


if __name__ == "__main__":
    main()
