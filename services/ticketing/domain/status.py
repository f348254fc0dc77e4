"""What became of a respondent's feedback, in three steps that they may know of. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from shared.wire.events import TicketV1

StepName = Literal["received", "handled", "done"]


@dataclass(frozen=True, slots=True)
class Step:
    """One step on the way."""

    name: StepName
    reached: bool
    at: datetime | None = None
    """None: not reached, or nobody wrote down when."""


@dataclass(frozen=True, slots=True)
class Status:
    """How far it is."""

    steps: tuple[Step, ...]
    """In order; none is reached before the one ahead of it."""
    assignee: str | None = None
    """Who took it, once somebody did."""

    @property
    def current(self) -> StepName | None:
        """The last step that is reached; None: the answer is on its way to us."""
        return next((step.name for step in reversed(self.steps) if step.reached), None)


def steps(ticket: TicketV1 | None, received_at: datetime | None) -> Status:
    """Return how far an answer is. `ticket`: the one that it led to, if any; `received_at`: None where not known.

    An assignee alone handles nothing: the step is reached when a person has answered. A cancelled ticket is done: a
    person looked at it and found that nothing was left to do.
    """
    if ticket is None:
        return Status(
            (Step("received", received_at is not None, received_at), Step("handled", False), Step("done", False))
        )
    done = ticket.state in {"resolved", "closed", "cancelled"}
    handled = done or ticket.acknowledged_at is not None
    return Status(
        (
            Step("received", True, received_at),
            Step("handled", handled, ticket.acknowledged_at),
            Step("done", done, ticket.resolved_at if done else None),
        ),
        ticket.assignee if handled else None,
    )
