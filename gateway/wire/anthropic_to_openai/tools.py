"""Tools of the request: which of them the model may call now, as functions, and how it has to choose."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from gateway.wire.anthropic_to_openai.fields import NULL, REFUSED, decode, refusal

Json = dict[str, Any]

_TOOL_SEARCH = "tool_search_tool_"


class Tool(msgspec.Struct):
    name: str = ""
    type: str | None = None
    description: str | None = None
    input_schema: msgspec.Raw = NULL
    strict: bool | None = None
    defer_loading: bool | None = None


class _ToolChange(msgspec.Struct):
    type: str = ""
    name: str = ""
    definition: Tool | None = None

    @property
    def called(self) -> str:
        return self.name if self.definition is None else self.definition.name


class ToolChoice(msgspec.Struct):
    type: str
    name: str = ""
    disable_parallel_tool_use: bool | None = None


_change = msgspec.json.Decoder(_ToolChange)
_members = msgspec.json.Decoder(dict[str, msgspec.Raw])
_schema = msgspec.json.Decoder()


class ToolChanges:
    """What a conversation says about its tools: which were loaded, added by value, or taken away."""

    def __init__(self) -> None:
        self.added: list[Tool] = []
        self.loaded: set[str] = set()
        self.removed: set[str] = set()

    def add(self, change: msgspec.Raw, path: str) -> None:
        """A tool_addition: a reference to a tool, or its definition."""
        tool = self._read(change, path)
        if tool.definition is not None:
            self.added.append(tool.definition)
        self.loaded.add(tool.called)
        self.removed.discard(tool.called)

    def remove(self, change: msgspec.Raw, path: str) -> None:
        self.removed.add(self._read(change, path).called)

    def _read(self, change: msgspec.Raw, path: str) -> _ToolChange:
        tool = decode(_change, change, path)
        if tool.type != ("tool_reference" if tool.definition is None else "tool_definition"):
            raise refusal(path, f"{path}: {tool.type!r} cannot be carried: {REFUSED['mcp_servers']}.")
        return tool


def tools_at_end(declared: Sequence[Tool], changes: ToolChanges) -> list[Json]:
    """The tools that the model may call at the end of the changes.

    A deferred tool is not shown to the model before a tool_reference or a tool_addition names it (Claude Code's own ToolSearch
    returns such references), unless it is the provider's search that would find it.
    """
    searched = any((tool.type or "").startswith(_TOOL_SEARCH) for tool in declared)
    shown: dict[str, Json] = {}
    for number, tool in enumerate([*declared, *changes.added]):
        where = f"tools[{number}]" if number < len(declared) else f"the added tool {tool.name}"
        if (tool.type or "").startswith(_TOOL_SEARCH):
            continue
        if tool.type not in (None, "custom"):
            raise refusal(f"{where}.type", f"{where}: {tool.type} cannot be carried: {REFUSED['tools[].type']}.")
        hidden = bool(tool.defer_loading) and not searched and tool.name not in changes.loaded
        if not hidden and tool.name not in changes.removed:
            shown[tool.name] = _function(tool, where)
    return list(shown.values())


def _function(tool: Tool, path: str) -> Json:
    function: Json = {"name": tool.name}
    if tool.description:
        function["description"] = tool.description
    schema = decode(_members, tool.input_schema, f"{path}.input_schema")
    # api.openai.com refuses an object schema that does not say its properties, even none.
    function["parameters"] = schema if "properties" in schema else {**schema, "properties": {}}
    if tool.strict and is_strict(_schema.decode(tool.input_schema)):
        function["strict"] = True
    return {"type": "function", "function": function}


def choice_of(choice: ToolChoice) -> Json:
    """`tool_choice`, and `parallel_tool_calls` where it is not the default."""
    if choice.type not in ("auto", "any", "tool", "none"):
        raise refusal("tool_choice.type", 'tool_choice.type must be "auto", "any", "tool" or "none".')
    words: Json = {"any": "required", "tool": {"type": "function", "function": {"name": choice.name}}}
    parallel: Json = {"parallel_tool_calls": False} if choice.disable_parallel_tool_use else {}
    return {"tool_choice": words.get(choice.type, choice.type)} | parallel


def is_strict(schema: Any) -> bool:
    """Whether a schema keeps the rules of `strict`: no object has other properties than its own, and each is required.

    Anthropic allows optional ones; such a schema is sent without `strict`, which would be refused.
    """
    if isinstance(schema, list):
        return all(map(is_strict, schema))
    if not isinstance(schema, dict):
        return True
    properties = schema.get("properties")
    if isinstance(properties, dict):
        required = schema.get("required")
        if schema.get("additionalProperties") is not False or not isinstance(required, list) or set(properties) - set(required):
            return False
    elif schema.get("type") == "object":
        return False
    return all(map(is_strict, schema.values()))
