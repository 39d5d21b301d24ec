"""The sections of the configuration file: every option with its type, its range and its default, and nothing else.

`config.example.toml` tells people the same (a test compares the two). What can be judged by looking at one section or entry and
the names of upstreams (`validation_context`) is judged here, so that pydantic finds it beside everything else that is wrong;
what needs another entry, the catalogue, the environment or a file is left to the rooms beside this one.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PlainValidator, SecretStr, ValidationInfo

from gateway.catalog import NAME_CHARS_MAX, PROVIDER_PREFIX
from gateway.config.errors import kind_of, nearest, shown
from gateway.money import ONE, BadAmount, Factor, parse_deposit, parse_usd

Network = IPv4Network | IPv6Network
LOOPBACK: tuple[Network, ...] = (ip_network("127.0.0.0/8"), ip_network("::1"))
Kind = Literal["anthropic", "openai", "demo"]

BYTES_PER_MB = 1024 * 1024

_MOUNT = re.compile(r"(?:/[A-Za-z0-9._~-]+)*", re.ASCII)
_KEY_PREFIX = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,30}[_-]", re.ASCII)
_UPSTREAM_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,31}", re.ASCII)
_MODEL_NAME = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._:/@\[\]-]{{0,{NAME_CHARS_MAX - 1}}}", re.ASCII)
# At most ten years, as the desk has it.
_LIFETIME = re.compile(r"[1-9]\d{0,3}d|[1-9]\d{0,4}h|[1-9]\d{0,6}m", re.ASCII)
_HEADER_NAME = re.compile(r"[A-Za-z][A-Za-z0-9-]{0,63}", re.ASCII)
_HEADER_VALUE = re.compile(r"[!-~](?:[ -~]{0,1022}[!-~])?")
_HEADERS_MAX = 16
# What a request is framed, signed and answered by.
_HEADERS_OF_OURS = frozenset(
    (
        *(
            "accept",
            "accept-encoding",
            "authorization",
            "x-api-key",
            "api-key",
            "proxy-authorization",
            "cookie",
            "host",
            "expect",
        ),
        *("content-type", "content-encoding", "content-length", "transfer-encoding", "te", "trailer", "upgrade"),
        *("connection", "keep-alive", "proxy-connection"),
    )
)
_ENVIRONMENT_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)


def _host(text: str) -> str:
    if not text or not text.isprintable() or any(character in text for character in " /@?#"):
        raise ValueError('expected an address or a host name, such as "127.0.0.1"')
    return text


def _url(text: str) -> str:
    """An http(s) URL without anything that could carry a secret; never repeated in a message, it may hold one."""
    try:
        parts = urlsplit(text)
        bad = parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0
    except ValueError:
        bad = True
    if bad or re.search(r"[^!-~]|\\", text):
        raise ValueError('expected an http or https URL, such as "https://api.example.com"')
    if "@" in parts.netloc:
        raise ValueError("must not carry a user name or a password")
    if "?" in text or "#" in text:
        raise ValueError("must not carry a query or a fragment")
    return text.rstrip("/")


def _url_or_empty(text: str) -> str:
    return _url(text) if text else text


def _webhook(text: str) -> str:
    """As it is written: to its receiver a slash at the end may matter."""
    if text:
        _url(text)
    return text


def _mount(text: str) -> str:
    if not _MOUNT.fullmatch(text):
        raise ValueError('expected "" or a path that starts with a slash and does not end with one, such as "/api"')
    if "v1" in text.split("/"):
        raise ValueError("must not contain /v1: every mount serves /v1 and /v1/v1 by itself")
    return text


def _mounts(mounts: tuple[str, ...]) -> tuple[str, ...]:
    if not mounts:
        raise ValueError('needs at least one mount; "" is the root')
    if len(set(mounts)) < len(mounts):
        raise ValueError("names the same mount twice")
    return mounts


def _network(value: object) -> Network:
    if not isinstance(value, str):
        raise ValueError(f"expected a text in quotes, found {kind_of(value)}")
    try:
        return ip_network(value)
    except ValueError:
        pass
    try:
        widened = ip_network(value, strict=False)
    except ValueError:
        raise ValueError('expected an address or a CIDR range, such as "10.0.0.0/8"') from None
    raise ValueError(f'has bits set beyond its prefix; write "{widened}"')


def _path(text: str) -> str:
    if "\0" in text or len(text) > 4096:
        raise ValueError("expected the path of a file")
    return text


def _lifetime(text: str) -> str:
    if text and not _LIFETIME.fullmatch(text):
        raise ValueError('expected a duration such as "12h" or "90d", or "" for never')
    return text


def is_plan_name(text: str) -> bool:
    return _UPSTREAM_NAME.fullmatch(text) is not None


def _brand_name(text: str) -> str:
    if not 0 < len(text) <= 64 or not text.isprintable() or text != text.strip():
        raise ValueError("expected 1 to 64 printable characters")
    return text


def _sentence(text: str) -> str:
    if len(text) > 300 or not text.isprintable():
        raise ValueError("expected one line of at most 300 printable characters")
    return text


def _key_prefix(text: str) -> str:
    if not _KEY_PREFIX.fullmatch(text):
        raise ValueError('expected 2 to 32 letters, digits, "-" and "_" that end with "-" or "_", such as "sk-pgrid-"')
    return text


def _upstream_name(text: str) -> str:
    if not _UPSTREAM_NAME.fullmatch(text):
        raise ValueError('expected 1 to 32 letters, digits, ".", "_" and "-"')
    return text


def validation_context(upstream_names: Sequence[str]) -> dict[str, Sequence[str]]:
    """What `model_validate` is handed so that a route to an upstream that is nowhere in the file is told."""
    return {"upstream_names": upstream_names}


def _known_upstream(text: str, info: ValidationInfo) -> str:
    names = (info.context or {}).get("upstream_names", ())
    if text not in names:
        near = nearest(text, names)
        hint = f"; did you mean {shown(near)}?" if near else ""
        raise ValueError(f"no upstream is named {shown(text)}{hint}")
    return text


def _room_for_one_body(total_mb: int, info: ValidationInfo) -> int:
    # Absent if it is itself wrong: then only that is told.
    one_mb = info.data.get("max_body_mb", total_mb)
    if total_mb < one_mb:
        raise ValueError(f"must be at least server.max_body_mb, which is {one_mb}")
    return total_mb


def _environment_name(text: str) -> str:
    if not _ENVIRONMENT_NAME.fullmatch(text):
        raise ValueError("expected the name of an environment variable, such as ANTHROPIC_API_KEY, not the secret itself")
    return text


def _headers(headers: dict[str, str]) -> dict[str, str]:
    """A value is never repeated in a message, it may be a secret."""
    lowered = [name.lower() for name in headers]
    for name, value in headers.items():
        if not _HEADER_NAME.fullmatch(name):
            raise ValueError('expected names such as "HTTP-Referer": 1 to 64 letters, digits and "-"')
        if name.lower() in _HEADERS_OF_OURS:
            raise ValueError(f"{shown(name)} is set by the gateway itself; leave it out")
        if lowered.count(name.lower()) > 1:
            raise ValueError(f"{shown(name)} is there twice; the case of letters means nothing in a header's name")
        if not _HEADER_VALUE.fullmatch(value):
            raise ValueError(f"the value of {shown(name)} must be 1 to 1024 visible ASCII characters, blanks only between them")
    if len(headers) > _HEADERS_MAX:
        raise ValueError(f"must be at most {_HEADERS_MAX} headers")
    return headers


def _upstream_model_name(text: str) -> str:
    if not _MODEL_NAME.fullmatch(text):
        raise ValueError(f'expected 1 to {NAME_CHARS_MAX} letters, digits and ". _ : / @ [ ] -"')
    return text


def _model_name(text: str) -> str:
    if text.startswith(PROVIDER_PREFIX):
        raise ValueError(f"leave {PROVIDER_PREFIX} out: it is accepted before every name")
    return _upstream_model_name(text)


def _factor(value: object) -> Factor:
    if not isinstance(value, str):
        raise ValueError(f'expected a factor as a text in quotes, such as "1.1", found {kind_of(value)}')
    try:
        return Factor.parse(value)
    except BadAmount:
        raise ValueError('expected a factor above 0 and at most 10 with at most 6 decimals, such as "1.1"') from None


def _usd(value: object) -> int:
    # A TOML number with decimals is a float, and no float ever touches money.
    if not isinstance(value, str):
        raise ValueError(f'expected US dollars as a text in quotes, such as "3.75", found {kind_of(value)}; put quotes around it')
    try:
        return parse_usd(value)
    except BadAmount:
        raise ValueError('expected US dollars as plain digits with at most 9 decimals, such as "3.75"') from None


def _credit(value: object) -> int:
    _usd(value)
    try:
        return parse_deposit(str(value))
    except BadAmount:
        raise ValueError("must be above 0 and at most 1000000 US dollars") from None


# Lists are lists in TOML and tuples here, because settings never change; what is in them stays strictly typed.
_Listed = Field(strict=False)
Nanos = Annotated[int, PlainValidator(_usd)]
PriceFactor = Annotated[Factor, PlainValidator(_factor)]
ModelName = Annotated[str, AfterValidator(_model_name)]
Networks = Annotated[tuple[Annotated[Network, PlainValidator(_network)], ...], _Listed]
Tokens = Annotated[int, Field(ge=1, le=100_000_000)]
# 0 is unlimited. SQLite and JavaScript hold more, no limit needs it.
Limit = Annotated[int, Field(ge=0, le=10**12)]
Megabytes = Annotated[int, Field(ge=1, le=65_536)]
# A day is longer than any of our waits should ever be; beyond it a limit is a mistake in its unit.
Seconds = Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False)]


class Options(BaseModel):
    """What all sections share: read once, never changed, nothing converted silently, nothing unknown let through."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, hide_input_in_errors=True)


class Server(Options):
    host: Annotated[str, AfterValidator(_host)] = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65_535)] = 8080
    public_url: Annotated[str, AfterValidator(_url_or_empty)] = ""
    mounts: Annotated[tuple[Annotated[str, AfterValidator(_mount)], ...], _Listed, AfterValidator(_mounts)] = (
        "",
        "/api",
        "/api/proxy",
    )
    trusted_proxies: Networks = ()
    max_body_mb: Megabytes = 32
    max_body_total_mb: Annotated[Megabytes, AfterValidator(_room_for_one_body), Field(validate_default=True)] = 512
    max_in_flight: Annotated[int, Field(ge=1, le=100_000)] = 512
    default_max_tokens: Annotated[int, Field(ge=0, le=10_000_000)] = 0
    tls_certificate_file: Annotated[str, AfterValidator(_path)] = ""
    tls_key_file: Annotated[str, AfterValidator(_path)] = ""
    admin_api: bool = False
    admin_allow: Networks = LOOPBACK
    metrics_token_file: Annotated[str, AfterValidator(_path)] = ""

    @property
    def max_body_bytes(self) -> int:
        return self.max_body_mb * BYTES_PER_MB

    @property
    def max_body_total_bytes(self) -> int:
        return self.max_body_total_mb * BYTES_PER_MB

    @property
    def open_files_needed(self) -> int:
        """A client's and an upstream's connection for each request, and some for those that are idle, the log, the database."""
        return 2 * self.max_in_flight + 256


class Brand(Options):
    name: Annotated[str, AfterValidator(_brand_name)] = "PageGrid"
    key_prefix: Annotated[str, AfterValidator(_key_prefix)] = "sk-pgrid-"
    support: Annotated[str, AfterValidator(_sentence)] = ""


class Billing(Options):
    output_hold_tokens: Tokens = 4096
    on_disconnect: Literal["cancel", "drain"] = "cancel"
    drain_seconds: Annotated[float, Field(ge=0, le=60, allow_inf_nan=False)] = 2
    factor: PriceFactor = ONE
    demo_credit_nanos: Annotated[int, PlainValidator(_credit)] = Field(default=parse_usd("10.00"), alias="demo_credit")
    tokens_per_second_max: Annotated[int, Field(ge=1, le=100_000)] = 150


class Timeouts(Options):
    connect_s: Seconds = 5
    first_byte_stream_s: Seconds = 120
    first_byte_s: Seconds = 600
    attempts_s: Seconds = 150
    idle_s: Seconds = 300
    total_s: Seconds = 3600
    hold_ack_s: Seconds = 5
    client_write_s: Seconds = 30
    shutdown_s: Seconds = 30


class Logging(Options):
    format: Literal["text", "json"] = "text"
    level: Literal["debug", "info", "warning", "error"] = "info"


class Usage(Options):
    retention_days: Annotated[int, Field(ge=0, le=36_500)] = 90


class Notices(Options):
    low_balance_nanos: Annotated[int, PlainValidator(_usd)] = Field(default=parse_usd("1.00"), alias="low_balance")
    webhook_url: Annotated[str, AfterValidator(_webhook)] = ""
    webhook_secret_file: Annotated[str, AfterValidator(_path)] = ""


class Web(Options):
    signup: Literal["closed", "invite", "open"] = "closed"
    require_totp_for_admins: bool = False


class PlanOptions(Options):
    """What keys of a plan's users may do where they say nothing themselves; 0 is unlimited, no `models` are all."""

    rpm: Limit = 10
    tpm: Limit = 0
    concurrent: Limit = 0
    requests_per_day: Limit = 0
    tokens_per_month: Limit = 0
    spend_per_day_nanos: Annotated[int, PlainValidator(_usd)] = Field(default=0, alias="spend_per_day")
    spend_per_month_nanos: Annotated[int, PlainValidator(_usd)] = Field(default=0, alias="spend_per_month")
    spend_total_nanos: Annotated[int, PlainValidator(_usd)] = Field(default=0, alias="spend_total")
    models: Annotated[tuple[ModelName, ...], _Listed] | None = None
    addresses: Networks = ()
    keys_expire: Annotated[str, AfterValidator(_lifetime)] = ""
    factor: PriceFactor = ONE
    max_keys: Annotated[int, Field(ge=0, le=1000)] = 20


class UpstreamOptions(Options):
    """`base_url` of None is the kind's own; exactly one of the three secrets, none for a demo, at most one for a server of one's
    own."""

    name: Annotated[str, AfterValidator(_upstream_name)]
    kind: Kind
    enabled: bool = True
    base_url: Annotated[str, AfterValidator(_url)] | None = None
    api_key_env: Annotated[str, AfterValidator(_environment_name)] | None = None
    api_key_file: str | None = None
    api_key: SecretStr | None = None
    headers: Annotated[dict[str, str], AfterValidator(_headers)] = {}
    factor: PriceFactor = ONE
    priority: Annotated[int, Field(ge=0, le=1000)] = 0
    weight: Annotated[int, Field(ge=1, le=1_000_000)] = 1
    max_concurrent: Annotated[int, Field(ge=0, le=100_000)] = 0


class RouteOptions(Options):
    """`model` of None: the upstream knows the model by our own id."""

    upstream: Annotated[str, AfterValidator(_known_upstream)]
    model: Annotated[str, AfterValidator(_upstream_model_name)] | None = None
    factor: PriceFactor = ONE


class TierOptions(Options):
    """The prices above `tier_above_tokens`, all five: none is derived from another."""

    input: Nanos
    output: Nanos
    cache_write_5m: Nanos
    cache_write_1h: Nanos
    cache_read: Nanos


class ModelOptions(Options):
    """None is "not written": the catalogue's value stands, or it is missing from a new model. `serves` makes it virtual."""

    id: ModelName
    display_name: Annotated[str, AfterValidator(_brand_name)] | None = None
    description: Annotated[str, AfterValidator(_sentence)] | None = None
    aliases: Annotated[tuple[ModelName, ...], _Listed] = ()
    routes: Annotated[tuple[RouteOptions, ...], _Listed] | None = None
    serves: Annotated[tuple[ModelName, ...], _Listed] | None = None
    input: Nanos | None = None
    output: Nanos | None = None
    cache_write_5m: Nanos | None = None
    cache_write_1h: Nanos | None = None
    cache_read: Nanos | None = None
    web_search: Nanos | None = None
    tier_above_tokens: Tokens | None = None
    tier: TierOptions | None = None
    fast: PriceFactor | None = None
    us: PriceFactor | None = None
    batch: PriceFactor | None = None
    context_tokens: Tokens | None = None
    max_output_tokens: Tokens | None = None


SECTIONS: dict[str, type[Options]] = {
    "server": Server,
    "brand": Brand,
    "billing": Billing,
    "timeouts": Timeouts,
    "logging": Logging,
    "usage": Usage,
    "notices": Notices,
    "web": Web,
}
# Sections of which there are any number, each with a name of its own: [plans.NAME].
NAMED: dict[str, type[Options]] = {"plans": PlanOptions}
LISTS: dict[str, type[Options]] = {"upstreams": UpstreamOptions, "models": ModelOptions}
NESTED: dict[str, type[Options]] = {"routes": RouteOptions, "tier": TierOptions}
