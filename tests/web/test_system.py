"""The system's page: no secret of the configuration is on it, a backup goes where it should and nowhere else."""

from __future__ import annotations

import dataclasses
import re
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from gateway import chores
from gateway.config import parse
from gateway.config.shown import HIDDEN, show_settings
from gateway.desk import backup
from gateway.errors import ClientError
from gateway.storage.audit import audit
from gateway.storage.database import open_reader
from gateway.web.admin import system
from gateway.web.admin.system import CHORES
from tests.gateway_tools import Gateway, until
from tests.web.scene import open_scene
from tests.web.tools import Visitor, make_visitor, open_site

SECRETS = {
    "api_key": "sk-ant-SECRET-in-the-file",
    "header": "SECRET-header-value",
    "metrics": "SECRET-metrics-token",
    "webhook": "SECRET-webhook-key",
    "url": "SECRET-in-the-path",
    "other": "sk-SECRET-of-a-file",
}


def config_full_of_secrets(folder: Path) -> str:
    for name in ("metrics", "webhook", "other"):
        (folder / name).write_text(SECRETS[name])
        (folder / name).chmod(0o600)
    return f"""
[server]
metrics_token_file = "metrics"
trusted_proxies = ["10.0.0.0/8"]
[billing]
factor = "1.1"
demo_credit = "3.75"
[notices]
webhook_url = "https://hooks.example/services/{SECRETS["url"]}"
webhook_secret_file = "webhook"
[[upstreams]]
name = "routed"
kind = "openai"
base_url = "https://router.example/api/v1"
api_key_file = "other"
headers = {{ "X-Title" = "{SECRETS["header"]}" }}
[[upstreams]]
name = "direct"
kind = "anthropic"
api_key = "{SECRETS["api_key"]}"
enabled = false
[plans.pro]
factor = "0.9"
spend_per_day = "5"
"""


async def test_no_secret_is_on_the_page(tmp_path: Path) -> None:
    async with open_site(tmp_path, config_full_of_secrets(tmp_path)) as gateway:
        root = await make_visitor(gateway, "root", role="admin")
        shown = (await root.get("/admin/system")).body.decode()
        for secret in SECRETS.values():
            assert secret not in shown and "SECRET" not in shown
        # Names are told, and that there is one.
        for words in (
            "X-Title (values not shown)",
            "https://hooks.example/…",
            HIDDEN,
            "10.0.0.0/8",
            "$3.75",
            "metrics_token_file",
        ):
            assert words in shown, words
        refused = (await root.post("/admin/system/backup", csrf="wrong")).body.decode()
        assert "SECRET" not in refused


def test_what_is_of_an_unknown_type_is_hidden(tmp_path: Path) -> None:
    settings = parse(config_full_of_secrets(tmp_path), str(tmp_path / "pagegrid.toml"), {})
    planted = settings.brand.model_copy(
        update={"support": SecretStr("SECRET-planted"), "name": {"SECRET": 1}, "key_prefix": b"SECRET"}
    )
    for section in show_settings(dataclasses.replace(settings, brand=planted)):
        for option in section.options:
            assert "SECRET" not in option.text, (section.title, option)
    brand = next(section for section in show_settings(dataclasses.replace(settings, brand=planted)) if section.title == "brand")
    assert [option.text for option in brand.options] == [HIDDEN] * 3


def test_every_option_of_the_file_is_shown(tmp_path: Path) -> None:
    settings = parse(config_full_of_secrets(tmp_path), str(tmp_path / "pagegrid.toml"), {})
    shown = {section.title: {option.name: option for option in section.options} for section in show_settings(settings)}
    assert shown["billing"]["factor"].text == "1.1" and not shown["billing"]["factor"].default
    assert shown["billing"]["demo_credit"].text == "$3.75" and shown["timeouts"]["shutdown_s"].default
    assert shown["server"]["metrics token"].text == HIDDEN and shown["notices"]["webhook secret"].text == HIDDEN
    assert shown["upstream direct"]["enabled"].text == "false" and shown["upstream routed"]["secret"].text == HIDDEN
    assert shown["server"]["mounts"].text == '"", /api, /api/proxy'


def test_every_chore_has_words() -> None:
    started = re.search(r"chores: tuple.*?\n    \)\n", Path(chores.__file__).read_text(), re.DOTALL)
    assert started is not None
    assert set(re.findall(r"\(\w+, (?:\w+\.)?(\w+)\)", started[0])) == set(CHORES)


async def test_what_it_says_of_the_house(tmp_path: Path) -> None:
    async with open_scene(tmp_path) as scene:
        root = await scene.visitor("root")
        text = words_of((await root.get("/admin/system")).body)
        (charged,) = (await scene.gateway.table("select count(*) from usage"))[0]
        (transfers,) = (await scene.gateway.table("select count(*) from transfers"))[0]
        (users,) = (await scene.gateway.table("select count(*) from users"))[0]
        for told in (f"Charged requests {charged:,}", f"Transfers {transfers:,}", f"Users {users}", "Python 3.", "SQLite 3."):
            assert told in text, told
        assert str(tmp_path / "data") in text and "Audit everything 24 h not yet" in text
        assert "No backup of this database is known yet" in text


async def test_a_backup_is_made_where_it_belongs(tmp_path: Path) -> None:
    async with administered(tmp_path) as (root, gateway):
        # What a form says of a path is nobody's business.
        answer = await root.post("/admin/system/backup", file="/tmp/elsewhere.db", name="../../x")
        text = words_of((await root.follow(answer)).body)
        (file,) = (tmp_path / "data/backups").iterdir()
        assert f"Backed up to {file}, and the books of the copy balance." in text and file.name in text
        assert file.stat().st_mode & 0o777 == 0o600 and file.parent.stat().st_mode & 0o777 == 0o700
        with closing(open_reader(file)) as copy:
            assert audit(copy).clean
        assert await gateway.table("select actor, action, subject from audit_log where action = 'backup.create'") == [
            ("web:root 127.0.0.1", "backup.create", str(file))
        ]
        assert "by web:root 127.0.0.1" in words_of((await root.get("/admin/system")).body)
        assert "backup.create" not in words_of((await root.get("/admin/system")).body)
        await gateway.assert_settled()


async def test_backups_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backup, "KEPT_MAX", 2)
    async with administered(tmp_path) as (root, _):
        folder = tmp_path / "data/backups"
        folder.mkdir()
        for name in ("one.db", "two.db"):
            (folder / name).write_bytes(b"")
        answer = await root.post("/admin/system/backup")
        assert answer.status == 400 and "There are 2 backups in" in words_of(answer.body)
        (folder / "one.db").unlink()
        monkeypatch.setattr(backup, "ROOM_LEFT_BYTES", 10**18)
        answer = await root.post("/admin/system/backup")
        assert answer.status == 400 and "MiB are free" in words_of(answer.body)
        assert [file.name for file in folder.iterdir()] == ["two.db"]


async def test_a_long_backup_goes_on_alone_and_ends_with_the_house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system, "WAIT_S", 0.1)
    entered, plain = threading.Event(), backup.back_up

    def slow(conn: Any, target: Path, pause: Callable[[], None]) -> Any:
        entered.set()
        for _ in range(200):
            time.sleep(0.05)
            pause()
        return plain(conn, target, pause)

    monkeypatch.setattr(backup, "back_up", slow)
    async with administered(tmp_path) as (root, gateway):
        text = words_of((await root.follow(await root.post("/admin/system/backup"))).body)
        assert "The backup goes on" in text and "Running since" in text and "Back up now" not in text
        text = words_of((await root.follow(await root.post("/admin/system/backup"))).body)
        assert "A backup was running already" in text
        assert entered.is_set()
        begun = time.monotonic()
        await gateway.house.desk.backing_up.close()
        await until(lambda: not gateway.house.desk.backing_up.since_ms)
    assert time.monotonic() - begun < 3
    assert not list((tmp_path / "data/backups").glob("*.db"))


async def test_a_failed_backup_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: Any) -> Any:
        raise OSError("no space left on device")

    monkeypatch.setattr(backup, "back_up", broken)
    async with administered(tmp_path) as (root, _):
        text = words_of((await root.follow(await root.post("/admin/system/backup"))).body)
        assert "No backup was made" in text and "no space left on device" in text


async def test_a_reload_says_what_changed_or_why_not(tmp_path: Path) -> None:
    async with administered(tmp_path) as (root, gateway):
        page = (await root.get("/admin/system")).body.decode()
        assert "Reload configuration" not in page and "built-in demo" in page
        assert 'href="/admin/system#configuration"' in (await root.get("/admin")).body.decode()

        async def good(config: str | None) -> dict[str, Any]:
            return {"config": "pagegrid.toml", "changed": ["plans", "upstreams"], "warnings": ["A file is open to all."]}

        async def bad(config: str | None) -> dict[str, Any]:
            raise ClientError(
                "invalid_request", "the configuration cannot be used, nothing was reloaded:\npagegrid.toml:3 <b>x</b>"
            )

        gateway.house.desk.reload = good
        text = words_of((await root.follow(await root.post("/admin/system/reload"))).body)
        assert "Reloaded; changed: plans, upstreams. A file is open to all." in text
        gateway.house.desk.reload = bad
        answer = await root.post("/admin/system/reload")
        assert answer.status == 400 and b"&lt;b&gt;x" in answer.body and b"<b>x" not in answer.body
        rows = await gateway.table("select actor, action from audit_log where action = 'configuration.reload'")
        assert rows == [("web:root 127.0.0.1", "configuration.reload")]


async def test_it_is_not_there_for_others(tmp_path: Path) -> None:
    async with open_site(tmp_path) as gateway:
        ada = await make_visitor(gateway, "ada")
        assert (await ada.get("/admin/system")).status == 404
        for path in ("/admin/system/backup", "/admin/system/reload"):
            assert (await ada.post(path)).status == 404
        assert not (tmp_path / "data/backups").exists()


# ── leaves ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@asynccontextmanager
async def administered(folder: Path) -> AsyncIterator[tuple[Visitor, Gateway]]:
    """A gateway, and its admin signed in."""
    async with open_site(folder) as gateway:
        yield await make_visitor(gateway, "root", role="admin"), gateway


def words_of(body: bytes) -> str:
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", body.decode())).split())
