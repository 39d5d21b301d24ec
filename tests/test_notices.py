"""Low balances: told once, to whom it concerns, whatever the webhook does."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from gateway import metrics
from gateway.config import Notices, parse
from gateway.house import House, open_house
from gateway.money import parse_usd as usd
from gateway.notices import sign
from tests.desk_tools import act, audit_rows, desk_house, make_ada
from tests.fakes import FakeClock
from tests.gateway_tools import ScriptedUpstream, open_gateway, settings_text, until
from tests.upstreams import scripts

SECRET = "whsec-" + "5ecret" * 6
PATH = "/hooks/T0K3N-in-the-path/"


@dataclass
class Webhook:
    """A real server that keeps what it was sent; each request takes the next of `answers`, (status, seconds to wait)."""

    url: str = ""
    seen: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    answers: list[tuple[int, float]] = field(default_factory=list)

    @property
    def told(self) -> list[Any]:
        return [json.loads(body) for _, body in self.seen]

    async def handle(self, request: web.Request) -> web.Response:
        assert (request.method, request.path) == ("POST", PATH)
        self.seen.append(({name.lower(): value for name, value in request.headers.items()}, await request.read()))
        status, wait_s = self.answers.pop(0) if self.answers else (204, 0)
        await asyncio.sleep(wait_s)
        return web.Response(status=status, headers={"location": PATH} if status == 307 else {})


@asynccontextmanager
async def listening() -> AsyncIterator[Webhook]:
    webhook = Webhook()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", webhook.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    webhook.url = f"http://127.0.0.1:{runner.addresses[0][1]}{PATH}"
    try:
        yield webhook
    finally:
        await runner.cleanup()


def notices(webhook: Webhook | None, folder: Path, threshold: str = "9.9999", *, signed: bool = True) -> str:
    """[notices] for a house whose requests take a wallet of $10 below `threshold`, with the secret's file in its place."""
    (folder / "webhook.secret").write_text(SECRET + "\n")
    (folder / "webhook.secret").chmod(0o600)
    lines = ["[notices]", f'low_balance = "{threshold}"']
    if webhook is not None:
        lines.append(f'webhook_url = "{webhook.url}"')
    if signed:
        lines.append('webhook_secret_file = "webhook.secret"')
    return "\n".join(lines) + "\n"


@pytest.fixture(autouse=True)
def quick_tries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.notices.WAITS_S", (0.01, 0.02))


@pytest.fixture
def counted() -> Callable[[], tuple[int, int, int]]:
    """(told, delivered, failed) since the test began."""
    before = metrics.notices.copy()

    def since() -> tuple[int, int, int]:
        told, delivered, failed = (metrics.notices[name] - before[name] for name in ("told", "delivered", "failed"))
        return told, delivered, failed

    return since


Counted = Callable[[], tuple[int, int, int]]


# ── who is told of ───────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_wallet_that_requests_empty_is_told_of_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, counted: Counted
) -> None:
    clock = FakeClock(at_ms=1_795_210_000_250)
    async with (
        ScriptedUpstream() as up,
        listening() as webhook,
        open_gateway(tmp_path, up.url, more=notices(webhook, tmp_path), clock=clock) as gateway,
    ):
        alice, _bob = await gateway.make_user("alice", "10"), await gateway.make_user("bob", "10")
        notifier = gateway.house.notifier
        await notifier.look()
        assert (await gateway.ask(alice)).status == 200
        await notifier.look()
        await until(lambda: counted() == (1, 1, 0))
        ((headers, body),) = webhook.seen
        balance = gateway.balance(alice)
        assert json.loads(body) == {
            "type": "low_balance",
            "user": "alice",
            "balance_nanos": balance,
            "balance_usd": "9.99983",
            "threshold_nanos": 9_999_900_000,
            "threshold_usd": "9.9999",
            "at": "2026-11-20T21:26:40.250Z",
        }
        assert headers["x-pagegrid-signature"] == "sha256=" + hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()
        assert headers["content-type"] == "application/json" and headers["user-agent"].startswith("pagegrid/")
        assert headers.keys() <= {"host", "content-type", "content-length", "user-agent", "x-pagegrid-signature"}
        # Not again while it is below, however often it pays and is looked at …
        for _ in range(3):
            assert (await gateway.ask(alice)).status == 200
            await notifier.look()
        assert counted()[0] == 1
        # … but again after it was above.
        await gateway.deposit(alice, "0.1", "more")
        await notifier.look()
        assert counted()[0] == 1
        up.script(scripts.answer(scripts.Reply(usage=scripts.Usage(input_tokens=25, output_tokens=90_000))))
        assert (await gateway.ask(alice, max_tokens=100_000)).status == 200
        await notifier.look()
        await until(lambda: counted() == (2, 2, 0))
        assert webhook.told[1]["balance_nanos"] == gateway.balance(alice)
        first = next(record for record in caplog.records if record.name == "gateway.notices")
        assert (first.levelname, first.getMessage()) == (
            *("WARNING", "low balance: the wallet of alice has $9.99983, below $9.9999"),
        )
        await gateway.assert_settled()
    for secret in (SECRET, PATH.strip("/"), "T0K3N", alice.secret):
        assert secret not in caplog.text and secret not in json.dumps(webhook.told)


async def test_a_wallet_that_falls_below_while_its_stream_runs(tmp_path: Path, counted: Counted) -> None:
    """What is held is still in the wallet; what another request of it has settled is not."""
    async with (
        ScriptedUpstream() as up,
        listening() as webhook,
        open_gateway(tmp_path, up.url, more=notices(webhook, tmp_path)) as gateway,
    ):
        alice = await gateway.make_user("alice", "10")
        notifier = gateway.house.notifier
        await notifier.look()
        go_on = asyncio.Event()
        up.script(scripts.answer(pause=(3, go_on)))
        streaming = asyncio.ensure_future(gateway.ask(alice, stream=True, max_tokens=100_000))
        await until(lambda: len(gateway.house.walk.streams) == 1)
        assert gateway.house.walk.book.wallet(alice.key.wallet_id).held_nanos > usd("0.01")
        await notifier.look()
        assert counted()[0] == 0
        assert (await gateway.ask(alice)).status == 200
        await notifier.look()
        await until(lambda: counted() == (1, 1, 0))
        assert not streaming.done() and webhook.told[0]["balance_nanos"] == gateway.balance(alice)
        go_on.set()
        assert not (await streaming).cut
        await notifier.look()
        assert counted()[0] == 1
        await gateway.assert_settled()


# (what happens, whether ada is told of then); the house's threshold is $1.
STORY = [
    ("topup 0.50", False),  # a new wallet was never above
    ("topup 0.50", False),
    ("withdraw 0.01", True),
    ("withdraw 0.01", False),
    ("topup 0.02", False),  # at its threshold again
    ("withdraw 0.000000001", True),
    ("topup 9.000000001", False),
    ("threshold 10.00", False),  # it has exactly that
    ("withdraw 0.01", True),
    ("threshold 5", False),
    ("threshold 9.991", True),  # the threshold rose above it
    ("threshold off", False),
    ("withdraw 9.98", False),
    ("threshold 0.005", False),
    ("threshold default", True),
    ("topup 5", False),
    ("threshold off", False),
    ("withdraw 5.01", False),
    ("topup 5", False),
    ("threshold default", False),
    ("withdraw 4.5", True),
]


async def test_a_story_of_one_wallet(tmp_path: Path, clock: FakeClock, counted: Counted) -> None:
    async with desk_house(tmp_path / "data", clock) as house:
        await make_ada(house, "0")
        told = 0
        for number, (step, tells) in enumerate(STORY):
            verb, amount = step.split()
            if verb == "threshold":
                await act(house, "users.set_low_balance", user="ada", amount=amount)
            else:
                await act(house, f"wallets.{verb}", user="ada", amount=amount, reference=f"step {number}")
            for _ in range(2):
                await house.notifier.look()
            told += tells
            assert counted()[0] == told, (number, step)


async def test_a_threshold_is_the_users_own(house: House) -> None:
    await make_ada(house)
    result = await act(house, "users.set_low_balance", user="ada", amount="2.5")
    assert (result["name"], result["low_balance_nanos"], result["low_balance_usd"], result["changed"]) == (
        *("ada", usd("2.5"), "2.50", True),
    )
    assert not (await act(house, "users.set_low_balance", user="ada", amount="2.50"))["changed"]
    assert (await act(house, "users.set_low_balance", user="ada", amount="off"))["low_balance_nanos"] == 0
    assert not (await act(house, "users.set_low_balance", user="ada", amount="0"))["changed"]
    assert (await act(house, "users.set_low_balance", user="ada", amount="default"))["low_balance_usd"] is None
    rows = [row for row in audit_rows(house.database) if row["action"] == "users.set_low_balance"]
    assert [(row["subject"], row["before"], row["after"]) for row in rows] == [
        ("user:ada", {"low_balance_nanos": None}, {"low_balance_nanos": usd("2.5")}),
        ("user:ada", {"low_balance_nanos": usd("2.5")}, {"low_balance_nanos": 0}),
        ("user:ada", {"low_balance_nanos": 0}, {"low_balance_nanos": None}),
    ]
    for amount, message in (
        ("-1", "write US dollars as plain digits"),
        ("1e3", "write US dollars as plain digits"),
        ("never", 'or write "default" or "off"'),
        ("", 'or write "default" or "off"'),
        ("0.0000000001", "at most 9 decimals"),
        ("1000000.01", "at most 1000000 USD"),
    ):
        with pytest.raises(Exception, match=message):
            await act(house, "users.set_low_balance", user="ada", amount=amount)
    with pytest.raises(Exception, match="did you mean ada"):
        await act(house, "users.set_low_balance", user="adda", amount="1")


@pytest.fixture
async def house(tmp_path: Path, clock: FakeClock) -> AsyncIterator[House]:
    async with desk_house(tmp_path / "data", clock) as house:
        yield house


async def test_many_wallets_are_looked_at_without_holding_the_loop_up(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.notices.LOOK_AT_ONCE", 2)
    for number in range(7):
        await act(house, "users.create", name=f"user-{number}")
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    counting = asyncio.ensure_future(count())
    await house.notifier.look()
    counting.cancel()
    assert turns >= 3


# ── what the webhook may do ──────────────────────────────────────────────────────────────────────────────────────────


@asynccontextmanager
async def ada_falls(
    folder: Path, webhook: Webhook | None, clock: FakeClock, *, signed: bool = True, more: str = ""
) -> AsyncIterator[House]:
    """A house without a server in which ada falls from $10 to $5, below $6; the book of it balances at the end."""
    text = settings_text("http://127.0.0.1:1", more=notices(webhook, folder, "6", signed=signed) + more)
    async with open_house(parse(text, str(folder / "pagegrid.toml"), {}), folder / "data", clock) as house:
        await make_ada(house)
        await house.notifier.look()
        await act(house, "wallets.withdraw", user="ada", amount="5", reference="back")
        await house.notifier.look()
        yield house


@pytest.mark.parametrize(
    ("answers", "tries", "problem"),
    [
        ([204], 1, None),
        ([200], 1, None),
        ([500, 204], 2, None),
        ([503, 404, 202], 3, None),
        ([500, 500, 500, 200], 3, "status 500"),
        ([401, 401, 401], 3, "status 401"),
        ([307, 307, 307], 3, "status 307"),
        ([304, 304, 304], 3, "status 304"),
    ],
    ids=str,
)
async def test_a_webhook_that_fails_is_tried_three_times(
    tmp_path: Path,
    clock: FakeClock,
    caplog: pytest.LogCaptureFixture,
    counted: Counted,
    answers: list[int],
    tries: int,
    problem: str | None,
) -> None:
    async with listening() as webhook:
        webhook.answers = [(status, 0) for status in answers]
        async with ada_falls(tmp_path, webhook, clock):
            await until(lambda: sum(counted()[1:]) == 1)
        assert counted() == ((1, 0, 1) if problem else (1, 1, 0))
        # A receiver can tell that it is the same one.
        assert len(webhook.seen) == tries and len(set(map(repr, webhook.seen))) == 1
    assert (f"did not take the notice of ada's low balance: {problem}" in caplog.text) == (problem is not None)
    assert "T0K3N" not in caplog.text


async def test_nobody_listens(tmp_path: Path, clock: FakeClock, caplog: pytest.LogCaptureFixture, counted: Counted) -> None:
    async with listening() as webhook:
        pass
    async with ada_falls(tmp_path, webhook, clock):
        await until(lambda: counted() == (1, 0, 1))
    assert "connect (127.0.0.1:" in caplog.text and "T0K3N" not in caplog.text


async def test_without_a_secret_it_is_not_signed(tmp_path: Path, clock: FakeClock, counted: Counted) -> None:
    async with listening() as webhook, ada_falls(tmp_path, webhook, clock, signed=False):
        await until(lambda: counted() == (1, 1, 0))
        assert "x-pagegrid-signature" not in webhook.seen[0][0]


async def test_without_a_webhook_the_log_has_it(
    tmp_path: Path, clock: FakeClock, caplog: pytest.LogCaptureFixture, counted: Counted
) -> None:
    async with ada_falls(tmp_path, None, clock):
        assert counted() == (1, 0, 0)
    assert "low balance: the wallet of ada has $5.00, below $6.00" in caplog.text


async def test_a_house_that_has_not_read_the_secret_sends_nothing(tmp_path: Path, clock: FakeClock, counted: Counted) -> None:
    """A command that opens the house by itself needs no secrets; its notices would be unsigned."""
    async with listening() as webhook:
        text = settings_text("http://127.0.0.1:1", more=notices(webhook, tmp_path, "6"))
        settings = parse(text, str(tmp_path / "pagegrid.toml"), {}, "unneeded")
        async with open_house(settings, tmp_path / "data", clock) as house:
            await make_ada(house)
            await house.notifier.look()
            await act(house, "wallets.withdraw", user="ada", amount="5", reference="back")
            await house.notifier.look()
        assert counted() == (1, 0, 0) and webhook.seen == []


async def test_a_webhook_that_hangs_keeps_nobody_waiting(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, counted: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.notices.ANSWER_S", 1)
    monkeypatch.setattr("gateway.notices.CLOSE_S", 0.2)
    async with ScriptedUpstream() as up, listening() as webhook:
        webhook.answers = [(204, 60)] * 9
        async with open_gateway(tmp_path, up.url, more=notices(webhook, tmp_path)) as gateway:
            users = [await gateway.make_user(name, "10") for name in ("alice", "bob", "carol")]
            notifier = gateway.house.notifier
            await notifier.look()
            for user in users[:2]:
                assert (await gateway.ask(user)).status == 200
            await notifier.look()
            await until(lambda: len(webhook.seen) == 1)
            for _ in range(3):
                assert (await gateway.ask(users[2], stream=True)).status == 200
            await notifier.look()
            # All that, while the first try has not come to its end.
            assert len(webhook.seen) == 1 and counted() == (3, 0, 0)
            await until(lambda: counted() == (3, 0, 1))
            assert [told["user"] for told in webhook.told[:3]] == ["alice"] * 3
            await until(lambda: len(webhook.seen) == 4)
            await gateway.assert_settled()
            begun = time.monotonic()
        assert time.monotonic() - begun < 3
    assert counted() == (3, 0, 3)
    for name, problem in (("alice", "timeout"), ("bob", "the server was stopped"), ("carol", "the server was stopped")):
        assert f"did not take the notice of {name}'s low balance: {problem}" in caplog.text


async def test_more_notices_than_can_wait_are_in_the_log(
    tmp_path: Path, clock: FakeClock, caplog: pytest.LogCaptureFixture, counted: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.notices.QUEUE_MAX", 2)
    async with listening() as webhook:
        text = settings_text("http://127.0.0.1:1", more=notices(webhook, tmp_path, "6"))
        async with open_house(parse(text, str(tmp_path / "pagegrid.toml"), {}), tmp_path / "data", clock) as house:
            names = [f"user-{number}" for number in range(5)]
            for name in names:
                await act(house, "users.create", name=name)
                await act(house, "wallets.topup", user=name, amount="10", reference=name)
            await house.notifier.look()
            for name in names:
                await act(house, "wallets.withdraw", user=name, amount="5", reference=name)
            await house.notifier.look()
        assert counted() == (5, 2, 3)
        assert [told["user"] for told in webhook.told] == names[:2]
    assert caplog.text.count("too many wait to be sent") == 3 and caplog.text.count("has $5.00, below $6.00") == 5


# ── across a restart, and a reload ───────────────────────────────────────────────────────────────────────────────────


async def test_a_restart_repeats_nothing_and_a_stop_swallows_nothing(tmp_path: Path, counted: Counted) -> None:
    async with ScriptedUpstream() as up, listening() as webhook:
        more = notices(webhook, tmp_path)
        async with open_gateway(tmp_path, up.url, more=more) as gateway:
            alice, bob = await gateway.make_user("alice", "10"), await gateway.make_user("bob", "10")
            await gateway.house.notifier.look()
            # She falls below between the last look and the stop.
            assert (await gateway.ask(alice)).status == 200
            await gateway.assert_settled()
        assert counted() == (1, 1, 0) and webhook.told[0]["user"] == "alice"
        for _ in range(3):
            async with open_gateway(tmp_path, up.url, more=more) as gateway:
                await gateway.house.notifier.look()
        assert counted() == (1, 1, 0)
        async with open_gateway(tmp_path, up.url, more=more) as gateway:
            # Above again, and below again: a new story. He was above at the start, and that is known before any request.
            await gateway.deposit(alice, "0.001", "more")
            assert (await gateway.ask(bob)).status == 200
            await gateway.house.notifier.look()
            await until(lambda: counted() == (2, 2, 0))
            for number in range(8):
                assert (await gateway.ask(alice, messages=[{"role": "user", "content": f"{number}"}])).status == 200
            await gateway.house.notifier.look()
            await until(lambda: counted() == (3, 3, 0))
            await gateway.assert_settled()
        assert [told["user"] for told in webhook.told] == ["alice", "bob", "alice"]


async def test_a_reload_changes_threshold_webhook_and_secret(tmp_path: Path, clock: FakeClock, counted: Counted) -> None:
    async with listening() as first, listening() as second, ada_falls(tmp_path, first, clock) as house:
        await until(lambda: counted() == (1, 1, 0))
        fresh = Notices.model_validate({"low_balance": "3", "webhook_url": second.url, "webhook_secret_file": "other"})
        house.notifier.configure(fresh, parse(settings_text("http://127.0.0.1:1"), "x.toml", {}).upstreams[0].secret)
        await house.notifier.look()  # $5 is above now
        await act(house, "wallets.withdraw", user="ada", amount="2.5", reference="again")
        await house.notifier.look()
        await until(lambda: counted() == (2, 2, 0))
        assert (len(first.seen), second.told[0]["threshold_usd"]) == (1, "3.00")
        headers, body = second.seen[0]
        assert headers["x-pagegrid-signature"] == sign(body, "upstream-secret-1")


async def test_a_database_that_cannot_be_read_is_no_reason_to_stop(
    house: House, caplog: pytest.LogCaptureFixture, counted: Counted
) -> None:
    await make_ada(house)
    await house.notifier.look()
    await act(house, "wallets.withdraw", user="ada", amount="9.5", reference="back")
    async with users_out_of_sight(house):
        caplog.set_level(logging.WARNING)
        await house.notifier.look()
    assert "low balances cannot be looked for now" in caplog.text and counted()[0] == 0
    await house.notifier.look()
    assert counted()[0] == 1


@asynccontextmanager
async def users_out_of_sight(house: House) -> AsyncIterator[None]:
    """The table that it asks is not there for a moment."""
    await house.writer.run(lambda ledger: ledger.conn.execute("alter table users rename to elsewhere") and None)
    try:
        yield
    finally:
        await house.writer.run(lambda ledger: ledger.conn.execute("alter table elsewhere rename to users") and None)
