"""Keys: how they are made, recognised and looked up, and what each may use.

    sk-pgrid- 0123…  56 hex  …cdef  01234567
    prefix    224 random bits       CRC32 of prefix + the 56 hex digits

The checksum tells a typo apart without a look-up and lets a secret scanner verify a find offline. A secret is stored as its
SHA-256 (it is random, so it needs no slow hash) and shown once; people see the prefix and 8 digits. The ring holds all keys in
memory: a key that is revoked there is dead at once. Knows nothing of HTTP or SQL; time is handed in.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Network, IPv6Network, ip_address
from types import MappingProxyType

from gateway.errors import ClientError
from gateway.limits import Terms
from gateway.money import ONE, Factor

_RANDOM_DIGITS = 56
_CHECK_DIGITS = 8
_SECRET = re.compile(r"(.*)([0-9a-f]{56})([0-9a-f]{8})", re.DOTALL)
HINT_DIGITS = 8
# What the prefix of an admin key ends with: see `gateway/admins.py`.
ADMIN_WORD = "admin-"

# In the order in which a message names them; all are looked at.
CREDENTIAL_HEADERS = ("x-api-key", "api-key", "authorization")


Network = IPv4Network | IPv6Network

# The plan of whoever was given none.
DEFAULT_PLAN = "default"


@dataclass(frozen=True, slots=True)
class Plan:
    """What keys may do whose own settings do not say otherwise. `models` None = all, no `addresses` = from anywhere;
    `keys_expire` such as "90d" is the life of a new key, "" = for ever; `factor` multiplies every price; `max_keys` is how many
    live keys a user may have who makes another one at the pages.
    """

    name: str
    terms: Terms
    models: frozenset[str] | None = None
    addresses: tuple[Network, ...] = ()
    keys_expire: str = ""
    factor: Factor = ONE
    max_keys: int = 20


_NOTHING_LIMITED = Terms()
NO_PLANS: Mapping[str, Plan] = MappingProxyType({DEFAULT_PLAN: Plan(DEFAULT_PLAN, _NOTHING_LIMITED)})


@dataclass(frozen=True, slots=True)
class Own:
    """What a key says for itself; None is "as the plan has it". `limits` holds only what is said, by the names of Terms."""

    limits: tuple[tuple[str, int], ...] = ()
    models: frozenset[str] | None = None
    addresses: tuple[Network, ...] | None = None
    factor: Factor = ONE


@dataclass(frozen=True, slots=True)
class Key:
    """A key as it is stored, and below the line as its plan completes it (`KeyRing` does).

    `root_id` is the first key of a chain of rotations: limits are counted there. `dead_at_ms` = expiry or revocation, if any.
    `models` None = all, no `addresses` = from anywhere; `factors` multiply every price.
    """

    id: int
    root_id: int
    user_id: int
    user_name: str
    wallet_id: int
    name: str
    hint: str
    plan: str = DEFAULT_PLAN
    own: Own = Own()
    expires_at_ms: int | None = None
    revoked_at_ms: int | None = None
    # ──
    terms: Terms = _NOTHING_LIMITED
    models: frozenset[str] | None = None
    addresses: tuple[Network, ...] = ()
    factors: tuple[Factor, ...] = ()

    @property
    def dead_at_ms(self) -> int | None:
        ends = [end for end in (self.expires_at_ms, self.revoked_at_ms) if end is not None]
        return min(ends) if ends else None


def make_secret(prefix: str) -> str:
    digits = secrets.token_hex(_RANDOM_DIGITS // 2)
    return prefix + digits + _checksum(prefix + digits)


def looks_like_key(secret: str) -> bool:
    """Whether the text has our form and its checksum is right, under whatever prefix it was made."""
    match = _SECRET.fullmatch(secret)
    return match is not None and match.group(3) == _checksum(match.group(1) + match.group(2))


def is_admin_form(secret: str, prefix: str) -> bool:
    """Whether a key's text says that it is for administration, under whatever prefix it was made. `prefix` is other keys' own."""
    match = _SECRET.fullmatch(secret)
    return match is not None and match.group(1).endswith(ADMIN_WORD) and match.group(1) != prefix


def hash_secret(secret: str) -> bytes:
    return hashlib.sha256(_bytes(secret)).digest()


def hint_of(prefix: str, secret: str) -> str:
    """What people are shown of a key: its prefix and first 8 digits."""
    return secret[: len(prefix) + HINT_DIGITS]


def complete(key: Key, plan: Plan) -> Key:
    """The key with what its plan says wherever it says nothing itself."""
    own = key.own
    return replace(
        key,
        terms=replace(plan.terms, **dict(own.limits)),
        models=plan.models if own.models is None else own.models,
        addresses=plan.addresses if own.addresses is None else own.addresses,
        factors=tuple(factor for factor in (plan.factor, own.factor) if factor != ONE),
    )


class KeyRing:
    """All keys by hash, each completed by its plan. `put` and `drop` follow the database in the same step as its commit.

    A key of a plan that is not declared has the terms of `default`: a server does not start with one, commands may.
    """

    def __init__(self, keys: Iterable[tuple[bytes, Key]] = (), plans: Mapping[str, Plan] = NO_PLANS) -> None:
        self._plans = plans
        self._by_hash: dict[bytes, Key] = {}
        for secret_hash, key in keys:
            self.put(secret_hash, key)

    def __iter__(self) -> Iterator[Key]:
        return iter(self._by_hash.values())

    def put(self, secret_hash: bytes, key: Key) -> Key:
        """Returns it as it is completed."""
        completed = self._by_hash[secret_hash] = self.completed(key)
        return completed

    def knows(self, secret_hash: bytes) -> bool:
        return secret_hash in self._by_hash

    def completed(self, key: Key, plans: Mapping[str, Plan] | None = None) -> Key:
        """As these plans, or those in force, complete it."""
        plans = plans or self._plans
        return complete(key, plans.get(key.plan) or plans[DEFAULT_PLAN])

    def set_plans(self, plans: Mapping[str, Plan]) -> None:
        """Other plans, in force for every key at once."""
        self._plans = plans
        self._by_hash = {secret_hash: self.completed(key) for secret_hash, key in self._by_hash.items()}

    def set_user_plan(self, user_id: int, plan: str) -> None:
        for secret_hash, key in self._by_hash.items():
            if key.user_id == user_id:
                self._by_hash[secret_hash] = self.completed(replace(key, plan=plan))

    def drop(self, secret_hash: bytes) -> None:
        self._by_hash.pop(secret_hash, None)

    def drop_user(self, user_id: int) -> None:
        self._by_hash = {secret_hash: key for secret_hash, key in self._by_hash.items() if key.user_id != user_id}

    def authenticate(self, headers: Sequence[tuple[str, str]], prefix: str, at_ms: int) -> Key:
        """The key that a request's headers (lower-case names) carry.

        The one credential that is ours counts, others are ignored. Raises ClientError `unauthenticated`: none, unknown, two
        different ones of ours, expired, revoked. Messages never repeat the value, and avoid the vendor's wordings that make
        Claude Code show its own login or billing page.
        """
        ours = [credential for credential in dict.fromkeys(find_credentials(headers)) if looks_like_key(credential)]
        if len(ours) > 1:
            raise unauthenticated("Two different keys were sent; send one, in x-api-key or as Authorization: Bearer.")
        if not ours:
            raise unauthenticated(_why_none(headers, prefix))
        key = self._by_hash.get(hash_secret(ours[0]))
        if key is None:
            raise unauthenticated(_why_unknown(ours[0], prefix))
        dead_at_ms = key.dead_at_ms
        if dead_at_ms is not None and at_ms >= dead_at_ms:
            what = "was revoked" if key.revoked_at_ms == dead_at_ms else "has expired"
            raise unauthenticated(f"This key {what}. Ask the operator for another.")
        return key


def check_model(key: Key, model: str) -> None:
    """Raises ClientError `forbidden` unless the key may use the model (its public id); the message lists what it may."""
    if key.models is not None and model not in key.models:
        allowed = ", ".join(sorted(key.models)) or "none"
        raise ClientError("forbidden", f"This key may not use {model}; allowed: {allowed}.", param="model")


def check_address(key: Key, address: str) -> None:
    """Raises ClientError `forbidden` unless the key may be used from there."""
    if not key.addresses:
        return
    try:
        parsed = ip_address(address)
    except ValueError:
        parsed = None
    # ::ffff:10.0.0.1 is 10.0.0.1, seen by a socket that takes both families.
    mapped = getattr(parsed, "ipv4_mapped", None) or parsed
    if mapped is None or not any(mapped in network for network in key.addresses):
        raise ClientError(
            "forbidden", f"This key may not be used from {address or 'here'}. Ask the operator to allow this address."
        )


def unauthenticated(message: str) -> ClientError:
    # Without x-should-retry: false a Claude Code user waits three minutes for this message (PROTOCOL.md, trap 5).
    return ClientError("unauthenticated", message, should_retry=False)


def find_credentials(headers: Sequence[tuple[str, str]]) -> Iterable[str]:
    """Whatever a request's headers (lower-case names) carry as a key, ours or not; empty ones too."""
    for name, value in headers:
        if name == "authorization":
            scheme, _, credential = value.strip().partition(" ")
            if scheme.lower() == "bearer":
                yield credential.strip()
        elif name in CREDENTIAL_HEADERS:
            yield value.strip()


def _why_unknown(secret: str, prefix: str) -> str:
    if is_admin_form(secret, prefix):
        return f"This is an admin key: it opens /admin/api and nothing else. Send a user's key ({prefix}…)."
    return "This key is unknown here: it was revoked, or its user was disabled. Ask the operator for another."


def _why_none(headers: Sequence[tuple[str, str]], prefix: str) -> str:
    credentials = list(find_credentials(headers))
    if not any(credentials) and any(name == "authorization" for name, _ in headers):
        return f"Authorization must read: Bearer {prefix}… (or send the key in x-api-key)."
    if not any(credentials):
        return f"No key was sent; send yours ({prefix}…) in x-api-key or as Authorization: Bearer."
    if any(credential.startswith(prefix) for credential in credentials):
        return "This key is mistyped or cut: its checksum does not match. Copy it again, whole."
    return f"This is not a key of this gateway; its keys start with {prefix}."


def _checksum(text: str) -> str:
    return f"{zlib.crc32(_bytes(text)):0{_CHECK_DIGITS}x}"


def _bytes(text: str) -> bytes:
    # A header's bytes that are no UTF-8 arrive as lone surrogates: an unknown key, not an exception.
    return text.encode(errors="surrogatepass")
