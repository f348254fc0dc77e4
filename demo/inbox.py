"""A mailbox to look into: a real SMTP receiver, and a page that shows what came, with links to click.

Both listen on 127.0.0.1 only. The newest 500 mails are kept, in memory; nothing is passed on. What a mail holds is
shown as text: no markup of a mail reaches the page, which runs no script and loads nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import secrets
import socket
from collections import deque
from collections.abc import Generator
from dataclasses import asdict, dataclass
from datetime import datetime
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import uvicorn
from aiosmtpd.smtp import SMTP, Envelope, Session
from jinja2 import Environment, FileSystemLoader
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from shared.errors import Misconfigured
from shared.runtime.clock import SystemClock

HOST = "127.0.0.1"
KEPT = 500
SIZE_LIMIT = 1024 * 1024
"""Bytes of one mail."""
REFRESH_SECONDS = 3
SHOWN_CHARACTERS = 20_000
"""Of one mail on the page, which is made anew every few seconds; the JSON has all."""
_FRESH_SECONDS = 10
_DRAIN_SECONDS = 2

_LINK = re.compile(r"https?://[^\s<>\"'`\\^{|}]+", re.IGNORECASE)
_AFTER_A_LINK = ".,;:!?*_)]"
"""Belongs to the sentence, not to the link, where it ends one."""

_templates = Environment(
    loader=FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True, lstrip_blocks=True
)


@dataclass(frozen=True, slots=True)
class Message:
    """One mail that came."""

    to: str
    """To whom it was delivered, whatever its header says."""
    subject: str
    received_at: datetime
    text: str
    links: tuple[str, ...]
    """In the order of the text, each once."""


@dataclass(frozen=True, slots=True)
class _Piece:
    """A stretch of a mail's text: a link to follow, or plain text."""

    text: str
    link: bool


@dataclass(frozen=True, slots=True)
class _Shown:
    """A mail as the page shows it."""

    message: Message
    pieces: list[_Piece]
    acknowledge: list[str]
    """The links that a page is acknowledged by."""
    cut: bool
    age: str
    fresh: bool


class Inbox:
    """Receives mail on one port and shows it on another; 0 takes a free one."""

    def __init__(self, smtp_port: int, http_port: int) -> None:
        self.smtp_port = smtp_port
        """The real one once started."""
        self.address = f"http://{HOST}:{http_port}"
        """Of the page; the real one once started."""
        self.messages: deque[Message] = deque(maxlen=KEPT)
        """Oldest first."""
        self._http_port = http_port
        self._clock = SystemClock()
        self._receivers: set[_Receiver] = set()
        self._smtp: asyncio.Server | None = None
        self._http: _Server | None = None
        self._serving: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Listen on both ports, in the running loop. Raises Misconfigured when one is taken."""
        with contextlib.ExitStack() as unless_started:
            smtp_socket = unless_started.enter_context(_listening(self.smtp_port, "SMTP"))
            http_socket = unless_started.enter_context(_listening(self._http_port, "page"))
            self.smtp_port = smtp_socket.getsockname()[1]
            self.address = f"http://{HOST}:{http_socket.getsockname()[1]}"
            self._smtp = await asyncio.get_running_loop().create_server(self._receiver, sock=smtp_socket)
            self._http = _Server(_http_config(self._app()))
            self._serving = asyncio.create_task(self._http.serve([http_socket]), name="demo inbox")
            unless_started.pop_all()
        while not self._http.started and not self._serving.done():
            await asyncio.sleep(0.01)

    async def close(self) -> None:
        """Stop listening and let go of every connection. The mails stay to be read."""
        if self._smtp is not None:
            self._smtp.close()
            # A sender may hold its connection open for as long as it likes, and newer Pythons wait for it.
            for receiver in list(self._receivers):
                receiver.abort()
            await self._smtp.wait_closed()
            self._smtp = None
        if self._http is not None and self._serving is not None:
            self._http.should_exit = True
            await self._serving
            self._http = self._serving = None

    # The name is aiosmtpd's.
    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        """Keep one mail and tell its sender so."""
        content = envelope.original_content or b""
        self.messages.append(read_mail(content, ", ".join(envelope.rcpt_tos), self._clock.now()))
        return "250 Kept"

    def _receiver(self) -> _Receiver:
        return _Receiver(self, self._receivers)

    def _app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/", self._page, methods=["GET"]),
                Route("/messages", self._list, methods=["GET"]),
                Route("/messages", self._clear, methods=["DELETE"]),
            ],
            # Acknowledge links are secrets: a web page elsewhere whose name is made to lead here must not read them.
            middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"], www_redirect=False)],
        )

    async def _page(self, request: Request) -> Response:
        nonce = secrets.token_urlsafe(16)
        now = self._clock.now()
        body = _templates.get_template("inbox.html").render(
            shown=[_shown(message, now) for message in reversed(self.messages)],
            kept=KEPT,
            smtp=f"{HOST}:{self.smtp_port}",
            refresh=None if request.query_params.get("refresh") == "off" else REFRESH_SECONDS,
            nonce=nonce,
        )
        rules = (
            "default-src 'none'",
            f"style-src 'nonce-{nonce}'",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        )
        return HTMLResponse(body, headers={"Content-Security-Policy": "; ".join(rules), **_HEADERS})

    async def _list(self, _: Request) -> Response:
        newest_first = [asdict(m) | {"received_at": _rfc3339(m.received_at)} for m in reversed(self.messages)]
        return JSONResponse(newest_first, headers=_HEADERS)

    async def _clear(self, _: Request) -> Response:
        self.messages.clear()
        return Response(status_code=204)


_HEADERS = {"Cache-Control": "no-store", "Referrer-Policy": "no-referrer", "X-Content-Type-Options": "nosniff"}


# ---- reading a mail


def read_mail(content: bytes, to: str, received_at: datetime) -> Message:
    """Return what a mail says, however badly it is made."""
    # The modern policy returns EmailMessage, which the signature does not know.
    mail = message_from_bytes(content, policy=policy.default)
    assert isinstance(mail, EmailMessage)
    text = _text(mail).replace("\r\n", "\n").strip()
    subject = " ".join(str(mail.get("Subject", "")).split())
    return Message(to, _characters(subject), received_at, _characters(text), find_links(text))


def _text(mail: EmailMessage) -> str:
    part = mail.get_body(("plain", "html"))
    if part is None:
        return ""
    try:
        return str(part.get_content())
    except (LookupError, ValueError):  # an unknown charset, or bytes that are not what they claim to be
        payload = part.get_payload(decode=True)
        return payload.decode("utf-8", "replace") if isinstance(payload, bytes) else ""


def _characters(text: str) -> str:
    """Return the text without halves of surrogate pairs, which stand for bytes that nobody could read."""
    return text.encode("utf-8", "replace").decode()


def find_links(text: str) -> tuple[str, ...]:
    """Return the web addresses in a text, each once."""
    return tuple(dict.fromkeys(piece.text for piece in _pieces(text) if piece.link))


def _pieces(text: str) -> list[_Piece]:
    pieces: list[_Piece] = []
    end = 0
    for match in _LINK.finditer(text):
        link = match[0].rstrip(_AFTER_A_LINK)
        if not _leads_somewhere(link):
            continue
        pieces += [_Piece(text[end : match.start()], link=False), _Piece(link, link=True)]
        end = match.start() + len(link)
    return [*pieces, _Piece(text[end:], link=False)]


def _leads_somewhere(link: str) -> bool:
    try:
        return bool(urlsplit(link).hostname)
    except ValueError:
        return False


# ---- showing it


def _shown(message: Message, now: datetime) -> _Shown:
    age = (now - message.received_at).total_seconds()
    return _Shown(
        message,
        _pieces(message.text[:SHOWN_CHARACTERS]),
        [link for link in message.links if urlsplit(link).path.startswith("/a/")],
        len(message.text) > SHOWN_CHARACTERS,
        _age(age),
        age < _FRESH_SECONDS,
    )


def _age(seconds: float) -> str:
    for length, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= length:
            return f"{int(seconds // length)} {unit} ago"
    return f"{max(0, int(seconds))} s ago"


def _rfc3339(at: datetime) -> str:
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


# ---- listening


def _listening(port: int, purpose: Literal["SMTP", "page"]) -> socket.socket:
    # Bound here, because uvicorn ends the whole process when its port is taken.
    try:
        return socket.create_server((HOST, port))
    except OSError as error:
        raise Misconfigured(
            f"the demo's inbox cannot listen on {HOST}:{port} ({purpose}): {error.strerror}; free that port"
        ) from error


class _Receiver(SMTP):
    """One connection of a sender."""

    def __init__(self, inbox: Inbox, open_ones: set[_Receiver]) -> None:
        # Without a hostname aiosmtpd asks the resolver for one, and everything in this loop waits.
        super().__init__(
            inbox,
            data_size_limit=SIZE_LIMIT,
            enable_SMTPUTF8=True,
            hostname="inbox.demo.test",
            ident="Fiilis demo inbox",
            loop=asyncio.get_running_loop(),
        )
        self._open_ones = open_ones

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._open_ones.add(self)
        super().connection_made(transport)

    def connection_lost(self, error: Exception | None) -> None:
        self._open_ones.discard(self)
        super().connection_lost(error)

    def abort(self) -> None:
        """Let go of the sender."""
        if isinstance(self.transport, asyncio.WriteTransport):
            self.transport.abort()


class _Server(uvicorn.Server):
    """uvicorn without its own signal handlers: who started the inbox ends it."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        yield


def _http_config(app: Starlette) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=_DRAIN_SECONDS,
    )
