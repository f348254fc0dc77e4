"""Everything in one process, or one service alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import typer

from services import run
from services.cli.environment import settings
from services.cli.options import Host, Port
from services.registry import SERVICES, ServiceName
from services.simulation.service import Simulation
from shared.runtime import logs
from shared.runtime.service import run_process

app = typer.Typer()


def run_everything(
    *, host: str | None, port: int | None, data: Path, directory: Path | None, simulate: str | None
) -> int:
    """Run every service in one process until it is stopped; return the exit code."""
    rate = None if simulate is None else _rate(simulate)
    given = settings(host=host, port=port)
    logs.set_up(level=given.log_level, form=given.log_format)
    how = run.Everything(data=data, directory=directory)
    ready: Callable[[str], None] = run.say_ready
    if rate is not None:
        traffic = Simulation(rate)
        how = run.Everything(data, directory, (traffic.key,), lambda parts: [traffic.service(parts)])
        ready = _both(run.say_ready, traffic.ready)
    return run_process(lambda stop: run.run_everything(how, given, stop, ready), drain_seconds=given.drain_seconds)


def _rate(text: str) -> float:
    number, _, unit = text.partition("/")
    try:
        rate = float(number)
    except ValueError:
        rate = 0.0
    if unit != "s" or not 0 < rate <= 1000:
        raise typer.BadParameter("a rate such as 5/s, at most 1000/s", param_hint="--simulate")
    return rate


def _both(first: Callable[[str], None], second: Callable[[str], None]) -> Callable[[str], None]:
    def both(address: str) -> None:
        first(address)
        second(address)

    return both


def _one_service(name: ServiceName) -> None:
    def one(host: Host = None, port: Port = None) -> None:
        given = settings(host=host, port=port)
        logs.set_up(level=given.log_level, form=given.log_format)
        raise typer.Exit(run_process(lambda stop: run.run_one(name, given, stop), drain_seconds=given.drain_seconds))

    one.__doc__ = f"Run {name} alone, against FIILIS_KAFKA and FIILIS_DATABASE_URL."
    app.command(name)(one)


for _name in SERVICES:
    _one_service(_name)
