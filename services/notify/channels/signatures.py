"""Signatures of what providers call us with. Pure; compared in constant time."""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Mapping
from datetime import datetime

_SLACK_AGE = 300
"""Seconds that a signature of Slack's is good for."""


def twilio_signature(token: str, url: str, form: Mapping[str, str]) -> str:
    """Return the `X-Twilio-Signature` of a request to an address with a form."""
    text = url + "".join(f"{name}{form[name]}" for name in sorted(form))
    return base64.b64encode(hmac.new(token.encode(), text.encode(), hashlib.sha1).digest()).decode()


def signed_by_twilio(token: str, url: str, form: Mapping[str, str], signature: str) -> bool:
    """Tell whether Twilio sent this."""
    return hmac.compare_digest(twilio_signature(token, url, form).encode(), signature.encode(errors="replace"))


def slack_signature(secret: str, timestamp: str, body: bytes) -> str:
    """Return the `X-Slack-Signature` of a request."""
    text = b"v0:" + timestamp.encode() + b":" + body
    return "v0=" + hmac.new(secret.encode(), text, hashlib.sha256).hexdigest()


def signed_by_slack(secret: str, timestamp: str, body: bytes, signature: str, now: datetime) -> bool:
    """Tell whether Slack sent this, and lately: an older one may be somebody's recording."""
    if not (timestamp.isascii() and timestamp.isdecimal() and len(timestamp) < 16):
        return False
    if abs(now.timestamp() - int(timestamp)) > _SLACK_AGE:
        return False
    return hmac.compare_digest(slack_signature(secret, timestamp, body).encode(), signature.encode(errors="replace"))


def bears(token: str, authorization: str) -> bool:
    """Tell whether a request has the bearer token."""
    return hmac.compare_digest(f"Bearer {token}".encode(), authorization.encode(errors="replace"))
