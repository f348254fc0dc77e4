"""Trouble is told once a minute for each service and dependency, and green means that work was done."""

from __future__ import annotations

import asyncio
import logging
import time

import pytest

from shared.errors import Transient
from shared.runtime.progress import Progress


def gone(why: str = "connection refused", of: str = "Kafka") -> Transient:
    return Transient(why, of=of)


def told(caplog: pytest.LogCaptureFixture, level: int = logging.WARNING) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == level]


async def test_twenty_workers_tell_as_one(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """An outage is one thing that happens; its end is told when the last of them is back."""
    every = 0.3
    monkeypatch.setattr("shared.runtime.progress._AGAIN_SECONDS", every)
    caplog.set_level(logging.INFO)
    workers = [Progress("twenty", f"worker {number}") for number in range(20)]
    begun = time.monotonic()

    async def wait(worker: Progress) -> None:
        while time.monotonic() - begun < 0.8:
            worker.waits(gone(f"port {id(worker)}: refused"))
            await asyncio.sleep(0.01)

    await asyncio.gather(*map(wait, workers))
    most = 1 + int((time.monotonic() - begun) / every)
    assert 2 <= len(told(caplog)) <= most
    assert set(told(caplog)) == {"waiting for Kafka"}
    assert told(caplog, logging.INFO) == []
    for worker in workers[1:]:
        worker.made()
    assert told(caplog, logging.INFO) == []
    workers[0].made()
    assert told(caplog, logging.INFO) == ["Kafka is there again"]


def test_each_service_and_dependency_by_itself(caplog: pytest.LogCaptureFixture) -> None:
    """Which of them is away decides who is called."""
    for service in ("apart-1", "apart-2"):
        for worker in ("a", "b"):
            progress = Progress(service, worker)
            progress.waits(gone())
            progress.waits(gone("no route", of="PostgreSQL"))
    assert sorted(told(caplog)) == 2 * ["waiting for Kafka"] + 2 * ["waiting for PostgreSQL"]


def test_what_comes_and_goes_is_told_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    """A broker that is there for a moment each second is no new outage each second, nor is its end news."""
    caplog.set_level(logging.INFO)
    progress = Progress("flapping", "outbox")
    for _ in range(20):
        progress.waits(gone())
        progress.made()
    assert told(caplog) == ["waiting for Kafka"]
    assert told(caplog, logging.INFO) == ["Kafka is there again"]


def test_a_clock_that_is_set_back_silences_nothing(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A minute is one that has passed, whatever the machine's clock says."""
    progress = Progress("set-back", "outbox")
    progress.waits(gone())
    monkeypatch.setattr("shared.runtime.progress._AGAIN_SECONDS", 0.0)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now - 86_400)
    progress.waits(gone())
    assert len(told(caplog)) == 2


def test_what_is_missing_names_its_cause() -> None:
    """Whoever looks at /readyz wants to know why; once the work goes on, nothing is left of it."""
    progress = Progress("missing", "outbox", within=0.0)
    assert progress.missing() is None, "it has not begun"
    progress.made()
    assert (progress.missing() or "").startswith("nothing done for 0 s")
    progress.waits(gone("kafka:9092: no answer"))
    assert progress.missing() == "nothing done for 0 s: kafka:9092: no answer"
    progress.made()
    assert "no answer" not in (progress.missing() or "")
