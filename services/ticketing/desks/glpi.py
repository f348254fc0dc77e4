"""GLPI by its legacy REST interface (`apirest.php`): a ticket whose externalid is our id."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec

from services.ticketing.desks import MOST, Draft, Failed, Gone, News, Remark, Remarks, Remote
from services.ticketing.desks.api import (
    Account,
    Api,
    Budget,
    allowed,
    each,
    is_own,
    lines_of,
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
    with_given,
)
from services.ticketing.desks.signatures import check_secret, reference_in
from services.ticketing.domain.story import Paragraph, Story, as_html
from shared.directory import model
from shared.http.client import Outbound
from shared.wire.events import Severity, TicketState

_URGENCY: Mapping[Severity, int] = {"critical": 5, "high": 4, "medium": 3, "low": 2, "info": 1}
_SHOWS: Mapping[int, TicketState] = {
    1: "open",
    2: "in_progress",
    3: "in_progress",
    4: "waiting",
    5: "resolved",
    6: "closed",
}
_STATUS: Mapping[TicketState, int] = {
    "open": 1,
    "acknowledged": 2,
    "in_progress": 2,
    "waiting": 4,
    "resolved": 5,
    "closed": 6,
    "cancelled": 6,
}
_SHOWN = 1_000
"""Tickets that a poll looks through: GLPI's lists have no filter by time."""
_ASSIGNED = 2


class _Ticket(msgspec.Struct):
    id: int
    status: int
    date_mod: str
    externalid: str | None = None
    is_deleted: int | bool = 0


class _Followup(msgspec.Struct):
    id: int
    content: str
    date_creation: str
    users_id: int | str = 0


class _Person(msgspec.Struct):
    users_id: int | str
    type: int = 0


class _User(msgspec.Struct):
    name: str | None = None


class Glpi:
    """Creates tickets with private followups.

    Settings: the user's token (`token_env`) of an account with the technician's rights; `user_env`: the application's
    token, where the interface asks for one.
    Options: `timezone` (UTC): in which GLPI tells times; `category`: number of the ITIL category.

    Whom a ticket is on behalf of reads its description, which says nothing of what was said: the story is a private
    followup, and so is what has come since. Cancelled reads back as closed.
    """

    settles = 30.0  # the database is asked; a call that nobody waits for any more may still write for a while
    readable = True
    rewrites = False
    opens_with_story = False
    room = 60_000  # of MySQL's 65,535

    def __init__(
        self, name: str, settings: model.Desk, secrets: Mapping[str, str], outbound: Outbound, budget: Budget
    ) -> None:
        """Take the settings. Raises Failed where the time zone is none."""
        app = {"app-token": secrets["user"]} if "user" in secrets else {}
        headers = {"authorization": f"user_token {secrets['token']}", **app}
        self._api = Api(name, settings.url, headers, outbound, budget)
        self._session: str | None = None
        self._fields = settings.fields
        self._requester = settings.requester
        self._category = settings.options.get("category")
        try:
            self._zone = ZoneInfo(settings.options.get("timezone", "UTC"))
        except (ZoneInfoNotFoundError, ValueError):
            raise Failed("permanent", "the option `timezone` of the desk is no time zone") from None
        self._account = Account(self._me, "GLPI")
        self._people: dict[str, str | None] = {}

    async def who_am_i(self) -> str | None:
        """Return the number of the token's user."""
        return await self._account.now()

    async def find(self, ticket: UUID) -> Sequence[Remote]:
        """Return the tickets that carry our id."""
        query = {"searchText[externalid]": str(ticket), "range": "0-9", "sort": "id", "order": "ASC"}
        found = told(await self._ask("GET", "/apirest.php/Ticket", query=query), list[_Ticket])
        # A field that this version does not know is left out, and everything matches.
        return [self._remote(one) for one in found if one.externalid == str(ticket) and not one.is_deleted]

    async def create(self, draft: Draft) -> Remote:
        """Create a ticket in status new."""
        ticket: dict[str, Any] = {
            **_titled(draft),
            "content": as_html(draft.opening),
            "type": 1,
            "externalid": str(draft.ticket),
        }
        if self._category is not None:
            ticket["itilcategories_id"] = self._category
        if self._requester is not None:
            ticket["_users_id_requester"] = 0
            ticket["_users_id_requester_notif"] = {"use_notification": [1], "alternative_email": [self._requester]}
        ticket = with_given(ticket, self._fields.get("create", {}))
        answer = await self._ask("POST", "/apirest.php/Ticket", {"input": ticket})
        reference = told(shaped(answer, "id"), int)
        return Remote(str(reference), f"#{reference}", self._page(reference), "open")

    async def describe(self, reference: str, draft: Draft) -> None:
        """Set name, urgency and impact."""
        await self._put(reference, _titled(draft))

    async def tell(self, reference: str, draft: Draft, story: Story) -> None:
        """Append a private followup."""
        await self._follow(reference, f"{as_html(story)}<p>{mark(draft.ticket)}</p>")

    async def move(self, reference: str, draft: Draft, state: TicketState) -> bool:
        """Set the status; what is resolved gets a solution, which GLPI asks for."""
        ticket = await self._ticket(reference)
        if reached(_SHOWS.get(ticket.status), state):
            return False
        given = self._fields.get(state, {})
        if state == "resolved":
            said = draft.resolution or draft.root_cause or "Resolved in Fiilis"
            solution = {"itemtype": "Ticket", "items_id": number(reference), "content": as_html((Paragraph(said),))}
            await self._call("POST", "/apirest.php/ITILSolution", {"input": {**solution, **given}})
        if state != "resolved" or (await self._ticket(reference)).status != _STATUS["resolved"]:
            await self._put(reference, {"status": _STATUS[state], **given})
        return True

    async def remark(self, reference: str, draft: Draft, text: str) -> None:
        """Append a private followup."""
        await self._follow(reference, as_html((Paragraph(text),)))

    async def read(self, reference: str) -> Remote:
        """Return a ticket, with who it is assigned to."""
        ticket = await self._ticket(reference)
        return self._remote(ticket, await self._assignee(reference))

    async def remarks(self, reference: str, after: str | None) -> Remarks:
        """Return followups that do not tell our story."""
        followups, upto, skipped = await self._since(reference, after)
        me = await self._account.known() if followups else None
        remarks: list[Remark] = []
        for one in followups:
            text, author = _plain(one.content), str(one.users_id)
            own = is_own(author, me)
            if not tells_story(text, own):
                by = await self._name(author)
                remarks.append(Remark(str(one.id), by or "", text, self._moment(one.date_creation), own))
        return Remarks(remarks, upto, skipped=skipped)

    async def changed(self, since: datetime, skip: int = 0) -> Sequence[Remote]:
        """Return up to a hundred tickets, the longest unchanged first, of the thousand that changed last."""
        rows: list[Any] = []
        while len(rows) < _SHOWN:
            query = {"range": f"{len(rows)}-{len(rows) + MOST - 1}", "sort": "date_mod", "order": "DESC"}
            page = told(await self._ask("GET", "/apirest.php/Ticket", query=query) or [], list[Any])
            found = each(page, _Ticket, self._remote)
            rows += [one for one in found if one.changed_at is None or one.changed_at >= since]
            if len(page) < MOST or any(one.changed_at is not None and one.changed_at < since for one in found):
                break
        return rows[::-1][skip : skip + MOST]

    async def redact(self, reference: str, draft: Draft) -> str:
        """Delete our followups that tell of answers, as far as GLPI lets us."""
        followups, _, _ = await self._since(reference, None)
        me = await self._account.known() if followups else None
        kept = 0
        for one in followups:
            if tells_story(_plain(one.content), is_own(str(one.users_id), me)):
                kept += not await allowed(self._call("DELETE", f"/apirest.php/ITILFollowup/{one.id}"))
        left = "followups that people wrote, and earlier names in the ticket's history"
        return f"{kept} followups of ours, which GLPI does not let us delete; {left}" if kept else left

    async def remove(self, reference: str) -> bool:
        """Put a ticket into the bin."""
        return await allowed(self._call("DELETE", _path(reference)))

    def heard(self, headers: Mapping[str, str], body: bytes, secret: str, now: datetime) -> News:
        """Return the ticket of a request of GLPI's webhooks, with the secret in the header x-fiilis-secret."""
        check_secret(headers, secret)
        return News(reference_in(body, ("id",), ("item", "id")))

    async def _since(self, reference: str, after: str | None) -> tuple[list[_Followup], str | None, bool]:
        """Return followups as `newest_first` does."""

        async def page(skip: int, count: int) -> list[_Followup]:
            query = {"range": f"{skip}-{skip + count - 1}", "sort": "id", "order": "DESC"}
            return told(await self._call("GET", f"{_path(reference)}/ITILFollowup", query=query) or [], list[_Followup])

        return await newest_first(page, lambda one: number(one.id), after)

    async def _follow(self, reference: str, content: str) -> None:
        followup = {"itemtype": "Ticket", "items_id": number(reference), "content": content, "is_private": 1}
        await self._call("POST", "/apirest.php/ITILFollowup", {"input": followup})

    async def _put(self, reference: str, ticket: Mapping[str, Any]) -> None:
        await self._call("PUT", _path(reference), {"input": ticket})

    async def _ticket(self, reference: str) -> _Ticket:
        ticket = told(await self._call("GET", _path(reference)), _Ticket)
        if ticket.is_deleted:
            raise Gone("the ticket is in the bin")
        return ticket

    async def _assignee(self, reference: str) -> str | None:
        answer = await self._call("GET", f"{_path(reference)}/Ticket_User")
        people = [one for one in told(answer or [], list[_Person]) if one.type == _ASSIGNED]
        return await self._name(str(people[0].users_id)) if people else None

    async def _name(self, user: str) -> str | None:
        """Return the login of a user, where our account may see it."""
        if user not in self._people and user.isdecimal():
            try:
                self._people[user] = told(await self._call("GET", f"/apirest.php/User/{user}"), _User).name
            except Gone:
                self._people[user] = None
            except Failed as failed:
                if not failed.refusal and failed.kind != "permanent":
                    raise
                self._people[user] = None
        return self._people.get(user)

    async def _me(self) -> str | None:
        answer = await self._ask("GET", "/apirest.php/getFullSession")
        me = shaped(answer, "session").get("glpiID") if isinstance(shaped(answer, "session"), dict) else None
        return str(me) if isinstance(me, int | str) and me else None

    # ---- sessions

    async def _call(
        self, method: str, path: str, body: Any = None, *, query: Mapping[str, str | int] | None = None
    ) -> Any:
        """Call within a session, and once more in a new one where it has ended. Raises as `Api.call`."""
        for attempt in (1, 2):
            if self._session is None:
                answer = await self._api.ask("GET", "/apirest.php/initSession")
                self._session = told(shaped(answer, "session_token"), str)
            headers = {"session-token": self._session}
            try:
                return await self._api.call(method, path, body, query=query, headers=headers)
            except Failed as failed:
                if attempt == 2 or "ERROR_SESSION_TOKEN_INVALID" not in failed.detail:
                    raise
                self._session = None
        raise AssertionError

    async def _ask(
        self, method: str, path: str, body: Any = None, *, query: Mapping[str, str | int] | None = None
    ) -> Any:
        """Call what names no ticket."""
        try:
            return await self._call(method, path, body, query=query)
        except Gone as gone:
            raise Failed("permanent", f"{gone}: is the desk's url that of GLPI?") from None

    def _moment(self, text: str) -> datetime:
        """Return the time in an answer, which GLPI tells in its own zone."""
        at = moment(text)
        return at.replace(tzinfo=self._zone) if "+" not in text and not text.endswith("Z") else at

    def _page(self, reference: int) -> str:
        return f"{self._api.url}/front/ticket.form.php?id={reference}"

    def _remote(self, ticket: _Ticket, assignee: str | None = None) -> Remote:
        at = self._moment(ticket.date_mod)
        page = self._page(ticket.id)
        return Remote(str(ticket.id), f"#{ticket.id}", page, _SHOWS.get(ticket.status), assignee, changed_at=at)


def _path(reference: str) -> str:
    return f"/apirest.php/Ticket/{safe(reference)}"


def _titled(draft: Draft) -> dict[str, Any]:
    urgency = _URGENCY[draft.severity]
    return {"name": one_line(draft.title, 250), "urgency": urgency, "impact": urgency}


def _plain(content: str) -> str:
    """Return a followup's text: HTML, which older versions have escaped as a whole."""
    markup = content.replace("&#60;", "<").replace("&#62;", ">")
    return lines_of(markup if "<" in markup else html.unescape(markup))
