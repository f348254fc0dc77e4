"""The rows of a CSV file as answers: our own columns, or another tool's by a map."""

from __future__ import annotations

import codecs
import csv
import io
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from sys import intern
from typing import Any, cast
from zoneinfo import ZoneInfo

import msgspec
import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from services.ingest.domain import Posted
from shared.directory.fields import Zone
from shared.errors import Problem
from shared.http.spreadsheet import text_of
from shared.wire.events import FeedbackReceivedV1

_MAPS = Path(__file__).parent / "maps"
"""Those that come with Fiilis."""

_ALSO = frozenset({"trust", "received_at"})
"""Columns of our own export that nobody can post."""
_COLUMNS = frozenset({*Posted.__struct_fields__, *_ALSO})
_NAMES = ", ".join(sorted(_COLUMNS))
_NEEDED = ("kind", "score", "customer", "occurred_at")
_REPEATED = frozenset({"customer", "touchpoint", "respondent"})
"""Columns whose texts are kept once for all rows."""
_DELIMITERS = ",;\t"
_EVERY = 5_000

Cells = dict[str, Any]
Take = Callable[[Cells, int], FeedbackReceivedV1]
"""Makes an answer of a row's cells, by column, and its line. Raises Problem, or msgspec's errors."""
Told = Callable[[int, int], None]
"""Gets how many bytes of how many were read."""


class WrongFile(Exception):
    """The file as a whole cannot be read."""


class Times(BaseModel):
    """How a tool writes the moment of an answer."""

    model_config = ConfigDict(extra="forbid")

    format: str
    """As in strptime, such as "%d.%m.%Y %H:%M"; `unix`: seconds since 1970."""
    timezone: Zone = "UTC"
    """Of times that name none."""

    def moment(self, text: str) -> str:
        """Return a moment as RFC 3339. Raises ValueError."""
        if self.format == "unix":
            return datetime.fromtimestamp(float(text), UTC).isoformat()
        at = datetime.strptime(text.strip(), self.format)  # noqa: DTZ007 (its zone is the next line's)
        return (at if at.tzinfo else at.replace(tzinfo=ZoneInfo(self.timezone))).isoformat()


class Map(BaseModel):
    """Which column of another tool's export is which field, and which of its words is which value."""

    model_config = ConfigDict(extra="forbid")

    columns: dict[str, str] = {}
    """Their column: our field. Other columns are passed by; without any the columns are ours."""
    values: dict[str, dict[str, str]] = {}
    """By our field: their word, our value."""
    given: dict[str, str] = {}
    """By our field: what is meant where a row says nothing."""
    times: Times | None = None
    encoding: str = "utf-8-sig"
    """Of the file, such as cp1252; UTF-8 with or without a mark by default."""

    @field_validator("encoding", mode="after")
    @classmethod
    def _is_known(cls, encoding: str) -> str:
        try:
            return codecs.lookup(encoding).name
        except LookupError:
            raise ValueError(f"{encoding!r} is no encoding that is known here") from None

    @field_validator("columns", mode="after")
    @classmethod
    def _to_fields(cls, columns: dict[str, str]) -> dict[str, str]:
        _known(columns.values())
        return columns

    @field_validator("values", "given", mode="before")
    @classmethod
    def _of_fields(cls, of: object) -> object:
        if isinstance(of, dict):
            _known(map(str, cast("dict[object, object]", of)))
        return cast("object", of)

    def with_given(self, assignments: Sequence[str]) -> Map:
        """Return it with `FIELD=VALUE` given besides. Raises WrongFile."""
        given = dict(self.given)
        for assignment in assignments:
            field, separator, value = assignment.partition("=")
            if not separator or field not in _COLUMNS:
                raise WrongFile(f"--set {assignment}: must be FIELD=VALUE; fields are {_NAMES}")
            given[field] = value
        return self.model_copy(update={"given": given})

    def translated(self, cells: Cells) -> None:
        """Put our words in the place of theirs. Raises ValueError naming the field."""
        for field, words in self.values.items():
            if field in cells:
                cells[field] = words.get(cells[field], cells[field])
        if self.times is not None and "occurred_at" in cells:
            try:
                cells["occurred_at"] = self.times.moment(cells["occurred_at"])
            except (ValueError, OverflowError, OSError) as error:
                raise ValueError(f"occurred_at: {error}") from None
        for field, value in self.given.items():
            cells.setdefault(field, value)


def _known(fields: Iterable[str]) -> None:
    for field in fields:
        if field not in _COLUMNS:
            raise ValueError(f"{field!r} is no field; fields are {_NAMES}")


def read_map(name: str) -> Map:
    """Return the map of a name that comes with Fiilis, or of a YAML file. Raises WrongFile."""
    file = _MAPS / f"{name}.yaml" if "/" not in name and not name.endswith((".yaml", ".yml")) else Path(name)
    try:
        return Map.model_validate(yaml.safe_load(file.read_text()) or {})
    except UnicodeDecodeError:
        raise WrongFile(f"{file}: is not UTF-8") from None
    except OSError as error:
        known = ", ".join(sorted(found.stem for found in _MAPS.glob("*.yaml")))
        raise WrongFile(f"{name}: {error.strerror}; a map is a YAML file of yours, or one of: {known}") from None
    except yaml.YAMLError as error:
        raise WrongFile(f"{file}: not YAML: {error}") from None
    except ValidationError as error:
        first = error.errors()[0]
        raise WrongFile(f"{file}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None


def read_csv(
    file: Path, take: Take, mapped: Map | None = None, told: Told | None = None
) -> Iterator[FeedbackReceivedV1 | str]:
    """Yield each row's answer, or what is wrong with it as `FILE:LINE: column: what`. Raises WrongFile, OSError."""
    mapped = mapped or Map()
    ours = not mapped.columns
    """As our own export writes it: what it put before a formula is taken away again."""
    translates = bool(mapped.values or mapped.given or mapped.times)
    size = file.stat().st_size
    with file.open("rb") as raw:
        # What cannot be decoded is refused by its row, not changed, and the rest goes on.
        text = io.TextIOWrapper(raw, encoding=mapped.encoding, errors="surrogateescape", newline="")
        header = text.readline()
        delimiter = max(_DELIMITERS, key=header.count)
        theirs = next(csv.reader([header], delimiter=delimiter), list[str]())
        columns = _columns(file, theirs, mapped)
        repeated = [column in _REPEATED for column in columns]
        rows = csv.reader(text, delimiter=delimiter, strict=True)
        for count in itertools.count(1):
            if told is not None and count % _EVERY == 0:
                told(raw.tell(), size)
            line = rows.line_num + 2
            try:
                row = next(rows)
            except StopIteration:
                break
            except csv.Error as error:
                yield f"{file}:{line}: row: {error} (a quote that is not closed?)"
                continue
            if not row:
                continue
            if len(row) != len(columns):
                yield f"{file}:{line}: row: has {len(row)} cells and the header {len(columns)}"
                continue
            if ours:
                row = [text_of(cell) for cell in row]
            named = zip(columns, repeated, row, strict=True)
            cells = {column: intern(cell) if again else cell for column, again, cell in named if cell and column}
            try:
                if translates:
                    mapped.translated(cells)
                yield take(cells, line)
            except (Problem, msgspec.ValidationError, msgspec.DecodeError, ValueError) as error:
                yield f"{file}:{line}: {_wrong(error, row, mapped.encoding)}"
        if told is not None:
            told(size, size)


def _wrong(error: Exception, row: Sequence[str], encoding: str) -> str:
    if any("\udc80" <= character <= "\udcff" for character in "".join(row)):
        return f"row: is not {encoding.removesuffix('-sig').upper()}"
    if isinstance(error, Problem):
        return "; ".join(f"{one.path}: {one.detail}" for one in error.errors) or error.title
    return str(error)


def _columns(file: Path, theirs: Sequence[str], mapped: Map) -> list[str]:
    """Return the field of each column; "" passes it by."""
    names = [name.strip() for name in theirs]
    if mapped.columns:
        missing = [name for name in mapped.columns if name not in names]
        if missing:
            raise WrongFile(f"{file}:1: no column {missing[0]!r}, which the map names; columns are {', '.join(names)}")
        names = [mapped.columns.get(name, "") for name in names]
    unknown = [name for name in names if name and name not in _COLUMNS]
    twice = sorted({name for name in names if name and names.count(name) > 1})
    needed = [name for name in _NEEDED if name not in names and name not in mapped.given]
    if unknown or needed or twice:
        wrong = [f"unknown column {name!r}" for name in unknown] + [f"no column {name!r}" for name in needed]
        wrong += [f"column {name!r} comes twice" for name in twice]
        raise WrongFile(f"{file}:1: {', '.join(wrong)}; columns are {_NAMES}")
    return names


def posted(cells: Cells) -> tuple[Posted, bool]:
    """Return a row as if it had been posted, and whether it is anonymous. Raises msgspec's errors."""
    trust = cells.pop("trust", "verified")
    if trust not in ("verified", "anonymous"):
        raise ValueError("trust: must be verified or anonymous")
    cells.pop("received_at", None)
    if "context" in cells:
        cells["context"] = msgspec.json.decode(cells["context"])
    return msgspec.convert(cells, Posted, strict=False), trust == "anonymous"
