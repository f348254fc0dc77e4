"""Zammad: a ticket that carries our id as a tag."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
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
from services.ticketing.desks.signatures import check_hub, reference_in
from services.ticketing.domain.story import Story, as_html
from shared.directory import model
from shared.http.client import Outbound
from shared.runtime.logs import Log
from shared.wire.events import Severity, TicketState

log = Log("ticketing")

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
    article_ids: list[int] | None = None


class _Link(msgspec.Struct):
    link_type: str = ""
    link_object_value: int | str = ""


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

    A note cannot be changed: what has come since is appended as a further note.
    New reads back as open, open as in_progress (so open and acknowledged do too), closed as resolved (so closed and
    cancelled do too; the latter has the tag fiilis-cancelled).
    """

    settles = 30.0  # by conditions its database is asked, not its search index; a slow call may still be writing
    readable = True
    rewrites = False
    opens_with_story = True
    room = 200_000

    def __init__(
        self, name: str, settings: model.Desk, secrets: Mapping[str, str], outbound: Outbound, budget: Budget
    ) -> None:
        self._api = Api(name, settings.url, {"authorization": f"Token token={secrets['token']}"}, outbound, budget)
        self._group = settings.group or "Users"
        self._requester = settings.requester
        options = settings.options
        self._priorities = {one: options.get(f"priority_{one}", name) for one, name in _PRIORITIES.items()}
        self._states = {one: options.get(one, name) for one, name in _STATES.items()}
        chosen: dict[str, TicketState] = {options[one]: one for one in _STATES if one in options}
        self._shows: Mapping[str, TicketState] = {**_SHOWS, **chosen}
        self._fields = settings.fields
        self._account = Account(self._me, "Zammad")

    async def who_am_i(self) -> str | None:
        """Return the id of the token's user."""
        return await self._account.now()

    async def find(self, ticket: UUID) -> Sequence[Remote]:
        """Return the tickets that carry our id."""
        found = told(await self._search(mark(ticket), {}, "created_at", 10), list[_Ticket])
        # A condition that this version does not know would match everything.
        return [self._remote(one) for one in found if mark(ticket) in await self._tags(one.id)]

    async def create(self, draft: Draft) -> Remote:
        """Create a ticket in state new."""
        requester = self._requester
        body = {
            **self._titled(draft),
            "group": self._group,
            "customer_id": int(await self._account.now()) if requester is None else f"guess:{requester}",
            "state": "new",
            "tags": [MARK, mark(draft.ticket)],
            "article": _story(draft.title, draft.ticket, draft.story),
        }
        body = with_given(body, self._fields.get("create", {}))
        body["tags"] = ",".join(map(str, body["tags"]))
        answer = await self._api.ask("POST", "/api/v1/tickets", body, query=_EXPANDED)
        return self._remote(told(answer, _Ticket))

    async def describe(self, reference: str, draft: Draft) -> None:
        """Set title and priority."""
        await self._api.call("PUT", _path(reference), self._titled(draft))

    async def tell(self, reference: str, draft: Draft, story: Story) -> None:
        """Append an internal note."""
        await self._api.call("PUT", _path(reference), {"article": _story(draft.title, draft.ticket, story)})

    async def move(self, reference: str, draft: Draft, state: TicketState) -> bool:
        """Set the state."""
        if reached((await self.read(reference)).state, state):
            return False
        body: dict[str, Any] = {"state": self._states[state], **self._fields.get(state, {})}
        if state == "waiting":
            body["pending_time"] = (datetime.now(UTC) + _REMINDER).strftime("%Y-%m-%dT%H:%M:%SZ")
        await self._api.call("PUT", _path(reference), body)
        if state == "cancelled":
            tag = {"object": "Ticket", "o_id": int(reference), "item": f"{MARK}-cancelled"}
            await self._api.call("POST", "/api/v1/tags/add", tag)
        return True

    async def remark(self, reference: str, draft: Draft, text: str) -> None:
        """Append an internal note."""
        await self._api.call("PUT", _path(reference), {"article": _note(text)})

    async def read(self, reference: str) -> Remote:
        """Return a ticket; of one that was merged, with the one that it became a part of."""
        ticket = await self._ticket(reference)
        remote = self._remote(ticket)
        if ticket.state == "merged" and remote.state is None:
            return replace(remote, merged_into=await self._target(reference))
        return remote

    async def remarks(self, reference: str, after: str | None) -> Remarks:
        """Return articles that do not tell our story, each asked for by itself: a list of them has all texts whole."""
        known = int(after) if after is not None else 0
        ids = (await self._ticket(reference)).article_ids
        if ids is None:
            articles = [one for one in await self._articles(reference) if number(one.id) > known]
        else:
            new = sorted(one for one in ids if number(one) > known)
            articles = [one for id_ in new[:PAGE] if (one := await self._article(id_)) is not None]
            known = max([known, *new[:PAGE]])
        me = await self._account.known() if articles else None
        remarks = [
            Remark(str(one.id), one.created_by or "", one.text, moment(one.created_at), own)
            for one in articles
            if not tells_story(one.text, own := is_own(one.created_by_id, me))
        ]
        upto = max([known, *(number(one.id) for one in articles)])
        return Remarks(remarks, str(upto), more=ids is not None and any(one > upto for one in ids))

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
        """Delete our notes that tell of answers, as far as Zammad lets us."""
        kept = 0
        articles = await self._articles(reference)
        me = await self._account.known() if articles else None
        for note in articles:
            if tells_story(note.text, is_own(note.created_by_id, me)):
                try:
                    with suppress(Gone):
                        await self._api.call("DELETE", f"/api/v1/ticket_articles/{note.id}")
                except Failed as failed:
                    if failed.kind != "permanent":
                        raise
                    kept += 1
        left = "articles that people wrote, and earlier titles in the ticket's history"
        return f"{kept} notes of ours, which Zammad says are too old to be deleted; {left}" if kept else left

    async def remove(self, reference: str) -> bool:
        """Delete a ticket, which only an administrator may."""
        return await allowed(self._api.call("DELETE", _path(reference)))

    def heard(self, headers: Mapping[str, str], body: bytes, secret: str, now: datetime) -> News:
        """Return the ticket of a webhook with a signature token."""
        check_hub(headers, body, secret, "sha1")
        return News(reference_in(body, ("ticket", "id")))

    def _titled(self, draft: Draft) -> dict[str, Any]:
        return {"title": one_line(draft.title, 250), "priority": self._priorities[draft.severity]}

    async def _me(self) -> int | None:
        """Return the token's own user: Zammad takes no ticket without a customer."""
        return told(await self._api.ask("GET", "/api/v1/users/me"), _Me).id

    async def _ticket(self, reference: str) -> _Ticket:
        return told(await self._api.call("GET", _path(reference), query=_EXPANDED), _Ticket)

    async def _target(self, reference: str) -> str:
        """Return the ticket that one was merged into, empty where no link leads to it."""
        query = {"link_object": "Ticket", "link_object_value": reference}
        try:
            answer = await self._api.call("GET", "/api/v1/links", query=query)
        except Gone:
            return ""
        links = told(shaped(answer, "links"), list[_Link])
        return next((str(one.link_object_value) for one in links if one.link_type == "parent"), "")

    async def _article(self, id_: int) -> _Article | None:
        """Return an article, None of one that was deleted or is too large for anybody."""
        try:
            return told(await self._api.call("GET", f"/api/v1/ticket_articles/{id_}"), _Article)
        except Gone:
            log.info("an article was deleted before it was read", article=id_)
        except TooLarge as error:
            log.warning("an article is too large to be read", article=id_, why=error.detail)
        return None

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


def _path(reference: str) -> str:
    return f"/api/v1/tickets/{safe(reference)}"


def _story(title: str, ticket: UUID, story: Story) -> dict[str, Any]:
    body = f"{as_html(story)}<p>{mark(ticket)}</p>"
    return {**_note(body), "subject": one_line(title, 250), "content_type": "text/html"}


def _note(text: str) -> dict[str, Any]:
    return {"body": text, "content_type": "text/plain", "type": "note", "internal": True}
