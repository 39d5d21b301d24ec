"""The error tree: every refusal of the house, raised where it is known and rendered once, at the door.

    GatewayError                  code, message, and what a client should do next
    ├── ClientError               the client's: told plainly, with the next step
    ├── UpstreamError             the provider's: carries whether another deployment may try, and when
    └── HouseError                ours: disk, writer, start-up; always 503 or 500, never shown as the client's fault

A code is turned into an HTTP status and each dialect's error type by the one table below (DESIGN.md, "Errors"; the statuses
are those that real clients handle best, see PROTOCOL.md). Secrets and request bodies never enter a message.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

Code = Literal[
    "invalid_request",
    "unauthenticated",
    "balance_too_low",
    "cap_reached",
    "forbidden",
    "not_found",
    "method_not_allowed",
    "too_large",
    "encoded_body",
    "rate_limited",
    "balance_held",
    "internal",
    "upstream_failed",
    "unavailable",
    "upstream_timeout",
    "upstream_overloaded",
]


class Kind(NamedTuple):
    """How one code is shown: HTTP status, Anthropic `error.type`, OpenAI `error.type`."""

    status: int
    anthropic: str
    openai: str


KINDS: dict[Code, Kind] = {
    "invalid_request": Kind(400, "invalid_request_error", "invalid_request_error"),
    "unauthenticated": Kind(401, "authentication_error", "authentication_error"),
    # Never 401/403 for money: those make Claude Code ask for a login.
    "balance_too_low": Kind(402, "billing_error", "insufficient_quota"),
    # A limit of the key, and the wallet may be full.
    "cap_reached": Kind(402, "billing_error", "insufficient_quota"),
    "forbidden": Kind(403, "permission_error", "permission_error"),
    "not_found": Kind(404, "not_found_error", "invalid_request_error"),
    "method_not_allowed": Kind(405, "invalid_request_error", "invalid_request_error"),
    "too_large": Kind(413, "request_too_large", "invalid_request_error"),
    "encoded_body": Kind(415, "invalid_request_error", "invalid_request_error"),
    "rate_limited": Kind(429, "rate_limit_error", "rate_limit_error"),
    "balance_held": Kind(429, "rate_limit_error", "rate_limit_error"),
    "internal": Kind(500, "api_error", "server_error"),
    "upstream_failed": Kind(502, "api_error", "server_error"),
    # Never overloaded_error: that type makes Claude Code give up after three tries.
    "unavailable": Kind(503, "api_error", "server_error"),
    "upstream_timeout": Kind(504, "timeout_error", "server_error"),
    "upstream_overloaded": Kind(529, "overloaded_error", "server_error"),
}


class GatewayError(Exception):
    """A refusal with a code of KINDS and a message for the person at the other end.

    `retry_after_s` becomes the `retry-after` header (whole seconds); `should_retry` the `x-should-retry` header, which SDKs and
    Claude Code obey over their own rules; `param` names the offending body field.
    """

    def __init__(
        self,
        code: Code,
        message: str,
        *,
        retry_after_s: int | None = None,
        should_retry: bool | None = None,
        param: str | None = None,
    ) -> None:
        super().__init__(message)
        self.code: Code = code
        self.message = message
        self.retry_after_s = retry_after_s
        self.should_retry = should_retry
        self.param = param

    @property
    def status(self) -> int:
        return KINDS[self.code].status


class ClientError(GatewayError):
    """The client's to mend: a bad request, no funds, too fast."""


class HouseError(GatewayError):
    """Ours: the disk, the writer, a start-up that is not finished."""


class UpstreamError(GatewayError):
    """The provider's: another deployment may try if `retryable`.

    `reason` is a short word for the attempt's row and the log: connect, reset, timeout, status_529, html, gzip …
    `status_seen` is what the provider answered, None if it answered nothing. `detail` is for the log only, never for a client.
    """

    def __init__(
        self,
        code: Code,
        message: str,
        *,
        reason: str,
        retryable: bool = True,
        status_seen: int | None = None,
        retry_after_s: int | None = None,
        should_retry: bool | None = None,
        detail: str = "",
    ) -> None:
        super().__init__(code, message, retry_after_s=retry_after_s, should_retry=should_retry)
        self.reason = reason
        self.retryable = retryable
        self.status_seen = status_seen
        self.detail = detail


class LedgerError(ClientError):
    """A movement of money that the rules refuse: a reference used twice, more than is there, an unknown wallet."""
