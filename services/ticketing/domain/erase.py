"""A ticket without a person who is to be forgotten."""

from __future__ import annotations

from datetime import datetime

import msgspec

from shared.events import EvidenceV1, TicketV1


def without(ticket: TicketV1, respondent: str, before: datetime) -> TicketV1:
    """Return the ticket without a respondent's words, name and address in answers given before a moment."""
    evidence = [_nameless(answer) if _is(answer, respondent, before) else answer for answer in ticket.evidence]
    contact = next((answer.contact for answer in evidence if answer.contact is not None), None)
    context = msgspec.structs.replace(ticket.context, contact=contact)
    changed = msgspec.structs.replace(ticket, evidence=evidence, context=context)
    return ticket if changed == ticket else changed


def _is(answer: EvidenceV1, respondent: str, before: datetime) -> bool:
    return answer.respondent == respondent and answer.occurred_at < before


def _nameless(answer: EvidenceV1) -> EvidenceV1:
    return msgspec.structs.replace(answer, respondent=None, comment=None, contact=None)
