"""Three brokers that keep each record three times, of which two must have it before it is acknowledged."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

from shared.embedded import EmbeddedKafka
from shared.embedded.kafka import HOST, choose_ports

_CLUSTER = "AAAAAAAAQAChooseLessAw"
_COUNT = 3


class _Broker(EmbeddedKafka):
    """One of them."""

    def __init__(self, data: Path, number: int, port: int, voters: list[int]) -> None:
        super().__init__(data)
        self._number = number
        self._voters = voters
        self._broker_port, self._controller_port = port, voters[number - 1]

    async def pause(self) -> None:
        """Stop its process, as a machine that hangs."""
        assert self.pid is not None
        os.kill(self.pid, signal.SIGSTOP)

    async def go_on(self) -> None:
        """Let it go on."""
        assert self.pid is not None
        os.kill(self.pid, signal.SIGCONT)

    def _new_cluster(self) -> str:
        return _CLUSTER

    def _settings(self) -> str:
        voters = ",".join(f"{n}@{HOST}:{port}" for n, port in enumerate(self._voters, 1))
        own = self._voters[self._number - 1]
        return super()._settings() + (
            f"node.id={self._number}\n"
            f"controller.quorum.voters={voters}\n"
            f"listeners=PLAINTEXT://{HOST}:{self._broker_port},CONTROLLER://{HOST}:{own}\n"
            "default.replication.factor=3\nmin.insync.replicas=2\n"
            "offsets.topic.replication.factor=3\ntransaction.state.log.replication.factor=3\n"
            "transaction.state.log.min.isr=2\n"
        )


class Brokers:
    """A cluster of three."""

    def __init__(self, folder: Path) -> None:
        ports = choose_ports(2 * _COUNT)
        voters = ports[_COUNT:]
        self.each = [_Broker(folder / f"broker-{n}", n, ports[n - 1], voters) for n in range(1, _COUNT + 1)]

    @property
    def bootstrap(self) -> str:
        """Where clients connect."""
        return ",".join(broker.bootstrap for broker in self.each)

    async def start(self) -> None:
        """Start them: none serves before most are there."""
        await asyncio.gather(*(broker.start() for broker in self.each))

    async def stop(self) -> None:
        """Stop them."""
        await asyncio.gather(*(broker.stop() for broker in self.each))
