"""`pagegrid doctor`: is all well here, with a running server or without one? Looks, and changes nothing."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import asdict
from typing import Any

import click

from gateway.cli.context import Place, counted, json_option, out, place_options, print_json, say
from gateway.cli.desk_client import find_server, perform
from gateway.clock import SystemClock
from gateway.config import ConfigError, Settings
from gateway.doctor.checks import examine
from gateway.doctor.patient import Patient, Server, look_at_machine
from gateway.errors import HouseError
from gateway.house import Transports, build_stations
from gateway.router import Router
from gateway.switchboard import Switchboard
from gateway.version import VERSION

NAME_CHARS = 13


@click.command(short_help="Examine machine, configuration, data and upstreams.")
@click.option("--offline", is_flag=True, help="Ask no upstream.")
@place_options
@json_option
def doctor(place: Place, offline: bool, as_json: bool) -> None:
    """Examine machine, configuration, data, server and upstreams; exit 1 if something has failed.

    Each finding is ok, a warning or a failure, with what to do next. Nothing is changed, and asking upstreams is free.
    """
    found = []
    for name, finding in examine(_patient(place, offline)):
        found.append({"check": name, **asdict(finding)})
        if not as_json:
            out(f"{finding.verdict:7}  {name:{NAME_CHARS}}{finding.says}")
            if finding.next_step:
                out(f"{'':9}{'':{NAME_CHARS}}→ {finding.next_step}")
    failures, warnings = (sum(each["verdict"] == verdict for each in found) for verdict in ("failure", "warning"))
    if as_json:
        print_json({"ok": not failures, "findings": found})
    else:
        say(f"{counted(failures, 'failure')}, {counted(warnings, 'warning')}.")
    if failures:
        sys.exit(1)


def _patient(place: Place, offline: bool) -> Patient:
    settings, config = None, None
    config_problems: tuple[str, ...] = ()
    try:
        settings, config = place.load_settings("checked"), place.config
    except ConfigError as error:
        config_problems = tuple(map(str, error.problems))
    server, door_problem = None, ""
    try:
        listening = find_server(place.data_dir)
        server = Server(listening.version, listening.pid, listening.port) if listening else None
    except HouseError as error:
        door_problem = error.message

    def ask() -> list[dict[str, Any]]:
        if server is not None:
            # What counts is what the server reaches, with the secrets that it has.
            results: list[dict[str, Any]] = perform(place, "upstreams.test")
            return results
        assert settings is not None
        return asyncio.run(_ask_upstreams(settings))

    # A server of another release may not know our acts: `server` has told of it.
    askable = not offline and not door_problem and (server is None or server.version == VERSION)
    return Patient(
        machine=look_at_machine(),
        data_dir=place.data_dir,
        config=config,
        settings=settings,
        config_problems=config_problems,
        server=server,
        door_problem=door_problem,
        test_upstreams=ask if askable else None,
    )


async def _ask_upstreams(settings: Settings) -> list[dict[str, Any]]:
    """Without a house; one whose secret only the server's environment has is not asked, and `config` has told of it."""
    transports: Transports = {}
    stations = build_stations(settings, transports)
    try:
        board = Switchboard(settings, Router({}, {}), stations, SystemClock())
        known = [
            upstream.name
            for upstream in settings.upstreams
            if upstream.enabled and (upstream.kind == "demo" or upstream.secret.get_secret_value())
        ]
        return list(await asyncio.gather(*(board.test(name) for name in known)))
    finally:
        for transport in transports.values():
            await transport.close()
