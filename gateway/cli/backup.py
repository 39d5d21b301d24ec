"""`pagegrid backup FILE`: an audited copy of the database, with a running server or without one."""

from __future__ import annotations

from pathlib import Path

import click

from gateway.cli.context import Place, json_option, place_options, print_json, say
from gateway.cli.desk_client import perform


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@place_options
@json_option
def backup(place: Place, file: Path, as_json: bool) -> None:
    """Copy the database to FILE, audited, while the server works.

    To restore: stop the server, put FILE as pagegrid.db into an empty data directory, start it there.
    """
    made = perform(place, "backup.create", file=str(file.absolute()))
    if as_json:
        print_json(made)
        return
    say(f"{made['transfers']} transfers, {made['bytes']:,} bytes, and the books of the copy balance.")
    click.echo(made["file"])
