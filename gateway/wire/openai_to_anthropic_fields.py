"""What becomes of each part of a Chat Completions request at an Anthropic upstream: the tables of web/docs/translation.md.

A plain name is a field of the body; with a dot it is a part of one. Null always means "not there". The code takes its refusals
from here, and tests/wire/test_openai_to_anthropic.py compares the page, the tables and what is decoded.
"""

from __future__ import annotations

from collections.abc import Mapping

from gateway.errors import ClientError

CARRIED: Mapping[str, str] = {
    "model": "`model`, under the name that the upstream knows; the answer bears the name that was asked for",
    "messages": "`system` and `messages`, see below",
    "stream": "`stream`",
    "stream_options": "`include_usage`: a last chunk with the usage; `include_obfuscation`: nothing is padded",
    "max_completion_tokens": "`max_tokens`, at most what the model can",
    "max_tokens": "the same, where `max_completion_tokens` is not given; with neither: the configured default, or the model's "
    "maximum",
    "temperature": "`temperature`, above 1 as 1 (the provider's range ends there); not sent where the model takes none (Claude "
    "from 4.7 on, and any that is asked to think)",
    "top_p": "`top_p`; not sent where it is 1 (no cut) or the model takes none",
    "stop": "`stop_sequences`; one that is blank is refused, as the provider takes none",
    "tools": "`tools`: functions, with `strict` where it is true",
    "tool_choice": "`tool_choice`: `auto`, `none`, `required` → `any`, a named function → `tool`; `allowed_tools` leaves only "
    "those in `tools`",
    "parallel_tool_calls": "false: `tool_choice.disable_parallel_tool_use`",
    "functions": "`tools`; the answer then speaks of a `function_call`",
    "function_call": "`tool_choice`",
    "response_format": "`json_schema`: `output_config.format`, the schema as it is; `text`: nothing",
    "reasoning_effort": "`output_config.effort` (`minimal` as `low`, `xhigh` as `high` where the model has none); Claude 4.6 to "
    "4.8 get adaptive `thinking` with it, models up to 4.5 instead a `thinking` budget that stays below `max_tokens`; `none` "
    "turns thinking off, or where it cannot be, the effort is `low`. Thinking is not turned on where it would be refused: with a "
    "forced tool, and up to 4.5 after tool calls that came back without their thinking",
    "thinking": "Anthropic's own field (by `extra_body`): as it is; a budget must stay below `max_tokens`",
    "safety_identifier": "`metadata.user_id`",
    "user": "the same, where `safety_identifier` is not given",
    "prompt_cache_options": "`ttl`: breakpoints live an hour; mode `explicit`: no breakpoint but the client's own",
    "messages.cache_control": "Anthropic's own mark on a part, a message or a tool (as LiteLLM and OpenRouter know it): as it is",
    "messages.prompt_cache_breakpoint": "`cache_control` (the latest four), for an hour where a `ttl` is given, else for the "
    "usual five minutes",
    "messages.thinking_blocks": "`thinking` blocks, with their signature and in their place",
    "messages.name (user)": "in front of the text: `name: text`",
}

DROPPED: Mapping[str, str] = {
    "metadata": "labels a stored answer, and none is stored",
    "prediction": "makes an answer faster, never another one",
    "prompt_cache_key": "steers a cache of OpenAI's; here it keeps a conversation at its upstream",
    "prompt_cache_retention": "steers a cache of OpenAI's",
    "seed": "best effort by its own definition, and no `system_fingerprint` claims otherwise",
    "store": "this gateway stores no answers",
    "messages.image_url.detail": "the provider chooses the resolution",
    "messages.name (others)": "the model speaks for itself, and a tool is known by its call",
    "messages.reasoning_content": "thinking without its signature, which the provider would refuse; never shown to it as text",
    "messages.blank": "text that is empty or blank, which the provider refuses; a message of nothing else goes with it",
}

REFUSED: Mapping[str, str] = {
    "audio": "the model has no voice; ask for text",
    "frequency_penalty": "the model has no penalties; leave it out, or send 0",
    "logit_bias": "the model has no token biases; leave it out",
    "logprobs": "the model reports no probabilities; leave it out, or send false",
    "modalities": 'the model answers in text only; leave it out, or send ["text"]',
    "moderation": "no moderation is run here; leave it out",
    "n": "the model gives one answer at a time; send 1, or ask again",
    "presence_penalty": "the model has no penalties; leave it out, or send 0",
    "service_tier": "the upstream's tier is not for a request to choose; leave it out, or send auto or default",
    "top_logprobs": "the model reports no probabilities; leave it out, or send 0",
    "verbosity": "the model has no such setting; ask for it in the prompt, or send medium",
    "web_search_options": "the provider's search is paid by the search and not offered in this dialect; use /v1/messages",
    "response_format.json_object": "valid JSON is promised against a schema only; send json_schema",
    "tools.custom": "only functions can be carried; describe the tool as a function",
    "messages.audio": "the model hears no audio; send a transcript",
    "messages.file_id": "files at OpenAI cannot be read from here; send file_data",
    "messages.part": "a message of this role cannot carry a part of this type",
    "messages.media_type": "images can be jpeg, png, gif or webp, files PDF or text",
}

# Under these values a field of REFUSED asks for nothing.
HARMLESS: Mapping[str, tuple[object, ...]] = {
    "frequency_penalty": (0,),
    "logit_bias": ({},),
    "logprobs": (False,),
    "modalities": (["text"], []),
    "n": (1,),
    "presence_penalty": (0,),
    "service_tier": ("auto", "default"),
    "top_logprobs": (0,),
    "verbosity": ("medium",),
}


def refused(what: str, param: str) -> ClientError:
    """The refusal of `what` (a key of REFUSED), which stands at `param`."""
    return misfit(param, REFUSED[what])


def misfit(param: str, reason: str) -> ClientError:
    return ClientError("invalid_request", f"{param}: {reason}.", param=param)
