"""What is said of a wrong configuration: tables of mistakes, each with the exact line that an operator reads."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from gateway.config import ConfigError, Settings, parse
from gateway.config.errors import lines_of

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


def problems(text: str, environ: Mapping[str, str] = ENVIRONMENT) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read(text, environ)
    assert SECRET not in str(caught.value) and SECRET not in repr(caught.value)
    return str(caught.value).splitlines()


# The lines after "pagegrid.toml:".

IN_SECTIONS = [
    ("[server]\n\nprot = 8080", "3: option server.prot: unknown option; did you mean server.port?"),
    ("[server]\nfactor = '2'", "2: option server.factor: unknown option; did you mean billing.factor?"),
    ("[server]\nxyzzy = 1", "2: option server.xyzzy: unknown option"),
    ("server.prot = 1", "1: option server.prot: unknown option; did you mean server.port?"),
    ("port = 8080", "1: option port: unknown option; did you mean server.port?"),
    ("[sever]\nport = 1", "1: section sever: unknown section; did you mean server?"),
    ("[[upstream]]\nname = 'x'", "1: section upstream: unknown section; did you mean upstreams?"),
    ("server = 3", "1: option server: expected a section [server] in single brackets, found a whole number"),
    ("[[server]]\nport = 1", "1: option server: expected a section [server] in single brackets, found a list"),
    ("[server]\nport = '8080'", "2: option server.port: expected a whole number, found a text in quotes"),
    ("[server]\nport = 80.5", "2: option server.port: expected a whole number, found a number with decimals"),
    ("[server]\nport = true", "2: option server.port: expected a whole number, found true or false"),
    ("[server]\nport = 1979-05-27", "2: option server.port: expected a whole number, found a date or time"),
    ("[server]\nport = 65536", "2: option server.port: must be at most 65535"),
    ("[server]\nport = -1", "2: option server.port: must be at least 0"),
    ("[server]\nhost = 1", "2: option server.host: expected a text in quotes, found a whole number"),
    ("[server]\nhost = ''", '2: option server.host: expected an address or a host name, such as "127.0.0.1"'),
    (
        "[server]\npublic_url = 'ai.example.com'",
        '2: option server.public_url: expected an http or https URL, such as "https://api.example.com"',
    ),
    ("[server]\nmounts = '/api'", "2: option server.mounts: expected a list, found a text in quotes"),
    ("[server]\nmounts = []", '2: option server.mounts: needs at least one mount; "" is the root'),
    ("[server]\nmounts = ['', '']", "2: option server.mounts: names the same mount twice"),
    (
        "[server]\nmounts = [\n  '',\n  'api/',\n]",
        '2: option server.mounts[#2]: expected "" or a path that starts with a slash and does not end with one, such as "/api"',
    ),
    (
        "[server]\nmounts = ['/v1']",
        "2: option server.mounts[#1]: must not contain /v1: every mount serves /v1 and /v1/v1 by itself",
    ),
    ("[server]\ntrusted_proxies = [1]", "2: option server.trusted_proxies[#1]: expected a text in quotes, found a whole number"),
    (
        "[server]\ntrusted_proxies = ['nginx']",
        '2: option server.trusted_proxies[#1]: expected an address or a CIDR range, such as "10.0.0.0/8"',
    ),
    (
        "[server]\ntrusted_proxies = ['::1', '10.0.0.1/8']",
        '2: option server.trusted_proxies[#2]: has bits set beyond its prefix; write "10.0.0.0/8"',
    ),
    (
        "[server]\nmax_body_mb = 1024",
        "1: option server.max_body_total_mb: must be at least server.max_body_mb, which is 1024",
    ),
    ("[brand]\nname = ''", "2: option brand.name: expected 1 to 64 printable characters"),
    (
        "[brand]\nkey_prefix = 'sk'",
        '2: option brand.key_prefix: expected 2 to 32 letters, digits, "-" and "_" that end with "-" or "_", such as "sk-pgrid-"',
    ),
    (
        "[brand]\nsupport = 'a\\nb\\u0007'".replace("'", '"'),
        "2: option brand.support: expected one line of at most 300 printable characters",
    ),
    (
        "[billing]\non_disconnect = 'drian'",
        '2: option billing.on_disconnect: expected "cancel" or "drain"; did you mean "drain"?',
    ),
    ("[billing]\non_disconnect = 'x'", '2: option billing.on_disconnect: expected "cancel" or "drain"'),
    ("[billing]\noutput_hold_tokens = 0", "2: option billing.output_hold_tokens: must be at least 1"),
    (
        "[billing]\nfactor = 1.1",
        '2: option billing.factor: expected a factor as a text in quotes, such as "1.1", found a number with decimals',
    ),
    (
        "[billing]\nfactor = '0'",
        '2: option billing.factor: expected a factor above 0 and at most 10 with at most 6 decimals, such as "1.1"',
    ),
    (
        "[billing]\ndemo_credit = 10.0",
        '2: option billing.demo_credit: expected US dollars as a text in quotes, such as "3.75", found a number with decimals;'
        " put quotes around it",
    ),
    ("[billing]\ndemo_credit = '0'", "2: option billing.demo_credit: must be above 0 and at most 1000000 US dollars"),
    (
        "[billing]\ndemo_credit = '1e3'",
        '2: option billing.demo_credit: expected US dollars as plain digits with at most 9 decimals, such as "3.75"',
    ),
    (
        "[billing]\ndemo_credit_nanos = 1",
        "2: option billing.demo_credit_nanos: unknown option; did you mean billing.demo_credit?",
    ),
    ("[timeouts]\nidle_s = 0", "2: option timeouts.idle_s: must be above 0"),
    ("[timeouts]\nidle_s = inf", "2: option timeouts.idle_s: must be a finite number"),
    ("[timeouts]\nidle_s = 86401", "2: option timeouts.idle_s: must be at most 86400"),
    ("[timeouts]\nidle_s = '5'", "2: option timeouts.idle_s: expected a number, found a text in quotes"),
    ("[timeouts]\nidle = 5", "2: option timeouts.idle: unknown option; did you mean timeouts.idle_s?"),
    (
        "[logging]\nlevel = 'warn'",
        '2: option logging.level: expected "debug", "info", "warning" or "error"; did you mean "warning"?',
    ),
]


@pytest.mark.parametrize(("text", "line"), IN_SECTIONS, ids=[line for _, line in IN_SECTIONS])
def test_a_mistake_in_a_section_is_told_by_line(text: str, line: str) -> None:
    assert problems(text + "\n" + MAIN) == [f"pagegrid.toml:{line}"]


PLAN = "[plans.free]\nmodels = ['claude-haiku-5-5', 'house', 'gpt']\n"
HOUSE = f"[[models]]\nid = 'house-model'\naliases = ['house']\n{NEW_PRICES}{NEW_SIZES}"
ROUTE = "routes = [{ upstream = 'main' }]\n"
UNKNOWN = 'option plans.free.models: "gpt" is no model that is served here'


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        (MAIN + HOUSE + ROUTE, []),
        (MAIN + HOUSE + "routes = []\n", ['option plans.free.models: no upstream serves "house"']),
        # That nobody serves a model which is there follows from these, and is not told.
        (MAIN + HOUSE, ["models[house-model]: needs routes"]),
        (MAIN.replace("anthropic", "anthropc", 1) + HOUSE + ROUTE, ["option upstreams[main].kind: expected"]),
        (MAIN + "enabled = false\n" + HOUSE + ROUTE, ["option upstreams: every one is disabled"]),
        (HOUSE, ["option upstreams: at least one is needed"]),
    ],
)
def test_a_plan_is_blamed_for_its_own_mistakes_only_and_for_all_of_them(text: str, lines: list[str]) -> None:
    told = [line.removeprefix("pagegrid.toml:").lstrip("0123456789: ") for line in problems(PLAN + "rpm = -1\n" + text)]
    for line in ["option plans.free.rpm: must be at least 0", UNKNOWN, *lines]:
        assert any(each.startswith(line) for each in told), (line, told)
    assert len([each for each in told if "plans." in each]) == 2 + ("no upstream serves" in "".join(lines))


ANTHROPIC = "[[upstreams]]\nname = 'main'\nkind = 'anthropic'\n"

IN_UPSTREAMS = [
    ("", 'option upstreams: at least one is needed: [[upstreams]] with name, kind = "anthropic" and api_key_env'),
    ("[upstreams]\nname = 'x'", "1: option upstreams: expected entries [[upstreams]] in double brackets, found a table"),
    (
        ANTHROPIC,
        '1: upstreams[main]: needs one of api_key_env, api_key_file and api_key, such as api_key_env = "ANTHROPIC_API_KEY"',
    ),
    (ANTHROPIC + "api_key_env = 'NOPE'", "4: option upstreams[main].api_key_env: the environment variable NOPE is not set"),
    (ANTHROPIC + "api_key_env = 'EMPTY'", "4: option upstreams[main].api_key_env: the secret is empty"),
    (
        ANTHROPIC + "api_key_env = 'TWO_LINES'",
        "4: option upstreams[main].api_key_env: the secret must be one line of at most 16384 visible ASCII characters",
    ),
    (
        ANTHROPIC + f"api_key_env = '{SECRET}'",
        "4: option upstreams[main].api_key_env: expected the name of an environment variable, such as ANTHROPIC_API_KEY,"
        " not the secret itself",
    ),
    (
        ANTHROPIC + "api_key_env = 'sixtyfourletters0123'",
        "4: option upstreams[main].api_key_env: the environment variable that it names is not set",
    ),
    (
        ANTHROPIC + f"api_key_file = '{SECRET}'",
        "4: option upstreams[main].api_key_file: the file cannot be read: No such file or directory;"
        " a relative path starts beside the config file",
    ),
    (
        ANTHROPIC + 'api_key_file = "a\\u0000b"',
        "4: option upstreams[main].api_key_file: that is not the path of a text file",
    ),
    (ANTHROPIC + "api_key = 12345", "4: option upstreams[main].api_key: expected a text in quotes, found a whole number"),
    (
        ANTHROPIC + f"api_key = '{SECRET}'\napi_key_env = 'ANTHROPIC_API_KEY'",
        "4: option upstreams[main].api_key: only one secret is used, and api_key_env is given too; remove one of them",
    ),
    (
        ANTHROPIC + f"api_kye = '{SECRET}'\napi_key = 'x'",
        "4: option upstreams[main].api_kye: unknown option; did you mean upstreams[main].api_key?",
    ),
    (
        "[[upstreams]]\nname = 'demo'\nkind = 'demo'\napi_key = 'x'",
        "4: option upstreams[demo].api_key: a demo answers by itself; remove this option",
    ),
    (
        "[[upstreams]]\nname = 'demo'\nkind = 'demo'\nbase_url = 'http://x'",
        "4: option upstreams[demo].base_url: a demo answers by itself; remove this option",
    ),
    (
        "[[upstreams]]\nname = 'main'\nkind = 'antropic'",
        '3: option upstreams[main].kind: expected "anthropic", "openai" or "demo"; did you mean "anthropic"?',
    ),
    ("[[upstreams]]\nname = 'main'", "1: option upstreams[main].kind: is missing"),
    ("[[upstreams]]\nkind = 'demo'", "1: option upstreams[#1].name: is missing"),
    (
        "[[upstreams]]\nname = 'my upstream'\nkind = 'demo'",
        '2: option upstreams[#1].name: expected 1 to 32 letters, digits, ".", "_" and "-"',
    ),
    (
        MAIN.strip() + "\n[[upstreams]]\nname = 'main'\nkind = 'demo'",
        "6: option upstreams[main].name: another upstream has this name",
    ),
    (ANTHROPIC + "api_key = 'x'\nweight = 0", "5: option upstreams[main].weight: must be at least 1"),
    (ANTHROPIC + "api_key = 'x'\npriority = -1", "5: option upstreams[main].priority: must be at least 0"),
    (
        "[[upstreams]]\nname = 'main'\nkind = 'openai'",
        '1: upstreams[main]: needs one of api_key_env, api_key_file and api_key, such as api_key_env = "OPENAI_API_KEY"',
    ),
    (
        "[[upstreams]]\nname = 'main'\nkind = 'openai'\nbase_url = 'http://127.0.0.1/v1/chat/completions'",
        "4: option upstreams[main].base_url: leave /chat/completions out: it is added to this address",
    ),
    (
        ANTHROPIC + "api_key = 'x'\nheaders = { X-Title = 'x' }",
        '5: option upstreams[main].headers: only an upstream of kind "openai" takes some; remove this option',
    ),
    *(
        ("[[upstreams]]\nname = 'main'\nkind = 'openai'\napi_key = 'x'\nheaders = " + headers, f"5: option {message}")
        for headers, message in [
            ("'x'", 'upstreams[main].headers: expected a table such as { "X-Title" = "…" }, found a text in quotes'),
            ("{ a = 1 }", "upstreams[main].headers.a: expected a text in quotes, found a whole number"),
            (
                f"{{ 'a b' = '{SECRET}' }}",
                'upstreams[main].headers: expected names such as "HTTP-Referer": 1 to 64 letters, digits and "-"',
            ),
            (
                f"{{ Authorization = '{SECRET}' }}",
                'upstreams[main].headers: "Authorization" is set by the gateway itself; leave it out',
            ),
            ("{ Content-Length = '1' }", 'upstreams[main].headers: "Content-Length" is set by the gateway itself; leave it out'),
            (
                "{ X-A = '1', x-a = '2' }",
                """upstreams[main].headers: "X-A" is there twice; the case of letters means nothing in a header's name""",
            ),
            *(
                (
                    f'{{ X-A = "{value}" }}',
                    'upstreams[main].headers: the value of "X-A" must be 1 to 1024 visible ASCII characters, blanks only between'
                    " them",
                )
                for value in ("", " a", "a\\r\\nx: y", "é", "a" * 1025)
            ),
            (
                "{ " + ", ".join(f"x{i} = '1'" for i in range(17)) + " }",
                "upstreams[main].headers: must be at most 16 headers",
            ),
        ]
    ),
    *(
        (ANTHROPIC + f"api_key = 'x'\nbase_url = '{url}'", f"5: option upstreams[main].base_url: {message}")
        for url, message in [
            ("ftp://x", 'expected an http or https URL, such as "https://api.example.com"'),
            ("api.anthropic.com", 'expected an http or https URL, such as "https://api.example.com"'),
            ("https://", 'expected an http or https URL, such as "https://api.example.com"'),
            ("https://a:b:c", 'expected an http or https URL, such as "https://api.example.com"'),
            ("https://a b", 'expected an http or https URL, such as "https://api.example.com"'),
            ("https://[::1", 'expected an http or https URL, such as "https://api.example.com"'),
            (f"https://u:{SECRET}@x", "must not carry a user name or a password"),
            (f"https://x/?key={SECRET}", "must not carry a query or a fragment"),
            ("https://x/#a", "must not carry a query or a fragment"),
            ("https://api.anthropic.com/v1/", "leave /v1 out: it is part of every path that is asked for"),
        ]
    ),
]


@pytest.mark.parametrize(("text", "line"), IN_UPSTREAMS)
def test_a_mistake_in_an_upstream_is_told_by_line(text: str, line: str) -> None:
    place = "pagegrid.toml: " if line.startswith("option") else "pagegrid.toml:"
    assert problems(text, {**ENVIRONMENT, "EMPTY": " \n", "TWO_LINES": "a\nx-evil: b"}) == [place + line]


# Line 1 of each is line 7 of the file.
IN_MODELS = [
    ("id = 'a b'", '8: option models[#1].id: expected 1 to 128 letters, digits and ". _ : / @ [ ] -"'),
    ("id = 'anthropic/x'", "8: option models[anthropic/x].id: leave anthropic/ out: it is accepted before every name"),
    ("output = '1'", "7: option models[#1].id: is missing"),
    (
        "id = 'claude-opus-5'\ninput = 5.5",
        '9: option models[claude-opus-5].input: expected US dollars as a text in quotes, such as "3.75",'
        " found a number with decimals; put quotes around it",
    ),
    (
        "id = 'claude-opus-5'\ninput = '-1'",
        '9: option models[claude-opus-5].input: expected US dollars as plain digits with at most 9 decimals, such as "3.75"',
    ),
    (
        "id = 'house'\nroutes = [{ upstream = 'main' }]\ninput = '1'\noutput = '2'\n" + NEW_SIZES,
        "7: models[house]: needs cache_write_5m, cache_write_1h, cache_read: it is not in the catalogue,"
        " and no price is derived from another",
    ),
    (
        "id = 'house'\n" + NEW_PRICES + NEW_SIZES,
        '7: models[house]: needs routes, such as routes = [{ upstream = "main" }]: it is not in the catalogue',
    ),
    (
        "id = 'claude-haiku-5-5'\ninput = '1'\noutput = '2'",
        "7: models[claude-haiku-5-5]: needs cache_write_5m, cache_write_1h, cache_read too: it has other prices above 100000"
        " prompt tokens, and yours replace both sets",
    ),
    (
        "id = 'claude-opus-4-5-20251101'",
        "8: option models[claude-opus-4-5-20251101].id: this is an alias of claude-opus-4-5; write that id to change the model",
    ),
    (
        "id = 'claude-opus-5'\naliases = ['claude-opus-4-8']",
        '9: option models[claude-opus-5].aliases: "claude-opus-4-8" already names the model claude-opus-4-8',
    ),
    (
        "id = 'claude-opus-5'\naliases = ['o']\n[[models]]\nid = 'claude-opus-4-8'\naliases = ['o']",
        '12: option models[claude-opus-4-8].aliases: "o" already names the model claude-opus-5',
    ),
    (
        "id = 'claude-opus-5'\n[[models]]\nid = 'claude-opus-5'",
        "10: option models[claude-opus-5].id: another [[models]] has this id",
    ),
    (
        "id = 'claude-opus-5'\naliases = ['o']\n[[models]]\nid = 'o'",
        "11: option models[o].id: this is an alias of claude-opus-5; write that id to change the model",
    ),
    (
        "id = 'house'\nroutes = []\n" + NEW_PRICES + NEW_SIZES + "[[models]]\nid = 'claude-opus-5'\naliases = ['house']",
        '19: option models[claude-opus-5].aliases: "house" already names the model house',
    ),
    (
        "id = 'claude-opus-5'\nroutes = [{ upstream = 'mian' }]",
        '9: option models[claude-opus-5].routes[#1].upstream: no upstream is named "mian"; did you mean "main"?',
    ),
    (
        "id = 'claude-opus-5'\nroutes = [{ upstream = 'xyz' }]",
        '9: option models[claude-opus-5].routes[#1].upstream: no upstream is named "xyz"',
    ),
    (
        f"id = 'claude-opus-5'\nroutes = [{{ upstream = '{SECRET}' }}]",
        "9: option models[claude-opus-5].routes[#1].upstream: no upstream is named what is written there",
    ),
    (
        "id = 'claude-opus-5'\nroutes = [{ upstream = 'main' }, { upstream = 'main', model = 'claude-opus-5' }]",
        "9: option models[claude-opus-5].routes[#2]: the same route is written twice",
    ),
    (
        "id = 'claude-opus-5'\nroutes = [\n  { upstream = 'main', modle = 'x' },\n]",
        "9: option models[claude-opus-5].routes[#1].modle: unknown option; did you mean models[claude-opus-5].routes[#1].model?",
    ),
    (
        "id = 'claude-opus-5'\nroutes = ['main']",
        "9: option models[claude-opus-5].routes[#1]: expected a table in braces, found a text in quotes",
    ),
    ("id = 'claude-opus-5'\ncontext_tokens = 0", "9: option models[claude-opus-5].context_tokens: must be at least 1"),
]


@pytest.mark.parametrize(("text", "line"), IN_MODELS, ids=[line for _, line in IN_MODELS])
def test_a_mistake_in_a_model_is_told_by_line(text: str, line: str) -> None:
    assert problems(f"#\n{MAIN.strip()}\n\n[[models]]\n{text}\n") == [f"pagegrid.toml:{line}"]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("[server]\nport = \n", "2: not TOML at column 8: Invalid value"),
        ("[server]\nport = 1\nport = 2\nhost = ''", "3: not TOML at column 9: Cannot overwrite a value"),
        (f"[[upstreams]]\napi_key = {SECRET}\n", "2: not TOML at column 11: Invalid value"),
        ("mounts = [", " not TOML at the end of the file: Invalid value"),
    ],
)
def test_what_is_no_toml_is_told_by_line_and_column(text: str, line: str) -> None:
    assert problems(text) == [f"pagegrid.toml:{line}"]


def test_everything_that_is_wrong_is_told_at_once_in_the_order_of_the_file() -> None:
    text = """
[[models]]
id = "claude-opus-5"
routes = [{ upstream = "broken" }, { upstream = "gone" }]
[server]
prot = 1
[[upstreams]]
name = "broken"
kind = "anthropic"
weight = 0
[[upstreams]]
name = "broken"
kind = "anthropic"
api_key_env = "NOPE"
"""
    assert problems(text) == [
        'pagegrid.toml:4: option models[claude-opus-5].routes[#2].upstream: no upstream is named "gone"',
        "pagegrid.toml:6: option server.prot: unknown option; did you mean server.port?",
        "pagegrid.toml:7: upstreams[broken]: needs one of api_key_env, api_key_file and api_key, such as api_key_env ="
        ' "ANTHROPIC_API_KEY"',
        "pagegrid.toml:10: option upstreams[broken].weight: must be at least 1",
        "pagegrid.toml:12: option upstreams[broken].name: another upstream has this name",
        "pagegrid.toml:14: option upstreams[broken].api_key_env: the environment variable NOPE is not set",
    ]


def test_what_needs_a_second_look_is_told_beside_what_needs_one() -> None:
    text = """
[server]
port = "80"
max_body_total_mb = 8
[[upstreams]]
name = "main"
kind = "anthropic"
api_key_file = "not-there.key"
weight = 0
[[models]]
id = "claude-opus-5"
output = 1
routes = [{ upstream = "main", modle = "x" }, { upstream = "mian" }]
[[models]]
id = "claude-opus-5"
input = 1
[[models]]
id = "claude-sonet-5-5"
output = 1
"""
    told = problems(text)
    assert [problem.partition(": ")[2] for problem in told if ".output:" not in problem and ".input:" not in problem] == [
        "option server.port: expected a whole number, found a text in quotes",
        "option server.max_body_total_mb: must be at least server.max_body_mb, which is 32",
        "option upstreams[main].api_key_file: the file cannot be read: No such file or directory; a relative path starts beside"
        " the config file",
        "option upstreams[main].weight: must be at least 1",
        "option models[claude-opus-5].routes[#1].modle: unknown option; did you mean models[claude-opus-5].routes[#1].model?",
        'option models[claude-opus-5].routes[#2].upstream: no upstream is named "mian"; did you mean "main"?',
        "option models[claude-opus-5].id: another [[models]] has this id",
        "models[claude-sonet-5-5]: needs input, cache_write_5m, cache_write_1h, cache_read, context_tokens, max_output_tokens:"
        " it is not in the catalogue, and no price is derived from another",
        'models[claude-sonet-5-5]: needs routes, such as routes = [{ upstream = "main" }]: it is not in the catalogue',
        "option models[claude-sonet-5-5].id: it is not in the catalogue; did you mean claude-sonnet-5-5?",
    ]
    assert len(told) == 10 + 3


def test_one_mistake_is_not_told_twice() -> None:
    for text, count in {
        "[server]\nmax_body_mb = '8'\nmax_body_total_mb = 16\n" + MAIN: 1,
        ANTHROPIC + "api_key_env = 'no name'": 1,
        MAIN + "[[models]]\nid = 'house'\nroutes = 1\n" + NEW_PRICES + NEW_SIZES: 1,
        MAIN + "[[models]]\nid = 'claude-haiku-5-5'\n" + NEW_PRICES.replace('"3"', "3"): 1,
    }.items():
        assert len(problems(text)) == count, problems(text)


def test_a_new_model_that_is_whole_may_be_called_nearly_like_another() -> None:
    text = "[[models]]\nid = 'claude-sonnet-5-6'\nroutes = [{ upstream = 'main' }]\n"
    assert read(MAIN + text + NEW_PRICES + NEW_SIZES).catalog.find("claude-sonnet-5-6") is not None


def test_no_traceback_brings_the_file_along() -> None:
    with pytest.raises(ConfigError) as caught:
        read(f"[[upstreams]]\napi_key = {SECRET}\n")
    assert caught.value.__suppress_context__


def test_lines_are_found_through_comments_lists_and_long_texts() -> None:
    text = '# [no]\n[a] # yes\nx = """\n[b]\ny = 1\n"""\n"z" = 2\n[[c]]\nd.e = 1\n[[c]]\n[c.f]\ng = [\n "h = 1",\n]\n'
    found = lines_of(text)
    assert found[("a",)] == 2
    assert found[("a", "x")] == 3
    assert found[("a", "z")] == 7
    assert (found[("c",)], found[("c", 0)], found[("c", 0, "d", "e")]) == (8, 8, 9)
    assert (found[("c", 1)], found[("c", 1, "f")], found[("c", 1, "f", "g")]) == (10, 11, 12)
    assert ("b",) not in found and ("no",) not in found
