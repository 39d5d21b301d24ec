"""What the log has of an act: who, what, about whom, and what became of it; never what may be a secret."""

from __future__ import annotations

import logging

import pytest

from gateway.errors import ClientError
from gateway.house import House
from tests.desk_tools import ACTOR, act, make_ada


async def test_an_act_leaves_one_line_in_the_log(house: House, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "gateway.desk.acts")
    key = await make_ada(house)
    with pytest.raises(ClientError):
        await act(house, "users.disable", user=key["secret"])
    with pytest.raises(ClientError):
        await act(house, "users.drop\nforged: line", user="ada")
    await act(house, "keys.revoke", key_id=1)
    assert [record.getMessage() for record in caplog.records if record.name == "gateway.desk.acts"] == [
        f"{ACTOR}: users.create name=ada: ok",
        f"{ACTOR}: wallets.topup user=ada amount=10 reference=opening: ok",
        f"{ACTOR}: keys.create user=ada: ok",
        f"{ACTOR}: users.disable user=…: not_found",
        f"{ACTOR}: unknown act user=ada: invalid_request",
        f"{ACTOR}: keys.revoke key_id=1: ok",
    ]


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("users.show", {"user": "\ud800"}),
        ("keys.create", {"user": "ada", "models": ["\ud800"]}),
        ("audit.list", {"actor": "\udcff"}),
    ],
)
async def test_what_is_no_text_is_refused_and_told(house: House, name: str, arguments: dict[str, object]) -> None:
    await make_ada(house)
    with pytest.raises(ClientError, match=rf"{name}: {list(arguments)[-1]}: this is not text in UTF-8"):
        await act(house, name, **arguments)
