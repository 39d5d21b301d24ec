"""Accounts that people make themselves: one per invite, what it grants, and nothing where the operator does not want it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from gateway.desk import invites
from gateway.desk.gate import RARE_PACE, GateRules
from gateway.desk.signin import SignedIn, Visit
from gateway.errors import ClientError
from gateway.house import House
from tests.desk_tools import ACTOR, act, audit_rows
from tests.fakes import FakeClock
from tests.signin_tools import HERE, PASSWORD, enter, is_in


@pytest.fixture(autouse=True)
def by_invite(house: House) -> None:
    house.desk.gate.rules = GateRules("invite")


async def accept(house: House, token: str, name: str = "ada", visit: Visit = HERE) -> SignedIn:
    return await invites.accept_invite(house.desk, visit, token=token, name=name, password=PASSWORD)


async def test_an_invite_makes_an_account_with_what_it_grants(house: House) -> None:
    made = await act(house, "invites.create", credit="2.50", email="Ada@Example.com", note="from the fair")
    found = await invites.find_invite(house.desk, made["token"])
    assert found is not None and (found.credit_nanos, found.plan, found.email) == (2_500_000_000, "default", "ada@example.com")
    signed_in = await accept(house, made["token"])
    assert is_in(house, signed_in) and signed_in.session.role == "user"
    shown = await act(house, "users.show", user="ada@example.com")
    assert (shown["name"], shown["plan"], shown["balance_usd"]) == ("ada", "default", "2.50")
    [line] = (await act(house, "wallets.show", user="ada"))["lines"]
    assert (line["kind"], line["reference"], line["amount_usd"]) == ("promo", f"invite:{made['id']}", "2.50")
    assert house.desk.book.wallet(line_wallet(house)).available_nanos == 2_500_000_000
    [listed] = await act(house, "invites.list")
    assert (listed["used_by"], listed["credit_usd"], listed["note"]) == ("ada", "2.50", "from the fair")
    assert "token" not in listed and "hash" not in listed
    await enter(house)
    assert [(row["actor"], row["action"]) for row in audit_rows(house.database)] == [
        (ACTOR, "invites.create"),
        ("web:ada 10.0.0.1", "users.create"),
        ("web:ada 10.0.0.1", "invites.accept"),
        ("web:ada 10.0.0.1", "sessions.sign_in"),
        ("web:ada 10.0.0.1", "sessions.sign_in"),
    ]
    assert made["token"] not in repr(audit_rows(house.database))


def line_wallet(house: House) -> int:
    [wallet] = house.desk.book.wallets()
    return wallet.id


async def test_one_of_many_who_use_an_invite_at_once_gets_it(house: House) -> None:
    token = (await act(house, "invites.create", credit="5"))["token"]
    tries = [accept(house, token, f"user{number}", Visit(f"10.5.{number}.1")) for number in range(6)]
    results = await asyncio.gather(*tries, return_exceptions=True)
    assert sum(isinstance(result, SignedIn) for result in results) == 1
    assert {result.code for result in results if isinstance(result, ClientError)} == {"not_found"}
    [user] = await act(house, "users.list")
    assert user["balance_usd"] == "5.00" and len(house.desk.sessions) == 1
    assert len(list(house.desk.book.wallets())) == 1


async def test_two_invites_for_one_name_make_one_user_and_one_is_left(house: House) -> None:
    tokens = [(await act(house, "invites.create", credit="5"))["token"] for _ in range(2)]
    results = await asyncio.gather(*(accept(house, token) for token in tokens), return_exceptions=True)
    assert sum(isinstance(result, SignedIn) for result in results) == 1
    left = [token for token in tokens if await invites.find_invite(house.desk, token)]
    assert len(left) == 1
    await accept(house, left[0], "bob")


async def test_an_invite_ends_by_time_and_by_the_operator(house: House, clock: FakeClock) -> None:
    late = await act(house, "invites.create", expires="1h")
    revoked = await act(house, "invites.create")
    used = await act(house, "invites.create")
    await accept(house, used["token"])
    clock.advance(3_600_000)
    assert [(await act(house, "invites.revoke", invite_id=revoked["id"]))["changed"] for _ in range(2)] == [True, False]
    told = set()
    for token in (late["token"], revoked["token"], used["token"], "nonsense", "", "\ud800"):
        assert await invites.find_invite(house.desk, token) is None
        with pytest.raises(ClientError) as caught:
            await accept(house, token, "bob")
        told.add((caught.value.code, caught.value.message))
    assert len(told) == 1
    with pytest.raises(ClientError, match="was used already, by ada"):
        await act(house, "invites.revoke", invite_id=used["id"])
    with pytest.raises(ClientError, match="no such invite"):
        await act(house, "invites.revoke", invite_id=99)
    assert len(await act(house, "users.list")) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"credit": "free"}, "credit: 'free' is not an amount"),
        ({"credit": "-5"}, "credit: '-5' is not an amount"),
        ({"credit": "2000000"}, "credit: '2000000' is out of range"),
        ({"plan": "gold"}, "plan: no plan of this name"),
        ({"email": "ada"}, "email: write an address"),
        ({"email": "root@example.com"}, "root@example.com is the address of root already"),
        ({"expires": "never"}, "expires: write a duration"),
        ({"note": "a\nb"}, "note: write 1 to 500 printable"),
        ({"role": "admin"}, "role: Extra inputs are not permitted"),
    ],
)
async def test_what_is_wrong_with_an_invite_is_named(house: House, arguments: dict[str, Any], message: str) -> None:
    await act(house, "users.create", name="root", email="root@example.com")
    with pytest.raises(ClientError) as caught:
        await act(house, "invites.create", **arguments)
    assert message in caught.value.message
    assert await act(house, "invites.list") == []


@pytest.mark.parametrize(
    ("name", "password", "param"),
    [
        ("root", PASSWORD, "name"),
        ("ROOT", PASSWORD, "name"),
        ("ada@example.com", PASSWORD, "name"),
        ("a da", PASSWORD, "name"),
        ("", PASSWORD, "name"),
        ("<script>", PASSWORD, "name"),
        ("ada", "short", "password"),
        ("correct-horse-battery", "Correct-Horse-Battery", "password"),
    ],
)
async def test_what_is_wrong_with_a_new_account_is_named_and_uses_nothing_up(
    house: House, name: str, password: str, param: str
) -> None:
    await act(house, "users.create", name="root")
    token = (await act(house, "invites.create"))["token"]
    with pytest.raises(ClientError) as caught:
        await invites.accept_invite(house.desk, HERE, token=token, name=name, password=password)
    assert caught.value.param == param
    await accept(house, token)


async def test_an_invite_of_a_plan_that_is_gone_is_told_so(house: House) -> None:
    token = (await act(house, "invites.create"))["token"]
    plans = house.desk.plans
    house.desk.plans = {}
    with pytest.raises(ClientError, match="a plan that is no more"):
        await accept(house, token)
    house.desk.plans = plans
    await accept(house, token)


async def test_closed_is_closed_to_invites_too(house: House) -> None:
    token = (await act(house, "invites.create"))["token"]
    house.desk.gate.rules = GateRules("closed")
    assert await invites.find_invite(house.desk, token) is None
    with pytest.raises(ClientError, match="was used or revoked"):
        await accept(house, token)
    with pytest.raises(ClientError, match=r'set web\.signup = "invite"'):
        await act(house, "invites.create")
    with pytest.raises(ClientError, match="made by the operator"):
        await invites.sign_up(house.desk, HERE, name="ada", password=PASSWORD)
    assert await act(house, "users.list") == []


async def test_open_is_open_without_credit_and_not_by_the_dozen(house: House, clock: FakeClock) -> None:
    with pytest.raises(ClientError, match="made by the operator"):
        await invites.sign_up(house.desk, HERE, name="ada", password=PASSWORD)
    house.desk.gate.rules = GateRules("open")
    signed_in = await invites.sign_up(house.desk, HERE, name="ada", password=PASSWORD)
    assert is_in(house, signed_in)
    shown = await act(house, "users.show", user="ada")
    assert (shown["balance_usd"], shown["role"], shown["plan"], shown["email"]) == ("0.00", "user", "default", None)
    for number in range(RARE_PACE.free - 1):
        with pytest.raises(ClientError, match="there is a user ada already"):
            await invites.sign_up(house.desk, HERE, name="ada", password=f"{PASSWORD} {number}")
    with pytest.raises(ClientError, match="Too many tries"):
        await invites.sign_up(house.desk, HERE, name="bob", password=PASSWORD)
    clock.advance(RARE_PACE.first_ms)
    await invites.sign_up(house.desk, HERE, name="bob", password=PASSWORD)
