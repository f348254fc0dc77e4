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

from services.ticketing.desks import MOST, Draft, Failed, Gone, News, Remark, Remarks, Remote
from services.ticketing.desks.api import (
    MARK,
    PAGE,
    Api,
    Budget,
    TooLarge,
    allowed,
    each,
    is_own,
    mark,
    moment,
    number,
    one_line,
    reached,
    safe,
    shaped,
    tells_story,
    told,
    visible,
    with_given,
)
from services.ticketing.desks.signatures import check_secret, reference_in
from services.ticketing.domain.story import Story, as_text
from shared.directory import model
from shared.http.client import Outbound
from shared.wire.events import Severity, TicketState

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
_TEXTS = [{"field": "ContentType", "operator": "STARTSWITH", "value": "text/"}]
_PAGES = 20
"""Of a hundred transactions, which are looked at for whose texts they have."""


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

    What RT has once been told stays in its history: the story is a comment, and so is what has come since. The first
    text says nothing of it, as RT's own scrips mail that to the requestor.
    Acknowledged reads back as in_progress, closed as resolved.
    """

    settles = 30.0  # the database is asked; a call that nobody waits for any more may still write for a while
    readable = True
    rewrites = False
    opens_with_story = False  # RT's own scrips mail the first text to the requestor
    room = 60_000  # MySQL's longest text is more, a mail gateway's often not

    def __init__(
        self, name: str, settings: model.Desk, secrets: Mapping[str, str], outbound: Outbound, budget: Budget
    ) -> None:
        self._api = Api(name, settings.url, {"authorization": f"token {secrets['token']}"}, outbound, budget)
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
        self._extra = settings.fields
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
        body: dict[str, Any] = {
            **self._titled(draft),
            "Queue": self._queue,
            "Content": as_text(draft.opening),
            "ContentType": "text/plain",
            "CustomFields": {self._field: mark(draft.ticket)},
            **({} if requester is None else {"Requestor": requester}),
        }
        body = with_given(body, self._extra.get("create", {}))
        answer = await self._api.ask("POST", "/REST/2.0/ticket", body)
        reference = str(told(answer, _Created).id)
        await self._check_kept(reference, draft.ticket)
        return Remote(reference, f"#{reference}", self._page(reference), "open")

    async def describe(self, reference: str, draft: Draft) -> None:
        """Set subject and priority."""
        await self._api.call("PUT", _path(reference), self._titled(draft))

    async def tell(self, reference: str, draft: Draft, story: Story) -> None:
        """Append a comment."""
        await self._comment(reference, f"{as_text(story)}\n\n{mark(draft.ticket)}")

    async def move(self, reference: str, draft: Draft, state: TicketState) -> bool:
        """Set the status."""
        if reached((await self.read(reference)).state, state):
            return False
        status = self._statuses[state]
        said = await self._api.call("PUT", _path(reference), {"Status": status, **self._extra.get(state, {})})
        if (await self._ticket(reference)).status != status:
            # RT answers 200 and tells in words what it did not do.
            raise Failed("permanent", f"the status did not become {status}: {said}"[:300], refusal=True)
        return True

    async def remark(self, reference: str, draft: Draft, text: str) -> None:
        """Append a comment."""
        await self._comment(reference, text)

    async def read(self, reference: str) -> Remote:
        """Return a ticket."""
        return self._remote(await self._ticket(reference))

    async def remarks(self, reference: str, after: str | None) -> Remarks:
        """Return comments and answers that do not tell our story."""
        if after is None:
            await self._ticket(reference)  # of one that is not there, RT returns the texts of all others
        known = int(after) if after is not None else 0
        texts, skipped = await self._texts(reference, known)
        if not texts:
            await self._ticket(reference)  # one that is gone has none either
            return Remarks((), after)
        upto = max(number(one.id) for one in texts)
        # RT also keeps each mail that it sent, with the same text once more.
        spoken = await self._spoken(reference, min(number(one.transaction_id) for one in texts))
        said = [one for one in texts if number(one.transaction_id) in spoken and not one.filename]
        plain = {str(one.transaction_id) for one in said if not one.markup}
        me = self._account or (await self.who_am_i() if said else None)
        remarks = [
            Remark(str(one.id), one.creator.known_as, one.text, moment(one.created), own)
            for one in said
            # A mail often says the same in both forms.
            if not (one.markup and str(one.transaction_id) in plain)
            and not tells_story(one.text, own := is_own(one.creator.name, me))
        ]
        return Remarks(remarks, str(upto), more=skipped)

    async def changed(self, since: datetime, skip: int = 0) -> Sequence[Remote]:
        """Return up to a hundred tickets, the longest unchanged first."""
        # RT takes a written time for one in its account's zone: only an age is the same everywhere.
        minutes = 1 + max(0, math.ceil((datetime.now(UTC) - since).total_seconds() / 60))
        query = f"CF.{{{self._field}}} LIKE '{MARK}-' AND LastUpdated >= '{minutes} minutes ago'"
        return each(await self._search(query, "LastUpdated", skip // MOST + 1), _Ticket, self._remote)

    async def redact(self, reference: str, draft: Draft) -> str:
        """Do nothing: RT lets nobody change what was said."""
        return "comments and earlier titles; in Request Tracker rt-munge-attachments or the shredder removes them"

    async def remove(self, reference: str) -> bool:
        """Delete a ticket: give it the status of that name."""
        return await allowed(self._api.call("DELETE", _path(reference)))

    def heard(self, headers: Mapping[str, str], body: bytes, secret: str, now: datetime) -> News:
        """Return the ticket of a request that a scrip sends: `{"id": 20}`, with the secret in x-fiilis-secret."""
        check_secret(headers, secret)
        return News(reference_in(body, ("id",)))

    def _titled(self, draft: Draft) -> dict[str, str]:
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

    async def _comment(self, reference: str, text: str) -> None:
        content = {"Content": text, "ContentType": "text/plain"}
        await self._api.call("POST", f"{_path(reference)}/comment", content)

    async def _ticket(self, reference: str) -> _Ticket:
        ticket = told(await self._api.call("GET", _path(reference), query={"fields[Owner]": _NAMES}), _Ticket)
        if ticket.status == "deleted":
            raise Gone("the ticket is deleted")
        return ticket

    async def _texts(self, reference: str, known: int) -> tuple[list[_Text], bool]:
        """Return texts of a ticket beyond an id, the oldest first, and whether there may be more."""
        only = [*_TEXTS, {"field": "id", "operator": ">", "value": known}]
        query: dict[str, str | int] = {
            "query": msgspec.json.encode(only).decode(),
            "fields": "Content,ContentType,Filename,Creator,Created,TransactionId",
            "fields[Creator]": _NAMES,
            "orderby": "id",
            "order": "ASC",
        }
        for count in (PAGE, 5, 1):
            try:
                answer = await self._api.call(
                    "GET", f"{_path(reference)}/attachments", query={**query, "per_page": count}
                )
            except TooLarge:
                continue
            found = told(shaped(answer, "items"), list[_Text])
            return sorted((one for one in found if number(one.id) > known), key=lambda one: number(one.id)), len(
                found
            ) >= count
        # One text that nobody can read hides no other: it is told without its content.
        bare = {**query, "fields": "ContentType,Filename,Creator,Created,TransactionId", "per_page": 1}
        answer = await self._api.call("GET", f"{_path(reference)}/attachments", query=bare)
        found = [
            msgspec.structs.replace(one, content="(too long to be read: see the desk)")
            for one in told(shaped(answer, "items"), list[_Text])
        ]
        return found, True

    async def _spoken(self, reference: str, first: int) -> set[int]:
        """Return the transactions since one by which somebody said something."""
        spoken: set[int] = set()
        for page in range(1, _PAGES + 1):
            query = {"fields": "Type", "orderby": "id", "order": "DESC", "per_page": 100, "page": page}
            answer = await self._api.call("GET", f"{_path(reference)}/history", query=query)
            history = told(shaped(answer, "items"), list[_Transaction])
            spoken |= {number(one.id) for one in history if one.kind in {"Comment", "Correspond"}}
            if len(history) < 100 or min(number(one.id) for one in history) <= first:
                break
        return spoken

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


def _path(reference: str) -> str:
    return f"/REST/2.0/ticket/{safe(reference)}"


def _title(text: str) -> str:
    """Return a title, cut where RT would cut it without a word."""
    line = one_line(text, _TITLE).encode()
    return line.decode() if len(line) <= _TITLE else line[: _TITLE - 3].decode(errors="ignore") + "…"
