"""Tiny builders: a believable object, with what a test cares about said in the call."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, cast

from services.notify.domain.chain import EscalationStep
from services.notify.domain.page import Page
from services.scoring.domain.counting import DatedScore
from shared.directory.model import (
    Condition,
    Contact,
    Customer,
    Directory,
    Escalation,
    Key,
    Metric,
    MoodAtMost,
    Person,
    Rule,
    Step,
)
from shared.rules import base
from shared.wire.events import AlertScoresV1, AlertV1, EvidenceV1, FeedbackReceivedV1, PageV1, TicketV1
from shared.wire.ids import uuid7

NOW = datetime(2026, 11, 23, 10, 20, 30, tzinfo=UTC)
"""A Monday morning."""


def ago(**duration: float) -> datetime:
    """Return the moment so long before NOW."""
    return NOW - timedelta(**duration)


def answer(score: float = 9, **fields: Any) -> FeedbackReceivedV1:
    """Return an NPS answer of an unnamed, verified respondent, given and received just now."""
    said: dict[str, Any] = {
        "id": uuid7(),
        "customer": "acme",
        "kind": "nps",
        "occurred_at": NOW,
        "received_at": NOW,
        "trust": "verified",
        "touchpoint": "support",
        "channel": "email",
    }
    return FeedbackReceivedV1(score=score, **{**said, **fields})


def dated_score(answer: FeedbackReceivedV1) -> DatedScore:
    """Return what a respondent said with an answer."""
    return DatedScore(answer.occurred_at, answer.received_at, answer.id, answer.score)


def evidence(score: float = 1, **fields: Any) -> EvidenceV1:
    """Return an unhappy face with its comment."""
    said: dict[str, Any] = {
        "id": uuid7(),
        "kind": "mood",
        "occurred_at": NOW,
        "trust": "verified",
        "comment": "Nobody called back.",
        "respondent": "r-17",
        "channel": "widget",
        "language": "fi",
    }
    return EvidenceV1(score=score, **{**said, **fields})


def alert(**fields: Any) -> AlertV1:
    """Return the open alert of one unhappy face in support."""
    told: dict[str, Any] = {
        "id": uuid7(),
        "version": 1,
        "customer": "acme",
        "touchpoint": "support",
        "rule": "mood-one",
        "kind": "mood_at_most",
        "severity": "critical",
        "state": "open",
        "opened_at": NOW,
        "cleared_at": None,
        "caused_at": NOW,
        "summary": "Mood 1 of 4 at support",
        "reason": {"score": 1, "threshold": 1},
        "scores": AlertScoresV1(nps=-12.5, nps_responses=40, nps_goal=40, mood=2.9, mood_responses=21, mood_goal=3.2),
        "evidence": [evidence()],
        "dedup_key": "acme/mood-one/support",
        "trust": "verified",
    }
    return AlertV1(**{**told, **fields})


def ticket(**fields: Any) -> TicketV1:
    """Return the ticket of that alert, just opened."""
    told: dict[str, Any] = {
        "id": uuid7(),
        "number": 1042,
        "customer": "acme",
        "touchpoint": "support",
        "title": "acme: Mood 1 of 4 at support",
        "severity": "critical",
        "state": "open",
        "assignee": "architect-1",
        "alert": uuid7(),
        "dedup_key": "acme/mood-one/support",
        "opened_at": NOW,
        "version": 1,
        "summary": "Mood 1 of 4 at support",
        "caused_at": NOW,
    }
    return TicketV1(**{**told, **fields})


def turn(person: str | None = "architect-1", **fields: Any) -> EscalationStep:
    """Return a step of five minutes that finds the architect."""
    return EscalationStep(person=person, **{"via": "architect", "ack_within": 300.0, **fields})


def page(**fields: Any) -> Page:
    """Return the page of that ticket: architect, deputy, twice, then the duty manager; nobody was paged yet."""
    facts: dict[str, Any] = {
        "id": uuid7(),
        "version": 1,
        "ticket": uuid7(),
        "ticket_number": 1042,
        "opening": 1,
        "customer": "acme",
        "customer_name": "Acme Oy",
        "severity": "critical",
        "title": "acme: Mood 1 of 4 at support",
        "summary": "Mood 1 of 4 at support",
        "evidence": [],
        "steps": [turn(), turn("architect-2", via="deputy")],
        "repeat": 2,
        "catch_all": "duty-manager",
        "state": "pending",
        "opened_at": NOW,
        "due_at": NOW,
    }
    return Page(**{**facts, **fields})


def page_message(**fields: Any) -> PageV1:
    """Return what others are told of that page when its first person was reached."""
    told: dict[str, Any] = {
        "id": uuid7(),
        "version": 3,
        "ticket": uuid7(),
        "opening": 1,
        "customer": "acme",
        "severity": "critical",
        "state": "sent",
        "level": 1,
        "round": 1,
        "opened_at": NOW,
        "person": "architect-1",
    }
    return PageV1(**{**told, **fields})


def rule(when: base.Condition | None = None, **fields: Any) -> Rule:
    """Return the rule on one unhappy face, or on another condition."""
    return Rule(when=cast("Condition", when or MoodAtMost(1)), **{"name": "mood-one", "severity": "critical", **fields})


def person(id: str = "architect-1", **fields: Any) -> Person:
    """Return somebody who can be mailed."""
    facts: dict[str, Any] = {
        "name": id.replace("-", " ").title(),
        "timezone": "Europe/Helsinki",
        "language": "fi",
        "contacts": (Contact("email", f"{id}@example.test"),),
    }
    return Person(id=id, **{**facts, **fields})


def customer(id: str = "acme", **fields: Any) -> Customer:
    """Return a customer with an architect and a deputy."""
    facts: dict[str, Any] = {
        "name": f"{id.title()} Oy",
        "architect": "architect-1",
        "deputy": "architect-2",
        "escalation": "standard",
        "timezone": "Europe/Helsinki",
        "language": "fi",
        "goals": {"nps": 40.0, "mood": 3.2},
    }
    return Customer(id=id, **{**facts, **fields})


def escalation(**fields: Any) -> Escalation:
    """Return the standard escalation: architect, deputy, twice, then the duty manager."""
    facts: dict[str, Any] = {
        "name": "standard",
        "steps": (Step("architect", 300.0), Step("deputy", 300.0)),
        "catch_all": "duty-manager",
        "repeat": 2,
    }
    return Escalation(**{**facts, **fields})


def key(kind: str = "secret", **fields: Any) -> Key:
    """Return a key: a secret one for everything, or a publishable one of acme."""
    secret: dict[str, Any] = {"id": "ops", "scopes": ("admin", "feedback", "scores", "tickets", "oncall")}
    public: dict[str, Any] = {"id": "acme-widget", "customers": ("acme",), "origins": ("https://www.acme.example",)}
    return Key(**{"kind": kind, "sha256": "0" * 64, **(secret if kind == "secret" else public), **fields})


def directory(**fields: Any) -> Directory:
    """Return a company with one customer, its people and its touchpoints."""
    facts: dict[str, Any] = {
        "company": "Example Oy",
        "timezone": "Europe/Helsinki",
        "language": "fi",
        "people": {name: person(name) for name in ("architect-1", "architect-2", "duty-manager")},
        "customers": {"acme": customer()},
        "escalations": {"standard": escalation()},
        "touchpoints": ("support", "billing", "sales"),
        "metrics": {"first-contact-resolution": Metric("%", "up")},
        "rules": (rule(),),
        "keys": (key(), key("publishable")),
        "root_causes": ("process", "people", "product"),
    }
    return Directory(**{**facts, **fields})
