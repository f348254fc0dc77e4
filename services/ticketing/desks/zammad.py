"""Zammad: a ticket that carries our id as a tag."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec

from services.ticketing.desks import MOST, Draft, Failed, Gone, News, Remark, Remote
from services.ticketing.desks.api import (
    MARK,
    SEES_NOTHING,
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
from services.ticketing.desks.signatures import check_hub, reference_in
from services.ticketing.domain.story import as_html
from shared.directory import model
from shared.events import Severity, TicketState
from shared.http import Outbound

_PRIORITIES: Mapping[Severity, str] = {
    "critical": "3 high",
    "high": "3 high",
    "medium": "2 normal",
    "low": "1 low",
    "info": "1 low",
}
_SHOWS: Mapping[str, TicketState] = {
    "new": "open",
    "open": "in_progress",
    "pending reminder": "waiting",
    "pending close": "waiting",
    "closed": "resolved",
    "removed": "cancelled",
}
_STATES: Mapping[TicketState, str] = {
    "open": "open",
    "acknowledged": "open",
    "in_progress": "open",
    "waiting": "pending reminder",
    "resolved": "closed",
    "closed": "closed",
    "cancelled": "closed",
}
_REMINDER = timedelta(days=7)
"""A ticket that waits must have a time at which Zammad reminds of it."""
_EXPANDED: Mapping[str, str | int] = {"expand": "true"}


class _Ticket(msgspec.Struct):
    id: int
    number: str
    state: str
    updated_at: str
    owner: str | None = None


class _Me(msgspec.Struct):
    id: int | None


class _Article(msgspec.Struct):
    id: int
    body: str
    created_at: str
    content_type: str = "text/html"
    created_by: str | None = None
    created_by_id: int | None = None

    @property
    def text(self) -> str:
        return visible(self.body).strip() if "html" in self.content_type else self.body


class Zammad:
    """Creates tickets in `group` (Users) with internal notes.

    Settings: a token of an agent, who must be allowed to make new tags: without them our id is lost.
    Options: by each of our states (`waiting`, ...) the name of Zammad's; `priority_critical` to `priority_info`: names
    of priorities.

    A note cannot be changed: a story that has changed is appended as a further note.
    New reads back as open, open as in_progress (so open and acknowledged do too), closed as resolved (so closed and
    cancelled do too; the latter has the tag fiilis-cancelled).
    """

    settles = 30.0  # by conditions its database is asked, not its search index; a slow call may still be writing
    readable = True

    def __init__(
        self, name: str, settings: model.Desk, secrets: Mapping[str, str], outbound: Outbound, pace: Pace
    ) -> None:
        self._api = Api(name, settings.url, {"authorization": f"Token token={secrets['token']}"}, outbound, pace)
        self._group = settings.group or "Users"
        self._requester = settings.requester
        options = settings.options
        self._priorities = {one: options.get(f"priority_{one}", name) for one, name in _PRIORITIES.items()}
        self._states = {one: options.get(one, name) for one, name in _STATES.items()}
        chosen: dict[str, TicketState] = {options[one]: one for one in _STATES if one in options}
        self._shows: Mapping[str, TicketState] = {**_SHOWS, **chosen}
        self._account: int | None = None

    async def who_am_i(self) -> str | None:
        """Return the id of the token's user."""
        return str(await self._me())

    async def find(self, ticket: UUID) -> Sequence[Remote]:
        """Return the tickets that carry our id."""
        found = told(await self._search(mark(ticket), {}, "created_at", 10), list[_Ticket])
        # A condition that this version does not know would match everything.
        return [self._remote(one) for one in found if mark(ticket) in await self._tags(one.id)]

    async def create(self, draft: Draft) -> Remote:
        """Create a ticket in state new."""
        requester = self._requester
        body = {
            **self._said(draft),
            "group": self._group,
            "customer_id": await self._me() if requester is None else f"guess:{requester}",
            "state": "new",
            "tags": f"{MARK},{mark(draft.ticket)}",
            "article": _story(draft),
        }
        answer = await self._api.ask("POST", "/api/v1/tickets", body, query=_EXPANDED)
        return self._remote(told(answer, _Ticket))

    async def update(self, reference: str, draft: Draft, state: TicketState | None, remark: str | None) -> None:
        """Set fields and state and append a note, in one call as far as Zammad has a place."""
        path = f"/api/v1/tickets/{safe(reference)}"
        body: dict[str, Any] = self._said(draft)
        if state is not None and not reached((await self.read(reference)).state, state):
            body["state"] = self._states[state]
            if state == "waiting":
                body["pending_time"] = (datetime.now(UTC) + _REMINDER).strftime("%Y-%m-%dT%H:%M:%SZ")
        said = [letters(one.text) for one in await self._articles(reference)]
        if letters(visible(_markup(draft))) not in said:
            body["article"] = _story(draft)
        elif remark is not None:
            body["article"], remark = _note(remark), None
        await self._api.call("PUT", path, body)
        if state == "cancelled" and "state" in body:
            tag = {"object": "Ticket", "o_id": int(reference), "item": f"{MARK}-cancelled"}
            await self._api.call("POST", "/api/v1/tags/add", tag)
        if remark is not None:
            await self._api.call("PUT", path, {"article": _note(remark)})

    async def read(self, reference: str) -> Remote:
        """Return a ticket."""
        answer = await self._api.call("GET", f"/api/v1/tickets/{safe(reference)}", query=_EXPANDED)
        return self._remote(told(answer, _Ticket))

    async def remarks(self, reference: str) -> Sequence[Remark]:
        """Return the articles that do not tell our story."""
        articles = await self._articles(reference)
        me = self._account or (await self._me() if articles else None)
        return [
            Remark(str(one.id), one.created_by or "", one.text, moment(one.created_at), own)
            for one in articles
            if not tells_story(one.text, own := is_own(one.created_by_id, me))
        ]

    async def changed(self, since: datetime, skip: int = 0) -> Sequence[Remote]:
        """Return up to a hundred tickets, the longest unchanged first."""
        # Its "after" leaves out the moment itself.
        at = (since - timedelta(seconds=1)).astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        newer = {
            "condition[ticket.updated_at][operator]": "after (absolute)",
            "condition[ticket.updated_at][value]": at,
        }
        found = await self._search(MARK, newer, "updated_at", MOST, page=skip // MOST + 1)
        return each(found, _Ticket, self._remote)

    async def redact(self, reference: str, draft: Draft) -> str:
        """Delete our notes that say something else, as far as Zammad lets us, then say it anew."""
        now, kept = letters(visible(_markup(draft))), 0
        articles = await self._articles(reference)
        me = self._account or (await self._me() if articles else None)
        for note in articles:
            if tells_story(note.text, is_own(note.created_by_id, me)) and letters(note.text) != now:
                try:
                    with suppress(Gone):
                        await self._api.call("DELETE", f"/api/v1/ticket_articles/{note.id}")
                except Failed as failed:
                    if failed.kind != "permanent":
                        raise
                    kept += 1
        await self.update(reference, draft, None, None)
        left = "articles that people wrote, and earlier titles in the ticket's history"
        return f"{kept} notes of ours, which Zammad says are too old to be deleted; {left}" if kept else left

    def heard(self, headers: Mapping[str, str], body: bytes, secret: str, now: datetime) -> News:
        """Return the ticket of a webhook with a signature token."""
        check_hub(headers, body, secret, "sha1")
        return News(reference_in(body, ("ticket", "id")))

    def _said(self, draft: Draft) -> dict[str, Any]:
        return {"title": one_line(draft.title, 250), "priority": self._priorities[draft.severity]}

    async def _me(self) -> int:
        """Return the token's own user: Zammad takes no ticket without a customer."""
        self._account = me = told(await self._api.ask("GET", "/api/v1/users/me"), _Me).id
        if me is None:
            raise Failed("permanent", f"{SEES_NOTHING}: Zammad takes us for nobody; has the token expired?")
        return me

    async def _tags(self, id_: int) -> list[str]:
        answer = await self._api.ask("GET", "/api/v1/tags", query={"object": "Ticket", "o_id": id_})
        return told(shaped(answer, "tags"), list[str])

    async def _articles(self, reference: str) -> list[_Article]:
        return told(await self._api.call("GET", f"/api/v1/ticket_articles/by_ticket/{safe(reference)}"), list[_Article])

    async def _search(self, tag: str, more: Mapping[str, str], sort: str, limit: int, page: int = 1) -> Any:
        """Return the tickets as the answer has them."""
        query = {
            "condition[ticket.tags][operator]": "contains one",
            "condition[ticket.tags][value]": tag,
            **more,
            "sort_by": sort,
            "order_by": "asc",
            "limit": limit,
            "per_page": limit,
            "page": page,
            **_EXPANDED,
        }
        return await self._api.ask("GET", "/api/v1/tickets/search", query=query)

    def _remote(self, ticket: _Ticket) -> Remote:
        return Remote(
            str(ticket.id),
            f"#{ticket.number}",
            f"{self._api.url}/#ticket/zoom/{ticket.id}",
            self._shows.get(ticket.state),
            ticket.owner if ticket.owner not in {None, "", "-"} else None,
            changed_at=moment(ticket.updated_at),
        )


def _markup(draft: Draft) -> str:
    return f"{as_html(draft.story)}<p>{mark(draft.ticket)}</p>"


def _story(draft: Draft) -> dict[str, Any]:
    return {**_note(_markup(draft)), "subject": one_line(draft.title, 250), "content_type": "text/html"}


def _note(text: str) -> dict[str, Any]:
    return {"body": text, "content_type": "text/plain", "type": "note", "internal": True}
