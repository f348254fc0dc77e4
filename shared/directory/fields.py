"""What a field of directory.yaml may hold: slugs, durations, zones, addresses, and references to what is declared.

A reference is checked where it stands: validation takes the ids that each section declares (`Names`) as its context,
so a field's type says what it points at.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping
from datetime import date, datetime
from functools import cache
from typing import Annotated, Literal, cast
from urllib.parse import urlsplit
from zoneinfo import available_timezones

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    FiniteFloat,
    ValidationError,
    ValidationInfo,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

Names = Mapping[str, Collection[str]]
"""Declared ids by section, and under `reachable` the people who have a contact."""

DAY = 86400
"""Seconds."""
_CLOCK = r"(?:[01][0-9]|2[0-3]):[0-5][0-9]"
_WEEKDAY = "(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)"
_ROLES = ("architect", "deputy", "catch_all")
GOAL_RANGES = {"nps": (-100, 100), "mood": (1, 4)}


def declared_names(info: ValidationInfo) -> Names:
    """Return what the sections declare, from the context of the validation."""
    return cast("Names", info.context)


def _matches(pattern: str, wanted: str) -> AfterValidator:
    compiled = re.compile(pattern)

    def check(value: str) -> str:
        if compiled.fullmatch(value) is None:
            raise ValueError(f"must be {wanted}")
        return value

    return AfterValidator(check)


def _declared(section: str, thing: str) -> AfterValidator:
    def check(value: str, info: ValidationInfo) -> str:
        if value not in declared_names(info)[section]:
            raise ValueError(f"unknown {thing} '{value}'; add it under {section} or correct the name")
        return value

    return AfterValidator(check)


def duration_seconds(value: object) -> int:
    """Return the seconds of a duration such as `90s` or `30d`. Raises ValueError that says what it must be."""
    found = re.fullmatch(r"([0-9]{1,9})([smhd])", value) if isinstance(value, str) else None
    if found is None:
        raise ValueError("must be a duration such as 90s, 15m, 12h or 30d")
    seconds = int(found[1]) * {"s": 1, "m": 60, "h": 3600, "d": DAY}[found[2]]
    if not 1 <= seconds <= 3650 * DAY:
        raise ValueError("must be a duration from 1s to 3650d")
    return seconds


def _window(seconds: int) -> int:
    if seconds > 400 * DAY:
        raise ValueError("a window must be at most 400d")
    if seconds >= DAY and seconds % 3600:
        raise ValueError("a window of a day or more must be whole hours")
    return seconds


def _turn_length(seconds: int) -> int:
    if not 900 <= seconds <= 366 * DAY:
        raise ValueError("a turn must be from 15m to 366d")
    return seconds


def _retention(seconds: int) -> int:
    if seconds < DAY:
        raise ValueError("must be at least 1d")
    return seconds


@cache
def _zones() -> set[str]:
    return available_timezones()


def _zone(value: str) -> str:
    if value not in _zones():
        raise ValueError(f"unknown time zone '{value}'; it must be an IANA name such as Europe/Helsinki")
    return value


def _url(value: str) -> str:
    try:
        whole = re.fullmatch(r"https?://[^\s\x00-\x1f]{1,2000}", value) is not None and bool(urlsplit(value).hostname)
        _ = urlsplit(value).port
    except ValueError:
        whole = False
    if not whole:
        raise ValueError("must be an address that starts with https:// or http://")
    return value


def _hours(value: str) -> str:
    start, end = value.split("-")
    if start == end:
        raise ValueError(f"must end after it starts: '{value}'")
    return value


def _listed(given: object) -> object:
    """Take one text for a list of one."""
    return [given] if isinstance(given, str) else given


def _opening(value: str) -> str:
    start, end = value.rsplit(" ", maxsplit=1)[-1].split("-")
    if start == end:
        raise ValueError(f"must end at another time than it starts: '{value}'; all day is 00:00-24:00")
    return value


def _day(value: object) -> date:
    try:
        if isinstance(value, str) and re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", value):
            return date.fromisoformat(value)
    except ValueError:
        pass
    raise ValueError("must be a date such as 2026-12-31")


def _local_time(value: str) -> str:
    try:
        at = datetime.strptime(value, "%Y-%m-%dT%H:%M")  # noqa: DTZ007 (a local time; the schedule says in which zone)
        if not 1970 <= at.year <= 2199:
            raise ValueError
    except ValueError:
        raise ValueError("must be a local time such as 2026-01-05T09:00") from None
    return value


def _moment(value: str) -> str:
    if re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", value):
        _ = _local_time(f"{value}T00:00")
        return value
    return _local_time(value)


def _reopening(value: object) -> int:
    if value == "follow-up":
        return 0
    if isinstance(value, str) and value.startswith("within "):
        return duration_seconds(value.removeprefix("within "))
    raise ValueError("must be `follow-up`, or such as `within 14d`")


def _watch(value: str) -> str:
    days, _, clock = value.rpartition(" ")
    start, end = clock.split("-")
    if start == end:
        raise ValueError(f"must end after it starts: '{value}'; all day is {days} 00:00-24:00".replace("  ", " "))
    return value


def distinct(values: list[str]) -> list[str]:
    """Refuse a list that names something twice."""
    repeated = sorted(value for value, times in Counter(values).items() if times > 1)
    if repeated:
        raise ValueError(f"names {', '.join(repeated)} more than once")
    return values


def _metric_name(name: str) -> str:
    if name in GOAL_RANGES:
        raise ValueError(f"'{name}' is measured already; choose another name")
    return name


def _new_person(person: str) -> str:
    if person in _ROLES:
        raise ValueError(f"'{person}' is a role in escalations; choose another id")
    return person


def _goal_name(name: str, info: ValidationInfo) -> str:
    if name not in GOAL_RANGES and name not in declared_names(info)["metrics"]:
        raise ValueError(f"unknown metric '{name}'; it must be nps, mood or one declared under metrics")
    return name


def _reachable(person: str, info: ValidationInfo) -> str:
    if person not in declared_names(info)["reachable"]:
        raise ValueError(f"'{person}' cannot be reached; add a contact under people.{person}.contacts")
    return person


def _page_target(value: str, info: ValidationInfo) -> str:
    if value in _ROLES:
        return value
    if value.startswith("schedule:"):
        if value.removeprefix("schedule:") not in declared_names(info)["schedules"]:
            raise ValueError(f"unknown schedule '{value.removeprefix('schedule:')}'; add it under schedules")
        return value
    if value.startswith("escalation:"):
        raise ValueError("an escalation cannot go on with another, which could come back to it; write its steps here")
    if value not in declared_names(info)["people"]:
        raise ValueError(f"unknown person '{value}'; it must be {', '.join(_ROLES)}, schedule:NAME or a person's id")
    return f"person:{value}"


def _goals(goals: dict[str, float]) -> dict[str, float]:
    wrong: list[InitErrorDetails] = []
    for name, (low, high) in GOAL_RANGES.items():
        if name in goals and not low <= goals[name] <= high:
            why = PydanticCustomError("goal", "must be from {low} to {high}", {"low": low, "high": high})
            wrong.append({"type": why, "loc": (name,), "input": goals[name]})
    if wrong:
        raise ValidationError.from_exception_data("goals", wrong)
    return goals


Text = Annotated[str, _matches(r"(?=.*\S)[^\x00-\x1f\x7f]{1,200}", "one line of 1 to 200 characters")]
Slug = Annotated[str, _matches(r"[a-z0-9][a-z0-9-]{0,62}", "a slug: a-z, 0-9 and '-', at most 63, not '-' first")]
CaFile = Annotated[str, _matches(r"/[^\x00-\x1f]{1,300}", "a file of certificates such as /etc/ssl/acme.pem")]
"""Authorities that are believed besides the public ones, where the service runs that calls."""
Env = Annotated[str, _matches(r"[A-Za-z_][A-Za-z0-9_]{0,99}", "the name of an environment variable")]
Email = Annotated[str, _matches(r'[^@\s<>,;"]{1,64}@[^@\s<>,;"]+\.[^@\s<>,;".]{2,}', "an e-mail address")]
Phone = Annotated[str, _matches(r"\+[1-9][0-9]{6,14}", "a number such as +358401234567")]
Sha256 = Annotated[str, _matches(r"[0-9a-f]{64}", "the SHA-256 of the key: 64 digits 0-9a-f; see 'keys new'")]
Language = Annotated[str, _matches(r"[a-z]{2,3}(-[A-Za-z0-9]{2,8})*", "a language such as fi or pt-BR")]
Host = Annotated[str, _matches(r"[A-Za-z0-9.:-]{1,253}", "a host name or address, without a port")]
Holidays = Annotated[str, _matches(r"[A-Z]{2}(-[A-Z0-9]{1,3})?", "a country such as FI, or DE-BY")]
Origin = Annotated[str, _matches(r"https?://[a-z0-9.-]+(:[0-9]{1,5})?", "like https://www.acme.example, no path")]
ClockHours = Annotated[str, _matches(f"{_CLOCK}-{_CLOCK}", "hours such as 22:00-07:00"), AfterValidator(_hours)]
Opening = Annotated[
    str,
    _matches(f"{_WEEKDAY}(-{_WEEKDAY})? {_CLOCK}-({_CLOCK}|24:00)", "hours such as Mon-Fri 08:00-16:00"),
    AfterValidator(_opening),
]
"""Hours of a wall clock on the days on which they begin; those that end before they begin pass midnight."""
BusinessHours = Annotated[list[Opening], BeforeValidator(_listed), Field(min_length=1)]
Watch = Annotated[
    str,
    _matches(
        f"(({_WEEKDAY}(-{_WEEKDAY})?|holidays) )?{_CLOCK}-({_CLOCK}|24:00)",
        "hours such as 18:00-08:00, Mon-Fri 18:00-08:00 or holidays 00:00-24:00",
    ),
    AfterValidator(_watch),
]
"""Hours of a wall clock, which may pass midnight; with days, those on which it begins."""
Watches = Annotated[list[Watch], BeforeValidator(_listed)]
ClockTime = Annotated[str, _matches(_CLOCK, "a time of day such as 08:00")]
SlackId = Annotated[str, _matches(r"[A-Z][A-Z0-9]{2,20}", "the id of a Slack channel or person, such as C0123456789")]
Day = Annotated[date, BeforeValidator(_day)]
LocalTime = Annotated[str, AfterValidator(_local_time)]
LocalMoment = Annotated[str, AfterValidator(_moment)]
"""A local date or time."""
Zone = Annotated[str, AfterValidator(_zone)]
Url = Annotated[str, AfterValidator(_url)]
Duration = Annotated[int, BeforeValidator(duration_seconds)]
Reopening = Annotated[int, BeforeValidator(_reopening), Field(ge=0, le=3650 * DAY)]
"""For how many seconds something that is over is opened again; later, something new follows it up."""
Window = Annotated[Duration, AfterValidator(_window)]
TurnLength = Annotated[Duration, AfterValidator(_turn_length)]
Retention = Annotated[Duration, AfterValidator(_retention)]

PersonId = Annotated[str, _declared("people", "person")]
EscalationName = Annotated[str, _declared("escalations", "escalation")]
Touchpoint = Annotated[str, _declared("touchpoints", "touchpoint")]
CustomerId = Annotated[str, _declared("customers", "customer")]
DeskName = Annotated[str, _declared("desks", "desk")]
DeclaredMetric = Annotated[str, _declared("metrics", "metric")]
MetricName = Annotated[Slug, AfterValidator(_metric_name)]
NewPersonId = Annotated[Slug, AfterValidator(_new_person)]
GoalName = Annotated[str, AfterValidator(_goal_name)]
Goals = Annotated[dict[GoalName, FiniteFloat], AfterValidator(_goals)]
ReachablePerson = Annotated[PersonId, AfterValidator(_reachable)]
PageTarget = Annotated[str, AfterValidator(_page_target)]
TicketEvent = Literal["ticket.opened", "ticket.updated", "ticket.resolved", "ticket.closed"]


class Section(BaseModel):
    """A mapping in directory.yaml: a field that is not declared is an error."""

    # strict: YAML has already told text from numbers; a guess here would hide a missing quote.
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)
