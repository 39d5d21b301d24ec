"""`pagegrid reload`: the running server takes over its changed configuration."""

from __future__ import annotations

import click

from gateway.cli.context import Place, json_option, place_options, print_json, say
from gateway.cli.desk_client import perform


@click.command(short_help="Let the running server take over a changed configuration.")
@place_options
@json_option
def reload(place: Place, as_json: bool) -> None:
    """Let the running server read its configuration again, as SIGHUP does.

    A file with a mistake changes nothing and says why. Requests that run go on as they began. Which file it is was said when the
    server was started: to name another here is refused.
    """
    named = place.config_named
    result = perform(place, "configuration.reload", config=named and str(named.resolve()))
    if as_json:
        print_json(result)
        return
    for warning in result["warnings"]:
        say(f"Warning: {warning}")
    say(f"Reloaded: {', '.join(result['changed'])}." if result["changed"] else f"Nothing had changed{_where(result['config'])}.")


def _where(config: str | None) -> str:
    return f" in {config}" if config else ""
