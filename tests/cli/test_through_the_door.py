"""Commands while a server runs: done there, in force there, and told clearly when they cannot be."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from pathlib import Path
from typing import Any

import pytest

from gateway.desk import acts
from gateway.desk.signin import find_welcome
from gateway.errors import ClientError
from gateway.storage.folder import socket_path
from gateway.version import VERSION
from tests.cli.tools import make_shell
from tests.cli.visitors import open_door, type_in, visit
from tests.desk_tools import audit_rows, authenticate


async def test_a_command_in_another_process_is_in_force_in_the_house(tmp_path: Path) -> None:
    shell = make_shell(tmp_path)
    # Not even a configuration that only the server can read is in the way.
    shell.config.write_text('[[upstreams]]\nname = "m"\nkind = "anthropic"\napi_key_env = "ONLY_THE_SERVER_HAS_THIS"\n')
    async with open_door(shell.data) as house:
        assert (await type_in(shell, "users", "create", "ada"))[:2] == (0, "1\n")
        code, out, _ = await type_in(shell, "wallets", "topup", "ada", "5", "--reference", "r", "--json")
        assert (code, json.loads(out)["balance_usd"]) == (0, "5.00")
        assert next(house.desk.book.wallets()).available_nanos == 5 * 10**9
        code, secret, _ = await type_in(shell, "keys", "create", "ada")
        assert authenticate(house, secret.strip()).user_name == "ada"
        assert (await type_in(shell, "keys", "revoke", "1", "--yes"))[0] == 0
        with pytest.raises(ClientError):
            authenticate(house, secret.strip())
        code, out, err = await type_in(shell, "keys", "create", "adda")
        assert (code, out, err) == (1, "", "Error: there is no user adda; did you mean ada?\n")
        assert json.loads((await type_in(shell, "ledger", "audit", "--json"))[1])["clean"]
        assert len(json.loads((await type_in(shell, "models", "list", "--json"))[1])) == len(house.desk.catalog)
        assert {row["actor"] for row in audit_rows(house.database)} == {acts.actor_of(os.geteuid())}
        assert secret.strip() not in repr(audit_rows(house.database))


async def test_the_same_commands_in_a_thread_reach_the_house_too(tmp_path: Path) -> None:
    shell = make_shell(tmp_path)
    async with open_door(shell.data) as house:
        await asyncio.to_thread(shell.ok, "users", "create", "ada")
        old = await asyncio.to_thread(shell.json, "keys", "create", "ada")
        new = await asyncio.to_thread(shell.json, "keys", "rotate", str(old["id"]), "--grace", "90m")
        assert authenticate(house, old["secret"]).id == old["id"] and authenticate(house, new["secret"]).id == new["id"]
        await asyncio.to_thread(shell.ok, "users", "disable", "ada", "--yes")
        for key in (old, new):
            with pytest.raises(ClientError):
                authenticate(house, key["secret"])
        assert (await asyncio.to_thread(shell.json, "users", "list"))[0]["disabled"]


async def test_a_sign_in_link_is_for_the_server_that_runs(tmp_path: Path) -> None:
    shell = make_shell(tmp_path)
    async with open_door(shell.data, 4242) as house:
        await asyncio.to_thread(shell.ok, "users", "create", "ada")
        result = await asyncio.to_thread(shell.run, "users", "create-link", "ada")
        url, _, token = result.stdout.strip().rpartition("/")
        assert url == "http://127.0.0.1:4242/welcome" and "No server" not in result.stderr
        assert await find_welcome(house.desk, token) == "ada"
        assert audit_rows(house.database)[-1]["action"] == "users.create_link"


async def test_two_commands_at_once_without_a_server_both_get_done(tmp_path: Path) -> None:
    shell = make_shell(tmp_path)
    results = await asyncio.gather(*(type_in(shell, "users", "create", name) for name in ("ada", "bob", "eve")))
    assert [code for code, _, _ in results] == [0, 0, 0], results
    listed = await asyncio.to_thread(shell.json, "users", "list")
    assert sorted(user["name"] for user in listed) == ["ada", "bob", "eve"]


async def test_many_commands_at_once_through_the_door(tmp_path: Path) -> None:
    shell = make_shell(tmp_path)
    async with open_door(shell.data) as house:
        await acts.perform(house.desk, "t", "users.create", {"name": "ada"})

        async def topup(number: int) -> Any:
            async with visit(shell.data) as visitor:
                await visitor.receive()
                return await visitor.act("wallets.topup", user="ada", amount="1", reference=f"r{number // 2}")

        answers = await asyncio.gather(*(topup(number) for number in range(12)))
        assert sum(answer["ok"]["applied"] for answer in answers) == 6
        assert next(house.desk.book.wallets()).balance_nanos == 6 * 10**9


async def test_another_release_at_the_door_is_told_clearly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shell = make_shell(tmp_path)
    async with open_door(shell.data):
        monkeypatch.setattr("gateway.api.door.VERSION", "9.9.9")
        error = await asyncio.to_thread(shell.refused, "users", "list")
    assert f"the running server is pagegrid 9.9.9, this command is {VERSION}: restart the server" in error


async def test_a_server_that_dies_over_an_act_leaves_a_warning(tmp_path: Path) -> None:
    shell = make_shell(tmp_path)
    shell.data.mkdir(0o700)

    async def die(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(json.dumps({"pagegrid": VERSION, "protocol": acts.PROTOCOL}).encode() + b"\n")
        await reader.readline()
        writer.close()

    server = await asyncio.start_unix_server(die, socket_path(shell.data))
    try:
        error = await asyncio.to_thread(shell.refused, "users", "create", "ada")
    finally:
        server.close()
    assert "stopped answering; look whether it was done before you repeat" in error


async def test_a_server_that_never_answers_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shell = make_shell(tmp_path)
    shell.data.mkdir(0o700)
    monkeypatch.setattr("gateway.cli.desk_client.HELLO_S", 0.1)
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(socket_path(shell.data)))
        silent.listen()
        assert "stopped answering" in await asyncio.to_thread(shell.refused, "users", "list")
