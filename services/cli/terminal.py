"""What commands print, and to whom: results to standard output, faults and progress to standard error."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import Progress

T = TypeVar("T")

DONE, FAILED, WRONG = 0, 1, 2
"""Exit codes: wrong is what was given."""

out = Console(highlight=False, soft_wrap=True, emoji=False)
err = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)

_SHOWN = 20
"""Faults of a file that are told one by one."""


def printable(text: str) -> str:
    """Return a line of which somebody else wrote some, so that nothing of it moves the cursor."""
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)


def progress() -> Progress:
    """Return bars that a person sees and a log does not."""
    return Progress(console=err, transient=True, disable=not err.is_terminal)


def bar(bars: Progress, what: str) -> Callable[[int, int], None]:
    """Add a bar, and return what moves it: how much of how much is done."""
    task = bars.add_task(what, total=None)
    return lambda done, total: bars.update(task, completed=done, total=total)


class Faults:
    """What is wrong with the rows of a file: the first are told, the others counted."""

    def __init__(self) -> None:
        self.count = 0

    def without(self, found: Iterable[T | str]) -> Iterator[T]:
        """Pass on what is right, and tell of the rest."""
        for one in found:
            if not isinstance(one, str):
                yield one
                continue
            self.count += 1
            if self.count <= _SHOWN:
                err.print(one, markup=False)

    def rest(self) -> None:
        """Tell how many more there are."""
        if self.count > _SHOWN:
            err.print(f"... and {self.count - _SHOWN} more rows that are refused")
