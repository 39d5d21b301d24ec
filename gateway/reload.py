"""Another configuration for a house that is open: checked whole first, then in force for every new request at once.

    cannot be reloaded     host, port, mounts (and the data directory, which is no option)
    refused                a plan that users have is not declared any more
    goes on as it began    requests that run: their deployment, price and limits are their own

Nothing is awaited between the first and the last thing that changes, so no request meets half of each.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from gateway.config import Settings
from gateway.desk.history import load_history_under
from gateway.desk.users import check_plans_in_use
from gateway.errors import ClientError
from gateway.house import House, build_caps, build_deployments, build_gate_rules, build_rules, build_stations, names_of
from gateway.switchboard import Switchboard

FIXED = ("host", "port", "mounts")


async def reload(house: House, settings: Settings) -> list[str]:
    """Put `settings` in force; returns the names of the sections that changed. Raises ClientError, and then nothing changed."""
    old = house.settings
    _check_fixed(old, settings)
    await load_history_under(house.desk, settings.plans)
    await check_plans_in_use(house.desk, settings.plans)
    changed = _changed(old, settings)
    _apply(house, settings)
    return changed


def _check_fixed(old: Settings, new: Settings) -> None:
    for option in FIXED:
        before, after = getattr(old.server, option), getattr(new.server, option)
        if before != after:
            raise ClientError(
                "invalid_request",
                f"server.{option} cannot be changed while the server runs (it is {_shown(before)}, not {_shown(after)}): "
                "restart it, or take the change back; nothing was reloaded",
                param=option,
            )


def _apply(house: House, settings: Settings) -> None:
    walk, desk = house.walk, house.desk
    for upstream in _renewed(house.settings, settings):
        # Another secret or address is another account: what its predecessor failed at says nothing.
        walk.router.forget(upstream)
    house.settings = settings
    walk.rules = build_rules(settings)
    walk.door.obey(walk.rules)
    walk.catalog = desk.catalog = settings.catalog
    walk.stations = build_stations(settings, house.transports)
    walk.router.replace(build_deployments(settings, walk.stations), build_caps(settings))
    walk.keys.set_plans(settings.plans)
    desk.plans = settings.plans
    desk.key_prefix = settings.brand.key_prefix
    desk.gate.rules = build_gate_rules(settings)
    house.notifier.configure(settings.notices, settings.webhook_secret)
    desk.upstream_events.declare(names_of(settings))
    desk.upstreams = Switchboard(settings, walk.router, walk.stations, walk.clock)


def _renewed(old: Settings, new: Settings) -> list[str]:
    def account(upstream: Any) -> tuple[Any, ...]:
        return upstream.kind, upstream.base_url, upstream.secret.get_secret_value()

    before = {upstream.name: account(upstream) for upstream in old.upstreams}
    return [upstream.name for upstream in new.upstreams if before.get(upstream.name) not in (None, account(upstream))]


def _changed(old: Settings, new: Settings) -> list[str]:
    names = [field.name for field in fields(Settings) if field.name not in ("folder", "file_warnings", "routes", "catalog")]
    changed = [name for name in names if getattr(old, name) != getattr(new, name)]
    if (list(old.catalog), dict(old.routes)) != (list(new.catalog), dict(new.routes)):
        changed.append("models")
    return changed


def _shown(value: Any) -> str:
    return ", ".join(f'"{item}"' for item in value) if isinstance(value, tuple) else str(value)
