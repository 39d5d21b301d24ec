"""The walk on a real server, a real database and a scripted upstream: what a client sees, what it costs, what it never sees."""

from __future__ import annotations

from pathlib import Path

from gateway.usage import Usage
from tests.gateway_tools import MODEL, ScriptedUpstream, open_gateway
from tests.upstreams import scripts
from tests.upstreams.replies import Reply


async def test_an_answer_passes_byte_for_byte_and_is_charged_exactly(tmp_path: Path) -> None:
    async with ScriptedUpstream() as up, open_gateway(tmp_path, up.url) as gateway:
        alice = await gateway.make_user("alice", "10")
        up.script(scripts.answer(Reply(usage=Usage(input_tokens=1000, output_tokens=100))))
        answer = await gateway.ask(alice)
        assert answer.status == 200 and answer.json["model"] == MODEL
        # 1000 × $2/M + 100 × $10/M
        assert answer.headers["x-gateway-cost-micro"] == "3000"
        assert gateway.balance(alice) == 10_000_000_000 - 3_000_000
        assert up.journal[0].header("x-api-key") == "upstream-secret-1"
        rows = await gateway.usage_rows()
        assert [(row["input_tokens"], row["output_tokens"], row["cost_nanos"], row["source"]) for row in rows] == [
            (1000, 100, 3_000_000, "reported")
        ]
        await gateway.assert_settled()


async def test_a_stream_passes_event_for_event_and_is_charged_exactly(tmp_path: Path) -> None:
    async with ScriptedUpstream() as up, open_gateway(tmp_path, up.url) as gateway:
        alice = await gateway.make_user("alice", "10")
        up.script(scripts.answer(Reply(usage=Usage(input_tokens=1000, output_tokens=100))))
        answer = await gateway.ask(alice, stream=True)
        assert answer.status == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.headers["x-accel-buffering"] == "no"
        assert [name for name, _ in answer.events][-1] == "message_stop"
        assert gateway.balance(alice) == 10_000_000_000 - 3_000_000
        await gateway.assert_settled()
