"""A house after a month of use: people, keys, requests of every kind, money moved in every way. For looking at pages, and for
tests that want figures worth reading. The clock stands at `NOW_MS` and moves only by hand; the same scene each time.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from gateway.desk.rollups import in_slices
from gateway.ids import render_id
from gateway.pricing import cost_nanos
from gateway.storage.rows import AttemptRow, DetailRow, HoldRow, ResolutionRow, Served
from gateway.usage import Usage
from tests.desk_tools import act, authenticate
from tests.fakes import FakeClock
from tests.gateway_tools import Gateway, open_gateway
from tests.web.tools import PASSWORD, Visitor

NOW_MS = int(datetime(2026, 11, 20, 16, 42, tzinfo=UTC).timestamp() * 1000)
DAY_MS = 86_400_000
DAYS = 30

CONFIG = """
[brand]
name = "PageGrid"
[web]
signup = "invite"
[plans.pro]
factor = "0.9"
[[upstreams]]
name = "console-eu"
kind = "demo"
[[upstreams]]
name = "spare"
kind = "demo"
priority = 2
"""
PEOPLE = (("root", "admin", "default"), ("ines", "user", "pro"), ("tidewater", "user", "default"), ("new", "user", "default"))
OPUS, SONNET, HAIKU = "claude-opus-5-5", "claude-sonnet-5-5", "claude-haiku-5-5"
AGENT = "claude-cli/2.1.329 (external, cli)"


@dataclass
class Scene:
    """`ines` has a month behind her and pays, `root` is the admin, `new` has just come; `keys` by (user, name), with secrets."""

    gateway: Gateway
    clock: FakeClock
    keys: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    requests: list[int] = field(default_factory=list)

    async def visitor(self, name: str) -> Visitor:
        """Signed in as one of them."""
        visitor = Visitor(self.gateway)
        answer = await visitor.sign_in(name)
        assert answer.status == 303, answer.body
        await visitor.get("/dashboard/settings")
        return visitor

    async def request(
        self,
        owner: tuple[str, str],
        model: str,
        usage: Usage,
        *,
        session: str = "",
        agent: str = "",
        end: Literal["reported", "estimated", "partial", "void", "running"] = "reported",
        failed_first: bool = False,
        hold_nanos: int = 0,
    ) -> int:
        """One request, as the walk would write it; it takes three seconds and its id is returned."""
        house = self.gateway.house
        key = authenticate(house, self.keys[owner]["secret"])
        deployment = house.walk.router.deployments(model)[1 if failed_first else 0]
        cost = cost_nanos(deployment.price, usage)
        hold_nanos = hold_nanos or cost * 2 + 1_000_000
        opened_ms = self.clock.at_ms()
        request_id = house.walk.ids.next(opened_ms)
        hold = house.desk.book.admit(request_id, key.wallet_id, hold_nanos, hold_nanos)
        await house.writer.submit_acknowledged(HoldRow(request_id, key.wallet_id, key.id, model, hold_nanos, opened_ms))
        self.requests.append(request_id)
        if end == "running":
            return request_id
        self.clock.advance(3_000)
        at_ms = self.clock.at_ms()
        attempts = [AttemptRow(1, "console-eu", model, 529, "status_529", opened_ms, 48)] if failed_first else []
        detail = DetailRow(
            stream=True,
            status=529 if end == "void" else 200,
            session=session,
            agent=agent,
            address="198.51.100.7",
            admitted_ms=2,
            first_byte_ms=None if end == "void" else 640,
            total_ms=3_000,
        )
        if end == "void":
            attempts.append(AttemptRow(len(attempts) + 1, deployment.upstream, model, 529, "status_529", opened_ms, 60))
            done = house.desk.book.void(hold)
            row = ResolutionRow(done, key.id, model, at_ms, tuple(attempts), detail, reason="upstream_failed")
        else:
            theirs = f"req_theirs{request_id}"
            attempts.append(
                AttemptRow(len(attempts) + 1, deployment.upstream, model, 200, "ok", opened_ms, 2_950, cost * 7 // 10, theirs)
            )
            served = Served(deployment.upstream, model, deployment.terms, usage, cost)
            done = house.desk.book.settle(hold, cost)
            row = ResolutionRow(done, key.id, model, at_ms, tuple(attempts), detail, served=served, source=end)
        await house.writer.submit_acknowledged(row)
        return request_id


@asynccontextmanager
async def open_scene(folder: Path, requests_per_day: int = 12) -> AsyncIterator[Scene]:
    """Filled, closed and opened again, so that all that is read at a start (limits, sessions, roll-ups) has seen the month."""
    clock = FakeClock(NOW_MS - DAYS * DAY_MS)
    async with open_gateway(folder, more=CONFIG, clock=clock) as gateway:
        filled = Scene(gateway, clock)
        await _fill(filled, requests_per_day)
    async with open_gateway(folder, more=CONFIG, clock=clock) as gateway:
        scene = Scene(gateway, clock, filled.keys, filled.requests)
        session = f"{9:032x}"
        for model in (OPUS, SONNET):
            await scene.request(
                ("ines", "claude-code · laptop"), model, Usage(), session=session, end="running", hold_nanos=512_400_000
            )
            clock.advance(4_000)
        yield scene


async def _fill(scene: Scene, per_day: int) -> None:
    house, clock, dice = scene.gateway.house, scene.clock, random.Random(5)
    for name, role, plan in PEOPLE:
        await act(house, "users.create", name=name, email=f"{name}@studio-nord.example", role=role, plan=plan)
        await act(house, "users.set_password", user=name, password=PASSWORD)
    await act(house, "wallets.topup", user="ines", amount="125", reference="invoice-2041", note="bank transfer")
    await act(house, "wallets.topup", user="tidewater", amount="60", reference="invoice-2042")
    for owner, limits in (
        (("ines", "claude-code · laptop"), {"spend_per_day": "10", "rpm": 60}),
        (("ines", "openclaw-home"), {"spend_per_month": "40", "rpm": 10, "concurrent": 1, "models": [SONNET, HAIKU]}),
        (("ines", "ci-nightly-regression-suite-eu-west-frankfurt-runner-07"), {"tokens_per_month": 2_000_000, "expires": "90d"}),
        (("tidewater", "default"), {}),
        (("ines", "old laptop"), {}),
    ):
        scene.keys[owner] = await act(house, "keys.create", user=owner[0], name=owner[1], **limits)
    await act(house, "keys.revoke", key_id=scene.keys.pop(("ines", "old laptop"))["id"])
    owners = list(scene.keys)
    for day in range(DAYS):
        weekend = datetime.fromtimestamp(clock.at_ms() / 1000, UTC).weekday() >= 5
        day_ends_ms = clock.at_ms() + DAY_MS
        session = f"{dice.getrandbits(128):032x}"
        for _ in range(per_day // 4 if weekend else per_day):
            owner = owners[dice.choice((0, 0, 0, 1, 2, 3))]
            model = SONNET if owner[1] == "openclaw-home" else dice.choice((OPUS, SONNET, SONNET, HAIKU))
            usage = Usage(
                input_tokens=dice.randrange(40, 2_000),
                output_tokens=dice.randrange(20, 2_500),
                cache_write_5m_tokens=dice.randrange(0, 6_000),
                cache_read_tokens=dice.randrange(10_000, 160_000),
            )
            roll = dice.random()
            await scene.request(
                owner,
                model,
                usage,
                session=session if owner[1].startswith("claude-code") else "",
                agent=dice.choice(("", "", "explore")),
                end="void" if roll < 0.04 else "partial" if roll < 0.06 else "estimated" if roll < 0.08 else "reported",
                failed_first=roll > 0.9,
            )
            clock.advance(dice.randrange(20 * 60_000, 130 * 60_000))
        if day == 12:
            await act(house, "wallets.refund", request_id=render_id(scene.requests[-3]), note="a broken answer")
            made = await act(house, "vouchers.create", count=3, amount="25", batch="meetup")
            await act(house, "vouchers.redeem", user="ines", code=made["vouchers"][0]["code"])
        if day == 20:
            await act(house, "wallets.withdraw", user="tidewater", amount="5", reference="payback-1", note="asked for it")
            await act(house, "users.create", name="closed-account", plan="default")
            await act(house, "users.disable", user="closed-account")
        if clock.at_ms() < day_ends_ms:
            clock.advance(day_ends_ms - clock.at_ms())
    clock.wall_ms = max(NOW_MS, clock.wall_ms)
    # As the chores leave it: all but the latest is rolled up.
    await in_slices(house.desk, lambda ledger: ledger.roll_up(scene.requests[-8]))
