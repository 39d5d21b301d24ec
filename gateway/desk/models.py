"""The models that are offered, as people choose from them. They are declared, not stored: this needs no database."""

from __future__ import annotations

from typing import Any

from gateway.desk.desk import Declared
from gateway.money import format_usd
from gateway.pricing import Rates


def list_models(declared: Declared) -> list[dict[str, Any]]:
    """In listing order; prices are list prices in USD per million tokens, before the operator's factors."""
    return [
        {
            "id": model.id,
            "display_name": model.display_name,
            "description": model.description,
            "aliases": list(model.aliases),
            "serves": list(model.serves),
            "lifecycle": model.lifecycle,
            "context_tokens": model.context_tokens,
            "max_output_tokens": model.max_output_tokens,
            "prices_usd_per_mtok": {name: format_usd(getattr(model.price.rates, name)) for name in Rates.__slots__},
            "price_assumed": model.price_assumed,
        }
        for model in declared.catalog
    ]
