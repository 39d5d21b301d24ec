from __future__ import annotations

import pytest

from gateway.catalog import load_builtin
from gateway.wire.claude_models import EFFORTS, Traits, traits_of

BUDGET = Traits("budget", "", (), samples=True, takes_later_system=False)
FROM_46 = Traits("asked", "", ("low", "medium", "high", "max"), samples=True, takes_later_system=False)
ALWAYS = Traits("unasked", None, EFFORTS, samples=False, takes_later_system=True)
DISABLED = Traits("unasked", "disabled", EFFORTS, samples=False, takes_later_system=True)


@pytest.mark.parametrize(
    ("model", "traits"),
    [
        ("claude-3-7-sonnet-20250219", BUDGET),
        ("claude-opus-4-20250514", BUDGET),
        ("claude-sonnet-4-5-20250929", BUDGET),
        ("us.anthropic.claude-haiku-4-5-20251001-v1:0", BUDGET),
        ("claude-opus-4-6-20260205", FROM_46),
        ("anthropic/claude-sonnet-4.6", FROM_46),
        ("claude-opus-4-7-20260416", Traits("asked", "", EFFORTS, samples=False, takes_later_system=False)),
        ("claude-opus-4-8", Traits("asked", "", EFFORTS, samples=False, takes_later_system=True)),
        ("claude-sonnet-5", Traits("unasked", "disabled", EFFORTS, samples=False, takes_later_system=False)),
        ("claude-opus-5", DISABLED),
        ("claude-haiku-5-5", DISABLED),
        ("claude-sonnet-5-5", Traits("unasked", "between_tools", EFFORTS, samples=False, takes_later_system=True)),
        ("claude-opus-5-5", ALWAYS),
        ("claude-fable-5-2", ALWAYS),
        ("claude-mythos-5", ALWAYS),
        ("claude-sonnet-6", ALWAYS),
        ("glm-5", Traits("unasked", "disabled", EFFORTS, samples=True, takes_later_system=False)),
    ],
)
def test_a_model_takes_what_its_version_takes(model: str, traits: Traits) -> None:
    assert traits_of(model) == traits


def test_every_name_of_the_catalogue_tells_its_version() -> None:
    for model in load_builtin():
        for name in (model.id, *model.aliases):
            assert traits_of(name) != traits_of("unknown"), name
