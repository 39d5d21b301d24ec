"""What providers over HTTP have in common: their address, the headers they may see of a client's, and those a client may see."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from gateway.errors import ClientError
from gateway.upstreams.base import Headers

# The account behind the secret is shared by all customers: its limits, its ids and its cookies are nobody's business.
ANSWER_HEADERS = frozenset({"content-type", "retry-after", "x-should-retry"})

_NOT_IN_A_HEADER = re.compile(r"[\x00-\x08\x0a-\x1f\x7f\ud800-\udfff]")
_REQUEST_ID = re.compile(r"[\w.:-]{1,128}", re.ASCII)


def parse_base_url(base_url: str, suffix: str = "") -> str:
    """The address without a trailing slash and without `suffix`. Raises ValueError if it is not a plain http(s) address."""
    parts = urlsplit(base_url.strip())
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("base_url must begin with https:// (or http://) and name a host")
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        raise ValueError("base_url must hold no user, query or fragment; the secret has an option of its own")
    path = parts.path.rstrip("/").removesuffix(suffix).rstrip("/")
    return f"{parts.scheme}://{parts.netloc}{path}"


def first(headers: Headers, name: str, default: str) -> str:
    return next((value for header, value in headers if header == name), default)


def content_type(headers: Headers) -> str:
    """The client's own; curl calls a body that names no type a form, and what comes here is known to be JSON."""
    named = first(headers, "content-type", "application/json")
    return named if "json" in named.lower() else "application/json"


def checked(name: str, value: str) -> str:
    if _NOT_IN_A_HEADER.search(value):
        raise ClientError("invalid_request", f"the header {name} holds characters that no header may hold")
    return value


def shown(headers: Headers) -> list[tuple[str, str]]:
    """Those of an answer's headers that a client may see."""
    return [(name, value) for name, value in headers if name in ANSWER_HEADERS]


def request_id(headers: Headers, *names: str) -> str:
    """The provider's own id of the request, for support and the attempt's row; "" if it gave none of a plain form."""
    value = next((value for name in names if (value := first(headers, name, ""))), "")
    return value if _REQUEST_ID.fullmatch(value) else ""


def retry_after_s(headers: Headers) -> int | None:
    """Whole seconds. The header's other form, a date, is sent by no provider that we know."""
    value = first(headers, "retry-after", "").strip()
    return int(value) if value.isascii() and value.isdigit() and len(value) < 10 else None
