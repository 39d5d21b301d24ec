"""Another configuration while the house is open: all of it at once, or nothing, and running requests go on as they began."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from gateway.config import Settings, parse
from gateway.errors import ClientError
from gateway.reload import reload
from gateway.usage import Usage
from tests.desk_tools import act
from tests.gateway_tools import MODEL, Gateway, ScriptedUpstream, open_gateway, settings_text, until
from tests.upstreams import scripts
from tests.upstreams.exchange import Exchange
from tests.upstreams.replies import Reply

USAGE = Usage(input_tokens=500, output_tokens=100)
COST = 500 * 2_000 + 100 * 10_000


def read(tmp_path: Path, *urls: str, more: str = "", secret: str = "") -> Settings:
    text = settings_text(*urls, more=more)
    text = text.replace("upstream-secret-1", secret) if secret else text
    return parse(text, str(tmp_path / "pagegrid.toml"), {})


async def test_what_is_reloaded_is_in_force_for_the_next_request_and_the_running_one_keeps_what_it_has(tmp_path: Path) -> None:
    released = asyncio.Event()
    slow = scripts.answer(Reply(usage=USAGE), pause=(3, released))
    async with (
        ScriptedUpstream(default=slow) as one,
        ScriptedUpstream(default=scripts.answer(Reply(usage=USAGE))) as two,
        open_gateway(tmp_path, one.url) as gateway,
    ):
        alice = await gateway.make_user("alice")
        running = asyncio.ensure_future(gateway.ask(alice, stream=True))
        await until(lambda: len(one.journal) == 1)
        more = '[billing]\nfactor = "2"\n[server]\nmax_in_flight = 7\n[brand]\nname = "Acme"\nsupport = "Ask Ada."\n'
        settings = parse(settings_text(two.url, more=more).replace("up1", "other"), str(tmp_path / "pagegrid.toml"), {})
        assert set(await reload(gateway.house, settings)) == {"server", "brand", "billing", "upstreams", "models"}
        assert (await gateway.ask(alice)).status == 200
        assert (len(one.journal), len(two.journal)) == (1, 1)
        released.set()
        answer = await running
        assert answer.status == 200 and not answer.cut
        assert 10 * 10**9 - gateway.balance(alice) == COST + 2 * COST
        rows = await gateway.usage_rows()
        assert [row["upstream"] for row in rows] == ["up1", "other"] and len({row["price_id"] for row in rows}) == 2
        assert "Ask Ada." in (await gateway.get(None, "/v1/models")).error["message"]
        assert gateway.house.walk.door.enter(0) == 0
        gateway.house.walk.door.leave(0)
        assert await reload(gateway.house, settings) == []
        await gateway.assert_settled()


async def test_plans_limits_and_history_follow_a_reload(tmp_path: Path) -> None:
    async with ScriptedUpstream(default=scripts.answer(Reply(usage=USAGE))) as up:
        async with open_gateway(tmp_path, up.url) as gateway:
            alice = await gateway.make_user("alice")
            assert (await gateway.ask(alice)).status == 200
        async with open_gateway(tmp_path, up.url) as gateway:
            assert (await gateway.ask(alice)).status == 200
            # Two requests were made today, one of them before this start, when nothing limited the day.
            await reload(gateway.house, read(tmp_path, up.url, more="[plans.default]\nrpm = 0\nrequests_per_day = 3\n"))
            assert (await gateway.ask(alice)).status == 200
            refused = await gateway.ask(alice)
            assert refused.status == 429 and "3 requests per day" in refused.error["message"]
            await gateway.assert_settled()


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ("[server]\nport = 9\n", "server.port cannot be changed while the server runs (it is 8080, not 9)"),
        ('[server]\nhost = "127.0.0.2"\n', "server.host cannot be changed"),
        (
            '[server]\nmounts = [""]\n',
            'server.mounts cannot be changed while the server runs (it is "", "/api", "/api/proxy", not ""',
        ),
        ("", "a plan that users have: pro (2 users)"),
    ],
)
async def test_what_cannot_be_reloaded_changes_nothing_and_says_so(tmp_path: Path, more: str, told: str) -> None:
    plans = "[plans.pro]\nrpm = 300\n"
    async with ScriptedUpstream() as up, open_gateway(tmp_path, up.url, more=plans) as gateway:
        for name in ("alice", "bob"):
            await act(gateway.house, "users.create", name=name, plan="pro")
        before = gateway.house.settings
        more += plans if more else ""
        with pytest.raises(ClientError) as refused:
            await reload(gateway.house, read(tmp_path, up.url, more='[brand]\nname = "Acme"\n' + more))
        assert told in refused.value.message
        assert gateway.house.settings is before and gateway.house.desk.plans is before.plans


async def test_another_secret_ends_the_rest_of_an_upstream_whose_secret_was_refused(tmp_path: Path) -> None:
    async with ScriptedUpstream() as up, open_gateway(tmp_path, up.url) as gateway:
        alice = await gateway.make_user("alice")
        up.script(scripts.refuse(401))
        assert (await gateway.ask(alice)).status == 502

        async def state() -> str:
            (shown,) = await act(gateway.house, "upstreams.list")
            return str(shown["state"])

        assert await state() == "cooling"
        # The same account still rests, whatever else changes.
        await reload(gateway.house, read(tmp_path, up.url, more='[brand]\nname = "Acme"\n'))
        assert await state() == "cooling"
        await reload(gateway.house, read(tmp_path, up.url, secret="rotated-secret"))
        assert await state() == "serving"
        assert (await gateway.ask(alice)).status == 200
        assert ("x-api-key", "rotated-secret") in up.journal[-1].headers
        await gateway.assert_settled()


async def test_a_request_that_waits_is_held_and_charged_at_the_price_that_it_is_served_at(tmp_path: Path) -> None:
    released = asyncio.Event()
    script = scripts.answer(Reply(usage=USAGE), released=released)
    async with ScriptedUpstream(default=script) as up, open_gateway(tmp_path, up.url) as gateway:
        # Enough for two at the old price, and for one at the new.
        alice = await gateway.make_user("alice", "0.008", limits={"concurrent": 1})
        running = asyncio.ensure_future(gateway.ask(alice))
        await until(lambda: len(up.journal) == 1)
        waiting = asyncio.ensure_future(gateway.ask(alice))
        await until(lambda: gateway.house.walk.releases.count(alice.key.wallet_id) == 1)
        await reload(gateway.house, read(tmp_path, up.url, more='[billing]\nfactor = "5"\n'))
        released.set()
        assert (await running).status == 200
        assert (await waiting).status == 402
        assert len(up.journal) == 1 and 8_000_000 - gateway.balance(alice) == COST
        await gateway.assert_settled()


async def test_a_model_that_is_taken_away_while_a_request_for_it_waits_is_not_found(tmp_path: Path) -> None:
    released = asyncio.Event()
    entry = """
        [[models]]
        id = "text-own"
        routes = [{ upstream = "up1" }]
        input = "1"
        output = "1"
        cache_write_5m = "1"
        cache_write_1h = "1"
        cache_read = "1"
        context_tokens = 1000
        max_output_tokens = 1000
    """
    script = scripts.answer(Reply(usage=USAGE), released=released)
    async with ScriptedUpstream(default=script) as up, open_gateway(tmp_path, up.url, more=entry) as gateway:
        alice = await gateway.make_user("alice", limits={"concurrent": 1})
        running = asyncio.ensure_future(gateway.ask(alice))
        await until(lambda: len(up.journal) == 1)
        waiting = asyncio.ensure_future(gateway.ask(alice, model="text-own"))
        await until(lambda: gateway.house.walk.releases.count(alice.key.wallet_id) == 1)
        await reload(gateway.house, read(tmp_path, up.url))
        released.set()
        assert (await running).status == 200
        gone = await waiting
        assert (gone.status, gone.error["type"]) == (404, "not_found_error")
        assert len(up.journal) == 1
        await gateway.assert_settled()


async def test_a_request_that_fails_over_after_a_reload_pays_what_it_was_held_at(tmp_path: Path) -> None:
    released = asyncio.Event()

    async def fail_late(exchange: Exchange) -> None:
        await released.wait()
        await scripts.refuse(500)(exchange)

    async with (
        ScriptedUpstream(default=fail_late) as one,
        ScriptedUpstream(default=scripts.answer(Reply(usage=USAGE))) as two,
        open_gateway(tmp_path, one.url, two.url) as gateway,
    ):
        alice = await gateway.make_user("alice")
        running = asyncio.ensure_future(gateway.ask(alice))
        await until(lambda: len(one.journal) == 1)
        await reload(gateway.house, read(tmp_path, one.url, two.url, more='[billing]\nfactor = "3"\n'))
        released.set()
        assert (await running).status == 200
        assert 10 * 10**9 - gateway.balance(alice) == COST
        one.default = two.default
        assert (await gateway.ask(alice)).status == 200
        assert 10 * 10**9 - gateway.balance(alice) == COST + 3 * COST
        await gateway.assert_settled()


async def test_reloads_under_load_lose_no_request(tmp_path: Path) -> None:
    script = scripts.answer(Reply(usage=USAGE), pace_s=0.002)
    async with (
        ScriptedUpstream(default=script) as one,
        ScriptedUpstream(default=script) as two,
        open_gateway(tmp_path, one.url, two.url) as gateway,
    ):
        alice = await gateway.make_user("alice", "100")
        stop = asyncio.Event()
        statuses: list[int] = []

        async def ask(gateway: Gateway) -> None:
            while not stop.is_set():
                answer = await gateway.ask(alice, stream=len(statuses) % 2 == 0)
                assert not answer.cut
                statuses.append(answer.status)

        asking = [asyncio.ensure_future(ask(gateway)) for _ in range(8)]
        for number in range(30):
            urls = (one.url, two.url) if number % 2 else (two.url,)
            factor = f'[billing]\nfactor = "{1 + number % 3}"\n'
            await reload(gateway.house, read(tmp_path, *urls, more=factor))
            await asyncio.sleep(0.01)
        stop.set()
        await asyncio.gather(*asking)
        assert len(statuses) > 30 and set(statuses) == {200}
        rows = await gateway.usage_rows()
        assert {row["cost_nanos"] for row in rows} <= {COST, 2 * COST, 3 * COST}
        assert sum(row["cost_nanos"] for row in rows) == 100 * 10**9 - gateway.balance(alice)
        assert MODEL in {row["model"] for row in rows}
        await gateway.assert_settled()


async def test_who_may_make_an_account_follows_a_reload(tmp_path: Path) -> None:
    async with open_gateway(tmp_path, "http://127.0.0.1:1") as gateway:
        with pytest.raises(ClientError, match="invites open nothing here"):
            await act(gateway.house, "invites.create")
        more = '[web]\nsignup = "invite"\nrequire_totp_for_admins = true\n[brand]\nname = "Acme"\n'
        assert set(await reload(gateway.house, read(tmp_path, "http://127.0.0.1:1", more=more))) == {"web", "brand"}
        await act(gateway.house, "invites.create")
        rules = gateway.house.desk.gate.rules
        assert (rules.totp_for_admins, rules.issuer) == (True, "Acme")
