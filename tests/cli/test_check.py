"""`pagegrid check`: ten lines for an honest endpoint, and each way to be wrong is seen by its own probe."""

from __future__ import annotations

import asyncio
import json
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from gateway.cli.conformance import PROBES
from tests.cli.endpoint import EVENTS, KEY, Endpoint, error, serving_endpoint, sse
from tests.cli.tools import Shell


async def check(url: str, *words: str) -> Result:
    return await asyncio.to_thread(Shell(Path("/nonexistent")).bare, "check", url, "--key", KEY, *words)


async def check_endpoint(endpoint: Endpoint, *words: str, suffix: str = "") -> Result:
    async with serving_endpoint(endpoint) as url:
        return await check(url + suffix, *words)


def failed(result: Result) -> dict[str, str]:
    """Name → detail of the probes that failed."""
    lines = [line.removeprefix("FAIL ") for line in result.stdout.splitlines() if line.startswith("FAIL ")]
    return {line.partition(" — ")[0]: line.partition(" — ")[2] for line in lines}


@pytest.mark.parametrize("suffix", ["", "/", "/v1", "/v1/"])
async def test_an_honest_endpoint_passes_whichever_way_its_url_is_written(suffix: str) -> None:
    endpoint = Endpoint()
    result = await check_endpoint(endpoint, suffix=suffix)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert [line.removeprefix("ok   ").split(" — ")[0] for line in lines] == list(PROBES)
    assert lines[0] == "ok   models list — 3 models, first claude-a"
    assert lines[1] == "ok   models pages — 3 models in 2 pages"
    assert "10 ok, 0 failed" in result.stderr
    assert all(path.startswith("/v1/") and not path.startswith("/v1/v1") for path in endpoint.seen)
    assert KEY not in result.output


async def test_a_model_may_be_named() -> None:
    assert (await check_endpoint(Endpoint(), "--model", "claude-c")).exit_code == 0
    wrong = failed(await check_endpoint(Endpoint(), "--model", "claude-z"))
    assert set(wrong) == {"message, x-api-key", "message, Bearer", "stream", "tool call"}


def without(name: str) -> bytes:
    return sse([event for event in EVENTS if event[0] != name])


def swapped(first: int, second: int) -> bytes:
    events = list(EVENTS)
    events[first], events[second] = events[second], events[first]
    return sse(events)


def with_event(position: int, name: str, **data: Any) -> bytes:
    return sse([*EVENTS[:position], (name, data), *EVENTS[position:]])


def replaced(position: int, **data: Any) -> bytes:
    return sse([*EVENTS[:position], (EVENTS[position][0], data), *EVENTS[position + 1 :]])


@pytest.mark.parametrize(
    ("stream", "message"),
    [
        (without("message_stop"), "ends with message_delta, not message_stop"),
        (without("message_start"), "begins with content_block_start"),
        (without("message_delta"), "before message_stop comes content_block_stop"),
        (without("content_block_stop"), "message_delta comes inside a content block"),
        (without("content_block_start"), "a delta of block 0 is out of order"),
        (sse([EVENTS[0], *EVENTS[-2:]]), "no content block"),
        (swapped(3, 4), "a delta of block 0 is out of order"),
        (with_event(3, "error", error={"type": "overloaded_error"}), "an error event"),
        (with_event(1, "message_start"), "message_start comes twice"),
        (with_event(7, "message_delta"), "ends with message_delta"),
        (replaced(0, message={"usage": {}}), "input_tokens is None"),
        (replaced(0, message=None), "expected a JSON object, found None"),
        (replaced(5, delta={"stop_reason": "end_turn"}, usage={"output_tokens": True}), "output_tokens is True"),
        (replaced(5, delta={}, usage={"output_tokens": 3}), "no stop_reason"),
        (replaced(1, index=1), "content block 1 starts out of order"),
        (sse(EVENTS)[:-2], "cut within an event"),
        (sse(EVENTS).replace(b'{"type": "ping"}', b"{ping}"), "data is not JSON"),
        (sse(EVENTS).replace(b'"type": "message_stop"', b'"type": "stop"'), "event message_stop carries type stop"),
        (b"", "no events"),
        (b"<html>", "cut within an event: <html>"),
    ],
)
async def test_a_stream_out_of_order_is_seen(stream: bytes, message: str) -> None:
    wrong = failed(await check_endpoint(Endpoint(stream=stream)))
    assert set(wrong) == {"stream"} and message in wrong["stream"]


MESSAGE = Endpoint().message
BOTH = {"message, x-api-key", "message, Bearer"}


@pytest.mark.parametrize(
    ("endpoint", "probes", "message"),
    [
        (Endpoint(models_status=500), {"models list", "models pages"}, "status 500, expected 200"),
        (Endpoint(pages=False), {"models pages"}, "limit=2 gave 3 models"),
        (Endpoint(bearer=False), {"message, Bearer"}, "status 401, expected 200"),
        (Endpoint(message={**MESSAGE, "type": "completion"}), BOTH, "not a message"),
        (Endpoint(message={**MESSAGE, "content": []}), BOTH, "no text block"),
        (Endpoint(message={**MESSAGE, "usage": None}), BOTH, "expected a JSON object"),
        (Endpoint(message={**MESSAGE, "usage": {"input_tokens": 0, "output_tokens": 3}}), BOTH, "input_tokens is 0"),
        (Endpoint(message={**MESSAGE, "stop_reason": None}), BOTH, "stop_reason is missing"),
        (Endpoint(request_ids=lambda number: ""), {"request-id header"}, "no request-id header"),
        (Endpoint(request_ids=lambda number: "req_1"), {"request-id header"}, "the same request-id"),
        (Endpoint(stream_type="application/json"), {"stream"}, "content-type is application/json"),
        (Endpoint(auth_status=403), {"auth error"}, "status 403, expected 401"),
        (Endpoint(auth_body=error("invalid_request_error")), {"auth error"}, "error.type is invalid_request_error"),
        (Endpoint(auth_body={"error": "no"}), {"auth error"}, "expected a JSON object"),
        (Endpoint(auth_body={"detail": KEY}), {"auth error"}, "expected a JSON object"),
        (Endpoint(unknown_status=400), {"unknown model"}, "status 400, expected 404"),
        (Endpoint(tool_block={"type": "text", "text": "no"}), {"tool call"}, "no tool_use block"),
        (Endpoint(tool_block={"type": "tool_use", "id": "t", "name": "get_weather", "input": {}}), {"tool call"}, "does not fit"),
        (Endpoint(tool_stop="end_turn"), {"tool call"}, "stop_reason is end_turn"),
        (Endpoint(count="9"), {"count_tokens"}, "input_tokens is 9, expected a number"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
async def test_what_is_wrong_is_seen_by_its_probe(endpoint: Endpoint, probes: set[str], message: str) -> None:
    result = await check_endpoint(endpoint, *(["--model", "claude-a"] if endpoint.models_status != 200 else []))
    wrong = failed(result)
    assert result.exit_code == 1 and set(wrong) == probes
    assert all(message in detail for detail in wrong.values()), wrong
    assert KEY not in result.output


async def test_a_key_that_is_refused_is_the_one_thing_said() -> None:
    async with serving_endpoint(Endpoint(auth_body=error("authentication_error"))) as url:
        result = await asyncio.to_thread(Shell(Path("/nonexistent")).bare, "check", url, "--key", "sk-test-a-wrong-key")
    assert result.exit_code == 1 and result.stdout == "FAIL models list — the key is refused (status 401): no\n"
    assert result.stderr == "Nothing else was asked: first this must work.\n"


async def test_what_is_no_api_is_the_one_thing_said() -> None:
    async with serving_endpoint(Endpoint()) as url:
        result = await check(url + "/docs")
    assert result.exit_code == 1 and result.stdout.startswith("FAIL models list — no API answers at this URL: status 404, and")
    assert len(result.stdout.splitlines()) == 1


async def test_a_short_key_eats_no_letters_and_a_long_one_is_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    for key, shown in (("t", "expected a JSON object, found t"), ("sk-12345", "expected a JSON object, found (key)")):
        monkeypatch.setattr("tests.cli.endpoint.KEY", key)
        async with serving_endpoint(Endpoint(auth_body={"error": key})) as url:
            result = await asyncio.to_thread(Shell(Path("/nonexistent")).bare, "check", url, "--key", key)
        assert failed(result) == {"auth error": shown}


async def test_results_as_json() -> None:
    async with serving_endpoint(Endpoint(count=0)) as url:
        result = await check(url, "--json")
    told = json.loads(result.stdout)
    assert result.exit_code == 1 and told["ok"] is False and result.stderr == ""
    assert [(probe["probe"], probe["ok"]) for probe in told["probes"]] == [(name, name != "count_tokens") for name in PROBES]
    well = json.loads((await check_endpoint(Endpoint(), "--json")).stdout)
    assert well["ok"] is True and well["probes"][0] == {"probe": "models list", "ok": True, "detail": "3 models, first claude-a"}


async def test_a_key_is_needed_and_is_one_word() -> None:
    shell = Shell(Path("/nonexistent"))
    missing = await asyncio.to_thread(shell.bare, "check", "http://127.0.0.1:1")
    assert missing.exit_code == 2 and "--key" in missing.stderr and "PAGEGRID_KEY" in missing.stderr
    for key in ("", "two words", "a\nb", "schlüssel"):
        odd = await asyncio.to_thread(shell.bare, "check", "http://127.0.0.1:1", "--key", key)
        assert odd.exit_code == 2 and (not key or key not in odd.stderr), key


async def test_no_model_known_is_said_by_each_probe_that_needs_one() -> None:
    wrong = failed(await check_endpoint(Endpoint(models_status=404)))
    assert wrong["stream"] == "no model is known: name one with --model"
    assert "count_tokens" in wrong and len(wrong) == len(PROBES)


async def test_a_redirect_is_not_followed_with_the_key() -> None:
    elsewhere = Endpoint()
    async with serving_endpoint(elsewhere) as other:
        wrong = failed(await check_endpoint(Endpoint(redirect=other + "/v1/models"), "--model", "claude-a"))
    assert wrong == {"models list": "status 307: it redirects, and no key follows; write the URL that it redirects to"}
    assert elsewhere.seen == []


async def test_an_endpoint_that_hangs_or_is_not_there_fails_in_time_and_in_plain_words() -> None:
    wrong = failed(await check_endpoint(Endpoint(hang=True), "--timeout", "0.1", "--model", "claude-a"))
    assert wrong == {"models list": "no whole answer within 0.1 s"}
    wrong = failed(await check("http://127.0.0.1:1", "--model", "claude-a"))
    assert wrong == {"models list": "127.0.0.1:1 cannot be reached: Connection refused"}
    wrong = failed(await check("http://no-such-host.invalid"))
    assert wrong == {"models list": "no-such-host.invalid: there is no such host"}


@pytest.mark.parametrize(
    ("said", "detail"),
    [
        (b"", "the connection was closed before an answer"),
        (b"SSH-2.0-OpenSSH_9.9\r\n\r\n", "what was answered is no HTTP"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{", "the answer was cut off"),
    ],
)
async def test_a_broken_connection_is_told_in_plain_words(said: bytes, detail: str) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.readline() not in (b"\r\n", b""):
            pass
        writer.write(said)
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        assert failed(await check(f"http://127.0.0.1:{port}")) == {"models list": detail}


async def test_a_server_that_speaks_no_tls_is_told_in_plain_words() -> None:
    async with serving_endpoint(Endpoint()) as url:
        told = failed(await check(url.replace("http:", "https:")))["models list"]
    assert told == f"{url.removeprefix('http://')}: TLS failed; does it speak https?"


async def test_a_server_that_accepts_and_says_nothing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    # By its full name: `gateway.cli.check` is the command.
    monkeypatch.setattr(import_module("gateway.cli.check"), "CONNECT_S", 0.1)
    async with await asyncio.start_server(silent, "127.0.0.1", 0) as server:
        host = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        told = failed(await check(f"https://{host}"))
    assert told == {"models list": f"{host} cannot be reached: no connection within 0.1 s"}


@pytest.mark.parametrize("url", ["127.0.0.1:8080", "ftp://x", "http://", "http://[", "http://x/v1?key=1"])
async def test_what_is_no_url_is_wrong_usage(url: str) -> None:
    result = await check(url)
    assert result.exit_code == 2 and "write an http or https URL" in result.stderr
