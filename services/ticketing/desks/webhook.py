"""Any other desk, by requests signed as Standard Webhooks 1.0 says; it has nothing to ask."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any
from urllib.parse import quote
from uuid import UUID, uuid4

import msgspec

from services.ticketing.desks import DeskReport, Draft, Failed, Gone, News, Remark, Remarks, Remote
from services.ticketing.desks.api import Api, Budget
from services.ticketing.desks.signatures import OLDEST, check_standard, reference_in
from services.ticketing.domain.story import Story, as_text
from shared.directory import model
from shared.http.client import Answer, Outbound
from shared.http.webhooks import NoSecret, listed_secrets, signed_headers
from shared.wire.events import TicketState


class _Answer(msgspec.Struct):
    reference: str | int
    label: str | int | None = None
    url: str = ""


_Short = Annotated[str, msgspec.Meta(min_length=1, max_length=200, pattern=r"^[^\x00]*$")]
_Long = Annotated[str, msgspec.Meta(min_length=1, max_length=20_000, pattern=r"^[^\x00]*$")]
_Moment = Annotated[datetime, msgspec.Meta(tz=True)]


class _Comment(msgspec.Struct):
    id: _Short | int
    text: _Long
    author: _Short = ""


class _Word(msgspec.Struct):
    """What the other side says of a ticket, beside its reference; what it leaves out is as it was."""

    timestamp: _Moment | None = None
    """When it was so: what is older than another of its words undoes nothing; without, the last that came counts."""
    state: TicketState | None = None
    assignee: _Short | None = None
    """E-mail of a person of the directory, or the person's id."""
    resolution: _Long | None = None
    comment: _Comment | None = None


class SignedWebhook:
    """POSTs `{type, timestamp, data}` to `url`: ticket.create, ticket.update, ticket.redact.

    Settings: `token_env` names the signing secret (whsec_..., a comma list to replace one).
    Options: `ticket_url`: the address of a ticket's page, with {reference} in it.

    The answer to ticket.create may be JSON with `reference`, `label` and `url`; without, our id is the reference. Since
    nothing can be searched, a create that may have arrived is sent again with the same webhook-id, by which the other
    side tells that it has the ticket. Each other request has an id of its own and can be repeated. `read` knows no
    state either: the other side tells how a ticket is by signed requests, as `_Word` has it.
    """

    settles = 0.0
    readable = False
    rewrites = True
    opens_with_story = True
    room = 500_000

    def __init__(
        self, name: str, settings: model.Desk, secrets: Mapping[str, str], outbound: Outbound, budget: Budget
    ) -> None:
        """Take the settings. Raises Failed where the secret is none."""
        try:
            self._secrets = listed_secrets(secrets["token"], f"environment variable {settings.token_env}")
        except NoSecret as error:
            raise Failed("permanent", str(error)) from None
        self._api = Api(name, settings.url, {}, outbound, budget)
        self._path = "/" if settings.url.endswith("/") else ""
        self._page = settings.options.get("ticket_url", "")
        self._requester = settings.requester

    async def who_am_i(self) -> str | None:
        """Return nothing: there is nobody to ask."""
        return None

    async def find(self, ticket: UUID) -> Sequence[Remote]:
        """Return nothing: there is no search."""
        return ()

    async def create(self, draft: Draft) -> Remote:
        """Tell of a new ticket, by the same id each time."""
        answer = await self._send("ticket.create", f"{draft.ticket}:create{draft.turn or ''}", self._data(draft))
        try:
            known = msgspec.json.decode(answer.body, type=_Answer)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return self._remote(str(draft.ticket), f"#{draft.number}", "")
        label = f"#{draft.number}" if known.label is None else str(known.label)
        return self._remote(str(known.reference), label, known.url)

    async def describe(self, reference: str, draft: Draft) -> None:
        """Tell how the ticket is now."""
        await self._update(reference, draft)

    async def tell(self, reference: str, draft: Draft, story: Story) -> None:
        """Tell the story as it is now."""
        await self._update(reference, draft)

    async def move(self, reference: str, draft: Draft, state: TicketState) -> bool:
        """Tell which state the ticket is to have."""
        await self._update(reference, draft, move_to=state)
        return True

    async def remark(self, reference: str, draft: Draft, text: str) -> None:
        """Tell of what was said."""
        await self._update(reference, draft, remark=text)

    async def read(self, reference: str) -> Remote:
        """Return what is known of a ticket without asking: its page."""
        return self._remote(reference, reference, "")

    async def remarks(self, reference: str, after: str | None) -> Remarks:
        """Return nothing."""
        return Remarks((), after)

    async def changed(self, since: datetime, skip: int = 0) -> Sequence[Remote]:
        """Return nothing."""
        return ()

    async def redact(self, reference: str, draft: Draft) -> str:
        """Tell that a person was erased."""
        await self._send("ticket.redact", f"{draft.ticket}:{uuid4()}", {**self._data(draft), "reference": reference})
        return "what the other side of the webhook keeps although it was told"

    async def remove(self, reference: str) -> bool:
        """Do nothing: the other side has no such request."""
        return False

    def heard(self, headers: Mapping[str, str], body: bytes, secret: str, now: datetime) -> News:
        """Return what a request says that is signed as ours are, in `data` or at the top."""
        check_standard(headers, body, secret, now)
        reference = reference_in(body, ("data", "reference"), ("reference",))
        said: Any = msgspec.json.decode(body)
        try:
            word = msgspec.convert({**said, **said["data"]} if "data" in said else said, _Word)
        except (msgspec.ValidationError, TypeError) as error:
            raise ValueError(str(error)) from None
        # One that is far ahead is no clock's: it would be the newest for ever.
        stamp = word.timestamp
        stamp = None if stamp is None or stamp > now + OLDEST else stamp
        comment = word.comment
        at = now if stamp is None else min(stamp, now)
        remarks = () if comment is None else (Remark(str(comment.id), comment.author, comment.text, at),)
        return News(reference, DeskReport(stamp, word.state, word.assignee, word.resolution, remarks))

    async def _update(
        self, reference: str, draft: Draft, *, move_to: TicketState | None = None, remark: str | None = None
    ) -> None:
        data = {**self._data(draft), "reference": reference, "move_to": move_to, "remark": remark}
        await self._send("ticket.update", f"{draft.ticket}:{uuid4()}", data)

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
            return await self._api.send("POST", self._path, body, headers=signed_headers(self._secrets, key, now, body))
        except Gone as gone:
            why = f"{gone}: nobody listens at the webhook's url, or it knows no such ticket"
            raise Failed("permanent", why, refusal=kind != "ticket.create") from None

    def _remote(self, reference: str, label: str, url: str) -> Remote:
        page = self._page.replace("{reference}", quote(reference, safe=""))
        return Remote(reference, label, url or page, None)
