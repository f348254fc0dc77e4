"""The other side of a signed webhook: checks the signature, and knows by webhook-id what it has already done."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from standardwebhooks import Webhook, WebhookVerificationError

from tests.support.desks import Call, FakeDesk, FakeTicket, Reply


class FakeReceiver(FakeDesk):
    type = "webhook"
    group = None
    token = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    secret = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"
    ends_as = "resolved"

    def __init__(self) -> None:
        super().__init__()
        self._done: dict[str, Any] = {}
        self.says_reference = True
        """Else it answers `ok`."""

    def directory_entry(self, **more: Any) -> dict[str, Any]:
        return super().directory_entry(**{"url": f"{self.url}/hooks/", **more})

    def authorized(self, call: Call) -> bool:
        try:
            Webhook(self.token).verify(call.body.decode(), call.headers)
        except WebhookVerificationError:
            return False
        return True

    def answer(self, call: Call) -> Reply:
        if call.path != "/hooks/":
            return self.refuse(404, "nobody here")
        key, told = call.headers["webhook-id"], call.json
        if key not in self._done:
            self._done[key] = self._take(told["type"], told["data"])
        return Reply(200, self._done[key]) if self.says_reference else Reply(200, b"ok", {"content-type": "text/plain"})

    def _take(self, kind: str, data: dict[str, Any]) -> Any:
        if kind == "ticket.create":
            number = self.number()
            reference = f"W-{number}" if self.says_reference else data["ticket"]
            ticket = self.keep(
                FakeTicket(reference, number, data["ticket"], data["title"], data["state"], data["severity"])
            )
        else:
            ticket = self.tickets[data["reference"]]
        ticket.title, ticket.text, ticket.severity = data["title"], data["story"], data["severity"]
        ticket.state = data.get("move_to") or ticket.state
        if data.get("remark"):
            self.write(ticket, "fiilis", data["remark"])
        return {"reference": ticket.reference, "url": f"{self.url}/tickets/{ticket.reference}"}

    def hook(
        self, reference: str, at: datetime | None = None, secret: str | None = None
    ) -> tuple[dict[str, str], bytes]:
        return self.tells({"type": "ticket.changed", "data": {"reference": reference}}, at, secret)

    def tells(
        self, said: dict[str, Any], at: datetime | None = None, secret: str | None = None
    ) -> tuple[dict[str, str], bytes]:
        """Return the headers and the body of a signed request."""
        signed, body = (at or self.now()).astimezone(UTC), json.dumps(said)
        return {
            "webhook-id": "evt-1",
            "webhook-timestamp": str(int(signed.timestamp())),
            "webhook-signature": "v1,AAAA " + Webhook(secret or self.secret).sign("evt-1", signed, body),
        }, body.encode()


def fake_webhook() -> FakeReceiver:
    """Return a fake, to be entered."""
    return FakeReceiver()
