"""From the text of directory.yaml to a `Directory`, or to everything that is wrong with it, each with its line.

The text is read as parse events: a node tree of 100,000 customers takes 1.5 GB and 22 s, this 0.1 GB and 4 s
(measured). Lines are looked up afterwards, in a second reading, and only when there is something to report.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple, cast

import yaml
from pydantic import ValidationError
from pydantic_core import ErrorDetails
from yaml.reader import ReaderError

from shared.directory.document import Document
from shared.directory.model import Directory
from shared.directory.resolve import resolve
from shared.rules.conditions import parameters, rule_type

LARGEST = 32 * 1024 * 1024
"""Bytes of directory.yaml; 100,000 customers of one record's 16 MiB are about this much text."""

_DEEPEST = 20
"""Levels of nesting; the contract needs 8, and the parser itself sets no bound."""

_MOST_ALIASED = 100_000
"""Nodes that all aliases of a file may stand for together, so that nine lines cannot become a billion nodes."""

_LOADER = yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader
_NUMBER = re.compile(r"[-+]?(?:[0-9]{1,18}|(?=\.?[0-9])[0-9]{0,18}\.[0-9]{0,18}(?:[eE][-+]?[0-9]{1,3})?)")
_WORDS = {"": None, "~": None, "null": None, "true": True, "false": False}

Place = tuple[str | int, ...]


@dataclass(frozen=True, order=True)
class Finding:
    """One thing that is wrong, where, and what to do about it."""

    line: int
    path: str
    message: str

    def render(self, file: str) -> str:
        """Return `FILE:LINE: path: what is wrong`."""
        return f"{file}:{self.line}: {self.path}: {self.message}"


_TOO_LARGE = Finding(1, "file", "is larger than 32 MiB; split the directory by company")


class Findings(Exception):
    """Everything that is wrong with a directory, by line; never empty."""

    def __init__(self, findings: Collection[Finding]) -> None:
        self.findings = tuple(sorted(set(findings)))
        super().__init__("\n".join(finding.render("directory.yaml") for finding in self.findings))


def parse_file(path: Path) -> Directory:
    """Check a file. Raises Findings, or OSError when it cannot be read."""
    if path.stat().st_size > LARGEST:
        raise Findings([_TOO_LARGE])
    # surrogateescape: what is not UTF-8 becomes what `parse` refuses, with its line.
    return parse(path.read_text("utf-8", "surrogateescape"))


def parse(text: str) -> Directory:
    """Check the text of a directory and return it with all defaults filled in. Raises Findings."""
    try:
        size = len(text.encode())
    except UnicodeEncodeError as error:
        line = text.count("\n", 0, error.start) + 1
        raise Findings([Finding(line, "file", "is not UTF-8 text; save it as UTF-8")]) from None
    if size > LARGEST:
        raise Findings([_TOO_LARGE])
    source = _read(text, frozenset())
    if source.data is None:
        raise Findings([Finding(1, "file", "is empty; start with company: {name: ...}")])
    if not isinstance(source.data, dict):
        raise Findings([Finding(1, "file", "must be a mapping of sections such as company and customers")])
    sections = cast("dict[str, object]", source.data)
    problems = list(_repeats(sections))
    try:
        document = Document.model_validate(sections, context=_declared(sections))
    except ValidationError as error:
        problems += [_problem(details, sections) for details in error.errors(include_url=False)]
    else:
        if not problems and not source.faults:
            return resolve(document)
    raise Findings([*source.faults, *(_located(text, problems) if problems else ())])


def _declared(sections: Mapping[str, object]) -> dict[str, Collection[str]]:
    """Return what each section declares, also where its entries are wrong: a reference to them is not."""
    names: dict[str, Collection[str]] = {
        name: _mapping(sections.get(name))
        for name in ("people", "schedules", "escalations", "metrics", "customers", "desks")
    }
    names["touchpoints"] = {name for name in _sequence(sections.get("touchpoints")) if isinstance(name, str)}
    people = _mapping(sections.get("people")).items()
    names["reachable"] = {person for person, entry in people if _mapping(entry).get("contacts")}
    return names


def _mapping(value: object) -> dict[str, object]:
    return cast("dict[str, object]", value) if isinstance(value, dict) else {}


def _sequence(value: object) -> list[object]:
    return cast("list[object]", value) if isinstance(value, list) else []


class _Problem(NamedTuple):
    place: Place
    message: str


def _repeats(sections: Mapping[str, object]) -> Iterator[_Problem]:
    """Find what may be used once only, in lists, whatever else is wrong with their items."""
    yield from _repeated(("rules",), sections.get("rules"), "name")
    yield from _repeated(("keys",), sections.get("keys"), "id")
    yield from _repeated(("keys",), sections.get("keys"), "sha256")
    for customer, entry in _mapping(sections.get("customers")).items():
        yield from _repeated(("customers", customer, "rules"), _mapping(entry).get("rules"), "name")


def _repeated(place: Place, items: object, field: str) -> Iterator[_Problem]:
    first: dict[str, int] = {}
    for index, item in enumerate(_sequence(items)):
        value = _mapping(item).get(field)
        if isinstance(value, str) and first.setdefault(value, index) != index:
            shown = "the same hash" if field == "sha256" else f"'{value}'"
            message = f"{shown} is used by {_path((*place, first[value]))} already; each needs its own"
            yield _Problem((*place, index, field), message)


_MESSAGES = {
    "missing": "is required",
    "extra_forbidden": "unknown field; correct its name or remove it",
    "string_type": "must be text; put it in quotes",
    "bool_type": "must be true or false",
    "int_type": "must be a whole number",
    "float_type": "must be a number",
    "list_type": "must be a list",
    "dict_type": "must be a mapping",
    "model_type": "must be a mapping",
    "too_short": "must have at least one entry",
}
_SHOWN = {"literal_error", "greater_than", "greater_than_equal", "less_than", "less_than_equal", "goal"}
"""Errors that quote the value; no other does, as a secret may have been pasted in its place."""


def _problem(error: ErrorDetails, sections: Mapping[str, object]) -> _Problem:
    place = tuple(part for part in error["loc"] if part != "[key]")
    if "ctx" in error and "error" in error["ctx"]:
        return _Problem(place, str(error["ctx"]["error"]))
    if error["type"] == "extra_forbidden" and "when" in place[-3:-1] and "rules" in place:
        return _Problem(place, _not_a_parameter(place, sections))
    given = f", not {error['input']!r}" if error["type"] in _SHOWN else ""
    return _Problem(place, _MESSAGES.get(error["type"], error["msg"].replace("Input should be", "must be")) + given)


def _not_a_parameter(place: Place, sections: Mapping[str, object]) -> str:
    here: object = sections
    for part in place[: place.index("when") + 1]:
        here = _sequence(here)[part] if isinstance(part, int) else _mapping(here)[part]
    kind = rule_type(_mapping(here)) or ""
    takes = ", ".join(parameters(kind)) or "nothing else"
    return f"{kind} takes no '{place[-1]}'; it takes {takes}"


def _path(place: Place) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place).removeprefix(".") or "file"


def _located(text: str, problems: list[_Problem]) -> Iterator[Finding]:
    """Read the text again for the line of each problem: of its own place, or of the nearest one around it."""
    wanted = {problem.place[:end] for problem in problems for end in range(len(problem.place) + 1)}
    lines = _read(text, wanted).lines
    for problem in problems:
        place = problem.place
        while place and place not in lines:
            place = place[:-1]
        yield Finding(lines.get(place, 1), _path(problem.place), problem.message)


def _read(text: str, wanted: Collection[Place]) -> _Source:
    source = _Source(text, wanted)
    try:
        source.read()
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark is not None else 1
        raise Findings([Finding(line, "file", f"is not YAML: {error.problem}")]) from None
    except ReaderError as error:
        line = text.encode()[: error.position].count(b"\n") + 1
        raise Findings([Finding(line, "file", "holds a character that YAML does not allow; remove it")]) from None
    return source


class _Source:
    """One reading of the text: its plain data, its faults as YAML, and the lines of the wanted places."""

    def __init__(self, text: str, wanted: Collection[Place]) -> None:
        self.data: object = None
        self.faults: list[Finding] = []
        self.lines: dict[Place, int] = {}
        self._wanted = wanted
        self._events = yaml.parse(text, Loader=_LOADER)
        self._anchors: dict[str, tuple[object, int]] = {}
        self._nodes = 0
        self._aliased = 0

    def read(self) -> None:
        for event in self._events:
            if isinstance(event, yaml.DocumentStartEvent):
                if self.data is not None:
                    raise Findings([_fault(event, (), "a second document starts here; keep one in a file")])
                self.data = self._node(next(self._events), ())

    def _node(self, event: yaml.Event, place: Place) -> object:
        if place in self._wanted and place not in self.lines:
            self.lines[place] = _line(event)
        if len(place) > _DEEPEST:
            raise Findings([_fault(event, place, f"is nested more than {_DEEPEST} levels deep")])
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event, place)
        event = cast("yaml.ScalarEvent | yaml.CollectionStartEvent", event)
        before = self._nodes
        self._nodes += 1
        if isinstance(event, yaml.ScalarEvent):
            value = _plain(event.value) if event.implicit[0] else event.value
        elif isinstance(event, yaml.MappingStartEvent):
            value = self._entries(place)
        else:
            value = self._items(place)
        if event.anchor is not None:
            self._anchors[event.anchor] = (value, self._nodes - before)
        if event.tag not in (None, "!"):
            self.faults.append(_fault(event, place, f"remove the tag {event.tag}: tags have no meaning here"))
        return value

    def _alias(self, event: yaml.AliasEvent, place: Place) -> object:
        if event.anchor not in self._anchors:
            raise Findings([_fault(event, place, f"alias *{event.anchor} has no complete anchor before it")])
        value, nodes = self._anchors[event.anchor]
        self._nodes += nodes
        self._aliased += nodes
        if self._aliased > _MOST_ALIASED:
            raise Findings([_fault(event, place, f"aliases stand for over {_MOST_ALIASED} values; write them out")])
        return value

    def _items(self, place: Place) -> list[object]:
        items: list[object] = []
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            items.append(self._node(event, (*place, len(items))))
        return items

    def _entries(self, place: Place) -> dict[str, object]:
        entries: dict[str, object] = {}
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            if not isinstance(event, yaml.ScalarEvent):
                raise Findings([_fault(event, place, "a key must be plain text")])
            key = event.value
            here = (*place, key)
            if key in entries:
                self.faults.append(_fault(event, here, "is here a second time; remove one"))
            if key == "<<":
                self.faults.append(_fault(event, here, "merge keys are not supported; repeat the fields"))
            if here in self._wanted:
                self.lines[here] = _line(event)
            entries[key] = self._node(next(self._events), here)
        return entries


def _line(event: yaml.Event) -> int:
    return event.start_mark.line + 1 if event.start_mark is not None else 1


def _fault(event: yaml.Event, place: Place, message: str) -> Finding:
    return Finding(_line(event), _path(place), message)


@lru_cache(maxsize=65536)
def _plain(value: str) -> str | int | float | bool | None:
    """Read a plain scalar as YAML 1.2 does: `holidays: NO` is Norway and `12:30` is a time, not False and 750."""
    if value.lower() in _WORDS:
        return _WORDS[value.lower()]
    if _NUMBER.fullmatch(value) is None:
        return value
    number = float(value)
    if not math.isfinite(number):
        return value
    return number if {".", "e", "E"} & set(value) else int(value)
