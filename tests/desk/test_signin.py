"""Signing in: who is let in, who is not and learns nothing by it, and when a session is over."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from argon2 import PasswordHasher

from gateway.desk import acts, credentials, gate, signin
from gateway.desk.credentials import create_link
from gateway.desk.gate import ACCOUNT_PACE, ADDRESS_PACE, CODE_PACE, HASHES_AT_ONCE, TICKET_MS, GateRules
from gateway.desk.signin import CodeNeeded, SignedIn, Visit, find_session
from gateway.errors import ClientError, HouseError
from gateway.house import House
from gateway.passcodes import STEP_MS
from gateway.sessions import ABSOLUTE_MS, HOUR_MS, IDLE_MS, SESSIONS_PER_USER_MAX
from gateway.storage.database import open_reader
from tests.desk_tools import act, audit_rows, desk_house
from tests.fakes import FakeClock
from tests.signin_tools import HERE, OTHER_PASSWORD, PASSWORD, THERE, add_app, enter, is_in, make_person


def table(house: House, sql: str) -> list[Any]:
    conn = open_reader(house.database)
    try:
        return conn.execute(sql).fetchall()
    finally:
        conn.close()


# ── in ───────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", ["ada", "ADA", " ada ", "Ada@Example.com", "ada@example.com"])
async def test_a_person_signs_in_by_name_or_address(house: House, name: str) -> None:
    await make_person(house, email="ada@example.com")
    signed_in = await enter(house, name)
    session = find_session(house.desk, signed_in.token)
    assert session is not None and (session.user_name, session.role, session.totp) == ("ada", "user", False)
    assert (session.address, session.agent) == (HERE.address, HERE.agent)
    assert signed_in.token not in repr(signed_in)
    last = audit_rows(house.database)[-1]
    assert (last["actor"], last["action"], last["subject"]) == ("web:ada 10.0.0.1", "sessions.sign_in", "user:ada")
    assert last["after"] == {"session": session.id, "by": "password", "agent": HERE.agent}


async def test_no_secret_is_stored_logged_or_audited(house: House, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    await make_person(house)
    signed_in = await enter(house)
    app, codes = await add_app(house, signed_in)
    with pytest.raises(ClientError):
        await enter(house, password=OTHER_PASSWORD)
    with pytest.raises(ClientError):
        await enter(house, name=PASSWORD, password="ada")
    link = (await create_link(house.desk, "t", user="ada"))["token"]
    files = [file.read_bytes().decode("latin-1") for file in house.database.parent.glob("pagegrid.db*")]
    for text in (caplog.text, repr(audit_rows(house.database)), *files):
        for secret in (PASSWORD, OTHER_PASSWORD, signed_in.token, link, *codes, *(code.replace("-", "") for code in codes)):
            assert secret not in text
    assert app.secret not in caplog.text.encode("latin-1", errors="replace")


async def test_whoever_is_not_let_in_hears_the_same_words_after_the_same_work(
    house: House, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    await make_person(house, email="ada@example.com")
    await act(house, "users.create", name="without-password")
    await make_person(house, "disabled")
    await add_app(house, await enter(house, "disabled"))
    await act(house, "users.disable", user="disabled")
    hashed: list[str] = []
    looked: list[str] = []
    verify, look = PasswordHasher.verify, signin.look
    monkeypatch.setattr(PasswordHasher, "verify", lambda self, *args: hashed.append("hash") or verify(self, *args))
    monkeypatch.setattr(signin, "look", lambda *args: looked.append("look") or look(*args))
    told = set()
    cases = [
        *(("ada", password) for password in (OTHER_PASSWORD, "", "x", "x" * 10_000, "\ud800", PASSWORD.upper())),
        *(("disabled", password) for password in (PASSWORD, OTHER_PASSWORD)),
        *((name, PASSWORD) for name in ("without-password", "nobody", "", "x" * 10_000, "a\0da", "ada'--", "\ud800", "%")),
    ]
    for number, (name, password) in enumerate(cases):
        clock.advance(ACCOUNT_PACE.most_ms)
        with pytest.raises(ClientError) as caught:
            await enter(house, name, password, Visit(f"10.0.1.{number}"))
        error = caught.value
        told.add((type(error), error.code, error.message, error.param, error.retry_after_s))
        assert (len(hashed), len(looked)) == (number + 1, number + 1), name
    assert len(told) == 1
    assert table(house, "select count(*) from sessions") == [(0,)]


async def test_too_many_tries_of_an_account_wait_whether_there_is_one_or_not(house: House, clock: FakeClock) -> None:
    await make_person(house)
    answers: dict[str, list[Any]] = {}
    for name in ("ada", "nobody"):
        answers[name] = []
        for number in range(ACCOUNT_PACE.free + 1):
            with pytest.raises(ClientError) as caught:
                await enter(house, name, OTHER_PASSWORD, Visit(f"10.0.{number}.1"))
            answers[name].append((caught.value.code, caught.value.message, caught.value.retry_after_s))
    assert answers["ada"] == answers["nobody"] and answers["ada"][-1][0] == "rate_limited"
    with pytest.raises(ClientError, match="try again in 1 s"):
        await enter(house, visit=Visit("10.0.99.1"))
    clock.advance(ACCOUNT_PACE.first_ms)
    await enter(house)
    for _ in range(ACCOUNT_PACE.free):
        with pytest.raises(ClientError, match="is not right"):
            await enter(house, password=OTHER_PASSWORD, visit=Visit("10.0.99.2"))


async def test_an_address_that_tries_many_accounts_waits_and_signing_in_does_not_help_it(house: House, clock: FakeClock) -> None:
    await make_person(house)
    for number in range(ADDRESS_PACE.free):
        with pytest.raises(ClientError, match="is not right"):
            await enter(house, f"user{number}", visit=THERE)
        if number % 5 == 0:
            await enter(house, visit=THERE)
    for name in ("ada", "another"):
        with pytest.raises(ClientError, match="Too many tries"):
            await enter(house, name, visit=THERE)
    await enter(house, visit=HERE)
    clock.advance(ADDRESS_PACE.first_ms)
    await enter(house, visit=THERE)


async def test_guesses_side_by_side_are_no_more_than_one_after_another(house: House) -> None:
    await make_person(house)
    tries = [enter(house, password=f"{OTHER_PASSWORD} {number}", visit=Visit(f"10.1.{number}.1")) for number in range(30)]
    results = await asyncio.gather(*tries, return_exceptions=True)
    codes = [getattr(result, "code", None) for result in results]
    assert codes.count("unauthenticated") == ACCOUNT_PACE.free and codes.count("rate_limited") == 30 - ACCOUNT_PACE.free


async def test_few_passwords_are_hashed_at_once_and_the_queue_has_an_end(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "HASHES_WAITING_MAX", 6)
    at_once, most = 0, 0
    verify = PasswordHasher.verify

    def watched(self: PasswordHasher, *args: Any) -> bool:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        try:
            return bool(verify(self, *args))
        finally:
            at_once -= 1

    monkeypatch.setattr(PasswordHasher, "verify", watched)
    tries = [asyncio.ensure_future(enter(house, f"u{number}", visit=Visit(f"10.1.{number}.1"))) for number in range(12)]
    await asyncio.sleep(0.02)
    tries[0].cancel()
    results = await asyncio.gather(*tries, return_exceptions=True)
    refused = [result for result in results if isinstance(result, HouseError)]
    assert most == HASHES_AT_ONCE == 2 and len(refused) == 6 and {error.status for error in refused} == {503}
    with pytest.raises(ClientError, match="is not right"):
        await enter(house, "later")


async def test_who_is_disabled_or_changed_while_the_password_is_verified_stays_out(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    await make_person(house)
    real = signin.verify_password
    for spoil in (
        lambda: act(house, "users.set_password", user="ada", password=OTHER_PASSWORD),
        lambda: act(house, "users.disable", user="ada"),
    ):
        loop = asyncio.get_running_loop()

        def meanwhile(*args: Any, spoil: Callable[[], Any] = spoil, loop: Any = loop) -> bool:
            right = real(*args)
            asyncio.run_coroutine_threadsafe(spoil(), loop).result(10)
            return right

        monkeypatch.setattr(signin, "verify_password", meanwhile)
        with pytest.raises(ClientError, match="is not right"):
            await enter(house)
        monkeypatch.undo()
        await act(house, "users.enable", user="ada")
        await act(house, "users.set_password", user="ada", password=PASSWORD)
    assert table(house, "select count(*) from sessions") == [(0,)]


async def test_a_password_of_older_parameters_is_hashed_anew_at_the_next_sign_in(house: House) -> None:
    made = await make_person(house)
    old = PasswordHasher(time_cost=1, memory_cost=64, parallelism=1).hash(PASSWORD)

    def age(ledger: Any) -> None:
        ledger.conn.execute("update passwords set hash = ? where user_id = ?", (old, made["id"]))

    await house.writer.run(age)
    await asyncio.gather(enter(house), enter(house, visit=THERE))
    [(stored,)] = table(house, "select hash from passwords")
    assert stored != old and "m=19456,t=2,p=1" in stored
    await enter(house)


# ── over ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_sign_out_ends_this_session_and_no_other(house: House) -> None:
    await make_person(house)
    mine, other = await enter(house), await enter(house, visit=THERE)
    assert mine.token != other.token
    await signin.sign_out(house.desk, HERE, mine.session)
    assert not is_in(house, mine) and is_in(house, other)
    await signin.sign_out(house.desk, HERE, mine.session)
    assert [row["action"] for row in audit_rows(house.database)].count("sessions.sign_out") == 1
    assert table(house, "select count(*) from sessions") == [(1,)]


async def test_other_sessions_can_be_ended(house: House) -> None:
    await make_person(house)
    await make_person(house, "bob")
    mine, others, bobs = await enter(house), [await enter(house) for _ in range(3)], await enter(house, "bob")
    assert await signin.end_other_sessions(house.desk, HERE, mine.session) == 3
    assert is_in(house, mine) and is_in(house, bobs) and not any(is_in(house, other) for other in others)
    with pytest.raises(ClientError, match="Your session has ended"):
        await signin.end_other_sessions(house.desk, HERE, others[0].session)
    assert is_in(house, mine)


async def test_a_session_of_somebody_else_is_not_found(house: House) -> None:
    await make_person(house)
    await make_person(house, "bob")
    mine, again, bobs = await enter(house), await enter(house, visit=THERE), await enter(house, "bob")
    listed = signin.list_sessions(house.desk, mine.session)
    assert {(each["id"], each["current"]) for each in listed} == {(mine.session.id, True), (again.session.id, False)}
    told = set()
    for session_id in (bobs.session.id, 999, 0, -1, 2**63 - 1):
        with pytest.raises(ClientError) as caught:
            await signin.end_session(house.desk, HERE, mine.session, session_id=session_id)
        told.add((caught.value.code, caught.value.message))
    assert told == {("not_found", "there is no such session")} and is_in(house, bobs)
    await signin.end_session(house.desk, HERE, mine.session, session_id=again.session.id)
    assert not is_in(house, again) and is_in(house, mine)


async def test_disabling_ends_sessions_before_it_returns_and_enabling_brings_none_back(house: House) -> None:
    await make_person(house)
    signed_in = await enter(house)
    await act(house, "users.disable", user="ada")
    assert not is_in(house, signed_in)
    await act(house, "users.enable", user="ada")
    assert not is_in(house, signed_in)
    assert table(house, "select count(*) from sessions") == [(0,)], "or the next start would bring it back"
    await enter(house)


async def test_disabling_and_signing_in_at_once_leaves_nobody_in(house: House) -> None:
    await make_person(house)
    for _ in range(5):
        results = await asyncio.gather(enter(house), act(house, "users.disable", user="ada"), return_exceptions=True)
        assert not any(isinstance(result, SignedIn) and is_in(house, result) for result in results)
        assert len(house.desk.sessions) == 0
        await act(house, "users.enable", user="ada")


async def test_sessions_of_one_user_are_bounded(house: House, clock: FakeClock) -> None:
    await make_person(house)
    await make_person(house, "bob")
    bobs = await enter(house, "bob")
    mine = []
    for _ in range(SESSIONS_PER_USER_MAX + 3):
        clock.advance(1_000)
        mine.append(await enter(house))
    assert [is_in(house, each) for each in mine] == [False] * 3 + [True] * SESSIONS_PER_USER_MAX
    assert is_in(house, bobs)
    clock.wall_ms -= HOUR_MS
    assert is_in(house, await enter(house)), "also when the clock was set back"


async def test_sessions_outlive_a_restart_and_end_when_they_must(tmp_path: Path, clock: FakeClock) -> None:
    async with desk_house(tmp_path / "data", clock) as house:
        await make_person(house)
        await make_person(house, "bob")
        seen, idle, out = await enter(house), await enter(house), await enter(house)
        await enter(house, "bob")
        await signin.sign_out(house.desk, HERE, out.session)
        clock.advance(IDLE_MS - HOUR_MS)
        assert is_in(house, seen)
        await signin.keep_sessions(house.desk)
        bobs = await enter(house, "bob")
        await act(house, "users.disable", user="bob")
    clock.advance(HOUR_MS)
    clock.running_ms = 5
    async with desk_house(tmp_path / "data", clock) as house:
        assert [is_in(house, each) for each in (seen, idle, out, bobs)] == [True, False, False, False]
        for _ in range(13):
            clock.advance(HOUR_MS * 12 - 1)
            is_in(house, seen)
        assert clock.at_ms() - seen.session.created_at_ms > ABSOLUTE_MS - HOUR_MS * 12 or is_in(house, seen)
        clock.advance(HOUR_MS * 12)
        assert not is_in(house, seen)
        await signin.keep_sessions(house.desk)
        assert table(house, "select count(*) from sessions") == [(0,)]


async def test_a_token_is_not_what_is_stored(house: House) -> None:
    await make_person(house)
    signed_in = await enter(house)
    [(stored,)] = table(house, "select hash from sessions")
    for wrong in (stored.hex(), stored.decode("latin-1"), ""):
        assert find_session(house.desk, wrong) is None
    assert is_in(house, signed_in)


# ── codes ────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_with_a_second_factor_a_password_is_half_of_it(house: House, clock: FakeClock) -> None:
    await make_person(house)
    app, _ = await add_app(house, await enter(house))
    with pytest.raises(CodeNeeded) as caught:
        await enter(house)
    ticket = caught.value.ticket
    assert caught.value.param == "code" and find_session(house.desk, ticket) is None
    with pytest.raises(ClientError, match="not right, or was used") as wrong:
        await signin.enter_code(house.desk, HERE, ticket=ticket, code="000000")
    assert wrong.value.param == "code"
    signed_in = await signin.enter_code(house.desk, HERE, ticket=ticket, code=app.code())
    assert signed_in.session.totp
    assert audit_rows(house.database)[-1]["after"]["by"] == "totp"
    with pytest.raises(ClientError, match="sign in again"):
        await signin.enter_code(house.desk, HERE, ticket=ticket, code=app.code(1))
    clock.advance(STEP_MS)
    assert is_in(house, await enter(house, code=app.code()))


async def test_a_wrong_password_is_not_asked_for_a_code(house: House) -> None:
    await make_person(house)
    app, _ = await add_app(house, await enter(house))
    with pytest.raises(ClientError, match="Name or password") as caught:
        await enter(house, password=OTHER_PASSWORD, code=app.code())
    assert not isinstance(caught.value, CodeNeeded)


async def test_a_code_works_once_for_any_number_who_show_it(house: House, clock: FakeClock) -> None:
    await make_person(house)
    app, codes = await add_app(house, await enter(house))
    for code in (app.code(), codes[0], codes[1]):
        tries = [enter(house, code=code, visit=Visit(f"10.2.{number}.1")) for number in range(4)]
        results = await asyncio.gather(*tries, return_exceptions=True)
        assert sum(isinstance(result, SignedIn) for result in results) == 1, results
        clock.advance(CODE_PACE.most_ms)
    with pytest.raises(ClientError):
        await enter(house, code=codes[0])
    assert is_in(house, await enter(house, code=codes[2].lower().replace("-", " ")))
    assert await credentials.count_recovery_codes(house.desk, (await enter(house, code=codes[3])).session) == 6


async def test_a_code_of_before_the_clock_was_set_back_is_not_taken_again(house: House, clock: FakeClock) -> None:
    await make_person(house)
    app, codes = await add_app(house, await enter(house))
    await enter(house, code=app.code())
    clock.wall_ms -= 10 * STEP_MS
    for step in (0, 1, 10):
        with pytest.raises(ClientError, match="not right, or was used"):
            await enter(house, code=app.code(step))
    await enter(house, code=codes[0])


async def test_codes_are_guessed_slowly_whatever_else_goes_well(house: House, clock: FakeClock) -> None:
    await make_person(house)
    app, _ = await add_app(house, await enter(house))
    wrong = 0
    while True:
        with pytest.raises(CodeNeeded) as needed:
            await enter(house, visit=Visit(f"10.3.{wrong}.1"))
        with pytest.raises(ClientError) as caught:
            await signin.enter_code(house.desk, HERE, ticket=needed.value.ticket, code="000000")
        if caught.value.code == "rate_limited":
            break
        wrong += 1
    assert wrong == CODE_PACE.free
    with pytest.raises(ClientError, match="Too many tries"):
        await signin.enter_code(house.desk, HERE, ticket=needed.value.ticket, code=app.code())
    clock.advance(CODE_PACE.first_ms)
    await signin.enter_code(house.desk, HERE, ticket=needed.value.ticket, code=app.code())


async def test_a_ticket_ends_by_time_by_another_password_and_by_disabling(house: House, clock: FakeClock) -> None:
    await make_person(house)
    app, _ = await add_app(house, await enter(house))

    async def ticket() -> str:
        with pytest.raises(CodeNeeded) as needed:
            await enter(house)
        return needed.value.ticket

    late = await ticket()
    clock.advance(TICKET_MS)
    with pytest.raises(ClientError, match="longer than five minutes") as caught:
        await signin.enter_code(house.desk, HERE, ticket=late, code=app.code())
    assert caught.value.param == "ticket"
    old = await ticket()
    await act(house, "users.set_password", user="ada", password=PASSWORD)
    with pytest.raises(ClientError, match="Name or password"):
        await signin.enter_code(house.desk, HERE, ticket=old, code=app.code())
    disabled = await ticket()
    await act(house, "users.disable", user="ada")
    with pytest.raises(ClientError, match="Name or password"):
        await signin.enter_code(house.desk, HERE, ticket=disabled, code=app.code())
    for nonsense in ("", "x", "\ud800"):
        with pytest.raises(ClientError, match="sign in again"):
            await signin.enter_code(house.desk, HERE, ticket=nonsense, code=app.code())


async def test_an_admin_may_be_made_to_set_up_a_second_factor(house: House) -> None:
    await make_person(house, "root", role="admin")
    await make_person(house)
    admin, user = await enter(house, "root"), await enter(house)
    assert not signin.must_set_up_totp(house.desk, admin.session)
    house.desk.gate.rules = GateRules(totp_for_admins=True)
    assert signin.must_set_up_totp(house.desk, admin.session) and not signin.must_set_up_totp(house.desk, user.session)
    await add_app(house, admin)
    session = find_session(house.desk, admin.token)
    assert session is not None and not signin.must_set_up_totp(house.desk, session)


# ── links ────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_link_sets_the_password_once_and_ends_other_sessions(house: House) -> None:
    await make_person(house)
    before = await enter(house)
    link = await create_link(house.desk, "first start", user="ada")
    assert await signin.find_welcome(house.desk, link["token"]) == "ada"
    with pytest.raises(ClientError, match="12 to 128"):
        await signin.redeem_link(house.desk, HERE, token=link["token"], password="short")
    signed_in = await signin.redeem_link(house.desk, HERE, token=link["token"], password=OTHER_PASSWORD)
    assert is_in(house, signed_in) and not is_in(house, before)
    assert await signin.find_welcome(house.desk, link["token"]) is None
    with pytest.raises(ClientError, match="used already, or has expired") as caught:
        await signin.redeem_link(house.desk, HERE, token=link["token"], password=PASSWORD)
    assert caught.value.code == "not_found"
    await enter(house, password=OTHER_PASSWORD)


async def test_one_of_many_who_open_a_link_at_once_is_let_in(house: House) -> None:
    await make_person(house)
    token = (await create_link(house.desk, "t", user="ada"))["token"]
    tries = [
        signin.redeem_link(house.desk, Visit(f"10.4.0.{number}"), token=token, password=f"{OTHER_PASSWORD} {number}")
        for number in range(5)
    ]
    results = await asyncio.gather(*tries, return_exceptions=True)
    [winner] = [number for number, result in enumerate(results) if isinstance(result, SignedIn)]
    assert {getattr(result, "code", "") for result in results} == {"", "not_found"}
    await enter(house, password=f"{OTHER_PASSWORD} {winner}")
    assert len(house.desk.sessions) == 2


async def test_a_link_ends_by_time_by_another_by_a_password_and_by_disabling(house: House, clock: FakeClock) -> None:
    await make_person(house)

    async def dead(token: str) -> bool:
        with pytest.raises(ClientError) as caught:
            await signin.redeem_link(house.desk, HERE, token=token, password=OTHER_PASSWORD)
        return caught.value.code == "not_found"

    late = (await create_link(house.desk, "t", user="ada"))["token"]
    clock.advance(credentials.LINK_MS)
    assert await dead(late)
    first = (await create_link(house.desk, "t", user="ada"))["token"]
    second = (await create_link(house.desk, "t", user="ada"))["token"]
    assert await dead(first)
    clock.wall_ms -= HOUR_MS  # set back behind the hour that it was made in
    assert await dead(second)
    clock.wall_ms += HOUR_MS
    assert await signin.find_welcome(house.desk, second) == "ada"
    await act(house, "users.set_password", user="ada", password=PASSWORD)
    assert await dead(second)
    third = (await create_link(house.desk, "t", user="ada"))["token"]
    await act(house, "users.disable", user="ada")
    assert await dead(third)
    with pytest.raises(ClientError, match="disabled"):
        await create_link(house.desk, "t", user="ada")
    await enter_fails(house)


async def enter_fails(house: House) -> None:
    with pytest.raises(ClientError, match="is not right"):
        await enter(house)


async def test_a_link_does_not_stand_for_the_second_factor(house: House) -> None:
    await make_person(house)
    app, _ = await add_app(house, await enter(house))
    token = (await create_link(house.desk, "t", user="ada"))["token"]
    with pytest.raises(CodeNeeded) as needed:
        await signin.redeem_link(house.desk, HERE, token=token, password=OTHER_PASSWORD)
    assert len(house.desk.sessions) == 0
    await signin.enter_code(house.desk, HERE, ticket=needed.value.ticket, code=app.code())


# ── what else may get there ──────────────────────────────────────────────────────────────────────────────────────────


def test_nothing_that_people_do_at_a_page_is_an_act_by_name() -> None:
    registered = {*acts.WRITES.values(), *acts.LIVE.values(), *acts.READS.values(), *acts.DECLARED.values()}
    for room in (signin, credentials, acts.invites, acts.vouchers):
        for function in vars(room).values():
            hints = getattr(function, "__annotations__", {})
            if {"visit", "session", "token"} & hints.keys() and callable(function):
                assert function not in registered, function
    for function in (signin.sign_in, signin.redeem_link):
        assert function not in registered


async def test_a_session_that_is_seen_is_written_late(house: House, clock: FakeClock) -> None:
    await make_person(house)
    signed_in = await enter(house)
    clock.advance(60_000)
    assert is_in(house, signed_in)
    await signin.keep_sessions(house.desk)
    assert table(house, "select seen_at_ms from sessions") == [(signed_in.session.seen_at_ms,)]
    clock.advance(300_000)
    assert is_in(house, signed_in)
    await signin.keep_sessions(house.desk)
    assert table(house, "select seen_at_ms from sessions") == [(clock.at_ms(),)]
