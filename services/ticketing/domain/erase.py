"""A ticket without a person, or an answer, that is to be forgotten."""

from __future__ import annotations

import msgspec

from shared.wire import erasure
from shared.wire.events import RespondentErasedV1, TicketV1


def without(ticket: TicketV1, wanted: RespondentErasedV1) -> TicketV1:
    """Return the ticket without the words, names and addresses of answers that are to be forgotten."""
    evidence = erasure.without(ticket.evidence, wanted)
    contact = next((answer.contact for answer in evidence if answer.contact is not None), None)
    context = msgspec.structs.replace(ticket.context, contact=contact)
    changed = msgspec.structs.replace(ticket, evidence=evidence, context=context)
    return ticket if changed == ticket else changed
