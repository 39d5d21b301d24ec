"""Commands about sign-in, invites and vouchers: secrets are asked for or shown once, never typed as an argument."""

from __future__ import annotations

import importlib
import json
import re
import sqlite3
from contextlib import closing

import pytest

from gateway.cli.context import url_on_this_machine
from gateway.config import parse
from gateway.passwords import verify_password
from gateway.storage.database import FILE_NAME
from tests.cli.tools import CONFIG, Shell

PASSWORD = "correct horse battery"


def stored_hash(shell: Shell) -> str:
    with closing(sqlite3.connect(shell.data / FILE_NAME)) as conn:
        [(encoded,)] = conn.execute("select hash from passwords").fetchall()
    return str(encoded)


@pytest.mark.parametrize("ending", ["", "\n", "\r\n", "\nmore\n"])
def test_a_password_is_read_from_standard_input(shell: Shell, ending: str) -> None:
    shell.ok("users", "create", "ada")
    result = shell.run("users", "set-password", "ada", "--stdin", input=PASSWORD + ending)
    assert result.exit_code == 0 and "The password of ada is set." in result.stderr and result.stdout == ""
    assert PASSWORD not in result.output and verify_password(stored_hash(shell), PASSWORD)


def test_a_password_is_asked_for_twice_where_there_is_somebody(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    shell.ok("users", "create", "ada")
    monkeypatch.setattr(importlib.import_module("gateway.cli.users"), "is_interactive", lambda: True)
    result = shell.run("users", "set-password", "ada", input=f"{PASSWORD}\nsomething else\n{PASSWORD}\n{PASSWORD}\n")
    assert result.exit_code == 0 and "do not match" in result.output and PASSWORD not in result.output
    assert verify_password(stored_hash(shell), PASSWORD)


def test_where_nobody_can_be_asked_it_says_so(shell: Shell) -> None:
    shell.ok("users", "create", "ada")
    assert "--stdin" in shell.refused("users", "set-password", "ada", code=2)
    assert "unexpected extra argument" in shell.refused("users", "set-password", "ada", PASSWORD, code=2)
    for text, says in (("short\n", "12 to 128 characters"), ("", "12 to 128 characters"), ("x" * 9999, "12 to 128")):
        result = shell.run("users", "set-password", "ada", "--stdin", input=text)
        assert result.exit_code == 1 and says in result.stderr
    result = shell.run("users", "set-password", "adda", "--stdin", input=PASSWORD)
    assert result.exit_code == 1 and "did you mean ada?" in result.stderr


def test_what_concerns_sessions_and_codes(shell: Shell) -> None:
    shell.ok("users", "create", "ada")
    assert shell.json("users", "end-sessions", "ada") == {"id": 1, "name": "ada", "sessions_ended": 0}
    assert shell.json("users", "disable-totp", "ada", "--yes")["changed"] is False
    assert "ada had no second factor." in shell.run("users", "disable-totp", "ada", "--yes").stderr
    assert "add --yes" in shell.refused("users", "disable-totp", "ada", code=2)


def test_vouchers_are_made_listed_redeemed_and_voided(shell: Shell) -> None:
    shell.ok("users", "create", "ada")
    result = shell.run("vouchers", "create", "5", "--batch", "spring", "--count", "3", "--expires", "90d")
    codes = result.stdout.split()
    assert len(codes) == 3 and "3 vouchers of $5.00 each ($15.00 in all), until" in result.stderr
    done = shell.run("vouchers", "redeem", "ada", input=codes[0] + "\n")
    assert done.exit_code == 0 and "$5.00 went to ada; the balance is $5.00." in done.stderr
    again = shell.run("vouchers", "redeem", "ada", input=codes[0] + "\n")
    assert again.exit_code == 1 and "was redeemed already; nothing was moved" in again.stderr
    listed = shell.ok("vouchers", "list")
    assert "redeemed by ada" in listed and codes[1][:4] + "…" in listed and codes[1] not in listed
    assert "There is more: add --before 3." in shell.run("vouchers", "list", "--limit", "1").stderr
    assert [(each["batch"], each["open"], each["redeemed"]) for each in shell.json("vouchers", "batches")] == [("spring", 2, 1)]
    assert "spring" in shell.ok("vouchers", "batches")
    assert shell.json("vouchers", "void", "--id", "2", "--yes")["voided"] == 1
    assert "1 voucher voided." in shell.run("vouchers", "void", "--batch", "spring", "--yes").stderr
    assert "Say --batch NAME or --id ID" in shell.refused("vouchers", "void", "--yes", code=2)
    assert "void" in shell.ok("vouchers", "list", "--batch", "spring")
    assert "'-5' is not an amount" in shell.refused("vouchers", "create", "-5", "--batch", "x")
    assert "there are vouchers of 'spring' already" in shell.refused("vouchers", "create", "5", "--batch", "spring")


def test_invites_are_made_listed_and_revoked(shell: Shell) -> None:
    shell.ok("users", "create", "root")
    assert 'set web.signup = "invite"' in shell.refused("invites", "create")
    shell.config.write_text(shell.config.read_text() + '[web]\nsignup = "invite"\n')
    result = shell.run("invites", "create", "--credit", "2.50", "--email", "ada@example.com", "--note", "from the fair")
    token = result.stdout.strip()
    assert len(token) == 43 and "a credit of $2.50 on the plan default, until" in result.stderr
    listed = shell.ok("invites", "list")
    assert "from the fair" in listed and "open" in listed and token not in listed
    assert "Invite 1 is revoked." in shell.run("invites", "revoke", "1", "--yes").stderr
    assert "Invite 1 was already revoked." in shell.run("invites", "revoke", "1", "--yes").stderr
    assert "revoked" in shell.ok("invites", "list")
    assert "there is no such invite" in shell.refused("invites", "revoke", "9", "--yes")
    assert "'-1' is not an amount" in shell.refused("invites", "create", "--credit", "-1")


def test_a_listing_without_anything_says_what_to_do(shell: Shell) -> None:
    shell.ok("users", "create", "ada")
    for words in (("invites", "list"), ("vouchers", "list"), ("vouchers", "batches")):
        assert f"pagegrid {words[0]} create" in shell.run(*words).stderr
        assert shell.json(*words) in ([], {"vouchers": [], "next_before": None})


def test_json_has_the_secret_once(shell: Shell) -> None:
    shell.ok("users", "create", "ada")
    made = shell.json("vouchers", "create", "5", "--batch", "x")
    done = shell.run("vouchers", "redeem", "ada", "--json", input=made["vouchers"][0]["code"])
    assert json.loads(done.stdout[done.stdout.index("{") :])["balance_usd"] == "5.00"
    assert made["vouchers"][0]["code"] not in json.dumps(shell.json("vouchers", "list"))


# ── sign-in links ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_link_is_printed_for_the_page_that_opens_it(shell: Shell) -> None:
    shell.ok("users", "create", "ada")
    result = shell.run("users", "create-link", "ada")
    assert result.exit_code == 0 and re.fullmatch(r"http://127\.0\.0\.1:8080/welcome/[\w-]{43}\n", result.stdout)
    assert "hand it to nobody else. No server is running: start it first" in result.stderr
    told = json.loads(shell.ok("users", "create-link", "ada", "--json"))
    assert told["name"] == "ada" and told["link"].startswith("http://127.0.0.1:8080/welcome/") and "token" not in told
    shell.config.write_text('[server]\npublic_url = "https://gateway.example"\nhost = "::1"\n' + shell.config.read_text())
    assert shell.ok("users", "create-link", "ada").startswith("https://gateway.example/welcome/")
    assert "there is no user eve" in shell.refused("users", "create-link", "eve")
    shell.ok("users", "disable", "ada", "--yes")
    assert "ada is disabled" in shell.refused("users", "create-link", "ada")


@pytest.mark.parametrize(
    ("server", "url"),
    [
        ("", "http://127.0.0.1:9"),
        ('host = "0.0.0.0"\n', "http://127.0.0.1:9"),
        ('host = "::"\n', "http://127.0.0.1:9"),
        ('host = "::1"\n', "http://[::1]:9"),
        ('host = "10.1.2.3"\ntls_certificate_file = "a"\ntls_key_file = "b"\n', "https://10.1.2.3:9"),
    ],
)
def test_where_a_server_answers_on_this_machine(server: str, url: str) -> None:
    assert url_on_this_machine(parse(f"[server]\n{server}{CONFIG}", "here", {}), 9) == url
