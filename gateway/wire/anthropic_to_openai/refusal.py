"""An OpenAI-compatible upstream's refusal, told to an Anthropic client in words that it acts on.

Where the upstream's wording clearly means something that Anthropic clients recover from, the message becomes the one that they
know: the provider's own for a prompt or a max_tokens that is too long (Claude Code, Cline and OpenClaw shrink and go on), else
`capability_rejected: CLASS` (PROTOCOL.md, "Anthropic gateway contract"): Claude Code repeats without the field. What the upstream
said stands beside it as `upstream_message`. All else keeps the upstream's message.

Wordings of OpenAI, vLLM, DeepSeek, Ollama, OpenRouter and llama.cpp are as quoted in issue trackers, read 2026-11-20; those of
SGLang, TGI, Mistral, Gemini, xAI and Groq are not verified. Claude Code 2.1.329 was seen to act on what is said of a prompt, of
max_tokens, effort, system messages and images (2026-11-20); documents, media and structured outputs were not tried.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import msgspec

_MESSAGE_LENGTH_MAX = 2_000
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

_TYPES = {
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
}

# The first that matches wins. `limit` and `input` are tokens; `output` is what max_tokens asked for, `total` the sum of both.
# Thousands may be written with commas.
_N = r"\d[\d,]*"
_TOO_LONG = tuple(
    re.compile(pattern.replace("N!", _N), re.IGNORECASE | re.DOTALL)
    for pattern in (
        # vLLM: 'max_tokens' or 'max_completion_tokens' is too large: 128000. This model's maximum context length is 32768 tokens
        # and your request has 25 input tokens (128000 > 32768 - 25).
        r"is too large: (?P<output>N!)\..*maximum context length is (?P<limit>N!) tokens.*has (?P<input>N!) input tokens",
        # OpenAI: max_tokens is too large: 128000. This model supports at most 16384 completion tokens, whereas you provided …
        r"is too large: (?P<output>N!)\..*supports at most (?P<limit>N!) completion tokens",
        # OpenAI, vLLM, DeepSeek; OpenRouter ("about", "of text input", "in the output").
        r"maximum context length is (?P<limit>N!) tokens.*requested (?:about )?(?P<total>N!) tokens \((?P<input>N!) "
        r"(?:in the messages|of text input|in your prompt|in the prompt)[^)]*?(?P<output>N!)",
        # SGLang: Requested token count exceeds the model's maximum context length of 8192 tokens. You requested a total of 9000
        # tokens: 8000 tokens from the input messages and 1000 tokens for the completion.
        r"maximum context length of (?P<limit>N!) tokens.*total of (?P<total>N!) tokens: (?P<input>N!) tokens from the input "
        r"messages and (?P<output>N!) tokens",
        # vLLM: You passed 30000 input tokens and requested 4000 output tokens. However, the model's context length is only 32768
        # tokens …
        r"passed (?P<input>N!) input tokens and requested (?P<output>N!) output tokens.*context length is only (?P<limit>N!)",
        # TGI: `inputs` tokens + `max_new_tokens` must be <= 4096. Given: 3000 `inputs` tokens and 2000 `max_new_tokens`
        r"must be <= (?P<limit>N!)\. Given: (?P<input>N!) `inputs` tokens and (?P<output>N!)",
        # OpenAI: This model's maximum context length is 128000 tokens. However, your messages resulted in 130043 tokens.
        r"maximum context length is (?P<limit>N!) tokens.*resulted in (?P<input>N!) tokens",
        # llama.cpp: request (4390 tokens) exceeds the available context size (4096 tokens), try increasing it
        r"request \((?P<input>N!) tokens\) exceeds the available context size \((?P<limit>N!) tokens\)",
        # vLLM: The decoder prompt (length 40000) is longer than the maximum model length of 32768.
        r"prompt \((?:length|contains) (?P<input>N!)[^)]*\) is longer than the maximum model length of (?P<limit>N!)",
        # SGLang: The input (9000 tokens) is longer than the model's context length (8192 tokens).
        r"input \((?P<input>N!) tokens\) is longer than the model's context length \((?P<limit>N!) tokens\)",
        # Mistral: Prompt contains 40000 tokens and 0 draft tokens, too large for model with 32768 maximum context length
        r"prompt contains (?P<input>N!) tokens.*too large for model with (?P<limit>N!) maximum context length",
        # Gemini: The input token count (1100000) exceeds the maximum number of tokens allowed (1048576).
        r"input token count \((?P<input>N!)\) exceeds the maximum number of tokens allowed \((?P<limit>N!)\)",
        # xAI: This model's maximum prompt length is 131072 but the request contains 537812 tokens.
        r"maximum prompt length is (?P<limit>N!) but the request contains (?P<input>N!) tokens",
        r"context_length_exceeded|exceed_context_size_error|exceeds the available context size|exceeds the context window"
        r"|context size has been exceeded|maximum context length|reduce the length of the messages",
    )
)

_CAN_NOT = (
    r"(?:not (?:currently )?(?:be )?(?:supported|support|permitted|available|allowed)|n't support|unsupported|unrecogni[sz]ed"
    r"|unknown|unavailable|extra inputs|invalid|unexpected|input should be)"
)
_CLASSES = tuple(
    (kind, re.compile(pattern, re.IGNORECASE | re.DOTALL))
    for kind, pattern in (
        # Templates of Qwen and others (vLLM, llama.cpp, Ollama); Mistral: Unexpected role 'system' after role 'user'.
        ("mid_conv_system", r"system message must be (?:at the beginning|the first)|unexpected role 'system' after role"),
        # OpenAI: Function tools with reasoning_effort are not supported for …; Unrecognized request argument supplied: …
        # Ollama: "llama3" does not support thinking.
        (
            "effort_unsupported",
            rf"reasoning_effort.*{_CAN_NOT}|{_CAN_NOT}.*reasoning_effort|does not support thinking|think value .* not supported",
        ),
        ("structured_outputs_unsupported", rf"response_format.*{_CAN_NOT}|{_CAN_NOT}.*response_format"),
        # vLLM: At most 4 image(s) may be provided in one prompt.
        ("media_budget", r"at most [1-9]\d* image|too many images"),
        # OpenAI: Invalid content type. image_url is only supported by certain models. DeepSeek: unknown variant `image_url`.
        # vLLM: … is not a multimodal model; At most 0 image(s). llama.cpp: image input is not supported. OpenRouter: No endpoints
        # found that support image input. And pictures that cannot be read.
        (
            "image_block",
            r"image_url.{0,40}only supported by certain models|(?:variant|part type|content type|type)\W{1,4}image_url"
            r"|image_url.{0,20}not supported|not support image|image input is not supported|support image input"
            r"|not a multimodal model|at most 0 image|unsupported image|invalid image|not represent a valid image"
            r"|(?:could not|cannot|failed to) (?:process|decode|load|read) (?:the )?image",
        ),
        (
            "document_block",
            # Of the parts that we make, a file is the only one that llama.cpp does not know.
            r"unsupported content\[\]\.type"
            r"|(?:variant|part type|content type|type|value)\W{1,4}file\b|not support (?:file|pdf|document)|file_data"
            r"|file input is not supported|(?:could not|cannot|failed to) (?:process|parse|read) (?:the )?(?:pdf|file|document)",
        ),
    )
)


@dataclass(frozen=True, slots=True)
class Problem:
    """What an upstream says is wrong: its message, "" if it has none, and the words of its `type` and `code`."""

    message: str
    kind: str


def translate_refusal(status: int, body: bytes) -> tuple[int, bytes]:
    """The status and the Anthropic body for an upstream's error answer.

    Meant for what is the client's: 400, 404, 413, 422. Others are rendered alike (llama.cpp says 500 where a chat template or a
    missing encoder refuses): what has a class becomes a 400, as clients look for classes there only.
    """
    problem = read_problem(_decoded(body))
    if problem is None:
        text = "" if body.lstrip()[:1] in (b"<", b"") else body.decode(errors="replace")
        problem = Problem(text.strip()[:_MESSAGE_LENGTH_MAX], "")
    told = known_message(problem)
    if told:
        return 400, _render("invalid_request_error", told, problem.message)
    kind = _TYPES.get(status, "invalid_request_error" if status < 500 else "api_error")
    return status, _render(kind, problem.message or f"The upstream refused the request with status {status} and no message.", "")


def is_clients_fault(body: bytes) -> bool:
    """Whether an error answer says what the client is known to be able to mend, whatever its status."""
    problem = read_problem(_decoded(body))
    return problem is not None and known_message(problem) != ""


def known_message(problem: Problem) -> str:
    """The message that Anthropic clients act on, "" if the problem is none that they know."""
    text = f"{problem.message}\n{problem.kind}"
    for kind, pattern in _CLASSES:
        if pattern.search(text):
            return f"capability_rejected: {kind}"
    for pattern in _TOO_LONG:
        found = pattern.search(text)
        if found:
            return _too_long_message(found.groupdict())
    return ""


def read_problem(answer: object) -> Problem | None:
    """The problem in a decoded error body or event, whatever its shape; None if it is none.

    OpenAI {"error": {…}}, Ollama {"error": "…"}, older vLLM {"object": "error", …}, FastAPI {"detail": …}.
    """
    if not isinstance(answer, dict):
        return None
    error = answer.get("error")
    if isinstance(error, str):
        return Problem(error[:_MESSAGE_LENGTH_MAX], "")
    if not isinstance(error, dict):
        if answer.get("object") == "error" or ("message" in answer and "choices" not in answer):
            error = answer
        elif "detail" in answer:
            detail = answer["detail"]
            return Problem(
                (detail if isinstance(detail, str) else msgspec.json.encode(detail).decode())[:_MESSAGE_LENGTH_MAX], ""
            )
        else:
            return None
    message = error.get("message")
    if isinstance(message, dict | list):  # Mistral's validation errors
        message = msgspec.json.encode(message).decode()
    words = [str(error[key]) for key in ("type", "code", "param") if isinstance(error.get(key), str | int)]
    return Problem(message[:_MESSAGE_LENGTH_MAX] if isinstance(message, str) else "", " ".join(words)[:_MESSAGE_LENGTH_MAX])


def _too_long_message(found: dict[str, str | None]) -> str:
    """In Anthropic's words, with the numbers that the upstream gave; clients compute from them."""
    numbers = {key: int(value.replace(",", "")) for key, value in found.items() if value}
    limit, given, output = numbers.get("limit", 0), numbers.get("input", 0), numbers.get("output", 0)
    if limit and output and given < limit:
        return (
            f"input length and `max_tokens` exceed context limit: {given} + {output} > {limit}, "
            "decrease input length or `max_tokens` and try again"
        )
    return f"prompt is too long: {given} tokens > {limit} maximum" if limit and given else "prompt is too long"


def _decoded(body: bytes) -> Any:
    try:
        return msgspec.json.decode(body)
    except _UNREADABLE:
        return None


def _render(kind: str, message: str, upstream_message: str) -> bytes:
    error = {"type": kind, "message": message} | ({"upstream_message": upstream_message} if upstream_message else {})
    return msgspec.json.encode({"type": "error", "error": error})
