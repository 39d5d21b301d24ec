"""Who is asked next, and what each answer means for those who are asked after: the one loop over deployments.

At most 3 attempts, none begun later than 150 s after the first. Every attempt is reported to the router: answered, failed with a
cause, or unreported because the client left, or because nobody was asked: what cannot be said in an upstream's dialect goes to
one of another, if any serves the model.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from gateway.errors import ClientError, UpstreamError
from gateway.health import Failure
from gateway.proxy.refusal import cause_of, judge_closed
from gateway.proxy.walk import Walk
from gateway.router import Deployment

logger = logging.getLogger(__name__)

T = TypeVar("T")

ATTEMPTS_MAX = 3
NOT_MOVED = " It was not moved to an upstream of another kind, which could not read this conversation's signed thinking."


@dataclass(frozen=True, slots=True)
class Asker:
    """For whom deployments are asked: the model, whose conversation it is, whether what comes of it tells their health, and
    whether it carries signed thinking."""

    model_id: str
    conversation: str
    key_id: int
    tells_health: bool = True
    signed: bool = False


async def ask_in_order(
    walk: Walk,
    asker: Asker,
    attempt: Callable[[Deployment, int], Awaitable[T]],
    may_go_on: Callable[[], bool] = lambda: True,
) -> tuple[Deployment, T]:
    """The first answer, and whose it is: its `left` is the caller's to report. Raises the UpstreamError that is to be told, or
    ClientError for a request that nobody who serves the model could be sent.

    `attempt(deployment, number)` raises UpstreamError; after one that is retryable the next deployment is asked, as long as
    `may_go_on()`. It raises ClientError, having asked nobody, for what cannot be carried into the upstream's dialect.
    """
    tried: set[Deployment] = set()
    asked = 0
    failure: UpstreamError | None = None
    misfit: ClientError | None = None
    kept_back = False
    give_up_ms = walk.clock.now_ms() + int(walk.rules.attempts_s * 1000)
    while asked < ATTEMPTS_MAX and (asked_ms := walk.clock.now_ms()) < give_up_ms:
        deployment = walk.router.choose(
            asker.model_id, asker.conversation, tried, asked_ms, tells_health=asker.tells_health, signed=asker.signed
        )
        if deployment is None:
            kept_back = asker.signed and walk.router.keeps_back(asker.model_id, asker.conversation, tried, asked_ms)
            break
        tried.add(deployment)
        try:
            answer = await attempt(deployment, asked + 1)
        except ClientError as error:
            misfit = error
            tried.update(_of_its_dialect(walk, asker.model_id, deployment))
            walk.router.left(deployment)
            if asker.tells_health:
                walk.router.unreported(deployment, asked_ms)
        except UpstreamError as error:
            asked += 1
            walk.router.left(deployment)
            _report(walk, asker, deployment, asked_ms, error)
            failure = error if failure is None else _to_tell(failure, error)
            if not error.retryable or not may_go_on():
                break
        except BaseException:
            walk.router.left(deployment)
            if asker.tells_health:
                walk.router.unreported(deployment, asked_ms)
            raise
        else:
            _report(walk, asker, deployment, asked_ms, None)
            return deployment, answer
    if failure is None:
        if misfit is not None and tried.issuperset(walk.router.deployments(asker.model_id)):
            raise misfit
        closed = walk.router.why_closed(asker.model_id, asker.conversation, walk.clock.now_ms(), tried, signed=asker.signed)
        failure = judge_closed(closed)
    if kept_back:
        failure.message += NOT_MOVED
    raise failure


def _of_its_dialect(walk: Walk, model_id: str, deployment: Deployment) -> list[Deployment]:
    """All that serve the model and would have to be sent the same."""
    stations = walk.stations
    dialect = stations[deployment.upstream].provider.dialect
    return [each for each in walk.router.deployments(model_id) if stations[each.upstream].provider.dialect == dialect]


def _report(walk: Walk, asker: Asker, deployment: Deployment, asked_ms: int, error: UpstreamError | None) -> None:
    """Let the router know how it went, and the log if something rests now."""
    cause = None if error is None else cause_of(error)
    if error is not None and cause is not None:
        # What the provider said is for the operator; the client gets words of our own.
        logger.info("%s, %s: %s %s", deployment.upstream, deployment.model, error.reason, error.detail)
    if not asker.tells_health:
        return
    if error is None or cause is None:
        walk.router.answered(deployment, asked_ms)
        return
    retry_after_ms = error.retry_after_s * 1000 if cause == "limited" and error.retry_after_s is not None else None
    failure = Failure(cause, error.reason, asker.conversation, asker.key_id, retry_after_ms, asked_ms)
    now_ms = walk.clock.now_ms()
    rests = walk.router.failed(asker.model_id, asker.conversation, deployment, failure, now_ms)
    if rests is not None:
        upstream, model = rests
        state, _ = walk.router.standing(upstream, model, now_ms)
        what = f"{upstream}, {model}" if model else f"{upstream}, all models"
        logger.warning("%s: rests for %d s (%s)", what, (state.until_ms - now_ms + 999) // 1000, error.reason)


def _to_tell(earlier: UpstreamError, latest: UpstreamError) -> UpstreamError:
    """Of two failures the one that the client hears of: the latest, but of two limits the one that ends sooner."""
    if not earlier.code == latest.code == "rate_limited" or earlier.retry_after_s is None:
        return latest
    return earlier if latest.retry_after_s is None or earlier.retry_after_s < latest.retry_after_s else latest
