"""`pagegrid config`: what is declared."""

from __future__ import annotations

import click

from gateway.api import tls
from gateway.cli.context import Place, counted, json_option, out, place_options, print_json, say, where_options


@click.group()
@where_options
def config() -> None:
    """The configuration file."""


@config.command(short_help="Read the configuration as a start would.")
@place_options
@json_option
def check(place: Place, as_json: bool) -> None:
    """Read the configuration as a start would; exit 1 with everything that is wrong.

    A secret's environment variable that is not set in this shell is a warning: the server may have it.
    """
    settings = place.load_settings("checked")
    files = tls.find_files(settings)
    warnings = [*settings.warnings, *(tls.load_certificate(files).warnings if files else ())]
    if as_json:
        counts = {"upstreams": len(settings.upstreams), "models": len(settings.catalog)}
        print_json({"config": place.config and str(place.config), **counts, "warnings": warnings})
        return
    for warning in warnings:
        say(f"Warning: {warning}")
    where = place.config or "no configuration file: the built-in demo would answer"
    out(f"OK  {where}  ({counted(len(settings.upstreams), 'upstream')}, {counted(len(settings.catalog), 'model')})")
