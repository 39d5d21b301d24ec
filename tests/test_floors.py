"""The map of the house, kept true: a room imports lower floors, and on its own floor only what is listed.

0 ground ─ 1 wire ─ 2 judgement ─ 3 storage, upstreams ─ 4 proxy, desk ─ 5 hall ─ 6 face
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "gateway"

FLOORS: dict[str, int] = {
    **dict.fromkeys(("money", "usage", "clock", "ids", "errors", "metrics", "version"), 0),
    "wire": 1,
    **dict.fromkeys(("access", "admins", "catalog", "pricing", "estimates", "limits", "health", "router", "book", "data"), 2),
    **dict.fromkeys(("sessions", "passwords", "passcodes", "throttle"), 2),
    **dict.fromkeys(("storage", "upstreams"), 3),
    **dict.fromkeys(("proxy", "desk"), 4),
    **dict.fromkeys(("config", "chores", "notices", "switchboard", "house", "reload"), 5),
    **dict.fromkeys(("api", "web", "doctor", "cli", "__main__"), 6),
}
# Rooms of one floor that may see each other, and why.
NEIGHBOURS = {
    ("usage", "money"), ("ids", "clock"),
    ("metrics", "usage"),  # tokens are counted by their classes
    ("access", "limits"),  # a plan says what its keys may do
    ("admins", "access"),  # a kind of key
    ("sessions", "access"),  # a token is hashed as a key is
    ("catalog", "pricing"),  # a model carries its list price
    ("estimates", "pricing"),  # what may be is priced as what was
    ("router", "pricing"),  # a deployment carries its price
    ("router", "health"),  # who rests is not asked
    ("house", "config"),  # the hall is built from the settings
    ("switchboard", "config"),  # what is declared of each upstream
    ("house", "switchboard"),
    ("reload", "config"), ("reload", "house"), ("reload", "switchboard"),  # what the house was built from, built anew
    ("house", "notices"),
    ("chores", "notices"),  # looks whose balance fell
    ("notices", "config"),  # from where on, and whom it tells
    ("house", "chores"),  # and starts what it does by itself
    ("api", "web"),  # one server for both: pages stand beside endpoints
    ("web", "api"),  # a page is framed, refused and logged as an endpoint is
    ("cli", "api"),  # `serve` serves
    ("web", "doctor"),  # the system's page tells what it finds
    ("doctor", "api"),  # examines what a server would do with its certificate and its parser
    ("cli", "doctor"),
    ("cli", "web"),  # prints the link that a page opens
    ("__main__", "cli"),
}  # fmt: skip
NEVER = {
    0: {"aiohttp", "aiosqlite", "sqlite3", "pydantic", "orjson", "msgspec", "click", "asyncio"},
    1: {"aiohttp", "aiosqlite", "sqlite3", "asyncio", "time"},
    2: {"aiohttp", "aiosqlite", "sqlite3", "asyncio", "time"},
    4: {"aiohttp"},
}
NEVER_IN_ROOM = {
    "storage": {"aiohttp"},
    "upstreams": {"sqlite3", "aiosqlite"},
    "proxy": {"sqlite3", "aiosqlite"},
    "api": {"sqlite3"},
    "web": {"sqlite3", "aiosqlite"},
}
FILES = sorted(ROOT.rglob("*.py"))


def imported(file: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            found |= {node.module or ""} | {f"{node.module}.{alias.name}" for alias in node.names if node.module == "gateway"}
    return found


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_imports_point_down(file: Path) -> None:
    room = file.relative_to(ROOT).parts[0].removesuffix(".py")
    if room == "__init__":
        return
    floor = FLOORS[room]
    for name in imported(file):
        top, _, rest = name.partition(".")
        if top == "gateway" and rest:
            other = rest.split(".")[0]
            assert other == room or FLOORS[other] < floor or (room, other) in NEIGHBOURS, f"{room} imports {other}"
        assert top not in NEVER.get(floor, set()) | NEVER_IN_ROOM.get(room, set()), f"{room} imports {top}"


def test_only_the_transport_opens_outward_connections() -> None:
    allowed = {"transport.py", "check.py"}
    assert {file.name for file in FILES if "ClientSession" in file.read_text()} <= allowed


def test_sql_is_spoken_in_storage_only() -> None:
    for file in FILES:
        if "storage" not in file.parts:
            assert ".execute(" not in file.read_text(), file
