"""`pagegrid upstreams`: how provider accounts stand in the running server."""

from __future__ import annotations

import click

from gateway.cli.context import Place, json_option, place_options, print_json, print_table, where_options
from gateway.cli.desk_client import perform


@click.group()
@where_options
def upstreams() -> None:
    """Provider accounts of a running server."""


@upstreams.command("list")
@place_options
@json_option
def list_(place: Place, as_json: bool) -> None:
    """All upstreams: serving, disabled, or cooling, why and for how long."""
    found = perform(place, "upstreams.list")
    if as_json:
        print_json(found)
        return
    rows = []
    for upstream in found:
        cap = str(upstream["max_concurrent"] or "-")
        numbers = [str(upstream[name]) for name in ("priority", "weight", "running")]
        rows.append([upstream["name"], upstream["kind"], *numbers, cap, str(upstream["models"]), _state(upstream)])
        rows += [["", "", "", "", "", "", model["model"], _state(model)] for model in upstream["resting_models"]]
    headers = ["NAME", "KIND", "PRIORITY", "WEIGHT", "RUNNING", "CAP", "MODELS", "STATE"]
    print_table(headers, rows, empty="No upstreams.", right=("PRIORITY", "WEIGHT", "RUNNING", "CAP"))


@upstreams.command()
@click.argument("name", required=False)
@place_options
@json_option
def test(place: Place, name: str | None, as_json: bool) -> None:
    """Reach an upstream, or all, with its secret; free; exit 1 if one fails."""
    results = perform(place, "upstreams.test", **({} if name is None else {"name": name}))
    if as_json:
        print_json(results)
    else:
        rows = [
            [
                "ok" if result["ok"] else "FAIL",
                result["name"],
                str(result["status"] or "-"),
                f"{result['ms']} ms",
                result["detail"],
            ]
            for result in results
        ]
        print_table(["", "NAME", "STATUS", "TIME", "DETAIL"], rows, empty="No upstreams.")
    if not all(result["ok"] for result in results):
        raise SystemExit(1)


def _state(shown: dict[str, object]) -> str:
    return f"cooling for {shown['seconds_left']} s: {shown['reason']}" if shown["state"] == "cooling" else str(shown["state"])
