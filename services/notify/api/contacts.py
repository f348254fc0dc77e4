"""Whether people's contacts are theirs: a code is sent, and told back."""

from __future__ import annotations

import secrets
from datetime import datetime, timedelta
from hashlib import sha256
from hmac import compare_digest
from typing import Any

from fastapi import Response
from pydantic import Field

from services.notify.api.dependencies import Deps, WholeReader
from services.notify.contact_selection import tell_at
from services.notify.domain.contacts import listed
from services.notify.domain.texts import code_words
from services.notify.store import audit, contacts, notices
from services.notify.store.contacts import Key
from shared.directory.access import Caller
from shared.directory.model import Person
from shared.errors import FieldError, Problem, invalid_fields, not_found
from shared.http.keys import new_router
from shared.http.openapi import problems
from shared.http.request_model import RequestModel
from shared.http.responses import json_response

_GOOD_FOR = timedelta(minutes=15)
_AGAIN = timedelta(minutes=1)


class Code(RequestModel):
    """What was sent to the contact."""

    code: str = Field(pattern=r"^[0-9]{6}$")


router = new_router(prefix="/v1/people")


@router.get("/{person}/contacts")
async def list_contacts(deps: Deps, person: str, caller: WholeReader) -> Response:
    """List a person's contacts, in the order to try, and what is known of each."""
    found = _person(caller, person)
    async with deps.database.transaction() as tx:
        known = await contacts.known(tx)
    items = [_shown(found, place, known.get(_key(found, place))) for place in range(len(found.contacts))]
    return json_response({"items": items, "next": None})


@router.post("/{person}/contacts/{place}/verification", status_code=202, responses=problems(409, 429))
async def send_verification_code(deps: Deps, person: str, place: int, caller: WholeReader) -> Response:
    """Send a code to a contact; an earlier one is not good any more."""
    found = _person(caller, person)
    key, now = _key(found, place), deps.clock.now()
    code = f"{secrets.randbelow(1_000_000):06}"
    async with deps.database.transaction() as tx:
        good_until = await contacts.good_until(tx, key)
        if good_until is not None and good_until > now + _GOOD_FOR - _AGAIN:
            headers = {"Retry-After": f"{_AGAIN.total_seconds():.0f}"}
            raise Problem(429, "too-often", "A code was just sent", "Wait a minute.", headers=headers)
        if key in await contacts.stopped(tx):
            raise Problem(409, "stopped", "The contact wants no messages", "It answered STOP; START undoes it.")
        await contacts.ask(tx, key, _hash(code), now + _GOOD_FOR)
        told = notices.new(found.id, "verification", code_words(code), now)
        await tell_at(tx, [(told, listed(found)[place])], now)
        await audit.add(tx, [_line(caller, now, "verification sent", key)])
    deps.sent()
    return json_response({"person": found.id, "contact": place, "expires_at": now + _GOOD_FOR}, 202)


@router.post("/{person}/contacts/{place}/verify")
async def verify_contact(deps: Deps, person: str, place: int, told: Code, caller: WholeReader) -> Response:
    """Take the code that was sent: the contact is the person's."""
    found = _person(caller, person)
    key, now = _key(found, place), deps.clock.now()
    async with deps.database.transaction() as tx:
        wanted = await contacts.attempt(tx, key, now)
    if wanted is None or not compare_digest(wanted, _hash(told.code)):
        raise invalid_fields(FieldError("code", "is not the one that was sent, or it is too late for it"))
    async with deps.database.transaction() as tx:
        await contacts.verify(tx, [key], now)
        await audit.add(tx, [_line(caller, now, "contact verified", key)])
        known = await contacts.known(tx)
    return json_response(_shown(found, place, known.get(key)))


def _person(caller: Caller, person: str) -> Person:
    found = caller.directory.people.get(person)
    if found is None:
        raise not_found("person", person)
    return found


def _key(person: Person, place: int) -> Key:
    if not 0 <= place < len(person.contacts):
        raise not_found("contact", str(place))
    contact = person.contacts[place]
    return person.id, contact.channel, contact.address


def _hash(code: str) -> str:
    return sha256(code.encode()).hexdigest()


def _shown(person: Person, place: int, known: contacts.Known | None) -> dict[str, Any]:
    contact = person.contacts[place]
    return {
        "contact": place,
        "channel": contact.channel,
        "severities": list(contact.severities) or None,
        "after": contact.after,
        "verified_at": None if known is None else known.verified_at,
        "stopped_at": None if known is None else known.stopped_at,
    }


def _line(caller: Caller, now: datetime, what: str, key: Key) -> audit.Line:
    return audit.line(now, caller.actor, what, person=key[0], channel=key[1])
