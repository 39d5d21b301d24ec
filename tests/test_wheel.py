"""The wheel is whole: installed in an empty folder, away from the checkout, it serves and answers."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
import urllib.request
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_every_package_is_in_the_wheel() -> None:
    """Told by name: what an earlier build left behind can hide one that is missing."""
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    there = {".".join(file.parent.relative_to(ROOT).parts) for file in (ROOT / "gateway").rglob("__init__.py")}
    assert there <= set(declared) and len(declared) == len(set(declared))


def test_the_wheel_serves_from_an_empty_folder(tmp_path: Path) -> None:
    wheels, site, work = tmp_path / "wheels", tmp_path / "site", tmp_path / "work"
    work.mkdir()
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(wheels), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True, timeout=120)
    (wheel,) = wheels.glob("pagegrid-*.whl")
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(site), str(wheel)]
    subprocess.run(install, check=True, capture_output=True, timeout=120)
    # -P and an empty working folder: nothing of the checkout can be found by accident.
    serve = [sys.executable, "-P", "-m", "gateway", "serve", "--port", "0"]
    environment = {**os.environ, "PYTHONPATH": str(site)}
    with subprocess.Popen(serve, cwd=work, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            secret = url = ""
            assert process.stdout is not None
            for line in process.stdout:
                if line.strip().startswith("sk-pgrid-"):
                    secret = line.strip()
                if " listens on " in line:
                    url = line.split()[-1]
                    break
            body = {"model": "claude-haiku-5-5", "max_tokens": 20, "messages": [{"role": "user", "content": "say hi"}]}
            headers = {"x-api-key": secret, "content-type": "application/json"}
            request = urllib.request.Request(url + "/v1/messages", json.dumps(body).encode(), headers)
            with urllib.request.urlopen(request, timeout=10) as answer:
                message = json.load(answer)
            assert message["type"] == "message" and "demo" in message["content"][0]["text"].lower()
            with urllib.request.urlopen(url + "/docs/translation", timeout=10) as answer:
                page = answer.read().decode()
            files = re.findall(r'(?:href|src)="(/static/[^"]+)"', page)
            assert "<h1>Translation between the dialects</h1>" in page and len(files) == 3
            for file in files:
                with urllib.request.urlopen(url + file, timeout=10) as answer:
                    assert answer.read()
        finally:
            process.terminate()
            process.wait(timeout=20)
        assert process.returncode == 0
