"""Everything in one process, one service alone, or a command: `python -m services --help`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from services import commands
from services.cli import acls, desks, doctor, offsets, quarantine, republish
from services.run import NAMES, ServiceName
from services.terminal import err
from shared.errors import Misconfigured, Transient
from shared.runtime import logs

app = typer.Typer(
    help="Fiilis turns customer feedback into action by a named person.",
    no_args_is_help=False,
    add_completion=False,
    pretty_exceptions_enable=False,
)
keys = typer.Typer(help="API keys.")
app.add_typer(keys, name="keys")
letters = typer.Typer(help="What services refused for ever: `<topic>.dead`.")
app.add_typer(letters, name="dead-letters")
app.add_typer(quarantine.app, name="quarantine")
app.add_typer(offsets.app, name="offsets")
app.add_typer(desks.app, name="desks")
app.command()(republish.republish)
app.command()(acls.acls)
app.command()(doctor.doctor)

Host = Annotated[str | None, typer.Option(help="Address to listen on; default 127.0.0.1.")]
Port = Annotated[int | None, typer.Option(help="Port to listen on; 0 takes a free one.")]
Data = Annotated[Path, typer.Option(help="Where embedded Kafka and PostgreSQL keep their data, and the secret.")]


@app.callback(invoke_without_command=True)
def everything(
    context: typer.Context,
    host: Host = None,
    port: Port = None,
    data: Data = Path(".data"),
    directory: Annotated[Path | None, typer.Option(help="A directory.yaml to apply at the start.")] = None,
    simulate: Annotated[str | None, typer.Option(help="Simulated answers, such as 5/s.")] = None,
) -> None:
    """Run every service in one process, with embedded Kafka and PostgreSQL unless settings name others."""
    if context.invoked_subcommand is None:
        rate = None if simulate is None else _rate(simulate)
        sys.exit(commands.run_everything(host=host, port=port, data=data, directory=directory, simulate=rate))


def _rate(text: str) -> float:
    number, _, unit = text.partition("/")
    try:
        rate = float(number)
    except ValueError:
        rate = 0.0
    if unit != "s" or not 0 < rate <= 1000:
        raise typer.BadParameter("a rate such as 5/s, at most 1000/s", param_hint="--simulate")
    return rate


def _one_service(name: ServiceName) -> None:
    def run(host: Host = None, port: Port = None) -> None:
        sys.exit(commands.run_one(name, host=host, port=port))

    run.__doc__ = f"Run {name} alone, against FIILIS_KAFKA and FIILIS_DATABASE_URL."
    app.command(name)(run)


for _name in NAMES:
    _one_service(_name)


@app.command()
def check(file: Path) -> None:
    """Validate a directory; errors as FILE:LINE: path: what is wrong."""
    sys.exit(commands.check(file))


@app.command()
def apply(
    file: Path,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only print what would change.")] = False,
    by: Annotated[str | None, typer.Option(help="Who changes it, for the audit; default: this shell's user.")] = None,
    repartition: Annotated[
        bool, typer.Option("--repartition", help="Use all partitions that topics have now (docs/operations.md).")
    ] = False,
    data: Data = Path(".data"),
) -> None:
    """Validate a directory, print what changes, and publish it."""
    author = by or commands.user()
    sys.exit(commands.apply(file, dry_run=dry_run, author=author, data=data, repartition=repartition))


@keys.command("new")
def new_key(
    kind: Annotated[Literal["publishable", "secret"], typer.Option(help="publishable: for web pages, can only post.")],
    customer: Annotated[str | None, typer.Option(help="The only customer; required for a publishable key.")] = None,
    scope: Annotated[
        list[str] | None, typer.Option(help="feedback, scores, tickets, oncall, admin; repeatable.")
    ] = None,
    name: Annotated[str | None, typer.Option("--id", help="The key's name in the directory.")] = None,
) -> None:
    """Print a new key once, and the YAML with its hash for the directory."""
    sys.exit(commands.new_key(kind, customer=customer, scopes=scope or [], name=name))


@letters.command("list")
def list_letters(
    topic: str,
    again: Annotated[bool, typer.Option("--all", help="Also those that were sent again.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One line each, with the record itself.")] = False,
    data: Data = Path(".data"),
) -> None:
    """Show what was refused and not sent again, the oldest first, and why."""
    sys.exit(commands.dead_letters(topic, again=again, as_json=as_json, data=data))


@letters.command()
def replay(topic: str, data: Data = Path(".data")) -> None:
    """Send again what was refused, as it was; records that had their effect have none again.

    Mend the fault first: a service that refuses more than 100 records in a row stops.
    """
    sys.exit(commands.replay_dead_letters(topic, data=data))


@app.command("import")
def import_answers(
    file: Path,
    mapped: Annotated[
        str | None, typer.Option("--map", help="Another tool's columns: a YAML file, or the name of a known one.")
    ] = None,
    given: Annotated[
        list[str] | None, typer.Option("--set", help="FIELD=VALUE where a row says nothing; repeatable.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell what would be refused.")] = False,
    data: Data = Path(".data"),
) -> None:
    """Import past answers from a CSV file: counted where they belong in time, and nobody is paged.

    Columns are the fields of an answer. A file that is imported again counts once.
    """
    sys.exit(commands.import_answers(file, mapped=mapped, given=given or [], dry_run=dry_run, data=data))


@app.command()
def backtest(
    file: Path,
    feedback: Annotated[
        Path | None, typer.Option(help="Answers as CSV; without it those in FIILIS_DATABASE_URL.")
    ] = None,
    days: Annotated[int, typer.Option(min=1, max=3650, help="How many days to tell of, up to the newest answer.")] = 90,
    as_json: Annotated[bool, typer.Option("--json", help="One line per alert event.")] = False,
    against: Annotated[
        Path | None,
        typer.Option(help="A directory to compare with; default: the published one, if Kafka is set."),
    ] = None,
) -> None:
    """Tell what these rules would have done on past answers: alerts, tickets, pages."""
    sys.exit(commands.backtest(file, feedback=feedback, days=days, as_json=as_json, against=against))


@app.command()
def rebuild() -> None:
    """Count all stored answers afresh (needs FIILIS_DATABASE_URL); tells where the kept counts were different."""
    sys.exit(commands.rebuild())


@app.command()
def link(
    customer: Annotated[str, typer.Option(help="Whose customer the respondent is.")],
    respondent: Annotated[str, typer.Option(help="Who is asked, by the name that you know them by.")],
    touchpoint: Annotated[str | None, typer.Option(help="What they are asked about.")] = None,
    expires: Annotated[str, typer.Option(help="How long the link is good.")] = "30d",
    data: Data = Path(".data"),
) -> None:
    """Print a signed survey link for one person: it takes one answer, which is theirs (needs FIILIS_SECRET).

    It starts with FIILIS_PUBLIC_URL, by default http://HOST:PORT of everything in one process.
    """
    sys.exit(commands.link(customer, respondent, touchpoint, expires=expires, data=data))


@app.command("webhook-secret")
def webhook_secret(url: str) -> None:
    """Print the signing secret of a webhook contact that names none of its own (needs FIILIS_SECRET)."""
    sys.exit(commands.webhook_secret(url))


@app.command()
def migrate() -> None:
    """Bring the database to the current schema (services also do it when they start)."""
    sys.exit(commands.migrate())


def main() -> None:
    """Run a command; say in one line what is wrong with a setting."""
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
