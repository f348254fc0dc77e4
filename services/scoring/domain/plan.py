"""A customer's rules in force, prepared for what is asked of them with every answer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from services.scoring.domain.counting import DAY, Series
from services.scoring.domain.decide import dedup_key
from services.scoring.domain.windows import Judged, Measure
from shared.directory.model import Rule
from shared.rules.base import OnAnswer, OnSequence, OnTime, OnWindow


class Watched(NamedTuple):
    """A rule on more than single answers."""

    rule: Rule
    problem: str | None
    """What follows the customer's name in the dedup_key; None where that depends on the answer's touchpoint."""

    def key(self, customer: str, touchpoint: str | None) -> str:
        """Return the dedup_key of an answer at a touchpoint."""
        return dedup_key(customer, self.rule, touchpoint) if self.problem is None else customer + self.problem


def _watched(rule: Rule) -> Watched:
    return Watched(rule, None if rule.per_touchpoint else dedup_key("", rule, rule.touchpoint))


class Planned(NamedTuple):
    """A rule on a window, with what is asked of it for every answer."""

    watched: Watched
    condition: OnWindow
    length: int
    """Of its window, in seconds."""
    judged: Judged


def planned_of(rule: Rule, when: OnWindow) -> Planned:
    """Return what follows from a rule on a window."""
    assert when.kind is not None
    of_touchpoint = rule.per_touchpoint or rule.touchpoint is not None
    judged = Judged(Measure(when.kind, when.metric, rule.audience), of_touchpoint)
    return Planned(_watched(rule), when, when.seconds, judged)


class Concerned(NamedTuple):
    """The rules that an answer of one series concerns, by what they look at."""

    answers: tuple[tuple[Rule, OnAnswer], ...]
    windows: tuple[Planned, ...]
    sequences: tuple[Watched, ...]
    silences: tuple[Watched, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """A customer's rules, and what follows from them."""

    rules: Mapping[str, Rule]
    silences: tuple[Rule, ...]
    hour_lengths: Mapping[int, frozenset[Judged]]
    """Windows of a day or more, in seconds, kept in whole hours: what rules look at in each."""
    compared: tuple[int, ...]
    """Windows of which the one before is needed too."""
    exact_lengths: tuple[int, ...]
    """Windows shorter than a day, kept to the second."""
    cooldown: int
    """The longest cooldown, in seconds."""
    _concerned: dict[Series, Concerned] = field(default_factory=dict[Series, Concerned])

    def concerned(self, series: Series) -> Concerned:
        """Return the rules that look at an answer of a series."""
        found = self._concerned.get(series)
        if found is None:
            found = self._concerned[series] = _concerned(self.rules.values(), series)
        return found


def _concerned(rules: Iterable[Rule], series: Series) -> Concerned:
    measure = Measure(series.kind, series.metric, series.audience)
    answers: list[tuple[Rule, OnAnswer]] = []
    windows: list[Planned] = []
    sequences: list[Watched] = []
    silences: list[Watched] = []
    for rule in rules:
        when = rule.when
        here = rule.touchpoint is None or rule.touchpoint == series.touchpoint
        if not here or rule.audience != series.audience or series.kind not in when.kinds:
            continue
        if isinstance(when, OnWindow):
            planned = planned_of(rule, when)
            if planned.judged.measure == measure:
                windows.append(planned)
        elif isinstance(when, OnAnswer):
            answers.append((rule, when))
        elif isinstance(when, OnSequence):
            sequences.append(_watched(rule))
        else:
            silences.append(_watched(rule))
    return Concerned(tuple(answers), tuple(windows), tuple(sequences), tuple(silences))


def plan(rules: Sequence[Rule]) -> Plan:
    """Prepare the rules in force."""
    lengths: dict[int, set[Judged]] = {}
    compared: set[int] = set()
    for rule in rules:
        when = rule.when
        if isinstance(when, OnWindow):
            planned = planned_of(rule, when)
            lengths.setdefault(planned.length, set()).add(planned.judged)
            if when.compares:
                compared.add(planned.length)
    return Plan(
        rules={rule.name: rule for rule in rules},
        silences=tuple(rule for rule in rules if isinstance(rule.when, OnTime)),
        hour_lengths={length: frozenset(judged) for length, judged in lengths.items() if length >= DAY},
        compared=tuple(compared),
        exact_lengths=tuple(length for length in lengths if length < DAY),
        cooldown=max((rule.cooldown for rule in rules), default=0),
    )
