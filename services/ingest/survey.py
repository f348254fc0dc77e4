"""The hosted survey page: four faces, a comment, no script. Opening it records nothing; mail scanners follow links."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Any, NamedTuple
from urllib.parse import parse_qs
from uuid import UUID

from fastapi import APIRouter, Header, Request, Response

from services.ingest.publishing import Publishing
from shared.clock import Clock
from shared.directory.access import Access
from shared.directory.model import Directory
from shared.errors import Problem
from shared.events import FeedbackReceivedV1
from shared.ids import uuid7
from shared.pages import PAGE_HEADERS, accepted_language, templates
from shared.security import BadToken, ExpiredToken, Signer

StatusUrl = Callable[[FeedbackReceivedV1], str | None]

_templates = templates(__file__)
_COMMENT = 4_000


class Words(NamedTuple):
    """The page in one language."""

    title: str
    question: str
    follow_up: str
    choose: str
    faces: tuple[str, str, str, str]
    """From the worst."""
    comment: str
    send: str
    missing: str
    thanks: str
    follow: str
    expired: str
    unknown: str


_WORDS = {
    "en": Words(
        "Your feedback",
        "How did it go?",
        "Was it put right?",
        "Choose the face that fits",
        ("Badly", "Not so well", "Well", "Very well"),
        "What would you like to add? (optional)",
        "Send",
        "Choose one of the faces.",
        "Thank you. We have received it.",
        "See what happens to it",
        "This link has expired.",
        "This link leads nowhere. It may have been cut off on its way.",
    ),
    "fi": Words(
        "Palautteesi",
        "Miten meni?",
        "Tuliko asia kuntoon?",
        "Valitse sopivin kasvo",
        ("Huonosti", "Ei kovin hyvin", "Hyvin", "Erittäin hyvin"),
        "Mitä haluat lisätä? (vapaaehtoinen)",
        "Lähetä",
        "Valitse yksi kasvoista.",
        "Kiitos. Palautteesi on vastaanotettu.",
        "Katso, mitä sille tapahtuu",
        "Tämä linkki on vanhentunut.",
        "Tämä linkki ei johda mihinkään. Se on ehkä katkennut matkalla.",
    ),
    "sv": Words(
        "Din återkoppling",
        "Hur gick det?",
        "Blev det bra?",
        "Välj det ansikte som passar",
        ("Dåligt", "Inte så bra", "Bra", "Mycket bra"),
        "Vad vill du tillägga? (frivilligt)",
        "Skicka",
        "Välj ett av ansiktena.",
        "Tack. Vi har tagit emot den.",
        "Se vad som händer med den",
        "Länken har gått ut.",
        "Länken leder ingenstans. Den kan ha blivit kapad på vägen.",
    ),
}
_MOUTHS = ("M7.5 17.5q4.5-5 9 0", "M8.5 16.5q3.5-2 7 0", "M8.5 15q3.5 2 7 0", "M7.5 14q4.5 5.5 9 0")
"""Paths of an SVG, since not every device has every face among its letters; from the worst."""


def build_router(
    access: Access, publishing: Publishing, clock: Clock, signer: Signer, status_url: StatusUrl
) -> APIRouter:
    """Return what respondents are served."""
    router = APIRouter(tags=["ingest"])

    @router.get("/s/{token}")
    async def show(token: str, accept_language: Annotated[str | None, Header()] = None) -> Response:  # pyright: ignore[reportUnusedFunction]
        """Show the question."""
        facts, refused = _facts(token, accept_language)
        return refused or _page(access.revision.directory, facts, accept_language)

    @router.post("/s/{token}")
    async def record(token: str, request: Request, accept_language: Annotated[str | None, Header()] = None) -> Response:  # pyright: ignore[reportUnusedFunction]
        """Record the answer."""
        facts, refused = _facts(token, accept_language)
        if refused is not None:
            return refused
        try:
            form = parse_qs((await request.body()).decode("utf-8", "replace"), max_num_fields=20)
        except ValueError:  # more fields than that
            form = dict[str, list[str]]()
        score = form.get("score", [""])[0]
        directory = access.revision.directory
        if score not in {"1", "2", "3", "4"}:
            return _page(directory, facts, accept_language, status=422, missing=True)
        comment = form.get("comment", [""])[0].replace("\0", "").strip()[:_COMMENT]
        answer = _answer(facts, int(score), comment or None, _code(accept_language, facts), clock.now())
        if answer.customer not in directory.customers:
            return _told(directory, accept_language, facts, 404, "unknown")
        try:
            await publishing.publish([answer], None)
        except Problem as problem:
            return Response(problem.title, problem.status, {**PAGE_HEADERS, **problem.headers}, media_type="text/plain")
        return _told(directory, accept_language, facts, 200, "thanks", status_url(answer))

    def _facts(token: str, accepted: str | None) -> tuple[dict[str, Any], Response | None]:
        directory = access.revision.directory
        try:
            return signer.verify("survey", token, now=clock.now()), None
        except ExpiredToken:
            return {}, _told(directory, accepted, {}, 410, "expired")
        except BadToken:
            return {}, _told(directory, accepted, {}, 404, "unknown")

    return router


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
    )


def _code(accepted: str | None, facts: dict[str, Any]) -> str:
    """Return the first language that the browser asks for and the page has; else that of the link."""
    known = accepted_language(accepted, _WORDS) or str(facts.get("language", ""))[:2]
    return known if known in _WORDS else "en"


def _page(
    directory: Directory, facts: dict[str, Any], accepted: str | None, *, status: int = 200, missing: bool = False
) -> Response:
    code = _code(accepted, facts)
    words = _WORDS[code]
    body = _templates.get_template("survey.html").render(
        language=code,
        words=words,
        company=directory.company,
        faces=[(4 - place, _MOUTHS[3 - place], words.faces[3 - place]) for place in range(4)],
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
    words = _WORDS[code]
    body = _templates.get_template("survey.html").render(
        language=code,
        words=words,
        company=directory.company,
        told=getattr(words, what),
        status_url=status_url,
    )
    return Response(body, status, PAGE_HEADERS, media_type="text/html")
