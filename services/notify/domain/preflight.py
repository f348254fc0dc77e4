"""What would go wrong at night, found by day: gaps in the rota, and people whom no page reaches. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from functools import reduce
from typing import Literal
from urllib.parse import urlsplit

import msgspec

from services.notify.domain.chain import chain
from services.notify.domain.hold import Silence
from services.notify.domain.rota import Override, Shift, absences_between, never_on_call, shifts
from shared.directory.model import Customer, Directory, Schedule

AHEAD = timedelta(days=30)
_LONG = timedelta(days=7)
"""A schedule whose every layer has hours is meant to have gaps, but not of a week."""
_MOST_NAMED = 20

_QUIET_MOST = timedelta(days=7)
"""A longer silence is rather one that somebody forgot."""

Code = Literal["gap", "empty-shift", "unreachable", "unverified", "both-absent", "one-person"]
"""Of who answers, and when."""
SettingCode = Literal["unset", "empty-step", "never-on-call", "long-silence", "unknown-rule"]
"""Of what is written down, and does nothing."""

Span = tuple[datetime, datetime]
"""From a moment on, until another."""


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that should be mended."""

    code: Code | SettingCode
    subject: str
    """`schedule:NAME`, `escalation:NAME`, `person:ID`, `customer:ID`, `silence:ID`, `desk:NAME`, `channel:NAME`, or
    `webhook:HOST`."""
    detail: str
    start: datetime | None = None
    end: datetime | None = None


def preflight(
    directory: Directory,
    overrides: Mapping[str, Sequence[Override]],
    *,
    reachable: Collection[str],
    verified: Collection[str],
    now: datetime,
    unset: Collection[str] = (),
    silences: Sequence[Silence] = (),
) -> list[Finding]:
    """Return everything that should be mended before it is needed, the most urgent kinds first.

    `unset`: environment variables that the directory names and that are not there; `silences`: those that are not over.
    """
    end = now + AHEAD
    found: list[Finding] = []
    on_call: set[str] = set()
    nobody: dict[str, list[Span]] = {}
    for name, schedule in directory.schedules.items():
        planned = shifts(schedule, directory.people, overrides.get(name, ()), now, end)
        on_call |= {shift.person for shift in planned if shift.person is not None}
        found += gaps(directory, schedule, planned, overrides.get(name, ()), now, end)
        nobody[name] = [(shift.start, shift.end) for shift in planned if shift.person is None]
    found += _nights(directory, nobody)
    found += _people(directory, on_call, reachable, verified)
    found += _unset(directory, unset)
    found += _chains(directory, now, end)
    found += _empty_steps(directory, {name for name, shift in nobody.items() if shift == [(now, end)]})
    found += _never(directory, now)
    found += _silences(directory, silences)
    return found


def gaps(
    directory: Directory,
    schedule: Schedule,
    planned: Sequence[Shift],
    overrides: Sequence[Override],
    start: datetime,
    end: datetime,
) -> list[Finding]:
    """Return when nobody is on call who should be."""
    empty = [shift for shift in planned if shift.person is None]
    if not empty:
        return []
    # Whose turn it would be if nobody were ever away.
    present = {
        id_: msgspec.structs.replace(person, absences=(), holidays=None) for id_, person in directory.people.items()
    }
    meant = shifts(schedule, present, overrides, start, end)
    around = any(not layer.restrict for layer in schedule.layers)
    found: list[Finding] = []
    for hole in empty:
        for turn in meant:
            since, until = max(hole.start, turn.start), min(hole.end, turn.end)
            if since >= until:
                continue
            if turn.person is not None:
                who = directory.people[turn.person].name if turn.person in directory.people else turn.person
                detail = f"{who} is away, and no other layer has anybody"
                found.append(_of_schedule("empty-shift", schedule, detail, since, until))
            elif around or until - since >= _LONG:
                found.append(_of_schedule("gap", schedule, "nobody is on call", since, until))
    return found


def _of_schedule(code: Code, schedule: Schedule, detail: str, start: datetime, end: datetime) -> Finding:
    return Finding(code=code, subject=f"schedule:{schedule.name}", detail=detail, start=start, end=end)


def _nights(directory: Directory, nobody: Mapping[str, Sequence[Span]]) -> Iterator[Finding]:
    """Find when an escalation has only its catch-all, because each of its steps is a schedule that has nobody then."""
    for name in sorted({customer.escalation for customer in directory.customers.values()}):
        escalation = directory.escalations[name]
        if not escalation.steps or not all(step.page.startswith("schedule:") for step in escalation.steps):
            continue
        holes = reduce(_both, (nobody[step.page.removeprefix("schedule:")] for step in escalation.steps))
        if holes:
            times = f"{len(holes)} times, first" if len(holes) > 1 else "once"
            since, until = holes[0]
            detail = f"only the catch-all can be paged, {times} from {since:%Y-%m-%d %H:%M} to {until:%H:%M} UTC"
            yield Finding(code="gap", subject=f"escalation:{name}", detail=detail, start=since, end=until)


def _people(
    directory: Directory, on_call: Collection[str], reachable: Collection[str], verified: Collection[str]
) -> Iterator[Finding]:
    for name in sorted(responsible_people(directory) | set(on_call)):
        person = directory.people.get(name)
        if person is None:
            continue
        if name not in reachable:
            detail = f"{person.name} has no contact that can be called"
            yield Finding(code="unreachable", subject=f"person:{name}", detail=detail)
        elif name not in verified:
            detail = f"{person.name} has no contact that was shown to work"
            yield Finding(code="unverified", subject=f"person:{name}", detail=detail)


def responsible_people(directory: Directory) -> set[str]:
    """Return everybody who can be paged without being in a schedule."""
    found = {escalation.catch_all for escalation in directory.escalations.values()}
    for escalation in directory.escalations.values():
        found |= {step.page.removeprefix("person:") for step in escalation.steps if step.page.startswith("person:")}
    for customer in directory.customers.values():
        found |= {customer.architect, *([customer.deputy] if customer.deputy is not None else [])}
    return found & directory.people.keys()


def _chains(directory: Directory, start: datetime, end: datetime) -> Iterator[Finding]:
    for (architect, deputy, escalation), customers in _alike(directory).items():
        subject = _subject(customers)
        if _is_alone(directory, customers[0]):
            catch_all = directory.escalations[escalation].catch_all
            yield Finding(code="one-person", subject=subject, detail=f"{catch_all} is the whole chain")
        both = [directory.people.get(name) for name in (architect, deputy) if name is not None]
        first, second = (*both, None, None)[:2]
        if first is not None and second is not None:
            for since, until in _both(absences_between(first, start, end), absences_between(second, start, end)):
                detail = f"{first.name} and {second.name} are both away"
                yield Finding(code="both-absent", subject=subject, detail=detail, start=since, end=until)


def _empty_steps(directory: Directory, empty: Collection[str]) -> Iterator[Finding]:
    """Find steps that page nobody for some customers; `empty`: schedules that have nobody in all the time ahead.

    Whoever has one person for the whole chain is told so already.
    """
    without: defaultdict[tuple[str, int, str], list[Customer]] = defaultdict(list)
    for customers in _alike(directory).values():
        if _is_alone(directory, customers[0]):
            continue
        for number, turn in enumerate(chain(directory, customers[0]), 1):
            nobody = turn.person is None if turn.schedule is None else turn.schedule in empty
            if nobody:
                without[customers[0].escalation, number, turn.via] += customers
    for (escalation, number, via), customers in without.items():
        detail = f"step {number} ({via}) finds nobody for {_subject(customers)}"
        yield Finding(code="empty-step", subject=f"escalation:{escalation}", detail=detail)


def _alike(directory: Directory) -> Mapping[tuple[str, str | None, str], list[Customer]]:
    """Return customers by who answers for them: there are more customers than chains."""
    alike: defaultdict[tuple[str, str | None, str], list[Customer]] = defaultdict(list)
    for customer in directory.customers.values():
        alike[customer.architect, customer.deputy, customer.escalation].append(customer)
    return alike


def _is_alone(directory: Directory, customer: Customer) -> bool:
    turns = chain(directory, customer)
    people = {turn.person for turn in turns if turn.person is not None}
    people.add(directory.escalations[customer.escalation].catch_all)
    return len(people) == 1 and not any(turn.schedule for turn in turns)


def _never(directory: Directory, now: datetime) -> Iterator[Finding]:
    for name, schedule in directory.schedules.items():
        for number, layer in enumerate(schedule.layers, 1):
            for id_ in never_on_call(schedule, layer, now):
                who = directory.people[id_].name if id_ in directory.people else id_
                detail = (
                    f"{who} ({id_}) never has a turn in schedule {name}: those of layer {number} are out of its hours"
                )
                yield Finding(code="never-on-call", subject=f"person:{id_}", detail=detail)


def _silences(directory: Directory, silences: Sequence[Silence]) -> Iterator[Finding]:
    for one in silences:
        subject, of = f"silence:{one.id}", one.customer or "every customer"
        if one.rule is not None and one.rule not in rule_names(directory, one.customer):
            detail = f"it is of a rule that does not exist ({one.rule}), and holds nothing of {of}"
            yield Finding(code="unknown-rule", subject=subject, detail=detail, start=one.start, end=one.until)
        elif one.until - one.start > _QUIET_MOST:
            days = (one.until - one.start).days
            detail = f"nobody is paged for {of} for {days} days: {one.reason}"
            yield Finding(code="long-silence", subject=subject, detail=detail, start=one.start, end=one.until)


def rule_names(directory: Directory, customer: str | None) -> set[str]:
    """Return the names that a page's rule can have, of one customer or any: also what is no rule of the directory."""
    everybody = directory.customers.values()
    own = {rule.name for one in everybody if customer in {None, one.id} for rule in one.rules}
    return {"by-hand", "heartbeat"} | {rule.name for rule in directory.rules} | own


def secrets_named(directory: Directory) -> list[tuple[str, str]]:
    """Return the environment variables that a directory takes secrets from, each with what needs it."""
    found: list[tuple[str, str | None]] = []
    for person in directory.people.values():
        for contact in person.contacts:
            name = contact.address if contact.channel == "pagerduty" else contact.secret_env
            found.append((f"person:{person.id}", name))
    for name, desk in directory.desks.items():
        found += [(f"desk:{name}", env) for env in (desk.token_env, desk.user_env, desk.hook_secret_env)]
    if directory.smtp is not None:
        found += [("channel:smtp", env) for env in (directory.smtp.user_env, directory.smtp.password_env)]
    for name, gateway in (("sms", directory.sms), ("voice", directory.voice)):
        if gateway is not None:
            found += [(f"channel:{name}", env) for env in (gateway.token_env, gateway.account_env)]
    if directory.slack is not None:
        found += [("channel:slack", env) for env in (directory.slack.token_env, directory.slack.signing_secret_env)]
    found.append(("channel:ntfy", directory.ntfy_token_env))
    found += [(f"webhook:{urlsplit(hook.url).hostname}", hook.secret_env) for hook in directory.webhooks]
    return [(subject, env) for subject, env in dict.fromkeys(found) if env is not None]


def _unset(directory: Directory, unset: Collection[str]) -> Iterator[Finding]:
    for subject, name in secrets_named(directory):
        if name in unset:
            detail = f"environment variable {name} is not set where notify runs"
            yield Finding(code="unset", subject=subject, detail=detail)


def _subject(customers: Sequence[Customer]) -> str:
    names = [f"customer:{customer.id}" for customer in customers[:_MOST_NAMED]]
    more = len(customers) - len(names)
    return ", ".join(names) + (f" and {more} more" if more else "")


def _both(one: Sequence[Span], other: Sequence[Span]) -> Sequence[Span]:
    """Return the times that lie in both."""
    cut = [(max(since, begin), min(until, end)) for since, until in one for begin, end in other]
    return [(since, until) for since, until in cut if since < until]


def gap_seconds(findings: Sequence[Finding], schedule: str) -> float:
    """Return how long nobody is on call in a schedule who should be."""
    return sum(
        (finding.end - finding.start).total_seconds()
        for finding in findings
        if finding.subject == f"schedule:{schedule}" and finding.start is not None and finding.end is not None
    )
