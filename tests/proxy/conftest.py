"""A cut waits a second for the client to leave first, and the clients of these tests never do: here it does not wait as long."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def quick_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.api.sink.LEAVE_WITHIN_S", 0.02)
