"""What is left of an answer when the person who gave it is forgotten: the score, and nothing that says who it was."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from msgspec.structs import replace

from shared.events import EvidenceV1


def nameless(answer: EvidenceV1) -> EvidenceV1:
    """Return an answer without the respondent, their words and their address."""
    return replace(answer, respondent=None, comment=None, contact=None)


def without(evidence: Sequence[EvidenceV1], respondent: str, before: datetime) -> list[EvidenceV1]:
    """Return answers of which those that a respondent gave before a moment are nobody's."""
    return [
        nameless(answer) if answer.respondent == respondent and answer.occurred_at < before else answer
        for answer in evidence
    ]
