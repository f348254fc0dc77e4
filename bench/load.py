"""A load of keep-alive HTTP connections from one process: prepared requests out, statuses and times in."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field


@dataclass(slots=True)
class Load:
    """What came of a load."""

    seconds: float = 0.0
    statuses: Counter[bytes] = field(default_factory=Counter[bytes])
    times: list[float] = field(default_factory=list[float])
    """Seconds per request."""

    @property
    def per_second(self) -> float:
        """Requests a second."""
        return sum(self.statuses.values()) / self.seconds

    def percentile(self, share: float) -> float:
        """Return a percentile of the times, in milliseconds."""
        ordered = sorted(self.times)
        return 1000 * ordered[min(len(ordered) - 1, int(share * len(ordered)))]


class _Connection(asyncio.Protocol):
    def __init__(self, load: Load, requests: Iterator[bytes], until: float) -> None:
        self._load = load
        self._requests = requests
        self._until = until
        self._buffer = b""
        self._sent = 0.0
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: asyncio.Transport = transport  # pyright: ignore[reportAttributeAccessIssue]
        self._next()

    def _next(self) -> None:
        self._sent = time.perf_counter()
        if self._sent >= self._until:
            self._transport.close()
            return
        self._transport.write(next(self._requests))

    def data_received(self, data: bytes) -> None:
        # Both servers answer with a JSON object: the load must cost little, it shares a processor with Kafka.
        buffer = self._buffer + data if self._buffer else data
        if not buffer.endswith(b"}"):
            self._buffer = buffer
            return
        self._buffer = b""
        self._load.statuses[buffer[9:12]] += 1
        self._load.times.append(time.perf_counter() - self._sent)
        self._next()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done.done():
            self.done.set_result(None)


async def run_load(
    host: str, port: int, requests: Callable[[], Iterator[bytes]], *, connections: int, seconds: float
) -> Load:
    """Keep so many connections busy for so long."""
    loop, load, begun = asyncio.get_running_loop(), Load(), time.perf_counter()
    made = [
        (await loop.create_connection(lambda: _Connection(load, requests(), begun + seconds), host, port))[1]
        for _ in range(connections)
    ]
    await asyncio.gather(*(connection.done for connection in made))
    load.seconds = time.perf_counter() - begun
    return load


def post(path: str, body: bytes, key: str) -> bytes:
    """Return a POST as it goes over the wire."""
    head = (
        f"POST {path} HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {key}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body
