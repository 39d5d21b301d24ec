"""The door: how a command reaches the server that has the data directory.

    server   {"pagegrid": "0.1.0", "protocol": 1, "port": 8080}
    command  {"act": "users.create", "actor": "…", "arguments": {"name": "ada"}}
    server   {"ok": {…}}   or   {"error": {"code": "invalid_request", "message": "…"}}

JSON lines on a Unix socket. Whoever may open it is the operator: its directory is 0700 and the peer's user id must be ours or
root's. What is recorded as the actor is that user's name, not what the command claims. Knows acts only by name.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
from pydantic import BaseModel, ConfigDict, ValidationError

from gateway.desk import acts
from gateway.desk.desk import Desk
from gateway.errors import ClientError, GatewayError, HouseError
from gateway.storage import folder
from gateway.version import VERSION

logger = logging.getLogger(__name__)

# Arguments are a few names; nothing honest is longer.
LINE_BYTES_MAX = 1024 * 1024
# Commands come one by one from one person or their scripts.
CONNECTIONS_MAX = 16
# A command sends its line at once; a person who talks by hand gets a minute.
IDLE_S = 60
WRITE_S = 10
# The longest act is an audit of a large ledger: 10 million transfers take some minutes.
ACT_S = 900
# Acts under way at close: each is one job on the writer.
CLOSE_S = 10


class _Request(BaseModel):
    """`actor` may be sent, and is not believed."""

    model_config = ConfigDict(strict=True, extra="forbid")

    act: str
    actor: str = ""
    arguments: dict[str, Any] = {}


@asynccontextmanager
async def serve_door(desk: Desk, data_dir: Path, port: int | None = None) -> AsyncIterator[None]:
    """Listen for commands while the house is open; `port` is where it answers over HTTP, None if it does not.

    Raises HouseError if the socket's directory is not ours alone.
    """
    path = folder.socket_path(data_dir)
    listener = _listen(path, data_dir)
    door = _Door(desk, port)
    try:
        server = await asyncio.start_unix_server(door.welcome, sock=listener, limit=LINE_BYTES_MAX)
        try:
            yield
        finally:
            server.close()
            await door.close()
    finally:
        listener.close()
        path.unlink(missing_ok=True)


def peer_uid(sock: socket.socket) -> int:
    """The user id at the other end; on systems without SO_PEERCRED our own: there the 0700 directory alone keeps others out."""
    credentials = _peer_credentials(sock)
    return os.geteuid() if credentials is None else credentials[1]


def peer_pid(sock: socket.socket) -> int | None:
    """The process at the other end (for a command: the server); None where the system does not tell."""
    credentials = _peer_credentials(sock)
    return credentials[0] if credentials else None


def _peer_credentials(sock: socket.socket) -> tuple[int, int] | None:
    option = getattr(socket, "SO_PEERCRED", None)
    if option is None:
        return None
    pid, uid, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, option, struct.calcsize("3i")))
    return pid, uid


class _Door:
    def __init__(self, desk: Desk, port: int | None) -> None:
        self._desk = desk
        self._port = port
        self._visits: set[asyncio.Task[None]] = set()
        self._at_work: set[asyncio.Task[None]] = set()
        self._closing = False

    async def welcome(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        visit = asyncio.current_task()
        assert visit is not None
        self._visits.add(visit)
        try:
            await self._visit(visit, reader, writer)
        except (OSError, TimeoutError):
            pass  # they left, or said nothing for too long
        except asyncio.CancelledError:
            # By `close`: the visit ends here either way, and asyncio 3.11 logs a cancelled one as an error.
            if not self._closing:
                raise
        finally:
            self._visits.discard(visit)
            writer.close()

    async def close(self) -> None:
        """Hang up on who is silent, and let acts under way end. A write that is cut here goes to its end by itself
        (`desk.jobs`)."""
        self._closing = True
        for visit in self._visits - self._at_work:
            visit.cancel()
        if self._at_work:
            await asyncio.wait(set(self._at_work), timeout=CLOSE_S)
        left = set(self._visits)
        for visit in left:
            visit.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    async def _visit(self, visit: asyncio.Task[None], reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        uid = peer_uid(writer.get_extra_info("socket"))
        if uid not in (0, os.geteuid()):
            logger.warning("the door was tried by user id %d", uid)
            await _send(writer, _error(HouseError("forbidden", "this server belongs to another user")))
            return
        if len(self._visits) > CONNECTIONS_MAX:
            await _send(writer, _error(HouseError("unavailable", "too many commands at once; try again in a moment")))
            return
        await _send(writer, {"pagegrid": VERSION, "protocol": acts.PROTOCOL, "port": self._port})
        actor = acts.actor_of(uid)
        while not self._closing and (line := await _read_line(reader)):
            self._at_work.add(visit)
            try:
                await _send(writer, await self._answer(actor, line))
            finally:
                self._at_work.discard(visit)

    async def _answer(self, actor: str, line: bytes) -> dict[str, Any]:
        try:
            request = _parse(line)
            async with asyncio.timeout(ACT_S):
                return {"ok": await acts.perform(self._desk, actor, request.act, request.arguments)}
        except GatewayError as error:
            return _error(error)
        except TimeoutError:
            return _error(
                HouseError("unavailable", f"this took longer than {ACT_S} s; it may still be done: look before repeating")
            )
        except Exception:
            logger.exception("an act failed")
            return _error(HouseError("internal", "internal error; the server's log has it"))


# ── leaves ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _listen(path: Path, data_dir: Path) -> socket.socket:
    """A listening-to-be socket that only we can reach. What lies at its path is stale: whoever has the house has the lock."""
    _check_locked(data_dir)
    if path.parent != data_dir.resolve():
        path.parent.mkdir(mode=0o700, exist_ok=True)
    if not folder.is_private(path.parent):
        raise HouseError(
            "unavailable", f"{path.parent} must belong to this user and be closed to others (chmod 700) for the door"
        )
    if path.is_socket():
        path.unlink()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(os.fspath(path))
        path.chmod(0o600)
    except OSError as error:
        listener.close()
        raise HouseError("unavailable", f"the door {path} cannot be opened: {error.strerror}") from None
    return listener


def _check_locked(data_dir: Path) -> None:
    """The house must be open. A lock that we could take now means that it is not, and the socket may be somebody's."""
    try:
        folder.Lock(data_dir).release()
    except folder.Busy:
        return
    raise HouseError("internal", f"the door of {data_dir} was to open before its house")


async def _read_line(reader: asyncio.StreamReader) -> bytes:
    """One line; empty when they are done. Raises ConnectionError for one that is too long."""
    async with asyncio.timeout(IDLE_S):
        try:
            return await reader.readline()
        except ValueError:  # how StreamReader says that its limit was passed
            raise ConnectionError("line too long") from None


async def _send(writer: asyncio.StreamWriter, message: dict[str, Any]) -> None:
    writer.write(orjson.dumps(message) + b"\n")
    async with asyncio.timeout(WRITE_S):
        await writer.drain()


def _parse(line: bytes) -> _Request:
    try:
        return _Request.model_validate(orjson.loads(line))
    except (orjson.JSONDecodeError, ValidationError):
        raise ClientError("invalid_request", 'expected one line {"act": "…", "arguments": {…}}') from None


def _error(error: GatewayError) -> dict[str, Any]:
    return {"error": {"code": error.code, "message": error.message}}
