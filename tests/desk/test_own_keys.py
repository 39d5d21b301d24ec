"""Keys in the hands of their own user: never more than was given, and back to what was given at any time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from ipaddress import ip_network
from typing import Any

import pytest

from gateway.access import Key, Own, Plan
from gateway.desk import own_keys
from gateway.desk.own_keys import KEYS_PER_DAY_MAX, Wish
from gateway.desk.signin import look
from gateway.desk.users import get_member
from gateway.errors import ClientError
from gateway.house import House
from gateway.limits import DAY_MS, Terms
from gateway.sessions import web_actor
from gateway.storage import keys
from gateway.storage.ledger import LedgerWriter
from tests.desk_tools import act, audit_rows, authenticate
from tests.fakes import FakeClock

OPUS, SONNET, HAIKU = "claude-opus-5-5", "claude-sonnet-5-5", "claude-haiku-5-5"
HERE = "10.1.1.1"


class Owner:
    """ada at her pages."""

    def __init__(self, house: House, user_id: int) -> None:
        self.house = house
        self.user_id = user_id
        self.actor = web_actor("ada", HERE)

    async def create(self, expires: str | None = None, **asked: Any) -> dict[str, Any]:
        member = await look(self.house.desk, lambda conn: get_member(conn, self.user_id))
        return await own_keys.create_own_key(self.house.desk, self.actor, member, wish(**asked), expires)

    async def find(self, key_id: int) -> Key:
        at_ms = self.house.desk.clock.at_ms()
        return await look(self.house.desk, lambda conn: own_keys.get_living_key(conn, self.user_id, key_id, at_ms))

    async def update(self, key_id: int, **asked: Any) -> dict[str, Any]:
        key = await self.find(key_id)
        given = await look(self.house.desk, lambda conn: own_keys.given_to(conn, key))
        return await own_keys.update_own_key(self.house.desk, self.actor, key, given, wish(**asked))

    async def rotate(self, key_id: int, grace: str = "0") -> dict[str, Any]:
        return await own_keys.rotate_own_key(self.house.desk, self.actor, await self.find(key_id), grace)


def wish(name: str = "laptop", models: list[str] | None = None, addresses: list[str] | None = None, **limits: Any) -> Wish:
    return Wish(name, limits, models, addresses)


@pytest.fixture
async def ada(house: House) -> Owner:
    made = await act(house, "users.create", name="ada")
    # Of whom "ada" is the beginning.
    await act(house, "users.create", name="ada.b")
    return Owner(house, made["id"])


def under(house: House, **plan: Any) -> None:
    house.desk.plans = {**house.desk.plans, "default": Plan("default", **plan)}
    house.desk.keys.set_plans(house.desk.plans)


async def refusal(doing: Awaitable[Any]) -> tuple[str | None, str]:
    with pytest.raises(ClientError) as caught:
        await doing
    return caught.value.param, caught.value.message


PLAN = {
    "terms": Terms(rpm=60, spend_per_day_nanos=10 * 10**9),
    "models": frozenset({SONNET, HAIKU}),
    "addresses": (ip_network("10.0.0.0/8"), ip_network("2001:db8::/32")),
    "keys_expire": "90d",
}
TOO_MUCH = [
    ({"rpm": 61}, "rpm", "you were given 60"),
    ({"rpm": 0}, "rpm", "you were given 60"),
    ({"spend_per_day": "10.000000001"}, "spend_per_day", "you were given $10.00"),
    ({"spend_per_day": "0"}, "spend_per_day", "you were given $10.00"),
    ({"models": [SONNET, OPUS]}, "models", f"may not have {OPUS}"),
    ({"addresses": ["0.0.0.0/0"]}, "addresses", "within 10.0.0.0/8, 2001:db8::/32"),
    ({"addresses": ["10.1.0.0/16", "11.0.0.1"]}, "addresses", "within"),
    ({"addresses": ["2001:db9::/32"]}, "addresses", "within"),
]
ENOUGH = [
    {"rpm": 60, "spend_per_day": "10"},
    {"rpm": 1, "tpm": 5, "tokens_per_month": 0},
    {"models": [HAIKU]},
    {"addresses": ["10.1.0.0/16", "2001:db8:1::/48"]},
]


@pytest.mark.parametrize(("asked", "field", "words"), TOO_MUCH)
async def test_nobody_asks_for_more_than_the_plan_gives(
    house: House, ada: Owner, asked: dict[str, Any], field: str, words: str
) -> None:
    under(house, **PLAN)
    param, message = await refusal(ada.create(**asked))
    assert param == field and words in message
    key = await ada.create()
    param, message = await refusal(ada.update(key["id"], **asked))
    assert param == field and words in message
    assert (await ada.find(key["id"])).own.limits == ()
    assert [row["action"] for row in audit_rows(house.database)] == ["users.create", "users.create", "keys.create"]


@pytest.mark.parametrize("asked", ENOUGH)
async def test_as_much_or_less_is_fine_and_may_be_taken_back(house: House, ada: Owner, asked: dict[str, Any]) -> None:
    under(house, **PLAN)
    made = await ada.create(**asked)
    assert authenticate(house, made["secret"]).own != (await ada.find((await ada.create())["id"])).own
    await ada.update(made["id"])
    assert (await ada.find(made["id"])).own == (await ada.find((await ada.create())["id"])).own
    assert authenticate(house, made["secret"]).terms == Terms(rpm=60, spend_per_day_nanos=10 * 10**9)
    await ada.update(made["id"], **asked)


@pytest.mark.parametrize(("expires", "fits"), [("90d", True), ("1d", True), (None, True), ("91d", False), ("never", False)])
async def test_a_key_lives_no_longer_than_the_plan_lets_it(
    house: House, ada: Owner, clock: FakeClock, expires: str | None, fits: bool
) -> None:
    under(house, **PLAN)
    if not fits:
        assert await refusal(ada.create(expires)) == ("expires", "expires: your plan lets a key live for 90d at most")
    else:
        made = await ada.create(expires)
        assert made["expires_at_ms"] == clock.at_ms() + (1 if expires == "1d" else 90) * DAY_MS


async def test_what_an_operator_set_is_not_lifted(house: House, ada: Owner) -> None:
    under(house, **PLAN)
    made = await ada.create(spend_per_day="8", rpm=50)
    await act(house, "keys.update", key_id=made["id"], spend_per_day="5", models=[HAIKU])
    assert (await refusal(ada.update(made["id"], spend_per_day="6")))[0] == "spend_per_day"
    assert (await refusal(ada.update(made["id"], models=[SONNET])))[0] == "models"
    # Tighter, then empty: what the operator said, not what the plan says; and her own is gone.
    await ada.update(made["id"], spend_per_day="2")
    assert (await refusal(ada.update(made["id"], spend_per_day="6")))[0] == "spend_per_day"
    await ada.update(made["id"])
    key = await ada.find(made["id"])
    assert dict(key.own.limits) == {"spend_per_day_nanos": 5 * 10**9} and key.own.models == frozenset({HAIKU})
    # A rotation does not shake it off.
    new = await ada.rotate(made["id"])
    assert (await refusal(ada.update(new["id"], spend_per_day="6")))[0] == "spend_per_day"
    # What the operator gives back is hers again.
    await act(house, "keys.update", key_id=new["id"], spend_per_day="plan")
    await ada.update(new["id"], spend_per_day="10")


async def test_what_an_operator_gave_beyond_the_plan_is_hers_to_use(house: House, ada: Owner) -> None:
    under(house, **PLAN)
    made = await act(house, "keys.create", user="ada", rpm=600, addresses=["192.0.2.0/24"])
    await ada.update(made["id"], rpm=100, name="new name")
    await ada.update(made["id"], rpm=600)
    await ada.update(made["id"], rpm=5, addresses=["192.0.2.7"])
    assert (await refusal(ada.update(made["id"], rpm=601)))[0] == "rpm"
    assert (await refusal(ada.update(made["id"], addresses=["10.0.0.1"])))[0] == "addresses"
    await ada.update(made["id"])
    key = await ada.find(made["id"])
    assert dict(key.own.limits) == {"rpm": 600} and key.own.addresses == (ip_network("192.0.2.0/24"),)


async def test_another_users_page_is_an_operators_word(house: House, ada: Owner) -> None:
    """An admin who is signed in is not ada, also if the name begins like hers."""
    made = await ada.create()
    for actor in (web_actor("ada.b", HERE), "api:ada", "cli:ada"):
        await own_keys.update_key(house.desk, actor, key_id=made["id"], rpm=5)
        assert (await refusal(ada.update(made["id"], rpm=6)))[0] == "rpm"
        await own_keys.update_key(house.desk, actor, key_id=made["id"], rpm="plan")
    await ada.update(made["id"], rpm=6)


async def test_a_key_of_which_the_audit_log_knows_nothing_keeps_what_it_has(house: House, ada: Owner) -> None:
    def job(ledger: LedgerWriter) -> int:
        return keys.insert_key(
            ledger.conn,
            user_id=ada.user_id,
            name="old",
            secret_hash=bytes(32),
            hint="sk-",
            own=Own((("spend_total_nanos", 3 * 10**9),)),
            expires_at_ms=None,
            rotated_from=None,
            at_ms=1,
        )

    made = {"id": await house.writer.run(job)}
    assert (await refusal(ada.update(made["id"], spend_total="4")))[0] == "spend_total"
    await ada.update(made["id"], spend_total="1")
    assert (await refusal(ada.update(made["id"], spend_total="4")))[0] == "spend_total"
    await ada.update(made["id"])
    assert dict((await ada.find(made["id"])).own.limits) == {"spend_total_nanos": 3 * 10**9}


async def test_an_operators_word_counts_if_it_changes_nothing_too(house: House, ada: Owner) -> None:
    made = await ada.create(spend_per_day="5")
    assert not (await act(house, "keys.update", key_id=made["id"], spend_per_day="5"))["changed"]
    assert (await refusal(ada.update(made["id"], spend_per_day="6")))[0] == "spend_per_day"


async def test_a_model_that_is_gone_is_in_nobodys_way(house: House, ada: Owner) -> None:
    made = await ada.create(models=[SONNET, HAIKU])
    await house.writer.run(
        lambda ledger: ledger.conn.execute("update keys set models = '[\"gone\"]' where id = ?", (made["id"],))
    )
    await ada.update(made["id"], name="other", models=["gone"])
    key = await ada.find(made["id"])
    assert key.name == "other" and key.own.models == frozenset({"gone"})


async def test_a_factor_is_no_users_to_change(house: House, ada: Owner) -> None:
    made = await act(house, "keys.create", user="ada", factor="2")
    await ada.update(made["id"], rpm=5)
    await ada.update(made["id"])
    assert str((await ada.find(made["id"])).own.factor) == "2"


async def test_the_number_of_keys_is_bounded(house: House, ada: Owner, clock: FakeClock) -> None:
    most = house.desk.plans["default"].max_keys
    made = [await ada.create() for _ in range(most)]
    assert await refusal(ada.create()) == (
        None,
        f"You have the {most} live keys that your plan allows; revoke one that you no longer need.",
    )
    # Who has lost one of them may still rotate it.
    newest = await ada.rotate(made[0]["id"], "1h")
    await act(house, "keys.revoke", key_id=made[1]["id"])
    assert (await refusal(ada.create()))[0] is None, "the old one lives through its grace"
    clock.advance(3_600_000)
    await ada.create()
    for _ in range(KEYS_PER_DAY_MAX - most - 2):
        newest = await ada.rotate(newest["id"])
    assert "200 keys within a day" in (await refusal(ada.rotate(newest["id"])))[1]
    authenticate(house, newest["secret"])
    clock.advance(DAY_MS)
    await ada.rotate(newest["id"])
    # Operators are not bounded.
    await act(house, "keys.create", user="ada")


@pytest.mark.parametrize("name", ["keys.create", "keys.update", "keys.rotate"])
async def test_the_check_is_no_argument_of_an_act(house: House, name: str) -> None:
    with pytest.raises(ClientError, match="check: "):
        await act(house, name, check="x")


async def test_a_dead_key_is_not_changed_and_anothers_is_not_there(house: House, ada: Owner, clock: FakeClock) -> None:
    other = await act(house, "keys.create", user="ada.b")
    made = await ada.create("1d")
    replaced = await ada.create()
    await ada.rotate(replaced["id"], "7d")
    doing: Callable[[int], Awaitable[Any]]
    for doing in (ada.update, ada.rotate):
        for key_id in (other["id"], 999, 2**63 - 1):
            with pytest.raises(ClientError) as caught:
                await doing(key_id)
            assert caught.value.status == 404
        assert "nothing of it can be changed" in (await refusal(doing(replaced["id"])))[1]
    clock.advance(DAY_MS)
    assert "nothing of it can be changed" in (await refusal(ada.update(made["id"])))[1]
