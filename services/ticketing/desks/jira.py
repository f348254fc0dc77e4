"""Jira and Jira Service Management, Cloud and Data Center: an issue that carries our id as a label."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from services.ticketing.desks import MOST, Draft, Failed, News, Remark, Remarks, Remote
from services.ticketing.desks.api import (
    MARK,
    Account,
    Api,
    Budget,
    allowed,
    basic,
    each,
    is_own,
    mark,
    moment,
    newest_first,
    number,
    one_line,
    reached,
    safe,
    shaped,
    told,
    with_given,
)
from services.ticketing.desks.signatures import check_hub, reference_in
from services.ticketing.domain.story import Paragraph, Story, as_adf, as_text
from shared.directory import model
from shared.http.client import Outbound
from shared.wire.events import Severity, TicketState

_PRIORITIES: Mapping[Severity, str] = {
    "critical": "Highest",
    "high": "High",
    "medium": "Medium",
    "low": "Low",
    "info": "Lowest",
}
_STATES: Mapping[str, TicketState] = {
    "acknowledged": "acknowledged",
    "blocked": "waiting",
    "on hold": "waiting",
    "pending": "waiting",
    "waiting for customer": "waiting",
    "closed": "closed",
    "canceled": "cancelled",
    "cancelled": "cancelled",
    "declined": "cancelled",
    "rejected": "cancelled",
    "won't do": "cancelled",
}
"""Names of statuses that say more than their category, in lower case."""
_OF_CATEGORY: Mapping[str, TicketState] = {"new": "open", "indeterminate": "in_progress", "done": "resolved"}
_CATEGORY: Mapping[TicketState, str] = {
    "open": "new",
    "acknowledged": "indeterminate",
    "in_progress": "indeterminate",
    "waiting": "indeterminate",
    "resolved": "done",
    "closed": "done",
    "cancelled": "done",
}
_DEEPEST = 50
"""Parts within parts of a comment that are read."""
_OTHER = 9
"""How far a status is from a state of another category."""
_FIELDS = "status,assignee,resolution,labels,updated"


class _Category(msgspec.Struct):
    key: str


class _Status(msgspec.Struct, rename="camel"):
    name: str
    status_category: _Category


class _User(msgspec.Struct, rename="camel"):
    email_address: str | None = None
    name: str | None = None
    display_name: str | None = None
    account_id: str | None = None

    @property
    def known_as(self) -> str | None:
        return self.email_address or self.name or self.display_name

    @property
    def account(self) -> str | None:
        """What tells it from others: the Cloud has ids, Data Center has names."""
        return self.account_id or self.name


class _Resolution(msgspec.Struct):
    name: str


class _Fields(msgspec.Struct):
    status: _Status
    updated: str
    assignee: _User | None = None
    resolution: _Resolution | None = None
    labels: list[str] = []


class _Issue(msgspec.Struct):
    id: str
    key: str
    fields: _Fields


class _Field(msgspec.Struct, rename="camel"):
    required: bool = False
    has_default_value: bool = False


class _Transition(msgspec.Struct):
    id: str
    to: _Status
    fields: dict[str, _Field] = {}


class _Node(msgspec.Struct):
    """A part of a document."""

    type: str = ""
    text: str = ""
    attrs: dict[str, Any] = {}
    content: list[_Node] = []


class _Comment(msgspec.Struct):
    id: str
    created: str
    body: str | _Node
    author: _User = msgspec.field(default_factory=_User)


class Jira:
    """Creates issues in the project whose key is `group`.

    Settings: with `user_env` Basic (Cloud), else a personal access token (Data Center).
    Options: `deployment` cloud (default) or server; `issue_type` (Task); `priority` no: leave it out, where the project
    has none; `priority_critical` to `priority_info`: names of priorities; `resolution` (Done): set where a transition
    asks for one; by each of our states (`open`, `waiting`, ...) the name of the status that means it, where its name
    and its category do not say so.

    A move goes by the transitions that the workflow offers, to the best status of the wanted category. Without a status
    of such a name, acknowledged and waiting read back as in_progress, closed and cancelled as resolved.
    """

    settles = 60.0  # JQL reads an index that is brought up to date later
    readable = True
    rewrites = True
    opens_with_story = True
    room = 32_000  # of 32,767 characters

    def __init__(
        self, name: str, settings: model.Desk, secrets: Mapping[str, str], outbound: Outbound, budget: Budget
    ) -> None:
        """Take the settings. Raises Failed without `group`."""
        if settings.group is None:
            raise Failed("permanent", "a jira desk needs `group`: the key of the project")
        user, token = secrets.get("user"), secrets["token"]
        headers = {"authorization": f"Bearer {token}"} if user is None else basic(user, token)
        self._api = Api(name, settings.url, headers, outbound, budget)
        self._project = settings.group
        self._options = options = settings.options
        self._server = options.get("deployment") == "server"
        self._rest = "/rest/api/2" if self._server else "/rest/api/3"
        self._priorities = {one: options.get(f"priority_{one}", name) for one, name in _PRIORITIES.items()}
        chosen: dict[str, TicketState] = {options[one].lower(): one for one in _CATEGORY if one in options}
        self._states: Mapping[str, TicketState] = {**_STATES, **chosen}
        self._fields = settings.fields
        self._account = Account(self._me, "Jira")

    async def who_am_i(self) -> str | None:
        """Return the account's id; with a token that has expired Jira shows what everybody sees, and no error."""
        return await self._account.now()

    async def find(self, ticket: UUID) -> Sequence[Remote]:
        """Return the issues that carry our id."""
        found = await self._search(f'labels = "{mark(ticket)}" ORDER BY created ASC')
        issues = told(found, list[_Issue])
        return [self._remote(issue) for issue in issues if mark(ticket) in issue.fields.labels]

    async def create(self, draft: Draft) -> Remote:
        """Create an issue, in the workflow's first status."""
        fields: dict[str, Any] = {
            "project": {"key": self._project},
            "issuetype": {"name": self._options.get("issue_type", "Task")},
            "labels": [MARK, mark(draft.ticket)],
            **self._titled(draft),
            "description": self._markup(draft.story),
        }
        fields = with_given(fields, self._fields.get("create", {}))
        answer = await self._api.ask("POST", f"{self._rest}/issue", {"fields": fields})
        id_, key = told(shaped(answer, "id"), str), told(shaped(answer, "key"), str)
        return Remote(id_, key, self._page(key), "open")

    async def describe(self, reference: str, draft: Draft) -> None:
        """Set summary and priority."""
        await self._api.call("PUT", self._path(reference), {"fields": self._titled(draft)})

    async def tell(self, reference: str, draft: Draft, story: Story) -> None:
        """Set the description."""
        await self._api.call("PUT", self._path(reference), {"fields": {"description": self._markup(story)}})

    async def move(self, reference: str, draft: Draft, state: TicketState) -> bool:
        """Take the transition that leads nearest to a state."""
        path = self._path(reference)
        step = await self._step(path, state)
        if step is None:
            return False
        await self._api.call("POST", f"{path}/transitions", step)
        return True

    async def remark(self, reference: str, draft: Draft, text: str) -> None:
        """Append a comment that portal users do not see."""
        hidden = {"key": "sd.public.comment", "value": {"internal": True}}
        body = {"body": self._markup((Paragraph(text),)), "properties": [hidden]}
        await self._api.call("POST", f"{self._path(reference)}/comment", body)

    async def read(self, reference: str) -> Remote:
        """Return an issue."""
        return self._remote(await self._issue(self._path(reference)))

    async def remarks(self, reference: str, after: str | None) -> Remarks:
        """Return comments."""

        async def page(skip: int, count: int) -> list[_Comment]:
            query = {"orderBy": "-created", "startAt": skip, "maxResults": count}
            answer = await self._api.call("GET", f"{self._path(reference)}/comment", query=query)
            return told(shaped(answer, "comments"), list[_Comment])

        comments, upto, skipped = await newest_first(page, lambda one: number(one.id), after)
        me = await self._account.known() if comments else None
        remarks = [
            Remark(
                one.id, one.author.known_as or "", _plain(one.body), moment(one.created), is_own(one.author.account, me)
            )
            for one in comments
        ]
        return Remarks(remarks, upto, skipped=skipped)

    async def changed(self, since: datetime, skip: int = 0) -> Sequence[Remote]:
        """Return up to a hundred issues, the longest unchanged first."""
        # JQL takes a written time for one in the account's zone; milliseconds are the same everywhere.
        since_ms = int(since.timestamp() * 1000)
        found = await self._search(f'labels = "{MARK}" AND updated >= {since_ms} ORDER BY updated ASC', skip)
        return each(found, _Issue, self._remote)

    async def redact(self, reference: str, draft: Draft) -> str:
        """Do nothing more than what setting the texts does."""
        return "earlier texts in the issue's history, and its comments; in Jira only deleting the issue removes them"

    async def remove(self, reference: str) -> bool:
        """Delete an issue, where the account has that permission."""
        return await allowed(self._api.call("DELETE", self._path(reference)))

    def heard(self, headers: Mapping[str, str], body: bytes, secret: str, now: datetime) -> News:
        """Return the issue of a webhook with a secret."""
        check_hub(headers, body, secret, "sha256")
        return News(reference_in(body, ("issue", "id")))

    def _path(self, reference: str) -> str:
        return f"{self._rest}/issue/{safe(reference)}"

    async def _me(self) -> str | None:
        return told(await self._api.ask("GET", f"{self._rest}/myself"), _User).account

    def _titled(self, draft: Draft) -> dict[str, Any]:
        priority = {"priority": {"name": self._priorities[draft.severity]}}
        return {
            "summary": one_line(draft.title, 255),
            **({} if self._options.get("priority") == "no" else priority),
        }

    def _markup(self, story: Story) -> str | dict[str, Any]:
        return as_text(story) if self._server else as_adf(story)

    def _page(self, key: str) -> str:
        return f"{self._api.url}/browse/{key}"

    def _remote(self, issue: _Issue) -> Remote:
        fields = issue.fields
        return Remote(
            issue.id,
            issue.key,
            self._page(issue.key),
            self._state(fields.status),
            None if fields.assignee is None else fields.assignee.known_as,
            None if fields.resolution is None else fields.resolution.name,
            moment(fields.updated),
        )

    def _state(self, status: _Status) -> TicketState | None:
        return self._states.get(status.name.lower()) or _OF_CATEGORY.get(status.status_category.key)

    async def _issue(self, path: str) -> _Issue:
        return told(await self._api.call("GET", path, query={"fields": _FIELDS}), _Issue)

    async def _search(self, jql: str, skip: int = 0) -> Any:
        """Return the issues as the answer has them."""
        query: dict[str, str | int] = {"jql": jql, "fields": _FIELDS, "maxResults": MOST}
        if self._server:
            query |= {"startAt": skip} if skip else {}
            answer = await self._api.ask("GET", f"{self._rest}/search", query=query)
            return shaped(answer, "issues")
        answer = await self._api.ask("GET", f"{self._rest}/search/jql", query=query)
        for _ in range(skip // MOST):  # Cloud has no places, only a token for the next page
            token = answer.get("nextPageToken") if isinstance(answer, dict) else None  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]
            if not isinstance(token, str):
                return []
            answer = await self._api.ask("GET", f"{self._rest}/search/jql", query={**query, "nextPageToken": token})
        return shaped(answer, "issues")

    async def _step(self, path: str, wanted: TicketState) -> dict[str, Any] | None:
        """Return the transition that leads to a state, None where the issue is there."""
        status = (await self._issue(path)).fields.status
        if reached(self._state(status), wanted):
            return None
        answer = await self._api.call("GET", f"{path}/transitions", query={"expand": "transitions.fields"})
        offered = told(shaped(answer, "transitions"), list[_Transition])
        best = min(offered, key=lambda one: self._fit(one.to, wanted), default=None)
        fit = _OTHER if best is None else self._fit(best.to, wanted)
        if fit > 0 and status.status_category.key == _CATEGORY[wanted]:
            return None  # as near as this workflow comes
        if best is None or fit == _OTHER:
            names = ", ".join(one.to.name for one in offered) or "none"
            raise Failed(
                "permanent",
                f"from {status.name!r} no transition leads to {wanted}; it offers {names}: "
                f"the option `{wanted}` can name one",
                refusal=True,
            )
        step: dict[str, Any] = {"transition": {"id": best.id}}
        given = dict(self._fields.get(wanted, {}))
        comment = given.pop("comment", None)
        if "resolution" in best.fields:
            given.setdefault("resolution", {"name": self._options.get("resolution", "Done")})
        asked = (name for name, field in best.fields.items() if field.required and not field.has_default_value)
        missing = [name for name in asked if name not in given]
        if missing:
            raise Failed(
                "permanent",
                f"the transition to {best.to.name!r} asks for {', '.join(sorted(missing))}: "
                f"give them in `fields: {{{wanted}: ...}}` of the desk",
                refusal=True,
            )
        if given:
            step["fields"] = given
        if comment is not None:
            step["update"] = {"comment": [{"add": {"body": self._markup((Paragraph(str(comment)),))}}]}
        return step

    def _fit(self, status: _Status, wanted: TicketState) -> int:
        """Tell how far a status is from a state: 0 says just that."""
        state, category = self._state(status), status.status_category.key
        if state == wanted:
            return 0
        if category != _CATEGORY[wanted]:
            return _OTHER
        return 2 if state in {"cancelled", "waiting"} else 1


def _plain(body: str | _Node) -> str:
    """Return a comment's text."""
    if isinstance(body, str):
        return body
    return re.sub(r"\n{2,}", "\n", _lines(body)).strip()


def _lines(node: _Node, depth: int = 0) -> str:
    if node.type == "hardBreak":
        return "\n"
    if depth > _DEEPEST:
        return "…"
    own = node.text or str(node.attrs.get("text", ""))
    inner = "".join(_lines(one, depth + 1) for one in node.content)
    return own + inner + ("\n" if node.content and node.type != "doc" else "")
