"""GLPI: sessions that end, lists without a filter by time, solutions, private followups."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from typing import Any

from tests.support.desks import Call, FakeDesk, FakeTicket, Reply


class FakeGlpi(FakeDesk):
    type = "glpi"
    group = None
    ends_as = "5"

    def __init__(self) -> None:
        super().__init__()
        self.sessions = 0
        self.lets_delete_followups = True
        self.knows_field = True
        """Else a search for it shows every ticket."""
        self._people: dict[str, int] = {"fiilis": 2}

    def authorized(self, call: Call) -> bool:
        return self.nobody or call.headers.get("authorization") == f"user_token {self.token}"

    def refuse(self, status: int, why: str) -> Reply:
        return Reply(status, ["ERROR_GENERIC", why])

    def end_sessions(self) -> None:
        """Every session has ended."""
        self.sessions += 1

    def answer(self, call: Call) -> Reply:
        path = call.path.removeprefix("/apirest.php")
        if path == "/initSession":
            return self.refuse(401, "ERROR_GLPI_LOGIN") if self.nobody else Reply(200, {"session_token": self._token})
        if call.headers.get("session-token") != self._token or self.nobody:
            return Reply(401, ["ERROR_SESSION_TOKEN_INVALID", "session_token seems invalid"])
        if path == "/getFullSession":
            return Reply(200, {"session": {"glpiID": 2, "glpiname": "fiilis"}})
        if path == "/Ticket":
            return self._create(call.json["input"]) if call.method == "POST" else self._list(call.query)
        if path == "/ITILFollowup":
            wanted = call.json["input"]
            assert wanted["is_private"] == 1
            ticket = self.tickets.get(str(wanted["items_id"]))
            if ticket is None:
                return self.refuse(404, "Item not found")
            self.write(ticket, "fiilis", wanted["content"], markup=True)
            return Reply(201, {"id": self._numbers})
        if path == "/ITILSolution":
            self.move(str(call.json["input"]["items_id"]), "5")
            return Reply(201, {"id": 1})
        if found := re.fullmatch(r"/ITILFollowup/(\d+)", path):
            return self._delete(int(found[1]))
        if found := re.fullmatch(r"/User/(\d+)", path):
            names = {number: name for name, number in self._people.items()}
            return Reply(200, {"id": int(found[1]), "name": names.get(int(found[1]))})
        found = re.fullmatch(r"/Ticket/(\d+)(/\w+)?", path)
        ticket = self.tickets.get(found[1]) if found else None
        if found is None or ticket is None:
            return self.refuse(404, "ERROR_ITEM_NOT_FOUND")
        match found[2], call.method:
            case "/ITILFollowup", _:
                first, last = map(int, call.query["range"].split("-"))
                rows = [self._followup(one) for one in ticket.comments[::-1][first : last + 1]]
                return Reply(206 if rows else 200, rows)
            case "/Ticket_User", _:
                people = [{"users_id": self._number(ticket.assignee), "type": 2}] if ticket.assignee else []
                return Reply(200, [{"users_id": 2, "type": 1}, *people])
            case _, "DELETE":
                return self.remove(ticket) or Reply(200, [{ticket.reference: True}])
            case _, "PUT":
                self._set(ticket, call.json["input"])
                return Reply(200, [{ticket.reference: True, "message": ""}])
        return Reply(200, self._shape(ticket))

    @property
    def _token(self) -> str:
        return f"session-{self.sessions}"

    def _number(self, name: str) -> int:
        return self._people.setdefault(name, len(self._people) + 2)

    def _create(self, wanted: dict[str, Any]) -> Reply:
        number = self.number()
        ticket = FakeTicket(str(number), number, wanted["externalid"], "", "1", "")
        mails = wanted.get("_users_id_requester_notif", {}).get("alternative_email", [None])
        ticket.more["requester"] = mails[0]
        self._set(ticket, wanted)
        self.keep(ticket)
        return Reply(201, {"id": number, "message": ""})

    def _set(self, ticket: FakeTicket, wanted: dict[str, Any]) -> None:
        ticket.title, ticket.text = wanted.get("name", ticket.title), wanted.get("content", ticket.text)
        ticket.severity = str(wanted.get("urgency", ticket.severity))
        ticket.state = str(wanted.get("status", ticket.state))
        ticket.updated = self.now()

    def _delete(self, id_: int) -> Reply:
        for ticket in self.tickets.values():
            for comment in ticket.comments:
                if comment.id == id_ and self.lets_delete_followups:
                    ticket.comments.remove(comment)
                    return Reply(200, [{str(id_): True}])
        return self.refuse(403, "You don't have permission to perform this action.")

    def _list(self, query: dict[str, str]) -> Reply:
        found = self.shown()
        if "searchText[externalid]" in query and self.knows_field:
            found = [one for one in found if query["searchText[externalid]"] in one.ours]
        if query["sort"] == "date_mod":
            found.sort(key=lambda one: one.updated.replace(microsecond=0), reverse=True)
        first, last = map(int, query["range"].split("-"))
        return Reply(206, [self._shape(one) for one in found[first : last + 1]])

    def _followup(self, comment: Any) -> dict[str, Any]:
        markup = comment.text if comment.markup else f"<p>{comment.text.replace('&', '&amp;').replace('<', '&lt;')}</p>"
        return {
            "id": comment.id,
            "content": markup,
            "date_creation": comment.at.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S"),
            "users_id": self._number(comment.author),
        }

    def _shape(self, ticket: FakeTicket) -> dict[str, Any]:
        return {
            "id": int(ticket.reference),
            "name": ticket.title,
            "status": int(ticket.state),
            "externalid": ticket.ours,
            "date_mod": ticket.updated.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S"),
            "is_deleted": 0,
        }

    def hook(
        self, reference: str, at: datetime | None = None, secret: str | None = None
    ) -> tuple[dict[str, str], bytes]:
        return {"X-Fiilis-Secret": secret or self.secret}, json.dumps({"id": reference}).encode()


def fake_glpi() -> FakeGlpi:
    """Return a fake, to be entered."""
    return FakeGlpi()
