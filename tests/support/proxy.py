"""A proxy that freezes, cuts, delays and refuses single connections: what networks do to them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from shared.embedded import EmbeddedKafka
from shared.embedded.kafka import HOST, choose_ports

Target = tuple[str, int] | Path
"""A host and port, or a unix socket."""


@dataclass(slots=True, eq=False)
class Pipe:
    """One connection through the proxy."""

    client: asyncio.StreamWriter
    server: asyncio.StreamWriter
    up: asyncio.Event = field(default_factory=asyncio.Event)
    """Set while what the client says is passed on."""
    down: asyncio.Event = field(default_factory=asyncio.Event)
    """Set while what the server says is passed on."""

    def cut(self) -> None:
        """Break it off on both sides."""
        for writer in (self.client, self.server):
            writer.transport.abort()


class Proxy:
    """Passes on everything, until it is told otherwise."""

    def __init__(self, target: Callable[[], Target]) -> None:
        """`target` is asked for each new connection: it may move, as the primary of a database does."""
        self._target = target
        self._pipes: set[Pipe] = set()
        self._up = self._down = True
        """Whether new connections pass on."""
        self._tasks: set[asyncio.Task[None]] = set()
        self.delay = 0.0
        self.refuses = False
        self.port = 0

    async def start(self) -> Proxy:
        """Listen on a free port."""
        self._server = await asyncio.start_server(self._accept, HOST, 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def close(self) -> None:
        """Stop, with all connections."""
        self._server.close()
        self.cut()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def connections(self) -> int:
        """How many there are."""
        return len(self._pipes)

    def freeze(self, *, up: bool = True, down: bool = True, new: bool = False) -> None:
        """Pass nothing on any more over the connections that there are; `new`: nor over later ones.

        To both sides they look alive: what a firewall does that has forgotten them.
        """
        for pipe in self._pipes:
            if up:
                pipe.up.clear()
            if down:
                pipe.down.clear()
        if new:
            self._up, self._down = not up, not down

    def thaw(self) -> None:
        """Pass on everything again, also what waited."""
        self._up = self._down = True
        for pipe in self._pipes:
            pipe.up.set()
            pipe.down.set()

    def cut(self) -> None:
        """Break off every connection that there is."""
        for pipe in list(self._pipes):
            pipe.cut()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.refuses:
            writer.transport.abort()
            return
        target = self._target()
        try:
            if isinstance(target, Path):
                there, back = await asyncio.open_unix_connection(str(target))
            else:
                there, back = await asyncio.open_connection(*target)
        except OSError:
            writer.transport.abort()
            return
        pipe = Pipe(writer, back)
        if self._up:
            pipe.up.set()
        if self._down:
            pipe.down.set()
        self._pipes.add(pipe)
        pumps = [
            asyncio.create_task(self._pump(reader, back, pipe.up)),
            asyncio.create_task(self._pump(there, writer, pipe.down)),
        ]
        self._tasks.update(pumps)
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            pipe.cut()
            for pump in pumps:
                pump.cancel()
            self._tasks.difference_update(pumps)
            self._pipes.discard(pipe)

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, passes: asyncio.Event) -> None:
        with contextlib.suppress(OSError):
            while chunk := await source.read(65_536):
                await passes.wait()
                if self.delay:
                    await asyncio.sleep(self.delay)
                sink.write(chunk)
                await sink.drain()
        await passes.wait()  # a frozen connection does not tell that the other side has gone, either


def frozen(proxy: Proxy) -> None:
    """Old connections pass nothing on, new ones work: a firewall has forgotten them."""
    proxy.freeze()


def deaf(proxy: Proxy) -> None:
    """Only what the server says is lost."""
    proxy.freeze(up=False)


def mute(proxy: Proxy) -> None:
    """Only what we say is lost."""
    proxy.freeze(down=False)


def cut(proxy: Proxy) -> None:
    """Every connection breaks at once."""
    proxy.cut()


FAULTS: tuple[Callable[[Proxy], None], ...] = (frozen, deaf, mute, cut)
"""What happens to the connections that there are; later ones work."""


class ProxiedKafka(EmbeddedKafka):
    """A broker that each client reaches, and is told to reach, through a proxy of its own."""

    def __init__(self, data: Path, *names: str) -> None:
        super().__init__(data)
        ports = choose_ports(len(names), besides=(self._broker_port, self._controller_port))
        self._listening = dict(zip(names, ports, strict=True))
        self.proxies: dict[str, Proxy] = {}

    async def start(self) -> None:
        """Start the proxies, then the broker that names them."""
        for name, port in self._listening.items():
            if name not in self.proxies:
                self.proxies[name] = await Proxy(lambda port=port: (HOST, port)).start()
        await super().start()

    async def stop(self) -> None:
        """Stop both."""
        await super().stop()
        for proxy in self.proxies.values():
            await proxy.close()

    def _settings(self) -> str:
        own = f"PLAINTEXT://{HOST}:{self._broker_port}"
        listening = [own, f"CONTROLLER://{HOST}:{self._controller_port}"]
        listening += [f"{name.upper()}://{HOST}:{port}" for name, port in self._listening.items()]
        told = [own, *(f"{name.upper()}://{HOST}:{proxy.port}" for name, proxy in self.proxies.items())]
        named = ["PLAINTEXT", "CONTROLLER", *(name.upper() for name in self._listening)]
        return super()._settings() + (
            f"listeners={','.join(listening)}\n"
            f"advertised.listeners={','.join(told)}\n"
            f"listener.security.protocol.map={','.join(f'{name}:PLAINTEXT' for name in named)}\n"
        )
