"""Many requests, abandoned ones, and a server that closes its connections without a word: behind both surfaces at once."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
import pytest

from gateway.usage import tokens_of_bytes
from tests.gateway_tools import Answer, Gateway, User, until
from tests.llama.gguf import CONTEXT_TOKENS, EVER, TEXT
from tests.llama.tools import MODEL, OWN_MESSAGES, Llama, booked, says

SAID = "".join(TEXT)
CHAT, MESSAGES = "/v1/chat/completions", "/v1/messages"
# Path and model: each surface on each kind of upstream.
WAYS = [(CHAT, MODEL), (MESSAGES, MODEL), (MESSAGES, OWN_MESSAGES), (CHAT, OWN_MESSAGES)]
# It closes the connection of a whole answer when that lay idle for so long, that of a stream at once.
KEEPALIVE_S = 5


def text_of(answer: Answer) -> str:
    """What an answer says, whole or streamed, in either dialect."""
    if answer.body.startswith(b"{"):
        whole = answer.json
        return whole["choices"][0]["message"]["content"] if "choices" in whole else whole["content"][0]["text"]
    return "".join(
        data["choices"][0]["delta"].get("content") or "" if data.get("choices") else data.get("delta", {}).get("text", "")
        for _, data in Answer(200, {}, answer.body.replace(b"data: [DONE]\n\n", b"")).events
    )


async def assert_each_asked_once(gateway: Gateway, times: int) -> None:
    rows = await booked(gateway)
    assert [(usage.output_tokens, source) for usage, source in rows] == [(len(TEXT) + 1, "reported")] * times
    assert [attempt[1:] for attempt in await gateway.attempts()] == [(200, "ok")] * times


async def test_no_attempt_fails_of_connections_that_it_drops(gateway: Gateway) -> None:
    alice = await gateway.make_user("alice")
    for path, model in WAYS:
        for stream in (False, True, True, False, False, True):
            answer = await gateway.ask(alice, path=path, **says("say hi", model=model) | {"stream": stream})
            assert (answer.status, text_of(answer), answer.cut) == (200, SAID, False)
    await assert_each_asked_once(gateway, 6 * len(WAYS))


async def test_no_attempt_fails_of_connections_that_are_asked_again_while_they_go(gateway: Gateway) -> None:
    """The next request is there before the end of the last one's connection: about one in a hundred meets a dead one."""
    alice = await gateway.make_user("alice")

    async def ask(times: int) -> None:
        for _ in range(times):
            answer = await gateway.ask(alice, path=CHAT, **says("say hi", max_tokens=1, stream=True))
            assert (answer.status, text_of(answer), answer.cut) == (200, TEXT[0], False)

    await asyncio.gather(*(ask(60) for _ in range(8)))
    assert {usage.output_tokens for usage, _ in await booked(gateway)} == {1}
    assert [attempt[1:] for attempt in await gateway.attempts()] == [(200, "ok")] * 480


async def test_no_attempt_fails_of_idle_connections_that_it_closes(gateway: Gateway) -> None:
    """Asked again on several of them in the very moment in which it closes them."""
    alice = await gateway.make_user("alice")

    async def ask(after_s: float) -> None:
        await asyncio.sleep(after_s)
        assert text_of(await gateway.ask(alice, path=CHAT, **says("say hi"))) == SAID

    connections = 8
    await asyncio.gather(*(ask(0) for _ in range(connections)))
    await asyncio.gather(*(ask(KEEPALIVE_S - 0.01 + number * 0.005) for number in range(connections)))
    await assert_each_asked_once(gateway, 2 * connections)


async def test_many_at_once_on_all_ways(gateway: Gateway) -> None:
    users = [await gateway.make_user(f"user{number}") for number in range(3)]
    asked = [(user, path, model, stream) for user in users for path, model in WAYS for stream in (False, True)]
    answers = await asyncio.gather(
        *(gateway.ask(user, path=path, **says("say hi", model=model) | {"stream": stream}) for user, path, model, stream in asked)
    )
    assert {(answer.status, text_of(answer), answer.cut) for answer in answers} == {(200, SAID, False)}
    await assert_each_asked_once(gateway, len(asked))


async def assert_idle(llama: Llama) -> None:
    """Soon; what it would have gone on to make lasts a minute."""
    async with asyncio.timeout(10):
        while await llama.busy():
            await asyncio.sleep(0.02)


async def leave_after(gateway: Gateway, user: User, path: str, bytes_min: int, **fields: Any) -> bytes:
    """Ask, read that many bytes, hang up."""
    read = b""
    async with (
        aiohttp.ClientSession() as session,
        session.post(gateway.url + path, json=fields, headers={"x-api-key": user.secret}) as response,
    ):
        assert response.status == 200
        while len(read) < bytes_min:
            read += await response.content.readany()
        response.close()
    return read


@pytest.mark.parametrize(("path", "model"), WAYS)
async def test_it_stops_when_the_client_leaves_who_pays_what_was_made(
    gateway: Gateway, llama: Llama, path: str, model: str
) -> None:
    alice = await gateway.make_user("alice")
    limit = CONTEXT_TOKENS - 1000
    asked = says("go on for ever", model=model, max_tokens=limit, stream=True)
    read = await leave_after(gateway, alice, path, 20_000, **asked)
    await until(lambda: not gateway.house.walk.running)
    await assert_idle(llama)
    [(usage, source)] = await booked(gateway)
    words = read.count(EVER[0].strip().encode()) + read.count(EVER[1].strip().encode())
    assert source == "estimated" and usage.prompt_tokens > 0
    # By the bytes, of which each of its words has five: at least what was delivered, and nothing like the whole.
    assert tokens_of_bytes(words * len(EVER[0])) <= usage.output_tokens < limit / 2
    [(_, status, reason)] = await gateway.attempts()
    assert (status, reason) == (200, "gone")


async def test_it_stops_when_the_wallet_is_empty(gateway: Gateway, llama: Llama) -> None:
    alice = await gateway.make_user("alice", "0.10")
    answer = await gateway.ask(alice, path=CHAT, **says("go on for ever", max_tokens=CONTEXT_TOKENS - 1000, stream=True))
    assert answer.cut and answer.events[-1][1]["error"]["code"] == "insufficient_quota"
    await assert_idle(llama)
    [(usage, source)] = await booked(gateway)
    # (By the bytes it made a quarter more than it counts; its own count it would have told at the end.)
    assert source == "estimated" and 4_000 < usage.output_tokens < 7_000
    assert 0 <= gateway.balance(alice) < 50_000_000
    assert [attempt[1:] for attempt in await gateway.attempts()] == [(200, "dry")]


async def test_a_whole_answer_is_made_and_paid_though_the_client_left(gateway: Gateway, llama: Llama) -> None:
    alice = await gateway.make_user("alice")
    tokens = 2_000
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await gateway.ask(alice, path=CHAT, **says("go on for ever", max_tokens=tokens))
    await until(lambda: not gateway.house.walk.running, 30)
    [(usage, source)] = await booked(gateway)
    assert (usage.output_tokens, source) == (tokens, "reported")


async def test_it_can_be_asked_whether_it_is_there(gateway: Gateway) -> None:
    for name in ("llama", "llama-messages"):
        told = await gateway.house.desk.upstreams.test(name)
        assert (told["ok"], told["status"], told["detail"]) == (True, 200, "ok")
