"""The benchmarks run, in a short form: a figure that nobody can compute again is worth nothing."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest


@pytest.mark.heavy
@pytest.mark.timeout(900)
async def test_every_bench_runs(root: Path) -> None:
    """Each prints its figures and ends well."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "bench",
        "--short",
        cwd=root,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output = (await process.communicate())[0].decode()
    assert process.returncode == 0, output
    for figure in ("requests/s", "answers/s", "click to page", "Kafka"):
        assert figure in output, output
