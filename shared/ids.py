"""UUIDv7 (RFC 9562, section 5.7): ids in the order of time, so that an index grows at its end."""

from __future__ import annotations

import os
import time
from uuid import UUID


def uuid7() -> UUID:
    """Return a new id whose first 48 bits are the milliseconds since 1970."""
    return uuid7_at(time.time_ns() // 1_000_000)


def uuid7_at(milliseconds: int) -> UUID:
    """Return a new id for a moment in milliseconds since 1970."""
    chance = int.from_bytes(os.urandom(10), "big")
    value = (milliseconds & 0xFFFFFFFFFFFF) << 80
    value |= 0x7 << 76
    value |= (chance >> 68) << 64
    value |= 0b10 << 62
    value |= chance & 0x3FFFFFFFFFFFFFFF
    return UUID(int=value)
