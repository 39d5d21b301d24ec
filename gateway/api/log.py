"""The log: one line per request, text or JSON, and nothing in it that could open a door.

Never a header, a body or a query. Whatever is logged, tracebacks included, passes a mask for everything that looks like a key.
"""

from __future__ import annotations

import logging
import re
import sys
import time
from typing import Any, Literal

import orjson

from gateway.money import format_usd
from gateway.proxy.walk import Record

requests = logging.getLogger("gateway.request")

# Keys of ours and of providers (sk-…), whatever stands behind "Bearer", and any long run of letters and digits: under another
# `brand.key_prefix` our own keys are 64 digits behind anything.
_SECRET = re.compile(
    r"(?P<start>\b[A-Za-z]{1,8}-[A-Za-z0-9]{2,16}[-_][A-Za-z0-9]{4})[A-Za-z0-9_-]{16,}"
    r"|(?P<scheme>(?i:bearer)\s+)[^\s'\",]+"
    r"|(?P<run>[A-Za-z0-9]{4})[A-Za-z0-9]{36,}"
)
# What any of the three needs: most lines have neither, and this scan costs a tenth of the other.
_SUSPICIOUS = re.compile(r"[A-Za-z0-9_-]{24}|[Bb][Ee][Aa][Rr][Ee][Rr]\s")


def mask(text: str) -> str:
    if _SUSPICIOUS.search(text) is None:
        return text
    return _SECRET.sub(lambda match: (match["start"] or match["scheme"] or match["run"]) + "…", text)


class TextFormatter(logging.Formatter):
    def __init__(self) -> None:
        super().__init__("%(asctime)s.%(msecs)03dZ %(levelname)-8s %(name)s %(message)s", "%Y-%m-%dT%H:%M:%S")
        self.converter = time.gmtime

    def format(self, record: logging.LogRecord) -> str:
        fields = getattr(record, "fields", None)
        line = super().format(record)
        if fields:
            line += " " + " ".join(f"{name}={value}" for name, value in fields.items())
        return mask(line)


class JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "at_ms": int(record.created * 1000),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return mask(orjson.dumps(line, default=str).decode())


def set_up(style: Literal["text", "json"], level: str) -> None:
    """Log to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if style == "json" else TextFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    logging.getLogger("asyncio").setLevel(logging.WARNING)
    # Nothing prints these; leaving them out makes a record a third cheaper (docs.python.org/3/howto/logging.html#optimization).
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False


def log_request(request_id: str, method: str, endpoint: str, status: int, total_ms: int, record: Record) -> None:
    if not requests.isEnabledFor(logging.INFO):
        return
    fields: dict[str, Any] = {"id": request_id, "status": status, "ms": total_ms}
    if record.key is not None:
        fields |= {"user": record.key.user_name, "key": record.key.hint}
    if record.model:
        fields |= {"model": record.model, "stream": int(record.stream)}
    if record.upstream:
        fields["upstream"] = record.upstream
    if record.first_byte_ms is not None:
        fields["first_byte_ms"] = record.first_byte_ms
    if record.usage is not None:
        usage = record.usage
        fields |= {
            "input": usage.input_tokens,
            "cache_read": usage.cache_read_tokens,
            "cache_write": usage.cache_write_5m_tokens + usage.cache_write_1h_tokens,
            "output": usage.output_tokens,
            "cost_usd": format_usd(record.cost_nanos),
            "source": record.source,
        }
    if record.error:
        fields["error"] = record.error
    requests.info("%s %s", method, endpoint, extra={"fields": fields})
