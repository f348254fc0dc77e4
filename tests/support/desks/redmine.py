"""Redmine: moves that the workflow forbids are left out silently, notes come whole, filters that are none match all."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from typing import Any

from tests.support.desks import Call, FakeDesk, FakeTicket, Reply

STATUSES = {"New": 1, "In Progress": 2, "Resolved": 3, "Feedback": 4, "Closed": 5, "Rejected": 6}
_PRIORITIES = {"Low": 1, "Normal": 2, "High": 3, "Urgent": 4, "Immediate": 5}
_FIELD = 7


class FakeRedmine(FakeDesk):
    type = "redmine"
    group = "cx"
    ends_as = "Resolved"

    def __init__(self) -> None:
        super().__init__()
        self.moves = True
        """Else the workflow allows no change of status."""
        self.knows_filter = True

    def authorized(self, call: Call) -> bool:
        return self.nobody or call.headers.get("x-redmine-api-key") == self.token

    def refuse(self, status: int, why: str) -> Reply:
        return Reply(status, {"errors": [why]})

    def answer(self, call: Call) -> Reply:
        path = call.path.removesuffix(".json")
        if path == "/users/current":
            return (
                self.refuse(401, "Unauthorized") if self.nobody else Reply(200, {"user": {"id": 5, "login": "fiilis"}})
            )
        if path == f"/projects/{self.group}":
            return Reply(200, {"project": {"id": 1, "issue_custom_fields": [{"id": _FIELD, "name": "ExternalID"}]}})
        if path == "/issue_statuses":
            return Reply(200, {"issue_statuses": [{"id": n, "name": name} for name, n in STATUSES.items()]})
        if path == "/enumerations/issue_priorities":
            return Reply(200, {"issue_priorities": [{"id": n, "name": name} for name, n in _PRIORITIES.items()]})
        if path == "/issues":
            return self._create(call.json["issue"]) if call.method == "POST" else self._search(call.query)
        found = re.fullmatch(r"/issues/(\d+)", path)
        ticket = self.tickets.get(found[1]) if found else None
        if ticket is None:
            return Reply(404)
        if call.method == "DELETE":
            return self.remove(ticket) or Reply(204)
        if call.method == "PUT":
            return self._set(ticket, call.json["issue"]) or Reply(204)
        journals = {"journals": [self._journal(one) for one in ticket.comments]} if call.query.get("include") else {}
        return Reply(200, {"issue": {**self._shape(ticket), **journals}})

    def _journal(self, comment: Any) -> dict[str, Any]:
        return {
            "id": comment.id,
            "user": {"id": 5 if comment.author == "fiilis" else 6, "name": comment.author},
            "notes": comment.text,
            "created_on": comment.at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "private_notes": True,
        }

    def _create(self, wanted: dict[str, Any]) -> Reply:
        if wanted["project_id"] != self.group:
            return self.refuse(422, "Project cannot be blank")
        number = self.number() + 100
        ours = str(wanted["custom_fields"][0]["value"])
        ticket = FakeTicket(str(number), number, ours.removeprefix("fiilis-"), "", "New", "", tags={ours})
        refused = self._set(ticket, wanted)
        if refused is not None:
            return refused
        self.keep(ticket)
        return Reply(201, {"issue": self._shape(ticket)})

    def _set(self, ticket: FakeTicket, wanted: dict[str, Any]) -> Reply | None:
        subject = wanted.get("subject", ticket.title)
        if not 0 < len(subject) <= 255:
            return self.refuse(422, "Subject is too long (maximum is 255 characters)")
        names = {n: name for name, n in STATUSES.items()}
        if "status_id" in wanted and self.moves:
            ticket.state = names[wanted["status_id"]]
        ticket.title, ticket.text = subject, wanted.get("description", ticket.text)
        ticket.severity = str(wanted.get("priority_id", ticket.severity))
        ticket.updated = self.now()
        if wanted.get("notes"):
            assert wanted["private_notes"] is True
            self.write(ticket, "fiilis", wanted["notes"])
        return None

    def _search(self, query: dict[str, str]) -> Reply:
        found = self.shown()
        wanted = query.get(f"cf_{_FIELD}", "~") if self.knows_filter else "~"
        if wanted.startswith("~"):
            found = [one for one in found if any(wanted[1:] in tag for tag in one.tags)]
        else:
            found = [one for one in found if wanted in one.tags]
        if "updated_on" in query:
            since = datetime.fromisoformat(query["updated_on"].removeprefix(">="))
            found = [one for one in found if one.updated.replace(microsecond=0) >= since]
            found.sort(key=lambda one: one.updated.replace(microsecond=0))
        first, count = int(query.get("offset", "0")), min(100, int(query["limit"]))
        shown = found[first : first + count]
        return Reply(200, {"issues": [self._shape(one) for one in shown], "total_count": len(found)})

    def _shape(self, ticket: FakeTicket) -> dict[str, Any]:
        assigned = {} if ticket.assignee is None else {"assigned_to": {"id": 9, "name": ticket.assignee}}
        return {
            "id": int(ticket.reference),
            "status": {"id": STATUSES.get(ticket.state, 99), "name": ticket.state},
            "subject": ticket.title,
            "updated_on": ticket.updated.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "custom_fields": [{"id": _FIELD, "name": "ExternalID", "value": next(iter(ticket.tags), "")}],
            **assigned,
        }

    def hook(
        self, reference: str, at: datetime | None = None, secret: str | None = None
    ) -> tuple[dict[str, str], bytes]:
        return {"X-Fiilis-Secret": secret or self.secret}, json.dumps({"id": reference}).encode()


def fake_redmine() -> FakeRedmine:
    """Return a fake, to be entered."""
    return FakeRedmine()
