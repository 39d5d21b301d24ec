"""What a form may send, and from where: read within limits, from our own pages only, and back to our own pages only."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from urllib.parse import parse_qsl, urlsplit

from aiohttp import web

from gateway.api.guard import read_body
from gateway.errors import ClientError, GatewayError

FORM_BYTES_MAX = 16_384
# A box for each model that is offered, and some; the bytes are the narrower limit.
_FIELDS_MAX = 512


class Form:
    """What was typed, and what is wrong with it: `errors` by field, "" for what belongs to none."""

    def __init__(self, fields: Mapping[str, str] | None = None) -> None:
        self._fields = dict(fields or {})
        self.errors: dict[str, str] = {}

    def get(self, name: str, default: str = "") -> str:
        """The text of a field without blanks at its ends; `default` where it was not sent."""
        return self._fields[name].strip() if name in self._fields else default

    def raw(self, name: str) -> str:
        """As it was typed: a password may begin with a blank."""
        return self._fields.get(name, "")

    def take(self, name: str) -> str:
        """What is the frame's own, and no concern of the page."""
        return self._fields.pop(name, "")

    def has(self, name: str) -> bool:
        """Whether it was sent: how a ticked box is told from one that is not."""
        return name in self._fields

    def names(self) -> Iterator[str]:
        return iter(self._fields)

    def refuse(self, error: GatewayError, also: Collection[str] = ()) -> None:
        """Note a refusal of the desk beside the field that it names; commands say the name first, a page has it above.

        What names no field that was sent stands above the form, or nobody would see it; `also` are names of what the page shows
        under another (a list of boxes).
        """
        named = error.param or ""
        field = named if named in self._fields or named in also else ""
        message = error.message.removeprefix(f"{named}: ") if named else error.message
        self.errors[field] = message[:1].upper() + message[1:] + ("" if message.endswith((".", "!", "?")) else ".")


def parse_number(text: str) -> int | None:
    """What plain digits say, as far as a row's number goes; None for anything else: signs, blanks, digits of other scripts."""
    number = int(text) if text.isascii() and text.isdigit() and len(text) <= 19 else None
    return number if number is not None and number < 2**63 else None


async def read_form(request: web.Request) -> Form:
    """The fields of a form, each once. Raises ClientError, `forbidden` if another site's page sent it."""
    check_origin(request)
    if request.content_type != "application/x-www-form-urlencoded":
        raise ClientError("invalid_request", "This form was not sent the way a browser sends it.")
    body = await read_body(request, FORM_BYTES_MAX)
    try:
        pairs = parse_qsl(body.decode(), keep_blank_values=True, strict_parsing=bool(body), max_num_fields=_FIELDS_MAX)
    except ValueError:
        raise ClientError("invalid_request", "This form cannot be read.") from None
    fields = dict(pairs)
    if len(fields) < len(pairs):
        raise ClientError("invalid_request", "A field of this form was sent twice.")
    return Form(fields)


def check_origin(request: web.Request) -> None:
    """Browsers say where a request comes from, and pages cannot change it (Fetch Metadata; RFC 6454). Programs that say nothing
    are no browsers that could be led astray."""
    site = request.headers.get("sec-fetch-site")
    origin = request.headers.get("origin")
    if site is not None:
        ours = site in ("same-origin", "none")
    else:
        ours = origin is None or _host_of(origin) == request.headers.get("host", "").lower()
    if not ours:
        raise ClientError("forbidden", "This came from another site's page. Nothing was changed; use the form here.")


def local_path(text: str) -> str:
    """Where to go next: `text` if it is a path of this site, else "/". Browsers read // and \\ as the start of a host."""
    safe = text.startswith("/") and not text.startswith("//") and "\\" not in text and text.isascii() and text.isprintable()
    return text if safe else "/"


def _host_of(origin: str) -> str:
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""
