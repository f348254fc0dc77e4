"""Requests that we sign, as Standard Webhooks 1.0 says."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import UTC, datetime

from standardwebhooks import Webhook
from standardwebhooks.webhooks import EmptyWebhookSecretError

from shared.wire.signing import Signer


class NoSecret(Exception):
    """The signing secret is missing, or is none."""


def signing_secrets(url: str, secret_env: str | None, signer: Signer) -> list[str]:
    """Return the secrets of an address: of its environment variable, or derived from ours. Raises NoSecret."""
    if secret_env is None:
        return signer.webhook_secrets(url)
    return listed_secrets(os.environ.get(secret_env, ""), f"environment variable {secret_env}")


def listed_secrets(text: str, named: str) -> list[str]:
    """Return the webhook secrets of a comma list, newest first: so one is replaced without a gap. Raises NoSecret."""
    found = [part.strip() for part in text.split(",") if part.strip()]
    if not found:
        raise NoSecret(f"{named} is not set")
    for secret in found:
        try:
            Webhook(secret)
        except (ValueError, RuntimeError, EmptyWebhookSecretError):
            raise NoSecret(f"{named} is no webhook secret (whsec_...)") from None
    return found


def signed_headers(secrets: Sequence[str], key: str, at: datetime, body: bytes) -> dict[str, str]:
    """Return the headers of a request; `key` is the same on each repetition of it.

    It is signed with each secret: whoever verifies it may know any of them, the former one or the next.
    """
    at = at.astimezone(UTC)  # the library takes any other zone for UTC
    return {
        "content-type": "application/json",
        "user-agent": "Fiilis",
        "webhook-id": key,
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": " ".join(Webhook(secret).sign(key, at, body.decode()) for secret in secrets),
    }
