"""ServiceNow by its Table API: an incident whose correlation_id is our id."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import msgspec

from services.ticketing.desks import MOST, NOBODYS, Draft, Failed, News, Remark, Remarks, Remote
from services.ticketing.desks.api import (
    MARK,
    PAGE,
    SEES_NOTHING,
    Api,
    Budget,
    allowed,
    basic,
    each,
    is_own,
    mark,
    moment,
    one_line,
    reached,
    safe,
    shaped,
    tells_story,
    told,
    with_given,
)
from services.ticketing.desks.signatures import check_secret, reference_in
from services.ticketing.domain.story import Story, as_text
from shared.directory import model
from shared.http.client import Outbound
from shared.wire.events import Severity, TicketState

_URGENCY: Mapping[Severity, tuple[str, str]] = {
    "critical": ("1", "1"),
    "high": ("1", "2"),
    "medium": ("2", "2"),
    "low": ("3", "2"),
    "info": ("3", "3"),
}
"""Urgency and impact, from which the desk computes the priority of the same name."""
_SHOWS: Mapping[str, TicketState] = {
    "1": "open",
    "2": "in_progress",
    "3": "waiting",
    "6": "resolved",
    "7": "closed",
    "8": "cancelled",
}
_STATE: Mapping[TicketState, str] = {
    "open": "1",
    "acknowledged": "2",
    "in_progress": "2",
    "waiting": "3",
    "resolved": "6",
    "closed": "6",  # 7 is for the desk's own job to set
    "cancelled": "8",
}
_TITLE = 160
_MOST_NOTES = 500
_NOTHING: Mapping[str, int] = {}
_FIELDS = "sys_id,number,state,correlation_id,correlation_display,close_notes,sys_updated_on,assigned_to.email"


class _Incident(msgspec.Struct, rename={"assignee": "assigned_to.email"}):
    sys_id: str
    number: str
    state: str
    sys_updated_on: str
    correlation_id: str = ""
    correlation_display: str = ""
    close_notes: str = ""
    assignee: str = ""


class _Note(msgspec.Struct):
    sys_id: str
    element_id: str
    value: str
    sys_created_by: str
    sys_created_on: str


class _User(msgspec.Struct):
    user_name: str = ""


class _Group(msgspec.Struct):
    sys_id: str
    name: str


class ServiceNow:
    """Creates incidents; `group` is the assignment group, by name or sys_id.

    Settings: with `user_env` Basic, else a bearer token. The account may read sys_journal_field (to see comments),
    itself in sys_user and, for a group by name, sys_user_group.
    Options: `table` (incident); `close_code` (Solution provided): as the release has it; `hold_reason` (1: awaiting
    caller); `caller`: sys_id of whom incidents are on behalf of, as the API knows no caller by e-mail.

    Acknowledged reads back as in_progress, closed as resolved until the desk closes it.
    """

    settles = 30.0  # the table is read itself; a call that nobody waits for any more may still write for a while
    readable = True
    opens_with_story = True
    room = 3_900  # of 4,000 characters of a description, where nobody has given it more

    def __init__(
        self, name: str, settings: model.Desk, secrets: Mapping[str, str], outbound: Outbound, budget: Budget
    ) -> None:
        user, token = secrets.get("user"), secrets["token"]
        headers = {"authorization": f"Bearer {token}"} if user is None else basic(user, token)
        self._api = Api(name, settings.url, headers, outbound, budget)
        self._group = settings.group
        self._group_id: str | None = None
        self._options = settings.options
        self._fields = settings.fields
        # Who an incident is on behalf of reads its description: then the story is a work note.
        self.rewrites = self.opens_with_story = "caller" not in settings.options
        self._table = f"/api/now/table/{safe(settings.options.get('table', 'incident'))}"
        self._user = user
        self._account = user

    async def who_am_i(self) -> str | None:
        """Return the account's name, where it may see itself or its setting says so.

        Whom rules let see no record gets no error but none, so it must see itself, or a row of the table.
        """
        name = "javascript:gs.getUserName()" if self._user is None else self._user
        query = {**_shape("user_name"), "sysparm_query": f"user_name={name}", "sysparm_limit": 2}
        answer = await self._api.ask("GET", "/api/now/table/sys_user", query=query)
        rows = told(shaped(answer, "result"), list[_User])
        if len(rows) == 1 and rows[0].user_name:  # a condition that is not understood is left out and matches all
            self._account = rows[0].user_name if self._user is None else self._user
            return self._account
        first = {**_shape("sys_id"), "sysparm_limit": 1}
        if not rows and not shaped(await self._api.ask("GET", self._table, query=first), "result"):
            raise Failed("permanent", f"{SEES_NOTHING}: neither its own user nor a record of the table; has it a role?")
        return self._account

    async def find(self, ticket: UUID) -> Sequence[Remote]:
        """Return the incidents that carry our id."""
        rows = told(await self._search(f"correlation_id={ticket}^ORDERBYsys_created_on"), list[_Incident])
        # A condition on a field that does not exist is left out and matches everything.
        return [_remote(self._api.url, row) for row in rows if row.correlation_id == str(ticket)]

    async def create(self, draft: Draft) -> Remote:
        """Create an incident in state new."""
        body: dict[str, Any] = {
            **_titled(draft),
            "description": _told(draft, draft.story) if self.rewrites else as_text(draft.opening),
            "correlation_id": str(draft.ticket),
            "correlation_display": MARK,
        }
        if self._group is not None:
            body["assignment_group"] = await self._assignment_group(self._group)
        if "caller" in self._options:
            body["caller_id"] = self._options["caller"]
        body = with_given(body, self._fields.get("create", {}))
        answer = await self._api.ask("POST", self._table, body, query=_shape(_FIELDS))
        return _remote(self._api.url, told(shaped(answer, "result"), _Incident))

    async def describe(self, reference: str, draft: Draft) -> None:
        """Set short description, urgency and impact."""
        await self._patch(reference, _titled(draft))

    async def tell(self, reference: str, draft: Draft, story: Story) -> None:
        """Set the description, or append a work note where the caller would read it."""
        if self.rewrites:
            await self._patch(reference, {"description": _told(draft, story)})
        else:
            await self._patch(reference, {"work_notes": f"{as_text(story)}\n\n{mark(draft.ticket)}"})

    async def move(self, reference: str, draft: Draft, state: TicketState) -> bool:
        """Set the state."""
        if reached((await self.read(reference)).state, state):
            return False
        await self._patch(reference, {**self._moved(draft, state), **self._fields.get(state, {})})
        return True

    async def remark(self, reference: str, draft: Draft, text: str) -> None:
        """Append a work note."""
        await self._patch(reference, {"work_notes": text})

    async def read(self, reference: str) -> Remote:
        """Return an incident."""
        answer = await self._api.call("GET", self._record(reference), query=_shape(_FIELDS))
        return _remote(self._api.url, told(shaped(answer, "result"), _Incident))

    async def remarks(self, reference: str, after: str | None) -> Remarks:
        """Return comments and work notes since a second, those of that second too."""
        since = "" if after is None else f"^sys_created_on>={after}"
        query = f"element_id={safe(reference)}^elementINcomments,work_notes{since}^ORDERBYsys_created_on"
        fields = "sys_id,element_id,value,sys_created_by,sys_created_on"
        asked = {**_shape(fields), "sysparm_query": query, "sysparm_limit": PAGE}
        rows: list[_Note] = []
        full = True
        while full and len(rows) < _MOST_NOTES:
            answer = await self._api.ask(
                "GET", "/api/now/table/sys_journal_field", query={**asked, "sysparm_offset": len(rows)}
            )
            page = told(shaped(answer, "result"), list[_Note])
            rows += page
            full = len(page) >= PAGE
        notes = [one for one in rows if one.element_id == reference]
        if not notes:
            await self.read(reference)  # one that is gone has none either
        me = self._account or (await self.who_am_i() if notes else None)
        remarks = [
            Remark(one.sys_id, one.sys_created_by, one.value, moment(one.sys_created_on), own)
            for one in notes
            if not tells_story(one.value, own := is_own(one.sys_created_by, me))
        ]
        last = max((one.sys_created_on for one in notes), default=after)
        return Remarks(remarks, last, more=full and last != after)

    async def changed(self, since: datetime, skip: int = 0) -> Sequence[Remote]:
        """Return up to a hundred incidents, the longest unchanged first."""
        at = since.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")
        query = f"correlation_display={MARK}^sys_updated_on>={at}^ORDERBYsys_updated_on"
        rows = await self._search(query, {"sysparm_offset": skip} if skip else {})
        return each(rows, _Incident, self._ours)

    async def redact(self, reference: str, draft: Draft) -> str:
        """Do nothing more than what setting the texts does: nobody can change a work note."""
        notes = "" if self.rewrites else "the story in our work notes, "
        return f"{notes}earlier texts in the incident's audit history, and its comments and work notes"

    async def remove(self, reference: str) -> bool:
        """Delete an incident."""
        return await allowed(self._api.call("DELETE", self._record(reference)))

    def heard(self, headers: Mapping[str, str], body: bytes, secret: str, now: datetime) -> News:
        """Return the incident of a request that a business rule sends: `{"sys_id": ...}`, secret in x-fiilis-secret."""
        check_secret(headers, secret)
        return News(reference_in(body, ("sys_id",)))

    def _ours(self, row: _Incident) -> Remote:
        return _remote(self._api.url, row) if row.correlation_display == MARK else NOBODYS

    async def _patch(self, reference: str, body: dict[str, Any]) -> None:
        await self._api.call("PATCH", self._record(reference), body, query=_shape("sys_id"))

    def _record(self, reference: str) -> str:
        return f"{self._table}/{safe(reference)}"

    def _moved(self, draft: Draft, state: TicketState) -> dict[str, str]:
        body = {"state": _STATE[state]}
        if state == "waiting":
            body["hold_reason"] = self._options.get("hold_reason", "1")
        if state in {"resolved", "closed"}:
            body["close_code"] = self._options.get("close_code", "Solution provided")
            body["close_notes"] = draft.resolution or draft.root_cause or "resolved in Fiilis"
        return body

    async def _search(self, query: str, more: Mapping[str, int] = _NOTHING) -> Any:
        """Return the incidents as the answer has them."""
        answer = await self._api.ask(
            "GET", self._table, query={**_shape(_FIELDS), "sysparm_query": query, "sysparm_limit": MOST, **more}
        )
        return shaped(answer, "result")

    async def _assignment_group(self, group: str) -> str:
        """Return a group's sys_id; a name would be stored as it is and lead nowhere."""
        if self._group_id is None and re.fullmatch(r"[0-9a-f]{32}", group):
            self._group_id = group
        if self._group_id is None:
            query = {**_shape("sys_id,name"), "sysparm_query": f"name={group}", "sysparm_limit": 10}
            answer = await self._api.ask("GET", "/api/now/table/sys_user_group", query=query)
            found = [one.sys_id for one in told(shaped(answer, "result"), list[_Group]) if one.name == group]
            if not found:
                raise Failed("permanent", f"the desk has no group {group!r} that its account can see", refusal=True)
            self._group_id = found[0]
        return self._group_id


def _shape(fields: str) -> dict[str, str | int]:
    return {"sysparm_fields": fields, "sysparm_exclude_reference_link": "true"}


def _titled(draft: Draft) -> dict[str, str]:
    urgency, impact = _URGENCY[draft.severity]
    return {"short_description": one_line(draft.title, _TITLE), "urgency": urgency, "impact": impact}


def _told(draft: Draft, story: Story) -> str:
    """Return the story, with the whole title where the desk has room for a part of it."""
    whole = one_line(draft.title, len(draft.title) + 1)
    return as_text(story) if len(whole) <= _TITLE else f"{whole}\n\n{as_text(story)}"


def _remote(url: str, row: _Incident) -> Remote:
    return Remote(
        row.sys_id,
        row.number,
        f"{url}/nav_to.do?uri=incident.do%3Fsys_id%3D{row.sys_id}",
        _SHOWS.get(row.state),
        row.assignee or None,
        row.close_notes or None,
        moment(row.sys_updated_on),
    )
