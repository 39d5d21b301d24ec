"""Every check, on a house that is well and with one fault planted: that is told, with a next step, and nothing else is."""

from __future__ import annotations

import asyncio
import os
import socket
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from gateway.config import ConfigError, load, parse
from gateway.doctor import data
from gateway.doctor.checks import CHECKS, examine
from gateway.doctor.patient import Finding, Machine, Patient, Server, Verdict, look_at_machine, parse_version
from gateway.house import open_house
from gateway.ids import lowest_id
from gateway.storage.database import FILE_NAME
from gateway.version import VERSION
from tests.certificates import make_certificate, needs_openssl
from tests.cli.test_looking import traces
from tests.fakes import FakeClock

GB = 2**30
DAY_MS = 86_400_000
WELL = Machine(
    python=(3, 11, 7),
    sqlite=(3, 51, 3),
    aiohttp=(3, 14, 5),
    aiohttp_c_extension=True,
    at_ms=0,
    clock_synchronised=True,
    monotonic_resolution_s=1e-9,
    memory_bytes=4 * GB,
    open_files=1024,
    open_files_max=524_288,
)
CONFIG = """
[server]
port = 0
{more}
[[upstreams]]
name = "main"
kind = "anthropic"
api_key = "x"
"""
REACHED = [{"name": "main", "ok": True, "status": 200, "ms": 12, "detail": "ok", "ahead_s": 0}]


def make_patient(folder: Path) -> Patient:
    """A house that was opened, closed and backed up, all of it private."""
    clock = FakeClock()
    settings = parse(CONFIG.format(more=""), str(folder / "pagegrid.toml"), {})

    async def live() -> None:
        async with open_house(settings, folder / "data", clock):
            pass

    asyncio.run(live())
    patient = Patient(
        machine=replace(WELL, at_ms=clock.at_ms()),
        data_dir=folder / "data",
        config=folder / "pagegrid.toml",
        settings=settings,
        config_problems=(),
        server=None,
        door_problem="",
        test_upstreams=lambda: REACHED,
    )
    write(
        patient,
        "insert into audit_log (at_ms, actor, action, subject) values (?, 'cli:ada', 'backup.create', '/mnt/copy.db')",
        clock.at_ms() - DAY_MS,
    )
    write(patient, "insert into checkpoints values (0, 0, ?, '{}')", clock.at_ms())
    return patient


def write(patient: Patient, sql: str, *values: object) -> Patient:
    with closing(sqlite3.connect(patient.database)) as conn:
        conn.execute(sql, values)
        conn.commit()
        conn.execute("pragma wal_checkpoint(truncate)")
    return patient


def configured(patient: Patient, more: str) -> Patient:
    return replace(patient, settings=parse(CONFIG.format(more=more), str(patient.config), {}))


def on_machine(**other: Any) -> Callable[[Patient], Patient]:
    return lambda patient: replace(patient, machine=replace(patient.machine, **other))


def running(patient: Patient, **other: Any) -> Patient:
    return replace(patient, server=Server(VERSION, None), **other)


def answering(**other: Any) -> Callable[[Patient], Patient]:
    return lambda patient: replace(patient, test_upstreams=lambda: [{**REACHED[0], **other}])


def later(patient: Patient, days: float) -> Patient:
    return on_machine(at_ms=patient.machine.at_ms + int(days * DAY_MS))(patient)


def damaged(patient: Patient) -> Patient:
    with patient.database.open("r+b") as file:
        # The root of some table, from its header on.
        file.seek(4096 * 5)
        file.write(b"\xff" * 512)
    return patient


def no_database(patient: Patient) -> Patient:
    patient.database.write_bytes(b"this is no database" * 400)
    return patient


def changed(path: str, mode: int) -> Callable[[Patient], Patient]:
    def plant(patient: Patient) -> Patient:
        (patient.data_dir / path).chmod(mode)
        return patient

    return plant


ADA = "insert into users (id, name, role, plan, created_at_ms) values (1, 'ada', 'user', ?, 0)"


def frozen(patient: Patient) -> Patient:
    write(patient, ADA, "default")
    return write(patient, "insert into accounts (id, kind, name, user_id, frozen) values (9, 'wallet', 'wallet:1', 1, 1)")


def litestream(patient: Patient) -> Patient:
    (patient.data_dir / f".{FILE_NAME}-litestream").mkdir(mode=0o700)
    return patient


def open_token_file(patient: Patient) -> Patient:
    token = patient.data_dir.parent / "token"
    token.write_text("t")
    token.chmod(0o644)
    return configured(patient, 'metrics_token_file = "token"')


def grown(patient: Patient) -> Patient:
    """8 days of requests, nearly all of them in the last one, and a disk that is soon full."""
    first, now = patient.machine.at_ms - 8 * DAY_MS, patient.machine.at_ms
    write(patient, "insert into users (id, name, role, created_at_ms) values (1, 'ada', 'user', 0)")
    write(patient, "insert into accounts (id, kind, name, user_id) values (9, 'wallet', 'wallet:1', 1)")
    write(patient, "insert into keys (id, user_id, name, hash, hint, created_at_ms) values (1, 1, 'k', zeroblob(32), 'h', 0)")
    return write(
        patient,
        """
        with recursive numbers (n) as (select 0 union all select n + 1 from numbers where n < 20000)
        insert into holds (id, wallet_id, key_id, boot_id, model, amount_nanos, opened_at_ms, state, resolved_at_ms, reason)
        select case n when 0 then ? else ? + n end, 9, 1, 1, 'm', 0, 0, 'void', 1, 'x' from numbers
        """,
        *(lowest_id(first), lowest_id(now - 1000)),
    )


def owned_by_another(patient: Patient) -> Patient:
    os.chown(patient.database, 12345, -1)
    return patient


def unconfigured(patient: Patient) -> Patient:
    try:
        configured(patient, "prot = 1")
    except ConfigError as error:
        return replace(patient, settings=None, config_problems=tuple(map(str, error.problems)))
    raise AssertionError


def crash(patient: Patient) -> Patient:
    def ask() -> list[dict[str, Any]]:
        raise OSError("the network is down")

    return replace(patient, test_upstreams=ask)


@dataclass(frozen=True)
class Case:
    check: str
    verdict: Verdict
    tells: str
    plant: Callable[[Patient], Patient]
    others: tuple[str, ...] = ()
    """Checks that rightly tell of the same fault."""


root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")

FAULTS = [
    Case("python", "failure", "too old", on_machine(python=(3, 10, 2))),
    Case("sqlite", "failure", "no STRICT tables", on_machine(sqlite=(3, 36, 0))),
    Case("aiohttp", "failure", "smuggling", on_machine(aiohttp=(3, 14, 4))),
    Case("aiohttp", "failure", "without its C extension", on_machine(aiohttp_c_extension=False)),
    Case("config", "failure", "did you mean server.port?", unconfigured),
    Case("config", "warning", "reachable from other machines", lambda patient: configured(patient, 'host = "0.0.0.0"')),
    Case("files", "failure", "others may enter", changed(".", 0o755)),
    Case("files", "warning", "open to others (mode 0644)", changed(FILE_NAME, 0o644)),
    Case("files", "warning", "holds a secret", open_token_file, ("config",)),
    pytest.param(Case("files", "failure", "user id 12345", owned_by_another), marks=root),
    Case("database", "failure", "damaged", damaged),
    Case("database", "failure", "not a database", no_database, ("disk", "plans", "books", "backup", "clock")),
    Case("database", "failure", "newer release", lambda patient: write(patient, "pragma user_version = 99")),
    Case("database", "warning", "older release", lambda patient: write(patient, "pragma user_version = 1")),
    Case("database", "warning", "not in WAL", lambda patient: running(write(patient, "pragma journal_mode = delete"))),
    Case("plans", "failure", "pro (1 user)", lambda patient: write(patient, ADA, "pro")),
    Case("writers", "warning", "Litestream", litestream),
    Case("writers", "failure", "can corrupt the file", lambda patient: on_machine(sqlite=(3, 51, 2))(litestream(patient))),
    Case("books", "warning", "the wallet of ada is frozen", frozen),
    Case("books", "warning", "has not proved the books for 4 h", lambda patient: running(later(patient, 4.5 / 24))),
    Case("backup", "warning", "8 days old", lambda patient: later(patient, 7)),
    Case(
        "backup",
        "warning",
        "knows of no backup",
        lambda patient: write(
            write(patient, "drop trigger audit_log_no_delete"), "delete from audit_log where action = 'backup.create'"
        ),
    ),
    Case("clock", "failure", "behind what the database has seen", lambda patient: later(patient, -0.01)),
    Case("clock", "warning", "synchronised", on_machine(clock_synchronised=False)),
    Case("clock", "warning", "steps of 50 ms", on_machine(monotonic_resolution_s=0.05)),
    Case("memory", "failure", "would end the server", on_machine(memory_bytes=GB // 2)),
    Case("memory", "warning", "little is left", on_machine(memory_bytes=700 * 2**20)),
    Case("open files", "warning", "1280 open files", on_machine(open_files=256, open_files_max=1024)),
    Case("server", "failure", "0.0.9", lambda patient: replace(patient, server=Server("0.0.9", None))),
    Case("server", "failure", "stopped answering", lambda patient: replace(patient, door_problem="the server stopped answering")),
    Case("upstreams", "failure", "main is not reached: connect", answering(ok=False, status=None, detail="connect")),
    Case("upstreams", "failure", "main refuses with status 401", answering(ok=False, status=401, detail="secret_refused")),
    Case("upstreams", "failure", "main refuses with status 529", answering(ok=False, status=529, detail="overloaded")),
    Case("upstreams", "warning", "is 90 s behind", answering(ahead_s=-90)),
    Case("upstreams", "failure", "the network is down", crash),
]


@pytest.mark.parametrize("case", FAULTS, ids=lambda case: f"{case.check}: {case.tells}")
def test_a_planted_fault_is_told_and_nothing_else_is(tmp_path: Path, case: Case) -> None:
    patient = make_patient(tmp_path)
    assert faults(patient) == []
    found = faults(case.plant(patient))
    (told,) = [finding for name, finding in found if name == case.check]
    assert told.verdict == case.verdict and case.tells in told.says, told
    assert told.next_step
    assert {name for name, _ in found} == {case.check, *case.others}


def faults(patient: Patient) -> list[tuple[str, Finding]]:
    return [(name, finding) for name, finding in examine(patient) if finding.verdict != "ok"]


def test_a_copy_that_a_backup_made_is_well_before_its_first_start(tmp_path: Path) -> None:
    patient = make_patient(tmp_path)
    write(write(patient, "drop trigger audit_log_no_delete"), "delete from audit_log where action = 'backup.create'")
    copy = tmp_path / "restored" / FILE_NAME
    copy.parent.mkdir(mode=0o700)
    with closing(sqlite3.connect(patient.database)) as conn:
        conn.execute("vacuum into ?", (str(copy),))
    copy.chmod(0o600)
    restored = replace(patient, data_dir=copy.parent)
    assert faults(restored) == []
    assert any(name == "database" and "a copy as `pagegrid backup`" in finding.says for name, finding in examine(restored))


def test_an_open_configuration_is_closed_by_the_next_step(tmp_path: Path) -> None:
    patient = make_patient(tmp_path)
    assert patient.config is not None
    patient.config.write_text(CONFIG.format(more=""))
    patient.config.chmod(0o644)
    ((name, finding),) = faults(replace(patient, settings=load(patient.config, {})))
    assert (name, finding.next_step) == ("config", f"chmod 600 {patient.config}")


def test_every_check_has_a_planted_fault() -> None:
    cases = [each.values[0] if hasattr(each, "values") else each for each in FAULTS]
    elsewhere = {"file system", "disk", "certificate", "port"}
    assert {case.check for case in cases} | elsewhere == CHECKS.keys()


def test_examining_changes_no_file(tmp_path: Path) -> None:
    patient = make_patient(tmp_path)
    before = traces(patient.data_dir)
    assert faults(patient) == []
    assert traces(patient.data_dir) == before
    assert [name for name, _ in examine(replace(patient, data_dir=tmp_path / "none", test_upstreams=None))] == list(CHECKS)
    assert not (tmp_path / "none").exists()


# ── what lies outside the house ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("kind", "verdict"),
    [
        *((kind, "failure") for kind in ("nfs4", "cifs", "fuse.sshfs", "9p")),
        *((kind, "warning") for kind in ("tmpfs", "overlay", "fuse.mergerfs")),
        *((kind, "ok") for kind in ("ext4", "xfs", "btrfs", "zfs", "")),
    ],
)
def test_the_file_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, verdict: str) -> None:
    monkeypatch.setattr(data, "file_system", lambda folder: kind)
    (found,) = data.check_file_system(make_patient(tmp_path))
    assert found.verdict == verdict and kind in found.says


def test_the_deepest_mount_counts_and_the_latest_of_two(tmp_path: Path) -> None:
    inside = tmp_path / "a b" / "data"
    inside.mkdir(parents=True)
    mounts = tmp_path / "mountinfo"
    point = str(tmp_path.resolve() / "a b").replace(" ", "\\040")
    mounts.write_text(
        "22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw\n"
        f"30 22 0:31 / {point} rw shared:2 - tmpfs tmpfs rw\n"
        f"31 22 0:32 / {point} rw - nfs4 host:/export rw,vers=4.2\n"
        f"32 22 0:33 / {point}x rw - xfs /dev/vdb rw\n"
    )
    assert data.file_system(inside, mounts) == "nfs4"
    assert data.file_system(tmp_path, mounts) == "ext4"
    assert data.file_system(tmp_path, tmp_path / "none") == ""


@pytest.mark.parametrize(
    ("free", "inodes", "grow", "verdict", "tells"),
    [
        (50 * 2**20, 1000, False, "failure", "50 MiB are free"),
        (GB, 0, False, "failure", "inodes"),
        (GB, 1000, False, "ok", "1.0 GiB are free"),
        (101 * 2**20, 1000, True, "ok", "days at 2,857 requests a day"),
    ],
)
def test_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, inodes: int, grow: bool, verdict: str, tells: str
) -> None:
    patient = grown(make_patient(tmp_path)) if grow else make_patient(tmp_path)
    real = os.statvfs(tmp_path)
    room = (real.f_bsize, 1, real.f_blocks, free, free, 10**6, inodes, inodes, real.f_flag, real.f_namemax)
    monkeypatch.setattr("gateway.doctor.data.os.statvfs", lambda folder: os.statvfs_result(room))
    (found,) = data.check_disk(patient)
    assert found.verdict == verdict and tells in found.says, found


@pytest.mark.parametrize(
    ("room_bytes", "verdict", "tells"), [(2**21, "warning", "no room for its copy"), (2**25, "warning", "days at 2,857 requests")]
)
def test_a_disk_that_will_be_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room_bytes: int, verdict: str, tells: str
) -> None:
    patient = grown(make_patient(tmp_path))
    room = (1, 1, 1, room_bytes, room_bytes, 10**6, 1000, 1000, 0, 255)
    monkeypatch.setattr("gateway.doctor.data.os.statvfs", lambda folder: os.statvfs_result(room))
    monkeypatch.setattr("gateway.doctor.data.ROOM_BYTES_MIN", 2**20)
    monkeypatch.setattr("gateway.doctor.data.DAYS_LEFT_MIN", 10**6)
    (found,) = data.check_disk(patient)
    assert found.verdict == verdict and tells in found.says, found


def test_a_large_file_is_looked_at_for_a_while_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    patient = grown(make_patient(tmp_path))
    monkeypatch.setattr("gateway.doctor.data.QUICK_CHECK_S", 0)
    monkeypatch.setattr("gateway.storage.facts.STEPS_BETWEEN_LOOKS", 1)
    began = time.monotonic()
    (found,) = data.check_database(patient)
    assert found.verdict == "ok" and "nothing damaged was found within" in found.says and time.monotonic() - began < 2


def test_a_taken_port_is_told_with_who_has_it(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        patient = configured(make_patient(tmp_path), "").settings
        assert patient is not None
        found = faults(on_port(make_patient(tmp_path / "x"), port))
    ((name, finding),) = found
    assert name == "port" and finding.verdict == "failure" and "is taken" in finding.says
    if Path("/proc/self").exists():
        assert f"(process {os.getpid()})" in finding.says
    assert faults(on_port(make_patient(tmp_path / "y"), port)) == []


def on_port(patient: Patient, port: int, host: str = "127.0.0.1") -> Patient:
    assert patient.settings is not None
    return replace(patient, settings=patient.settings.listening_on(host, port))


def test_an_address_that_is_not_here_is_told(tmp_path: Path) -> None:
    for host, tells in (("192.0.2.7", "cannot listen on"), ("no-such-host.invalid", "is no address")):
        found = [finding for name, finding in faults(on_port(make_patient(tmp_path / host), 1, host)) if name == "port"]
        assert tells in found[0].says


def test_a_stranger_on_the_port_of_a_running_server_is_told(tmp_path: Path) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        found = faults(running(on_port(make_patient(tmp_path), silent.getsockname()[1])))
    ((name, finding),) = found
    assert (name, finding.verdict) == ("port", "warning") and "started with another --host" in finding.next_step


@needs_openssl
def test_the_certificate(tmp_path: Path) -> None:
    patient, more = make_patient(tmp_path), 'tls_certificate_file = "{}.pem"\ntls_key_file = "{}.key"'
    for name, days in (("good", 90), ("expired", -1)):
        make_certificate(tmp_path, name, days=days)
    assert faults(configured(patient, more.format("good", "good"))) == []
    ((name, expired),) = faults(configured(patient, more.format("expired", "expired")))
    assert (name, expired.verdict) == ("certificate", "warning") and "expired on" in expired.says
    ((name, mixed),) = faults(configured(patient, more.format("good", "expired")))
    assert (name, mixed.verdict) == ("certificate", "failure") and "does not belong" in mixed.says


def test_this_machine_can_be_looked_at() -> None:
    machine = look_at_machine()
    assert machine.aiohttp_c_extension and machine.memory_bytes > 2**26 and machine.open_files > 0
    assert [parse_version(text) for text in ("3.14.5", "3.15.0rc1", "4")] == [(3, 14, 5), (3, 15, 0), (4,)]
