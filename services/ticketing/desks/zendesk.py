"""Zendesk Support: a ticket whose external_id is our id, created under an idempotency key."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import msgspec

from services.ticketing.desks import MOST, BadSignature, Draft, Failed, Gone, News, Remark, Remarks, Remote
from services.ticketing.desks.api import (
    MARK,
    Account,
    Api,
    Budget,
    allowed,
    basic,
    each,
    ends_in_mark,
    is_own,
    mark,
    moment,
    newest_first,
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
from services.ticketing.desks.signatures import check, check_time, digest, header, reference_in
from services.ticketing.domain.story import Story, as_html
from services.ticketing.domain.ticket import ACTIVE
from shared.directory import model
from shared.http.client import Outbound
from shared.wire.events import Severity, TicketState

_PRIORITY: Mapping[Severity, str] = {
    "critical": "urgent",
    "high": "high",
    "medium": "normal",
    "low": "low",
    "info": "low",
}
_SHOWS: Mapping[str, TicketState] = {
    "new": "open",
    "open": "in_progress",
    "pending": "waiting",
    "hold": "waiting",
    "solved": "resolved",
    "closed": "closed",
}
_STATUS: Mapping[TicketState, str] = {
    "open": "open",  # a ticket that was touched can never be new again
    "acknowledged": "open",
    "in_progress": "open",
    "waiting": "pending",
    "resolved": "solved",
    "closed": "solved",  # closed is for the desk's own job to set: it could not be reopened
    "cancelled": "solved",
}
_CANCELLED = f"{MARK}-cancelled"
_MERGED = "closed_by_merge"
_MERGED_INTO = re.compile(r"merged into (?:request|ticket)?\s*#([0-9]{1,20})", re.IGNORECASE)
_BLACK = "▇"
_SHOWN = 1_000
"""Results of a search, whatever page is asked for; beyond it refuses."""


class _Ticket(msgspec.Struct):
    id: int
    status: str
    updated_at: str
    external_id: str | None = None
    assignee_id: int | None = None
    tags: list[str] = []


class _User(msgspec.Struct):
    id: int
    email: str | None = None
    name: str = ""


class _Me(msgspec.Struct):
    id: int | None


class _Comment(msgspec.Struct):
    id: int
    created_at: str
    html_body: str
    plain_body: str = ""
    author_id: int | None = None


class _Comments(msgspec.Struct):
    comments: list[_Comment]
    users: list[_User] = []


class _Users(msgspec.Struct):
    users: list[_User] = []


class _Group(msgspec.Struct):
    id: int
    name: str


class Zendesk:
    """Creates tickets with private comments; `group` by name or number.

    Settings: with `user_env` (an e-mail) Basic with an API token, else an OAuth bearer token.
    Options: `assignee` (the user): e-mail of whom a ticket is assigned to when we solve one that nobody has taken, as
    Zendesk solves no other.

    A comment cannot be changed: what has come since is appended as a further private comment.
    New reads back as open, open as in_progress (so open and acknowledged do too), solved as resolved (so closed does
    too), or as cancelled where it has the tag fiilis-cancelled. A closed ticket refuses every change, for ever: what is
    opened again gets a follow-up.
    """

    settles = 60.0  # lists are read from a copy
    readable = True
    rewrites = False
    opens_with_story = True
    room = 60_000  # of 65,535 characters

    def __init__(
        self, name: str, settings: model.Desk, secrets: Mapping[str, str], outbound: Outbound, budget: Budget
    ) -> None:
        user, token = secrets.get("user"), secrets["token"]
        headers = {"authorization": f"Bearer {token}"} if user is None else basic(f"{user}/token", token)
        self._api = Api(name, settings.url, headers, outbound, budget)
        self._group = settings.group
        self._group_id: int | None = None
        self._requester = settings.requester
        self._solver = settings.options.get("assignee", user)
        self._fields = settings.fields
        self._account = Account(self._me, "Zendesk")

    async def who_am_i(self) -> str | None:
        """Return the user's id; Zendesk has an anonymous user for who is not known to it."""
        return await self._account.now()

    async def find(self, ticket: UUID) -> Sequence[Remote]:
        """Return the tickets that carry our id."""
        query = {"external_id": str(ticket), "include": "users"}
        answer = await self._api.ask("GET", "/api/v2/tickets.json", query=query)
        found = [one for one in told(shaped(answer, "tickets"), list[_Ticket]) if one.external_id == str(ticket)]
        return [self._remote(one, answer) for one in sorted(found, key=lambda one: one.id)]

    async def create(self, draft: Draft) -> Remote:
        """Create a ticket; for some hours Zendesk answers a repetition with the same ticket."""
        requester = self._requester
        ticket: dict[str, Any] = {
            **_titled(draft),
            "type": "incident",
            "comment": _story(draft.ticket, draft.story),
            "external_id": str(draft.ticket),
            "tags": [MARK],
        }
        if draft.follows is not None and draft.follows.isdecimal():
            ticket["via_followup_source_id"] = int(draft.follows)
        if requester is not None:
            ticket["requester"] = {"email": requester, "name": requester}
        if self._group is not None:
            ticket["group_id"] = await self._group_of(self._group)
        ticket = with_given(ticket, self._fields.get("create", {}))
        headers = {"idempotency-key": f"{draft.ticket}-{draft.turn}" if draft.turn else str(draft.ticket)}
        answer = await self._api.ask("POST", "/api/v2/tickets.json", {"ticket": ticket}, headers=headers)
        return self._remote(told(shaped(answer, "ticket"), _Ticket), None)

    async def describe(self, reference: str, draft: Draft) -> None:
        """Set subject and priority."""
        await self._put(reference, _titled(draft))

    async def tell(self, reference: str, draft: Draft, story: Story) -> None:
        """Append a private comment."""
        await self._put(reference, {"comment": _story(draft.ticket, story)})

    async def move(self, reference: str, draft: Draft, state: TicketState) -> bool:
        """Set the status."""
        ticket = await self._ticket(reference)
        if reached(_state(ticket), state):
            return False
        solves = state not in ACTIVE and ticket.assignee_id is None and self._solver is not None
        assigned = {"assignee_email": self._solver or ""} if solves else {}
        await self._put(reference, {"status": _STATUS[state], **assigned, **self._fields.get(state, {})})
        if state == "cancelled":
            await self._api.call("PUT", f"/api/v2/tickets/{safe(reference)}/tags.json", {"tags": [_CANCELLED]})
        return True

    async def remark(self, reference: str, draft: Draft, text: str) -> None:
        """Append a private comment."""
        await self._put(reference, {"comment": {"body": text, "public": False}})

    async def read(self, reference: str) -> Remote:
        """Return a ticket; of one that was merged, with the one that it became a part of."""
        answer = await self._api.call("GET", f"/api/v2/tickets/{safe(reference)}.json", query={"include": "users"})
        ticket = told(shaped(answer, "ticket"), _Ticket)
        if ticket.status == "deleted":
            raise Gone("the ticket is deleted")
        remote = self._remote(ticket, answer)
        if _MERGED in ticket.tags:
            return replace(remote, merged_into=await self._target(reference))
        return remote

    async def remarks(self, reference: str, after: str | None) -> Remarks:
        """Return comments that do not tell our story."""
        authors: dict[int, str] = {}
        comments, upto, skipped = await self._since(reference, after, authors)
        me = await self._account.known() if comments else None
        remarks = [
            Remark(
                str(one.id),
                authors.get(one.author_id or 0, ""),
                one.plain_body or visible(one.html_body),
                moment(one.created_at),
                own,
            )
            for one in comments
            if not tells_story(visible(one.html_body).strip(), own := is_own(one.author_id, me))
        ]
        return Remarks(remarks, upto, skipped=skipped)

    async def changed(self, since: datetime, skip: int = 0) -> Sequence[Remote]:
        """Return up to a hundred tickets, the longest unchanged first; the search shows a thousand in all."""
        if skip >= _SHOWN:
            return ()
        at = since.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        query = {
            "query": f"type:ticket tags:{MARK} updated>={at}",
            "sort_by": "updated_at",
            "sort_order": "asc",
            "include": "tickets(users)",
            "per_page": MOST,
            "page": skip // MOST + 1,
        }
        answer = await self._api.ask("GET", "/api/v2/search.json", query=query)
        return each(shaped(answer, "results"), _Ticket, lambda one: self._remote(one, answer))

    async def redact(self, reference: str, draft: Draft) -> str:
        """Blacken our comments that tell of answers."""
        comments, _, _ = await self._since(reference, None, {})
        me = await self._account.known() if comments else None
        for comment in comments:
            text = visible(comment.html_body).strip()
            if tells_story(text, is_own(comment.author_id, me)) and _BLACK not in text:
                body = {"ticket_id": int(safe(reference)), "html_body": _blackened(comment.html_body)}
                await self._api.call("PUT", f"/api/v2/comment_redactions/{comment.id}.json", body)
        return "comments that people wrote, and earlier titles in the ticket's events"

    async def remove(self, reference: str) -> bool:
        """Delete a ticket, softly."""
        return await allowed(self._api.call("DELETE", f"/api/v2/tickets/{safe(reference)}.json"))

    def heard(self, headers: Mapping[str, str], body: bytes, secret: str, now: datetime) -> News:
        """Return the ticket of a webhook: of an event, or of a trigger that sends `{"ticket_id": "{{ticket.id}}"}`."""
        at = header(headers, "x-zendesk-webhook-signature-timestamp")
        signature = base64.b64encode(digest(secret, at.encode("utf-8", "replace") + body)).decode()
        check(signature, header(headers, "x-zendesk-webhook-signature"))
        try:
            signed = datetime.fromisoformat(at)
        except ValueError:
            raise BadSignature("its time is none") from None
        check_time((signed if signed.tzinfo else signed.replace(tzinfo=UTC)).timestamp(), now)
        return News(reference_in(body, ("ticket_id",), ("detail", "id")))

    async def _me(self) -> int | None:
        return told(shaped(await self._api.ask("GET", "/api/v2/users/me.json"), "user"), _Me).id

    async def _put(self, reference: str, ticket: dict[str, Any]) -> None:
        await self._api.call("PUT", f"/api/v2/tickets/{safe(reference)}.json", {"ticket": ticket})

    async def _target(self, reference: str) -> str:
        """Return the ticket that one was merged into, as its last comments say; empty where none does."""
        for comment in (await self._comments(reference, 1, 5)).comments:
            if found := _MERGED_INTO.search(comment.plain_body or visible(comment.html_body)):
                return found[1]
        return ""

    async def _ticket(self, reference: str) -> _Ticket:
        answer = await self._api.call("GET", f"/api/v2/tickets/{safe(reference)}.json")
        return told(shaped(answer, "ticket"), _Ticket)

    async def _since(
        self, reference: str, after: str | None, authors: dict[int, str]
    ) -> tuple[list[_Comment], str | None, bool]:
        """Return comments as `newest_first` does, and leave their authors' names in `authors`."""

        async def page(skip: int, count: int) -> list[_Comment]:
            found = await self._comments(reference, skip // count + 1, count)
            authors.update((one.id, one.email or one.name) for one in found.users)
            return found.comments

        return await newest_first(page, lambda one: number(one.id), after)

    async def _comments(self, reference: str, page: int, count: int) -> _Comments:
        """Return a page of comments, the newest first."""
        query = {"sort_order": "desc", "per_page": count, "page": page, "include": "users"}
        return told(
            await self._api.call("GET", f"/api/v2/tickets/{safe(reference)}/comments.json", query=query), _Comments
        )

    async def _group_of(self, group: str) -> int:
        if self._group_id is None and group.isascii() and group.isdecimal():
            self._group_id = int(group)
        if self._group_id is None:
            answer = await self._api.ask("GET", "/api/v2/groups.json", query={"per_page": 100})
            known = {one.name: one.id for one in told(shaped(answer, "groups"), list[_Group])}
            if group not in known:
                raise Failed("permanent", f"the desk has no group {group!r} that its account can see", refusal=True)
            self._group_id = known[group]
        return self._group_id

    def _remote(self, ticket: _Ticket, answer: Any) -> Remote:
        # Of one that is assigned: what is odd about other users is nothing to it.
        users = told(answer, _Users).users if answer is not None and ticket.assignee_id is not None else []
        assignee = next((one for one in users if one.id == ticket.assignee_id), None)
        return Remote(
            str(ticket.id),
            f"#{ticket.id}",
            f"{self._api.url}/agent/tickets/{ticket.id}",
            _state(ticket),
            None if assignee is None else assignee.email or assignee.name,
            changed_at=moment(ticket.updated_at),
            sealed=ticket.status == "closed",
        )


def _state(ticket: _Ticket) -> TicketState | None:
    state = _SHOWS.get(ticket.status)
    return "cancelled" if state not in ACTIVE and _CANCELLED in ticket.tags else state


def _titled(draft: Draft) -> dict[str, Any]:
    return {"subject": one_line(draft.title, 250), "priority": _PRIORITY[draft.severity]}


def _story(ticket: UUID, story: Story) -> dict[str, Any]:
    return {"html_body": f"{as_html(story)}<p>{mark(ticket)}</p>", "public": False}


def _blackened(markup: str) -> str:
    """Mark every text of a comment to be blackened but the line by which we know it."""

    def black(found: re.Match[str]) -> str:
        return found[0] if ends_in_mark(found[0].strip()) else f"<redact>{found[0]}</redact>"

    return re.sub(r"(?<=>)[^<]*[^<\s][^<]*(?=<)", black, markup)
