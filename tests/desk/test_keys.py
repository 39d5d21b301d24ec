"""Keys: what they may, when they die, and that a secret is seen once."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.access import Plan
from gateway.errors import ClientError
from gateway.house import House
from gateway.limits import Terms
from tests.desk_tools import act, audit_rows, authenticate, desk_house, make_ada, open_request, settle_request
from tests.fakes import FakeClock

HOUR_MS = 3_600_000


async def test_a_key_works_at_once_with_what_it_was_given(house: House, clock: FakeClock) -> None:
    await act(house, "users.create", name="ada")
    key = await act(house, "keys.create", user="ada", name="laptop", rpm=0, models=["claude-sonnet-5-5"], expires="12h")
    live = authenticate(house, key["secret"])
    assert (live.id, live.user_name, live.name, live.terms.rpm) == (key["id"], "ada", "laptop", 0)
    assert live.models == frozenset({"claude-sonnet-5-5"})
    assert key["expires_at_ms"] == live.expires_at_ms == clock.at_ms() + 12 * HOUR_MS
    clock.advance(12 * HOUR_MS)
    with pytest.raises(ClientError, match="has expired"):
        authenticate(house, key["secret"])


async def test_an_alias_is_kept_as_the_model_that_it_names(house: House) -> None:
    await act(house, "users.create", name="ada")
    model = next(model for model in house.desk.catalog if model.aliases)
    key = await act(house, "keys.create", user="ada", models=[model.aliases[0], "anthropic/" + model.id])
    assert key["models"] == [model.id]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"models": ["claude-sonet-5-5"]}, "'claude-sonet-5-5' is not offered here; did you mean claude-sonnet-5-5?"),
        ({"models": ["zzz"]}, "`pagegrid models list` shows what is"),
        ({"models": []}, "models: name at least one, or leave it out for all"),
        ({"models": "claude-sonnet-5-5"}, "keys.create: models: Input should be a valid list or: Input should be 'plan'"),
        ({"rpm": -1}, "rpm: write a whole number from 1 to 1000000000000, 0 for unlimited"),
        ({"rpm": True}, "keys.create: rpm: Input should be a valid integer or: Input should be 'plan'"),
        ({"tokens_per_month": 10**12 + 1}, "tokens_per_month: write a whole number"),
        ({"spend_total": "-1"}, "spend_total: '-1' is not an amount"),
        ({"spend_total": "999999999999"}, "spend_total: write at most 4611686018.427387904 US dollars"),
        ({"spend_total": "unlimited"}, "spend_total: 'unlimited' is not an amount"),
        ({"addresses": ["10.0.0.1/8"]}, "addresses: write addresses or CIDR ranges without bits beyond the prefix"),
        ({"addresses": ["here"]}, "addresses: write addresses or CIDR ranges"),
        ({"factor": "0"}, "factor: '0' is not a factor"),
        ({"expires": "30"}, "expires: write a duration such as 90m, 12h or 30d"),
        ({"expires": "0d"}, "expires: write a duration such as 90m, 12h or 30d"),
        ({"expires": "4000d"}, "at most 3650d"),
        ({"expires": "٣d"}, "expires: write a duration"),
        ({"name": "a\tb"}, "name: write 1 to 64 printable"),
        ({"user": "adda"}, "there is no user adda; did you mean ada?"),
    ],
)
async def test_what_is_wrong_with_a_key_is_named(house: House, arguments: dict[str, object], message: str) -> None:
    await act(house, "users.create", name="ada")
    with pytest.raises(ClientError) as caught:
        await act(house, "keys.create", **{"user": "ada", **arguments})
    assert message in caught.value.message
    assert await act(house, "keys.list", user="ada") == []


async def test_a_revoked_key_is_dead_when_the_act_returns(house: House) -> None:
    key = await make_ada(house)
    assert (await act(house, "keys.revoke", key_id=key["id"]))["changed"]
    with pytest.raises(ClientError, match="unknown here"):
        authenticate(house, key["secret"])
    again = await act(house, "keys.revoke", key_id=key["id"])
    assert (again["changed"], again["revoked_at_ms"]) == (False, house.desk.clock.at_ms())
    assert [row["action"] for row in audit_rows(house.database)].count("keys.revoke") == 1


async def test_a_rotation_keeps_the_settings_and_ends_the_old_key(house: House) -> None:
    await act(house, "users.create", name="ada")
    old = await act(house, "keys.create", user="ada", name="ci", rpm=77, models=["claude-sonnet-5-5"], expires="30d")
    new = await act(house, "keys.rotate", key_id=old["id"])
    assert new["rotated_from"] == old["id"] and new["secret"] != old["secret"]
    assert all(new[name] == old[name] for name in ("user", "name", "rpm", "models", "expires_at_ms"))
    assert authenticate(house, new["secret"]).terms.rpm == 77
    assert authenticate(house, new["secret"]).root_id == old["id"]
    with pytest.raises(ClientError):
        authenticate(house, old["secret"])


async def test_an_old_key_lives_through_its_grace_and_no_longer(house: House, clock: FakeClock) -> None:
    old = await make_ada(house)
    new = await act(house, "keys.rotate", key_id=old["id"], grace="1h")
    assert new["old_revoked_at_ms"] == clock.at_ms() + HOUR_MS
    clock.advance(HOUR_MS - 1)
    assert authenticate(house, old["secret"]).id == old["id"]
    clock.advance(1)
    with pytest.raises(ClientError, match="was revoked"):
        authenticate(house, old["secret"])
    assert authenticate(house, new["secret"]).id == new["id"]


async def test_a_grace_survives_a_restart_and_can_be_cut_short(tmp_path: Path, clock: FakeClock) -> None:
    async with desk_house(tmp_path, clock) as house:
        old = await make_ada(house)
        await act(house, "keys.rotate", key_id=old["id"], grace="1h")
    async with desk_house(tmp_path, clock) as house:
        assert authenticate(house, old["secret"]).id == old["id"]
        assert (await act(house, "keys.revoke", key_id=old["id"]))["changed"]
        with pytest.raises(ClientError):
            authenticate(house, old["secret"])


async def test_an_old_key_dies_at_its_own_expiry_if_that_comes_before_the_end_of_the_grace(
    house: House, clock: FakeClock
) -> None:
    await act(house, "users.create", name="ada")
    old = await act(house, "keys.create", user="ada", expires="1h")
    new = await act(house, "keys.rotate", key_id=old["id"], grace="7d")
    assert new["old_dead_at_ms"] == new["expires_at_ms"] == old["expires_at_ms"] == clock.at_ms() + HOUR_MS
    later = await act(house, "keys.rotate", key_id=new["id"], grace="10m")
    assert later["old_dead_at_ms"] == later["old_revoked_at_ms"] == clock.at_ms() + HOUR_MS // 6
    clock.advance(HOUR_MS)
    with pytest.raises(ClientError, match="has expired"):
        authenticate(house, old["secret"])


async def test_a_replaced_key_names_its_successor(house: House) -> None:
    await make_ada(house)
    await act(house, "keys.rotate", key_id=1, grace="1h")
    assert [(key["id"], key["replaced_by"]) for key in await act(house, "keys.list", user="ada")] == [(1, 2), (2, None)]
    shown = await act(house, "keys.show", key_id=1)
    assert (shown["user"], shown["name"], shown["replaced_by"]) == ("ada", "default", 2)
    assert (await act(house, "keys.revoke", key_id=1))["replaced_by"] == 2


async def test_a_dead_key_is_not_rotated(house: House, clock: FakeClock) -> None:
    key = await make_ada(house)
    await act(house, "keys.rotate", key_id=key["id"], grace="1h")
    with pytest.raises(ClientError, match="key 1 was replaced by key 2 already; rotate that one, or create a new one"):
        await act(house, "keys.rotate", key_id=key["id"])
    short = await act(house, "keys.create", user="ada", expires="1h")
    clock.advance(HOUR_MS)
    with pytest.raises(ClientError, match="has expired; create a new one"):
        await act(house, "keys.rotate", key_id=short["id"])
    for key_id in (99, 0, -1, 2**63, 10**40):
        with pytest.raises(ClientError, match="there is no such key; ID is the number in `pagegrid keys list USER`") as caught:
            await act(house, "keys.revoke", key_id=key_id)
        assert caught.value.code == "not_found"
    await act(house, "keys.revoke", key_id=2)
    with pytest.raises(ClientError, match="key 2 was revoked already; create a new one"):
        await act(house, "keys.rotate", key_id=2)
    with pytest.raises(ClientError, match="grace: write a duration"):
        await act(house, "keys.rotate", key_id=short["id"], grace="soon")


async def test_a_secret_is_in_no_row_and_no_listing(house: House) -> None:
    first = await make_ada(house)
    second = await act(house, "keys.rotate", key_id=first["id"])
    shown = repr([await act(house, "keys.list", user="ada"), audit_rows(house.database), await act(house, "users.list")])
    files = b"".join(file.read_bytes() for file in house.data_dir.iterdir())
    for secret in (first["secret"], second["secret"]):
        digits = secret.removeprefix("sk-pgrid-")
        assert digits[8:16] not in shown
        assert digits.encode() not in files and digits[8:].encode() not in files
    assert first["hint"] == first["secret"][:17] and first["hint"] in shown


async def test_what_was_used_before_this_start_counts_for_every_key_that_lives_however_its_user_is_named(
    tmp_path: Path, clock: FakeClock
) -> None:
    async with desk_house(tmp_path / "data", clock) as house:
        await act(house, "users.create", name="ada", email="ÉLAN@example.com")
        await act(house, "wallets.topup", user="ada", amount="10", reference="opening")
        key = await act(house, "keys.create", user="ada")
        request_id, used_by = await open_request(house, key["secret"])
        cost = await settle_request(house, request_id, used_by)
        # Its successor is dead already; it has an hour.
        rotated = await act(house, "keys.rotate", key_id=key["id"], grace="1h")
        await act(house, "keys.revoke", key_id=rotated["id"])
    async with desk_house(tmp_path / "data", clock) as house:
        capped = Plan("capped", Terms(spend_total_nanos=cost))
        house.desk.plans = {**house.desk.plans, "capped": capped}
        house.desk.keys.set_plans(house.desk.plans)
        await act(house, "users.set_plan", user="ÉLAN@example.com", plan="capped")
        living = authenticate(house, key["secret"])
        (level,) = house.desk.limits.levels(living.root_id, living.terms, clock.at_ms(), clock.now_ms())
        assert (level.limit, level.used) == (cost, cost)
