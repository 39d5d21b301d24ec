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

from gateway import metrics
from gateway.errors import ClientError, UpstreamError
from gateway.proxy.attempts import Asker, ask_in_order
from gateway.proxy.ports import Incoming
from gateway.proxy.refusal import Refused, VerbatimAnswer, is_encoded, judge_refusal, judge_stream_error, not_an_answer
from gateway.proxy.walk import Running, Station, Walk
from gateway.router import Deployment, for_key
from gateway.storage.rows import AttemptRow
from gateway.upstreams.base import Headers, Operation, Outgoing
from gateway.wire.bridge import Bridge, Crossing, bridge_to
from gateway.wire.call import Dialect
from gateway.wire.meter import WholeReading
from gateway.wire.sse import Splitter

# After this much silence behind a 200 the client's stream is opened: some clients and proxies give up on a silent connection.
SILENCE_S = 20
ERROR_BODY_BYTES_MAX = 1 << 20
WHOLE_BODY_BYTES_MAX = 64 << 20

_OPERATIONS: dict[Dialect, Operation] = {"anthropic": "messages", "openai": "chat"}
_ANSWER_IDS: dict[Dialect, str] = {"anthropic": "msg_", "openai": "chatcmpl-"}
_JSON: Headers = (("content-type", "application/json"), ("accept", "application/json"))
# The version after this one makes the provider refuse sampling parameters (PROTOCOL.md, trap 2).
_TRANSLATED_HEADERS: dict[Dialect, Headers] = {"anthropic": (*_JSON, ("anthropic-version", "2023-06-01")), "openai": _JSON}


@dataclass(frozen=True, slots=True)
class WholeAnswer:
    """`body` is the client's; `reading` and `told_bytes` are of the upstream's own."""

    deployment: Deployment
    status: int
    headers: Headers
    body: bytes
    reading: WholeReading
    told_bytes: int


@dataclass(frozen=True, slots=True)
class StreamAnswer:
    """An open stream: the upstream's events read so far (the last of them a real one), and what reads the rest."""

    deployment: Deployment
    bridge: Bridge
    incoming: Incoming
    splitter: Splitter
    events: list[bytes]


Answer = VerbatimAnswer | WholeAnswer | StreamAnswer


async def dispatch(walk: Walk, running: Running, on_silence: Callable[[], None]) -> Answer:
    """Ask deployments in the router's order until one answers. Raises the last UpstreamError when none does, ClientError for what
    none can be sent.

    `on_silence` opens the client's stream with a ping (and sets `running.opened`) when a 200 stays silent.
    """
    asker = Asker(running.model.id, running.conversation, running.key.id, signed=running.call.thinking_signed)
    try:
        running.at, answer = await ask_in_order(
            walk,
            asker,
            lambda deployment, number: _attempt(walk, running, deployment, number, on_silence),
            lambda: not running.opened and not running.gone,
        )
    except ClientError:
        # As for what an upstream refuses: clients repeat it at once, with less in it (PROTOCOL.md, trap 9).
        walk.limits.give_back(running.key.root_id, walk.clock.now_ms())
        raise
    except Refused as refused:
        if refused.verbatim is None:
            raise
        return refused.verbatim
    return answer


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


def check_identity(headers: Headers) -> str:
    """The content type of an answer. Raises UpstreamError for an encoding that we did not ask for."""
    if is_encoded(headers):
        raise UpstreamError("upstream_failed", "The provider answered in an encoding that was not asked for.", reason="encoded")
    return next((value.partition(";")[0].strip().lower() for name, value in headers if name == "content-type"), "")


# ── one attempt ──────────────────────────────────────────────────────────────────────────────────────────────────────


async def _attempt(walk: Walk, running: Running, deployment: Deployment, number: int, on_silence: Callable[[], None]) -> Answer:
    started_at_ms, started_ms = walk.clock.at_ms(), walk.clock.now_ms()
    station = walk.stations[deployment.upstream]
    bridge = _bridge(walk, running, station, deployment)
    outgoing = _outgoing(station, running, bridge)
    status: int | None = None
    request_id = ""
    reason = "internal"
    try:
        running.inbound.record.upstream = deployment.upstream
        head_s = walk.rules.head_stream_s if running.call.stream else walk.rules.head_whole_s
        incoming = await station.transport.open(outgoing, connect_s=walk.rules.connect_s, head_s=head_s)
        status = incoming.status
        request_id = station.provider.upstream_request_id(incoming.headers)
        try:
            if not 200 <= status < 300:
                body = await read_whole(incoming, ERROR_BODY_BYTES_MAX, idle_s=walk.rules.idle_s, total_s=walk.rules.total_s)
                raise judge_refusal(station, incoming, body, bridge)
            paid = for_key(_as_offered(running, deployment), running.key.factors)
            answer = await _accept(walk, running, paid, station, bridge, incoming, on_silence)
        except BaseException:
            incoming.abort()
            raise
        reason = "ok"
        return answer
    except UpstreamError as error:
        reason = error.reason
        raise
    except asyncio.CancelledError:
        # Else the house is closing, and what the provider makes of it is billed to nobody.
        reason = "client_gone" if running.gone else "unbilled"
        raise
    finally:
        duration_ms = walk.clock.now_ms() - started_ms
        metrics.attempted(deployment.upstream, reason, running.call.stream, duration_ms)
        running.attempts.append(
            AttemptRow(
                *(number, deployment.upstream, deployment.model, status, reason, started_at_ms, duration_ms),
                upstream_request_id=request_id,
            )
        )


def _as_offered(running: Running, deployment: Deployment) -> Deployment:
    """A reload may have come since the request was admitted: it pays what it was held at, if that place was offered then."""
    return next((each for each in running.offered if each.place == deployment.place), deployment)


def _bridge(walk: Walk, running: Running, station: Station, deployment: Deployment) -> Bridge:
    call = running.call
    # A virtual model's own limit is advice to clients; whoever serves it may write as much as it can.
    served = running.model.serves[deployment.rank : deployment.rank + 1]
    member = (walk.catalog.find(served[0]) if served else None) or running.model
    crossing = Crossing(
        call=call,
        model=deployment.model,
        max_output_tokens=member.max_output_tokens,
        input_estimate=running.input_estimate,
        answer_id=_ANSWER_IDS[call.dialect] + running.inbound.text_id.partition("_")[2],
        created=walk.clock.at_ms() // 1000,
        habits=station.provider.habits,
    )
    return bridge_to(station.provider.dialect, crossing)


def _outgoing(station: Station, running: Running, bridge: Bridge) -> Outgoing:
    """The upstream's own headers where the client's mean nothing to it: versions and betas belong to a dialect."""
    inbound, call, provider = running.inbound, running.call, station.provider
    operation = _OPERATIONS[provider.dialect]
    if provider.dialect == call.dialect:
        return provider.address(operation, inbound.query, inbound.headers, bridge.request(), stream=call.stream)
    return provider.address(operation, "", _TRANSLATED_HEADERS[provider.dialect], bridge.request(), stream=call.stream)


async def _accept(
    walk: Walk,
    running: Running,
    deployment: Deployment,
    station: Station,
    bridge: Bridge,
    incoming: Incoming,
    on_silence: Callable[[], None],
) -> Answer:
    content_type = check_identity(incoming.headers)
    headers = station.provider.response_headers(incoming.headers)
    if not running.call.stream:
        if content_type != "application/json":
            raise not_an_answer(content_type)
        body = await read_whole(incoming, WHOLE_BODY_BYTES_MAX, idle_s=walk.rules.idle_s, total_s=walk.rules.total_s)
        reading = bridge.meter_whole(body)
        if not reading.is_message and reading.usage is None:
            raise not_an_answer(content_type)  # an error told with status 200, half a body: nothing that could be charged
        return WholeAnswer(deployment, incoming.status, headers, bridge.answer(body), reading, len(body))
    if content_type != "text/event-stream":
        raise not_an_answer(content_type)
    splitter = Splitter()
    silence = asyncio.get_running_loop().call_later(SILENCE_S, on_silence)
    try:
        async with asyncio.timeout(walk.rules.idle_s):
            events = await _first_events(incoming, splitter, bridge)
    except TimeoutError:
        raise _silent() from None
    finally:
        silence.cancel()
    return StreamAnswer(deployment, bridge, incoming, splitter, events)


async def _first_events(incoming: Incoming, splitter: Splitter, bridge: Bridge) -> list[bytes]:
    """Events up to the first chunk with a real one: neither ping, comment nor error. Raises UpstreamError for an error event."""
    events: list[bytes] = []
    real = False
    while not real:
        data = await incoming.read()
        if not data:
            raise UpstreamError("upstream_failed", "The provider ended without an answer.", reason="empty")
        for event in splitter.feed(data):
            kind = bridge.classify(event)
            if kind == "error" and not real:
                raise judge_stream_error(bridge.read_error(event))
            real = real or kind != "ping"
            events.append(event)
    return events


def _silent() -> UpstreamError:
    return UpstreamError("upstream_timeout", "The provider sent nothing in time.", reason="silent")
