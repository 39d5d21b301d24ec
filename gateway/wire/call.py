"""A request as the walk needs it: only what we act on, read once from the client's own bytes.

The bytes are the request; this is a reading of them. They are forwarded as they came (prompt caches, thinking signatures and
the order of `system` blocks depend on the exact bytes), so nothing here is ever rendered back.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Dialect = Literal["anthropic", "openai"]
CacheClass = Literal["none", "5m", "1h"]


@dataclass(frozen=True, slots=True)
class Call:
    """What a body asks for.

    Sizes are what an input estimate is made from: `text_bytes` is the body without its base64 payloads, `images` counts images,
    `document_bytes` holds the base64 length of each document. `searches_max` is 0 without a web search tool. `fast` and `us` are
    what the request *asks* for (an answer says what was served). `thinking_signed`: earlier answers in it hold thinking that only
    the kind of upstream that signed it takes back. `session` is the session id found in `metadata.user_id`, "" if
    none; `fingerprint` stands for (model, system, tool names, first user message) where no client names its conversation.
    `usage_asked`: the client of an OpenAI stream wants the chunk that tells its usage.
    """

    dialect: Dialect
    body: bytes
    model: str
    stream: bool
    max_tokens: int | None
    text_bytes: int
    images: int = 0
    document_bytes: tuple[int, ...] = ()
    cache: CacheClass = "none"
    searches_max: int = 0
    fast: bool = False
    us: bool = False
    thinking_hidden: bool = False
    thinking_signed: bool = False
    choices: int = 1
    session: str = ""
    fingerprint: str = ""
    usage_asked: bool = False
