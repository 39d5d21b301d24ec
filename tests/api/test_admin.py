"""The admin API: what it offers, to whom, and what it says to everybody else."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import re
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from gateway.access import make_secret
from gateway.admins import FAILURE_MS, FAILURES_MAX
from gateway.api.admin import AT_WORK_MAX, BODY_BYTES_MAX, NOT_OFFERED, OFFERED
from gateway.desk import acts
from tests.api.raw import raw_client
from tests.desk_tools import audit_rows
from tests.fakes import FakeClock
from tests.gateway_tools import Answer, Gateway, ScriptedUpstream, open_gateway, until

ON = '[web]\nsignup = "invite"\n[server]\nadmin_api = true\n'
NOWHERE = "http://127.0.0.1:1"
ROOT = Path(__file__).parent.parent.parent


@dataclass
class Admin:
    """A gateway, and somebody with an admin key."""

    gateway: Gateway
    secret: str
    key_id: int

    async def act(self, name: str, /, **arguments: Any) -> Answer:
        """As the listing says that it is to be asked for."""
        if OFFERED.get(name, ("POST",))[0] == "GET":
            return await self.get(name, **arguments)
        return await self.post(name, arguments)

    async def ok(self, name: str, /, **arguments: Any) -> Any:
        answer = await self.act(name, **arguments)
        assert answer.status == 200, (name, answer.body)
        assert answer.headers["cache-control"] == "no-store"
        answer.assert_clean()
        return answer.json

    async def get(self, name: str, /, **arguments: Any) -> Answer:
        return await self.request("GET", name, params={key: _text(value) for key, value in arguments.items()})

    async def post(self, name: str, body: Any, **headers: str) -> Answer:
        data = io.BytesIO(body if isinstance(body, bytes) else json.dumps(body).encode())
        return await self.request("POST", name, data=data, headers={"content-type": "application/json", **headers})

    async def request(self, method: str, name: str, headers: dict[str, str] | None = None, **options: Any) -> Answer:
        headers = {"authorization": f"Bearer {self.secret}", **(headers or {})}
        return await self.gateway.request(method, f"/admin/api/{name}".rstrip("/"), headers=headers, **options)


def _text(value: Any) -> str:
    return ",".join(value) if isinstance(value, list) else str(value)


@asynccontextmanager
async def open_admin(data_dir: Path, *upstreams: str, more: str = ON, clock: FakeClock | None = None) -> AsyncIterator[Admin]:
    async with open_gateway(data_dir, *(upstreams or (NOWHERE,)), more=more, clock=clock) as gateway:
        made = await acts.perform(gateway.house.desk, "cli:tester", "admin_keys.create", {"name": "deploy"})

        async def nothing_changed(config: str | None) -> dict[str, Any]:
            return {"config": config, "changed": [], "warnings": []}

        # `pagegrid serve` sets what reads its file again.
        gateway.house.desk.reload = nothing_changed
        yield Admin(gateway, made["secret"], made["id"])
        await gateway.assert_settled()


def refusal(answer: Answer) -> tuple[int, str, str]:
    """(status, code, message), after a look at the form."""
    answer.assert_clean()
    assert answer.headers["content-type"] == "application/json"
    assert answer.json.keys() == {"error", "request_id"} and answer.error.keys() == {"code", "message", "param"}
    assert answer.json["request_id"] == answer.request_id
    return answer.status, answer.error["code"], answer.error["message"]


# ── what is offered ──────────────────────────────────────────────────────────────────────────────────────────────────

# In this order: each builds on what came before. {request} is a request that was paid, {code} that of a voucher.
CASES: list[tuple[str, dict[str, Any]]] = [
    ("users.create", {"name": "ada", "email": "ada@example.com", "role": "user"}),
    ("users.list", {}),
    ("users.show", {"user": "ada@example.com"}),
    ("users.disable", {"user": "ada"}),
    ("users.enable", {"user": "ada"}),
    ("users.set_plan", {"user": "ada", "plan": "default"}),
    ("users.set_low_balance", {"user": "ada", "amount": "0.50"}),
    ("users.end_sessions", {"user": "ada"}),
    ("users.import", {"csv": "name,key_name\nzoe,laptop\n", "dry_run": True}),
    ("wallets.topup", {"user": "ada", "amount": "25.50", "reference": "invoice 1", "note": "by transfer"}),
    ("wallets.plan_withdrawal", {"user": "ada", "amount": "5", "reference": "back"}),
    ("wallets.withdraw", {"user": "ada", "amount": "5", "reference": "back"}),
    ("wallets.refund", {"request_id": "{request}"}),
    ("wallets.freeze", {"user": "ada"}),
    ("wallets.unfreeze", {"user": "ada"}),
    ("wallets.show", {"user": "ada", "lines": 1}),
    ("keys.create", {"user": "ada", "name": "laptop", "rpm": 5, "models": ["claude-sonnet-5-5"], "expires": "30d"}),
    ("keys.update", {"key_id": 2, "tpm": 1000, "spend_per_day": "5", "models": "plan"}),
    ("keys.list", {"user": "ada"}),
    ("keys.show", {"key_id": 2}),
    ("keys.rotate", {"key_id": 2, "grace": "1h"}),
    ("keys.revoke", {"key_id": 2}),
    ("admin_keys.list", {}),
    ("admin_keys.show", {"key_id": 1}),
    ("invites.create", {"credit": "2", "expires": "12h", "note": "for the fair"}),
    ("invites.list", {}),
    ("invites.revoke", {"invite_id": 1}),
    ("vouchers.create", {"amount": "5", "batch": "spring", "count": 2}),
    ("vouchers.list", {"batch": "spring", "limit": 1}),
    ("vouchers.batches", {}),
    ("vouchers.redeem", {"user": "ada", "code": "{code}"}),
    ("vouchers.void", {"batch": "spring"}),
    ("audit.list", {"action": "users", "limit": 2}),
    ("usage.get", {"request_id": "{request}"}),
    ("usage.report", {"by": ["user", "model"]}),
    ("ledger.show", {"user": "ada", "limit": 2}),
    ("ledger.audit", {}),
    ("configuration.reload", {}),
    ("upstreams.list", {}),
    ("upstreams.test", {"name": "up1"}),
    ("models.list", {}),
    ("plans.list", {}),
    ("admin_keys.revoke", {"key_id": 1}),
]


def test_every_act_is_offered_or_refused_with_a_reason() -> None:
    registered = {*acts.WRITES, *acts.LIVE, *acts.READS, *acts.DECLARED}
    assert {*OFFERED, *NOT_OFFERED} == registered and not {*OFFERED} & {*NOT_OFFERED}
    assert [act for act, _ in CASES] == list(dict.fromkeys(act for act, _ in CASES)) and {act for act, _ in CASES} == {*OFFERED}


def test_what_only_reads_is_asked_for_by_get_and_nothing_else_is() -> None:
    for act, (method, does) in OFFERED.items():
        reads = act not in acts.WRITES and (act in acts.READS or act in acts.DECLARED)
        assert method == ("GET" if reads or act in ("wallets.plan_withdrawal", "upstreams.list") else "POST"), act
        assert does.endswith("."), act


async def test_every_act_is_done(tmp_path: Path) -> None:
    async with ScriptedUpstream() as up, open_admin(tmp_path, up.url) as admin:
        bob = await admin.gateway.make_user("bob")
        request = (await admin.gateway.ask(bob)).request_id
        await admin.gateway.assert_settled()
        done = {}
        for act, arguments in CASES:
            if act == "vouchers.redeem":
                arguments = {**arguments, "code": done["vouchers.create"]["vouchers"][0]["code"]}
            arguments = {name: request if value == "{request}" else value for name, value in arguments.items()}
            done[act] = await admin.ok(act, **arguments)
            if OFFERED[act][0] == "GET":
                assert (await admin.post(act, arguments)).json == done[act], act
        assert done["users.show"]["name"] == "ada" and [user["name"] for user in done["users.list"]] == ["bob", "ada"]
        assert (done["wallets.topup"]["balance_usd"], done["wallets.withdraw"]["balance_usd"]) == ("25.50", "20.50")
        assert (done["vouchers.redeem"]["balance_usd"], done["vouchers.void"]["voided"]) == ("25.50", 1)
        assert done["invites.revoke"]["changed"] and "token" not in done["invites.list"][0]
        assert len(done["wallets.show"]["lines"]) == 1 and len(done["ledger.show"]["lines"]) == 2
        assert (done["keys.create"]["rpm"], done["keys.rotate"]["rotated_from"]) == (5, 2)
        assert done["usage.get"]["user"] == "bob" and done["ledger.audit"]["clean"]
        assert [entry["action"] for entry in done["audit.list"]["entries"]] == ["users.set_low_balance", "users.enable"]
        rows = audit_rows(admin.gateway.house.database)
        assert {row["actor"] for row in rows if row["action"] != "admin_keys.create"} == {"admin-key:1 deploy"}
        # The last act ended the key that asked for it.
        assert refusal(await admin.act("users.list"))[:2] == (401, "unauthenticated")


async def test_the_listing_tells_every_act_and_its_arguments(tmp_path: Path) -> None:
    async with open_admin(tmp_path) as admin:
        for path in ("", "/"):
            answer = await admin.gateway.request("GET", "/admin/api" + path, headers={"x-api-key": admin.secret})
            listed = {each["act"]: each for each in answer.json["acts"]}
        assert set(listed) == set(OFFERED)
        topup = listed["wallets.topup"]
        assert (topup["method"], topup["path"]) == ("POST", "/admin/api/wallets.topup")
        assert topup["arguments"] == {
            "type": "object",
            "properties": {
                "user": {"type": "string"},
                "amount": {"type": "string"},
                "reference": {"type": "string"},
                "note": {"type": "string", "default": ""},
            },
            "required": ["user", "amount", "reference"],
            "additionalProperties": False,
        }
        assert listed["users.create"]["arguments"]["properties"]["role"]["enum"] == ["user", "admin"]
        assert (await admin.request("HEAD", "")).status == 200
        assert (await admin.request("POST", "")).headers["allow"] == "GET, HEAD"


@pytest.mark.parametrize("act", sorted(NOT_OFFERED))
async def test_what_belongs_to_the_server_itself_is_refused_with_its_reason(tmp_path: Path, act: str) -> None:
    async with open_admin(tmp_path) as admin:
        for answer in (await admin.post(act, {"file": str(tmp_path / "copy"), "name": "x"}), await admin.get(act)):
            status, code, message = refusal(answer)
            assert (status, code) == (403, "forbidden") and NOT_OFFERED[act] in message
        assert not (tmp_path / "copy").exists()
        assert len(await admin.ok("admin_keys.list")) == 1


# ── to whom ──────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_switched_off_it_is_like_any_path_that_is_not_there(tmp_path: Path) -> None:
    async with open_admin(tmp_path, more="") as admin:
        for method, path in (("GET", ""), ("GET", "/users.list"), ("POST", "/users.create"), ("DELETE", "/x/y")):
            there = await admin.gateway.request(method, "/admin/api" + path, headers={"x-api-key": admin.secret})
            nowhere = await admin.gateway.request(method, "/nobody/knows" + path)
            pages = [answer.body.replace(answer.request_id.encode(), b"ID") for answer in (there, nowhere)]
            assert there.status == 404 and pages[0] == pages[1]
            assert {*there.headers} == {*nowhere.headers}


async def test_who_has_no_admin_key_is_told_why(tmp_path: Path) -> None:
    async with ScriptedUpstream() as up, open_admin(tmp_path, up.url) as admin:
        alice = await admin.gateway.make_user("alice")
        dead = (await acts.perform(admin.gateway.house.desk, "t", "admin_keys.create", {"name": "old"}))["secret"]
        await acts.perform(admin.gateway.house.desk, "t", "admin_keys.revoke", {"key_id": 2})
        for headers, says in (
            ({}, "No admin key was sent; send one (sk-pgrid-admin-…) as Authorization: Bearer."),
            ({"x-api-key": alice.secret}, "This is a user's key, for requests to models"),
            ({"authorization": f"Bearer {make_secret('sk-pgrid-')}"}, "This is a user's key"),
            ({"authorization": f"Bearer {dead}"}, "it was revoked"),
            ({"authorization": f"Bearer {admin.secret[:-1]}"}, "mistyped or cut"),
            ({"x-api-key": admin.secret, "authorization": f"Bearer {dead}"}, "Two different keys"),
            ({"x-api-key": "nonsense"}, "This is no admin key; they start with sk-pgrid-admin-."),
        ):
            answer = await admin.gateway.request("GET", "/admin/api/users.list", headers=headers)
            status, code, message = refusal(answer)
            assert (status, code) == (401, "unauthenticated") and says in message, headers
            assert not any(value.split()[-1] in answer.body.decode() for value in headers.values())
        # And nobody asks a model with an admin key, whatever the endpoint.
        for path in ("/v1/messages", "/v1/models", "/v1/key", "/v1/credits"):
            for name, value in (("x-api-key", admin.secret), ("authorization", f"Bearer {admin.secret}")):
                answer = await admin.gateway.ask(None, path=path, headers={name: value})
                if path != "/v1/messages":
                    answer = await admin.gateway.get(None, path, headers={name: value})
                assert (
                    answer.status == 401
                    and "This is an admin key: it opens /admin/api and nothing else" in answer.error["message"]
                )
        assert up.journal == []


async def test_unknown_acts_and_wrong_methods_are_told_to_those_who_may_ask_only(tmp_path: Path) -> None:
    async with open_admin(tmp_path) as admin:
        assert refusal(await admin.get("users.lst")) == (404, "not_found", "There is no such act. Did you mean users.list?")
        assert refusal(await admin.get("x" * 5000))[2] == "There is no such act. GET /admin/api lists them."
        for path in ("users.list/x", "users/list", "%75sers.drop", "users.list%00", "users.list%2f"):
            assert refusal(await admin.get(path))[0] == 404, path
        answer = await admin.get("users.create", name="ada")
        assert refusal(answer)[:2] == (405, "method_not_allowed") and answer.headers["allow"] == "POST"
        answer = await admin.request("DELETE", "users.list")
        assert refusal(answer)[0] == 405 and answer.headers["allow"] == "GET, HEAD, POST"
        assert (await admin.request("DELETE", "users.create")).status == 405
        for path in ("users.lst", "users.create", "backup.create"):
            assert refusal(await admin.gateway.request("GET", "/admin/api/" + path))[0] == 401
        assert await admin.ok("users.list") == []


ALLOW = 'trusted_proxies = ["127.0.0.1"]\nadmin_allow = ["10.1.0.0/16", "fd00::/8"]\n'


@pytest.mark.parametrize(
    ("more", "headers", "status"),
    [
        ("", {}, 200),
        ('admin_allow = ["10.1.0.0/16"]\n', {}, 403),
        ("admin_allow = []\n", {}, 403),
        # Behind a proxy that is named, the client is who it says.
        (ALLOW, {"x-forwarded-for": "10.1.2.3"}, 200),
        (ALLOW, {"x-forwarded-for": "fd00::7"}, 200),
        (ALLOW, {"x-forwarded-for": "10.2.2.3"}, 403),
        (ALLOW, {"x-forwarded-for": "10.1.2.3, 8.8.8.8"}, 403),
        (ALLOW, {"x-forwarded-for": "10.1.2.3, nonsense"}, 403),
        (ALLOW, {}, 403),
        ('trusted_proxies = ["127.0.0.1"]\n', {"x-forwarded-for": "8.8.8.8"}, 403),
        ('trusted_proxies = ["127.0.0.1"]\n', {"x-forwarded-for": "127.0.0.1, 8.8.8.8"}, 403),
        ('trusted_proxies = ["127.0.0.1"]\n', {"x-forwarded-for": "127.0.0.1"}, 200),
        # Behind one that is not, everybody would look local.
        ("", {"x-forwarded-for": "127.0.0.1"}, 403),
        ("", {"x-forwarded-for": ""}, 403),
        ("", {"forwarded": "for=127.0.0.1"}, 403),
        ("", {"x-real-ip": "8.8.8.8"}, 403),
        ("", {"via": "1.1 proxy"}, 403),
        ('trusted_proxies = ["127.0.0.1"]\n', {"x-real-ip": "8.8.8.8"}, 403),
        ('trusted_proxies = ["127.0.0.1"]\n', {"x-forwarded-for": "unknown"}, 403),
    ],
)
async def test_from_where_it_is_open(tmp_path: Path, more: str, headers: dict[str, str], status: int) -> None:
    async with open_admin(tmp_path, more=ON + more) as admin:
        for path, method in (("users.list", "GET"), ("users.create", "PUT"), ("nothing", "POST"), ("", "GET")):
            answer = await admin.request(method, path, headers=headers)
            if status == 403:
                assert refusal(answer)[:2] == (403, "forbidden")
            else:
                assert answer.status == {"PUT": 405, "POST": 404}.get(method, 200)
        if status == 403:
            # An address that may not ask learns nothing of its key either.
            stranger = await admin.gateway.request("GET", "/admin/api/users.list", headers=headers)
            assert stranger.error == answer.error


async def test_wrong_keys_are_slowed_down_by_address(tmp_path: Path, clock: FakeClock) -> None:
    async with open_admin(
        tmp_path, more=ON + 'trusted_proxies = ["127.0.0.1"]\nadmin_allow = ["10.0.0.0/8"]\n', clock=clock
    ) as admin:
        here, there = {"x-forwarded-for": "10.0.0.1"}, {"x-forwarded-for": "10.0.0.2"}
        wrong = {"authorization": f"Bearer {make_secret('sk-pgrid-admin-')}"}
        for _ in range(FAILURES_MAX):
            assert refusal(await admin.request("GET", "users.list", headers={**here, **wrong}))[0] == 401
        answer = await admin.request("GET", "users.list", headers=here)
        assert refusal(answer)[:2] == (429, "rate_limited") and answer.headers["retry-after"] == str(FAILURE_MS // 1000)
        assert (await admin.request("GET", "users.list", headers=there)).status == 200
        clock.advance(FAILURE_MS - 1)
        assert (await admin.request("GET", "users.list", headers=here)).status == 429
        clock.advance(1)
        assert (await admin.request("GET", "users.list", headers=here)).status == 200
        assert (await admin.request("GET", "users.list", headers={**here, **wrong})).status == 401
        assert (await admin.request("GET", "users.list", headers=here)).status == 429


async def test_a_key_that_is_revoked_while_its_body_is_on_the_way_does_nothing(tmp_path: Path) -> None:
    async with open_admin(tmp_path) as admin, raw_client(admin.gateway) as client:
        body = b'{"name": "mallory"}'
        head = f"POST /admin/api/users.create HTTP/1.1\r\nhost: x\r\nx-api-key: {admin.secret}\r\n"
        await client.send(f"{head}content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body[:5])
        await until(lambda: bool(admin.gateway.house.walk.tasks))
        await acts.perform(admin.gateway.house.desk, "t", "admin_keys.revoke", {"key_id": admin.key_id})
        await client.send(body[5:])
        assert (await client.answer())[0] == 401
        assert await acts.perform(admin.gateway.house.desk, "t", "users.list", {}) == []


async def test_admin_keys_outlive_the_house_and_revoked_ones_stay_dead(tmp_path: Path) -> None:
    async with open_admin(tmp_path) as admin:
        dead = (await acts.perform(admin.gateway.house.desk, "t", "admin_keys.create", {"name": "old"}))["secret"]
        first = await admin.ok("admin_keys.revoke", key_id=2)
        again = await admin.ok("admin_keys.revoke", key_id=2)
        assert (first["changed"], again["changed"], again["revoked_at_ms"]) == (True, False, first["revoked_at_ms"])
        assert refusal(await admin.act("admin_keys.revoke", key_id=9))[0] == 404
        alive = admin.secret
    async with open_gateway(tmp_path, NOWHERE, more=ON) as gateway:
        for secret, status in ((alive, 200), (dead, 401)):
            assert (await gateway.get(None, "/admin/api", headers={"x-api-key": secret})).status == status
        rows = await gateway.table("select * from admin_keys")
        assert alive not in repr(rows) and alive[20:40] not in repr(rows)


# ── what is asked ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"{", "not valid JSON"),
        (b"\xff\xfe", "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        (b'{"name": NaN}', "not valid JSON"),
        (b'{"key_id": ' + b"9" * 5000 + b"}", "not valid JSON"),
        (b"[]", "must be a JSON object"),
        (b'"ada"', "must be a JSON object"),
        (b'{"name": "ada", "name": "eve"}', "A name stands twice"),
        ({}, "name: Field required; it takes name, email, role"),
        ({"name": 7}, "name: Input should be a valid string"),
        ({"name": "\ud800"}, "name: "),
        ({"nmae": "ada"}, "nmae: Extra inputs are not permitted; did you mean name? it takes name, email, role"),
        ({"name": "ada", "admin": True}, "admin: Extra inputs are not permitted; it takes name, email, role"),
        ({"name": "ada", "x" * 5000: 1}, "…: Extra inputs are not permitted"),
        ({"name": "ada", "role": "owner"}, "role: Input should be 'user' or 'admin'"),
        ({"name": "ada", "email": {"a": 1}}, "email: Input should be a valid string"),
    ],
    ids=range(16),
)
async def test_what_is_wrong_with_a_body_is_named(tmp_path: Path, body: Any, says: str) -> None:
    async with open_admin(tmp_path) as admin:
        status, code, message = refusal(await admin.post("users.create", body))
        assert (status, code) == (400, "invalid_request") and says in message
        assert len(message) < 300
        assert await admin.ok("users.list") == []


async def test_a_body_is_json_and_says_so(tmp_path: Path) -> None:
    async with open_admin(tmp_path) as admin:
        for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""):
            answer = await admin.post("users.create", {"name": "ada"}, **{"content-type": kind})
            assert refusal(answer)[0] == 400 and answer.error["param"] == "content-type"
        assert refusal(await admin.post("users.create?name=ada", {"name": "ada"}))[2].endswith("the query must be empty.")
        assert (await admin.post("users.create", b"", **{"content-encoding": "gzip"})).status == 415
        answer = await admin.post("users.create", {"name": "ada"}, **{"content-type": "application/json; charset=utf-8"})
        assert answer.status == 200
        # An act without arguments needs no body.
        assert (await admin.post("ledger.audit", b"")).json["clean"]


async def test_a_body_has_its_limit(tmp_path: Path) -> None:
    async with open_admin(tmp_path) as admin:
        just = b'{"name": "ada"' + b" " * (BODY_BYTES_MAX - 15) + b"}"
        assert (await admin.post("users.create", just)).status == 200
        status, code, message = refusal(await admin.post("users.create", just[:-1] + b" }"))
        assert (status, code) == (413, "too_large") and "1 MiB" in message


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("", "user: Field required"),
        ("user=ada&lines=many", "lines: Input should be a valid integer"),
        ("user=ada&lines=1.5", "lines: "),
        ("user=ada&lines=99999999999999999999", "lines: write a number from 1 to 10000"),
        ("user=ada&lines=0", "lines: write a number from 1 to 10000"),
        ("user=ada&line=1", "line: Extra inputs are not permitted; did you mean lines?"),
        ("user=ada&user=eve", "An argument stands in the query twice."),
        ("user=%00", "there is no user"),
        ("user=%ff", "there is no user"),
    ],
)
async def test_what_is_wrong_with_a_query_is_named(tmp_path: Path, query: str, says: str) -> None:
    async with open_admin(tmp_path) as admin:
        status, _, message = refusal(await admin.request("GET", f"wallets.show?{query}"))
        assert status in (400, 404) and says in message


async def test_refusals_of_the_desk_have_their_status(tmp_path: Path) -> None:
    async with open_admin(tmp_path) as admin:
        await admin.ok("users.create", name="ada")
        assert refusal(await admin.act("wallets.withdraw", user="ada", amount="1", reference="r"))[:2] == (402, "balance_too_low")
        assert refusal(await admin.act("users.show", user="adda"))[0] == 404
        answer = await admin.act("users.create", name="ada")
        assert refusal(answer)[0] == 400 and answer.error["param"] == "name"


async def test_trouble_of_ours_stays_in_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(*arguments: object) -> None:
        raise ZeroDivisionError("inner matters")

    async with open_admin(tmp_path) as admin:
        monkeypatch.setattr("gateway.desk.acts.perform", broken)
        assert refusal(await admin.act("users.list")) == (500, "internal", "Internal error.")
        monkeypatch.undo()
    assert "inner matters" in caplog.text


async def test_no_secret_gets_into_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with open_admin(tmp_path) as admin:
        await admin.ok("users.create", name="ada")
        made = await admin.ok("keys.create", user="ada")
        await admin.get("users.show", user=admin.secret)
        await admin.post("users.create", {admin.secret: 1})
        wrong = make_secret("sk-pgrid-admin-")
        await admin.request("GET", "users.list", headers={"x-api-key": wrong})
    for secret in (admin.secret, made["secret"], wrong):
        assert secret not in caplog.text and secret[-40:] not in caplog.text
    assert "admin-key:1 deploy: users.create name=ada: ok" in caplog.text


async def test_acts_under_way_are_bounded(tmp_path: Path) -> None:
    async with open_admin(tmp_path) as admin:
        async with admin.gateway.writer_held_back():
            asking = [asyncio.ensure_future(admin.act("users.create", name=f"user{n}")) for n in range(AT_WORK_MAX)]
            await until(lambda: len(admin.gateway.house.walk.tasks) == AT_WORK_MAX)
            await asyncio.sleep(0.05)
            answer = await admin.act("users.create", name="late")
            assert refusal(answer)[:2] == (503, "unavailable") and answer.headers["retry-after"] == "1"
        assert {answer.status for answer in await asyncio.gather(*asking)} == {200}
        assert (await admin.act("users.create", name="late")).status == 200


async def test_the_example_of_the_readme_works(tmp_path: Path) -> None:
    section = (ROOT / "README.md").read_text().split("## Administration over HTTP")[1].split("\n## ")[0]
    example = re.search(r"```sh\n(curl .*?)```", section, re.DOTALL)
    assert example is not None
    async with open_admin(tmp_path) as admin:
        await admin.ok("users.create", name="alice")
        script = example[1].replace("http://127.0.0.1:8080", admin.gateway.url)
        done = await asyncio.to_thread(
            subprocess.run,
            ["sh", "-ec", script],
            env={"PAGEGRID_ADMIN_KEY": admin.secret, "PATH": "/usr/bin:/bin:/usr/local/bin"},
            capture_output=True,
            timeout=20,
            check=True,
        )
        assert json.loads(done.stdout)["balance_usd"] == "25.00"


# ── what it is not for ───────────────────────────────────────────────────────────────────────────────────────────────


async def test_nobody_signs_in_or_sets_a_password_with_an_admin_key(tmp_path: Path) -> None:
    async with open_admin(tmp_path) as admin:
        await admin.ok("users.create", name="ada", role="admin")
        for act in ("users.set_password", "users.disable_totp", "users.create_link"):
            assert refusal(await admin.post(act, {"user": "ada", "password": "correct horse battery"}))[0] == 403
        for act in ("sessions.sign_in", "signin.sign_in", "signin.redeem_link", "users.change_password"):
            assert refusal(await admin.post(act, {"user": "ada"}))[0] == 404
        assert await admin.gateway.table("select count(*) from passwords") == [(0,)]
        assert not {*OFFERED} & {"users.set_password", "users.disable_totp", "users.create_link", "admin_keys.create"}
        told = (await admin.gateway.request("GET", "/admin/api", headers={"x-api-key": admin.secret})).body.decode()
        assert "password" not in told and "totp" not in told
