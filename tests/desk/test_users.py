"""Who there is: made with a wallet, shut out at once, let in again."""

from __future__ import annotations

import asyncio

import pytest

from gateway.errors import ClientError
from gateway.house import House
from tests.desk_tools import ACTOR, act, audit_rows, authenticate, make_ada


async def test_a_user_is_made_with_an_empty_wallet_that_works_at_once(house: House) -> None:
    user = await act(house, "users.create", name="Ada.Lovelace", email="Ada@Example.com", role="admin")
    assert (user["name"], user["email"], user["role"]) == ("Ada.Lovelace", "ada@example.com", "admin")
    assert user["created_at_ms"] == house.desk.clock.at_ms()
    assert house.desk.book.wallet(user["wallet_id"]).available_nanos == 0
    listed = await act(house, "users.list")
    assert [(row["id"], row["name"], row["disabled"], row["balance_usd"]) for row in listed] == [
        (user["id"], "Ada.Lovelace", False, "0.00")
    ]
    assert audit_rows(house.database) == [
        {
            "actor": ACTOR,
            "action": "users.create",
            "subject": "user:Ada.Lovelace",
            "before": None,
            "after": {"id": user["id"], "email": "ada@example.com", "role": "admin", "plan": "default"},
        }
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        *(
            ({"name": name}, 'name: write 1 to 64 letters (a to z), digits and ". _ - @"')
            for name in ("", "a" * 65, "eve\n", "e\x1b[31mve", " eve", "e ve", "-eve", ".eve", "e;ve", "$eve", "evé", "e've")
        ),
        ({"name": "eve", "email": "eve"}, "email: write an address such as"),
        ({"name": "eve", "email": "eve@home"}, "email: write an address such as"),
        ({"name": "eve", "email": "eve@ex ample.com"}, "email: write an address such as"),
        ({"name": "eve", "email": "e" * 250 + "@a.com"}, "email: write an address such as"),
        ({"name": "ada"}, "there is a user ada already; choose another name"),
        ({"name": "ADA"}, "there is a user ada already; choose another name"),
        ({"name": "Ada@Example.com"}, "Ada@Example.com is the address of ada; choose another name"),
        ({"name": "eve", "email": "ADA@example.com"}, "ada@example.com is the address of ada already"),
        ({"name": "eve", "role": "owner"}, "users.create: role: Input should be 'user' or 'admin'"),
        ({"name": 7}, "users.create: name: Input should be a valid string"),
        ({"name": "eve", "admin": True}, "users.create: admin: Extra inputs are not permitted; it takes name, email, role"),
        ({}, "users.create: name: Field required"),
    ],
)
async def test_what_is_wrong_with_a_user_is_named(house: House, arguments: dict[str, object], message: str) -> None:
    await act(house, "users.create", name="ada", email="ada@example.com")
    with pytest.raises(ClientError) as caught:
        await act(house, "users.create", **arguments)
    assert message in caught.value.message
    assert len(await act(house, "users.list")) == 1
    assert len(audit_rows(house.database)) == 1


async def test_an_unknown_user_is_told_the_nearest(house: House) -> None:
    await act(house, "users.create", name="margaret")
    with pytest.raises(ClientError, match=r"there is no user margret; did you mean margaret\?"):
        await act(house, "users.disable", user="margret")
    with pytest.raises(ClientError, match=r"there is no user MARGRET; did you mean margaret\?"):
        await act(house, "users.disable", user="MARGRET")
    with pytest.raises(ClientError, match="`pagegrid users list` shows who there is") as caught:
        await act(house, "users.disable", user="x\x1b[0m")
    assert caught.value.code == "not_found"
    assert "\x1b" not in caught.value.message


async def test_a_user_is_found_by_address_too(house: House) -> None:
    await act(house, "users.create", name="ada", email="ada@example.com")
    assert (await act(house, "users.disable", user="Ada@example.com"))["name"] == "ada"


async def test_an_address_that_is_somebodys_name_is_refused(house: House) -> None:
    await act(house, "users.create", name="eve@example.com")
    with pytest.raises(ClientError, match=r"eve@example\.com is the name of another user"):
        await act(house, "users.create", name="bob", email="Eve@example.com")
    assert (await act(house, "users.create", name="a@b.org", email="a@b.org"))["name"] == "a@b.org"


async def test_a_user_is_shown_with_the_state_of_the_wallet(house: House) -> None:
    await make_ada(house)
    shown = await act(house, "users.show", user="ada")
    assert (shown["name"], shown["balance_usd"], shown["owed_nanos"], shown["frozen"]) == ("ada", "10.00", 0, False)
    assert (shown["has_password"], shown["totp"]) == (False, False)
    with pytest.raises(ClientError, match="did you mean ada"):
        await act(house, "users.show", user="adda")


async def test_a_disabled_users_keys_die_at_once_and_come_back(house: House) -> None:
    secret = (await make_ada(house))["secret"]
    revoked = await act(house, "keys.create", user="ada")
    await act(house, "users.create", name="bob")
    other = (await act(house, "keys.create", user="bob"))["secret"]
    assert (await act(house, "users.disable", user="ada"))["changed"]
    with pytest.raises(ClientError, match="unknown here"):
        authenticate(house, secret)
    assert authenticate(house, other).user_name == "bob"
    await act(house, "keys.revoke", key_id=revoked["id"])
    assert (await act(house, "users.enable", user="ada"))["changed"]
    assert authenticate(house, secret).user_name == "ada"
    with pytest.raises(ClientError):
        authenticate(house, revoked["secret"])


async def test_disabling_twice_changes_nothing_and_is_recorded_once(house: House) -> None:
    await act(house, "users.create", name="ada")
    assert [(await act(house, "users.disable", user="ada"))["changed"] for _ in range(2)] == [True, False]
    assert [(await act(house, "users.enable", user="ada"))["changed"] for _ in range(2)] == [True, False]
    assert [(row["action"], row["before"], row["after"]) for row in audit_rows(house.database)[1:]] == [
        ("users.disable", {"disabled": False}, {"disabled": True}),
        ("users.enable", {"disabled": True}, {"disabled": False}),
    ]


async def test_no_key_is_made_or_replaced_for_a_disabled_user(house: House) -> None:
    key = await make_ada(house)
    await act(house, "users.disable", user="ada")
    with pytest.raises(ClientError, match="the user ada is disabled; `pagegrid users enable` first"):
        await act(house, "keys.create", user="ada")
    with pytest.raises(ClientError, match="the user ada is disabled"):
        await act(house, "keys.rotate", key_id=key["id"], grace="1h")
    with pytest.raises(ClientError):
        authenticate(house, key["secret"])


async def test_an_act_goes_to_its_end_although_its_caller_leaves(house: House) -> None:
    secret = (await make_ada(house))["secret"]
    disabling = asyncio.create_task(act(house, "users.disable", user="ada"))
    await asyncio.sleep(0)
    disabling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await disabling
    await house.writer.run(lambda ledger: None)
    assert (await act(house, "users.list"))[0]["disabled"]
    with pytest.raises(ClientError):
        authenticate(house, secret)


async def test_two_of_one_name_at_once_make_one_user(house: House) -> None:
    results = await asyncio.gather(*(act(house, "users.create", name="ada") for _ in range(5)), return_exceptions=True)
    assert sum(isinstance(result, dict) for result in results) == 1
    assert sum(isinstance(result, ClientError) for result in results) == 4
