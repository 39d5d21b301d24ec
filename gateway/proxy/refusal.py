"""What an upstream's answer that is no answer means, as the error that the walk raises for it.

400, 413, 422 and a final 404 pass to the client as the provider wrote them; 401, 403, 429 and 5xx always become our own body,
theirs goes to the log (DESIGN.md, "Dialects").
"""

from __future__ import annotations

from dataclasses import dataclass

from gateway.errors import Code, UpstreamError
from gateway.health import Cause
from gateway.metrics import alarm
from gateway.proxy.ports import Incoming
from gateway.proxy.walk import Station
from gateway.router import Closed
from gateway.upstreams.base import Course, Headers, Judgement
from gateway.wire.bridge import Bridge

# Claude Code gives up on a longer wait, and SDKs would sleep through it: the client is told not to try, and the time in words.
RETRY_AFTER_S_MAX = 60

_CODES: dict[int, Code] = {429: "rate_limited", 529: "upstream_overloaded", 504: "upstream_timeout"}
_FAILED = "The provider behind this gateway failed; nothing was charged."
_LIMITED = "The provider behind this gateway limits its requests right now; try again later."
_OVERLOADED = "The provider behind this gateway is overloaded; try again later."
_SIGNED_ELSEWHERE = (
    "This conversation carries thinking that was signed by a kind of upstream which no longer serves this model, and no other can"
    " read it. Send it without its thinking blocks, or start a new conversation."
)
_MESSAGES = {429: _LIMITED, 529: _OVERLOADED}
# By the reason of an attempt; every other one is `failing`.
_CAUSES: dict[str, Cause] = {
    "secret_refused": "secret",
    "credit_exhausted": "credit",
    "rate_limited": "limited",
    "status_403": "forbidden",
    "model_not_found": "no_model",
    "connect": "connect",
}


@dataclass(frozen=True, slots=True)
class VerbatimAnswer:
    """A refusal that the client must see as the provider wrote it: its recovery matches the wording."""

    status: int
    headers: Headers
    body: bytes


class Refused(UpstreamError):
    """A judged refusal; `verbatim` is what the client sees should it be the last word."""

    course: Course = "next"
    verbatim: VerbatimAnswer | None = None


def judge_refusal(station: Station, incoming: Incoming, body: bytes, bridge: Bridge) -> Refused:
    """Of an answer that is not 2xx."""
    judgement = station.provider.judge(incoming.status, incoming.headers, body)
    status, told = bridge.refusal(incoming.status, body)
    if status == 400 and incoming.status >= 500:
        # Some servers fail where they should refuse; the translator knows the client's fault by its wording.
        judgement = Judgement("verbatim", judgement.reason)
    if judgement.alarm:
        alarm("upstream", f"{station.name} answered {incoming.status}, {judgement.reason}: look at its account and its api_key")
    error = Refused(
        _CODES.get(incoming.status, "upstream_failed"),
        _MESSAGES.get(incoming.status, _FAILED),
        reason=judgement.reason,
        retryable=judgement.course == "next",
        status_seen=incoming.status,
        retry_after_s=judgement.retry_after_s or (1 if incoming.status not in (429, 529) else None),
        detail=body[:300].decode("utf-8", "replace"),
    )
    if incoming.status == 429:
        _tell_long_wait(error)
    error.course = judgement.course
    # What is encoded cannot be passed as it is, without the header that says so.
    if (judgement.course == "verbatim" or incoming.status == 404) and not is_encoded(incoming.headers):
        headers = station.provider.response_headers(incoming.headers)
        if told is not body:
            headers = [("content-type", "application/json"), *(each for each in headers if each[0] != "content-type")]
        error.verbatim = VerbatimAnswer(status, headers, told)
    return error


def judge_stream_error(error_type: str) -> UpstreamError:
    """A stream that begins with an error is a refusal, told late."""
    if error_type == "overloaded_error":
        return UpstreamError("upstream_overloaded", _OVERLOADED, reason="overloaded")
    if error_type == "rate_limit_error":
        return UpstreamError("rate_limited", _LIMITED, reason="rate_limited")
    return UpstreamError("upstream_failed", _FAILED, reason=f"stream_error:{error_type[:40]}", retry_after_s=1)


def judge_closed(closed: Closed) -> UpstreamError:
    """No deployment may be asked now: told as what keeps them from it, with the shortest wait."""
    wait_s = -(-closed.retry_after_ms // 1000)
    if closed.signed:
        return UpstreamError("invalid_request", _SIGNED_ELSEWHERE, reason="signed_elsewhere", retryable=False)
    if closed.full:
        busy = "All of this model's upstreams are busy; try again in a second."
        return UpstreamError("unavailable", busy, reason="all_full", retry_after_s=1)
    if closed.cause == "limited":
        error = UpstreamError("rate_limited", _LIMITED, reason="all_resting", retry_after_s=wait_s)
        _tell_long_wait(error)
        return error
    if closed.cause == "no_model":
        return UpstreamError("not_found", "The provider behind this gateway does not offer this model.", reason="all_resting")
    if closed.reason == "overloaded":
        return UpstreamError("upstream_overloaded", _OVERLOADED, reason="all_resting", retry_after_s=min(wait_s, 5))
    unhealthy = "No upstream of this model is healthy right now; nothing was charged."
    return UpstreamError("unavailable", unhealthy, reason="all_resting", retry_after_s=min(wait_s, 5))


def cause_of(error: UpstreamError) -> Cause | None:
    """What the failure says about the deployment's health; None: nothing, it answered as a healthy one does."""
    if isinstance(error, Refused) and error.course != "next":
        return None
    return _CAUSES.get(error.reason, "failing")


def not_an_answer(content_type: str) -> UpstreamError:
    reason = "html" if content_type == "text/html" else "content_type"
    return UpstreamError(
        "upstream_failed", "The provider behind this gateway answered something else than its protocol.", reason=reason
    )


def is_encoded(headers: Headers) -> bool:
    return any(name == "content-encoding" and value.strip().lower() not in ("", "identity") for name, value in headers)


def _tell_long_wait(error: UpstreamError) -> None:
    if (error.retry_after_s or 0) > RETRY_AFTER_S_MAX:
        error.message += f" It asks to wait {error.retry_after_s} s."
        error.should_retry = False
