"""A ticket without a person who is to be forgotten."""

from __future__ import annotations

from datetime import datetime

import msgspec

from shared import erasure
from shared.events import TicketV1


def without(ticket: TicketV1, respondent: str, before: datetime) -> TicketV1:
    """Return the ticket without a respondent's words, name and address in answers given before a moment."""
    evidence = erasure.without(ticket.evidence, respondent, before)
    contact = next((answer.contact for answer in evidence if answer.contact is not None), None)
    context = msgspec.structs.replace(ticket.context, contact=contact)
    changed = msgspec.structs.replace(ticket, evidence=evidence, context=context)
    return ticket if changed == ticket else changed
