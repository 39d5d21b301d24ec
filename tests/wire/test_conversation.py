from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from gateway.wire.anthropic import parse_call
from gateway.wire.call import Call
from gateway.wire.conversation import conversation_of
from tests.wire.bodies import SESSION, claude_code, compact

BASE: dict[str, Any] = {"model": "m", "max_tokens": 1, "messages": [{"role": "user", "content": "hello"}]}


def parse(**changes: Any) -> Call:
    return parse_call(compact(BASE | changes))


@pytest.mark.parametrize(
    ("user_id", "session"),
    [
        (json.dumps({"device_id": "d", "account_uuid": "a", "session_id": SESSION}), SESSION),
        (f"user_0123abcd_account_{SESSION}_session_{SESSION}", SESSION),
        (f"user_0123abcd_account__session_{SESSION}", SESSION),
        ("someone@example.com", ""),
        ("{not json", ""),
        (json.dumps({"session_id": 7}), ""),
        (json.dumps({"session_id": ""}), ""),
        (7, ""),
        (None, ""),
    ],
)
def test_the_session_is_found_in_both_known_forms(user_id: Any, session: str) -> None:
    call = parse(metadata={"user_id": user_id})
    assert call.session == session
    assert bool(call.fingerprint) == (not session)


def test_a_session_of_any_length_stays_short() -> None:
    session = parse(metadata={"user_id": json.dumps({"session_id": "x " * 10_000})}).session
    assert session.startswith("#")
    assert len(session) == 33


ASSISTANT = {"role": "assistant", "content": "hi"}
AS_BLOCK = {"role": "user", "content": [{"type": "text", "text": "hello", "cache_control": {"type": "ephemeral"}}]}


@pytest.mark.parametrize(
    "changes",
    [
        {"max_tokens": 9, "temperature": 0},
        {"messages": [*BASE["messages"], ASSISTANT, {"role": "user", "content": "more"}]},
        {"messages": [AS_BLOCK]},
        {"messages": [{"role": "system", "content": "mid"}, *BASE["messages"]]},
        {"system": [{"type": "text", "text": "x-anthropic-billing-header: cc_version=9"}]},
    ],
)
def test_the_turns_of_one_conversation_share_a_fingerprint(changes: dict[str, Any]) -> None:
    assert parse(**changes).fingerprint == parse(system=[]).fingerprint


@pytest.mark.parametrize(
    "changes",
    [
        {"model": "n"},
        {"system": "be brief"},
        {"tools": [{"name": "t"}]},
        {"messages": [{"role": "user", "content": "other"}]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "hel"}, {"type": "text", "text": "lo"}]}]},
    ],
)
def test_another_conversation_has_another_fingerprint(changes: dict[str, Any]) -> None:
    assert parse(**changes).fingerprint != parse().fingerprint
    assert len(parse(**changes).fingerprint) == 32


def test_the_surest_sign_wins_and_no_two_signs_meet() -> None:
    call = parse_call(compact(claude_code(1000)))
    assert conversation_of([("x-claude-code-session-id", "s")], call) == "claude-code:s:"
    headers = [("X-Claude-Code-Session-Id", " s "), ("x-claude-code-agent-id", "a")]
    assert conversation_of(headers, call) == "claude-code:s:a"
    assert conversation_of([("x-claude-code-agent-id", "a")], call) == f"session:{SESSION}"
    nameless = dataclasses.replace(call, session="", fingerprint="f")
    assert conversation_of([], nameless) == "fingerprint:f"


@pytest.mark.parametrize("session", ["a:b", "x" * 1000, "\udcff", "a\x00", "#" + "0" * 32])
def test_a_strange_header_is_shown_by_its_hash(session: str) -> None:
    name = conversation_of([("x-claude-code-session-id", session)], parse())
    assert len(name) == len("claude-code:#:") + 32
    assert session not in name
