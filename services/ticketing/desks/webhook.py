"""Any other desk, by requests signed as Standard Webhooks 1.0 says; it has nothing to ask."""

from __future__ import annotations

import binascii
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote
from uuid import UUID, uuid4

import msgspec
from standardwebhooks import Webhook

from services.ticketing.desks import Draft, Failed, Gone, Remark, Remote
from services.ticketing.desks.api import Api, Pace
from services.ticketing.desks.signatures import check_standard, reference_in
from services.ticketing.domain.story import as_text
from shared.directory import model
from shared.events import TicketState
from shared.http import Answer, Outbound
from shared.webhooks import signed_headers


class _Answer(msgspec.Struct):
    reference: str | int
    label: str | int | None = None
    url: str = ""


class SignedWebhook:
    """POSTs `{type, timestamp, data}` to `url`: ticket.create, ticket.update, ticket.redact.

    Settings: `token_env` names the signing secret (whsec_...).
    Options: `ticket_url`: the address of a ticket's page, with {reference} in it.

    The answer to ticket.create may be JSON with `reference`, `label` and `url`; without, our id is the reference. Since
    nothing can be searched, a create that may have arrived is sent again with the same webhook-id, by which the other
    side tells that it has the ticket. Each other request has an id of its own and can be repeated. `read` knows no
    state: the other side tells of a change by a signed request with `{"data": {"reference": ...}}`.
    """

    settles = 0.0

    def __init__(
        self, name: str, settings: model.Desk, secrets: Mapping[str, str], outbound: Outbound, pace: Pace
    ) -> None:
        """Take the settings. Raises Failed where the secret is none."""
        self._secret = secrets["token"]
        try:
            Webhook(self._secret)
        except (ValueError, RuntimeError, binascii.Error):
            raise Failed("permanent", f"environment variable {settings.token_env} is no webhook secret") from None
        self._api = Api(name, settings.url, {}, outbound, pace)
        self._path = "/" if settings.url.endswith("/") else ""
        self._page = settings.options.get("ticket_url", "")
        self._requester = settings.requester

    async def find(self, ticket: UUID) -> Sequence[Remote]:
        """Return nothing: there is no search."""
        return ()

    async def create(self, draft: Draft) -> Remote:
        """Tell of a new ticket, by the same id each time."""
        answer = await self._send("ticket.create", f"{draft.ticket}:create", self._data(draft))
        try:
            known = msgspec.json.decode(answer.body, type=_Answer)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return self._remote(str(draft.ticket), f"#{draft.number}", "")
        label = f"#{draft.number}" if known.label is None else str(known.label)
        return self._remote(str(known.reference), label, known.url)

    async def update(self, reference: str, draft: Draft, state: TicketState | None, remark: str | None) -> None:
        """Tell how the ticket is now."""
        data = {**self._data(draft), "reference": reference, "move_to": state, "remark": remark}
        await self._send("ticket.update", f"{draft.ticket}:{uuid4()}", data)

    async def read(self, reference: str) -> Remote:
        """Return what is known of a ticket without asking: its page."""
        return self._remote(reference, reference, "")

    async def remarks(self, reference: str) -> Sequence[Remark]:
        """Return nothing."""
        return ()

    async def changed(self, since: datetime) -> Sequence[Remote]:
        """Return nothing."""
        return ()

    async def redact(self, reference: str, draft: Draft) -> str:
        """Tell that a person was erased."""
        await self._send("ticket.redact", f"{draft.ticket}:{uuid4()}", {**self._data(draft), "reference": reference})
        return "what the other side of the webhook keeps although it was told"

    def heard(self, headers: Mapping[str, str], body: bytes, secret: str, now: datetime) -> str:
        """Return the ticket of a request signed as ours are."""
        check_standard(headers, body, secret, now)
        return reference_in(body, ("data", "reference"))

    def _data(self, draft: Draft) -> dict[str, Any]:
        return {
            "ticket": draft.ticket,
            "number": draft.number,
            "title": draft.title,
            "story": as_text(draft.story),
            "severity": draft.severity,
            "state": draft.state,
            "customer": draft.customer,
            "requester": self._requester,
            "root_cause": draft.root_cause,
            "resolution": draft.resolution,
        }

    async def _send(self, kind: str, key: str, data: dict[str, Any]) -> Answer:
        now = datetime.now(UTC)
        body = msgspec.json.encode({"type": kind, "timestamp": now, "data": data})
        try:
            return await self._api.send("POST", self._path, body, headers=signed_headers(self._secret, key, now, body))
        except Gone as gone:
            raise Failed("permanent", f"{gone}: nobody listens at the webhook's url") from None

    def _remote(self, reference: str, label: str, url: str) -> Remote:
        page = self._page.replace("{reference}", quote(reference, safe=""))
        return Remote(reference, label, url or page, None)
