"""Every path form under every mount, probes, and what is not there."""

from __future__ import annotations

from pathlib import Path

import pytest
import yarl

from gateway.api.paths import endpoint_paths, is_api_path
from tests.gateway_tools import MODEL, ScriptedUpstream, open_gateway

MOUNTS = ("", "/api", "/api/proxy")


async def test_every_form_of_every_path(tmp_path: Path) -> None:
    async with ScriptedUpstream() as up, open_gateway(tmp_path, up.url) as gateway:
        alice = await gateway.make_user("alice")
        request_id = (await gateway.ask(alice)).request_id
        for mount in MOUNTS:
            for version in ("/v1", "/v1/v1", ""):
                base = mount + version
                assert (await gateway.ask(alice, path=base + "/messages")).status == 200, base
                assert (await gateway.ask(alice, path=base + "/messages?beta=true", stream=True)).status == 200
                counted = await gateway.ask(alice, path=base + "/messages/count_tokens?beta=true")
                assert (counted.status, counted.body) == (200, b'{"input_tokens": 42}')
                assert (await gateway.get(alice, base + "/models")).status == 200
                for name in (MODEL, "anthropic/" + MODEL, "anthropic%2F" + MODEL):
                    assert (await gateway.get(alice, f"{base}/models/{name}")).json["id"] == MODEL
                for path in ("/key", "/credits", "/usage", f"/usage/{request_id}"):
                    # At the top, /key is a page for people.
                    offered = version or base + path == "/key"
                    assert (await gateway.get(alice, base + path)).status == (200 if offered else 404), base + path
            hello = await gateway.request("HEAD", mount + "/api/hello")
            assert hello.status == 200 and hello.body == b""
        # What the upstream is asked is never the client's path, and the client's query.
        assert {seen.path for seen in up.journal} == {"/v1/messages", "/v1/messages/count_tokens"}
        assert {seen.query for seen in up.journal} == {"", "beta=true"}
        await gateway.assert_settled()


async def test_probes_need_no_key(tmp_path: Path) -> None:
    async with open_gateway(tmp_path, "http://127.0.0.1:1") as gateway:
        for method, path in [
            ("HEAD", "/"),
            ("GET", "/"),
            ("HEAD", "/api/hello"),
            ("GET", "/healthz"),
            ("GET", "/readyz"),
            ("HEAD", "/readyz"),
        ]:
            answer = await gateway.request(method, path)
            assert answer.status == 200, path
            assert answer.headers["server"] == "pagegrid"
        assert (await gateway.get(None, "/readyz")).json == {"status": "ready"}


@pytest.mark.parametrize(
    ("path", "is_json"),
    [
        ("/v1/nothing", True),
        ("/v1/v1/v1/messages", True),
        ("/api/nothing", True),
        ("/api/proxy/v1/nothing", True),
        ("/v1/messages/", True),
        ("/v1/messages/../../etc/passwd", True),
        ("/v1/usage/x/y", True),
        ("/nothing", False),
        ("/messages/batches", False),
        ("/favicon.ico", False),
        ("//v1/messages", False),
    ],
)
async def test_what_is_not_there(tmp_path: Path, path: str, is_json: bool) -> None:
    async with open_gateway(tmp_path, "http://127.0.0.1:1") as gateway:
        for method in ("GET", "POST", "OPTIONS"):
            async with gateway.session.request(
                method, yarl.URL(gateway.url + path, encoded=True), allow_redirects=False
            ) as response:
                body = await response.text()
                assert response.status == 404, (method, path)
                assert ("location" in response.headers) is False
                assert response.headers["server"] == "pagegrid"
                if is_json:
                    assert (await response.json())["error"]["type"] == "not_found_error"
                    assert response.headers["request-id"] == response.headers["x-request-id"]
                else:
                    assert response.content_type == "text/html" and path not in body


async def test_the_wrong_method(tmp_path: Path) -> None:
    async with open_gateway(tmp_path, "http://127.0.0.1:1") as gateway:
        alice = await gateway.make_user("alice")
        for method, path in [
            ("GET", "/v1/messages"),
            ("PUT", "/v1/messages"),
            ("OPTIONS", "/v1/messages"),
            ("POST", "/v1/models"),
            ("DELETE", f"/v1/models/{MODEL}"),
            ("POST", "/v1/key"),
            ("POST", "/v1/usage"),
            ("POST", "/healthz"),
        ]:
            answer = await gateway.request(method, path, headers={"x-api-key": alice.secret})
            assert (answer.status, answer.error["type"]) == (405, "invalid_request_error"), path
            answer.assert_clean()
            # RFC 9110 §15.5.6
            assert answer.headers["allow"] == ("POST" if "messages" in path else "GET, HEAD")


def test_the_list_has_no_path_twice_and_knows_its_own() -> None:
    paths = [path for _, path in endpoint_paths(MOUNTS)]
    assert len(set(paths)) == len(paths)
    assert {"/v1/messages", "/api/proxy/v1/v1/models", "/api/messages", "/models", "/api/api/hello"} <= set(paths)
    assert is_api_path("/api/x", MOUNTS) and is_api_path("/v1/x", MOUNTS) and not is_api_path("/apix", MOUNTS)
    assert not is_api_path("/v1/x", ("/only",)) and is_api_path("/only/x", ("/only",))


async def test_mounts_are_the_operators(tmp_path: Path) -> None:
    async with ScriptedUpstream() as up, open_gateway(tmp_path, up.url, more='[server]\nmounts = ["/ai"]') as gateway:
        alice = await gateway.make_user("alice")
        assert (await gateway.ask(alice, path="/ai/v1/messages")).status == 200
        assert (await gateway.ask(alice)).status == 404
        await gateway.assert_settled()
