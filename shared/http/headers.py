"""What every answer says to browsers, whoever made it: nothing is guessed, kept or framed unless an answer says so."""

from __future__ import annotations

from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send

DEFAULTS: tuple[tuple[bytes, bytes], ...] = (
    (b"x-content-type-options", b"nosniff"),
    # What is told to a key or by a link is about people; what may be kept says so itself.
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"referrer-policy", b"no-referrer"),
)


class Headers:
    """Adds what an answer does not say itself."""

    def __init__(self, app: ASGIApp, *, hsts_seconds: int = 0) -> None:
        """`hsts_seconds`: for how long browsers are to come by HTTPS only; 0 says nothing."""
        self._app = app
        hsts = (b"strict-transport-security", b"max-age=%d" % hsts_seconds)
        self._defaults = (*DEFAULTS, *([hsts] if hsts_seconds else []))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""

        async def safe(message: Any) -> None:
            if message["type"] == "http.response.start":
                said: list[tuple[bytes, bytes]] = list(message.get("headers", ()))
                names = {name.lower() for name, _ in said}
                message = {**message, "headers": said + [one for one in self._defaults if one[0] not in names]}
            await send(message)

        await self._app(scope, receive, safe)
