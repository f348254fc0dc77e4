"""Who is to be forgotten, and what is left of an answer then: the score, and nothing that says who it was."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from msgspec.structs import replace

from shared.wire.events import EvidenceV1, RespondentErasedV1
from shared.wire.topics import ERASED, ERASED_ANSWER


def normalised(respondent: str) -> str:
    """Return a respondent's name or address as it is compared; it is stored as it was given."""
    folded = unicodedata.normalize("NFC", respondent).strip().casefold()
    return unicodedata.normalize("NFC", folded)  # folding may take a character apart


def names(wanted: RespondentErasedV1) -> list[str]:
    """Return every way in which the person was written; of one answer none."""
    return [] if wanted.answer is not None else list(dict.fromkeys((wanted.respondent, *wanted.spellings)))


def type_of(wanted: RespondentErasedV1) -> str:
    """Return the type of the message that passes an erasure on."""
    return ERASED if wanted.answer is None else ERASED_ANSWER


def known_by(answer: UUID) -> str:
    """Return by what an answer that is to be forgotten is known again, beside digests of people."""
    return f"answer:{answer}"


def said_before(occurred_at: datetime, received_at: datetime | None, before: datetime) -> bool:
    """Tell whether an answer was said, or received, before a moment.

    An answer may be dated a little ahead, and may come long after it was said.
    """
    return occurred_at < before or (received_at is not None and received_at < before)


def is_erased(answer: EvidenceV1, wanted: RespondentErasedV1) -> bool:
    """Tell whether an answer is one of those that are to be forgotten."""
    if wanted.answer is not None:
        return answer.id == wanted.answer
    return (
        answer.respondent is not None
        and normalised(answer.respondent) == normalised(wanted.respondent)
        and said_before(answer.occurred_at, answer.received_at, wanted.before)
    )


def nameless(answer: EvidenceV1) -> EvidenceV1:
    """Return an answer without the respondent, their words and their address."""
    return replace(answer, respondent=None, comment=None, contact=None)


def without(evidence: Sequence[EvidenceV1], wanted: RespondentErasedV1) -> list[EvidenceV1]:
    """Return answers of which those that are to be forgotten are nobody's."""
    return [nameless(answer) if is_erased(answer, wanted) else answer for answer in evidence]
