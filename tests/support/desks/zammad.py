"""Zammad: articles that cannot be changed, tags, searches by condition, reminders that need a time."""

from __future__ import annotations

import hmac
import json
import re
from datetime import datetime
from typing import Any

from tests.support.desks import Call, FakeComment, FakeDesk, FakeTicket, Reply

ME = "fiilis@acme.example"
_STATES = {"new", "open", "pending reminder", "pending close", "closed"}
_PRIORITIES = {"1 low", "2 normal", "3 high"}


class FakeZammad(FakeDesk):
    type = "zammad"
    ends_as = "closed"

    def __init__(self) -> None:
        super().__init__()
        self.knows_conditions = True
        """Else a search by them shows every ticket."""
        self.notes_are_old = False
        """Too old to be deleted."""

    def authorized(self, call: Call) -> bool:
        return call.headers.get("authorization") == f"Token token={self.token}"

    def answer(self, call: Call) -> Reply:
        path = call.path.removeprefix("/api/v1")
        if path == "/tickets":
            return self._create(call.json)
        if path == "/users/me":
            return self.refuse(401, "Invalid BasicAuth credentials") if self.nobody else Reply(200, {"id": 3})
        if path == "/tickets/search":
            return self._search(call.query)
        if path == "/tags/add":
            self.tickets[str(call.json["o_id"])].tags.add(call.json["item"])
            return Reply(201, True)
        if path == "/tags":
            return Reply(200, {"tags": sorted(self.tickets[call.query["o_id"]].tags)})
        if found := re.fullmatch(r"/ticket_articles/(\d+)", path):
            return self._delete(int(found[1])) if call.method == "DELETE" else self._article(int(found[1]))
        if path == "/links":
            parent = self.tickets[call.query["link_object_value"]].more.get("merged into")
            link = {"link_type": "parent", "link_object": "Ticket", "link_object_value": parent}
            return Reply(200, {"links": [] if parent is None else [link], "assets": {}})
        found = re.fullmatch(r"/(tickets|ticket_articles/by_ticket)/(\w+)", path)
        ticket = self.tickets.get(found[2]) if found else None
        if found is None or ticket is None:
            return self.refuse(404, "Couldn't find Ticket")
        if found[1] != "tickets":
            return Reply(200, self._articles(ticket))
        if call.method == "PUT":
            return self._update(ticket, call.json)
        if call.method == "DELETE":
            return self.remove(ticket) or Reply(200, {})
        return Reply(200, self._shape(ticket))

    def _create(self, wanted: dict[str, Any]) -> Reply:
        if wanted["group"] != self.group:
            return self.refuse(422, f"No lookup value found for 'group': {wanted['group']!r}")
        if not wanted.get("customer_id"):
            return self.refuse(422, "Customer can't be blank")
        tags = set(wanted["tags"].split(","))
        ours = next((one.removeprefix("fiilis-") for one in tags if one.startswith("fiilis-")), "")
        number = self.number()
        ticket = FakeTicket(str(number), 31_000 + number, ours, "", "new", "", tags=tags)
        ticket.more["customer"] = wanted["customer_id"]
        refused = self._update(ticket, wanted)
        if refused.status == 200:
            self.keep(ticket)
        return Reply(201, self._shape(ticket)) if refused.status == 200 else refused

    def _update(self, ticket: FakeTicket, wanted: dict[str, Any]) -> Reply:
        state = wanted.get("state", ticket.state)
        # One of the company's own may stay; only what is written must be known.
        if (state != ticket.state and state not in _STATES) or (state == "new") != (ticket.state == "new" == state):
            return self.refuse(422, "Invalid value for field 'state_id'!")
        if state == "pending reminder" != ticket.state and "pending_time" not in wanted:
            return self.refuse(422, "Missing required value for field 'pending_time'!")
        if wanted.get("priority", "2 normal") not in _PRIORITIES:
            return self.refuse(422, "No lookup value found for 'priority'")
        ticket.state = state
        ticket.title = wanted.get("title", ticket.title)
        ticket.severity = wanted.get("priority", ticket.severity)
        ticket.updated = self.now()
        if "article" in wanted:
            article = wanted["article"]
            assert article["internal"] is True
            # It makes its own markup of ours.
            body = article["body"].replace("<a ", '<a rel="nofollow noreferrer noopener" target="_blank" ')
            self.write(ticket, ME, body, markup=article["content_type"] == "text/html")
        return Reply(200, self._shape(ticket))

    def _delete(self, id_: int) -> Reply:
        for ticket in self.tickets.values():
            for comment in ticket.comments:
                if comment.id == id_ and self.notes_are_old:
                    return self.refuse(403, "note is too old to be deleted")
                if comment.id == id_:
                    ticket.comments.remove(comment)
                    return Reply(200, {})
        return self.refuse(404, "Couldn't find Ticket::Article")

    def _search(self, query: dict[str, str]) -> Reply:
        found = self.shown()
        if self.knows_conditions:
            tag = query["condition[ticket.tags][value]"]
            since = query.get("condition[ticket.updated_at][value]", "1970-01-01T00:00:00Z")
            newer = datetime.fromisoformat(since)
            found = [one for one in found if tag in one.tags and one.updated > newer]
            if query["sort_by"] == "updated_at":
                found.sort(key=lambda one: one.updated)
        size, page = int(query["per_page"]), int(query["page"])
        return Reply(200, [self._shape(one) for one in found[(page - 1) * size : page * size]])

    def _article(self, id_: int) -> Reply:
        found = [one for ticket in self.tickets.values() for one in ticket.comments if one.id == id_]
        return Reply(200, _shape(found[0])) if found else self.refuse(404, "Couldn't find Ticket::Article")

    def _articles(self, ticket: FakeTicket) -> list[dict[str, Any]]:
        return [_shape(one) for one in ticket.comments]

    def merge(self, reference: str, into: str) -> None:
        """A person merges a ticket into another one."""
        self.tickets[into].comments += self.tickets[reference].comments
        self.tickets[reference].comments = []
        self.move(reference, "merged", **{"merged into": int(into)})
        self.tickets[into].updated = self.now()

    def _shape(self, ticket: FakeTicket) -> dict[str, Any]:
        return {
            "id": int(ticket.reference),
            "number": str(ticket.number),
            "title": ticket.title,
            "state": ticket.state,
            "priority": ticket.severity,
            "owner": ticket.assignee or "-",
            "article_ids": [one.id for one in ticket.comments],
            "updated_at": ticket.updated.strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z",
        }

    def hook(
        self, reference: str, at: datetime | None = None, secret: str | None = None
    ) -> tuple[dict[str, str], bytes]:
        body = json.dumps({"ticket": {"id": int(reference) if reference.isdecimal() else reference}}).encode()
        signature = hmac.new((secret or self.secret).encode(), body, "sha1").hexdigest()
        return {"X-Hub-Signature": f"sha1={signature}"}, body


def _shape(comment: FakeComment) -> dict[str, Any]:
    return {
        "id": comment.id,
        "body": comment.text,
        "content_type": "text/html" if comment.markup else "text/plain",
        "created_by": comment.author,
        "created_by_id": 3 if comment.author == ME else 4,
        "created_at": comment.at.strftime("%Y-%m-%dT%H:%M:%S.000Z"),
        "internal": True,
    }


def fake_zammad() -> FakeZammad:
    """Return a fake, to be entered."""
    return FakeZammad()
