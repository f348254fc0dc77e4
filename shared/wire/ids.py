"""UUIDv7 (RFC 9562, section 5.7): ids in the order of time, so that an index grows at its end."""

from __future__ import annotations

import os
import time
from uuid import UUID

_READ = 4_000
_left = bytearray()


def _random(count: int) -> bytes:
    """Return random bytes of the system, read many at a time: one read costs 8 microseconds here, however small."""
    if len(_left) < count:
        _left.extend(os.urandom(_READ))
    found = bytes(_left[-count:])
    del _left[-count:]
    return found


def _forget() -> None:
    _left.clear()


os.register_at_fork(after_in_child=_forget)  # a child must not give the same ids as its parent


def uuid7() -> UUID:
    """Return a new id whose first 48 bits are the milliseconds since 1970."""
    return uuid7_at(time.time_ns() // 1_000_000)


def uuid7_at(milliseconds: int) -> UUID:
    """Return a new id for a moment in milliseconds since 1970."""
    return uuid7_of(milliseconds, _random(10))


def uuid7_of(milliseconds: int, rest: bytes) -> UUID:
    """Return the id of a moment in milliseconds since 1970 and ten bytes or more, of which nearly all are in it."""
    chance = int.from_bytes(rest[:10], "big")
    value = (milliseconds & 0xFFFFFFFFFFFF) << 80
    value |= 0x7 << 76
    value |= (chance >> 68) << 64
    value |= 0b10 << 62
    value |= chance & 0x3FFFFFFFFFFFFFFF
    return UUID(int=value)
