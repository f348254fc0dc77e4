"""`GET /v1/service` counts in SQL what the tickets and their timelines say."""

from __future__ import annotations

import random
import statistics
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from typing import cast

import pytest

from services.ticketing.domain.service import Service, service_of
from services.ticketing.domain.ticket import ACTIVE, Entry, LineKind, Outcome, entry
from services.ticketing.store import desks, tickets
from shared.database.migrate import migrate
from shared.database.pool import Database
from shared.wire.events import TicketState, TicketV1
from tests.support.build import NOW, evidence, ticket
from tests.support.services import MIGRATIONS

_STATES: tuple[TicketState, ...] = (*cast("tuple[TicketState, ...]", tuple(ACTIVE)), "resolved", "closed", "cancelled")


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    made = Database(database_url, "ticketing", pool=3)
    await migrate(made, MIGRATIONS["ticketing"])
    yield made
    await made.close()


def _random(chance: random.Random, number: int) -> Outcome:
    """Return a ticket with some of its past."""
    state = chance.choice(_STATES)
    opened_at = NOW - timedelta(days=chance.uniform(0, 120))
    answered = state in {"resolved", "closed"} or chance.random() < 0.6
    made = ticket(
        number=number,
        customer=chance.choice(("acme", "acme", "borealis")),
        dedup_key=f"problem/{number}",
        state=state,
        opening=chance.choice((1, 1, 1, 2, 3)),
        opened_at=opened_at,
        acknowledged_at=opened_at + timedelta(seconds=chance.uniform(0, 90_000)) if answered else None,
        resolved_at=NOW if state in {"resolved", "closed"} else None,
        evidence=[evidence(respondent=chance.choice(("r-1", None))) for _ in range(chance.randrange(3))],
    )
    changes: list[tuple[LineKind, str]] = [("state", "waiting"), ("state", "in_progress"), ("assignee", "waiting")]
    lines = [entry(made.id, NOW, "architect-1", what, after=after) for what, after in changes if chance.random() < 0.3]
    return Outcome(made, "ticket.updated", tuple(lines))


def _naive(found: Sequence[tuple[TicketV1, Sequence[Entry]]]) -> Service:
    """Compute the figures from decoded tickets and their lines."""
    of = [
        (one, any(line.what == "state" and line.detail.get("after") == "waiting" for line in lines))
        for one, lines in found
    ]
    resolved = [(one, waited) for one, waited in of if one.resolved_at is not None or one.opening > 1]
    asked = [one for one, _ in resolved if any(answer.respondent for answer in one.evidence)]
    times = [(one.acknowledged_at - one.opened_at).total_seconds() for one, _ in of if one.acknowledged_at is not None]

    def share(held: Sequence[bool]) -> float | None:
        return round(sum(held) / len(held), 4) if held else None

    return Service(
        tickets=len(of),
        resolved=len(resolved),
        first_contact_resolution=share([one.opening == 1 and not waited for one, waited in resolved]),
        first_response_seconds=statistics.median(times) if times else None,
        recovery_rate=share([one.opening == 1 for one in asked]),
        reopen_rate=share([one.opening > 1 for one, _ in resolved]),
    )


@pytest.mark.parametrize("count", [0, 1, 7, 150])
async def test_the_figures_are_those_of_the_tickets(database: Database, count: int) -> None:
    chance = random.Random(count)
    outcomes = [_random(chance, number) for number in range(1, count + 1)]
    since = NOW - timedelta(days=90)
    async with database.transaction() as tx:
        await tickets.save(tx, outcomes, {one.ticket.id: None for one in outcomes})
        # Saved again, as what happens later does: that it once waited stays known.
        await tickets.save(
            tx,
            [Outcome(one.ticket, "ticket.updated", ()) for one in outcomes],
            {one.ticket.id: None for one in outcomes},
        )
        found = service_of(await tickets.tally(tx, "acme", since))
    counted = [
        (one.ticket, one.entries)
        for one in outcomes
        if one.ticket.customer == "acme" and one.ticket.opened_at >= since and one.ticket.state != "cancelled"
    ]
    wanted = _naive(counted)
    assert found.first_response_seconds == (
        None if wanted.first_response_seconds is None else pytest.approx(wanted.first_response_seconds, abs=1e-3)
    )
    assert (found.tickets, found.resolved) == (wanted.tickets, wanted.resolved)
    assert found.first_contact_resolution == wanted.first_contact_resolution
    assert (found.recovery_rate, found.reopen_rate) == (wanted.recovery_rate, wanted.reopen_rate)


_SHOWN = "SELECT ticket, answer, respondent, occurred_at, contact, language FROM shown_answer ORDER BY 1, 2"


_STEPS = (
    *("told_state", "fields", "story", "answers", "unread", "remarks_upto", "held_until", "refused", "followed_at"),
    *("sealed", "ended_at", "rests"),
)
"""Columns of what a desk has that came later."""


async def test_the_upgrade_reads_the_columns_from_the_tickets(database: Database) -> None:
    """What was stored before there were such columns has the same figures."""
    chance = random.Random(7)
    outcomes = [_random(chance, number) for number in range(1, 101)]
    async with database.transaction() as tx:
        await tickets.save(tx, outcomes, {one.ticket.id: None for one in outcomes})
        before = await tickets.tally(tx, "acme", NOW - timedelta(days=200))
        shown = await tx.fetch(_SHOWN)
        await tx.execute("ALTER TABLE ticket DROP opening, DROP acknowledged_at, DROP named, DROP waited")
        await tx.execute("ALTER TABLE webhook_delivery DROP secret_env")
        await tx.execute("ALTER TABLE seen_page DROP ticket")
        await tx.execute("DROP TABLE desk_duplicate, desk_erasure, erasure_key, desk_reference")
        await tx.execute(f"ALTER TABLE desk_ticket {', '.join(f'DROP {column}' for column in _STEPS)}")
        await tx.execute(
            "INSERT INTO desk_ticket (ticket, desk, customer, severity, wanted, pushed, reference, error, due_at) "
            "VALUES ($1, 'main', 'acme', 4, 1, 1, 'D-1', 'HTTP 422', $2)",
            outcomes[0].ticket.id,
            NOW,
        )
        await tx.execute("ALTER TABLE ticket DROP evidence_told_at, DROP tell_at")
        await tx.execute("ALTER TABLE shown_answer DROP occurred_at, DROP contact, DROP language")
        await tx.execute("UPDATE version SET version_num = '0002'")
    assert any("0003" in name for name in await migrate(database, MIGRATIONS["ticketing"]))
    async with database.transaction() as tx:
        assert await tickets.tally(tx, "acme", NOW - timedelta(days=200)) == before
        assert shown
        assert await tx.fetch(_SHOWN) == shown, "whom to ask, and when they answered"
        mirror = await desks.one(tx, outcomes[0].ticket.id)
    assert mirror is not None
    assert mirror.told_state == outcomes[0].ticket.state
    assert set(mirror.answers) == {answer.id for answer in outcomes[0].ticket.evidence}, "they are not told again"
    assert (mirror.story, mirror.held_until) == ("told", NOW)
