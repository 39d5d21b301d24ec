"""The data directory: who may look into it, and which one process may write.

pagegrid-data/            0700
  pagegrid.db (-wal -shm) 0600    the database
  lock                    0600    held (flock) by whoever writes; the truth about "is a server running"
  door.sock               0600    where a running server listens for commands (elsewhere if the path is too long)
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import stat
from pathlib import Path

from gateway.errors import HouseError

# sockaddr_un holds 108 bytes on Linux and 104 on macOS, the closing zero included.
SOCKET_PATH_BYTES_MAX = 100


class Busy(HouseError):
    """Another process writes here: a running server, or a command at work."""


def prepare(folder: Path) -> None:
    """Make the directory if it is not there, and see that nobody else can look into it. Raises HouseError."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        check_owner(folder)
        folder.chmod(0o700)
    except OSError as error:
        raise HouseError("unavailable", f"the data directory {folder} cannot be used: {error.strerror}") from None


def check_owner(folder: Path) -> None:
    """Raises HouseError unless the directory belongs to this user: files made in it by another would lock the owner out."""
    owner = folder.stat().st_uid
    if owner != os.geteuid():
        raise HouseError(
            "unavailable",
            f"the data directory {folder} belongs to user id {owner}, and you are {os.geteuid()}: run this as its owner, or name "
            "another directory with --data-dir",
        )


class Lock:
    """An exclusive flock for as long as it is open; the kernel gives it back if the process dies."""

    def __init__(self, folder: Path) -> None:
        """Raises Busy if another process has it."""
        self._file = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._file)
            raise Busy("unavailable", f"another pagegrid is using {folder}") from None

    def release(self) -> None:
        os.close(self._file)


def socket_path(folder: Path) -> Path:
    """Where the door of the server on this data directory is; the same for server and command, however each was started."""
    path = folder.resolve() / "door.sock"
    if len(os.fsencode(path)) <= SOCKET_PATH_BYTES_MAX:
        return path
    name = hashlib.sha256(os.fsencode(path)).hexdigest()[:16]
    # Not tempfile.gettempdir(): TMPDIR may differ between the server and the command.
    # Of the directory's owner, not of the caller: root finds the door of another user's server too.
    owner = folder.stat().st_uid if folder.exists() else os.geteuid()
    return Path("/tmp") / f"pagegrid-{owner}-{name}" / "door.sock"  # noqa: S108 (its folder is ours alone, checked by both)


def is_private(folder: Path) -> bool:
    """Whether a directory belongs to this user and nobody else can enter it."""
    status = folder.lstat()
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid() and not status.st_mode & 0o077
