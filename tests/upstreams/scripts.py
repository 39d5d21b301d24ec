"""Ready-made scripts for tests/upstream.py: each call makes one `Script`. They stream or not, as the request asks, and speak the
dialect of the path: a request to …/chat/completions is answered in OpenAI's, in the manner of one server or another.

    answer(reply, ...)      an ordinary answer; options for delays, gates, pings, injected bytes, a cut; chat=Manner(...)
    cut(at, how, reply)     an answer that breaks off
    refuse(status, ...)     an error body as the provider words it
    counted(n) models(*ids) html() redirect(url) zipped() huge_event(n)
    error_first() error_after(n) whole_max_tokens() never() raw(bytes)
    ordinary()              by path: an answer, a token count, a list of models (what `ScriptedUpstream.default` is)

Every answer carries headers that must never reach a client (LEAKY), so that any test may look for them.
"""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import Mapping, Sequence
from typing import Literal

from gateway.usage import Usage
from tests.upstreams import chat_replies, replies
from tests.upstreams.chat_replies import Manner
from tests.upstreams.exchange import Exchange, Script, Seen
from tests.upstreams.replies import Event, Reply

Headers = Sequence[tuple[str, str]]
USUAL = Reply()

LEAKY: Headers = (
    ("set-cookie", "upstream_session=leak; Path=/"),
    ("anthropic-organization-id", "org-leak"),
    ("openai-organization", "org-leak"),
    ("anthropic-ratelimit-requests-remaining", "49"),
    ("cf-ray", "leak-FRA"),
    ("server", "cloudflare-leak"),
    ("location", "https://leak.example/"),
)
# request: before the head. head: after it, before any event. start: after message_start. middle: half way through the events.
# end: everything but message_stop (not streamed: all but the last byte).
CutPoint = Literal["request", "head", "start", "middle", "end"]
# reset: TCP RST. fin: closed without the last chunk. clean: a proper end of the HTTP body where events are missing.
CutWay = Literal["reset", "fin", "clean"]

ERRORS: Mapping[int, tuple[str, str]] = {
    400: ("invalid_request_error", "messages.0.content: Input should be a valid list"),
    401: ("authentication_error", "invalid x-api-key"),
    402: ("billing_error", "There is an issue with your organization's billing."),
    403: ("permission_error", "Your API key does not have permission to use the specified resource."),
    404: ("not_found_error", "model: claude-nobody-1"),
    413: ("request_too_large", "Request exceeds the maximum size"),
    422: ("invalid_request_error", "messages: unprocessable"),
    429: ("rate_limit_error", "This request would exceed your organization's rate limit of 50 requests per minute."),
    500: ("api_error", "Internal server error"),
    503: ("api_error", "Service unavailable"),
    504: ("timeout_error", "Request timed out"),
    529: ("overloaded_error", "Overloaded"),
}
# OpenAI's type, code and words, by the same statuses.
CHAT_ERRORS: Mapping[int, tuple[str, str | None, str]] = {
    400: ("invalid_request_error", "invalid_type", "Invalid type for 'messages': expected an array of objects."),
    401: ("invalid_request_error", "invalid_api_key", "Incorrect API key provided: sk-up****cret."),
    402: ("insufficient_balance", None, "Insufficient Balance"),
    403: ("invalid_request_error", None, "Country, region, or territory not supported"),
    404: ("invalid_request_error", "model_not_found", "The model `gpt-nobody` does not exist or you do not have access to it."),
    413: ("invalid_request_error", None, "Request too large"),
    422: ("invalid_request_error", None, "messages: unprocessable"),
    429: ("requests", "rate_limit_exceeded", "Rate limit reached for gpt-m in organization org-leak on requests per min."),
    500: ("server_error", None, "The server had an error while processing your request."),
    503: ("server_error", None, "The engine is currently overloaded, please try again later."),
    504: ("server_error", None, "Request timed out"),
    529: ("server_error", None, "Overloaded"),
}
CREDIT_EXHAUSTED = "Your credit balance is too low to access the Anthropic API. Please go to Plans & Billing to upgrade."


def answer(
    reply: Reply = USUAL,
    *,
    headers: Headers = (),
    before_s: float = 0,
    pace_s: float = 0,
    released: asyncio.Event | None = None,
    pause: tuple[int, asyncio.Event] | None = None,
    quiet: tuple[int, int, float] | None = None,
    inject: Mapping[int, bytes] | None = None,
    cut_at: CutPoint | None = None,
    cut_how: CutWay = "reset",
    chat: Manner = chat_replies.OPENAI,
) -> Script:
    """An answer of `reply`; `chat` is the manner in which a Chat Completions request is answered.

    `before_s` delays the head, `released` holds it back until set; `pace_s` waits before each event; `pause=(n, event)` waits
    for `event` before event number n (from 0); `quiet=(n, pings, gap_s)` says only pings for a while before event n;
    `inject={n: bytes}` sends raw bytes before event n.
    """

    async def script(exchange: Exchange) -> None:
        await asyncio.sleep(before_s)
        if released is not None:
            await released.wait()
        if cut_at == "request":
            await _break_off(exchange, cut_how)
        elif exchange.seen.stream:
            await stream(exchange)
        else:
            await whole(exchange)

    async def stream(exchange: Exchange) -> None:
        await exchange.head(200, _headers(exchange.seen, "text/event-stream; charset=utf-8", headers))
        events = _events(exchange.seen, reply, chat)
        for number, event in enumerate(events[: _events_before_cut(events, cut_at)]):
            if pause is not None and pause[0] == number:
                await pause[1].wait()
            if quiet is not None and quiet[0] == number:
                await _only_pings(exchange, *quiet[1:])
            await asyncio.sleep(pace_s)
            await exchange.send((inject or {}).get(number, b""))
            await _produce(exchange, reply, event)
        await (exchange.end() if cut_at is None else _break_off(exchange, cut_how))

    async def whole(exchange: Exchange) -> None:
        model = exchange.seen.model
        seen = exchange.seen
        body = chat_replies.render_chat(reply, chat, seen.json) if seen.is_chat else replies.render_message(reply, model)
        exchange.seen.bill(reply.model or model, reply.usage)
        await exchange.head(200, _headers(exchange.seen, "application/json", headers), length=len(body))
        parts = {None: len(body), "head": 0, "end": len(body) - 1}
        await exchange.send(body[: parts.get(cut_at, len(body) // 2)])
        await (exchange.end() if cut_at is None else _break_off(exchange, cut_how))

    return script


def cut(at: CutPoint, how: CutWay = "reset", reply: Reply = USUAL, chat: Manner = chat_replies.OPENAI) -> Script:
    return answer(reply, cut_at=at, cut_how=how, chat=chat)


def refuse(status: int, message: str = "", *, retry_after: str = "", headers: Headers = ()) -> Script:
    """The provider's refusal of that status; bills nothing."""
    wait: Headers = (("retry-after", retry_after),) if retry_after else ()

    async def script(exchange: Exchange) -> None:
        fields = _headers(exchange.seen, "application/json", [*wait, *headers])
        if exchange.seen.is_chat:
            chat_kind, code, words = CHAT_ERRORS[status]
            body = chat_replies.render_chat_error(chat_kind, message or words, code)
        else:
            kind, words = ERRORS[status]
            body = replies.render_error(kind, message or words)
        await exchange.body(status, fields, body)

    return script


def error_first(kind: str = "overloaded_error", message: str = "Overloaded") -> Script:
    """200, a stream, and its first event is an error."""

    async def script(exchange: Exchange) -> None:
        await exchange.head(200, _headers(exchange.seen, "text/event-stream", ()))
        await exchange.send(_error_event(exchange.seen, kind, message))
        await exchange.end()

    return script


def error_after(count: int, kind: str = "overloaded_error", reply: Reply = USUAL) -> Script:
    """A stream of `count` events, then an error event and a proper end."""

    async def script(exchange: Exchange) -> None:
        await exchange.head(200, _headers(exchange.seen, "text/event-stream", ()))
        for event in _events(exchange.seen, reply, chat_replies.OPENAI)[:count]:
            await _produce(exchange, reply, event)
        await exchange.send(_error_event(exchange.seen, kind, "broken in the middle"))
        await exchange.end()

    return script


def whole_max_tokens(input_tokens: int = 25) -> Script:
    """Bills and reports every token of the request's max_tokens (or max_completion_tokens)."""

    async def script(exchange: Exchange) -> None:
        asked = exchange.seen.json
        spent = Usage(input_tokens=input_tokens, output_tokens=asked.get("max_tokens") or asked["max_completion_tokens"])
        await answer(Reply(usage=spent, stop_reason="max_tokens"))(exchange)

    return script


def huge_event(size: int) -> Script:
    """A stream with one text delta of `size` bytes."""
    return answer(Reply(text=("x" * size,)))


def html(status: int = 200) -> Script:
    return _fixed(status, "text/html; charset=utf-8", b"<html><body>Sorry, you have been blocked</body></html>")


def redirect(location: str, status: int = 307) -> Script:
    return _fixed(status, "text/plain", b"", headers=(("location", location),))


def zipped() -> Script:
    """A gzip answer that nobody asked for."""
    body = gzip.compress(replies.render_message(Reply(), "claude-zipped"))
    return _fixed(200, "application/json", body, headers=(("content-encoding", "gzip"),))


def counted(input_tokens: int) -> Script:
    """The answer of count_tokens."""
    return _fixed(200, "application/json", json.dumps({"input_tokens": input_tokens}).encode())


def models(*ids: str) -> Script:
    data = [
        {"type": "model", "object": "model", "id": id, "display_name": id, "created_at": "2026-01-01T00:00:00Z"} for id in ids
    ]
    page = {
        "object": "list",
        "data": data,
        "has_more": False,
        "first_id": ids[0] if ids else None,
        "last_id": ids[-1] if ids else None,
    }
    return _fixed(200, "application/json", json.dumps(page).encode())


def never() -> Script:
    """Takes the request and says nothing until the client goes."""

    async def script(exchange: Exchange) -> None:
        await asyncio.Event().wait()

    return script


def raw(data: bytes, *, keep: bool = False, how: CutWay = "fin") -> Script:
    """These bytes, then the connection stays open (`keep`) or ends by `how`."""

    async def script(exchange: Exchange) -> None:
        await exchange.raw(data)
        if keep:
            exchange.keep = True
        else:
            await _break_off(exchange, how)

    return script


def ordinary() -> Script:
    async def script(exchange: Exchange) -> None:
        path = exchange.seen.path
        if path.endswith("/count_tokens"):
            await counted(42)(exchange)
        elif path.endswith("/models"):
            await models("claude-sonnet-5-5", "claude-haiku-5-5")(exchange)
        else:
            await answer()(exchange)

    return script


def _fixed(status: int, content_type: str, body: bytes, headers: Headers = ()) -> Script:
    async def script(exchange: Exchange) -> None:
        await exchange.body(status, _headers(exchange.seen, content_type, headers), body)

    return script


def _headers(seen: Seen, content_type: str, more: Headers) -> list[tuple[str, str]]:
    own = {name for name, _ in more} - {"set-cookie"}
    leaky = [(name, value) for name, value in LEAKY if name not in own]
    name = "x-request-id" if seen.is_chat else "request-id"
    return [("content-type", content_type), (name, f"req_upstream_{seen.number}"), *leaky, *more]


def _events(seen: Seen, reply: Reply, chat: Manner) -> list[Event]:
    return chat_replies.render_chunks(reply, chat, seen.json) if seen.is_chat else replies.render_stream(reply, seen.model)


def _error_event(seen: Seen, kind: str, message: str) -> bytes:
    return chat_replies.render_chat_error_event(kind, message) if seen.is_chat else replies.render_error_event(kind, message)


def _events_before_cut(events: list[Event], at: CutPoint | None) -> int:
    points: dict[CutPoint | None, int] = {"head": 0, "start": 1, "middle": len(events) // 2, "end": len(events) - 1}
    return points.get(at, len(events))


async def _break_off(exchange: Exchange, how: CutWay) -> None:
    if how == "reset":
        await exchange.reset()
    elif how == "fin":
        await exchange.close()
    else:
        await exchange.end()


async def _produce(exchange: Exchange, reply: Reply, event: Event) -> None:
    # Billed before it is sent: a provider charges for what it made, not for what arrived.
    exchange.seen.bill(reply.model or exchange.seen.model, replies.usage_so_far(reply, event.output_tokens))
    await exchange.send(event.data)
    exchange.seen.events_sent += 1


async def _only_pings(exchange: Exchange, pings: int, gap_s: float) -> None:
    for _ in range(pings):
        await asyncio.sleep(gap_s)
        await exchange.send(chat_replies.KEEP_ALIVE if exchange.seen.is_chat else replies.PING)
