"""Request bodies as Claude Code sends them: compact JSON, many tools with a `model` of their own, the model name anywhere."""

from __future__ import annotations

import json
from typing import Any

SESSION = "0b5a1a52-0f0e-4b0e-9a30-2f6d4c1f8f11"


def tool(number: int) -> dict[str, Any]:
    properties: dict[str, Any] = {f"p{i}": {"type": "string", "description": "a parameter, in words"} for i in range(8)}
    if number % 3 == 0:
        properties["model"] = {"type": "string", "enum": ["sonnet", "opus"], "description": "Which model"}
    return {
        "name": f"Tool{number}",
        "description": 'Does a thing; quote it as "needed".\n' * 60,
        "input_schema": {"type": "object", "properties": properties, "required": ["p1"]},
    }


def claude_code(size: int, **changes: Any) -> dict[str, Any]:
    body: dict[str, Any] = {
        "model": "claude-opus-5-5",
        "messages": [{"role": "user", "content": [{"type": "text", "text": 'say "hi", é\n' * 30}]}],
        "system": [
            {"type": "text", "text": "x-anthropic-billing-header: cc_version=2.1.329.abc"},
            {"type": "text", "text": "You are Claude Code.\n" * 200, "cache_control": {"type": "ephemeral", "ttl": "1h"}},
        ],
        "tools": [],
        "metadata": {"user_id": json.dumps({"device_id": "d", "account_uuid": "", "session_id": SESSION})},
        "max_tokens": 128000,
        "thinking": {"type": "adaptive"},
        "stream": True,
    }
    body |= changes
    length = len(compact(body))
    while length < size:
        body["tools"].append(tool(len(body["tools"])))
        length += len(compact(body["tools"][-1])) + 1
    return body


def compact(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()
