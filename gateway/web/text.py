"""How values are written for people: money, counts, sizes, moments. The filters of all templates.

Money has three depths (nanos in): cents in tiles and charts (`spent`, `had`), four decimals in lists of requests (`spent4`), all
nine in sums and derivations (`exact`). Shown short, what somebody has is cut and what they spent is rounded half up, so that
nobody is promised a cent that is not there. Moments are milliseconds since 1970, shown in UTC.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from urllib.parse import urlsplit

from markupsafe import Markup

from gateway.money import NANOS_PER_USD, format_usd

_CENT = NANOS_PER_USD // 100
MINUS = "−"
# What a User-Agent is recognised by, the particular before the general: Edge calls itself Chrome too, and Chrome Safari.
_BROWSERS = (
    *(("Edg", "Edge"), ("OPR/", "Opera"), ("Firefox/", "Firefox"), ("FxiOS/", "Firefox"), ("CriOS/", "Chrome")),
    *(("Chrome/", "Chrome"), ("Safari/", "Safari")),
)
_SYSTEMS = (
    *(("iPhone", "iPhone"), ("iPad", "iPad"), ("Android", "Android"), ("Windows", "Windows"), ("Mac OS X", "Mac")),
    *(("CrOS", "ChromeOS"), ("Linux", "Linux")),
)


def usd(nanos: int) -> str:
    """Dollars with as many decimals as it takes: $4.00, $0.0125."""
    whole, _, decimals = format_usd(abs(nanos)).partition(".")
    return f"{MINUS if nanos < 0 else ''}${int(whole):,}.{decimals}"


def spent(nanos: int) -> str:
    """To the cent, half up: $1,234.57, <$0.01."""
    return _short(nanos, 2, half_up=True)


def had(nanos: int) -> str:
    """To the cent, cut: a balance."""
    return _short(nanos, 2, half_up=False)


def spent4(nanos: int) -> str:
    """To the hundredth of a cent, half up: a request."""
    return _short(nanos, 4, half_up=True)


def exact(nanos: int) -> Markup:
    """All nine decimals; those after the cents are pale."""
    whole, rest = divmod(abs(nanos), NANOS_PER_USD)
    cents, tail = divmod(rest, _CENT)
    sign = MINUS if nanos < 0 else ""
    return Markup(f'{sign}${whole:,}.{cents:02d}<span class="tail">{tail:07d}</span>')  # noqa: S704 (digits alone)


def precise(nanos: Decimal) -> Markup:
    """As `exact`, of an amount that may have parts of a nano: none of its digits is left out."""
    whole, _, parts = format(nanos.copy_abs(), "f").partition(".")  # abs() would round to the context's digits
    sign = MINUS if nanos < 0 else ""
    dollars, rest = divmod(int(whole), NANOS_PER_USD)
    cents, tail = divmod(rest, _CENT)
    digits = f"{tail:07d}{parts.rstrip('0')}"
    return Markup(f'{sign}${dollars:,}.{cents:02d}<span class="tail">{digits}</span>')  # noqa: S704 (digits alone)


def plain(nanos: int) -> str:
    """All nine decimals as text, as `title` attributes have it."""
    whole, rest = divmod(abs(nanos), NANOS_PER_USD)
    return f"{MINUS if nanos < 0 else ''}${whole:,}.{rest:09d}"


def count(number: int) -> str:
    return f"{number:,}"


def size(tokens: int) -> str:
    """Tokens, short where that is exact: 1 M, 200 k, 131,072."""
    if tokens and tokens % 1_000_000 == 0:
        return f"{tokens // 1_000_000} M"
    if tokens and tokens % 1000 == 0:
        return f"{tokens // 1000} k"
    return count(tokens)


def about(number: int) -> str:
    """Three figures of a large count: 640 k, 3.21 M; below 10,000 in full."""
    if number < 10_000:
        return count(number)
    for unit, letter in ((1_000, "k"), (1_000_000, "M"), (1_000_000_000, "G")):
        # 999,600 is 1 M, not 1,000 k.
        if number < unit * 999.5 or letter == "G":
            shown = f"{number / unit:.3g}" if number < unit * 999.5 else count(round(number / unit))
            return f"{shown} {letter}"
    raise AssertionError


def file_size(number: int) -> str:
    """A size of files or memory: 512 kB, 36.2 MB, 1.4 GB; powers of ten, as disks are sold."""
    for unit, letters in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if number >= unit:
            return f"{number / unit:,.1f} {letters}"
    return f"{count(number)} B"


def percent(share: float) -> str:
    """A share of 1 with one decimal: 94.4 %."""
    return f"{share * 100:.1f} %"


def duration(ms: int) -> str:
    """How long something took or takes: 340 ms, 2.4 s, 12 min, 3 h, 12 days."""
    if ms < 1_000:
        return f"{ms} ms"
    if ms < 60_000:
        return f"{ms / 1000:.1f} s"
    for unit_ms, most, word in ((60_000, 120, "min"), (3_600_000, 72, "h")):
        if ms < unit_ms * most:
            return f"{ms // unit_ms} {word}"
    return f"{ms // 86_400_000:,} days"


def when(at_ms: int, now_ms: int) -> Markup:
    """A moment as lists show it: 16:41:07 today, else 19 Nov 16:41, with its year if that is another."""
    moment, now = _moment(at_ms), _moment(now_ms)
    if moment.date() == now.date():
        shown = f"{moment:%H:%M:%S}"
    else:
        shown = f"{moment.day} {moment:%b}{_other_year(moment, now_ms)} {moment:%H:%M}"
    return _time(at_ms, shown)


def day(at_ms: int) -> Markup:
    """20 Nov 2026."""
    moment = _moment(at_ms)
    return _time(at_ms, f"{moment.day} {moment:%b %Y}")


def date(at_ms: int, now_ms: int) -> Markup:
    """20 Nov, with its year if that is another."""
    moment = _moment(at_ms)
    return _time(at_ms, f"{moment.day} {moment:%b}{_other_year(moment, now_ms)}")


def iso_day(at_ms: int) -> str:
    """2026-11-20, as addresses have it."""
    return f"{_moment(at_ms):%Y-%m-%d}"


def month(at_ms: int, now_ms: int) -> str:
    """November, with its year if that is another."""
    moment = _moment(at_ms)
    return f"{moment:%B}{_other_year(moment, now_ms)}"


def stamp(at_ms: int) -> str:
    """The full moment: 2026-11-20 16:41:07 UTC."""
    return f"{_moment(at_ms):%Y-%m-%d %H:%M:%S} UTC"


def clock(at_ms: int) -> str:
    """16:42."""
    return f"{_moment(at_ms):%H:%M}"


def clock_and_day(at_ms: int) -> str:
    """16:42 on Friday 20 November 2026."""
    moment = _moment(at_ms)
    return f"{moment:%H:%M} on {moment:%A} {moment.day} {moment:%B %Y}"


def device(agent: str) -> str:
    """A browser by its name and its system's; a program says itself what it is."""
    if not agent.startswith("Mozilla/"):
        return agent or "unknown"
    browser = next((name for mark, name in _BROWSERS if mark in agent), None)
    system = next((name for mark, name in _SYSTEMS if mark in agent), None)
    return f"{browser} on {system}" if browser and system else agent


def host(url: str) -> str:
    """What people call an address: without its scheme."""
    return urlsplit(url).netloc or url


def _short(nanos: int, decimals: int, *, half_up: bool) -> str:
    unit = 10 ** (9 - decimals)
    sign, nanos = (MINUS, -nanos) if nanos < 0 else ("", nanos)
    if 0 < nanos < unit:
        return f"{sign}<$0.{'1':0>{decimals}}"
    units = (nanos + unit // 2) // unit if half_up else nanos // unit
    whole, rest = divmod(units, 10**decimals)
    return f"{sign}${whole:,}.{rest:0{decimals}d}"


def _other_year(moment: datetime, now_ms: int) -> str:
    return f" {moment:%Y}" if moment.year != _moment(now_ms).year else ""


def _moment(at_ms: int) -> datetime:
    return datetime.fromtimestamp(at_ms / 1000, UTC)


def _time(at_ms: int, shown: str) -> Markup:
    moment = _moment(at_ms)
    return Markup('<time datetime="{}" title="{}">{}</time>').format(f"{moment:%Y-%m-%dT%H:%M:%SZ}", stamp(at_ms), shown)


FILTERS: Mapping[str, Callable[..., str]] = {
    each.__name__: each
    for each in (
        *(usd, spent, had, spent4, exact, precise, plain),
        *(count, size, about, file_size, percent, duration),
        *(when, day, date, iso_day, month, stamp, clock, clock_and_day, device, host),
    )
}
