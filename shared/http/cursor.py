"""Cursors of lists: the place after the last item, opaque to the client."""

from __future__ import annotations

import base64
import binascii
from datetime import UTC, datetime
from uuid import UUID

from shared.errors import FieldError, invalid_fields

Place = tuple[datetime, UUID]
"""Lists are ordered by a moment, newest first, then by id."""


def encode(place: Place) -> str:
    """Return the cursor of a place."""
    return base64.urlsafe_b64encode(f"{place[0].isoformat()} {place[1]}".encode()).decode().rstrip("=")


def decode(cursor: str) -> Place:
    """Return the place of a cursor. Raises the 422 that names it."""
    try:
        at, _, id_ = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode().rpartition(" ")
        moment = datetime.fromisoformat(at)
        if moment.tzinfo is None:
            raise ValueError
        return moment.astimezone(UTC), UUID(id_)
    except (ValueError, OverflowError, binascii.Error, UnicodeDecodeError):
        raise invalid_fields(FieldError("cursor", "not a cursor of this list")) from None
