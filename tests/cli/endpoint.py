"""An endpoint as `pagegrid check` meets it: honest by default, and wrong in whatever way a test asks for."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestServer

KEY = "sk-test-the-right-key"
MODELS = ["claude-a", "claude-b", "claude-c"]
USAGE = {"input_tokens": 9, "output_tokens": 3}
EVENTS: list[tuple[str, dict[str, Any]]] = [
    ("message_start", {"message": {"usage": {"input_tokens": 9, "output_tokens": 1}}}),
    ("content_block_start", {"index": 0, "content_block": {"type": "text", "text": ""}}),
    ("ping", {}),
    ("content_block_delta", {"index": 0, "delta": {"type": "text_delta", "text": "hi"}}),
    ("content_block_stop", {"index": 0}),
    ("message_delta", {"delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 3}}),
    ("message_stop", {}),
]


def sse(events: list[tuple[str, dict[str, Any]]]) -> bytes:
    return b"".join(f"event: {name}\ndata: {json.dumps({'type': name, **data})}\n\n".encode() for name, data in events)


@dataclass
class Endpoint:
    """What it answers; a test changes a field to be wrong in one way. `seen` are the paths that were asked for."""

    models_status: int = 200
    pages: bool = True
    message: dict[str, Any] = field(
        default_factory=lambda: {
            "type": "message",
            "role": "assistant",
            "content": [{"type": "text", "text": "hi"}],
            "stop_reason": "end_turn",
            "usage": USAGE,
        }
    )
    bearer: bool = True
    request_ids: Callable[[int], str] = "req_{}".format
    stream: bytes = field(default_factory=lambda: sse(EVENTS))
    stream_type: str = "text/event-stream; charset=utf-8"
    auth_status: int = 401
    auth_body: Any = field(default_factory=lambda: error("authentication_error"))
    unknown_status: int = 404
    tool_block: dict[str, Any] = field(
        default_factory=lambda: {"type": "tool_use", "id": "toolu_1", "name": "get_weather", "input": {"city": "Paris"}}
    )
    tool_stop: str = "tool_use"
    count: Any = 9
    redirect: str = ""
    hang: bool = False
    seen: list[str] = field(default_factory=list)
    answered: int = 0

    def app(self) -> web.Application:
        app = web.Application(middlewares=[self._frame])
        app.router.add_get("/v1/models", self._models)
        app.router.add_post("/v1/messages", self._messages)
        app.router.add_post("/v1/messages/count_tokens", self._count)
        return app

    @web.middleware
    async def _frame(self, request: web.Request, handler: Any) -> web.StreamResponse:
        self.seen.append(request.path_qs)
        if self.hang:
            await asyncio.sleep(30)
        if self.redirect:
            return web.Response(status=307, headers={"location": self.redirect})
        credential = request.headers.get("x-api-key", "")
        if self.bearer and not credential:
            credential = request.headers.get("authorization", "").removeprefix("Bearer ")
        response: web.StreamResponse
        response = await handler(request) if credential == KEY else web.json_response(self.auth_body, status=self.auth_status)
        self.answered += 1
        if not response.prepared and (value := self.request_ids(self.answered)):
            response.headers["request-id"] = value
        return response

    async def _models(self, request: web.Request) -> web.Response:
        ids, after = MODELS, request.query.get("after_id")
        if self.pages:
            ids = ids[ids.index(after) + 1 if after else 0 :][: int(request.query.get("limit", "20"))]
        more = self.pages and bool(ids) and ids[-1] != MODELS[-1]
        return web.json_response({"data": [{"id": name} for name in ids], "has_more": more}, status=self.models_status)

    async def _messages(self, request: web.Request) -> web.Response:
        body = await request.json()
        if "messages" not in body:
            return web.json_response(error("invalid_request_error"), status=400)
        if body["model"] not in MODELS:
            return web.json_response(error("not_found_error"), status=self.unknown_status)
        if body.get("stream"):
            return web.Response(body=self.stream, headers={"content-type": self.stream_type})
        if body.get("tools"):
            return web.json_response({**self.message, "content": [self.tool_block], "stop_reason": self.tool_stop})
        return web.json_response(self.message)

    async def _count(self, request: web.Request) -> web.Response:
        return web.json_response({"input_tokens": self.count})


def error(kind: str) -> dict[str, Any]:
    return {"type": "error", "error": {"type": kind, "message": "no"}, "request_id": "req_x"}


@asynccontextmanager
async def serving_endpoint(endpoint: Endpoint) -> AsyncIterator[str]:
    async with TestServer(endpoint.app()) as server:
        yield str(server.make_url("")).rstrip("/")
