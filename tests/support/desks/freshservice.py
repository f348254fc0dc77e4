"""Freshservice: descriptions that are mailed, notes by pages, a list that shows others' tickets too."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from datetime import UTC, datetime
from typing import Any

from tests.support.desks import Call, FakeDesk, FakeTicket, Reply

ME = "fiilis@acme.example"


class FakeFreshservice(FakeDesk):
    type = "freshservice"
    group = "77"
    ends_as = "4"

    def directory_entry(self, **more: Any) -> dict[str, Any]:
        return super().directory_entry(**{"requester": "care@example.test", **more})

    def authorized(self, call: Call) -> bool:
        wanted = "Basic " + base64.b64encode(f"{self.token}:X".encode()).decode()
        return self.nobody or call.headers.get("authorization") == wanted

    def refuse(self, status: int, why: str) -> Reply:
        return Reply(status, {"description": "Validation failed", "errors": [{"field": "x", "message": why}]})

    def answer(self, call: Call) -> Reply:
        path = call.path.removeprefix("/api/v2")
        if path == "/agents/me":
            if self.nobody:
                return Reply(401, {"code": "invalid_credentials", "message": "You have to be logged in"})
            return Reply(200, {"agent": {"id": self._id(ME), "email": ME}})
        if found := re.fullmatch(r"/agents/(\d+)", path):
            return self._agent(int(found[1]))
        if path == "/tickets" and call.method == "POST":
            return self._create(call.json)
        if path == "/tickets":
            return self._list(call.query)
        if path == "/tickets/filter":
            wanted = re.fullmatch(r"\"external_id:'([\w-]+)'\"", call.query["query"])
            assert wanted is not None
            return Reply(200, {"tickets": [self._shape(one) for one in self.shown() if one.ours == wanted[1]]})
        if found := re.fullmatch(r"/conversations/(\d+)", path):
            for ticket in self.tickets.values():
                ticket.comments = [one for one in ticket.comments if one.id != int(found[1])]
            return Reply(204)
        found = re.fullmatch(r"/tickets/(\d+)(/notes|/conversations)?", path)
        ticket = self.tickets.get(found[1]) if found else None
        if found is None or ticket is None:
            return Reply(404)
        match found[2], call.method:
            case "/notes", _:
                assert call.json["private"] is True
                self.write(ticket, ME, call.json["body"], markup=True)
                return Reply(201, {"conversation": {"id": self._numbers}})
            case "/conversations", _:
                count, page = int(call.query["per_page"]), int(call.query["page"])
                rows = [self._said(one) for one in ticket.comments[(page - 1) * count : page * count]]
                return Reply(200, {"conversations": rows})
            case _, "DELETE":
                return self.remove(ticket) or Reply(204)
            case _, "PUT":
                return self._set(ticket, call.json) or Reply(200, {"ticket": self._shape(ticket)})
        return Reply(200, {"ticket": self._shape(ticket)})

    def _agent(self, id_: int) -> Reply:
        people = {ME} | {c.author for t in self.tickets.values() for c in t.comments}
        people |= {one.assignee for one in self.tickets.values() if one.assignee}
        known = {self._id(one): one for one in people}
        return Reply(200, {"agent": {"id": id_, "email": known[id_]}}) if id_ in known else Reply(404)

    def _id(self, email: str) -> int:
        return int.from_bytes(hashlib.sha256(email.encode()).digest()[:4])

    def _create(self, wanted: dict[str, Any]) -> Reply:
        if not wanted.get("email") or wanted.get("group_id") != 77:
            return self.refuse(400, "It should be a valid e-mail address")
        number = self.number()
        ticket = FakeTicket(str(number), number, wanted["custom_fields"]["external_id"], "", "2", "")
        ticket.tags, ticket.text = set(wanted["tags"]), wanted["description"]
        ticket.more["requester"] = wanted["email"]
        refused = self._set(ticket, wanted)
        if refused is None:
            self.keep(ticket)
        return refused or Reply(201, {"ticket": self._shape(ticket)})

    def _set(self, ticket: FakeTicket, wanted: dict[str, Any]) -> Reply | None:
        if wanted.get("status", 2) not in {2, 3, 4, 5} or not 0 < len(wanted.get("subject", "x")) <= 255:
            return self.refuse(400, "It should be one of these values: '2,3,4,5'")
        ticket.title = wanted.get("subject", ticket.title)
        ticket.severity = str(wanted.get("priority", ticket.severity))
        ticket.state = str(wanted.get("status", ticket.state))
        ticket.updated = self.now()
        return None

    def _list(self, query: dict[str, str]) -> Reply:
        since = datetime.fromisoformat(query["updated_since"])
        found = [one for one in self.shown() if one.updated.replace(microsecond=0) >= since]
        found.sort(key=lambda one: one.updated.replace(microsecond=0))
        count, page = int(query["per_page"]), int(query["page"])
        return Reply(200, {"tickets": [self._shape(one) for one in found[(page - 1) * count : page * count]]})

    def _said(self, comment: Any) -> dict[str, Any]:
        markup = comment.text if comment.markup else f"<p>{comment.text.replace('&', '&amp;').replace('<', '&lt;')}</p>"
        return {
            "id": comment.id,
            "user_id": self._id(comment.author),
            "body": markup,
            "body_text": re.sub(r"<[^>]*>", "", comment.text) if comment.markup else comment.text,
            "private": True,
            "created_at": comment.at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        }

    def _shape(self, ticket: FakeTicket) -> dict[str, Any]:
        return {
            "id": int(ticket.reference),
            "subject": ticket.title,
            "status": int(ticket.state),
            "priority": ticket.severity,
            "responder_id": None if ticket.assignee is None else self._id(ticket.assignee),
            "updated_at": ticket.updated.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "custom_fields": {"external_id": ticket.ours},
            "deleted": False,
        }

    def hook(
        self, reference: str, at: datetime | None = None, secret: str | None = None
    ) -> tuple[dict[str, str], bytes]:
        return {"X-Fiilis-Secret": secret or self.secret}, json.dumps({"id": reference}).encode()


def fake_freshservice() -> FakeFreshservice:
    """Return a fake, to be entered."""
    return FakeFreshservice()
