"""A language model of 2.6 MB that speaks a text by heart, in llama.cpp's file format.

It is a true Llama (one layer, rotary attention, SentencePiece vocabulary, chat template) with chosen weights: attention and
feed-forward add nothing, a token's embedding is a one in a place of its own, and the output matrix says which token follows.
So it says the same at every temperature, while the server works as for any other model: it tokenizes, templates, batches,
caches, constrains by a grammar, stops and counts.

    <0x0A> u s e r : …  <go> Once ▁there ▁was … ▁till. EOS

What it says the chat template decides by what it was asked: TEXT, or EVER without an end, OBJECT, a THOUGHT and then TEXT, and
CALLS where there are tools.

Format: github.com/ggml-org/ggml/blob/master/docs/gguf.md, version 3.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Sequence
from pathlib import Path

CONTEXT_TOKENS = 32_768
# What it says, in tokens, each of them there once: the last one is all that it knows when it chooses the next.
TEXT = (
    *("Once", " there", " was", " a", " house", " with", " one", " door:", " who", " came", " in", " got", " counted,"),
    *(" what", " they", " took", " went", " onto", " scales,", " and", " each", " night", " its", " book", " told"),
    *(" every", " bead", " that", " had", " gone", " through", " the", " till."),
)
EVER = (" tick", " tock")
THOUGHT = ("<think>", "Somebody", " wants", " an", " answer.", "</think>")
OBJECT = ('{"city":', ' "Rome"}')
CALLS = (
    *("<tool_call>", '\n{"name":', ' "weather",', ' "arguments":', ' {"city":', ' "Rome"}}', "\n</tool_call>"),
    *('\n<tool_call>\n{"name":"weather",', '"arguments":{"city":', '"Oslo"}}\n</tool_call>'),
)

_BOS, _EOS = 1, 2
_HEADS, _HEAD_SIZE, _FEED_FORWARD = 6, 64, 32
_WIDTH = _HEADS * _HEAD_SIZE
_NORMAL, _UNKNOWN, _CONTROL, _BYTE = 1, 2, 3, 6
_ALIGNMENT = 32

# Hermes' way of calling tools and Qwen's of thinking, which llama.cpp knows by their marks; and what decides what is said.
_TEMPLATE = """
{%- if tools %}{{ '<tools>' }}{% for tool in tools %}{{ tool | tojson }}{% endfor %}{{ '</tools>' }}{% endif %}
{%- for message in messages %}
{%- if message.role == 'system' and not loop.first %}{{ raise_exception('System message must be at the beginning.') }}{% endif %}
{{- '\\n' + message.role + ': ' }}
{%- if message.reasoning_content %}{{ '<think>' + message.reasoning_content + '</think>' }}{% endif %}
{%- if message.content %}{{ message.content }}{% endif %}
{%- for call in message.tool_calls or [] %}
{{- '<tool_call>\\n{"name": "' + call.function.name + '", "arguments": ' }}
{{- call.function.arguments | tojson + '}\\n</tool_call>' }}
{%- endfor %}
{%- endfor %}
{%- if add_generation_prompt %}
{%- set asked = messages[-1].content or '' %}
{{- '\\nassistant: ' }}
{%- if tools and messages[-1].role == 'user' %}{{ '<call>' }}
{%- elif 'for ever' in asked %}{{ '<ever>' }}
{%- elif 'as JSON' in asked %}{{ '<object>' }}
{%- elif 'think' in asked %}{{ '<muse>' }}
{%- else %}{{ '<go>' }}{% endif %}
{%- endif %}"""


def write_model(path: Path) -> None:
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁"]
    kinds = [_UNKNOWN, _CONTROL, _CONTROL, *[_BYTE] * 256, _NORMAL]
    follows: dict[int, int] = {}

    def learn(start: str, pieces: Sequence[str], then: str) -> None:
        first = len(tokens)
        tokens.extend((start, *(piece.replace(" ", "▁") for piece in pieces)))
        kinds.extend((_CONTROL, *[_NORMAL] * len(pieces)))
        for token in range(first, len(tokens) - 1):
            follows[token] = token + 1
        follows[len(tokens) - 1] = tokens.index(then)

    learn("<go>", TEXT, "</s>")
    learn("<ever>", EVER, "▁tick")
    learn("<muse>", THOUGHT, "Once")
    learn("<object>", OBJECT, "</s>")
    learn("<call>", CALLS, "</s>")
    assert len(set(tokens)) == len(tokens)
    assert len(tokens) <= _WIDTH, "every token has a place of its own"
    _write(path, tokens, kinds, follows)


def _write(path: Path, tokens: list[str], kinds: list[int], follows: dict[int, int]) -> None:
    count = len(tokens)
    fields: list[tuple[str, bytes]] = [
        ("general.architecture", _text("llama")),
        ("general.name", _text("By heart")),
        ("llama.block_count", _u32(1)),
        ("llama.context_length", _u32(CONTEXT_TOKENS)),
        ("llama.embedding_length", _u32(_WIDTH)),
        ("llama.feed_forward_length", _u32(_FEED_FORWARD)),
        ("llama.attention.head_count", _u32(_HEADS)),
        ("llama.attention.head_count_kv", _u32(1)),
        ("llama.attention.layer_norm_rms_epsilon", _f32(1e-6)),
        ("llama.rope.dimension_count", _u32(_HEAD_SIZE)),
        ("llama.vocab_size", _u32(count)),
        ("tokenizer.ggml.model", _text("llama")),
        ("tokenizer.ggml.tokens", _texts(tokens)),
        ("tokenizer.ggml.scores", _numbers(6, "f", [0.0] * count)),
        ("tokenizer.ggml.token_type", _numbers(5, "i", kinds)),
        ("tokenizer.ggml.bos_token_id", _u32(_BOS)),
        ("tokenizer.ggml.eos_token_id", _u32(_EOS)),
        # Else what the template ends with is another text to a grammar than to the tokenizer.
        ("tokenizer.ggml.add_space_prefix", _bool(False)),
        ("tokenizer.chat_template", _text(_TEMPLATE)),
    ]
    embedding, output = array("f", bytes(4 * count * _WIDTH)), array("f", bytes(4 * count * _WIDTH))
    for token in range(count):
        embedding[token * _WIDTH + token] = 1.0
    for token, next_token in follows.items():
        output[next_token * _WIDTH + token] = 2.0
    ones = array("f", [1.0] * _WIDTH)

    def zeros(rows: int, columns: int) -> tuple[list[int], array[float]]:
        return [columns, rows], array("f", bytes(4 * rows * columns))

    # Sizes from the innermost on.
    tensors: dict[str, tuple[list[int], array[float]]] = {
        "token_embd.weight": ([_WIDTH, count], embedding),
        "output_norm.weight": ([_WIDTH], ones),
        "output.weight": ([_WIDTH, count], output),
        "blk.0.attn_norm.weight": ([_WIDTH], ones),
        "blk.0.attn_q.weight": zeros(_WIDTH, _WIDTH),
        "blk.0.attn_k.weight": zeros(_HEAD_SIZE, _WIDTH),
        "blk.0.attn_v.weight": zeros(_HEAD_SIZE, _WIDTH),
        "blk.0.attn_output.weight": zeros(_WIDTH, _WIDTH),
        "blk.0.ffn_norm.weight": ([_WIDTH], ones),
        "blk.0.ffn_gate.weight": zeros(_FEED_FORWARD, _WIDTH),
        "blk.0.ffn_up.weight": zeros(_FEED_FORWARD, _WIDTH),
        "blk.0.ffn_down.weight": zeros(_WIDTH, _FEED_FORWARD),
    }
    infos, data = b"", b""
    for name, (sizes, values) in tensors.items():
        # Numbers of 32 bits (type 0), from an aligned place on.
        infos += _string(name) + struct.pack(f"<I{len(sizes)}QIQ", len(sizes), *sizes, 0, len(data))
        data += _aligned(values.tobytes())
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(fields))
    head += b"".join(_string(name) + value for name, value in fields) + infos
    path.write_bytes(_aligned(head) + data)


def _string(text: str) -> bytes:
    return struct.pack("<Q", len(text.encode())) + text.encode()


def _u32(number: int) -> bytes:
    return struct.pack("<II", 4, number)


def _bool(value: bool) -> bytes:
    return struct.pack("<I?", 7, value)


def _f32(number: float) -> bytes:
    return struct.pack("<If", 6, number)


def _text(text: str) -> bytes:
    return struct.pack("<I", 8) + _string(text)


def _texts(texts: list[str]) -> bytes:
    return struct.pack("<IIQ", 9, 8, len(texts)) + b"".join(map(_string, texts))


def _numbers(kind: int, code: str, numbers: list[float] | list[int]) -> bytes:
    return struct.pack(f"<IIQ{len(numbers)}{code}", 9, kind, len(numbers), *numbers)


def _aligned(data: bytes) -> bytes:
    return data + bytes(-len(data) % _ALIGNMENT)
