"""The README is true: its commands run, the demo that it starts does what it says, and Ctrl-C ends all of it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shlex
import shutil
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import httpx
import psutil
import pytest

from shared.bus.client import Kafka
from tests.support.wait import until


@dataclass(frozen=True, slots=True)
class Demo:
    """A demo that runs."""

    process: asyncio.subprocess.Process
    url: str
    inbox: str
    key: str


@contextlib.asynccontextmanager
async def demo(root: Path, data: Path) -> AsyncIterator[Demo]:
    command = ("-m", "demo", "--port", "0", "--data", str(data), "--rate", "20")
    process = await asyncio.create_subprocess_exec(
        sys.executable, *command, cwd=root, stdout=asyncio.subprocess.PIPE, env={**os.environ, "COLUMNS": "300"}
    )
    assert process.stdout is not None
    try:
        said = ""
        while "A widget's key" not in said:
            line = await asyncio.wait_for(process.stdout.readline(), 60)
            assert line, f"the demo ended:\n{said}"
            said += line.decode()

        def found(pattern: str) -> str:
            match = re.search(pattern, said)
            assert match is not None, said
            return match[1]

        yield Demo(process, found(r"ready (\S+)"), found(r"arrive here:\s+(\S+)"), found(r"KEY=(\S+)"))
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


PAGES = ("README.md", "docs/answers.md", "docs/tickets.md", "docs/architects.md", "docs/running.md")
"""Whose commands anybody can run as they stand there."""


def commands(root: Path) -> list[str]:
    """Return every command of their `sh` blocks."""
    text = "\n".join((root / page).read_text() for page in PAGES)
    blocks = re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return list(dict.fromkeys(line for block in blocks for line in block.splitlines() if line.strip()))


def test_the_readme_is_short_and_leads_somewhere(root: Path) -> None:
    """Every link of it and of the pages that it names leads to a file."""
    readme = (root / "README.md").read_text()
    assert len(readme.split()) <= 450
    for page in [root / "README.md", *sorted((root / "docs").glob("*.md"))]:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


async def run(command: list[str], root: Path, **environment: str) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=root,
        env={**os.environ, **environment},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await asyncio.wait_for(process.communicate(), 60)
    return process.returncode or 0, output.decode()


async def test_every_command_of_the_readme_runs(root: Path, tmp_path: Path, kafka: Kafka) -> None:
    """curl against the demo, the commands against a cluster, make by its targets."""
    left = commands(root)
    assert len(left) >= 10
    async with demo(root, tmp_path / "data") as running:
        for command in [c for c in left if c.startswith("curl ")]:
            if shutil.which("curl") is None:
                pytest.skip("curl is not here")
            words = shlex.split(command.replace("$KEY", running.key).replace("$URL", running.url))
            code, output = await run([*words, "--fail-with-body", "--silent"], root)
            assert code == 0, f"{command}\n{output}"
    past = tmp_path / "past.csv"
    _ = past.write_text(f"customer,kind,score,occurred_at\nacme,nps,9,{datetime.now(UTC).isoformat()}\n")
    for command in [c for c in left if c.startswith(".venv/bin/python ")]:
        words = [sys.executable, *shlex.split(command.replace("past.csv", str(past)))[1:]]
        environment = {
            "FIILIS_KAFKA": kafka.bootstrap,
            "FIILIS_TOPIC_PREFIX": kafka.prefix,
            "FIILIS_SECRET": "a-secret-of-a-test-with-32-characters",
        }
        code, output = await run(words, root, **environment)
        assert code == 0, f"{command}\n{output}"
    makefile = (root / "Makefile").read_text()
    for command in [c for c in left if c.startswith("make ")]:
        assert f"\n{command.split()[1]}:" in makefile, command
    known = ("curl ", ".venv/bin/python ", "make ")
    assert [c for c in left if not c.startswith(known)] == []


async def test_the_demo_can_be_clicked_and_ends_with_ctrl_c(root: Path, tmp_path: Path) -> None:
    """A posted mood 1 is a mail in the demo's mailbox whose link acknowledges; Ctrl-C leaves no process behind."""
    async with demo(root, tmp_path / "data") as running:
        headers = {"Authorization": f"Bearer {running.key}"}
        async with httpx.AsyncClient(timeout=10, trust_env=False, headers=headers) as client:
            answer = {"customer": "cedar-clinic", "kind": "mood", "score": 1, "comment": "clicked by a test"}
            assert (await client.post(f"{running.url}/v1/feedback", json=answer)).status_code == 202

            async def mail() -> str | None:
                messages = (await client.get(f"{running.inbox}/messages")).json()
                return next((m["links"][0] for m in messages if "clicked by a test" in m["text"]), None)

            link = await until(mail)
            assert link is not None
            assert "clicked by a test" in (await client.get(f"{running.inbox}/")).text
            assert "Taken" in (await client.post(link)).text
            assert (await client.get(f"{running.url}/readyz")).status_code == 200
            metrics = (await client.get(f"{running.url}/metrics")).text
            assert 'fiilis_feedback_total{kind="mood",result="accepted"}' in metrics
        children = psutil.Process(running.process.pid).children(recursive=True)
        assert len(children) >= 4, "Kafka, PostgreSQL and their supervisors"
        running.process.send_signal(signal.SIGINT)
        assert await asyncio.wait_for(running.process.wait(), 30) == 0
        _, alive = psutil.wait_procs(children, timeout=10)
        assert alive == []


async def test_make_help_lists_the_targets(root: Path) -> None:
    """`make help` is made from the Makefile's own comments."""
    code, output = await run(["make", "help"], root)
    assert code == 0
    for target in ("demo", "test", "check", "fmt", "bench", "clean"):
        assert f"make {target}" in output
