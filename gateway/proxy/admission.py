"""May this request run? Model, access, limits and money: everything that is decided before an upstream hears of it.

A hold is decided in memory and its row queued; the upstream is asked at once, and `acknowledged` is awaited only before the first
byte goes to the client, so that the disk hides inside the upstream's own time.
"""

from __future__ import annotations

import asyncio

from gateway.access import Key, check_address, check_model
from gateway.book import BalanceHeld, Hold
from gateway.catalog import Model
from gateway.errors import ClientError, HouseError
from gateway.estimates import Demand, demand
from gateway.limits import Lease, LimitHeld
from gateway.metrics import limit_hit
from gateway.proxy.walk import Discount, Inbound, Running, Walk
from gateway.router import for_key
from gateway.storage.rows import HoldRow
from gateway.wire.call import Call
from gateway.wire.conversation import conversation_of

# Money that running requests hold may be free in a moment; a client that is told to go away comes back with a new body.
RELEASE_WAIT_MS = 3_000
# Who waits is inside the door. One wallet's may take up this share of it: whoever asks without end must not keep others out.
WAITING_SHARE = 16


def authenticate(walk: Walk, inbound: Inbound) -> Key:
    """The key of a request, noted for its log line. Raises ClientError `unauthenticated`, or `forbidden` for its address."""
    key = walk.keys.authenticate(inbound.headers, walk.rules.key_prefix, walk.clock.at_ms())
    inbound.record.key = key
    check_address(key, inbound.address)
    return key


def find_model(walk: Walk, key: Key, name: str) -> Model:
    """The model of a requested name, if the key may use it. Raises `not_found` (with the nearest name) or `forbidden`."""
    model = walk.catalog.find(name)
    if model is None or not walk.router.deployments(model.id):
        nearest = walk.catalog.nearest(name)
        hint = f" Did you mean {nearest}?" if nearest and nearest != name else ""
        raise ClientError("not_found", f"model: {name} is not offered here.{hint} GET /v1/models lists what is.", param="model")
    check_model(key, model.id)
    return model


def check_accepting(walk: Walk) -> None:
    """Raises HouseError while the ledger cannot be written: what cannot be charged is not started."""
    if not walk.store.accepting:
        raise HouseError("unavailable", "The gateway's ledger cannot be written right now; nothing was charged.", retry_after_s=2)


async def admit(walk: Walk, inbound: Inbound, key: Key, model: Model, call: Call) -> Running:
    """Take the key's limits and hold money for the request, in one step.

    Raises ClientError for a limit (429, a spend cap 402), BalanceTooLow (402), BalanceHeld and LimitHeld (429, after waiting
    3 s), HouseError (503); after a wait also what `authenticate` and `find_model` raise.
    """
    conversation = f"{key.id}:{conversation_of(inbound.headers, call)}"
    discount = _claim_discount(walk, model, conversation)
    give_up_ms = walk.clock.now_ms() + RELEASE_WAIT_MS
    try:
        while True:
            asked = _demand(walk, key, model, call, conversation, warm=discount is not None)
            try:
                hold, lease = _reserve(walk, inbound, key, conversation, asked)
                break
            except (BalanceHeld, LimitHeld) as error:
                left_ms = give_up_ms - walk.clock.now_ms()
                crowded = walk.releases.count(key.wallet_id) >= max(1, walk.rules.max_in_flight // WAITING_SHARE)
                if left_ms <= 0 or crowded:
                    if isinstance(error, LimitHeld):
                        limit_hit(error.name)
                    raise
            await walk.releases.wait(key.wallet_id, left_ms / 1000)
            # As if it came now: its key may be dead or limited otherwise, its model dearer or gone.
            key = authenticate(walk, inbound)
            model = find_model(walk, key, call.model)
    except BaseException:
        walk.discounts.discard(discount)
        raise
    row = HoldRow(inbound.request_id, key.wallet_id, key.id, model.id, hold.amount_nanos, walk.clock.at_ms())
    now_ms = walk.clock.now_ms()
    running = Running(
        inbound=inbound,
        key=key,
        model=model,
        call=call,
        conversation=conversation,
        hold=hold,
        lease=lease,
        acknowledged=walk.store.submit_acknowledged(row),
        acknowledge_by_ms=now_ms + int(walk.rules.hold_ack_s * 1000),
        admitted_ms=now_ms - inbound.received_ms,
        input_estimate=asked.input_tokens,
        cached_estimate=asked.cached_tokens,
        output_max=(call.max_tokens or max(member.max_output_tokens for member in walk.catalog.members(model))) * call.choices,
        discount=discount,
        offered=walk.router.deployments(model.id),
    )
    walk.running[inbound.request_id] = running
    return running


async def await_hold(walk: Walk, running: Running) -> None:
    """Return once the hold is on disk: not a byte may reach the client before. Raises HouseError (503) if it is not in time."""
    if not running.acknowledged.done():
        left_s = max(0, running.acknowledge_by_ms - walk.clock.now_ms()) / 1000
        await asyncio.wait([running.acknowledged], timeout=left_s)
    if not running.acknowledged.done() or running.acknowledged.exception() is not None:
        raise HouseError(
            "unavailable", "The gateway could not record this request in its ledger; nothing was charged.", retry_after_s=2
        )


def _claim_discount(walk: Walk, model: Model, conversation: str) -> Discount | None:
    """The right to be held at cache-read price, for one request of a conversation at a time.

    A client names its conversation: many at once, of which the cache serves none, would be held at a tenth of what they cost.
    """
    discount = (model.id, conversation)
    if discount in walk.discounts:
        return None
    walk.discounts.add(discount)
    return discount


def _demand(walk: Walk, key: Key, model: Model, call: Call, conversation: str, *, warm: bool) -> Demand:
    # What a virtual model says of its sizes is advice to clients; whoever serves it may read and write as much as it can.
    members = walk.catalog.members(model)
    return demand(
        call,
        (for_key(deployment, key.factors).price for deployment in walk.router.deployments(model.id)),
        context_tokens=max(member.context_tokens for member in members),
        max_output_tokens=max(member.max_output_tokens for member in members),
        image_tokens=max(member.image_tokens for member in members),
        output_hold_tokens=walk.rules.output_hold_tokens,
        warm_tokens=walk.router.warm_tokens(model.id, conversation, walk.clock.now_ms()) if warm else 0,
        watched=call.stream,
    )


def _reserve(walk: Walk, inbound: Inbound, key: Key, conversation: str, asked: Demand) -> tuple[Hold, Lease]:
    """All is checked, then all is taken, without a step of anybody else's in between."""
    check_accepting(walk)
    now_ms, at_ms = walk.clock.now_ms(), walk.clock.at_ms()
    tokens = asked.counted_tokens
    room = walk.limits.check(key.root_id, key.terms, tokens, asked.need_nanos, at_ms, now_ms, conversation)
    hold = walk.book.admit(
        inbound.request_id,
        key.wallet_id,
        asked.need_nanos,
        min(asked.want_nanos, room),
        conversation=conversation,
        now_ms=now_ms,
    )
    lease = walk.limits.enter(key.root_id, key.terms, tokens, hold.amount_nanos, at_ms, now_ms)
    walk.limits.widen(lease, asked.counted_tokens_max)
    return hold, lease
