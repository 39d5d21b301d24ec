"""The line of deploy/README.md that backs up every day, run as cron would run it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cli.test_serve import run
from tests.cli.tools import CONFIG

GUIDE = Path(__file__).parent.parent.parent / "deploy" / "README.md"


def command(folder: Path) -> str:
    """What stands behind five fields of time and the user, with our places in the place of the guide's."""
    (line,) = re.findall(r"^[\d*]+ [\d*]+ \* \* \* pagegrid (.+)$", GUIDE.read_text(), re.MULTILINE)
    # crontab(5): a % that is not escaped ends the command.
    assert not re.search(r"(?<!\\)%", line)
    for theirs, ours in (
        ("/opt/pagegrid/bin/pagegrid", f"{sys.executable} -m gateway"),
        ("/etc/pagegrid/", f"{folder}/"),
        ("/var/lib/pagegrid", f"{folder}/data"),
        ("/var/backups/pagegrid", f"{folder}/backups"),
        (r"\%", "%"),
    ):
        assert theirs in line
        line = line.replace(theirs, ours)
    return line


@pytest.mark.parametrize("works", [True, False])
def test_it_makes_a_copy_and_deletes_old_ones_only_then(tmp_path: Path, works: bool) -> None:
    (tmp_path / "pagegrid.toml").write_text(CONFIG)
    backups = tmp_path / "backups"
    backups.mkdir(mode=0o700)
    if works:
        assert run(tmp_path, "users", "create", "ada").returncode == 0
    old, young, kept = (backups / name for name in ("2026-01-01.db", "2026-01-02.db", "before-upgrade.db"))
    for file, days in ((old, 32), (young, 29), (kept, 400)):
        file.touch()
        os.utime(file, (time.time() - days * 86_400,) * 2)
    done = subprocess.run(["sh", "-c", command(tmp_path)], capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode == 0) is works, done.stderr
    made = {file.name for file in backups.iterdir()} - {old.name, young.name, kept.name}
    assert young.exists() and kept.exists() and old.exists() is not works and len(made) == works
