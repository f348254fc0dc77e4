"""Requests that we sign, as Standard Webhooks 1.0 says."""

from __future__ import annotations

import binascii
import os
from datetime import UTC, datetime

from standardwebhooks import Webhook

from shared.security import Signer


class NoSecret(Exception):
    """The signing secret is missing, or is none."""


def signing_secret(url: str, secret_env: str | None, signer: Signer) -> str:
    """Return the secret of an address: of its environment variable, or derived from ours. Raises NoSecret."""
    secret = signer.webhook_secret(url) if secret_env is None else os.environ.get(secret_env)
    if not secret:
        raise NoSecret(f"environment variable {secret_env} is not set")
    try:
        Webhook(secret)
    except (ValueError, binascii.Error):
        raise NoSecret(f"environment variable {secret_env} is no webhook secret (whsec_...)") from None
    return secret


def signed_headers(secret: str, key: str, at: datetime, body: bytes) -> dict[str, str]:
    """Return the headers of a request; `key` is the same on each repetition of it."""
    at = at.astimezone(UTC)  # the library takes any other zone for UTC
    return {
        "content-type": "application/json",
        "user-agent": "Fiilis",
        "webhook-id": key,
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": Webhook(secret).sign(key, at, body.decode()),
    }
