"""Every kind of upstream there is: one line each. `kind` in the configuration names a key of KINDS."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from gateway.upstreams.anthropic import AnthropicProvider
from gateway.upstreams.base import Headers, Provider
from gateway.upstreams.demo import DemoProvider, DemoTransport
from gateway.upstreams.openai import OpenAIProvider
from gateway.upstreams.transport import HttpTransport


@dataclass(frozen=True, slots=True)
class Kind:
    """`build(base_url, secret, headers)` gives the provider, or raises ValueError saying what is wrong with the address. The
    headers are the operator's own, sent with every request by the kinds that take some.

    `transport` is what its requests travel by; the house opens one of each class (on the running loop) and closes it.
    """

    build: Callable[[str, str, Headers], Provider]
    transport: type[HttpTransport] | type[DemoTransport]


KINDS: dict[str, Kind] = {
    "anthropic": Kind(lambda base_url, secret, headers: AnthropicProvider(base_url, secret), HttpTransport),
    "openai": Kind(OpenAIProvider, HttpTransport),
    "demo": Kind(lambda base_url, secret, headers: DemoProvider(), DemoTransport),
}
