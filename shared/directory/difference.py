"""What an apply would change, entry by entry, and how to tell a person: no key's hash and no whole webhook address.

It compares the resolved model, so a new default shows at each entry it reaches; `render` folds those into one line.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, cast
from urllib.parse import urlsplit

import msgspec

from shared.directory.model import Condition, Contact, Directory, Key, Rule, Step, Webhook
from shared.rules.conditions import written

_FOLDED = 4
"""Entries from which on one same change is one line: a new company touchpoint would else be a line per customer."""

_DURATIONS = {
    "retention",
    "window",
    "max_age",
    "cooldown",
    "no_feedback_for",
    "first_response",
    "resolve",
    "poll",
    "revote_after",
}
"""Fields of seconds, told as directory.yaml has them."""

Path = tuple[str, ...]


@dataclass(frozen=True)
class Change:
    """One difference. `before` and `after` are for people to read; None where a whole entry came or went."""

    sign: Literal["+", "-", "~"]
    path: str
    before: str | None = None
    after: str | None = None

    def render(self) -> str:
        """Return a line such as `~ customers.acme.architect: architect-1 -> architect-2`."""
        if self.sign == "~":
            return f"~ {self.path}: {self.before} -> {self.after}"
        value = self.after if self.sign == "+" else self.before
        return f"{self.sign} {self.path}" if value is None else f"{self.sign} {self.path}: {value}"


def difference(old: Directory | None, new: Directory) -> list[Change]:
    """Return what changes from the old directory to the new one; without an old one, a line per section."""
    if old is None:
        return list(_first(new))
    return list(_compare((), old, new))


def render(changes: Sequence[Change]) -> str:
    """Return a line per change, the same change of many entries of a section in one; empty without a change."""
    alike: dict[Change, list[str]] = {}
    for change in changes:
        alike.setdefault(_any_entry(change), []).append(change.path)
    lines: list[str] = []
    for change in changes:
        paths = alike.get(_any_entry(change), [])
        if len(paths) < _FOLDED:
            lines.append(change.render())
        elif change.path == paths[0]:
            lines.append(f"{_any_entry(change).render()} ({len(paths)} entries, such as {change.path.split('.')[1]})")
    return "\n".join(lines)


def _any_entry(change: Change) -> Change:
    section, *rest = change.path.split(".")
    # An entry that came or went whole is worth its own line: who it is, is the news.
    path = ".".join((section, "*", *rest[1:])) if len(rest) > 1 else change.path
    return Change(change.sign, path, change.before, change.after)


def _first(new: Directory) -> Iterator[Change]:
    yield Change("+", "company", after=new.company)
    for name in new.__struct_fields__:
        value = getattr(new, name)
        if isinstance(value, (Mapping, Sequence)) and value and not isinstance(value, str):
            yield Change("+", name, after=str(len(cast("Sequence[object]", value))))


def _compare(path: Path, old: object, new: object) -> Iterator[Change]:
    if old == new:
        return
    before, after = _entries(old), _entries(new)
    if before is None or after is None or type(old) is not type(new):
        yield from _changed(path, old, new)
        return
    for name in (*after, *(name for name in before if name not in after)):
        here = (*path, name)
        if name not in before:
            yield Change("+", ".".join(here), after=_shown(after[name]))
        elif name not in after:
            yield Change("-", ".".join(here), before=_shown(before[name]))
        else:
            yield from _compare(here, before[name], after[name])


def _changed(path: Path, old: object, new: object) -> Iterator[Change]:
    if path[0] == "keys" and path[-1] == "sha256":
        yield Change("~", ".".join(path), "(a secret)", "(another secret)")
        return
    if path[-1] in _DURATIONS:
        old, new = _duration(old), _duration(new)
    before, after = _shown(old), _shown(new)
    if before == after:
        before, after = None, None
    yield Change("~", ".".join(path), before or "(as it was)", after or "(changed)")


def _entries(value: object) -> dict[str, object] | None:
    """Return the named parts of a value, or None when it has none and changes as a whole."""
    if isinstance(value, Mapping):
        return dict(cast("Mapping[str, object]", value))
    if isinstance(value, Condition):
        return written(value)
    if isinstance(value, msgspec.Struct) and not isinstance(value, (Contact, Webhook)):
        return {field: getattr(value, field) for field in value.__struct_fields__}
    if isinstance(value, tuple):
        items = cast("tuple[object, ...]", value)
        named = {
            item.name if isinstance(item, Rule) else item.id: item for item in items if isinstance(item, (Rule, Key))
        }
        return cast("dict[str, object]", named) if len(named) == len(items) else None
    return None


def _shown(value: object) -> str | None:
    """Return a value for people to read, or None when it is an entry of its own, too long for a line."""
    if value is None:
        return "(none)"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (str, int, float)):
        return f"{value:g}" if isinstance(value, float) else str(value)
    if isinstance(value, Contact):
        return f"{value.channel} {_without_its_path(value.address)}"
    if isinstance(value, Webhook):
        return _without_its_path(value.url)
    if isinstance(value, Step):
        return f"{value.page} {_duration(value.ack_within)}"
    if isinstance(value, Condition):
        word, first = next(iter(written(value).items()))
        return f"{value.word} {_duration(first) if word in _DURATIONS else _shown(first)}"
    if isinstance(value, (tuple, list)):
        parts = [_shown(item) for item in cast("Sequence[object]", value)]
        return f"[{', '.join(part for part in parts if part is not None)}]" if None not in parts else None
    return None


def _duration(seconds: object) -> str:
    if not isinstance(seconds, (int, float)):
        return str(seconds)
    sizes = ((86400, "d"), (3600, "h"), (60, "m"))
    size, unit = next((size for size in sizes if seconds and seconds % size[0] == 0), (1, "s"))
    return f"{seconds / size:.10g}{unit}"


def _without_its_path(address: str) -> str:
    """Return an address as it is, but of a webhook only the host: for many services its path is the secret."""
    url = urlsplit(address)
    return f"{url.scheme}://{url.hostname}/..." if url.scheme in ("http", "https") else address
