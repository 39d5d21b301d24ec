"""POST /v1/messages/count_tokens: the same walk without money. Free, with a bucket of its own; the provider counts."""

from __future__ import annotations

from gateway.proxy.admission import authenticate, find_model
from gateway.proxy.attempts import Asker, ask_in_order
from gateway.proxy.dispatch import ERROR_BODY_BYTES_MAX, check_identity, read_whole, upstream_body
from gateway.proxy.ports import Sink
from gateway.proxy.refusal import Refused, VerbatimAnswer, judge_refusal
from gateway.proxy.walk import Inbound, Walk
from gateway.router import Deployment
from gateway.wire.anthropic import parse_call
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
            deployment, answer = await ask_in_order(walk, asker, lambda deployment, _: _ask(walk, inbound, call, deployment))
            walk.router.left(deployment)
        except Refused as refused:
            if refused.verbatim is None:
                raise
            answer = refused.verbatim
        await sink.answer(answer.status, answer.headers, answer.body)
    finally:
        walk.door.leave(body_bytes)


async def _ask(walk: Walk, inbound: Inbound, call: Call, deployment: Deployment) -> VerbatimAnswer:
    station = walk.stations[deployment.upstream]
    inbound.record.upstream = deployment.upstream
    body = upstream_body(deployment, call.model, call.body)
    outgoing = station.provider.address("count_tokens", inbound.query, inbound.headers, body, stream=False)
    incoming = await station.transport.open(outgoing, connect_s=walk.rules.connect_s, head_s=COUNT_S)
    try:
        answer = await read_whole(incoming, ERROR_BODY_BYTES_MAX, idle_s=COUNT_S, total_s=COUNT_S)
    except BaseException:
        incoming.abort()
        raise
    if not 200 <= incoming.status < 300:
        raise judge_refusal(station, incoming, answer)
    check_identity(incoming.headers)
    headers = station.provider.response_headers(incoming.headers)
    if station.provider.estimates_tokens:
        headers.append(("x-gateway-estimated", "true"))
    return VerbatimAnswer(incoming.status, headers, answer)
