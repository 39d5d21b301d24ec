"""The upstreams of a configuration: entries that are each in order, made into accounts with an address and a secret.

Reads the environment and the files that hold secrets (`secrets.py`), where they are needed. No secret enters a message, and
neither does what may be one: an environment variable is named only if it looks like one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import SecretStr

from gateway.config.errors import Findings
from gateway.config.secrets import NO_SECRET, Secrets, check_secret, read_secret_file
from gateway.config.sections import Kind, UpstreamOptions
from gateway.money import ONE, Factor

ANTHROPIC_URL = "https://api.anthropic.com"
OPENAI_URL = "https://api.openai.com/v1"

SECRET_OPTIONS = ("api_key_env", "api_key_file", "api_key")

_USUAL_ENVIRONMENT_NAME = re.compile(r"[A-Z][A-Z0-9_]{0,63}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Upstream:
    """A provider account. `base_url` and `secret` are empty for a demo, the secret also of one that is not `enabled` unless it
    stands in the file; a smaller `priority` is asked first. `headers` go with every request there."""

    name: str
    kind: Kind
    enabled: bool = True
    base_url: str = ""
    secret: SecretStr = NO_SECRET
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    factor: Factor = ONE
    priority: int = 0
    weight: int = 1
    max_concurrent: int = 0


def build_upstreams(
    entries: Sequence[tuple[int, UpstreamOptions]],
    findings: Findings,
    folder: Path,
    environ: Mapping[str, str],
    secrets: Secrets,
) -> tuple[tuple[Upstream, ...], list[str]]:
    """The accounts, and warnings about them. `entries` come with their position in the file; a relative `api_key_file` starts
    at `folder`."""
    upstreams: list[Upstream] = []
    warnings: list[str] = []
    for position, options in entries:
        upstream = Upstream(
            name=options.name,
            kind=options.kind,
            enabled=options.enabled,
            base_url=_base_url(options, position, findings, warnings),
            secret=_secret(options, position, findings, folder, environ, secrets, warnings),
            headers=_headers(options, position, findings),
            factor=options.factor,
            priority=options.priority,
            weight=options.weight,
            max_concurrent=options.max_concurrent,
        )
        upstreams.append(upstream)
    if upstreams and not any(upstream.enabled for upstream in upstreams):
        findings.add(("upstreams",), "every one is disabled, so that nothing could be answered; enable at least one")
    return tuple(upstreams), warnings


def is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _base_url(options: UpstreamOptions, position: int, findings: Findings, warnings: list[str]) -> str:
    where = ("upstreams", position, "base_url")
    if options.kind == "demo":
        if options.base_url is not None:
            findings.add(where, "a demo answers by itself; remove this option")
        return ""
    if options.base_url is None:
        return OPENAI_URL if options.kind == "openai" else ANTHROPIC_URL
    parts = urlsplit(options.base_url)
    if options.kind == "anthropic" and options.base_url.endswith("/v1"):
        findings.add(where, "leave /v1 out: it is part of every path that is asked for")
    if options.kind == "openai" and options.base_url.endswith("/chat/completions"):
        findings.add(where, "leave /chat/completions out: it is added to this address")
    elif options.kind == "openai" and not parts.path:
        warnings.append(
            f"{findings.name(where)} has no path: /chat/completions is added right behind the host. Most servers want /v1 there."
        )
    if parts.scheme == "http" and not is_loopback(parts.hostname or ""):
        warnings.append(f"{findings.name(where)} is plain http: the provider's secret and all prompts travel unencrypted.")
    return options.base_url


def _secret(
    options: UpstreamOptions,
    position: int,
    findings: Findings,
    folder: Path,
    environ: Mapping[str, str],
    secrets: Secrets,
    warnings: list[str],
) -> SecretStr:
    """The secret, empty where it is not needed or where a finding or a warning says what is wrong with it."""
    where = ("upstreams", position)
    written = [name for name in SECRET_OPTIONS if getattr(options, name) is not None]
    if options.kind == "demo":
        for name in written:
            findings.add((*where, name), "a demo answers by itself; remove this option")
        return NO_SECRET
    if not written and options.kind == "openai" and options.base_url is not None:
        return NO_SECRET  # a server of one's own
    if not written:
        if not any(findings.blames(*where, name) for name in SECRET_OPTIONS):
            usual = f"{options.kind.upper()}_API_KEY"
            findings.add(where, f'needs one of api_key_env, api_key_file and api_key, such as api_key_env = "{usual}"', noun="")
        return NO_SECRET
    for name in written[1:]:
        findings.add((*where, name), f"only one secret is used, and {written[0]} is given too; remove one of them")
    option = (*where, written[0])
    if (secrets == "unneeded" or not options.enabled) and written[0] != "api_key":
        return NO_SECRET
    if options.api_key_env is not None:
        text = _from_environment(options.api_key_env, option, findings, environ, secrets, warnings)
    elif options.api_key_file is not None:
        text = read_secret_file(folder / options.api_key_file, option, findings, warnings)
    else:
        assert options.api_key is not None
        text = options.api_key.get_secret_value()
    return NO_SECRET if text is None else check_secret(text, option, findings)


def _headers(options: UpstreamOptions, position: int, findings: Findings) -> tuple[tuple[str, str], ...]:
    if options.headers and options.kind != "openai":
        findings.add(("upstreams", position, "headers"), 'only an upstream of kind "openai" takes some; remove this option')
    return tuple(options.headers.items())


def _from_environment(
    name: str,
    option: tuple[str | int, ...],
    findings: Findings,
    environ: Mapping[str, str],
    secrets: Secrets,
    warnings: list[str],
) -> str | None:
    if name in environ:
        return environ[name]
    told = (
        f"the environment variable {name}"
        if _USUAL_ENVIRONMENT_NAME.fullmatch(name)
        else "the environment variable that it names"
    )
    if secrets == "checked":
        warnings.append(f"{findings.name(option)}: {told} is not set in this shell; the server needs it.")
    else:
        findings.add(option, f"{told} is not set")
    return None
