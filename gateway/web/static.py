"""The files in `static/`: read once, and served under addresses that carry a hash of the content, so that browsers keep them."""

from __future__ import annotations

import hashlib
import mimetypes
from dataclasses import dataclass
from importlib import resources

from aiohttp import web

from gateway.api.sink import HttpSink
from gateway.errors import ClientError
from gateway.house import House
from gateway.proxy.walk import Inbound

_DIGITS = 12
_TYPES = {".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8"}


@dataclass(frozen=True, slots=True)
class _File:
    body: bytes
    content_type: str
    etag: str


class Static:
    def __init__(self) -> None:
        self._urls: dict[str, str] = {}
        self._files: dict[str, _File] = {}
        for entry in resources.files("gateway.web").joinpath("static").iterdir():
            body = entry.read_bytes()
            digest = hashlib.sha256(body).hexdigest()[:_DIGITS]
            stem, dot, ending = entry.name.rpartition(".")
            content_type = _TYPES.get(dot + ending) or mimetypes.guess_type(entry.name)[0] or "application/octet-stream"
            name = f"{stem}.{digest}.{ending}"
            self._urls[entry.name] = f"/static/{name}"
            self._files[name] = _File(body, content_type, f'"{digest}"')

    def url(self, name: str) -> str:
        """The address of a file of this name; KeyError for one that is not there."""
        return self._urls[name]

    async def serve(self, house: House, request: web.Request, inbound: Inbound, sink: HttpSink) -> None:
        """Only under its present address: whoever has an old one has an old page, and that has its files."""
        file = self._files.get(request.match_info["name"])
        if file is None:
            raise ClientError("not_found", "There is no such file.")
        headers = [
            ("content-type", file.content_type),
            ("cache-control", "public, max-age=31536000, immutable"),
            ("etag", file.etag),
            ("x-content-type-options", "nosniff"),
            ("cross-origin-resource-policy", "same-origin"),
        ]
        if is_known(request, file.etag):
            await sink.answer(304, headers, b"")
        else:
            await sink.answer(200, headers, file.body)


def etag_of(body: bytes) -> str:
    return f'"{hashlib.sha256(body).hexdigest()[:16]}"'


def is_known(request: web.Request, etag: str) -> bool:
    """Whether the client has this already (RFC 9110 §13.1.2; compared weakly, as it is for GET)."""
    known = ",".join(request.headers.getall("if-none-match", []))
    return known.strip() == "*" or etag in {tag.strip().removeprefix("W/") for tag in known.split(",")}
