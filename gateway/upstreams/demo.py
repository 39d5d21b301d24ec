"""The built-in demo: an upstream that lives in this process, so that everything works before anyone owns a provider account.

It speaks Anthropic's protocol (platform.claude.com/docs/en/api/messages, read 2026-11-20) as truly as a parrot can: the same
request gives the same answer, streamed and not, with honest numbers (four bytes to a token), event order, pings, tool calls,
max_tokens, a context window, stop sequences and the provider's kind of 400. It opens no socket and says in every text that it
is a demo.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import orjson

from gateway.errors import UpstreamError
from gateway.upstreams.base import Headers, Judgement, Operation, Outgoing
from gateway.wire.bridge import Habits
from gateway.wire.call import Dialect

# About 40 words a second: what a quick model does, and slow enough to see that the answer streams.
PACE_S = 0.025
ECHO_CHARACTERS_MAX = 80
SCHEMA_STEPS_MAX = 200
# The demo knows no catalogue and answers for every model: the window of the current ones.
CONTEXT_TOKENS = 1_000_000
_TOOL_PHRASES = ("use tool", "use the tool")
_PATHS: dict[Operation, str] = {"messages": "/v1/messages", "count_tokens": "/v1/messages/count_tokens"}

Json = Any  # a request decoded from somebody's bytes: nothing is known of its shape
Sleep = Callable[[float], Awaitable[None]]


class DemoProvider:
    kind = "demo"
    dialect: Dialect = "anthropic"
    estimates_tokens = True
    signs_thinking = False
    habits = Habits()
    probe: Operation = "count_tokens"

    def address(self, operation: Operation, query: str, headers: Headers, body: bytes, *, stream: bool) -> Outgoing:
        return Outgoing(f"demo:{_PATHS[operation]}", (), body, stream)

    def judge(self, status: int, headers: Headers, body: bytes) -> Judgement:
        """It refuses nothing but malformed requests."""
        return Judgement("verbatim", f"status_{status}")

    def response_headers(self, headers: Headers) -> list[tuple[str, str]]:
        return [(name, value) for name, value in headers if name == "content-type"]

    def upstream_request_id(self, headers: Headers) -> str:
        return dict(headers).get("request-id", "")


class DemoTransport:
    """proxy/ports.py, `Transport`, without a network. `sleep` is handed in so that tests need not wait; a prompt of more than
    `context_tokens` is refused."""

    def __init__(self, sleep: Sleep = asyncio.sleep, context_tokens: int = CONTEXT_TOKENS) -> None:
        self._sleep = sleep
        self._context_tokens = context_tokens

    async def open(self, outgoing: Outgoing, *, connect_s: float, head_s: float) -> DemoIncoming:
        counting = outgoing.url.endswith("/count_tokens")
        try:
            request = _parse(outgoing.body, counting=counting)
            if not counting:
                _check_length(_input_tokens(request), self._context_tokens)
        except _Malformed as exc:
            error = {"type": "error", "error": {"type": "invalid_request_error", "message": str(exc)}}
            return DemoIncoming(400, outgoing, "application/json", [orjson.dumps(error)], self._sleep)
        if counting:
            count = {"input_tokens": _input_tokens(request)}
            return DemoIncoming(200, outgoing, "application/json", [orjson.dumps(count)], self._sleep)
        message = _answer(request, _message_id(outgoing.body))
        if request.get("stream") is True:
            return DemoIncoming(200, outgoing, "text/event-stream; charset=utf-8", _events(message), self._sleep)
        return DemoIncoming(200, outgoing, "application/json", [orjson.dumps(message)], self._sleep)

    async def close(self) -> None:
        """Nothing is open."""


class DemoIncoming:
    """proxy/ports.py, `Incoming`: hands out its pieces at a natural pace."""

    def __init__(self, status: int, outgoing: Outgoing, content_type: str, pieces: list[bytes], sleep: Sleep) -> None:
        self.status = status
        self.headers: tuple[tuple[str, str], ...] = (
            ("content-type", content_type),
            ("request-id", _message_id(outgoing.body).replace("msg_", "req_", 1)),
        )
        self._pieces = iter(pieces)
        self._sleep = sleep
        self._aborted = False

    async def read(self) -> bytes:
        piece = next(self._pieces, b"")
        if piece and not self._aborted:
            # An abort is noticed at the end of this short sleep.
            await self._sleep(PACE_S)
        if self._aborted:
            raise UpstreamError("upstream_failed", "the request to the upstream was given up", reason="aborted")
        return piece

    def abort(self) -> None:
        self._aborted = True


class _Malformed(Exception):
    """In the provider's words; becomes its 400."""


def _parse(body: bytes, *, counting: bool) -> Json:
    try:
        request = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise _Malformed("The request body is not valid JSON") from None
    if not isinstance(request, dict):
        raise _Malformed("Input should be a valid dictionary")
    if not isinstance(request.get("model"), str):
        raise _Malformed("model: Field required" if "model" not in request else "model: Input should be a valid string")
    if not counting:
        _check_max_tokens(request)
    messages = request.get("messages")
    if not isinstance(messages, list):
        raise _Malformed("messages: Field required" if messages is None else "messages: Input should be a valid list")
    if not messages:
        raise _Malformed("messages: at least one message is required")
    for index, message in enumerate(messages):
        if not isinstance(message, dict) or message.get("role") not in ("user", "assistant", "system"):
            raise _Malformed(f"messages.{index}.role: Input should be 'user', 'assistant' or 'system'")
        if not isinstance(message.get("content"), str | list):
            raise _Malformed(f"messages.{index}.content: Input should be a valid string or list")
    return request


def _check_max_tokens(request: Json) -> None:
    if "max_tokens" not in request:
        raise _Malformed("max_tokens: Field required")
    if type(request["max_tokens"]) is not int:
        raise _Malformed("max_tokens: Input should be a valid integer")
    if request["max_tokens"] < 1:
        raise _Malformed("max_tokens: Input should be greater than or equal to 1")


def _check_length(input_tokens: int, tokens_max: int) -> None:
    if input_tokens > tokens_max:
        raise _Malformed(f"prompt is too long: {input_tokens} tokens > {tokens_max} maximum")


def _answer(request: Json, message_id: str) -> Json:
    """The finished message as a non-streamed answer shows it; `_events` tells the same in pieces."""
    tool = _tool_wanted(request)
    if tool is not None:
        value = _dict(_example(tool["input_schema"]))
        block: Json = {"type": "tool_use", "id": message_id.replace("msg_", "toolu_", 1), "name": tool["name"], "input": value}
        output_tokens = _tokens(len(orjson.dumps(value)))
        if output_tokens <= request["max_tokens"]:
            return _message(request, message_id, block, "tool_use", None, output_tokens)
        # Half a tool call helps nobody: what does not fit is said in words, which may be cut.
    text, reason, sequence = _cut(_text(request), request)
    return _message(request, message_id, {"type": "text", "text": text}, reason, sequence, _tokens(len(text.encode())))


def _message(request: Json, message_id: str, block: Json, reason: str, sequence: str | None, output_tokens: int) -> Json:
    return {
        "id": message_id,
        "type": "message",
        "role": "assistant",
        "model": request["model"],
        "content": [block],
        "stop_reason": reason,
        "stop_sequence": sequence,
        "usage": {
            "input_tokens": _input_tokens(request),
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 0,
            "output_tokens": output_tokens,
        },
    }


def _text(request: Json) -> str:
    schema_format = _dict(_dict(request.get("output_config")).get("format"))
    if isinstance(schema := schema_format.get("schema"), dict):
        return orjson.dumps(_example(schema)).decode()
    count = len(request["messages"])
    said = " ".join(_last_user_text(request).split())
    if len(said) > ECHO_CHARACTERS_MAX:
        said = said[:ECHO_CHARACTERS_MAX].rsplit(" ", 1)[0] + " …"
    echo = f"the last one says: {said}" if said else "the last one holds no text"
    return (
        "This is PageGrid's built-in demo; no model was asked. "
        f"I received {count} message{'s' if count > 1 else ''}, {echo}\n\n"
        "To get real answers, name an upstream in pagegrid.toml."
    )


def _cut(text: str, request: Json) -> tuple[str, str, str | None]:
    """The text as far as stop sequences and max_tokens let it go, the stop reason, and the sequence that stopped it."""
    sequences = request.get("stop_sequences")
    found = (
        [(text.find(s), s) for s in sequences if isinstance(s, str) and s and s in text] if isinstance(sequences, list) else []
    )
    end, sequence = min(found, default=(len(text), None), key=lambda place: place[0])
    kept, bytes_max = text[:end], request["max_tokens"] * 4
    if len(kept.encode()) > bytes_max:
        return kept.encode()[:bytes_max].decode(errors="ignore"), "max_tokens", None
    return kept, "end_turn" if sequence is None else "stop_sequence", sequence


def _tool_wanted(request: Json) -> Json | None:
    """The tool to call, if one is asked for and its result is not already here (or it would be called for ever)."""
    tools = request.get("tools")
    choice = _dict(request.get("tool_choice"))
    # Only tools that the client runs have a schema; web search and its like are the provider's own.
    callable_tools = [
        tool
        for tool in (tools if isinstance(tools, list) else [])
        if isinstance(_dict(tool).get("input_schema"), dict) and isinstance(tool.get("name"), str)
    ]
    if choice.get("type") == "tool":
        callable_tools = [tool for tool in callable_tools if tool["name"] == choice.get("name")]
    if not callable_tools or choice.get("type") == "none" or _has_tool_result(request):
        return None
    said = _last_user_text(request).lower()
    if choice.get("type") in ("any", "tool") or any(phrase in said for phrase in _TOOL_PHRASES):
        return callable_tools[0]
    return None


def _has_tool_result(request: Json) -> bool:
    return any(block.get("type") == "tool_result" for block in _last_user_blocks(request))


def _last_user_text(request: Json) -> str:
    texts = [block.get("text") for block in _last_user_blocks(request) if block.get("type") == "text"]
    # The last block: clients put reminders and context before what the user typed.
    return next((text for text in reversed(texts) if isinstance(text, str)), "")


def _last_user_blocks(request: Json) -> list[Json]:
    content: Json = next((message["content"] for message in reversed(request["messages"]) if message["role"] == "user"), [])
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    return [block for block in content if isinstance(block, dict)]


def _example(schema: Json) -> Json:
    """The smallest value that a JSON schema admits, as far as tools' schemas go: required, enums, bounds, local refs.

    A schema may refer to itself, so there is a number of steps after which everything is null.
    """
    return _smallest(schema, schema, iter(range(SCHEMA_STEPS_MAX)))


def _smallest(schema: Json, root: Json, steps: Iterator[int]) -> Json:
    if not isinstance(schema, dict) or next(steps, None) is None:
        return None
    reference = schema.get("$ref")
    if isinstance(reference, str) and reference.startswith("#/"):
        target = root
        for part in reference[2:].split("/"):
            target = _dict(target).get(part)
        return _smallest(target, root, steps)
    for key in ("const", "default"):
        if key in schema:
            return schema[key]
    for key in ("enum", "examples"):
        if isinstance(schema.get(key), list) and schema[key]:
            return schema[key][0]
    for key in ("anyOf", "oneOf", "allOf"):
        if isinstance(schema.get(key), list) and schema[key]:
            return _smallest(schema[key][0], root, steps)
    kind = schema.get("type", "object" if "properties" in schema else "string")
    match kind[0] if isinstance(kind, list) and kind else kind:
        case "object":
            properties = _dict(schema.get("properties"))
            required = schema.get("required")
            names = [name for name in required if isinstance(name, str)] if isinstance(required, list) else []
            return {name: _smallest(properties.get(name, {}), root, steps) for name in names}
        case "array":
            return [_smallest(schema.get("items", {}), root, steps) for _ in range(min(_bound(schema, "minItems", 0), 10))]
        case "integer" | "number":
            return _bound(schema, "minimum", 1)
        case "boolean":
            return False
        case "null":
            return None
        case _:
            return "demo".ljust(min(_bound(schema, "minLength", 0), 1000), "o")[: max(_bound(schema, "maxLength", 1000), 0)]


def _bound(schema: Json, key: str, default: int) -> int:
    value = schema.get(key)
    return value if type(value) is int else default


def _dict(value: Json) -> Json:
    return value if isinstance(value, dict) else {}


def _message_id(body: bytes) -> str:
    return "msg_demo_" + hashlib.sha256(body).hexdigest()[:20]


def _tokens(size: int) -> int:
    """Four bytes to a token, and never none: so does a provider bill."""
    return max(1, -(-size // 4))


def _input_tokens(request: Json) -> int:
    return _tokens(sum(_text_bytes(request.get(key)) for key in ("system", "messages", "tools")))


def _text_bytes(value: Json) -> int:
    """Bytes of all text within; base64 payloads are no text, and count as nothing here."""
    size, rest = 0, [value]
    while rest:
        match rest.pop():
            case str() as text:
                size += len(text.encode())
            case list() as items:
                rest.extend(items)
            case dict() as fields:
                rest.extend(item for key, item in fields.items() if not (key == "data" and fields.get("type") == "base64"))
    return size


def _events(message: Json) -> list[bytes]:
    """The provider's order: start, block, deltas, stop; a ping early on. Usage at the end is cumulative."""
    block = message["content"][0]
    if block["type"] == "text":
        opening: Json = {"type": "text", "text": ""}
        words = block["text"].split(" ")
        pieces = [word + " " for word in words[:-1]] + words[-1:]
        deltas = [{"type": "text_delta", "text": piece} for piece in pieces if piece]
    else:
        opening = block | {"input": {}}
        text = orjson.dumps(block["input"]).decode()
        parts = [text[i : i + 16] for i in range(0, len(text), 16)]
        deltas = [{"type": "input_json_delta", "partial_json": part} for part in ["", *parts]]
    start = message | {
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": message["usage"] | {"output_tokens": 1},
    }
    end = {"stop_reason": message["stop_reason"], "stop_sequence": message["stop_sequence"]}
    events: list[Json] = [
        {"type": "message_start", "message": start},
        {"type": "content_block_start", "index": 0, "content_block": opening},
        {"type": "ping"},
        *({"type": "content_block_delta", "index": 0, "delta": delta} for delta in deltas),
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": end, "usage": message["usage"]},
        {"type": "message_stop"},
    ]
    return [b"event: %s\ndata: %s\n\n" % (event["type"].encode(), orjson.dumps(event)) for event in events]
