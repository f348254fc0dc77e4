"""An outage is told in a few lines: whoever reads the log of that night finds what else has happened."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import httpx

from shared.bus.client import Kafka, stopped
from shared.embedded import EmbeddedKafka
from tests.integration.test_outage import environment, settle
from tests.support.processes import ServiceProcess, processes
from tests.support.services import NAMES
from tests.support.wait import until

AWAY_SECONDS = 8
MOST = 6
"""What a service says of one outage of Kafka: that it does not answer; once a minute that workers wait for it; ingest
besides that answers go to the spool. Two or three lines were seen; a minute more would bring one each."""


async def test_four_services_tell_of_an_outage_in_a_few_lines(database_url: str, tmp_path: Path) -> None:
    """It was 320 lines in eight seconds, one for each worker and try."""
    server = EmbeddedKafka(tmp_path / "kafka")
    await server.start()
    try:
        kafka = Kafka(server.bootstrap)
        key = await settle(kafka)
        async with processes(environment(kafka, database_url), tmp_path, *NAMES) as made:
            before = {name: len(process.log()) for name, process in made.items()}
            await server.kill()
            await _ask_meanwhile(made["ingest"].address, key)
            await server.start()
            for process in made.values():
                await until(lambda process=process: _is_ready(process), seconds=40, every=0.2)
            for name, process in made.items():
                lines = _trouble(process.log()[before[name] :])
                assert 1 <= len(lines) <= MOST, f"{name}:\n" + "\n".join(lines)
                assert not any(" ERROR " in line for line in lines), "nobody has to look at it"
    finally:
        await server.stop()


async def test_a_client_that_was_stopped_ends_nobody_else(kafka: Kafka) -> None:
    """The library cancels what waits to fetch, and passes that on: it ended every service in an outage of 10 s."""
    consumer: Any = kafka.consumer(group=None)
    await consumer.start()
    await consumer.topics()
    waiting = [asyncio.create_task(asyncio.Event().wait()) for _ in range(2)]
    consumer._fetcher._pending_tasks.update(waiting)  # as it does while a broker is away
    connections = list(consumer._client._conns.values())
    await stopped(consumer)
    assert [connection.connected() for connection in connections] == [False]
    for task in waiting:
        task.cancel()


async def _ask_meanwhile(address: str, key: str) -> None:
    """Post answers as long as Kafka is away."""
    end = time.monotonic() + AWAY_SECONDS
    answer = {"kind": "nps", "score": 9, "customer": "acme"}
    headers = {"Authorization": f"Bearer {key}"}
    async with httpx.AsyncClient(base_url=address, timeout=15, trust_env=False, headers=headers) as client:
        while time.monotonic() < end:
            assert (await client.post("/v1/feedback", json=answer)).status_code == 202
            await asyncio.sleep(0.1)


async def _is_ready(process: ServiceProcess) -> bool:
    assert process.alive, f"an outage ends no process:\n{process.log()[-4000:]}"
    async with httpx.AsyncClient(base_url=process.address, trust_env=False) as client:
        return (await client.get("/readyz")).status_code == 200


def _trouble(log: str) -> list[str]:
    return [line for line in log.splitlines() if " WARNING " in line or " ERROR " in line]
