"""What these tests share: the server asked without a gateway, the official SDKs before one, and the books behind it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import aiohttp
import anthropic
import openai

from gateway.usage import Usage
from tests.gateway_tools import Gateway, User
from tests.llama.gguf import CONTEXT_TOKENS

# By its Chat Completions, and by what it offers as Anthropic's Messages.
MODEL, OWN_MESSAGES = "house-heart", "house-messages"
WEATHER_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
WEATHER: Any = {"type": "function", "function": {"name": "weather", "description": "Of a city.", "parameters": WEATHER_SCHEMA}}
ANTHROPIC_WEATHER: Any = {"name": "weather", "description": "Of a city.", "input_schema": WEATHER_SCHEMA}
CITIES = [{"city": "Rome"}, {"city": "Oslo"}]
DRAIN_S = 0.2

_PRICES = f"""
input = "3.00"
output = "15.00"
cache_write_5m = "3.75"
cache_write_1h = "6.00"
cache_read = "0.30"
context_tokens = {CONTEXT_TOKENS}
max_output_tokens = {CONTEXT_TOKENS}
"""


@dataclass(frozen=True, slots=True)
class Llama:
    url: str

    async def ask(self, path: str, **body: Any) -> Any:
        async with aiohttp.ClientSession() as session, session.post(self.url + path, json=body) as answer:
            return await answer.json()

    async def busy(self) -> int:
        """How many of its slots work."""
        async with aiohttp.ClientSession() as session, session.get(self.url + "/slots") as answer:
            return sum(slot["is_processing"] for slot in await answer.json())


def settings_of(llama: Llama) -> str:
    upstreams = "".join(
        f'[[upstreams]]\nname = "{name}"\nkind = "{kind}"\nbase_url = "{llama.url}{path}"\napi_key = "upstream-secret"\n'
        for name, kind, path in (("llama", "openai", "/v1"), ("llama-messages", "anthropic", ""))
    )
    models = "".join(
        f'[[models]]\nid = "{model}"\nroutes = [{{ upstream = "{upstream}", model = "by-heart" }}]\n{_PRICES}'
        for model, upstream in ((MODEL, "llama"), (OWN_MESSAGES, "llama-messages"))
    )
    return f"[billing]\ndrain_seconds = {DRAIN_S}\n{upstreams}{models}"


def openai_client(gateway: Gateway, user: User) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(api_key=user.secret, base_url=gateway.url + "/v1", max_retries=0)


def anthropic_client(gateway: Gateway, user: User) -> anthropic.AsyncAnthropic:
    return anthropic.AsyncAnthropic(api_key=user.secret, base_url=gateway.url, max_retries=0)


def says(text: str, **fields: Any) -> Any:
    """A request's fields, in either dialect."""
    return {"model": MODEL, "max_tokens": 200, "messages": [{"role": "user", "content": text}], **fields}


async def booked(gateway: Gateway) -> list[tuple[Usage, str]]:
    """What every usage row says, and its source; `assert_settled` before, so that nothing is missing."""
    await gateway.assert_settled()
    return [
        (Usage(row["input_tokens"], row["output_tokens"], cache_read_tokens=row["cache_read_tokens"]), row["source"])
        for row in await gateway.usage_rows()
    ]


async def assert_booked_as_reported(gateway: Gateway, prompt_tokens: int, completion_tokens: int, times: int = 1) -> None:
    """Each of so many requests: asked once, and charged as the server counts. (How much of a prompt it had in its cache
    depends on what it was asked before; here and there it is part of the prompt.)"""
    rows = await booked(gateway)
    assert [(usage.prompt_tokens, usage.output_tokens, source) for usage, source in rows] == [
        (prompt_tokens, completion_tokens, "reported")
    ] * times
    assert [status_and_reason for _, *status_and_reason in await gateway.attempts()] == [[200, "ok"]] * times
