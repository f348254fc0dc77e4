"""The hosted survey page: four faces, a comment, no script. Opening it records nothing; mail scanners follow links."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any
from urllib.parse import parse_qs
from uuid import UUID

from fastapi import Header, Request, Response
from fastapi.responses import HTMLResponse

from services.ingest.dependencies import Dependencies, Deps
from services.ingest.texts import MOUTHS, WORDS
from shared.directory.model import Directory
from shared.errors import Problem
from shared.http.html import PAGE_HEADERS, accepted_language, templates
from shared.http.keys import new_router
from shared.http.openapi import problems, raw_body
from shared.http.stylesheet import serve_style
from shared.wire.events import FeedbackReceivedV1
from shared.wire.ids import uuid7
from shared.wire.signing import BadToken, ExpiredToken

_templates = templates(__file__)
_COMMENT = 4_000


router = new_router(tags=["ingest"])
serve_style(router, "/s")


@router.get("/s/{token}", response_class=HTMLResponse, responses=problems(410, page=True))
async def show_survey(deps: Deps, token: str, accept_language: Annotated[str | None, Header()] = None) -> Response:
    """Show the question."""
    facts, refused = _facts(deps, token, accept_language)
    return refused or _page(deps.access.revision.directory, facts, accept_language)


@router.post(
    "/s/{token}",
    response_class=HTMLResponse,
    responses=problems(410, 429, page=True),
    openapi_extra=raw_body("application/x-www-form-urlencoded"),
)
async def record_survey_answer(
    deps: Deps, token: str, request: Request, accept_language: Annotated[str | None, Header()] = None
) -> Response:
    """Record the answer."""
    facts, refused = _facts(deps, token, accept_language)
    if refused is not None:
        return refused
    try:
        form = parse_qs((await request.body()).decode("utf-8", "replace"), max_num_fields=20)
    except ValueError:  # more fields than that
        form = dict[str, list[str]]()
    score = form.get("score", [""])[0]
    directory = deps.access.revision.directory
    if score not in {"1", "2", "3", "4"}:
        return _page(directory, facts, accept_language, status=422, missing=True)
    comment = form.get("comment", [""])[0].replace("\0", "").strip()[:_COMMENT]
    answer = _answer(facts, int(score), comment or None, _code(accept_language, facts), deps.clock.now())
    if answer.customer not in directory.customers:
        return _told(directory, accept_language, facts, 404, "unknown")
    try:
        if answer.respondent is not None:
            deps.buckets.take(deps.limits.of_respondent(answer.customer, answer.respondent), 1, deps.clock.now())
        await deps.publishing.publish_one(answer, None)
    except Problem as problem:
        told = _said(directory, _code(accept_language, facts), problem.status, problem.title)
        told.headers.update(problem.headers)
        return told
    return _told(directory, accept_language, facts, 200, "thanks", deps.status_url(answer))


def _facts(deps: Dependencies, token: str, accepted: str | None) -> tuple[dict[str, Any], Response | None]:
    directory = deps.access.revision.directory
    assert deps.signer is not None, "without a secret there are no surveys"
    try:
        return deps.signer.verify("survey", token, now=deps.clock.now()), None
    except ExpiredToken:
        return {}, _told(directory, accepted, {}, 410, "expired")
    except BadToken:
        return {}, _told(directory, accepted, {}, 404, "unknown")


def _answer(facts: dict[str, Any], score: int, comment: str | None, language: str, now: datetime) -> FeedbackReceivedV1:
    return FeedbackReceivedV1(
        # Of the link, where it names one: a second click is the same answer.
        id=UUID(facts["answer"]) if "answer" in facts else uuid7(),
        customer=facts["customer"],
        kind="mood",
        score=score,
        occurred_at=now,
        received_at=now,
        trust="verified",
        touchpoint=facts.get("touchpoint"),
        respondent=facts.get("respondent"),
        comment=comment,
        channel="email",
        language=language,
        follow_up=facts.get("follow_up"),
        by_token=True,
    )


def _code(accepted: str | None, facts: dict[str, Any]) -> str:
    """Return the first language that the browser asks for and the page has; else that of the link."""
    known = accepted_language(accepted, WORDS) or str(facts.get("language", ""))[:2]
    return known if known in WORDS else "en"


def _page(
    directory: Directory, facts: dict[str, Any], accepted: str | None, *, status: int = 200, missing: bool = False
) -> Response:
    code = _code(accepted, facts)
    words = WORDS[code]
    body = _templates.get_template("survey.html").render(
        language=code,
        words=words,
        company=directory.company,
        faces=[(4 - place, MOUTHS[3 - place], words.faces[3 - place]) for place in range(4)],
        follow_up=facts.get("follow_up"),
        missing=missing,
    )
    return Response(body, status, PAGE_HEADERS, media_type="text/html")


def _told(
    directory: Directory,
    accepted: str | None,
    facts: dict[str, Any],
    status: int,
    what: str,
    status_url: str | None = None,
) -> Response:
    code = _code(accepted, facts)
    return _said(directory, code, status, getattr(WORDS[code], what), status_url)


def _said(directory: Directory, code: str, status: int, text: str, status_url: str | None = None) -> Response:
    body = _templates.get_template("survey.html").render(
        language=code,
        words=WORDS[code],
        company=directory.company,
        told=text,
        status_url=status_url,
    )
    return Response(body, status, PAGE_HEADERS, media_type="text/html")
