"""Keeps the newest directory in a service's own schema, so that the service starts while Kafka is away."""

from __future__ import annotations

import asyncio
import gzip
from dataclasses import replace

import msgspec

from shared.database.pool import Database
from shared.directory.follower import Follower, Revision, revision_of
from shared.directory.record import decode, encode
from shared.errors import Misconfigured, Transient
from shared.runtime.logs import Log

log = Log("shared.directory")

_SAVE = """
INSERT INTO directory (log, revision, value, applied_at, author, partitions) VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT (one) DO UPDATE SET log = excluded.log, revision = excluded.revision, value = excluded.value,
    applied_at = excluded.applied_at, author = excluded.author, partitions = excluded.partitions
WHERE directory.log <> excluded.log OR directory.revision < excluded.revision
"""


class DirectoryKeeper:
    """Saves each revision that comes into use, and brings the last one back."""

    def __init__(self, follower: Follower, database: Database) -> None:
        self._follower = follower
        self._database = database
        self._saved: Revision | None = None

    async def restore(self) -> bool:
        """Use the revision that was kept; tell whether there was one. Raises Transient."""
        async with self._database.snapshot() as tx:
            if await tx.fetchval("SELECT to_regclass('directory')") is None:
                return False
            row = await tx.fetchrow("SELECT log, revision, value, applied_at, author, partitions FROM directory")
        if row is None:
            return False
        try:
            directory = await asyncio.to_thread(lambda: decode(gzip.decompress(row["value"])))
            spread = msgspec.json.decode(row["partitions"], type=dict[str, int])
        except (msgspec.MsgspecError, OSError, EOFError) as error:
            log.warning("the directory that was kept cannot be read", why=str(error))
            return False
        revision = revision_of(row["revision"], directory)
        kept = replace(revision, applied_at=row["applied_at"], author=row["author"], log=row["log"], partitions=spread)
        self._follower.begin_with(kept)
        log.warning("begins with the directory that was kept", revision=kept.number)
        return True

    async def keep(self) -> None:
        """Save the revision in use, unless it is saved, or there is no place for it yet. Raises Transient."""
        revision = self._follower.current
        if revision is None or revision is self._saved:
            return
        try:
            if await self._save(revision):
                self._saved = revision
        except Misconfigured as error:
            raise Transient(str(error), of="PostgreSQL") from None  # whoever needs the database decides what that means

    async def close(self) -> None:
        """Close the connection to the database."""
        await self._database.close()

    async def _save(self, revision: Revision) -> bool:
        """Tell whether there is a table for it yet. Raises Transient."""
        value = await asyncio.to_thread(lambda: gzip.compress(encode(revision.directory), compresslevel=1))
        spread = msgspec.json.encode(dict(revision.partitions)).decode()
        async with self._database.transaction() as tx:
            if await tx.fetchval("SELECT to_regclass('directory')") is None:
                return False
            about = (revision.log, revision.number, value, revision.applied_at, revision.author, spread)
            await tx.execute(_SAVE, *about)
        return True
