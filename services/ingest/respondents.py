"""What is done for one respondent: a token that vouches for them, and forgetting what they said."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated
from uuid import UUID

from fastapi import Path, Query, Response
from pydantic import Field

from services.ingest.dependencies import Dependencies, Deps
from services.ingest.domain import Vouched
from shared.bus.client import cloud_event
from shared.directory.access import Caller
from shared.directory.fields import Duration, Slug
from shared.errors import Problem, not_found
from shared.http.keys import caller_with, new_router
from shared.http.request_model import RequestModel
from shared.http.responses import id_in_path, json_response
from shared.runtime.logs import Log, new_traceparent, tracing
from shared.wire.erasure import type_of
from shared.wire.events import RespondentErasedV1
from shared.wire.ids import uuid7
from shared.wire.topics import FEEDBACK

log = Log("ingest")


class TokenAsked(RequestModel):
    """Whom an application vouches for, and how long."""

    customer: str
    respondent: Annotated[str, Field(min_length=1, max_length=200)]
    touchpoint: str | None = None
    expires: Annotated[Duration, Field(le=30 * 86_400)] = 86_400


class ErasureQuery(RequestModel):
    """Whose respondent, or answer."""

    customer: Slug


router = new_router(tags=["ingest"])


@router.post("/v1/respondents", status_code=201)
async def make_respondent_token(
    deps: Deps, asked: TokenAsked, caller: Annotated[Caller, caller_with("feedback", limited=True)]
) -> Response:
    """Sign a respondent token: an answer that brings it is this respondent's, also with a publishable key."""
    known = caller.customer(asked.customer)
    if deps.signer is None:
        raise Problem(503, "no-secret", "Nothing can be signed", "FIILIS_SECRET is not set.")
    caller.check_touchpoint(known, asked.touchpoint)
    expires = deps.clock.now() + timedelta(seconds=asked.expires)
    vouched = Vouched(asked.customer, asked.respondent, asked.touchpoint)
    token = deps.signer.sign("respondent", vouched._asdict(), expires=expires)
    return json_response({"respondent_token": token, "expires_at": expires}, 201)


@router.delete("/v1/respondents/{respondent:path}", status_code=202)
async def erase_respondent(
    deps: Deps,
    respondent: Annotated[str, Path(min_length=1, max_length=200)],
    query: Annotated[ErasureQuery, Query()],
    caller: Annotated[Caller, caller_with("admin", limited=True)],
) -> Response:
    """Erase a person everywhere: what they said until now, also where it arrives later."""
    return await _erase(deps, caller, query.customer, respondent, None)


@router.delete("/v1/feedback/{answer}", status_code=202)
async def erase_answer(
    deps: Deps,
    answer: str,
    query: Annotated[ErasureQuery, Query()],
    caller: Annotated[Caller, caller_with("admin", limited=True)],
) -> Response:
    """Erase what somebody wrote with one answer, everywhere, and how to reach them, also where it arrives later."""
    return await _erase(deps, caller, query.customer, "", id_in_path("answer", answer))


async def _erase(deps: Dependencies, caller: Caller, customer: str, respondent: str, answer: UUID | None) -> Response:
    if not caller.may_see(customer):
        raise not_found("customer", customer)
    erasure = RespondentErasedV1(
        erasure=uuid7(),
        customer=customer,
        respondent=respondent,
        before=deps.clock.now(),
        by=caller.actor.id,
        address=caller.address,
        answer=answer,
    )
    id_, at = str(erasure.erasure), erasure.before
    with tracing(new_traceparent(erasure.erasure.hex)):
        message = cloud_event(FEEDBACK, type_of(erasure), key=customer, id=id_, at=at, message=erasure)
    await deps.publishing.send(message)
    log.info("erasure accepted", erasure=erasure.erasure)
    return json_response({"erasure": erasure.erasure}, 202)
