"""The log: one line per request, and nothing in it that could open a door."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from gateway.access import make_secret
from gateway.api.log import JsonFormatter, TextFormatter, mask
from tests.gateway_tools import MODEL, ScriptedUpstream, open_gateway
from tests.upstreams import scripts

FORMATTERS: list[logging.Formatter] = [TextFormatter(), JsonFormatter()]


@pytest.mark.parametrize("prefix", ["sk-pgrid-", "acme_", "my-very-own-company-", "Z-"])
@pytest.mark.parametrize(
    "around", ["{}", '"{}"', "x-api-key: {}", "Bearer {}", "('x-api-key', '{}')", "key={}&x=1", "\\n{}\\n", "x{}"]
)
def test_a_key_of_ours_is_masked_wherever_it_stands(prefix: str, around: str) -> None:
    secret = make_secret(prefix)
    shown = mask(around.format(secret))
    assert secret[len(prefix) + 8 :] not in shown and secret[-12:] not in shown


@pytest.mark.parametrize(
    "secret",
    ["sk-ant-api03-" + "Ab1_-" * 19, "sk-proj-" + "aB3" * 20, "sk-or-v1-" + "0f" * 32, "AIza-no", "xai-" + "k" * 40],
)
def test_other_peoples_secrets_are_masked_too(secret: str) -> None:
    shown = mask(f"authorization: Bearer {secret}, x-api-key: {secret}")
    if len(secret) > 20:
        assert secret[-12:] not in shown
    assert f"Bearer {secret}" not in shown


@pytest.mark.parametrize("formatter", FORMATTERS, ids=["text", "json"])
def test_tracebacks_and_fields_are_masked(formatter: logging.Formatter) -> None:
    secret = make_secret("sk-pgrid-")
    try:
        raise ValueError({"x-api-key": secret})
    except ValueError as error:
        record = logging.LogRecord(
            "x", logging.ERROR, __file__, 1, "failed with %s", (secret,), (type(error), error, error.__traceback__)
        )
    record.fields = {"model": secret, "id": "req_1"}
    line = formatter.format(record)
    assert "ValueError" in line and "req_1" in line
    assert secret not in line and secret[-12:] not in line


async def test_one_line_per_request_and_nothing_secret_in_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with ScriptedUpstream() as up, open_gateway(tmp_path, up.url) as gateway:
        alice = await gateway.make_user("alice")
        up.script(scripts.answer(), scripts.refuse(500, "their failure"), scripts.refuse(400, "their refusal"))
        marker = "prompt-that-nobody-logs"
        statuses = []
        for fields in ({}, {"stream": True}, {}):
            messages = [{"role": "user", "content": marker}]
            answer = await gateway.ask(alice, messages=messages, path=f"/v1/messages?secret={marker}", **fields)
            statuses.append(answer.status)
        await gateway.ask(None, headers={"x-api-key": alice.secret + "x", "x-note": marker})
        await gateway.get(alice, "/v1/key")
    lines = [record for record in caplog.records if record.name == "gateway.request"]
    fields = [record.fields for record in lines]  # type: ignore[attr-defined]
    assert statuses == [200, 502, 400]
    assert [(record.getMessage(), found["status"]) for record, found in zip(lines, fields, strict=True)] == [
        ("POST messages", 200),
        ("POST messages", 502),
        ("POST messages", 400),
        ("POST messages", 401),
        ("GET key", 200),
    ]
    assert fields[0]["user"] == "alice" and fields[0]["model"] == MODEL and fields[0]["source"] == "reported"
    assert fields[1]["error"] == "upstream_failed" and "user" not in fields[3]
    everything = "\n".join(formatter.format(record) for formatter in FORMATTERS for record in caplog.records)
    for secret in (alice.secret, marker, "upstream-secret", "their refusal"):
        assert secret not in everything
    # What a provider says of its own failure is for the operator, and for nobody else; what it says of a request is the client's.
    assert "their failure" in everything
    assert all(json.loads(FORMATTERS[1].format(record)) for record in lines)


async def test_a_bug_of_ours_is_logged_whole_and_told_as_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: object) -> None:
        raise ZeroDivisionError("our own words")

    async with ScriptedUpstream() as up, open_gateway(tmp_path, up.url) as gateway:
        alice = await gateway.make_user("alice")
        monkeypatch.setattr("gateway.proxy.exchange._whole_outcome", broken)
        answer = await gateway.ask(alice)
        assert (answer.status, answer.error) == (500, {"type": "api_error", "message": "Internal error."})
        answer.assert_clean()
        monkeypatch.setattr("gateway.proxy.relay.StreamRelay._keep_hold_above_cost", broken)
        answer = await gateway.ask(alice, stream=True)
        assert answer.status == 500
        assert answer.request_id in caplog.text and "our own words" in caplog.text
        # Its money is given back, whatever broke.
        assert len(await gateway.void_reasons()) == 2 and gateway.balance(alice) == 10 * 10**9
        await gateway.assert_settled()


async def test_a_bug_in_mid_stream_never_looks_like_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = 0

    def broken_later(*arguments: object) -> None:
        nonlocal calls
        calls += 1
        if calls > 3:
            raise ZeroDivisionError

    monkeypatch.setattr("gateway.proxy.relay.StreamRelay._keep_hold_above_cost", broken_later)
    async with ScriptedUpstream() as up, open_gateway(tmp_path, up.url) as gateway:
        alice = await gateway.make_user("alice")
        up.script(scripts.answer(pace_s=0.02))
        answer = await gateway.ask(alice, stream=True)
        assert answer.status == 200 and answer.cut
        assert "message_stop" not in [name for name, _ in answer.events]
        await gateway.assert_settled()
