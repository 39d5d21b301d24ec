"""The configuration: a TOML file, or none at all, turned into settings that never change while they are in use.

    TOML ── each section by itself ── upstreams and secrets ── models and routes ── Settings
            config/sections.py         config/upstreams.py      config/models.py
            every problem of every step is collected, and all are told at once: config/errors.py

Reads the file, the environment and the files of secrets, and nothing else. Building rooms from settings is left to `house.py`;
users, keys and wallets live in the database.
"""

from __future__ import annotations

import os
import stat
import tomllib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from pydantic import SecretStr, ValidationError

from gateway.catalog import Catalog, load_builtin
from gateway.config.errors import ConfigError, Findings, Problem, kind_of, syntax_error
from gateway.config.models import Route, Routes, build_models, default_routes
from gateway.config.plans import PLANS_WITHOUT_FILE, Plans, build_plans
from gateway.config.secrets import NO_SECRET, Secrets, secret_of_file
from gateway.config.sections import (
    LISTS,
    NAMED,
    NESTED,
    SECTIONS,
    Billing,
    Brand,
    Logging,
    ModelOptions,
    Notices,
    Options,
    Server,
    Timeouts,
    UpstreamOptions,
    Usage,
    Web,
    validation_context,
)
from gateway.config.upstreams import Upstream, build_upstreams, is_loopback

__all__ = [
    "Billing",
    "Brand",
    "ConfigError",
    "Logging",
    "Notices",
    "Plans",
    "Route",
    "Secrets",
    "Server",
    "Settings",
    "Timeouts",
    "Upstream",
    "Usage",
    "Web",
    "default_paths",
    "load",
    "parse",
]

Shape = TypeVar("Shape", bound=Options)


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that is declared. `catalog` holds the models that are served: each has at least one route in `routes`, but the
    virtual ones, which go where their members go.

    `folder` is where relative paths start: that of the file, or the working directory without one. `metrics_token` and
    `webhook_secret` are what stands in the files that are named for them, empty without.
    """

    server: Server
    brand: Brand
    billing: Billing
    timeouts: Timeouts
    logging: Logging
    usage: Usage
    notices: Notices
    web: Web
    plans: Plans
    upstreams: tuple[Upstream, ...]
    catalog: Catalog
    routes: Routes
    folder: Path
    metrics_token: SecretStr = NO_SECRET
    webhook_secret: SecretStr = NO_SECRET
    file_warnings: tuple[str, ...] = ()

    @property
    def warnings(self) -> tuple[str, ...]:
        """What an operator should hear at start, one sentence or two each, without any secret."""
        if is_loopback(self.server.host) or self.server.trusted_proxies or self.server.tls_certificate_file:
            return self.file_warnings
        return (
            *self.file_warnings,
            f"server.host {self.server.host} is reachable from other machines and server.trusted_proxies names no proxy: keys and"
            " prompts may travel unencrypted. Put a proxy with TLS in front and name it, set server.tls_certificate_file, or"
            " listen on 127.0.0.1.",
        )

    @property
    def demo_only(self) -> bool:
        """Whether nobody but the built-in demo answers here."""
        return all(upstream.kind == "demo" for upstream in self.upstreams)

    def listening_on(self, host: str | None, port: int | None) -> Settings:
        """The same settings with the command line's host and port, where given, over the file's."""
        over = {name: value for name, value in (("host", host), ("port", port)) if value is not None}
        return replace(self, server=self.server.model_copy(update=over))


def default_paths(config: str | None, data_dir: str | None, environ: Mapping[str, str]) -> tuple[Path | None, Path]:
    """Where configuration and data are: as asked on the command line, else in the environment, else by default.

    A config that was asked for must exist (ConfigError); without one, `pagegrid.toml` beside the data directory is taken if it is
    there, else None. The paths are absolute; the data directory need not exist.
    """
    # Not resolve(): "beside the data directory" means beside the name that the operator wrote, also where it is a symlink.
    data = Path(os.path.abspath(data_dir or environ.get("PAGEGRID_DATA_DIR") or "pagegrid-data"))  # noqa: PTH100
    asked = config or environ.get("PAGEGRID_CONFIG")
    path = Path(os.path.abspath(asked)) if asked else data.parent / "pagegrid.toml"  # noqa: PTH100
    if _may_exist(path):
        return path, data
    if asked:
        origin = "--config" if config else "PAGEGRID_CONFIG"
        raise ConfigError([Problem(str(path), None, "", f"no such file; {origin} names it")])
    return None, data


def _may_exist(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:
        # A folder that we may not enter: `load` says so with the reason.
        return True


def load(path: Path | None, environ: Mapping[str, str], secrets: Secrets = "needed") -> Settings:
    """The settings of a file; of None, those of a house that answers from its built-in demo. Raises ConfigError.

    `secrets` says whether a secret that stands elsewhere must be there, and be right.
    """
    if path is None:
        return _settings_without_file()
    try:
        text = path.read_text(encoding="utf-8-sig")
        readable_by_all = bool(path.stat().st_mode & stat.S_IROTH)
    except OSError as error:
        raise ConfigError([Problem(str(path), None, "", f"cannot be read: {error.strerror}")]) from None
    except UnicodeDecodeError as error:
        raise ConfigError([Problem(str(path), None, "", f"is not UTF-8 text at byte {error.start}")]) from None
    settings = parse(text, str(path), environ, secrets)
    holds_secret = any("api_key" in entry for entry in tomllib.loads(text)["upstreams"])
    if readable_by_all and holds_secret:
        warning = f"{path} holds a secret and every user of this machine can read it; use api_key_env, or chmod 600 {path}."
        return replace(settings, file_warnings=(*settings.file_warnings, warning))
    return settings


def parse(text: str, origin: str, environ: Mapping[str, str], secrets: Secrets = "needed") -> Settings:
    """The settings of a TOML text. `origin` is its path: it heads every message, and `api_key_file` is relative to its folder.

    Raises ConfigError with everything that is wrong.
    """
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        # Without its cause: a traceback would bring pieces of the file along.
        raise syntax_error(origin, str(error)) from None
    sections = {**SECTIONS, **NAMED, **LISTS}
    findings = Findings(origin, text, data, sections, NESTED)
    for unknown in data.keys() - sections.keys():
        noun = "section" if isinstance(data[unknown], dict | list) else "option"
        findings.add((unknown,), findings.unknown((unknown,), noun=noun), noun=noun)
    server = _section(data, "server", Server, findings)
    brand = _section(data, "brand", Brand, findings)
    billing = _section(data, "billing", Billing, findings)
    timeouts = _section(data, "timeouts", Timeouts, findings)
    logging = _section(data, "logging", Logging, findings)
    usage = _section(data, "usage", Usage, findings)
    notices = _section(data, "notices", Notices, findings)
    web = _section(data, "web", Web, findings)
    if bool(server.tls_certificate_file) != bool(server.tls_key_file):
        missing = "tls_key_file" if server.tls_certificate_file else "tls_certificate_file"
        findings.add(("server", missing), "a certificate and its key belong together; name both files, or neither")

    context = validation_context(_names(data, "upstreams", "name"))
    accounts = _entries(data, "upstreams", UpstreamOptions, findings, context)
    if not data.get("upstreams"):
        findings.add(("upstreams",), 'at least one is needed: [[upstreams]] with name, kind = "anthropic" and api_key_env')
    _check_single(data, "upstreams", "name", "another upstream has this name", findings)
    folder = Path(origin).parent
    upstreams, warnings = build_upstreams(accounts, findings, folder, environ, secrets)
    metrics_token, webhook_secret = (
        secret_of_file(written, option, findings, folder, secrets, warnings)
        for written, option in (
            (server.metrics_token_file, ("server", "metrics_token_file")),
            (notices.webhook_secret_file, ("notices", "webhook_secret_file")),
        )
    )

    entries = _entries(data, "models", ModelOptions, findings, context)
    _check_single(data, "models", "id", "another [[models]] has this id", findings)
    builtin = load_builtin()
    catalog, routes, more = build_models(builtin, entries, upstreams, findings)
    known = {name for model in builtin for name in model.names} | {alias for _, options in entries for alias in options.aliases}
    plans = build_plans(data.get("plans", {}), catalog, known | set(_names(data, "models", "id")), findings)
    findings.raise_if_any()
    return Settings(
        server=server,
        brand=brand,
        billing=billing,
        timeouts=timeouts,
        logging=logging,
        usage=usage,
        notices=notices,
        web=web,
        plans=plans,
        upstreams=upstreams,
        catalog=catalog,
        routes=routes,
        folder=folder,
        metrics_token=metrics_token,
        webhook_secret=webhook_secret,
        file_warnings=(*warnings, *more),
    )


def _settings_without_file() -> Settings:
    demo = Upstream(name="demo", kind="demo")
    catalog = Catalog(load_builtin())
    routes = MappingProxyType({model.id: default_routes(model, (demo,)) for model in catalog})
    return Settings(
        server=Server(),
        brand=Brand(),
        billing=Billing(),
        timeouts=Timeouts(),
        logging=Logging(),
        usage=Usage(),
        notices=Notices(),
        web=Web(),
        plans=PLANS_WITHOUT_FILE,
        upstreams=(demo,),
        catalog=catalog,
        routes=routes,
        folder=Path(),
    )


def _section(data: Mapping[str, Any], name: str, shape: type[Shape], findings: Findings) -> Shape:
    """The section as it is written; its defaults if there is none, or if a finding says what is wrong with it."""
    written = data.get(name, {})
    if not isinstance(written, dict):
        findings.add((name,), f"expected a section [{name}] in single brackets, found {kind_of(written)}")
        return shape()
    try:
        return shape.model_validate(written)
    except ValidationError as error:
        findings.add_invalid((name,), error)
        return shape()


def _entries(
    data: Mapping[str, Any], name: str, shape: type[Shape], findings: Findings, context: Mapping[str, Any]
) -> list[tuple[int, Shape]]:
    """The entries of a list of tables, each with its position; findings say what is wrong with an option.

    An entry goes on without its faulty options, so that what is wrong with the others is told in the same breath; it ends here
    only where one of those was required.
    """
    written = data.get(name, [])
    if not isinstance(written, list) or not all(isinstance(entry, dict) for entry in written):
        findings.add((name,), f"expected entries [[{name}]] in double brackets, found {kind_of(written)}")
        return []
    entries = []
    for position, entry in enumerate(written):
        try:
            entries.append((position, shape.model_validate(entry, context=context)))
        except ValidationError as error:
            findings.add_invalid((name, position), error)
            right = {option: value for option, value in entry.items() if not findings.blames(name, position, option)}
            with suppress(ValidationError):
                entries.append((position, shape.model_validate(right, context=context)))
    return entries


def _check_single(data: Mapping[str, Any], name: str, option: str, message: str, findings: Findings) -> None:
    names = _names(data, name, option)
    for position, text in enumerate(names):
        if text and text in names[:position]:
            findings.add((name, position, option), message)


def _names(data: Mapping[str, Any], name: str, option: str) -> list[str]:
    """What every entry of a list is called, also of those that are not in order; "" where it has no name."""
    written = data.get(name)
    names = [entry.get(option) if isinstance(entry, dict) else None for entry in written] if isinstance(written, list) else []
    return [text if isinstance(text, str) else "" for text in names]
