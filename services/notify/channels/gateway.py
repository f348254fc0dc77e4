"""SMS and calls, over an interface like Twilio's or over any gateway that takes one JSON object.

Twilio has no idempotency key: a call that timed out may have been taken, and is made again. Its receipt, where it comes
first, prevents that.
"""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Mapping
from dataclasses import replace
from urllib.parse import quote, urlencode

from services.notify.channels import Notice, Result
from services.notify.channels.http import (
    Request,
    Unusable,
    fields,
    json_request,
    printable,
    receipt_in,
    secret,
    unproven,
)
from services.notify.domain.texts import one_line, shortened
from shared.directory.model import Directory, Gateway
from shared.http.client import Answer

_TWILIO = "https://api.twilio.com"
_TEMPLATE = {"to": "{to}", "text": "{text}", "key": "{key}"}
_PLACE = re.compile(r"\{(to|text|key|sender|callback)\}")
_MOST = 480
"""Characters of an SMS; three parts, or seven where a letter is not in GSM 03.38."""
_SPOKEN_MOST = 600
_DENIED = frozenset(
    {"failed", "undelivered", "canceled", "rejected", "refused", "error", "invalid", "busy", "no-answer"}
)
"""What a gateway calls a message or a call that it did not take."""
_LANGUAGE = "en-US"
"""Of the voice: that of the words."""


class Sms:
    """Sends an SMS that can be answered with a code."""

    def ready(self, directory: Directory) -> bool:
        """Need a gateway."""
        return directory.sms is not None

    def request(self, notice: Notice) -> Request:
        """Return the request to the gateway."""
        gateway = _there(notice.directory.sms, "sms")
        if gateway.type == "twilio":
            return _twilio(gateway, notice, "Messages", {"Body": sms_text(notice)})
        return _plain(gateway, notice, sms_text(notice))

    def answered(self, answer: Answer) -> Result:
        """Tell whether the gateway has it; whether it arrives, a receipt tells later."""
        return _accepted(answer)


class Voice:
    """Calls and reads; a key takes the page."""

    def ready(self, directory: Directory) -> bool:
        """Need a gateway."""
        return directory.voice is not None

    def request(self, notice: Notice) -> Request:
        """Return the request to the gateway."""
        gateway = _there(notice.directory.voice, "voice")
        said = _spoken(notice.words.short)
        if gateway.type == "http":
            return _plain(gateway, notice, f"{said} Press 1 to take it." if notice.callback_url else said)
        said_twice = asking(said, f"{notice.callback_url}/key") if notice.callback_url else saying(said, times=2)
        return _twilio(gateway, notice, "Calls", {"Twiml": said_twice})

    def answered(self, answer: Answer) -> Result:
        """Tell whether the gateway has it; whether somebody picks up, a receipt tells later."""
        return _accepted(answer)


def sms_text(notice: Notice) -> str:
    """Return the words of an SMS; the link is left out where it does not fit, never cut."""
    said = one_line(notice.words.short)
    if notice.page is None:
        return shortened(said, _MOST)
    answer = f" Reply {notice.code} to take it."
    said = shortened(said, _MOST - len(answer)) + answer
    linked = f"{said} {notice.acknowledge_url}"
    return linked if len(linked) <= _MOST else said


def asking(text: str, url: str) -> str:
    """Return TwiML that reads a text, twice, and sends the key that is pressed to an address."""
    action = html.escape(url)
    say = _say(f"{text} Press 1 to take it.", times=2)
    return f'<Response><Gather numDigits="1" timeout="10" action="{action}" method="POST">{say}</Gather></Response>'


def saying(text: str, times: int = 1) -> str:
    """Return TwiML that reads a text."""
    return f"<Response>{_say(text, times)}</Response>"


def answering(text: str | None) -> str:
    """Return TwiML that answers an SMS; None: with nothing."""
    said = "" if text is None else f"<Message>{html.escape(printable(text))}</Message>"
    return f"<Response>{said}</Response>"


def _say(text: str, times: int) -> str:
    return f'<Say language="{_LANGUAGE}" loop="{times}">{html.escape(printable(text))}</Say>'


def _spoken(text: str) -> str:
    """Return a text as it is read aloud: a code digit by digit, not as a number of thousands."""
    line = shortened(text, _SPOKEN_MOST)
    return re.sub(r"\b[0-9]{4,}\b", lambda found: " ".join(found[0]), line)


def _there(gateway: Gateway | None, name: str) -> Gateway:
    if gateway is None:
        raise Unusable(f"the directory has no channels.{name}")
    return gateway


def _twilio(gateway: Gateway, notice: Notice, what: str, said: Mapping[str, str]) -> Request:
    account, token = secret(gateway.account_env), secret(gateway.token_env)
    form = {"To": notice.contact.address, "From": gateway.sender or "", **said}
    if notice.callback_url:
        form["StatusCallback"] = f"{notice.callback_url}/receipt"
    basic = base64.b64encode(f"{account}:{token}".encode()).decode()
    return Request(
        f"{(gateway.url or _TWILIO).rstrip('/')}/2010-04-01/Accounts/{quote(account, safe='')}/{what}.json",
        urlencode(form).encode(),
        {"content-type": "application/x-www-form-urlencoded", "authorization": f"Basic {basic}"},
        (token, basic),
        named_by="sid",
        ca_file=gateway.ca_file,
    )


def _plain(gateway: Gateway, notice: Notice, text: str) -> Request:
    facts = {
        "to": notice.contact.address,
        "text": text,
        "key": notice.key,
        "sender": gateway.sender or "",
        "callback": notice.callback_url,
    }
    body = {
        name: _PLACE.sub(lambda place: facts[place[1]], template)
        for name, template in (gateway.template or _TEMPLATE).items()
        if notice.callback_url or "{callback}" not in template
    }
    request = json_request(gateway.url or "", body, token=secret(gateway.token_env), idempotency_key=notice.key)
    return replace(request, ca_file=gateway.ca_file)


def _accepted(answer: Answer) -> Result:
    """Take what is not denied as accepted: of any gateway we know only how it would say no."""
    told = fields(answer)
    denied = (
        told.get("success") is False
        or told.get("ok") is False
        or any(told.get(name) for name in ("error", "errors", "error_code"))
        or str(told.get("status", "")).lower() in _DENIED
    )
    if denied or answer.is_web_page:
        return unproven(answer, "a yes")
    receipt = receipt_in(answer, "sid", "id", "message_id")
    return Result("accepted", f"HTTP {answer.status}", receipt=receipt)
