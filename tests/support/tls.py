"""PostgreSQL's TLS in front of one that has none: the embedded server is built without it."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import struct
from pathlib import Path

_REQUEST = struct.pack(">ii", 8, 80877103)
"""What a client sends that wants TLS."""


class TlsPostgres:
    """Answers a client's wish for TLS, and passes everything on to a unix socket."""

    def __init__(self, socket: Path, context: ssl.SSLContext | None) -> None:
        """`context`: none for a server that does no TLS."""
        self._socket = socket
        self._context = context
        self._tasks: set[asyncio.Task[None]] = set()
        self.encrypted = 0
        self.port = 0

    async def start(self) -> TlsPostgres:
        """Listen on a free port."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def close(self) -> None:
        """Stop."""
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            try:
                await self._serve(reader, writer)
            finally:
                writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first = await reader.readexactly(8)
        if first == _REQUEST:
            writer.write(b"N" if self._context is None else b"S")
            await writer.drain()
            if self._context is not None:
                await writer.start_tls(self._context)
                self.encrypted += 1
            first = b""
        there, back = await asyncio.open_unix_connection(str(self._socket))
        back.write(first)
        pumps = [asyncio.create_task(_pump(reader, back)), asyncio.create_task(_pump(there, writer))]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            back.transport.abort()


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while chunk := await source.read(65_536):
            sink.write(chunk)
            await sink.drain()
