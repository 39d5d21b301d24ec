"""`pagegrid check URL`: does an endpoint do what clients rely on? One line per probe; for our own and for any other like it."""

from __future__ import annotations

import asyncio
import sys
from urllib.parse import urlsplit

import aiohttp
import click

from gateway.cli.answers import Answer, Failed, shown
from gateway.cli.conformance import PROBES, Probe, Send, Target
from gateway.cli.context import where_options

# One probe: a slow model may think a while before the whole answer of a few tokens is there.
PROBE_S = 120.0
CONNECT_S = 10.0
BODY_BYTES_MAX = 4 * 1024 * 1024


@click.command()
@where_options
@click.argument("url")
@click.option("--key", required=True, envvar="PAGEGRID_KEY", help="A key of that endpoint; or set PAGEGRID_KEY.")
@click.option("--model", default="", help="The model to ask; the first of /v1/models if left out.")
@click.option("--timeout", "timeout_s", type=click.FloatRange(min=0.1), default=PROBE_S, help="Seconds for each probe.")
def check(url: str, key: str, model: str, timeout_s: float) -> None:
    """Check the endpoint at URL (with or without /v1); exit 1 if a probe fails. It costs about six short messages."""
    if not asyncio.run(_check(base_of(url), key, model, timeout_s)):
        sys.exit(1)


def base_of(url: str) -> str:
    """What stands before /v1. Raises click.BadParameter for what is no http(s) URL."""
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and not parts.query and not parts.fragment
    except ValueError:
        good = False
    if not good:
        raise click.BadParameter("write an http or https URL, such as http://127.0.0.1:8080", param_hint="URL")
    return url.rstrip("/").removesuffix("/v1").rstrip("/")


async def _check(base: str, key: str, model: str, timeout_s: float) -> bool:
    """Run all probes, one after another, each whatever became of the others; print a line each."""
    limits = aiohttp.ClientTimeout(total=timeout_s, sock_connect=min(CONNECT_S, timeout_s))
    # No cookies and no proxies of the environment: what is asked is what is measured.
    async with aiohttp.ClientSession(timeout=limits, cookie_jar=aiohttp.DummyCookieJar(), trust_env=False) as session:
        target = Target(_sender(session, base), key, model)
        results = [await _run(name, probe, target, timeout_s) for name, probe in PROBES.items()]
    failed = results.count(False)
    click.echo(f"{len(results) - failed} ok, {failed} failed", err=True)
    return not failed


def _sender(session: aiohttp.ClientSession, base: str) -> Send:
    async def send(method: str, path: str, headers: dict[str, str], body: bytes | None) -> Answer:
        # No redirects: the key must not follow one to another host, and real clients do not either.
        async with session.request(method, base + path, headers=headers, data=body, allow_redirects=False) as response:
            received = bytearray()
            async for chunk in response.content.iter_any():
                received += chunk
                if len(received) > BODY_BYTES_MAX:
                    raise Failed(f"the answer is longer than {BODY_BYTES_MAX} bytes")
            return Answer(response.status, {name.lower(): value for name, value in response.headers.items()}, bytes(received))

    return send


async def _run(name: str, probe: Probe, target: Target, timeout_s: float) -> bool:
    try:
        detail = await probe(target)
    except Failed as failure:
        return _tell(False, name, str(failure), target)
    except TimeoutError:
        return _tell(False, name, f"no whole answer within {timeout_s:g} s", target)
    except (aiohttp.ClientError, OSError) as error:
        return _tell(False, name, f"{type(error).__name__}: {error}", target)
    return _tell(True, name, detail, target)


def _tell(well: bool, name: str, detail: str, target: Target) -> bool:
    # An endpoint that repeats the key in its answer must not bring it into somebody's terminal log.
    text = shown(detail.replace(target.key, "(key)"))
    click.echo(f"{'ok  ' if well else 'FAIL'} {name} — {text}")
    return well
