"""What people prove who they are with: changed by themselves with the password shown again, or by the operator."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from gateway.desk import credentials, signin
from gateway.desk.gate import ACCOUNT_PACE, CODE_PACE, GateRules
from gateway.desk.signin import CodeNeeded
from gateway.errors import ClientError
from gateway.house import House
from gateway.passcodes import STEP_MS
from tests.desk_tools import ACTOR, act, audit_rows
from tests.fakes import FakeClock
from tests.signin_tools import HERE, OTHER_PASSWORD, PASSWORD, THERE, add_app, enter, is_in, make_person


async def change(house: House, signed_in: Any, password: str = PASSWORD, new: str = OTHER_PASSWORD) -> Any:
    return await credentials.change_password(house.desk, HERE, signed_in.session, password=password, new_password=new)


# ── passwords ────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_changed_password_is_the_one_and_all_other_sessions_end(house: House) -> None:
    await make_person(house)
    mine, other = await enter(house), await enter(house, visit=THERE)
    new = await change(house, mine)
    assert new.token != mine.token and is_in(house, new) and not is_in(house, mine) and not is_in(house, other)
    with pytest.raises(ClientError, match="is not right"):
        await enter(house)
    await enter(house, password=OTHER_PASSWORD)
    assert [row["action"] for row in audit_rows(house.database)[-3:]] == [
        "users.change_password",
        "sessions.sign_in",
        "sessions.sign_in",
    ]
    assert audit_rows(house.database)[-3]["actor"] == "web:ada 10.0.0.1"


async def test_a_change_needs_the_old_password_and_a_good_new_one(house: House, clock: FakeClock) -> None:
    await make_person(house, email="ada@example.com")
    mine = await enter(house)
    for new, says in (("short", "12 to 128"), ("ada@example.com", "others know"), ("a" * 20, "too few")):
        with pytest.raises(ClientError, match=says) as caught:
            await change(house, mine, new=new)
        assert caught.value.param == "new_password"
    for _ in range(ACCOUNT_PACE.free):
        with pytest.raises(ClientError, match="this is not your password") as caught:
            await change(house, mine, password=OTHER_PASSWORD)
        assert caught.value.param == "password"
    with pytest.raises(ClientError, match="Too many tries"):
        await change(house, mine)
    clock.advance(ACCOUNT_PACE.first_ms)
    assert is_in(house, mine)
    await change(house, mine)


async def test_a_session_that_ended_changes_nothing(house: House, clock: FakeClock) -> None:
    await make_person(house)
    mine, gone = await enter(house), await enter(house)
    app, codes = await add_app(house, mine)
    assert not is_in(house, gone)
    clock.advance(STEP_MS)
    desk, session = house.desk, gone.session
    for asked in (
        change(house, gone),
        credentials.begin_totp(desk, HERE, session, password=PASSWORD),
        credentials.enable_totp(desk, HERE, session, code=app.code()),
        credentials.disable_totp(desk, HERE, session, password=PASSWORD, code=codes[0]),
        credentials.renew_recovery_codes(desk, HERE, session, password=PASSWORD, code=codes[0]),
        signin.end_other_sessions(desk, HERE, session),
    ):
        with pytest.raises(ClientError, match="Your session has ended"):
            await asked
    assert is_in(house, mine) and await credentials.count_recovery_codes(desk, mine.session) == 10


async def test_of_two_changes_at_once_one_is_done(house: House) -> None:
    await make_person(house)
    mine = await enter(house)
    results = await asyncio.gather(
        change(house, mine, new=OTHER_PASSWORD + " 1"), change(house, mine, new=OTHER_PASSWORD + " 2"), return_exceptions=True
    )
    assert sum(isinstance(result, ClientError) for result in results) == 1
    assert len(house.desk.sessions) == 1


async def test_the_operator_sets_a_password(house: House, clock: FakeClock) -> None:
    await act(house, "users.create", name="ada", email="ada@example.com")
    for _ in range(ACCOUNT_PACE.free):
        with pytest.raises(ClientError):
            await enter(house)
    made = await act(house, "users.set_password", user="ada@example.com", password=PASSWORD)
    assert made == {"id": 1, "name": "ada", "had_password": False, "sessions_ended": 0}
    signed_in = await enter(house)  # and does not wait
    assert (await act(house, "users.set_password", user="ada", password=OTHER_PASSWORD))["sessions_ended"] == 1
    assert not is_in(house, signed_in)
    rows = [row for row in audit_rows(house.database) if row["action"] == "users.set_password"]
    assert [(row["actor"], row["subject"], row["after"]) for row in rows] == [
        (ACTOR, "user:ada", {"by": "operator", "sessions_ended": 0}),
        (ACTOR, "user:ada", {"by": "operator", "sessions_ended": 1}),
    ]
    for password in ("", "short", "ada@example.com"):
        with pytest.raises(ClientError) as caught:
            await act(house, "users.set_password", user="ada", password=password)
        assert caught.value.param == "password"
    with pytest.raises(ClientError, match="no user adda; did you mean ada"):
        await act(house, "users.set_password", user="adda", password=PASSWORD)


async def test_the_operator_signs_somebody_out(house: House) -> None:
    await make_person(house)
    await make_person(house, "bob")
    mine, bobs = [await enter(house), await enter(house)], await enter(house, "bob")
    assert (await act(house, "users.end_sessions", user="ada"))["sessions_ended"] == 2
    assert not any(is_in(house, each) for each in mine) and is_in(house, bobs)
    assert (await act(house, "users.end_sessions", user="ada"))["sessions_ended"] == 0
    assert [row["action"] for row in audit_rows(house.database)].count("users.end_sessions") == 1


# ── the second factor ────────────────────────────────────────────────────────────────────────────────────────────────


async def test_an_app_is_in_force_once_a_code_of_it_was_shown(house: House, clock: FakeClock) -> None:
    await make_person(house)
    mine, other = await enter(house), await enter(house, visit=THERE)
    first = await credentials.begin_totp(house.desk, HERE, mine.session, password=PASSWORD)
    second = await credentials.begin_totp(house.desk, HERE, mine.session, password=PASSWORD)
    assert first["secret"] != second["secret"] and f"secret={second['secret']}" in second["uri"]
    assert second["uri"].startswith("otpauth://totp/PageGrid:ada?")
    await enter(house)  # not in force yet
    with pytest.raises(ClientError) as caught:
        await credentials.enable_totp(house.desk, HERE, mine.session, code="000000")
    assert caught.value.param == "code"
    assert is_in(house, other)
    _, codes = await add_app(house, mine)
    assert len(set(codes)) == 10 and is_in(house, mine) and not is_in(house, other)
    session = signin.find_session(house.desk, mine.token)
    assert session is not None and session.totp
    with pytest.raises(CodeNeeded):
        await enter(house)
    with pytest.raises(ClientError, match="in force already"):
        await credentials.begin_totp(house.desk, HERE, session, password=PASSWORD)
    assert audit_rows(house.database)[-1]["action"] == "users.enable_totp"


async def test_each_change_of_the_second_factor_needs_the_password(house: House, clock: FakeClock) -> None:
    await make_person(house)
    mine = await enter(house)
    with pytest.raises(ClientError, match="not your password"):
        await credentials.begin_totp(house.desk, HERE, mine.session, password=OTHER_PASSWORD)
    app, _ = await add_app(house, mine)
    clock.advance(STEP_MS)
    for change_it in (credentials.disable_totp, credentials.renew_recovery_codes):
        with pytest.raises(ClientError, match="not your password"):
            await change_it(house.desk, HERE, mine.session, password=OTHER_PASSWORD, code=app.code())
        with pytest.raises(ClientError, match="not right, or was used"):
            await change_it(house.desk, HERE, mine.session, password=PASSWORD, code="000000")
    await credentials.disable_totp(house.desk, HERE, mine.session, password=PASSWORD, code=app.code())
    await enter(house)
    session = signin.find_session(house.desk, mine.token)
    assert session is not None and not session.totp
    assert await credentials.count_recovery_codes(house.desk, session) == 0


async def test_an_app_may_be_replaced_and_the_old_one_is_worth_nothing(house: House, clock: FakeClock) -> None:
    await make_person(house)
    mine = await enter(house)
    old, old_codes = await add_app(house, mine)
    await credentials.disable_totp(house.desk, HERE, mine.session, password=PASSWORD, code=old_codes[0])
    new, _ = await add_app(house, mine)
    for code in (old.code(), old_codes[1]):
        with pytest.raises(ClientError, match="not right, or was used"):
            await enter(house, code=code)
    await enter(house, code=new.code())


async def test_new_recovery_codes_end_the_old_ones(house: House, clock: FakeClock) -> None:
    await make_person(house)
    mine = await enter(house)
    _, old = await add_app(house, mine)
    new = await credentials.renew_recovery_codes(house.desk, HERE, mine.session, password=PASSWORD, code=old[0])
    assert not set(new) & set(old) and await credentials.count_recovery_codes(house.desk, mine.session) == 10
    with pytest.raises(ClientError, match="not right, or was used"):
        await enter(house, code=old[1])
    await enter(house, code=new[1])


async def test_admins_keep_it_where_they_must_have_it(house: House, clock: FakeClock) -> None:
    await make_person(house, "root", role="admin")
    mine = await enter(house, "root")
    _, codes = await add_app(house, mine)
    house.desk.gate.rules = GateRules(totp_for_admins=True)
    with pytest.raises(ClientError, match="Admins must have a second factor"):
        await credentials.disable_totp(house.desk, HERE, mine.session, password=PASSWORD, code=codes[0])


async def test_the_operator_takes_off_what_somebody_lost(house: House) -> None:
    await make_person(house)
    assert (await act(house, "users.disable_totp", user="ada"))["changed"] is False
    mine = await enter(house)
    await add_app(house, mine)
    for _ in range(CODE_PACE.free):
        with pytest.raises(ClientError):
            await enter(house, code="000000")
    result = await act(house, "users.disable_totp", user="ada")
    assert result == {"id": 1, "name": "ada", "changed": True, "sessions_ended": 1}
    assert not is_in(house, mine)
    again = await enter(house)
    await add_app(house, again)  # and does not wait
    assert [row["action"] for row in audit_rows(house.database)].count("users.disable_totp") == 1


async def test_a_begun_and_forgotten_app_is_no_second_factor(house: House) -> None:
    await make_person(house)
    mine = await enter(house)
    await credentials.begin_totp(house.desk, HERE, mine.session, password=PASSWORD)
    assert (await act(house, "users.disable_totp", user="ada"))["changed"] is False
    assert is_in(house, mine)
    with pytest.raises(ClientError, match="not right"):
        await credentials.disable_totp(house.desk, HERE, mine.session, password=PASSWORD, code="000000")
