"""What the embedded servers cost: the time of each kind of start, and memory.

Run: python -m bench.embedded
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from shared.embedded import EmbeddedKafka, EmbeddedPostgres
from shared.embedded.jars import kafka_jars

ROUNDS = int(os.environ.get("BENCH_ROUNDS", "3"))
"""Each number is the median of so many."""
MB = 1e6


@dataclass(frozen=True, slots=True)
class Round:
    """Seconds, and bytes when freshly started."""

    first: float
    restart: float
    after_kill: float
    stop: float
    memory: int
    supervisor: int


async def timed(server: EmbeddedKafka | EmbeddedPostgres) -> float:
    """Start and return the seconds until it serves."""
    begun = time.perf_counter()
    await server.start()
    return time.perf_counter() - begun


def memory(process: psutil.Process) -> int:
    """Return what a process holds, pages shared with others counted in part where the system can tell."""
    try:
        return process.memory_full_info().pss if psutil.LINUX else process.memory_info().rss
    except psutil.NoSuchProcess:
        return 0


async def measure(server: EmbeddedKafka | EmbeddedPostgres) -> Round:
    """Run a server through its starts."""
    first = await timed(server)
    begun = time.perf_counter()
    await server.stop()
    stop = time.perf_counter() - begun
    restart = await timed(server)
    assert server.pid is not None
    process = psutil.Process(server.pid)
    held = sum(memory(each) for each in [process, *process.children(recursive=True)])
    between = process.parent()
    assert between is not None
    supervisor = memory(between)
    await server.kill()
    after_kill = await timed(server)
    await server.stop()
    return Round(first, restart, after_kill, stop, held, supervisor)


def median(values: list[float]) -> float:
    """Return the middle one."""
    return sorted(values)[len(values) // 2]


async def main() -> None:
    """Print the table."""
    begun = time.perf_counter()
    await kafka_jars(print)
    print(f"Kafka's jars: {time.perf_counter() - begun:.1f} s\n")
    print(f"{'':12}{'first':>8}{'restart':>9}{'kill -9':>9}{'stop':>7}{'memory':>10}{'supervisor':>12}")
    for kind in (EmbeddedKafka, EmbeddedPostgres):
        rounds: list[Round] = []
        for _ in range(ROUNDS):
            with tempfile.TemporaryDirectory() as folder:
                rounds.append(await measure(kind(Path(folder))))
        print(
            f"{kind.name:12}"
            f"{median([each.first for each in rounds]):6.2f} s"
            f"{median([each.restart for each in rounds]):7.2f} s"
            f"{median([each.after_kill for each in rounds]):7.2f} s"
            f"{median([each.stop for each in rounds]):5.2f} s"
            f"{median([each.memory for each in rounds]) / MB:7.0f} MB"
            f"{median([each.supervisor for each in rounds]) / MB:9.0f} MB"
        )


if __name__ == "__main__":
    asyncio.run(main())
