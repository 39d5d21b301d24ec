"""Two dialects on either side: a client of each, and upstreams of each before one scripted server.

    async with open_pair(tmp_path) as pair:
        answer = await pair.ask(CHAT, "house-a", stream=True)      an OpenAI client on an Anthropic upstream
        said = CHAT.read(answer, stream=True)                      strictly by the official SDK's types, joined by its helpers

Models, all at the same price: `house-a` and `house-o` are served under another name by an upstream of one kind, MODEL and GPT
under their own, `both-a` and `both-o` by both kinds, the one of their letter first, and `any-a` is a virtual model over both.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openai.lib.streaming import chat as streaming
from openai.types import chat

from gateway.usage import Usage
from gateway.wire.call import Dialect
from tests.gateway_tools import MODEL, Answer, Gateway, ScriptedUpstream, User, open_gateway
from tests.wire.anthropic_streams import check_message, reassemble

GPT = "gpt-up"
IN, OUT, READ, WRITE = 2_000, 10_000, 200, 2_500
SECRETS = ("upstream-secret", "org-leak", "req_upstream", "msg_scripted", "chatcmpl-scripted", "fp_scripted")

_PRICES = 'input = "2"\noutput = "10"\ncache_write_5m = "2.5"\ncache_write_1h = "4"\ncache_read = "0.2"\n'
_SIZES = "context_tokens = 200000\nmax_output_tokens = 64000\n"


@dataclass(frozen=True)
class Said:
    """What a client of either dialect understood of an answer."""

    text: str
    thinking: str
    calls: tuple[tuple[str, Any], ...]
    stop: str
    usage: tuple[int, int, int] | None  # prompt in all, of it read from a cache, output


@dataclass(frozen=True)
class Client:
    dialect: Dialect
    path: str
    limit_header: str

    def body(self, model: str, *, stream: bool = False, **fields: Any) -> dict[str, Any]:
        body = {"model": model, "max_tokens": 100, "messages": [{"role": "user", "content": "say hi"}], **fields}
        body |= {"stream": True} if stream else {}
        return {name: value for name, value in body.items() if value is not None}

    def read(self, answer: Answer, *, stream: bool, translated: bool = True) -> Said:
        """Fails on whatever the official SDK would not take, or an answer that did not end; if it was translated, also on what
        the SDK does not know."""
        assert answer.status == 200 and not answer.cut, (answer.status, answer.body)
        return _read_messages(answer, stream, translated) if self.dialect == "anthropic" else _read_chat(answer, stream)

    def error(self, answer: Answer) -> dict[str, Any]:
        """The error of a refusal, in this dialect's shape and no other."""
        return self._checked(answer.json)

    def error_within(self, answer: Answer) -> dict[str, Any]:
        """The error that a stream ended with; nothing of it looks like a clean end."""
        assert answer.status == 200 and answer.cut, answer.body[-500:]
        last = answer.body.removesuffix(b"\n\n").rpartition(b"\n\n")[2]
        if self.dialect == "anthropic":
            assert last.startswith(b"event: error\ndata: ") and b"message_stop" not in answer.body
        else:
            assert last.startswith(b"data: ") and b"[DONE]" not in answer.body
        assert answer.body.count(b'"error":') == 1
        return self._checked(json.loads(last.rpartition(b"data: ")[2]))

    def _checked(self, body: Any) -> dict[str, Any]:
        error: dict[str, Any] = body["error"]
        if self.dialect == "anthropic":
            assert (
                body["type"] == "error"
                and isinstance(error["type"], str)
                and set(error) <= {"type", "message", "upstream_message"}
            )
        else:
            assert set(body) == {"error"} and set(error) == {"message", "type", "param", "code"}
        assert isinstance(error["message"], str) and error["message"]
        return error


MESSAGES = Client("anthropic", "/v1/messages", "anthropic-ratelimit-requests-limit")
CHAT = Client("openai", "/v1/chat/completions", "x-ratelimit-limit-requests")
CLIENTS = (MESSAGES, CHAT)


@dataclass
class Pair:
    """`claude` is asked in Anthropic's dialect, `gpt` in OpenAI's."""

    gateway: Gateway
    claude: ScriptedUpstream
    gpt: ScriptedUpstream
    alice: User

    def upstream(self, model: str) -> ScriptedUpstream:
        return self.claude if model in ("house-a", MODEL) else self.gpt

    async def ask(
        self, client: Client, model: str, *, user: User | None = None, headers: dict[str, str] | None = None, **fields: Any
    ) -> Answer:
        raw = json.dumps(client.body(model, **fields)).encode()
        return await self.gateway.ask(user or self.alice, path=client.path, raw=raw, headers=headers)

    async def assert_settled(self) -> None:
        await self.gateway.assert_settled()
        in_flight = self.gateway.house.walk.router._in_flight
        assert not any(in_flight.values()), in_flight


@asynccontextmanager
async def open_pair(
    data_dir: Path, *, more: str = "", balance: str = "10", tick_s: float = 0, clock: Any = None
) -> AsyncIterator[Pair]:
    async with ScriptedUpstream() as claude, ScriptedUpstream() as gpt:
        text = more + "".join(
            f'\n[[upstreams]]\nname = "{name}"\nkind = "openai"\nbase_url = "{gpt.url}/v1"\n'
            f'api_key = "upstream-secret-{name}"\npriority = {priority}\n'
            for name, priority in (("chat0", 0), ("chat9", 9))
        )
        for model, routes in {
            "house-a": (("up1", MODEL),),
            "house-o": (("chat9", GPT),),
            GPT: (("chat9", GPT),),
            "both-a": (("up1", MODEL), ("chat9", GPT)),
            "both-o": (("chat0", GPT), ("up1", MODEL)),
        }.items():
            listed = ", ".join(f'{{ upstream = "{upstream}", model = "{name}" }}' for upstream, name in routes)
            text += f'\n[[models]]\nid = "{model}"\nroutes = [{listed}]\n{_PRICES}{_SIZES}'
        text += '\n[[models]]\nid = "any-a"\nserves = ["house-a", "house-o"]\n'
        async with open_gateway(data_dir, claude.url, more=text, tick_s=tick_s, clock=clock) as gateway:
            yield Pair(gateway, claude, gpt, await gateway.make_user("alice", balance))


def cost(usage: Usage) -> int:
    return (
        usage.input_tokens * IN + usage.output_tokens * OUT + usage.cache_read_tokens * READ + usage.cache_write_5m_tokens * WRITE
    )


def _read_messages(answer: Answer, stream: bool, translated: bool) -> Said:
    if stream:
        events = [event + b"\n\n" for event in answer.body.removesuffix(b"\n\n").split(b"\n\n")]
        message = reassemble(events, extras=not translated)
    else:
        message = check_message(answer.body)
    blocks, usage = message["content"], message["usage"]
    read = usage.get("cache_read_input_tokens") or 0
    prompt = usage["input_tokens"] + read + (usage.get("cache_creation_input_tokens") or 0)
    return Said(
        "".join(block["text"] for block in blocks if block["type"] == "text"),
        "".join(block["thinking"] for block in blocks if block["type"] == "thinking"),
        tuple((block["name"], block["input"]) for block in blocks if block["type"] == "tool_use"),
        message["stop_reason"],
        (prompt, read, usage["output_tokens"]),
    )


_FINISHED = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use", "content_filter": "refusal"}


def _read_chat(answer: Answer, stream: bool) -> Said:
    if stream:
        state = streaming.ChatCompletionStreamState()
        *events, last = answer.body.removesuffix(b"\n\n").split(b"\n\n")
        assert last == b"data: [DONE]"
        for event in events:
            if not event.startswith(b":"):
                state.handle_chunk(chat.ChatCompletionChunk.model_validate_json(event.removeprefix(b"data: "), strict=True))
        completion: Any = state.current_completion_snapshot
    else:
        completion = chat.ChatCompletion.model_validate_json(answer.body, strict=True)
    (choice,) = completion.choices
    message, usage = choice.message, completion.usage
    details = usage.prompt_tokens_details if usage is not None else None
    return Said(
        message.content or "",
        getattr(message, "reasoning_content", None) or "",
        tuple((call.function.name, json.loads(call.function.arguments)) for call in message.tool_calls or ()),
        _FINISHED[choice.finish_reason],
        (usage.prompt_tokens, (details.cached_tokens or 0) if details else 0, usage.completion_tokens)
        if usage is not None
        else None,
    )
