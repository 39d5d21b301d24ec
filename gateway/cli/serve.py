"""`pagegrid serve`: the gateway itself, until a signal ends it."""

from __future__ import annotations

import asyncio
import logging
import resource
import signal
import sys
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

import click
import uvloop

from gateway.api import log
from gateway.api.door import serve_door
from gateway.api.guard import has_c_extension
from gateway.api.server import serving
from gateway.api.tls import Loaded, Tls, find_files, load_certificate
from gateway.cli.context import Place, place_options, url_on_this_machine
from gateway.config import ConfigError, Settings
from gateway.config.errors import Problem
from gateway.desk.configuration import reload_configuration
from gateway.desk.first_start import Credentials, check_never_real, first_start, has_users, reverse_demo_credit
from gateway.desk.users import check_plans_in_use
from gateway.errors import ClientError, GatewayError, HouseError
from gateway.house import House, open_house
from gateway.money import format_usd
from gateway.reload import reload
from gateway.storage.folder import Busy
from gateway.version import VERSION
from gateway.web.entry import WELCOME_PATH

logger = logging.getLogger(__name__)

BUSY_WAIT_S = 2


@click.command()
@place_options
@click.option("--host", help="Address to listen on, over the configuration's.")
@click.option("--port", type=click.IntRange(0, 65535), help="Port to listen on, over the configuration's; 0 picks a free one.")
def serve(place: Place, host: str | None, port: int | None) -> None:
    """Serve the API. Without a configuration it works at once, answering from a built-in demo."""
    settings = place.load_settings().listening_on(host, port)
    log.set_up(settings.logging.format, settings.logging.level)
    if not has_c_extension():
        raise click.ClickException("aiohttp's C extension is missing: reinstall it (pip install --force-reinstall aiohttp)")
    _raise_open_files(settings.server.open_files_needed)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        try:
            runner.run(_serve(place, settings, host, port))
        except Busy:
            raise click.ClickException(
                f"another pagegrid is running on {place.data_dir}: stop it first, or name another directory with --data-dir"
            ) from None
        except GatewayError as error:
            raise click.ClickException(error.message) from None


async def _serve(place: Place, settings: Settings, host: str | None, port: int | None) -> None:
    data_dir = place.data_dir
    tls_files = find_files(settings)
    # Before anything is opened: what is wrong with a file costs nothing then.
    tls = Tls(tls_files) if tls_files else None
    demo = settings.demo_only
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    async with AsyncExitStack() as stack:
        house = await _open_when_free(stack, settings, data_dir)
        await check_plans_in_use(house.desk, settings.plans)
        if place.config is None:
            await check_never_real(house.desk, {upstream.name for upstream in settings.upstreams})
        reloader = _Reloader(house, place, host, port, tls)
        house.desk.reload = reloader.reload
        loop.add_signal_handler(signal.SIGHUP, reloader.hang_up)
        reversed_nanos = 0 if demo else await reverse_demo_credit(house.desk)
        try:
            async with serving(house, settings.server.host, settings.server.port, tls) as bound:
                # The port first: a key that was made for a start that fails would never be shown. The door last: a user that
                # is made in between would pass for an earlier start's.
                credentials = await first_start(house.desk, settings.billing.demo_credit_nanos) if demo else None
                await stack.enter_async_context(serve_door(house.desk, data_dir, bound))
                for warning in (*settings.warnings, *(tls.warnings if tls else ())):
                    click.echo(f"Warning: {warning}", err=True)
                local_url = url_on_this_machine(settings, bound)
                _greet(settings, local_url, credentials, reversed_nanos)
                if not await has_users(house.desk):
                    click.echo(_NO_USERS, err=True)
                await stop.wait()
                running = len(house.walk.running)
                limit_s = house.settings.timeouts.shutdown_s
                click.echo(f"Stopping: {running} running requests have {limit_s:g} s to end.", err=True)
        except OSError as error:
            where = f"{settings.server.host}:{settings.server.port}"
            raise HouseError(
                "unavailable", f"cannot listen on {where}: {error.strerror or error}; choose another with --host or --port"
            ) from None
    click.echo("Stopped; all settled.", err=True)


class _Reloader:
    """Reads the configuration again and puts it in force, one reload after another."""

    def __init__(self, house: House, place: Place, host: str | None, port: int | None, tls: Tls | None) -> None:
        self._house = house
        self._place = place
        self._over = (host, port)
        self._tls = tls
        self._turn = asyncio.Lock()
        self._hang_ups: set[asyncio.Task[None]] = set()

    async def reload(self, config: str | None) -> dict[str, Any]:
        """`config` is the file that is meant, None for whichever it is. Raises ClientError with all that is wrong: nothing
        changed then."""
        async with self._turn:
            # Its paths are looked up anew: a file that was not there at the start may be there now.
            place = Place(self._place.config_asked, self._place.data_dir_asked)
            settings = await asyncio.to_thread(self._load, place, config)
            demo = self._house.settings.demo_only
            certificate = await asyncio.to_thread(self._load_certificate, settings)
            changed = await reload(self._house, settings)
            self._place = place
            if self._tls is not None and certificate is not None and self._tls.take(certificate):
                changed.append("TLS certificate")
            _raise_open_files(settings.server.open_files_needed)
            log.set_up(settings.logging.format, settings.logging.level)
            warnings = [*settings.warnings, *(certificate.warnings if certificate else ())]
            if demo and not settings.demo_only and (reversed_nanos := await reverse_demo_credit(self._house.desk)):
                warnings.append(_credit_taken_back(reversed_nanos))
            return {"config": place.config and str(place.config), "changed": changed, "warnings": warnings}

    def hang_up(self) -> None:
        """SIGHUP: nobody waits for the answer, so the log has it."""
        task = asyncio.get_running_loop().create_task(self._hang_up())
        self._hang_ups.add(task)
        task.add_done_callback(self._hang_ups.discard)

    async def _hang_up(self) -> None:
        try:
            result = await reload_configuration(self._house.desk, "signal:SIGHUP")
        except GatewayError as error:
            logger.error("not reloaded: %s", error.message)
        except Exception:
            logger.exception("not reloaded")
        else:
            logger.info("reloaded: %s", ", ".join(result["changed"]) or "nothing had changed")
            for warning in result["warnings"]:
                logger.warning("%s", warning)

    def _load_certificate(self, settings: Settings) -> Loaded | None:
        """The certificate as its files are now, though their names may be the old ones."""
        files = find_files(settings)
        if (files is None) != (self._tls is None):
            raise ClientError(
                "invalid_request",
                "server.tls_certificate_file cannot be switched on or off while the server runs: restart it, or take the change "
                "back; nothing was reloaded",
                param="tls_certificate_file",
            )
        return None if files is None else load_certificate(files)

    def _load(self, place: Place, config: str | None) -> Settings:
        try:
            if place.config is None and self._place.config is not None:
                # An editor may be at work. The built-in demo would answer instead, and users would pay for it.
                raise ConfigError([Problem(str(self._place.config), None, "", "it was in force, and is not there any more")])
            if config is not None and (place.config is None or str(place.config.resolve()) != config):
                raise ClientError(
                    "invalid_request",
                    f"config: the server uses {place.config or 'no configuration file'}, and reloads no other: "
                    "leave --config and PAGEGRID_CONFIG out, or start the server with the other; nothing was reloaded",
                    param="config",
                )
            return place.load_settings().listening_on(*self._over)
        except ConfigError as error:
            raise ClientError("invalid_request", f"the configuration cannot be used, nothing was reloaded:\n{error}") from None


async def _open_when_free(stack: AsyncExitStack, settings: Settings, data_dir: Path) -> House:
    """A command may be at work in the directory; it is done in a moment. Raises Busy if the directory stays taken."""
    give_up = asyncio.get_running_loop().time() + BUSY_WAIT_S
    while True:
        try:
            return await stack.enter_async_context(open_house(settings, data_dir))
        except Busy:
            if asyncio.get_running_loop().time() >= give_up:
                raise
            await asyncio.sleep(0.1)


_NO_USERS = """There are no users yet. Make one, with a wallet and a key:
  pagegrid users create alice
  pagegrid wallets topup alice 25 --reference invoice-1001
  pagegrid keys create alice"""


def _credit_taken_back(nanos: int) -> str:
    return (
        f"What was left of the demo credit (${format_usd(nanos)}) was taken back, now that a real upstream is configured. "
        "Top up with: pagegrid wallets topup USER AMOUNT --reference REF"
    )


def _greet(settings: Settings, local_url: str, credentials: Credentials | None, reversed_nanos: int) -> None:
    url = settings.server.public_url or local_url
    if reversed_nanos:
        click.echo(_credit_taken_back(reversed_nanos), err=True)
    if credentials is not None:
        click.echo(_first_words(settings, url, credentials))
    reached = f", reached at {url}" if url != local_url else ""
    click.echo(f"{settings.brand.name} {VERSION} listens on {local_url}{reached}")
    sys.stdout.flush()


def _first_words(settings: Settings, url: str, credentials: Credentials) -> str:
    secret, credit = credentials.secret, format_usd(credentials.credit_nanos)
    return f"""
Welcome to {settings.brand.name}. This first start made a user "{credentials.user}" (an admin), a wallet with ${credit}
of demo credit, and a key. The key is shown this once:

  {secret}

Open the pages, and choose your password (this link works once, within an hour):

  {url}{WELCOME_PATH}/{credentials.link_token}

Ask it something:

  curl {url}/v1/messages \\
    -H "x-api-key: {secret}" \\
    -H "content-type: application/json" \\
    -d '{{"model":"claude-sonnet-5-5","max_tokens":200,"messages":[{{"role":"user","content":"say hi"}}]}}'

Claude Code:

  export ANTHROPIC_BASE_URL={url}
  export ANTHROPIC_AUTH_TOKEN={secret}
  export ANTHROPIC_API_KEY=
  claude -p "say hi"

Python (pip install anthropic):

  from anthropic import Anthropic
  client = Anthropic(base_url="{url}", api_key="{secret}")
  print(client.messages.create(model="claude-sonnet-5-5", max_tokens=200,
                               messages=[{{"role": "user", "content": "say hi"}}]).content[0].text)

Answers come from the built-in demo until a configuration names a real upstream: see config.example.toml.
"""


def _raise_open_files(need: int) -> None:
    """Most systems start a process with 1,024 for the sake of select(2), and let it have more if it asks; we never select."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    endless = resource.RLIM_INFINITY
    if soft != endless and soft < need:
        with suppress(ValueError, OSError):  # macOS refuses what its own ceiling is below; `pagegrid doctor` tells
            resource.setrlimit(resource.RLIMIT_NOFILE, (need if hard == endless else min(need, hard), hard))
