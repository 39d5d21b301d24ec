"""How a command gets its act done, whoever has the data directory.

a server listens at the door      it performs the act: what it answers is in force there
nobody does, the act only reads   we look into the database and leave no trace
nobody does, the act writes       we take the lock, open the house ourselves, and close it again; no provider is asked, so its
                                  secret, which perhaps only the server's environment has, is not needed
somebody has the lock, no door    another command at work, or a server starting: wait a little and look again
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from gateway.api.door import peer_pid
from gateway.cli.context import Place
from gateway.desk import acts
from gateway.errors import ClientError, HouseError
from gateway.house import open_house
from gateway.storage import folder
from gateway.storage.database import FILE_NAME
from gateway.storage.readonly import looking, no_database
from gateway.version import VERSION

# Another command holds the lock for a moment, a start with an audit for some seconds.
BUSY_S = 15.0
BUSY_AGAIN_S = 0.1
HELLO_S = 5
# More than the door itself allows an act (900 s), so that its own word arrives.
ANSWER_S = 960
# A listing of everything is the longest line.
ANSWER_BYTES_MAX = 256 * 1024 * 1024


def perform(place: Place, act: str, /, **arguments: Any) -> Any:
    """The act's result. Raises GatewayError with the next step, ConfigError if the configuration is needed and cannot be used."""
    acts.check(act, arguments)
    return asyncio.run(_perform(place, act, arguments))


@dataclass(frozen=True, slots=True)
class Listening:
    """A server at its door: its release, its process where the system tells it, and its port where it says so."""

    version: str
    pid: int | None
    port: int | None


def find_server(data_dir: Path) -> Listening | None:
    """Who listens at the door of this directory; None if nobody does. Raises HouseError if it cannot be asked."""
    return asyncio.run(_find_server(data_dir))


async def _find_server(data_dir: Path) -> Listening | None:
    connection = await _knock(data_dir)
    if connection is None:
        return None
    reader, writer = connection
    try:
        hello = await _receive(reader, data_dir, HELLO_S)
        port = hello.get("port")
        pid = peer_pid(writer.get_extra_info("socket"))
        return Listening(str(hello.get("pagegrid")), pid, port if isinstance(port, int) else None)
    finally:
        writer.close()


async def _perform(place: Place, act: str, arguments: Mapping[str, Any]) -> Any:
    give_up = time.monotonic() + BUSY_S
    while True:
        connection = await _knock(place.data_dir)
        if connection is not None:
            return await _ask(connection, place.data_dir, act, arguments)
        try:
            return await _alone(place, act, arguments)
        except folder.Busy:
            if time.monotonic() > give_up:
                raise HouseError(
                    "unavailable",
                    f"another pagegrid is using {place.data_dir} and does not open its door; try again, or stop it first",
                ) from None
        await asyncio.sleep(BUSY_AGAIN_S)


# ── alone ────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def _alone(place: Place, act: str, arguments: Mapping[str, Any]) -> Any:
    """Raises `folder.Busy` if another process has the directory."""
    if act in acts.DECLARED:
        return acts.declare(place.load_settings("unneeded"), act, arguments)
    if act in acts.LIVE:
        raise HouseError(
            "unavailable",
            f"no server is running on {place.data_dir}, and only a running one knows this: start one with `pagegrid serve`, or "
            "name another directory with --data-dir",
        )
    if act in acts.READS:
        with looking(place.data_dir) as conn:
            return acts.read(conn, act, arguments)
    # A first user may be made before the first start, but not by a slip of --data-dir in a place without a configuration.
    first = act in ("users.create", "users.import") and place.config is not None
    if not first and not _is_there(place.data_dir / FILE_NAME):
        raise no_database(place.data_dir / FILE_NAME)
    async with open_house(place.load_settings("unneeded"), place.data_dir) as house:
        return await acts.perform(house.desk, acts.actor_of(os.geteuid()), act, arguments)


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except OSError as error:
        raise HouseError("unavailable", f"{path} cannot be read: {error.strerror}; run this as its owner") from None


# ── through the door ─────────────────────────────────────────────────────────────────────────────────────────────────

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def _knock(data_dir: Path) -> Connection | None:
    """A connection to the server of this directory, or None if none listens."""
    try:
        path = _door_path(data_dir)
        async with asyncio.timeout(HELLO_S):
            return await asyncio.open_unix_connection(path, limit=ANSWER_BYTES_MAX)
    except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError):
        return None
    except PermissionError:
        raise HouseError("unavailable", f"the server of {data_dir} belongs to another user: run this as that user") from None
    except TimeoutError:
        raise _silent(data_dir) from None


def _door_path(data_dir: Path) -> Path:
    """In /tmp anybody could have made that folder: nothing is asked of a door that is not in a folder of ours alone."""
    path = folder.socket_path(data_dir)
    if path.parent != data_dir.resolve() and not folder.is_private(path.parent):
        raise HouseError("unavailable", f"{path.parent} is open to others: remove it and start the server again")
    return path


async def _ask(connection: Connection, data_dir: Path, act: str, arguments: Mapping[str, Any]) -> Any:
    reader, writer = connection
    try:
        _check_hello(await _receive(reader, data_dir, HELLO_S))
        writer.write(orjson.dumps({"act": act, "arguments": arguments}) + b"\n")
        await writer.drain()
        return await _receive(reader, data_dir, ANSWER_S)
    except ConnectionError:
        raise _silent(data_dir) from None
    finally:
        writer.close()


async def _receive(reader: asyncio.StreamReader, data_dir: Path, limit_s: float) -> Any:
    """The next message, or what is "ok" in it. Raises the error that it carries, HouseError if nothing comes."""
    try:
        async with asyncio.timeout(limit_s):
            line = await reader.readline()
    except (TimeoutError, ValueError):
        raise _silent(data_dir) from None
    if not line:
        raise _silent(data_dir)
    message = orjson.loads(line)
    if "error" in message:
        raise ClientError(message["error"]["code"], message["error"]["message"])
    return message.get("ok", message)


def _check_hello(hello: dict[str, Any]) -> None:
    if hello.get("protocol") != acts.PROTOCOL or hello.get("pagegrid") != VERSION:
        raise HouseError(
            "unavailable",
            f"the running server is pagegrid {hello.get('pagegrid')}, this command is {VERSION}: restart the server, or use its "
            "release for the command",
        )


def _silent(data_dir: Path) -> HouseError:
    return HouseError(
        "unavailable", f"the server of {data_dir} stopped answering; look whether it was done before you repeat the command"
    )
