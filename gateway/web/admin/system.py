"""/admin/system: what runs here and on what, the database and its backups, the configuration in force, what the doctor finds.

Shows no secret: `config/shown.py` tells of each only whether it is set. The form of a backup names no path.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gateway import metrics
from gateway.api.metrics import VERSIONS, measure
from gateway.config.shown import show_settings
from gateway.desk.acts import perform
from gateway.desk.backup import ACTION, FOLDER, KEPT_MAX, back_up_here, check_room, list_kept
from gateway.desk.plans import list_plans
from gateway.doctor.checks import QUICK, examine
from gateway.doctor.patient import Finding, Patient, Server, look_at_machine
from gateway.errors import ClientError
from gateway.house import House
from gateway.storage.sizes import free_bytes, last_act, table_sizes
from gateway.version import VERSION
from gateway.web.page import Page, Route

PATH = "/admin/system"
TEMPLATE = "admin/system.html"
# What is done by then is told on the next page; a longer copy goes on without anybody waiting.
WAIT_S = 3

# What the house does by itself (chores.py), as an operator would say it.
CHORES = {
    "tick": "Watch open streams",
    "write_events": "Record how upstreams fare",
    "keep_events": "Remove old upstream events",
    "look": "Look for low balances",
    "watch": "Look for forgotten holds",
    "roll_up": "Roll up usage",
    "keep": "Keep sessions",
    "audit_recent": "Audit what is new",
    "prune_detail": "Delete detail past its retention",
    "audit_whole": "Audit everything",
    "prove": "Check the roll-ups",
}


@dataclass(frozen=True, slots=True)
class _Chore:
    words: str
    every_ms: int
    at_ms: int | None
    well: bool


async def show_system(page: Page) -> None:
    await page.show(TEMPLATE, **await _values(page))


async def back_up(page: Page) -> None:
    desk = page.desk
    try:
        await asyncio.to_thread(check_room, desk.database)
    except ClientError as error:
        await page.refuse(TEMPLATE, error, **await _values(page))
        return
    started = desk.backing_up.start(back_up_here(desk, page.actor), page.now_ms)
    if not await desk.backing_up.wait(WAIT_S):
        words = "The backup goes on" if started else "A backup was running already, and goes on"
        await page.go(PATH, f"{words}; this page lists it when its books have been audited.", "")
    elif desk.backing_up.trouble:
        await page.go(PATH, f"No backup was made: {desk.backing_up.trouble}.", "bad")
    else:
        kept = (await asyncio.to_thread(list_kept, desk.database))[0]
        await page.go(PATH, f"Backed up to {desk.database.parent / FOLDER / kept.name}, and the books of the copy balance.")


async def reload(page: Page) -> None:
    try:
        result = await perform(page.desk, page.actor, "configuration.reload", {})
    except ClientError as error:
        await page.refuse(TEMPLATE, error, **await _values(page))
        return
    changed = ", ".join(result["changed"])
    words = f"Reloaded; changed: {changed}." if changed else "Reloaded; nothing had changed."
    await page.go(PATH, " ".join((words, *result["warnings"])), "warn" if result["warnings"] else "ok")


ROUTES = (
    Route(PATH, "admin/system", "admin", get=show_system),
    Route(f"{PATH}/backup", "admin/system/backup", "admin", post=back_up),
    Route(f"{PATH}/reload", "admin/system/reload", "admin", post=reload),
)


# ── leaves ───────────────────────────────────────────────────────────────────────────────────────────────────────────


async def _values(page: Page) -> Mapping[str, Any]:
    house = page.house
    stored = await page.look(lambda conn: (table_sizes(conn), free_bytes(conn), last_act(conn, ACTION)))
    sizes, unused_bytes, backed_up = stored
    measured = await asyncio.to_thread(measure, house.data_dir, house.database)
    findings = await asyncio.to_thread(_examine, house)
    return {
        "versions": VERSIONS,
        "platform": f"{sys.platform}, process {os.getpid()}",
        "started_at_ms": metrics.started_at_ms,
        "data_dir": str(house.data_dir.absolute()),
        "measured": {name.removeprefix("pagegrid_"): value for name, value in measured.items()},
        "unused_bytes": unused_bytes,
        "sizes": sizes,
        "backed_up": backed_up,
        "kept": await asyncio.to_thread(list_kept, house.database),
        "kept_max": KEPT_MAX,
        "backup_folder": FOLDER,
        "backing_up_since_ms": house.desk.backing_up.since_ms,
        "reloadable": house.desk.reload is not None,
        "sections": show_settings(house.settings),
        "plans": list_plans(house.desk),
        "findings": findings,
        "examined": len(QUICK),
        "chores": [
            _Chore(CHORES.get(name, name), int(every_s * 1000), at_ms, well)
            for name, (every_s, at_ms, well) in metrics.chores.items()
        ],
    }


def _examine(house: House) -> list[tuple[str, Finding]]:
    """What is not well, failures first."""
    patient = Patient(
        machine=look_at_machine(),
        data_dir=house.data_dir,
        config=None,
        settings=house.settings,
        config_problems=(),
        server=Server(VERSION, os.getpid()),
        door_problem="",
        test_upstreams=None,
    )
    found = [(name, finding) for name, finding in examine(patient, QUICK) if finding.verdict != "ok"]
    return sorted(found, key=lambda each: each[1].verdict)
