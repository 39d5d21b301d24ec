"""GET /v1/usage: what the user of a key used, summed up or request by request, as JSON or CSV.

Reading happens in a thread with a connection of its own, two at a time: a report may take as long as a hundred look-ups.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from typing import Any

import orjson
from aiohttp import web

from gateway.api.accept import prefers
from gateway.api.frame import JSON
from gateway.api.sink import HttpSink
from gateway.desk.usage_reports import CSV_LIMIT_MAX, LIMIT_DEFAULT, LIMIT_MAX, parse_question, render_csv_page, report_of_owner
from gateway.errors import ClientError, HouseError
from gateway.house import House
from gateway.proxy.admission import authenticate
from gateway.proxy.walk import Inbound
from gateway.storage.database import open_reader

REPORTS = web.AppKey("reports", asyncio.Semaphore)
REPORTS_AT_ONCE = 2
WAIT_S = 10
SETTLE_WAIT_S = 1

CSV = ("content-type", "text/csv; charset=utf-8; header=present")


async def report_usage(house: House, request: web.Request, inbound: Inbound, sink: HttpSink) -> None:
    """Of all keys of the user: `key=ID` shows one."""
    key = authenticate(house.walk, inbound)
    as_csv = prefers(request.headers.getall("accept", []), "text/csv", over="application/json")
    question = parse_question(
        house.walk.clock.at_ms(),
        request.query.getall("group_by", []),
        _once(request),
        limit_default=CSV_LIMIT_MAX if as_csv else LIMIT_DEFAULT,
        limit_max=CSV_LIMIT_MAX if as_csv else LIMIT_MAX,
    )
    model = None if question.asked.model is None else house.walk.catalog.find(question.asked.model)
    if model is not None:  # an alias; what is not in the catalogue any more may still stand in the ledger
        question = question.of_model(model.id)

    def work() -> tuple[dict[str, Any], bytes]:
        with closing(open_reader(house.database)) as conn:
            report = report_of_owner(conn, question, key.wallet_id)
        return report, render_csv_page(report).encode() if as_csv else orjson.dumps(report)

    if settling := list(house.walk.settling.values()):
        # Who asks behind an answer finds it in the report. All of them are in the next commit, some milliseconds away.
        await asyncio.wait(settling, timeout=SETTLE_WAIT_S)
    async with turn(request.app[REPORTS]):
        report, body = await asyncio.to_thread(work)
    headers = [("cache-control", "no-store")]
    if as_csv:
        name = f"usage-{report['start'][:10]}-{report['end'][:10]}.csv"
        headers += [CSV, ("content-disposition", f'attachment; filename="{name}"')]
        if report["has_more"]:
            headers.append(("x-next-cursor", report["next_cursor"]))
    else:
        headers.append(JSON)
    await sink.answer(200, headers, body)


@asynccontextmanager
async def turn(turns: asyncio.Semaphore) -> AsyncIterator[None]:
    """So many read at once, whoever asks; the others wait, not for ever."""
    try:
        async with asyncio.timeout(WAIT_S):
            await turns.acquire()
    except TimeoutError:
        raise HouseError("unavailable", "Too many reports are asked for at once; ask again.", retry_after_s=5) from None
    try:
        yield
    finally:
        turns.release()


def _once(request: web.Request) -> dict[str, str]:
    """The query but `group_by`, each parameter once."""
    texts: dict[str, str] = {}
    for name, text in request.query.items():
        if name in texts:
            raise ClientError("invalid_request", f"{name[:64]} is given twice; give it once", param=name[:64])
        if name != "group_by":
            texts[name] = text
    return texts
