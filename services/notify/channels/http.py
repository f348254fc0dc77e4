"""What providers that speak HTTP have in common: one request, an answer that is classified, secrets that stay ours."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol, cast

import msgspec

from services.notify.channels import Notice, Result, failed, refused
from shared.directory.model import Directory
from shared.http.client import Answer, Outbound, Refused, Unreachable

_TOLD = ("code", "error", "message", "errors")
"""Where providers say what was wrong."""


class Unusable(Exception):
    """A provider that cannot be called as the directory has it; the message says what to change."""


@dataclass(frozen=True, slots=True)
class Request:
    """What a provider is asked."""

    url: str
    body: bytes
    headers: Mapping[str, str]
    hidden: tuple[str, ...] = ()
    """Secrets: they are cut out of what is kept of the answer."""
    named_by: str | None = None
    """The field by which the provider names what it took: an answer without it proves nothing."""
    ca_file: str | None = None
    """Authorities that are believed besides; None: those of the contact."""


class Provider(Protocol):
    """How one kind of contact is called. Pure but for the environment."""

    def ready(self, directory: Directory) -> bool:
        """Tell whether the directory has what the channel needs."""
        ...

    def request(self, notice: Notice) -> Request:
        """Return what to send. Raises Unusable."""
        ...

    def answered(self, answer: Answer) -> Result:
        """Return what an answer of 2xx means: delivered or accepted only where the answer itself proves it."""
        ...


class HttpChannel:
    """Calls a provider once for each notice. Only 2xx is success, and that only if the provider agrees."""

    def __init__(self, provider: Provider, outbound: Outbound, seconds: float) -> None:
        """`seconds`: how long the provider may take."""
        self._provider = provider
        self._outbound = outbound
        self._seconds = seconds

    def ready(self, directory: Directory) -> bool:
        """Ask the provider."""
        return self._provider.ready(directory)

    async def send(self, notice: Notice) -> Result:
        """Call the provider."""
        try:
            request = self._provider.request(notice)
        except Unusable as error:
            return Result("permanent", str(error))
        # The outbound client reads bodies as they come, so none may come compressed.
        headers = {"accept-encoding": "identity", "user-agent": "Fiilis", **request.headers}
        try:
            outbound = self._outbound.trusting(request.ca_file or notice.contact.ca_file)
            answer = await outbound.post(request.url, request.body, headers, seconds=self._seconds)
        except (Refused, Unreachable) as error:
            return failed(error)
        if 200 <= answer.status < 300:
            result = self._answered(request, answer)
            return replace(result, detail=_masked(result.detail, request.hidden))
        return refused(answer, _masked(_told(answer), request.hidden))

    def _answered(self, request: Request, answer: Answer) -> Result:
        if request.named_by is not None and not isinstance(fields(answer).get(request.named_by), str):
            return unproven(answer, f"one with {request.named_by}")
        return self._provider.answered(answer)


def secret(name: str | None) -> str:
    """Return the secret that an environment variable holds. Raises Unusable."""
    value = os.environ.get(name or "", "")
    if not value:
        raise Unusable(f"environment variable {name} is not set")
    if not (value.isascii() and value.isprintable()):
        raise Unusable(f"environment variable {name} has characters that no header can carry")
    return value


def json_request(url: str, body: Any, *, token: str | None = None, **headers: str) -> Request:
    """Return a request with a JSON body, and a bearer token where there is one."""
    sent = {"content-type": "application/json", **{name.replace("_", "-"): value for name, value in headers.items()}}
    if token is not None:
        sent["authorization"] = f"Bearer {token}"
    return Request(url, msgspec.json.encode(body), sent, () if token is None else (token,))


def fields(answer: Answer) -> dict[str, Any]:
    """Return the JSON object of an answer; empty where it is none."""
    try:
        found = msgspec.json.decode(answer.body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {}
    return cast("dict[str, Any]", found) if isinstance(found, dict) else {}


def unproven(answer: Answer, whose: str, *, lasting: bool = False) -> Result:
    """Return what an answer of 2xx means that does not prove that the message was taken; `whose` it should be."""
    told = _told(answer) or (
        "a web page" if answer.is_web_page else printable(answer.body[:200].decode(errors="replace"))
    )
    said = f"HTTP {answer.status}: the answer is not {whose}: {told}".rstrip(": ")
    return Result("permanent" if lasting else "temporary", said, retry_after=answer.retry_after)


def is_lasting(status: object) -> bool:
    """Tell whether a status that is told within an answer says that another try does not mend it."""
    return isinstance(status, int) and 400 <= status < 500 and status not in {408, 425, 429}


def receipt_in(answer: Answer, *names: str) -> str | None:
    """Return the provider's own name for the message: the first of these fields that there is."""
    told = fields(answer)
    found = next((told[name] for name in names if isinstance(told.get(name), str | int)), None)
    return None if found is None else printable(str(found))[:200]


def printable(text: str) -> str:
    """Return a text without what neither the database nor a log takes."""
    return "".join(character for character in text if character.isprintable())


def within(text: str, most: int) -> str:
    """Return a text of several lines cut at a number of characters."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _told(answer: Answer) -> str:
    found = fields(answer)
    if isinstance(found.get("error"), dict):
        found = cast("dict[str, Any]", found["error"])
    parts = (found[name] for name in _TOLD if isinstance(found.get(name), str | int | list))
    return " ".join(printable(str(part)) for part in parts)[:300]


def _masked(text: str, hidden: tuple[str, ...]) -> str:
    for one in hidden:
        text = text.replace(one, "***")
    return text
