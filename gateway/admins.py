"""Admin keys: what opens the admin API and nothing else, and how long whoever guesses at them has to wait.

    sk-pgrid-admin- 0123…  ...   the same form as other keys (`access`), under a prefix of its own

They belong to no user and pay for nothing. The ring holds those that are alive: a key that is dropped there is dead at once.
Knows nothing of HTTP or SQL; time is handed in.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import ip_address, ip_network

from gateway.access import ADMIN_WORD, find_credentials, hash_secret, is_admin_form, looks_like_key, unauthenticated
from gateway.errors import ClientError

# Ten slips at once, then one more every six seconds. A secret of 224 bits is not found by guessing at any speed: the limit keeps
# the log readable, and tells a script with an old key to stop.
FAILURES_MAX = 10
FAILURE_MS = 6_000
# Beyond it the address that failed longest ago is forgotten.
ADDRESSES_MAX = 1_000
# Whoever has one address of IPv6 has 2^64 of them (RFC 6177).
_IPV6_PREFIX = 64


@dataclass(frozen=True, slots=True)
class AdminKey:
    id: int
    name: str
    hint: str

    @property
    def actor(self) -> str:
        """Whom audit rows name."""
        return f"admin-key:{self.id} {self.name}"


def admin_prefix(key_prefix: str) -> str:
    return key_prefix + ADMIN_WORD


class AdminRing:
    """The live admin keys by hash. `put` and `drop` follow the database in the same step as its commit."""

    def __init__(self, keys: Iterable[tuple[bytes, AdminKey]] = ()) -> None:
        self._by_hash: dict[bytes, AdminKey] = dict(keys)

    def put(self, secret_hash: bytes, key: AdminKey) -> None:
        self._by_hash[secret_hash] = key

    def drop(self, secret_hash: bytes) -> None:
        self._by_hash.pop(secret_hash, None)

    def authenticate(self, headers: Sequence[tuple[str, str]], key_prefix: str) -> AdminKey:
        """The admin key that a request's headers (lower-case names) carry, in x-api-key or as a bearer.

        Raises ClientError `unauthenticated`: none, unknown, a user's key, two different ones. Messages never repeat the value.
        """
        sent = [credential for credential in dict.fromkeys(find_credentials(headers)) if credential]
        ours = [credential for credential in sent if looks_like_key(credential)]
        if len(ours) > 1:
            raise unauthenticated("Two different keys were sent; send one admin key, as Authorization: Bearer or in x-api-key.")
        prefix = admin_prefix(key_prefix)
        if not sent:
            raise unauthenticated(
                f"No admin key was sent; send one ({prefix}…) as Authorization: Bearer. `pagegrid admin-keys create` makes one."
            )
        if not ours:
            mistyped = any(credential.startswith(prefix) for credential in sent)
            raise unauthenticated(
                "This admin key is mistyped or cut: its checksum does not match. Copy it again, whole."
                if mistyped
                else f"This is no admin key; they start with {prefix}."
            )
        key = self._by_hash.get(hash_secret(ours[0]))
        if key is not None:
            return key
        if is_admin_form(ours[0], key_prefix):
            raise unauthenticated(
                "This admin key is unknown here: it was revoked. `pagegrid admin-keys list` shows those there are."
            )
        raise unauthenticated(
            f"This is a user's key, for requests to models; the admin API takes an admin key ({prefix}…), which "
            "`pagegrid admin-keys create` makes."
        )


class FailedAttempts:
    """Who sent wrong keys, by address (IPv6: by /64). A bucket of FAILURES_MAX, kept as the moment at which it is full again."""

    def __init__(self) -> None:
        self._full_at_ms: dict[str, int] = {}

    def check(self, address: str, now_ms: int) -> None:
        """Raises ClientError `rate_limited` while the bucket is empty, for right keys too: whether one is right is not told."""
        wait_ms = self._full_at_ms.get(party_of(address), 0) - (FAILURES_MAX - 1) * FAILURE_MS - now_ms
        if wait_ms > 0:
            wait_s = -(-wait_ms // 1000)
            raise ClientError(
                "rate_limited", f"Too many wrong admin keys from this address; try again in {wait_s} s.", retry_after_s=wait_s
            )

    def note(self, address: str, now_ms: int) -> None:
        party = party_of(address)
        self._full_at_ms[party] = max(now_ms, self._full_at_ms.pop(party, 0)) + FAILURE_MS
        if len(self._full_at_ms) > ADDRESSES_MAX:
            # `note` puts whoever failed last at the end.
            del self._full_at_ms[next(iter(self._full_at_ms))]


def party_of(address: str) -> str:
    """Who failures from an address are counted for: the address itself, of IPv6 its /64."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return address
    return address if parsed.version == 4 else str(ip_network((parsed, _IPV6_PREFIX), strict=False))
