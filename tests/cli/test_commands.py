"""Every command without a running server: what it does, prints, asks and refuses."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from gateway.cli import main
from gateway.cli.context import time_text
from gateway.ids import render_id
from gateway.storage.database import FILE_NAME
from gateway.version import VERSION
from tests.cli.tools import CONFIG, Shell, make_shell
from tests.desk_tools import audit_rows, desk_house, make_ada, open_request, settle_request
from tests.fakes import FakeClock
from tests.ledger_tools import assert_books_balance


def test_the_first_user_makes_the_data_directory(shell: Shell) -> None:
    result = shell.run("users", "create", "ada", "--email", "ada@example.com")
    assert (result.exit_code, result.stdout) == (0, "1\n")
    assert "Next: pagegrid wallets topup ada" in result.stderr
    assert shell.data.stat().st_mode & 0o777 == 0o700
    assert (shell.data / FILE_NAME).stat().st_mode & 0o777 == 0o600
    assert audit_rows(shell.data / FILE_NAME)[0]["actor"].startswith("cli:")


def test_a_slip_of_the_data_directory_makes_nothing(shell: Shell) -> None:
    elsewhere = shell.folder / "elsewhere" / "data"
    for words in (["users", "create", "ada"], ["users", "list"], ["keys", "create", "ada"], ["ledger", "audit"]):
        result = shell.bare(*words, "--data-dir", str(elsewhere))
        assert result.exit_code == 1
        assert f"there is no database at {elsewhere / FILE_NAME}: `pagegrid serve` makes one" in result.stderr
    assert "there is no database" in shell.refused("wallets", "topup", "ada", "5", "--reference", "r")
    assert not elsewhere.parent.exists() and not shell.data.exists()


def test_a_user_from_first_to_last(shell: Shell) -> None:
    user = shell.json("users", "create", "ada", "--role", "admin")
    assert (user["id"], user["role"]) == (1, "admin")
    assert shell.json("wallets", "topup", "ada", "12.50", "--reference", "invoice 1")["applied"] is True
    again = shell.run("wallets", "topup", "ada", "12.50", "--reference", "invoice 1")
    assert (again.exit_code, again.stdout) == (0, "1\n") and "Already applied" in again.stderr
    assert shell.json("wallets", "withdraw", "ada", "2.5", "--reference", "back", "--yes")["balance_usd"] == "10.00"
    shown = shell.ok("wallets", "show", "ada")
    assert "balance    $10.00" in shown and "-$2.50" in shown and "invoice 1" in shown
    statement = shell.ok("ledger", "show", "ada")
    assert statement.startswith("opening balance $0.00\n") and "closing balance $10.00 (held $0.00, owed $0.00)" in statement
    assert "ada" in shell.ok("users", "list")
    assert shell.ok("ledger", "audit") == "2 transfers: the books balance.\n"
    shell.ok("wallets", "freeze", "ada")
    assert "frozen     yes" in shell.ok("wallets", "show", "ada")
    assert "active, wallet frozen" in shell.ok("users", "list")
    shown = shell.ok("users", "show", "ada")
    assert "state    active, wallet frozen\nbalance  $10.00\n" in shown and "low      told as the configuration says" in shown
    assert shell.json("users", "show", "ada")["frozen"] is True
    assert shell.json("wallets", "unfreeze", "ada")["changed"] is True
    shell.ok("users", "disable", "ada", "--yes")
    assert shell.json("users", "list")[0]["disabled"] is True
    shell.ok("users", "enable", "ada")
    assert shell.json("users", "list")[0]["disabled"] is False


def test_the_threshold_of_a_low_balance(shell: Shell) -> None:
    shell.ok("users", "create", "ada")
    for amount, told in (("2.5", "below $2.50"), ("off", "never"), ("0", "never"), ("default", "as the configuration says")):
        assert shell.run("users", "low-balance", "ada", amount).stderr == f"A low balance of ada is told: {told}.\n"
    assert shell.json("users", "low-balance", "ada", "0.25")["low_balance_nanos"] == 250_000_000
    assert "write US dollars as plain digits" in shell.refused("users", "low-balance", "ada", "-5")
    assert "did you mean ada" in shell.refused("users", "low-balance", "adda", "5")


def test_a_secret_is_printed_once(shell: Shell) -> None:
    shell.ok("users", "create", "ada")
    result = shell.run("keys", "create", "ada", "--name", "laptop", "--models", "claude-sonnet-5-5,claude-opus-5-5")
    secret = result.stdout.strip()
    assert secret.startswith("sk-pgrid-") and len(secret) == 73 and secret not in result.stderr
    rotated = shell.json("keys", "rotate", "1", "--grace", "1h")
    assert rotated["models"] == ["claude-opus-5-5", "claude-sonnet-5-5"] and rotated["name"] == "laptop"
    listing = (
        shell.ok("keys", "list", "ada") + shell.ok("keys", "list", "ada", "--json") + repr(audit_rows(shell.data / FILE_NAME))
    )
    for shown in (secret, rotated["secret"]):
        assert shown not in listing and shown[20:30] not in listing
        assert shown[:17] in listing
    states = [line.split()[3] for line in shell.ok("keys", "list", "ada").splitlines()[1:]]
    assert states == ["until", "active"]
    assert "Key 2 of ada (laptop, sk-pgrid-" in shell.run("keys", "revoke", "2", "--yes").stderr
    assert "is its successor" in shell.run("keys", "revoke", "1", "--yes").stderr
    assert "revoked, now key 2" in shell.ok("keys", "list", "ada")


def test_users_are_imported_and_keys_printed_once_as_csv(shell: Shell) -> None:
    file = shell.folder / "users.csv"
    file.write_text("name,topup,reference,key_name\nada,25,r1,=cmd()\nbob,,,\n", encoding="utf-8-sig")
    dry = shell.run("users", "import", str(file), "--dry-run")
    assert dry.exit_code == 0 and dry.stdout == ""
    assert dry.stderr == "Nothing was done. It would be: 2 users made, 0 there already; 1 top-up ($25.00); 1 key.\n"
    done = shell.run("users", "import", str(file))
    header, line = done.stdout.splitlines()
    assert header == '"name","key_name","key"' and re.fullmatch(r'"ada","\'=cmd\(\)","sk-pgrid-[0-9a-f]{64}"', line)
    assert "1 key, shown this once: keep them now." in done.stderr and "sk-pgrid" not in done.stderr
    assert shell.json("wallets", "show", "ada")["balance_usd"] == "25.00"
    again = shell.run("users", "import", str(file))
    assert again.stdout == "" and "0 users made, 2 there already; 0 top-ups ($0.00); 0 keys." in again.stderr
    assert shell.json("users", "import", str(file))["existing"] == 2
    file.write_text("name,topup,reference\nzoe,1,r1\n-,,\n")
    error = shell.refused("users", "import", str(file))
    assert "line 2: reference: r1 was used before" in error and "line 3: name: write 1 to 64" in error
    file.write_bytes(b"name\nz\xff\n")
    assert "is not UTF-8 text at byte 6; save it as CSV UTF-8" in shell.refused("users", "import", str(file))
    file.write_bytes(b"name\n" + b"x" * 300_000)
    assert "is larger than 256 KiB; split it" in shell.refused("users", "import", str(file))
    shell.refused("users", "import", str(shell.folder / "nowhere.csv"), code=2)
    assert [user["name"] for user in shell.json("users", "list")] == ["ada", "bob"]


def test_the_audit_log_is_listed_in_pages(shell: Shell) -> None:
    for name in ("ada", "bob", "eve"):
        shell.ok("users", "create", name)
    shell.ok("wallets", "freeze", "ada")
    listed = shell.run("audit", "list", "--limit", "2")
    assert [line.split()[0] for line in listed.stdout.splitlines()] == ["ID", "4", "3"]
    assert listed.stdout.splitlines()[1].endswith("  frozen: no → yes") and "There is more: add --before 3." in listed.stderr
    older = shell.json("audit", "list", "--limit", "2", "--before", "3")
    assert [entry["subject"] for entry in older["entries"]] == ["user:bob", "user:ada"] and older["next_before"] is None
    assert len(shell.json("audit", "list", "--since", "5m", "--action", "users")["entries"]) == 3
    assert (
        shell.json("audit", "list", "--since", "2000-01-01", "--subject", "user:ada")["entries"][0]["action"] == "wallets.freeze"
    )
    assert "Nothing of this kind" in shell.run("audit", "list", "--actor", "nobody").stderr
    for since in ("yesterday", "5x", "2026-02-30"):
        assert "since: write a duration such as 90m, 12h or 7d, a day" in shell.refused("audit", "list", "--since", since)


def test_the_audit_log_tells_people_what_was_set_and_no_more(shell: Shell) -> None:
    shell.ok("users", "create", "ada")
    shell.ok("wallets", "topup", "ada", "12.5", "--reference", "invoice 1")
    key = shell.json(
        "keys", "create", "ada", "--name", "laptop", "--models", "claude-haiku-5-5,claude-sonnet-5-5", "--expires", "1h"
    )
    shell.ok("keys", "update", "1", "--rpm", "0", "--models", "plan")
    update, create, topup, _ = (line.split(maxsplit=6)[-1] for line in shell.ok("audit", "list").splitlines()[1:])
    assert update == "models: claude-haiku-5-5|claude-sonnet-5-5 → -, rpm: - → 0"
    named = f"user: ada, name: laptop, hint: {key['hint']}, models: claude-haiku-5-5|claude-sonnet-5-5, factor: 1, expires: 20"
    assert create.startswith(named) and create.endswith("Z") and "null" not in create
    assert topup == "transfer_id: 1, amount: $12.50, reference: invoice 1"
    assert "since: write a duration" in shell.refused("audit", "list", "--since", "5y")


async def test_a_request_is_refunded_from_the_command_line(tmp_path: Path, clock: FakeClock) -> None:
    shell = make_shell(tmp_path)
    async with desk_house(shell.data, clock) as house:
        key = await make_ada(house)
        request_id, live = await open_request(house, key["secret"])
        await settle_request(house, request_id, live, limit_nanos=1_000_000)

    def refund(*words: str) -> tuple[str, str]:
        result = shell.run("wallets", "refund", render_id(request_id), *words)
        assert result.exit_code == 0, result.output
        return result.stdout, result.stderr

    def work() -> None:
        out, told = refund("0.0004", "--note", "slow")
        assert out == "3\n" and "$0.0004 refunded (transfer 3); the wallet of ada has $9.9994." in told
        out, told = refund("0.0004")
        assert out == "" and "Already refunded: " in told and "$0.0004 of $0.001 in all; nothing was moved again" in told
        assert refund("0.0004", "--number", "2")[0] == "4\n"
        error = shell.refused("wallets", "refund", render_id(request_id), "0.0003", "--number", "3")
        assert "only $0.0002 can be refunded" in error
        assert "is not an amount" in shell.refused("wallets", "refund", render_id(request_id), "-5")
        assert shell.json("wallets", "refund", render_id(request_id))["refunded_usd"] == "0.001"
        assert "$0.0002 is transfer" not in refund()[1] and "(\u00240.0002) is transfer 5" in refund()[1]
        assert "refunded $0.001" in shell.ok("usage", "get", render_id(request_id))
        assert "refund" in shell.ok("wallets", "show", "ada")

    await asyncio.to_thread(work)
    assert_books_balance(shell.data / FILE_NAME)


def test_an_admin_key_is_printed_once_and_ended(shell: Shell) -> None:
    shell.ok("users", "create", "ada")
    result = shell.run("admin-keys", "create", "deploy script")
    secret = result.stdout.strip()
    assert re.fullmatch(r"sk-pgrid-admin-[0-9a-f]{64}", secret) and secret not in result.stderr
    assert shell.json("admin-keys", "create", "panel")["secret"] != secret
    listing = shell.ok("admin-keys", "list") + shell.ok("admin-keys", "list", "--json")
    assert secret not in listing and secret[:23] in listing and "deploy script" in listing
    assert secret[24:] not in repr(audit_rows(shell.data / FILE_NAME))
    assert shell.refused("admin-keys", "revoke", secret, "--yes", code=2).count(secret) == 0
    assert "there is no such admin key" in shell.refused("admin-keys", "revoke", "9", "--yes")
    assert "name: write 1 to 64 printable" in shell.refused("admin-keys", "create", "a\tb")
    assert "is revoked" in shell.run("admin-keys", "revoke", "1", "--yes").stderr
    assert "was already revoked" in shell.run("admin-keys", "revoke", "1", "--yes").stderr
    assert [key["revoked_at_ms"] is None for key in shell.json("admin-keys", "list")] == [False, True]
    assert all(key["created_by"].startswith("cli:") for key in shell.json("admin-keys", "list"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["users", "create", "ada"], "there is a user ada already"),
        (["users", "disable", "adda", "--yes"], "did you mean ada?"),
        (["wallets", "show", "adda"], "did you mean ada?"),
        (["wallets", "topup", "ada", "1e9", "--reference", "r"], "is not an amount"),
        (["wallets", "withdraw", "ada", "1", "--reference", "r", "--yes"], "only $0.00 can be withdrawn"),
        (["keys", "create", "ada", "--models", "claude-sonet-5-5"], "did you mean claude-sonnet-5-5?"),
        (["keys", "create", "ada", "--models", ","], "name at least one"),
        (["keys", "create", "ada", "--expires", "soon"], "such as 90m, 12h or 30d"),
        (["keys", "revoke", "7", "--yes"], "there is no such key; ID is the number in `pagegrid keys list USER`"),
        (["usage", "get", "req_nothing"], "there is no request of this id"),
        (["wallets", "topup", "ada", "-5", "--reference", "r"], "amount: '-5' is not an amount"),
        (["wallets", "withdraw", "ada", "-12.50", "--reference", "r", "--yes"], "amount: '-12.50' is not an amount"),
    ],
)
def test_a_refusal_exits_1_with_the_next_step(shell: Shell, words: list[str], message: str) -> None:
    shell.ok("users", "create", "ada")
    assert message in shell.refused(*words)


@pytest.mark.parametrize(
    "words",
    [
        ["users", "create"],
        ["users", "create", "ada", "--role", "owner"],
        ["wallets", "topup", "ada", "5"],
        ["keys", "revoke", "one", "--yes"],
        ["keys", "revoke", "1"],
        ["users", "disable", "ada"],
        ["wallets", "withdraw", "ada", "5", "--reference", "r"],
        ["usage", "get"],
        ["nonsense"],
        ["wallets", "topup", "ada", "5", "--refernce", "r"],
    ],
)
def test_wrong_usage_exits_2(shell: Shell, words: list[str]) -> None:
    shell.refused(*words, code=2)


def test_destructive_verbs_ask_a_person(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    shell.ok("users", "create", "ada")
    assert "There is nobody to ask: add --yes to do it." in shell.refused("users", "disable", "ada", code=2)
    monkeypatch.setattr("gateway.cli.context.is_interactive", lambda: True)
    shell.ok("wallets", "topup", "ada", "5", "--reference", "r")
    shell.ok("keys", "create", "ada", "--name", "laptop")
    no = shell.run("users", "disable", "ada", input="n\n")
    assert no.exit_code == 1 and "Disable ada?" in no.stderr
    assert shell.json("users", "list")[0]["disabled"] is False
    assert shell.run("users", "disable", "ada", input="y\n").exit_code == 0
    assert shell.json("users", "list")[0]["disabled"] is True


def test_what_cannot_be_done_is_said_before_anybody_is_asked(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    shell.ok("users", "create", "ada")
    shell.ok("wallets", "topup", "ada", "5", "--reference", "r")
    shell.ok("keys", "create", "ada", "--name", "laptop")
    monkeypatch.setattr("gateway.cli.context.is_interactive", lambda: True)
    withdraw = ("wallets", "withdraw", "--reference", "back")
    for words, message in (
        (["users", "disable", "adda"], "did you mean ada?"),
        (["keys", "revoke", "9"], "there is no such key"),
        ([*withdraw, "adda", "1"], "did you mean ada?"),
        ([*withdraw, "ada", "1,5"], "is not an amount"),
        ([*withdraw, "ada", "6"], "only $5.00 can be withdrawn"),
    ):
        assert message in shell.refused(*words), words
    assert "Revoke key 1 of ada (laptop, sk-pgrid-" in shell.run("keys", "revoke", "1", input="n\n").stderr
    assert "Take $1.00 out of the wallet of ada? $5.00 is available." in shell.run(*withdraw, "ada", "1", input="n\n").stderr
    assert shell.json("wallets", "show", "ada")["balance_usd"] == "5.00"
    assert shell.run(*withdraw, "ada", "1.50", input="y\n").exit_code == 0
    assert shell.json("wallets", "show", "ada")["balance_usd"] == "3.50"


def test_an_id_is_never_repeated(shell: Shell) -> None:
    shell.ok("users", "create", "ada")
    secret = shell.ok("keys", "create", "ada").strip()
    for words, code in ((["keys", "revoke", secret, "--yes"], 2), (["keys", "rotate", secret], 2), (["usage", "get", secret], 1)):
        assert secret not in shell.refused(*words, code=code)
    assert "ID is the number in `pagegrid keys list USER`" in shell.refused("keys", "revoke", secret, "--yes", code=2)
    assert "there is no such key" in shell.refused("keys", "revoke", "9" * 18, "--yes")


def test_a_person_reads_a_sentence_and_a_script_the_bare_id(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    piped = shell.run("users", "create", "ada")
    assert piped.stdout == "1\n" and piped.stderr.startswith("ada is user 1 and has an empty wallet.")
    monkeypatch.setattr("gateway.cli.context.is_terminal", lambda: True)
    seen = shell.run("users", "create", "bob")
    assert seen.stdout.startswith("bob is user 2 and has an empty wallet. Next: pagegrid wallets topup bob") and seen.stderr == ""
    seen = shell.run("wallets", "topup", "ada", "5", "--reference", "r")
    assert (seen.stdout, seen.stderr) == ("$5.00 put in (transfer 1); the wallet of ada has $5.00.\n", "")


def test_a_rotation_tells_when_both_keys_end(shell: Shell) -> None:
    shell.ok("users", "create", "ada")
    shell.ok("keys", "create", "ada", "--expires", "1h")
    told = shell.run("keys", "rotate", "1", "--grace", "7d").stderr
    expiry = shell.json("keys", "list", "ada")[1]["expires_at_ms"]
    assert f"It expires at {time_text(expiry)}, as the key that it replaces would." in told
    assert f"Key 1 works until {time_text(expiry)}, when it expires by itself, before the grace ends." in told
    assert f"until {time_text(expiry)}, now key 2" in shell.ok("keys", "list", "ada")
    assert "Key 2 is dead." in shell.run("keys", "rotate", "2").stderr
    assert "key 1 was replaced by key 2 already" in shell.refused("keys", "rotate", "1")


def test_errors_are_json_where_json_was_asked_for(shell: Shell) -> None:
    shell.ok("users", "create", "ada")
    for words, exit_code, code in (
        (["wallets", "show", "adda"], 1, "not_found"),
        (["users", "create", "ada"], 1, "invalid_request"),
        (["wallets", "topup", "ada", "5"], 2, "usage"),
        (["users", "disable", "ada"], 2, "usage"),
        (["users", "nonsense"], 2, "usage"),
    ):
        error = json.loads(shell.refused(*words, "--json", code=exit_code))["error"]
        assert (error["code"], set(error)) == (code, {"code", "message"}), words
    shell.config.write_text(CONFIG_TYPO)
    error = json.loads(shell.refused("config", "check", "--json"))["error"]
    assert error["code"] == "invalid_config" and "did you mean server.port?" in error["message"]


def test_administration_needs_no_provider_secret(shell: Shell) -> None:
    for source in ('api_key_env = "PAGEGRID_TEST_NOT_SET"', 'api_key_file = "not-there.key"'):
        shell.config.write_text(f'[[upstreams]]\nname = "main"\nkind = "anthropic"\n{source}\n')
        user = shell.json("users", "create", f"user-{len(source)}")
        key = shell.json("keys", "create", user["name"])
        assert shell.json("keys", "revoke", str(key["id"]), "--yes")["changed"]
        assert shell.json("models", "list")
        served = shell.refused("serve", "--port", "0")
        assert "the environment variable PAGEGRID_TEST_NOT_SET is not set" in served or "the file cannot be read" in served
    assert "the file cannot be read" in shell.refused("config", "check")
    shell.config.write_text('[[upstreams]]\nname = "main"\nkind = "anthropic"\napi_key_env = "PAGEGRID_TEST_NOT_SET"\n')
    checked = shell.run("config", "check")
    assert checked.exit_code == 0 and "(1 upstream, 15 models)" in checked.stdout
    assert "PAGEGRID_TEST_NOT_SET is not set in this shell; the server needs it" in checked.stderr
    told = shell.json("config", "check")
    assert (told["config"], told["upstreams"], told["models"], len(told["warnings"])) == (str(shell.config), 1, 15, 1)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no full disk at hand")
def test_a_full_disk_at_the_other_end_of_a_pipe_is_told(shell: Shell) -> None:
    shell.ok("users", "create", "ada")
    command = [sys.executable, "-m", "gateway", "users", "list", "--data-dir", str(shell.data)]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=30, check=False)
    assert (done.returncode, done.stderr) == (1, "Error: the output cannot be written: No space left on device\n")


def test_a_reader_who_leaves_is_no_error(shell: Shell) -> None:
    shell.ok("users", "create", "ada")
    command = [sys.executable, "-m", "gateway", "users", "list", "--data-dir", str(shell.data)]
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, timeout=30, check=False)
    finally:
        os.close(writing)
    assert done.stderr == ""


def test_no_short_help_is_cut_off() -> None:
    for words in ([], *([noun] for noun, command in main.commands.items() if isinstance(command, click.Group))):
        shown = CliRunner().invoke(main, [*words, "--help"], terminal_width=80).stdout
        assert not [line for line in shown.splitlines()[1:] if line.endswith("...")], shown


def test_the_place_may_be_named_before_or_after_the_noun(shell: Shell) -> None:
    shell.ok("users", "create", "ada")
    data, config = ["--data-dir", str(shell.data)], ["--config", str(shell.config)]
    for words in (
        [*data, *config, "users", "list", "--json"],
        ["users", *data, *config, "list", "--json"],
        ["users", "list", "--json", *data, *config],
        [*data, "users", *config, "list", "--json"],
        ["--data-dir", "/nonexistent", "users", "list", "--json", *data],
        ["--data-dir", "/nonexistent", "usage", "get", "req_x", *data],
    ):
        result = shell.bare(*words)
        assert result.exit_code == (1 if "usage" in words else 0), (words, result.output)
        assert "ada" in result.stdout or "no request" in result.stderr
    env = {"PAGEGRID_DATA_DIR": str(shell.data), "PAGEGRID_CONFIG": str(shell.config)}
    assert json.loads(shell.bare("users", "list", "--json", env=env).stdout)[0]["name"] == "ada"
    over = shell.bare("users", "list", "--json", "--data-dir", str(shell.folder), env=env)
    assert over.exit_code == 1 and "there is no database" in over.stderr


def test_every_command_takes_the_place_and_every_listing_json() -> None:
    for noun, command in main.commands.items():
        verbs = getattr(command, "commands", {"": command})
        for verb, leaf in verbs.items():
            options = {option for parameter in leaf.params for option in parameter.opts}
            assert {"--config", "--data-dir"} <= options, (noun, verb)
            if verb in ("list", "show", "create", "rotate"):
                assert "--json" in options, (noun, verb)


def test_a_config_that_is_not_there_is_named(shell: Shell) -> None:
    result = shell.bare("users", "list", "--config", str(shell.folder / "other.toml"))
    assert result.exit_code == 1 and "no such file; --config names it" in result.stderr


def test_config_check_tells_what_is_wrong_or_ok(shell: Shell) -> None:
    assert shell.ok("config", "check").startswith("OK  ")
    shell.config.write_text(CONFIG_TYPO)
    error = shell.refused("config", "check")
    assert "did you mean server.port?" in error and ":2:" in error
    demo = shell.bare("config", "check", "--data-dir", str(shell.folder / "empty" / "data"))
    assert demo.exit_code == 0 and "the built-in demo would answer" in demo.stdout


CONFIG_TYPO = '[server]\nprot = 80\n[[upstreams]]\nname = "demo"\nkind = "demo"\n'


def test_a_config_that_cannot_be_used_stops_what_needs_it(shell: Shell) -> None:
    shell.ok("users", "create", "ada")
    shell.config.write_text(CONFIG_TYPO)
    assert "did you mean server.port?" in shell.refused("users", "create", "bob")
    assert len(shell.json("users", "list")) == 1  # reading needs no configuration


def test_one_key_is_shown(shell: Shell) -> None:
    shell.ok("users", "create", "ada")
    made = shell.json("keys", "create", "ada", "--name", "laptop", "--rpm", "7", "--spend-per-day", "0.5")
    shown = shell.ok("keys", "show", "1")
    assert f"key         1 (laptop, {made['hint']}…)\nuser        ada\nstate       active\n" in shown
    assert "own limits  rpm 7, $/day 0.50\nmodels      plan\nexpires     -\n" in shown and made["secret"] not in shown
    assert shell.json("keys", "show", "1")["rpm"] == 7
    assert "no such key" in shell.refused("keys", "show", "2")


def test_plans_need_no_database(shell: Shell) -> None:
    shell.config.write_text(CONFIG + '[plans.pro]\nrpm = 300\nspend_per_month = "200"\nmodels = ["claude-haiku-5-5"]\n')
    first, second = (line.split() for line in shell.ok("plans", "list").splitlines()[1:])
    assert first == ["default", "10", *"-------", "any", "any", "never", "20", "1"]
    assert second == ["pro", "300", *"-----", "200.00", "-", "claude-haiku-5-5", "any", "never", "20", "1"]
    assert [plan["spend_per_month"] for plan in shell.json("plans", "list")] == ["0.00", "200.00"]
    assert not shell.data.exists()


def test_models_need_no_database(shell: Shell) -> None:
    assert "claude-sonnet-5-5" in shell.ok("models", "list")
    assert shell.json("models", "list")[0]["prices_usd_per_mtok"]["input"]
    assert not shell.data.exists()


def test_an_audit_that_finds_something_exits_1_and_shows_the_rows(shell: Shell) -> None:
    shell.ok("users", "create", "ada")
    shell.ok("wallets", "topup", "ada", "5", "--reference", "r")

    def tamper(amount: int) -> None:
        with closing(sqlite3.connect(shell.data / FILE_NAME)) as conn, conn:
            conn.execute("update accounts set balance_nanos = balance_nanos + ? where id = 1", (amount,))

    tamper(7)
    result = shell.run("ledger", "audit")
    assert result.exit_code == 1
    assert 'BROKEN  1 the balances of all accounts sum to 0: 1 row\n        {"sum_nanos": 7}' in result.stdout
    assert "The books do not balance" in result.stderr
    report = shell.run("ledger", "audit", "--json")
    assert report.exit_code == 1 and json.loads(report.stdout)["findings"][0]["rows"] == [{"sum_nanos": 7}]
    tamper(-7)


def test_the_version(shell: Shell, tmp_path: Path) -> None:
    assert shell.bare("--version").stdout == f"pagegrid, version {VERSION}\n"
