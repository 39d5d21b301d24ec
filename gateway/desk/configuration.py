"""The configuration in force, and taking over another."""

from __future__ import annotations

from typing import Any

from gateway.desk.desk import Desk
from gateway.desk.jobs import whole
from gateway.errors import HouseError
from gateway.storage import audit_log


@whole
async def reload_configuration(desk: Desk, actor: str, *, config: str | None = None) -> dict[str, Any]:
    """Read the configuration again. Raises ClientError with all that is wrong, and then nothing changed; one thing that is wrong
    is a `config`, the path (absolute, links resolved) of the file that is meant, which is not the server's.

    The result's `config` is the file in force, None without one; `changed` names the sections that did, `warnings` what an
    operator should hear.
    """
    if desk.reload is None:
        raise HouseError("unavailable", "only a running server can reload its configuration")
    result = await desk.reload(config)
    if result["changed"]:
        at_ms, after = desk.clock.at_ms(), {"changed": result["changed"]}
        await desk.writer.run(
            lambda ledger: audit_log.record(ledger.conn, at_ms, actor, "configuration.reload", "configuration", after=after)
        )
    return result
