"""What providers call back with: what became of a message, and what a person answered to it.

A token in the address, or the provider's signature, says who may; nobody needs a key.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar
from urllib.parse import parse_qsl
from uuid import UUID

import msgspec
from fastapi import Request, Response
from starlette.background import BackgroundTask

from services.notify.acknowledgements import Receipt
from services.notify.api.dependencies import Dependencies, Deps
from services.notify.channels.gateway import answering, asking, saying
from services.notify.channels.http import printable
from services.notify.channels.signatures import bears, signed_by_slack, signed_by_twilio
from services.notify.channels.slack import ACTION, escaped
from services.notify.store import deliveries
from shared.directory.model import Gateway
from shared.errors import FieldError, Problem, invalid_fields, not_found
from shared.http.client import Refused, Unreachable
from shared.http.keys import new_router
from shared.http.openapi import Responses, problems, raw_body
from shared.http.responses import json_response
from shared.runtime.logs import Log
from shared.wire.signing import BadToken, ExpiredToken

log = Log("notify")

_LIMIT = 64 * 1024
"""Bytes of a body."""
_UPDATE_SECONDS = 5.0
_REACHED = frozenset({"delivered", "read", "completed"})
_FAILED = frozenset({"undelivered", "failed", "busy", "no-answer", "canceled"})
_JSON, _FORM = "application/json", "application/x-www-form-urlencoded"
_TWIML: Responses = {200: {"content": {"text/xml": {"schema": {"type": "string"}}}}}
_Told = TypeVar("_Told")


class Twiml(Response):
    """What Twilio says next."""

    media_type = "text/xml"


class Status(msgspec.Struct, frozen=True):
    """What a gateway of type http tells of a message."""

    status: str
    receipt: str | None = None
    detail: str = ""


class Sms(msgspec.Struct, frozen=True):
    """An SMS that a gateway of type http received."""

    sender: str = msgspec.field(name="from")
    text: str


class Action(msgspec.Struct, frozen=True):
    """A button of Slack's."""

    action_id: str = ""
    value: str = ""


class Interaction(msgspec.Struct, frozen=True):
    """What was pressed in Slack."""

    actions: list[Action] = []
    response_url: str | None = None


@dataclass(frozen=True, slots=True)
class _Called:
    """Which of our calls a provider calls back about."""

    page: UUID
    person: str
    delivery: UUID
    channel: str
    gateway: Gateway | None
    """None: the call did not go over one."""
    pressed: bool
    """It shows a button whose press comes here."""


router = new_router(prefix="/v1/callbacks")


@router.post("/slack", responses=problems(401, 403, 404), openapi_extra=raw_body(_FORM))
async def take_slack_press(deps: Deps, request: Request) -> Response:
    """Take a press of a button in Slack: its value is the token of the acknowledge link."""
    app = deps.access.revision.directory.slack
    if app is None or app.signing_secret_env is None:
        raise not_found("callback", "slack")
    body = await _body(request)
    stamp, signature = (request.headers.get(f"x-slack-{name}", "") for name in ("request-timestamp", "signature"))
    if not signed_by_slack(_secret(app.signing_secret_env), stamp, body, signature, deps.clock.now()):
        raise _not_signed()
    pressed = _decoded(_form(body).get("payload", "").encode(), Interaction)
    token = next((action.value for action in pressed.actions if action.action_id == ACTION), None)
    if token is None:  # a button that only opens a link is told too
        return Response(status_code=200)
    text = await _taken_in_slack(deps, token)
    update = {"replace_original": True, "text": escaped(text)}
    # Slack does not read the answer to a press of a block's button; it wants the new message at an address.
    later = None if pressed.response_url is None else BackgroundTask(_replace, deps, pressed.response_url, update)
    return Response(msgspec.json.encode(update), media_type="application/json", background=later)


async def _taken_in_slack(deps: Dependencies, token: str) -> str:
    try:
        facts = deps.signer.verify("acknowledge", token, now=deps.clock.now())
    except ExpiredToken:
        return "This button has expired. Open a newer page, or acknowledge the ticket in your desk."
    except BadToken:
        raise not_found("page", "of this button") from None
    delivery = UUID(facts["delivery"]) if "delivery" in facts else None
    return await deps.acknowledgements.take_and_say(UUID(facts["page"]), facts["person"], delivery)


async def _replace(deps: Dependencies, url: str, update: Mapping[str, Any]) -> None:
    headers = {"content-type": "application/json", "accept-encoding": "identity"}
    try:
        answer = await deps.outbound.post(url, msgspec.json.encode(update), headers, seconds=_UPDATE_SECONDS)
    except (Refused, Unreachable) as error:
        log.warning("slack message not replaced", why=str(error))
        return
    if not 200 <= answer.status < 300:
        log.warning("slack message not replaced", why=f"HTTP {answer.status}")


@router.post("/sms", responses={**problems(401, 403, 404), **_TWIML}, openapi_extra=raw_body(_JSON, _FORM))
async def take_sms(deps: Deps, request: Request) -> Response:
    """Take an SMS: the code of a page, a word that takes the only one, STOP or START."""
    gateway = deps.access.revision.directory.sms
    if gateway is None:
        raise not_found("callback", "sms")
    body = await _body(request)
    if gateway.type == "http":
        if not bears(_secret(gateway.token_env), request.headers.get("authorization", "")):
            raise _not_signed()
        told = _decoded(body, Sms)
        return json_response({"text": await deps.acknowledgements.take_sms(_number(told.sender), told.text)})
    form = _signed_form(deps, gateway, request, body)
    return _twiml(answering(await deps.acknowledgements.take_sms(_number(form.get("From", "")), form.get("Body", ""))))


@router.post("/{token}/receipt", responses=problems(401, 403, 410), openapi_extra=raw_body(_JSON, _FORM))
async def take_receipt(deps: Deps, token: str, request: Request) -> Response:
    """Take what became of a message or a call; what says neither yes nor no changes nothing."""
    called = await _called(deps, token)
    if called.gateway is None:
        raise not_found("callback", "of this message")
    body = await _body(request)
    if called.gateway.type == "twilio":
        form = _signed_form(deps, called.gateway, request, body)
        status = form.get("MessageStatus") or form.get("CallStatus", "")
        code = form.get("ErrorCode", "")
        told = Status(status, form.get("MessageSid") or form.get("CallSid"), f"error {code}" if code else "")
    else:
        told = _decoded(body, Status)
    result = _result(told.status)
    if result is not None:
        await _store(deps, called, told, result)
    return json_response({"known": result is not None})


async def _store(deps: Dependencies, called: _Called, told: Status, result: Literal["delivered", "permanent"]) -> None:
    detail = printable(f"{told.status} {told.detail}".strip())
    name = None if told.receipt is None else printable(told.receipt)[:200]
    if await deps.acknowledgements.take_receipt(
        Receipt(called.page, called.delivery, called.channel, name, result, detail)
    ):
        deps.sent()
        deps.escalate()


@router.post(
    "/{token}/key",
    response_class=Twiml,
    responses=problems(401, 403, 410),
    openapi_extra=raw_body(_FORM),
)
async def take_pressed_key(deps: Deps, token: str, request: Request) -> Response:
    """Take a key that was pressed in a call."""
    called = await _called(deps, token)
    if called.gateway is None:
        raise not_found("callback", "of this call")
    body = await _body(request)
    twilio = called.gateway.type == "twilio"
    form = _signed_form(deps, called.gateway, request, body) if twilio else _form(body)
    if form.get("Digits") != "1":
        return _twiml(asking("That was another key.", _address(deps, request)))
    return _twiml(saying(await deps.acknowledgements.take_and_say(called.page, called.person, called.delivery)))


@router.post("/{token}/press", responses=problems(410), openapi_extra=raw_body(_JSON))
async def take_mattermost_press(deps: Deps, token: str, request: Request) -> Response:
    """Take a press of a button in Mattermost."""
    called = await _called(deps, token)
    await _body(request)
    if not called.pressed:
        raise not_found("callback", "of this address")
    text = await deps.acknowledgements.take_and_say(called.page, called.person, called.delivery)
    return json_response({"update": {"message": text, "props": {}}, "ephemeral_text": text})


async def _called(deps: Dependencies, token: str) -> _Called:
    try:
        facts = deps.signer.verify("callback", token, now=deps.clock.now())
    except ExpiredToken:
        raise Problem(410, "expired", "This address has expired") from None
    except BadToken:
        raise not_found("callback", "of this address") from None
    delivery = UUID(facts["delivery"])
    async with deps.database.transaction() as tx:
        channels = [channel for channel, _ in await deliveries.called(tx, delivery)]
    directory = deps.access.revision.directory
    gateways = {"sms": directory.sms, "voice": directory.voice}
    channel = next((one for one in channels if one in gateways), "")
    pressed = "mattermost" in channels
    return _Called(UUID(facts["page"]), facts["person"], delivery, channel, gateways.get(channel), pressed)


def _signed_form(deps: Dependencies, gateway: Gateway, request: Request, body: bytes) -> dict[str, str]:
    form = _form(body)
    signature = request.headers.get("x-twilio-signature", "")
    if not signed_by_twilio(_secret(gateway.token_env), _address(deps, request), form, signature):
        raise _not_signed()
    return form


def _address(deps: Dependencies, request: Request) -> str:
    """Return an address of ours as others call it, in front of whatever proxy."""
    query = f"?{request.url.query}" if request.url.query else ""
    return f"{deps.public_url()}{request.url.path}{query}"


async def _body(request: Request) -> bytes:
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > _LIMIT:
            raise Problem(413, "too-large", "The body is too large", f"At most {_LIMIT} bytes.")
    return body


def _form(body: bytes) -> dict[str, str]:
    return dict(parse_qsl(body.decode(errors="replace"), keep_blank_values=True))


def _decoded(body: bytes, type: type[_Told]) -> _Told:
    try:
        return msgspec.json.decode(body, type=type)
    except msgspec.ValidationError as error:
        raise invalid_fields(FieldError("body", str(error)[:200])) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise Problem(400, "not-json", "The body is not JSON") from None


def _secret(name: str) -> str:
    value = os.environ.get(name, "")
    if not value:
        raise Problem(403, "forbidden", "The provider has no secret", f"Set the environment variable {name}.")
    return value


def _not_signed() -> Problem:
    return Problem(401, "bad-signature", "The signature is not the provider's")


def _result(status: str) -> Literal["delivered", "permanent"] | None:
    return "delivered" if status in _REACHED else "permanent" if status in _FAILED else None


def _number(text: str) -> str:
    """Return a number as the directory has it: + and digits."""
    digits = "".join(character for character in text if character.isascii() and character.isdecimal())
    return f"+{digits.removeprefix('00')}"


def _twiml(xml: str) -> Response:
    return Twiml(xml)
