"""GET /widget.js and GET /kiosk/{key}. Both are public; the answers come back as those of a publishable key."""

from __future__ import annotations

import hashlib
from functools import cache
from typing import Annotated

from fastapi import Header, Query, Request, Response
from fastapi.responses import HTMLResponse

from services.ingest.dependencies import Deps
from services.ingest.texts import MOUTHS, WORDS
from shared.directory.access import Access, Caller
from shared.directory.model import Key
from shared.errors import Problem
from shared.http.html import PAGE_HEADERS, accepted_language, templates
from shared.http.keys import new_router
from shared.http.openapi import problems
from shared.http.request_model import RequestModel
from shared.http.responses import address_of, unless_known
from shared.http.stylesheet import serve_style

_templates = templates(__file__)
_SCRIPT_HEADERS = {
    "Cache-Control": "public, max-age=3600",
    # A page of any origin loads it; what it may post is the key's affair.
    "Access-Control-Allow-Origin": "*",
    "Cross-Origin-Resource-Policy": "cross-origin",
    "X-Content-Type-Options": "nosniff",
}

_POLICY = (
    "default-src 'none'; script-src 'self'; connect-src 'self'; style-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)


@cache
def _script() -> tuple[bytes, str]:
    """Return the script, and what its version is called."""
    words = {language: words._asdict() for language, words in WORDS.items()}
    body = _templates.get_template("widget.js").render(words=words, mouths=MOUTHS).encode()
    return body, f'"{hashlib.sha256(body).hexdigest()[:32]}"'


class Script(Response):
    """What browsers run."""

    media_type = "text/javascript"


class KioskQuery(RequestModel):
    """Where a kiosk stands."""

    touchpoint: str | None = None
    language: str | None = None


router = new_router(tags=["ingest"])
serve_style(router, "/kiosk")


@router.get("/widget.js", response_class=Script, responses=problems(304))
async def get_widget_script(request: Request) -> Response:
    """Return the survey widget: a page embeds it with `data-key`."""
    body, version = _script()
    return unless_known(request, body, {**_SCRIPT_HEADERS, "ETag": version}, "text/javascript")


@router.get("/kiosk/{key}", response_class=HTMLResponse)
async def show_kiosk(
    deps: Deps,
    request: Request,
    key: str,
    query: Annotated[KioskQuery, Query()],
    accept_language: Annotated[str | None, Header()] = None,
) -> Response:
    """Show four faces on the whole screen, by a publishable key: `?touchpoint=T&language=fi`."""
    directory = deps.access.revision.directory
    asked = query.language or accepted_language(accept_language, WORDS) or directory.language
    code = asked if asked in WORDS else "en"
    words, known = WORDS[code], _publishable(deps.access, key, address_of(request.scope))
    if known is not None:
        caller = Caller(known, directory)
        caller.check_touchpoint(caller.customer(known.customers[0]), query.touchpoint)
    body = _templates.get_template("kiosk.html").render(
        language=code,
        words=words,
        company=directory.company,
        told=words.unknown if known is None else None,
        key=key,
        touchpoint=query.touchpoint,
    )
    headers = {**PAGE_HEADERS, "Content-Security-Policy": _POLICY}
    return Response(body, 404 if known is None else 200, headers, media_type="text/html")


def _publishable(access: Access, text: str, address: str | None) -> Key | None:
    try:
        key = access.known_key(text, address)
    except Problem:
        return None
    return key if key.kind == "publishable" and key.customers[0] in access.revision.directory.customers else None
