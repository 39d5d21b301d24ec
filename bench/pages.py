"""How long every page takes on a large database, and what the relay feels of people who browse.

    PYTHONPATH=. python bench/pages.py                          # makes 1,000,000 requests of one user: some 3 minutes in all
    PYTHONPATH=. python bench/pages.py --file /tmp/big/pagegrid.db      # of usage_rows.py; it is copied, not changed
    PYTHONPATH=. python bench/pages.py --seconds 0              # pages alone, no load

The first user of the file is made an admin and signs in over HTTP; then every page of ROUTES is asked for, over one connection,
several times (a file or a stream: to its first byte), and the page of usage with many filters. Exit 1: a page's median is above
200 ms, a page failed, or a request of the load did. Linux only; see README.md.
"""

from __future__ import annotations

import argparse
import http.client
import json
import re
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode

from load import percentiles_ms
from servers import BenchError, GatewayPlace, machine_busy_s, run_load, start_mock, stop
from usage_rows import PREFIX, make

from gateway.access import Own, hash_secret, hint_of, make_secret
from gateway.ids import render_id
from gateway.passwords import hash_password
from gateway.storage import audit
from gateway.storage.credentials import set_password
from gateway.storage.database import FILE_NAME, open_reader, open_writer
from gateway.storage.keys import insert_key
from gateway.storage.ledger import LedgerWriter
from gateway.storage.migrate import migrate
from gateway.storage.users import insert_user
from gateway.storage.wallets import create_wallet, deposit
from gateway.web.site import ROUTES

LIMIT_MS = 200
PASSWORD = "a long enough password"
# Left above the mark, as a busy gateway leaves some minutes of it.
TAIL_ROWS = 2_000
# Of 1,000,000 requests in so many days: none is younger than the roll-ups' lag when the server has started.
DAYS = 90
WARM_UP_S = 2.0
PAUSE_S = 0.1


@dataclass(slots=True)
class Asked:
    path: str
    took_ms: list[float]
    status: int
    size: int

    @property
    def median_ms(self) -> float:
        return statistics.median(self.took_ms)


@dataclass(frozen=True, slots=True)
class Facts:
    """Names and numbers of the file that paths and filters need."""

    secret: str
    user: str
    user_id: int
    key_id: int
    model: str
    rare: str
    session: str
    newest: str
    middle: str
    first_day: str
    last_day: str


class Browser:
    """One person: a cookie and one connection."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        self._cookies: dict[str, str] = {}

    def sign_in(self, name: str) -> None:
        _, page = self._ask("GET", "/login")
        found = re.search(rb'name="csrf" value="([0-9a-f]+)"', page)
        if found is None:
            raise BenchError("the page of sign-in has no form")
        status, _ = self._ask("POST", "/login", urlencode({"csrf": found.group(1).decode(), "name": name, "password": PASSWORD}))
        if status != 303 or "session" not in self._cookies:
            raise BenchError(f"sign-in was answered {status}")

    def get(self, path: str) -> tuple[int, int]:
        """(status, bytes); of what is no page, the first bytes."""
        status, body = self._ask("GET", path)
        return status, len(body)

    def close(self) -> None:
        self._connection.close()

    def _ask(self, method: str, path: str, form: str | None = None) -> tuple[int, bytes]:
        cookie = "; ".join(f"{name}={value}" for name, value in self._cookies.items())
        headers = {"accept": "text/html", "cookie": cookie}
        if form is not None:
            headers |= {"content-type": "application/x-www-form-urlencoded", "sec-fetch-site": "same-origin"}
        self._connection.request(method, path, form, headers)
        response = self._connection.getresponse()
        for each in response.headers.get_all("set-cookie", []):
            name, _, value = each.partition(";")[0].partition("=")
            self._cookies[name] = value
        if response.headers.get("content-type", "").startswith(("text/html", "application/json")) or response.status == 303:
            return response.status, response.read()
        body = response.read1()
        self._connection.close()  # the rest of a file or a stream is left
        return response.status, body


def prepare(file: Path) -> Facts:
    """Bring the file up to this release's schema, roll it up as the house does, and let its first user sign in as an admin.

    Written straight into it: a command would first prove the whole ledger.
    """
    with closing(open_writer(file)) as conn:
        migrate(conn, file)
        newest = conn.execute("select request_id from usage order by 1 desc limit 1 offset ?", (TAIL_ROWS,)).fetchone()[0]
        ledger, more = LedgerWriter(conn, 1), True
        while more:
            conn.execute("begin immediate")
            more = ledger.roll_up(newest)
            conn.execute("commit")
        conn.execute("begin immediate")
        secret = _add_people(conn, ledger)
        conn.execute("commit")
        report = audit.audit(conn)
        if not report.clean:
            raise BenchError(f"the audit of the file found {report.findings}")
        # As the house leaves one every hour; without it the start would prove all of it once more.
        audit.store_checkpoint(conn, report, time.time_ns() // 10**6)
        conn.execute("pragma wal_checkpoint(truncate)")
    with closing(open_reader(file)) as conn:

        def one(sql: str) -> tuple[object, ...]:
            row: tuple[object, ...] = conn.execute(sql).fetchone()
            return row

        user_id, user, wallet = one("select u.id, u.name, a.id from users as u join accounts as a on a.user_id = u.id order by 1")
        models = conn.execute("select model from usage_days group by 1 order by sum(requests) desc").fetchall()
        count = int(str(one(f"select count(*) from usage where wallet_id = {wallet}")[0]))
        ids = [
            conn.execute("select request_id from usage where wallet_id = ? order by 1 desc limit 1 offset ?", (wallet, offset))
            for offset in (0, count // 2)
        ]
        newest, middle = (render_id(cursor.fetchone()[0]) for cursor in ids)
        day = "date({}(at_ms) / 1000, 'unixepoch')"
        first, last = one(f"select {day.format('min')}, {day.format('max')} from usage where wallet_id = {wallet}")
        return Facts(
            secret,
            *(str(user), int(str(user_id)), int(str(one(f"select min(id) from keys where user_id = {user_id}")[0]))),
            *(str(models[0][0]), str(models[-1][0])),
            str(one(f"select session from usage_sessions where wallet_id = {wallet} limit 1 offset 1000")[0]),
            *(newest, middle, str(first), str(last)),
        )


def _add_people(conn: sqlite3.Connection, ledger: LedgerWriter) -> str:
    """A password for the first user, and somebody whose key the load uses: its secret."""
    at_ms, secret = time.time_ns() // 10**6, make_secret(PREFIX)
    first = int(conn.execute("select min(id) from users").fetchone()[0])
    conn.execute("update users set role = 'admin' where id = ?", (first,))
    set_password(conn, first, hash_password(PASSWORD), at_ms)
    user_id = insert_user(conn, "load", None, "user", at_ms)
    deposit(ledger, create_wallet(conn, user_id), 10**14, "load-1", "", at_ms)
    insert_key(
        conn,
        user_id=user_id,
        name="load",
        secret_hash=hash_secret(secret),
        hint=hint_of(PREFIX, secret),
        own=Own((("rpm", 0),)),
        expires_at_ms=None,
        rotated_from=None,
        at_ms=at_ms,
    )
    return secret


def paths(facts: Facts) -> Iterator[str]:
    """Every page, of something that is there; and usage as it is asked for."""
    named = {"key": str(facts.key_id), "user": str(facts.user_id), "request": facts.middle}
    for route in ROUTES:
        if route.get is not None:
            yield re.sub(r"\{(\w+)(?::[^}]*)?\}", lambda found: named.get(found.group(1), "1"), route.path)
    whole = {"time": "custom", "start": facts.first_day, "end": facts.last_day}
    for more in (
        {},
        {"before": facts.middle},
        {"after": facts.middle},
        {"open": facts.newest},
        {"key": str(facts.key_id)},
        {"model": facts.model},
        {"model": facts.rare, "before": facts.middle},
        {"model": "none"},
        {"q": facts.session},
        {"q": facts.middle},
        *({"status": status} for status in ("done", "estimated", "partial", "void", "running")),
        {"status": "estimated", "model": facts.rare, "key": str(facts.key_id)},
        {"status": "estimated", "q": facts.session},
    ):
        yield f"/dashboard/usage?{urlencode(whole | more)}"
    yield f"/dashboard/usage.csv?{urlencode(whole)}"


def measure(browser: Browser, facts: Facts, runs: int) -> list[Asked]:
    found = []
    for path in paths(facts):
        asked = Asked(path, [], 0, 0)
        for _ in range(runs):
            begun = time.perf_counter()
            asked.status, asked.size = browser.get(path)
            asked.took_ms.append((time.perf_counter() - begun) * 1e3)
        found.append(asked)
    return found


def browse(port: int, facts: Facts, until: float, seen: list[float]) -> None:
    """One person who looks at one page after another, a tenth of a second on each."""
    browser = Browser(port)
    browser.sign_in(facts.user)
    while True:
        for path in paths(facts):
            if time.perf_counter() >= until:
                browser.close()
                return
            begun = time.perf_counter()
            browser.get(path)
            seen.append(time.perf_counter() - begun)
            time.sleep(PAUSE_S)


def measure_relay(port: int, key: str, facts: Facts, options: argparse.Namespace, folder: Path) -> bool:
    """Slices of load in turn, with and without somebody who browses; whether every request was answered right."""
    sides: dict[str, list[float]] = {"nobody browses": [], "somebody browses": []}
    pages: list[float] = []
    errors: dict[str, object] = {}
    trace = folder / "trace.json"
    load = ["--rate", str(options.rate), "--concurrency", "32", "--trace", str(trace)]
    run_load(port, key, [*load, "--seconds", str(WARM_UP_S)], WARM_UP_S + 60)
    busy_s, began = machine_busy_s(), time.perf_counter()
    for number in range(2 * options.rounds):
        browsing = number % 2 == 1
        until = time.perf_counter() + options.seconds
        person = threading.Thread(target=browse, args=(port, facts, until, pages)) if browsing else None
        if person is not None:
            person.start()
        result = run_load(port, key, [*load, "--seconds", str(options.seconds)], options.seconds + 60)
        if person is not None:
            person.join()
        found = result["errors"]
        errors |= found if isinstance(found, dict) else {}
        sides["somebody browses" if browsing else "nobody browses"] += [
            answered - due for due, answered in json.loads(trace.read_text())
        ]
    took_s = time.perf_counter() - began
    print(f"\n| {options.rate:g} requests/s | requests | p50 ms | p95 | p99 | max |\n| --- | --- | --- | --- | --- | --- |")
    for side, latencies in sides.items():
        told = percentiles_ms(latencies)
        print(
            f"| {side} | {len(latencies):,} | " + " | ".join(f"{told[name]:.1f}" for name in ("p50", "p95", "p99", "max")) + " |"
        )
    print(f"\n{len(pages)} pages meanwhile, {percentiles_ms(pages)} ms; the machine {(machine_busy_s() - busy_s) / took_s:.0%}")
    print(f"errors {errors or 0}")
    return not errors


def run(options: argparse.Namespace, folder: Path, stack: ExitStack) -> int:
    mock, mock_port = start_mock(20, 10, 20)
    stack.callback(stop, mock)
    place = GatewayPlace(folder / "gateway", options.gateway, mock_port)
    place.data.mkdir(mode=0o700)
    file = place.data / FILE_NAME
    if options.file is not None:
        shutil.copyfile(options.file, file)
    else:
        say(f"writing a past of {options.rows:,} requests")
        make(file, options.rows, DAYS, 1, 3, time.time_ns() // 10**6, 1)
    file.chmod(0o600)
    say("rolling it up")
    facts = prepare(file)
    server = place.serving(facts.secret).start()
    stack.callback(stop, server.process)
    browser = Browser(server.port_json)
    browser.sign_in(facts.user)
    print(f"| page, {options.runs} times | status | bytes | median ms | max |\n| --- | --- | --- | --- | --- |")
    bad = False
    for asked in measure(browser, facts, options.runs):
        wrong = asked.median_ms > LIMIT_MS or asked.status >= 500
        bad = bad or wrong
        figures = f"{asked.status} | {asked.size:,} | {asked.median_ms:.0f} | {max(asked.took_ms):.0f}"
        print(f"| {'**' if wrong else ''}{asked.path}{'**' if wrong else ''} | {figures} |")
    browser.close()
    if options.seconds:
        bad = not measure_relay(server.port_json, server.key, facts, options, folder) or bad
    return 1 if bad else 0


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--file", type=Path, help="a database of usage_rows.py; without one it is made")
    parser.add_argument("--rows", type=int, default=1_000_000, help="requests of the one that is made, all one user's")
    parser.add_argument("--runs", type=int, default=5, help="of each page")
    parser.add_argument("--seconds", type=float, default=10, help="of each slice of load; 0: none")
    parser.add_argument("--rounds", type=int, default=3, help="slices with and without somebody who browses")
    parser.add_argument("--rate", type=float, default=100, help="requests per second")
    parser.add_argument("--gateway", default=f"{sys.executable} -m gateway", help="the program, run in the repository")
    parser.add_argument("--work-dir", type=Path, help="where the temporary folder is made; a real disk, not tmpfs")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="pagegrid-bench-", dir=options.work_dir) as name, ExitStack() as stack:
        try:
            return run(options, Path(name), stack)
        except (BenchError, OSError, subprocess.TimeoutExpired) as error:
            print(f"bench: {error}", file=sys.stderr)
            return 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
