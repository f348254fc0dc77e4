"""What paging needs is away for a while: it goes on where it was, and nobody is forgotten, passed over or flooded."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiokafka.structs import TopicPartition
from msgspec.structs import replace

from shared.bus.client import Kafka
from shared.directory.model import Contact, Escalation, Person
from shared.embedded import EmbeddedKafka, EmbeddedPostgres
from shared.wire.events import PageV1, SlaV1, TicketV1
from shared.wire.ids import uuid7
from shared.wire.topics import PAGES, TICKETS
from tests.support import build
from tests.support.house import PARTITIONS, House, house
from tests.support.phone import Received
from tests.support.wait import until

STEP = timedelta(seconds=300)
"""Each step's time to answer in the small company."""
POLLS = timedelta(seconds=15)
"""Real time that passes on the clock while servers start and loops look again."""


def new_ticket(house: House, **fields: Any) -> TicketV1:
    now, customer, number = house.clock.now(), fields.pop("customer", "acme"), fields.pop("number", 1042)
    rule = fields.pop("rule", "mood-one")
    facts = {"opened_at": now, "caused_at": now, "dedup_key": f"{customer}/{rule}/{number}", **fields}
    return build.ticket(id=uuid7(), number=number, customer=customer, **facts)


async def open_ticket(house: House, **fields: Any) -> TicketV1:
    """Tell notify of a new ticket."""
    ticket = new_ticket(house, **fields)
    await house.tell(TICKETS, "ticket.opened", ticket)
    return ticket


def paths(house: House, ticket: TicketV1) -> list[str]:
    """Return where a ticket's pages rang."""
    return [one.path for one in heard(house, ticket)]


def heard(house: House, ticket: TicketV1) -> list[Received]:
    return [one for one in house.phone.received if one.data.get("ticket") == str(ticket.id)]


async def rung(house: House, ticket: TicketV1, *expected: str, seconds: float = 30) -> datetime:
    """Wait until a ticket's pages rang at these places and no others; return the clock's time."""

    async def there() -> bool:
        return len(paths(house, ticket)) >= len(expected)

    await until(there, seconds=seconds)
    assert paths(house, ticket) == list(expected)
    return house.clock.now()


async def passing(house: House, ask: Callable[[], Awaitable[Any]], *, most: timedelta, step: float = 2) -> timedelta:
    """Let time pass, by the clock, until something is so; return how much it was."""
    begun = house.clock.now()
    while not await ask():
        assert house.clock.now() - begun < most, f"not within {most}"
        house.move(seconds=step)
        await asyncio.sleep(0.1)
    return house.clock.now() - begun


async def ended(house: House) -> None:
    """Wait until no call is under way: a clock that jumps would let its lease run out."""

    async def none() -> bool:
        return not await house.sql("SELECT 1 FROM notify.attempt WHERE finished_at IS NULL")

    await until(none)


async def settled() -> None:
    """Leave every loop the time to do what it must not."""
    await asyncio.sleep(1.5)


async def state_of(house: House, ticket: TicketV1) -> str | None:
    rows = await house.sql("SELECT state FROM notify.page WHERE ticket = $1", ticket.id)
    return rows[0][0] if rows else None


async def is_in(house: House, ticket: TicketV1, state: str) -> None:
    async def there() -> bool:
        return await state_of(house, ticket) == state

    await until(there)


def people(house: House, name: str, **fields: Any) -> dict[str, Person]:
    found = dict(house.company.people)
    return found | {name: replace(found[name], **fields)}


async def answer(house: House, received: Received) -> None:
    said = await house.client.post(received.data["acknowledge_url"])
    assert said.status_code == 200


# ---- a provider is away


async def test_a_provider_is_down_for_an_hour(pager: House) -> None:
    """Every page reaches the second contact before the next person's turn; afterwards no flood follows."""
    contacts = (Contact("webhook", pager.phone.url("/first")), Contact("webhook", pager.phone.url("/second")))
    await pager.apply(replace(pager.company, people=people(pager, "architect-1", contacts=contacts)))
    pager.phone.answer = lambda request: 500 if request.path == "/first" else 204
    tickets: list[TicketV1] = []
    for number in range(6):
        ticket = await open_ticket(pager, number=number)
        tickets.append(ticket)

        async def reached(ticket: TicketV1 = ticket) -> bool:
            return "/second" in paths(pager, ticket)

        waited = await passing(pager, reached, most=STEP)
        assert waited < STEP
        await is_in(pager, ticket, "sent")
        assert paths(pager, ticket) == ["/first"] * 3 + ["/second"]
        assert len({one.headers["webhook-id"] for one in heard(pager, ticket)}) == 2, "one key at each contact"
        if number % 2:
            await answer(pager, heard(pager, ticket)[-1])
        await ended(pager)
        pager.move(minutes=12)
    # Those that nobody answered went on to the next people, each once for each turn.
    pager.phone.answer = lambda _: 204
    for ticket in tickets[::2]:
        while await state_of(pager, ticket) != "acknowledged":
            await answer(pager, heard(pager, ticket)[-1])
    await settled()
    before = len(pager.phone.received)
    for _ in range(4):
        pager.move(minutes=10)
        await asyncio.sleep(0.6)
    assert pager.phone.received[before:] == [], "what failed at the first contact is not made up for"
    last = await open_ticket(pager, number=99)
    await rung(pager, last, "/first")
    await is_in(pager, last, "sent")
    assert {await state_of(pager, ticket) for ticket in tickets} == {"acknowledged"}
    calls = Counter((one.path == "/first", one.headers["webhook-id"]) for one in pager.phone.received)
    assert max(count for (failed, _), count in calls.items() if failed) == 3
    assert max(count for (failed, _), count in calls.items() if not failed) == 1, "what was delivered comes once"
    await settled()
    assert paths(pager, last) == ["/first"]


def hurried(house: House, *ack_within: float, repeat: int = 1) -> dict[str, Escalation]:
    """Return the escalation with other times to answer."""
    standard = house.company.escalations["standard"]
    steps = tuple(replace(step, ack_within=wait) for step, wait in zip(standard.steps, ack_within, strict=True))
    return {"standard": replace(standard, steps=steps, repeat=repeat)}


async def test_a_channel_that_is_away_for_less_than_a_step_burns_nobody(pager: House) -> None:
    """Tries go on within the step: the architect is reached in the architect's own time, and the deputy sleeps on."""
    await pager.apply(replace(pager.company, escalations=hurried(pager, 60, 60)))
    pager.phone.answer = lambda _: 503
    ticket = await open_ticket(pager)
    begun = await rung(pager, ticket, "/architect-1")

    async def over() -> bool:
        return pager.clock.now() - begun >= timedelta(seconds=45)

    await passing(pager, over, most=STEP)
    assert set(paths(pager, ticket)) == {"/architect-1"}
    assert len(paths(pager, ticket)) >= 4, "not three times and then somebody else"
    pager.phone.answer = lambda _: 204
    await passing(pager, lambda: in_state(pager, ticket, "sent"), most=timedelta(seconds=20), step=1)
    assert set(paths(pager, ticket)) == {"/architect-1"}
    assert len({one.headers["webhook-id"] for one in heard(pager, ticket)}) == 1, "by one key"


async def in_state(house: House, ticket: TicketV1, state: str) -> bool:
    return await state_of(house, ticket) == state


async def delivered_to(house: House, ticket: TicketV1) -> list[str]:
    """Return who was reached for a ticket, in the order in which they were."""
    rows = await house.sql(
        "SELECT person FROM notify.attempt JOIN notify.delivery ON delivery.id = attempt.delivery"
        " JOIN notify.page ON page.id = delivery.page"
        " WHERE ticket = $1 AND result = 'delivered' ORDER BY finished_at, attempt.id",
        ticket.id,
    )
    return [row[0] for row in rows]


async def test_steps_that_went_by_while_a_channel_was_away_are_tried_when_it_works_again(pager: House) -> None:
    """The whole chain went by in an outage: each of it is reached after it, once, and not the catch-all alone."""
    await pager.apply(replace(pager.company, escalations=hurried(pager, 20, 20, repeat=2)))
    pager.phone.answer = lambda _: 503
    ticket = await open_ticket(pager)
    await rung(pager, ticket, "/architect-1")
    await passing(pager, lambda: in_state(pager, ticket, "exhausted"), most=STEP)
    await passing(pager, lambda: tried(pager, ticket, "/duty-manager", 5), most=STEP)
    assert await delivered_to(pager, ticket) == []
    pager.phone.answer = lambda _: 204
    everybody = {"architect-1", "deputy-1", "duty-manager"}

    async def reached() -> bool:
        return set(await delivered_to(pager, ticket)) == everybody

    await passing(pager, reached, most=timedelta(seconds=90))
    found = await delivered_to(pager, ticket)
    assert found.count("architect-1") == found.count("deputy-1") == 1, "not once for each round"
    await answer(pager, heard(pager, ticket)[-1])
    await ended(pager)
    before = len(paths(pager, ticket))
    for _ in range(5):
        pager.move(minutes=2)
        await settled()
    assert len(paths(pager, ticket)) == before, "who answers ends it for all"
    assert not await pager.sql("SELECT FROM notify.delivery WHERE state = 'pending' AND page IS NOT NULL")


async def tried(house: House, ticket: TicketV1, path: str, times: int) -> bool:
    return paths(house, ticket).count(path) >= times


async def test_a_catch_all_that_refuses_is_called_again_before_its_step_ends(pager: House) -> None:
    """Behind it there is nobody: it is tried with growing waits, however long the last step is, until it is reached."""
    await pager.apply(replace(pager.company, escalations=hurried(pager, 86_400, 86_400)))
    pager.phone.answer = lambda _: 404
    ticket = await open_ticket(pager)
    await rung(pager, ticket, "/architect-1", "/deputy-1", "/duty-manager")
    await ended(pager)
    waits: list[float] = []
    for times in (2, 3, 4):
        waited = await passing(
            pager, lambda times=times: tried(pager, ticket, "/duty-manager", times), most=timedelta(minutes=10), step=5
        )
        waits.append(waited.total_seconds())
        await ended(pager)
    assert waits[0] < 60
    assert waits[0] < waits[1] < waits[2] < 300
    pager.phone.answer = lambda _: 204
    await passing(pager, lambda: tried(pager, ticket, "/duty-manager", 5), most=timedelta(minutes=10), step=5)
    await ended(pager)
    assert await delivered_to(pager, ticket) == ["duty-manager"]
    pager.move(hours=1)
    await settled()
    assert paths(pager, ticket).count("/duty-manager") == 5, "who is reached has their time"


async def test_a_second_contact_that_is_refused_lets_the_first_be_tried_again(pager: House) -> None:
    """One was busy and the other is wrong: the person is tried where it may help, for as long as the step lasts."""
    contacts = (Contact("webhook", pager.phone.url("/busy")), Contact("webhook", pager.phone.url("/wrong")))
    await pager.apply(replace(pager.company, people=people(pager, "architect-1", contacts=contacts)))
    pager.phone.answer = lambda request: 503 if request.path == "/busy" else 404
    ticket = await open_ticket(pager)
    await passing(pager, lambda: tried(pager, ticket, "/busy", 6), most=STEP)
    assert paths(pager, ticket).count("/wrong") == 1
    assert "/deputy-1" not in paths(pager, ticket)
    pager.phone.answer = lambda _: 204
    await passing(pager, lambda: in_state(pager, ticket, "sent"), most=timedelta(seconds=30), step=1)
    assert await delivered_to(pager, ticket) == ["architect-1"]


async def test_a_contact_that_is_taken_away_while_it_is_busy_lets_the_next_person_be_called(pager: House) -> None:
    """How its last call went is no reason to try it again until the step ends: nothing can be called there."""
    await pager.apply(replace(pager.company, escalations=hurried(pager, 86_400, 86_400)))
    pager.phone.answer = lambda request: 503 if request.path == "/architect-1" else 204
    ticket = await open_ticket(pager)
    await passing(pager, lambda: tried(pager, ticket, "/architect-1", 4), most=STEP)
    await pager.apply(
        replace(
            pager.company, escalations=hurried(pager, 86_400, 86_400), people=people(pager, "architect-1", contacts=())
        )
    )
    await passing(pager, lambda: tried(pager, ticket, "/deputy-1", 1), most=STEP)
    await is_in(pager, ticket, "sent")
    assert await delivered_to(pager, ticket) == ["deputy-1"]


async def test_a_storm_that_rises_is_one_page(pager: House) -> None:
    """Somebody took twelve complaints; when all become critical that rings once for each person, not twelve times."""
    tickets, first = await storm(pager, *["high"] * 12)
    await answer(pager, first)
    for ticket in tickets:
        await is_in(pager, ticket, "acknowledged")
    told = {"assignee": "architect-1", "acknowledged_severity": "high"}
    taken = [replace(one, version=2, state="acknowledged", **told) for one in tickets]
    await pager.tell_all(TICKETS, "ticket.updated", taken)
    rose = [replace(one, version=3, state="open", severity="critical", **told) for one in tickets]
    await pager.tell_all(TICKETS, "ticket.updated", rose)

    async def more() -> bool:
        return len(pager.phone.received) >= 2

    await until(more)
    await settled()
    assert [one.path for one in pager.phone.received] == ["/architect-1"] * 2
    assert "12 tickets at once" in pager.phone.received[-1].data["summary"]


# ---- PostgreSQL is away


@pytest.fixture
async def postgres(tmp_path: Path) -> AsyncIterator[EmbeddedPostgres]:
    made = EmbeddedPostgres(tmp_path / "postgres")
    await made.start()
    yield made
    await made.stop()


async def test_postgres_is_away_for_a_minute_of_an_escalation(kafka: Kafka, postgres: EmbeddedPostgres) -> None:
    """The next person is paged as soon as it is back, the others have their whole time, nobody is passed over."""
    async with house(kafka, postgres.url, ("notify",)) as pager:
        ticket = await open_ticket(pager)
        first = await rung(pager, ticket, "/architect-1")
        await is_in(pager, ticket, "sent")
        pager.move(seconds=270)
        await postgres.kill()
        pager.move(seconds=60)
        await settled()
        assert paths(pager, ticket) == ["/architect-1"], "nobody is called without a place to keep it"
        await postgres.start()
        second = await rung(pager, ticket, "/architect-1", "/deputy-1")
        assert second - first < timedelta(seconds=330) + POLLS, "late by the outage at most"
        await ended(pager)
        pager.move(seconds=270)
        await settled()
        assert len(paths(pager, ticket)) == 2, "the deputy has the whole time to answer"
        chain = ["/architect-1", "/deputy-1"]
        for following in ("/architect-1", "/deputy-1", "/duty-manager", "/duty-manager"):
            await ended(pager)
            pager.move(seconds=301)
            chain.append(following)
            await rung(pager, ticket, *chain)
        await is_in(pager, ticket, "exhausted")
        rows = await pager.sql("SELECT turn, level, round, state, attempts FROM notify.delivery ORDER BY turn")
        assert [(row[0], row[1]) for row in rows] == [(1, 1), (2, 2), (3, 1), (4, 2), (5, 3), (6, 3)]
        assert {row[4] for row in rows} == {1}


async def test_postgres_dies_during_a_call(kafka: Kafka, postgres: EmbeddedPostgres) -> None:
    """What the phone said is kept until it can be stored: the same person is not called again for it."""
    async with house(kafka, postgres.url, ("notify",)) as pager:
        pager.phone.delay = 1.0
        ticket = await open_ticket(pager)
        await rung(pager, ticket, "/architect-1")
        await postgres.kill()
        await settled()
        pager.phone.delay = 0
        await postgres.start()
        await is_in(pager, ticket, "sent")
        pager.move(seconds=60)
        await settled()
        assert paths(pager, ticket) == ["/architect-1"]
        assert [row[0] for row in await pager.sql("SELECT result FROM notify.attempt")] == ["delivered"]
        pager.move(seconds=241)
        await rung(pager, ticket, "/architect-1", "/deputy-1")


async def test_tickets_that_come_while_postgres_is_away(kafka: Kafka, postgres: EmbeddedPostgres) -> None:
    """Each is paged once afterwards, also one that was told twice; one that was resolved meanwhile wakes nobody."""
    async with house(kafka, postgres.url, ("notify",)) as pager:
        before = await open_ticket(pager, number=1)
        await rung(pager, before, "/architect-1")
        await is_in(pager, before, "sent")
        await postgres.kill()
        during = await open_ticket(pager, number=2)
        await pager.tell(TICKETS, "ticket.opened", during)
        over = await open_ticket(pager, number=3)
        await pager.tell(TICKETS, "ticket.resolved", replace(over, version=2, state="resolved"))
        other = await open_ticket(pager, customer="borealis", number=4)
        pager.move(seconds=60)
        await settled()
        assert len(pager.phone.received) == 1
        await postgres.start()
        for ticket in (during, other):
            await rung(pager, ticket, "/architect-1")
            await is_in(pager, ticket, "sent")
        await is_in(pager, over, "resolved")
        await settled()
        assert [paths(pager, ticket) for ticket in (before, during, other, over)] == [["/architect-1"]] * 3 + [[]]
        counted = await pager.sql("SELECT count(*) FROM notify.page GROUP BY ticket")
        assert [row[0] for row in counted] == [1] * 4


# ---- Kafka is away


async def test_kafka_is_away_for_a_minute_of_an_escalation(tmp_path: Path, database_url: str) -> None:
    """People are paged and can answer all the while; what others must know of it comes afterwards, in order, once."""
    server = EmbeddedKafka(tmp_path / "kafka")
    await server.start()
    try:
        kafka = Kafka(server.bootstrap)
        async with house(kafka, database_url, ("notify",)) as pager:
            tickets = [await open_ticket(pager, number=n, customer=c) for n, c in enumerate(("acme", "borealis"))]
            for ticket in tickets:
                await rung(pager, ticket, "/architect-1")
                await is_in(pager, ticket, "sent")
            pager.move(seconds=270)
            await server.kill()
            pager.move(seconds=60)
            for ticket in tickets:
                await rung(pager, ticket, "/architect-1", "/deputy-1")
            await answer(pager, heard(pager, tickets[0])[-1])
            await ended(pager)
            pager.move(seconds=301)
            await rung(pager, tickets[1], "/architect-1", "/deputy-1", "/architect-1")
            await settled()
            waiting = (await pager.sql("SELECT count(*) FROM notify.outbox"))[0][0]
            assert waiting >= 4, "it is kept until Kafka can take it"
            await server.start()

            async def relayed() -> bool:
                return (await pager.sql("SELECT count(*) FROM notify.outbox"))[0][0] == 0

            await until(relayed, seconds=40)
            later = await open_ticket(pager, number=9)
            await rung(pager, later, "/architect-1")
            await is_in(pager, later, "sent")
            await until(relayed)
            told = await published(kafka)
            decided = await pager.sql(
                "SELECT page.ticket, audit.what FROM notify.audit JOIN notify.page ON page.id = audit.page"
                " WHERE audit.what LIKE 'page.%' ORDER BY audit.id"
            )
            for ticket in (*tickets, later):
                of_ticket = [(type_, page) for type_, page in told if page.ticket == ticket.id]
                versions = [page.version for _, page in of_ticket]
                # A message whose fate nobody knew may come twice, as the same version.
                once = {page.version: type_ for type_, page in of_ticket}
                assert list(dict.fromkeys(versions)) == sorted(once)
                assert list(once.values()) == [what for id_, what in decided if id_.int == ticket.id.int]
            assert [type_ for type_, page in told if page.ticket == tickets[0].id][-1] == "page.acknowledged"
    finally:
        await server.stop()


async def published(kafka: Kafka) -> list[tuple[str, PageV1]]:
    """Return what others were told of pages."""
    consumer = kafka.consumer(group=None)
    await consumer.start()
    try:
        tps = [TopicPartition(kafka.prefix + PAGES.name, p) for p in range(PARTITIONS)]
        consumer.assign(tps)
        ends = await consumer.end_offsets(tps)
        for tp in tps:
            consumer.seek(tp, 0)
        found: list[tuple[str, PageV1]] = []
        for _ in range(sum(ends.values())):
            record = await asyncio.wait_for(consumer.getone(), 20)
            type_ = dict(record.headers)["ce_type"].decode()
            found.append((type_, msgspec.json.decode(record.value or b"", type=PageV1)))
        return found
    finally:
        await consumer.stop()


# ---- storms that change


async def storm(pager: House, *severities: str, **fields: Any) -> tuple[list[TicketV1], Received]:
    """Let many tickets come at once; return them and the one page that was sent for all."""
    tickets = [new_ticket(pager, number=n, severity=one, **fields) for n, one in enumerate(severities)]
    await pager.tell_all(TICKETS, "ticket.opened", tickets)
    await kept(pager, len(tickets))

    async def sent() -> bool:
        return bool(pager.phone.received)

    await until(sent)
    return tickets, pager.phone.received[0]


async def kept(pager: House, count: int) -> None:
    async def there() -> bool:
        return (await pager.sql("SELECT count(*) FROM notify.page"))[0][0] == count

    await until(there)


def asleep(pager: House) -> str:
    now = pager.clock.now()
    return f"{now - timedelta(hours=1):%H:%M}-{now + timedelta(hours=6):%H:%M}"


async def test_what_is_critical_never_waits_behind_what_is_held_at_night(pager: House) -> None:
    """The page that led a storm is over: the next one to lead is one that may wake somebody."""
    await pager.apply(replace(pager.company, people=people(pager, "architect-1", quiet_hours=asleep(pager))))
    tickets, first = await storm(pager, "critical", *["high"] * 6)
    late = await open_ticket(pager, number=99)
    await kept(pager, 8)
    (leading,) = [one for one in tickets if str(one.id) == first.data["ticket"]]
    await pager.tell(TICKETS, "ticket.updated", replace(leading, version=2, state="cancelled"))
    await is_in(pager, leading, "resolved")
    pager.move(minutes=2)
    await rung(pager, late, "/architect-1", seconds=5)


async def test_a_storm_that_is_forgotten_is_one_page_again(pager: House) -> None:
    """Who took a storm and did nothing is asked again, once for all; taking it takes all again."""
    tickets, first = await storm(pager, *["critical"] * 8)
    await answer(pager, first)
    for ticket in tickets:
        await is_in(pager, ticket, "acknowledged")
    pager.move(hours=4, minutes=1)

    def rang() -> list[Received]:
        # Four hours later it may be the hour of the daily word about the rota.
        return [one for one in pager.phone.received if one.type == "page"]

    async def again() -> bool:
        return len(rang()) >= 2

    await until(again)
    await settled()
    assert len(rang()) == 2
    await answer(pager, rang()[-1])
    for _ in range(3):
        pager.move(seconds=61)
        await settled()
    assert len(rang()) == 2, "all were taken"
    assert {await state_of(pager, ticket) for ticket in tickets} == {"acknowledged"}
    events = await pager.sql("SELECT count(*) FROM notify.audit WHERE what = 'page.unacknowledged'")
    assert events[0][0] == len(tickets), "each ticket is open again"


async def test_a_silence_of_one_touchpoint_does_not_hold_a_storms_other_pages(pager: House) -> None:
    """While billing is being moved, what breaks in support still wakes somebody."""
    end = (pager.clock.now() + timedelta(hours=6)).isoformat()
    said = {"customer": "acme", "touchpoint": "billing", "until": end, "reason": "move"}
    await pager.send("POST", "/v1/silences", said, 201)
    silenced = [new_ticket(pager, number=n, touchpoint="billing") for n in range(8)]
    await pager.tell_all(TICKETS, "ticket.opened", silenced)
    await kept(pager, 8)

    async def held() -> bool:
        return bool(await pager.sql("SELECT 1 FROM notify.page WHERE held = 'silence'"))

    await until(held)
    loud = await open_ticket(pager, number=99, touchpoint="support")
    await rung(pager, loud, "/architect-1", seconds=5)
    assert not [ticket for ticket in silenced if paths(pager, ticket)]


@pytest.mark.parametrize("taken", [False, True], ids=["waiting", "taken"])
async def test_a_storm_that_is_late_is_not_a_flood(pager: House, taken: bool) -> None:
    """500 tickets that came at once run late at once, too."""
    tickets, first = await storm(pager, *["critical"] * 12)
    if taken:
        await answer(pager, first)
        for ticket in tickets:
            await is_in(pager, ticket, "acknowledged")
    late = [replace(one, version=2, sla=SlaV1(first_response="breached")) for one in tickets]
    await pager.tell_all(TICKETS, "ticket.updated", late)

    async def more() -> bool:
        return len(pager.phone.received) >= 2

    await until(more)
    await settled()
    assert len(pager.phone.received) == 2, [one.path for one in pager.phone.received]


async def test_meetings_more_often_begin_with_the_directory_that_says_so(pager: House) -> None:
    """A customer that is to be met every week instead of every year is not forgotten for the rest of the year."""
    for check_in in ("yearly", "weekly"):
        acme = replace(pager.company.customers["acme"], check_in=check_in)
        await pager.apply(replace(pager.company, customers={**pager.company.customers, "acme": acme}))
        await settled()
    pager.move(days=7)

    async def briefed() -> bool:
        # The daily word about the rota is due then too.
        return [one.type for one in pager.phone.received if one.type != "digest"] == ["brief"]

    await until(briefed, seconds=8)
