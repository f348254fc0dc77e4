"""Runnable fakes of service desks: each keeps tickets as the real one does, counts its calls and can be in trouble.

async with fake_zendesk() as desk:
    desk.directory_entry(), desk.environ  # for directory.yaml
    desk.trouble = Trouble("after", methods={"POST"}, times=1)  # creates, then answers 500
    desk.end(reference), desk.delete(reference), desk.comment(reference, "text")  # by hand
    desk.tickets  # what it has
"""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
import ssl
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal, Self
from urllib.parse import parse_qsl, unquote, urlsplit

What = Literal["limited", "busy", "before", "after", "lost", "hang", "html", "redirect", "huge", "odd", "deep", "echo"]


@dataclass
class Trouble:
    """What goes wrong with calls.

    `limited` 429, `busy` 503, `before` 500 without doing anything, `html` a page, `redirect`, `echo` 400 that says our
    headers back; having done it: `after` 500, `lost` the connection breaks off, `hang` no answer, `huge` 5 MB of JSON,
    `odd` JSON of another shape, `deep` JSON nested without end.
    """

    what: What
    methods: Collection[str] = ("GET", "POST", "PUT", "PATCH", "DELETE")
    paths: str = ""
    """Only calls whose path has this."""
    times: int | None = None
    """None: until it is taken away."""
    retry_after: int | None = 7


@dataclass(frozen=True)
class Call:
    """One request."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body."""
        return json.loads(self.body)


@dataclass(frozen=True)
class Reply:
    """One answer; `body` is JSON unless it is bytes."""

    status: int
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass
class FakeComment:
    """One comment, article or note."""

    id: int
    author: str
    text: str
    at: datetime
    markup: bool = False
    kind: str = ""


@dataclass
class FakeTicket:
    """One ticket, in the desk's own words."""

    reference: str
    number: int
    ours: str
    """Our id, where the desk keeps it."""
    title: str
    state: str
    severity: str
    text: str = ""
    """The description, where it can be changed."""
    comments: list[FakeComment] = field(default_factory=list)
    tags: set[str] = field(default_factory=set)
    assignee: str | None = None
    more: dict[str, Any] = field(default_factory=dict)
    created: float = field(default_factory=time.monotonic)
    updated: datetime = field(default_factory=lambda: datetime.now(UTC))

    def says(self) -> str:
        """All that is written in it."""
        return "\n".join([self.title, self.text, *(one.text for one in self.comments)])


class FakeDesk:
    """What fakes have in common: a server, trouble, tickets in memory."""

    type: str
    token = "t0ken-that-nobody-may-see"
    user: str | None = None
    group: str | None = "Customer Experience"
    secret = "hook-secret"
    ends_as: str
    """The state that a person gives to a ticket that is done."""

    def __init__(self) -> None:
        self.tickets: dict[str, FakeTicket] = {}
        self.calls: list[Call] = []
        self.trouble: Trouble | None = None
        self.tls: ssl.SSLContext | None = None
        self.delay = 0.0
        """Seconds before each answer."""
        self.search_delay = 0.0
        """Seconds until the search shows a new ticket."""
        self.created = 0
        """How many tickets it ever made."""
        self.forbidden = False
        """The account may do nothing."""
        self.nobody = False
        """The token has expired: the account is taken for somebody who is not known, and sees nothing."""
        self.blind = False
        """The account is known and sees no tickets."""
        self.refuses = ""
        """Writes whose body has this are refused."""
        self.lets_delete = False
        """Else only administrators delete tickets."""
        self.options: dict[str, str] = {}
        self.now: Callable[[], datetime] = lambda: datetime.now(UTC)
        self._numbers = 0
        self._writers: set[asyncio.StreamWriter] = set()

    # ---- how tests and the product reach it

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self.tls)
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for writer in list(self._writers):
            writer.close()

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self.port}" if self.tls is None else f"https://localhost:{self.port}"

    @property
    def environ(self) -> dict[str, str]:
        """The secrets, by environment variable."""
        name = f"FAKE_{self.type.upper()}"
        user = {} if self.user is None else {f"{name}_USER": self.user}
        return {f"{name}_TOKEN": self.token, f"{name}_HOOK": self.secret, **user}

    def directory_entry(self, **more: Any) -> dict[str, Any]:
        """Return its entry in directory.yaml."""
        name = f"FAKE_{self.type.upper()}"
        return {
            "type": self.type,
            "url": self.url,
            "token_env": f"{name}_TOKEN",
            "hook_secret_env": f"{name}_HOOK",
            **({} if self.user is None else {"user_env": f"{name}_USER"}),
            **({} if self.group is None else {"group": self.group}),
            **({"options": self.options} if self.options else {}),
            **more,
        }

    # ---- by hand

    def of(self, ours: object) -> list[FakeTicket]:
        """Return the tickets that carry one of our ids."""
        return [one for one in self.tickets.values() if one.ours == str(ours)]

    def end(self, reference: str) -> None:
        """A person is done with a ticket."""
        self.move(reference, self.ends_as)

    def move(self, reference: str, state: str, **more: Any) -> None:
        """A person gives a ticket a state, in the desk's own words."""
        ticket = self.tickets[reference]
        ticket.state, ticket.updated = state, self.now()
        ticket.more |= more

    def take(self, reference: str, assignee: str) -> None:
        """A person takes a ticket."""
        ticket = self.tickets[reference]
        ticket.assignee, ticket.updated = assignee, self.now()

    def delete(self, reference: str) -> None:
        """A person deletes a ticket."""
        del self.tickets[reference]

    def comment(self, reference: str, text: str, author: str = "agent@desk.example") -> FakeComment:
        """A person writes a comment."""
        return self.write(self.tickets[reference], author, text)

    def hook(
        self, reference: str, at: datetime | None = None, secret: str | None = None
    ) -> tuple[dict[str, str], bytes]:
        """Return the headers and the body of the request by which it tells of a ticket."""
        raise NotImplementedError

    # ---- for the fakes

    def number(self) -> int:
        """Return the next number."""
        self._numbers += 1
        return self._numbers

    def keep(self, ticket: FakeTicket) -> FakeTicket:
        """Keep a new ticket."""
        self.tickets[ticket.reference] = ticket
        self.created += 1
        ticket.updated = self.now()
        return ticket

    def write(self, ticket: FakeTicket, author: str, text: str, *, markup: bool = False, kind: str = "") -> FakeComment:
        """Append a comment."""
        comment = FakeComment(self.number(), author, text, self.now(), markup, kind)
        ticket.comments.append(comment)
        ticket.updated = self.now()
        return comment

    def remove(self, ticket: FakeTicket) -> Reply | None:
        """Delete a ticket as its interface does; return an error where the account may not."""
        if not self.lets_delete:
            return self.refuse(403, "You may not delete tickets")
        self.delete(ticket.reference)
        return None

    def shown(self) -> list[FakeTicket]:
        """Return the tickets that the search knows by now."""
        return [one for one in self.tickets.values() if time.monotonic() - one.created >= self.search_delay]

    def basic(self, user: str) -> str:
        """Return the header of Basic authentication."""
        return "Basic " + base64.b64encode(f"{user}:{self.token}".encode()).decode()

    def authorized(self, call: Call) -> bool:
        """Tell whether a call has the right token."""
        raise NotImplementedError

    def answer(self, call: Call) -> Reply:
        """Do what a call wants."""
        raise NotImplementedError

    def refuse(self, status: int, why: str) -> Reply:
        """Return an error as this desk words it."""
        return Reply(status, {"error": why})

    def _reply(self, call: Call) -> Reply | None:
        """Return the answer; None breaks the connection off."""
        trouble = self.trouble
        if trouble is not None and (call.method not in trouble.methods or trouble.paths not in call.path):
            trouble = None
        if trouble is not None and trouble.times is not None:
            trouble.times -= 1
            if trouble.times <= 0:
                self.trouble = None
        what = None if trouble is None else trouble.what
        waits = {"retry-after": str(trouble.retry_after)} if trouble and trouble.retry_after is not None else {}
        match what:
            case "limited":
                return Reply(429, {"error": "too many requests"}, waits)
            case "busy":
                return Reply(503, b"down for maintenance", waits)
            case "before":
                return Reply(500, {"error": "sorry"})
            case "html":
                return Reply(200, b"<html><title>Sign in</title></html>", {"content-type": "text/html"})
            case "redirect":
                return Reply(302, b"", {"location": f"{self.url}/login"})
            case "echo":
                said = "\n".join(f"{key}: {value}" for key, value in call.headers.items())
                return Reply(400, said.encode(), {"content-type": "text/plain"})
        if not self.authorized(call):
            return self.refuse(401, "Could not authenticate")
        if self.forbidden:
            return self.refuse(403, "Not allowed")
        if self.refuses and call.method != "GET" and self.refuses in call.body.decode():
            return self.refuse(422, "A field has a value that this project does not take")
        kept = self.tickets
        if self.nobody or self.blind:
            self.tickets = {}
        try:
            done = self.answer(call)
        finally:
            self.tickets = kept
        match what:
            case "after":
                return Reply(500, {"error": "sorry"})
            case "lost" | "hang":
                return None
            case "huge":
                return Reply(done.status, {"padding": "x" * 5_000_000, "more": done.body})
            case "odd":
                return Reply(done.status, {"odd": [None, 1, {"result": 7}]})
            case "deep":
                return Reply(done.status, b"[" * 200_000, {"content-type": "application/json"})
        return done

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            while True:
                lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
                headers = {k.lower(): v for k, _, v in (line.partition(": ") for line in lines[1:]) if k}
                body = await reader.readexactly(int(headers.get("content-length", "0")))
                method, target, _ = lines[0].split(" ")
                parts = urlsplit(target)
                call = Call(method, unquote(parts.path), dict(parse_qsl(parts.query)), headers, body)
                self.calls.append(call)
                if self.delay:
                    await asyncio.sleep(self.delay)
                hangs = self.trouble is not None and self.trouble.what == "hang"
                reply = self._reply(call)
                if reply is None:
                    if hangs:
                        await asyncio.sleep(3600)
                    break
                writer.write(_bytes(reply, call))
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self._writers.discard(writer)
            writer.close()


def _bytes(reply: Reply, call: Call) -> bytes:
    headers = dict(reply.headers)
    if isinstance(reply.body, bytes):
        body = reply.body
    else:
        body = b"" if reply.body is None else json.dumps(reply.body).encode()
        headers.setdefault("content-type", "application/json; charset=utf-8")
    if "gzip" in call.headers.get("accept-encoding", "") and body:  # as the real ones are behind proxies that do
        body = gzip.compress(body)
        headers["content-encoding"] = "gzip"
    lines = [f"HTTP/1.1 {reply.status} Status", *(f"{name}: {value}" for name, value in headers.items())]
    lines.append(f"content-length: {len(body)}")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body
