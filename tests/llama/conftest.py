"""One llama.cpp for all tests of this room, in a process of its own, and a gateway before it.

Where it is not installed, or does not start, they are skipped and say why.
"""

from __future__ import annotations

import importlib.util
import select
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.gateway_tools import Gateway, open_gateway
from tests.llama.gguf import write_model
from tests.llama.tools import Llama, settings_of

ROOT = Path(__file__).resolve().parents[2]
START_S = 60
STOP_S = 10


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Llama]:
    if importlib.util.find_spec("xllamacpp") is None:
        pytest.skip("llama.cpp is not installed: there is no wheel of xllamacpp for this platform")
    folder = tmp_path_factory.mktemp("llama")
    write_model(folder / "by-heart.gguf")
    log = folder / "llama.log"
    with (
        log.open("wb") as errors,
        subprocess.Popen(
            [sys.executable, "-m", "tests.llama.serve", folder / "by-heart.gguf"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
        ) as process,
    ):
        assert process.stdout is not None and process.stdin is not None
        try:
            ready, _, _ = select.select([process.stdout], [], [], START_S)
            url = process.stdout.readline().decode().strip() if ready else ""
            if not url:
                last = log.read_text(errors="replace").splitlines()[-1:]
                pytest.skip(f"llama.cpp does not start here: {' '.join(last) or f'nothing within {START_S} s'}")
            yield Llama(url)
        finally:
            process.stdin.close()
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()


@pytest.fixture
async def gateway(llama: Llama, tmp_path: Path) -> AsyncIterator[Gateway]:
    async with open_gateway(tmp_path, more=settings_of(llama)) as opened:
        yield opened
