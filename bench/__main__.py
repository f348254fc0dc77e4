"""`python -m bench`: every benchmark in turn, or those that are named; `--short` only shows that they run.

Each is a process of its own, so that none starts with the memory or the event loop of another.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from enum import StrEnum
from typing import Annotated

import typer

from shared.embedded.jars import LIST
from shared.embedded.postgres import postgres_binaries

SHORT = {"BENCH_SECONDS": "1", "BENCH_ROUNDS": "1", "BENCH_ANSWERS": "5000", "BENCH_CLICKS": "10", "BENCH_SHORT": "1"}
"""What the benchmarks read; their figures are then no measurement."""


class Bench(StrEnum):
    """A module of this package with a `main`."""

    INGEST = "ingest"
    SCORING = "scoring"
    PAGE = "page"
    EMBEDDED = "embedded"
    DETECTION = "detection"
    BACKTEST = "backtest"
    TICKETING = "ticketing"
    PAGING = "paging"


def main(
    names: Annotated[list[Bench] | None, typer.Argument(help="Which to run; all when none is named.")] = None,
    short: Annotated[bool, typer.Option("--short", help="Few answers and rounds, for CI.")] = False,
) -> None:
    """Run benchmarks on embedded servers; fails when one of them does."""
    print(_header(), end="\n\n", flush=True)
    wanted = names or list(Bench)
    # What only shows that it runs may run beside another; what measures has the machine to itself.
    with ThreadPoolExecutor(2 if short else 1) as pool:
        codes = list(pool.map(lambda name: _run(name, short=short), wanted))
    failed = [name for name, code in zip(wanted, codes, strict=True) if code]
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


def _run(name: Bench, *, short: bool) -> int:
    """Run one; in the short form its output comes at its end, in one piece."""
    command = [sys.executable, "-m", f"bench.{name}"]
    if not short:
        code = subprocess.run(command, check=False).returncode
        print(flush=True)
        return code
    environment = {**SHORT, **os.environ}
    done = subprocess.run(
        command, env=environment, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    print(done.stdout, flush=True)
    return done.returncode


def _header() -> str:
    postgres = subprocess.run(
        [postgres_binaries() / "postgres", "--version"], capture_output=True, text=True, check=True
    )
    return (
        f"{os.cpu_count()} processors, Python {platform.python_version()}, "
        f"Kafka {LIST.stem.removeprefix('kafka-')}, PostgreSQL {postgres.stdout.split()[-1]}"
    )


if __name__ == "__main__":
    typer.run(main)
