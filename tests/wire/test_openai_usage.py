from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.usage import Usage
from gateway.wire.openai_usage import ChatUsageReader


def read(*usages: Any, tier: Any = None) -> ChatUsageReader:
    reader = ChatUsageReader()
    for usage in usages:
        reader.read(usage)
    reader.read_tier(tier)
    return reader


def tokens(prompt: int, completion: int, **more: Any) -> dict[str, Any]:
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion} | more


# Recorded shapes: (the usage object, what is to be charged)
SHAPES: list[tuple[dict[str, Any], Usage]] = [
    (tokens(12, 7), Usage(12, 7)),  # Ollama
    (
        tokens(
            2006,
            300,
            prompt_tokens_details={"cached_tokens": 1920, "audio_tokens": 0},
            completion_tokens_details={
                "reasoning_tokens": 256,
                "audio_tokens": 0,
                "accepted_prediction_tokens": 3,
                "rejected_prediction_tokens": 4,
            },
        ),
        Usage(86, 300, cache_read_tokens=1920),
    ),
    # OpenAI from GPT-5.6 on: writes are priced apart.
    (
        tokens(3000, 5, prompt_tokens_details={"cached_tokens": 1000, "cache_write_tokens": 1500}),
        Usage(500, 5, cache_write_5m_tokens=1500, cache_read_tokens=1000),
    ),
    (tokens(75, 31, prompt_tokens_details={"cached_tokens": 30}, reasoning=4), Usage(45, 31, cache_read_tokens=30)),  # llama.cpp
    (tokens(9, 4, prompt_tokens_details=None, completion_tokens_details=None), Usage(9, 4)),  # vLLM
    (
        tokens(10_000, 500, prompt_cache_hit_tokens=9000, prompt_cache_miss_tokens=1000),
        Usage(1000, 500, cache_read_tokens=9000),
    ),  # DeepSeek
    (
        tokens(100, 5, prompt_cache_hit_tokens=64, prompt_cache_miss_tokens=36, prompt_tokens_details={"cached_tokens": 64}),
        Usage(36, 5, cache_read_tokens=64),
    ),
    (tokens(50, 5, cached_tokens=10), Usage(40, 5, cache_read_tokens=10)),  # Moonshot
    (
        tokens(18, 439, queue_time=0.061348671, prompt_time=0.000211569, completion_time=0.798181818, total_time=0.798393387),
        Usage(18, 439),
    ),  # Groq
    (
        tokens(
            3486,
            9685,
            cost=0.011689368,
            is_byok=False,
            prompt_tokens_details={"cached_tokens": 3328, "cache_write_tokens": 0, "audio_tokens": 0, "video_tokens": 0},
            cost_details={"upstream_inference_cost": 0.011689368, "upstream_inference_prompt_cost": 6.7368e-05},
            completion_tokens_details={"reasoning_tokens": 2318, "image_tokens": 0, "audio_tokens": 0},
            server_tool_use={"web_search_requests": 2},
        ),
        Usage(158, 9685, cache_read_tokens=3328, web_searches=2),
    ),  # OpenRouter
    (
        {
            "prompt_tokens": 26,
            "completion_tokens": 168,
            "total_tokens": 498,
            "prompt_tokens_details": {"text_tokens": 26, "audio_tokens": 0, "image_tokens": 0, "cached_tokens": 4},
            "completion_tokens_details": {"reasoning_tokens": 304, "audio_tokens": 0, "accepted_prediction_tokens": 0},
            "num_sources_used": 0,
        },
        Usage(22, 472, cache_read_tokens=4),
    ),  # xAI: reasoning is in the total only
    (
        tokens(1200, 80, cache_creation_input_tokens=300, cache_read_input_tokens=800),
        Usage(100, 80, cache_write_5m_tokens=300, cache_read_tokens=800),
    ),  # LiteLLM in front of Claude
]


@pytest.mark.parametrize(("usage", "expected"), SHAPES)
def test_every_servers_shape_is_charged_as_it_is_meant(usage: dict[str, Any], expected: Usage) -> None:
    reader = read(usage)
    assert reader.total() == expected
    assert (reader.unknown_fields, reader.malformed, reader.told) == (set(), False, True)
    assert reader.output_tokens == expected.output_tokens


def test_the_last_value_of_each_field_wins_and_nothing_is_added_up() -> None:
    first = tokens(10, 1, prompt_tokens_details={"cached_tokens": 4})
    reader = read(first, tokens(10, 2), {"completion_tokens": 3, "total_tokens": 13, "prompt_tokens": None}, None)
    assert reader.total() == Usage(6, 3, cache_read_tokens=4)


def test_hidden_output_that_nothing_explains_is_charged_and_flagged() -> None:
    reader = read({"prompt_tokens": 20, "completion_tokens": 198, "total_tokens": 623})  # Gemini: thoughts
    assert reader.total() == Usage(20, 603) and reader.unknown_fields == {"total_tokens"}


def test_hidden_output_that_may_be_the_cache_is_flagged_and_not_charged() -> None:
    usage = {"prompt_tokens": 20, "completion_tokens": 8, "total_tokens": 5028, "prompt_tokens_details": {"cached_tokens": 5000}}
    reader = read(usage)
    assert reader.total() == Usage(20, 8, cache_read_tokens=5000)
    assert reader.unknown_fields == {"total_tokens", "prompt_tokens"}


def test_a_cache_larger_than_the_prompt_stands_beside_it() -> None:
    reader = read(tokens(20, 8, cache_read_input_tokens=5000, cache_creation_input_tokens=100))
    assert reader.total() == Usage(20, 8, cache_write_5m_tokens=100, cache_read_tokens=5000)
    assert reader.unknown_fields == {"prompt_tokens"}


@pytest.mark.parametrize("value", ["7", -1, True, 1.0, 10**9 + 1, 10**30, []])
def test_what_is_no_count_is_left_out_and_flagged(value: Any) -> None:
    reader = read({"prompt_tokens": 11, "completion_tokens": value})
    assert reader.malformed and reader.total() == Usage(11) and reader.output_tokens is None


@pytest.mark.parametrize("usage", [7, "x", [], True])
def test_what_is_no_object_is_flagged(usage: Any) -> None:
    assert read(usage).malformed


def test_unknown_numbers_are_flagged_by_name_unless_they_are_zero() -> None:
    usage = tokens(1, 2, num_search_queries=3, citation_tokens=0, note="text", flag=True, later=None)
    usage |= {"prompt_tokens_details": {"audio_tokens": 9}, "completion_tokens_details": {"image_tokens": 8, "audio_tokens": 0}}
    reader = read(usage)
    assert reader.unknown_fields == {
        "num_search_queries",
        "prompt_tokens_details.audio_tokens",
        "completion_tokens_details.image_tokens",
    }
    assert reader.total() == Usage(1, 2)
    flooded = read({f"x{i}\n" + "y" * 500: 1 for i in range(1000)})
    assert len(flooded.unknown_fields) == 32
    assert all(len(name) <= 80 and "\n" not in name for name in flooded.unknown_fields)


@pytest.mark.parametrize(
    ("tier", "speed", "flags"),
    [
        (None, "", set()),
        ("default", "", set()),
        ("on_demand", "", set()),
        ("priority", "fast", {"service_tier=priority"}),
        ("fast", "fast", {"service_tier=fast"}),
        ("flex", "", {"service_tier=flex"}),
        (7, "", set()),
    ],
)
def test_the_tier_that_served(tier: Any, speed: str, flags: set[str]) -> None:
    reader = read(tokens(1, 2), tier=tier)
    assert (reader.total().speed, reader.unknown_fields) == (speed, flags)


COUNTS = st.integers(0, 10**6)


@given(COUNTS, COUNTS, COUNTS, COUNTS, COUNTS)
def test_what_is_inside_the_prompt_adds_up_to_it(fresh: int, cached: int, written: int, output: int, reasoning: int) -> None:
    details = {"cached_tokens": cached, "cache_write_tokens": written}
    reasoned = {"reasoning_tokens": min(reasoning, output)}
    prompt = fresh + cached + written
    told = tokens(prompt, output, prompt_tokens_details=details, completion_tokens_details=reasoned)
    assert read(told).total() == Usage(fresh, output, cache_write_5m_tokens=written, cache_read_tokens=cached)
    assert read(told).total().prompt_tokens == prompt
    without = told | {"completion_tokens": output - reasoned["reasoning_tokens"]}
    assert read(without).total() == read(told).total() and not read(without).unknown_fields
