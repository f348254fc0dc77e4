"""A job that runs seldom."""

from __future__ import annotations

import asyncio

from shared.errors import Transient
from shared.runtime.due import Periodic
from tests.support.wait import until_true


async def test_a_moments_trouble_of_an_hourly_job_is_over_in_seconds() -> None:
    """Waiting for its next turn it would be red for an hour, and be taken for one that stands still."""
    tries = 0

    async def work() -> None:
        nonlocal tries
        tries += 1
        if tries < 3:
            raise Transient("away", of="PostgreSQL")

    job = Periodic("scoring", "hourly", 3600, work)
    running = asyncio.create_task(job.run())
    try:
        await until_true(lambda: tries == 3, seconds=10)
        await until_true(lambda: job.progress.age < 1)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        job.progress.close()
