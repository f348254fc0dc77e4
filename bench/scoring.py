"""Scoring: answers a second from a preloaded topic into PostgreSQL, effects exactly once, in one process."""

from __future__ import annotations

import asyncio
import os
import random
import resource
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import chain
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal

import msgspec
import uvloop

from bench.room import Room
from bench.servers import Place, directory, place
from services.scoring.consumer import FeedbackHandler
from services.scoring.erasing import Erasing
from services.scoring.main import MIGRATIONS, build
from shared.bus.client import Kafka, Producer, Publisher, event_headers
from shared.database.migrate import migrate
from shared.database.pool import Database
from shared.directory.follower import revision_of
from shared.directory.model import NpsBelow, Rule
from shared.rules.document import built_in_rules
from shared.runtime.clock import SystemClock
from shared.runtime.logs import new_traceparent
from shared.runtime.memory import tune_memory
from shared.runtime.process import parts
from shared.runtime.settings import Settings
from shared.wire.events import FeedbackReceivedV1
from shared.wire.ids import uuid7
from shared.wire.topics import FEEDBACK

ANSWERS = int(os.environ.get("BENCH_ANSWERS", "300000"))
RESPONDENT_SHARE = 0.5
"""E-mail and app surveys know who answers, kiosks and open widgets do not."""
MOODS, MOOD_WEIGHTS = (2, 3, 4), (1, 4, 5)
TOUCHPOINTS = ("support", "billing", "sales")
FIRST = [(touchpoint, mood) for touchpoint in TOUCHPOINTS for mood in (True, False)] if ANSWERS >= 100_000 else []
"""What each customer answers before anything is measured; nothing in a run that only shows that it runs."""
PEERS = Path(__file__).parents[1] / ".venv-peers"
NPS, NPS_WEIGHTS = range(11), (1, 1, 1, 1, 1, 2, 3, 8, 12, 14, 12)


Public = Literal["verified", "anonymous", "of a browser"]
"""Whose answers those are that name nobody."""


def answer(
    customer: str,
    chance: random.Random,
    now: datetime,
    *,
    mood: bool | None = None,
    touchpoint: str | None = None,
    public: Public = "verified",
) -> FeedbackReceivedV1:
    """Return a believable answer of the last minutes."""
    named = chance.random() < RESPONDENT_SHARE
    at = now - timedelta(seconds=chance.random() * 600)
    mood = chance.random() < 0.4 if mood is None else mood
    scores, weights = (MOODS, MOOD_WEIGHTS) if mood else (NPS, NPS_WEIGHTS)
    return FeedbackReceivedV1(
        id=uuid7(),
        customer=customer,
        kind="mood" if mood else "nps",
        score=chance.choices(scores, weights)[0],
        occurred_at=at,
        received_at=now,
        trust="verified" if named or public == "verified" else "anonymous",
        touchpoint=touchpoint or chance.choice(TOUCHPOINTS),
        respondent=f"r-{chance.randrange(10_000)}" if named else None,
        device=f"browser-{chance.randrange(10_000)}" if public == "of a browser" and not named else None,
        comment="It took too long to get an answer" if chance.random() < 0.1 else None,
        channel="email",
        language="en",
    )


async def preload(kafka: Kafka, customers: int, answers: int, public: Public = "verified") -> None:
    """Fill feedback.v1: the first answers of each customer, then `answers` of any."""
    producer = Producer(kafka)
    publisher = Publisher([producer], FEEDBACK, wait=60, limit=100_000)
    await publisher.prepare()
    chance, now, waiting = random.Random(7), datetime.now(UTC), []
    first = (
        answer(f"c{n}", chance, now, mood=mood, touchpoint=touchpoint, public=public)
        for touchpoint, mood in FIRST
        for n in range(customers)
    )
    then = (answer(f"c{chance.randrange(customers)}", chance, now, public=public) for _ in range(answers))
    for one in chain(first, then):
        headers = event_headers("feedback.received", str(one.id), "bench", now.isoformat(), new_traceparent(one.id.hex))
        waiting.append(publisher.publish(one.customer.encode(), msgspec.json.encode(one), headers))
        if len(waiting) >= 5_000:
            await asyncio.gather(*waiting)
            waiting.clear()
    await asyncio.gather(*waiting)
    await producer.close()


def _but_nps_low(days: int) -> list[Rule]:
    """Return the default rules, with another window for nps-low."""
    return [Rule(r.name, NpsBelow(0, days * 86400), r.severity) if r.name == "nps-low" else r for r in built_in_rules()]


HISTORY = """
INSERT INTO scoring.customer (name, partition, due_at)
SELECT 'c' || n, -1, now() + interval '1 day' FROM generate_series(0, $1::int - 1) AS n;
"""
HISTORY_SERIES = """
INSERT INTO scoring.series (customer, number, touchpoint, audience, kind, trust)
SELECT number, 0, 'support', 'customer', 'nps', 'verified' FROM scoring.customer
"""
HISTORY_BUCKETS = """
INSERT INTO scoring.bucket
SELECT number, extract(epoch FROM now())::bigint / 3600 - 6 * step, 0, 1, 1, 2, 0, 0, 0, 0, 0
FROM scoring.customer, generate_series(1, 365 * 4) AS step
"""


@dataclass(frozen=True, slots=True)
class Case:
    """What is measured."""

    name: str
    customers: int
    rules: tuple[Rule, ...]
    history: bool = False
    """A year of buckets is there already, one each six hours."""
    processes: int = 1
    """That share the partitions."""
    public: Public = "verified"


DEFAULT = tuple(built_in_rules())
CASES = [
    *(Case(f"{n:,} customers", n, DEFAULT) for n in (1_000, 10_000, 100_000)),
    *(Case(f"{n:,} customers, mood-one and nps-low alone", n, DEFAULT[:2]) for n in (1_000, 50_000)),
    *(Case(f"{n:,} customers, no rules: the answers are stored and counted alone", n, ()) for n in (1_000, 100_000)),
    Case("1,000 customers, two processes", 1_000, DEFAULT, processes=2),
    Case("1,000 customers, half of the answers anonymous: judged twice", 1_000, DEFAULT, public="anonymous"),
    Case("1,000 customers, half of a browser each: votes", 1_000, DEFAULT, public="of a browser"),
]
WINDOWS = [
    Case(f"1,000 customers, a year's history, window of {days} d", 1_000, (*_but_nps_low(days),), history=True)
    for days in (1, 30, 365)
]


def room(kafka: str, database_url: str, case: Case) -> Room:
    """Return scoring as a process of its own has it."""
    settings = Settings(kafka=kafka, database_url=database_url, topic_prefix="bench.")
    known = directory(case.customers, case.rules)
    return Room("scoring", settings, known, build)


def another(kafka: str, database_url: str, case: Case) -> None:
    """Be a further process, until it is ended."""
    tune_memory()

    async def run() -> None:
        ours = room(kafka, database_url, case)
        await ours.open()
        ours.start()
        await ours.wait()

    uvloop.run(run())


async def measure(at: Place, case: Case, answers: int) -> dict[str, Any]:
    """Return answers a second, from when each customer has answered at each of its touchpoints to the last commit.

    The first answer of each costs more, once: rows of its own are made.
    """
    before = len(FIRST) * case.customers
    ours = room(at.kafka, at.database_url, case)
    await ours.open()
    await preload(ours.kafka, case.customers, answers, case.public)
    if case.history:
        async with ours.admin.transaction(within=600) as tx:
            await tx.execute(HISTORY, case.customers)
            await tx.execute(HISTORY_SERIES)
            await tx.execute(HISTORY_BUCKETS)
    others = [
        get_context("spawn").Process(target=another, args=(at.kafka, at.database_url, case), daemon=True)
        for _ in range(case.processes - 1)
    ]
    for other in others:
        other.start()
    ours.start()
    done, begun, cpu, first = 0, 0.0, 0.0, 0
    while done < before + answers:
        await asyncio.sleep(0.02)
        done = await ours.ask("SELECT coalesce(sum(next), 0)::bigint FROM consumer_offset")
        if not begun and done >= before:
            begun, cpu, first = time.perf_counter(), time.process_time(), done
    seconds, cpu = time.perf_counter() - begun, time.process_time() - cpu
    for other in others:
        other.terminate()
        other.join()
    stored = await ours.ask("SELECT count(*) FROM answer")
    await ours.close()
    assert stored == done == before + answers, (stored, done, answers)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    return {"per_second": (done - first) / seconds, "cpu": cpu / (done - first), "peak_mb": peak}


async def peers(at: Place, answers: int) -> dict[str, float]:
    """Return the answers a second of other stream processors, on the topic that was loaded for us."""
    found: dict[str, float] = {}
    python = PEERS / "bin/python"
    if not (PEERS / ".ready").exists():
        print("  (no peers: `make bench` installs them into .venv-peers)")
        return found
    for name, script in (("Quix Streams, exactly once", "quix.py"), ("Bytewax, in memory", "bytewax_flow.py")):
        process = await asyncio.create_subprocess_exec(
            python,
            Path(__file__).parent / "peers" / script,
            at.kafka,
            "bench.feedback.v1",
            str(answers),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        told, _ = await asyncio.wait_for(process.communicate(), 300)
        if process.returncode or not told:
            raise RuntimeError(f"{script} ended with {process.returncode} and said nothing")
        found[name] = answers / float(told.split()[-1])
    return found


async def sweeps(at: Place, customers: int) -> tuple[float, float]:
    """Return the seconds that a minute of sweeps costs with nothing to do, and with a day to end for all of them."""
    settings = Settings(kafka=at.kafka, database_url=at.database_url, topic_prefix="sweep.")
    shared = parts(settings, SystemClock(), ("scoring",))
    shared.directory.current = revision_of(1, directory(customers, DEFAULT))
    database = Database(at.database_url, "scoring", pool=1)
    await migrate(database, MIGRATIONS)
    async with database.transaction(within=600) as tx:
        await tx.execute(HISTORY.replace("-1,", "n % 8,"), customers)
        await tx.execute(HISTORY_SERIES)
        await tx.execute(HISTORY_BUCKETS.replace("365 * 4", "5"))
    erasing = Erasing(lambda _: [], keeps_counts=True)
    handler = FeedbackHandler(shared.directory, SystemClock(), erasing, remembered=10_000, sweep_seconds=1)

    async def minute(times: int) -> float:
        begun = time.perf_counter()
        for _ in range(times):
            async with database.transaction() as tx:
                after = await handler.sweep(tx, range(8))
            if after is not None:
                after()
        return time.perf_counter() - begun

    idle = await minute(60)
    async with database.transaction(within=600) as tx:
        await tx.execute("UPDATE scoring.customer SET due_at = now()")
    busy = await minute(customers // 500)
    async with database.transaction() as tx:
        assert await tx.fetchval("SELECT count(*) FROM daily") == customers
    await database.close()
    return idle, busy


async def one(case: Case, answers: int, *, beside: bool) -> tuple[dict[str, Any], dict[str, float]]:
    """Measure a case on fresh servers, and the peers on the same topic."""
    tune_memory()
    async with place() as at:
        ours = await measure(at, case, answers)
        return ours, await peers(at, len(FIRST) * case.customers + answers) if beside else {}


def alone(case: Case, answers: int, beside: bool) -> tuple[dict[str, Any], dict[str, float]]:
    """Measure in this process, which nothing was measured in before."""
    return uvloop.run(one(case, answers, beside=beside))


async def idle() -> tuple[int, float, float]:
    """Measure the sweeps."""
    many = 100_000 if FIRST else 1_000
    async with place() as at:
        return many, *await sweeps(at, many)


def main() -> None:
    """Print the table, each line from a process of its own."""
    print(f"scoring, {ANSWERS} answers, one process, all default rules, effects exactly once, answers stored:")
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), max_tasks_per_child=1) as fresh:
        for case in (*CASES, *WINDOWS) if FIRST else (CASES[0], replace(WINDOWS[-1], customers=20)):
            found, beside = fresh.submit(alone, case, ANSWERS, case is CASES[0] and bool(FIRST)).result()
            ours = found["per_second"]
            print(
                f"  {case.name:<68}{ours:>8,.0f} answers/s  "
                f"{found['cpu'] * 1e6:5.1f} us of our processor each, peak {found['peak_mb']} MB",
                flush=True,
            )
            for name, per_second in beside.items():
                peer = f"{name}, rolling NPS alone"
                print(f"    {peer:<66}{per_second:>8,.0f} answers/s  ours is {ours / per_second:.2f} times")
    many, nothing, day = uvloop.run(idle())
    print(f"  {many:,} customers: a minute of sweeps with nothing to do {nothing:.2f} s, the end of a day {day:.1f} s")


if __name__ == "__main__":
    main()
