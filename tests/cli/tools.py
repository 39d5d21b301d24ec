"""Commands as people type them, on a data directory of the test's own."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result

from gateway.cli import main

CONFIG = '[[upstreams]]\nname = "demo"\nkind = "demo"\n'


@dataclass
class Shell:
    """`run` types a command; `data` and `config` are named in it unless the test names others."""

    folder: Path

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def config(self) -> Path:
        return self.folder / "pagegrid.toml"

    def bare(self, *words: str, input: str | None = None, env: dict[str, str] | None = None) -> Result:
        clean: dict[str, str | None] = {"PAGEGRID_CONFIG": None, "PAGEGRID_DATA_DIR": None, "PAGEGRID_KEY": None}
        return CliRunner().invoke(main, list(words), input=input, env={**clean, **(env or {})}, prog_name="pagegrid")

    def run(self, *words: str, input: str | None = None) -> Result:
        return self.bare("--data-dir", str(self.data), "--config", str(self.config), *words, input=input)

    def ok(self, *words: str) -> str:
        """stdout of a command that goes well."""
        result = self.run(*words)
        assert result.exit_code == 0, (words, result.output)
        return result.stdout

    def json(self, *words: str) -> Any:
        return json.loads(self.ok(*words, "--json"))

    def refused(self, *words: str, code: int = 1) -> str:
        """stderr of a command that is refused, without a traceback and without a word on stdout."""
        result = self.run(*words)
        assert result.exit_code == code, (words, result.output)
        assert "Traceback" not in result.output and result.stdout == ""
        return result.stderr


def make_shell(folder: Path) -> Shell:
    shell = Shell(folder)
    folder.mkdir(parents=True, exist_ok=True)
    shell.config.write_text(CONFIG)
    return shell
