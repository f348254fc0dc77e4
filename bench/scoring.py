"""Scoring: answers a second from a preloaded topic into PostgreSQL, effects exactly once, in one process."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import resource
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from bench.servers import Place, directory, place
from services.scoring.main import build
from services.scoring.settings import ScoringSettings
from shared.clock import SystemClock
from shared.db import Database
from shared.directory.follower import revision_of
from shared.directory.rules.document import built_in_rules
from shared.events import FeedbackReceivedV1
from shared.ids import uuid7
from shared.kafka import Kafka, Producer, Publisher, event_headers
from shared.logs import new_traceparent
from shared.parts import parts
from shared.service import tune_memory
from shared.topics import FEEDBACK, TOPICS

ANSWERS = int(os.environ.get("BENCH_ANSWERS", "300000"))
RESPONDENT_SHARE = 0.5
"""E-mail and app surveys know who answers, kiosks and open widgets do not."""
MOODS, MOOD_WEIGHTS = (2, 3, 4), (1, 4, 5)
NPS, NPS_WEIGHTS = range(11), (1, 1, 1, 1, 1, 2, 3, 8, 12, 14, 12)


def answer(customer: str, chance: random.Random, now: datetime) -> FeedbackReceivedV1:
    """Return a believable answer of the last minutes."""
    at = now - timedelta(seconds=chance.random() * 600)
    mood = chance.random() < 0.4
    scores, weights = (MOODS, MOOD_WEIGHTS) if mood else (NPS, NPS_WEIGHTS)
    return FeedbackReceivedV1(
        id=uuid7(),
        customer=customer,
        kind="mood" if mood else "nps",
        score=chance.choices(scores, weights)[0],
        occurred_at=at,
        received_at=now,
        trust="verified",
        touchpoint=chance.choice(("support", "billing", "sales")),
        respondent=f"r-{chance.randrange(10_000)}" if chance.random() < RESPONDENT_SHARE else None,
        comment="It took too long to get an answer" if chance.random() < 0.1 else None,
        channel="email",
        language="en",
    )


async def preload(kafka: Kafka, customers: int, answers: int) -> None:
    """Fill feedback.v1."""
    producer = Producer(kafka)
    publisher = Publisher([producer], FEEDBACK, wait=60, limit=answers)
    await publisher.prepare()
    chance, now, waiting = random.Random(7), datetime.now(UTC), []
    for _ in range(answers):
        one = answer(f"c{chance.randrange(customers)}", chance, now)
        headers = event_headers("feedback.received", str(one.id), "bench", now.isoformat(), new_traceparent(one.id.hex))
        waiting.append(publisher.publish(one.customer.encode(), msgspec.json.encode(one), headers))
        if len(waiting) >= 5_000:
            await asyncio.gather(*waiting)
            waiting.clear()
    await asyncio.gather(*waiting)
    await producer.close()


async def measure(at: Place, customers: int, answers: int) -> dict[str, Any]:
    """Return answers a second, from the start of the consumer to the last commit."""
    kafka = Kafka(at.kafka, f"bench{customers}.")
    await kafka.ensure_topics(TOPICS)
    await preload(kafka, customers, answers)
    settings = ScoringSettings(kafka=at.kafka, database_url=at.database_url, topic_prefix=kafka.prefix)
    shared = parts(settings, SystemClock(), ("scoring",))
    shared.directory.current = revision_of(1, directory(customers, tuple(built_in_rules())))
    admin = Database(at.database_url, "public")
    async with admin.transaction() as tx:
        await tx.execute("DROP SCHEMA IF EXISTS scoring CASCADE")
    service = build(settings, shared)
    for resource_ in service.resources:
        await resource_.__aenter__()
    begun, cpu = time.perf_counter(), time.process_time()
    tasks = [asyncio.create_task(task()) for task in service.tasks.values()]  # pyright: ignore[reportArgumentType]
    done = 0
    while done < answers:
        await asyncio.sleep(0.05)
        for task in tasks:
            if task.done():
                task.result()
        async with admin.transaction() as tx:
            done = await tx.fetchval("SELECT coalesce(sum(next), 0) FROM scoring.consumer_offset")
    seconds, cpu = time.perf_counter() - begun, time.process_time() - cpu
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    async with admin.transaction() as tx:
        stored = await tx.fetchval("SELECT count(*) FROM scoring.answer")
        counted = await tx.fetchval("SELECT sum(c1 + c2 + c3 + c4) FROM scoring.bucket")
    await admin.close()
    assert stored == answers, (stored, answers)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    return {
        "customers": customers,
        "per_second": answers / seconds,
        "cpu": cpu,
        "seconds": seconds,
        "counted": counted,
        "peak_mb": peak,
    }


async def main() -> None:
    """Print the table."""
    print(f"scoring, {ANSWERS} answers, one process, effects exactly once, answers stored:")
    for customers in (1_000, 50_000):
        gc.collect()  # what the case before left would be walked in this one
        async with place() as at:
            found = await measure(at, customers, ANSWERS)
        print(
            f"  {customers:>7} customers  {found['per_second']:>8,.0f} answers/s  "
            f"{found['cpu'] / ANSWERS * 1e6:5.1f} us of our processor each, peak {found['peak_mb']} MB"
        )


if __name__ == "__main__":
    tune_memory()
    asyncio.run(main())
