"""How an upstream, or one of its models, stands, in words: the state with its mark, and the reason of a failure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gateway.proxy.walk import Walk

# State → (tone, mark, word), as the macro `state` takes them.
STATES = {
    "serving": ("ok", "s-ok", "Serving"),
    "cooling": ("warn", "s-cool", "Cooling"),
    "rejected": ("bad", "s-bad", "Rejected"),
    "disabled": ("idle", "s-off", "Disabled"),
}
# By the reason of a failed attempt (errors.UpstreamError, upstreams/*.py: judge).
_WORDS = {
    "secret_refused": "401, the provider does not accept the key",
    "credit_exhausted": "the account's credit is used up",
    "rate_limited": "429 rate limited",
    "status_403": "403 forbidden",
    "model_not_found": "404, the provider has no such model",
    "overloaded": "529 overloaded",
    "status_529": "529 overloaded",
    "connect": "no connection",
    "timeout": "no answer in time",
    "silent": "the answer fell silent",
    "reset": "the answer broke off",
    "cut": "the answer broke off",
    "empty": "an answer without content",
    "protocol": "an answer that is not HTTP",
    "encoded": "an answer in an encoding that was not asked for",
    "too_large": "an answer larger than the gateway takes",
}
_STATUS = re.compile(r"status_(\d{3})")


def reason_words(reason: str) -> str:
    """What failed; what has no words of its own is told as the log tells it."""
    status = _STATUS.fullmatch(reason)
    return _WORDS.get(reason) or (f"status {status.group(1)}" if status else reason.replace("_", " "))


@dataclass(frozen=True, slots=True)
class Standing:
    """A state of STATES, the reason of the last failure, and for how long it rests still."""

    state: str
    reason: str = ""
    seconds_left: int = 0


def standing_of(shown: Mapping[str, Any]) -> Standing:
    """Of what the desk shows of an upstream or of a model that rests there: what the provider does not let in is rejected until
    it answers; what cools is asked again when its time is up."""
    if shown["state"] != "cooling":
        return Standing(shown["state"])
    if shown["cause"] in ("secret", "credit"):
        return Standing("rejected", shown["reason"], shown["seconds_left"])
    return Standing("cooling" if shown["seconds_left"] else "serving", shown["reason"], shown["seconds_left"])


def account_state(shown: Mapping[str, Any]) -> Standing:
    """Of a whole account: it cools, too, while each of its models does by itself."""
    whole = standing_of(shown)
    resting = [each for each in map(standing_of, shown["resting_models"]) if each.state == "cooling"]
    if whole.state == "serving" and resting and len(resting) >= shown["models"]:
        return min(resting, key=lambda each: each.seconds_left)
    return whole


def find_stranded(walk: Walk, accounts: Sequence[Mapping[str, Any]]) -> list[str]:
    """Models of which no route serves now; `accounts` as the desk shows them."""
    serving = {each["name"] for each in accounts if account_state(each).state == "serving"}
    resting = {(each["name"], model["model"]) for each in accounts for model in each["resting_models"] if model["seconds_left"]}
    return [
        model.id
        for model in walk.catalog
        if all(place.upstream not in serving or place.place in resting for place in walk.router.deployments(model.id))
    ]


def needs_attention(shown: Mapping[str, Any]) -> bool:
    """Whether any of it rests now."""
    resting = (standing_of(each).state for each in (shown, *shown["resting_models"]))
    return any(state in ("cooling", "rejected") for state in resting)
