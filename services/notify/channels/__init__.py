"""Channels: small drivers that call one sort of contact and say in a classified result what came of it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal, Protocol

from services.notify.domain.page import Page
from services.notify.domain.texts import Words
from shared.directory.model import Contact, Directory, Person
from shared.http.client import Answer, Refused, Unreachable

ResultKind = Literal["delivered", "accepted", "temporary", "permanent", "unknown"]

REACHED: frozenset[ResultKind] = frozenset({"delivered", "accepted"})


@dataclass(frozen=True, slots=True)
class Result:
    """What came of one call.

    `delivered`: the other side has it. `accepted`: it will try, and may tell later. `unknown`: it may have arrived; it
    is sent again with the same key.
    """

    kind: ResultKind
    detail: str
    receipt: str | None = None
    """The other side's own name for the message."""
    retry_after: float | None = None
    """Seconds that the other side asked to wait."""

    def __post_init__(self) -> None:
        """Keep of what the other side said what can be stored: so much, and nothing that is no character."""
        object.__setattr__(self, "detail", _printable(self.detail[:500]))
        if self.receipt is not None:
            object.__setattr__(self, "receipt", _printable(self.receipt[:200]))


def _printable(said: str) -> str:
    return "".join(c if c.isprintable() else " " for c in said)


@dataclass(frozen=True, slots=True)
class Notice:
    """What a person is told, at one contact."""

    key: str
    """The idempotency key: the same on every attempt at one contact."""
    kind: str
    """`page`, or what else it is, such as `digest`."""
    words: Words
    person: Person
    contact: Contact
    directory: Directory
    at: datetime
    page: Page | None = None
    acknowledge_url: str | None = None
    """Where the page can be taken; None: there is nothing to take."""
    code: str = ""
    """What is answered by SMS to take it."""
    callback_url: str = ""
    """Where a provider tells what became of it, and what was answered: `{callback_url}/receipt`, `/key`, `/press`."""


class Channel(Protocol):
    """A driver."""

    async def send(self, notice: Notice) -> Result:
        """Call the contact. Never raises for what the other side does."""
        ...

    def ready(self, directory: Directory) -> bool:
        """Tell whether the directory has what the channel needs."""
        ...


def failed(error: Refused | Unreachable) -> Result:
    """Return what a call that got no answer means."""
    if isinstance(error, Refused):
        return Result("permanent", str(error))
    return Result("unknown" if error.sent else "temporary", str(error))


def refused(answer: Answer, detail: str = "") -> Result:
    """Return what an answer other than 2xx means: never success."""
    said = f"HTTP {answer.status}{': ' if detail else ''}{detail}"[:500]
    lasting = 300 <= answer.status < 500 and answer.status not in {408, 425, 429}
    return Result("permanent" if lasting else "temporary", said, retry_after=answer.retry_after)
