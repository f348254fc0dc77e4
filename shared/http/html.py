"""Pages for people who have a link and no account: no script, nothing kept by the browser, nothing told to others.

All have one stylesheet, which each service serves beside its pages, as `style.css` in the folder of their addresses.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader

PAGE_HEADERS: Mapping[str, str] = {
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
}

_STYLE_HEADERS = {"Cache-Control": "public, max-age=3600", "X-Content-Type-Options": "nosniff"}


@cache
def style() -> tuple[bytes, Mapping[str, str]]:
    """Return the stylesheet, and its headers."""
    body = (Path(__file__).parent / "templates" / "style.css").read_bytes()
    return body, {**_STYLE_HEADERS, "ETag": f'"{hashlib.sha256(body).hexdigest()[:32]}"'}


def templates(beside: str) -> Environment:
    """Return the templates in the folder beside a module, by its `__file__`; whatever is filled in is escaped."""
    return Environment(loader=FileSystemLoader(Path(beside).parent / "templates"), autoescape=True, auto_reload=False)


def accepted_language(accepted: str | None, known: Collection[str]) -> str | None:
    """Return the first language of an Accept-Language header that is known, in the order that it names them."""
    asked = (part.split(";")[0].strip().lower()[:2] for part in (accepted or "").split(",")[:20])
    return next((language for language in asked if language in known), None)
