"""GET /metrics: what is told, that it is true, that it stays small, and who may look."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from gateway import metrics
from gateway.api.metrics import CONTENT_TYPE, _Page
from gateway.desk.ledger import run_audit
from gateway.money import format_usd
from gateway.storage.ledger import LedgerWriter
from gateway.storage.wallets import set_frozen
from gateway.usage import Usage
from tests.fakes import FakeClock
from tests.gateway_tools import MODEL, Gateway, ScriptedUpstream, open_gateway, until
from tests.prometheus import Page, parse
from tests.upstreams import scripts
from tests.upstreams.replies import Reply

REPLY = Reply(usage=Usage(1_000, 50, cache_write_5m_tokens=7, cache_write_1h_tokens=5, cache_read_tokens=300, web_searches=2))
TOKEN = "a-token-that-only-prometheus-knows"


async def scrape(gateway: Gateway) -> Page:
    answer = await gateway.get(None, "/metrics")
    assert (answer.status, answer.headers["content-type"]) == (200, CONTENT_TYPE)
    answer.assert_clean()
    return parse(answer.body.decode())


# ── what is told ─────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_what_is_told_of_requests_is_what_the_ledger_has(tmp_path: Path) -> None:
    """Answers, failovers, refusals of every floor and streams that break: counts are compared with the rows of the database."""
    plan = "[plans.default]\nrpm = 0\n"
    async with (
        ScriptedUpstream() as up,
        ScriptedUpstream() as other,
        open_gateway(tmp_path, up.url, other.url, more=plan) as gateway,
    ):
        alice, poor = await gateway.make_user("alice"), await gateway.make_user("poor", "0.000001")
        slow = await gateway.make_user("slow", rpm=1)
        before = await scrape(gateway)
        up.script(scripts.answer(REPLY), scripts.answer(REPLY), scripts.refuse(400), scripts.cut("middle"), scripts.refuse(529))
        statuses = [
            (await gateway.ask(user, path=path, **fields)).status
            for user, path, fields in (
                (alice, "/v1/messages", {}),
                (alice, "/v1/messages", {"stream": True}),
                (alice, "/v1/messages", {}),
                (alice, "/v1/messages", {"stream": True}),  # breaks off
                (alice, "/v1/messages", {}),  # answered by the other one
                (alice, "/v1/messages", {"model": "nobody-knows-this"}),
                (alice, "/v1/messages", {"max_tokens": None}),
                (poor, "/v1/messages", {}),
                (slow, "/v1/messages", {}),
                (slow, "/v1/messages", {}),
                (None, "/v1/messages", {}),
                (alice, "/v1/messages/count_tokens", {"max_tokens": None}),
                (alice, "/v1/nothing", {}),
            )
        ]
        assert statuses == [200, 200, 400, 200, 200, 404, 400, 402, 200, 429, 401, 200, 404]
        after = await scrape(gateway)

        def rose(sample: str, /, **labels: str) -> Any:
            return after.total(sample, **labels) - before.total(sample, **labels)

        answers = {
            ("messages", "200", ""): 4,
            ("messages", "200", "upstream_failed"): 1,
            ("messages", "400", ""): 1,
            ("messages", "400", "invalid_request"): 1,
            ("messages", "401", "unauthenticated"): 1,
            ("messages", "402", "balance_too_low"): 1,
            ("messages", "404", "not_found"): 1,
            ("messages", "429", "rate_limited"): 1,
            ("count_tokens", "200", ""): 1,
            ("unknown", "404", "not_found"): 1,
            ("metrics", "200", ""): 1,
        }
        for (endpoint, status, error), count in answers.items():
            assert rose("pagegrid_requests_total", endpoint=endpoint, status=status, error=error) == count, (status, error)
        assert rose("pagegrid_requests_total") == sum(answers.values())
        assert rose("pagegrid_request_duration_seconds_count", endpoint="messages") == 11
        assert rose("pagegrid_request_duration_seconds_count", endpoint="messages", stream="yes") == 2
        assert rose("pagegrid_limits_hit_total", limit="rpm") == rose("pagegrid_limits_hit_total") == 1

        rows = await gateway.usage_rows()
        assert len(rows) == 5
        for name in ("input", "output", "cache_write_5m", "cache_write_1h", "cache_read"):
            assert rose("pagegrid_tokens_total", **{"class": name}) == sum(row[f"{name}_tokens"] for row in rows), name
        assert rose("pagegrid_web_searches_total") == sum(row["web_searches"] for row in rows) == 4
        for upstream in ("up1", "up2"):
            charged = sum(row["cost_nanos"] for row in rows if row["upstream"] == upstream)
            assert rose("pagegrid_revenue_usd_total", upstream=upstream, model=MODEL) * 10**9 == charged > 0
        ((cost,),) = await gateway.table("select sum(cost_nanos) from attempts")
        assert rose("pagegrid_cost_usd_total") * 10**9 == cost
        assert rose("pagegrid_settled_requests_total", source="reported", ended="") == 4
        assert rose("pagegrid_settled_requests_total", source="partial", ended="cut", upstream="up1") == 1
        assert rose("pagegrid_void_requests_total", reason="refused_upstream") == rose("pagegrid_void_requests_total") == 1
        assert rose("pagegrid_first_byte_seconds_count", model=MODEL, stream="no") == 3
        assert rose("pagegrid_first_byte_seconds_count", model=MODEL, stream="yes") == 2

        attempts = await gateway.attempts()
        assert rose("pagegrid_upstream_attempts_total") == len(attempts) == 7
        assert rose("pagegrid_upstream_attempts_total", upstream="up1", reason="overloaded") == 1
        assert rose("pagegrid_upstream_attempts_total", upstream="up1", reason="status_400") == 1
        # The one that broke off later had answered.
        assert rose("pagegrid_upstream_attempts_total", upstream="up1", reason="ok") == 4
        assert rose("pagegrid_upstream_duration_seconds_count", upstream="up1", stream="yes") == 2

        balances = sum(wallet.balance_nanos for wallet in gateway.house.walk.book.wallets())
        assert after.value("pagegrid_balance_usd") * 10**9 == balances
        assert rose("pagegrid_writer_batch_rows_sum") >= 12 and rose("pagegrid_writer_commit_seconds_count") >= 1
        await gateway.assert_settled()


async def test_what_runs_now_is_told_while_it_runs(tmp_path: Path) -> None:
    async with ScriptedUpstream() as up, open_gateway(tmp_path, up.url) as gateway:
        alice, bob = await gateway.make_user("alice"), await gateway.make_user("bob", "5")
        go_on = asyncio.Event()
        up.script(scripts.answer(REPLY, pause=(3, go_on)), scripts.answer(REPLY, released=go_on))
        asking = [asyncio.ensure_future(gateway.ask(alice, stream=True)), asyncio.ensure_future(gateway.ask(bob))]
        await until(lambda: len(gateway.house.walk.streams) == 1 and len(gateway.house.walk.running) == 2)
        await gateway.house.writer.run(lambda ledger: set_frozen(ledger.conn, bob.key.wallet_id, True))
        gateway.house.walk.book.freeze(bob.key.wallet_id)
        page = await scrape(gateway)
        held = sum(wallet.held_nanos for wallet in gateway.house.walk.book.wallets())
        for name, value in {
            "requests_in_flight": 2,
            "requests_in_flight_max": 512,
            "streams_open": 1,
            "holds_open": 2,
            "balance_usd": 15,
            "owed_usd": 0,
        }.items():
            assert page.value(f"pagegrid_{name}") == value, name
        assert page.value("pagegrid_request_body_bytes") > 0
        assert page.value("pagegrid_held_usd") * 10**9 == held > 0
        assert page.value("pagegrid_upstream_requests_in_flight", upstream="up1") == 2
        assert (page.value("pagegrid_wallets", state="open"), page.value("pagegrid_wallets", state="frozen")) == (1, 1)
        go_on.set()
        assert [answer.status for answer in await asyncio.gather(*asking)] == [200, 200]
        page = await scrape(gateway)
        for name in ("requests_in_flight", "request_body_bytes", "streams_open", "holds_open", "held_usd"):
            assert page.value(f"pagegrid_{name}") == 0, name
        await gateway.assert_settled()


async def test_what_a_wallet_could_not_pay_is_told_as_owed(tmp_path: Path) -> None:
    async with ScriptedUpstream() as up, open_gateway(tmp_path, up.url) as gateway:
        alice = await gateway.make_user("alice", "0.003")
        up.script(scripts.answer(Reply(usage=Usage(2_000, 90_000))))
        rung = (await scrape(gateway)).value("pagegrid_alarms_total", alarm="overrun")
        assert (await gateway.ask(alice, max_tokens=20)).status == 200
        (row,) = await gateway.usage_rows()
        page = await scrape(gateway)
        assert page.value("pagegrid_owed_usd") * 10**9 == row["cost_nanos"] - 3_000_000 > 0
        assert page.value("pagegrid_alarms_total", alarm="overrun") == rung + 1
        await gateway.assert_settled()


async def test_who_rests_is_told(tmp_path: Path) -> None:
    clock = FakeClock()
    async with ScriptedUpstream() as up, open_gateway(tmp_path, "http://127.0.0.1:9", up.url, clock=clock) as gateway:
        alice = await gateway.make_user("alice")
        up.script(scripts.refuse(429, retry_after="40"))
        assert (await gateway.ask(alice)).status == 429
        page = await scrape(gateway)
        assert page.value("pagegrid_upstream_serving", upstream="up1") == 0
        assert page.value("pagegrid_upstream_serving", upstream="up2") == 1
        # up1 rests as a whole.
        assert page.families["pagegrid_deployment_resting_seconds"].samples == {
            ("pagegrid_deployment_resting_seconds", (("upstream", "up2"), ("model", MODEL))): 40
        }
        await gateway.house.writer.run(lambda ledger: None)
        clock.advance(41_000)
        assert (await gateway.ask(alice, stream=True)).status == 200
        assert not (await scrape(gateway)).families["pagegrid_deployment_resting_seconds"].samples
        await gateway.assert_settled()


async def test_a_disk_that_hangs_is_told(tmp_path: Path) -> None:
    clock = FakeClock()
    async with ScriptedUpstream() as up, open_gateway(tmp_path, up.url, clock=clock) as gateway:
        page = await scrape(gateway)
        assert page.value("pagegrid_writer_accepting") == 1
        assert (page.value("pagegrid_writer_queue_length"), page.value("pagegrid_writer_lag_seconds")) == (0, 0)
        async with gateway.writer_held_back():
            clock.advance(6_250)
            page = await scrape(gateway)
            assert page.value("pagegrid_writer_accepting") == 0
            assert (page.value("pagegrid_writer_queue_length"), str(page.value("pagegrid_writer_lag_seconds"))) == (1, "6.25")
        await until(lambda: gateway.house.writer.idle)
        assert (await scrape(gateway)).value("pagegrid_writer_accepting") == 1


async def test_an_audit_is_told_with_what_it_found(tmp_path: Path) -> None:
    clock = FakeClock()
    async with ScriptedUpstream() as up, open_gateway(tmp_path, up.url, clock=clock) as gateway:
        house = gateway.house
        await gateway.make_user("alice")
        clock.advance(3_600_000)
        await run_audit(house.desk, "test")
        page = await scrape(gateway)
        assert page.value("pagegrid_audit_last_run_timestamp_seconds", scope="whole") * 1000 == clock.at_ms()
        assert page.value("pagegrid_audit_findings", scope="whole") == 0
        clock.advance(1_000)

        def damage(ledger: LedgerWriter) -> None:
            ledger.conn.execute("update accounts set balance_nanos = balance_nanos + 1 where name = 'revenue'")

        await house.writer.run(damage)
        await run_audit(house.desk, "test", since_checkpoint=True)
        page = await scrape(gateway)
        assert page.value("pagegrid_audit_last_run_timestamp_seconds", scope="recent") * 1000 == clock.at_ms()
        # The sum over all accounts, and the account's own.
        assert page.value("pagegrid_audit_findings", scope="recent") == 2
        assert page.value("pagegrid_audit_findings", scope="whole") == 0


async def test_the_process_tells_of_itself(tmp_path: Path) -> None:
    async with ScriptedUpstream() as up, open_gateway(tmp_path, up.url) as gateway:
        page = await scrape(gateway)
        for name in ("resident_memory_bytes", "open_fds", "max_fds", "cpu_seconds_total"):
            assert page.value(f"pagegrid_process_{name}") > 0, name
        assert page.value("pagegrid_process_open_fds") < page.value("pagegrid_process_max_fds")
        assert 0 <= time.time() - float(page.value("pagegrid_process_start_time_seconds")) < 100_000
        for name in ("database_bytes", "wal_bytes", "disk_free_bytes"):
            assert page.value(f"pagegrid_{name}") > 0, name
        ((_, labels),) = page.families["pagegrid_build_info"].samples
        assert {name for name, _ in labels} == {"version", "python", "sqlite", "aiohttp"}
        assert all(value[0].isdigit() for _, value in labels)


async def test_a_loop_that_stalls_is_seen(tmp_path: Path) -> None:
    async with ScriptedUpstream() as up, open_gateway(tmp_path, up.url) as gateway:
        await asyncio.sleep(0.05)
        lag = metrics.loop_lag_ms
        looked, late = sum(lag.counts), lag.sum
        time.sleep(0.75)
        await until(lambda: sum(lag.counts) > looked)
        assert lag.sum - late >= 100
        assert (await scrape(gateway)).value("pagegrid_loop_lag_seconds_sum") * 1000 == lag.sum


# ── that it stays small ──────────────────────────────────────────────────────────────────────────────────────────────


async def test_no_client_and_no_provider_makes_new_series(tmp_path: Path) -> None:
    """Whatever they call things: after the first of each kind there is nothing new, and none of their words is there."""

    async def make_trouble(gateway: Gateway, up: ScriptedUpstream, word: str) -> None:
        user = await gateway.make_user(word)
        up.script(scripts.error_first(f"{word}_error"), scripts.refuse(500, word), scripts.refuse(422, word))
        for fields in (
            {"stream": True},
            {},
            {},
            {"model": word},
            {"metadata": {"user_id": word}},
            {"messages": [{"role": word}]},
        ):
            await gateway.ask(user, headers={"x-claude-code-session-id": word, "x-claude-code-agent-id": word}, **fields)
        await gateway.ask(None, headers={"x-api-key": word})
        await gateway.get(user, f"/v1/{word}")
        await gateway.get(user, f"/v1/models/{word}")
        await gateway.get(user, f"/v1/usage/{word}")
        await gateway.request("BREW", f"/v1/{word}")
        await gateway.request("BREW", "/v1/messages")

    clock = FakeClock()
    async with ScriptedUpstream() as up, open_gateway(tmp_path, up.url, clock=clock) as gateway:
        await make_trouble(gateway, up, "first-words")
        await scrape(gateway)
        known = (await scrape(gateway)).series
        for number in range(3):
            # Failures of the last round are forgotten, or the upstream would rest.
            await gateway.house.writer.run(lambda ledger: None)
            clock.advance(60_000)
            await make_trouble(gateway, up, f"other-words-{number}")
        page = await scrape(gateway)
        assert page.series == known
        assert not [value for _, labels in page.series for _, value in labels if "words" in value]
        await gateway.assert_settled()


def test_counting_costs_next_to_nothing() -> None:
    """All that one request counts; measured 2 µs, and bounded loosely: the machine may be busy."""
    usage = Usage(1_000, 50, 7, 5, 300)
    best = min(_count_requests(1_000, usage) for _ in range(5))
    assert best / 1_000 < 50_000


def _count_requests(times: int, usage: Usage) -> int:
    begun_ns = time.perf_counter_ns()
    for number in range(times):
        metrics.attempted("bench", "ok", True, number)
        metrics.first_byte("bench", True, number)
        metrics.settled("bench", "bench", "reported", "", usage, 1_000, 1_000)
        metrics.answered("bench", 200, "", True, number)
    return time.perf_counter_ns() - begun_ns


# ── the format ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_labels_are_escaped_and_numbers_exact() -> None:
    ugly = 'a "quoted\\" \n name, with {braces} and ünicode'
    page = _Page()
    page.counter("x_total", "Help.", ("name", "more"), [((ugly, ""), 2**70), (("plain", "y"), format_usd(10**18 + 1))])
    seconds = metrics.Histogram((5, 250, 1_000, 60_000))
    for value in (0, 5, 6, 1_000, 60_001):
        seconds.observe(value)
    page.histogram("y_seconds", "Help.", ("name",), {(ugly,): seconds}, unit=1000)
    read = parse(page.text())
    assert read.value("x_total", name=ugly, more="") == 2**70
    assert str(read.value("x_total", name="plain", more="y")) == "1000000000.000000001"
    buckets = {bound: read.value("y_seconds_bucket", name=ugly, le=bound) for bound in ("0.005", "0.25", "1", "60", "+Inf")}
    assert list(buckets.values()) == [2, 3, 4, 4, 5]
    assert str(read.value("y_seconds_sum", name=ugly)) == "61.012"


# ── who may look ─────────────────────────────────────────────────────────────────────────────────────────────────────

NGINX = 'trusted_proxies = ["127.0.0.1", "10.0.0.0/8"]\n'
# (what [server] says, the token is configured, headers, status)
LOOKS: list[tuple[str, bool, dict[str, str], int]] = [
    ("", False, {}, 200),
    ("", True, {}, 200),
    (NGINX, True, {}, 200),
    # A proxy that nobody named stands before the whole world, whatever it says of its client.
    ("", False, {"x-forwarded-for": "203.0.113.7"}, 403),
    ("", False, {"x-forwarded-for": "127.0.0.1"}, 403),
    ("", False, {"forwarded": "for=127.0.0.1"}, 403),
    ("", False, {"via": "1.1 proxy"}, 403),
    ("", True, {"x-real-ip": "127.0.0.1"}, 401),
    ('trusted_proxies = ["10.0.0.1"]\n', True, {"x-forwarded-for": "127.0.0.1"}, 401),
    # One that was named tells who asks; what came through it is nobody of this machine.
    (NGINX, False, {"x-forwarded-for": "203.0.113.7"}, 403),
    (NGINX, True, {"x-forwarded-for": "203.0.113.7"}, 401),
    (NGINX, True, {"x-forwarded-for": "203.0.113.7, 10.1.2.3"}, 401),
    (NGINX, True, {"x-forwarded-for": "127.0.0.1, 203.0.113.7"}, 401),
    (NGINX, True, {"x-forwarded-for": "127.0.0.1"}, 401),
    (NGINX, True, {"x-forwarded-for": "203.0.113.7:4711"}, 401),
    (NGINX, True, {"x-forwarded-for": "unknown"}, 401),
    # The token, and what is none.
    (NGINX, True, {"x-forwarded-for": "203.0.113.7", "authorization": f"Bearer {TOKEN}"}, 200),
    ("", True, {"x-forwarded-for": "203.0.113.7", "authorization": f"bearer  {TOKEN} "}, 200),
    (NGINX, True, {"x-forwarded-for": "203.0.113.7", "authorization": f"Bearer {TOKEN}x"}, 401),
    (NGINX, True, {"x-forwarded-for": "203.0.113.7", "authorization": f"Bearer {TOKEN[:-1]}"}, 401),
    (NGINX, True, {"x-forwarded-for": "203.0.113.7", "authorization": "Bearer "}, 401),
    (NGINX, True, {"x-forwarded-for": "203.0.113.7", "authorization": "Bearer tökén"}, 401),
    (NGINX, True, {"x-forwarded-for": "203.0.113.7", "authorization": TOKEN}, 401),
    (NGINX, True, {"x-forwarded-for": "203.0.113.7", "authorization": f"Basic {TOKEN}"}, 401),
    (NGINX, True, {"x-forwarded-for": "203.0.113.7", "x-api-key": TOKEN}, 401),
    (NGINX, False, {"x-forwarded-for": "203.0.113.7", "authorization": "Bearer "}, 403),
    (NGINX, False, {"x-forwarded-for": "203.0.113.7", "authorization": f"Bearer {TOKEN}"}, 403),
]


@pytest.mark.parametrize("server", dict.fromkeys((server, token) for server, token, _, _ in LOOKS), ids=str)
async def test_who_may_look(tmp_path: Path, server: tuple[str, bool]) -> None:
    options, with_token = server
    (tmp_path / "metrics.token").write_text(TOKEN + "\n")
    (tmp_path / "metrics.token").chmod(0o600)
    more = "[server]\n" + options + ('metrics_token_file = "metrics.token"\n' if with_token else "")
    async with open_gateway(tmp_path, "http://127.0.0.1:1", more=more) as gateway:
        alice = await gateway.make_user("alice")
        for headers, status in ((headers, status) for *at, headers, status in LOOKS if tuple(at) == server):
            answer = await gateway.request("GET", "/metrics", headers=headers)
            assert answer.status == status, headers
            answer.assert_clean()
            if status != 200:
                # A key for inference is no way in either.
                assert (await gateway.get(alice, "/metrics", headers)).status == status
                assert "pagegrid_" not in answer.body.decode() and TOKEN not in answer.body.decode()
                assert "metrics_token_file" in answer.error["message"]


async def test_every_address_of_loopback_is_this_machine(tmp_path: Path) -> None:
    connector = aiohttp.TCPConnector(local_addr=("127.8.8.8", 0))
    async with (
        open_gateway(tmp_path, "http://127.0.0.1:1") as gateway,
        aiohttp.ClientSession(connector=connector) as session,
        session.get(gateway.url + "/metrics") as answer,
    ):
        assert answer.status == 200


async def test_it_stands_at_the_root_only(tmp_path: Path) -> None:
    async with open_gateway(tmp_path, "http://127.0.0.1:1") as gateway:
        for path in (
            "/v1/metrics",
            "/api/metrics",
            "/api/proxy/metrics",
            "/api/v1/metrics",
            "/metrics/",
            "/metrics/x",
            "//metrics",
        ):
            assert (await gateway.get(None, path)).status == 404, path
        for method in ("POST", "PUT", "DELETE", "OPTIONS"):
            answer = await gateway.request(method, "/metrics")
            assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD")
        head = await gateway.request("HEAD", "/metrics")
        assert (head.status, head.body) == (200, b"") and int(head.headers["content-length"]) > 1_000


# ── what the README says ─────────────────────────────────────────────────────────────────────────────────────────────


async def test_the_readme_lists_what_is_told(tmp_path: Path) -> None:
    text = (Path(__file__).parent.parent.parent / "README.md").read_text(encoding="utf-8")
    section = text.split("## Watching it\n")[1].split("\n## ")[0]
    rows = [line.split("|")[1:4] for line in section.splitlines() if line.startswith("| `pagegrid_")]
    written = {name.strip("` "): {label.strip("` ") for label in labels.split(",")} - {""} for name, labels, _ in rows}
    async with ScriptedUpstream() as up, open_gateway(tmp_path, up.url, "http://127.0.0.1:9") as gateway:
        alice = await gateway.make_user("alice")
        up.script(scripts.answer(), scripts.refuse(429))
        for _ in range(2):
            await gateway.ask(alice)
        page = await scrape(gateway)
        assert written.keys() == page.families.keys()
        for name, family in page.families.items():
            assert family.samples and family.label_names == written[name], name
        await gateway.assert_settled()
