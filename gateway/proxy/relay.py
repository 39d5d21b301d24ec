"""A stream on its way from upstream to client: whole events, unchanged bytes, and the hold kept above what it costs.

    read ─▶ split ─▶ meter ─▶ hold upkeep ─▶ write           once a second `tick`: silence, limits, progress
                                                            client gone: 2 s of drain, then the upstream is aborted

The relay releases whole events only, so that whatever we inject (a ping, an error) stands between two of them. It ends in one
of the ways of `_ENDINGS`; none but a seen message_stop looks like a clean end to the client.
"""

from __future__ import annotations

import asyncio
import dataclasses
from dataclasses import dataclass
from typing import Literal

from gateway.book import RanDry
from gateway.errors import ClientError, Code, GatewayError, HouseError, UpstreamError
from gateway.estimates import as_asked, covered_output_tokens, running_output_tokens
from gateway.pricing import cost_nanos
from gateway.proxy.admission import await_hold
from gateway.proxy.dispatch import StreamAnswer
from gateway.proxy.ports import Sink
from gateway.proxy.walk import USAGE_MISSING, Outcome, Running, Walk
from gateway.router import Deployment
from gateway.storage.rows import HoldChangeRow, ProgressRow, Served
from gateway.usage import Source, Usage, tokens_of_bytes
from gateway.wire.meter import estimated_usage

STREAM_HEADERS = (
    ("content-type", "text/event-stream; charset=utf-8"),
    ("cache-control", "no-cache, no-transform"),
    # A default nginx held every event back for 1,007 ms without it, 1 ms with it.
    ("x-accel-buffering", "no"),
)
PING_AFTER_MS = 15_000
PROGRESS_AFTER_MS = 1_000
# The hold is raised when this share of the output it covers has been made.
RAISE_AT_PERCENT = 80
# A provider ends its connection right after message_stop; waiting longer would only keep the client waiting.
END_WITHIN_S = 1

Ending = Literal["", "gone", "dry", "silent", "too_long", "shutdown"]

# How each is charged, and what the client is told, if anything. (No errors, but what they are made from: one that is raised
# again and again would keep the frames of every time.)
_ENDINGS: dict[Ending, tuple[Source, tuple[Code, str] | None]] = {
    "gone": ("estimated", None),
    "dry": ("estimated", None),
    "silent": ("partial", ("upstream_timeout", "The provider fell silent; what was sent is charged.")),
    "too_long": ("partial", ("upstream_timeout", "The answer took longer than this gateway allows.")),
    "shutdown": ("partial", ("unavailable", "The gateway is restarting; ask again.")),
}


@dataclass(frozen=True, slots=True)
class Relayed:
    """What a stream came to: `refusal` is still to be answered (its client has had no byte), `broken` still to be cut."""

    outcome: Outcome
    refusal: GatewayError | None = None
    broken: bool = False


class StreamRelay:
    """One stream: `run` relays it, `tick` watches it, `shut_down` ends it."""

    def __init__(self, walk: Walk, running: Running, answer: StreamAnswer, sink: Sink) -> None:
        self._walk = walk
        self._running = running
        self._answer = answer
        self._sink = sink
        self._price = answer.deployment.price
        self._bridge = answer.bridge
        self._meter = answer.bridge.meter()
        self._ending: Ending = ""
        self._dry: ClientError | None = None
        self._covered_tokens = 0
        now_ms = walk.clock.now_ms()
        self._started_ms = now_ms
        self._read_ms = now_ms
        self._written_ms = now_ms
        self._writing_since_ms: int | None = None
        self._silent_s = 0
        self._visible_bytes_seen = 0
        self._progress: Usage | None = None

    async def run(self) -> Relayed:
        """Relay to the end. What went wrong before the client's first byte is returned as `refusal`, to be told at the door."""
        try:
            await await_hold(self._walk, self._running)
        except HouseError as error:
            self._answer.incoming.abort()
            return Relayed(Outcome(None, None, status=error.status, reason="unbilled"), error)
        failure: GatewayError | None = None
        self._sink.on_gone(self.client_gone)
        self._walk.streams.add(self)
        if self._walk.closing:
            self.shut_down()
        try:
            try:
                await self._pass(self._answer.events)
                await self._relay()
            except (UpstreamError, ClientError) as error:
                failure = error
            finally:
                if not self._meter.ended:
                    self._answer.incoming.abort()
            # Watched to its last byte: the client may have stopped reading just before the end.
            return await self._end(failure)
        finally:
            self._walk.streams.discard(self)

    def outcome_so_far(self) -> Outcome:
        """For an end that nobody foresaw: what was seen until then is charged."""
        return self._outcome("reported" if self._meter.ended and self._meter.output_reported else "partial")

    def client_gone(self) -> None:
        """The client left: the provider gets a moment to finish, since what it makes is paid for."""
        self._running.gone = True
        if self._walk.rules.drain_s is not None:
            asyncio.get_running_loop().call_later(self._walk.rules.drain_s, self._stop, "gone")

    def shut_down(self) -> None:
        self._stop("shutdown")

    def tick(self, now_ms: int) -> None:
        """Once a second: what no event would notice."""
        if self._writing_since_ms is not None and now_ms - self._writing_since_ms > self._walk.rules.client_write_s * 1000:
            self._sink.abort()
        elif now_ms - self._read_ms > self._walk.rules.idle_s * 1000:
            self._stop("silent")
        elif now_ms - self._started_ms > self._walk.rules.total_s * 1000:
            self._stop("too_long")
        elif now_ms - self._written_ms >= PING_AFTER_MS and self._writing_since_ms is None:
            self._walk.spawn(self._ping())
        if self._meter.visible_bytes == self._visible_bytes_seen and self._running.call.thinking_hidden:
            self._silent_s += 1
            try:
                self._keep_hold_above_cost()
            except ClientError as error:
                self._dry = error
                self._stop("dry")
        self._visible_bytes_seen = self._meter.visible_bytes
        if now_ms - self._started_ms >= PROGRESS_AFTER_MS:
            self._write_progress()

    # ── the stream ───────────────────────────────────────────────────────────────────────────────────────────────────

    async def _relay(self) -> None:
        incoming, splitter = self._answer.incoming, self._answer.splitter
        while not (self._meter.ended or self._meter.errored):
            data = await incoming.read()
            if not data:
                self._meter.end_of_body()
                if self._meter.ended:
                    await self._finish()
                return
            self._read_ms = self._walk.clock.now_ms()
            events = splitter.feed(data)
            if events:
                await self._pass(events)
        if self._meter.errored:
            return
        try:
            async with asyncio.timeout(END_WITHIN_S):
                while await incoming.read():
                    pass
        except (TimeoutError, UpstreamError):
            incoming.abort()

    async def _pass(self, events: list[bytes]) -> None:
        meter = self._meter
        started = meter.started
        told: list[bytes] = []
        for event in events:
            meter.feed(event)
            told.append(self._bridge.feed(event))
        if meter.started and not started:
            self._replace_estimate()
        dry: ClientError | None = None
        try:
            self._keep_hold_above_cost()
        except ClientError as error:
            dry = error
        # What was made is charged, so it is delivered, also if it was the last the wallet could pay.
        if dry is None or self._running.opened or meter.ended:
            data = b"".join(told)
            # Of what is hidden from this client nothing is written, but that the answer has begun is.
            if data or not self._running.opened:
                await self._write(data or self._running.inbound.speech.ping)
        if dry is not None and not meter.ended:
            raise dry

    async def _finish(self) -> None:
        """What the bridge still has to say when the upstream's stream came to its proper end."""
        told = self._bridge.finish()
        if told:
            await self._write(told)

    async def _ping(self) -> None:
        # Not by `_write`: a ping that is taken says nothing about a write that is stuck.
        if self._writing_since_ms is None:
            self._written_ms = self._walk.clock.now_ms()
            await self._sink.write(self._running.inbound.speech.ping)

    async def _write(self, data: bytes) -> None:
        now_ms = self._walk.clock.now_ms()
        if not self._running.opened:
            self._running.opened = True
            self._running.inbound.record.first_byte_ms = now_ms - self._running.inbound.received_ms
            await self._sink.start(200, (*STREAM_HEADERS, ("x-gateway-model", self._answer.deployment.model)))
        self._writing_since_ms = self._written_ms = now_ms
        await self._sink.write(data)
        self._writing_since_ms = None

    # ── the hold ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def _replace_estimate(self) -> None:
        """message_start has the true input: the estimate made from bytes gives way to it, before any text passes."""
        running, rules = self._running, self._walk.rules
        limit = running.call.max_tokens or running.model.max_output_tokens
        self._cover(min(limit, rules.output_hold_tokens))

    def _keep_hold_above_cost(self) -> None:
        """Raise the hold by a slice when 80 % of what it covers was made.

        Raises ClientError if nothing can be raised: RanDry, or what the limit says that stops it.
        """
        meter, rules = self._meter, self._walk.rules
        if not meter.started:
            return
        made = running_output_tokens(meter.visible_bytes, self._silent_s, rules.tokens_per_second_max, meter.last_reported_output)
        limit = self._running.call.max_tokens or self._running.model.max_output_tokens
        if made * 100 < self._covered_tokens * RAISE_AT_PERCENT or self._covered_tokens >= limit:
            return
        before = self._covered_tokens
        self._cover(min(limit, max(before, made) + rules.output_hold_tokens))
        if self._covered_tokens <= before:
            raise self._why_dry()

    def _cover(self, output_tokens: int) -> None:
        """Bring the hold to what the reported input and `output_tokens` cost, as far as the wallet and the key's limits allow."""
        hold, book, lease, limits = self._running.hold, self._walk.book, self._running.lease, self._walk.limits
        more_tokens, more_nanos = limits.room(lease)
        usage = self._usage()
        counted_input = usage.counted_tokens - usage.output_tokens
        if not self._meter.usage.prompt_tokens:
            counted_input -= self._running.cached_estimate
        output_tokens = min(output_tokens, max(0, lease.tokens + more_tokens - counted_input))
        target = min(self._cost(output_tokens), hold.amount_nanos + more_nanos)
        delta = book.lower_to(hold, target) if target < hold.amount_nanos else book.raise_to(hold, target)
        if delta:
            self._walk.store.submit(HoldChangeRow(hold.id, hold.wallet_id, hold.changes, delta))
        self._covered_tokens = min(output_tokens, covered_output_tokens(self._price, usage, hold.amount_nanos))
        limits.change(lease, counted_input + self._covered_tokens, hold.amount_nanos)

    def _why_dry(self) -> ClientError:
        """The key's limits, or else the wallet: what cannot be raised any further."""
        return self._walk.limits.why_full(self._running.lease) or RanDry(self._walk.book.wallet(self._running.key.wallet_id))

    def _cost(self, output_tokens: int) -> int:
        return cost_nanos(self._price, dataclasses.replace(self._usage(), output_tokens=output_tokens))

    def _usage(self) -> Usage:
        """What the hold must pay for beside the output: as reported, or as estimated where the stream names no input."""
        usage = as_asked(self._meter.usage, self._running.call)
        if not usage.prompt_tokens:
            usage = dataclasses.replace(usage, input_tokens=self._running.input_estimate)
        return usage

    def _write_progress(self) -> None:
        """What a crash would be settled from; only while the writer keeps up, and only if something changed."""
        if not self._meter.started or not self._walk.store.accepting:
            return
        usage = estimated_usage(self._meter)
        if not usage.prompt_tokens:
            # Some upstreams tell the input with their last event.
            usage = dataclasses.replace(usage, input_tokens=self._running.input_estimate)
        if usage != self._progress:
            self._progress = usage
            deployment = self._answer.deployment
            served = Served(deployment.upstream, deployment.model, deployment.terms, usage, cost_nanos(deployment.price, usage))
            self._walk.store.submit(ProgressRow(self._running.request_id, self._walk.clock.at_ms(), served))
            self._running.had_progress = True

    # ── the end ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def _stop(self, ending: Ending) -> None:
        if not self._ending and not self._meter.ended:
            self._ending = ending
            self._answer.incoming.abort()

    async def _end(self, failure: GatewayError | None) -> Relayed:
        """Tell the client how it ended, unless the stream already did, and say what it came to."""
        meter, running = self._meter, self._running
        if meter.ended:
            self._writing_since_ms = self._walk.clock.now_ms()
            await self._sink.end()
            return Relayed(self._outcome("reported" if meter.output_reported else "estimated"))
        dry = failure if isinstance(failure, ClientError) else self._dry
        if dry is not None:
            self._ending = "dry"
        if isinstance(dry, RanDry):
            wallet = self._walk.book.wallet(running.key.wallet_id)
            dry = RanDry(wallet)
            self._walk.book.mark_dry(wallet.id, running.conversation, self._walk.clock.now_ms())
        source, words = _ENDINGS.get(self._ending, ("partial", None))
        told: GatewayError | None = None
        if words is not None:
            told = UpstreamError(*words, reason=self._ending)
        elif self._ending != "gone":
            told = dry or _ended_early()
        running.inbound.record.error = told.code if told is not None else self._ending
        if told is not None and not running.opened:
            return Relayed(self._outcome(source, told.status), told)
        if told is not None and not meter.errored:
            await self._write(running.inbound.speech.error_event(told, running.inbound.text_id))
        return Relayed(self._outcome(source), broken=True)

    def _outcome(self, source: Source, status: int = 200) -> Outcome:
        meter, deployment = self._meter, self._answer.deployment
        flags = usage_flags(deployment.model, meter.model, meter.unknown_fields, meter.malformed)
        reason = "" if meter.ended else self._ending or "cut"
        if not meter.started and not meter.visible_bytes:
            return Outcome(deployment, None, source, flags, status, self._ending or "nothing_seen")
        if not meter.usage.prompt_tokens and not meter.output_reported and not meter.malformed:
            # Servers of OpenAI's kind tell their usage last: what ended before is charged by its bytes, and ended as any other.
            estimated = estimated_outcome(self._running, deployment, meter.visible_bytes, flags)
            return dataclasses.replace(estimated, source=source, status=status, reason=reason)
        usage = meter.usage if source == "reported" else estimated_usage(meter)
        return Outcome(deployment, usage, source, flags, status, reason)


def estimated_outcome(running: Running, deployment: Deployment, output_bytes: int, flags: tuple[str, ...]) -> Outcome:
    """For a 2xx without usage: what we held for the input, and output by its bytes; settlement keeps it below the hold."""
    usage = Usage(input_tokens=running.input_estimate, output_tokens=tokens_of_bytes(output_bytes))
    return Outcome(deployment, usage, "estimated", (*flags, USAGE_MISSING), 200)


def usage_flags(asked: str, answered: str, unknown_fields: set[str] | frozenset[str], malformed: bool) -> tuple[str, ...]:
    """What an operator should look at on a usage row."""
    flags = [f"unknown_usage:{name}" for name in sorted(unknown_fields)[:5]]
    if malformed:
        flags.append("malformed_usage")
    # A provider answers an alias with the dated id behind it.
    if answered and answered != asked and not answered.startswith(asked + "-"):
        flags.append("model_mismatch")
    return tuple(flags)


def _ended_early() -> UpstreamError:
    return UpstreamError("upstream_failed", "The provider broke off its answer; what was sent is charged.", reason="cut")
