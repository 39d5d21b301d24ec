"""The settings in force as they may be shown: every option under the name that it has in the file, and no secret.

A value is shown because its type is known to be harmless; whatever is of another type (pydantic's SecretStr above all) is hidden.
Texts that may carry a secret by their nature, a webhook's address and the headers of an upstream, are named and not shown.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network
from typing import Any
from urllib.parse import urlsplit

from gateway.config import Settings
from gateway.config.sections import Options
from gateway.config.upstreams import Upstream
from gateway.money import Factor, format_usd

HIDDEN = "set, not shown"
NONE = "none"
_SECTIONS = ("server", "brand", "billing", "timeouts", "logging", "usage", "notices", "web")
# What stands in the files that these options name, by the settings' own field.
_OF_FILES = {"server": {"metrics token": "metrics_token"}, "notices": {"webhook secret": "webhook_secret"}}
_ADDRESSES_THAT_MAY_HOLD_A_SECRET = frozenset(("webhook_url",))


@dataclass(frozen=True, slots=True)
class Option:
    """`default`: nothing else was declared."""

    name: str
    text: str
    default: bool = False


@dataclass(frozen=True, slots=True)
class Section:
    title: str
    options: tuple[Option, ...]


def show_settings(settings: Settings) -> list[Section]:
    """The sections of the file in its order, then each upstream. Plans and models have pages of their own."""
    sections = [Section(name, (*_options(getattr(settings, name)), *_of_files(settings, name))) for name in _SECTIONS]
    return [*sections, *(Section(f"upstream {each.name}", _upstream(each)) for each in settings.upstreams)]


# ── leaves ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _options(section: Options) -> tuple[Option, ...]:
    return tuple(
        Option(field.alias or name, _text(name, value), value == field.get_default(call_default_factory=True))
        for name, field in type(section).model_fields.items()
        for value in (getattr(section, name),)
    )


def _of_files(settings: Settings, section: str) -> list[Option]:
    return [
        Option(words, HIDDEN if getattr(settings, name).get_secret_value() else NONE, not getattr(settings, name))
        for words, name in _OF_FILES.get(section, {}).items()
    ]


def _upstream(upstream: Upstream) -> tuple[Option, ...]:
    headers = ", ".join(name for name, _ in upstream.headers)
    return (
        Option("kind", upstream.kind),
        Option("enabled", _text("enabled", upstream.enabled), upstream.enabled),
        Option("base_url", upstream.base_url or NONE),
        Option("secret", HIDDEN if upstream.secret.get_secret_value() else NONE),
        Option("headers", f"{headers} (values not shown)" if headers else NONE, not headers),
        *(
            Option(name, _text(name, getattr(upstream, name)), getattr(upstream, name) == getattr(Upstream("", "demo"), name))
            for name in ("factor", "priority", "weight", "max_concurrent")
        ),
    )


def _text(name: str, value: Any) -> str:
    if name in _ADDRESSES_THAT_MAY_HOLD_A_SECRET and value:
        return f"{urlsplit(value).scheme}://{urlsplit(value).hostname}/… (its path is not shown)"
    if isinstance(value, Factor | IPv4Network | IPv6Network):
        return str(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int) and name.endswith("_nanos"):
        return f"${format_usd(value)}"
    if isinstance(value, int | float):
        return f"{value:g}" if isinstance(value, float) else str(value)
    if isinstance(value, tuple):
        return ", ".join(_text("", each) or '""' for each in value) or NONE
    if isinstance(value, str):
        return value or (NONE if name else "")
    return HIDDEN
