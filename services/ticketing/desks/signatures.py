"""Proof that a request came from a desk: what its headers must show, compared in constant time.

A request without a time of its own can be repeated by who overheard it; it only makes us read that ticket once more.
"""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Literal

import msgspec

from services.ticketing.desks import BadSignature

OLDEST = timedelta(minutes=5)
"""A request that was signed longer ago, or as far in the future, is a repetition."""


def header(headers: Mapping[str, str], name: str) -> str:
    """Return a header by its lower-case name, empty where it is missing."""
    return next((value for key, value in headers.items() if key.lower() == name), "")


def check(expected: str, *given: str) -> None:
    """Raise BadSignature unless one that was given is what is expected."""
    if not any(hmac.compare_digest(one.encode("utf-8", "replace"), expected.encode()) for one in given):
        raise BadSignature("the signature is not of the secret that we know")


def digest(secret: str | bytes, content: bytes, algorithm: Literal["sha1", "sha256"] = "sha256") -> bytes:
    """Return the HMAC of a content. Raises BadSignature without a secret: everybody could sign."""
    if not secret:
        raise BadSignature("there is no secret to check with")
    return hmac.new(secret.encode() if isinstance(secret, str) else secret, content, algorithm).digest()


def check_hub(headers: Mapping[str, str], body: bytes, secret: str, algorithm: Literal["sha1", "sha256"]) -> None:
    """Check `X-Hub-Signature: algorithm=hex`."""
    check(f"{algorithm}={digest(secret, body, algorithm).hex()}", header(headers, "x-hub-signature"))


def check_secret(headers: Mapping[str, str], secret: str) -> None:
    """Check the header that a desk which cannot sign carries the secret in."""
    if not secret:
        raise BadSignature("there is no secret to check with")
    check(secret, header(headers, "x-fiilis-secret"))


def check_time(seconds: float, now: datetime) -> None:
    """Check when a request was signed, in seconds since 1970."""
    if abs(now.timestamp() - seconds) > OLDEST.total_seconds():
        raise BadSignature("it was signed too long ago, or in the future")


def check_standard(headers: Mapping[str, str], body: bytes, secret: str, now: datetime) -> None:
    """Check the headers of Standard Webhooks 1.0, of which one signature must be of one of our secrets."""
    key, at = header(headers, "webhook-id"), header(headers, "webhook-timestamp")
    if not (at.isascii() and at.isdecimal() and len(at) < 16):
        raise BadSignature("webhook-timestamp is no time")
    given = header(headers, "webhook-signature").split(" ")
    for number, one in enumerate(listed := [part.strip() for part in secret.split(",")], 1):
        try:
            known = base64.b64decode(one.removeprefix("whsec_") + "==")
        except binascii.Error:
            raise BadSignature("the secret is no webhook secret (whsec_...)") from None
        ours = "v1," + base64.b64encode(digest(known, f"{key}.{at}.".encode() + body)).decode()
        try:
            check(ours, *given)
            break
        except BadSignature:
            if number == len(listed):
                raise
    check_time(int(at), now)


def reference_in(body: bytes, *places: tuple[str, ...]) -> str:
    """Return the reference that a body has at the first of these places that is there. Raises ValueError."""
    try:
        told: Any = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError) as error:
        raise ValueError(f"no JSON: {error}") from None
    for place in places:
        value: Any = told
        try:
            for key in place:
                value = value[key]
        except (KeyError, TypeError):
            continue
        if isinstance(value, str | int) and not isinstance(value, bool):
            reference = str(value)
            if 0 < len(reference) <= 200 and reference.isprintable():
                return reference
    raise ValueError(f"no {' or '.join('.'.join(place) for place in places)} in the request")
