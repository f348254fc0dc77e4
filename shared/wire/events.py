"""The wire messages, each the whole object with its version, so that nobody has to ask back.

The version of a message's shape is in the class name; fields are added with a default, never changed or removed.
Values are JSON; times are RFC 3339 in UTC.
"""

from __future__ import annotations

from datetime import datetime
from typing import Literal
from uuid import UUID

import msgspec

Kind = Literal["nps", "mood", "csat", "ces", "kpi"]
Audience = Literal["customer", "employee"]
Channel = Literal["widget", "email", "kiosk", "phone", "meeting", "desk", "import", "api"]
Trust = Literal["verified", "anonymous"]
Severity = Literal["critical", "high", "medium", "low", "info"]
TicketState = Literal["open", "acknowledged", "in_progress", "waiting", "resolved", "closed", "cancelled"]
PageState = Literal["pending", "sent", "acknowledged", "resolved", "exhausted"]

RATINGS: dict[Kind, tuple[int, int]] = {"nps": (0, 10), "mood": (1, 4), "csat": (1, 5), "ces": (1, 7)}
"""Lowest and highest score of each kind that is a rating; `kpi` is any finite number."""


class _Message(msgspec.Struct, frozen=True, kw_only=True):
    """A reader ignores fields that a newer writer has added."""


class FeedbackReceivedV1(_Message, frozen=True, kw_only=True):
    """One accepted answer."""

    id: UUID
    customer: str
    kind: Kind
    score: int | float
    occurred_at: datetime
    received_at: datetime
    trust: Trust
    touchpoint: str | None = None
    respondent: str | None = None
    metric: str | None = None
    comment: str | None = None
    channel: Channel = "api"
    language: str | None = None
    audience: Audience = "customer"
    contact: str | None = None
    context: dict[str, str] | None = None
    backfill: bool = False
    follow_up: str | None = None
    """The dedup_key of the problem whose follow-up it answers."""
    device: str | None = None
    """What a widget calls its browser: without a respondent its answers count once within `revote_after`."""
    by_token: bool = False
    """A respondent token vouched for it, not a key of the company."""


class EvidenceV1(_Message, frozen=True, kw_only=True):
    """One of the answers that led to an alert."""

    id: UUID
    kind: Kind
    score: int | float
    occurred_at: datetime
    trust: Trust
    comment: str | None = None
    respondent: str | None = None
    channel: Channel = "api"
    language: str | None = None
    contact: str | None = None
    """E-mail of the respondent, for the follow-up."""
    received_at: datetime | None = None
    """None: told before it was told."""


class AlertScoresV1(_Message, frozen=True, kw_only=True):
    """Where the customer stood when the alert was decided, in the alert's touchpoint and window."""

    nps: float | None = None
    nps_responses: int = 0
    nps_goal: float | None = None
    mood: float | None = None
    mood_responses: int = 0
    mood_goal: float | None = None


class AlertV1(_Message, frozen=True, kw_only=True):
    """A breach of a rule. `reason` holds the numbers that the decision was made on, by the rule's own names."""

    id: UUID
    version: int
    customer: str
    touchpoint: str | None
    rule: str
    kind: str
    """The rule's type, such as `nps_below`."""
    severity: Severity
    state: Literal["open", "cleared"]
    opened_at: datetime
    cleared_at: datetime | None
    caused_at: datetime
    """When the answer that caused it was received."""
    summary: str
    reason: dict[str, str | int | float | None]
    scores: AlertScoresV1
    evidence: list[EvidenceV1]
    """Newest first, at most 20."""
    dedup_key: str
    trust: Trust
    sentences: dict[str, str] = {}
    """Why, in one sentence for a person, by language."""


class MetricPointV1(_Message, frozen=True, kw_only=True):
    """A key metric on a day, in its own unit."""

    mean: float
    responses: int
    goal: float | None = None
    gap: float | None = None
    """How far the mean is on the bad side of the goal."""


class ScoreDailyV1(_Message, frozen=True, kw_only=True):
    """Where a customer stood when a UTC day ended, over the 30 days until then; never rewritten."""

    customer: str
    day: str
    """Such as 2026-11-21."""
    version: int = 1
    nps: float | None = None
    nps_responses: int = 0
    nps_goal: float | None = None
    nps_gap: float | None = None
    """Goal - score."""
    mood: float | None = None
    mood_responses: int = 0
    mood_goal: float | None = None
    mood_gap: float | None = None
    metrics: dict[str, MetricPointV1] = {}
    weakest: str | None = None
    """The touchpoint with the lowest score."""


class StillOpenV1(_Message, frozen=True, kw_only=True):
    """What a stage holds open of a customer, told once an hour: what the next one does not know was lost on the way."""

    customer: str
    at: datetime
    ids: list[UUID]
    """Of alerts that a ticket belongs to, or of tickets that somebody is to be paged for."""


class ErasedV1(_Message, frozen=True, kw_only=True):
    """What one service did to forget a person."""

    service: str
    removed: int
    """Answers, tickets or pages that no longer say who it was."""
    left: str = ""
    """What is kept, and why."""


class RespondentErasedV1(_Message, frozen=True, kw_only=True):
    """Somebody, or one answer, is forgotten; each service erases its own, adds its line and passes it on."""

    erasure: UUID
    customer: str
    respondent: str
    """As it was asked for; empty where one answer is erased."""
    before: datetime
    """What was said or received until then is erased, also if it arrives later."""
    done: list[ErasedV1] = []
    by: str | None = None
    """Who asked for it, as the audit has it."""
    address: str | None = None
    """From where."""
    answer: UUID | None = None
    """The one answer that is erased, whose ever it is."""
    spellings: list[str] = []
    """How else the person was written in answers."""


class AuditV1(_Message, frozen=True, kw_only=True):
    """Something that somebody changed, or was refused. Never with a secret, a key's text, or what a respondent said."""

    id: UUID
    at: datetime
    service: str
    """Where it was done; `command`: on a command line."""
    actor: str
    """`key:ID`, a person of the directory, `command:USER`, or `unknown`."""
    what: str
    address: str | None = None
    """From where: an address, of refused keys its network, of commands the host."""
    customer: str | None = None
    detail: dict[str, str | int | float | bool | None] = {}


ClockState = Literal["met", "running", "warning", "breached"]


class SlaV1(_Message, frozen=True, kw_only=True):
    """Where each clock of the ticket stands; a clock that ran out stays `breached`."""

    first_response: ClockState = "running"
    resolve: ClockState = "running"


class PreviousTicketV1(_Message, frozen=True, kw_only=True):
    """An earlier ticket of the same problem and how it ended."""

    number: int
    opened_at: datetime
    state: TicketState
    root_cause: str | None = None
    resolution: str | None = None


class DeskV1(_Message, frozen=True, kw_only=True):
    """The ticket in the service desk."""

    type: str
    reference: str | None = None
    """None: it is not there yet."""
    url: str | None = None
    synced_at: datetime | None = None
    error: str | None = None
    """Why it is not there, or not as it stands here."""


class TicketContextV1(_Message, frozen=True, kw_only=True):
    """What the customer must not be asked again."""

    nps: float | None = None
    mood: float | None = None
    goal: float | None = None
    previous_tickets: list[str] = []
    """Numbers of earlier tickets of the same problem, newest first."""
    respondent_channel: str | None = None
    language: str | None = None
    previous: list[PreviousTicketV1] = []
    """The same with how they ended."""
    contact: str | None = None
    """E-mail of the newest respondent who left one."""


class TicketV1(_Message, frozen=True, kw_only=True):
    """One problem of one customer that a person works on."""

    id: UUID
    number: int
    customer: str
    touchpoint: str | None
    title: str
    severity: Severity
    state: TicketState
    assignee: str | None
    alert: UUID | None
    """The alert that opened it last."""
    dedup_key: str
    opened_at: datetime
    """When it was opened last."""
    version: int
    opening: int = 1
    """How many times it was opened; a page belongs to one opening."""
    acknowledged_at: datetime | None = None
    resolved_at: datetime | None = None
    root_cause: str | None = None
    resolution: str | None = None
    summary: str = ""
    evidence: list[EvidenceV1] = []
    """Newest first, at most 20: the one that opened it, then verified ones before others."""
    answer: UUID | None = None
    """The answer that opened it."""
    context: TicketContextV1 = TicketContextV1()
    caused_at: datetime | None = None
    """When the answer that opened it was received."""
    first_response_due: datetime | None = None
    """None: no such clock."""
    resolve_due: datetime | None = None
    """None: no such clock, or it stands still because the ticket waits."""
    resolve_left: float | None = None
    """Seconds that the resolve clock has left while the ticket waits."""
    sla: SlaV1 | None = None
    """None: the directory sets no clock for its severity."""
    desk: DeskV1 | None = None
    status_page: str | None = None
    worked_at: datetime | None = None
    """When a person last did something to it, here or in the desk."""
    acknowledged_severity: Severity | None = None
    """How severe it was when somebody took it last. Open and more severe than that: it rose, and its taker is asked
    first. None: nobody did in this opening, or what was taken was forgotten."""


class FollowUpDueV1(_Message, frozen=True, kw_only=True):
    """A ticket was resolved: the respondent is asked whether it was put right."""

    id: UUID
    ticket: UUID
    number: int
    opening: int
    customer: str
    touchpoint: str | None
    dedup_key: str
    respondent: str | None
    contact: str | None
    """E-mail; None: nobody can be asked by us."""
    language: str
    survey_url: str
    """Where the answer is given; it carries the dedup_key, so that a bad one reopens the ticket."""
    due_at: datetime
    version: int = 1


class PageV1(_Message, frozen=True, kw_only=True):
    """The search for a person who answers for a ticket."""

    id: UUID
    version: int
    ticket: UUID
    opening: int
    customer: str
    severity: Severity
    state: PageState
    level: int
    """1 is the first step; one more than the steps is the catch-all."""
    round: int
    opened_at: datetime
    person: str | None = None
    """Who is paged now, or who acknowledged."""
    acknowledged_at: datetime | None = None
    acknowledged_by: str | None = None
    ticket_number: int | None = None
    title: str = ""
    summary: str = ""
    touchpoint: str | None = None
    sent_at: datetime | None = None
    due_at: datetime | None = None
    """When the next person is paged; of an acknowledged page, when it is taken as forgotten."""
    held: str | None = None
    """What it waits for."""
    lead: UUID | None = None
    """The page that is sent for this one too."""
    repeat: int | None = None
    """Rounds of the steps in all, before the catch-all."""
    catch_all: str | None = None
