"""The upstreams as an operator sees them: how each stands now, and whether it can be reached with its secret.

Knows router, stations and what is declared; the desk asks it through `desk.Upstreams`.
"""

from __future__ import annotations

from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any

import orjson

from gateway.clock import Clock
from gateway.config import Settings, Upstream
from gateway.errors import ClientError, UpstreamError
from gateway.health import State
from gateway.proxy.dispatch import ERROR_BODY_BYTES_MAX, read_whole
from gateway.proxy.walk import Station
from gateway.router import Router
from gateway.upstreams.base import Headers

TEST_S = 15


class Switchboard:
    def __init__(self, settings: Settings, router: Router, stations: Mapping[str, Station], clock: Clock) -> None:
        self._settings = settings
        self._router = router
        self._stations = stations
        self._clock = clock

    def show(self) -> list[dict[str, Any]]:
        """Each upstream with its state (serving, cooling or disabled), and those of its models that rest by themselves."""
        return [self._show_one(upstream) for upstream in self._settings.upstreams]

    async def test(self, name: str) -> dict[str, Any]:
        """Ask there for what is free and needs the secret (`Provider.probe`). Raises ClientError for an unknown name.

        `ahead_s` is how far this machine's clock is ahead of the provider's, None if it told no time.
        """
        station = self._stations.get(name)
        if any(upstream.name == name and not upstream.enabled for upstream in self._settings.upstreams):
            raise ClientError("invalid_request", f"the upstream {name} is disabled; enable it first", param="name")
        if station is None:
            raise ClientError("not_found", f"there is no upstream {name!r}; there are: {', '.join(self._stations)}", param="name")
        models = self._models(name)
        if not models:
            return {"name": name, "ok": False, "status": None, "ms": 0, "detail": "it serves no model", "ahead_s": None}
        body = orjson.dumps({"model": models[0], "messages": [{"role": "user", "content": "ping"}]})
        started_ms = self._clock.now_ms()
        status, detail, ahead_s = await self._ask(station, body)
        # An upstream without this endpoint was reached, and may be healthy.
        ok = status is not None and (200 <= status < 300 or status == 404)
        took_ms = self._clock.now_ms() - started_ms
        return {"name": name, "ok": ok, "status": status, "ms": took_ms, "detail": detail, "ahead_s": ahead_s}

    async def _ask(self, station: Station, body: bytes) -> tuple[int | None, str, int | None]:
        """(status, one word, seconds ahead): what `Provider.judge` calls a refusal, or the reason of a failure."""
        try:
            outgoing = station.provider.address(station.provider.probe, "", (), body, stream=False)
            incoming = await station.transport.open(outgoing, connect_s=self._settings.timeouts.connect_s, head_s=TEST_S)
            try:
                answer = await read_whole(incoming, ERROR_BODY_BYTES_MAX, idle_s=TEST_S, total_s=TEST_S)
            except BaseException:
                incoming.abort()
                raise
        except UpstreamError as error:
            return None, f"{error.reason} ({error.detail})" if error.detail else error.reason, None
        date_ms = _parse_date(incoming.headers)
        ahead_s = None if date_ms is None else (self._clock.at_ms() - date_ms) // 1000
        if 200 <= incoming.status < 300:
            return incoming.status, "ok", ahead_s
        return incoming.status, station.provider.judge(incoming.status, incoming.headers, answer).reason, ahead_s

    def _show_one(self, upstream: Upstream) -> dict[str, Any]:
        now_ms = self._clock.now_ms()
        whole, running = self._router.standing(upstream.name, "", now_ms)
        resting = []
        for model in self._models(upstream.name):
            state, _ = self._router.standing(upstream.name, model, now_ms)
            if not state.serving and whole.serving:
                resting.append({"model": model, **_stand(state, now_ms)})
        return {
            "name": upstream.name,
            "kind": upstream.kind,
            "base_url": upstream.base_url,
            "priority": upstream.priority,
            "weight": upstream.weight,
            "max_concurrent": upstream.max_concurrent,
            "running": running,
            "models": len(self._models(upstream.name)),
            **(_stand(whole, now_ms) if upstream.enabled else _DISABLED),
            "resting_models": resting,
        }

    def _models(self, name: str) -> list[str]:
        """The upstream's own names of what it serves, each once."""
        routes = (route for served in self._settings.routes.values() for route in served if route.upstream == name)
        return list(dict.fromkeys(route.model for route in routes))


_DISABLED = {"state": "disabled", "cause": None, "reason": None, "seconds_left": 0}


def _parse_date(headers: Headers) -> int | None:
    """The `Date` of an answer (RFC 9110 §6.6.1), in ms since 1970; None if there is none, or none that can be read."""
    for name, value in headers:
        if name == "date":
            try:
                return int(parsedate_to_datetime(value).timestamp() * 1000)
            except (ValueError, OverflowError):
                return None
    return None


def _stand(state: State, now_ms: int) -> dict[str, Any]:
    if state.serving:
        return {"state": "serving", "cause": None, "reason": None, "seconds_left": 0}
    seconds_left = max(0, -(-(state.until_ms - now_ms) // 1000))
    return {"state": "cooling", "cause": state.cause, "reason": state.reason, "seconds_left": seconds_left}
