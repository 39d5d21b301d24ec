"""Every path of the API, generated from one list.

Base URLs disagree: most clients append `/v1/messages` (so a base that ends in /v1 gives /v1/v1/messages), Cline appends
`/messages`. So under every mount each endpoint answers as /v1/X and /v1/v1/X, and those that clients append bare as /X too.
No redirects: some clients drop their credentials or their body on one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

Endpoint = Literal["messages", "chat", "count_tokens", "models", "model", "usage", "usage_report", "key", "credits", "hello"]

# (endpoint, path behind the version, whether clients append it without a version)
_ENDPOINTS: tuple[tuple[Endpoint, str, bool], ...] = (
    ("messages", "/messages", True),
    ("chat", "/chat/completions", True),
    ("count_tokens", "/messages/count_tokens", True),
    ("models", "/models", True),
    ("model", "/models/{model:.+}", True),
    ("usage", "/usage/{request_id}", False),
    ("usage_report", "/usage", False),
    ("key", "/key", False),
    ("credits", "/credits", False),
)


def endpoint_paths(mounts: Sequence[str]) -> Iterator[tuple[Endpoint, str]]:
    """Every (endpoint, path) to serve; aiohttp's pattern syntax."""
    for mount in mounts:
        for endpoint, path, bare in _ENDPOINTS:
            for version in ("/v1", "/v1/v1", "") if bare else ("/v1", "/v1/v1"):
                yield endpoint, mount + version + path
        # Claude Code's start-up probe, without a key; any answer will do.
        yield "hello", mount + "/api/hello"


def is_api_path(path: str, mounts: Sequence[str]) -> bool:
    """Whether an unknown path is answered in JSON: under a version, or under a mount that is not the root."""
    path += "/"
    return any(path.startswith(f"{mount}/" if mount else "/v1/") for mount in mounts)
