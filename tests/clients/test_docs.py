"""What the docs tell users of Claude Code and OpenClaw to do, done with the real ones."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from gateway.web.markdown import fences
from tests.clients.tools import SAID, Scene, claude, needs_claude, needs_openclaw, open_scene, openclaw

pytestmark = pytest.mark.clients


async def example(scene: Scene, slug: str, secret: str, **attributes: str) -> str:
    """The block of a page that has these attributes, with the wire tap's address and a key in it."""
    page = (await scene.gateway.get(None, f"/docs/{slug}.md")).body.decode()
    (text,) = [text for fence, text in fences(page) if attributes.items() <= fence.attributes.items()]
    return text.replace(scene.gateway.url, scene.url).replace("sk-pgrid-YOUR-KEY", secret)


@needs_claude
async def test_claude_code_as_the_docs_set_it_up(tmp_path: Path) -> None:
    async with open_scene(tmp_path) as scene:
        alice = await scene.gateway.make_user("alice")
        lines = await example(scene, "claude-code", alice.secret, tab="cmd")
        ran = await claude(scene, dict(re.findall(r"^set (\w+)=(.*)$", lines, re.MULTILINE)))
        assert ran.json["result"] == SAID
        home = scene.home()
        (home / ".claude").mkdir()
        settings = await example(scene, "claude-code", alice.secret, tab="settings.json")
        (home / ".claude/settings.json").write_text(settings)
        ran = await claude(scene, {"ANTHROPIC_BASE_URL": ""}, home=home)
        assert ran.json["result"] == SAID
        await scene.assert_settled()


@needs_openclaw
@pytest.mark.timeout(240)
async def test_openclaw_as_the_docs_set_it_up(tmp_path: Path) -> None:
    async with open_scene(tmp_path) as scene:
        alice = await scene.gateway.make_user("alice")
        config: Any = json.loads(await example(scene, "openclaw", alice.secret, title="~/.openclaw/openclaw.json"))
        ran = await openclaw(scene, alice.secret, config=config)
        assert ran.code == 0 and SAID in ran.out, ran.told
        await scene.assert_settled()
