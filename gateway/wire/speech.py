"""What we say ourselves to a client, in the dialect that it speaks: refusals, errors inside a stream, signs of life, limits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from gateway.errors import GatewayError
from gateway.wire import anthropic, openai
from gateway.wire.call import Call, Dialect

Headers = list[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Speech:
    """`parse(body, default_max_tokens)` reads a request. `render_limits(what, limit, remaining, reset_ms, at_ms)` gives headers.
    `ping` is what a silent stream may carry between two events without harm.
    """

    parse: Callable[[bytes, int], Call]
    render_error: Callable[[GatewayError, str], bytes]
    error_event: Callable[[GatewayError, str], bytes]
    render_limits: Callable[[str, int, int, int, int], Headers]
    ping: bytes


SPEECHES: dict[Dialect, Speech] = {
    "anthropic": Speech(
        parse=lambda body, default_max_tokens: anthropic.parse_call(body, default_max_tokens=default_max_tokens),
        render_error=anthropic.render_error,
        error_event=anthropic.error_event,
        render_limits=lambda what, limit, remaining, reset_ms, at_ms: anthropic.render_limits(
            what, limit, remaining, at_ms + reset_ms
        ),
        ping=anthropic.PING,
    ),
    "openai": Speech(
        # No limit on the output is a request as good as any there.
        parse=lambda body, default_max_tokens: openai.parse_chat(body),
        render_error=openai.render_error,
        error_event=openai.error_event,
        render_limits=lambda what, limit, remaining, reset_ms, at_ms: openai.render_limits(what, limit, remaining, reset_ms),
        ping=openai.KEEP_ALIVE,
    ),
}
