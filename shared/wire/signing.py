"""Keys, tokens and secrets.

Keys are kept as hashes, each purpose has its own derived signing key, and what is secret is compared in constant time.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from collections.abc import Sequence
from datetime import datetime
from functools import cached_property
from typing import Any, Literal, cast, get_args

import itsdangerous
import msgspec

Purpose = Literal["acknowledge", "survey", "respondent", "status", "calendar", "callback"]

SHORTEST_SECRET = 32
"""Characters."""
MAX_TOKEN = 2_048
"""Characters; a longer token is refused before any work is done on it."""


class BadToken(Exception):
    """A token that we did not sign, or not for this purpose."""


class ExpiredToken(Exception):
    """A token of ours whose time is over; `facts` are what it said."""

    def __init__(self, facts: dict[str, Any]) -> None:
        super().__init__("expired")
        self.facts = facts


class Signer:
    """Signs facts for links. The first secret signs, all verify, so that a secret can be replaced without a gap."""

    def __init__(self, secrets_newest_first: Sequence[str]) -> None:
        if not secrets_newest_first or not all(secrets_newest_first):
            raise ValueError("no signing secret")
        self._secrets = list(secrets_newest_first)

    @cached_property
    def _signers(self) -> dict[Purpose, itsdangerous.Signer]:
        """A key of its own for each purpose: the salt makes it. itsdangerous wants the newest secret last."""
        return {
            purpose: itsdangerous.Signer(
                self._secrets[::-1],
                salt=f"fiilis.{purpose}",
                sep=".",
                key_derivation="hmac",
                digest_method=hashlib.sha256,
            )
            for purpose in get_args(Purpose)
        }

    def sign(self, purpose: Purpose, facts: dict[str, Any], *, expires: datetime) -> str:
        """Return a token for a link, good until `expires`."""
        # Not itsdangerous' serializer, which tries to compress each token: on ingest's way of every answer this costs a
        # third of it.
        body = msgspec.json.encode({**facts, "exp": int(expires.timestamp())})
        return self._signers[purpose].sign(base64.urlsafe_b64encode(body).rstrip(b"=")).decode()

    def verify(self, purpose: Purpose, token: str, *, now: datetime) -> dict[str, Any]:
        """Return what the token says. Raises BadToken or ExpiredToken."""
        if len(token) > MAX_TOKEN:
            raise BadToken
        try:
            body = self._signers[purpose].unsign(token)
            facts: Any = msgspec.json.decode(base64.urlsafe_b64decode(body + b"=" * (-len(body) % 4)))
        except (itsdangerous.BadSignature, ValueError):
            raise BadToken from None
        match facts:
            case {"exp": int(expires)}:
                known = cast("dict[str, Any]", facts)
            case _:
                raise BadToken
        if expires < now.timestamp():
            raise ExpiredToken(known)
        return known

    def webhook_secrets(self, url: str) -> list[str]:
        """Return the signing secrets (`whsec_...`) of a webhook contact that names none of its own, newest first."""
        made = (
            hmac.new(secret.encode(), b"fiilis.webhook\0" + url.encode(), hashlib.sha256) for secret in self._secrets
        )
        return ["whsec_" + base64.b64encode(key.digest()).decode() for key in made]

    def webhook_secret(self, url: str) -> str:
        """Return the newest of them."""
        return self.webhook_secrets(url)[0]


def digest_of(key: bytes, text: str) -> str:
    """Return what is kept of a text that must be recognised and not be known."""
    return hmac.new(key, f"fiilis.erasure\0{text}".encode(), hashlib.sha256).hexdigest()


def fingerprint(secret: str) -> str:
    """Return by what a secret is known again, which tells nothing of it."""
    return hmac.new(secret.encode(), b"fiilis.fingerprint", hashlib.sha256).hexdigest()[:16]


class BadSeal(Exception):
    """What another secret sealed, or what was changed since."""


def seal(secret: str, content: bytes) -> str:
    """Return a content that only who has the secret can read."""
    salt = secrets.token_bytes(_SALT)
    hidden = _masked(secret, salt, content)
    return base64.b64encode(salt + _tag(secret, salt + hidden) + hidden).decode()


def unseal(secret: str, sealed: str) -> bytes:
    """Return what was sealed. Raises BadSeal."""
    data = base64.b64decode(sealed)
    salt, tag, hidden = data[:_SALT], data[_SALT : _SALT + _TAG], data[_SALT + _TAG :]
    if not hmac.compare_digest(tag, _tag(secret, salt + hidden)):
        raise BadSeal
    return _masked(secret, salt, hidden)


_SALT, _TAG = 16, 32
"""Bytes."""


def _masked(secret: str, salt: bytes, content: bytes) -> bytes:
    """Mask a content with HMAC in counter mode, or unmask it; the salt is another for each content."""
    blocks = range(-(-len(content) // _TAG))
    key = hmac.new(secret.encode(), b"fiilis.seal.mask", hashlib.sha256).digest()
    mask = b"".join(hmac.new(key, salt + n.to_bytes(4, "big"), hashlib.sha256).digest() for n in blocks)
    return bytes(a ^ b for a, b in zip(content, mask, strict=False))


def _tag(secret: str, data: bytes) -> bytes:
    key = hmac.new(secret.encode(), b"fiilis.seal.tag", hashlib.sha256).digest()
    return hmac.new(key, data, hashlib.sha256).digest()


def new_key(kind: Literal["publishable", "secret"]) -> str:
    """Return a new API key; 32 random bytes."""
    return ("pk_" if kind == "publishable" else "sk_") + secrets.token_urlsafe(32)


def key_hash(key: str) -> str:
    """Return what the directory keeps of a key. The key is random, so a plain hash cannot be searched."""
    return hashlib.sha256(key.encode()).hexdigest()
