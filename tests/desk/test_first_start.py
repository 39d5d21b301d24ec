"""The admin's one-time link of the first start: made only where a page opens it, printed once."""

from __future__ import annotations

import importlib
import re

import pytest

from gateway.config import load
from gateway.desk import signin
from gateway.desk.first_start import first_start
from gateway.errors import ClientError
from gateway.house import House
from tests.fakes import FakeClock
from tests.signin_tools import HERE, PASSWORD, enter, is_in


async def test_the_link_lets_the_admin_choose_a_password_once_within_an_hour(house: House, clock: FakeClock) -> None:
    made = await first_start(house.desk, 10**9)
    assert made is not None and made.link_token not in repr(made)
    assert await first_start(house.desk, 10**9) is None
    signed_in = await signin.redeem_link(house.desk, HERE, token=made.link_token, password=PASSWORD)
    assert is_in(house, signed_in) and signed_in.session.role == "admin"
    await enter(house, "admin")
    with pytest.raises(ClientError, match="used already, or has expired"):
        await signin.redeem_link(house.desk, HERE, token=made.link_token, password=PASSWORD)


async def test_the_link_is_dead_after_an_hour(house: House, clock: FakeClock) -> None:
    made = await first_start(house.desk, 10**9)
    assert made is not None
    clock.advance(3_600_000)
    assert await signin.find_welcome(house.desk, made.link_token) is None


async def test_there_is_no_password_before_the_link_is_used(house: House) -> None:
    await first_start(house.desk, 10**9)
    for password in ("", "admin", PASSWORD):
        with pytest.raises(ClientError, match="is not right"):
            await enter(house, "admin", password)


@pytest.mark.parametrize("url", ["http://127.0.0.1:8080", "https://gateway.example"])
async def test_the_link_is_printed_as_the_page_stands(url: str, house: House) -> None:
    made = await first_start(house.desk, 10**9)
    assert made is not None
    said = importlib.import_module("gateway.cli.serve")._first_words(load(None, {}), url, made)
    assert re.search(rf"^  {re.escape(url)}/welcome/{made.link_token}$", said, re.MULTILINE)
