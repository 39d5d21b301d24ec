"""Any server of OpenAI's Chat Completions API: how to address it, how to sign, and what its refusals mean. Pure.

Sources: developers.openai.com/api/docs/guides/error-codes and /rate-limits, the error pages of OpenRouter, Groq and DeepSeek,
and what vLLM, llama.cpp and Ollama were seen to answer (read 2026-11-20). The body passes as it is handed in. Of the client's
headers none but content-type and accept do: `openai-organization` and `openai-project` would name another account than ours, and
no query of a client means anything here. Of the answer's headers only an allowlist is shown, as for `anthropic.py`.

    base_url                              asked for
    https://api.openai.com/v1             https://api.openai.com/v1/chat/completions
    https://openrouter.ai/api/v1          https://openrouter.ai/api/v1/chat/completions
    https://api.deepseek.com              https://api.deepseek.com/chat/completions
"""

from __future__ import annotations

import math
import re
from urllib.parse import urlsplit

from gateway.upstreams.base import Headers, Judgement, Operation, Outgoing
from gateway.upstreams.headers import checked, content_type, first, parse_base_url, request_id, retry_after_s, shown
from gateway.wire.bridge import Habits
from gateway.wire.call import Dialect
from gateway.wire.openai import ErrorText, read_error

PATHS: dict[Operation, str] = {"chat": "/chat/completions", "models": "/models"}

# Waiting does not help: the account has nothing left, or was told to spend no more. OpenAI says so with 429, DeepSeek and
# OpenRouter with 402 (every 402 is one).
_CREDIT_TYPES = frozenset(("insufficient_quota", "billing_error", "exceeded_current_quota_error"))
_CREDIT_CODES = frozenset(("insufficient_quota", "billing_hard_limit_reached", "billing_not_active", "insufficient_balance"))
# Said with 400 or 403 where OpenAI says 404.
_NO_MODEL_CODES = frozenset(("model_not_found", "invalid_model", "model_not_supported"))
_NO_MODEL_MESSAGES = ("Model Not Exist",)  # DeepSeek, whose code is invalid_request_error

_RATE_LIMIT_RESET = re.compile(r"x-ratelimit-reset-([a-z0-9_-]+)")
# Go's durations (OpenAI, Groq: "6m0s", "2m59.56s", "12ms"), or a plain number of seconds (Azure).
_DURATION = re.compile(r"(?:(\d{1,6})h)?(?:(\d{1,6})m)?(?:(\d{1,6}(?:\.\d{1,9})?)s)?(?:(\d{1,9}(?:\.\d{1,9})?)ms)?", re.ASCII)
_SECONDS = re.compile(r"\d{1,6}(?:\.\d{1,9})?", re.ASCII)


class OpenAIProvider:
    kind = "openai"
    dialect: Dialect = "openai"
    estimates_tokens = True
    signs_thinking = False
    probe: Operation = "models"

    def __init__(self, base_url: str, secret: str, headers: Headers = ()) -> None:
        """`base_url` is all that stands before /chat/completions, with or without a trailing slash; `headers` go with every
        request. Without a secret none is sent: a server of one's own may want none. Raises ValueError if the address is none.
        """
        self._base = parse_base_url(base_url)
        self.habits = _habits_of(urlsplit(self._base).hostname or "")
        self._headers = tuple((name.lower(), value) for name, value in headers)
        self._credential: Headers = (("authorization", f"Bearer {secret}"),) if secret else ()

    def address(self, operation: Operation, query: str, headers: Headers, body: bytes, *, stream: bool) -> Outgoing:
        """Raises ClientError if a header that would be forwarded cannot stand in a request."""
        common = (("accept-encoding", "identity"), *self._headers, *self._credential)
        url = self._base + PATHS[operation]
        if operation == "models":
            return Outgoing(url, (("accept", "application/json"), *common), b"", stream=False, method="GET")
        forwarded = (
            ("content-type", checked("content-type", content_type(headers))),
            ("accept", checked("accept", first(headers, "accept", "application/json"))),
        )
        return Outgoing(url, (*forwarded, *common), body, stream)

    def judge(self, status: int, headers: Headers, body: bytes) -> Judgement:
        word = f"status_{status}"
        error = read_error(body)
        if status == 402 or (status in (400, 403, 429) and _is_credit(error)):
            return Judgement("next", "credit_exhausted", alarm=True)
        if status == 404 or (status in (400, 403) and _is_no_model(error)):
            # The model is not at this deployment; where no deployment is left the dispatcher passes a 404 verbatim.
            return Judgement("next", "model_not_found")
        if status in (400, 413, 422):
            return Judgement("verbatim", word)
        if status < 400:
            return Judgement("next", "redirect")
        if status == 401:
            return Judgement("next", "secret_refused", alarm=True)
        if status == 403 and b'"flagged_input"' in body:
            # OpenRouter's moderation: about this request alone, and every account would say the same.
            return Judgement("verbatim", "moderated")
        if status == 429:
            wait_s = retry_after_s(headers)
            return Judgement("next", "rate_limited", _reset_s(headers) if wait_s is None else wait_s)
        if status == 529:
            return Judgement("next", "overloaded", retry_after_s(headers))
        if status >= 500 or status in (403, 405, 408, 409, 410, 425, 498):
            # Below 500: of this account, address or moment, not of the request. 498 is Groq's "flex tier is full".
            return Judgement("next", word, retry_after_s(headers))
        # 406, 411, 414, 415, 431 …: every upstream would say the same of this request.
        return Judgement("final", word)

    def response_headers(self, headers: Headers) -> list[tuple[str, str]]:
        return shown(headers)

    def upstream_request_id(self, headers: Headers) -> str:
        """x-request-id nearly everywhere, x-generation-id at OpenRouter."""
        return request_id(headers, "x-request-id", "x-generation-id")


def _habits_of(host: str) -> Habits:
    """What is known of single providers; every other server gets what the most of them take."""
    if host == "api.openai.com" or host.endswith(".openai.azure.com"):
        return Habits(max_tokens_field="max_completion_tokens", effort_with_tools="none")
    if host == "api.deepseek.com":
        return Habits(reasoning_field="reasoning_content")
    return Habits()


def _is_credit(error: ErrorText) -> bool:
    return error.type in _CREDIT_TYPES or error.code in _CREDIT_CODES


def _is_no_model(error: ErrorText) -> bool:
    return error.code in _NO_MODEL_CODES or error.type in _NO_MODEL_CODES or error.message in _NO_MODEL_MESSAGES


def _reset_s(headers: Headers) -> int | None:
    """Until the exhausted limit is refilled: the latest of those that have nothing left, or the earliest of all if none admits
    to it. None if no header says."""
    waits, exhausted = [], []
    for name, value in headers:
        match = _RATE_LIMIT_RESET.fullmatch(name)
        wait_s = _duration_s(value.strip()) if match else None
        if match and wait_s is not None:
            waits.append(wait_s)
            if first(headers, f"x-ratelimit-remaining-{match[1]}", "").strip() == "0":
                exhausted.append(wait_s)
    return max(exhausted) if exhausted else min(waits, default=None)


def _duration_s(text: str) -> int | None:
    """Whole seconds, upwards, at least one."""
    if _SECONDS.fullmatch(text):
        return max(1, math.ceil(float(text)))
    match = _DURATION.fullmatch(text)
    if match is None or not text:
        return None
    hours, minutes, seconds, milliseconds = (float(part or 0) for part in match.groups())
    return max(1, math.ceil(hours * 3600 + minutes * 60 + seconds + milliseconds / 1000))
