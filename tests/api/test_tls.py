"""HTTPS from certificate files: what is served, what is refused at start, and a change of certificate while it serves."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import socket
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from gateway.api import tls
from gateway.api.server import serving
from gateway.api.tls import Files, Tls
from gateway.config import parse
from gateway.errors import HouseError
from gateway.house import open_house
from tests.api.raw import RawClient
from tests.certificates import make_certificate, needs_openssl, trusting
from tests.gateway_tools import MODEL, Gateway, ScriptedUpstream, settings_text
from tests.upstreams import scripts

pytestmark = needs_openssl


@asynccontextmanager
async def open_https(folder: Path, files: Files, *upstream_urls: str) -> AsyncIterator[tuple[Gateway, Tls]]:
    settings = parse(settings_text(*upstream_urls), str(folder / "pagegrid.toml"), {})
    context = Tls(files)
    async with (
        open_house(settings, folder / "data") as house,
        serving(house, "127.0.0.1", 0, context) as port,
        aiohttp.ClientSession(auto_decompress=False, connector=aiohttp.TCPConnector(ssl=trusting(files))) as session,
    ):
        yield Gateway(house, f"https://127.0.0.1:{port}", session), context


@asynccontextmanager
async def tls_client(gateway: Gateway, trust: ssl.SSLContext, name: str | None = "localhost") -> AsyncIterator[RawClient]:
    port = int(gateway.url.rpartition(":")[2])
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=trust, server_hostname=name)
    try:
        yield RawClient(reader, writer)
    finally:
        writer.transport.abort()


def common_name(client: RawClient) -> str:
    certificate = client.writer.get_extra_info("ssl_object").getpeercert()
    return str(dict(part[0] for part in certificate["subject"])["commonName"])


PING = "GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n"


# ── serving ──────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_messages_and_streams_over_tls_with_the_clients_own_address(tmp_path: Path) -> None:
    files = make_certificate(tmp_path)
    async with ScriptedUpstream() as up, open_https(tmp_path, files, up.url) as (gateway, _):
        alice = await gateway.make_user("alice")
        answer = await gateway.ask(alice)
        assert answer.status == 200
        answer.assert_clean()
        assert (await gateway.ask(alice, stream=True)).events[-1][0] == "message_stop"
        assert set(await gateway.table("select address from request_details")) == {("127.0.0.1",)}
        await gateway.assert_settled()


async def test_a_body_of_many_records_arrives_whole_and_a_too_large_one_is_told(tmp_path: Path) -> None:
    files = make_certificate(tmp_path)
    async with ScriptedUpstream() as up, open_https(tmp_path, files, up.url) as (gateway, _):
        alice = await gateway.make_user("alice", "100")
        body = json.dumps({"model": MODEL, "max_tokens": 9, "messages": [{"role": "user", "content": "x" * 2**23}]}).encode()
        headers = {"x-api-key": alice.secret}
        assert (await gateway.request("POST", "/v1/messages", headers=headers, data=io.BytesIO(body))).status == 200
        assert up.journal[0].body == body
        large = io.BytesIO(bytes(33 * 2**20))
        assert (await gateway.request("POST", "/v1/messages", headers=headers, data=large)).status == 413
        await gateway.assert_settled()


async def test_a_client_that_leaves_a_stream_is_noticed_and_pays(tmp_path: Path) -> None:
    files, pause = make_certificate(tmp_path), asyncio.Event()
    script = scripts.answer(pause=(4, pause))
    async with ScriptedUpstream(default=script) as up, open_https(tmp_path, files, up.url) as (gateway, _):
        alice = await gateway.make_user("alice")
        async with tls_client(gateway, trusting(files)) as client:
            body = b'{"model":"claude-sonnet-5-5","max_tokens":50,"stream":true,"messages":[{"role":"user","content":"hi"}]}'
            head = f"POST /v1/messages HTTP/1.1\r\nhost: x\r\nx-api-key: {alice.secret}\r\ncontent-length: {len(body)}\r\n\r\n"
            await client.send(head.encode() + body)
            assert b"message_start" in await client.reader.readuntil(b"message_start")
        await asyncio.wait_for(up.journal[0].gone.wait(), 10)
        await gateway.assert_settled()
        assert [row["source"] for row in await gateway.usage_rows()] == ["estimated"]


async def test_old_protocols_and_plain_http_get_nowhere(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    files = make_certificate(tmp_path)
    async with open_https(tmp_path, files, "http://127.0.0.1:1") as (gateway, _):
        old = trusting(files)
        old.set_ciphers("ALL:@SECLEVEL=0")
        with pytest.warns(DeprecationWarning):
            old.minimum_version, old.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
        with pytest.raises(OSError):
            async with tls_client(gateway, old):
                pass
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            exact = trusting(files)
            exact.minimum_version = exact.maximum_version = version
            async with tls_client(gateway, exact) as client:
                await client.send(PING)
                assert (await client.answer())[0] == 200
        reader, writer = await asyncio.open_connection("127.0.0.1", int(gateway.url.rpartition(":")[2]))
        writer.write(PING.encode())
        assert not (await asyncio.wait_for(reader.read(), 5)).startswith(b"HTTP/")
        writer.close()
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


# ── guards ───────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_stalled_handshake_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.api.guard.TLS_HANDSHAKE_S", 0.2)
    files = make_certificate(tmp_path)
    async with open_https(tmp_path, files, "http://127.0.0.1:1") as (gateway, _):
        for said in (b"", b"\x16\x03\x01\x02\x00\x01"):
            reader, writer = await asyncio.open_connection("127.0.0.1", int(gateway.url.rpartition(":")[2]))
            writer.write(said)
            try:
                assert await asyncio.wait_for(reader.read(), 3) == b""
            except ConnectionError:
                pass
            writer.close()


async def test_a_slow_head_is_closed_also_if_the_client_never_says_goodbye(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.api.guard.HEAD_S", 0.2)
    monkeypatch.setattr("gateway.api.guard.TLS_GOODBYE_S", 0.2)
    files = make_certificate(tmp_path)
    async with open_https(tmp_path, files, "http://127.0.0.1:1") as (gateway, _):
        async with tls_client(gateway, trusting(files)) as idle:
            await idle.send(PING)
            assert (await idle.answer())[0] == 200
            await asyncio.sleep(0.4)
            await idle.send(PING)
            assert (await idle.answer())[0] == 200
            await idle.send("GET /hea")
            assert await idle.rest(3) == b""
        # A blocking socket in this thread: nobody answers the server's close_notify.
        port = int(gateway.url.rpartition(":")[2])
        silent = await asyncio.to_thread(_handshake, port, trusting(files))
        with silent:
            left = asyncio.ensure_future(asyncio.to_thread(_until_closed, silent))
            assert await asyncio.wait_for(left, 5) < 2


def _handshake(port: int, trust: ssl.SSLContext) -> ssl.SSLSocket:
    plain = socket.create_connection(("127.0.0.1", port), timeout=5)
    return trust.wrap_socket(plain, server_hostname="localhost")


def _until_closed(client: ssl.SSLSocket) -> float:
    """Seconds until the TCP connection is closed; reads below TLS, so that no goodbye is ever answered."""
    began = time.monotonic()
    with socket.socket(fileno=client.detach()) as raw:
        raw.settimeout(5)
        try:
            while raw.recv(4096):
                pass
        except ConnectionError:
            pass
    return time.monotonic() - began


# ── reload ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", ["localhost", None])
async def test_a_reload_is_seen_by_new_connections_and_the_open_one_goes_on(tmp_path: Path, name: str | None) -> None:
    first, second = make_certificate(tmp_path, "first"), make_certificate(tmp_path, "second")
    trust = trusting(first, second)
    if name is None:  # a client that names no host
        trust.check_hostname = False
    async with (
        open_https(tmp_path, first, "http://127.0.0.1:1") as (gateway, served),
        tls_client(gateway, trust, name or "") as old,
    ):
        served.take(tls.load_certificate(second))
        for _ in range(2):
            async with tls_client(gateway, trust, name or "") as new:
                assert (common_name(old), common_name(new)) == ("first", "second")
                for client in (old, new):
                    await client.send(PING)
                    assert (await client.answer())[0] == 200
        served.take(tls.load_certificate(first))
        async with tls_client(gateway, trust, name or "") as new:
            assert common_name(new) == "first"


async def test_a_bad_new_file_changes_nothing_and_says_why(tmp_path: Path) -> None:
    files, other = make_certificate(tmp_path, "good"), make_certificate(tmp_path, "other")
    trust = trusting(files)
    async with open_https(tmp_path, files, "http://127.0.0.1:1") as (gateway, served):
        # Half a renewal: the certificate is new, the key is not yet.
        files.certificate.write_bytes(other.certificate.read_bytes())
        with pytest.raises(HouseError, match="does not belong"):
            served.take(tls.load_certificate(files))
        async with tls_client(gateway, trust) as client:
            assert common_name(client) == "good"
        files.key.write_bytes(other.key.read_bytes())
        served.take(tls.load_certificate(files))
        async with tls_client(gateway, trusting(other)) as client:
            assert common_name(client) == "other"


# ── files ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_what_is_wrong_with_a_file_is_told_with_its_name_and_the_next_step(tmp_path: Path) -> None:
    good, other = make_certificate(tmp_path, "good"), make_certificate(tmp_path, "other")
    secret = make_certificate(tmp_path, "secret", passphrase="a-passphrase")
    text, damaged, folder = tmp_path / "text", tmp_path / "damaged", tmp_path
    text.write_text("hello")
    damaged.write_bytes(good.certificate.read_bytes()[:200] + b"\n-----END CERTIFICATE-----\n")
    for files, tells in (
        (Files(tmp_path / "none.pem", good.key), ("none.pem", "cannot be read", "server.tls_certificate_file")),
        (Files(good.certificate, tmp_path / "none.key"), ("none.key", "cannot be read", "server.tls_key_file")),
        (Files(folder, good.key), (str(folder), "directory")),
        (Files(text, good.key), ("text", "no PEM certificate")),
        (Files(good.key, good.certificate), ("good.key", "no PEM certificate")),
        (Files(good.certificate, text), ("text", "no PEM key")),
        (Files(good.certificate, other.key), ("good.pem", "other.key", "does not belong")),
        (secret, ("secret.key", "is encrypted", "openssl pkey")),
        (Files(damaged, good.key), ("damaged", "made again")),
    ):
        with pytest.raises(HouseError) as refused:
            tls.load_certificate(files)
        assert all(word in refused.value.message for word in tells), refused.value.message
        assert "PRIVATE KEY-----\nM" not in refused.value.message


@pytest.mark.parametrize(("days", "says"), [(-1, "expired on"), (10, "expires on"), (90, None), (20_000, None)])
def test_an_expired_certificate_is_a_warning_so_is_one_that_soon_will_be(tmp_path: Path, days: int, says: str | None) -> None:
    files = make_certificate(tmp_path, days=days)
    warnings = tls.load_certificate(files).warnings
    assert len(warnings) == (says is not None) and all(says in warning for warning in warnings if says)


def test_a_certificate_of_tomorrow_and_an_open_key_are_warnings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = make_certificate(tmp_path)
    files.key.chmod(0o644)
    now = time.time()
    monkeypatch.setattr("gateway.api.tls.time.time", lambda: now - 86_400)
    assert [
        word for warning in tls.load_certificate(files).warnings for word in ("not valid before", "chmod 600") if word in warning
    ] == [
        "not valid before",
        "chmod 600",
    ]


def test_dates_that_cannot_be_read_are_no_reason_to_stop(tmp_path: Path) -> None:
    der = ssl.PEM_cert_to_DER_cert(make_certificate(tmp_path).certificate.read_text())
    for cut in range(len(der)):
        try:
            before, after = tls.validity(ssl.DER_cert_to_PEM_cert(der[:cut]).encode())
        except ValueError:
            continue
        assert before < after
