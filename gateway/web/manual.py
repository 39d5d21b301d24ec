"""/docs: written once as markdown, and filled in with this house's brand, address, models, prices and rules.

    docs/*.md ── Jinja, with values escaped for markdown ── one text per page ── as it is (.md, llms.txt) or as HTML

What differs between readers (the address by which they came) is put in last, so that a page is rendered once for each
configuration and not on the loop. Knows nothing of HTTP.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jinja2
from markupsafe import Markup, escape

from gateway.access import DEFAULT_PLAN
from gateway.errors import KINDS, Code
from gateway.house import House
from gateway.limits import COUNT_TOKENS_PER_MINUTE
from gateway.web import text
from gateway.web.markdown import Heading, render
from gateway.web.offers import CLASSES, EXAMPLE, offers

# (name in the address, title), by group, in the order in which they are read.
GROUPS: tuple[tuple[str, tuple[tuple[str, str], ...]], ...] = (
    ("Start", (("getting-started", "Getting started"), ("authentication", "Authentication"))),
    (
        "Clients",
        (
            ("claude-code", "Claude Code"),
            ("openclaw", "OpenClaw"),
            ("other-clients", "Other clients"),
            ("sdks", "SDK examples"),
        ),
    ),
    (
        "API",
        (
            ("messages", "Messages"),
            ("streaming", "Streaming"),
            ("token-counting", "Token counting"),
            ("openai", "OpenAI compatibility"),
            ("translation", "Translation in detail"),
            ("models", "Models"),
            ("errors", "Errors and retries"),
            ("rate-limits", "Rate limits"),
        ),
    ),
    ("Money", (("pricing", "Pricing"), ("billing", "Wallet and billing"), ("usage", "Usage reports"))),
)
ORDER = [page for _, pages in GROUPS for page in pages]
TITLES = dict(ORDER)
FIRST = ORDER[0][0]

# When each code of gateway/errors.py is answered, and what helps. A test sees to it that none is missing.
MEANINGS: Mapping[Code, tuple[str, str]] = {
    "invalid_request": ("The body is malformed, or a field is missing or wrong.", "The message names the field. Mend it."),
    "unauthenticated": (
        "No key, a mistyped, unknown, expired or revoked one.",
        "Compare the start of your key; ask for another. Not repeated by SDKs.",
    ),
    "balance_too_low": (
        "The wallet cannot pay for this request.",
        "Top up, or ask for a smaller answer.",
    ),
    "cap_reached": (
        "A spend cap of the key (per day, per month or in all) is reached.",
        "The message says which, and when it starts anew; the operator can raise it.",
    ),
    "forbidden": ("The key may not use this model, or not from this address.", "The message says what it may."),
    "not_found": ("No such model, request or path.", "See the list of models. The message suggests a near name."),
    "method_not_allowed": ("The path is right and the method is not.", "Use the one in the `allow` header."),
    "too_large": ("The body is over this gateway's limit.", "Send less, or smaller images."),
    "encoded_body": ("The body has a Content-Encoding.", "Send it as it is."),
    "rate_limited": ("A limit of the key, or every upstream account is limited.", "Wait for `retry-after` seconds; SDKs do."),
    "balance_held": ("The money is there, but running requests hold it.", "Wait for `retry-after` seconds; SDKs do."),
    "internal": ("A fault of this gateway.", "Try again; tell the operator the request id."),
    "upstream_failed": ("Every attempt at an upstream failed.", "Try again in a second; SDKs do."),
    "unavailable": (
        "No upstream is healthy, or the ledger cannot be written.",
        "Try again after `retry-after` seconds; SDKs do.",
    ),
    "upstream_timeout": ("The upstream was too slow.", "Try again; stream long answers."),
    "upstream_overloaded": ("The provider says that it is overloaded.", "Try again in a moment."),
}

# How a program is set up with a key: its name, the page that says so, and which blocks of that page stand beside a new key.
USES = (
    ("Claude Code", "claude-code", ("use",)),
    ("OpenClaw", "openclaw", ("use",)),
    ("Cline", "other-clients", ("cline",)),
    ("Roo Code", "other-clients", ("roo_code",)),
    ("Codex", "other-clients", ("codex",)),
    ("Python", "sdks", ("python", "python_openai")),
    ("JavaScript", "sdks", ("javascript",)),
    ("curl", "sdks", ("curl",)),
)

# Stands for the reader's address while a page is rendered; nothing else looks like it.
_BASE = "https://base-url.pagegrid.invalid"
_RISKY = re.compile(r"[\\`*_\[\]<>|~&]")
_AT_START = re.compile(r"^(?:(\d+)([.)])|([#+=-]))")


class Plain(str):
    """A value that may stand in code: what is printed of it is what it says. Made of known characters only."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Page:
    slug: str
    title: str
    lead: str
    markdown: str
    html: Markup
    headings: tuple[Heading, ...]
    key: str

    @property
    def shows_key(self) -> bool:
        """Whether a key stands in its examples."""
        return self.key in self.markdown

    def markdown_for(self, base_url: str) -> str:
        return self.markdown.replace(_BASE, base_url)

    def lead_for(self, base_url: str) -> str:
        return self.lead.replace(_BASE, base_url)

    def html_for(self, base_url: str, key: str = "") -> Markup:
        """`key` is what stands for the reader's own, "" where nobody knows it."""
        return _fill(self.html, base_url, self.key, key or self.key)


@dataclass(frozen=True, slots=True)
class Use:
    """One way to use a key: as the docs have it, and where."""

    label: str
    slug: str
    html: Markup
    key: str

    def html_for(self, base_url: str, key: str) -> Markup:
        return _fill(self.html, base_url, self.key, key)


class Manual:
    """The pages of one house as it is configured now; `page` renders what it has not yet, and may run in a thread."""

    def __init__(self, house: House) -> None:
        self._house = house
        self._environment = jinja2.Environment(
            loader=jinja2.PackageLoader("gateway.web", "docs"),
            # Not HTML: `escape_markdown` makes every value text, and the markdown is escaped when it becomes HTML.
            autoescape=False,  # noqa: S701
            finalize=escape_markdown,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            keep_trailing_newline=True,
        )
        self._environment.filters |= {**text.FILTERS, "code": code}
        self._rendered: tuple[object, dict[str, Page]] = (None, {})
        self._uses: tuple[object, dict[str, tuple[Use, ...]]] = (None, {})

    def page(self, slug: str) -> Page:
        """KeyError if there is none of this name."""
        TITLES[slug]
        settings = self._house.settings
        if self._rendered[0] is not settings:
            self._rendered = (settings, {})
        pages = self._rendered[1]
        if slug not in pages:
            pages[slug] = self._render(slug)
        return pages[slug]

    def uses(self, models: Collection[str] | None = None) -> tuple[Use, ...]:
        """Every way to use a key, the pieces of the docs themselves, with a model among `models` (None: all) as the example; as
        `page`, it may run in a thread."""
        settings = self._house.settings
        if self._uses[0] is not settings:
            self._uses = (settings, {})
        rendered = self._uses[1]
        values = self._values(models)
        if values["model"] not in rendered:
            rendered[values["model"]] = tuple(self._render_use(values, *use) for use in USES)
        return rendered[values["model"]]

    def all(self) -> Iterable[Page]:
        return (self.page(slug) for slug in TITLES)

    def llms_txt(self, base_url: str) -> str:
        """The index for programs that read (llmstxt.org): a title, a line, and links to the markdown of every page."""
        name = escape_markdown(self._house.settings.brand.name)
        lines = [
            f"# {name}",
            "",
            f"> {name} is an AI gateway at {base_url}: one URL and one key for Claude Code, OpenClaw and whatever speaks the "
            f"Anthropic or the OpenAI API, paid from a prepaid wallet. All pages in one text: {base_url}/llms-full.txt",
        ]
        for group, pages in GROUPS:
            lines += ["", f"## {group}", ""]
            for slug, title in pages:
                lines.append(f"- [{title}]({base_url}/docs/{slug}.md): {self.page(slug).lead_for(base_url)}")
        return "\n".join(lines) + "\n"

    def llms_full(self, base_url: str) -> str:
        return "\n---\n\n".join(page.markdown_for(base_url) for page in self.all())

    def _render(self, slug: str) -> Page:
        values = self._values()
        markdown = self._environment.get_template(f"{slug}.md").render(values)
        rendered = render(markdown, mine=(_BASE, values["key"]))
        lead = next(block for block in markdown.split("\n\n")[1:] if block.strip())
        return Page(slug, rendered.title, " ".join(lead.split()), markdown, rendered.html, rendered.headings, values["key"])

    def _render_use(self, values: dict[str, Any], label: str, slug: str, blocks: Sequence[str]) -> Use:
        template = self._environment.get_template(f"{slug}.md")
        texts = ["".join(template.blocks[block](template.new_context(values))) for block in blocks]
        # Within a step of a list, what belongs to it is indented.
        markdown = "\n".join(map(textwrap.dedent, texts))
        html = render(markdown, mine=(_BASE, values["key"]), prefix=f"{slug}-{blocks[0]}-").html
        return Use(label, slug, html, values["key"])

    def _values(self, models: Collection[str] | None = None) -> dict[str, Any]:
        house = self._house
        settings = house.settings
        offered = list(offers(house))
        # A key may be for models that are not offered any more; then any is as wrong as another.
        usable = [offer for offer in offered if models is None or offer.model.id in models] or offered
        example = next((offer for offer in usable if offer.model.id == "claude-sonnet-5-5"), usable[0])
        return {
            "brand": settings.brand,
            "base_url": Plain(_BASE),
            "signup": Plain(settings.web.signup),
            "prefix": Plain(settings.brand.key_prefix),
            "key": Plain(settings.brand.key_prefix + "YOUR-KEY"),
            "slug": Plain(re.sub(r"[^a-z0-9]+", "-", settings.brand.name.lower()).strip("-") or "gateway"),
            "model": Plain(example.model.id),
            "example": example,
            "usage": EXAMPLE,
            "offers": offered,
            "classes": CLASSES,
            "claude": [offer for offer in offered if "claude" in offer.model.id],
            "kinds": [(code, *kind, *map(Plain, MEANINGS[code])) for code, kind in KINDS.items()],
            "server": settings.server,
            "billing": settings.billing,
            "retention_days": settings.usage.retention_days,
            "terms": settings.plans[DEFAULT_PLAN].terms,
            "count_tokens_per_minute": COUNT_TOKENS_PER_MINUTE,
            "demo": settings.demo_only,
        }


def _fill(html: Markup, base_url: str, placeholder: str, key: str) -> Markup:
    filled = str(html).replace(_BASE, str(escape(base_url))).replace(str(escape(placeholder)), str(escape(key)))
    return Markup(filled)  # noqa: S704 (escaped here)


def escape_markdown(value: object) -> object:
    """A value as text: none of its characters means anything in markdown. (Jinja calls this for everything that is printed.)"""
    if isinstance(value, Plain) or not isinstance(value, str):
        return value
    escaped = _RISKY.sub(lambda match: "\\" + match.group(), value)
    return _AT_START.sub(lambda match: f"{match[1]}\\{match[2]}" if match[1] else "\\" + match[3], escaped)


def code(value: object) -> Plain:
    """A value within `…` or a block of code. Raises ValueError for what would end it there."""
    shown = str(value)
    if "`" in shown or "|" in shown or not shown.isprintable():
        raise ValueError("this value cannot stand in code")
    return Plain(shown)
