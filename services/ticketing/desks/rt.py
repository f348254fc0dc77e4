"""Request Tracker 5 and 6 by REST 2: a ticket that carries our id in a custom field."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote
from uuid import UUID

import msgspec

from services.ticketing.desks import MOST, Draft, Failed, Gone, News, Remark, Remote
from services.ticketing.desks.api import (
    MARK,
    Api,
    Pace,
    each,
    is_own,
    letters,
    mark,
    moment,
    one_line,
    reached,
    safe,
    shaped,
    tells_story,
    told,
    visible,
)
from services.ticketing.desks.signatures import check_secret, reference_in
from services.ticketing.domain.story import as_text
from shared.directory import model
from shared.events import Severity, TicketState
from shared.http import Outbound

_PRIORITIES: Mapping[Severity, str] = {"critical": "100", "high": "75", "medium": "50", "low": "25", "info": "0"}
_SHOWS: Mapping[str, TicketState] = {
    "new": "open",
    "open": "in_progress",
    "stalled": "waiting",
    "resolved": "resolved",
    "rejected": "cancelled",
}
_STATUSES: Mapping[TicketState, str] = {
    "open": "new",
    "acknowledged": "open",
    "in_progress": "open",
    "waiting": "stalled",
    "resolved": "resolved",
    "closed": "resolved",
    "cancelled": "rejected",
}
_NAMES = "Name,EmailAddress"
_TITLE = 200
"""Bytes."""
_TEXTS = msgspec.json.encode([{"field": "ContentType", "operator": "STARTSWITH", "value": "text/"}]).decode()


class _User(msgspec.Struct, rename={"name": "Name", "email": "EmailAddress"}):
    id: str | int = ""
    name: str = ""
    email: str = ""

    @property
    def known_as(self) -> str:
        return self.email or self.name or str(self.id)


class _Field(msgspec.Struct):
    name: str
    values: list[Any] = []


class _Ticket(msgspec.Struct, rename="pascal"):
    id: str | int = msgspec.field(name="id")
    status: str
    last_updated: str
    owner: _User | None = None
    custom_fields: list[_Field] | str = []


class _Transaction(msgspec.Struct, rename={"kind": "Type"}):
    id: str | int
    kind: str = ""


class _Created(msgspec.Struct):
    id: str | int


class _Text(msgspec.Struct, rename="pascal"):
    """A text of the ticket's history."""

    id: str | int = msgspec.field(name="id")
    created: str
    transaction_id: str | int
    content: str = ""
    content_type: str = "text/plain"
    filename: str = ""
    creator: _User = msgspec.field(default_factory=_User)

    @property
    def markup(self) -> bool:
        return "html" in self.content_type

    @property
    def text(self) -> str:
        return (visible(self.content) if self.markup else self.content).strip()


class RequestTracker:
    """Creates tickets in the queue `group` (General).

    Settings: an authentication token (RT::Authen::Token, a part of RT since 5.0). Its account needs on the queue
    SeeQueue, CreateTicket, ShowTicket, ShowTicketComments, ModifyTicket, CommentOnTicket, SeeCustomField and
    ModifyCustomField.
    Options: `field` (ExternalID): the custom field of the queue's tickets that holds our id, which an administrator has
    to create; by each of our states (`waiting`, ...) the name of the lifecycle's status; `priority_critical` to
    `priority_info`: numbers.

    What RT has once been told stays in its history: a story that has changed is appended as a further comment.
    Acknowledged reads back as in_progress, closed as resolved.
    """

    settles = 30.0  # the database is asked; a call that nobody waits for any more may still write for a while
    readable = True

    def __init__(
        self, name: str, settings: model.Desk, secrets: Mapping[str, str], outbound: Outbound, pace: Pace
    ) -> None:
        self._api = Api(name, settings.url, {"authorization": f"token {secrets['token']}"}, outbound, pace)
        self._queue = settings.group or "General"
        self._requester = settings.requester
        options = settings.options
        self._field = options.get("field", "ExternalID")
        self._keeps_field = False
        self._priorities = {one: options.get(f"priority_{one}", name) for one, name in _PRIORITIES.items()}
        self._statuses = {one: options.get(one, name) for one, name in _STATUSES.items()}
        chosen: dict[str, TicketState] = {options[one]: one for one in _STATUSES if one in options}
        self._shows: Mapping[str, TicketState] = {**_SHOWS, **chosen}
        number = re.match(r"1-([0-9]+)-", secrets["token"])
        self._me = None if number is None else number[1]
        """The number of our user, which RT writes into its tokens; of others it says nothing."""
        self._account: str | None = None

    async def who_am_i(self) -> str | None:
        """Return the name of the token's user, which everybody may see of himself."""
        if self._me is None:
            await self._api.ask("GET", "/REST/2.0/rt")
            return None
        self._account = told(await self._api.ask("GET", f"/REST/2.0/user/{self._me}"), _User).name or None
        return self._account

    async def find(self, ticket: UUID) -> Sequence[Remote]:
        """Return the tickets that carry our id."""
        found = told(await self._search(f"CF.{{{self._field}}} = '{mark(ticket)}'", "id"), list[_Ticket])
        return [self._remote(one) for one in found if self._id(one) == mark(ticket)]

    async def create(self, draft: Draft) -> Remote:
        """Create a ticket in the lifecycle's first status."""
        await self._check_field()
        requester = self._requester
        body = {
            **self._said(draft),
            "Queue": self._queue,
            "Content": _told(draft),
            "ContentType": "text/plain",
            "CustomFields": {self._field: mark(draft.ticket)},
            **({} if requester is None else {"Requestor": requester}),
        }
        answer = await self._api.ask("POST", "/REST/2.0/ticket", body)
        reference = str(told(answer, _Created).id)
        await self._check_kept(reference, draft.ticket)
        return Remote(reference, f"#{reference}", self._page(reference), "open")

    async def update(self, reference: str, draft: Draft, state: TicketState | None, remark: str | None) -> None:
        """Set fields and status, then append comments."""
        path = f"/REST/2.0/ticket/{safe(reference)}"
        body: dict[str, Any] = self._said(draft)
        if state is not None and not reached((await self.read(reference)).state, state):
            body["Status"] = self._statuses[state]
        said = await self._api.call("PUT", path, body)
        if "Status" in body and (await self._ticket(reference)).status != body["Status"]:
            # RT answers 200 and tells in words what it did not do.
            raise Failed("permanent", f"the status did not become {body['Status']}: {said}"[:300], refusal=True)
        texts = [letters(one.text) for one in await self._texts(reference)]
        if letters(_told(draft)) not in texts:
            await self._comment(path, _told(draft))
        if remark is not None:
            await self._comment(path, remark)

    async def read(self, reference: str) -> Remote:
        """Return a ticket."""
        return self._remote(await self._ticket(reference))

    async def remarks(self, reference: str) -> Sequence[Remark]:
        """Return the newest hundred comments and answers that do not tell our story."""
        newest = {"fields": "Type", "orderby": "id", "order": "DESC", "per_page": 100}
        answer = await self._api.call("GET", f"/REST/2.0/ticket/{safe(reference)}/history", query=newest)
        history = told(shaped(answer, "items"), list[_Transaction])
        if not history:
            await self._ticket(reference)  # one that is gone has none either
        # RT also keeps each mail that it sent, with the same text once more.
        spoken = {str(one.id) for one in history if one.kind in {"Comment", "Correspond"}}
        texts = [one for one in await self._texts(reference) if str(one.transaction_id) in spoken and not one.filename]
        plain = {str(one.transaction_id) for one in texts if not one.markup}
        me = self._account or (await self.who_am_i() if texts else None)
        return [
            Remark(str(one.id), one.creator.known_as, one.text, moment(one.created), own)
            for one in texts
            # A mail often says the same in both forms.
            if not (one.markup and str(one.transaction_id) in plain)
            and not tells_story(one.text, own := is_own(one.creator.name, me))
        ]

    async def changed(self, since: datetime, skip: int = 0) -> Sequence[Remote]:
        """Return up to a hundred tickets, the longest unchanged first."""
        # RT takes a written time for one in its account's zone: only an age is the same everywhere.
        minutes = 1 + max(0, math.ceil((datetime.now(UTC) - since).total_seconds() / 60))
        query = f"CF.{{{self._field}}} LIKE '{MARK}-' AND LastUpdated >= '{minutes} minutes ago'"
        return each(await self._search(query, "LastUpdated", skip // MOST + 1), _Ticket, self._remote)

    async def redact(self, reference: str, draft: Draft) -> str:
        """Set the title and say the story anew; RT lets nobody change what was said."""
        await self.update(reference, draft, None, None)
        return (
            "the ticket's first text, comments and earlier titles; "
            "in Request Tracker rt-munge-attachments or the shredder removes them"
        )

    def heard(self, headers: Mapping[str, str], body: bytes, secret: str, now: datetime) -> News:
        """Return the ticket of a request that a scrip sends: `{"id": 20}`, with the secret in x-fiilis-secret."""
        check_secret(headers, secret)
        return News(reference_in(body, ("id",)))

    def _said(self, draft: Draft) -> dict[str, str]:
        return {"Subject": _title(draft.title), "Priority": self._priorities[draft.severity]}

    def _page(self, reference: str) -> str:
        return f"{self._api.url}/Ticket/Display.html?id={reference}"

    def _id(self, ticket: _Ticket) -> str | None:
        """Return what a ticket has in our field."""
        fields = ticket.custom_fields if isinstance(ticket.custom_fields, list) else []
        return next((str(one.values[0]) for one in fields if one.name == self._field and one.values), None)

    async def _check_field(self) -> None:
        """Raise Failed if the queue has no field for our id: RT would drop it without a word."""
        if self._keeps_field:
            return
        queue = await self._api.ask("GET", f"/REST/2.0/queue/{quote(self._queue, safe='')}")
        fields = told(shaped(queue, "TicketCustomFields"), list[_Field])
        if all(one.name != self._field for one in fields):
            why = f"the queue {self._queue!r} has no custom field {self._field!r} for tickets"
            raise Failed("permanent", why, refusal=True)  # of creates: what the queue has already goes on

    async def _check_kept(self, reference: str, ticket: UUID) -> None:
        """Raise Failed if a new ticket lacks our id: RT drops it without a word if the account may not set it."""
        if self._keeps_field:
            return
        try:
            made = await self._ticket(reference)
        except (Failed, Gone):
            return  # it was created; the next one is looked at
        if self._id(made) != mark(ticket):
            with suppress(Failed, Gone):
                await self._api.call("PUT", f"/REST/2.0/ticket/{reference}", {"Status": self._statuses["cancelled"]})
            why = f"#{reference} was created without {self._field!r}: the account needs ModifyCustomField on the queue"
            raise Failed("permanent", why)
        self._keeps_field = True

    async def _comment(self, path: str, text: str) -> None:
        await self._api.call("POST", f"{path}/comment", {"Content": text, "ContentType": "text/plain"})

    async def _ticket(self, reference: str) -> _Ticket:
        path = f"/REST/2.0/ticket/{safe(reference)}"
        ticket = told(await self._api.call("GET", path, query={"fields[Owner]": _NAMES}), _Ticket)
        if ticket.status == "deleted":
            raise Gone("the ticket is deleted")
        return ticket

    async def _texts(self, reference: str) -> list[_Text]:
        """Return the texts of a ticket that is there; of one that is not, RT returns those of all others."""
        query = {
            "query": _TEXTS,
            "fields": "Content,ContentType,Filename,Creator,Created,TransactionId",
            "fields[Creator]": _NAMES,
            "orderby": "id",
            "order": "DESC",
            "per_page": 100,
        }
        answer = await self._api.call("GET", f"/REST/2.0/ticket/{safe(reference)}/attachments", query=query)
        return told(shaped(answer, "items"), list[_Text])[::-1]

    async def _search(self, query: str, order: str, page: int = 1) -> Any:
        """Return the tickets as the answer has them."""
        fields = {"fields": "Status,LastUpdated,Owner,CustomFields", "fields[Owner]": _NAMES}
        answer = await self._api.ask(
            "GET",
            "/REST/2.0/tickets",
            query={"query": query, **fields, "orderby": order, "per_page": MOST, "page": page},
        )
        return shaped(answer, "items")

    def _remote(self, ticket: _Ticket) -> Remote:
        owner = None if ticket.owner is None else ticket.owner.known_as
        return Remote(
            str(ticket.id),
            f"#{ticket.id}",
            self._page(str(ticket.id)),
            self._shows.get(ticket.status),
            None if owner == "Nobody" else owner,
            changed_at=moment(ticket.last_updated),
        )


def _told(draft: Draft) -> str:
    return f"{as_text(draft.story)}\n\n{mark(draft.ticket)}"


def _title(text: str) -> str:
    """Return a title, cut where RT would cut it without a word."""
    line = one_line(text, _TITLE).encode()
    return line.decode() if len(line) <= _TITLE else line[: _TITLE - 3].decode(errors="ignore") + "…"
