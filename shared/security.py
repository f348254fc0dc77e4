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
from typing import Any, Literal, cast

from itsdangerous import BadSignature, URLSafeSerializer

Purpose = Literal["acknowledge", "survey", "respondent", "status", "calendar"]

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

    def _serializer(self, purpose: Purpose) -> URLSafeSerializer:
        # itsdangerous wants the newest last. The salt makes a key of its own for each purpose.
        return URLSafeSerializer(
            self._secrets[::-1],
            salt=f"fiilis.{purpose}",
            signer_kwargs={"key_derivation": "hmac", "digest_method": hashlib.sha256},
        )

    def sign(self, purpose: Purpose, facts: dict[str, Any], *, expires: datetime) -> str:
        """Return a token for a link, good until `expires`."""
        token = self._serializer(purpose).dumps({**facts, "exp": int(expires.timestamp())})
        return token.decode() if isinstance(token, bytes) else token

    def verify(self, purpose: Purpose, token: str, *, now: datetime) -> dict[str, Any]:
        """Return what the token says. Raises BadToken or ExpiredToken."""
        if len(token) > MAX_TOKEN:
            raise BadToken
        try:
            facts: Any = self._serializer(purpose).loads(token)
        except BadSignature:
            raise BadToken from None
        match facts:
            case {"exp": int(expires)}:
                known = cast("dict[str, Any]", facts)
            case _:
                raise BadToken
        if expires < now.timestamp():
            raise ExpiredToken(known)
        return known

    def digests(self, purpose: Literal["erasure"], text: str) -> list[str]:
        """Return what is kept of a text that must be recognised and not be known, for each secret, the newest first."""
        message = f"fiilis.{purpose}\0{text}".encode()
        return [hmac.new(secret.encode(), message, hashlib.sha256).hexdigest() for secret in self._secrets]

    def webhook_secret(self, url: str) -> str:
        """Return the signing secret (`whsec_...`) of a webhook contact that names none of its own."""
        key = hmac.new(self._secrets[0].encode(), b"fiilis.webhook\0" + url.encode(), hashlib.sha256).digest()
        return "whsec_" + base64.b64encode(key).decode()


def new_key(kind: Literal["publishable", "secret"]) -> str:
    """Return a new API key; 32 random bytes."""
    return ("pk_" if kind == "publishable" else "sk_") + secrets.token_urlsafe(32)


def key_hash(key: str) -> str:
    """Return what the directory keeps of a key. The key is random, so a plain hash cannot be searched."""
    return hashlib.sha256(key.encode()).hexdigest()
