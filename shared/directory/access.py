"""Who may do what: an API key against the directory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, TypeVar

from shared.directory.follower import Follower, Revision
from shared.directory.model import Customer, Directory, Key, Scope
from shared.errors import FieldError, Problem, invalid_fields, not_found
from shared.http.refusals import Reason, Refusals
from shared.runtime import metrics
from shared.runtime.audit import Actor
from shared.runtime.clock import Clock
from shared.wire.signing import key_hash

_NOT_GOOD = "The key is unknown, was revoked, or is not good now."
_NO_DIRECTORY = "No directory was applied yet: python -m services apply FILE"


class OfCustomer(Protocol):
    """Something that belongs to one customer."""

    @property
    def customer(self) -> str: ...  # noqa: D102


Owned = TypeVar("Owned", bound=OfCustomer)


@dataclass(frozen=True, slots=True)
class Caller:
    """A key that was let in, and the directory it was found in."""

    key: Key
    directory: Directory
    address: str | None = None
    """From where it calls, where that is known."""

    @property
    def actor(self) -> Actor:
        """Who it is for the audit."""
        return Actor(f"key:{self.key.id}", self.address)

    def may_see(self, customer: str) -> bool:
        """Tell whether the key is good for this customer."""
        return not self.key.customers or customer in self.key.customers

    @property
    def customers(self) -> list[str] | None:
        """The customers that the key is limited to; None: all."""
        return list(self.key.customers) or None

    def limited_to(self, customer: str | None) -> list[str] | None:
        """Return the customers that a list may show, where it was asked for one or for all (None). Raises the 404."""
        return self.customers if customer is None else [self.customer(customer).id]

    def visible(self, what: str, asked: str, found: Owned | None) -> Owned:
        """Return what was found if the key may see its customer. Raises the 404."""
        if found is None or not self.may_see(found.customer):
            raise not_found(what, asked)
        return found

    def customer(self, id: str) -> Customer:
        """Return a customer that the key may see. Raises the 404."""
        customer = self.directory.customers.get(id)
        if customer is None or not self.may_see(id):
            raise not_found("customer", id)
        return customer

    def check_touchpoint(self, customer: Customer, touchpoint: str | None) -> None:
        """Raise the 422 for a touchpoint that a customer has not."""
        if touchpoint is not None and touchpoint not in self.directory.touchpoints_of(customer):
            raise invalid_fields(FieldError("touchpoint", f"{customer.id} has no touchpoint {touchpoint[:63]!r}"))


def _unauthorized(detail: str) -> Problem:
    return Problem(401, "unauthorized", "A valid key is needed", detail, headers={"WWW-Authenticate": "Bearer"})


class Access:
    """Lets callers in, by the newest directory."""

    def __init__(self, follower: Follower, clock: Clock, refusals: Refusals) -> None:
        self._follower = follower
        self._clock = clock
        self._refusals = refusals

    @property
    def revision(self) -> Revision:
        """The directory in use. Raises the 503 while there is none."""
        revision = self._follower.current
        if revision is None:
            raise Problem(503, "no-directory", "Not ready", _NO_DIRECTORY, headers={"Retry-After": "5"})
        return revision

    def find_key(self, authorization: str | None, address: str | None) -> Key:
        """Return the key of an `Authorization: Bearer KEY` header that came from an address. Raises the 401."""
        scheme, _, text = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not text.strip():
            metrics.REFUSED_KEYS.labels("missing").inc()
            raise _unauthorized("Send the key as 'Authorization: Bearer KEY'.")
        return self.known_key(text.strip(), address)

    def known_key(self, text: str, address: str | None) -> Key:
        """Return the key with this text. Raises the 401."""
        # Looked up by the hash of a random key: the time it takes tells nothing about the key.
        key = self.revision.keys.get(key_hash(text))
        reason = self._why_not(key)
        if key is None or reason is not None:
            self._refusals.count(reason or "unknown", None if key is None else key.id, address)
            raise _unauthorized(_NOT_GOOD)
        return key

    def _why_not(self, key: Key | None) -> Reason | None:
        if key is None:
            return "unknown"
        if key.revoked:
            return "revoked"
        now = self._clock.now()
        if key.expires is not None and key.expires <= now:
            return "expired"
        return "not_yet" if key.not_before is not None and key.not_before > now else None

    def require(self, authorization: str | None, scope: Scope, address: str | None) -> Caller:
        """Return the caller whose key has this scope (`admin` has all). Raises the 401 or 403."""
        revision = self.revision
        key = self.find_key(authorization, address)
        if key.kind != "secret" or not {scope, "admin"} & set(key.scopes):
            self._refusals.count("scope", key.id, address)
            raise Problem(
                403, "forbidden", "The key has not that right", f"This needs a secret key with scope {scope!r}."
            )
        return Caller(key, revision.directory, address)
