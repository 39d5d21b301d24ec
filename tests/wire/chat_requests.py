"""A Chat Completions request, strictly of the official SDK's own types: nothing missing, nothing that it does not know.

Skipped, with the reason, where the openai package is not installed.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Iterable
from typing import Any

import pytest
from pydantic import TypeAdapter


def check_request(request: dict[str, Any]) -> None:
    _consume(_adapter().validate_python(request))


@functools.cache
def _adapter() -> TypeAdapter[Any]:
    pytest.importorskip("openai", reason="the openai package is not installed: pip install -e '.[test]'")
    for package in (importlib.import_module("openai.types.chat"), importlib.import_module("openai.types.shared_params")):
        for found in pkgutil.iter_modules(package.__path__):
            for value in vars(importlib.import_module(f"{package.__name__}.{found.name}")).values():
                if hasattr(value, "__required_keys__") and value.__module__.startswith("openai"):
                    value.__pydantic_config__ = {"extra": "forbid"}
    return TypeAdapter(importlib.import_module("openai.types.chat.completion_create_params").CompletionCreateParams)


def _consume(value: object) -> None:
    """The SDK's lists are Iterables, whose items are looked at only when they are taken."""
    if isinstance(value, dict):
        for each in value.values():
            _consume(each)
    elif isinstance(value, Iterable) and not isinstance(value, str):
        for each in value:
            _consume(each)
