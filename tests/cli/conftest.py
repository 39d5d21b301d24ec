"""A shell with a configuration and, so far, no data; what it leaves behind must balance."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.storage.database import FILE_NAME
from tests.cli.tools import Shell, make_shell
from tests.ledger_tools import assert_books_balance


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    shell = make_shell(tmp_path)
    yield shell
    if (shell.data / FILE_NAME).exists():
        assert_books_balance(shell.data / FILE_NAME)
