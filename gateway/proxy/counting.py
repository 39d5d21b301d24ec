"""POST /v1/messages/count_tokens: the same walk without money. Free, with a bucket of its own; the provider counts.

An upstream of another dialect counts nothing before it answers: there the count is ours, by bytes, and says so.
"""

from __future__ import annotations

import orjson

from gateway.catalog import Model
from gateway.estimates import counted_tokens
from gateway.proxy.admission import authenticate, find_model
from gateway.proxy.attempts import Asker, ask_in_order
from gateway.proxy.dispatch import ERROR_BODY_BYTES_MAX, check_identity, read_whole
from gateway.proxy.ports import Sink
from gateway.proxy.refusal import Refused, VerbatimAnswer, judge_refusal
from gateway.proxy.walk import Inbound, Walk
from gateway.router import Deployment
from gateway.wire.anthropic import parse_call
from gateway.wire.bridge import Crossing, bridge_to
from gateway.wire.call import Call

COUNT_S = 30


async def count_tokens(walk: Walk, inbound: Inbound, sink: Sink) -> None:
    """Answer with the provider's own count. Raises GatewayError as `exchange` does."""
    key = authenticate(walk, inbound)
    walk.limits.take_count(key.root_id, walk.clock.now_ms())
    body_bytes = walk.door.enter(inbound.body_bytes)
    try:
        body = await inbound.read_body(walk.rules.body_bytes_max)
        key = authenticate(walk, inbound)
        call = parse_call(body, operation="count_tokens")
        inbound.record.model = call.model
        model = find_model(walk, key, call.model)
        # An upstream may lack this endpoint and be healthy, or have it and be overloaded: counting says nothing of its health.
        asker = Asker(model.id, "", key.id, tells_health=False, signed=call.thinking_signed)
        try:
            deployment, answer = await ask_in_order(
                walk, asker, lambda deployment, _: _ask(walk, inbound, call, model, deployment)
            )
            walk.router.left(deployment)
        except Refused as refused:
            if refused.verbatim is None:
                raise
            answer = refused.verbatim
        await sink.answer(answer.status, answer.headers, answer.body)
    finally:
        walk.door.leave(body_bytes)


async def _ask(walk: Walk, inbound: Inbound, call: Call, model: Model, deployment: Deployment) -> VerbatimAnswer:
    station = walk.stations[deployment.upstream]
    inbound.record.upstream = deployment.upstream
    if station.provider.dialect != call.dialect:
        return _estimate(call, model)
    bridge = bridge_to(station.provider.dialect, Crossing(call, deployment.model, 0, 0, "", 0))
    outgoing = station.provider.address("count_tokens", inbound.query, inbound.headers, bridge.request(), stream=False)
    incoming = await station.transport.open(outgoing, connect_s=walk.rules.connect_s, head_s=COUNT_S)
    try:
        answer = await read_whole(incoming, ERROR_BODY_BYTES_MAX, idle_s=COUNT_S, total_s=COUNT_S)
    except BaseException:
        incoming.abort()
        raise
    if not 200 <= incoming.status < 300:
        raise judge_refusal(station, incoming, answer, bridge)
    check_identity(incoming.headers)
    headers = station.provider.response_headers(incoming.headers)
    if station.provider.estimates_tokens:
        headers.append(("x-gateway-estimated", "true"))
    return VerbatimAnswer(incoming.status, headers, answer)


def _estimate(call: Call, model: Model) -> VerbatimAnswer:
    headers = [("content-type", "application/json"), ("x-gateway-estimated", "true")]
    return VerbatimAnswer(200, headers, orjson.dumps({"input_tokens": counted_tokens(call, model.image_tokens)}))
