"""What a request may cost, before and while it runs: how much is held for it.

    need    must be available for the request to be admitted
    want    is reserved where it is there: equal to need for a stream, which can be watched and cut; the full output for a
            call whose output cannot be watched, so that at most one such call runs beyond the money

LEDGER.md, "What is held". These figures size holds; they are never billed. Pure; knows nothing of wallets.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from gateway.money import Factor
from gateway.pricing import TOKENS_PER_PRICE, Multiplier, Price, cost_nanos, scale
from gateway.usage import Usage, tokens_of_bytes
from gateway.wire.call import Call

BYTES_PER_INPUT_TOKEN = 3
BYTES_PER_RUNNING_OUTPUT_TOKEN = 3
DOCUMENT_TOKENS_MIN = 2_000
BYTES_PER_DOCUMENT_TOKEN = 30
# What a provider adds by itself: its own system prompt for tools, message framing.
OVERHEAD_TOKENS = 500


@dataclass(frozen=True, slots=True)
class Demand:
    """What to ask of the wallet, and what it was made from; of the input `cached_tokens` should be read from the cache.

    `output_tokens` go with `need_nanos`, `output_tokens_max` with `want_nanos`.
    """

    need_nanos: int
    want_nanos: int
    input_tokens: int
    output_tokens: int
    output_tokens_max: int
    cached_tokens: int = 0

    @property
    def counted_tokens(self) -> int:
        """What token limits count: not what the cache reads."""
        return self.input_tokens - self.cached_tokens + self.output_tokens

    @property
    def counted_tokens_max(self) -> int:
        return self.counted_tokens - self.output_tokens + self.output_tokens_max


def counted_tokens(call: Call, image_tokens: int) -> int:
    """What the input may come to where nobody counts it: by bytes, as plain text is."""
    documents = sum(max(DOCUMENT_TOKENS_MIN, size // BYTES_PER_DOCUMENT_TOKEN) for size in call.document_bytes)
    return tokens_of_bytes(call.text_bytes) + image_tokens * call.images + documents


def input_tokens(call: Call, context_tokens: int, image_tokens: int) -> int:
    """An upper estimate of the input, from bytes; never above what the model can read."""
    documents = sum(max(DOCUMENT_TOKENS_MIN, size // BYTES_PER_DOCUMENT_TOKEN) for size in call.document_bytes)
    text = -(-call.text_bytes // BYTES_PER_INPUT_TOKEN)
    return min(context_tokens, text + image_tokens * call.images + documents + OVERHEAD_TOKENS)


def demand(
    call: Call,
    prices: Iterable[Price],
    *,
    context_tokens: int,
    max_output_tokens: int,
    image_tokens: int,
    output_hold_tokens: int,
    warm_tokens: int = 0,
    watched: bool,
) -> Demand:
    """What to hold for `call` at the dearest of `prices`, the deployments it may end on.

    `warm_tokens` is how much of this conversation the provider's cache should still hold, else 0. A call that does not ask for
    its cache (no `cache_control` anywhere) reads nothing from it.
    """
    estimate = input_tokens(call, context_tokens, image_tokens)
    output_limit = min(call.max_tokens or max_output_tokens, max_output_tokens)
    output = min(output_limit, output_hold_tokens) * call.choices
    wanted = output if watched else output_limit * call.choices
    needs, wants = [], []
    for price in prices:
        needs.append(_held_nanos(price, call, estimate, warm_tokens, output))
        wants.append(_held_nanos(price, call, estimate, warm_tokens, wanted))
    return Demand(max(needs), max(wants), estimate, output, wanted, _cached(call, estimate, warm_tokens))


def as_asked(usage: Usage, call: Call) -> Usage:
    """`usage` with the multipliers that the request asks for, where the answer has not said yet what it serves."""
    speed = usage.speed or ("fast" if call.fast else "")
    geography = usage.geography or ("us" if call.us else "")
    return replace(usage, speed=speed, geography=geography)


def covered_output_tokens(price: Price, usage: Usage, amount_nanos: int) -> int:
    """How many output tokens `amount_nanos` pays for beside everything else in `usage`; 0 if not even that."""
    without = replace(usage, output_tokens=0)
    left = amount_nanos - cost_nanos(price, without)
    per_million = scale(price.rates_at(usage.prompt_tokens).output * TOKENS_PER_PRICE, _factors(price.multipliers_of(usage)))
    if left < 0:
        return 0
    # A model whose output is free is covered however long it writes.
    return left * TOKENS_PER_PRICE // per_million if per_million else 10**9


def running_output_tokens(visible_bytes: int, silent_s: int, tokens_per_second_max: int, reported: int) -> int:
    """How much output a running stream has made so far, at most: seen, thought in silence, or reported."""
    return max(-(-visible_bytes // BYTES_PER_RUNNING_OUTPUT_TOKEN), silent_s * tokens_per_second_max, reported)


def _held_nanos(price: Price, call: Call, estimate: int, warm_tokens: int, output_tokens: int) -> int:
    rates = price.rates_at(estimate)
    by_class = {"none": rates.input, "5m": rates.cache_write_5m, "1h": rates.cache_write_1h}[call.cache]
    # A cache write costs more than plain input on some models and less on none; hold for the dearer of the two.
    fresh = max(by_class, rates.input)
    warm = _cached(call, estimate, warm_tokens)
    total = (
        warm * rates.cache_read + (estimate - warm) * fresh + output_tokens * rates.output + call.searches_max * price.web_search
    )
    return scale(total, _factors(price.multipliers(fast=call.fast, us=call.us)))


def _cached(call: Call, estimate: int, warm_tokens: int) -> int:
    return min(estimate, warm_tokens) if call.cache != "none" else 0


def _factors(multipliers: Iterable[Multiplier]) -> list[Factor]:
    return [multiplier.factor for multiplier in multipliers]
