"""The frame of every page: headers, caching, methods, what is not there, and that no value becomes markup."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import quote

import pytest
from markupsafe import escape

from gateway.web.manual import TITLES
from gateway.web.pages import CONTENT_SECURITY_POLICY
from tests.web.tools import look, open_site

PAGES = ["/", "/models", "/models/claude-haiku-5-5", "/nothing/here", "/models/no-such-model", "/docs/no-such-page"]
TEXTS = [f"/docs/{slug}.md" for slug in TITLES] + ["/llms.txt", "/llms-full.txt"]


class Parsed(HTMLParser):
    """What a page refers to, and what it must not have."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.links: set[str] = set()
        self.loaded: set[str] = set()
        self.ids: list[str] = []
        self.inline: list[str] = []
        self._open = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self._open = tag
        for name, value in attributes:
            if name == "style" or name.startswith("on"):
                self.inline.append(f"{tag} {name}={value}")
            if name in ("href", "src", "action"):
                where = self.links if (tag, name) in (("a", "href"), ("form", "action")) else self.loaded
                where.add(value or "")
            if name == "id":
                self.ids.append(value or "")

    def handle_data(self, data: str) -> None:
        if self._open in ("script", "style") and data.strip():
            self.inline.append(f"{self._open}: {data}")
        self._open = ""


@pytest.mark.parametrize("path", [*PAGES, *(f"/docs/{slug}" for slug in TITLES)])
async def test_every_page_keeps_to_the_policy_that_it_declares(tmp_path: Path, path: str) -> None:
    async with open_site(tmp_path) as gateway:
        answer = await look(gateway, path)
        assert answer.status == (404 if "no" in path.split("/")[-1].split("-") or "nothing" in path else 200)
        answer.assert_clean()
        assert answer.headers["content-type"] == "text/html; charset=utf-8"
        assert answer.headers["content-security-policy"] == CONTENT_SECURITY_POLICY
        assert "unsafe" not in CONTENT_SECURITY_POLICY and CONTENT_SECURITY_POLICY.startswith("default-src 'none';")
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["x-frame-options"] == "DENY"
        assert answer.headers["referrer-policy"] == "same-origin"
        assert "set-cookie" not in answer.headers
        page = Parsed(answer.body.decode())
        assert page.inline == []
        assert len(page.ids) == len(set(page.ids))
        for link in page.links | page.loaded:
            if link.startswith("#"):
                assert link == "#main" or link[1:] in page.ids, link
            else:
                assert link.startswith("/") and not link.startswith("//"), link
        for link in page.loaded - {"#i-copy", "#i-next", "#logo", "#s-warn"}:
            assert (await gateway.get(None, link)).status == 200, link


async def test_no_link_leads_nowhere(tmp_path: Path) -> None:
    async with open_site(tmp_path) as gateway:
        seen: set[str] = set()
        ahead = {"/", "/models", "/docs"}
        while ahead:
            path = ahead.pop()
            seen.add(path)
            answer = await look(gateway, path)
            if answer.status == 303 and path.startswith("/dashboard"):
                assert answer.headers["location"].startswith("/login")
                continue
            if answer.status == 302:
                ahead |= {answer.headers["location"]} - seen
                continue
            assert answer.status == 200, path
            if "text/html" in answer.headers["content-type"]:
                page = Parsed(answer.body.decode())
                ahead |= {link.partition("#")[0] for link in page.links if link.startswith("/")} - seen - {"/theme"}
        assert {f"/docs/{slug}" for slug in TITLES} < seen and "/models/claude-haiku-5-5" in seen


@pytest.mark.parametrize("path", ["/", "/models", "/docs/pricing", "/docs/pricing.md", "/llms.txt"])
async def test_pages_are_asked_for_again_and_come_only_when_they_changed(tmp_path: Path, path: str) -> None:
    async with open_site(tmp_path) as gateway:
        first = await look(gateway, path)
        etag = first.headers["etag"]
        assert first.headers["cache-control"] == "private, no-cache" and first.headers["vary"] == "accept, cookie"
        for known in (etag, f'"other", W/{etag}', "*"):
            again = await look(gateway, path, {"if-none-match": known})
            assert (again.status, again.body) == (304, b"") and again.headers["etag"] == etag
        assert (await look(gateway, path, {"if-none-match": '"other"'})).status == 200
        # Another theme is another page, where there is a theme.
        dark = await look(gateway, path, {"if-none-match": etag, "cookie": "theme=dark"})
        assert dark.status == (200 if "text/html" in first.headers["content-type"] else 304)


async def test_files_are_kept_for_ever_under_addresses_of_their_content(tmp_path: Path) -> None:
    async with open_site(tmp_path) as gateway:
        page = Parsed((await look(gateway, "/")).body.decode())
        files = sorted(link for link in page.loaded if link.startswith("/static/"))
        assert [re.sub(r"\.[0-9a-f]{12}\.", ".", file) for file in files] == [
            *("/static/icon.svg", "/static/pagegrid.js", "/static/style.css")
        ]
        types = ["image/svg+xml", "text/javascript; charset=utf-8", "text/css; charset=utf-8"]
        for file, content_type in zip(files, types, strict=True):
            answer = await gateway.get(None, file)
            assert answer.headers["content-type"] == content_type
            assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"
            assert (await gateway.get(None, file, {"if-none-match": answer.headers["etag"]})).status == 304
        for path in (
            "/static/style.css",
            "/static/style.000000000000.css",
            "/static/..%2fpages.py",
            "/static/",
            "/static/docs/x.md",
        ):
            assert (await look(gateway, path)).status == 404, path


@pytest.mark.parametrize("path", [*PAGES, "/docs/pricing", *TEXTS])
async def test_head_is_get_without_the_body(tmp_path: Path, path: str) -> None:
    async with open_site(tmp_path) as gateway:
        got, head = await look(gateway, path), await look(gateway, path, method="HEAD")
        assert head.body == b"" and head.status == got.status
        same = {"content-type", "content-length", "etag", "content-security-policy", "cache-control"}
        assert {name: head.headers.get(name) for name in same} == {name: got.headers.get(name) for name in same}


async def test_other_methods_are_told_what_is_offered(tmp_path: Path) -> None:
    async with open_site(tmp_path) as gateway:
        for method, path, allow in (
            ("POST", "/docs/pricing", "GET, HEAD"),
            ("DELETE", "/", "GET, HEAD"),
            ("PUT", "/models", "GET, HEAD"),
            ("GET", "/theme", "POST"),
        ):
            answer = await look(gateway, path, method=method)
            assert (answer.status, answer.headers["allow"]) == (405, allow)
            assert "text/html" in answer.headers["content-type"] and "content-security-policy" in answer.headers


async def test_what_is_not_there_is_json_for_programs_and_a_page_for_people(tmp_path: Path) -> None:
    async with open_site(tmp_path) as gateway:
        for path in ("/v1/nothing", "/api/nothing", "/api/proxy/v1/nothing"):
            assert (await look(gateway, path)).error["type"] == "not_found_error"
        for path in ("/nothing", "/docs/nothing", "/docs/a/b", "/static/x", "/docs/nothing.md"):
            page = await look(gateway, path)
            assert page.status == 404 and b"<h1>Not found</h1>" in page.body and b"nothing" not in page.body
            assert page.request_id.encode() in page.body and page.headers["cache-control"] == "no-store"


async def test_what_breaks_here_is_told_without_its_reason(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with open_site(tmp_path) as gateway:
        del gateway.house.walk.router._deployments["claude-haiku-5-5"]
        answer = await look(gateway, "/models")
        assert answer.status == 500 and b"Something broke here" in answer.body
        assert answer.headers["content-security-policy"] == CONTENT_SECURITY_POLICY
        assert b"KeyError" not in answer.body and b"claude-haiku" not in answer.body
        assert answer.request_id in caplog.text and "KeyError" in caplog.text


async def test_the_root_is_a_line_for_probes_and_a_page_for_people(tmp_path: Path) -> None:
    async with open_site(tmp_path) as gateway:
        line = await gateway.get(None, "/")
        assert line.headers["content-type"] == "text/plain; charset=utf-8"
        assert line.body.decode() == f"PageGrid is running. The API is under /v1, the docs are at {gateway.url}/docs\n"
        page = await look(gateway, "/")
        assert b"built-in demo" in page.body and f"{gateway.url}</b>".encode() in page.body


async def test_models_are_a_page_for_browsers_and_json_for_clients(tmp_path: Path) -> None:
    async with open_site(tmp_path) as gateway:
        alice = await gateway.make_user("alice")
        for path in ("/models", "/models/claude-haiku-5-5"):
            for accept in ("*/*", "application/json", "application/json, text/html;q=0.5"):
                answer = await gateway.get(alice, path, {"accept": accept})
                assert answer.headers["content-type"] == "application/json" and "claude-haiku-5-5" in str(answer.json)
                assert (await gateway.get(None, path, {"accept": accept})).status == 401
            assert b"<!doctype html>" in (await look(gateway, path, {"x-api-key": alice.secret})).body
            # Nobody's browser looks under a version.
            assert (await look(gateway, "/v1" + path)).status == 401


async def test_without_the_root_among_the_mounts_the_pages_are_there_all_the_same(tmp_path: Path) -> None:
    async with open_site(tmp_path, '[server]\nmounts = ["/api"]\n') as gateway:
        for path in ("/", "/models", "/models/claude-haiku-5-5", "/docs/pricing"):
            assert (await look(gateway, path)).status == 200
        assert (await look(gateway, "/api/models")).status == 401


# ── markup ───────────────────────────────────────────────────────────────────────────────────────────────────────────

EVIL = """<script>alert(1)</script>"'><img src=x onerror=alert(2)> [x](javascript:alert(3)) ![y](https://evil.example/z) `a`"""
HOUSE = f"""
[brand]
name = '''<b>Evil</b> & "Sons" [x](/y) *z*'''
support = '''{EVIL} {{{{ 7*7 }}}}'''
[[models]]
id = "evil/model:1@x[y]"
display_name = '''<i>a|b</i>`c`_d_'''
description = '''{EVIL}'''
routes = [{{ upstream = "demo" }}]
input = "1"
output = "2"
cache_write_5m = "3"
cache_write_1h = "4"
cache_read = "0.5"
context_tokens = 1000
max_output_tokens = 100
"""


async def test_no_value_becomes_markup(tmp_path: Path) -> None:
    async with open_site(tmp_path, HOUSE) as gateway:
        evil = "/models/" + quote("evil/model:1@x[y]", safe="")
        for path in ["/", "/models", evil, "/nothing", *(f"/docs/{slug}" for slug in TITLES)]:
            answer = await look(gateway, path)
            text = answer.body.decode()
            assert answer.status == (404 if path == "/nothing" else 200), path
            for markup in (
                "<script>",
                "<b>Evil",
                "<img",
                "<i>a",
                "javascript:alert(3)<",
                'href="javascript',
                'href="/y"',
                "<em>z",
            ):
                assert markup not in text, (path, markup)
            assert Parsed(text).inline == []
            assert str(escape('<b>Evil</b> & "Sons" [x](/y) *z*')).replace("&#34;", '"') in text.replace("&#34;", '"').replace(
                "&quot;", '"'
            )
        text = (await look(gateway, "/docs/getting-started")).body.decode()
        assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text and "{{ 7*7 }}" in text


@pytest.mark.parametrize(
    "query", ["q=<script>alert(1)</script>", 'q="><img src=x>', "sort=<b>&context=<b>", "q=" + "x" * 5000, "q=%00%ff", "q=a&q=b"]
)
async def test_a_filter_shows_what_was_asked_as_text(tmp_path: Path, query: str) -> None:
    async with open_site(tmp_path) as gateway:
        answer = await look(gateway, "/models?" + quote(query, safe="=&%"))
        assert answer.status == 200
        assert (
            b"<script>a" not in answer.body
            and b"<img" not in answer.body
            and b"<b>&" not in answer.body
            and b'value="<' not in answer.body
        )
        assert b"x" * 101 not in answer.body


@pytest.mark.parametrize(
    "host",
    ["evil.example/<script>", "evil host", '"><script>', "x" * 300, "host:99999999", "", "a,b", "user@host", "[::1", "a\\b"],
)
async def test_a_host_that_is_none_is_not_repeated(tmp_path: Path, host: str) -> None:
    async with open_site(tmp_path) as gateway:
        for path in ("/", "/docs/claude-code", "/docs/claude-code.md", "/llms.txt", "/models/claude-haiku-5-5"):
            answer = await look(gateway, path, {"host": host})
            assert answer.status in (200, 400)
            if host:
                assert host.encode() not in answer.body and escape(host).encode() not in answer.body
            if answer.status == 200:
                assert b"http://127.0.0.1:8080" in answer.body or b"http://127.0.0.1:0" in answer.body


async def test_where_the_house_is_reached(tmp_path: Path) -> None:
    trusting = '[server]\ntrusted_proxies = ["127.0.0.1"]\n'
    named = '[server]\npublic_url = "https://ai.example.com"\n'
    seen = {}
    for number, more in enumerate(("", trusting, named)):
        async with open_site(tmp_path / str(number), more) as gateway:
            (tmp_path / str(number)).mkdir(exist_ok=True)
            page = await look(gateway, "/docs/claude-code", {"host": "gate.example:8443", "x-forwarded-proto": "https"})
            seen[more] = re.search(r'ANTHROPIC_BASE_URL=<b class="mine">([^<]*)<', page.body.decode())
    assert [match and match.group(1) for match in seen.values()] == [
        *("http://gate.example:8443", "https://gate.example:8443", "https://ai.example.com")
    ]


# ── the theme ────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_the_theme_is_a_cookie_that_a_form_sets(tmp_path: Path) -> None:
    form = {"content-type": "application/x-www-form-urlencoded"}
    async with open_site(tmp_path) as gateway:
        answer = await gateway.request("POST", "/theme", headers=form, data="theme=dark&next=/docs/pricing")
        assert (answer.status, answer.headers["location"]) == (303, "/docs/pricing")
        assert answer.headers["set-cookie"] == "theme=dark; Path=/; Max-Age=31536000; SameSite=Lax"
        for cookie, shown in (
            ("theme=dark", b'data-theme="dark"'),
            ("a=b; theme=light", b'data-theme="light"'),
            ("theme=system", None),
            ("theme=evil", None),
            ('theme="dark"', None),
            ("mytheme=dark", None),
        ):
            page = await look(gateway, "/models", {"cookie": cookie})
            assert (b"data-theme=" in page.body) == (shown is not None) and (shown is None or shown in page.body), cookie


@pytest.mark.parametrize(
    "target",
    ["https://evil.example", "//evil.example", "/\\evil.example", "\\\\evil", "javascript:alert(1)", "", "/a\r\nx: y", "/ä"],
)
async def test_a_form_returns_to_pages_of_this_house_only(tmp_path: Path, target: str) -> None:
    async with open_site(tmp_path) as gateway:
        answer = await gateway.request("POST", "/theme", data={"theme": "dark", "next": target})
        assert (answer.status, answer.headers["location"]) == (303, "/")


async def test_what_is_no_form_of_ours_is_refused(tmp_path: Path) -> None:
    form = {"content-type": "application/x-www-form-urlencoded"}
    async with open_site(tmp_path) as gateway:
        for headers, body, status in (
            ({**form, "sec-fetch-site": "cross-site"}, "theme=dark", 403),
            ({**form, "sec-fetch-site": "same-site"}, "theme=dark", 403),
            ({**form, "origin": "https://evil.example"}, "theme=dark", 403),
            ({**form, "origin": "null"}, "theme=dark", 403),
            ({**form, "origin": "http://[bad"}, "theme=dark", 403),
            (form, "theme=purple", 400),
            (form, "", 400),
            (form, "theme=dark&theme=light", 400),
            (form, b"theme=\xff", 400),
            (form, "&".join(f"a{number}=1" for number in range(100)), 400),
            (form, "theme=" + "x" * 20_000, 413),
            ({"content-type": "application/json"}, "{}", 400),
        ):
            answer = await gateway.request("POST", "/theme", headers=headers, data=body)
            assert answer.status == status, (headers, body[:50])
            assert "set-cookie" not in answer.headers and b"<h1>" in answer.body
        ours = await gateway.request("POST", "/theme", headers={**form, "origin": gateway.url}, data="theme=dark")
        assert ours.status == 303
