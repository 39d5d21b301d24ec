"""A strict reader of Prometheus' text format 0.0.4: what is not exactly so is an error, not a guess.

    page = parse(text)
    page.value("pagegrid_requests_total", endpoint="messages", status="200", error="")

Checks each line's form, that help and type stand once and before their samples, that a family's samples stand together and no
series twice, that counters are finite and not negative, that a histogram's buckets grow, end in +Inf and agree with its count.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from decimal import Decimal

Labels = tuple[tuple[str, str], ...]

_NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
_LABEL = r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\["\\n])*)"'
_SAMPLE = re.compile(rf"({_NAME})(?:\{{({_LABEL}(?:,{_LABEL})*)\}})? (-?\d+(?:\.\d+)?)")
_HELP = re.compile(rf"# HELP ({_NAME}) ((?:[^\\\n]|\\[\\n])+)")
_TYPE = re.compile(rf"# TYPE ({_NAME}) (counter|gauge|histogram)")
_ESCAPED = {r"\\": "\\", r"\"": '"', r"\n": "\n"}


@dataclass
class Family:
    name: str
    kind: str
    help: str
    samples: dict[tuple[str, Labels], Decimal] = field(default_factory=dict)

    @property
    def label_names(self) -> set[str]:
        return {name for _, labels in self.samples for name, _ in labels} - {"le"}


@dataclass
class Page:
    families: dict[str, Family]

    def value(self, sample: str, /, **labels: str) -> Decimal:
        """0 for a series that is not there (yet)."""
        family = self.families.get(sample) or self.families[re.sub("_(bucket|sum|count)$", "", sample)]
        wanted = set(labels.items())
        found = [value for (name, given), value in family.samples.items() if name == sample and set(given) == wanted]
        return found[0] if found else Decimal(0)

    def total(self, sample: str, /, **labels: str) -> Decimal:
        """The sum over all series that have these labels among theirs."""
        family = self.families.get(sample) or self.families[re.sub("_(bucket|sum|count)$", "", sample)]
        wanted = set(labels.items())
        return sum(
            (value for (name, given), value in family.samples.items() if name == sample and wanted <= set(given)), Decimal(0)
        )

    @property
    def series(self) -> set[tuple[str, Labels]]:
        return {key for family in self.families.values() for key in family.samples}


def parse(text: str) -> Page:
    assert text.endswith("\n") and "\r" not in text
    lines = text.removesuffix("\n").split("\n")
    families: dict[str, Family] = {}
    at = 0
    while at < len(lines):
        told, kind = _HELP.fullmatch(lines[at]), _TYPE.fullmatch(lines[at + 1])
        assert told and kind and told[1] == kind[1], lines[at : at + 2]
        assert told[1] not in families, f"{told[1]} is told twice"
        family = families[told[1]] = Family(told[1], kind[2], told[2])
        at += 2
        while at < len(lines) and not lines[at].startswith("#"):
            _add_sample(family, lines[at])
            at += 1
        _check(family)
    return Page(families)


def _add_sample(family: Family, line: str) -> None:
    match = _SAMPLE.fullmatch(line)
    assert match, f"no sample: {line!r}"
    labels = tuple(
        (name, re.sub(r"\\.", lambda seen: _ESCAPED[seen[0]], value)) for name, value in re.findall(_LABEL, match[2] or "")
    )
    assert len(dict(labels)) == len(labels), f"a label twice: {line!r}"
    suffixes = ("_bucket", "_sum", "_count") if family.kind == "histogram" else ("",)
    assert match[1] in {family.name + suffix for suffix in suffixes}, f"{match[1]} stands among {family.name}"
    key = (match[1], labels)
    assert key not in family.samples, f"twice: {line!r}"
    family.samples[key] = Decimal(match[7])


def _check(family: Family) -> None:
    # Naming: prometheus.io/docs/practices/naming (read 2026-11-20).
    assert (family.kind == "counter") == family.name.endswith("_total"), family.name
    if family.kind == "counter":
        assert all(value >= 0 for value in family.samples.values()), family.name
    if family.kind == "histogram":
        of_series: dict[Labels, list[tuple[str, Decimal]]] = {}
        for (name, labels), value in family.samples.items():
            if name.endswith("_bucket"):
                bound = dict(labels)["le"]
                of_series.setdefault(tuple(pair for pair in labels if pair[0] != "le"), []).append((bound, value))
        assert len(of_series) * 2 == sum(not name.endswith("_bucket") for name, _ in family.samples), family.name
        for labels, buckets in of_series.items():
            bounds, counts = [Decimal(bound.replace("+Inf", "Infinity")) for bound, _ in buckets], [count for _, count in buckets]
            assert bounds == sorted(set(bounds)) and bounds[-1] == Decimal("Infinity"), family.name
            assert counts == sorted(counts), family.name
            assert counts[-1] == family.samples[family.name + "_count", labels]
            assert (family.name + "_sum", labels) in family.samples
