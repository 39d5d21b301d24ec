"""The configuration: what a file means, what it is warned of, and where it is found."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_network
from pathlib import Path

import pytest
from pydantic import ValidationError

from gateway.config import ConfigError, Route, Settings, default_paths, load, parse
from gateway.money import ONE, Factor, parse_usd
from gateway.pricing import Rates

SECRET = "sk-ant-api03-" + "S3cr3t" * 10
ENVIRONMENT = {"ANTHROPIC_API_KEY": SECRET}

MAIN = """
[[upstreams]]
name = "main"
kind = "anthropic"
api_key_env = "ANTHROPIC_API_KEY"
"""

NEW_PRICES = 'input = "3"\noutput = "15"\ncache_write_5m = "3.75"\ncache_write_1h = "6"\ncache_read = "0.3"\n'
NEW_SIZES = "context_tokens = 200000\nmax_output_tokens = 64000\n"


def read(text: str, environ: Mapping[str, str] = ENVIRONMENT) -> Settings:
    return parse(text, "pagegrid.toml", environ)


# What a good file means


def test_three_lines_are_enough() -> None:
    settings = read(MAIN)
    (upstream,) = settings.upstreams
    assert (upstream.name, upstream.kind, upstream.base_url) == ("main", "anthropic", "https://api.anthropic.com")
    assert (upstream.factor, upstream.priority, upstream.weight) == (ONE, 0, 1)
    assert upstream.secret.get_secret_value() == SECRET
    assert len(settings.catalog) == 15
    assert {model.id: settings.routes[model.id] for model in settings.catalog} == settings.routes
    assert settings.routes["claude-opus-5-5"] == (Route("main", "claude-opus-5-5"),)
    assert settings.warnings == ()


def test_the_defaults() -> None:
    settings = read(MAIN)
    assert settings.server.model_dump() == {
        "host": "127.0.0.1",
        "port": 8080,
        "public_url": "",
        "mounts": ("", "/api", "/api/proxy"),
        "trusted_proxies": (),
        "max_body_mb": 32,
        "max_body_total_mb": 512,
        "max_in_flight": 512,
        "default_max_tokens": 0,
        "tls_certificate_file": "",
        "tls_key_file": "",
        "admin_api": False,
        "admin_allow": (ip_network("127.0.0.0/8"), ip_network("::1")),
        "metrics_token_file": "",
    }
    assert settings.server.max_body_bytes == 33_554_432
    assert settings.server.max_body_total_bytes == 536_870_912
    assert settings.brand.model_dump() == {"name": "PageGrid", "key_prefix": "sk-pgrid-", "support": ""}
    assert settings.billing.model_dump() == {
        "output_hold_tokens": 4096,
        "on_disconnect": "cancel",
        "drain_seconds": 2,
        "factor": Factor(1, 1),
        "demo_credit_nanos": 10 * 10**9,
        "tokens_per_second_max": 150,
    }
    assert settings.timeouts.model_dump() == {
        "connect_s": 5,
        "first_byte_stream_s": 120,
        "first_byte_s": 600,
        "attempts_s": 150,
        "idle_s": 300,
        "total_s": 3600,
        "hold_ack_s": 5,
        "client_write_s": 30,
        "shutdown_s": 30,
    }
    assert settings.logging.model_dump() == {"format": "text", "level": "info"}


def test_what_is_written_is_what_counts() -> None:
    settings = read(
        """
        [server]
        host = "::1"
        port = 0
        public_url = "https://ai.example.com/"
        mounts = ["/gateway"]
        trusted_proxies = ["127.0.0.1", "10.0.0.0/8", "fd00::/8"]
        [billing]
        on_disconnect = "drain"
        drain_seconds = 0
        factor = "1.25"
        demo_credit = "0.000000001"
        [timeouts]
        connect_s = 0.5
        [[upstreams]]
        name = "other"
        kind = "anthropic"
        base_url = "https://llm.example.com/anthropic/"
        api_key = " secret-in-the-file "
        factor = "0.9"
        priority = 1
        weight = 3
        """
    )
    assert (settings.server.host, settings.server.port, settings.server.mounts) == ("::1", 0, ("/gateway",))
    assert settings.server.public_url == "https://ai.example.com"
    assert settings.server.trusted_proxies == tuple(map(ip_network, ("127.0.0.1/32", "10.0.0.0/8", "fd00::/8")))
    assert (settings.billing.on_disconnect, settings.billing.drain_seconds) == ("drain", 0)
    assert (settings.billing.factor, settings.billing.demo_credit_nanos) == (Factor(5, 4), 1)
    assert settings.timeouts.connect_s == 0.5
    (upstream,) = settings.upstreams
    assert upstream.base_url == "https://llm.example.com/anthropic"
    assert upstream.secret.get_secret_value() == "secret-in-the-file"
    assert (upstream.factor, upstream.priority, upstream.weight) == (Factor(9, 10), 1, 3)


def test_without_a_file_the_demo_serves_every_model() -> None:
    settings = load(None, {})
    (demo,) = settings.upstreams
    assert (demo.name, demo.kind, demo.base_url, demo.secret.get_secret_value()) == ("demo", "demo", "", "")
    assert all(settings.routes[model.id] == (Route("demo", model.id),) for model in settings.catalog)
    assert settings.warnings == ()


def test_demo_only_is_where_nobody_else_answers() -> None:
    demo = '[[upstreams]]\nname = "play"\nkind = "demo"\n'
    assert load(None, {}).demo_only and read(demo).demo_only
    assert not read(MAIN).demo_only and not read(MAIN + demo).demo_only


def test_a_demo_serves_everything_only_where_there_is_nothing_else() -> None:
    demo = '[[upstreams]]\nname = "play"\nkind = "demo"\n'
    assert read(demo).routes["claude-fable-5"] == (Route("play", "claude-fable-5"),)
    both = read(MAIN + demo)
    assert both.routes["claude-fable-5"] == (Route("main", "claude-fable-5"),)
    assert both.warnings == ("upstreams[play] serves no model: no [[models]] routes to it.",)
    routed = read(MAIN + demo + '[[models]]\nid = "claude-fable-5"\nroutes = [{ upstream = "play" }]\n')
    assert routed.routes["claude-fable-5"] == (Route("play", "claude-fable-5"),)
    assert routed.warnings == ()


def test_every_upstream_of_the_kind_serves_every_model() -> None:
    settings = read(MAIN + '[[upstreams]]\nname = "second"\nkind = "anthropic"\napi_key = "x"\n')
    assert settings.routes["claude-opus-5"] == (Route("main", "claude-opus-5"), Route("second", "claude-opus-5"))


def test_an_override_changes_only_what_it_says() -> None:
    before = read(MAIN).catalog.find("claude-opus-4-5")
    settings = read(MAIN + '[[models]]\nid = "claude-opus-4-5"\naliases = ["opus"]\noutput = "30"\nmax_output_tokens = 32000\n')
    after = settings.catalog.find("opus")
    assert before is not None and after is not None
    assert after.aliases == ("claude-opus-4-5-20251101", "opus")
    assert after.price.rates == Rates(*map(parse_usd, ("5", "30", "6.25", "10", "0.5")))
    assert (after.max_output_tokens, after.context_tokens) == (32_000, 200_000)
    assert (after.display_name, after.description) == (before.display_name, before.description)
    assert [model.id for model in settings.catalog] == [model.id for model in read(MAIN).catalog]


def test_an_alias_that_the_catalogue_learns_later_is_no_mistake() -> None:
    model = read(
        MAIN + '[[models]]\nid = "claude-opus-4-5"\naliases = ["claude-opus-4-5-20251101", "claude-opus-4-5"]\n'
    ).catalog.find("claude-opus-4-5")
    assert model is not None and model.aliases == ("claude-opus-4-5-20251101",)


def test_own_prices_replace_both_sets_of_a_tiered_model_and_say_so() -> None:
    settings = read(MAIN + '[[models]]\nid = "claude-haiku-5-5"\n' + NEW_PRICES)
    model = settings.catalog.find("claude-haiku-5-5")
    assert model is not None
    assert (model.price.tier_above_tokens, model.price.tier_rates) == (None, None)
    assert (model.price.us, model.price_read_on) == (Factor(11, 10), "")
    assert settings.warnings == (
        "models[claude-haiku-5-5]: its prices replace those of the catalogue for prompts of every size,"
        " also above 100000 tokens.",
    )


def test_an_assumed_price_is_known_once_all_five_are_written() -> None:
    part = read(MAIN + '[[models]]\nid = "claude-fable-5-2"\ninput = "11"\n').catalog.find("claude-fable-5-2")
    whole = read(MAIN + '[[models]]\nid = "claude-fable-5-2"\n' + NEW_PRICES).catalog.find("claude-fable-5-2")
    assert part is not None and part.price_assumed
    assert whole is not None and not whole.price_assumed


def test_a_new_model_comes_after_the_catalogue() -> None:
    text = '[[models]]\nid = "house"\nroutes = [{ upstream = "main", model = "vendor/x:7" }, { upstream = "main" }]\n'
    settings = read(MAIN + text + NEW_PRICES + NEW_SIZES)
    model = settings.catalog.find("anthropic/house")
    assert model is not None and list(settings.catalog)[-1] == model
    assert settings.routes["house"] == (Route("main", "vendor/x:7"), Route("main", "house"))
    assert (model.display_name, model.description, model.aliases) == ("house", "", ())
    assert model.price.rates == Rates(*map(parse_usd, ("3", "15", "3.75", "6", "0.3")))
    assert model.price.web_search == parse_usd("10000")
    assert (model.context_tokens, model.max_output_tokens) == (200_000, 64_000)


def test_a_model_without_routes_is_out_of_service() -> None:
    settings = read(MAIN + '[[models]]\nid = "claude-fable-5"\nroutes = []\n')
    assert settings.catalog.find("claude-fable-5") is None
    assert "claude-fable-5" not in settings.routes


def test_settings_do_not_change() -> None:
    settings = read(MAIN)
    with pytest.raises(ValidationError):
        settings.server.port = 1
    with pytest.raises(TypeError):
        settings.routes["x"] = ()  # type: ignore[index]


def test_a_secret_is_masked_wherever_it_is_shown() -> None:
    settings = read(MAIN)
    for shown in (repr(settings), str(settings.upstreams), f"{settings.upstreams[0].secret}"):
        assert SECRET not in shown


@pytest.mark.parametrize("source", ['api_key_env = "NOT_SET"', 'api_key_file = "not-there.key"'])
def test_administration_needs_no_secret(source: str) -> None:
    text = f'[[upstreams]]\nname = "main"\nkind = "anthropic"\n{source}\n'
    settings = parse(text, "pagegrid.toml", {}, secrets="unneeded")
    assert settings.upstreams[0].secret.get_secret_value() == "" and settings.warnings == ()
    with pytest.raises(ConfigError, match=r"weight: must be at least 1"):
        parse(text + "weight = 0", "pagegrid.toml", {}, secrets="unneeded")


def test_a_look_warns_of_a_variable_that_only_the_server_may_have(tmp_path: Path) -> None:
    text = '[[upstreams]]\nname = "main"\nkind = "anthropic"\napi_key_env = "NOT_SET"\n'
    assert parse(text, "pagegrid.toml", {}, secrets="checked").warnings == (
        "upstreams[main].api_key_env: the environment variable NOT_SET is not set in this shell; the server needs it.",
    )
    with pytest.raises(ConfigError, match="the file cannot be read"):
        parse(text.replace("api_key_env", "api_key_file"), str(tmp_path / "pagegrid.toml"), {}, secrets="checked")


# Warnings


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_loopback_needs_no_warning(host: str) -> None:
    assert read(f'[server]\nhost = "{host}"\n{MAIN}').warnings == ()


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "ai.example.com"])
def test_listening_beyond_loopback_warns_unless_a_proxy_is_named(host: str) -> None:
    (warning,) = read(f'[server]\nhost = "{host}"\n{MAIN}').warnings
    assert warning.startswith(f"server.host {host} is reachable from other machines")
    assert read(f'[server]\nhost = "{host}"\ntrusted_proxies = ["10.0.0.1"]\n{MAIN}').warnings == ()


def test_the_command_line_is_over_the_file_and_warned_of_too() -> None:
    settings = read(MAIN)
    assert settings.listening_on(None, None) == settings
    moved = settings.listening_on("0.0.0.0", 0)
    assert (moved.server.host, moved.server.port, len(moved.warnings)) == ("0.0.0.0", 0, 1)


def test_plain_http_to_another_machine_warns() -> None:
    text = '[[upstreams]]\nname = "main"\nkind = "anthropic"\napi_key = "x"\nbase_url = "http://{}:4000"\n'
    assert read(text.format("localhost")).warnings == ()
    assert read(text.format("10.0.0.9")).warnings == (
        "upstreams[main].base_url is plain http: the provider's secret and all prompts travel unencrypted.",
    )


OPENAI = '[[upstreams]]\nname = "main"\nkind = "openai"\n'
ROUTED = """
[[models]]
id = "m"
routes = [{ upstream = "main" }]
input = "1"
output = "1"
cache_write_5m = "1"
cache_write_1h = "1"
cache_read = "1"
context_tokens = 1000
max_output_tokens = 1000
"""


def test_an_upstream_of_openais_kind_has_its_own_address_and_headers() -> None:
    (upstream,) = read(OPENAI + 'api_key = "x"\nheaders = { "HTTP-Referer" = "https://me.example" }' + ROUTED).upstreams
    assert (upstream.base_url, upstream.headers) == ("https://api.openai.com/v1", (("HTTP-Referer", "https://me.example"),))
    assert "me.example" not in repr(upstream)


def test_a_server_of_ones_own_needs_no_secret() -> None:
    settings = read(OPENAI + 'base_url = "http://127.0.0.1:8000/v1/"' + ROUTED)
    (upstream,) = settings.upstreams
    assert (upstream.base_url, upstream.secret.get_secret_value()) == ("http://127.0.0.1:8000/v1", "")
    assert settings.warnings == ()


def test_an_openai_address_without_a_path_warns() -> None:
    assert read(OPENAI + 'base_url = "http://127.0.0.1:11434"' + ROUTED).warnings == (
        "upstreams[main].base_url has no path: /chat/completions is added right behind the host. Most servers want /v1 there.",
    )


def test_a_secret_file_beside_the_config_is_read_and_its_mode_is_judged(tmp_path: Path) -> None:
    config, secret = tmp_path / "pagegrid.toml", tmp_path / "main.key"
    config.write_text('[[upstreams]]\nname = "main"\nkind = "anthropic"\napi_key_file = "main.key"\n')
    secret.write_text(SECRET + "\n")
    secret.chmod(0o600)
    settings = load(config, {})
    assert settings.upstreams[0].secret.get_secret_value() == SECRET
    assert settings.warnings == ()
    secret.chmod(0o644)
    assert load(config, {}).warnings == (
        f"upstreams[main].api_key_file: every user of this machine can read that file; chmod 600 {secret}.",
    )


FILES = {"metrics_token": ("server", "metrics_token_file"), "webhook_secret": ("notices", "webhook_secret_file")}


@pytest.mark.parametrize("name", FILES)
def test_other_secrets_stand_in_files_too(tmp_path: Path, name: str) -> None:
    section, option = FILES[name]
    config, secret = tmp_path / "pagegrid.toml", tmp_path / "its.secret"
    text = f'[{section}]\n{option} = "its.secret"\n{MAIN}'
    config.write_text(text)
    with pytest.raises(ConfigError, match=rf":2: option {section}\.{option}: the file cannot be read: No such file"):
        load(config, ENVIRONMENT)
    # Administration opens a house too, and needs none of it.
    assert getattr(load(config, ENVIRONMENT, secrets="unneeded"), name).get_secret_value() == ""
    for content, message in (
        ("\n", "the secret is empty"),
        ("two\nlines", "one line"),
        ("with blanks", "visible ASCII"),
        ("x" * 20_000, "at most"),
    ):
        secret.write_text(content)
        with pytest.raises(ConfigError, match=message) as caught:
            load(config, ENVIRONMENT)
        assert content.strip() == "" or content not in str(caught.value)
    secret.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="not the path of a text file"):
        load(config, ENVIRONMENT)
    secret.write_text(SECRET + "\n")
    secret.chmod(0o600)
    settings = load(config, ENVIRONMENT)
    assert getattr(settings, name).get_secret_value() == SECRET and SECRET not in repr(settings)
    assert settings.warnings == ()
    secret.chmod(0o604)
    assert load(config, ENVIRONMENT).warnings == (
        f"{section}.{option}: every user of this machine can read that file; chmod 600 {secret}.",
    )
    elsewhere = parse(text.replace("its.secret", str(secret)), "/nowhere/pagegrid.toml", ENVIRONMENT)
    assert getattr(elsewhere, name).get_secret_value() == SECRET
    assert getattr(read(MAIN), name).get_secret_value() == ""


def test_a_config_with_a_secret_in_it_is_not_for_everybody(tmp_path: Path) -> None:
    config = tmp_path / "pagegrid.toml"
    config.write_text(f'[[upstreams]]\nname = "main"\nkind = "anthropic"\napi_key = "{SECRET}"\n')
    config.chmod(0o644)
    (warning,) = load(config, {}).warnings
    assert (
        warning == f"{config} holds a secret and every user of this machine can read it; use api_key_env, or chmod 600 {config}."
    )
    config.chmod(0o600)
    assert load(config, {}).warnings == ()


# Where files are


def test_a_file_that_cannot_be_read_says_why(tmp_path: Path) -> None:
    (tmp_path / "bytes.toml").write_bytes(b"name = '\xff'")
    for name, reason in {
        "none.toml": "cannot be read: No such file or directory",
        ".": "cannot be read: Is a directory",
        "bytes.toml": "is not UTF-8 text at byte 8",
    }.items():
        with pytest.raises(ConfigError) as caught:
            load(tmp_path / name, {})
        assert str(caught.value) == f"{tmp_path / name}: {reason}"


def test_paths_come_from_the_command_line_then_the_environment_then_habit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    one, two = str(tmp_path / "one.toml"), str(tmp_path / "two.toml")
    for path in (one, two):
        Path(path).touch()
    assert default_paths(None, None, {}) == (None, tmp_path / "pagegrid-data")
    assert default_paths(None, "a/b", {"PAGEGRID_DATA_DIR": "c"}) == (None, tmp_path / "a/b")
    assert default_paths(None, None, {"PAGEGRID_DATA_DIR": "c", "PAGEGRID_CONFIG": ""}) == (None, tmp_path / "c")
    assert default_paths("one.toml", None, {"PAGEGRID_CONFIG": two})[0] == Path(one)
    assert default_paths(None, None, {"PAGEGRID_CONFIG": two})[0] == Path(two)


def test_a_config_beside_the_data_directory_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "pagegrid.toml"
    config.touch()
    (tmp_path / "data").mkdir()
    assert default_paths(None, str(tmp_path / "data"), {}) == (config, tmp_path / "data")
    monkeypatch.chdir(tmp_path / "data")
    assert default_paths(None, ".", {}) == (config, tmp_path / "data")
    assert default_paths(None, None, {})[0] is None


@pytest.mark.parametrize(
    ("config", "environ", "origin"), [("no.toml", {}, "--config"), (None, {"PAGEGRID_CONFIG": "no.toml"}, "PAGEGRID_CONFIG")]
)
def test_a_config_that_was_asked_for_must_exist(
    config: str | None, environ: dict[str, str], origin: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as caught:
        default_paths(config, None, environ)
    assert str(caught.value) == f"{tmp_path / 'no.toml'}: no such file; {origin} names it"
