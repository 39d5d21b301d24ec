"""From an admitted request to an answer worth relaying: which upstream, what to send, and what its answer means.

    choose ─▶ open ─▶ head ─┬─ 2xx, whole ──▶ body ──────────────▶ WholeAnswer
                            ├─ 2xx, stream ─▶ first real event ──▶ StreamAnswer
                            ├─ the client's to mend ─────────────▶ VerbatimAnswer   (its bytes, unchanged)
                            └─ anything else ─▶ next deployment, at most 3 in 150 s

Nothing has reached the client while this runs, so anything may change; only after 20 s of 200-and-silence is the client's stream
opened with a ping (`on_silence`), and from then on a failure is final.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

import orjson

from gateway.errors import Code, UpstreamError
from gateway.metrics import alarm
from gateway.proxy.ports import Incoming
from gateway.proxy.walk import Running, Station, Walk
from gateway.router import Deployment
from gateway.storage.rows import AttemptRow
from gateway.upstreams.base import Headers, Operation, Outgoing
from gateway.wire.anthropic import read_error_type
from gateway.wire.meter import WholeReading, classify, meter_whole
from gateway.wire.splice import replace_value
from gateway.wire.sse import Splitter, event_data

ATTEMPTS_MAX = 3
# After this much silence behind a 200 the client's stream is opened: some clients and proxies give up on a silent connection.
SILENCE_S = 20
ERROR_BODY_BYTES_MAX = 1 << 20
WHOLE_BODY_BYTES_MAX = 64 << 20
# Claude Code gives up on a longer wait, and SDKs would sleep through it: the client is told not to try, and the time in words.
RETRY_AFTER_S_MAX = 60


@dataclass(frozen=True, slots=True)
class VerbatimAnswer:
    """A refusal that the client must see as the provider wrote it: its recovery matches the wording."""

    status: int
    headers: Headers
    body: bytes


@dataclass(frozen=True, slots=True)
class WholeAnswer:
    deployment: Deployment
    status: int
    headers: Headers
    body: bytes
    reading: WholeReading


@dataclass(frozen=True, slots=True)
class StreamAnswer:
    """An open stream: the events read so far (the last of them a real one), and what reads the rest."""

    deployment: Deployment
    incoming: Incoming
    splitter: Splitter
    events: list[bytes]


Answer = VerbatimAnswer | WholeAnswer | StreamAnswer


class Refused(UpstreamError):
    """A judged refusal; `verbatim` is what the client sees should it be the last word."""

    verbatim: VerbatimAnswer | None = None


async def dispatch(walk: Walk, running: Running, on_silence: Callable[[], None]) -> Answer:
    """Ask deployments in the router's order until one answers. Raises the last UpstreamError when none does.

    `on_silence` opens the client's stream with a ping (and sets `running.opened`) when a 200 stays silent.
    """
    tried: set[Deployment] = set()
    failure: UpstreamError | None = None
    give_up_ms = walk.clock.now_ms() + int(walk.rules.attempts_s * 1000)
    while len(tried) < ATTEMPTS_MAX and walk.clock.now_ms() < give_up_ms:
        deployment = walk.router.choose(running.model.id, running.conversation, tried, walk.clock.now_ms())
        if deployment is None:
            break
        tried.add(deployment)
        try:
            return await _attempt(walk, running, deployment, len(tried), on_silence)
        except UpstreamError as error:
            failure = error if failure is None else _to_tell(failure, error)
            walk.router.failed(running.model.id, running.conversation, deployment)
            if not error.retryable or running.opened or running.gone:
                break
    assert failure is not None, "admission found a deployment"
    if isinstance(failure, Refused) and failure.verbatim is not None:
        return failure.verbatim
    raise failure


def upstream_body(deployment: Deployment, name: str, body: bytes) -> bytes:
    """The client's bytes, with the model renamed if this deployment calls it otherwise than `name`."""
    if deployment.model == name:
        return body
    return replace_value(body, "model", orjson.dumps(deployment.model))


async def read_whole(incoming: Incoming, bytes_max: int, *, idle_s: float, total_s: float) -> bytes:
    """The whole body. Raises UpstreamError when it breaks off, pauses or lasts too long, or passes `bytes_max`; then abort it."""
    parts: list[bytes] = []
    size = 0
    loop = asyncio.get_running_loop()
    give_up = loop.time() + total_s
    try:
        async with asyncio.timeout(min(idle_s, total_s)) as limit:
            while data := await incoming.read():
                limit.reschedule(min(loop.time() + idle_s, give_up))
                parts.append(data)
                size += len(data)
                if size > bytes_max:
                    raise UpstreamError(
                        "upstream_failed", "The provider's answer is larger than this gateway takes.", reason="too_large"
                    )
    except TimeoutError:
        raise _silent() from None
    return b"".join(parts)


def judge_refusal(station: Station, incoming: Incoming, body: bytes) -> Refused:
    """What an answer that is not 2xx means, as the error that the walk raises for it."""
    judgement = station.provider.judge(incoming.status, incoming.headers, body)
    if judgement.alarm:
        alarm("upstream", f"{station.name} answered {incoming.status}, {judgement.reason}: look at its account and its api_key")
    message = _MESSAGES.get(incoming.status, _FAILED)
    too_long = incoming.status == 429 and (judgement.retry_after_s or 0) > RETRY_AFTER_S_MAX
    if too_long:
        message += f" It asks to wait {judgement.retry_after_s} s."
    error = Refused(
        _CODES.get(incoming.status, "upstream_failed"),
        message,
        reason=judgement.reason,
        retryable=judgement.course == "next",
        status_seen=incoming.status,
        retry_after_s=judgement.retry_after_s or (1 if incoming.status not in (429, 529) else None),
        detail=body[:300].decode("utf-8", "replace"),
    )
    if too_long:
        error.should_retry = False
    # What is encoded cannot be passed as it is, without the header that says so.
    if (judgement.course == "verbatim" or incoming.status == 404) and not _is_encoded(incoming.headers):
        error.verbatim = VerbatimAnswer(incoming.status, station.provider.response_headers(incoming.headers), body)
    return error


def check_identity(headers: Headers) -> str:
    """The content type of an answer. Raises UpstreamError for an encoding that we did not ask for."""
    if _is_encoded(headers):
        raise UpstreamError("upstream_failed", "The provider answered in an encoding that was not asked for.", reason="encoded")
    return next((value.partition(";")[0].strip().lower() for name, value in headers if name == "content-type"), "")


# ── one attempt ──────────────────────────────────────────────────────────────────────────────────────────────────────

_CODES: dict[int, Code] = {429: "rate_limited", 529: "upstream_overloaded", 504: "upstream_timeout"}
_FAILED = "The provider behind this gateway failed; nothing was charged."
_MESSAGES = {
    429: "The provider behind this gateway limits its requests right now; try again later.",
    529: "The provider behind this gateway is overloaded; try again later.",
}


async def _attempt(walk: Walk, running: Running, deployment: Deployment, number: int, on_silence: Callable[[], None]) -> Answer:
    started_at_ms, started_ms = walk.clock.at_ms(), walk.clock.now_ms()
    station = walk.stations[deployment.upstream]
    status: int | None = None
    request_id = ""
    reason = "internal"
    try:
        outgoing = _outgoing(station, running, deployment, "messages")
        running.inbound.record.upstream = deployment.upstream
        head_s = walk.rules.head_stream_s if running.call.stream else walk.rules.head_whole_s
        incoming = await station.transport.open(outgoing, connect_s=walk.rules.connect_s, head_s=head_s)
        status = incoming.status
        request_id = station.provider.upstream_request_id(incoming.headers)
        try:
            if not 200 <= status < 300:
                body = await read_whole(incoming, ERROR_BODY_BYTES_MAX, idle_s=walk.rules.idle_s, total_s=walk.rules.total_s)
                raise judge_refusal(station, incoming, body)
            answer = await _accept(walk, running, deployment, station, incoming, on_silence)
        except BaseException:
            incoming.abort()
            raise
        reason = "ok"
        return answer
    except UpstreamError as error:
        reason = error.reason
        raise
    except asyncio.CancelledError:
        reason = "client_gone"
        raise
    finally:
        duration_ms = walk.clock.now_ms() - started_ms
        running.attempts.append(
            AttemptRow(
                *(number, deployment.upstream, deployment.model, status, reason, started_at_ms, duration_ms),
                upstream_request_id=request_id,
            )
        )


def _outgoing(station: Station, running: Running, deployment: Deployment, operation: Operation) -> Outgoing:
    inbound, call = running.inbound, running.call
    body = upstream_body(deployment, call.model, call.body)
    return station.provider.address(operation, inbound.query, inbound.headers, body, stream=call.stream)


async def _accept(
    walk: Walk, running: Running, deployment: Deployment, station: Station, incoming: Incoming, on_silence: Callable[[], None]
) -> Answer:
    content_type = check_identity(incoming.headers)
    headers = station.provider.response_headers(incoming.headers)
    if not running.call.stream:
        if content_type != "application/json":
            raise _not_an_answer(content_type)
        body = await read_whole(incoming, WHOLE_BODY_BYTES_MAX, idle_s=walk.rules.idle_s, total_s=walk.rules.total_s)
        reading = meter_whole(body)
        if not reading.is_message and reading.usage is None:
            raise _not_an_answer(content_type)  # an error told with status 200, half a body: nothing that could be charged
        return WholeAnswer(deployment, incoming.status, headers, body, reading)
    if content_type != "text/event-stream":
        raise _not_an_answer(content_type)
    splitter = Splitter()
    silence = asyncio.get_running_loop().call_later(SILENCE_S, on_silence)
    try:
        async with asyncio.timeout(walk.rules.idle_s):
            events = await _first_events(incoming, splitter)
    except TimeoutError:
        raise _silent() from None
    finally:
        silence.cancel()
    return StreamAnswer(deployment, incoming, splitter, events)


async def _first_events(incoming: Incoming, splitter: Splitter) -> list[bytes]:
    """Events up to the first chunk with a real one: neither ping, comment nor error. Raises UpstreamError for an error event."""
    events: list[bytes] = []
    real = False
    while not real:
        data = await incoming.read()
        if not data:
            raise UpstreamError("upstream_failed", "The provider ended without an answer.", reason="empty")
        for event in splitter.feed(data):
            kind = classify(event)
            if kind == "error" and not real:
                raise _stream_error(read_error_type(event))
            real = real or (kind != "ping" and event_data(event) != b"")
            events.append(event)
    return events


def _to_tell(earlier: UpstreamError, latest: UpstreamError) -> UpstreamError:
    """Of two failures the one that the client hears of: the latest, but of two limits the one that ends sooner."""
    if not earlier.code == latest.code == "rate_limited" or earlier.retry_after_s is None:
        return latest
    return earlier if latest.retry_after_s is None or earlier.retry_after_s < latest.retry_after_s else latest


def _is_encoded(headers: Headers) -> bool:
    return any(name == "content-encoding" and value.strip().lower() not in ("", "identity") for name, value in headers)


def _silent() -> UpstreamError:
    return UpstreamError("upstream_timeout", "The provider sent nothing in time.", reason="silent")


def _stream_error(error_type: str) -> UpstreamError:
    """A stream that begins with an error is a refusal, told late."""
    if error_type == "overloaded_error":
        return UpstreamError("upstream_overloaded", _MESSAGES[529], reason="overloaded")
    if error_type == "rate_limit_error":
        return UpstreamError("rate_limited", _MESSAGES[429], reason="rate_limited")
    return UpstreamError("upstream_failed", _FAILED, reason=f"stream_error:{error_type[:40]}", retry_after_s=1)


def _not_an_answer(content_type: str) -> UpstreamError:
    reason = "html" if content_type == "text/html" else "content_type"
    return UpstreamError(
        "upstream_failed", "The provider behind this gateway answered something else than its protocol.", reason=reason
    )
