"""What a request is charged, and how its hold ends: decided in the book at once, written by the writer soon after.

served, usage known          settle at its cost (reported, or estimated / partial and marked)
nothing seen of an answer    void: nothing is charged
hold never reached the disk  void: what the upstream did is recorded as `unbilled`
"""

from __future__ import annotations

from dataclasses import replace

from gateway.health import Failure
from gateway.metrics import alarm, counters
from gateway.money import format_usd
from gateway.pricing import cost_nanos
from gateway.proxy.walk import USAGE_MISSING, Outcome, Running, Walk
from gateway.storage.rows import DetailRow, ResolutionRow, Served

DETAIL_TEXT_MAX = 128


def resolve(walk: Walk, running: Running, outcome: Outcome) -> None:
    """Resolve the request's hold, exactly once, whatever became of client and upstream. Never waits, never refuses."""
    del walk.running[running.request_id]
    if running.at is not None:
        walk.router.left(running.at)
    if running.acknowledged.done() and running.acknowledged.exception() is not None:
        # The database never took the hold (its wallet is frozen): there is nothing to resolve there.
        walk.book.disown(running.hold)
        return
    record = running.inbound.record
    deployment, usage = outcome.deployment, outcome.usage
    at_ms, now_ms = walk.clock.at_ms(), walk.clock.now_ms()
    served = None
    if deployment is not None and usage is not None:
        cost = cost_nanos(deployment.price, usage)
        if USAGE_MISSING in outcome.flags:
            cost = min(cost, running.hold.amount_nanos)
        served = Served(deployment.upstream, deployment.model, deployment.terms, usage, cost)
        resolution = walk.book.settle(running.hold, cost)
        record.usage, record.cost_nanos, record.source = usage, cost, outcome.source
        _mark_attempt(running, deployment.upstream, cost_nanos(deployment.list_price, usage), outcome.reason)
        if outcome.source == "partial":
            failure = Failure("failing", outcome.reason, running.conversation, running.key.id)
            walk.router.failed(running.model.id, running.conversation, deployment, failure, now_ms)
        else:
            cached = usage.prompt_tokens - usage.input_tokens
            walk.router.served(running.model.id, running.conversation, deployment, cached, running.call.cache, now_ms)
        if resolution.overrun_nanos:
            owed = format_usd(resolution.overrun_nanos)
            alarm("overrun", f"the wallet of {running.key.user_name} could not pay ${owed} of {running.inbound.text_id}")
    else:
        resolution = walk.book.void(running.hold)
    counters["requests_settled" if served else "requests_void"] += 1
    row = ResolutionRow(
        resolution=resolution,
        key_id=running.key.id,
        model=running.model.id,
        at_ms=at_ms,
        attempts=tuple(running.attempts),
        detail=_detail(running, outcome.status, now_ms),
        served=served,
        source=outcome.source,
        flags=" ".join(outcome.flags),
        reason=None if served else outcome.reason,
        had_progress=running.had_progress,
    )
    written = walk.store.submit_acknowledged(row)
    request_id = running.request_id
    walk.settling[request_id] = written
    written.add_done_callback(lambda _: walk.settling.pop(request_id, None))


def _mark_attempt(running: Running, upstream: str, cost: int, ended: str) -> None:
    """What the provider will bill us for the attempt that served, at list price, and how it ended if not well."""
    last = running.attempts[-1]
    assert last.upstream == upstream
    running.attempts[-1] = replace(last, cost_nanos=cost, reason=ended or last.reason)


def _detail(running: Running, status: int, now_ms: int) -> DetailRow:
    inbound = running.inbound
    return DetailRow(
        stream=running.call.stream,
        status=status,
        session=(inbound.header("x-claude-code-session-id") or running.call.session)[:DETAIL_TEXT_MAX],
        agent=inbound.header("x-claude-code-agent-id")[:DETAIL_TEXT_MAX],
        address=inbound.address,
        admitted_ms=running.admitted_ms,
        first_byte_ms=inbound.record.first_byte_ms,
        total_ms=now_ms - inbound.received_ms,
    )
