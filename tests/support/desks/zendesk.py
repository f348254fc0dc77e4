"""Zendesk: idempotency keys, private comments that cannot be changed, closed tickets that refuse everything."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
from datetime import datetime
from typing import Any

from tests.support.desks import Call, FakeComment, FakeDesk, FakeTicket, Reply

ME = "fiilis@acme.example"
_STATUSES = {"new", "open", "pending", "hold", "solved", "closed"}
_PRIORITIES = {"urgent", "high", "normal", "low"}


class FakeZendesk(FakeDesk):
    type = "zendesk"
    user = ME
    ends_as = "solved"

    def __init__(self) -> None:
        super().__init__()
        self._keys: dict[str, tuple[bytes, Any]] = {}
        self.redacted = 0

    def authorized(self, call: Call) -> bool:
        wanted = self.basic(f"{self.user}/token") if self.user else f"Bearer {self.token}"
        return call.headers.get("authorization") == wanted

    def refuse(self, status: int, why: str) -> Reply:
        return Reply(status, {"error": why, "description": why})

    def answer(self, call: Call) -> Reply:
        path = call.path.removeprefix("/api/v2").removesuffix(".json")
        if path == "/tickets" and call.method == "POST":
            return self._create(call)
        if path == "/tickets":
            found = [one for one in self.shown() if one.ours == call.query["external_id"]]
            return Reply(200, {"tickets": [self._shape(one) for one in found], "users": self._users(), "count": 1})
        if path == "/users/me":
            return Reply(200, {"user": {"id": None if self.nobody else self._user_id(self.user or ME)}})
        if path == "/groups":
            return Reply(200, {"groups": [{"id": 1, "name": "Support"}, {"id": 77, "name": self.group}]})
        if path == "/search":
            return self._search(call.query["query"], int(call.query["page"]), min(100, int(call.query["per_page"])))
        if found := re.fullmatch(r"/comment_redactions/(\d+)", path):
            return self._redact(int(found[1]), call.json)
        if found := re.fullmatch(r"/tickets/(\w+)(/comments|/tags)?", path):
            ticket = self.tickets.get(found[1])
            if ticket is None:
                return self.refuse(404, "RecordNotFound")
            if found[2] == "/comments":
                return self._comments(ticket, call.query)
            if call.method == "GET":
                return Reply(200, {"ticket": self._shape(ticket), "users": self._users()})
            if call.method == "DELETE":
                return self.remove(ticket) or Reply(204)
            if ticket.state == "closed":
                return self.refuse(422, "RecordInvalid: Status: closed prevents ticket update")
            if found[2] == "/tags":
                ticket.tags |= set(call.json["tags"])
                return Reply(200, {"tags": sorted(ticket.tags)})
            return self._update(ticket, call.json["ticket"])
        return self.refuse(404, "InvalidEndpoint")

    def _create(self, call: Call) -> Reply:
        key = call.headers.get("idempotency-key")
        if key in self._keys:
            body, made = self._keys[key]
            if body != call.body:
                return self.refuse(400, "IdempotentRequestError")
            return Reply(201, made, {"x-idempotency-lookup": "hit"})
        wanted = call.json["ticket"]
        if wanted["priority"] not in _PRIORITIES or wanted["group_id"] != 77 or not wanted["comment"]["html_body"]:
            return self.refuse(422, "RecordInvalid")
        number = self.number()
        ticket = FakeTicket(str(number), number, wanted["external_id"], wanted["subject"], "new", wanted["priority"])
        ticket.tags = set(wanted["tags"])
        ticket.more["follows"] = wanted.get("via_followup_source_id")
        ticket.more["requester"] = wanted.get("requester", {}).get("email")
        self._comment(self.keep(ticket), wanted["comment"])
        made = {"ticket": self._shape(ticket)}
        if key is not None:
            self._keys[key] = (call.body, made)
        return Reply(201, made, {"x-idempotency-lookup": "miss"})

    def _update(self, ticket: FakeTicket, wanted: dict[str, Any]) -> Reply:
        status = wanted.get("status", ticket.state)
        assignee = wanted.get("assignee_email", ticket.assignee)
        if status not in _STATUSES or (status == "new" and ticket.state != "new"):
            return self.refuse(422, "RecordInvalid: Status is not valid")
        if wanted.get("priority", "normal") not in _PRIORITIES:
            return self.refuse(422, "RecordInvalid: Priority is not valid")
        if status == "solved" != ticket.state and assignee is None:
            return self.refuse(422, "RecordInvalid: Assignee: is required when solving a ticket")
        ticket.state, ticket.assignee = status, assignee
        ticket.title = wanted.get("subject", ticket.title)
        ticket.severity = wanted.get("priority", ticket.severity)
        ticket.updated = self.now()
        if "comment" in wanted:
            self._comment(ticket, wanted["comment"])
        return Reply(200, {"ticket": self._shape(ticket)})

    def _comment(self, ticket: FakeTicket, wanted: dict[str, Any]) -> None:
        assert wanted["public"] is False
        if "html_body" in wanted:
            # It gives each text its own markup.
            markup = wanted["html_body"].replace("<p>", '<p dir="auto">').replace("<a ", '<a rel="noopener" ')
            self.write(ticket, self.user or ME, f'<div class="zd-comment" dir="auto">{markup}</div>', markup=True)
        else:
            self.write(ticket, self.user or ME, wanted["body"])

    def _redact(self, id_: int, wanted: dict[str, Any]) -> Reply:
        ticket = self.tickets[str(wanted["ticket_id"])]
        comment = next(one for one in ticket.comments if one.id == id_)
        if re.sub(r"</?redact>", "", wanted["html_body"]) != comment.text:
            return self.refuse(400, "html_body is not that of the comment")
        comment.text = re.sub(r"<redact>(.*?)</redact>", lambda m: "▇" * len(m[1]), wanted["html_body"], flags=re.S)
        self.redacted += 1
        return Reply(200, {"comment": {"id": id_}})

    def _comments(self, ticket: FakeTicket, query: dict[str, str]) -> Reply:
        size, page = int(query.get("per_page", "100")), int(query.get("page", "1"))
        comments = ticket.comments[::-1] if query.get("sort_order") == "desc" else ticket.comments
        found = [self._said(one) for one in comments[(page - 1) * size : page * size]]
        return Reply(200, {"comments": found, "users": self._users()})

    def merge(self, reference: str, into: str) -> None:
        """A person merges a ticket into another one: it is closed for ever, and says where it went."""
        text = f'This request was closed and merged into request #{into} "{self.tickets[into].title}".'
        self.comment(reference, text)
        self.tickets[reference].tags.add("closed_by_merge")
        self.move(reference, "closed")
        self.comment(into, f"Request #{reference} was closed and merged into this request.")

    def _said(self, comment: FakeComment) -> dict[str, Any]:
        text = comment.text
        escaped = text if comment.markup else f"<div><p>{text.replace('&', '&amp;').replace('<', '&lt;')}</p></div>"
        return {
            "id": comment.id,
            "author_id": self._user_id(comment.author),
            "html_body": escaped,
            "plain_body": re.sub(r"<[^>]*>", "", text) if comment.markup else text,
            "public": False,
            "created_at": comment.at.strftime("%Y-%m-%dT%H:%M:%SZ"),
        }

    def _search(self, query: str, page: int, size: int) -> Reply:
        if page * size > 1_000:
            return self.refuse(422, "Requested response size was greater than Search Response Limits")
        since = datetime.fromisoformat(re.findall(r"updated>=(\S+)", query)[0])
        tag = re.findall(r"tags:(\S+)", query)[0]
        found = [one for one in self.shown() if tag in one.tags and one.updated.replace(microsecond=0) >= since]
        found.sort(key=lambda one: one.updated.replace(microsecond=0))
        shown = found[(page - 1) * size : page * size]
        shapes = [{**self._shape(one), "result_type": "ticket"} for one in shown]
        return Reply(200, {"results": shapes, "users": self._users(), "count": len(found)})

    def _shape(self, ticket: FakeTicket) -> dict[str, Any]:
        return {
            "id": int(ticket.reference),
            "external_id": ticket.ours,
            "subject": ticket.title,
            "status": ticket.state,
            "priority": ticket.severity,
            "tags": sorted(ticket.tags),
            "assignee_id": None if ticket.assignee is None else self._user_id(ticket.assignee),
            "updated_at": ticket.updated.strftime("%Y-%m-%dT%H:%M:%SZ"),
        }

    def _user_id(self, email: str) -> int:
        return int.from_bytes(hashlib.sha256(email.encode()).digest()[:4])

    def _users(self) -> list[dict[str, Any]]:
        people = {one.assignee for one in self.tickets.values()} | {
            comment.author for one in self.tickets.values() for comment in one.comments
        }
        return [{"id": self._user_id(one), "email": one, "name": one.split("@")[0]} for one in people if one]

    def hook(
        self, reference: str, at: datetime | None = None, secret: str | None = None
    ) -> tuple[dict[str, str], bytes]:
        body = json.dumps({"type": "zen:event-type:ticket.changed", "id": "e-1", "detail": {"id": reference}}).encode()
        time = (at or self.now()).strftime("%Y-%m-%dT%H:%M:%SZ")
        signature = hmac.new((secret or self.secret).encode(), time.encode() + body, "sha256").digest()
        return {
            "X-Zendesk-Webhook-Signature": base64.b64encode(signature).decode(),
            "X-Zendesk-Webhook-Signature-Timestamp": time,
        }, body


def fake_zendesk() -> FakeZendesk:
    """Return a fake, to be entered."""
    return FakeZendesk()
