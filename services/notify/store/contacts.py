"""SQL of what is known of contacts: whether they were shown to be their person's, and whether they want no more."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from shared.database.pool import Connection

Key = tuple[str, str, str]
"""Person, channel and address."""

_STOPPED = "SELECT person, channel, address FROM contact WHERE stopped_at IS NOT NULL"
_ALL = "SELECT person, channel, address, verified_at, stopped_at FROM contact"
_VERIFY = """
INSERT INTO contact (person, channel, address, verified_at) SELECT *, $4::timestamptz
FROM unnest($1::text[], $2::text[], $3::text[])
ON CONFLICT (person, channel, address) DO UPDATE SET verified_at = excluded.verified_at, code = NULL
    WHERE contact.verified_at IS NULL
RETURNING person
"""
_ASK = """
INSERT INTO contact (person, channel, address, code, code_until) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (person, channel, address) DO UPDATE SET code = excluded.code, code_until = excluded.code_until, tries = 0
"""
_GOOD_UNTIL = "SELECT code_until FROM contact WHERE person = $1 AND channel = $2 AND address = $3"
_TRY = """
UPDATE contact SET tries = tries + 1
WHERE person = $1 AND channel = $2 AND address = $3 AND code_until > $4 AND tries < 5 AND code IS NOT NULL
RETURNING code
"""
_STOP = """
INSERT INTO contact (person, channel, address, stopped_at)
SELECT *, $4::timestamptz FROM unnest($1::text[], $2::text[], $3::text[])
ON CONFLICT (person, channel, address) DO UPDATE SET stopped_at = excluded.stopped_at
"""


@dataclass(frozen=True, slots=True)
class Known:
    """A contact's state."""

    verified_at: datetime | None
    stopped_at: datetime | None


async def stopped(tx: Connection) -> set[Key]:
    """Return the contacts that want no more messages."""
    return {(row[0], row[1], row[2]) for row in await tx.fetch(_STOPPED)}


async def known(tx: Connection) -> dict[Key, Known]:
    """Return every contact that something is known of."""
    return {(row[0], row[1], row[2]): Known(row[3], row[4]) for row in await tx.fetch(_ALL)}


async def verify(tx: Connection, keys: Sequence[Key], now: datetime) -> bool:
    """Note that contacts are their person's; False: that was known of all of them."""
    rows = await tx.fetch(_VERIFY, [k[0] for k in keys], [k[1] for k in keys], [k[2] for k in keys], now)
    return bool(rows)


async def ask(tx: Connection, key: Key, code_hash: str, until: datetime) -> None:
    """Keep the hash of a code that is sent to a contact; one sent before is not good any more."""
    await tx.execute(_ASK, *key, code_hash, until)


async def good_until(tx: Connection, key: Key) -> datetime | None:
    """Return until when the newest code that was sent to a contact is good, if one was."""
    return await tx.fetchval(_GOOD_UNTIL, *key)


async def attempt(tx: Connection, key: Key, now: datetime) -> str | None:
    """Count an attempt at a code and return the hash to compare with; None: too many, too late, or none was sent."""
    return await tx.fetchval(_TRY, *key, now)


async def stop(tx: Connection, keys: Sequence[Key], now: datetime | None) -> None:
    """Note that contacts want no more messages, or (None) that they want them again."""
    await tx.execute(_STOP, [k[0] for k in keys], [k[1] for k in keys], [k[2] for k in keys], now)
