"""The commands behind `python -m services`. Each returns its exit code: 0 done, 1 failed, 2 wrong input."""

from __future__ import annotations

import asyncio
import gc
import getpass
import re
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal, get_args

import msgspec
import yaml
from pydantic import ValidationError

from services import answers_csv, importing, run
from services import backtest as backtesting
from services.cli.on_call import who_is_on_call
from services.scoring.store import counting
from services.terminal import Faults, bar, err, out, printable, progress
from shared.bus.client import Kafka
from shared.bus.dead_letters import DeadLetters
from shared.bus.provisioning import ensure_topics
from shared.database import migrate as migrations
from shared.database.pool import Database
from shared.directory import check as checking
from shared.directory.difference import difference, render
from shared.directory.fields import duration_seconds
from shared.directory.follower import Revision, publish, read_newest
from shared.directory.model import Directory, Scope
from shared.directory.record import RecordTooLarge
from shared.errors import Misconfigured
from shared.runtime import audit, logs
from shared.runtime.audit import COMMAND, Actor
from shared.runtime.clock import SystemClock
from shared.runtime.process import kafka_of as kafka_of_settings
from shared.runtime.process import signer
from shared.runtime.service import Settings, run_process
from shared.wire import signing as security
from shared.wire.events import AuditV1, FeedbackReceivedV1
from shared.wire.ids import uuid7
from shared.wire.topics import AUDIT, DEAD, TOPICS, Topic, Undecodable

DONE, FAILED, WRONG = 0, 1, 2
_SLUG = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")


def settings(**given: Any) -> Settings:
    """Return the settings of the environment, with what the command line said. Raises Misconfigured."""
    try:
        found = Settings()
        return found.model_copy(update={name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        raise run.wrong_setting(error) from None


def run_one(name: run.ServiceName, *, host: str | None, port: int | None) -> int:
    """Run one service until it is stopped."""
    given = settings(host=host, port=port)
    logs.set_up(level=given.log_level, form=given.log_format)
    return run_process(lambda stop: run.run_one(name, given, stop), drain_seconds=given.drain_seconds)


def run_everything(
    *, host: str | None, port: int | None, data: Path, directory: Path | None, simulate: float | None
) -> int:
    """Run every service in one process until it is stopped."""
    given = settings(host=host, port=port)
    logs.set_up(level=given.log_level, form=given.log_format)
    how = run.Everything(data=data, directory=directory)
    ready: Callable[[str], None] = run.say_ready
    if simulate is not None:
        from demo.simulation import Simulation  # noqa: PLC0415 (a deployment has no demo)

        traffic = Simulation(simulate)
        how = run.Everything(data, directory, (traffic.key,), lambda parts: [traffic.service(parts)])
        ready = _both(run.say_ready, traffic.ready)
    return run_process(lambda stop: run.run_everything(how, given, stop, ready), drain_seconds=given.drain_seconds)


def _both(first: Callable[[str], None], second: Callable[[str], None]) -> Callable[[str], None]:
    def both(address: str) -> None:
        first(address)
        second(address)

    return both


def _read(file: Path) -> Directory | int:
    try:
        return checking.parse_file(file)
    except checking.Findings as findings:
        for finding in findings.findings:
            err.print(finding.render(str(file)), markup=False)
        err.print(f"{len(findings.findings)} to mend", style="red")
    except OSError as error:
        err.print(f"cannot read {file}: {error.strerror}", style="red", markup=False)
    return WRONG


def check(file: Path) -> int:
    """Validate a directory."""
    directory = _read(file)
    if isinstance(directory, int):
        return directory
    out.print(f"{file}: {len(directory.customers)} customers, {len(directory.people)} people: valid", markup=False)
    return DONE


def user() -> str:
    """Return who runs this, as far as the system knows."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "apply"


def at_the_command_line() -> Actor:
    """Return who runs this, as the audit has it, and on which host."""
    return Actor(f"{COMMAND}:{user()}", socket.gethostname())


def audited(what: audit.What, detail: Mapping[str, audit.Value]) -> AuditV1:
    """Return the line of the audit for what a command does."""
    return audit.line(COMMAND, datetime.now(UTC), at_the_command_line(), what, detail)


def apply(file: Path, *, dry_run: bool, author: str, data: Path, repartition: bool) -> int:
    """Validate a directory, print what changes, and publish it."""
    directory = _read(file)
    if isinstance(directory, int):
        return directory
    kafka = kafka_of(data)

    async def body() -> int:
        newest = await _newest(kafka)
        if repartition:
            kafka.partitions = {}
        await ensure_topics(kafka, TOPICS)
        before = None if newest is None else newest.directory
        changes = difference(before, directory)
        if dry_run:
            out.print("\n".join(who_is_on_call(before, directory, SystemClock().now())), markup=False)
        if not changes and newest is not None and not repartition:
            out.print(f"nothing to change; revision {newest.number} is in use")
            return DONE
        out.print(render(changes), markup=False)
        if dry_run:
            out.print("dry run: nothing was published")
            return DONE
        try:
            number = await publish(kafka, directory, author, repartition=repartition)
            out.print(f"revision {number} published")
        except RecordTooLarge as error:
            err.print(str(error), style="red", markup=False)
            return WRONG
        return DONE

    return asyncio.run(body())


async def _newest(kafka: Kafka) -> Revision | None:
    """Return the newest revision, None also where it cannot be read: applying another heals that."""
    try:
        return await read_newest(kafka)
    except Undecodable as error:
        err.print(str(error), style="yellow", markup=False)
        return None


def found_kafka(data: Path) -> Kafka | None:
    """Return the Kafka of the settings, or the one that everything in one process keeps in its data directory."""
    given = settings()
    if given.kafka is None:
        kept = run.kept_kafka(data)
        if kept is None:
            return None
        given = given.model_copy(update=kept)
    return kafka_of_settings(given)


def kafka_of(data: Path) -> Kafka:
    """Return Kafka, as `found_kafka`. Raises Misconfigured where none is named."""
    kafka = found_kafka(data)
    if kafka is None:
        raise Misconfigured("FIILIS_KAFKA is not set: the bootstrap servers of Kafka, such as kafka:9092")
    return kafka


def new_key(
    kind: Literal["publishable", "secret"], *, customer: str | None, scopes: Sequence[str], name: str | None
) -> int:
    """Make a key; it is printed this once."""
    problem = _key_problem(kind, customer, scopes, name)
    if problem is not None:
        err.print(problem, style="red", markup=False)
        return WRONG
    text = security.new_key(kind)
    entry: dict[str, Any] = {"id": name or f"{customer or 'new'}-{kind}", "kind": kind}
    if customer is not None:
        entry["customer"] = customer
    if kind == "secret":
        entry["scopes"] = list(dict.fromkeys(scopes))
    entry["sha256"] = security.key_hash(text)
    if kind == "publishable":
        entry["origins"] = ["https://www.example.test"]
    out.print(text, markup=False)
    err.print("The key is shown this once. For the directory, under keys:", style="dim")
    out.print(
        "  - " + yaml.safe_dump(entry, default_flow_style=True, sort_keys=False, width=10_000).strip(), markup=False
    )
    return DONE


def _key_problem(kind: str, customer: str | None, scopes: Sequence[str], name: str | None) -> str | None:
    no_slug = _no_slug({"--customer": customer, "--id": name})
    if no_slug is not None:
        return no_slug
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


def backtest(file: Path, *, feedback: Path | None, days: int, as_json: bool, against: Path | None) -> int:
    """Tell what a directory's rules would have done on past answers."""
    directory = _read(file)
    compared = None if against is None else _read(against)
    if isinstance(directory, int) or isinstance(compared, int):
        return WRONG
    given = settings()
    if compared is None and given.kafka is not None:
        newest = asyncio.run(read_newest(kafka_of_settings(given)))
        compared = None if newest is None else newest.directory
    gc.disable()  # millions of answers in memory make no cycles; walking them again and again took a third of the time
    test = backtesting.Backtest(directory, compared, days=days, as_json=as_json)
    with progress() as bars:
        try:
            if feedback is not None:
                backtesting.of_csv(test, feedback, directory, bars)
            elif given.database_url is not None:
                asyncio.run(backtesting.of_database(test, given.database_url, SystemClock().now(), bars))
            else:
                raise Misconfigured("give answers with --feedback FILE.csv, or set FIILIS_DATABASE_URL")
        except (OSError, answers_csv.WrongFile) as error:
            err.print(str(error), markup=False)
            return WRONG
    test.report()
    return DONE


def import_answers(file: Path, *, mapped: str | None, given: Sequence[str], dry_run: bool, data: Path) -> int:
    """Import past answers from a CSV file."""
    kafka = kafka_of(data)
    newest = asyncio.run(read_newest(kafka))
    if newest is None:
        err.print("no directory was applied yet: python -m services apply FILE", style="red")
        return WRONG
    faults = Faults()
    try:
        columns = answers_csv.Map() if mapped is None else answers_csv.read_map(mapped)
        columns = columns.with_given(given)
        with progress() as bars:
            take = importing.taking(newest.directory, SystemClock().now())
            moved = bar(bars, "checking" if dry_run else "importing")
            answers = faults.without(answers_csv.read_csv(file, take, columns, moved))
            count = sum(1 for _ in answers) if dry_run else asyncio.run(_send(kafka, answers, file.name))
    except (OSError, answers_csv.WrongFile) as error:
        err.print(str(error), style="red", markup=False)
        return WRONG
    faults.rest()
    out.print(f"{count} answers {'could be imported' if dry_run else 'imported'}, {faults.count} rows refused")
    if faults.count:
        out.print("mend them where they stand and import the file again, with the same map: each row counts once")
    return FAILED if faults.count else DONE


async def _send(kafka: Kafka, answers: Iterator[FeedbackReceivedV1], file: str) -> int:
    await ensure_topics(kafka, [AUDIT])
    return await importing.send(kafka, answers, audited("answers imported", {"file": file}))


def rebuild() -> int:
    """Count every stored answer afresh, customer by customer."""
    given = settings()
    if given.database_url is None:
        raise Misconfigured("FIILIS_DATABASE_URL is not set, such as postgresql://fiilis:secret@db/fiilis")
    url = given.database_url

    async def body() -> int:
        database = Database(url, "scoring", pool=1)
        differed = 0
        try:
            async with database.transaction() as tx:
                customers = await counting.every_customer(tx)
                await audit.add(tx, [audited("counted afresh", {"customers": len(customers)})])
            with progress() as bars:
                for customer in bars.track(customers, description="counting"):
                    async with database.transaction(within=600) as tx:
                        differed += await counting.recount(tx, customer)
        finally:
            await database.close()
        out.print(f"{len(customers)} customers counted afresh; the counts of {differed} were different")
        return DONE

    return asyncio.run(body())


def dead_letters(topic: str, *, again: bool, as_json: bool, data: Path) -> int:
    """Show what was refused of a topic."""
    kafka, of = kafka_of(data), _with_dead_letters(topic)
    if of is None:
        return WRONG

    async def body() -> int:
        await ensure_topics(kafka, [of])
        count = 0
        async for letter in DeadLetters(kafka, of).letters(again=again):
            count += 1
            if as_json:
                out.print(msgspec.json.encode(letter._asdict()).decode(), markup=False)
            else:
                at = letter.refused_at.isoformat(timespec="seconds")
                what = f"{at}  {letter.service}  {letter.source}  {letter.type}  {letter.key}: {letter.reason}"
                out.print(printable(f"{letter.offset}  {what}"), markup=False)
        if not as_json:
            out.print(f"{count} dead letters of {of.name}" + ("" if again else " that were not sent again"))
        return DONE

    return asyncio.run(body())


def replay_dead_letters(topic: str, *, data: Path) -> int:
    """Send again what was refused of a topic."""
    kafka, of = kafka_of(data), _with_dead_letters(topic)
    if of is None:
        return WRONG

    async def body() -> int:
        await _newest(kafka)  # it says over how many partitions keys are spread
        await ensure_topics(kafka, [of, AUDIT])
        with progress() as bars:
            sent = await DeadLetters(kafka, of).replay(bar(bars, "sending"), at_the_command_line())
        out.print(f"{sent} sent again to {of.name}; what is refused again is in {of.dead} again")
        return DONE

    return asyncio.run(body())


def _with_dead_letters(name: str) -> Topic | None:
    known = {topic.name: topic for topic in TOPICS if topic.messages}
    found = known.get(name.removesuffix(DEAD))
    if found is None:
        err.print(f"{name!r}: must be one of {', '.join(known)}", style="red", markup=False)
    return found


def link(customer: str, respondent: str, touchpoint: str | None, *, expires: str, data: Path) -> int:
    """Print a signed survey link for one person: one answer, theirs."""
    given = with_kept_secret(data)
    problem = _survey_problem(customer, respondent, touchpoint) or _unknown(found_kafka(data), customer, touchpoint)
    try:
        seconds = duration_seconds(expires)
    except ValueError as error:
        seconds, problem = 0, problem or f"--expires: {error}"
    if problem is not None:
        err.print(problem, style="red", markup=False)
        return WRONG
    facts = {"customer": customer, "respondent": respondent, "touchpoint": touchpoint, "answer": str(uuid7())}
    token = signer(given).sign("survey", facts, expires=SystemClock().now() + timedelta(seconds=seconds))
    out.print(f"{run.public_address(given)}/s/{token}", markup=False)
    return DONE


def with_kept_secret(data: Path) -> Settings:
    """Return the settings; without FIILIS_SECRET with the one that everything in one process made for itself."""
    given = settings()
    return given if given.secret else given.model_copy(update={"secret": run.kept_secret(data)})


def _survey_problem(customer: str, respondent: str, touchpoint: str | None) -> str | None:
    if not 1 <= len(respondent) <= 200 or "\0" in respondent:
        return "--respondent: must have 1 to 200 characters"
    return _no_slug({"--customer": customer, "--touchpoint": touchpoint})


def _no_slug(options: Mapping[str, str | None]) -> str | None:
    """Return what is wrong with the first option that should be a slug and is none."""
    wrong = ((name, text) for name, text in options.items() if text is not None and not _SLUG.fullmatch(text))
    return next((f"{name}: {text!r} is not a slug (a-z, 0-9 and -, at most 63)" for name, text in wrong), None)


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


def webhook_secret(url: str) -> int:
    """Print the signing secret of a webhook contact."""
    newest, *former = signer(settings()).webhook_secrets(url)
    out.print(newest, markup=False)
    for secret in former:
        err.print(f"requests are signed with the former one, too: {secret}", markup=False)
    return DONE


def _print(line: str) -> None:
    out.print(line, markup=False)


def migrate() -> int:
    """Bring every service's schema to the newest revision."""
    given = settings()
    if given.database_url is None:
        raise Misconfigured("FIILIS_DATABASE_URL is not set, such as postgresql://fiilis:secret@db/fiilis")
    url = given.database_url

    async def body() -> int:
        for name in run.NAMES:
            database = Database(url, name)
            try:
                await migrations.migrate(database, run.MIGRATIONS.get(name), url=given.migration_url, say=_print)
            finally:
                await database.close()
        out.print("the database is at the current schema")
        return DONE

    return asyncio.run(body())
