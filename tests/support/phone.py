"""A runnable fake of a webhook's other side: counts what "the phone" got, and can be slow, broken or away."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec
from standardwebhooks import Webhook


@dataclass(frozen=True, slots=True)
class Received:
    """One request."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def type(self) -> str:
        """What it is: a page, a digest, ..."""
        return msgspec.json.decode(self.body)["type"]

    @property
    def data(self) -> dict[str, Any]:
        """The page."""
        return msgspec.json.decode(self.body)["data"]

    def verify(self, secret: str) -> None:
        """Check the Standard Webhooks signature."""
        Webhook(secret).verify(self.body.decode(), self.headers)


class Phone:
    """`answer` decides the status of each request (204); None breaks the connection off."""

    def __init__(self) -> None:
        self.received: list[Received] = []
        self.answer: Callable[[Received], int | None] = lambda _: 204
        self.headers: dict[str, str] = {}
        self.body = b""
        """What answers of 200 say."""
        self.delay = 0.0
        self.tls: ssl.SSLContext | None = None

    async def start(self) -> Phone:
        """Listen on a free port."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self.tls)
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    async def close(self) -> None:
        """Stop listening."""
        self._server.close()

    def url(self, path: str = "/page") -> str:
        """Return an address of this phone."""
        return f"{'http' if self.tls is None else 'https'}://127.0.0.1:{self.port}{path}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
                headers = {k.lower(): v for k, _, v in (line.partition(": ") for line in lines[1:]) if k}
                body = await reader.readexactly(int(headers.get("content-length", "0")))
                received = Received(lines[0].split(" ")[1], headers, body)
                self.received.append(received)
                if self.delay:
                    await asyncio.sleep(self.delay)
                status = self.answer(received)
                if status is None:
                    break
                extra = "".join(f"{name}: {value}\r\n" for name, value in self.headers.items())
                body = self.body if status == 200 else b""
                head = f"HTTP/1.1 {status} Status\r\n{extra}content-length: {len(body)}\r\n\r\n"
                writer.write(head.encode() + body)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()
