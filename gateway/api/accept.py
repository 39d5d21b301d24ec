"""Which of two forms of an answer a client asks for (RFC 9110 §12.5.1)."""

from __future__ import annotations

from collections.abc import Sequence


def prefers(accept: Sequence[str], kind: str, *, over: str) -> bool:
    """Whether the `Accept` headers name `kind` with a higher weight than `over`; ranges with a * mean whatever is usual."""
    weights = {kind: 0.0, over: 0.0}
    for part in ",".join(accept).split(","):
        named, *parameters = (text.strip().lower() for text in part.split(";"))
        weight = next((text[2:] for text in parameters if text.startswith("q=")), "1")
        if named in weights:
            weights[named] = _weight(weight)
    return weights[kind] > weights[over]


def _weight(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0
