"""The shell of a service: what it says while work is missing, when it gives up, and how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import re
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import httpx
import pytest

from shared.bus.client import Kafka
from shared.errors import Transient
from shared.runtime import service
from shared.runtime.due import Periodic
from shared.runtime.progress import Progress, Worker
from shared.runtime.service import Service, Standstill
from tests.integration.test_outage import environment, settle
from tests.support.processes import processes
from tests.support.shell import running
from tests.support.wait import until, until_true

Shown = dict[str, str]


async def forever() -> None:
    await asyncio.Event().wait()


def worker(progress: Progress, work: Callable[[], Awaitable[None]] = forever) -> Worker:
    """Return one that makes progress once, then does the work."""

    async def run() -> None:
        progress.made()
        await work()

    return Worker(run, progress)


async def ready(client: httpx.AsyncClient, query: str = "") -> tuple[int, Shown, Shown]:
    """Return the status, what is missing, and the notes."""
    response = await client.get(f"/readyz{query}")
    body = response.json()
    return response.status_code, body["missing"], body.get("notes", {})


# ---- readiness


async def test_a_worker_that_stands_still_shows() -> None:
    """Green means that work was done: a probe on a connection of its own would say that all is well."""
    still = Progress("fake", "still", within=0.05)
    busy = Progress("fake", "busy")
    async with running([Service("fake", workers=[worker(still), worker(busy)])]) as client:

        async def told() -> Shown:
            return (await ready(client))[1] if (await ready(client))[0] == 503 else {}

        assert re.fullmatch(r"nothing done for \d s", (await until(told))["fake: worker still"])
        still.waits(Transient("kafka:9092: no answer", of="Kafka"))
        assert (await told())["fake: worker still"].endswith(" s: kafka:9092: no answer")


async def test_the_door_is_open_while_only_work_is_missing() -> None:
    """A balancer asks for the door: with Kafka away a page is still acknowledged; without PostgreSQL it cannot be."""
    postgres: list[str] = []
    checks = {"kafka": lambda: "away", "postgresql": lambda: postgres[0] if postgres else None}
    still = Progress("fake", "at the door", within=0.0)
    async with running([Service("fake", workers=[worker(still)], checks=checks, door={"postgresql"})]) as client:

        async def open_() -> bool:
            return await ready(client, "?door") == (200, {}, {})

        await until(open_)
        status, missing, _ = await ready(client)
        assert (status, set(missing)) == (503, {"fake: kafka", "fake: worker at the door"})
        postgres.append("refused")
        assert await ready(client, "?door") == (503, {"fake: postgresql": "refused"}, {})


async def test_a_job_that_fails_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """One customer's absurd row may not end everybody's service, again and again: it is told and tried again."""
    monkeypatch.setattr("shared.runtime.due._FAILED_SECONDS", 0.01)
    tries, mended = 0, False

    async def work() -> None:
        nonlocal tries
        tries += 1
        if not mended:
            raise OverflowError("date value out of range")

    job = Periodic("fake", "digest", 0.01, work)
    async with running([Service("fake", workers=[job.worker])]) as client:

        async def failing(value: float) -> bool:
            text = (await client.get("/metrics")).text
            return f'fiilis_worker_failing{{service="fake",worker="digest"}} {value}' in text

        await until(lambda: failing(1.0))
        note = {"fake: worker digest": "OverflowError; the log has more"}
        assert await ready(client) == (200, {}, note)
        before = tries
        await until_true(lambda: tries > before)
        mended = True
        await until(lambda: failing(0.0))
        assert await ready(client) == (200, {}, {})


# ---- the watchdog


async def shell(still: Worker, standstill: float, away: Callable[[], Shown] = dict) -> None:
    """Run a service with one worker until it gives up."""
    services, stop = [Service("fake", workers=[still])], asyncio.Event()
    run = service.run(services, host="127.0.0.1", port=0, stop=stop, standstill=standstill, away=away)
    await asyncio.wait_for(run, 20)


async def test_a_worker_that_stands_still_ends_the_process() -> None:
    """It is started afresh, which no worker can do for itself."""
    still = worker(Progress("fake", "stuck", within=0.01))
    with pytest.raises(Standstill, match=r"fake: stuck: nothing done for \d s, and everything that it needs is there"):
        await shell(still, 0.4)


async def test_a_worker_is_right_to_wait_for_what_is_away() -> None:
    """A restart would not bring Kafka back; once it is there, a worker has some time to go on."""
    looks = 16
    asked = 0

    def away() -> Shown:
        nonlocal asked
        asked += 1
        return {"kafka": "no answer"} if asked <= looks else {}

    with pytest.raises(Standstill):
        await shell(worker(Progress("fake", "patient", within=0.01)), 0.2, away)
    assert asked >= looks + 4


async def test_a_task_that_is_cancelled_by_a_library_ends_the_process() -> None:
    """Loudly, not with exit code 0: its keeper starts it again, and its log says why."""

    async def task() -> None:
        raise asyncio.CancelledError

    with pytest.raises(RuntimeError, match="fake task was cancelled"):
        await service.run([Service("fake", tasks={"task": task})], host="127.0.0.1", port=0, stop=asyncio.Event())


# ---- the end of a process


async def test_sigterm_is_told_before_it_takes_effect(kafka: Kafka, database_url: str, tmp_path: Path) -> None:
    """Balancers hear of it while every request is still answered; then the process ends in order."""
    key = await settle(kafka)
    variables = {**environment(kafka, database_url), "FIILIS_DRAIN_SECONDS": "2"}
    async with processes(variables, tmp_path, "ingest") as made:
        ingest = made["ingest"]
        async with httpx.AsyncClient(base_url=ingest.address, trust_env=False) as client:
            for path in ("/metrics", "/docs", "/openapi.json"):
                assert (await client.get(path)).status_code == 404, "what it tells is not for everybody"
            assert "fiilis_directory_revision" in await ingest.metrics()
            ended = asyncio.create_task(ingest.stop())

            async def told() -> bool:
                return (await ready(client))[:2] == (503, {"process: stop": "the process is ending"})

            await until(told)
            assert (await ready(client, "?door"))[0] == 503
            answer = {"kind": "nps", "score": 9, "customer": "acme"}
            headers = {"Authorization": f"Bearer {key}"}
            posted = await client.post("/v1/feedback", json=answer, headers=headers)
            assert posted.status_code == 202, posted.text
            assert not ended.done()
            assert await ended == 0


SERVES = """
import asyncio, sys
from shared.runtime import service
async def main(stop):
    await service.run([], host="127.0.0.1", port=0, stop=stop, on_ready=lambda address: print(address, flush=True))
sys.exit(service.run_process(main, drain_seconds=60))
"""

FREEZES = """
import asyncio, sys, time
from shared.runtime import service
service._FROZEN_SECONDS = 2
async def main(stop):
    print("begun", flush=True)
    if sys.argv[1] == "frozen":
        time.sleep(60)
    await stop.wait()
sys.exit(service.run_process(main))
"""


@contextlib.asynccontextmanager
async def script(text: str, *arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run a program that has said its first line."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", text, *arguments), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        assert await asyncio.wait_for(process.stdout.readline(), 30)
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def test_ctrl_c_ends_it_at_once() -> None:
    """Nobody balances what a person has started by hand."""
    async with script(SERVES) as process:
        process.send_signal(signal.SIGINT)
        assert await asyncio.wait_for(process.wait(), 10) == 0


async def test_a_second_signal_waits_for_nothing() -> None:
    """Whoever asks twice means it."""
    async with script(SERVES) as process:
        process.terminate()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(process.wait(), 0.3)
        process.terminate()
        assert await asyncio.wait_for(process.wait(), 5) == 1


async def test_an_event_loop_that_stands_still_ends_the_process() -> None:
    """Nothing on the loop itself could tell, not even health; what it was doing is told."""
    async with script(FREEZES, "frozen") as process:
        begun = time.monotonic()
        assert await asyncio.wait_for(process.wait(), 10) == 1
        assert time.monotonic() - begun < 6
        assert process.stderr is not None
        said = (await process.stderr.read()).decode()
        assert "most recent call first" in said
        assert "in main" in said


async def test_a_process_that_was_stopped_goes_on() -> None:
    """A laptop that slept, a container that was frozen: only seconds that it lived through count."""
    async with script(FREEZES, "stopped") as process:
        process.send_signal(signal.SIGSTOP)
        await asyncio.sleep(5)  # for the machine's clock is what would be wrong
        process.send_signal(signal.SIGCONT)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(process.wait(), 1.5)
        process.terminate()
        assert await asyncio.wait_for(process.wait(), 10) == 0
