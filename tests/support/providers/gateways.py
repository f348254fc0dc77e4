"""SMS and calls: Twilio, and a gateway that takes one JSON object."""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass
from typing import Any, ClassVar

import httpx
from msgspec.structs import replace

from services.notify.channels.signatures import twilio_signature
from shared.directory.model import Contact, Directory, Gateway
from tests.support.providers import Call, FakeProvider, Reply

NUMBER = "+358401234567"
SENDER = "+358501112223"


@dataclass(frozen=True)
class Message:
    """One SMS, or one call."""

    sid: str
    to: str
    text: str
    """Of a call its TwiML."""
    callback: str | None

    @property
    def code(self) -> str:
        found = re.search(r"Reply ([0-9]{4})", self.text)
        assert found, self.text
        return found[1]


class FakeTwilio(FakeProvider):
    """Takes messages and calls, says later what became of them, and passes on what people answer."""

    channel = "sms"
    result = "accepted"
    account = "AC0123"
    environ: ClassVar[dict[str, str]] = {"FAKE_TWILIO_ACCOUNT": account, "FAKE_TWILIO_TOKEN": FakeProvider.token}

    def __init__(self, channel: str = "sms") -> None:
        super().__init__()
        self.channel = channel
        self.messages: list[Message] = []
        self.opted_out: set[str] = set()

    def applied_to(self, directory: Directory) -> Directory:
        gateway = Gateway("twilio", "FAKE_TWILIO_TOKEN", self.url, "FAKE_TWILIO_ACCOUNT", SENDER)
        return replace(directory, **{self.channel: gateway})

    def contact(self) -> Contact:
        return Contact(self.channel, NUMBER)

    def refuse(self) -> Reply:
        return _error(400, 21211, "Invalid 'To' Phone Number")

    def take(self, call: Call) -> Reply:
        basic = base64.b64encode(f"{self.account}:{self.token}".encode()).decode()
        if call.headers.get("authorization") != f"Basic {basic}":
            return _error(401, 20003, "Authenticate")
        found = re.fullmatch(rf"/2010-04-01/Accounts/{self.account}/(Messages|Calls)\.json", call.path)
        if found is None:
            return _error(404, 20404, "not found")
        form, kind = call.form, found[1]
        if form["From"] != SENDER or kind != ("Messages" if self.channel == "sms" else "Calls"):
            return _error(400, 21606, "The From number is not yours")
        if form["To"] in self.opted_out:
            return _error(400, 21610, "Attempt to send to unsubscribed recipient")
        sid = f"{'SM' if kind == 'Messages' else 'CA'}{self.number():032x}"
        text = form["Body" if kind == "Messages" else "Twiml"]
        self.messages.append(Message(sid, form["To"], text, form.get("StatusCallback")))
        self.phone[form["To"]].append(text)
        return Reply(201, {"sid": sid, "status": "queued", "to": form["To"], "error_code": None})

    async def status(self, message: Message, status: str, *, token: str | None = None, **more: str) -> httpx.Response:
        """Tell what became of a message."""
        name = "Message" if self.channel == "sms" else "Call"
        assert message.callback is not None
        form = {f"{name}Sid": message.sid, f"{name}Status": status, "AccountSid": self.account, **more}
        return await self.post(message.callback, form, token)

    async def press(self, message: Message, digits: str, *, token: str | None = None) -> httpx.Response:
        """Pass on which key somebody pressed."""
        found = re.search(r'action="([^"]+)"', message.text)
        assert found, message.text
        return await self.post(found[1], {"CallSid": message.sid, "Digits": digits, "To": message.to}, token)

    async def reply(self, url: str, text: str, sender: str = NUMBER, *, token: str | None = None) -> httpx.Response:
        """Pass on an SMS that somebody wrote."""
        form = {"From": sender, "To": SENDER, "Body": text, "NumMedia": "0", "MessageSid": f"SM{self.number():032x}"}
        return await self.post(url, form, token)

    async def post(self, url: str, form: dict[str, str], token: str | None = None) -> httpx.Response:
        """Call back, signed."""
        signature = twilio_signature(self.token if token is None else token, url, form)
        return await self.client.post(url, data=form, headers={"x-twilio-signature": signature})


def _error(status: int, code: int, message: str) -> Reply:
    return Reply(status, {"code": code, "message": message, "status": status, "more_info": "https://example.test"})


class FakeGateway(FakeProvider):
    """Takes one JSON object, and a repetition with the same key once."""

    channel = "sms"
    result = "accepted"
    environ: ClassVar[dict[str, str]] = {"FAKE_GATEWAY_TOKEN": FakeProvider.token}
    template: ClassVar[dict[str, str]] = {
        "recipient": "{to}",
        "body": "{text}",
        "from": "{sender}",
        "ref": "{key}",
        "dlr": "{callback}/receipt",
    }

    def __init__(self) -> None:
        super().__init__()
        self.requests: list[dict[str, Any]] = []

    def applied_to(self, directory: Directory) -> Directory:
        gateway = Gateway("http", "FAKE_GATEWAY_TOKEN", f"{self.url}/send", None, "Fiilis", self.template)
        return replace(directory, sms=gateway)

    def contact(self) -> Contact:
        return Contact("sms", NUMBER)

    def take(self, call: Call) -> Reply:
        if call.headers.get("authorization") != f"Bearer {self.token}":
            return Reply(401, {"error": "unauthorized"})
        key = call.headers["idempotency-key"]
        told = call.json
        assert told["ref"] == key
        if key not in self.keys:
            self.phone[told["recipient"]].append(told["body"])
        self.keys.append(key)
        self.requests.append(told)
        return Reply(200, {"message_id": f"m-{key}"})

    async def tell(self, url: str, **told: Any) -> httpx.Response:
        """Call back with JSON."""
        return await self.client.post(url, json=told, headers={"authorization": f"Bearer {self.token}"})
