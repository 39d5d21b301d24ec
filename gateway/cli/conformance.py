"""What an endpoint that speaks Anthropic's Messages API owes its clients, probe by probe.

A probe asks the endpoint and returns a few words on what it saw, or raises `Failed` with what was wrong. What is asked for is
what Claude Code, OpenClaw and the SDKs rely on (platform.claude.com/docs/en/api/messages, read 2026-11-20). Knows nothing of
connections: those, their limits and time-outs are check.py's.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import orjson

from gateway.cli.answers import (
    Answer,
    Failed,
    Unusable,
    as_dict,
    as_list,
    check_events,
    count_in,
    expect,
    expect_status,
    parse_events,
    shown,
)

VERSION_HEADER = {"anthropic-version": "2023-06-01"}
PAGE_LIMIT = 2
# Enough to see that pages follow one another; some gateways list hundreds of models.
PAGES_MAX = 10
UNKNOWN_MODEL = "claude-conformance-check-0"

TOOL = {
    "name": "get_weather",
    "description": "The weather in a city.",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}


# (method, path, headers, body) → what was answered.
Send = Callable[[str, str, dict[str, str], bytes | None], Awaitable[Answer]]


@dataclass(slots=True)
class Target:
    """The endpoint, asked by way of `send`. `model` is "" until one is known."""

    send: Send
    key: str
    model: str = ""

    async def get(self, path: str) -> Answer:
        return await self.send("GET", path, {**VERSION_HEADER, "x-api-key": self.key}, None)

    async def post(self, path: str, body: dict[str, Any], *, credential: dict[str, str] | None = None) -> Answer:
        headers = {**VERSION_HEADER, "content-type": "application/json", **(credential or {"x-api-key": self.key})}
        return await self.send("POST", path, headers, orjson.dumps(body))


Probe = Callable[[Target], Awaitable[str]]


# ── probes ───────────────────────────────────────────────────────────────────────────────────────────────────────────


async def models_list(target: Target) -> str:
    """Fills `target.model` with the first model, if none was named. The first probe: raises Unusable if no other can go well."""
    answer = await target.get("/v1/models")
    _check_usable(answer)
    expect_status(answer, 200)
    ids = _model_ids(answer.json())
    expect(ids, "the list is empty")
    target.model = target.model or ids[0]
    return f"{len(ids)} models, first {ids[0]}"


async def models_pages(target: Target) -> str:
    """`limit` and `after_id` walk through the models, each once."""
    seen: list[str] = []
    after = ""
    for page in range(1, PAGES_MAX + 1):
        answer = await target.get(f"/v1/models?limit={PAGE_LIMIT}{after}")
        expect_status(answer, 200)
        listing = answer.json()
        ids = _model_ids(listing)
        expect(len(ids) <= PAGE_LIMIT, f"limit={PAGE_LIMIT} gave {len(ids)} models")
        expect(not set(ids) & set(seen), "a page repeats models of an earlier one")
        seen += ids
        expect(type(listing.get("has_more")) is bool, "has_more is missing")
        if not listing["has_more"]:
            return f"{len(seen)} models in {page} pages"
        expect(ids, "a page is empty although has_more is true")
        after = f"&after_id={quote(ids[-1], safe='')}"
    return f"{len(seen)} models in the first {PAGES_MAX} pages"


async def message_with_x_api_key(target: Target) -> str:
    return await _message(target, {"x-api-key": target.key})


async def message_with_bearer(target: Target) -> str:
    return await _message(target, {"authorization": f"Bearer {target.key}"})


async def request_id(target: Target) -> str:
    """On success and on error alike: it is what people quote when they ask for help."""
    well = await target.get("/v1/models")
    bad = await target.post("/v1/messages", {"model": _model(target), "max_tokens": 16})
    expect(well.headers.get("request-id"), "a good answer has no request-id header")
    expect(bad.headers.get("request-id"), "an error has no request-id header")
    expect(well.headers["request-id"] != bad.headers["request-id"], "two answers have the same request-id")
    return well.headers["request-id"]


async def stream(target: Target) -> str:
    answer = await target.post("/v1/messages", {**_say_hi(target), "stream": True})
    expect_status(answer, 200)
    kind = answer.headers.get("content-type", "")
    expect(kind.startswith("text/event-stream"), f"content-type is {shown(kind)}")
    return check_events(parse_events(answer.body))


async def auth_error(target: Target) -> str:
    answer = await target.post("/v1/messages", _say_hi(target), credential={"x-api-key": "sk-conformance-check-no-such-key"})
    return _check_error(answer, 401, "authentication_error")


async def unknown_model(target: Target) -> str:
    answer = await target.post("/v1/messages", {**_say_hi(target), "model": UNKNOWN_MODEL})
    return _check_error(answer, 404, "not_found_error")


async def tool_call(target: Target) -> str:
    body = {
        "model": _model(target),
        "max_tokens": 256,
        "messages": [{"role": "user", "content": "What is the weather in Paris?"}],
        "tools": [TOOL],
        "tool_choice": {"type": "tool", "name": TOOL["name"]},
    }
    answer = await target.post("/v1/messages", body)
    expect_status(answer, 200)
    message = as_dict(answer.json())
    calls = [block for block in as_list(message.get("content")) if as_dict(block).get("type") == "tool_use"]
    expect(calls, "no tool_use block, although tool_choice forced one")
    call = calls[0]
    expect(call.get("name") == TOOL["name"], f"the tool called is {shown(call.get('name'))}")
    expect(isinstance(call.get("id"), str) and call["id"], "the tool_use block has no id")
    expect(isinstance(as_dict(call.get("input")).get("city"), str), f"input does not fit the schema: {shown(call.get('input'))}")
    expect(message.get("stop_reason") == "tool_use", f"stop_reason is {shown(message.get('stop_reason'))}")
    return f"{call['name']}({orjson.dumps(call['input']).decode()[:60]})"


async def count_tokens(target: Target) -> str:
    body = _say_hi(target)
    del body["max_tokens"]
    answer = await target.post("/v1/messages/count_tokens", body)
    expect_status(answer, 200)
    return f"{count_in(as_dict(answer.json()), 'input_tokens')} input tokens"


PROBES: Mapping[str, Probe] = {
    "models list": models_list,
    "models pages": models_pages,
    "message, x-api-key": message_with_x_api_key,
    "message, Bearer": message_with_bearer,
    "request-id header": request_id,
    "stream": stream,
    "auth error": auth_error,
    "unknown model": unknown_model,
    "tool call": tool_call,
    "count_tokens": count_tokens,
}


# ── leaves ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _check_usable(answer: Answer) -> None:
    if 300 <= answer.status < 400:
        raise Unusable(f"status {answer.status}: it redirects, and no key follows; write the URL that it redirects to")
    try:
        body = answer.json()
    except Failed:
        raise Unusable(
            f"no API answers at this URL: status {answer.status}, and the body is not JSON: {shown(answer.body)}"
        ) from None
    if answer.status == 401:
        error = body.get("error") if isinstance(body, dict) else None
        told = error.get("message") if isinstance(error, dict) else body
        raise Unusable(f"the key is refused (status 401): {shown(told)}")


def _say_hi(target: Target) -> dict[str, Any]:
    return {"model": _model(target), "max_tokens": 64, "messages": [{"role": "user", "content": "say hi"}]}


def _model(target: Target) -> str:
    expect(target.model, "no model is known: name one with --model")
    return target.model


async def _message(target: Target, credential: dict[str, str]) -> str:
    answer = await target.post("/v1/messages", _say_hi(target), credential=credential)
    expect_status(answer, 200)
    message = as_dict(answer.json())
    expect(message.get("type") == "message" and message.get("role") == "assistant", f"not a message: {shown(answer.body)}")
    texts = [as_dict(block).get("text") for block in as_list(message.get("content")) if as_dict(block).get("type") == "text"]
    expect(texts and all(isinstance(text, str) for text in texts), "no text block in the content")
    expect(message.get("stop_reason"), "stop_reason is missing")
    usage = as_dict(message.get("usage"))
    return f"{count_in(usage, 'input_tokens')} tokens in, {count_in(usage, 'output_tokens')} out"


def _check_error(answer: Answer, status: int, kind: str) -> str:
    expect_status(answer, status)
    body = as_dict(answer.json())
    error = as_dict(body.get("error"))
    expect(body.get("type") == "error", f'the body is not {{"type": "error", …}}: {shown(answer.body)}')
    expect(error.get("type") == kind, f"error.type is {shown(error.get('type'))}, expected {kind}")
    expect(isinstance(error.get("message"), str) and error["message"], "error.message is missing")
    return f"{status} {kind}"


def _model_ids(listing: Any) -> list[str]:
    entries = as_list(as_dict(listing).get("data"))
    ids = [as_dict(entry).get("id") for entry in entries]
    expect(all(isinstance(model_id, str) and model_id for model_id in ids), "a model has no id")
    return [str(model_id) for model_id in ids]
