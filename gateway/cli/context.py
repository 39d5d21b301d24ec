"""What all commands share: where the house is, how trouble is told, how results are printed.

    pagegrid --data-dir D users list  =  pagegrid users --data-dir D list  =  pagegrid users list --data-dir D

Ids, tables and JSON go to stdout, talk to stderr. Refusals exit 1 with the next step in the message, wrong usage exits 2; with
--json they too are JSON: {"error": {"code": "not_found", "message": "…"}}.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property, wraps
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import click

from gateway.config import ConfigError, Secrets, Settings, default_paths, load
from gateway.errors import GatewayError

P = ParamSpec("P")
T = TypeVar("T")


class Refusal(click.ClickException):
    """A refusal with the code that scripts see."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class Program(click.Group):
    """The group above all commands: it sees whether JSON was asked for before anything can go wrong."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.meta["pagegrid.json"] = "--json" in args
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except click.ClickException as refusal:
            if not ctx.meta["pagegrid.json"]:
                raise
            code = "usage" if isinstance(refusal, click.UsageError) else getattr(refusal, "code", "refused")
            say(json.dumps({"error": {"code": code, "message": refusal.format_message()}}, ensure_ascii=False))
            ctx.exit(refusal.exit_code)


@dataclass
class Place:
    """Where configuration and data are, as the command line and the environment say; looked up when first asked for."""

    config_asked: str | None = None
    data_dir_asked: str | None = None

    @property
    def config(self) -> Path | None:
        return self._paths[0]

    @property
    def config_named(self) -> Path | None:
        """The configuration if somebody named it, None where it is merely found or there is none."""
        return self.config if self.config_asked or os.environ.get("PAGEGRID_CONFIG") else None

    @property
    def data_dir(self) -> Path:
        return self._paths[1]

    def load_settings(self, secrets: Secrets = "needed") -> Settings:
        """Raises ConfigError."""
        return load(self.config, os.environ, secrets)

    @cached_property
    def _paths(self) -> tuple[Path | None, Path]:
        return default_paths(self.config_asked, self.data_dir_asked, os.environ)


def where_options(command: Callable[P, T]) -> Callable[P, T]:
    """`--config` and `--data-dir`, remembered for whatever follows; what is written later counts."""
    for name, metavar, text in (
        ("--data-dir", "DIR", "Data directory; default PAGEGRID_DATA_DIR, else ./pagegrid-data."),
        ("--config", "FILE", "Configuration; default PAGEGRID_CONFIG, else pagegrid.toml beside the data directory."),
    ):
        command = click.option(name, metavar=metavar, help=text, expose_value=False, callback=_remember)(command)
    return command


def place_options(command: Callable[Concatenate[Place, P], T]) -> Callable[P, T]:
    """As `where_options`; the command is handed its Place first, and what it raises is told as people should hear it."""

    @wraps(command)
    def with_place(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return command(_place(click.get_current_context()), *args, **kwargs)
        except GatewayError as error:
            raise Refusal(error.code, error.message) from None
        except ConfigError as error:
            raise Refusal("invalid_config", f"the configuration cannot be used:\n{error}") from None

    return where_options(with_place)


class KeyId(click.ParamType[int]):
    """The number of a key; `listing` is the command that shows it.

    What is wrong is never repeated: where an id is asked for, people paste secrets.
    """

    name = "id"

    def __init__(self, listing: str) -> None:
        self._listing = listing

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        if not re.fullmatch(r"[0-9]{1,18}", value):
            self.fail(f"ID is the number in `{self._listing}`", param, ctx)
        return int(value)


def json_option(command: Callable[P, T]) -> Callable[P, T]:
    return click.option("--json", "as_json", is_flag=True, help="Print JSON: money in nano-dollars, times in ms.")(command)


def yes_option(command: Callable[P, T]) -> Callable[P, T]:
    return click.option("--yes", is_flag=True, help="Do not ask.")(command)


def confirm(yes: bool, question: Callable[[], str]) -> None:
    """Ask before what cannot be taken back. Where there is nobody to ask, `--yes` must have been said (exit 2).

    `question` is called only if somebody will be asked: it looks first whether the thing can be done at all.
    """
    if yes:
        return
    if not is_interactive():
        raise click.UsageError("There is nobody to ask: add --yes to do it.")
    click.confirm(question(), abort=True, err=True)


def is_interactive() -> bool:
    return sys.stdin.isatty()


def url_on_this_machine(settings: Settings, port: int) -> str:
    """Where a server answers that listens as configured, on this port: what is told where there is no `public_url`."""
    server = settings.server
    host = "127.0.0.1" if server.host in ("0.0.0.0", "::") else server.host  # noqa: S104 (compared, not bound)
    return f"{'https' if server.tls_certificate_file else 'http'}://{f'[{host}]' if ':' in host else host}:{port}"


# ── printing ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def out(text: str = "") -> None:
    """A line of results, to stdout. Raises Refusal if it cannot be written; a reader who left is click's to handle."""
    try:
        click.echo(text)
    except BrokenPipeError:
        raise
    except OSError as error:
        # What is still in the buffer is tried again when Python ends, and must not fail again there, with a traceback.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise Refusal("output", f"the output cannot be written: {error.strerror}") from None


def print_json(value: Any) -> None:
    out(json.dumps(value, ensure_ascii=False, indent=2))


def print_id(made: object, sentence: str) -> None:
    """A person reads a sentence with the id in it; a script reads the bare id, and the sentence goes to stderr."""
    if is_terminal():
        out(sentence)
    else:
        out(str(made))
        say(sentence)


def is_terminal() -> bool:
    return sys.stdout.isatty()


def say(text: str) -> None:
    """Talk, to stderr."""
    click.echo(text, err=True)


def print_table(headers: Sequence[str], rows: Sequence[Sequence[str]], *, empty: str, right: Sequence[str] = ()) -> None:
    """Aligned plain text; the columns named in `right` are numbers. An empty table says so, to stderr."""
    if not rows:
        say(empty)
        return
    widths = [max(len(cells[column]) for cells in (headers, *rows)) for column in range(len(headers))]
    for cells in (headers, *rows):
        padded = [
            cell.rjust(width) if header in right else cell.ljust(width)
            for header, cell, width in zip(headers, cells, widths, strict=True)
        ]
        out("  ".join(padded).rstrip())


def print_fields(fields: Mapping[str, str]) -> None:
    """One thing, a field a line."""
    width = max(map(len, fields))
    for name, text in fields.items():
        out(f"{name:<{width}}  {text}")


def usd(text: str) -> str:
    """A result's exact text of money, with its unit."""
    return f"-${text[1:]}" if text.startswith("-") else f"${text}"


def counted(number: int, noun: str) -> str:
    """Such as "1 model" or "2 models"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def time_text(at_ms: int | None) -> str:
    """UTC, to the second; "-" for never."""
    return "-" if at_ms is None else datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%SZ")


# ── leaves ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _place(context: click.Context) -> Place:
    place: Place = context.find_root().ensure_object(Place)
    return place


def _remember(context: click.Context, parameter: click.Parameter, value: str | None) -> None:
    if value is not None:
        setattr(_place(context), f"{parameter.name}_asked", value)
