"""What is wrong with a configuration file, told so that one look at the file mends it: line, option, and what was expected.

    pagegrid.toml:3: option server.prot: unknown option; did you mean server.port?

Everything that is wrong is collected and told at once. A text from the file is never repeated in a message unless it is a short
plain name, so that a secret in the wrong place stays where it is. Knows TOML and pydantic, but no option by itself: the shapes
are handed in.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date, datetime, time
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

# ("upstreams", 0, "factor"): keys, and the position within a list.
Where = tuple[str | int, ...]
Shapes = Mapping[str, type[BaseModel]]

# What may be repeated in a message: providers' secrets are longer than this.
_SHOWABLE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@\[\]-]{0,39}", re.ASCII)

_PART = r"""(?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*')"""
_DOTTED = rf"{_PART}(?:\s*\.\s*{_PART})*"
_HEADER = re.compile(rf"\s*(\[\[?)\s*({_DOTTED})\s*\]\]?\s*(?:#.*)?")
_ASSIGNMENT = re.compile(rf"\s*({_DOTTED})\s*=")
_SYNTAX_PLACE = re.compile(r"\s*\(at (?:line (\d+), column (\d+)|end of document)\)")


@dataclass(frozen=True, slots=True)
class Problem:
    """One line of a `ConfigError`. `subject` is such as "option server.port", "" for the file as a whole."""

    origin: str
    line: int | None
    subject: str
    message: str

    def __str__(self) -> str:
        place = self.origin if self.line is None else f"{self.origin}:{self.line}"
        return ": ".join(part for part in (place, self.subject, self.message) if part)


class ConfigError(Exception):
    """A configuration that cannot be used: all of its problems, in the order of the file, one a line."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(sorted(problems, key=lambda problem: problem.line or 0))
        super().__init__("\n".join(map(str, self.problems)))


def syntax_error(origin: str, message: str) -> ConfigError:
    """The error for a text that is no TOML; `message` is tomllib's, which names line and column within its words."""
    place = _SYNTAX_PLACE.search(message)
    words = _SYNTAX_PLACE.sub("", message)
    if place is None or place.group(1) is None:
        return ConfigError([Problem(origin, None, "", f"not TOML at the end of the file: {words}")])
    return ConfigError([Problem(origin, int(place.group(1)), "", f"not TOML at column {place.group(2)}: {words}")])


class Findings:
    """The problems of one parsed file, collected while it is read; `data` is what the TOML text holds.

    `shapes` are the sections of the file, `nested` the tables inside their options.
    """

    def __init__(self, origin: str, text: str, data: Mapping[str, Any], shapes: Shapes, nested: Shapes) -> None:
        self.problems: list[Problem] = []
        self._places: list[Where] = []
        self._origin = origin
        self._lines = lines_of(text)
        self._data = data
        self._shapes = shapes
        self._nested = nested

    def add(self, where: Where, message: str, *, noun: str = "option") -> None:
        subject = f"{noun} {self.name(where)}".lstrip()
        self.problems.append(Problem(self._origin, self._line(where), subject, message))
        self._places.append(where)

    def blames(self, *where: str | int) -> bool:
        """Whether something was found wrong with what stands there."""
        return any(place[: len(where)] == where for place in self._places)

    def add_invalid(self, where: Where, error: ValidationError) -> None:
        """Every finding of pydantic about what stands at `where`, in our words."""
        for detail in error.errors(include_url=False):
            place = (*where, *detail["loc"])
            self.add(place, self.unknown(place) if detail["type"] == "extra_forbidden" else _words(detail))

    def unknown(self, where: Where, *, noun: str = "option") -> str:
        """What to say of a name that is no option: with the nearest one beside it, or the section that does have it."""
        last, around = str(where[-1]), where[:-1]
        keys = [key for key in around if isinstance(key, str)]
        known = {**self._shapes, **self._nested}
        # In [plans.free] the name is the file's own, and "plans" says what may stand there.
        shape = next((known[key] for key in reversed(keys) if key in known), None)
        near = nearest(last, options_of(shape) if shape else self._shapes)
        if near is not None:
            return f"unknown {noun}; did you mean {self.name((*around, near))}?"
        for section, options in self._shapes.items():
            if last in options_of(options):
                return f"unknown {noun}; did you mean {section}.{last}?"
        return f"unknown {noun}"

    def name(self, where: Where) -> str:
        """`upstreams[main].factor`: entries of a list by their name or id where that may be shown, else by number."""
        text, value = "", self._data
        for key in where:
            inside = _inside(value, key)
            if isinstance(key, int):
                label = _inside(inside, "name") or _inside(inside, "id")
                text += f"[{label}]" if is_showable(label) else f"[#{key + 1}]"
            else:
                text += f".{key}" if text else key
            value = inside
        return text

    def raise_if_any(self) -> None:
        if self.problems:
            raise ConfigError(self.problems)

    def _line(self, where: Where) -> int | None:
        # An option that is not written is looked for where it is missing: at its entry, else at its section.
        for end in range(len(where), 0, -1):
            if where[:end] in self._lines:
                return self._lines[where[:end]]
        return None


def options_of(shape: type[BaseModel]) -> list[str]:
    """The options of a section as they are written in the file."""
    return [field.alias or name for name, field in shape.model_fields.items()]


def nearest(name: str, known: Iterable[str]) -> str | None:
    matches = difflib.get_close_matches(name, list(known), n=1)
    return matches[0] if matches else None


def is_showable(value: object) -> bool:
    return isinstance(value, str) and _SHOWABLE.fullmatch(value) is not None


def shown(text: str) -> str:
    """The text in quotes if it is a short plain name, else words that keep it to itself."""
    return f'"{text}"' if is_showable(text) else "what is written there"


def kind_of(value: object) -> str:
    """What TOML would call a value, without the value itself."""
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, int):
        return "a whole number"
    if isinstance(value, float):
        return "a number with decimals"
    if isinstance(value, str):
        return "a text in quotes"
    if isinstance(value, list):
        return "a list"
    if isinstance(value, date | datetime | time):
        return "a date or time"
    return "a table"


def lines_of(text: str) -> dict[Where, int]:
    """The line of every table header and every `key =` of a TOML text, counted from 1.

    A simplification, good enough for messages: it reads line by line, so that keys inside an inline table or a list are found
    at the line of the option that holds them, and a text of several lines is skipped by counting its triple quotes.
    """
    found: dict[Where, int] = {}
    counts: dict[Where, int] = {}
    table: Where = ()
    in_text = False
    for number, line in enumerate(text.split("\n"), start=1):
        ends_or_starts_text = (line.count('"""') + line.count("'''")) % 2 == 1
        if in_text:
            in_text = not ends_or_starts_text
            continue
        if line.lstrip().startswith("#"):
            continue
        in_text = ends_or_starts_text
        if header := _HEADER.fullmatch(line.rstrip()):
            parts = tuple(_parts(header.group(2)))
            if header.group(1) == "[[":
                plain = (*_numbered(parts[:-1], counts), parts[-1])
                counts[plain] = counts.get(plain, -1) + 1
                found.setdefault(plain, number)
            table = _numbered(parts, counts)
            found.setdefault(table, number)
        elif assignment := _ASSIGNMENT.match(line):
            where = table
            for part in _parts(assignment.group(1)):
                where = (*where, part)
                found.setdefault(where, number)
    return found


def _parts(dotted: str) -> Iterator[str]:
    return (part.strip("\"'") for part in re.findall(_PART, dotted))


def _numbered(parts: Where, counts: Mapping[Where, int]) -> Where:
    """The path with the position of the latest entry put in after each list of tables."""
    where: Where = ()
    for part in parts:
        where = (*where, part)
        if where in counts:
            where = (*where, counts[where])
    return where


def _inside(value: Any, key: str | int) -> Any:
    if isinstance(key, int):
        return value[key] if isinstance(value, list) and key < len(value) else None
    return value.get(key) if isinstance(value, Mapping) else None


_EXPECTED = {
    "string_type": "a text in quotes",
    "int_type": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "tuple_type": "a list",
    "model_type": "a table in braces",
    "dict_type": 'a table such as { "X-Title" = "…" }',
}


def _words(detail: ErrorDetails) -> str:
    """One finding of pydantic as a sentence; what it found is told by kind, never by value."""
    kind, context = detail["type"], detail.get("ctx", {})
    if kind == "missing":
        return "is missing"
    if kind in _EXPECTED:
        return f"expected {_EXPECTED[kind]}, found {kind_of(detail['input'])}"
    if kind == "literal_error":
        # pydantic lists the values as 'a', 'b' or 'c'.
        expected = context["expected"].replace("'", '"')
        near = nearest(str(detail["input"]), re.findall(r'"([^"]*)"', expected))
        return f"expected {expected}" + (f'; did you mean "{near}"?' if near else "")
    if kind == "finite_number":
        return "must be a finite number"
    if kind == "greater_than":
        return f"must be above {context['gt']:.9g}"
    if kind == "greater_than_equal":
        return f"must be at least {context['ge']:.9g}"
    if kind == "less_than_equal":
        return f"must be at most {context['le']:.9g}"
    if kind == "value_error":
        return str(context["error"])
    return detail["msg"]
