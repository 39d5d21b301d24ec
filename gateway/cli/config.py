"""`pagegrid config`: what is declared."""

from __future__ import annotations

from pathlib import Path

import click

from gateway.api import tls
from gateway.cli.context import Place, counted, json_option, out, place_options, print_json, say, where_options
from gateway.cli.desk_client import find_server
from gateway.config import Settings
from gateway.desk.users import check_plans_declared
from gateway.errors import HouseError
from gateway.storage.database import FILE_NAME
from gateway.storage.facts import users_by_plan
from gateway.storage.readonly import peeking


@click.group()
@where_options
def config() -> None:
    """The configuration file."""


@config.command(short_help="Read the configuration as a start would.")
@place_options
@json_option
def check(place: Place, as_json: bool) -> None:
    """Read the configuration as a start would; exit 1 with everything that is wrong.

    A secret's environment variable that is not set in this shell is a warning: the server may have it. Where there is a database,
    the plans that its users have must be declared.
    """
    settings = place.load_settings("checked")
    unknown = _check_plans(place.data_dir, settings)
    files = tls.find_files(settings)
    warnings = [*settings.warnings, *unknown, *(tls.load_certificate(files).warnings if files else ())]
    if as_json:
        counts = {"upstreams": len(settings.upstreams), "models": len(settings.catalog)}
        print_json({"config": place.config and str(place.config), **counts, "warnings": warnings})
        return
    for warning in warnings:
        say(f"Warning: {warning}")
    where = place.config or "no configuration file: the built-in demo would answer"
    out(f"OK  {where}  ({counted(len(settings.upstreams), 'upstream')}, {counted(len(settings.catalog), 'model')})")


def _check_plans(data_dir: Path, settings: Settings) -> list[str]:
    """Raises ClientError for a plan that users have and the file does not declare; a warning if they cannot be looked at."""
    try:
        if not (data_dir / FILE_NAME).exists():
            return []
        with peeking(data_dir, beside_server=find_server(data_dir) is not None) as conn:
            counts = users_by_plan(conn)
    except (HouseError, OSError) as error:
        return [f"whether users have plans that are not declared was not looked at: {error}."]
    check_plans_declared(counts, settings.plans)
    return []
