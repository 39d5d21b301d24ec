"""All checks by name, in the order in which they are told, and the one way to run them."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping

from gateway.doctor import data, machine, service
from gateway.doctor.patient import Check, Finding, Patient, failure
from gateway.errors import GatewayError
from gateway.storage.folder import Busy

CHECKS: Mapping[str, Check] = {
    "python": machine.check_python,
    "sqlite": machine.check_sqlite,
    "aiohttp": machine.check_aiohttp,
    "config": service.check_config,
    "files": data.check_files,
    "file system": data.check_file_system,
    "disk": data.check_disk,
    "database": data.check_database,
    "writers": machine.check_litestream,
    "plans": data.check_plans,
    "books": data.check_books,
    "backup": data.check_backup,
    "clock": machine.check_clock,
    "memory": machine.check_memory,
    "open files": machine.check_open_files,
    "certificate": service.check_tls,
    "server": service.check_server,
    "port": service.check_port,
    "upstreams": service.check_upstreams,
}


# What takes some milliseconds however large the database is, asks nobody, and looks at a server from inside.
QUICK: Mapping[str, Check] = {
    **{
        name: CHECKS[name]
        for name in ("python", "sqlite", "aiohttp", "config", "files", "file system", "writers", "plans", "books", "backup")
    },
    **{name: CHECKS[name] for name in ("clock", "memory", "open files", "certificate")},
    "disk": data.check_room,
}


def examine(patient: Patient, checks: Mapping[str, Check] = CHECKS) -> Iterator[tuple[str, Finding]]:
    """Every finding with the name of its check. A check that cannot be made is a failure of its own, and the others go on."""
    for name, check in checks.items():
        try:
            for finding in check(patient):
                yield name, finding
        except Busy:
            yield name, failure("a command is at work on the database, and nobody answers at the door", "try again in a moment")
        except GatewayError as error:
            yield name, failure(error.message, "nothing else can be told of it until then")
        except (OSError, sqlite3.Error) as error:
            yield name, failure(f"this could not be examined: {error}", "run this as the owner of the data directory")
