"""Services as processes of their own, to be killed and started again."""

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx

from shared.embedded.kafka import free_ports
from tests.support.forking import Forked, services

_READY_SECONDS = 60


class ServiceProcess:
    """One `python -m services NAME`; its output goes to a file that a failing test can show."""

    def __init__(self, name: str, environment: Mapping[str, str], logs: Path) -> None:
        self.name = name
        self._environment = {**os.environ, **environment}
        self.ops_port = free_ports()[0]
        self._log = logs / f"{name}.log"
        self._process: Forked | None = None
        self.address = ""
        self.port = 0

    async def start(self, *, wait: bool = True) -> ServiceProcess:
        """Start, and return when it says that it is ready, or at once; on the same port as before."""
        with self._log.open("ab") as log:
            self._process = await services(
                *(self.name, "--port", str(self.port)),
                environment={"FIILIS_OPS_PORT": str(self.ops_port), **self._environment},
                stderr=log.fileno(),
            )
        assert self._process.stdout is not None
        if not wait:
            return self
        line = (await asyncio.wait_for(self._process.stdout.readline(), _READY_SECONDS)).decode().strip()
        assert line.startswith("ready "), f"{self.name} did not start:\n{self.log()[-4000:]}"
        self.address = line.removeprefix("ready ")
        self.port = int(self.address.rpartition(":")[2])
        return self

    async def kill(self) -> None:
        """End it without a warning."""
        assert self._process is not None
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()

    async def stop(self) -> int:
        """Ask it to end; return its exit code."""
        assert self._process is not None
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()
        try:
            return await asyncio.wait_for(self._process.wait(), 30)
        except TimeoutError:
            await self.kill()
            raise

    @property
    def pid(self) -> int | None:
        """Its id, to look at it from outside."""
        return None if self._process is None else self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self._process is not None and self._process.returncode is None

    async def metrics(self) -> str:
        """Return its figures for Prometheus."""
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{self.ops_port}", trust_env=False) as client:
            return (await client.get("/metrics")).text

    def log(self) -> str:
        """Return what it wrote."""
        return self._log.read_text()


@contextlib.asynccontextmanager
async def processes(
    environment: Mapping[str, str], logs: Path, *names: str
) -> AsyncIterator[dict[str, ServiceProcess]]:
    """Run some services until the test ends."""
    made = {name: ServiceProcess(name, environment, logs) for name in names}
    try:
        await asyncio.gather(*(process.start() for process in made.values()))
        yield made
    finally:
        await asyncio.gather(*(process.kill() for process in made.values() if process.alive))


@dataclass(frozen=True, slots=True)
class Done:
    """A command that ended."""

    code: int
    out: str
    err: str


async def command(*arguments: str, **variables: str) -> Done:
    """Run `python -m services ARGUMENTS` with these settings and no others."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FIILIS_")}
    # Elsewhere: a demo that ran in this folder has left its servers' data, which commands find by themselves.
    with tempfile.TemporaryDirectory() as elsewhere:
        process = await services(*arguments, environment={**environment, **variables}, folder=Path(elsewhere))
        try:
            out, err = await asyncio.wait_for(process.communicate(), 40)
        except TimeoutError:
            process.kill()
            await process.wait()
            raise
    assert process.returncode is not None
    return Done(process.returncode, out.decode(), err.decode())
