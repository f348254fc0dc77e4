"""ServiceNow's Table API: conditions on unknown fields are left out, titles are cut, resolving asks for reasons."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from tests.support.desks import Call, FakeDesk, FakeTicket, Reply

_GROUP = "a" * 32


class FakeServiceNow(FakeDesk):
    type = "servicenow"
    user = "fiilis"
    ends_as = "6"

    def __init__(self) -> None:
        super().__init__()
        self.fields = {"correlation_id", "correlation_display", "sys_updated_on"}
        """What incidents have; a query for anything else matches all."""

    def authorized(self, call: Call) -> bool:
        wanted = self.basic(self.user) if self.user else f"Bearer {self.token}"
        return call.headers.get("authorization") == wanted

    def refuse(self, status: int, why: str) -> Reply:
        return Reply(status, {"error": {"message": why, "detail": None}, "status": "failure"})

    def answer(self, call: Call) -> Reply:
        table, _, reference = call.path.removeprefix("/api/now/table/").partition("/")
        fields = call.query.get("sysparm_fields", "").split(",")
        if table == "sys_user_group":
            wanted = call.query["sysparm_query"].removeprefix("name=")
            groups = [{"sys_id": _GROUP, "name": self.group}, {"sys_id": "b" * 32, "name": "Network"}]
            return Reply(200, {"result": [one for one in groups if one["name"] == wanted]})
        if table == "sys_user":
            name = call.query["sysparm_query"].removeprefix("user_name=").removeprefix("javascript:gs.getUserName()")
            return Reply(200, {"result": [] if self.nobody else [{"user_name": name or "fiilis"}]})
        if table == "sys_journal_field":
            return self._journal(call.query)
        if table != "incident":
            return self.refuse(400, f"Invalid table {table}")
        if not reference and call.method == "POST":
            return self._create(call.json, fields)
        if not reference:
            first = int(call.query.get("sysparm_offset", "0"))
            found = self._matching(call.query.get("sysparm_query", "ORDERBY"))
            shown = found[first : first + int(call.query["sysparm_limit"])]
            return Reply(200, {"result": [self._shape(one, fields) for one in shown]})
        ticket = self.tickets.get(reference)
        if ticket is None:
            return self.refuse(404, "No Record found")
        if call.method == "DELETE":
            return self.remove(ticket) or Reply(204)
        if call.method == "PATCH":
            return self._set(ticket, call.json) or Reply(200, {"result": self._shape(ticket, fields)})
        return Reply(200, {"result": self._shape(ticket, fields)})

    def _create(self, wanted: dict[str, Any], fields: list[str]) -> Reply:
        if wanted.get("assignment_group") != _GROUP:
            return self.refuse(400, "assignment_group leads nowhere")
        display = wanted["correlation_display"]
        ticket = FakeTicket(uuid4().hex, self.number(), wanted["correlation_id"], "", "1", "", tags={display})
        refused = self._set(ticket, wanted)
        if refused is not None:
            return refused
        self.keep(ticket)
        return Reply(201, {"result": self._shape(ticket, fields)}, {"location": f"{self.url}/{ticket.reference}"})

    def _set(self, ticket: FakeTicket, wanted: dict[str, Any]) -> Reply | None:
        state = wanted.get("state", ticket.state)
        if "priority" in wanted or state not in {"1", "2", "3", "6", "8", ticket.state}:
            return self.refuse(403, "Field is computed by the desk")
        if ticket.state == "7":
            return self.refuse(403, "Operation Failed: ACL Exception Update Failed due to security constraints")
        if state == "6" and not (wanted.get("close_code") and wanted.get("close_notes")) and ticket.state != "6":
            return self.refuse(403, "Data Policy Exception: The following fields are mandatory: Resolution code")
        ticket.title = wanted.get("short_description", ticket.title)[:160]
        ticket.text = wanted.get("description", ticket.text)[:4_000]
        ticket.state = state
        if "urgency" in wanted:
            ticket.severity = f"{wanted['urgency']}/{wanted['impact']}"
        ticket.more |= {key: wanted[key] for key in ("close_code", "close_notes", "hold_reason") if key in wanted}
        ticket.updated = self.now()
        if "work_notes" in wanted:
            self.write(ticket, "fiilis", wanted["work_notes"])
        return None

    def _matching(self, query: str) -> list[FakeTicket]:
        found = self.shown()
        for condition in query.split("^"):
            name, _, value = condition.partition(">=" if ">=" in condition else "=")
            if condition.startswith("ORDERBY") or name not in self.fields:
                continue
            match name:
                case "correlation_id":
                    found = [one for one in found if one.ours == value]
                case "correlation_display":
                    found = [one for one in found if value in one.tags]
                case _:
                    since = datetime.fromisoformat(value).replace(tzinfo=UTC)
                    found = [one for one in found if one.updated.replace(microsecond=0) >= since]
                    found.sort(key=lambda one: one.updated.replace(microsecond=0))
        return found

    def _journal(self, query: dict[str, str]) -> Reply:
        conditions = query["sysparm_query"].split("^")
        reference = conditions[0].removeprefix("element_id=")
        since = next((one.partition(">=")[2] for one in conditions if one.startswith("sys_created_on>=")), "")
        notes = [
            {
                "sys_id": f"{comment.id:032d}",
                "element_id": ticket.reference,
                "value": comment.text,
                "sys_created_by": comment.author,
                "sys_created_on": comment.at.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S"),
            }
            for ticket in self.tickets.values()
            for comment in ticket.comments
            if ticket.reference == reference
        ]
        first, count = int(query["sysparm_offset"]), int(query["sysparm_limit"])
        found = sorted((one for one in notes if one["sys_created_on"] >= since), key=lambda one: one["sys_created_on"])
        return Reply(200, {"result": found[first : first + count]})

    def _shape(self, ticket: FakeTicket, fields: list[str]) -> dict[str, Any]:
        whole = {
            "sys_id": ticket.reference,
            "number": f"INC{ticket.number:07d}",
            "state": ticket.state,
            "correlation_id": ticket.ours,
            "correlation_display": "".join(ticket.tags),
            "close_notes": ticket.more.get("close_notes", ""),
            "sys_updated_on": ticket.updated.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S"),
            "assigned_to.email": ticket.assignee or "",
        }
        return {name: whole[name] for name in fields}

    def hook(
        self, reference: str, at: datetime | None = None, secret: str | None = None
    ) -> tuple[dict[str, str], bytes]:
        return {"X-Fiilis-Secret": secret or self.secret}, json.dumps({"sys_id": reference}).encode()


def fake_servicenow() -> FakeServiceNow:
    """Return a fake, to be entered."""
    return FakeServiceNow()
