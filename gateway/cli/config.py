"""`pagegrid config`: what is declared."""

from __future__ import annotations

import click

from gateway.cli.context import Place, place_options, say, where_options


@click.group()
@where_options
def config() -> None:
    """The configuration file."""


@config.command()
@place_options
def check(place: Place) -> None:
    """Read the configuration as a start would; exit 1 with everything that is wrong."""
    settings = place.load_settings()
    for warning in settings.warnings:
        say(f"Warning: {warning}")
    where = place.config or "no configuration file: the built-in demo would answer"
    click.echo(f"OK  {where}  ({len(settings.upstreams)} upstreams, {len(settings.catalog)} models)")
