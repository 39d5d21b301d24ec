"""What a Claude model takes, by its name: thinking, effort, sampling, and instructions in the middle of a conversation.

Only translation asks: a request in Anthropic's own dialect is the client's affair. What a model does not take the provider
refuses with a 400, which a client of another dialect could neither foresee nor mend.

Sources, read 2026-11-20: platform.claude.com/docs/en/build-with-claude/{thinking,effort,mid-conversation-system-messages}, the
migration guides and "what's new" pages of Opus 5.5, Sonnet 5.5 and Haiku 5.5 there, and
skills/claude-api/references/thinking-effort.md in github.com/anthropics/skills.

    version          thinking                    turned off by            effort                 temperature   system later on
    up to 4.5        enabled, with a budget      leaving it out           –                      yes           no
    4.6              adaptive, if asked for      leaving it out           low medium high max    unless it     no
                                                                                                 thinks
    4.7, 4.8         adaptive, if asked for      leaving it out           all five               no            from 4.8 on
    Opus, Sonnet 5   adaptive, unless turned off disabled                 all five               no            Opus
    Haiku 5.5        adaptive, unless turned off disabled                 all five               no            yes
    Sonnet 5.5       adaptive, unless turned off between_tools            all five               no            yes
    all others       adaptive, always            – (lowest effort)        all five               no            yes

A name that tells no version is taken for another maker's model that speaks the dialect: it gets the plain forms.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

Effort = Literal["low", "medium", "high", "xhigh", "max"]

EFFORTS: tuple[Effort, ...] = ("low", "medium", "high", "xhigh", "max")

# Anywhere in the name: clouds put their own words around it. A date (8 digits) is no version; the 3 generation had its name last.
_NEW_NAME = re.compile(r"claude-(opus|sonnet|haiku|fable|mythos)-(\d{1,2})(?:[-.](\d{1,2}))?(?!\d)")
_OLD_NAME = re.compile(r"claude-(\d)(?:[-.](\d))?-(opus|sonnet|haiku)")


@dataclass(frozen=True, slots=True)
class Traits:
    """`thinks` is how thinking comes about: by a budget, if asked for (adaptive), or unless it is turned off.

    `off` is the `thinking.type` that turns it off, "" if nothing need be said, None if it cannot be: the lowest effort is the
    nearest. `efforts` is empty where only a budget steers.
    """

    thinks: Literal["budget", "asked", "unasked"]
    off: Literal["", "disabled", "between_tools"] | None
    efforts: tuple[Effort, ...]
    samples: bool
    takes_later_system: bool


_UNKNOWN = Traits("unasked", "disabled", EFFORTS, samples=True, takes_later_system=False)
_BUDGET = Traits("budget", "", (), samples=True, takes_later_system=False)


def traits_of(model: str) -> Traits:
    new = _NEW_NAME.search(model)
    if new is None:
        return _BUDGET if _OLD_NAME.search(model) else _UNKNOWN
    family, version = new[1], (int(new[2]), int(new[3] or 0))
    if version < (4, 6):
        return _BUDGET
    if version < (4, 7):
        return Traits("asked", "", ("low", "medium", "high", "max"), samples=True, takes_later_system=False)
    if version < (5, 0):
        return Traits("asked", "", EFFORTS, samples=False, takes_later_system=version >= (4, 8))
    return Traits(
        "unasked", _off(family, version), EFFORTS, samples=False, takes_later_system=(family, version) != ("sonnet", (5, 0))
    )


def _off(family: str, version: tuple[int, int]) -> Literal["disabled", "between_tools"] | None:
    if (family == "haiku" and version[0] == 5) or (family in ("opus", "sonnet") and version < (5, 5)):
        return "disabled"
    if family == "sonnet" and version[0] == 5:
        return "between_tools"
    # Also for those that are not out yet: a low effort is refused by none.
    return None
