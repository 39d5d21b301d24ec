"""A gateway whose models are the built-in demo's, and who asks for its pages."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from tests.desk_tools import act
from tests.gateway_tools import Answer, Gateway, open_gateway
from tests.signin_tools import PASSWORD

DEMO = '[[upstreams]]\nname = "demo"\nkind = "demo"\n'
BROWSER = {"accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}


@asynccontextmanager
async def open_site(folder: Path, more: str = "") -> AsyncIterator[Gateway]:
    async with open_gateway(folder, more=more + "\n" + DEMO) as gateway:
        yield gateway


async def look(gateway: Gateway, path: str, headers: Mapping[str, str] | None = None, method: str = "GET") -> Answer:
    """A page as a browser asks for it."""
    return await gateway.request(method, path, headers={**BROWSER, **(headers or {})})


@dataclass
class Visitor:
    """A browser without a screen: it keeps cookies, sends what forms carry, and follows where it is sent."""

    gateway: Gateway
    cookies: dict[str, str] = field(default_factory=dict)
    csrf: str = ""

    async def get(self, path: str, headers: Mapping[str, str] | None = None) -> Answer:
        return await self._ask("GET", path, headers=headers)

    async def post(self, path: str, headers: Mapping[str, str] | None = None, **fields: str) -> Answer:
        """Send a form with the token of the page that was looked at last (`csrf` sends another)."""
        fields = {"csrf": self.csrf, **fields}
        body = urlencode({name: value for name, value in fields.items() if value is not None}).encode()
        told = {"content-type": "application/x-www-form-urlencoded", "sec-fetch-site": "same-origin", **(headers or {})}
        return await self._ask("POST", path, data=body, headers=told)

    async def follow(self, answer: Answer) -> Answer:
        """The page that somebody is sent to after an act."""
        assert answer.status == 303, (answer.status, answer.body)
        return await self.get(answer.headers["location"])

    async def sign_in(self, name: str, password: str = PASSWORD, **more: str) -> Answer:
        await self.get("/login")
        return await self.post("/login", name=name, password=password, **more)

    async def _ask(self, method: str, path: str, *, headers: Mapping[str, str] | None = None, **options: Any) -> Answer:
        told = {**BROWSER, **({"cookie": self._cookie()} if self.cookies else {}), **(headers or {})}
        async with self.gateway.session.request(
            method, self.gateway.url + path, headers=told, allow_redirects=False, **options
        ) as response:
            answer = Answer(response.status, {k.lower(): v for k, v in response.headers.items()}, await response.read(), False)
            for cookie in response.headers.getall("set-cookie", []):
                name, _, value = cookie.partition(";")[0].partition("=")
                if "Max-Age=0" in cookie:
                    self.cookies.pop(name, None)
                else:
                    self.cookies[name] = value
        if found := re.search(r'name="csrf" value="([0-9a-f]+)"', answer.body.decode(errors="replace")):
            self.csrf = found.group(1)
        return answer

    def _cookie(self) -> str:
        return "; ".join(f"{name}={value}" for name, value in self.cookies.items())


async def make_visitor(gateway: Gateway, name: str, *, role: str = "user", balance: str = "10") -> Visitor:
    """Somebody who is signed in, with money."""
    await act(gateway.house, "users.create", name=name, role=role)
    await act(gateway.house, "users.set_password", user=name, password=PASSWORD)
    if balance != "0":
        await act(gateway.house, "wallets.topup", user=name, amount=balance, reference=f"opening-{name}")
    visitor = Visitor(gateway)
    answer = await visitor.sign_in(name)
    assert (answer.status, answer.headers["location"]) == (303, "/dashboard"), answer.body
    await visitor.get("/dashboard/settings")  # for the token of this session's forms
    return visitor
