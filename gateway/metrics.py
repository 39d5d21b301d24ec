"""Plain counters of this process and the alarm bell.

Counters are ints that anyone on the loop may raise; they are rendered at the face. An alarm is a counter, a line at level
CRITICAL, and nothing else: what rings must be seen by an operator, not by a client.
"""

from __future__ import annotations

import logging
from collections import Counter

logger = logging.getLogger("gateway.alarm")

counters: Counter[str] = Counter()


def alarm(name: str, message: str) -> None:
    """Ring: `name` is the counter (`alarm_<name>`), `message` the line for the operator; no secrets, no bodies."""
    counters["alarm_" + name] += 1
    logger.critical("%s: %s", name, message)


def limit_hit(name: str) -> None:
    """A request was refused, or stopped, by this limit of its key."""
    counters["limit_" + name] += 1
