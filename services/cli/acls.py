"""`acls`: the least rights of each service on the cluster, as commands of Kafka's own tool."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from typing import Annotated

import typer

from services.cli.environment import settings
from services.cli.terminal import out
from shared.bus.acls import OPERATOR, Right, rights

app = typer.Typer()


@app.command()
def acls(
    principal: Annotated[
        str, typer.Option(help="The users' names; {} stands for the service, as in User:CN={},O=Example.")
    ] = "User:fiilis-{}",
    config: Annotated[str, typer.Option(help="File with which kafka-acls.sh itself logs in.")] = "admin.properties",
) -> None:
    """Print the least rights of each service on the cluster, as commands of Kafka's own tool (kafka-acls.sh).

    `operator` is who runs commands: apply (which makes topics), import, dead-letters, offsets, doctor.
    """
    if "{}" not in principal:
        raise typer.BadParameter("must have {} where the service's name goes", param_hint="--principal")
    given = settings()
    tool = ["kafka-acls.sh", "--bootstrap-server", given.kafka or "kafka:9092", "--command-config", config, "--add"]
    for line in lines(tool, principal, given.topic_prefix):
        out.print(line, markup=False)


def lines(tool: Sequence[str], principal: str, prefix: str) -> Iterator[str]:
    """Yield the commands, each service's under its name."""
    for service, each in rights().items():
        yield f"# {service}: {'who runs commands' if service == OPERATOR else 'the service'}"
        for right in each:
            yield shlex.join([*tool, "--allow-principal", principal.replace("{}", service), *_asked(right, prefix)])


def _asked(right: Right, prefix: str) -> Iterator[str]:
    for operation in right.operations:
        yield from ("--operation", operation)
    for name in right.names:
        yield from (f"--{right.on}", prefix + name)
    if right.by_prefix:
        yield from ("--resource-pattern-type", "prefixed")
