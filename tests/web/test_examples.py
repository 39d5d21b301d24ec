"""Every piece of code in the docs, run as a reader would: against a live gateway, with a key in it.

A block that cannot be run says why in `unrun`; a language that nobody here can run fails.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from gateway.web.manual import TITLES
from gateway.web.markdown import Fence, fences
from tests.clients.tools import MODULES, NODE, needs_js
from tests.gateway_tools import Gateway, User
from tests.web.tools import open_site

PLACEHOLDER = "sk-pgrid-YOUR-KEY"
SHOWN = {"text", "json", "toml"}
AT_ONCE = 2
SECONDS_MAX = 60

Block = tuple[Fence, str]


async def blocks_of(gateway: Gateway, slug: str, alice: User) -> list[Block]:
    page = await gateway.get(None, f"/docs/{slug}.md")
    assert page.status == 200
    found = [(fence, text.replace(PLACEHOLDER, alice.secret)) for fence, text in fences(page.body.decode())]
    assert page.body.count(b"```") == 2 * len(found), "a block is not closed, or not seen"
    return found


async def run(argv: Sequence[str], folder: Path, stdin: str = "") -> str:
    """What it prints; it must end well. It knows nothing of this process's keys."""
    env = {name: os.environ[name] for name in ("PATH", "LANG", "SSL_CERT_FILE") if name in os.environ}
    process = await asyncio.create_subprocess_exec(
        *argv,
        cwd=folder,
        env={**env, "HOME": str(folder)},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(SECONDS_MAX):
        out, err = await process.communicate(stdin.encode())
    assert process.returncode == 0, f"{stdin}\n{out.decode()}\n{err.decode()}"
    return out.decode()


async def run_shell(text: str, folder: Path, fence: Fence) -> None:
    out = await run(["bash", "-euo", "pipefail", "-s"], folder, text + ("" if "curl" in text else "\nenv\n"))
    if "curl" not in text:
        names = re.findall(r"^export (\w+)=", text, re.MULTILINE)
        assert names and all(f"{name}=" in out for name in names)
    elif refused := fence.attributes.get("refused"):
        assert json.loads(out)["error"]["type"] == refused
    elif "-N " in text:
        assert out.rstrip().endswith(("data: [DONE]", 'data: {"type":"message_stop"}')), out
    elif "text/csv" in text:
        assert "," in out.splitlines()[0]
    else:
        assert "error" not in json.loads(out)


async def run_python(text: str, folder: Path, fence: Fence) -> None:
    assert await run([sys.executable, "-"], folder, text)


def settings_of(fence: Fence, text: str) -> Mapping[str, str]:
    """The variables that a block sets in a shell which is not here."""
    if fence.language == "powershell":
        lines = re.findall(r'^\$env:(\w+) = "([^"$`]*)"$', text, re.MULTILINE)
    else:
        lines = re.findall(r"^set (\w+)=([^%&|<>^\n]*)$", text, re.MULTILINE)
    assert len(lines) == len(text.splitlines()), text
    return dict(lines)


async def run_block(fence: Fence, text: str, folder: Path) -> None:
    if "unrun" in fence.attributes:
        assert len(fence.attributes["unrun"]) > 10, "why?"
        if fence.language == "python":
            compile(text, fence.caption, "exec")
    elif fence.language == "sh":
        await run_shell(text, folder, fence)
    elif fence.language == "python":
        await run_python(text, folder, fence)
    elif fence.language in ("powershell", "bat"):
        assert settings_of(fence, text)
    elif fence.language == "json":
        json.loads(text)
    elif fence.language == "toml":
        tomllib.loads(text)
    else:
        # js has a test of its own.
        assert fence.language in ("js", "text"), (
            f"nobody here can run {fence.language!r}: say why not (unrun), or teach this test"
        )


@pytest.mark.timeout(300)
@pytest.mark.parametrize("slug", TITLES)
async def test_every_example_works(tmp_path: Path, slug: str) -> None:
    async with open_site(tmp_path) as gateway:
        alice = await gateway.make_user("alice")
        turns = asyncio.Semaphore(AT_ONCE)

        async def take_turn(fence: Fence, text: str) -> None:
            async with turns:
                await run_block(fence, text, tmp_path)

        blocks = await blocks_of(gateway, slug, alice)
        await asyncio.gather(*(take_turn(*block) for block in blocks))
        await gateway.assert_settled()


@needs_js
async def test_the_examples_in_javascript_work(tmp_path: Path) -> None:
    (tmp_path / "node_modules").symlink_to(MODULES)
    async with open_site(tmp_path) as gateway:
        alice = await gateway.make_user("alice")
        ran = 0
        for slug in TITLES:
            for fence, text in await blocks_of(gateway, slug, alice):
                if fence.language == "js" and "unrun" not in fence.attributes:
                    file = tmp_path / "ask.mjs"
                    file.write_text(text)
                    assert "demo" in (await run([NODE, str(file)], tmp_path)).lower()
                    ran += 1
        assert ran == 2
        await gateway.assert_settled()


async def test_all_ways_to_set_up_claude_code_say_the_same(tmp_path: Path) -> None:
    async with open_site(tmp_path) as gateway:
        alice = await gateway.make_user("alice")
        blocks = await blocks_of(gateway, "claude-code", alice)
        said = {
            "ANTHROPIC_BASE_URL": gateway.url,
            "ANTHROPIC_AUTH_TOKEN": alice.secret,
            "ANTHROPIC_API_KEY": "",
        }
        by_tab: dict[str, Any] = {fence.tab: (fence, text) for fence, text in blocks if fence.tab}
        assert set(by_tab) == {"bash, zsh", "PowerShell", "cmd", "settings.json"}
        out = await run(["bash", "-eus"], tmp_path, by_tab["bash, zsh"][1] + "\nenv -0\n")
        assert said.items() <= dict(line.split("=", 1) for line in out.split("\0") if "=" in line).items()
        assert settings_of(*by_tab["PowerShell"]) == said
        assert settings_of(*by_tab["cmd"]) == said
        assert json.loads(by_tab["settings.json"][1])["env"] == said
