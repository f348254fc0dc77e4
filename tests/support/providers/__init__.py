"""Runnable fakes of what carries a page to a person: each counts what "the phone" got, and can be in trouble.

async with FakeTwilio() as twilio:
    twilio.applied_to(directory), twilio.contact(), twilio.environ  # for directory.yaml
    twilio.trouble = Trouble("hang", times=1)  # takes it, and never answers
    twilio.phone["+358401234567"]  # what came there
"""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Self
from urllib.parse import parse_qsl

import httpx

from shared.directory.model import Contact, Directory

What = Literal["broken", "limited", "refuses", "echo", "drops", "html", "lost", "hang"]


@dataclass
class Trouble:
    """What goes wrong with calls.

    `broken` 500, `limited` 429, `refuses` 400, `echo` 400 that says our headers back, `drops` breaks the connection
    off, `html` 200 with a page; having taken the message: `lost` breaks off, `hang` never answers.
    """

    what: What
    times: int | None = None
    """None: until it is taken away."""
    retry_after: int = 45


@dataclass(frozen=True)
class Call:
    """One request."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def form(self) -> dict[str, str]:
        return dict(parse_qsl(self.body.decode(), keep_blank_values=True))


@dataclass(frozen=True)
class Reply:
    """One answer; `body` is JSON unless it is bytes."""

    status: int
    body: Any = b""
    headers: Mapping[str, str] = field(default_factory=dict)


class FakeProvider:
    """A server, trouble, and what arrived where."""

    channel: str
    result = "delivered"
    """What a good call ends with."""
    token = "t0ken-that-nobody-may-see"
    environ: ClassVar[dict[str, str]] = {}
    """The secrets, by environment variable."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.phone: defaultdict[str, list[str]] = defaultdict(list)
        """What people got, by where."""
        self.keys: list[str] = []
        """Idempotency keys of the calls, where the provider has such."""
        self.trouble: Trouble | None = None
        self.may_answer = asyncio.Event()
        """Cleared, calls are taken and their answers wait."""
        self.may_answer.set()
        self._numbers = 0
        self._writers: set[asyncio.StreamWriter] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port: int = self._server.sockets[0].getsockname()[1]
        self.client = httpx.AsyncClient(timeout=10, trust_env=False)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.go_away()
        await self.client.aclose()

    def go_away(self) -> None:
        """Refuse connections."""
        self._server.close()
        for writer in list(self._writers):
            writer.close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def applied_to(self, directory: Directory) -> Directory:
        """Return a directory that uses this provider."""
        return directory

    def contact(self) -> Contact:
        """Return a contact that it reaches."""
        raise NotImplementedError

    @property
    def received(self) -> list[str]:
        """What people got, all together."""
        return [text for texts in self.phone.values() for text in texts]

    def number(self) -> int:
        self._numbers += 1
        return self._numbers

    def take(self, call: Call) -> Reply:
        """Do what a call wants."""
        raise NotImplementedError

    def refuse(self) -> Reply:
        """Refuse a call, in the provider's words."""
        return Reply(400, {"error": "no"})

    def _reply(self, call: Call) -> Reply | None:
        """Return the answer; None breaks the connection off."""
        trouble = self.trouble
        if trouble is not None and trouble.times is not None:
            trouble.times -= 1
            if trouble.times <= 0:
                self.trouble = None
        match None if trouble is None else trouble.what:
            case "broken":
                return Reply(500, b"<h1>Sorry</h1>")
            case "limited":
                assert trouble is not None
                return Reply(429, {"message": "slow down"}, {"retry-after": str(trouble.retry_after)})
            case "refuses":
                return self.refuse()
            case "echo":
                return Reply(400, {"error": call.headers | {"message": f"{call.headers} {call.body}"}})
            case "drops":
                return None
            case "html":
                return Reply(200, b"<html><title>Sign in</title></html>", {"content-type": "text/html"})
            case "lost" | "hang":
                self.take(call)
                return None
        return self.take(call)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            while True:
                lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
                headers = {k.lower(): v for k, _, v in (line.partition(": ") for line in lines[1:]) if k}
                body = await reader.readexactly(int(headers.get("content-length", "0")))
                call = Call(lines[0].split(" ")[1], headers, body)
                self.calls.append(call)
                hangs = self.trouble is not None and self.trouble.what == "hang"
                reply = self._reply(call)
                if reply is None:
                    if hangs:
                        await asyncio.sleep(3600)
                    break
                await self.may_answer.wait()
                writer.write(_bytes(reply))
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self._writers.discard(writer)
            writer.close()


def _bytes(reply: Reply) -> bytes:
    body = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
    headers = {"content-type": "application/json", **reply.headers, "content-length": str(len(body))}
    lines = [f"HTTP/1.1 {reply.status} Status", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body
