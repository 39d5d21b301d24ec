"""The door of a running house: who may come in, what is said there, and what it leaves behind."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from gateway.api import door
from gateway.api.door import serve_door
from gateway.clock import SystemClock
from gateway.desk import acts
from gateway.errors import HouseError
from gateway.storage import folder
from gateway.storage.folder import socket_path
from gateway.version import VERSION
from tests.cli.tools import make_shell
from tests.cli.visitors import Visitor, open_door, type_in, visit
from tests.desk_tools import audit_rows, desk_house


async def test_the_door_answers_line_by_line_and_believes_no_actor(tmp_path: Path) -> None:
    async with open_door(tmp_path / "d") as house, visit(tmp_path / "d") as visitor:
        assert await visitor.receive() == {"pagegrid": VERSION, "protocol": 1, "port": None}
        assert (await visitor.act("users.create", name="ada"))["ok"]["name"] == "ada"
        assert (await visitor.act("users.create", name="ada"))["error"]["code"] == "invalid_request"
        assert "Extra inputs" in (await visitor.act("users.create", name="eve", id=7))["error"]["message"]
        assert "there is no act" in (await visitor.act("users.drop"))["error"]["message"]
        for line in (b"\n", b"[]\n", b"{}\n", b"not json\n", b'{"act": 1}\n', b'{"act":"users.list","more":1}\n'):
            assert "expected one line" in (await visitor.send(line))["error"]["message"], line
        assert len((await visitor.act("users.list"))["ok"]) == 1
        assert audit_rows(house.database)[0]["actor"] == acts.actor_of(os.geteuid()) != "cli:mallory"


async def test_trouble_of_ours_stays_in_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*arguments: object, **more: object) -> None:
        raise ZeroDivisionError("inner matters")

    async with open_door(tmp_path / "d"), visit(tmp_path / "d") as visitor:
        await visitor.receive()
        monkeypatch.setattr("gateway.desk.acts.perform", broken)
        assert await visitor.act("users.list") == {
            "error": {"code": "internal", "message": "internal error; the server's log has it"}
        }
    assert "inner matters" in caplog.text


async def test_a_line_without_end_is_cut_off(tmp_path: Path) -> None:
    async with open_door(tmp_path / "d"), visit(tmp_path / "d") as visitor:
        await visitor.receive()
        try:
            assert await visitor.send(b"x" * (door.LINE_BYTES_MAX + 2)) is None
        except ConnectionError:
            pass  # hung up while we were still writing


async def test_hanging_up_is_no_error(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with visit_until_closed(tmp_path / "d") as visitor:
        assert await visitor.receive() is None
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


@asynccontextmanager
async def visit_until_closed(data: Path) -> AsyncIterator[Visitor]:
    """A visitor who said nothing until the door was closed."""
    async with open_door(data):
        reader, writer = await asyncio.open_unix_connection(socket_path(data))
        visitor = Visitor(reader, writer)
        await visitor.receive()
    try:
        yield visitor
    finally:
        writer.close()


async def test_who_says_nothing_is_sent_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "IDLE_S", 0.05)
    async with open_door(tmp_path / "d"), visit(tmp_path / "d") as visitor:
        await visitor.receive()
        assert await visitor.receive() is None


async def test_a_foreign_user_is_refused_and_root_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_door(tmp_path / "d"):
        monkeypatch.setattr(door, "peer_uid", lambda sock: os.geteuid() + 1)
        async with visit(tmp_path / "d") as visitor:
            refusal = await visitor.receive()
            assert refusal == {"error": {"code": "forbidden", "message": "this server belongs to another user"}}
            assert await visitor.receive() is None
        monkeypatch.setattr(door, "peer_uid", lambda sock: 0)
        async with visit(tmp_path / "d") as visitor:
            assert "pagegrid" in await visitor.receive()


@pytest.mark.skipif(not hasattr(socket, "SO_PEERCRED"), reason="the system tells no peer")
def test_the_peer_is_who_the_system_says() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX)
    with ours, theirs:
        assert door.peer_uid(ours) == os.geteuid()


async def test_too_many_at_once_are_told_to_come_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "CONNECTIONS_MAX", 1)
    async with open_door(tmp_path / "d"), visit(tmp_path / "d") as first:
        assert "pagegrid" in await first.receive()
        async with visit(tmp_path / "d") as second:
            assert "too many commands at once" in (await second.receive())["error"]["message"]


async def test_closing_hangs_up_on_the_silent_and_lets_acts_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started, finish = asyncio.Event(), asyncio.Event()

    async def slow(*arguments: object) -> str:
        started.set()
        await finish.wait()
        return "done"

    data = tmp_path / "d"
    async with desk_house(data, SystemClock()) as house:
        opened = serve_door(house.desk, data)
        await opened.__aenter__()
        async with visit(data) as silent, visit(data) as busy:
            await silent.receive()
            await busy.receive()
            monkeypatch.setattr("gateway.desk.acts.perform", slow)
            answer = asyncio.create_task(busy.act("anything"))
            await started.wait()
            closing = asyncio.create_task(opened.__aexit__(None, None, None))
            assert await silent.receive() is None
            assert not closing.done()
            finish.set()
            assert await answer == {"ok": "done"}
            await closing
        assert not socket_path(data).exists()


async def test_the_socket_is_private_and_gone_at_the_end(tmp_path: Path) -> None:
    async with open_door(tmp_path / "d"):
        path = socket_path(tmp_path / "d")
        assert path.parent == tmp_path / "d" and path.stat().st_mode & 0o777 == 0o600
    assert not path.exists()


async def test_a_stale_socket_is_removed_at_the_next_start(tmp_path: Path) -> None:
    data = tmp_path / "d"
    folder.prepare(data)
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(socket_path(data)))
    async with open_door(data), visit(data) as visitor:
        assert "pagegrid" in await visitor.receive()
    assert not socket_path(data).exists()


def test_a_stale_socket_does_not_keep_a_command_from_working_alone(tmp_path: Path) -> None:
    shell = make_shell(tmp_path)
    folder.prepare(shell.data)
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(socket_path(shell.data)))
    assert shell.ok("users", "create", "ada") == "1\n"
    assert shell.json("users", "list")[0]["name"] == "ada"


async def test_the_door_does_not_open_without_the_house(tmp_path: Path) -> None:
    data = tmp_path / "d"
    async with desk_house(data, SystemClock()) as house:
        pass
    with socket.socket(socket.AF_UNIX) as somebodys:
        somebodys.bind(str(socket_path(data)))
        with pytest.raises(HouseError, match="before its house"):
            async with serve_door(house.desk, data):
                pass
        assert socket_path(data).exists()


async def test_a_long_path_has_its_door_in_a_private_folder_elsewhere(tmp_path: Path) -> None:
    shell = make_shell(tmp_path / ("x" * 100))
    path = socket_path(shell.data)
    assert str(path).startswith("/tmp/pagegrid-")
    async with open_door(shell.data) as house:
        assert path.parent.stat().st_mode & 0o777 == 0o700
        assert (await type_in(shell, "users", "create", "ada"))[0] == 0
        assert len(list(house.desk.book.wallets())) == 1
        path.parent.chmod(0o755)
        error = await asyncio.to_thread(shell.refused, "users", "list")
        assert "is open to others" in error
    with pytest.raises(HouseError, match="closed to others"):
        async with open_door(shell.data):
            pass
    path.parent.rmdir()
