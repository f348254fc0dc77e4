"""Click to page: from posting a mood 1 to the page at the architect's webhook.

Everything in one process, while other answers flow.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import statistics
import sys
import time
from collections.abc import Iterator

import msgspec
import uvloop

from bench.load import post
from bench.servers import Place, directory, place
from shared.bus.client import Kafka
from shared.bus.provisioning import ensure_topics
from shared.directory.follower import publish
from shared.directory.model import Contact, Key, MoodAtMost, NpsBelow, Person, Rule
from shared.wire.ids import uuid7
from shared.wire.signing import key_hash, new_key
from shared.wire.topics import TOPICS

CLICKS = int(os.environ.get("BENCH_CLICKS", "300"))
CLICK_SECONDS = 0.1
BACKGROUND = 500
"""Other answers a second."""
CUSTOMERS = 1_000
WARM_UP = 30


class Phone:
    """The architect's webhook: notes when each customer's page came."""

    def __init__(self) -> None:
        self.came: dict[str, float] = {}

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer requests of one connection."""
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                at = head.index(b"content-length:") + 15
                body = await reader.readexactly(int(head[at:].partition(b"\r\n")[0]))
                customer = msgspec.json.decode(body)["data"]["customer"]
                self.came.setdefault(customer, time.perf_counter())
                writer.write(b"HTTP/1.1 204 No Content\r\ncontent-length: 0\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()


class Poster:
    """One keep-alive connection to ingest."""

    def __init__(self, port: int, key: str) -> None:
        self._port = port
        self._key = key

    async def open(self) -> Poster:
        """Connect."""
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        return self

    async def post(self, answer: dict[str, object]) -> float:
        """Post an answer; return when it was sent."""
        begun = time.perf_counter()
        self._writer.write(post("/v1/feedback", msgspec.json.encode(answer), self._key))
        head = await self._reader.readuntil(b"\r\n\r\n")
        assert b" 202 " in head[:16], head
        at = head.lower().index(b"content-length:") + 15
        await self._reader.readexactly(int(head[at:].partition(b"\r\n")[0]))
        return begun


def background(chance: random.Random) -> Iterator[dict[str, object]]:
    """Make answers that break no rule."""
    while True:
        yield {
            "id": str(uuid7()),
            "customer": f"c{chance.randrange(CUSTOMERS)}",
            "kind": "nps",
            "score": chance.choice((7, 8, 9, 10)),
            "touchpoint": chance.choice(("billing", "sales")),
            "respondent": f"r-{chance.randrange(10_000)}",
        }


async def _flow(poster: Poster, per_second: float) -> None:
    answers, begun = background(random.Random(5)), time.perf_counter()
    for number in itertools.count(1):
        await poster.post(next(answers))
        ahead = begun + number / per_second - time.perf_counter()
        if ahead > 0:
            await asyncio.sleep(ahead)


async def measure(at: Place) -> list[float]:
    """Return the milliseconds from click to page."""
    phone = Phone()
    server = await asyncio.start_server(phone.serve, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/page"
    person = Person("architect", "Architect", "UTC", "en", contacts=(Contact("webhook", url),))
    text = new_key("secret")
    key = Key(id="bench", kind="secret", sha256=key_hash(text), scopes=("feedback",))
    rules = (Rule("mood-one", MoodAtMost(1), "critical"), Rule("nps-low", NpsBelow(0, 30 * 86400), "high"))
    kafka = Kafka(at.kafka)
    await ensure_topics(kafka, TOPICS)
    await publish(kafka, directory(CUSTOMERS, rules, (key,), person))
    environment = {
        "FIILIS_KAFKA": at.kafka,
        "FIILIS_DATABASE_URL": at.database_url,
        "FIILIS_SECRET": "a-secret-of-the-benchmark-of-32-letters",
        "FIILIS_ALLOW_PRIVATE_TARGETS": "true",
        "FIILIS_LOG_LEVEL": "error",
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "services", "--port", "0", "--data", str(at.folder / "services")),
        env={**os.environ, **environment},
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        line = (await asyncio.wait_for(process.stdout.readline(), 60)).decode()
        port = int(line.rpartition(":")[2])
        flows = [asyncio.create_task(_flow(await Poster(port, text).open(), BACKGROUND / 4)) for _ in range(4)]
        clicker = await Poster(port, text).open()
        sent: dict[str, float] = {}
        for number in range(CLICKS + WARM_UP):
            customer = f"c{number}"
            answer: dict[str, object] = {"customer": customer, "kind": "mood", "score": 1, "touchpoint": "support"}
            sent[customer] = await clicker.post(answer)
            await asyncio.sleep(CLICK_SECONDS)
        for _ in range(100):
            if len(phone.came) == len(sent):
                break
            await asyncio.sleep(0.1)
        for flow in flows:
            if flow.done():
                flow.result()
            flow.cancel()
    finally:
        process.terminate()
        await process.wait()
        server.close()
    assert phone.came.keys() == sent.keys(), f"{len(sent) - len(phone.came)} pages did not come"
    return [1000 * (phone.came[customer] - at_) for customer, at_ in list(sent.items())[WARM_UP:]]


async def main() -> None:
    """Print the figures."""
    async with place() as at:
        times = sorted(await measure(at))
    p50, p99 = statistics.median(times), times[int(0.99 * len(times))]
    print(f"click to page, {CLICKS} clicks while {BACKGROUND} answers/s flow, everything in one process:")
    print(f"  p50 {p50:.0f} ms  p99 {p99:.0f} ms  worst {times[-1]:.0f} ms")


if __name__ == "__main__":
    uvloop.run(main())
