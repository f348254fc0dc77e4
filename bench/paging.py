"""Paging: 6,000 pages due at once, from the ticket to the first delivery beside Alertmanager, and an idle minute.

Run: python -m bench.paging. Alertmanager is measured where it is installed (Debian: prometheus-alertmanager).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import psutil
import uvloop
from msgspec.structs import replace

from bench.room import Room
from bench.servers import Place, directory, place
from services.notify.main import build
from shared.bus.client import Kafka, Producer, cloud_event
from shared.directory.model import Contact, Directory, Person
from shared.runtime.clock import MovableClock
from shared.runtime.memory import tune_memory
from shared.runtime.settings import Settings
from shared.wire.events import TicketV1
from shared.wire.ids import uuid7
from shared.wire.topics import TICKETS

SHORT = bool(os.environ.get("BENCH_SHORT"))
PAGES = 300 if SHORT else 6_000
ARCHITECTS = 100
PACED, PER_SECOND = (40, 40) if SHORT else (1_000, 50)
SCHEDULED = 2_000 if SHORT else 100_000
IDLE = 3.0 if SHORT else 30.0
"""Seconds that are watched."""


@contextlib.asynccontextmanager
async def provider(seconds: float) -> AsyncIterator[str]:
    """Run a fake provider that answers after so many seconds; yield its address."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bench.provider", str(seconds), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    port = int(await process.stdout.readline())
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        await process.wait()


def company(customers: int, address: str, quiet: str | None = None) -> Directory:
    """Return a company whose architects are reached at the provider."""
    people = {
        f"a{n}": Person(
            f"a{n}", f"Architect {n}", "UTC", "en", quiet_hours=quiet, contacts=(Contact("webhook", f"{address}/{n}"),)
        )
        for n in range(ARCHITECTS)
    }
    known = directory(customers, (), person=people["a0"])
    named = {f"c{n}": replace(one, architect=f"a{n % ARCHITECTS}") for n, one in enumerate(known.customers.values())}
    return replace(known, people=people, customers=named)


def ticket(customer: int, number: int, now: datetime) -> TicketV1:
    """Return a ticket that pages, at once outside of quiet hours."""
    return TicketV1(
        id=uuid7(),
        number=number,
        customer=f"c{customer}",
        touchpoint="support",
        title="Mood 1 of 4 at support",
        severity="high",
        state="open",
        assignee=None,
        alert=uuid7(),
        dedup_key=f"c{customer}/mood-one/support",
        opened_at=now,
        version=1,
        summary="Mood 1 of 4 at support",
        caused_at=now,
    )


async def _tell(kafka: Kafka, tickets: list[TicketV1]) -> None:
    producer = Producer(kafka)
    await producer.send_all(
        [
            cloud_event(TICKETS, "ticket.opened", key=t.customer, id=str(t.id), at=t.opened_at, message=t)
            for t in tickets
        ]
    )
    await producer.close()


def notify(at: Place, prefix: str, known: Directory, clock: MovableClock | None = None) -> Room:
    """Return notify in this process."""
    settings = Settings(
        kafka=at.kafka,
        database_url=at.database_url,
        topic_prefix=prefix,
        secret="a-secret-of-the-benchmark-of-32-letters",
        allow_private_targets="true",
    )
    return Room("notify", settings, known, build, clock)


async def burst(at: Place, seconds: float) -> None:
    """Print how long it takes until pages that are all due at once have all been delivered."""
    clock = MovableClock()
    now = clock.now()
    quiet = f"{now - timedelta(hours=1):%H:%M}-{now + timedelta(hours=1):%H:%M}"
    async with provider(seconds) as address, httpx.AsyncClient(timeout=30, trust_env=False) as client:
        room = notify(at, f"burst{seconds:g}.", company(PAGES, address, quiet), clock)
        await room.open()
        await _tell(room.kafka, [ticket(n, n, now) for n in range(PAGES)])
        room.start()
        while await room.ask("SELECT count(*) FROM page WHERE held = 'quiet hours'") < PAGES:
            await asyncio.sleep(0.1)
        clock.move(timedelta(hours=1, minutes=1))
        begun = time.perf_counter()
        came: dict[str, int] = {"tickets": 0}
        while came["tickets"] < PAGES:
            await asyncio.sleep(0.05)
            came = (await client.get(f"{address}/count")).json()
        took = time.perf_counter() - begun
        while await room.ask("SELECT count(*) FROM page WHERE state <> 'sent'"):
            await asyncio.sleep(0.05)
        stored = time.perf_counter() - begun
        print(
            f"  {PAGES:,} pages due at once, provider answers in {1000 * seconds:.0f} ms: "
            f"delivered in {took:.1f} s, all results stored after {stored:.1f} s, {came['requests']:,} calls"
        )
        await room.close()


async def latency(at: Place) -> None:
    """Print the time from a ticket to its first delivery, and Alertmanager's from an alert to its webhook."""
    async with provider(0) as address:
        room = notify(at, "paced.", company(PACED, address))
        await room.open()
        room.start()
        await asyncio.sleep(3)
        sent: dict[str, float] = {}
        producer = Producer(room.kafka)
        begun = time.perf_counter()
        for n in range(PACED):
            await asyncio.sleep(max(0.0, begun + n / PER_SECOND - time.perf_counter()))
            one = ticket(n, n, datetime.now(UTC))
            sent[str(one.id)] = time.time()
            event = cloud_event(
                TICKETS, "ticket.opened", key=one.customer, id=str(one.id), at=one.opened_at, message=one
            )
            await producer.send_all([event])
        _print("ticket to first delivery", await _lags(address, sent))
        await producer.close()
        await room.close()


async def _lags(address: str, sent: dict[str, float]) -> list[float]:
    async with httpx.AsyncClient(timeout=30, trust_env=False) as client:
        end = time.perf_counter() + 60
        came: dict[str, float] = {}
        while len(came) < len(sent) and time.perf_counter() < end:
            await asyncio.sleep(0.1)
            came = (await client.get(f"{address}/come")).json()
    assert came.keys() == sent.keys(), f"{len(came)} of {len(sent)} came"
    return [came[id_] - sent[id_] for id_ in sent]


def _print(what: str, lags: list[float]) -> None:
    p50, p99 = statistics.median(lags), statistics.quantiles(lags, n=100)[98]
    print(f"  {what} at {PER_SECOND} a second: p50 {1000 * p50:.0f} ms, p99 {1000 * p99:.0f} ms", flush=True)


async def alertmanager() -> None:
    """Print Alertmanager's time from an alert to its webhook, with nothing to wait for."""
    program = shutil.which("prometheus-alertmanager") or shutil.which("alertmanager")
    if program is None:
        print("  Alertmanager is not installed (Debian: prometheus-alertmanager); not measured")
        return
    async with provider(0) as address:
        with tempfile.TemporaryDirectory(prefix="fiilis-bench-") as folder:
            config = Path(folder) / "config.yml"
            config.write_text(
                "route: {receiver: phone, group_by: [ticket], group_wait: 0s, group_interval: 1s}\n"
                f"receivers: [{{name: phone, webhook_configs: [{{url: '{address}/page', send_resolved: false}}]}}]\n"
            )
            port = _free_port()
            process = await asyncio.create_subprocess_exec(
                program,
                f"--config.file={config}",
                f"--storage.path={folder}",
                f"--web.listen-address=127.0.0.1:{port}",
                "--cluster.listen-address=",
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.DEVNULL,
            )
            try:
                async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
                    await _ready(client)
                    sent: dict[str, float] = {}
                    begun = time.perf_counter()
                    for n in range(PACED):
                        await asyncio.sleep(max(0.0, begun + n / PER_SECOND - time.perf_counter()))
                        id_ = str(uuid7())
                        alert = {"labels": {"alertname": "mood", "ticket": id_}, "annotations": {"summary": "Mood 1"}}
                        sent[id_] = time.time()
                        (await client.post("/api/v2/alerts", json=[alert])).raise_for_status()
                _print("Alertmanager, alert to webhook, group_wait 0,", await _lags(address, sent))
            finally:
                process.kill()
                await process.wait()


async def _ready(client: httpx.AsyncClient) -> None:
    for _ in range(100):
        with contextlib.suppress(httpx.HTTPError):
            if (await client.get("/-/ready")).status_code == 200:
                return
        await asyncio.sleep(0.1)
    raise RuntimeError("Alertmanager did not start")


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


async def idle(at: Place) -> None:
    """Print what a minute costs in which nothing is due of many pages that will be."""
    known = company(1_000, "http://127.0.0.1:9")
    room = notify(at, "idle.", known)
    await room.open()
    async with room.admin.transaction() as tx:
        await tx.execute(_SCHEDULED, SCHEDULED)
        await tx.execute("ANALYZE page")
    room.start()
    await asyncio.sleep(5 if not SHORT else 1)  # the first look at everything
    ours, servers = psutil.Process(), _postgres_of(at)
    before, database = _seconds(ours), sum(map(_seconds, servers))
    await asyncio.sleep(IDLE)
    per_minute = 60 / IDLE
    spent = (_seconds(ours) - before) * per_minute
    theirs = (sum(map(_seconds, _postgres_of(at))) - database) * per_minute
    assert await room.ask("SELECT count(*) FROM delivery") == 0
    print(
        f"  an idle minute with {SCHEDULED:,} scheduled steps: {spent:.2f} s of processor time here, "
        f"{theirs:.2f} s in PostgreSQL"
    )
    await room.close()


_SCHEDULED = """
INSERT INTO page (id, version, ticket, opening, customer, severity, state, opened_at, due_at, body)
SELECT gen_random_uuid(), 2, gen_random_uuid(), 1, 'c' || n % 1000, 'critical', 'sent', now(),
    now() + interval '1 day' + n * interval '1 second', '{}'
FROM generate_series(1, $1::int) AS n
"""


def _postgres_of(at: Place) -> list[psutil.Process]:
    parent = psutil.Process(at.servers.postgres.pid)
    return [parent, *parent.children(recursive=True)]


def _seconds(process: psutil.Process) -> float:
    with contextlib.suppress(psutil.Error):
        times = process.cpu_times()
        return times.user + times.system
    return 0.0


async def run() -> None:
    """Print all of it."""
    print("paging, one process:", flush=True)
    async with place() as at:
        for seconds in (0.2,) if SHORT else (0.0, 0.2):
            await burst(at, seconds)
        await latency(at)
        await alertmanager()
        await idle(at)


def main() -> None:
    """Run on fresh servers."""
    tune_memory()
    uvloop.run(run())


if __name__ == "__main__":
    main()
