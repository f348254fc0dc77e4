"""The one stylesheet of pages, served beside them."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from shared.http.html import style
from shared.http.responses import unless_known


async def stylesheet(request: Request) -> Response:
    """Return it, or the 304 for who has it."""
    return unless_known(request, *style(), "text/css")


def serve_style(router: APIRouter, folder: str) -> None:
    """Serve the stylesheet of pages beside them; call it before their own route is made, which would take it."""
    router.get(f"{folder}/style.css", include_in_schema=False)(stylesheet)
