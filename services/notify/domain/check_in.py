"""Meetings with customers: when the next is due, and the brief for it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Literal
from uuid import UUID

import msgspec

from services.notify.domain.texts import Words, one_line, shortened
from shared.directory.model import Customer
from shared.wire.events import ScoreDailyV1

PERIODS = {"daily": 1, "weekly": 7, "monthly": 30, "quarterly": 91, "yearly": 365}
"""Days."""
_AHEAD = {"daily": 0, "weekly": 1, "monthly": 3, "quarterly": 7, "yearly": 14}
"""Days before it is due that the architect gets the brief."""
_AGAIN = timedelta(days=7)
"""How often the architect hears that one is overdue."""


class CheckIn(msgspec.Struct, frozen=True, kw_only=True):
    """A meeting that was held."""

    id: UUID
    customer: str
    held_at: datetime
    note: str
    goals: Mapping[str, float]
    """Of the next period, by nps, mood, or a key metric."""
    made_at: datetime
    made_by: str


@dataclass(frozen=True, slots=True)
class Due:
    """Where a customer's next check-in stands."""

    customer: str
    since: datetime
    """The last one, or when they were agreed on."""
    look_at: datetime
    reminded: int
    """How often the architect was told: the first is the brief ahead, the others that it is overdue."""


@dataclass(frozen=True, slots=True)
class Reminder:
    """What the architect is told."""

    kind: Literal["brief", "overdue"]
    due_at: datetime


def due_at(since: datetime, check_in: str) -> datetime:
    """Return when the next check-in is to be held."""
    return since + timedelta(days=PERIODS[check_in])


def first_look(since: datetime, check_in: str) -> datetime:
    """Return when the architect gets the brief."""
    return due_at(since, check_in) - timedelta(days=_AHEAD[check_in])


def look(due: Due, check_in: str, now: datetime) -> tuple[Due, Reminder | None]:
    """Return what the architect is told now, and when to look again."""
    at = due_at(due.since, check_in)
    if due.reminded == 0:
        if now < first_look(due.since, check_in):
            # The directory now asks for it less often.
            return replace(due, look_at=first_look(due.since, check_in)), None
        return replace(due, reminded=1, look_at=max(at + timedelta(days=1), now + timedelta(days=1))), Reminder(
            "brief", at
        )
    if now < at:
        return replace(due, look_at=at + timedelta(days=1)), None
    return replace(due, reminded=due.reminded + 1, look_at=now + _AGAIN), Reminder("overdue", at)


def brief(customer: Customer, reminder: Reminder, standing: ScoreDailyV1 | None, last: CheckIn | None) -> Words:
    """Return one page about a customer: where it stands, the gaps, and what was agreed on last."""
    day = f"{reminder.due_at:%Y-%m-%d}"
    late = reminder.kind == "overdue"
    subject = f"Check-in with {customer.name} " + (f"was due on {day}" if late else f"on {day}")
    lines = [f"{subject}.", ""]
    if standing is None:
        lines.append("No scores yet: nobody has answered, or no day has ended since.")
    else:
        lines.append(f"Where {customer.name} stands (30 days until {standing.day}):")
        lines += [f"- {line}" for line in _scores(standing)]
        if standing.weakest is not None:
            lines.append(f"- weakest touchpoint: {standing.weakest}")
    if last is not None:
        lines += ["", f"Last check-in, {last.held_at:%Y-%m-%d}: {one_line(last.note)}"]
        if last.goals:
            lines.append("Goals agreed on: " + ", ".join(f"{name} {goal:g}" for name, goal in last.goals.items()))
    lines += ["", "Afterwards, write it down: POST /v1/check-ins with customer, held_at, note and goals."]
    return Words(
        subject=one_line(subject)[:200],
        text="\n".join(lines) + "\n",
        short=shortened(subject),
        data={
            "customer": customer.id,
            "due_at": reminder.due_at,
            "overdue": late,
            "scores": standing,
            "last_check_in": last,
        },
    )


def _scores(standing: ScoreDailyV1) -> list[str]:
    lines = [
        _score("NPS", standing.nps, standing.nps_responses, standing.nps_goal, standing.nps_gap),
        _score("mood", standing.mood, standing.mood_responses, standing.mood_goal, standing.mood_gap),
    ]
    lines += [_score(name, m.mean, m.responses, m.goal, m.gap) for name, m in standing.metrics.items()]
    return lines


def _score(name: str, value: float | None, responses: int, goal: float | None, gap: float | None) -> str:
    if value is None:
        return f"{name}: no answers"
    text = f"{name} {value:g} ({responses} answers)"
    if goal is not None:
        text += f", goal {goal:g}"
        text += f", {gap:g} short of it" if gap is not None and gap > 0 else ", reached"
    return text
