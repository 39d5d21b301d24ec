"""The tools of a Chat Completions request, and the choice among them, as Anthropic's.

Sources, read 2026-11-20: developers.openai.com/api/docs (function calling) and the types of the openai SDK 3.52;
platform.claude.com/docs/en/agents-and-tools/tool-use (define tools, strict tool use, parallel tool use).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from gateway.wire.openai_to_anthropic_fields import misfit, refused
from gateway.wire.openai_to_anthropic_messages import CacheControl


class Function(msgspec.Struct):
    name: str
    description: str | None = None
    parameters: dict[str, msgspec.Raw] | None = None
    strict: bool | None = None


class Tool(msgspec.Struct):
    type: str
    function: Function | None = None
    cache_control: CacheControl | None = None


class Named(msgspec.Struct):
    name: str


class _Allowed(msgspec.Struct):
    type: str = "function"
    function: Named | None = None


class _AllowedTools(msgspec.Struct):
    mode: str
    tools: list[_Allowed]


class ToolChoice(msgspec.Struct):
    type: str
    function: Named | None = None
    allowed_tools: _AllowedTools | None = None


def translate_tools(
    given: Sequence[Tool],
    functions: Sequence[Function] | None,
    tool_choice: str | ToolChoice | None,
    function_call: str | Named | None,
    *,
    parallel: bool,
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """`tools` and `tool_choice`; the choice is empty where it would only say what goes without saying.

    `functions` and `function_call` are the deprecated forms. Raises ClientError naming what cannot be carried.
    """
    tools = []
    for number, tool in enumerate(given):
        at = f"tools[{number}]"
        if tool.type != "function" or tool.function is None:
            raise refused("tools.custom", f"{at}.type")
        tools.append(_tool(tool.function))
        if tool.cache_control is not None:
            tools[-1]["cache_control"] = tool.cache_control
    tools += [_tool(function) for function in functions or ()]
    field: str = "tool_choice" if tool_choice is not None else "function_call"
    choice = tool_choice if tool_choice is not None else function_call
    translated = _choice(field, choice)
    if isinstance(choice, ToolChoice) and choice.allowed_tools is not None:
        tools = _allowed(tools, choice.allowed_tools)
    if not tools:
        if translated.get("type") in ("any", "tool"):
            raise misfit(field, "asks for a tool, and there is none in tools")
        return [], {}
    names = {tool["name"] for tool in tools}
    if translated.get("type") == "tool" and translated["name"] not in names:
        raise misfit(field, f"names a function that is not in tools: {translated['name'][:80]!r}")
    # A function_call is one call, whatever the model would like.
    single = not parallel or functions is not None
    if single and translated.get("type") != "none":
        translated = {"type": "auto"} | translated | {"disable_parallel_tool_use": True}
    return tools, translated


def _tool(function: Function) -> dict[str, Any]:
    tool: dict[str, Any] = {"name": function.name}
    if function.description:
        tool["description"] = function.description
    # Anthropic wants the type that OpenAI takes for granted.
    tool["input_schema"] = {"type": "object"} | (function.parameters or {"properties": msgspec.Raw(b"{}")})
    if function.strict:
        tool["strict"] = True
    return tool


def _choice(field: str, choice: str | ToolChoice | Named | None) -> dict[str, Any]:
    if choice is None or choice == "auto":
        return {}
    if choice == "none":
        return {"type": "none"}
    if choice == "required":
        return {"type": "any"}
    if isinstance(choice, Named):
        return {"type": "tool", "name": choice.name}
    if isinstance(choice, ToolChoice):
        if choice.type == "function" and choice.function is not None:
            return {"type": "tool", "name": choice.function.name}
        if choice.type == "allowed_tools" and choice.allowed_tools is not None:
            return _choice(f"{field}.allowed_tools.mode", choice.allowed_tools.mode)
        if choice.type == "custom":
            raise refused("tools.custom", f"{field}.type")
    raise misfit(field, "must be none, auto, required, a function or allowed_tools")


def _allowed(tools: list[dict[str, Any]], allowed: _AllowedTools) -> list[dict[str, Any]]:
    names = {entry.function.name if entry.function is not None else "" for entry in allowed.tools}
    if not names <= {tool["name"] for tool in tools}:
        raise misfit("tool_choice.allowed_tools.tools", "names something that is no function in tools")
    return [tool for tool in tools if tool["name"] in names]
