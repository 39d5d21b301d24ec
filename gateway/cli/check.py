"""`pagegrid check URL`: does an endpoint do what clients rely on? One line per probe; for our own and for any other like it."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from dataclasses import asdict, dataclass
from urllib.parse import urlsplit

import aiohttp
import click

from gateway.cli.answers import Answer, Failed, Unusable, shown
from gateway.cli.conformance import PROBES, Probe, Send, Target
from gateway.cli.context import json_option, out, print_json, say, where_options

# One probe: a slow model may think a while before the whole answer of a few tokens is there.
PROBE_S = 120.0
CONNECT_S = 10.0
BODY_BYTES_MAX = 4 * 1024 * 1024
# Anything shorter is no secret, and stands in every other word of an answer.
KEY_CHARS_HIDDEN = 8


@dataclass(frozen=True, slots=True)
class Result:
    """One probe: whether it went well, and a few words on what was seen. After an `Unusable` nothing more is asked."""

    probe: str
    ok: bool
    detail: str
    unusable: bool = False


def _base_of(context: click.Context, parameter: click.Parameter, url: str) -> str:
    """What stands before /v1 in an http(s) URL."""
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        good = good and not parts.query and not parts.fragment
    except ValueError:
        good = False
    if not good:
        raise click.BadParameter("write an http or https URL, such as http://127.0.0.1:8080")
    return url.rstrip("/").removesuffix("/v1").rstrip("/")


def _check_key(context: click.Context, parameter: click.Parameter, key: str) -> str:
    # It becomes a header. Never repeated: it is a secret.
    if not re.fullmatch(r"[!-~]+", key):
        raise click.BadParameter("a key is one word of visible ASCII characters")
    return key


@click.command(short_help="Check whether an endpoint does what clients rely on.")
@where_options
@click.argument("url", callback=_base_of)
@click.option(
    *("--key",),
    required=True,
    envvar="PAGEGRID_KEY",
    show_envvar=True,
    callback=_check_key,
    help="A key of that endpoint; or set PAGEGRID_KEY.",
)
@click.option("--model", default="", help="The model to ask; the first of /v1/models if left out.")
@click.option("--timeout", "timeout_s", type=click.FloatRange(min=0.1), default=PROBE_S, help="Seconds for each probe.")
@json_option
def check(url: str, key: str, model: str, timeout_s: float, as_json: bool) -> None:
    """Check whether the endpoint at URL (with or without /v1) does what clients rely on; exit 1 if it does not.

    It costs what four short answers of the model cost: at most 448 output tokens in all.
    """
    results = asyncio.run(_check(url, key, model, timeout_s, tell=not as_json))
    failed = sum(not result.ok for result in results)
    if as_json:
        probes = [{name: value for name, value in asdict(result).items() if name != "unusable"} for result in results]
        print_json({"ok": not failed, "probes": probes})
    elif results[-1].unusable:
        say("Nothing else was asked: first this must work.")
    else:
        say(f"{len(results) - failed} ok, {failed} failed")
    if failed:
        sys.exit(1)


async def _check(base: str, key: str, model: str, timeout_s: float, *, tell: bool) -> list[Result]:
    """Run the probes one after another, each whatever became of the others, unless the endpoint is of no use at all."""
    limits = aiohttp.ClientTimeout(total=timeout_s, sock_connect=min(CONNECT_S, timeout_s))
    results: list[Result] = []
    # No cookies and no proxies of the environment: what is asked is what is measured.
    async with aiohttp.ClientSession(timeout=limits, cookie_jar=aiohttp.DummyCookieJar(), trust_env=False) as session:
        target = Target(_sender(session, base, timeout_s), key, model)
        for name, probe in PROBES.items():
            result = await _run(name, probe, target, first=not results)
            results.append(result)
            if tell:
                out(f"{'ok  ' if result.ok else 'FAIL'} {name} — {result.detail}")
            if result.unusable:
                break
    return results


async def _run(name: str, probe: Probe, target: Target, *, first: bool) -> Result:
    try:
        return Result(name, True, _readable(await probe(target), target.key))
    except Failed as failure:
        # Later the endpoint has answered before: what fails then is that one probe's.
        return Result(name, False, _readable(str(failure), target.key), first and isinstance(failure, Unusable))


def _readable(detail: str, key: str) -> str:
    # An endpoint that repeats the key in its answer must not bring it into somebody's terminal log.
    return shown(detail.replace(key, "(key)") if len(key) >= KEY_CHARS_HIDDEN else detail)


# ── the connection ───────────────────────────────────────────────────────────────────────────────────────────────────


def _sender(session: aiohttp.ClientSession, base: str, timeout_s: float) -> Send:
    async def ask(method: str, path: str, headers: dict[str, str], body: bytes | None) -> Answer:
        # No redirects: the key must not follow one to another host, and real clients do not either.
        async with session.request(method, base + path, headers=headers, data=body, allow_redirects=False) as response:
            received = bytearray()
            async for chunk in response.content.iter_any():
                received += chunk
                if len(received) > BODY_BYTES_MAX:
                    raise Failed(f"the answer is longer than {BODY_BYTES_MAX} bytes")
            return Answer(response.status, {name.lower(): value for name, value in response.headers.items()}, bytes(received))

    host = urlsplit(base).netloc.rpartition("@")[2]

    async def send(method: str, path: str, headers: dict[str, str], body: bytes | None) -> Answer:
        try:
            return await ask(method, path, headers, body)
        except aiohttp.ConnectionTimeoutError:
            raise Unusable(f"{host} cannot be reached: no connection within {min(CONNECT_S, timeout_s):g} s") from None
        except TimeoutError:
            raise Unusable(f"no whole answer within {timeout_s:g} s") from None
        except (aiohttp.ClientError, OSError) as error:
            raise Unusable(_trouble(error, host)) from None

    return send


def _trouble(error: Exception, host: str) -> str:
    """What became of a connection, in words of our own; a library's are for its developers."""
    match error:
        case aiohttp.ClientConnectorDNSError():
            return f"{host}: there is no such host"
        case aiohttp.ClientConnectorCertificateError():
            return f"{host}: its TLS certificate is not trusted here"
        case aiohttp.ClientSSLError():
            return f"{host}: TLS failed; does it speak https?"
        case aiohttp.ClientConnectorError() if error.errno:
            return f"{host} cannot be reached: {os.strerror(error.errno)}"
        case aiohttp.ClientConnectorError():
            return f"{host} cannot be reached"
        case aiohttp.ClientPayloadError():
            return "the answer was cut off"
        case aiohttp.ClientResponseError():
            return "what was answered is no HTTP"
        case _:
            return "the connection was closed before an answer"
