"""How something stands, as pages show it: a shape, a word, then a colour (`_forms.html`, state)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class State:
    """`why` is the line below, "" for none; behind it stands the moment that it is about, if there is one."""

    tone: str
    mark: str
    word: str
    why: str = ""
    at_ms: int | None = None
