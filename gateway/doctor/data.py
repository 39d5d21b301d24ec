"""The data directory and the database in it: who may look in, what it lies on, whether it is whole, and what it remembers."""

from __future__ import annotations

import os
import pwd
import stat
from collections.abc import Iterator
from pathlib import Path

from gateway.desk.backup import ACTION
from gateway.desk.users import check_plans_declared
from gateway.doctor.patient import Finding, Patient, failure, ok, warning
from gateway.errors import ClientError
from gateway.storage import facts

# WAL needs shared memory between processes, and locks that hold; on these neither is sure (sqlite.org/wal.html, "Overview" 2).
NETWORK = {"nfs", "nfs4", "cifs", "smb3", "smbfs", "afs", "9p", "ceph", "glusterfs", "lustre", "gfs2", "ocfs2", "fuse.sshfs"}
NETWORK |= {"fuse.glusterfs", "fuse.s3fs", "fuse.rclone", "fuse.davfs", "davfs", "virtiofs", "fuse.grpcfuse", "fakeowner"}
FLEETING = {"tmpfs": "is gone after a restart of the machine", "ramfs": "is gone after a restart of the machine"}
FLEETING |= {"overlay": "is gone with its container"}

# Beside a server this reader keeps the WAL from being emptied for as long.
QUICK_CHECK_S = 10.0
COUNT_S = 5.0
GROWTH_DAYS = 7
DAYS_LEFT_MIN = 14
ROOM_BYTES_MIN = 100 * 2**20
AUDIT_HOURS_MAX = 3
BACKUP_DAYS_MAX = 7
NAMES_SHOWN = 5
HOUR_MS, DAY_MS = 3_600_000, 86_400_000


def check_files(patient: Patient) -> Iterator[Finding]:
    """Owner and modes of the data directory and of everything that holds a secret. The configuration tells of its own."""
    folder = patient.data_dir
    if not folder.exists():
        yield ok(f"{folder} is not there yet: the first start makes it")
        return
    status = folder.stat()
    if os.geteuid() not in (0, status.st_uid):
        yield failure(f"{folder} belongs to {_user(status.st_uid)}, and you are {_user(os.geteuid())}", "run this as its owner")
        return
    odd = False
    if status.st_mode & 0o077:
        odd = True
        yield failure(f"others may enter {folder} (mode {_mode(status)})", f"chmod 700 {folder}")
    for file in sorted(folder.iterdir()):
        found = file.lstat()
        if found.st_uid != status.st_uid:
            odd = True
            yield failure(
                f"{file} belongs to {_user(found.st_uid)}, its directory to {_user(status.st_uid)}: the server may not write it",
                f"chown {status.st_uid} {file}",
            )
        elif found.st_mode & 0o077 and not stat.S_ISLNK(found.st_mode):
            odd = True
            yield warning(f"{file} is open to others (mode {_mode(found)})", f"chmod {'700' if file.is_dir() else '600'} {file}")
    for path in _secret_files(patient):
        if path.is_file() and path.stat().st_mode & (stat.S_IROTH | stat.S_IWOTH):
            odd = True
            yield warning(f"every user of this machine can read {path}, which holds a secret", f"chmod 600 {path}")
    if not odd:
        yield ok(f"{folder} and what is in it belong to {_user(status.st_uid)} alone")


def check_file_system(patient: Patient) -> Iterator[Finding]:
    folder = _nearest(patient.data_dir)
    kind = file_system(folder)
    if not kind:
        yield ok("what file system the data lie on cannot be told here")
    elif kind in NETWORK:
        yield failure(
            f"the data lie on {kind}: SQLite's WAL needs a local disk, and can be corrupted without one",
            "move the data directory to a local disk (ext4, xfs, btrfs, zfs, apfs)",
        )
    elif kind in FLEETING:
        yield warning(f"the data lie on {kind}, which {FLEETING[kind]}", "put the data directory on a disk, or a volume")
    elif kind.startswith("fuse"):
        yield warning(f"the data lie on {kind}: whether its locks hold is not known", "prefer a local disk (ext4, xfs, btrfs)")
    else:
        yield ok(f"the data lie on {kind}")


def check_room(patient: Patient) -> Iterator[Finding]:
    """Room now, and for the copy that an upgrade makes. One finding."""
    room = os.statvfs(_nearest(patient.data_dir))
    free = room.f_bavail * room.f_frsize
    if free < ROOM_BYTES_MIN:
        yield failure(f"{_size(free)} are free: when none is, no request is admitted", "free some, or move the data directory")
        return
    if room.f_files and not room.f_favail:
        yield failure("the file system has no room for another file (inodes)", "remove files, or move the data directory")
        return
    file_bytes = patient.database.stat().st_size if patient.database.exists() else 0
    if free < 2 * file_bytes:
        yield warning(
            f"{_size(free)} are free, the database has {_size(file_bytes)}: an upgrade or a backup may find no room for its copy",
            "free some, or back up to another disk",
        )
        return
    yield ok(f"{_size(free)} are free")


def check_disk(patient: Patient) -> Iterator[Finding]:
    """As `check_room`, and for how many days at the pace of the last week."""
    (found,) = check_room(patient)
    if found.verdict != "ok":
        yield found
        return
    room = os.statvfs(_nearest(patient.data_dir))
    free = room.f_bavail * room.f_frsize
    file_bytes = patient.database.stat().st_size if patient.database.exists() else 0
    grows = ""
    if file_bytes:
        with patient.open_database() as conn:
            growth = facts.growth(conn, patient.machine.at_ms, file_bytes, GROWTH_DAYS, COUNT_S)
        if growth is not None:
            days = free / growth.bytes_per_day
            grows = f": {days:,.0f} days at {growth.requests_per_day:,.0f} requests a day"
            if days < DAYS_LEFT_MIN:
                yield warning(f"{_size(free)} are free{grows}", "free some, or move the data directory")
                return
    yield ok(f"{_size(free)} are free{grows}")


def check_database(patient: Patient) -> Iterator[Finding]:
    """Schema, journal, and whether the file is whole."""
    path = patient.database
    if not path.exists():
        yield ok("there is no database yet: the first start makes it")
        return
    with patient.open_database() as conn:
        version, newest = facts.schema_versions(conn)
        damage = facts.quick_check(conn, QUICK_CHECK_S)
    if damage:
        yield failure(
            f"{path} is damaged: {damage[0]}",
            "stop the server, keep the file, and restore the latest backup (deploy/README.md)",
        )
        return
    if version > newest:
        yield failure(f"schema {version} is of a newer release, this one knows {newest}", "install that release again")
    elif version < newest:
        yield warning(
            f"schema {version} is of an older release, this one writes {newest}",
            "`pagegrid backup FILE`, then start the server: it brings the schema up and keeps a copy",
        )
    if _is_copy(patient):
        yield ok("it is a copy as `pagegrid backup` makes them, not served yet: the next start brings it into WAL mode")
    elif not facts.is_wal(path):
        yield warning("the database is not in WAL mode: something else than pagegrid wrote it", "start the server: it sets it")
    if damage is None:
        yield ok(f"nothing damaged was found within {QUICK_CHECK_S:.0f} s; `pagegrid ledger audit` looks at every row")
    else:
        yield ok(f"the file is whole, schema {version}")


def check_plans(patient: Patient) -> Iterator[Finding]:
    """A start and a reload refuse a configuration without a plan that users have."""
    if patient.settings is None or not patient.database.exists():
        yield ok(
            "not looked at: there is no configuration that can be used" if patient.settings is None else "there are no users yet"
        )
        return
    with patient.open_database() as conn:
        counts = facts.users_by_plan(conn)
    try:
        check_plans_declared(counts, patient.settings.plans)
    except ClientError as error:
        yield failure(error.message, "until then a start and a reload are refused")
    else:
        yield ok("every plan that users have is declared")


def check_books(patient: Patient) -> Iterator[Finding]:
    """When the invariants were last proved, and whether somebody was frozen for one."""
    if not patient.database.exists():
        yield ok("there are no books yet")
        return
    with patient.open_database() as conn:
        life = facts.life(conn, ACTION)
    if life.frozen:
        yield warning(
            f"{_wallets(life.frozen)} frozen: requests that they would pay are refused",
            "`pagegrid audit list --action wallets.freeze` says who did it by hand; if nobody did, `pagegrid ledger audit` says "
            "what is wrong; `pagegrid wallets unfreeze USER` once that is known",
        )
    now = patient.machine.at_ms
    since = max(life.audited_at_ms or 0, life.started_at_ms or 0)
    if patient.server is not None and now - since > AUDIT_HOURS_MAX * HOUR_MS:
        yield warning(
            f"the server has not proved the books for {_age(now - since)}, and should every hour",
            "look for `audit` in its log, and run `pagegrid ledger audit`",
        )
    elif life.audited_at_ms is None:
        yield ok("the books have no checkpoint yet: a running server makes one every hour")
    else:
        yield ok(f"the books were proved clean {_age(now - life.audited_at_ms)} ago")


def check_backup(patient: Patient) -> Iterator[Finding]:
    """Known are those that a running server made; what else copies the file is not known, and may be no backup."""
    if not patient.database.exists() or (patient.settings is not None and patient.settings.demo_only):
        yield ok("there is nothing to lose yet")
        return
    with patient.open_database() as conn:
        made_at_ms = facts.life(conn, ACTION).backed_up_at_ms
    if _is_copy(patient):
        yield ok("the database itself is a copy that was not served yet")
        return
    next_step = "`pagegrid backup FILE`, every day, to another disk (deploy/README.md)"
    if made_at_ms is None:
        yield warning("this database knows of no backup that a running server made", next_step)
        return
    age_ms = patient.machine.at_ms - made_at_ms
    if age_ms > BACKUP_DAYS_MAX * DAY_MS:
        yield warning(f"the latest backup is {_age(age_ms)} old", next_step)
    else:
        yield ok(f"the latest backup is {_age(age_ms)} old")


# ── leaves ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def file_system(folder: Path, mounts: Path = Path("/proc/self/mountinfo")) -> str:
    """The type of what is mounted at the deepest point above `folder` (proc(5)); "" where the system does not tell."""
    try:
        lines = mounts.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return ""
    resolved, found, depth = folder.resolve(), "", -1
    for line in lines:
        before, _, after = line.partition(" - ")
        # A blank in a path is written \040.
        point = Path(before.split()[4].replace("\\040", " "))
        # Of two at one point the later one is on top.
        if resolved.is_relative_to(point) and len(point.parts) >= depth:
            found, depth = after.split()[0], len(point.parts)
    return found


def _is_copy(patient: Patient) -> bool:
    """VACUUM INTO writes no WAL mode, and every start of a server brings it back."""
    return patient.server is None and not facts.is_wal(patient.database)


def _nearest(folder: Path) -> Path:
    """The folder, or the deepest one above it that is there."""
    while not folder.exists():
        folder = folder.parent
    return folder


def _secret_files(patient: Patient) -> Iterator[Path]:
    if patient.settings is None:
        return
    server, notices, folder = patient.settings.server, patient.settings.notices, patient.settings.folder
    for name in (server.metrics_token_file, notices.webhook_secret_file):
        if name:
            yield folder / name


def _wallets(owners: tuple[str, ...]) -> str:
    more = f" and {len(owners) - NAMES_SHOWN} more" if len(owners) > NAMES_SHOWN else ""
    names = f"{', '.join(owners[:NAMES_SHOWN])}{more}"
    return f"the wallet of {names} is" if len(owners) == 1 else f"the wallets of {names} are"


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user id {uid}"


def _mode(status: os.stat_result) -> str:
    return f"{stat.S_IMODE(status.st_mode):04o}"


def _size(count: int) -> str:
    return f"{count / 2**30:,.1f} GiB" if count >= 2**30 else f"{count / 2**20:,.0f} MiB"


def _age(ms: int) -> str:
    if ms < 2 * HOUR_MS:
        return f"{max(0, ms) // 60_000} min"
    return f"{ms // HOUR_MS} h" if ms < 2 * DAY_MS else f"{ms // DAY_MS} days"
