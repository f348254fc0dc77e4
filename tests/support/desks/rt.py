"""Request Tracker: says in words what it did not do, drops unknown fields, keeps the mails that it sent.

tests/real/test_request_tracker.py shows the same of the real one.
"""

from __future__ import annotations

import html
import json
import re
from datetime import datetime, timedelta
from typing import Any

from tests.support.desks import Call, FakeDesk, FakeTicket, Reply

_STATUSES = {"new", "open", "stalled", "resolved", "rejected", "deleted"}


class FakeRT(FakeDesk):
    type = "rt"
    token = "1-14-t0kenthatnobodymaysee0123456789ab"
    ends_as = "resolved"

    def __init__(self) -> None:
        super().__init__()
        self.fields = ["ExternalID"]
        """The queue's custom fields."""
        self.sets_fields = True
        """Else the account may not set custom fields: they are dropped too."""
        self.moves = True
        """Else the lifecycle allows no change of status."""

    def authorized(self, call: Call) -> bool:
        return call.headers.get("authorization") == f"token {self.token}"

    def refuse(self, status: int, why: str) -> Reply:
        return Reply(status, {"message": why})

    def delete(self, reference: str) -> None:
        """A person deletes a ticket: it remains, in a status of that name."""
        self.move(reference, "deleted")

    def answer(self, call: Call) -> Reply:
        path = call.path.removeprefix("/REST/2.0")
        if path == f"/queue/{self.group}":
            fields = [{"id": "1", "type": "customfield", "name": name} for name in self.fields]
            return Reply(200, {"Name": self.group, "TicketCustomFields": fields})
        if path == "/user/14":
            return self.refuse(401, "Unauthorized") if self.nobody else Reply(200, {"id": 14, "Name": "fiilis"})
        if path.startswith("/queue/"):
            return self.refuse(403, "Forbidden")  # whether it is not there or not to be seen
        if path == "/ticket":
            return self._create(call.json)
        if path == "/tickets":
            return self._search(call.query["query"], int(call.query["page"]), min(100, int(call.query["per_page"])))
        found = re.fullmatch(r"/ticket/(\d+)(/comment|/attachments|/history)?", path)
        ticket = self.tickets.get(found[1]) if found else None
        if found is not None and ticket is None:
            match found[2]:
                case "/attachments":  # a search among them is one among all
                    return Reply(200, {"items": [one for each in self.tickets.values() for one in self._texts(each)]})
                case "/history":
                    return Reply(200, {"items": [], "count": 0})
                case "/comment":
                    return self.refuse(400, "Permission Denied")
        if found is None or ticket is None:
            return self.refuse(404, "Not Found")
        match found[2], call.method:
            case "/comment", _:
                self._say(ticket, "Comment", call.json["Content"])
                return Reply(201, ["Comments added"])
            case "/attachments", _:
                return Reply(200, {"items": self._found(ticket, call.query)})
            case "/history", _:
                items = [{"type": "transaction", "id": str(one.id), "Type": one.kind} for one in ticket.comments]
                first = 100 * (int(call.query["page"]) - 1)
                return Reply(200, {"items": items[::-1][first : first + 100]})
            case _, "DELETE":
                return self.remove(ticket) or Reply(204)
            case _, "PUT":
                return Reply(200, self._update(ticket, call.json))
        return Reply(200, {**self._shape(ticket), "id": int(ticket.reference)})

    def _create(self, wanted: dict[str, Any]) -> Reply:
        if wanted["Queue"] != self.group:
            return self.refuse(403, f"No permission to create tickets in the queue '{wanted['Queue']}'")
        fields = wanted.get("CustomFields", {}) if self.sets_fields else {}
        kept = [value for name, value in fields.items() if name in self.fields]
        number = self.number()
        ticket = FakeTicket(str(number), number, "".join(kept).removeprefix("fiilis-"), "", "new", "", tags=set(kept))
        ticket.more["requestor"] = wanted.get("Requestor")
        self._update(ticket, wanted)
        self._say(self.keep(ticket), "Create", wanted["Content"])
        return Reply(201, {"type": "ticket", "id": ticket.reference, "_url": f"{self.url}/REST/2.0/ticket/{number}"})

    def _update(self, ticket: FakeTicket, wanted: dict[str, Any]) -> list[str]:
        was = (ticket.title, ticket.severity, ticket.state)
        # Of a title it keeps 200 bytes.
        ticket.title = wanted.get("Subject", ticket.title).replace("\n", "").encode()[:200].decode(errors="ignore")
        ticket.severity = wanted.get("Priority", ticket.severity)
        status = wanted.get("Status", ticket.state)
        refused = None
        if status not in _STATUSES:
            refused = f"Status '{status}' isn't a valid status for this ticket."
        elif status != ticket.state and not self.moves:
            refused = f"You can't change status from '{ticket.state}' to '{status}'."
        else:
            ticket.state = status
        now = (ticket.title, ticket.severity, ticket.state)
        if now != was:
            ticket.updated = self.now()
        names = zip(("Subject", "Priority", "Status"), was, now, strict=True)
        said = [f"{name} changed from '{old}' to '{new}'" for name, old, new in names if old != new]
        return [f"Ticket {ticket.reference}: {one}" for one in (*said, refused) if one]

    def _say(self, ticket: FakeTicket, kind: str, text: str) -> None:
        text = text.replace("\r\n", "\n")
        self.write(ticket, "fiilis", text, kind=kind)
        self.write(ticket, "fiilis", text, kind="CommentEmailRecord" if kind == "Comment" else "EmailRecord")

    def comment(self, reference: str, text: str, author: str = "agent@desk.example") -> Any:
        """A person writes a comment; those who watch the ticket get a mail of it."""
        made = self.write(self.tickets[reference], author, text, kind="Comment")
        self.write(self.tickets[reference], author, text, kind="CommentEmailRecord")
        return made

    def mail(self, reference: str, text: str, author: str) -> None:
        """A person answers by mail, whose program sends the text in two forms."""
        self.write(self.tickets[reference], author, text, kind="Correspond")

    def _texts(self, ticket: FakeTicket) -> list[dict[str, Any]]:
        return [
            {
                "type": "attachment",
                "id": str(2 * one.id + (form == "html") + 5_000),
                "TransactionId": str(one.id),
                "Content": f"<p>{html.escape(one.text)}</p>\n" if form == "html" else one.text,
                "ContentType": f"text/{form}",
                "Filename": "",
                "Creator": {"type": "user", "id": one.author, "Name": one.author, "EmailAddress": ""},
                "Created": one.at.strftime("%Y-%m-%dT%H:%M:%SZ"),
            }
            for one in ticket.comments
            for form in (("plain", "html") if one.kind == "Correspond" else ("plain",))
        ]

    def _found(self, ticket: FakeTicket, query: dict[str, str]) -> list[dict[str, Any]]:
        kind, beyond = json.loads(query["query"])
        assert (kind["field"], kind["value"]) == ("ContentType", "text/")
        assert (beyond["field"], beyond["operator"]) == ("id", ">")
        texts = sorted(self._texts(ticket), key=lambda one: int(one["id"]))
        found = [one for one in texts if int(one["id"]) > beyond["value"]][: int(query["per_page"])]
        return [{name: one[name] for name in one if name != "Content" or name in query["fields"]} for one in found]

    def merge(self, reference: str, into: str) -> None:
        """A person merges a ticket into another one, which answers for both from then on."""
        self.tickets[into].comments += self.tickets[reference].comments
        self.tickets[into].updated = self.now()
        self.tickets[reference] = self.tickets[into]

    def _search(self, query: str, page: int, size: int) -> Reply:
        found = [one for one in self.shown() if one.state != "deleted"]
        exact = re.fullmatch(r"CF\.\{(\w+)\} = '([\w-]+)'", query)
        recent = re.fullmatch(r"CF\.\{(\w+)\} LIKE '([\w-]+)' AND LastUpdated >= '(\d+) minutes ago'", query)
        if exact:
            found = [one for one in found if exact[2] in one.tags]
        elif recent:
            since = self.now() - timedelta(minutes=int(recent[3]))
            found = [one for one in found if any(recent[2] in tag for tag in one.tags) and one.updated >= since]
        else:
            return self.refuse(400, "Invalid query")
        if recent:
            found.sort(key=lambda one: one.updated.replace(microsecond=0))
        shown = found[(page - 1) * size : page * size]
        return Reply(200, {"items": [self._shape(one) for one in shown], "count": len(shown), "total": len(found)})

    def _shape(self, ticket: FakeTicket) -> dict[str, Any]:
        owner = ticket.assignee or "Nobody"
        return {
            "type": "ticket",
            "id": ticket.reference,
            "Status": ticket.state,
            "LastUpdated": ticket.updated.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "Owner": {"type": "user", "id": owner, "Name": owner, "EmailAddress": owner if "@" in owner else ""},
            "CustomFields": [{"id": "1", "name": name, "values": sorted(ticket.tags)} for name in self.fields],
        }

    def hook(
        self, reference: str, at: datetime | None = None, secret: str | None = None
    ) -> tuple[dict[str, str], bytes]:
        return {"X-Fiilis-Secret": secret or self.secret}, json.dumps({"id": reference}).encode()


def fake_rt() -> FakeRT:
    """Return a fake, to be entered."""
    return FakeRT()
