"""The docs: one source, filled in with the house as it is configured now; markdown and HTML of it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from gateway.config import parse
from gateway.errors import KINDS
from gateway.reload import reload
from gateway.web.manual import MEANINGS, TITLES, escape_markdown
from gateway.web.markdown import Fence, fences, render
from tests.gateway_tools import settings_text
from tests.web.tools import DEMO, look, open_site


def test_every_code_of_an_error_is_explained() -> None:
    assert set(MEANINGS) == set(KINDS)
    assert all(when.endswith(".") and helps.endswith(".") for when, helps in MEANINGS.values())


async def test_every_page_has_its_title_a_lead_and_both_forms(tmp_path: Path) -> None:
    async with open_site(tmp_path) as gateway:
        for slug, title in TITLES.items():
            page, text = await look(gateway, f"/docs/{slug}"), await gateway.get(None, f"/docs/{slug}.md")
            assert text.headers["content-type"] == "text/markdown; charset=utf-8"
            lines = text.body.decode().splitlines()
            wanted = "Translation between the dialects" if slug == "translation" else title
            assert lines[0] == f"# {wanted}" and len(lines[2]) > 60
            assert f"<h1>{wanted}</h1>".encode() in page.body
            for left in ("pagegrid.invalid", "{{", "{%", "None", "undefined"):
                assert left not in text.body.decode() and left not in page.body.decode(), (slug, left)
            for accept in ("text/markdown", "text/markdown, text/html;q=0.9"):
                assert (await gateway.get(None, f"/docs/{slug}", {"accept": accept})).body == text.body
        assert (await gateway.get(None, "/docs")).headers["location"] == "/docs/getting-started"


async def test_the_index_for_programs_leads_to_every_page(tmp_path: Path) -> None:
    async with open_site(tmp_path) as gateway:
        index = (await gateway.get(None, "/llms.txt")).body.decode()
        assert index.startswith(f"# PageGrid\n\n> PageGrid is an AI gateway at {gateway.url}:")
        links = dict(re.findall(r"^- \[([^]]+)\]\(([^)]+)\): .{40,}$", index, re.MULTILINE))
        assert list(links) == list(TITLES.values())
        for link in links.values():
            assert (await gateway.get(None, link.removeprefix(gateway.url))).status == 200
        whole = (await gateway.get(None, "/llms-full.txt")).body.decode()
        for slug in TITLES:
            assert (await gateway.get(None, f"/docs/{slug}.md")).body.decode() in whole


async def test_the_docs_say_what_the_house_is_now(tmp_path: Path) -> None:
    async with open_site(tmp_path) as gateway:

        async def text(slug: str) -> str:
            return (await gateway.get(None, f"/docs/{slug}.md")).body.decode()

        assert "| 1 | " not in await text("pricing")
        assert "sk-pgrid-YOUR-KEY" in await text("claude-code") and "| none | input, cache writes" in await text("rate-limits")
        more = """
[brand]
name = "Lab"
key_prefix = "sk-lab-"
support = "Ask Ada."
[server]
public_url = "https://ai.example.com"
default_max_tokens = 4000
[billing]
factor = "2"
on_disconnect = "drain"
[plans.default]
tpm = 40000
[usage]
retention_days = 7
"""
        settings = parse(settings_text(more=more + DEMO), str(tmp_path / "pagegrid.toml"), {})
        await reload(gateway.house, settings)
        claude = await text("claude-code")
        assert "ANTHROPIC_BASE_URL=https://ai.example.com\n" in claude and "sk-lab-YOUR-KEY" in claude
        assert "sk-pgrid" not in claude and "127.0.0.1" not in claude
        assert "| 40,000 | input, cache writes" in await text("rate-limits")
        assert "4,000 if you leave it out" in await text("messages")
        assert "reads the answer to its end" in await text("streaming")
        assert "after 7 days" in await text("billing")
        assert "Ask Ada." in await text("getting-started") and "Lab is an AI gateway" in await text("getting-started")
        assert "| [`claude-sonnet-5-5`](/models/claude-sonnet-5-5) | $4.00 | $20.00 | $0.20 | $5.00 | $8.00 |" in await text(
            "pricing"
        )
        # 2,000 × 4 + 4,000 × 5 + 60,000 × 0.20 + 800 × 20 per million.
        assert "| **Charged** | | | **$0.056** |" in await text("pricing")


# ── values in markdown ───────────────────────────────────────────────────────────────────────────────────────────────

_ONE_LINE = st.text(st.characters(blacklist_categories=("C", "Zl", "Zp", "Zs")) | st.just(" "), max_size=60)


@given(_ONE_LINE)
@pytest.mark.parametrize("where", ["{}", "before {} after", "| a | {} |", "## {}"])
def test_a_value_stays_text_wherever_it_stands(where: str, value: str) -> None:
    value = " ".join(value.split())
    escaped = str(escape_markdown(value))
    source = where.replace("{}", escaped)
    if where.startswith("|"):
        source = "| x | y |\n| --- | --- |\n" + source
    tokens = MarkdownIt("commonmark").enable("table").parse(source)
    inline = [token for token in tokens if token.type == "inline"]
    if not value:
        return
    told = "".join(child.content for child in inline[-1].children or ())
    expected = {"{}": value, "## {}": value, "before {} after": f"before {value} after"}.get(where, value)
    assert told == expected
    assert {child.type for token in inline for child in token.children or ()} <= {"text", "text_special"}


def test_what_code_blocks_are_told_by() -> None:
    ((fence, text),) = fences('```sh title="A \'b\'" tab="x, y" unrun="why not"\necho 1\n```\n')
    assert fence == Fence("sh", {"title": "A 'b'", "tab": "x, y", "unrun": "why not"}) and text == "echo 1\n"
    html = str(render('# T\n\n```sh title="<b>" tab="<i>"\necho "<b>" & https://x.example\n```\n', ["https://x.example"]).html)
    assert "<span>&lt;b&gt;</span>" in html and ">&lt;i&gt;</label>" in html
    assert 'echo &#34;&lt;b&gt;&#34; &amp; <b class="mine">https://x.example</b></code>' in html


def test_neighbours_with_tabs_are_one_choice() -> None:
    block = '```sh tab="{}"\nx\n```\n\n'
    html = str(render("# T\n\n" + block.format("a") + block.format("b") + "between\n\n" + block.format("c")).html)
    assert html.count('<div class="tabs">') == html.count("</div></fieldset>") == 2
    assert html.count(" checked>") == 2 and html.count('name="tabs-1"') == 2 and html.count('name="tabs-3"') == 1


def test_headings_have_places_of_their_own() -> None:
    rendered = render("# Title\n\n## One\n\n### Two\n\n## One\n\n## `code` & *x*\n\n## …\n")
    assert rendered.title == "Title"
    assert [(heading.id, heading.text) for heading in rendered.headings] == [
        *(("one", "One"), ("one-2", "One"), ("code-x", "code & x"), ("section", "…"))
    ]
    assert 'id="two"' in rendered.html and "style=" not in render("|a|\n|-:|\n|1|\n").html
