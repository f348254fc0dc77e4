"""The keys by which people who are to be forgotten are known again: they outlive the secrets that they are kept under.

What is kept of a respondent is a digest. Made with FIILIS_SECRET itself, it was worth nothing once that secret was
dropped. So each service has keys of its own, in its schema, sealed with every secret that is listed; with the next
secret they are sealed anew while both are known. Digests from before are known by the secrets of then, which are among
the keys.
"""

from __future__ import annotations

import base64
import secrets as randomness
from collections.abc import Sequence

import msgspec

from shared.database.pool import Database
from shared.errors import Misconfigured
from shared.runtime.logs import Log
from shared.wire.erasure import normalised
from shared.wire.signing import BadSeal, digest_of, fingerprint, seal, unseal

log = Log("shared.database.erasure_keys")

_LOCK = "SELECT pg_advisory_xact_lock(hashtext('fiilis.erasure_key.' || current_schema()))"
_ALL = "SELECT secret, sealed FROM erasure_key ORDER BY made_at, secret"
_ANY_DIGEST = "SELECT EXISTS (SELECT FROM erased)"
_KEEP = """
INSERT INTO erasure_key (secret, sealed) VALUES ($1, $2) ON CONFLICT (secret) DO UPDATE SET sealed = excluded.sealed
"""
# A process that still has the former list takes nothing away that a newer one has left.
_DROP = """
DELETE FROM erasure_key WHERE secret <> ALL($1::text[])
    AND made_at < (SELECT min(made_at) FROM erasure_key WHERE secret = ANY($1::text[]))
"""


class ErasureKeys:
    """The keys of one service."""

    def __init__(self, database: Database, secrets: Sequence[str]) -> None:
        """`secrets`: those of FIILIS_SECRET, newest first."""
        self._database = database
        self._secrets = secrets
        self._keys: list[bytes] = []

    async def load(self) -> None:
        """Read the keys, or make them; seal them with each secret. Raises Transient, and Misconfigured."""
        if not self._secrets:
            return  # whoever has nobody to forget needs none
        names = {fingerprint(secret): secret for secret in self._secrets}
        async with self._database.transaction() as tx:
            await tx.execute(_LOCK)
            kept = {row[0]: row[1] for row in await tx.fetch(_ALL)}
            opened = self._opened({name: kept[name] for name in names if name in kept}, names)
            if opened is None and kept and await tx.fetchval(_ANY_DIGEST):
                raise Misconfigured(
                    "FIILIS_SECRET: people who were erased are known by a key that none of these secrets opens: put "
                    "former secret at the end of the list until every service has started once (docs/operations.md)"
                )
            if opened is None:
                # What was kept before there were keys is known by the secrets themselves.
                opened = [randomness.token_bytes(32), *(secret.encode() for secret in self._secrets)]
            content = msgspec.json.encode([base64.b64encode(key).decode() for key in opened])
            for name, secret in names.items():
                if name not in kept or self._opened({name: kept[name]}, names) is None:
                    await tx.execute(_KEEP, name, seal(secret, content))
                    log.info("keys of erasures sealed", secret=name)
            await tx.execute(_DROP, list(names))
        self._keys = opened

    def _opened(self, kept: dict[str, str], names: dict[str, str]) -> list[bytes] | None:
        for name, sealed in kept.items():
            try:
                return [
                    base64.b64decode(key) for key in msgspec.json.decode(unseal(names[name], sealed), type=list[str])
                ]
            except (BadSeal, ValueError, msgspec.DecodeError):
                continue
        return None

    def digests(self, respondent: str) -> Sequence[str]:
        """Return by what a respondent may be kept, the first for who is erased now. Raises Misconfigured."""
        if not self._keys:
            raise Misconfigured(
                "FIILIS_SECRET is not set: a person is to be forgotten, and known again if more comes late"
            )
        # Also as it is written: before names were compared normalised, a digest was made of that.
        spelled = dict.fromkeys((normalised(respondent), respondent))
        return [digest_of(key, name) for key in self._keys for name in spelled]
