"""Jira: statuses that are reached by transitions only, JQL on an index, ADF in the Cloud and plain text elsewhere."""

from __future__ import annotations

import hmac
import json
import re
from datetime import UTC, datetime, timedelta
from typing import Any

from tests.support.desks import Call, FakeDesk, FakeTicket, Reply

STATUSES = {
    "To Do": "new",
    "In Progress": "indeterminate",
    "Pending": "indeterminate",
    "Resolved": "done",
    "Closed": "done",
    "Canceled": "done",
}
_PRIORITIES = {"Highest", "High", "Medium", "Low", "Lowest"}


class FakeJira(FakeDesk):
    type = "jira"
    group = "SD"
    ends_as = "Resolved"

    def __init__(self, *, server: bool = False) -> None:
        super().__init__()
        self.server = server
        self.user = None if server else "fiilis@acme.example"
        self.options = {"deployment": "server"} if server else {}
        self.workflow = {name: [other for other in STATUSES if other != name] for name in STATUSES}
        """Where each status leads, in the order in which it is offered."""
        self.asks_resolution = True
        self.asks: dict[str, tuple[str, ...]] = {}
        """Fields besides that a move to a status has on its screen, and must have."""

    def authorized(self, call: Call) -> bool:
        wanted = self.basic(self.user) if self.user else f"Bearer {self.token}"
        return call.headers.get("authorization") == wanted

    def refuse(self, status: int, why: str) -> Reply:
        return Reply(status, {"errorMessages": [why], "errors": {}})

    def answer(self, call: Call) -> Reply:
        version, _, path = call.path.removeprefix("/rest/api/").partition("/")
        if version != ("2" if self.server else "3"):
            return self.refuse(404, "no such version")
        if path == "myself":
            me = self._person(self.user or "fiilis")
            return self.refuse(401, "You must log in") if self.nobody else Reply(200, me)
        if path == ("search" if self.server else "search/jql"):
            first = call.query.get("startAt" if self.server else "nextPageToken", "0")
            return self._search(call.query["jql"], int(first), min(100, int(call.query["maxResults"])))
        if path.startswith("search"):
            return self.refuse(410, "The requested API has been removed")
        if path == "issue":
            return self._create(call.json["fields"])
        found = re.fullmatch(r"issue/(\d+)(/transitions|/comment)?", path)
        ticket = self.tickets.get(found[1]) if found else None
        if found is None or ticket is None:
            return self.refuse(404, "Issue does not exist or you do not have permission to see it.")
        if found[2] == "/transitions":
            return self._transitions(ticket) if call.method == "GET" else self._move(ticket, call.json)
        if found[2] == "/comment":
            return self._comments(ticket, call.query) if call.method == "GET" else self._comment(ticket, call.json)
        if call.method == "GET":
            return Reply(200, self._shape(ticket))
        if call.method == "DELETE":
            return self.remove(ticket) or Reply(204)
        return self._set(ticket, call.json["fields"]) or Reply(204)

    def _set(self, ticket: FakeTicket, fields: dict[str, Any]) -> Reply | None:
        if ticket.state == "Closed":
            return self.refuse(400, "You are not allowed to edit this issue due to the current status in the workflow.")
        summary = fields.get("summary", ticket.title)
        if "\n" in summary or not 0 < len(summary) <= 255:
            return self.refuse(400, "The summary is invalid because it contains newline characters.")
        severity = fields.get("priority", {"name": ticket.severity})["name"]
        if severity not in {*_PRIORITIES, ""}:
            return self.refuse(400, "The priority selected is invalid.")
        text = self._text(fields["description"]) if "description" in fields else ticket.text
        if text is None:
            return self.refuse(400, "Operation value must be an Atlassian Document")
        if len(text) > 32_767:
            return self.refuse(400, "The entered text is too long. It exceeds the allowed limit of 32,767 characters.")
        ticket.title, ticket.severity, ticket.text = summary, severity, text
        ticket.updated = self.now()
        return None

    def _create(self, fields: dict[str, Any]) -> Reply:
        number = self.number() + 10_000
        labels = set(fields["labels"])
        if fields["project"]["key"] != self.group or any(" " in label for label in labels):
            return self.refuse(400, "project: valid project is required")
        ours = next((one.removeprefix("fiilis-") for one in labels if one.startswith("fiilis-")), "")
        ticket = FakeTicket(str(number), number, ours, "", "To Do", "", tags=labels)
        refused = self._set(ticket, fields)
        if refused is not None:
            return refused
        self.keep(ticket)
        return Reply(201, {"id": ticket.reference, "key": self._key(ticket), "self": f"{self.url}/{number}"})

    def _text(self, body: Any) -> str | None:
        """Return the text of a body, None where it is not of the version's kind."""
        if self.server:
            return body if isinstance(body, str) else None
        return _flat(body).strip() if isinstance(body, dict) and body.get("type") == "doc" else None

    def _transitions(self, ticket: FakeTicket) -> Reply:
        offered = [
            {
                "id": str(list(STATUSES).index(name) + 11),
                "name": f"Go to {name}",
                "to": _status(name),
                "fields": {
                    **({"resolution": {"required": True}} if self._asks(name) else {}),
                    **{field: {"required": True, "hasDefaultValue": False} for field in self.asks.get(name, ())},
                },
            }
            for name in self.workflow[ticket.state]
        ]
        return Reply(200, {"expand": "transitions", "transitions": offered})

    def _asks(self, name: str) -> bool:
        return self.asks_resolution and STATUSES[name] == "done"

    def _move(self, ticket: FakeTicket, wanted: dict[str, Any]) -> Reply:
        name = list(STATUSES)[int(wanted["transition"]["id"]) - 11]
        resolution = wanted.get("fields", {}).get("resolution", {}).get("name")
        if name not in self.workflow[ticket.state]:
            return self.refuse(400, "It seems that you have tried to perform an illegal workflow operation.")
        if self._asks(name) != (resolution is not None):
            return self.refuse(400, "resolution: is required, or is not on the screen")
        if missing := [one for one in self.asks.get(name, ()) if one not in wanted.get("fields", {})]:
            return self.refuse(400, f"{missing[0]} is required.")
        self.move(ticket.reference, name, resolution=resolution)
        return Reply(204)

    def _comment(self, ticket: FakeTicket, wanted: dict[str, Any]) -> Reply:
        text = self._text(wanted["body"])
        if text is None:
            return self.refuse(400, "Comment body is not valid!")
        assert wanted["properties"][0]["value"] == {"internal": True}
        comment = self.write(ticket, self.user or "fiilis", text)
        return Reply(201, {"id": str(comment.id)})

    def _comments(self, ticket: FakeTicket, query: dict[str, str]) -> Reply:
        def shape(text: str) -> Any:
            lines = [{"type": "paragraph", "content": [{"type": "text", "text": one}]} for one in text.split("\n")]
            return text if self.server else {"version": 1, "type": "doc", "content": lines}

        found = [
            {
                "id": str(one.id),
                "author": self._person(one.author),
                "body": shape(one.text),
                "created": one.at.astimezone().strftime("%Y-%m-%dT%H:%M:%S.000%z"),
            }
            for one in ticket.comments
        ]
        first, count = int(query["startAt"]), int(query["maxResults"])
        return Reply(200, {"comments": found[::-1][first : first + count], "total": len(found)})

    def _person(self, who: str) -> dict[str, str]:
        ids = {"name": who} if self.server else {"accountId": f"712020:{who}", "emailAddress": who}
        return {**ids, "displayName": "Somebody"}

    def _search(self, jql: str, first: int, limit: int) -> Reply:
        found = re.fullmatch(r'labels = "([\w-]+)"(?: AND updated >= (\d+))? ORDER BY (created|updated) ASC', jql)
        if found is None:
            return self.refuse(400, "Error in the JQL Query")
        since = datetime.fromtimestamp(int(found[2] or 0) / 1000, UTC)
        matching = [one for one in self.shown() if found[1] in one.tags and one.updated >= since]
        matching.sort(key=lambda one: one.updated)
        after = first + limit
        more = {"isLast": True} if after >= len(matching) else {"isLast": False, "nextPageToken": str(after)}
        return Reply(200, {"issues": [self._shape(one) for one in matching[first:after]], **more})

    def _key(self, ticket: FakeTicket) -> str:
        return f"{self.group}-{ticket.number - 10_000}"

    def _shape(self, ticket: FakeTicket) -> dict[str, Any]:
        resolution = ticket.more.get("resolution")
        done = STATUSES[ticket.state] == "done"
        who = "name" if self.server else "emailAddress"
        return {
            "id": ticket.reference,
            "key": self._key(ticket),
            "fields": {
                "status": _status(ticket.state),
                "labels": sorted(ticket.tags),
                "assignee": None if ticket.assignee is None else {who: ticket.assignee, "displayName": "Somebody"},
                "resolution": {"name": resolution or "Done"} if done else None,
                "updated": (ticket.updated + timedelta(0)).astimezone().strftime("%Y-%m-%dT%H:%M:%S.%f%z"),
            },
        }

    def hook(
        self, reference: str, at: datetime | None = None, secret: str | None = None
    ) -> tuple[dict[str, str], bytes]:
        ticket = {"id": reference, "key": "SD-1"}
        body = json.dumps({"webhookEvent": "jira:issue_updated", "issue": ticket}).encode()
        signature = hmac.new((secret or self.secret).encode(), body, "sha256").hexdigest()
        return {"X-Hub-Signature": f"sha256={signature}"}, body


def _status(name: str) -> dict[str, Any]:
    return {"id": name, "name": name, "statusCategory": {"id": 2, "key": STATUSES[name], "name": "whatever"}}


def _flat(node: dict[str, Any]) -> str:
    own = node.get("text", "")
    assert node["type"] != "text" or own, "ADF takes no empty text"
    return (
        own + "".join(map(_flat, node.get("content", []))) + ("\n" if node["type"] in {"paragraph", "heading"} else "")
    )


def fake_jira(*, server: bool = False) -> FakeJira:
    """Return a fake, to be entered: of the Cloud, or of Data Center."""
    return FakeJira(server=server)
