"""Who was erased stays forgotten when the secret of then is dropped."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from services.scoring.store import erasures
from shared.database.erasure_keys import ErasureKeys
from shared.database.pool import Database
from shared.errors import Misconfigured
from shared.wire.signing import digest_of
from tests.support.build import NOW

Of = Callable[[Any], Awaitable[Database]]
OLD, NEW, NEXT = (
    "the-old-secret-of-32-characters!",
    "the-new-secret-of-32-characters!",
    "the-next-secret-of-32-characters",
)


async def loaded(database: Database, *secrets: str) -> ErasureKeys:
    """Return a service's keys as it has them after a start with these secrets."""
    keys = ErasureKeys(database, secrets)
    await keys.load()
    return keys


async def erase(database: Database, digest: str) -> None:
    async with database.transaction() as tx:
        await tx.execute("INSERT INTO erased (customer, respondent, before) VALUES (1, $1, $2)", digest, NOW)


async def known(database: Database, keys: ErasureKeys, respondent: str) -> bool:
    async with database.transaction() as tx:
        return bool(await erasures.tombstones(tx, [(1, digest) for digest in keys.digests(respondent)]))


async def test_a_dropped_secret_voids_no_erasure(of: Of) -> None:
    """New one first, both for a while, then the new one alone; and again; with many processes at once."""
    database = await of("scoring")
    await erase(database, (await loaded(database, OLD)).digests("r-17")[0])
    for secrets in ((OLD,), (NEW, OLD), (NEW,), (NEXT, NEW), (NEXT,)):
        keys = await loaded(database, *secrets)
        assert await known(database, keys, "r-17"), secrets
        assert not await known(database, keys, "r-18")
        assert keys.digests("r-17") == (await loaded(database, *secrets)).digests("r-17")


async def test_what_was_erased_before_there_were_keys(of: Of) -> None:
    """It is known by the secrets that were listed at the update."""
    database = await of("scoring")
    before = hmac.new(OLD.encode(), b"fiilis.erasure\0r-17", hashlib.sha256).hexdigest()
    await erase(database, before)
    for secrets in ((NEW, OLD), (NEW,)):
        assert await known(database, await loaded(database, *secrets), "r-17"), secrets


async def test_a_person_is_known_however_they_are_written(of: Of) -> None:
    """Also one who was erased when a digest was made of the name as it was written."""
    database = await of("scoring")
    keys = await loaded(database, NEW, OLD)
    await erase(database, keys.digests("\u00c4nn@Example.test ")[0])
    for written in ("\u00e4nn@example.test", " A\u0308NN@EXAMPLE.TEST"):
        assert await known(database, keys, written), written
    await erase(database, digest_of(keys._keys[0], "R-17 "))
    assert await known(database, keys, "R-17 ")
    assert not await known(database, keys, "r-17")


async def test_a_process_with_the_former_list_takes_nothing_away(of: Of) -> None:
    """While processes are started anew one after the other, and one of them is late."""
    database = await of("scoring")
    await erase(database, (await loaded(database, OLD)).digests("r-17")[0])
    await loaded(database, NEW, OLD)
    await loaded(database, OLD)
    assert await known(database, await loaded(database, NEW), "r-17")


async def test_a_secret_that_is_replaced_at_once_is_refused(of: Of) -> None:
    """With what to do; without anybody erased there is nothing to lose."""
    database = await of("scoring")
    await loaded(database, OLD)
    keys = await loaded(database, NEW)
    await erase(database, keys.digests("r-17")[0])
    with pytest.raises(Misconfigured, match="FIILIS_SECRET: people who were erased are known by a key that none"):
        await loaded(database, NEXT)
    assert await known(database, await loaded(database, NEXT, NEW), "r-17")


async def test_keys_are_sealed(of: Of) -> None:
    """Who reads the database cannot try names: the secret is needed besides."""
    database = await of("scoring")
    keys = await loaded(database, NEW, OLD)
    async with database.transaction() as tx:
        rows = await tx.fetch("SELECT secret, sealed FROM erasure_key")
    assert len(rows) == 2
    text = repr(rows)
    for key in keys._keys:
        assert key.hex() not in text
    assert OLD not in text
    async with database.transaction() as tx:
        await tx.execute("UPDATE erasure_key SET sealed = reverse(sealed)")
    await erase(database, keys.digests("r-17")[0])
    with pytest.raises(Misconfigured):
        await loaded(database, NEW, OLD)


async def test_without_a_secret_nobody_is_erased(of: Of) -> None:
    """A service starts without one; a wish to forget names the setting."""
    database = await of("scoring")
    keys = await loaded(database)
    with pytest.raises(Misconfigured, match="FIILIS_SECRET is not set"):
        keys.digests("r-17")
