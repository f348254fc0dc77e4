"""What rule types are made of: four families, by what a rule looks at."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from operator import attrgetter
from typing import Annotated, ClassVar, NamedTuple

import msgspec
from pydantic import Field

from shared.directory.fields import DAY
from shared.wire.events import FeedbackReceivedV1, Kind

Reason = dict[str, str | int | float | None]
"""The numbers that a decision was made on, by their names."""

Counts = Sequence[float]
"""Answers of a window per category from the worst (`counting.category_of`), then the sum of their scores for `kpi`."""

Responses = Annotated[int, Field(ge=1, le=1_000_000)]
"""How many answers a window must hold."""

SUM = 7
"""The place of the sum in `Counts`."""


class Verdict(NamedTuple):
    """What a rule says of a window. Between firing and clearing lies a band in which nothing changes."""

    fires: bool
    clears: bool


QUIET = Verdict(fires=False, clears=True)
"""Of a window without answers."""


class Texts(NamedTuple):
    """A sentence per language, as a format string over the reason and `window`."""

    en: str
    fi: str


class Condition(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a rule is made on. Its type's word in directory.yaml is its tag, and the first field stands under it."""

    texts: ClassVar[Texts]
    """Why it fired, as one sentence for a person."""

    @property
    def word(self) -> str:
        """The type's name, as `when` has it."""
        return str(self.__struct_config__.tag)

    @property
    @abstractmethod
    def kind(self) -> Kind | None:
        """The kind of answers that it looks at; None for every kind."""

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """Every kind of answers that it looks at."""
        return ("nps", "mood", "csat", "ces", "kpi") if self.kind is None else (self.kind,)

    @property
    def metric(self) -> str | None:
        """The key metric, of kind kpi."""
        return None

    def contradictions(self) -> Iterator[tuple[str, str]]:
        """Find fields that together could never fire, or never clear: the field and what is wrong."""
        yield from ()

    def sentence(self, reason: Reason, language: str = "en") -> str:
        """Return one sentence that a person understands."""
        template = self.texts.fi if language == "fi" else self.texts.en
        shown: dict[str, object] = {name: _UNKNOWN if value is None else value for name, value in reason.items()}
        for name, value in reason.items():
            if name.endswith("_seconds") and isinstance(value, (int, float)):
                shown[name.removesuffix("_seconds")] = length(value, language)
        return template.format_map(shown)


class _Unknown:
    def __format__(self, _: str) -> str:
        return "?"


_UNKNOWN = _Unknown()


_window = attrgetter("window")


class OnAnswer(Condition, frozen=True):
    """A rule on a single answer: it opens one alert for each that fires."""

    @abstractmethod
    def fires(self, answer: FeedbackReceivedV1) -> bool:
        """Judge an answer of its kind."""

    def reason(self, answer: FeedbackReceivedV1) -> Reason:
        """Return the numbers of that judgement."""
        return {"score": answer.score, "threshold": getattr(self, "threshold", None)}


class OnWindow(Condition, frozen=True):
    """A rule on the answers of a window: one alert, which stays open until it clears."""

    harmless: ClassVar[int] = 99
    """An answer of this category or a better one can only make the value better."""
    scaled: ClassVar[bool] = True
    """There is a best value, of badness 0: whatever is not the best makes an empty window worse."""
    compares: ClassVar[bool] = False
    """It also needs the window before, of the same length, which does not overlap."""

    @property
    def seconds(self) -> int:
        """The window's length: the field `window`, which each type has where its words put it."""
        return _window(self)

    @abstractmethod
    def verdict(self, counts: Counts, before: Counts) -> Verdict:
        """Judge a window. `before`: the window before it, empty where the rule compares none."""

    @abstractmethod
    def badness(self, counts: Counts) -> float | None:
        """Return the value that the rule watches, so that more is worse; None without answers."""

    def is_bad(self, category: int, score: float) -> bool:
        """Tell whether an answer by itself lies on the bad side, so that it may open an alert at the scale's end."""
        return category == 0

    @abstractmethod
    def reason(self, counts: Counts, before: Counts) -> Reason:
        """Return the numbers of a judgement."""

    def is_known(self, reason: Reason) -> bool:
        """Tell whether there were answers to judge."""
        return reason.get("responses") != 0

    @abstractmethod
    def nearness(self, counts: Counts, before: Counts) -> str:
        """Return why it does not fire now, in a few words; empty when it does."""

    def worsens(self, category: int, score: float, was: Counts, now: Counts) -> bool:
        """Tell whether an answer made the value worse: counts before and after it.

        At the scale's end the value cannot fall any more: there one more bad answer counts as worse.
        """
        before, after = self.badness(was), self.badness(now)
        if after is None:
            return False
        if before is None:
            return self.is_bad(category, score) or (self.scaled and after > 0)
        if math.isclose(after, before, rel_tol=1e-9):
            return self.is_bad(category, score)
        return after > before


class OnTime(Condition, frozen=True):
    """A rule on silence: time alone opens its alert, the next answer clears it."""

    @abstractmethod
    def limit(self, rate: Rate) -> float | None:
        """Return after how many seconds without an answer it fires; None while too little is known."""


class OnSequence(Condition, frozen=True):
    """A rule on answers one after the other, judged by a detector that remembers."""


class Rate(NamedTuple):
    """How often somebody answers, older answers counting less."""

    answers: float
    days: float
    """Over which so many came."""
    longest: float
    """The longest time between two answers, in days; it too counts less and less."""


def needs_more(count: int, wanted: int) -> str:
    """Return what is missing, in words."""
    missing = wanted - count
    return f"needs {missing} more answer{'' if missing == 1 else 's'}"


_UNITS: Mapping[str, tuple[tuple[str, str], ...]] = {
    "en": (("day", "days"), ("hour", "hours"), ("minute", "minutes"), ("second", "seconds")),
    "fi": (("päivän", "päivän"), ("tunnin", "tunnin"), ("minuutin", "minuutin"), ("sekunnin", "sekunnin")),
}


def length(seconds: float, language: str = "en") -> str:
    """Return a duration in words, in the largest unit that there are two of, or that it is a whole number of."""
    sizes = (DAY, 3600, 60, 1)
    place = next((n for n, size in enumerate(sizes) if seconds >= 2 * size or seconds == size), 3)
    number = f"{seconds / sizes[place]:.1f}".removesuffix(".0")
    return f"{number} {_UNITS.get(language, _UNITS['en'])[place][number != '1']}"
