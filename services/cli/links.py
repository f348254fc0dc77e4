"""`link` and `webhook-secret`: what is signed with the secret."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Annotated

import typer

from services.cli.environment import found_kafka, settings, with_kept_secret
from services.cli.options import DATA, Data, no_slug
from services.cli.terminal import WRONG, err, out
from services.run import ALL_PORT
from shared.bus.client import Kafka
from shared.directory.fields import duration_seconds
from shared.directory.follower import read_newest
from shared.runtime.clock import SystemClock
from shared.runtime.process import signer
from shared.runtime.settings import Settings
from shared.wire.ids import uuid7

app = typer.Typer()


@app.command()
def link(
    customer: Annotated[str, typer.Option(help="Whose customer the respondent is.")],
    respondent: Annotated[str, typer.Option(help="Who is asked, by the name that you know them by.")],
    touchpoint: Annotated[str | None, typer.Option(help="What they are asked about.")] = None,
    expires: Annotated[str, typer.Option(help="How long the link is good.")] = "30d",
    data: Data = DATA,
) -> None:
    """Print a signed survey link for one person: it takes one answer, which is theirs (needs FIILIS_SECRET).

    It starts with FIILIS_PUBLIC_URL, by default http://HOST:PORT of everything in one process.
    """
    given = with_kept_secret(data)
    problem = _survey_problem(customer, respondent, touchpoint) or _unknown(found_kafka(data), customer, touchpoint)
    try:
        seconds = duration_seconds(expires)
    except ValueError as error:
        seconds, problem = 0, problem or f"--expires: {error}"
    if problem is not None:
        err.print(problem, style="red", markup=False)
        raise typer.Exit(WRONG)
    facts = {"customer": customer, "respondent": respondent, "touchpoint": touchpoint, "answer": str(uuid7())}
    token = signer(given).sign("survey", facts, expires=SystemClock().now() + timedelta(seconds=seconds))
    out.print(f"{public_address(given)}/s/{token}", markup=False)


@app.command("webhook-secret")
def webhook_secret(url: str) -> None:
    """Print the signing secret of a webhook contact that names none of its own (needs FIILIS_SECRET)."""
    newest, *former = signer(settings()).webhook_secrets(url)
    out.print(newest, markup=False)
    for secret in former:
        err.print(f"requests are signed with the former one, too: {secret}", markup=False)


def _survey_problem(customer: str, respondent: str, touchpoint: str | None) -> str | None:
    if not 1 <= len(respondent) <= 200 or "\0" in respondent:
        return "--respondent: must have 1 to 200 characters"
    return no_slug({"--customer": customer, "--touchpoint": touchpoint})


def _unknown(kafka: Kafka | None, customer: str, touchpoint: str | None) -> str | None:
    """Return what the published directory does not know, where there is one to ask."""
    newest = None if kafka is None else asyncio.run(read_newest(kafka))
    if newest is None:
        return None
    known = newest.directory.customers.get(customer)
    if known is None:
        return f"--customer: unknown customer {customer!r}"
    if touchpoint is not None and touchpoint not in newest.directory.touchpoints_of(known):
        return f"--touchpoint: {customer} has no touchpoint {touchpoint!r}"
    return None


def public_address(settings: Settings) -> str:
    """Return what starts every link of everything in one process, without asking it."""
    port = ALL_PORT if settings.port is None else settings.port
    return (settings.public_url or f"http://{settings.host}:{port}").rstrip("/")
