"""Refusals of OpenAI-compatible servers, in the servers' own wordings, and what an Anthropic client is told instead."""

from __future__ import annotations

import json
from typing import Any

import pytest
from anthropic.types import ErrorResponse
from hypothesis import given
from hypothesis import strategies as st

from gateway.wire.anthropic_to_openai import translate_refusal
from gateway.wire.bridge import Crossing, OpenAIBridge
from gateway.wire.openai import parse_chat

OVERFLOW = "input length and `max_tokens` exceed context limit: {} + {} > {}, decrease input length or `max_tokens` and try again"
TOO_LONG = "prompt is too long: {} tokens > {} maximum"

# Where from, what the server says, what the client is told.
WORDINGS: list[tuple[str, str | dict[str, Any], str]] = [
    (
        "OpenAI",
        "This model's maximum context length is 128000 tokens. However, your messages resulted in 130043 tokens. Please …",
        TOO_LONG.format(130043, 128000),
    ),
    (
        "OpenAI, vLLM, DeepSeek",
        "This model's maximum context length is 16384 tokens. However, you requested 122946 tokens (112946 in the messages,"
        " 10000 in the completion). Please reduce the length of the messages or completion.",
        TOO_LONG.format(112946, 16384),
    ),
    (
        "OpenAI, vLLM, DeepSeek",
        "This model's maximum context length is 6048 tokens. However, you requested 6616 tokens (568 in the messages,"
        " 6048 in the completion). Please reduce the length of the messages or completion.",
        OVERFLOW.format(568, 6048, 6048),
    ),
    (
        "OpenRouter",
        "This endpoint's maximum context length is 131,072 tokens. However, you requested about 150,000 tokens (22,000 of"
        " text input, 128,000 in the output). Please reduce the length of either one, or use the middle-out transform.",
        OVERFLOW.format(22000, 128000, 131072),
    ),
    (
        "vLLM",
        "'max_tokens' or 'max_completion_tokens' is too large: 128000. This model's maximum context length is 32768 tokens and"
        " your request has 25 input tokens (128000 > 32768 - 25).",
        OVERFLOW.format(25, 128000, 32768),
    ),
    (
        "OpenAI",
        "max_tokens is too large: 128000. This model supports at most 16384 completion tokens, whereas you provided 128000.",
        OVERFLOW.format(0, 128000, 16384),
    ),
    (
        "vLLM",
        "You passed 30000 input tokens and requested 4000 output tokens. However, the model's context length is only 32768 …",
        OVERFLOW.format(30000, 4000, 32768),
    ),
    (
        "vLLM",
        "The decoder prompt (length 40000) is longer than the maximum model length of 32768.",
        TOO_LONG.format(40000, 32768),
    ),
    (
        "SGLang",
        "Requested token count exceeds the model's maximum context length of 8192 tokens. You requested a total of 9000 tokens:"
        " 8000 tokens from the input messages and 1000 tokens for the completion.",
        OVERFLOW.format(8000, 1000, 8192),
    ),
    ("SGLang", "The input (9000 tokens) is longer than the model's context length (8192 tokens).", TOO_LONG.format(9000, 8192)),
    (
        "TGI",
        "`inputs` tokens + `max_new_tokens` must be <= 4096. Given: 3000 `inputs` tokens and 2000 `max_new_tokens`",
        OVERFLOW.format(3000, 2000, 4096),
    ),
    (
        "llama.cpp",
        "request (4390 tokens) exceeds the available context size (4096 tokens), try increasing it",
        TOO_LONG.format(4390, 4096),
    ),
    (
        "llama.cpp, older",
        {"message": "the request exceeds the available context size. try increasing it", "type": "exceed_context_size_error"},
        "prompt is too long",
    ),
    (
        "Mistral",
        "Prompt contains 40000 tokens and 0 draft tokens, too large for model with 32768 maximum context length",
        TOO_LONG.format(40000, 32768),
    ),
    (
        "Gemini",
        "The input token count (1100000) exceeds the maximum number of tokens allowed (1048576).",
        TOO_LONG.format(1100000, 1048576),
    ),
    (
        "xAI",
        "This model's maximum prompt length is 131072 but the request contains 537812 tokens.",
        TOO_LONG.format(537812, 131072),
    ),
    (
        "OpenAI",
        "Your input exceeds the context window of this model. Please adjust your input and try again.",
        "prompt is too long",
    ),
    ("Groq", {"message": "Too much.", "code": "context_length_exceeded"}, "prompt is too long"),
    (
        "OpenAI",
        "Function tools with reasoning_effort are not supported for gpt-5.6-terra in /v1/chat/completions. To use function tools,"
        " use /v1/responses or set reasoning_effort to 'none'.",
        "capability_rejected: effort_unsupported",
    ),
    ("OpenAI", "Unrecognized request argument supplied: reasoning_effort", "capability_rejected: effort_unsupported"),
    (
        "OpenAI",
        "Unsupported value: 'reasoning_effort' does not support 'max' with this model. Supported values are: 'low' and 'high'.",
        "capability_rejected: effort_unsupported",
    ),
    ("Groq", "property 'reasoning_effort' is unsupported", "capability_rejected: effort_unsupported"),
    ("Ollama", '"llama3.2:1b" does not support thinking', "capability_rejected: effort_unsupported"),
    ("Ollama", 'think value "xhigh" is not supported for this model', "capability_rejected: effort_unsupported"),
    (
        "OpenAI",
        "Invalid parameter: 'response_format' of type 'json_schema' is not supported with this model.",
        "capability_rejected: structured_outputs_unsupported",
    ),
    ("DeepSeek", "This response_format type is unavailable now", "capability_rejected: structured_outputs_unsupported"),
    ("Qwen's template", "System message must be at the beginning.", "capability_rejected: mid_conv_system"),
    ("Mistral", "Unexpected role 'system' after role 'user'", "capability_rejected: mid_conv_system"),
    ("OpenAI", "Invalid content type. image_url is only supported by certain models.", "capability_rejected: image_block"),
    (
        "DeepSeek",
        "Failed to deserialize the JSON body into the target type: messages[7]: unknown variant `image_url`, expected `text`",
        "capability_rejected: image_block",
    ),
    ("Ollama", "this model does not support image input (ref: b8bd630e)", "capability_rejected: image_block"),
    ("llama.cpp", "image input is not supported - hint: if this is unexpected, …", "capability_rejected: image_block"),
    ("llama.cpp", 'Failed to parse messages: Unsupported content part type: "image_url"', "capability_rejected: image_block"),
    ("vLLM", "tiny is not a multimodal model", "capability_rejected: image_block"),
    ("vLLM", "At most 0 image(s) may be provided in one prompt.", "capability_rejected: image_block"),
    ("OpenRouter", "No endpoints found that support image input", "capability_rejected: image_block"),
    ("OpenAI", "You uploaded an unsupported image. Please make sure your image is valid.", "capability_rejected: image_block"),
    ("vLLM", "At most 4 image(s) may be provided in one prompt.", "capability_rejected: media_budget"),
    ("DeepSeek", "messages[1]: unknown variant `file`, expected `text`", "capability_rejected: document_block"),
    ("llama.cpp", "unsupported content[].type", "capability_rejected: document_block"),
    ("OpenAI", "Invalid value: 'file'. Supported values are: 'text'.", "capability_rejected: document_block"),
]


def told(status: int, body: bytes) -> tuple[int, dict[str, Any]]:
    status, answer = translate_refusal(status, body)
    error = json.loads(answer)["error"]
    # The SDK's own types leave this one out; the provider's list of errors has it.
    if error["type"] != "request_too_large":
        ErrorResponse.model_validate_json(answer)
    return status, error


@pytest.mark.parametrize(("server", "said", "expected"), WORDINGS)
@pytest.mark.parametrize("status", [400, 413, 422, 500])
def test_a_wording_becomes_what_clients_act_on(server: str, said: str | dict[str, Any], expected: str, status: int) -> None:
    error = said if isinstance(said, dict) else {"message": said, "type": "invalid_request_error", "param": None, "code": None}
    seen, shown = told(status, json.dumps({"error": error}).encode())
    assert (seen, shown["type"], shown["message"]) == (400, "invalid_request_error", expected)
    assert shown["upstream_message"] == error["message"]


@pytest.mark.parametrize(
    "message",
    [
        "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.",
        "Invalid 'tools[3].function.name': string too long. Expected a string with maximum length 64, but got length 70.",
        "Invalid 'messages[1].tool_calls[0].id': string too long. Expected a string with maximum length 40.",
        "An assistant message with 'tool_calls' must be followed by tool messages responding to each 'tool_call_id'.",
        "The model `gpt-9` does not exist or you do not have access to it.",
        "Unsupported value: 'temperature' does not support 0.5 with this model. Only the default (1) value is supported.",
        "The `reasoning_content` in the thinking mode must be passed back to the API.",
        "Invalid schema for function 'Bash': In context=(), object schema missing properties.",
        "Conversation roles must alternate user/assistant/user/assistant/...",
    ],
)
def test_every_other_message_is_kept(message: str) -> None:
    assert told(400, json.dumps({"error": {"message": message, "type": "invalid_request_error"}}).encode()) == (
        400,
        {"type": "invalid_request_error", "message": message},
    )


@pytest.mark.parametrize(
    ("status", "message", "told_status"),
    [
        (500, "image input is not supported - hint: if this is unexpected, you may need to provide the mmproj", 400),
        (500, "The server had an error while processing your request.", 500),
        (422, "image input is not supported", 422),
        (503, "Loading model", 503),
    ],
)
def test_a_client_of_the_servers_own_dialect_hears_its_own_words_as_a_fault_that_it_can_mend(
    status: int, message: str, told_status: int
) -> None:
    call = parse_chat(b'{"model":"m","messages":[{"role":"user","content":"hi"}]}')
    bridge = OpenAIBridge(Crossing(call, "m", max_output_tokens=100, input_estimate=1, answer_id="chatcmpl-1", created=0))
    body = json.dumps({"error": {"code": status, "message": message, "type": "server_error"}}).encode()
    assert bridge.refusal(status, body) == (told_status, body)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"error":"model not found"}', "model not found"),
        (b'{"object":"error","message":"no","type":"BadRequestError","code":400}', "no"),
        (b'{"message":"no"}', "no"),
        (b'{"detail":"Not Found"}', "Not Found"),
        (b'{"detail":[{"loc":["body","x"],"msg":"field required"}]}', '[{"loc":["body","x"],"msg":"field required"}]'),
        (b'{"object":"error","message":{"detail":[1]}}', '{"detail":[1]}'),
        (b"plain words\n", "plain words"),
        (b"<html>oops", "The upstream refused the request with status 400 and no message."),
        (b"", "The upstream refused the request with status 400 and no message."),
        (b'{"error":{}}', "The upstream refused the request with status 400 and no message."),
    ],
)
def test_every_shape_of_error_is_read(body: bytes, message: str) -> None:
    assert told(400, body)[1]["message"] == message


@pytest.mark.parametrize(
    ("status", "kind"),
    [(400, "invalid_request_error"), (404, "not_found_error"), (413, "request_too_large"), (422, "invalid_request_error")],
)
def test_the_status_is_kept_and_named(status: int, kind: str) -> None:
    assert told(status, b'{"error":{"message":"no"}}') == (status, {"type": kind, "message": "no"})
    assert told(status, b"")[1]["type"] == kind


@given(
    st.integers(400, 599),
    st.binary(max_size=200) | st.dictionaries(st.text(max_size=8), st.text(max_size=8)).map(lambda x: json.dumps(x).encode()),
)
def test_nothing_that_an_upstream_says_raises(status: int, body: bytes) -> None:
    assert told(status, body)[1]["message"]
