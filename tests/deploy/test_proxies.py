"""The proxies of deploy/, as they are shipped, in front of a real gateway: streams, clients that leave, addresses, bodies.

nginx and Caddy run from their files with only addresses and certificate changed; without the program its tests are skipped.
"""

from __future__ import annotations

import asyncio
import io
import json
import re
import shutil
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from gateway.config import Timeouts
from tests.certificates import Files, make_certificate, needs_openssl, trusting
from tests.gateway_tools import MODEL, Gateway, ScriptedUpstream, User, open_gateway
from tests.upstreams import scripts

DEPLOY = Path(__file__).parent.parent.parent / "deploy"
MB = 2**20
START_S = 15

pytestmark = needs_openssl

NGINX = """
daemon off; master_process off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/error.log info;
events {{ worker_connections 256; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
    include {folder}/pagegrid.conf;
}}
"""
CADDY = "{{\n\tadmin off\n\tauto_https off\n\tstorage file_system {folder}/storage\n}}\n"


def changed(text: str, changes: dict[str, str]) -> str:
    for old, new in changes.items():
        assert old in text, f"the shipped file has no {old!r} any more"
        text = text.replace(old, new)
    return text


def nginx(folder: Path, files: Files, gateway_port: int, port: int) -> list[str]:
    text = changed(
        (DEPLOY / "nginx.conf").read_text(),
        {
            "listen 443 ssl": f"listen 127.0.0.1:{port} ssl",
            "127.0.0.1:8080": f"127.0.0.1:{gateway_port}",
            "/etc/letsencrypt/live/ai.example.com/fullchain.pem": str(files.certificate),
            "/etc/letsencrypt/live/ai.example.com/privkey.pem": str(files.key),
        },
    )
    (folder / "pagegrid.conf").write_text(text)
    (folder / "nginx.conf").write_text(NGINX.format(folder=folder))
    # -e: without it nginx first writes to the log that it was compiled for.
    return ["-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", str(folder / "error.log")]


def caddy(folder: Path, files: Files, gateway_port: int, port: int) -> list[str]:
    site = f"https://127.0.0.1:{port} {{\n\ttls {files.certificate} {files.key}"
    text = changed(
        (DEPLOY / "Caddyfile").read_text(), {"\nai.example.com {": f"\n{site}", "127.0.0.1:8080": f"127.0.0.1:{gateway_port}"}
    )
    (folder / "Caddyfile").write_text(CADDY.format(folder=folder) + text)
    return ["run", "--config", str(folder / "Caddyfile"), "--adapter", "caddyfile"]


Recipe = Callable[[Path, Files, int, int], list[str]]


def program(name: str, recipe: Recipe) -> object:
    found = shutil.which(name) or shutil.which(f"/usr/sbin/{name}")
    missing = pytest.mark.skipif(found is None, reason=f"there is no {name} here")
    return pytest.param((found, recipe), id=name, marks=missing)


PROXIES = [program("nginx", nginx), program("caddy", caddy)]


@pytest.fixture(params=PROXIES)
def proxy(request: pytest.FixtureRequest) -> tuple[str, Recipe]:
    found: tuple[str, Recipe] = request.param
    return found


@asynccontextmanager
async def behind(proxy: tuple[str, Recipe], folder: Path, *upstream_urls: str) -> AsyncIterator[tuple[Gateway, Gateway]]:
    """(the gateway, the same as it is seen through the proxy)."""
    files, place = make_certificate(folder / "tls"), folder / "proxy"
    place.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    connector = aiohttp.TCPConnector(ssl=trusting(files), force_close=False)
    async with (
        open_gateway(folder, *upstream_urls, more='[server]\ntrusted_proxies = ["127.0.0.1"]') as gateway,
        aiohttp.ClientSession(auto_decompress=False, connector=connector) as session,
    ):
        words = proxy[1](place, files, int(gateway.url.rpartition(":")[2]), port)
        with (place / "output.log").open("wb") as log:
            process = await asyncio.create_subprocess_exec(proxy[0], *words, cwd=place, stdout=log, stderr=log)
        through = Gateway(gateway.house, f"https://127.0.0.1:{port}", session)
        try:
            await until_answered(through, process, place)
            yield gateway, through
        finally:
            if process.returncode is None:
                process.terminate()
            await asyncio.wait_for(process.wait(), 10)


async def until_answered(through: Gateway, process: asyncio.subprocess.Process, place: Path) -> None:
    give_up = time.monotonic() + START_S
    while True:
        try:
            if (await through.get(None, "/readyz")).status == 200:
                return
        except (aiohttp.ClientError, OSError):
            pass
        said = "".join(file.read_text() for file in place.glob("*.log"))
        assert process.returncode is None and time.monotonic() < give_up, said
        await asyncio.sleep(0.05)


@asynccontextmanager
async def streaming(through: Gateway, user: User, headers: dict[str, str] | None = None) -> AsyncIterator[aiohttp.ClientResponse]:
    body = {"model": MODEL, "max_tokens": 100, "stream": True, "messages": [{"role": "user", "content": "say hi"}]}
    sent = {"x-api-key": user.secret, **(headers or {})}
    async with through.session.post(through.url + "/v1/messages", json=body, headers=sent) as response:
        assert response.status == 200
        yield response


async def heard(response: aiohttp.ClientResponse, marker: bytes, limit_s: float = 5) -> bytes:
    """What came until `marker` had come."""
    said = b""
    async with asyncio.timeout(limit_s):
        while marker not in said:
            part = await response.content.readany()
            assert part, f"the stream ended before {marker!r}: {said!r}"
            said += part
    return said


async def test_events_arrive_one_by_one_while_the_upstream_is_still_at_work(proxy: tuple[str, Recipe], tmp_path: Path) -> None:
    """Nothing that was said is kept back: the upstream goes on only when the client has heard it."""
    async with ScriptedUpstream() as up, behind(proxy, tmp_path, up.url) as (gateway, through):
        alice = await gateway.make_user("alice")
        for said in range(1, 6):
            gate = asyncio.Event()
            up.script(scripts.answer(pause=(said, gate)))
            async with streaming(through, alice) as response:
                events = b""
                async with asyncio.timeout(5):
                    while events.count(b"\n\n") < said:
                        events += await response.content.readany()
                assert response.headers["content-type"].startswith("text/event-stream")
                assert "content-encoding" not in response.headers
                gate.set()
                await heard(response, b"message_stop")
        await gateway.assert_settled()


async def test_a_client_that_leaves_is_noticed_behind_the_proxy(proxy: tuple[str, Recipe], tmp_path: Path) -> None:
    pause = asyncio.Event()
    async with (
        ScriptedUpstream(default=scripts.answer(pause=(4, pause))) as up,
        behind(proxy, tmp_path, up.url) as (gateway, through),
    ):
        alice = await gateway.make_user("alice")
        async with streaming(through, alice) as response:
            await heard(response, b"message_start")
            assert response.connection is not None and response.connection.transport is not None
            response.connection.transport.abort()
        await asyncio.wait_for(up.journal[0].gone.wait(), 10)
        await gateway.assert_settled()
        assert [row["source"] for row in await gateway.usage_rows()] == ["estimated"]


async def test_the_clients_address_is_the_one_that_the_proxy_saw(proxy: tuple[str, Recipe], tmp_path: Path) -> None:
    """From another address of this machine, since the proxy's own is trusted; what the client claims is not believed."""
    async with ScriptedUpstream() as up, behind(proxy, tmp_path, up.url) as (gateway, through):
        alice = await gateway.make_user("alice")
        trust = trusting(Files(tmp_path / "tls" / "server.pem", tmp_path / "tls" / "server.key"))
        for claim in ("", "X-Forwarded-For: 198.51.100.7\r\n", "X-Forwarded-For: 198.51.100.7, 127.0.0.1\r\n"):
            assert await ask_from("127.0.0.2", through, alice, claim, trust) == 200
        assert await gateway.table("select address from request_details") == [("127.0.0.2",)] * 3
        await gateway.assert_settled()


async def ask_from(address: str, through: Gateway, user: User, claim: str, trust: ssl.SSLContext) -> int:
    port = int(through.url.rpartition(":")[2])
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", port, ssl=trust, server_hostname="127.0.0.1", local_addr=(address, 0)
    )
    body = json.dumps({"model": MODEL, "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]})
    head = f"POST /v1/messages HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\nx-api-key: {user.secret}\r\n{claim}"
    writer.write(f"{head}content-length: {len(body)}\r\n\r\n{body}".encode())
    status = int((await asyncio.wait_for(reader.readline(), 10)).split()[1])
    writer.close()
    return status


async def test_large_bodies_pass_and_too_large_ones_are_refused_by_the_gateway_itself(
    proxy: tuple[str, Recipe], tmp_path: Path
) -> None:
    async with ScriptedUpstream() as up, behind(proxy, tmp_path, up.url) as (gateway, through):
        alice = await gateway.make_user("alice", "1000")
        headers = {"x-api-key": alice.secret, "content-type": "application/json"}
        text = "x" * (32 * MB - 1000)
        body = json.dumps({"model": MODEL, "max_tokens": 9, "messages": [{"role": "user", "content": text}]}).encode()
        answer = await through.request("POST", "/v1/messages", headers=headers, data=io.BytesIO(body))
        assert answer.status == 200 and up.journal[0].body == body
        answer = await through.request("POST", "/v1/messages", headers=headers, data=io.BytesIO(bytes(33 * MB)))
        assert answer.status == 413 and answer.error["type"] == "request_too_large"
        # A stranger's is refused before it is read.
        answer = await through.request("POST", "/v1/messages", headers={"x-api-key": "sk-pgrid-none"}, data=io.BytesIO(body))
        assert answer.status == 401 and answer.error["type"] == "authentication_error"
        await gateway.assert_settled()


async def test_refusals_pass_as_they_are_and_nothing_is_asked_twice(proxy: tuple[str, Recipe], tmp_path: Path) -> None:
    async with ScriptedUpstream(default=scripts.refuse(529)) as up, behind(proxy, tmp_path, up.url) as (gateway, through):
        alice = await gateway.make_user("alice")
        answer = await through.ask(alice)
        assert (answer.status, answer.error["type"]) == (529, "overloaded_error") and "request-id" in answer.headers
        assert len(up.journal) == 1
        assert (await through.request("GET", "/v1/nothing")).status == 404
        await gateway.assert_settled()


@pytest.mark.parametrize(
    ("name", "pattern"), [("nginx.conf", r"proxy_(?:read|send)_timeout (\d+)s"), ("Caddyfile", r"response_header_timeout (\d+)s")]
)
def test_they_wait_longer_than_the_gateway_does(name: str, pattern: str) -> None:
    waits = [int(text) for text in re.findall(pattern, (DEPLOY / name).read_text())]
    timeouts = Timeouts()
    assert waits and min(waits) > max(timeouts.first_byte_s, timeouts.idle_s)
