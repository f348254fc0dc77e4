"""directory.yaml as a person writes it: every section with its fields, their ranges and defaults.

What is not here is an error.
"""

# ruff: noqa: RUF012 (pydantic copies defaults; ruff cannot see that Section is a model)
from __future__ import annotations

import re
from typing import Annotated, Literal, Self, cast

from pydantic import AfterValidator, AwareDatetime, BeforeValidator, Field, JsonValue, ValidationInfo, model_validator

from shared.directory import model
from shared.directory.fields import (
    DAY,
    BusinessHours,
    CaFile,
    ClockHours,
    ClockTime,
    CustomerId,
    Day,
    DeskName,
    Duration,
    Email,
    Env,
    EscalationName,
    Goals,
    Holidays,
    Host,
    Language,
    LocalMoment,
    LocalTime,
    MetricName,
    NewPersonId,
    Origin,
    PageTarget,
    PersonId,
    Phone,
    ReachablePerson,
    Reopening,
    Retention,
    Section,
    Sha256,
    SlackId,
    Slug,
    Text,
    TicketEvent,
    Touchpoint,
    TurnLength,
    Url,
    Watches,
    Zone,
    declared_names,
    distinct,
)
from shared.rules.document import Rule
from shared.wire.events import Audience


class Company(Section):
    """The company, and what people and customers that say nothing else inherit from it."""

    name: Text
    timezone: Zone = "UTC"
    language: Language = "en"


class Metric(Section):
    """A key metric of the customers' own."""

    unit: Annotated[str, Field(max_length=20)] = ""
    better: Literal["up", "down"] = "up"


_WAYS = ("email", "webhook", "sms", "voice", "slack", "teams", "mattermost", "ntfy", "pagerduty")


class Contact(Section):
    """One way to reach a person."""

    email: Email | None = None
    webhook: Url | None = None
    sms: Phone | None = None
    voice: Phone | None = None
    slack: SlackId | None = None
    teams: Url | None = None
    mattermost: Url | None = None
    ntfy: Url | None = None
    pagerduty: Env | None = None
    """Environment variable that holds the routing key."""
    secret_env: Env | None = None
    severities: Annotated[list[model.Severity], Field(min_length=1)] | None = None
    """Pages of these only; None: of all."""
    after: Duration | None = None
    """Not before the person has been paged for so long; None: at once, or when the contact before it fails."""
    ca_file: CaFile | None = None

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if sum(getattr(self, way) is not None for way in _WAYS) != 1:
            raise ValueError(f"must have exactly one of {', '.join(_WAYS)}")
        if self.secret_env is not None and self.webhook is None:
            raise ValueError("secret_env belongs to a webhook; remove it")
        return self

    def way(self) -> tuple[str, str]:
        """Return the channel and the address."""
        return next((way, getattr(self, way)) for way in _WAYS if getattr(self, way) is not None)


class Absence(Section):
    """Time in which a person is not paged, but as the catch-all. A date is the whole day, the last one too."""

    start: Annotated[LocalMoment, Field(alias="from")]
    until: LocalMoment

    @model_validator(mode="after")
    def _ends_after_it_starts(self) -> Self:
        if self.until < self.start:
            raise ValueError("must end after it starts")
        return self


class Person(Section):
    """Somebody who can be responsible and be paged."""

    name: Text
    title: Text | None = None
    photo: Url | None = None
    timezone: Zone | None = None
    language: Language | None = None
    quiet_hours: ClockHours | None = None
    holidays: Holidays | None = None
    """Public holidays on which the person is not on call in a schedule."""
    absences: list[Absence] = []
    digest_at: ClockTime = "08:00"
    """When the day's digest comes, by the person's clock."""
    contacts: list[Contact] = []


class Layer(Section):
    """People who take turns in a schedule."""

    rotation: Literal["hourly", "daily", "weekly", "custom"]
    start: LocalTime
    people: Annotated[list[PersonId], Field(min_length=1)]
    every: Annotated[int, Field(ge=1, le=1000)] = 1
    """A turn lasts so many hours, days or weeks."""
    turn: TurnLength | None = None
    """How long a turn of a custom rotation lasts; whole days keep the time of the wall clock."""
    restrict: Watches = []
    until: LocalTime | None = None

    @model_validator(mode="after")
    def _fits_its_rotation(self) -> Self:
        if (self.rotation == "custom") != (self.turn is not None):
            raise ValueError("a custom rotation has turn, such as 36h; the others have every")
        if self.rotation == "custom" and self.every != 1:
            raise ValueError("a custom rotation has turn and no every")
        if self.until is not None and self.until <= self.start:
            raise ValueError("must end after it starts")
        return self


class Schedule(Section):
    """Who is on call when: the first layer that has somebody. An override replaces them."""

    timezone: Zone | None = None
    holidays: Holidays | None = None
    """On these days hours with weekdays do not count, and those of `holidays` do."""
    layers: Annotated[list[Layer], Field(min_length=1)]


class Step(Section):
    """One step of an escalation: whom to page, and how long to wait for an acknowledgement."""

    page: PageTarget
    ack_within: Duration


class Escalation(Section):
    """Who is paged in which order, how often, and who in the end."""

    steps: Annotated[list[Step], Field(min_length=1)]
    repeat: Annotated[int, Field(ge=1, le=100)] = 1
    catch_all: ReachablePerson
    acknowledged_for: Duration = 4 * 3600
    """Paging goes on when an acknowledged ticket was not touched for so long."""


def _not_the_architect(deputy: str, info: ValidationInfo) -> str:
    if deputy == info.data.get("architect"):
        raise ValueError(f"'{deputy}' is the architect already; name another person or remove the deputy")
    return deputy


class Customer(Section):
    """One customer of the company and who answers for it."""

    name: Text
    architect: ReachablePerson
    deputy: Annotated[PersonId, AfterValidator(_not_the_architect)] | None = None
    escalation: EscalationName | None = None
    timezone: Zone | None = None
    language: Language | None = None
    business_hours: BusinessHours | None = None
    holidays: Holidays | None = None
    closed: Annotated[list[Day], Field(max_length=400)] = []
    touchpoints: Annotated[list[Touchpoint], Field(min_length=1), AfterValidator(distinct)] | None = None
    goals: Goals = {}
    touchpoint_goals: dict[Touchpoint, Goals] = {}
    check_in: Literal["daily", "weekly", "monthly", "quarterly", "yearly"] | None = None
    rules: list[Rule] = []
    desk: DeskName | None = None


class Sla(Section):
    """How soon a ticket of one severity is answered and resolved."""

    first_response: Duration
    resolve: Duration


class Webhook(Section):
    """An address that is told what happens to tickets."""

    url: Url
    secret_env: Env | None = None
    customers: Annotated[list[CustomerId], Field(min_length=1)] | None = None
    events: Annotated[list[TicketEvent], Field(min_length=1)] | None = None
    ca_file: CaFile | None = None


DeskMove = Literal["create", "acknowledged", "in_progress", "waiting", "resolved", "closed", "cancelled", "open"]


class Desk(Section):
    """A service desk that customers' tickets are mirrored to."""

    type: Literal["freshservice", "glpi", "jira", "redmine", "rt", "servicenow", "webhook", "zammad", "zendesk"]
    url: Url
    token_env: Env
    user_env: Env | None = None
    group: Text | None = None
    requester: Email | None = None
    hook_secret_env: Env | None = None
    calls_per_minute: Annotated[int, Field(ge=1, le=10_000)] = 60
    poll: Duration = 60
    options: dict[Text, Text] = {}
    ca_file: CaFile | None = None
    reopen: Reopening | None = None
    fields: dict[DeskMove, dict[Text, JsonValue]] = {}


class Smtp(Section):
    """Where e-mail leaves; secrets are named by environment variable."""

    host: Host
    port: Annotated[int, Field(ge=1, le=65535)] = 587
    tls: Literal["none", "starttls", "implicit"] = "starttls"
    sender: Email
    user_env: Env | None = None
    password_env: Env | None = None
    ca_file: CaFile | None = None


class Gateway(Section):
    """Where SMS or calls leave: an interface like Twilio's, or any that takes one JSON object."""

    type: Literal["twilio", "http"] = "twilio"
    url: Url | None = None
    account_env: Env | None = None
    token_env: Env
    sender: Text | None = None
    ca_file: CaFile | None = None
    template: dict[Text, Annotated[str, Field(max_length=500)]] = {}
    """Fields of the JSON object of an `http` gateway; {to}, {text}, {key} and {sender} are filled in."""

    @model_validator(mode="after")
    def _fits_its_type(self) -> Self:
        if self.type == "twilio":
            if self.account_env is None or self.sender is None:
                raise ValueError("a twilio gateway needs account_env and sender")
            if self.template:
                raise ValueError("template belongs to an http gateway; remove it")
        elif self.url is None:
            raise ValueError("an http gateway needs url")
        return self


class Slack(Section):
    """A Slack app; its signing secret lets the button in a message acknowledge."""

    token_env: Env
    signing_secret_env: Env | None = None
    url: Url = "https://slack.com"


class Ntfy(Section):
    """Access to an ntfy server that wants a token."""

    token_env: Env


class PagerDuty(Section):
    """Events API v2."""

    url: Url = "https://events.pagerduty.com"


class Channels(Section):
    """Ways out that the whole company shares."""

    smtp: Smtp | None = None
    sms: Gateway | None = None
    voice: Gateway | None = None
    slack: Slack | None = None
    ntfy: Ntfy | None = None
    pagerduty: PagerDuty = PagerDuty()
    comments_in_sms: bool = False
    """Whether what customers wrote may be in SMS and calls."""


class Heartbeat(Section):
    """A source of feedback that says regularly that it lives."""

    every: Duration
    customer: CustomerId
    severity: Literal["critical", "high"] = "high"


class Watchdog(Section):
    """An address that is called as long as paging works, and pages by other means when the calls stop."""

    url: Url
    every: Duration = 60


class KeyLimits(Section):
    """How many answers may be posted with a key."""

    per_minute: Annotated[int, Field(ge=1, le=10_000_000)]
    burst: Annotated[int, Field(ge=1, le=1_000_000)]


class Key(Section):
    """An API key, by the hash of its text."""

    id: Slug
    kind: Literal["publishable", "secret"]
    sha256: Sha256
    customer: CustomerId | None = None
    customers: Annotated[list[CustomerId], Field(min_length=1), AfterValidator(distinct)] | None = None
    scopes: Annotated[list[model.Scope], AfterValidator(distinct)] = []
    origins: list[Origin] = []
    revoked: bool = False
    audience: Audience | None = None
    not_before: AwareDatetime | None = None
    expires: AwareDatetime | None = None
    limits: KeyLimits | None = None

    @model_validator(mode="after")
    def _fits_its_kind(self) -> Self:
        if self.not_before is not None and self.expires is not None and self.expires <= self.not_before:
            raise ValueError("expires before it is good: expires must be after not_before")
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
            if self.audience is not None:
                raise ValueError("audience belongs to publishable keys; with a secret key each answer says its own")
        return self


def _enough(escalations: dict[str, Escalation], info: ValidationInfo) -> dict[str, Escalation]:
    if declared_names(info)["customers"] and not escalations:
        raise ValueError("there are customers, so at least one escalation is required")
    return escalations


def _flat(tree: object) -> tuple[str, ...]:
    """Return every node of a tree of causes as its path."""
    if not isinstance(tree, list):
        raise ValueError("must be a list of causes")
    found: list[str] = []
    for item in cast("list[object]", tree):
        if not isinstance(item, (str, dict)):
            raise ValueError("a cause must be text, or a mapping of one to the causes below it")
        branches = cast("dict[object, object]", item if isinstance(item, dict) else {item: []})
        for name, below in branches.items():
            if not isinstance(name, str) or not re.fullmatch(r"(?=.*\S)[^\x00-\x1f\x7f/]{1,60}", name):
                raise ValueError("a cause must be one line of 1 to 60 characters without '/'")
            found.append(name)
            found += [f"{name}/{path}" for path in _flat(below)]
    return tuple(distinct(found))


RootCauses = Annotated[tuple[str, ...], BeforeValidator(_flat)]
"""Causes, each a name or a mapping of a name to the list of causes below it."""


class Document(Section):
    """The whole file. Validate it with the declared `Names` as context."""

    company: Company
    touchpoints: Annotated[list[Slug], AfterValidator(distinct)] = []
    metrics: dict[MetricName, Metric] = {}
    people: dict[NewPersonId, Person] = {}
    schedules: dict[Slug, Schedule] = {}
    escalations: Annotated[dict[Slug, Escalation], AfterValidator(_enough)] = Field({}, validate_default=True)
    rules: list[Rule] | None = None
    """None: the built-in ones."""
    customers: dict[Slug, Customer] = {}
    root_causes: RootCauses = ()
    sla: dict[model.Severity, Sla] = {}
    retention: Retention = 400 * DAY
    revote_after: Annotated[Duration, Field(ge=1, le=31 * DAY)] = model.REVOTE_AFTER
    webhooks: list[Webhook] = []
    desks: dict[Slug, Desk] = {}
    channels: Channels = Channels()
    heartbeats: dict[Slug, Heartbeat] = {}
    watchdog: Watchdog | None = None
    team: Annotated[list[PersonId], AfterValidator(distinct)] = []
    """Who reads of good experiences every day, besides the customer's architect and deputy."""
    keys: list[Key] = []
