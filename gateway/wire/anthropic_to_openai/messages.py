"""The conversation: Anthropic's turns of blocks as the messages of Chat Completions, in an order that those take."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal

import msgspec

from gateway.wire.anthropic_to_openai.blocks import BLANK_LINE, Block, blocks_of, parts_of, unknown_block
from gateway.wire.anthropic_to_openai.fields import DROPPED, NULL, read_text, refusal
from gateway.wire.anthropic_to_openai.ids import upstream_tool_id
from gateway.wire.anthropic_to_openai.tools import ToolChanges

Json = dict[str, Any]
ReasoningField = Literal["", "reasoning_content", "reasoning"]

_BILLING_BLOCK = "x-anthropic-billing-header:"


class OutputConfig(msgspec.Struct):
    effort: str | None = None
    format: msgspec.Raw = NULL


class Message(msgspec.Struct):
    role: str
    content: msgspec.Raw = msgspec.Raw(b'""')
    output_config: OutputConfig | None = None
    clear_at: str | None = None


class Conversation:
    """Builds the messages, in an order that Chat Completions takes.

    There, results follow their calls at once, each as a message of its own and as text. So whatever else stands in a user turn
    (text, images of a result, a system message after it) is kept until every call of the turn before has its result. Neighbours
    of one role are one turn, as Anthropic says, and as strict chat templates want it.
    """

    def __init__(self, reasoning_field: ReasoningField) -> None:
        self.last_role = ""
        self.tools = ToolChanges()
        self._reasoning_field = reasoning_field
        self._messages: list[Json] = []
        self._unanswered: set[str] = set()
        self._kept: list[Json] = []

    def add_system(self, system: msgspec.Raw) -> None:
        blocks = blocks_of(system, "system")
        if blocks and blocks[0].type == "text" and read_text(blocks[0].text, "system[0].text").startswith(_BILLING_BLOCK):
            del blocks[0]
        text = self._joined(blocks, "system")
        if text:
            self._messages.append({"role": "system", "content": text})

    def add(self, message: Message, path: str) -> None:
        blocks = blocks_of(message.content, f"{path}.content")
        if message.role == "user":
            self._add_user(blocks, f"{path}.content")
        elif message.role == "assistant":
            self._add_assistant(blocks, f"{path}.content")
        elif message.role == "system":
            text = self._joined(blocks, f"{path}.content")
            if text:
                self._put({"role": "system", "content": text})
        else:
            raise refusal(f"{path}.role", f'{path}.role must be "user", "assistant" or "system".')
        # A system message stands beside the turns; it does not end one.
        self.last_role = message.role if message.role != "system" else self.last_role

    def finish(self) -> list[Json]:
        self._release()
        for message in self._messages:
            content = message["content"]
            if message["role"] == "user":
                only_text = len(content) == 1 and content[0]["type"] == "text"
                message["content"] = content[0]["text"] if only_text else content or ""
        return self._messages

    def _add_user(self, blocks: Sequence[Block], path: str) -> None:
        parts: list[Json] = []
        for number, block in enumerate(blocks):
            where = f"{path}[{number}]"
            if block.type == "tool_result":
                parts += self._add_result(block, where)
            else:
                parts += parts_of(block, where)
        results_only = bool(blocks) and all(block.type == "tool_result" for block in blocks)
        if parts or not results_only:
            self._put({"role": "user", "content": parts})

    def _add_result(self, block: Block, path: str) -> list[Json]:
        """Adds the tool's message; gives back the parts that must follow in a user message."""
        call_id = upstream_tool_id(read_text(block.tool_use_id, f"{path}.tool_use_id"))
        texts: list[str] = []
        media: list[Json] = []
        for number, inner in enumerate(blocks_of(block.content, f"{path}.content")):
            if inner.type == "tool_reference":
                name = read_text(inner.tool_name, f"{path}.content[{number}].tool_name")
                self.tools.loaded.add(name)
                texts.append(f"The tool {name} can be called now.")
                continue
            for part in parts_of(inner, f"{path}.content[{number}]"):
                if part["type"] == "text":
                    texts.append(part["text"])
                else:
                    media.append(part)
        if media:
            texts.append("(What this tool returned besides text follows in the next user message.)")
        text = BLANK_LINE.join(texts)
        if block.is_error and not text.lower().startswith("error"):
            text = f"Error: {text}"  # the role has no other sign for it
        self._messages.append({"role": "tool", "tool_call_id": call_id, "content": text})
        self._unanswered.discard(call_id)
        if not self._unanswered:
            self._release()
        return [{"type": "text", "text": f"Returned by the tool call {call_id}:"}, *media] if media else []

    def _add_assistant(self, blocks: Sequence[Block], path: str) -> None:
        if self._kept or not self._follows("assistant"):
            self._release()
        texts: list[str] = []
        calls: list[Json] = []
        thoughts: list[str] = []
        before = ""
        for number, block in enumerate(blocks):
            where = f"{path}[{number}]"
            if block.type == "text":
                text = read_text(block.text, f"{where}.text")
                # Anthropic cuts one text into blocks where citations begin; others are paragraphs of their own.
                if texts and before == "text":
                    texts[-1] += text
                elif text:
                    texts.append(text)
            elif block.type == "tool_use":
                calls.append(_call(block, where))
            elif block.type == "thinking":
                # Signed ones are another provider's. Ours have no signature.
                if self._reasoning_field and not read_text(block.signature, f"{where}.signature"):
                    thoughts.append(read_text(block.thinking, f"{where}.thinking"))
            elif f"content.{block.type}" not in DROPPED:
                parts = parts_of(block, where)
                if any(part["type"] != "text" for part in parts):
                    raise unknown_block(block, where)
                texts += [part["text"] for part in parts]
            before = block.type
        self._put_assistant(BLANK_LINE.join(texts), calls, "".join(thoughts))

    def _put_assistant(self, text: str, calls: list[Json], thoughts: str) -> None:
        if not text and not calls:
            return  # nothing but thinking
        if not self._follows("assistant"):
            self._messages.append({"role": "assistant", "content": None})
        last = self._messages[-1]
        if text:
            last["content"] = f"{last['content']}{BLANK_LINE}{text}" if last["content"] else text
        if calls:
            last["tool_calls"] = last.get("tool_calls", []) + calls
            self._unanswered |= {call["id"] for call in calls}
        if self._reasoning_field and (thoughts or "tool_calls" in last):
            last[self._reasoning_field] = last.get(self._reasoning_field, "") + thoughts

    def _put(self, message: Json) -> None:
        if self._unanswered:
            self._kept.append(message)
            return
        if message["role"] == "user" and self._follows("user"):
            self._messages[-1]["content"] += message["content"]
        else:
            self._messages.append(message)

    def _follows(self, role: str) -> bool:
        return bool(self._messages) and self._messages[-1]["role"] == role

    def _release(self) -> None:
        self._unanswered.clear()  # what is still unanswered stays so: the upstream tells the client
        kept, self._kept = self._kept, []
        for message in kept:
            self._put(message)

    def _joined(self, blocks: Iterable[Block], path: str) -> str:
        """The text of a system prompt or message; changes of the tools in it are taken note of."""
        texts = []
        for number, block in enumerate(blocks):
            where = f"{path}[{number}]"
            if block.type == "text":
                texts.append(read_text(block.text, f"{where}.text"))
            elif block.type == "tool_addition":
                self.tools.add(block.tool, f"{where}.tool")
            elif block.type == "tool_removal":
                self.tools.remove(block.tool, f"{where}.tool")
            else:
                raise unknown_block(block, where)
        return BLANK_LINE.join(text for text in texts if text)


def _call(block: Block, path: str) -> Json:
    arguments = bytes(block.input)
    if not arguments.startswith(b"{"):
        raise refusal(f"{path}.input", f"{path}.input must be an object.")
    try:
        text = arguments.decode()
    except UnicodeDecodeError:
        raise refusal(f"{path}.input", f"{path}.input is not UTF-8.") from None
    call_id = upstream_tool_id(read_text(block.id, f"{path}.id"))
    return {"id": call_id, "type": "function", "function": {"name": read_text(block.name, f"{path}.name"), "arguments": text}}
