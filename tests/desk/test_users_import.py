"""Many users at once: checked whole, done whole or not at all, and safe to repeat. Every test ends in the whole audit."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.desk import user_rows
from gateway.desk.user_rows import BYTES_MAX, COLUMNS, ROWS_MAX, Problems, parse_users
from gateway.errors import ClientError, HouseError
from gateway.house import House
from gateway.money import parse_usd as usd
from tests.desk_tools import act, audit_rows, authenticate, make_ada

FILE = """name,email,role,plan,topup,reference,key_name
ada,ada@example.com,admin,default,25,invoice-1,laptop
bob,,,,,,
 eve , Eve@Example.com,, ,0.5,invoice-2,"a, b"
"""


async def imported(house: House, text: str, **more: Any) -> Any:
    return await act(house, "users.import", csv=text, **more)


async def refused(house: House, text: str) -> str:
    """What is said, after a look that nothing was done."""
    before = len(audit_rows(house.database))
    with pytest.raises(ClientError) as caught:
        await imported(house, text)
    assert len(audit_rows(house.database)) == before
    return caught.value.message


def counts(done: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(done[name] for name in ("created", "existing", "topups", "topped_up_usd", "keys"))


async def test_a_file_makes_users_with_money_and_keys_that_work_at_once(house: House) -> None:
    done = await imported(house, FILE)
    assert counts(done) == (3, 0, 2, "25.50", 2) and done["dry_run"] is False
    ada, bob, eve = done["users"]
    assert bob == {"line": 3, "name": "bob", "user": "created"}
    assert (eve["line"], eve["topup"], eve["amount_nanos"], eve["key_name"]) == (4, "applied", usd("0.5"), "a, b")
    live = authenticate(house, ada["secret"])
    assert (live.user_name, live.name, live.id) == ("ada", "laptop", ada["key_id"])
    assert house.desk.book.wallet(live.wallet_id).available_nanos == usd("25")
    people = {user["name"]: user for user in await act(house, "users.list")}
    assert [(user["email"], user["role"]) for user in people.values()] == [
        ("ada@example.com", "admin"),
        (None, "user"),
        ("eve@example.com", "user"),
    ]
    actions = [row["action"] for row in audit_rows(house.database)]
    assert actions == ["users.create", "wallets.topup", "keys.create", "users.create", *actions[4:]] and len(actions) == 8
    assert audit_rows(house.database)[-1]["after"]["created"] == 3
    assert ada["secret"] not in repr(audit_rows(house.database))


async def test_a_file_may_be_imported_again_and_only_what_is_new_is_done(house: House) -> None:
    first = await imported(house, FILE)
    again = await imported(house, FILE)
    assert counts(again) == (0, 3, 0, "0.00", 0)
    assert [(user["user"], user.get("topup"), user.get("key")) for user in again["users"]] == [
        ("existing", "applied before", "existing"),
        ("existing", None, None),
        ("existing", "applied before", "existing"),
    ]
    assert "secret" not in repr(again)
    # A key that was revoked since stays dead; a new line, a new top-up and a new key are done.
    await act(house, "keys.revoke", key_id=first["users"][0]["key_id"])
    more = FILE.replace("bob,,,,,,", "bob,,,,3,invoice-3,ci") + "zoe,,,,,,\n"
    assert counts(await imported(house, more)) == (1, 3, 1, "3.00", 1)
    assert len(await act(house, "keys.list", user="ada")) == 1


async def test_a_dry_run_tells_all_and_does_nothing(house: House) -> None:
    before = len(audit_rows(house.database))
    done = await imported(house, FILE, dry_run=True)
    assert counts(done) == (3, 0, 2, "25.50", 2) and "secret" not in repr(done)
    assert await act(house, "users.list") == [] and len(audit_rows(house.database)) == before
    assert "line 2" in await refused(house, "name\n-\n")


async def test_all_that_is_wrong_is_told_at_once_by_line(house: House) -> None:
    await make_ada(house)
    await act(house, "users.create", name="carol", email="carol@example.com")
    await act(house, "users.disable", user="carol")
    text = """name,email,role,plan,topup,reference,key_name
-x,nonsense,owner,defalt,1e3,r1,k
,,,,,,

ada,other@example.com,admin,,,,
ADA,,,,,,
bob,carol@example.com,,,5,opening,
carol@example.com,,,,,,
dora,dora@example.com,,,5,,
dora,,,,,r2,
eve,dora@example.com,,,1,r3,
frank,,,,1,r3,
carol,,,,,,new
"gre
ta",,,,,,
hal,a,b,c,d,e,f,g
Ada,nonsense,,,1,r1,
ida,{long},,,,,
""".format(long="x" * 600)
    told = (await refused(house, text)).splitlines()
    assert told[0] == "nothing was done; the file has to be mended:"
    expected = [
        (2, "name: write 1 to 64 letters"),
        (2, "email: write an address such as"),
        (2, "role: there is none of this name; there are admin, user."),
        (2, "plan: there is none of this name; did you mean default?"),
        (2, "topup: '1e3' is not an amount"),
        (5, "email: ada is there already, with none; an import changes nobody"),
        (5, "role: ada is there already, with user; an import changes nobody"),
        (6, "ada stands on line 5 already; one line per user"),
        (6, "name: ada is there already; write the name like that"),
        (7, "email: carol@example.com is the name or the address of carol already"),
        (7, "reference: opening was used before, for another top-up"),
        (8, "name: carol@example.com is the name or the address of carol already"),
        (9, "reference: a top-up and its reference belong together"),
        (10, "reference: a top-up and its reference belong together"),
        (12, "reference: that of line 11 again"),
        (13, "key_name: carol is disabled"),
        (14, "name: write 1 to 64 letters"),
        (16, "8 cells, and the first line has 7 columns"),
        (17, "ada stands on line 5 already; one line per user"),
        (17, "email: write an address such as"),
        (17, "reference: that of line 2 again"),
        (18, "email: longer than 500 characters"),
    ]
    for line, message in expected:
        assert any(each.startswith(f"line {line}: ") and message in each for each in told), (line, message, told)
    lines = [int(each.split()[1].rstrip(":")) for each in told[1:]]
    assert lines == sorted(lines)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "write a first line of columns (name,email,role,plan,topup,reference,key_name"),
        ("name\n", "write a first line of columns"),
        ("ada,ada@example.com\n", "line 1: ada is no column; there are name, email"),
        ("name,emial\nada,x\n", "line 1: emial is no column; did you mean email?"),
        ("name;email\nada;x\n", "line 1: what stands there is no column"),
        ("email\nada@example.com\n", "line 1: the column name is missing"),
        ("name,Name\nada,x\n", "line 1: the column name stands there twice"),
        ('name\n"ada\n', "line 2: unexpected end of data"),
        ('name\n"ada"x\n', "line 2: "),
        (
            "name\n" + "".join(f"u{number}\n" for number in range(ROWS_MAX + 1)),
            f"{ROWS_MAX + 1} users; at most {ROWS_MAX} at a time",
        ),
        ("name\n" + "é" * (BYTES_MAX // 2), "at most 256 KiB at a time"),
    ],
)
async def test_what_is_no_such_file_is_told(house: House, text: str, message: str) -> None:
    assert message in await refused(house, text)


async def test_a_problem_in_every_line_is_told_in_part(house: House) -> None:
    told = (await refused(house, "name\n" + "-\n" * 80)).splitlines()
    assert len(told) == 52 and told[-1] == "and 30 more"


async def test_what_people_and_programs_make_of_csv_is_read(house: House) -> None:
    done = await imported(house, '\ufeffName,KEY_NAME\r\n"ada","a ""b"""\r\n\r\nbob\r\n')
    assert [(user["line"], user["name"], user.get("key_name")) for user in done["users"]] == [
        (2, "ada", 'a "b"'),
        (4, "bob", None),
    ]
    assert counts(await imported(house, "name,email\nzoe@example.com,zoe@example.com\n")) == (1, 0, 0, "0.00", 0)


async def test_what_the_disk_refuses_is_undone_as_a_whole(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(*arguments: object) -> None:
        raise HouseError("unavailable", "the database cannot be written")

    monkeypatch.setattr("gateway.storage.wallets.deposit", full_disk)
    with pytest.raises(HouseError):
        await imported(house, "name,topup,reference\nbob,,\nada,5,r\n")
    assert await act(house, "users.list") == [] and list(house.desk.book.wallets()) == []


async def test_two_imports_at_once_do_each_thing_once(house: House) -> None:
    both = await asyncio.gather(*(imported(house, FILE) for _ in range(2)), act(house, "users.list"))
    assert sorted(counts(done)[0] for done in both[:2]) == [0, 3]
    assert sum(done["keys"] for done in both[:2]) == 2
    assert sum(wallet.balance_nanos for wallet in house.desk.book.wallets()) == usd("25.5")


@pytest.mark.slow
async def test_the_largest_file_is_done_in_a_moment(house: House) -> None:
    rows = "".join(f"user{n},user{n}@example.com,,,1,invoice-{n},laptop\n" for n in range(ROWS_MAX))
    started = time.perf_counter()
    done = await imported(house, ",".join(COLUMNS) + "\n" + rows)
    assert counts(done) == (ROWS_MAX, 0, ROWS_MAX, f"{ROWS_MAX}.00", ROWS_MAX)
    assert time.perf_counter() - started < 10
    assert counts(await imported(house, ",".join(COLUMNS) + "\n" + rows)) == (0, ROWS_MAX, 0, "0.00", 0)


cells = st.text(max_size=12) | st.sampled_from(["ada", "5", "r", "a@b.cd", '"', ",", "\n", "default", "user"])


@given(st.lists(st.lists(cells, max_size=8).map(",".join), max_size=6).map("\n".join), st.booleans())
def test_whatever_stands_in_a_file_is_read_or_refused(text: str, with_header: bool) -> None:
    problems = Problems()
    try:
        rows = parse_users(",".join(COLUMNS) + "\n" + text if with_header else text, {"default"}, problems)
        problems.raise_if_any()
    except ClientError as error:
        assert error.param == "csv" and len(error.message) < 200 * 60
    else:
        assert all(row.name and row.role in (None, *user_rows.ROLES) for row in rows)
