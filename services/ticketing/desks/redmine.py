"""Redmine by its REST interface: an issue that carries our id in a custom field."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote
from uuid import UUID

import msgspec

from services.ticketing.desks import MOST, Draft, Failed, News, Remark, Remarks, Remote
from services.ticketing.desks.api import (
    MARK,
    Account,
    Api,
    Budget,
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
    told,
    with_given,
)
from services.ticketing.desks.signatures import check_secret, reference_in
from services.ticketing.domain.story import Story, as_text
from shared.directory import model
from shared.http.client import Outbound
from shared.wire.events import Severity, TicketState

_PRIORITIES: Mapping[Severity, str] = {
    "critical": "Immediate",
    "high": "Urgent",
    "medium": "High",
    "low": "Normal",
    "info": "Low",
}
_STATUSES: Mapping[TicketState, str] = {
    "open": "New",
    "acknowledged": "In Progress",
    "in_progress": "In Progress",
    "waiting": "Feedback",
    "resolved": "Resolved",
    "closed": "Closed",
    "cancelled": "Rejected",
}
_SHOWS: Mapping[str, TicketState] = {
    "New": "open",
    "In Progress": "in_progress",
    "Feedback": "waiting",
    "Resolved": "resolved",
    "Closed": "closed",
    "Rejected": "cancelled",
}


class _Named(msgspec.Struct):
    id: int
    name: str = ""


class _Field(msgspec.Struct):
    id: int
    value: Any = None


class _Fielded(msgspec.Struct):
    custom_fields: list[_Named] = []


class _Issue(msgspec.Struct):
    id: int
    status: _Named
    updated_on: str
    assigned_to: _Named | None = None
    custom_fields: list[_Field] = []


class _Journal(msgspec.Struct):
    id: int
    user: _Named
    created_on: str
    notes: str | None = None


class _Me(msgspec.Struct):
    id: int | None = None


class Redmine:
    """Creates issues in the project `group`.

    Settings: the API key of an account that may see, add and edit issues, and add and see private notes.
    Options: `field` (ExternalID): the custom field of issues, a text that is used as a filter, that holds our id: by
    name where the project or one of its issues shows it, else by number; `tracker`: by name, default the project's
    first; by each of our states the name of Redmine's status; `priority_critical` to `priority_info`: names of
    priorities.

    The description is the story: whoever may see the issue reads it. Notes are private. A status that the workflow does
    not allow is left out without a word, which is found out by reading. An issue's notes come all at once.
    """

    settles = 30.0  # the database is asked; a call that nobody waits for any more may still write for a while
    readable = True
    rewrites = True
    opens_with_story = True
    room = 60_000  # of MySQL's 65,535

    def __init__(
        self, name: str, settings: model.Desk, secrets: Mapping[str, str], outbound: Outbound, budget: Budget
    ) -> None:
        """Take the settings. Raises Failed without `group`."""
        if settings.group is None:
            raise Failed("permanent", "a redmine desk needs `group`: the identifier of the project")
        self._api = Api(name, settings.url, {"x-redmine-api-key": secrets["token"]}, outbound, budget)
        self._project = settings.group
        self._fields = settings.fields
        self._options = options = settings.options
        self._priorities = {one: options.get(f"priority_{one}", name) for one, name in _PRIORITIES.items()}
        self._statuses = {one: options.get(one, name) for one, name in _STATUSES.items()}
        chosen: dict[str, TicketState] = {options[one]: one for one in _STATUSES if one in options}
        self._shows: Mapping[str, TicketState] = {**_SHOWS, **chosen}
        self._account = Account(self._me, "Redmine")
        self._ids: dict[str, dict[str, int]] = {}
        """Of what the interface wants numbers for: by list and name."""

    async def who_am_i(self) -> str | None:
        """Return the number of the key's user."""
        return await self._account.now()

    async def find(self, ticket: UUID) -> Sequence[Remote]:
        """Return the issues that carry our id."""
        field = await self._field()
        found = await self._search({f"cf_{field}": mark(ticket), "sort": "id"})
        issues = told(found, list[_Issue])
        # A filter on a field that is none is left out and matches everything.
        return [
            self._remote(one)
            for one in issues
            if any(f.id == field and f.value == mark(ticket) for f in one.custom_fields)
        ]

    async def create(self, draft: Draft) -> Remote:
        """Create an issue in the tracker's first status."""
        issue: dict[str, Any] = {
            "project_id": self._project,
            **await self._titled(draft),
            "description": as_text(draft.story),
            "custom_fields": [{"id": await self._field(), "value": mark(draft.ticket)}],
        }
        if "tracker" in self._options:
            issue["tracker_id"] = await self._id("trackers", self._options["tracker"])
        issue = with_given(issue, self._fields.get("create", {}))
        answer = await self._api.ask("POST", "/issues.json", {"issue": issue})
        return self._remote(told(shaped(answer, "issue"), _Issue))

    async def describe(self, reference: str, draft: Draft) -> None:
        """Set subject and priority."""
        await self._put(reference, await self._titled(draft))

    async def tell(self, reference: str, draft: Draft, story: Story) -> None:
        """Set the description."""
        await self._put(reference, {"description": as_text(story)})

    async def move(self, reference: str, draft: Draft, state: TicketState) -> bool:
        """Set the status."""
        issue = await self._issue(reference)
        if reached(self._shows.get(issue.status.name), state):
            return False
        status = await self._id("issue_statuses", self._statuses[state])
        await self._put(reference, {"status_id": status, **self._fields.get(state, {})})
        return True

    async def remark(self, reference: str, draft: Draft, text: str) -> None:
        """Append a private note."""
        await self._put(reference, {"notes": text, "private_notes": True})

    async def read(self, reference: str) -> Remote:
        """Return an issue."""
        return self._remote(await self._issue(reference))

    async def remarks(self, reference: str, after: str | None) -> Remarks:
        """Return notes; Redmine has them all in one answer."""
        answer = await self._api.call("GET", f"/issues/{safe(reference)}.json", query={"include": "journals"})
        known = int(after) if after is not None else 0
        journals = told(shaped(answer, "issue", "journals"), list[_Journal])
        new = [one for one in journals if number(one.id) > known and one.notes]
        me = await self._account.known() if new else None
        remarks = [
            Remark(str(one.id), one.user.name, one.notes or "", moment(one.created_on), is_own(one.user.id, me))
            for one in new
        ]
        return Remarks(remarks, str(max([known, *(one.id for one in journals)])))

    async def changed(self, since: datetime, skip: int = 0) -> Sequence[Remote]:
        """Return up to a hundred issues, the longest unchanged first."""
        at = since.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        query: dict[str, str | int] = {f"cf_{await self._field()}": f"~{MARK}-", "updated_on": f">={at}"}
        found = await self._search({**query, "sort": "updated_on", "offset": skip})
        return each(found, _Issue, self._remote)

    async def redact(self, reference: str, draft: Draft) -> str:
        """Do nothing more than what setting the texts does."""
        return "earlier texts in the issue's history, and its notes; in Redmine only deleting the issue removes them"

    async def remove(self, reference: str) -> bool:
        """Delete an issue, where the account has that permission."""
        return await allowed(self._api.call("DELETE", f"/issues/{safe(reference)}.json"))

    def heard(self, headers: Mapping[str, str], body: bytes, secret: str, now: datetime) -> News:
        """Return the issue of a request that a plug-in sends: `{"id": 20}`, with the secret in x-fiilis-secret."""
        check_secret(headers, secret)
        return News(reference_in(body, ("id",), ("payload", "issue", "id")))

    async def _me(self) -> int | None:
        return told(shaped(await self._api.ask("GET", "/users/current.json"), "user"), _Me).id

    async def _titled(self, draft: Draft) -> dict[str, Any]:
        priority = await self._id("enumerations/issue_priorities", self._priorities[draft.severity])
        return {"subject": one_line(draft.title, 250), "priority_id": priority}

    async def _put(self, reference: str, issue: dict[str, Any]) -> None:
        await self._api.call("PUT", f"/issues/{safe(reference)}.json", {"issue": issue})

    async def _issue(self, reference: str) -> _Issue:
        return told(shaped(await self._api.call("GET", f"/issues/{safe(reference)}.json"), "issue"), _Issue)

    async def _search(self, query: Mapping[str, str | int]) -> Any:
        """Return the issues as the answer has them."""
        more = {"status_id": "*", "limit": MOST, **query}
        return shaped(await self._api.ask("GET", "/issues.json", query=more), "issues")

    async def _id(self, kind: str, name: str) -> int:
        """Return the number of a status, priority or tracker. Raises Failed where there is none of the name."""
        if kind not in self._ids:
            answer = await self._api.ask("GET", f"/{kind}.json")
            known = told(shaped(answer, kind.rpartition("/")[2]), list[_Named])
            self._ids[kind] = {one.name: one.id for one in known}
        if name not in self._ids[kind]:
            there = ", ".join(self._ids[kind])
            del self._ids[kind]  # somebody may mend it there
            raise Failed("permanent", f"Redmine has no {name!r} among its {kind}: {there}", refusal=True)
        return self._ids[kind][name]

    async def _field(self) -> int:
        """Return the number of the custom field. Raises Failed where it is not found by its name."""
        wanted = self._options.get("field", "ExternalID")
        if wanted.isascii() and wanted.isdecimal():
            return int(wanted)
        if wanted not in self._ids.get("field", {}):
            path = f"/projects/{quote(self._project, safe='')}.json"
            answer = await self._api.ask("GET", path, query={"include": "issue_custom_fields"})
            fields = told(shaped(answer, "project", "issue_custom_fields"), list[_Named])
            if all(one.name != wanted for one in fields):
                # A field that is of all projects is none of this one's: an issue shows it.
                some = {"project_id": self._project, "status_id": "*", "limit": 1}
                issues = shaped(await self._api.ask("GET", "/issues.json", query=some), "issues")
                fields = [one for issue in told(issues, list[_Fielded]) for one in issue.custom_fields]
            self._ids["field"] = {one.name: one.id for one in fields}
        if wanted not in self._ids["field"]:
            raise Failed(
                "permanent",
                f"the project {self._project!r} shows no custom field {wanted!r} of issues: is there one? "
                "Its number can be given as the option `field`",
            )
        return self._ids["field"][wanted]

    def _remote(self, issue: _Issue) -> Remote:
        return Remote(
            str(issue.id),
            f"#{issue.id}",
            f"{self._api.url}/issues/{issue.id}",
            self._shows.get(issue.status.name),
            None if issue.assigned_to is None else issue.assigned_to.name,
            changed_at=moment(issue.updated_on),
        )
