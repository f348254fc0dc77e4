"""Freshservice by its API version 2: a ticket that carries our id in a custom field."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import msgspec

from services.ticketing.desks import MOST, Draft, Failed, Gone, News, Remark, Remarks, Remote
from services.ticketing.desks.api import (
    MARK,
    PAGE,
    Account,
    Api,
    Budget,
    TooLarge,
    allowed,
    basic,
    each,
    is_own,
    lines_of,
    mark,
    moment,
    number,
    one_line,
    reached,
    safe,
    shaped,
    tells_story,
    told,
    with_given,
)
from services.ticketing.desks.signatures import check_secret, reference_in
from services.ticketing.domain.story import Paragraph, Story, as_html
from shared.directory import model
from shared.http.client import Outbound
from shared.wire.events import Severity, TicketState

_PRIORITY: Mapping[Severity, int] = {"critical": 4, "high": 3, "medium": 2, "low": 1, "info": 1}
_SHOWS: Mapping[int, TicketState] = {2: "open", 3: "waiting", 4: "resolved", 5: "closed"}
_STATUS: Mapping[TicketState, int] = {
    "open": 2,
    "acknowledged": 2,
    "in_progress": 2,
    "waiting": 3,
    "resolved": 4,
    "closed": 5,
    "cancelled": 5,
}
_BY_PORTAL = 2
_PAGES = 40
"""Of comments, that are read at once."""


class _Ticket(msgspec.Struct):
    id: int
    status: int
    updated_at: str
    responder_id: int | None = None
    deleted: bool = False
    custom_fields: dict[str, Any] | None = None


class _Conversation(msgspec.Struct):
    id: int
    created_at: str
    user_id: int | None = None
    body: str = ""
    body_text: str = ""


class _Agent(msgspec.Struct):
    id: int | None = None
    email: str | None = None


class Freshservice:
    """Creates tickets with private notes.

    Settings: the API key of an agent; `requester`, which Freshservice asks for; `group`: the number of the group.
    Options: `field` (external_id): the custom field of tickets, a text, that holds our id; `workspace`: its number.

    Whom a ticket is on behalf of reads its description and gets it by mail, so it says nothing of what was said: the
    story is a private note, and so is what has come since. Open is one status for open, acknowledged and in progress;
    it reads back as in progress where an agent has it.
    """

    settles = 60.0  # its filter reads an index
    readable = True
    rewrites = False
    opens_with_story = False
    room = 60_000

    def __init__(
        self, name: str, settings: model.Desk, secrets: Mapping[str, str], outbound: Outbound, budget: Budget
    ) -> None:
        """Take the settings. Raises Failed without `requester`."""
        if settings.requester is None:
            raise Failed("permanent", "a freshservice desk needs `requester`: an e-mail that tickets are on behalf of")
        self._api = Api(name, settings.url, basic(secrets["token"], "X"), outbound, budget)
        self._requester = settings.requester
        self._group = settings.group
        self._fields = settings.fields
        self._field = settings.options.get("field", "external_id")
        self._workspace = settings.options.get("workspace")
        self._account = Account(self._me, "Freshservice")
        self._agents: dict[int, str | None] = {}

    async def who_am_i(self) -> str | None:
        """Return the number of the key's agent."""
        return await self._account.now()

    async def find(self, ticket: UUID) -> Sequence[Remote]:
        """Return the tickets that carry our id."""
        query = {"query": f"\"{self._field}:'{ticket}'\""}
        answer = await self._api.ask("GET", "/api/v2/tickets/filter", query=query)
        found = [one for one in told(shaped(answer, "tickets"), list[_Ticket]) if self._id(one) == str(ticket)]
        return [self._remote(one) for one in sorted(found, key=lambda one: one.id) if not one.deleted]

    async def create(self, draft: Draft) -> Remote:
        """Create a ticket; Freshservice has no status before open."""
        ticket: dict[str, Any] = {
            **_titled(draft),
            "description": as_html(draft.opening),
            "email": self._requester,
            "status": _STATUS["open"],
            "source": _BY_PORTAL,
            "tags": [MARK],
            "custom_fields": {self._field: str(draft.ticket)},
        }
        if self._group is not None and self._group.isdecimal():
            ticket["group_id"] = int(self._group)
        if self._workspace is not None and self._workspace.isdecimal():
            ticket["workspace_id"] = int(self._workspace)
        ticket = with_given(ticket, self._fields.get("create", {}))
        answer = await self._api.ask("POST", "/api/v2/tickets", ticket)
        return self._remote(told(shaped(answer, "ticket"), _Ticket))

    async def describe(self, reference: str, draft: Draft) -> None:
        """Set subject and priority."""
        await self._put(reference, _titled(draft))

    async def tell(self, reference: str, draft: Draft, story: Story) -> None:
        """Append a private note."""
        await self._note(reference, f"{as_html(story)}<p>{mark(draft.ticket)}</p>")

    async def move(self, reference: str, draft: Draft, state: TicketState) -> bool:
        """Set the status."""
        ticket = await self._ticket(reference)
        if reached(_state(ticket), state) or ticket.status == _STATUS[state]:
            return False
        await self._put(reference, {"status": _STATUS[state], **self._fields.get(state, {})})
        return True

    async def remark(self, reference: str, draft: Draft, text: str) -> None:
        """Append a private note."""
        await self._note(reference, as_html((Paragraph(text),)))

    async def read(self, reference: str) -> Remote:
        """Return a ticket, with who it is assigned to."""
        ticket = await self._ticket(reference)
        return self._remote(ticket, await self._agent(ticket.responder_id))

    async def remarks(self, reference: str, after: str | None) -> Remarks:
        """Return conversations that do not tell our story: from the page on which the last reading ended."""
        pages, _, last = (after or "1:0").partition(":")
        page, known = int(pages), int(last or 0)
        found: list[_Conversation] = []
        for _ in range(_PAGES):
            try:
                rows = await self._conversations(reference, page)
            except TooLarge as error:
                rows = [one for part in range(PAGE) for one in await self._single(reference, (page - 1) * PAGE + part)]
                if not rows:
                    raise error from None
            found += [one for one in rows if number(one.id) > known]
            if len(rows) < PAGE:
                break
            page += 1
        me = await self._account.known() if found else None
        remarks: list[Remark] = []
        for one in found:
            text, own = _plain(one), is_own(one.user_id, me)
            if not tells_story(text, own):
                by = await self._agent(one.user_id)
                remarks.append(Remark(str(one.id), by or str(one.user_id or ""), text, moment(one.created_at), own))
        upto = max([known, *(one.id for one in found)])
        return Remarks(remarks, f"{page}:{upto}", more=len(found) >= _PAGES * PAGE)

    async def changed(self, since: datetime, skip: int = 0) -> Sequence[Remote]:
        """Return up to a hundred tickets, the longest unchanged first; its list has others' too."""
        at = since.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        query: dict[str, str | int] = {"updated_since": at, "order_by": "updated_at", "order_type": "asc"}
        query |= {"per_page": MOST, "page": skip // MOST + 1}
        answer = await self._api.ask("GET", "/api/v2/tickets", query=query)
        return each(shaped(answer, "tickets"), _Ticket, self._remote)

    async def redact(self, reference: str, draft: Draft) -> str:
        """Delete our notes that tell of answers."""
        me, kept = await self._account.known(), 0
        for page in range(1, _PAGES + 1):
            rows = await self._conversations(reference, page)
            for one in rows:
                if tells_story(_plain(one), is_own(one.user_id, me)):
                    kept += not await allowed(self._api.call("DELETE", f"/api/v2/conversations/{one.id}"))
            if len(rows) < PAGE:
                break
        left = "notes and answers that people wrote, and earlier subjects in the ticket's activities"
        return f"{kept} notes of ours, which Freshservice does not let us delete; {left}" if kept else left

    async def remove(self, reference: str) -> bool:
        """Put a ticket into the bin."""
        return await allowed(self._api.call("DELETE", f"/api/v2/tickets/{safe(reference)}"))

    def heard(self, headers: Mapping[str, str], body: bytes, secret: str, now: datetime) -> News:
        """Return the ticket of a workflow's web request: `{"id": {{ticket.id_numeric}}}`, secret in x-fiilis-secret."""
        check_secret(headers, secret)
        return News(reference_in(body, ("id",)))

    async def _note(self, reference: str, body: str) -> None:
        await self._api.call("POST", f"/api/v2/tickets/{safe(reference)}/notes", {"body": body, "private": True})

    async def _put(self, reference: str, ticket: Mapping[str, Any]) -> None:
        await self._api.call("PUT", f"/api/v2/tickets/{safe(reference)}", ticket)

    async def _ticket(self, reference: str) -> _Ticket:
        answer = await self._api.call("GET", f"/api/v2/tickets/{safe(reference)}")
        ticket = told(shaped(answer, "ticket"), _Ticket)
        if ticket.deleted:
            raise Gone("the ticket is in the bin")
        return ticket

    async def _conversations(self, reference: str, page: int, count: int = PAGE) -> list[_Conversation]:
        query: dict[str, str | int] = {"per_page": count, "page": page}
        answer = await self._api.call("GET", f"/api/v2/tickets/{safe(reference)}/conversations", query=query)
        return told(shaped(answer, "conversations"), list[_Conversation])

    async def _single(self, reference: str, place: int) -> list[_Conversation]:
        """Return one conversation by its place; nothing of one that is too large for anybody, or not there."""
        try:
            return await self._conversations(reference, place + 1, 1)
        except TooLarge:
            return []

    async def _agent(self, id_: int | None) -> str | None:
        """Return an agent's e-mail, where there is one."""
        if id_ is None:
            return None
        if id_ not in self._agents:
            try:
                answer = await self._api.call("GET", f"/api/v2/agents/{id_}")
                self._agents[id_] = told(shaped(answer, "agent"), _Agent).email
            except Gone:
                self._agents[id_] = None  # a requester is no agent
        return self._agents[id_]

    async def _me(self) -> int | None:
        return told(shaped(await self._api.ask("GET", "/api/v2/agents/me"), "agent"), _Agent).id

    def _id(self, ticket: _Ticket) -> str | None:
        return (ticket.custom_fields or {}).get(self._field)

    def _remote(self, ticket: _Ticket, assignee: str | None = None) -> Remote:
        return Remote(
            str(ticket.id),
            f"#INC-{ticket.id}",
            f"{self._api.url}/a/tickets/{ticket.id}",
            _state(ticket),
            assignee,
            changed_at=moment(ticket.updated_at),
        )


def _state(ticket: _Ticket) -> TicketState | None:
    """Return a ticket's state: open is what nobody has taken, in progress what somebody has."""
    state = _SHOWS.get(ticket.status)
    return "in_progress" if state == "open" and ticket.responder_id is not None else state


def _titled(draft: Draft) -> dict[str, Any]:
    return {"subject": one_line(draft.title, 250), "priority": _PRIORITY[draft.severity]}


def _plain(one: _Conversation) -> str:
    return lines_of(one.body) or one.body_text.strip()
