"""The walk of one request, straight, from head to settled books.

    head ─ authenticate ─ rate, in-flight ─ read body ─ parse ─ model access ─ limits, hold ─ route ─ relay ─ settle

Cheap before dear: strangers never cost us a body. Order of refusals: 401, 413/429 of the door, 400, 404, 403, 402/429. A refusal
is a GatewayError and leaves here as one; the door renders it. Run it in a task that nothing but the end of a shutdown
cancels: whether the client is still there decides nothing about the money.
"""

from __future__ import annotations

import asyncio
import functools
from dataclasses import replace

from gateway.access import Key
from gateway.errors import GatewayError, HouseError, UpstreamError
from gateway.money import to_micros
from gateway.proxy.admission import admit, authenticate, await_hold, check_accepting, find_model
from gateway.proxy.dispatch import Answer, StreamAnswer, WholeAnswer, dispatch
from gateway.proxy.ports import Sink
from gateway.proxy.relay import STREAM_HEADERS, StreamRelay, missing_usage, usage_flags
from gateway.proxy.settlement import resolve
from gateway.proxy.walk import USAGE_MISSING, Inbound, Outcome, Running, Walk


async def exchange(walk: Walk, inbound: Inbound, sink: Sink) -> None:
    """Answer one request for a model, in whichever dialect. Raises GatewayError for every refusal before the client's first
    byte."""
    key = authenticate(walk, inbound)
    try:
        walk.limits.take_request(key.root_id, key.terms, walk.clock.now_ms())
    finally:
        tell_limits(walk, inbound, key)
    check_accepting(walk)
    body_bytes = walk.door.enter(inbound.body_bytes)
    try:
        body = await inbound.read_body(walk.rules.body_bytes_max)
        # It took its time, in which the key may have been revoked.
        key = authenticate(walk, inbound)
        call = inbound.speech.parse(body, walk.rules.default_max_tokens)
        inbound.record.model, inbound.record.stream = call.model, call.stream
        model = find_model(walk, key, call.model)
        try:
            running = await admit(walk, inbound, key, model, call)
        finally:
            tell_limits(walk, inbound, key)
        await _serve(walk, running, sink)
    finally:
        walk.door.leave(body_bytes)


def tell_limits(walk: Walk, inbound: Inbound, key: Key) -> None:
    """Every answer says where the key's own buckets stand, never the upstream's."""
    now_ms, at_ms = walk.clock.now_ms(), walk.clock.at_ms()
    standings = (
        ("requests", walk.limits.requests_standing(key.root_id, key.terms, now_ms)),
        ("tokens", walk.limits.tokens_standing(key.root_id, key.terms, now_ms)),
    )
    inbound.limit_headers.clear()
    for what, standing in standings:
        if standing is not None:
            inbound.limit_headers += inbound.speech.render_limits(
                what, standing.limit, standing.remaining, standing.reset_ms, at_ms
            )


async def _serve(walk: Walk, running: Running, sink: Sink) -> None:
    """From held money to a settled answer; the hold is resolved whatever happens here."""
    outcome = Outcome(None, None, status=500, reason="internal")
    try:
        answer = await _dispatch(walk, running, sink)
        if isinstance(answer, StreamAnswer):
            relay = StreamRelay(walk, running, answer, sink)
            try:
                relayed = await relay.run()
            except BaseException:
                # A bug of ours, or cancelled at a shutdown that waited long enough: what was delivered is charged.
                if running.opened:
                    outcome = relay.outcome_so_far()
                raise
            outcome = relayed.outcome
            if relayed.refusal is not None:
                raise relayed.refusal
            if relayed.broken:
                # The books first: cutting gives the client a moment to leave by itself.
                resolve(walk, running, outcome)
                await sink.cut()
        elif isinstance(answer, WholeAnswer):
            outcome = Outcome(None, None, status=503, reason="unbilled")
            await await_hold(walk, running)
            outcome = _whole_outcome(running, answer)
            running.inbound.record.first_byte_ms = walk.clock.now_ms() - running.inbound.received_ms
            resolve(walk, running, outcome)
            await _answer_whole(walk, running, answer, sink)
        else:
            outcome = Outcome(None, None, status=answer.status, reason="refused_upstream")
            walk.limits.give_back(running.key.root_id, walk.clock.now_ms())
            resolve(walk, running, outcome)
            await sink.answer(answer.status, answer.headers, answer.body)
    except GatewayError as error:
        if outcome.reason == "internal":
            outcome = Outcome(None, None, status=error.status, reason=_void_reason(error))
        raise
    finally:
        if not running.hold.resolved:
            if outcome.reason == "unbilled" and running.attempts:
                running.attempts[-1] = replace(running.attempts[-1], reason="unbilled")
            resolve(walk, running, outcome)


async def _dispatch(walk: Walk, running: Running, sink: Sink) -> Answer:
    """Dispatch, given up when a streaming client leaves. A call that is not streamed is awaited to its end: it is billed."""
    opening: list[asyncio.Task[None]] = []

    def on_silence() -> None:
        opening.append(walk.spawn(_open_silent_stream(walk, running, sink)))

    if not running.call.stream:
        return await dispatch(walk, running, on_silence)
    try:
        async with asyncio.timeout(None) as patience:
            sink.on_gone(functools.partial(_lose_patience, walk, running, patience))
            answer = await dispatch(walk, running, on_silence)
    except TimeoutError:
        raise UpstreamError("upstream_failed", "the client left", reason="client_gone", retryable=False) from None
    except UpstreamError as error:
        if not running.opened:
            raise
        # Its stream is open already: a failure is told inside, and never looks like a clean end.
        await sink.write(running.inbound.speech.error_event(error, running.inbound.text_id))
        await sink.cut()
        raise
    finally:
        for task in opening:
            await task
    return answer


def _lose_patience(walk: Walk, running: Running, patience: asyncio.Timeout) -> None:
    running.gone = True
    if walk.rules.drain_s is not None and patience.when() is None:
        try:
            patience.reschedule(asyncio.get_running_loop().time() + walk.rules.drain_s)
        except RuntimeError:
            pass  # dispatch is over; the relay has its own eye on the client


async def _open_silent_stream(walk: Walk, running: Running, sink: Sink) -> None:
    """A 200 that stays silent: open the client's stream with a ping, if the hold is on disk."""
    try:
        await await_hold(walk, running)
    except HouseError:
        return  # the relay will find the same, and say so
    running.opened = True
    running.inbound.record.first_byte_ms = walk.clock.now_ms() - running.inbound.received_ms
    await sink.start(200, STREAM_HEADERS)
    await sink.write(running.inbound.speech.ping)


def _whole_outcome(running: Running, answer: WholeAnswer) -> Outcome:
    reading = answer.reading
    flags = usage_flags(answer.deployment.model, reading.model, reading.unknown_fields, reading.malformed)
    if reading.usage is None:
        usage = missing_usage(running, answer.told_bytes)
        return Outcome(answer.deployment, usage, "estimated", (*flags, USAGE_MISSING), answer.status)
    return Outcome(answer.deployment, reading.usage, "reported", flags, answer.status)


async def _answer_whole(walk: Walk, running: Running, answer: WholeAnswer, sink: Sink) -> None:
    record = running.inbound.record
    balance = walk.book.wallet(running.key.wallet_id).balance_nanos
    headers = [
        *answer.headers,
        ("x-gateway-model", answer.deployment.model),
        ("x-gateway-cost-micro", str(to_micros(record.cost_nanos))),
        ("x-gateway-balance-micro", str(to_micros(balance))),
    ]
    await sink.answer(answer.status, headers, answer.body)


def _void_reason(error: GatewayError) -> str:
    return error.reason if isinstance(error, UpstreamError) else error.code
