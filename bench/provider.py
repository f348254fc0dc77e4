"""A fake provider in a process of its own: takes pages, notes when each ticket's came, answers after a while.

Run: python -m bench.provider SECONDS; it prints its port. GET /come returns the tickets with the time each came first
(the clock of time.time()), GET /count how many requests there were.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time

import uvloop

_TICKET = re.compile(rb'"ticket":\s*"([^"]+)"')


class Provider:
    """Counts what came."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._came: dict[str, float] = {}
        self._count = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of one connection."""
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                if head.startswith(b"GET "):
                    self._tell(head, writer)
                    continue
                lower = head.lower()
                at = lower.find(b"content-length:")
                body = await reader.readexactly(int(lower[at + 15 :].partition(b"\r\n")[0])) if at >= 0 else b""
                now = time.time()
                self._count += 1
                for found in _TICKET.findall(body):
                    self._came.setdefault(found.decode(), now)
                if self._seconds:
                    await asyncio.sleep(self._seconds)
                writer.write(b"HTTP/1.1 204 No Content\r\ncontent-length: 0\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    def _tell(self, head: bytes, writer: asyncio.StreamWriter) -> None:
        told = self._came if head.startswith(b"GET /come") else {"tickets": len(self._came), "requests": self._count}
        body = json.dumps(told).encode()
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body) + body)


async def run(seconds: float) -> None:
    """Serve until the end."""
    server = await asyncio.start_server(Provider(seconds).serve, "127.0.0.1", 0, backlog=4_096)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(run(float(sys.argv[1])))
