"""`keys new`: a key is printed this once, and what the directory keeps of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, get_args

import typer
import yaml

from services.cli.options import no_slug
from services.cli.terminal import WRONG, err, out
from shared.directory.model import Scope
from shared.wire.signing import key_hash
from shared.wire.signing import new_key as made_key

app = typer.Typer(help="API keys.")


@app.callback()
def _group() -> None:
    """Keep `new` a command of a group: an application of one command would be that command."""


@app.command("new")
def new_key(
    kind: Annotated[Literal["publishable", "secret"], typer.Option(help="publishable: for web pages, can only post.")],
    customer: Annotated[str | None, typer.Option(help="The only customer; required for a publishable key.")] = None,
    scope: Annotated[
        list[str] | None, typer.Option(help="feedback, scores, tickets, oncall, admin; repeatable.")
    ] = None,
    name: Annotated[str | None, typer.Option("--id", help="The key's name in the directory.")] = None,
) -> None:
    """Print a new key once, and the YAML with its hash for the directory."""
    scopes = scope or []
    problem = _key_problem(kind, customer, scopes, name)
    if problem is not None:
        err.print(problem, style="red", markup=False)
        raise typer.Exit(WRONG)
    text = made_key(kind)
    entry: dict[str, Any] = {"id": name or f"{customer or 'new'}-{kind}", "kind": kind}
    if customer is not None:
        entry["customer"] = customer
    if kind == "secret":
        entry["scopes"] = list(dict.fromkeys(scopes))
    entry["sha256"] = key_hash(text)
    if kind == "publishable":
        entry["origins"] = ["https://www.example.test"]
    out.print(text, markup=False)
    err.print("The key is shown this once. For the directory, under keys:", style="dim")
    out.print(
        "  - " + yaml.safe_dump(entry, default_flow_style=True, sort_keys=False, width=10_000).strip(), markup=False
    )


def _key_problem(kind: str, customer: str | None, scopes: Sequence[str], name: str | None) -> str | None:
    unusable = no_slug({"--customer": customer, "--id": name})
    if unusable is not None:
        return unusable
    unknown = sorted(set(scopes) - set(get_args(Scope)))
    if unknown:
        return f"--scope: {', '.join(unknown)}: must be of {', '.join(get_args(Scope))}"
    if kind == "publishable" and customer is None:
        return "--customer: a publishable key belongs to one customer"
    if kind == "publishable" and set(scopes) - {"feedback"}:
        return "--scope: a publishable key can only post feedback"
    if kind == "secret" and not scopes:
        return f"--scope: a secret key needs at least one of {', '.join(get_args(Scope))}"
    return None
