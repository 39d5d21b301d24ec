"""/v1/models, read by the real SDK of today: types, pages, and only what the key may use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anthropic
import pytest
from anthropic.types import ModelInfo

from tests.gateway_tools import MODEL, ScriptedUpstream, open_gateway


async def test_the_sdk_pages_through_all_models_in_both_directions(tmp_path: Path) -> None:
    async with ScriptedUpstream() as up, open_gateway(tmp_path, up.url) as gateway:
        alice = await gateway.make_user("alice")
        offered = [model.id for model in gateway.house.walk.catalog]
        async with anthropic.AsyncAnthropic(base_url=gateway.url, api_key=alice.secret, max_retries=0) as client:
            for limit in (1, 3, 1000):
                assert [model.id async for model in client.models.list(limit=limit)] == offered
            page = await client.models.list(limit=2, after_id=offered[1])
            assert [model.id for model in page.data] == offered[2:4] and page.has_more
            assert (page.first_id, page.last_id) == (offered[2], offered[3])
            page = await client.models.list(limit=2, before_id=offered[3])
            assert [model.id for model in page.data] == offered[1:3] and page.has_more
            # Backwards, page by page, until nothing is left.
            seen = offered[3:]
            while page.data:
                seen = [model.id for model in page.data] + seen
                if not page.has_more:
                    break
                page = await client.models.list(limit=2, before_id=page.first_id or "")
            assert seen == offered
            for bad in ({"limit": 0}, {"limit": 1001}, {"after_id": "nobody"}, {"before_id": "nobody"}):
                with pytest.raises(anthropic.BadRequestError):
                    await client.models.list(**bad)  # type: ignore[arg-type]


async def test_every_model_is_what_the_sdks_types_say(tmp_path: Path) -> None:
    async with ScriptedUpstream() as up, open_gateway(tmp_path, up.url) as gateway:
        alice = await gateway.make_user("alice")
        everything = (await gateway.get(alice, "/v1/models?limit=1000")).json
        assert everything["has_more"] is False and everything["object"] == "list"
        for found in everything["data"]:
            strict(found)
            # OpenAI's fields, beside.
            assert (found["object"], type(found["created"]), type(found["owned_by"])) == ("model", int, str)
            assert found["description"] and found["context_window"] >= found["max_tokens"] > 0
        one = (await gateway.get(alice, f"/v1/models/{MODEL}")).json
        strict(one)
        assert one in everything["data"]
        assert one["price"]["input"] == "2.00" and one["price"]["output"] == "10.00"


def strict(found: dict[str, Any]) -> ModelInfo:
    """Every field that the SDK's type requires is there and of its type, nothing converted."""
    info: ModelInfo = ModelInfo.model_validate(found, strict=False)
    for name, field in ModelInfo.model_fields.items():
        assert name in found or not field.is_required(), name
    assert found["type"] == "model" and info.created_at.tzinfo is not None
    assert found["lifecycle"] in ("active", "deprecated", "retired")
    return info


async def test_an_openai_client_gets_them_all_at_once(tmp_path: Path) -> None:
    async with ScriptedUpstream() as up, open_gateway(tmp_path, up.url) as gateway:
        alice = await gateway.make_user("alice")
        everything = (await gateway.get(alice, "/v1/models", {"authorization": "Bearer x"})).json
        assert [model["id"] for model in everything["data"]] == [model.id for model in gateway.house.walk.catalog]
        assert everything["has_more"] is False


async def test_only_what_the_key_may_use_is_listed(tmp_path: Path) -> None:
    async with ScriptedUpstream() as up, open_gateway(tmp_path, up.url) as gateway:
        alice = await gateway.make_user("alice", models=frozenset({MODEL}))
        assert [model["id"] for model in (await gateway.get(alice, "/v1/models")).json["data"]] == [MODEL]
        assert (await gateway.get(alice, "/v1/models/claude-opus-5-5")).status == 403
        assert (await gateway.get(alice, "/v1/models/claude-nobody")).status == 404
        assert (await gateway.get(None, "/v1/models")).status == 401


@pytest.mark.parametrize("limit", ["9" * 5000, "-1", "1.5", "", "x", "٣", "1e2", "+5"])
async def test_a_strange_limit_is_a_400(tmp_path: Path, limit: str) -> None:
    async with open_gateway(tmp_path, "http://127.0.0.1:1") as gateway:
        alice = await gateway.make_user("alice")
        answer = await gateway.request("GET", "/v1/models", params={"limit": limit}, headers={"x-api-key": alice.secret})
        assert (answer.status, answer.error["type"]) == (400, "invalid_request_error")
