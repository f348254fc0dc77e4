"""Ingest: requests a second on one core, 202 only when Kafka has the answer.

Beside it an empty FastAPI endpoint with a pydantic body on the same core, in turns.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import uvloop

from bench.load import Load, post, run_load
from bench.servers import Place, directory, place
from shared.bus.client import Kafka
from shared.bus.provisioning import ensure_topics
from shared.database.pool import Database
from shared.directory.follower import publish
from shared.directory.model import Key
from shared.wire.ids import uuid7
from shared.wire.signing import key_hash, new_key
from shared.wire.topics import TOPICS

SECONDS = float(os.environ.get("BENCH_SECONDS", "4"))
ROUNDS = int(os.environ.get("BENCH_ROUNDS", "3"))
CUSTOMERS = 1_000

PEER = """
import sys, uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
class Answer(BaseModel):
    id: str
    customer: str
    kind: str
    score: int
    touchpoint: str | None = None
    respondent: str | None = None
    comment: str | None = None
app = FastAPI()
@app.post("/v1/feedback", status_code=202)
async def feedback(answer: Answer) -> dict[str, int]:
    return {"accepted": 1}
print("ready", flush=True)
uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning", access_log=False, loop="uvloop")
"""


@dataclass(frozen=True, slots=True)
class Server:
    """A server pinned to one core."""

    name: str
    port: int
    process: asyncio.subprocess.Process


def requests(key: str) -> Callable[[], Iterator[bytes]]:
    """Return what makes the requests of a connection; they are made beforehand, so that the load costs little."""
    chance = random.Random(3)
    made = [
        post(
            "/v1/feedback",
            b'{"id":"%b","customer":"c%d","kind":"nps","score":%d,"touchpoint":"support",'
            b'"respondent":"r-%d","comment":"It took too long to get an answer, otherwise fine"}'
            % (str(uuid7()).encode(), chance.randrange(CUSTOMERS), chance.randrange(11), chance.randrange(10**6)),
            key,
        )
        for _ in range(50_000)
    ]

    def of_connection() -> Iterator[bytes]:
        return itertools.islice(itertools.cycle(made), chance.randrange(len(made)), None)

    return of_connection


async def start(name: str, port: int, command: list[str], environment: dict[str, str]) -> Server:
    """Start a server on the first core and wait until it says that it is ready."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *command,
        env={**os.environ, **environment},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(process.pid, {0})
    assert process.stdout is not None
    line = await asyncio.wait_for(process.stdout.readline(), 30)
    assert b"ready" in line, line
    await asyncio.sleep(1)
    return Server(name, port, process)


async def away(at: Place, server: Server, prepared: Callable[[], Iterator[bytes]], connections: int) -> str:
    """Return what happens while Kafka is away, and when it is back."""
    database = Database(at.database_url, "ingest", pool=1)
    await at.servers.kafka.kill()
    first = await run_load("127.0.0.1", server.port, prepared, connections=connections, seconds=0.1)
    load = await run_load("127.0.0.1", server.port, prepared, connections=connections, seconds=SECONDS)
    assert set(first.statuses + load.statuses) == {b"202"}, (first.statuses, load.statuses)
    await at.servers.kafka.start()
    begun = time.perf_counter()
    while True:
        async with database.transaction() as tx:
            if not await tx.fetchval("SELECT count(*) FROM outbox"):
                break
        await asyncio.sleep(0.1)
    seconds = time.perf_counter() - begun
    await database.close()
    taken = sum((first.statuses + load.statuses).values())
    return (
        f"Kafka away: the first wait {max(first.times):.1f} s, then {load.per_second:,.0f} requests/s into the spool, "
        f"p50 {load.percentile(0.50):.1f} ms  p99 {load.percentile(0.99):.1f} ms; back: {taken:,} forwarded in "
        f"{seconds:.1f} s"
    )


async def compare(connections: int) -> tuple[list[dict[str, Any]], str]:
    """Return the figures of both servers, loaded in turns, and what ours does while Kafka is away."""
    text = new_key("secret")
    key = Key(id="bench", kind="secret", sha256=key_hash(text), scopes=("feedback",))
    async with place() as at:
        kafka = Kafka(at.kafka)
        await ensure_topics(kafka, TOPICS)
        await publish(kafka, directory(CUSTOMERS, (), (key,)))
        environment = {"FIILIS_KAFKA": at.kafka, "FIILIS_DATABASE_URL": at.database_url, "FIILIS_LOG_LEVEL": "error"}
        servers = [
            await start("empty FastAPI endpoint", 18_901, ["-c", PEER, "18901"], {}),
            await start("ingest, durable", 18_902, ["-m", "services", "ingest", "--port", "18902"], environment),
        ]
        loads: dict[str, list[Load]] = {server.name: [] for server in servers}
        prepared = requests(text)
        try:
            for round_ in range(ROUNDS + 1):
                for server in servers:
                    load = await run_load("127.0.0.1", server.port, prepared, connections=connections, seconds=SECONDS)
                    assert set(load.statuses) == {b"202"}, load.statuses
                    if round_:  # the first warms up
                        loads[server.name].append(load)
            told = await away(at, servers[1], prepared, connections)
        finally:
            for server in servers:
                server.process.terminate()
                await server.process.wait()
    ratios = [ours.per_second / peer.per_second for peer, ours in zip(*loads.values(), strict=True)]
    rows = [
        {
            "name": name,
            "per_second": statistics.median(load.per_second for load in found),
            "p50": statistics.median(load.percentile(0.50) for load in found),
            "p99": statistics.median(load.percentile(0.99) for load in found),
            "ratio": statistics.median(ratios) if index else 1.0,
        }
        for index, (name, found) in enumerate(loads.items())
    ]
    return rows, told


async def main() -> None:
    """Print the table."""
    for connections in (32,) if os.environ.get("BENCH_SHORT") else (32, 128):
        print(f"ingest, one core, {connections} connections:")
        rows, told = await compare(connections)
        for row in rows:
            print(
                f"  {row['name']:<24} {row['per_second']:>8,.0f} requests/s  ratio {row['ratio']:.2f}  "
                f"p50 {row['p50']:.1f} ms  p99 {row['p99']:.1f} ms"
            )
        print(f"  {told}")


if __name__ == "__main__":
    uvloop.run(main())
