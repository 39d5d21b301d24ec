"""gateway/web/docs/translation.md says what the code does: the tables of what is dropped and refused, row by row."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import pytest

from gateway.wire import anthropic_to_openai

PAGE = (Path(__file__).parents[2] / "gateway/web/docs/translation.md").read_text()
ROW = re.compile(r"^\| `([^`]+)` \| (.+) \|$", re.MULTILINE)


def table(direction: str, heading: str) -> dict[str, str]:
    section = PAGE.partition(f"\n## {direction}\n")[2].partition("\n## ")[0]
    return dict(ROW.findall(section.partition(f"\n### {heading}\n")[2].partition("\n### ")[0]))


@pytest.mark.parametrize(
    ("direction", "heading", "code"),
    [
        ("Anthropic client, OpenAI upstream", "Dropped", anthropic_to_openai.DROPPED),
        ("Anthropic client, OpenAI upstream", "Refused", anthropic_to_openai.REFUSED),
    ],
)
def test_the_page_and_the_code_say_the_same(direction: str, heading: str, code: Mapping[str, str]) -> None:
    assert table(direction, heading) == dict(code)
