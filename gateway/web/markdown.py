"""Markdown → HTML in the components of the stylesheet: code with caption and copy button, tabs, steps, anchors, tables.

CommonMark with tables, and no HTML in it: `<b>` in a text shows as `<b>`. Behind a fence's language stand its attributes:

    ```sh title="Terminal" tab="bash, zsh"          neighbours that have a tab are shown one at a time
    ```sh unrun="it needs Claude Code"              why the test of all examples does not run this one
    ```sh refused="not_found_error"                  it is an example of this error
"""

from __future__ import annotations

import re
from collections.abc import MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token
from markdown_it.utils import OptionsDict
from markupsafe import Markup, escape

_ATTRIBUTE = re.compile(r'([a-z]+)="([^"]*)"')
_CAPTIONS = {
    "sh": "Terminal",
    "powershell": "PowerShell",
    "bat": "Command Prompt",
    "python": "Python",
    "js": "JavaScript",
    "json": "JSON",
    "toml": "TOML",
    "text": "Output",
}


@dataclass(frozen=True, slots=True)
class Heading:
    id: str
    text: str


@dataclass(frozen=True, slots=True)
class Rendered:
    """A page's text: its title (the first heading), its sections, and all of it as HTML."""

    title: str
    headings: tuple[Heading, ...]
    html: Markup


@dataclass(frozen=True, slots=True)
class Fence:
    """What is said of a piece of code: its language and attributes."""

    language: str
    attributes: dict[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, info: str) -> Fence:
        language, _, rest = info.strip().partition(" ")
        return cls(language, dict(_ATTRIBUTE.findall(rest)))

    @property
    def tab(self) -> str:
        return self.attributes.get("tab", "")

    @property
    def caption(self) -> str:
        return self.attributes.get("title") or _CAPTIONS.get(self.language, "Code")


def render(text: str, mine: Sequence[str] = (), prefix: str = "") -> Rendered:
    """`mine` are the reader's own values (address, key), set off in code. Ids of code and tabs begin with `prefix`, so that
    several texts may stand on one page."""
    env: dict[str, Any] = {"mine": mine, "prefix": prefix, "headings": [], "ids": set(), "title": "", "count": 0, "tables": 0}
    html = _PARSER.render(text, env)
    return Rendered(env["title"], tuple(env["headings"]), Markup(html))  # noqa: S704 (markdown-it escapes what it is given)


class _Renderer(RendererHTML):
    """`env` counts pieces of code, and collects headings."""

    def heading_open(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: MutableMapping[str, Any]) -> str:
        level = tokens[idx].tag
        title = _plain(tokens[idx + 1])
        if level == "h1":
            env["title"] = env["title"] or title
            return "<h1>"
        anchor = _free_id(title, env["ids"])
        env["ids"].add(anchor)
        if level == "h2":
            env["headings"].append(Heading(anchor, title))
        return f'<{level} id="{anchor}">'

    def heading_close(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: MutableMapping[str, Any]) -> str:
        level = tokens[idx].tag
        if level != "h2":
            return f"</{level}>\n"
        heading = env["headings"][-1]
        label = escape(f"Link to: {heading.text}")
        return f' <a class="anchor" href="#{heading.id}" aria-label="{label}">#</a></{level}>\n'

    def fence(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: MutableMapping[str, Any]) -> str:
        token = tokens[idx]
        fence = Fence.parse(token.info)
        env["count"] += 1
        number = env["count"]
        html = _code(f"{env['prefix']}code-{number}", fence.caption, number, token.content, env["mine"])
        if not fence.tab:
            return html
        first, last = not _has_tab(tokens, idx - 1), not _has_tab(tokens, idx + 1)
        if first:
            env["group"] = number
        prefix = env["prefix"]
        name = f"{prefix}tabs-{env['group']}"
        checked = " checked" if first else ""
        tab = (
            f'<input type="radio" name="{name}" id="{prefix}tab-{number}"{checked}>'
            f'<label for="{prefix}tab-{number}">{escape(fence.tab)}</label><div class="panel">{html}</div>\n'
        )
        opening = '<fieldset><legend class="vh">Choose yours</legend><div class="tabs">\n' if first else ""
        return opening + tab + ("</div></fieldset>\n" if last else "")

    def table_open(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: MutableMapping[str, Any]) -> str:
        env["tables"] += 1
        under = env["headings"][-1].text if env["headings"] else env["title"]
        label = escape(f"Table {env['tables']}: {under}")
        return f'<div class="scroll" tabindex="0" role="region" aria-label="{label}"><table class="t">\n'

    def table_close(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: MutableMapping[str, Any]) -> str:
        return "</table></div>\n"

    def th_open(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: MutableMapping[str, Any]) -> str:
        return f'<th scope="col"{_number_class(tokens[idx])}>'

    def td_open(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: MutableMapping[str, Any]) -> str:
        return f"<td{_number_class(tokens[idx])}>"

    def ordered_list_open(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: MutableMapping[str, Any]) -> str:
        """Steps, where there is code to run; else a list."""
        inside = _until_close(tokens, idx)
        return '<ol class="do">\n' if any(token.type == "fence" for token in inside) else '<ol class="plain">\n'

    def blockquote_open(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: MutableMapping[str, Any]) -> str:
        return '<div class="note">\n'

    def blockquote_close(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: MutableMapping[str, Any]) -> str:
        return "</div>\n"


_PARSER = MarkdownIt("commonmark", {"html": False}, renderer_cls=_Renderer).enable("table")
# Pictures come from nowhere but `static/`, and the docs need none.
_PARSER.disable("image")


def fences(text: str) -> list[tuple[Fence, str]]:
    """Every piece of code in a text, in order."""
    return [(Fence.parse(token.info), token.content) for token in _PARSER.parse(text) if token.type == "fence"]


def _code(code_id: str, caption: str, number: int, content: str, mine: Sequence[str]) -> str:
    shown = str(escape(content.rstrip("\n")))
    for value in mine:
        written = str(escape(value))
        shown = shown.replace(written, f'<b class="mine">{written}</b>')
    caption = str(escape(caption))
    return (
        f'<div class="code"><div class="cap"><span>{caption}</span>'
        f'<button class="btn sm quiet copy" type="button" hidden data-copy="{code_id}">'
        f'<svg class="ico" aria-hidden="true"><use href="#i-copy"/></svg><span>Copy</span>'
        f'<span class="vh"> {caption}, example {number}</span></button></div>'
        f'<pre id="{code_id}" tabindex="0" role="region" aria-label="{caption}, example {number}">'
        f"<code>{shown}</code></pre></div>\n"
    )


def _has_tab(tokens: Sequence[Token], idx: int) -> bool:
    return 0 <= idx < len(tokens) and tokens[idx].type == "fence" and bool(Fence.parse(tokens[idx].info).tab)


def _until_close(tokens: Sequence[Token], idx: int) -> Sequence[Token]:
    """What stands between an opening token and its closing one."""
    level = tokens[idx].level
    end = next(place for place in range(idx + 1, len(tokens)) if tokens[place].level == level and tokens[place].nesting == -1)
    return tokens[idx + 1 : end]


def _plain(inline: Token) -> str:
    return "".join(child.content for child in inline.children or () if child.type in ("text", "code_inline", "text_special"))


def _free_id(title: str, taken: set[str]) -> str:
    stem = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-") or "section"
    anchor, number = stem, 1
    while anchor in taken:
        number += 1
        anchor = f"{stem}-{number}"
    return anchor


def _number_class(token: Token) -> str:
    """A column that is aligned right holds numbers. (markdown-it would write a style, which our pages do not allow.)"""
    return ' class="n"' if "right" in str(token.attrGet("style") or "") else ""
