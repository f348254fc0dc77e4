"""`backtest`: what the rules of a directory would have done on past answers."""

from __future__ import annotations

import asyncio
import gc
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from operator import attrgetter
from pathlib import Path
from typing import Annotated
from uuid import UUID

import msgspec
import typer
from msgspec.structs import replace
from rich.progress import Progress

from services.cli.answers_csv import Cells, Take, WrongFile, posted, read_csv
from services.cli.check import read_directory
from services.cli.environment import settings
from services.cli.terminal import WRONG, Faults, bar, err, out, progress
from services.ingest.domain import PostingRights, accept
from services.scoring.domain.counting import category_of
from services.scoring.domain.plan import plan
from services.scoring.domain.replay import DatedDecision, Replay
from services.scoring.domain.shift import DEFAULT_PRIOR, Prior
from services.scoring.store import company, reads
from shared.database.pool import Database
from shared.directory.follower import read_newest
from shared.directory.model import Customer, Directory, Key, severity_rank
from shared.errors import Misconfigured
from shared.runtime.clock import SystemClock
from shared.runtime.process import kafka_of
from shared.wire.events import FeedbackReceivedV1

app = typer.Typer()
SHOWN_CUSTOMERS = 20
ONE_TICKET = timedelta(days=7)
"""A problem that comes again so soon reopens its ticket."""
PAGES = severity_rank("high")
"""From this severity on a ticket pages somebody."""

_KEY = Key("backtest", "secret", "", scopes=("feedback",))


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
    directory = read_directory(file)
    compared = None if against is None else read_directory(against)
    given = settings()
    if compared is None and given.kafka is not None:
        newest = asyncio.run(read_newest(kafka_of(given)))
        compared = None if newest is None else newest.directory
    gc.disable()  # millions of answers in memory make no cycles; walking them again and again took a third of the time
    test = Backtest(directory, compared, days=days, as_json=as_json)
    with progress() as bars:
        try:
            if feedback is not None:
                of_csv(test, feedback, directory, bars)
            elif given.database_url is not None:
                asyncio.run(of_database(test, given.database_url, SystemClock().now(), bars))
            else:
                raise Misconfigured("give answers with --feedback FILE.csv, or set FIILIS_DATABASE_URL")
        except (OSError, WrongFile) as error:
            err.print(str(error), markup=False)
            raise typer.Exit(WRONG) from None
    test.report()


def taking(directory: Directory) -> Take:
    """Return what makes an answer of a row, judged as on its day: what is old now was new then."""

    def take(cells: Cells, line: int) -> FeedbackReceivedV1:
        item, anonymous = posted(cells)
        if item.id is None:
            msgspec.structs.force_setattr(item, "id", UUID(int=line))
        at = item.occurred_at
        accepted = accept(
            item, PostingRights(_KEY, directory, datetime.now(UTC) if at is None or at.tzinfo is None else at)
        )
        return replace(accepted, trust="anonymous") if anonymous else accepted

    return take


@dataclass(slots=True)
class Outcome:
    """What rules told of one customer, or of all."""

    opened: Counter[str] = field(default_factory=Counter[str])
    tickets: Counter[str] = field(default_factory=Counter[str])
    pages: Counter[str] = field(default_factory=Counter[str])

    def add(self, other: Outcome) -> None:
        """Take over the counts of another."""
        self.opened += other.opened
        self.tickets += other.tickets
        self.pages += other.pages


def replay(
    directory: Directory,
    known: Customer,
    answers: Iterable[FeedbackReceivedV1],
    since: datetime,
    until: datetime,
    prior: Prior,
) -> list[DatedDecision]:
    """Return what the rules would have told of a customer since a moment; earlier answers are its history."""
    player = Replay(known.id, plan(directory.rules_of(known)), prior, revote_after=directory.revote_after)
    told: list[DatedDecision] = []
    for answer in answers:
        told += player.take(answer)
    told += player.until(until)
    return [one for one in told if one.at >= since and one.decision.event in ("opened", "cleared")]


def outcome_of(told: Sequence[DatedDecision]) -> Outcome:
    """Count alerts, the tickets that they would have been, and the pages."""
    found = Outcome()
    last: dict[str, datetime] = {}
    for at, decision in told:
        alert = decision.alert
        if decision.event == "cleared":
            continue
        found.opened[alert.rule] += 1
        if alert.severity == "info":
            continue
        before = last.get(alert.dedup_key)
        last[alert.dedup_key] = at
        if before is None or at - before > ONE_TICKET:
            found.tickets[alert.rule] += 1
            found.pages[alert.rule] += severity_rank(alert.severity) >= PAGES
    return found


def line_of(told: DatedDecision) -> bytes:
    """Return an alert event as one line of JSON."""
    alert = told.decision.alert
    return msgspec.json.encode(
        {
            "at": told.at,
            "customer": alert.customer,
            "touchpoint": alert.touchpoint,
            "rule": alert.rule,
            "severity": alert.severity,
            "event": told.decision.event,
            "reason": told.decision.reason,
        }
    )


def prior_of(answers: Mapping[str, Sequence[FeedbackReceivedV1]]) -> Prior:
    """Return how the NPS answers of all customers are spread."""
    counts = [1.0, 1.0, 1.0]
    for said in answers.values():
        for answer in said:
            if answer.kind == "nps":
                counts[category_of("nps", answer.score)] += 1
    total = sum(counts)
    return Prior(counts[0] / total, counts[1] / total, counts[2] / total, DEFAULT_PRIOR.strength)


class Backtest:
    """Replays answers, customer by customer, against one directory and perhaps another."""

    def __init__(self, directory: Directory, against: Directory | None, *, days: int, as_json: bool) -> None:
        self._directory = directory
        self._against = against
        self._days = days
        self._as_json = as_json
        self._found: dict[str, Outcome] = {}
        self._before = Outcome()

    def customer(self, name: str, answers: Sequence[FeedbackReceivedV1], newest: datetime, prior: Prior) -> None:
        """Replay one customer's answers, the oldest first."""
        since = newest - timedelta(days=self._days)
        known = self._directory.customers.get(name)
        if known is not None:
            told = replay(self._directory, known, answers, since, newest, prior)
            if self._as_json:
                for one in told:
                    sys.stdout.write(line_of(one).decode() + "\n")
            self._found[name] = outcome_of(told)
        known = None if self._against is None else self._against.customers.get(name)
        if known is not None and self._against is not None:
            self._before.add(outcome_of(replay(self._against, known, answers, since, newest, prior)))

    def report(self) -> None:
        """Print the counts."""
        if self._as_json:
            return
        total = Outcome()
        for outcome in self._found.values():
            total.add(outcome)
        rules = [rule.name for rule in self._directory.rules]
        rules += sorted({*total.opened, *self._before.opened} - set(rules))
        out.print(f"The last {self._days} days of {len(self._found)} customers:")
        then = f"{'today':>9}" if self._against is not None else ""
        out.print(f"  {'rule':<28}{'alerts':>9}{then}{'tickets':>9}{'pages':>9}")
        for rule in [*rules, ""]:
            then = f"{_count(self._before.opened, rule):>9}" if self._against is not None else ""
            after = f"{_count(total.tickets, rule):>9}{_count(total.pages, rule):>9}"
            numbers = f"{_count(total.opened, rule):>9}{then}{after}"
            out.print(f"  {rule or 'all':<28}{numbers}", markup=False)
        most = sorted(self._found, key=lambda name: (-self._found[name].opened.total(), name))
        busy = [name for name in most if self._found[name].opened.total()][:SHOWN_CUSTOMERS]
        if busy:
            out.print(f"\n  {'customer':<28}{'alerts':>9}{'tickets':>9}{'pages':>9}  by rule")
        for name in busy:
            of = self._found[name]
            by = ", ".join(f"{rule} {count}" for rule, count in of.opened.most_common())
            numbers = f"{of.opened.total():>9}{of.tickets.total():>9}{of.pages.total():>9}"
            out.print(f"  {name:<28}{numbers}  {by}", markup=False)


def _count(counts: Counter[str], rule: str) -> int:
    return counts[rule] if rule else counts.total()


def of_csv(test: Backtest, file: Path, directory: Directory, bars: Progress) -> None:
    """Replay the answers of a file. Raises WrongFile, OSError."""
    answers: dict[str, list[FeedbackReceivedV1]] = defaultdict(list)
    newest, faults = datetime.min.replace(tzinfo=UTC), Faults()
    rows = read_csv(file, taking(directory), told=bar(bars, "reading"))
    for found in faults.without(rows):
        answers[found.customer].append(_as_live(found))
        newest = max(newest, found.occurred_at)
    faults.rest()
    if not answers:
        raise WrongFile(f"{file}: no row can be used")
    prior = prior_of(answers)
    for name in bars.track(sorted(answers), description="replaying"):
        answers[name].sort(key=attrgetter("occurred_at"))
        test.customer(name, answers.pop(name), newest, prior)


async def of_database(test: Backtest, url: str, newest: datetime, bars: Progress) -> None:
    """Replay the stored answers. Raises Transient."""
    database = Database(url, "scoring", pool=1)
    try:
        async with database.transaction() as tx:
            names = await reads.customer_names(tx)
            prior = (await company.levels(tx)).get("nps") or DEFAULT_PRIOR
        for name in bars.track(names, description="replaying"):
            async with database.transaction(within=600) as tx:
                answers = [_as_live(answer) for answer in await reads.past(tx, name)]
            test.customer(name, answers, newest, prior)
    finally:
        await database.close()


def _as_live(answer: FeedbackReceivedV1) -> FeedbackReceivedV1:
    """Return an answer as if it had come when it was given: an import would open nothing."""
    if answer.backfill or answer.channel == "import":
        return replace(answer, backfill=False, channel="api")
    return answer
