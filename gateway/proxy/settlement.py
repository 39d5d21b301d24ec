"""What a request is charged, and how its hold ends: decided in the book at once, written by the writer soon after.

served, usage known          settle at its cost (reported, or estimated / partial and marked)
nothing seen of an answer    void: nothing is charged
hold never reached the disk  void: what the upstream did is recorded as `unbilled`
"""

from __future__ import annotations

from dataclasses import replace

from gateway import metrics
from gateway.health import Failure
from gateway.metrics import alarm
from gateway.money import format_usd
from gateway.pricing import cost_nanos
from gateway.proxy.walk import USAGE_MISSING, Outcome, Running, Walk
from gateway.storage.rows import DetailRow, ResolutionRow, Served

DETAIL_TEXT_MAX = 128


def resolve(walk: Walk, running: Running, outcome: Outcome) -> None:
    """Resolve the request's hold, exactly once, whatever became of client and upstream. Never waits, never refuses."""
    walk.running.pop(running.request_id, None)
    walk.discounts.discard(running.discount)
    if running.at is not None:
        walk.router.left(running.at)
        running.at = None
    served = _served(running, outcome)
    walk.limits.leave(running.lease, None if served is None else (served.usage.counted_tokens, served.cost_nanos))
    if running.acknowledged.done() and running.acknowledged.exception() is not None:
        # The database never took the hold (its wallet is frozen): there is nothing to resolve there.
        walk.book.disown(running.hold)
        return
    at_ms, now_ms = walk.clock.at_ms(), walk.clock.now_ms()
    detail = _detail(running, outcome.status, now_ms)
    # From here to the queue nothing may come between: what the book decides must reach the database.
    resolution = walk.book.void(running.hold) if served is None else walk.book.settle(running.hold, served.cost_nanos)
    row = ResolutionRow(
        resolution=resolution,
        key_id=running.key.id,
        model=running.model.id,
        at_ms=at_ms,
        attempts=tuple(running.attempts),
        detail=detail,
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
    _count(running, outcome, served)
    if resolution.overrun_nanos:
        owed = format_usd(resolution.overrun_nanos)
        alarm("overrun", f"the wallet of {running.key.user_name} could not pay ${owed} of {running.inbound.text_id}")
    _tell_router(walk, running, outcome, now_ms)


def _served(running: Running, outcome: Outcome) -> Served | None:
    """What was served and its exact cost, noted for the log and on the attempt that served; None if nothing was."""
    deployment, usage = outcome.deployment, outcome.usage
    if deployment is None or usage is None:
        return None
    cost = cost_nanos(deployment.price, usage)
    if USAGE_MISSING in outcome.flags:
        cost = min(cost, running.hold.amount_nanos)
    record = running.inbound.record
    record.usage, record.cost_nanos, record.source = usage, cost, outcome.source
    _mark_attempt(running, deployment.upstream, cost_nanos(deployment.list_price, usage), outcome.reason)
    return Served(deployment.upstream, deployment.model, deployment.terms, usage, cost)


def _tell_router(walk: Walk, running: Running, outcome: Outcome, now_ms: int) -> None:
    """Where the conversation's cache is now; or that the provider broke off. (Our own limits and restarts are not its fault.)"""
    deployment, usage = outcome.deployment, outcome.usage
    if deployment is None or usage is None:
        return
    model_id, conversation = running.model.id, running.conversation
    if outcome.source != "partial":
        cached = usage.prompt_tokens - usage.input_tokens
        # Whether a cache of another dialect's kind is still there nobody tells: nothing is held at its price.
        translated = walk.stations[deployment.upstream].provider.dialect != running.call.dialect
        cache = "none" if translated else running.call.cache
        walk.router.served(model_id, conversation, deployment, cached, cache, now_ms)
    elif outcome.reason in ("cut", "silent"):
        failure = Failure("failing", outcome.reason, conversation, running.key.id)
        walk.router.failed(model_id, conversation, deployment, failure, now_ms)


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


def _count(running: Running, outcome: Outcome, served: Served | None) -> None:
    metrics.first_byte(running.model.id, running.call.stream, running.inbound.record.first_byte_ms)
    if served is None:
        metrics.voided(outcome.reason)
        return
    cost = running.attempts[-1].cost_nanos
    metrics.settled(
        *(running.model.id, served.upstream, outcome.source, outcome.reason, served.usage, served.cost_nanos), cost_nanos=cost
    )
