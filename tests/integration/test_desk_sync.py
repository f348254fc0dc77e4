"""Tickets and desks stay alike: one ticket however often we crash, both ways, and an outage that is no flood."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace as copied
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import asyncpg
import pytest
from msgspec.structs import replace

from services.ticketing.desk_sync import supervisor
from services.ticketing.desk_sync.pull import is_ours
from services.ticketing.desks import Remark
from services.ticketing.domain.erase import without
from services.ticketing.domain.ticket import Outcome, entry
from services.ticketing.ledger import TicketChange
from services.ticketing.sla_timer import SlaTimer
from services.ticketing.store import desks, erasures, tickets
from services.ticketing.token_bucket import TokenBucket
from shared.bus.client import Kafka
from shared.directory.follower import revision_of
from shared.directory.model import Sla
from shared.errors import Problem, Transient
from shared.http.client import Answer, Guard, Outbound
from shared.runtime.quarantine import Quarantine, items
from shared.wire.events import RespondentErasedV1
from shared.wire.ids import uuid7
from tests.support import build
from tests.support.desks import Reply, Trouble
from tests.support.desks.webhook import FakeReceiver, fake_webhook
from tests.support.desks.zammad import fake_zammad
from tests.support.office import FAKES, SEARCHABLE, Office, directory, office
from tests.support.wait import until


class Killed(BaseException):
    """The process dies here."""


class Mortal(Outbound):
    """The real client, in a process that dies at one of its calls."""

    def __init__(self, call: int, moment: str) -> None:
        super().__init__(Guard("true"))
        self._left = call
        self._moment = moment

    async def request(
        self, method: str, url: str, content: bytes, headers: Mapping[str, str], *, seconds: float, limit: int = 65_536
    ) -> Answer:
        self._left -= 1
        if self._left == 0 and self._moment == "before":
            raise Killed
        answer = await super().request(method, url, content, headers, seconds=seconds, limit=limit)
        if self._left == 0:
            raise Killed
        return answer


@pytest.fixture(params=list(FAKES))
async def at(
    request: pytest.FixtureRequest, database_url: str, kafka: Kafka, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Office]:
    async with office(FAKES[request.param](), database_url, kafka, monkeypatch) as made:
        yield made


@pytest.fixture
async def zammad(database_url: str, kafka: Kafka, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Office]:
    async with office(fake_zammad(), database_url, kafka, monkeypatch) as made:
        yield made


# ---- exactly one ticket


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("call", [1, 2, 3])
async def test_killed_at_a_call_there_is_one_ticket(at: Office, call: int, moment: str) -> None:
    """Before the call, after it and before what it returned is stored: the next process finds what is there."""
    at.run(Mortal(call, moment))
    ticket = await at.open()
    await at.change(ticket, state="in_progress")

    async def over() -> bool:
        """Tell whether it died, or had no such call to make."""
        async with at.database.transaction() as tx:
            waits = await tx.fetchval("SELECT count(*) FROM desk_ticket WHERE due_at IS NOT NULL")
        return (at.running is not None and at.running.done()) or not waits

    await until(over)
    await at.end()
    at.clock.move(timedelta(seconds=70))  # the leases are over
    at.run()
    await at.mirrored(ticket, step=timedelta(seconds=70))  # until the search has settled
    assert len(at.desk.of(ticket.id)) == 1
    assert (await at.ticket(ticket)).state == "in_progress", "our own words are no news from the desk"


@pytest.mark.parametrize("what", ["before", "after", "lost", "limited", "busy", "html", "huge", "odd"])
async def test_in_trouble_there_is_one_ticket(at: Office, what: Any) -> None:
    """A create that timed out but landed, a 429, a 500, a page of HTML: never a second ticket, never none."""
    if at.desk.type == "webhook" and what == "html":
        pytest.skip("any 2xx is yes from a webhook")
    at.desk.trouble = Trouble(what, methods={"POST"}, times=1, retry_after=1)
    ticket = await at.open()
    at.run()

    await at.mirrored(ticket, step=timedelta(minutes=11))
    assert at.desk.trouble is None
    assert len(at.desk.of(ticket.id)) == 1
    assert (await at.shown(ticket)).error is None


@pytest.mark.parametrize("name", SEARCHABLE)
async def test_a_duplicate_that_is_found_is_closed(
    name: str, database_url: str, kafka: Kafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever made it: one is kept, the other is closed and told of."""
    async with office(FAKES[name](), database_url, kafka, monkeypatch) as at:
        ticket = await at.open()
        at.run()
        await at.mirrored(ticket)
        await at.end()
        async with at.database.transaction() as tx:
            # As if another process had created one, and neither had stored it.
            await tx.execute(
                "UPDATE desk_ticket SET reference = NULL, asked_at = NULL, pushed = 0, due_at = $1", at.clock.now()
            )
        at.clock.move(timedelta(seconds=70))
        at.desk.trouble = Trouble("after", methods={"POST"}, times=1)
        at.run()
        await at.mirrored(ticket, step=timedelta(seconds=70))
        if name == "zendesk":
            assert len(at.desk.of(ticket.id)) == 1, "its idempotency key made it the same"
            return
        assert len(at.desk.of(ticket.id)) == 2
        assert len(await at.timeline(ticket, "duplicate")) == 1


class Stopped(Outbound):
    """The real client, in a process that is stopped when it is about to create."""

    def __init__(self) -> None:
        super().__init__(Guard("true"))
        self.there = asyncio.Event()
        self.goes_on = asyncio.Event()

    async def request(
        self, method: str, url: str, content: bytes, headers: Mapping[str, str], *, seconds: float, limit: int = 65_536
    ) -> Answer:
        if method == "POST":
            self.there.set()
            await self.goes_on.wait()
        return await super().request(method, url, content, headers, seconds=seconds, limit=limit)


async def test_a_process_that_was_stopped_while_it_created(zammad: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another one creates meanwhile; what the first then creates is one too many, and closed."""
    monkeypatch.setattr(supervisor, "_RENEW", 60.0)  # it does not notice by itself
    stopped = Stopped()
    zammad.run(stopped)
    first = zammad.running
    ticket = await zammad.open()
    await stopped.there.wait()
    zammad.clock.move(timedelta(seconds=70))
    zammad.run()
    try:
        reference = await zammad.mirrored(ticket, step=timedelta(seconds=70))
        stopped.goes_on.set()

        async def closed() -> bool:
            zammad.clock.move(timedelta(seconds=5))
            states = {one.reference: one.state for one in zammad.desk.of(ticket.id)}
            return len(states) == 2 and all(state == "closed" for of, state in states.items() if of != reference)

        await until(closed)
        assert await zammad.mirrored(ticket, step=timedelta(seconds=70)) == reference
        assert zammad.desk.tickets[reference].state != "closed"
        assert len(await zammad.timeline(ticket, "duplicate")) == 1
    finally:
        assert first is not None
        first.cancel()
        await asyncio.wait([first])


async def test_no_call_is_made_that_could_end_after_the_lease(zammad: Office) -> None:
    """A process that was stopped longer than that, and does not know yet, creates nothing."""
    desk_sync = zammad.run()
    await zammad.turned()
    (loop,) = desk_sync._loops.values()
    await zammad.end()
    loop.lost_at = asyncio.get_running_loop().time() + 15
    with pytest.raises(Transient):
        await loop._may_call()


async def test_a_duplicate_is_closed_by_whoever_comes_next(zammad: Office) -> None:
    """The process that found it died right after it had noted it."""
    ticket = await zammad.open()
    zammad.run()
    reference = await zammad.mirrored(ticket)
    await zammad.end()
    for copy in ("77", "78"):
        zammad.desk.keep(copied(zammad.desk.tickets[reference], reference=copy, comments=[]))
    zammad.desk.delete("78")  # by hand, meanwhile
    async with zammad.database.transaction() as tx:
        found = [("77", "#31077"), ("78", "#31078")]
        assert await desks.duplicated(tx, "main", ticket.id, found) == {"77", "78"}
        await desks.settle(tx, [ticket.id], zammad.clock.now())
    zammad.clock.move(timedelta(seconds=70))
    zammad.run()
    assert await zammad.mirrored(ticket) == reference
    assert zammad.desk.tickets["77"].state == "closed"
    assert f"Duplicate of #{zammad.desk.tickets[reference].number}" in zammad.desk.tickets["77"].says()
    assert zammad.desk.tickets[reference].state != "closed"
    assert (await zammad.shown(ticket)).error is None
    async with zammad.database.transaction() as tx:
        assert await desks.duplicates(tx, ticket.id) == []


# ---- both ways


@pytest.mark.parametrize("name", SEARCHABLE)
async def test_a_bulk_change_of_one_second_is_seen_whole(
    name: str, database_url: str, kafka: Kafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A desk's answer shows a hundred; that they all changed at once hides none of the others."""
    async with office(FAKES[name](), database_url, kafka, monkeypatch) as at:
        model = await at.open()
        at.run()
        pattern = at.desk.tickets[await at.mirrored(model)]
        await at.end()
        changed_at = at.clock.now()
        pattern.updated = changed_at
        opened = [await at.open() for _ in range(249)]
        for number, ticket in enumerate(opened, 5_000):
            tags = {tag.replace(str(model.id), str(ticket.id)) for tag in pattern.tags}
            reference = f"{number:032x}" if name == "servicenow" else str(number)
            made = copied(pattern, reference=reference, number=10_000 + number, ours=str(ticket.id), tags=tags)
            at.desk.tickets[reference] = made
            async with at.database.transaction() as tx:
                await tx.execute(
                    "UPDATE desk_ticket SET reference = $2, due_at = NULL WHERE ticket = $1", ticket.id, reference
                )
        before = changed_at + timedelta(minutes=1)
        async with at.database.transaction() as tx:
            await tx.execute("UPDATE desk SET polled_until = $1", before)
        at.clock.move(timedelta(seconds=40))  # the lease is over
        at.run()

        async def seen() -> bool:
            at.ledger.wake()
            async with at.database.transaction() as tx:
                unseen = await tx.fetchval("SELECT count(*) FROM desk_ticket WHERE seen_at IS NULL AND NOT heard")
                looked = await tx.fetchval("SELECT polled_until FROM desk")
            return not unseen and looked != before

        await until(seen)


async def test_a_webhook_tells_how_its_ticket_is(
    database_url: str, kafka: Kafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    """State, assignee and comments, each once; what comes late undoes nothing, and our own word is no news."""
    fake = fake_webhook()
    async with office(fake, database_url, kafka, monkeypatch) as at:
        ticket = await at.open()
        desk_sync = at.run()
        reference = await at.mirrored(ticket)

        async def tells(*, envelope: bool = False, **more: Any) -> bool:
            said = {"reference": reference, **more}
            headers, body = fake.tells({"type": "ticket.changed", "data": said} if envelope else said)
            assert at.follower.current is not None
            desk = desk_sync.driver("main", at.follower.current.directory.desks["main"])
            news = desk.heard(headers, body, FakeReceiver.secret, at.clock.now())
            assert news.told is not None
            return await desk_sync.take("main", news.reference, news.told)

        early = at.clock.now()
        at.clock.move(timedelta(minutes=1))
        said = {"id": 7, "author": "agent@desk.example", "text": "I called them"}
        assert await tells(state="in_progress", assignee="architect-2", comment=said)
        taken = await at.becomes(ticket, "in_progress")
        assert taken.assignee == "architect-2"
        assert await tells(envelope=True, comment=said), "again: nothing new"
        tie = (at.clock.now() - timedelta(seconds=3)).replace(microsecond=0).isoformat()
        for state in ("waiting", "in_progress"):
            assert await tells(state=state, timestamp=tie)
            taken = await at.becomes(ticket, state)  # its clock is behind ours, and of one second the last counts
        assert await tells(state="waiting", timestamp=early.isoformat())
        assert (await at.ticket(ticket)).version == taken.version
        assert [one["text"] for one in await at.timeline(ticket, "desk comment")] == ["I called them"]
        assert not await tells(reference="W-99", state="waiting")

        await at.change(ticket, state="waiting")
        await at.mirrored(ticket)
        assert fake.tickets[reference].state == "waiting"
        await at.change(ticket, state="in_progress")
        await at.mirrored(ticket)
        assert fake.tickets[reference].state == "in_progress", "it is told, though it had said so itself once"
        assert await tells(state="resolved", resolution="Mended there")
        resolved = await at.becomes(ticket, "resolved")
        assert resolved.resolution == "Mended there"
        await at.polled(rounds=2)
        assert (await at.ticket(ticket)).version == resolved.version


@pytest.mark.parametrize(
    "said",
    [{"state": "done"}, {"comment": {"id": 1}}, {"assignee": ""}, {"timestamp": "2026-11-22T10:00:00"}, {"data": 7}],
)
async def test_a_webhook_that_says_what_nobody_understands(
    said: dict[str, Any], database_url: str, kafka: Kafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = fake_webhook()
    async with office(fake, database_url, kafka, monkeypatch) as at:
        headers, body = fake.tells({"reference": "W-1", **said})
        assert at.follower.current is not None
        desk = at.run().driver("main", at.follower.current.directory.desks["main"])
        with pytest.raises(ValueError):  # noqa: PT011
            desk.heard(headers, body, FakeReceiver.secret, at.clock.now())


async def test_a_resolved_ticket_is_resolved_in_the_desk(at: Office) -> None:
    ticket = await at.open()
    at.run()
    reference = await at.mirrored(ticket)
    before = at.desk.tickets[reference].state if reference in at.desk.tickets else None
    await at.change(ticket, state="resolved", root_cause="process", resolution="Mended")
    await at.mirrored(ticket)
    if before is not None:
        assert at.desk.tickets[reference].state != before
    await at.polled(timedelta(minutes=5))
    assert (await at.ticket(ticket)).state == "resolved"


@pytest.mark.parametrize("name", SEARCHABLE)
async def test_what_happens_in_the_desk_comes_back(
    name: str, database_url: str, kafka: Kafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody comments and closes it there: the timeline has it, the ticket is resolved, and once."""
    async with office(FAKES[name](), database_url, kafka, monkeypatch) as at:
        ticket = await at.open()
        desk_sync = at.run()
        reference = await at.mirrored(ticket)
        at.clock.move(timedelta(minutes=3))
        at.desk.comment(reference, "I called them, and it was the invoice")
        at.desk.end(reference)
        at.clock.move(timedelta(seconds=5))
        desk_sync.wake()
        resolved = await at.becomes(ticket, "resolved")
        assert resolved.acknowledged_at is not None
        comments = await until(lambda: at.timeline(ticket, "desk comment"))
        assert [one["text"] for one in comments] == ["I called them, and it was the invoice"]
        version = resolved.version
        await at.polled(rounds=3)
        assert (await at.ticket(ticket)).version == version
        assert len(await at.timeline(ticket, "desk comment")) == 1


@pytest.mark.parametrize("name", SEARCHABLE)
async def test_a_ticket_that_is_deleted_by_hand_stays_deleted(
    name: str, database_url: str, kafka: Kafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with office(FAKES[name](), database_url, kafka, monkeypatch) as at:
        ticket = await at.open()
        at.run()
        reference = await at.mirrored(ticket)
        at.desk.delete(reference)
        left = len(at.desk.tickets)
        await at.change(ticket, state="in_progress")

        async def told() -> bool:
            return "deleted" in ((await at.shown(ticket)).error or "")

        await until(told)
        await at.polled(timedelta(days=1))
        assert len(at.desk.tickets) == left, "it is not made again"
        assert (await at.ticket(ticket)).state == "in_progress"


# ---- what is not shown is not gone


@pytest.mark.parametrize("how", ["nobody", "blind"])
@pytest.mark.parametrize("name", SEARCHABLE)
async def test_an_account_that_sees_nothing_deletes_nothing(
    name: str, how: str, database_url: str, kafka: Kafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A token that has expired, or a role that was taken away: told as the desk's failure until it is over."""
    async with office(FAKES[name](), database_url, kafka, monkeypatch) as at:
        ticket = await at.open()
        at.run()
        reference = await at.mirrored(ticket)
        if how == "blind":
            await at.mirrored(await at.open("borealis"))
        before = at.desk.tickets[reference].state
        setattr(at.desk, how, True)
        await at.change(ticket, state="waiting")

        async def failed() -> bool:
            error = (await at.shown(ticket)).error or ""
            return (
                "HTTP 401" if how == "nobody" and name not in {"servicenow", "zendesk"} else "sees nothing"
            ) in error

        await until(failed)
        health = await until(lambda: _ailing(at))
        assert health is not None
        at.clock.move(timedelta(minutes=3))
        await at.turned()
        async with at.database.transaction() as tx:
            later = (await desks.healths(tx))["main"]
        assert later.error, "an empty answer is no success, and clears nothing"
        assert later.polled_until == health.polled_until, "nor has it shown that nothing changed"
        assert await failed()
        assert await at.timeline(ticket, "deleted in the desk") == []

        setattr(at.desk, how, False)
        assert await at.mirrored(ticket, step=timedelta(minutes=11)) == reference
        assert at.desk.tickets[reference].state != before
        assert (await at.shown(ticket)).error is None
        await until(lambda: _is_well(at))


async def _ailing(at: Office) -> desks.DeskState | None:
    """Return how the desk does, once its failure is stored: after that of its ticket."""
    async with at.database.transaction() as tx:
        health = (await desks.healths(tx))["main"]
    return health if health.error else None


async def _is_well(at: Office) -> bool:
    at.clock.move(timedelta(minutes=1))
    async with at.database.transaction() as tx:
        return (await desks.healths(tx))["main"].error is None


@pytest.mark.parametrize("again", ["poll", "recheck"])
@pytest.mark.parametrize("name", SEARCHABLE)
async def test_a_ticket_that_is_seen_again_is_back(
    name: str, again: str, database_url: str, kafka: Kafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Out of the bin, changed or not: it is told what it missed, also of erasures."""
    async with office(FAKES[name](), database_url, kafka, monkeypatch) as at:
        ticket = await at.open()
        at.run()
        reference = await at.mirrored(ticket)
        kept = copied(at.desk.tickets[reference])
        at.desk.delete(reference)
        await at.change(ticket, state="in_progress")

        async def told() -> bool:
            return "deleted" in ((await at.shown(ticket)).error or "")

        await until(told)
        await at.change(ticket, state="waiting")
        erasure, now = uuid7(), at.clock.now()
        async with at.database.transaction() as tx:
            await erasures.save(tx, erasures.Erasure(id=erasure, customer="acme", before=now, done=[], updated_at=now))
            assert await desks.erase(tx, erasure, [ticket.id], now) == []
            assert [line.left for line in await erasures.in_desks(tx, erasure)] == [""]
        at.desk.tickets[reference] = kept
        if again == "poll":
            kept.updated = at.clock.now()
            at.clock.move(timedelta(minutes=3))
        else:
            at.clock.move(timedelta(hours=2))

        async def is_back() -> bool:
            at.ledger.wake()
            return bool(await at.timeline(ticket, "erased in the desk"))

        await until(is_back)
        assert await at.mirrored(ticket) == reference
        assert (await at.shown(ticket)).error is None
        assert len(await at.timeline(ticket, "deleted in the desk")) == 1
        assert len(await at.timeline(ticket, "seen in the desk again")) == 1
        assert kept.state != "new"
        async with at.database.transaction() as tx:
            assert [bool(line.left) for line in await erasures.in_desks(tx, erasure)] == [True], "what the driver says"


# ---- a failure has an owner


async def test_what_is_refused_is_one_tickets_failure(at: Office) -> None:
    """It says what the desk said, keeps no other waiting, and is tried again when the directory has changed."""
    at.desk.refuses = "Acme"
    desk_sync = at.run()
    refused = [await at.open() for _ in range(7)]

    async def told() -> bool:
        shown = [(await at.shown(ticket)).error or "" for ticket in refused]
        return all("HTTP 422" in error and "does not take" in error for error in shown)

    await until(told)
    await at.mirrored(await at.open("borealis", severity="critical"))
    async with at.database.transaction() as tx:
        assert (await desks.healths(tx))["main"].failures == 0
    at.desk.refuses = ""
    assert at.follower.current is not None
    at.follower.current = revision_of(2, at.follower.current.directory)
    for ticket in refused:
        await at.mirrored(ticket)
        assert (await at.shown(ticket)).error is None

    at.desk.forbidden = True
    for _ in range(6):
        await at.open()

    async def alone() -> bool:
        await desk_sync.figures()
        return "main" in desk_sync.troubles

    await until(alone)


# ---- trouble


async def test_an_outage_loses_nothing_and_is_no_flood(
    database_url: str, kafka: Kafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The desk is left alone, told of in one place, and gets each ticket once when it is back."""
    async with office(fake_zammad(), database_url, kafka, monkeypatch) as at:
        at.desk.trouble = Trouble("before")
        desk_sync = at.run()
        opened = [await at.open(customer=("acme", "borealis")[n % 2]) for n in range(20)]

        async def alone() -> bool:
            await desk_sync.figures()
            return "main" in desk_sync.troubles

        await until(alone)
        calls = len(at.desk.calls)
        await at.turned()
        assert len(at.desk.calls) == calls, "it is left alone"
        for _ in range(24):
            at.clock.move(timedelta(hours=1))
            await at.turned()
        assert len(at.desk.calls) < calls + 60
        at.desk.trouble = None
        at.clock.move(timedelta(hours=1))

        async def all_there() -> bool:
            at.clock.move(timedelta(seconds=20))
            return all(len(at.desk.of(ticket.id)) == 1 for ticket in opened)

        await until(all_there)
        for ticket in opened:
            await at.mirrored(ticket, step=timedelta(seconds=20))
        assert len(at.desk.tickets) == 20
        await desk_sync.figures()
        assert desk_sync.troubles == {}


async def test_customers_share_a_desks_budget(database_url: str, kafka: Kafka, monkeypatch: pytest.MonkeyPatch) -> None:
    """A customer with a storm of tickets does not keep another's one waiting."""
    async with office(fake_zammad(), database_url, kafka, monkeypatch, calls_per_minute=40) as at:
        storm = [await at.open() for _ in range(30)]
        other = await at.open(customer="borealis")
        at.run()
        await at.mirrored(other)
        assert sum(bool(at.desk.of(ticket.id)) for ticket in storm) < 15


async def test_each_customer_gets_its_share(database_url: str, kafka: Kafka, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two storms, the one before the other: neither waits for the other's end."""
    async with office(fake_zammad(), database_url, kafka, monkeypatch, calls_per_minute=160) as at:
        first = [await at.open() for _ in range(40)]
        second = [await at.open(customer="borealis") for _ in range(40)]
        at.run()

        async def some() -> bool:
            return len(at.desk.tickets) >= 16

        await until(some)
        shares = [sum(bool(at.desk.of(ticket.id)) for ticket in storm) for storm in (first, second)]
        assert min(shares) >= 4, shares


async def test_a_missing_secret_says_which(database_url: str, kafka: Kafka, monkeypatch: pytest.MonkeyPatch) -> None:
    async with office(fake_zammad(), database_url, kafka, monkeypatch, token_env="NOT_SET_ANYWHERE") as at:
        await at.open()
        desk_sync = at.run()

        async def said() -> bool:
            async with at.database.transaction() as tx:
                health = await desks.healths(tx)
            return "main" in health and "NOT_SET_ANYWHERE" in (health["main"].error or "")

        await until(said)
        assert desk_sync.troubles is not None


@pytest.mark.parametrize("name", [name for name in SEARCHABLE if name != "rt"])  # RT can only append
async def test_an_erased_person_disappears_from_the_desk(
    name: str, database_url: str, kafka: Kafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with office(FAKES[name](), database_url, kafka, monkeypatch) as at:
        said = build.evidence(
            comment="Only r-17 knows this",
            respondent="r-17",
            contact="r17@example.test",
            occurred_at=at.clock.now(),
        )
        ticket = await at.open(evidence=[said])
        at.run()
        reference = await at.mirrored(ticket)
        assert "Only r-17 knows this" in at.desk.tickets[reference].says()
        now, erasure = at.clock.now() + timedelta(minutes=1), uuid7()
        async with at.database.transaction() as tx:
            asked = RespondentErasedV1(erasure=erasure, customer="acme", respondent="r-17", before=now)
            (current,) = await tickets.of_respondent(tx, "acme", ["r-17"])
            scrubbed = replace(without(current, asked), version=current.version + 1)
            await at.ledger.save(tx, [TicketChange(Outcome(scrubbed, "ticket.updated", ()), None)], now)
            wanted = erasures.Erasure(id=erasure, customer="acme", before=now, done=[], updated_at=now)
            await erasures.save(tx, wanted)
            assert await desks.erase(tx, erasure, [ticket.id], at.clock.now()) == ["main"]
            (line,) = await erasures.in_desks(tx, erasure)
        assert (line.removed, line.left) == (0, "1 not rewritten yet")
        at.ledger.wake()
        (left,) = await until(lambda: at.timeline(ticket, "erased in the desk"))
        await at.mirrored(ticket)
        assert left["text"]
        async with at.database.transaction() as tx:
            (line,) = await erasures.in_desks(tx, erasure)
        assert (line.service, line.removed, line.left) == ("desk:main", 1, left["text"])
        for secret in ("Only r-17 knows this", "r17@example.test"):
            assert secret not in at.desk.tickets[reference].says()


async def test_a_customer_that_left_stops_nobody(
    database_url: str, kafka: Kafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with office(fake_zammad(), database_url, kafka, monkeypatch) as at:
        gone, stays = await at.open(), await at.open(customer="borealis")
        assert at.follower.current is not None
        known = at.follower.current.directory
        left = {name: customer for name, customer in known.customers.items() if name != "acme"}
        at.follower.current = revision_of(2, replace(known, customers=left))
        at.run()
        await at.mirrored(stays)

        async def told() -> bool:
            return "left" in ((await at.shown(gone)).error or "")

        await until(told)
        assert len(at.desk.tickets) == 1


# ---- what one ticket, one desk or one moment must not do


async def test_a_row_that_is_held_ends_nothing(zammad: Office) -> None:
    """A lock that takes too long is the database away for a moment, also for this loop."""
    ticket = await zammad.open()
    zammad.run()
    await zammad.mirrored(ticket)
    async with zammad.database.transaction() as tx:
        await tx.execute("SELECT 1 FROM desk_ticket FOR UPDATE")
        zammad.desk.comment(next(iter(zammad.desk.tickets)), "Meanwhile")
        zammad.clock.move(timedelta(minutes=3))
        with contextlib.suppress(asyncpg.QueryCanceledError):
            await tx.execute("SELECT pg_sleep(4)")  # longer than anybody waits for a lock
    assert zammad.running is not None
    assert not zammad.running.done()

    async def told() -> list[Any]:
        zammad.clock.move(timedelta(minutes=1))
        return await zammad.timeline(ticket, "desk comment")

    await until(told)


async def test_an_old_ticket_is_reopened_there_while_a_newer_is_open_here(zammad: Office) -> None:
    first = await zammad.open()
    zammad.run()
    reference = await zammad.mirrored(first)
    await zammad.change(first, state="resolved", root_cause="process", resolution="Mended")
    await zammad.mirrored(first)
    zammad.opened.clear()  # the same problem again
    second = await zammad.open()
    await zammad.mirrored(second)
    zammad.clock.move(timedelta(minutes=3))
    zammad.desk.move(reference, "open")
    await zammad.polled(rounds=4)
    assert zammad.running is not None
    assert not zammad.running.done()
    assert (await zammad.ticket(first)).state == "resolved"
    assert (await zammad.ticket(second)).state == "open"


async def test_who_took_it_here_is_not_undone_by_who_has_it_there(zammad: Office) -> None:
    ticket = await zammad.open()
    zammad.run()
    reference = await zammad.mirrored(ticket)
    zammad.clock.move(timedelta(minutes=3))
    zammad.desk.take(reference, "architect-1")
    zammad.desk.move(reference, "open")
    await zammad.becomes(ticket, "in_progress")
    await zammad.change(ticket, assignee="architect-2")
    await zammad.polled(rounds=4)
    assert (await zammad.ticket(ticket)).assignee == "architect-2"


async def test_every_comment_reaches_the_desk(zammad: Office) -> None:
    """Written before the desk had the ticket, or while it was written to: none is lost."""
    ticket = await zammad.open()

    async def say(text: str) -> None:
        async with zammad.database.transaction() as tx:
            await tickets.append(tx, [entry(ticket.id, zammad.clock.now(), "key:ops", "comment", text=text)])
            await desks.settle(tx, [ticket.id], zammad.clock.now())
        zammad.ledger.wake()

    await say("before")
    zammad.desk.delay = 0.1
    zammad.run()
    for number in range(5):
        await say(f"during {number}")
        await asyncio.sleep(0.15)
    reference = await zammad.mirrored(ticket)

    async def all_there() -> bool:
        said = zammad.desk.tickets[reference].says()
        return all(text in said for text in ("before", *(f"during {number}" for number in range(5))))

    await until(all_there)
    await zammad.polled(rounds=4)
    assert await zammad.timeline(ticket, "desk comment") == [], "our own words are no news from the desk"


async def test_a_moments_404_cuts_nothing_off(zammad: Office) -> None:
    ticket = await zammad.open()
    zammad.run()
    reference = await zammad.mirrored(ticket)
    kept = zammad.desk.tickets[reference]
    real = zammad.desk.answer
    broken = 3

    def answer(call: Any) -> Any:
        nonlocal broken
        if call.path.endswith(f"/tickets/{reference}") and broken:
            broken -= 1
            return zammad.desk.refuse(404, "no such page")
        return real(call)

    zammad.desk.answer = answer  # pyright: ignore[reportAttributeAccessIssue]
    await zammad.change(ticket, state="resolved", root_cause="process", resolution="Mended")

    async def closed() -> bool:
        zammad.clock.move(timedelta(minutes=1))
        return kept.state == "closed"

    await until(closed)


async def test_a_state_that_is_nobodys_is_left_alone(zammad: Office) -> None:
    ticket = await zammad.open()
    zammad.run()
    reference = await zammad.mirrored(ticket)
    zammad.clock.move(timedelta(minutes=3))
    zammad.desk.move(reference, "scheduled")
    await zammad.polled(rounds=4)
    await zammad.open()
    async with zammad.database.transaction() as tx:
        await tickets.append(tx, [entry(ticket.id, zammad.clock.now(), "key:ops", "comment", text="Any news?")])
        await desks.settle(tx, [ticket.id], zammad.clock.now())
    zammad.ledger.wake()

    async def there() -> bool:
        return "Any news?" in zammad.desk.tickets[reference].says()

    await until(there)
    assert zammad.desk.tickets[reference].state == "scheduled"


async def test_a_remark_that_quotes_ours_is_somebodys(zammad: Office) -> None:
    ticket = await zammad.open()
    zammad.run()
    reference = await zammad.mirrored(ticket)
    zammad.clock.move(timedelta(minutes=3))
    zammad.desk.comment(reference, "> comment: why? Fiilis, ticket 1, entry 2\nBecause of the invoice")

    async def told() -> list[Any]:
        zammad.clock.move(timedelta(seconds=5))
        return await zammad.timeline(ticket, "desk comment")

    assert "Because of the invoice" in (await until(told))[0]["text"]


@pytest.mark.parametrize("name", SEARCHABLE)
async def test_only_our_own_mark_is_ours(
    name: str, database_url: str, kafka: Kafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A colleague's answer ends with what it answers, quoted in whichever way: it is the colleague's."""
    async with office(FAKES[name](), database_url, kafka, monkeypatch) as at:
        ticket = await at.open()
        at.run()
        reference = await at.mirrored(ticket)
        mark = f"Fiilis, ticket {ticket.number}, entry 3"
        answers = [
            f"First\n\n> comment: why?\n>\n> {mark}",
            f"Second\n\ncomment: why?\n\n{mark}",
            f"Third\n\nfiilis-{ticket.id}",
        ]
        at.clock.move(timedelta(minutes=3))
        async with at.database.transaction() as tx:
            await tickets.append(tx, [entry(ticket.id, at.clock.now(), "key:ops", "comment", text="Ours")])
            await desks.settle(tx, [ticket.id], at.clock.now())
        at.ledger.wake()
        await at.mirrored(ticket)
        assert "Ours" in at.desk.tickets[reference].says()
        for answer in answers:
            at.desk.comment(reference, answer)
        at.clock.move(timedelta(seconds=5))

        async def all_there() -> bool:
            return len(await at.timeline(ticket, "desk comment")) >= len(answers)

        await until(all_there)
        await at.polled(rounds=2)
        said = [one["text"] for one in await at.timeline(ticket, "desk comment")]
        assert [one.split()[0] for one in said] == ["First", "Second", "Third"]


@pytest.mark.parametrize(
    ("own", "text", "ours"),
    [
        (True, "comment: hello\n\nFiilis, ticket 7, entry 12\n", True),
        (True, "comment: hello Fiilis, ticket 7, entry 12", True),  # where a desk keeps no lines
        (True, "Hello\n> Fiilis, ticket 7, entry 12", False),
        (True, "comment: hello\n\nFiilis, ticket 8, entry 12", False),
        (False, "comment: hello\n\nFiilis, ticket 7, entry 12", False),
        (None, "comment: hello\n\nFiilis, ticket 7, entry 12", True),
        (None, "Hello\n> comment: hello\n\nFiilis, ticket 7, entry 12", False),
        (None, "I saw Fiilis, ticket 7, entry 12", False),
        (None, "", False),
    ],
)
def test_whose_a_remark_is(own: bool | None, text: str, ours: bool) -> None:
    remark = Remark("1", "", text, datetime.now(UTC), own)
    assert is_ours(remark, 7) == ours


# ---- ties, and what comes early


@pytest.mark.parametrize("name", SEARCHABLE)
async def test_two_changes_of_one_second_are_both_seen(
    name: str, database_url: str, kafka: Kafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when the first was read before the second, of a desk that counts whole seconds."""
    async with office(FAKES[name](), database_url, kafka, monkeypatch) as at:
        ticket = await at.open()
        at.run()
        reference = await at.mirrored(ticket)
        at.clock.move(timedelta(minutes=3))
        second = at.clock.now().replace(microsecond=0)
        at.desk.take(reference, "architect-2")
        at.desk.tickets[reference].updated = second

        async def read() -> bool:
            async with at.database.transaction() as tx:
                mirror = await desks.one(tx, ticket.id)
            return mirror is not None and mirror.assignee == "architect-2" and mirror.due_at is None

        await until(read)
        at.desk.end(reference)
        at.desk.tickets[reference].updated = second
        at.clock.move(timedelta(seconds=3))
        await at.becomes(ticket, "resolved")
        calls = len(at.desk.calls)
        await at.polled(rounds=3)
        looks = [call.path for call in at.desk.calls[calls:] if reference in call.path]
        assert len(looks) <= 8, f"it is read once more, not at every poll: {looks}"


async def test_a_desks_word_of_a_ticket_that_is_being_created_is_asked_for_again(at: Office) -> None:
    """Its reference is not known before the desk has answered; what nobody creates is not ours."""
    desk_sync = at.run()

    async def tell(reference: str) -> bool:
        return await at.hear(desk_sync, *at.desk.hook(reference))

    assert not await tell("4711")
    at.desk.delay = 0.5
    ticket = await at.open()

    async def asked() -> bool:
        async with at.database.transaction() as tx:
            mirror = await desks.one(tx, ticket.id)
        return mirror is not None and mirror.asked_at is not None

    await until(asked)
    with pytest.raises(Problem) as early:
        await tell("4711")
    assert (early.value.status, early.value.headers["Retry-After"]) == (425, "5")
    at.desk.delay = 0.0
    assert await tell(await at.mirrored(ticket))
    assert not await tell("4711")


async def test_a_desk_that_asks_for_patience_gets_it() -> None:
    """Also from those that already wait for the budget."""
    budget, loop = TokenBucket(60), asyncio.get_running_loop()
    for _ in range(15):
        await budget()
    waiting = [asyncio.create_task(budget()) for _ in range(3)]
    await asyncio.sleep(0.1)
    begun = loop.time()
    budget.hold(2)
    await asyncio.gather(*waiting)
    assert loop.time() - begun >= 2


async def test_a_webhook_that_only_says_yes_is_a_desk(
    database_url: str, kafka: Kafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its answer need name neither a reference nor an address: our id is the reference."""
    async with office(fake_webhook(), database_url, kafka, monkeypatch) as at:
        at.desk.answer = lambda _: Reply(204)  # pyright: ignore[reportAttributeAccessIssue]
        ticket = await at.open()
        at.run()
        assert await at.mirrored(ticket) == str(ticket.id)
        assert len(at.desk.calls) == 1


# ---- one bad value stops one thing


async def held(at: Office, queue: str) -> list[str]:
    async with at.database.transaction() as tx:
        return [one.key for one in await items(tx) if one.queue == queue]


async def test_a_ticket_that_cannot_be_read_is_set_aside(zammad: Office) -> None:
    """Its desk gets all others, and is not left alone for it."""
    bad = await zammad.open()
    async with zammad.database.transaction() as tx:
        await tx.execute("UPDATE ticket SET body = 'no JSON' WHERE id = $1", bad.id)
    zammad.run()
    for _ in range(3):
        await zammad.mirrored(await zammad.open())
    assert await until(lambda: held(zammad, "desks")) == [str(bad.id)]
    assert (await zammad.shown(bad)).error == "set aside: python -m services quarantine list"
    async with zammad.database.transaction() as tx:
        assert (await desks.healths(tx))["main"].failures == 0


ODD: Mapping[str, Any] = {
    "updated_at": "9999-12-31T23:59:59.999-14:00",
    "number": "4\x002",
    "owner": "a\0b" * 100_000,
    "id": 10**400,
    "state": None,
}


@pytest.mark.parametrize("field", ODD)
async def test_an_odd_ticket_of_a_desk_hides_no_other(zammad: Office, field: str) -> None:
    """What people do to others comes back, and the process lives."""
    zammad.run()
    odd, well = await zammad.open(), await zammad.open("borealis")
    references = {name: await zammad.mirrored(ticket) for name, ticket in (("odd", odd), ("well", well))}
    answer = zammad.desk.answer

    def answered(call: Any) -> Reply:
        reply = answer(call)
        for row in reply.body if isinstance(reply.body, list) else [reply.body]:
            if isinstance(row, dict) and "updated_at" in row and str(row["id"]) == references["odd"]:
                row[field] = ODD[field]
        return reply

    zammad.desk.answer = answered
    for reference in references.values():
        zammad.desk.take(reference, "architect-2")
        zammad.desk.move(reference, "pending reminder", pending_time="2030-01-01T00:00:00Z")
    zammad.clock.move(timedelta(minutes=3))
    await zammad.becomes(well, "waiting")
    zammad.desk.end(references["well"])
    zammad.clock.move(timedelta(minutes=3))
    await zammad.becomes(well, "resolved")
    assert zammad.running is not None
    assert not zammad.running.done()
    assert await held(zammad, "desks") == []


async def test_two_tickets_of_one_name_are_refused(
    database_url: str, kafka: Kafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A receiver that calls every ticket the same has one; the other says why it has none."""
    fake = fake_webhook()
    async with office(fake, database_url, kafka, monkeypatch) as at:
        answer = fake.answer
        fake.answer = lambda call: copied(answer(call), body={"reference": "W-1"})
        at.run()
        await at.mirrored(await at.open())
        second = await at.open()

        async def said() -> bool:
            return "the desk calls two tickets W-1" in ((await at.shown(second)).error or "")

        await until(said)


async def test_clocks_that_cannot_be_looked_at_are_set_aside(zammad: Office) -> None:
    """One ticket's; the others' run out in time."""
    zammad.follower.current = revision_of(
        1, replace(directory(cast("Any", None)), desks={}, sla={"critical": Sla(3_600, 7_200)})
    )
    bad, well = await zammad.open(), await zammad.open("borealis")
    async with zammad.database.transaction() as tx:
        await tx.execute("UPDATE ticket SET body = 'no JSON' WHERE id = $1", bad.id)
    quarantine = Quarantine(zammad.database)
    sla_timer = SlaTimer(zammad.database, zammad.follower, zammad.clock, zammad.ledger, quarantine)
    zammad.clock.move(timedelta(hours=1, minutes=1))
    for _ in range(3):
        await sla_timer.loop.once()
    assert await held(zammad, "clocks") == [str(bad.id)]
    late = (await zammad.ticket(well)).sla
    assert late is not None
    assert late.first_response == "breached"
