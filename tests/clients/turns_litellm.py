"""Turns that a user of LiteLLM's SDK takes: `python turns_litellm.py SURFACE MODEL URL SECRET`, run by the python that has it.

SURFACE is LiteLLM's name of a provider, and so says which of the gateway's dialects is spoken. What came of each turn is printed
as one JSON object; it takes seconds to import, so one process takes them all.
"""

import json
import sys

import litellm

litellm.suppress_debug_info = True  # else it writes its advice to stdout

surface, model, url, secret = sys.argv[1:]
named = {"model": f"{surface}/{model}", "api_base": url, "api_key": secret, "num_retries": 0, "max_retries": 0}
messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "say hi"}]
tools = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "The weather of a town.",
            "parameters": {"type": "object", "properties": {"town": {"type": "string"}}, "required": ["town"]},
        },
    }
]


def create():
    return litellm.completion(**named, messages=messages, max_tokens=200).model_dump()


def stream():
    asked = {**named, "messages": messages, "max_tokens": 200, "tools": tools}
    chunks = list(litellm.completion(**asked, stream=True, stream_options={"include_usage": True}))
    return litellm.stream_chunk_builder(chunks, messages=messages).model_dump()


def tool():
    turns = list(messages)
    asking = litellm.completion(**named, messages=turns, tools=tools, max_tokens=200).choices[0].message
    turns.append(asking)
    turns += [{"role": "tool", "tool_call_id": call.id, "content": "rain"} for call in asking.tool_calls]
    return litellm.completion(**named, messages=turns, tools=tools, max_tokens=200).model_dump()


def told(**other):
    try:
        litellm.completion(**{**named, "messages": messages, "max_tokens": 200, **other})
    except Exception as error:
        return {"class": type(error).__name__, "status": getattr(error, "status_code", None), "message": str(error)}
    return None


def no_model():
    return told(model=f"{surface}/nobody-9")


def bad_key():
    return told(api_key="sk-pgrid-" + "0" * 64)


def overloaded():
    return told(messages=[{"role": "user", "content": "be overloaded"}])


def broken():
    try:
        list(litellm.completion(**named, messages=[{"role": "user", "content": "break off"}], max_tokens=200, stream=True))
    except Exception as error:
        return {"class": type(error).__name__, "message": str(error)}
    return None


taken = (create, stream, tool, no_model, bad_key, overloaded, broken)
print(json.dumps({turn.__name__: turn() for turn in taken}, default=str))
