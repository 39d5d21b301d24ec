"""A load generator that must not be the bottleneck: N keep-alive connections, one request in flight on each.

Requests are fixed bytes; of an answer it reads the status, the framing and a CRC of the body, which proves every byte
(answers.py knows them all). A closed loop: the next request leaves when an answer has ended, or, with --rate, not before its
turn. Bounded in time and count; what runs at the deadline is awaited. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import random
import re
import resource
import time
import zlib
from collections import Counter
from dataclasses import dataclass, field
from enum import Enum, auto
from pathlib import Path
from typing import cast

import uvloop
from answers import Expected, expected, request_body

CONTENT_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
CHUNKED = re.compile(rb"\r\ntransfer-encoding: *chunked", re.IGNORECASE)
CLOSE = re.compile(rb"\r\nconnection: *close", re.IGNORECASE)
PAUSE_AFTER_ERROR_S = 0.05  # a server that refuses everything at once must not be hammered
GRACE_S = 30  # after the deadline, for what is still in flight
TAIL_BYTES = 64


class Reading(Enum):
    NOTHING = auto()
    HEAD = auto()
    LENGTH = auto()
    CHUNKS = auto()


@dataclass(slots=True)
class Plan:
    host: str
    port: int
    key: str
    stream: bool
    concurrency: int
    count_max: int
    deadline: float  # perf_counter
    period_s: float  # of one connection; 0 = closed loop
    expected: Expected


@dataclass(slots=True)
class Tally:
    sent: int = 0
    good: int = 0
    events_seen: int = 0
    connects: int = 0
    latencies_s: list[float] = field(default_factory=list)
    trace: list[tuple[float, float]] = field(default_factory=list)  # (due, answered) of each right answer, perf_counter
    first_bytes_s: list[float] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)
    sample: str = ""  # the first wrong answer's beginning


class Client(asyncio.Protocol):
    """One connection slot: it reconnects when the server closes, and is finished when the plan is."""

    def __init__(self, loop: asyncio.AbstractEventLoop, plan: Plan, tally: Tally, request: bytes) -> None:
        self.loop = loop
        self.plan = plan
        self.tally = tally
        self.request = request
        self.finished = loop.create_future()
        self.transport: asyncio.Transport | None = None
        self.reading = Reading.NOTHING
        self.buffer = b""
        self.started = 0.0
        self.next_turn = 0.0
        self.connecting: asyncio.Task[None] | None = None

    # --- one request

    def send(self) -> None:
        plan, tally = self.plan, self.tally
        now = time.perf_counter()
        if now >= plan.deadline or tally.sent >= plan.count_max:
            self.finish()
            return
        if self.transport is None or self.transport.is_closing():
            self.connecting = self.loop.create_task(self.connect())
            return
        tally.sent += 1
        self.reading = Reading.HEAD
        self.buffer = b""
        self.size = 0
        self.crc = 0
        self.tail = b""
        self.status = b""
        self.close = False
        self.started = now
        self.transport.write(self.request)

    def data_received(self, data: bytes) -> None:
        if self.buffer:
            data = self.buffer + data
            self.buffer = b""
        if self.reading is Reading.HEAD:
            end = data.find(b"\r\n\r\n")
            if end < 0:
                self.buffer = data
                return
            self.tally.first_bytes_s.append(time.perf_counter() - self.started)
            self.read_head(data, end)
            data = data[end + 4 :]
        if self.reading is Reading.CHUNKS:
            self.read_chunks(data)
        elif self.reading is Reading.LENGTH:
            self.read_piece(data)
            if self.size >= self.length:
                self.answered()
        elif data:
            self.tally.errors["bytes without a request"] += 1

    def read_head(self, data: bytes, end: int) -> None:
        self.status = data[9:12]
        self.close = CLOSE.search(data, 0, end) is not None
        length = CONTENT_LENGTH.search(data, 0, end)
        self.length = int(length[1]) if length else 0
        self.reading = Reading.CHUNKS if CHUNKED.search(data, 0, end) else Reading.LENGTH

    def read_chunks(self, data: bytes) -> None:
        """Whole chunks; an incomplete one waits in the buffer."""
        at = 0
        while (line_end := data.find(b"\r\n", at)) >= 0:
            size = int(data[at:line_end], 16)
            end = line_end + 2 + size
            if len(data) < end + 2:
                break
            if size == 0:
                self.answered()
                return
            self.read_piece(data[line_end + 2 : end])
            at = end + 2
        self.buffer = data[at:]

    def read_piece(self, piece: bytes) -> None:
        self.size += len(piece)
        self.crc = zlib.crc32(piece, self.crc)
        if self.plan.stream:
            self.tally.events_seen += piece.count(b"event: ")
            self.tail = (self.tail + piece)[-TAIL_BYTES:]
        elif self.status != b"200":
            self.tail += piece[:400]

    def answered(self) -> None:
        self.reading = Reading.NOTHING
        trouble = self.judge()
        if self.close and self.transport is not None:
            self.transport.close()
        if trouble:
            self.fail(trouble)
            return
        self.tally.good += 1
        now = time.perf_counter()
        self.tally.latencies_s.append(now - self.started)
        # With a rate, what had to wait for its turn because the server was late counts from its turn.
        self.tally.trace.append((min(self.next_turn, self.started) if self.plan.period_s else self.started, now))
        self.take_turn()

    def judge(self) -> str:
        want = self.plan.expected
        if self.status != b"200":
            return f"status {self.status.decode('latin-1')}"
        if self.plan.stream and b"event: message_stop" not in self.tail:
            return "no message_stop"
        if self.size != want.size_bytes:
            return "wrong length"
        return "" if self.crc == want.crc32 else "bytes differ"

    # --- the slot's life

    def take_turn(self) -> None:
        if self.plan.period_s:
            self.next_turn += self.plan.period_s
            wait_s = self.next_turn - time.perf_counter()
            if wait_s > 0:
                self.loop.call_later(wait_s, self.send)
                return
        self.send()

    def fail(self, trouble: str) -> None:
        self.tally.errors[trouble] += 1
        if not self.tally.sample:
            self.tally.sample = f"{trouble}: {self.tail[:400].decode('utf-8', 'replace')}"
        self.loop.call_later(PAUSE_AFTER_ERROR_S, self.send)

    def finish(self) -> None:
        if not self.finished.done():
            self.finished.set_result(None)
        if self.transport is not None:
            self.transport.close()

    async def connect(self) -> None:
        try:
            await self.loop.create_connection(lambda: self, self.plan.host, self.plan.port)
        except OSError as error:
            self.tail = b""
            self.fail(f"connect: {error.strerror or error}")
            return
        self.tally.connects += 1
        self.send()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's are no subclass

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        if self.reading is not Reading.NOTHING and not self.finished.done():
            self.reading = Reading.NOTHING
            self.fail("connection lost")


def render_request(plan: Plan, slot: int) -> bytes:
    """Each connection is a conversation of its own, as each Claude Code window is."""
    body = request_body(stream=plan.stream)
    head = [
        "POST /v1/messages HTTP/1.1",
        f"host: {plan.host}:{plan.port}",
        f"x-api-key: {plan.key}",
        "anthropic-version: 2023-06-01",
        "content-type: application/json",
        "accept: application/json",
        "user-agent: pagegrid-bench",
        f"x-claude-code-session-id: 00000000-0000-4000-8000-{slot:012d}",
        f"content-length: {len(body)}",
    ]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body


async def generate(plan: Plan, stagger_s: float) -> Tally:
    """Run the plan; slots start spread over `stagger_s`, so that they do not march in step."""
    loop = asyncio.get_running_loop()
    tally = Tally()
    clients = [Client(loop, plan, tally, render_request(plan, slot)) for slot in range(plan.concurrency)]
    gc.freeze()
    for client in clients:
        start_s = random.random() * stagger_s
        client.next_turn = time.perf_counter() + start_s
        loop.call_later(start_s, client.send)
    limit_s = plan.deadline - time.perf_counter() + GRACE_S
    _, late = await asyncio.wait([client.finished for client in clients], timeout=limit_s)
    if late:
        tally.errors["still in flight at the end"] += len(late)
        for client in clients:
            client.finish()
    return tally


def percentiles_ms(values_s: list[float]) -> dict[str, float]:
    if not values_s:
        return {}
    ordered = sorted(values_s)
    return {
        name: round(ordered[min(len(ordered) - 1, int(len(ordered) * share))] * 1000, 2)
        for name, share in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99), ("max", 1.0))
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--key", default="none")
    parser.add_argument("--stream", action="store_true")
    parser.add_argument("--events", type=int, default=200, help="as the mock was told")
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--count", type=int, default=1_000_000, help="at most so many requests")
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--rate", type=float, default=0, help="requests per second in all; 0 = as fast as answers come")
    parser.add_argument(
        "--trace", type=Path, metavar="FILE", help="write when each request was due and answered (CLOCK_MONOTONIC)"
    )
    parser.add_argument("--stagger-ms", type=float, default=200)
    options = parser.parse_args()
    random.seed(1)
    began = time.perf_counter()
    plan = Plan(
        options.host,
        options.port,
        options.key,
        options.stream,
        options.concurrency,
        options.count,
        began + options.seconds,
        options.concurrency / options.rate if options.rate else 0.0,
        expected(stream=options.stream, events=options.events),
    )
    tally = uvloop.run(generate(plan, options.stagger_ms / 1000))
    used = resource.getrusage(resource.RUSAGE_SELF)
    result = {
        "seconds": round(time.perf_counter() - began, 3),
        "sent": tally.sent,
        "good": tally.good,
        "events": tally.good * plan.expected.events,
        "events_seen": tally.events_seen,
        "connects": tally.connects,
        "errors": dict(tally.errors),
        "sample": tally.sample,
        "latency_ms": percentiles_ms(tally.latencies_s),
        "first_byte_ms": percentiles_ms(tally.first_bytes_s),
        "cpu_s": round(used.ru_utime + used.ru_stime, 3),
    }
    if options.trace is not None:
        options.trace.write_text(json.dumps(tally.trace), encoding="utf-8")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
