"""The list of commands: everything in one process, one service alone, or what people run by hand."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typer.main import get_group

from services.cli.options import DATA, Data, Host, Port
from services.cli.terminal import err
from shared.errors import Misconfigured, Transient
from shared.runtime import logs
from shared.runtime.memory import tune_memory

COMMANDS = {
    "ingest": "run",
    "scoring": "run",
    "ticketing": "run",
    "notify": "run",
    "check": "check",
    "apply": "apply",
    "keys": "keys",
    "link": "links",
    "webhook-secret": "links",
    "import": "importing",
    "backtest": "backtest",
    "rebuild": "rebuild",
    "migrate": "migrate",
    "doctor": "doctor",
    "dead-letters": "dead_letters",
    "quarantine": "quarantine",
    "offsets": "offsets",
    "republish": "republish",
    "desks": "desks",
    "acls": "acls",
}
"""The module of `services.cli` that has a command; only that of the one that is run is imported."""


class Commands(TyperGroup):
    """Imports a command's module when it is asked for: each needs few of the services."""

    def list_commands(self, ctx: object) -> list[str]:
        """Return the names in the order of help."""
        return list(COMMANDS)

    def get_command(self, ctx: object, cmd_name: str) -> Any:
        """Return a command, or the group of that name; None: there is none."""
        module = COMMANDS.get(cmd_name)
        if module is None:
            return None
        group = get_group(importlib.import_module(f"services.cli.{module}").app)
        group.name = cmd_name
        return group.commands.get(cmd_name, group)


app = typer.Typer(
    cls=Commands,
    help="Fiilis turns customer feedback into action by a named person.",
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.callback(invoke_without_command=True)
def everything(
    context: typer.Context,
    host: Host = None,
    port: Port = None,
    data: Data = DATA,
    directory: Annotated[Path | None, typer.Option(help="A directory.yaml to apply at the start.")] = None,
    simulate: Annotated[str | None, typer.Option(help="Simulated answers, such as 5/s.")] = None,
) -> None:
    """Run every service in one process, with embedded Kafka and PostgreSQL unless settings name others."""
    if context.invoked_subcommand is None:
        from services.cli.run import run_everything  # noqa: PLC0415 (no command needs all services)

        code = run_everything(host=host, port=port, data=data, directory=directory, simulate=simulate)
        raise typer.Exit(code)


def main() -> None:
    """Run a command; say in one line what is wrong with a setting."""
    tune_memory()  # before a command imports what it needs
    logs.quiet_kafka()
    try:
        app()
    except Misconfigured as error:
        err.print(f"[red]{error}[/red]")
        sys.exit(2)
    except Transient as error:
        err.print(f"[red]not available: {error}[/red]")
        sys.exit(1)


if __name__ == "__main__":
    main()
