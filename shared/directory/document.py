"""directory.yaml as a person writes it: every field, its range and its default; what is not here is an error.

A reference is checked where it stands: validation takes the ids that each section declares (`Names`) as its context,
so a field's type says what it points at. A new rule type is one small class here, one in model.py, and their names in
`Condition` and `RULE_TYPES`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping
from datetime import datetime
from functools import cache
from typing import Annotated, Literal, Self, cast
from urllib.parse import urlsplit
from zoneinfo import available_timezones

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    FiniteFloat,
    PlainValidator,
    ValidationError,
    ValidationInfo,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from shared.directory import model

Names = Mapping[str, Collection[str]]
"""Declared ids by section, and under `reachable` the people who have a contact."""

_DAY = 86400
_CLOCK = r"(?:[01][0-9]|2[0-3]):[0-5][0-9]"
_WEEKDAY = "(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)"
_ROLES = ("architect", "deputy", "catch_all")
_GOAL_RANGES = {"nps": (-100, 100), "mood": (1, 4)}


def _names(info: ValidationInfo) -> Names:
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
        if value not in _names(info)[section]:
            raise ValueError(f"unknown {thing} '{value}'; add it under {section} or correct the name")
        return value

    return AfterValidator(check)


def _seconds(value: object) -> int:
    found = re.fullmatch(r"([0-9]{1,9})([smhd])", value) if isinstance(value, str) else None
    if found is None:
        raise ValueError("must be a duration such as 90s, 15m, 12h or 30d")
    seconds = int(found[1]) * {"s": 1, "m": 60, "h": 3600, "d": _DAY}[found[2]]
    if not 1 <= seconds <= 3650 * _DAY:
        raise ValueError("must be a duration from 1s to 3650d")
    return seconds


def _window(seconds: int) -> int:
    if seconds > 400 * _DAY:
        raise ValueError("a window must be at most 400d")
    if seconds >= _DAY and seconds % 3600:
        raise ValueError("a window of a day or more must be whole hours")
    return seconds


def _retention(seconds: int) -> int:
    if seconds < _DAY:
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
    start, end = value.rsplit(" ", maxsplit=1)[-1].split("-")
    if start == end or (" " in value and start > end):
        raise ValueError(f"must end after it starts: '{value}'")
    return value


def _local_time(value: str) -> str:
    try:
        _ = datetime.strptime(value, "%Y-%m-%dT%H:%M")
    except ValueError:
        raise ValueError("must be a local time such as 2026-01-05T09:00") from None
    return value


def _distinct(values: list[str]) -> list[str]:
    repeated = sorted(value for value, times in Counter(values).items() if times > 1)
    if repeated:
        raise ValueError(f"names {', '.join(repeated)} more than once")
    return values


def _metric_name(name: str) -> str:
    if name in _GOAL_RANGES:
        raise ValueError(f"'{name}' is measured already; choose another name")
    return name


def _new_person(person: str) -> str:
    if person in _ROLES:
        raise ValueError(f"'{person}' is a role in escalations; choose another id")
    return person


def _goal_name(name: str, info: ValidationInfo) -> str:
    if name not in _GOAL_RANGES and name not in _names(info)["metrics"]:
        raise ValueError(f"unknown metric '{name}'; it must be nps, mood or one declared under metrics")
    return name


def _reachable(person: str, info: ValidationInfo) -> str:
    if person not in _names(info)["reachable"]:
        raise ValueError(f"'{person}' cannot be reached; add a contact under people.{person}.contacts")
    return person


def _page(value: str, info: ValidationInfo) -> str:
    if value in _ROLES:
        return value
    if value.startswith("schedule:"):
        if value.removeprefix("schedule:") not in _names(info)["schedules"]:
            raise ValueError(f"unknown schedule '{value.removeprefix('schedule:')}'; add it under schedules")
        return value
    if value not in _names(info)["people"]:
        raise ValueError(f"unknown person '{value}'; it must be {', '.join(_ROLES)}, schedule:NAME or a person's id")
    return f"person:{value}"


Text = Annotated[str, _matches(r"(?=.*\S)[^\x00-\x1f\x7f]{1,200}", "one line of 1 to 200 characters")]
Slug = Annotated[str, _matches(r"[a-z0-9][a-z0-9-]{0,62}", "a slug: a-z, 0-9 and '-', at most 63, not '-' first")]
Env = Annotated[str, _matches(r"[A-Za-z_][A-Za-z0-9_]{0,99}", "the name of an environment variable")]
Email = Annotated[str, _matches(r'[^@\s<>,;"]{1,64}@[^@\s<>,;"]+\.[^@\s<>,;".]{2,}', "an e-mail address")]
Phone = Annotated[str, _matches(r"\+[1-9][0-9]{6,14}", "a number such as +358401234567")]
Sha256 = Annotated[str, _matches(r"[0-9a-f]{64}", "the SHA-256 of the key: 64 digits 0-9a-f; see 'keys new'")]
Language = Annotated[str, _matches(r"[a-z]{2,3}(-[A-Za-z0-9]{2,8})*", "a language such as fi or pt-BR")]
Holidays = Annotated[str, _matches(r"[A-Z]{2}(-[A-Z0-9]{1,3})?", "a country such as FI, or DE-BY")]
Origin = Annotated[str, _matches(r"https?://[a-z0-9.-]+(:[0-9]{1,5})?", "like https://www.acme.example, no path")]
ClockHours = Annotated[str, _matches(f"{_CLOCK}-{_CLOCK}", "hours such as 22:00-07:00"), AfterValidator(_hours)]
BusinessHours = Annotated[
    str,
    _matches(f"{_WEEKDAY}(-{_WEEKDAY})? {_CLOCK}-({_CLOCK}|24:00)", "hours such as Mon-Fri 08:00-16:00"),
    AfterValidator(_hours),
]
LocalTime = Annotated[str, AfterValidator(_local_time)]
Zone = Annotated[str, AfterValidator(_zone)]
Url = Annotated[str, AfterValidator(_url)]
Duration = Annotated[int, BeforeValidator(_seconds)]
Window = Annotated[Duration, AfterValidator(_window)]

PersonId = Annotated[str, _declared("people", "person")]
EscalationName = Annotated[str, _declared("escalations", "escalation")]
Touchpoint = Annotated[str, _declared("touchpoints", "touchpoint")]
CustomerId = Annotated[str, _declared("customers", "customer")]
DeskName = Annotated[str, _declared("desks", "desk")]
MetricName = Annotated[Slug, AfterValidator(_metric_name)]
NewPersonId = Annotated[Slug, AfterValidator(_new_person)]
GoalName = Annotated[str, AfterValidator(_goal_name)]
ReachablePerson = Annotated[PersonId, AfterValidator(_reachable)]
TicketEvent = Literal["ticket.opened", "ticket.updated", "ticket.resolved", "ticket.closed"]


class _Section(BaseModel):
    # strict: YAML has already told text from numbers; a guess here would hide a missing quote.
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class MoodAtMost(_Section):
    mood_at_most: Annotated[int, Field(ge=1, le=4)]

    def fact(self) -> model.Condition:
        return model.MoodAtMost(self.mood_at_most)


class NpsBelow(_Section):
    nps_below: Annotated[float, Field(ge=-100, le=100)]
    window: Window
    min_responses: Annotated[int, Field(ge=1, le=1_000_000)] = 10
    certainty: Literal["strict", "simple"] = "strict"
    clear_margin: Annotated[float, Field(ge=0, le=200)] = 5.0

    def fact(self) -> model.Condition:
        return model.NpsBelow(self.nps_below, self.window, self.min_responses, self.certainty, self.clear_margin)


class UnhappyShareAbove(_Section):
    unhappy_share_above: Annotated[float, Field(ge=0, lt=1)]
    window: Window
    min_responses: Annotated[int, Field(ge=1, le=1_000_000)] = 4
    clear_margin: Annotated[float, Field(ge=0, le=1)] = 0.05

    def fact(self) -> model.Condition:
        return model.UnhappyShareAbove(self.unhappy_share_above, self.window, self.min_responses, self.clear_margin)


Condition = MoodAtMost | NpsBelow | UnhappyShareAbove

RULE_TYPES: dict[str, type[Condition]] = {
    next(iter(kind.model_fields)): kind for kind in (MoodAtMost, NpsBelow, UnhappyShareAbove)
}
"""By the first field of each: the word under `when` that says which rule it is."""


def rule_type(when: Mapping[str, object]) -> str | None:
    """Return the word that says which rule this is, or None."""
    return next((word for word in when if word in RULE_TYPES), None)


def _condition(value: object) -> Condition:
    when = cast("dict[str, object]", value) if isinstance(value, dict) else {}
    kind = rule_type(when)
    if kind is None:
        raise ValueError(f"unknown rule: {', '.join(when) or value}; known are {', '.join(RULE_TYPES)}")
    return RULE_TYPES[kind].model_validate(when)


class Rule(_Section):
    name: Slug
    when: Annotated[Condition, PlainValidator(_condition)]
    severity: model.Severity
    touchpoint: Touchpoint | None = None
    per: Literal["touchpoint"] | None = None
    audience: model.Audience = "customer"
    trust: Literal["verified", "any"] = "verified"
    max_age: Duration = _DAY
    cooldown: Duration | None = None
    enabled: bool = True

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if self.touchpoint is not None and self.per is not None:
            raise ValueError("has both touchpoint and per: touchpoint; keep one")
        return self


def _built_in_rules() -> list[Rule]:
    low = {"nps_below": 0.0, "window": "30d", "min_responses": 10, "certainty": "strict"}
    return [
        Rule.model_validate({"name": "mood-one", "when": {"mood_at_most": 1}, "severity": "critical"}),
        Rule.model_validate({"name": "nps-low", "when": low, "severity": "high"}),
    ]


class Company(_Section):
    name: Text
    timezone: Zone = "UTC"
    language: Language = "en"


class Metric(_Section):
    unit: Annotated[str, Field(max_length=20)] = ""
    better: Literal["up", "down"] = "up"


class Contact(_Section):
    email: Email | None = None
    webhook: Url | None = None
    sms: Phone | None = None
    secret_env: Env | None = None

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if sum(way is not None for way in (self.email, self.webhook, self.sms)) != 1:
            raise ValueError("must have exactly one of email, webhook, sms")
        if self.secret_env is not None and self.webhook is None:
            raise ValueError("secret_env belongs to a webhook; remove it")
        return self


class Person(_Section):
    name: Text
    title: Text | None = None
    photo: Url | None = None
    timezone: Zone | None = None
    language: Language | None = None
    quiet_hours: ClockHours | None = None
    contacts: list[Contact] = []


class Layer(_Section):
    rotation: Literal["daily", "weekly"]
    start: LocalTime
    people: Annotated[list[PersonId], Field(min_length=1)]
    restrict: ClockHours | None = None


class Schedule(_Section):
    timezone: Zone | None = None
    layers: Annotated[list[Layer], Field(min_length=1)]


class Step(_Section):
    page: Annotated[str, AfterValidator(_page)]
    ack_within: Duration


class Escalation(_Section):
    steps: Annotated[list[Step], Field(min_length=1)]
    repeat: Annotated[int, Field(ge=1, le=100)] = 1
    catch_all: ReachablePerson


def _goals(goals: dict[str, float]) -> dict[str, float]:
    wrong: list[InitErrorDetails] = []
    for name, (low, high) in _GOAL_RANGES.items():
        if name in goals and not low <= goals[name] <= high:
            why = PydanticCustomError("goal", "must be from {low} to {high}", {"low": low, "high": high})
            wrong.append({"type": why, "loc": (name,), "input": goals[name]})
    if wrong:
        raise ValidationError.from_exception_data("goals", wrong)
    return goals


def _not_the_architect(deputy: str, info: ValidationInfo) -> str:
    if deputy == info.data.get("architect"):
        raise ValueError(f"'{deputy}' is the architect already; name another person or remove the deputy")
    return deputy


class Customer(_Section):
    name: Text
    architect: ReachablePerson
    deputy: Annotated[PersonId, AfterValidator(_not_the_architect)] | None = None
    escalation: EscalationName | None = None
    timezone: Zone | None = None
    language: Language | None = None
    business_hours: BusinessHours | None = None
    holidays: Holidays | None = None
    touchpoints: Annotated[list[Touchpoint], Field(min_length=1), AfterValidator(_distinct)] | None = None
    goals: Annotated[dict[GoalName, FiniteFloat], AfterValidator(_goals)] = {}
    check_in: Literal["weekly", "monthly", "quarterly", "yearly"] | None = None
    rules: list[Rule] = []
    desk: DeskName | None = None


class Sla(_Section):
    first_response: Duration
    resolve: Duration


class Webhook(_Section):
    url: Url
    secret_env: Env | None = None
    customers: Annotated[list[CustomerId], Field(min_length=1)] | None = None
    events: Annotated[list[TicketEvent], Field(min_length=1)] | None = None


class Desk(_Section):
    type: Slug
    url: Url
    token_env: Env
    group: Text | None = None


class Smtp(_Section):
    host: Annotated[str, _matches(r"[A-Za-z0-9.:-]{1,253}", "a host name or address, without a port")]
    port: Annotated[int, Field(ge=1, le=65535)] = 587
    tls: Literal["none", "starttls", "implicit"] = "starttls"
    sender: Email
    user_env: Env | None = None
    password_env: Env | None = None


class Channels(_Section):
    smtp: Smtp | None = None


class Key(_Section):
    id: Slug
    kind: Literal["publishable", "secret"]
    sha256: Sha256
    customer: CustomerId | None = None
    customers: Annotated[list[CustomerId], Field(min_length=1), AfterValidator(_distinct)] | None = None
    scopes: Annotated[list[model.Scope], AfterValidator(_distinct)] = []
    origins: list[Origin] = []
    revoked: bool = False

    @model_validator(mode="after")
    def _fits_its_kind(self) -> Self:
        if self.kind == "publishable":
            if self.customer is None or self.customers is not None:
                raise ValueError("a publishable key has exactly one customer; write customer: ID")
            if self.scopes:
                raise ValueError("a publishable key can only post feedback; remove its scopes")
        else:
            if not self.scopes:
                raise ValueError("a secret key needs scopes, from feedback, scores, tickets, oncall, admin")
            if self.customer is not None and self.customers is not None:
                raise ValueError("has both customer and customers; keep one")
            if self.origins:
                raise ValueError("origins belong to publishable keys; a secret key is never in a web page: remove them")
        return self


def _enough(escalations: dict[str, Escalation], info: ValidationInfo) -> dict[str, Escalation]:
    if _names(info)["customers"] and not escalations:
        raise ValueError("there are customers, so at least one escalation is required")
    return escalations


class Document(_Section):
    """The whole file. Validate it with the declared `Names` as context."""

    company: Company
    touchpoints: Annotated[list[Slug], AfterValidator(_distinct)] = []
    metrics: dict[MetricName, Metric] = {}
    people: dict[NewPersonId, Person] = {}
    schedules: dict[Slug, Schedule] = {}
    escalations: Annotated[dict[Slug, Escalation], AfterValidator(_enough)] = Field({}, validate_default=True)
    rules: list[Rule] = Field(default_factory=_built_in_rules)
    customers: dict[Slug, Customer] = {}
    root_causes: Annotated[list[Text], AfterValidator(_distinct)] = []
    sla: dict[model.Severity, Sla] = {}
    retention: Annotated[Duration, AfterValidator(_retention)] = 400 * _DAY
    webhooks: list[Webhook] = []
    desks: dict[Slug, Desk] = {}
    channels: Channels = Channels()
    keys: list[Key] = []
