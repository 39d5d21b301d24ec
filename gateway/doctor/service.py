"""The configuration and what is reached by it: certificate, door, port, upstreams."""

from __future__ import annotations

import errno
import http.client
import re
import socket
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from gateway.api import tls
from gateway.api.guard import SERVER_NAME
from gateway.doctor.patient import Finding, Patient, failure, ok, warning
from gateway.errors import GatewayError, HouseError
from gateway.version import VERSION

PROBE_S = 5.0
# Signatures and time-limited credentials of providers allow minutes, people's reports should be right to the half-minute.
AHEAD_S_MAX = 30
# What a warning itself says is to be done.
_COMMAND = re.compile(r"chmod 600 .+")
LISTENING = "0A"  # st of /proc/net/tcp


def check_config(patient: Patient) -> Iterator[Finding]:
    for problem in patient.config_problems:
        yield failure(problem, "correct that; `pagegrid config check` reads the file again")
    if patient.settings is None:
        return
    for text in patient.settings.warnings:
        says = text.rstrip(".")
        command = _COMMAND.search(says)
        yield warning(says, command.group() if command else "see config.example.toml")
    yield ok(f"{patient.config or 'no configuration: the built-in demo answers'}")


def check_tls(patient: Patient) -> Iterator[Finding]:
    files = tls.find_files(patient.settings) if patient.settings else None
    if files is None:
        yield ok("no certificate is configured")
        return
    try:
        warnings = tls.load_certificate(files).warnings
    except HouseError as error:
        yield failure(error.message, "a start and a reload are refused until then")
        return
    for text in warnings:
        yield warning(text.rstrip("."), "certbot and the like renew and can run `pagegrid reload` after it")
    if not warnings:
        _, until = tls.validity(files.certificate.read_bytes())
        yield ok(f"the certificate is valid until {datetime.fromtimestamp(until, UTC):%Y-%m-%d}")


def check_server(patient: Patient) -> Iterator[Finding]:
    """Who listens at the door, and in which release."""
    if patient.door_problem:
        yield failure(patient.door_problem, "look at the server's log; stop it, and start it again")
    elif patient.server is None:
        yield ok("no server is running")
    elif patient.server.version != VERSION:
        yield failure(
            f"the running server is pagegrid {patient.server.version}, this command is {VERSION}",
            "restart the server, or use its release for commands",
        )
    else:
        yield ok(f"pagegrid {VERSION} is running and answers at its door")


def check_port(patient: Patient) -> Iterator[Finding]:
    """The running server must answer at its own, a later start must get the configured one."""
    if patient.settings is None:
        yield ok("not looked at: the configuration cannot be used")
        return
    host, port = patient.settings.server.host, patient.settings.server.port
    if patient.server is not None and patient.server.port:
        # The command line's counts over the file's.
        port = patient.server.port
    if port == 0:
        yield ok("any free port is taken")
    elif patient.server is not None:
        yield from _check_answer(patient, host, port)
    else:
        yield from _check_free(host, port)


def check_upstreams(patient: Patient) -> Iterator[Finding]:
    """Each is asked to count a word, with its secret: free. Their clocks are compared with ours."""
    if patient.settings is None:
        yield ok("not asked: the configuration cannot be used")
        return
    if patient.test_upstreams is None:
        yield ok("not asked")
        return
    try:
        results = patient.test_upstreams()
    except GatewayError as error:
        yield failure(error.message, "try again: pagegrid upstreams test")
        return
    aheads = []
    for result in results:
        name, detail = result["name"], result["detail"]
        if result["ok"]:
            yield ok(f"{name} answers in {result['ms']} ms")
        elif result["status"] is None:
            yield failure(f"{name} is not reached: {detail}", "is its base_url right, and does this machine reach it?")
        else:
            passing = result["status"] >= 500 or result["status"] == 429
            next_step = "try again in a while: pagegrid upstreams test" if passing else "are its secret and its account in order?"
            yield failure(f"{name} refuses with status {result['status']}: {detail}", next_step)
        if result["ahead_s"] is not None:
            aheads.append(result["ahead_s"])
    # The one that agrees best: a provider's clock may be wrong too.
    off = min(aheads, key=abs, default=0)
    if abs(off) > AHEAD_S_MAX:
        yield warning(
            f"this machine's clock is {abs(off)} s {'ahead of' if off > 0 else 'behind'} every upstream's",
            "timedatectl set-ntp true",
        )


# ── leaves ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _check_answer(patient: Patient, host: str, port: int) -> Iterator[Finding]:
    local = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 (compared, not bound)
    files = tls.find_files(patient.settings) if patient.settings else None
    try:
        status, server, certificate = _get_ready(local, port, encrypted=files is not None)
    except (OSError, http.client.HTTPException) as error:
        yield warning(
            f"the running server does not answer on {host}:{port} ({error})",
            "was it started with another --host, or has TLS been turned on or off since?",
        )
        return
    if server != SERVER_NAME:
        yield failure(f"another program answers on {host}:{port}{_holder(port)}", "change server.port, or stop that program")
    elif status != 200:
        yield failure(f"the server answers {status} on {host}:{port}: it takes no requests", "look for `alarm` in its log")
    else:
        yield ok(f"the server is ready on {host}:{port}")
    if files is not None and certificate and certificate != _first_der(files.certificate):
        yield warning("the server still shows an older certificate than the file's", "`pagegrid reload`, or restart the server")


def _get_ready(host: str, port: int, *, encrypted: bool) -> tuple[int, str, bytes]:
    """(status, server header, certificate) of GET /readyz. Whose certificate it is does not matter: it is this machine's."""
    connection: http.client.HTTPConnection
    if encrypted:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        connection = http.client.HTTPSConnection(host, port, timeout=PROBE_S, context=context)
    else:
        connection = http.client.HTTPConnection(host, port, timeout=PROBE_S)
    try:
        connection.request("GET", "/readyz")
        found = connection.sock.getpeercert(binary_form=True) if isinstance(connection.sock, ssl.SSLSocket) else None
        answer = connection.getresponse()
        answer.read(4096)
        return answer.status, answer.getheader("server", ""), found or b""
    finally:
        connection.close()


def _first_der(path: Path) -> bytes:
    match = re.search(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", path.read_text("ascii", "replace"), re.DOTALL)
    return ssl.PEM_cert_to_DER_cert(match.group()) if match else b""


def _check_free(host: str, port: int) -> Iterator[Finding]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        yield failure(f"server.host {host} is no address of this machine ({error.strerror})", "correct server.host")
        return
    for family, kind, protocol, _, address in found:
        with socket.socket(family, kind, protocol) as trial:
            # As asyncio has it: what only waits for its last packets is free.
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                trial.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            try:
                trial.bind(address)
                # Linux lets two bind with SO_REUSEADDR, and only one listen.
                trial.listen(1)
            except OSError as error:
                yield _not_free(error, host, port)
                return
    yield ok(f"{host}:{port} is free")


def _not_free(error: OSError, host: str, port: int) -> Finding:
    if error.errno == errno.EADDRINUSE:
        return failure(f"{host}:{port} is taken{_holder(port)}", "choose another server.port, or stop that program")
    if error.errno == errno.EACCES:
        return failure(
            f"this user may not listen on port {port}",
            "take a port from 1024 on, or give the service AmbientCapabilities=CAP_NET_BIND_SERVICE",
        )
    return failure(f"cannot listen on {host}:{port}: {error.strerror}", "correct server.host")


def _holder(port: int) -> str:
    """Such as " by nginx (process 812)", "" where that cannot be seen: other users' processes show it to root only."""
    inodes = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            rows = [line.split() for line in Path(table).read_text().splitlines()[1:]]
        except OSError:
            continue
        inodes |= {row[9] for row in rows if row[3] == LISTENING and int(row[1].rpartition(":")[2], 16) == port}
    links = {f"socket:[{inode}]" for inode in inodes}
    for process in Path("/proc").glob("[0-9]*") if links else ():
        try:
            if any(str(file.readlink()) in links for file in (process / "fd").iterdir()):
                return f" by {(process / 'comm').read_text().strip()} (process {process.name})"
        except OSError:
            continue
    return ""
