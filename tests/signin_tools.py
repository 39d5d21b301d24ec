"""People who sign in: a password, perhaps an authenticator app, and where they come from."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Any

from gateway.desk import credentials, signin
from gateway.desk.signin import SignedIn, Visit
from gateway.house import House
from gateway.passcodes import STEP_MS, totp_code
from tests.desk_tools import act

PASSWORD = "correct horse battery"
OTHER_PASSWORD = "quite another staple"
HERE = Visit("10.0.0.1", "Firefox on a laptop")
THERE = Visit("10.9.9.9", "curl")


@dataclass
class App:
    """An authenticator app; its clock is the house's."""

    house: House
    secret: bytes

    def code(self, steps: int = 0) -> str:
        return totp_code(self.secret, self.house.desk.clock.at_ms() // STEP_MS + steps)


async def make_person(house: House, name: str = "ada", **fields: Any) -> dict[str, Any]:
    made: dict[str, Any] = await act(house, "users.create", name=name, **fields)
    await act(house, "users.set_password", user=name, password=PASSWORD)
    return made


async def enter(
    house: House, name: str = "ada", password: str = PASSWORD, visit: Visit = HERE, code: str | None = None
) -> SignedIn:
    return await signin.sign_in(house.desk, visit, name=name, password=password, code=code)


async def add_app(house: House, signed_in: SignedIn) -> tuple[App, list[str]]:
    """An app that is in force, and the recovery codes."""
    begun = await credentials.begin_totp(house.desk, HERE, signed_in.session, password=PASSWORD)
    app = App(house, base64.b32decode(begun["secret"]))
    return app, await credentials.enable_totp(house.desk, HERE, signed_in.session, code=app.code(-1))


def is_in(house: House, signed_in: SignedIn) -> bool:
    return signin.find_session(house.desk, signed_in.token) is not None
