"""The directory as the services hold it: frozen, defaults resolved, durations in seconds, one wire record.

What a person edits is `document.py`; `resolve.resolve` turns one into the other. Decisions may import this module: it
holds no I/O and only facts.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, datetime
from typing import Any, Literal

import msgspec

from shared.rules.conditions import Condition
from shared.rules.metric import MetricMean as MetricMean
from shared.rules.mood import MoodBelow as MoodBelow
from shared.rules.mood import UnhappyShareAbove as UnhappyShareAbove
from shared.rules.nps import DetractorsAtLeast as DetractorsAtLeast
from shared.rules.nps import NpsBelow as NpsBelow
from shared.rules.nps import NpsDrop as NpsDrop
from shared.rules.sequence import NoFeedbackFor as NoFeedbackFor
from shared.rules.sequence import Shift as Shift
from shared.rules.single import (
    FollowUpAtMost as FollowUpAtMost,
)
from shared.rules.single import (
    MoodAtLeast as MoodAtLeast,
)
from shared.rules.single import (
    MoodAtMost as MoodAtMost,
)
from shared.rules.single import (
    ScoreAtMost as ScoreAtMost,
)

Severity = Literal["critical", "high", "medium", "low", "info"]
Audience = Literal["customer", "employee"]
Scope = Literal["feedback", "scores", "tickets", "oncall", "admin"]

SEVERITIES: tuple[Severity, ...] = ("info", "low", "medium", "high", "critical")
"""From mildest to most severe; a severity's rank is its place here."""


def severity_rank(severity: Severity) -> int:
    """Return the place of a severity in `SEVERITIES`; a higher number is more severe."""
    return SEVERITIES.index(severity)


class _Fact(msgspec.Struct, frozen=True, forbid_unknown_fields=False, omit_defaults=True):
    """A reader ignores fields that a newer writer has added."""


class Rule(_Fact, frozen=True):
    """What makes an alert. `touchpoint` limits it to one; `per_touchpoint` judges each by itself."""

    name: str
    when: Condition
    severity: Severity
    touchpoint: str | None = None
    per_touchpoint: bool = False
    audience: Audience = "customer"
    trust: Literal["verified", "any"] = "verified"
    """`any`: anonymous answers alone may reach the rule's full severity."""
    max_age: int = 24 * 3600
    """Seconds; an older answer changes scores and opens nothing."""
    cooldown: int = 0
    """Seconds after an alert cleared in which the rule opens none for the same dedup_key."""
    enabled: bool = True


class Contact(_Fact, frozen=True):
    """One way to reach a person. `channel` names the driver; `address` is what that driver takes."""

    channel: str
    address: str
    secret_env: str | None = None
    """Environment variable that holds the webhook's signing secret."""
    severities: tuple[Severity, ...] = ()
    """Empty: pages of all."""
    after: int | None = None
    """Seconds for which the person has been paged; None: at once, or when the contact before it fails."""
    ca_file: str | None = None
    """File of certificates of authorities that are believed besides the public ones, as in all `ca_file`."""


class Absence(_Fact, frozen=True):
    """Time in which a person is not paged, but as the catch-all."""

    start: str
    """Local time such as 2026-12-20T00:00, by the person's clock."""
    until: str
    """The same; excluded."""


class Person(_Fact, frozen=True):
    """Somebody who can be responsible and be paged."""

    id: str
    name: str
    timezone: str
    language: str
    title: str | None = None
    photo: str | None = None
    quiet_hours: str | None = None
    holidays: str | None = None
    """Public holidays (a country, or DE-BY) on which the person is not on call in a schedule."""
    absences: tuple[Absence, ...] = ()
    digest_at: str = "08:00"
    contacts: tuple[Contact, ...] = ()
    """In the order to try."""


class Layer(_Fact, frozen=True):
    """People who take turns."""

    rotation: Literal["hourly", "daily", "weekly", "custom"]
    start: str
    """Local time of the first turn, by the schedule's clock."""
    people: tuple[str, ...]
    every: int = 1
    """Hours, days or weeks of a turn."""
    turn: int | None = None
    """Seconds of a turn of a custom rotation; whole days keep the time of the wall clock."""
    restrict: tuple[str, ...] = ()
    """Hours in which the layer is on call, such as `Mon-Fri 18:00-08:00`; empty: always."""
    until: str | None = None
    """Local time; excluded."""


class Schedule(_Fact, frozen=True):
    """Who is on call when: the first layer that has somebody."""

    name: str
    timezone: str
    layers: tuple[Layer, ...]
    holidays: str | None = None
    """On these days hours with weekdays do not count, and those of `holidays` do."""


class Step(_Fact, frozen=True):
    """One step of an escalation. `page`: architect, deputy, catch_all, person:ID or schedule:NAME."""

    page: str
    ack_within: float
    """Seconds until the next step."""


class Escalation(_Fact, frozen=True):
    """Who is paged in which order, how often, and who in the end."""

    name: str
    steps: tuple[Step, ...]
    catch_all: str
    """A person's id."""
    repeat: int = 1
    """Rounds of the steps in all, before the catch-all."""
    acknowledged_for: float = 4 * 3600
    """Seconds; paging goes on when an acknowledged ticket was not touched for so long."""


class Customer(_Fact, frozen=True):
    """One customer of the company and who answers for it."""

    id: str
    name: str
    architect: str
    escalation: str
    timezone: str
    language: str
    deputy: str | None = None
    touchpoints: tuple[str, ...] = ()
    business_hours: str | tuple[str, ...] | None = None
    """When it is open, such as Mon-Fri 08:00-16:00 (a text alone in revisions of before); None: around the clock."""
    holidays: str | None = None
    closed: tuple[date, ...] = ()
    """Days on which it is closed besides, by its own clock."""
    goals: Mapping[str, float] = {}
    """By nps, mood, or a key metric."""
    touchpoint_goals: Mapping[str, Mapping[str, float]] = {}
    """The same, by touchpoint."""
    check_in: str | None = None
    rules: tuple[Rule, ...] = ()
    """Override the company's rules of the same name, or add to them."""
    desk: str | None = None


REVOTE_AFTER = 12 * 3600
"""Seconds within which a browser counts once, unless the directory says otherwise."""


class KeyLimits(_Fact, frozen=True):
    """How much may be posted with a key: answers, an array's each."""

    per_minute: int
    burst: int
    """At once, after a pause."""


class Key(_Fact, frozen=True):
    """An API key, by the hash of its text."""

    id: str
    kind: Literal["publishable", "secret"]
    sha256: str
    """Lower-case hex digest of the whole key text."""
    customers: tuple[str, ...] = ()
    """Empty: every customer (secret keys only)."""
    scopes: tuple[Scope, ...] = ()
    origins: tuple[str, ...] = ()
    revoked: bool = False
    audience: Audience = "customer"
    """Whose answers come with a publishable key."""
    not_before: datetime | None = None
    expires: datetime | None = None
    limits: KeyLimits | None = None
    """None: those of the installation."""


class Metric(_Fact, frozen=True):
    """A key metric of the customers' own."""

    unit: str = ""
    better: Literal["up", "down"] = "up"


class Smtp(_Fact, frozen=True):
    """Where e-mail leaves. Secrets are named by environment variable."""

    host: str
    sender: str
    port: int = 587
    tls: Literal["none", "starttls", "implicit"] = "starttls"
    user_env: str | None = None
    password_env: str | None = None
    ca_file: str | None = None


class Gateway(_Fact, frozen=True):
    """Where SMS or calls leave."""

    type: Literal["twilio", "http"]
    token_env: str
    url: str | None = None
    """None: Twilio's."""
    account_env: str | None = None
    sender: str | None = None
    template: Mapping[str, str] = {}
    """Fields of the JSON object of an `http` gateway."""
    ca_file: str | None = None


class Slack(_Fact, frozen=True):
    """A Slack app."""

    token_env: str
    signing_secret_env: str | None = None
    """Signs what Slack sends when a button is pressed; None: messages have a link only."""
    url: str = "https://slack.com"


class Heartbeat(_Fact, frozen=True):
    """A source of feedback that says regularly that it lives."""

    every: int
    """Seconds."""
    customer: str
    """Whose architect is paged."""
    severity: Severity = "high"


class Watchdog(_Fact, frozen=True):
    """An address that is called as long as paging works."""

    url: str
    every: int = 60
    """Seconds."""


class Sla(_Fact, frozen=True):
    """How soon a ticket of one severity is answered and resolved, in seconds of the customer's business hours."""

    first_response: int
    resolve: int


class Webhook(_Fact, frozen=True):
    """An address that is told what happens to tickets."""

    url: str
    secret_env: str | None = None
    """Environment variable that holds the signing secret; None: one derived from ours and the address."""
    customers: tuple[str, ...] = ()
    """Empty: every customer."""
    events: tuple[str, ...] = ()
    """Empty: every event."""
    ca_file: str | None = None


class Desk(_Fact, frozen=True):
    """A service desk that customers' tickets are mirrored to. Secrets are named by environment variable."""

    type: str
    url: str
    token_env: str
    user_env: str | None = None
    """The account that the token belongs to, where the desk's API wants both."""
    group: str | None = None
    """Where new tickets go: a group, queue or project, as the desk calls it."""
    requester: str | None = None
    """E-mail of who new tickets are on behalf of; None: the account of the token. Never the respondent: desks mail whom
    a ticket is of, and keep them when the text is erased."""
    hook_secret_env: str | None = None
    """Signs the desk's own webhooks to us; None: the desk is polled only."""
    calls_per_minute: int = 60
    poll: int = 60
    """Seconds between two looks at what changed in the desk."""
    options: Mapping[str, str] = {}
    """What only this type of desk has."""
    fields: Mapping[str, Mapping[str, Any]] = {}
    """What the desk asks for besides, in its own words: with `create`, or with the move to a state."""
    ca_file: str | None = None
    reopen: int | None = None
    """Seconds after its end for which a ticket of the desk is opened again, later there is a new one that follows it
    up; None: as long as the desk lets anybody."""


class Directory(_Fact, frozen=True):
    """One whole revision."""

    company: str
    timezone: str
    language: str
    people: Mapping[str, Person]
    customers: Mapping[str, Customer]
    escalations: Mapping[str, Escalation]
    touchpoints: tuple[str, ...] = ()
    metrics: Mapping[str, Metric] = {}
    rules: tuple[Rule, ...] = ()
    keys: tuple[Key, ...] = ()
    root_causes: tuple[str, ...] = ()
    """Every node of the tree, as `process/handover`."""
    sla: Mapping[Severity, Sla] = {}
    webhooks: tuple[Webhook, ...] = ()
    desks: Mapping[str, Desk] = {}
    retention: int = 400 * 86400
    revote_after: int = REVOTE_AFTER
    """Seconds within which the answers of one device at a touchpoint count once, by the latest."""
    """Seconds."""
    smtp: Smtp | None = None
    sms: Gateway | None = None
    voice: Gateway | None = None
    slack: Slack | None = None
    ntfy_token_env: str | None = None
    pagerduty_url: str = "https://events.pagerduty.com"
    comments_in_sms: bool = False
    """Whether what customers wrote may be in SMS and calls."""
    schedules: Mapping[str, Schedule] = {}
    heartbeats: Mapping[str, Heartbeat] = {}
    watchdog: Watchdog | None = None
    team: tuple[str, ...] = ()
    """Who reads of good experiences, besides the customer's architect and deputy."""

    def touchpoints_of(self, customer: Customer) -> tuple[str, ...]:
        """Return the touchpoints at which a customer is asked: by default all."""
        return customer.touchpoints or self.touchpoints

    def rules_of(self, customer: Customer) -> tuple[Rule, ...]:
        """Return the rules in force for a customer: its own replace the company's of the same name."""
        if not customer.rules:
            return tuple(rule for rule in self.rules if rule.enabled)
        own = {rule.name: rule for rule in customer.rules}
        inherited = [own.pop(rule.name, rule) for rule in self.rules]
        return tuple(rule for rule in (*inherited, *own.values()) if rule.enabled)
