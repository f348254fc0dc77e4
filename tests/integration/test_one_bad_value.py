"""One bad value stops one thing: an absurd answer its own call, a row that cannot be decided itself alone."""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta
from email.message import EmailMessage
from typing import Any

import pytest
from msgspec.structs import replace

from services.notify.channels.email import Mailer
from services.notify.jobs.revisions import Revisions
from services.notify.store import audit, rota
from shared.bus.client import Kafka
from shared.database.migrate import migrate
from shared.database.pool import Database
from shared.directory.follower import Follower, Revision, revision_of
from shared.directory.model import Heartbeat, Smtp, Step
from shared.runtime.clock import MovableClock
from shared.runtime.quarantine import Quarantine, items
from shared.runtime.runtime import Runtime
from shared.wire.events import FollowUpDueV1
from shared.wire.ids import uuid7
from shared.wire.topics import TICKETS
from tests.integration.test_paging import open_ticket, page_in, rings
from tests.support import build
from tests.support.house import House, company
from tests.support.phone import Phone
from tests.support.services import MIGRATIONS
from tests.support.wait import until

BAD = "no JSON"
WAITS = {
    "milliseconds since 1970": lambda: str(int((time.time() + 30) * 1000)),
    "seconds since 1970": lambda: str(int(time.time() + 30)),
    "400 digits": lambda: "9" * 400,
    "the last date": lambda: "Fri, 31 Dec 9999 23:59:59 GMT",
    "a date that is none": lambda: "Fri, 32 Foo 99999 99:99:99 -9999999",
}


async def set_aside(house: House, service: str = "notify") -> list[tuple[str, str]]:
    """Return what lies in a service's quarantine: queue and key."""
    rows = await house.sql(f"SELECT queue, key FROM {service}.quarantine ORDER BY id")
    return [(row[0], row[1]) for row in rows]


async def aside(house: House, queue: str, key: object, service: str = "notify") -> None:
    """Wait until it lies there."""

    async def there() -> bool:
        return (queue, str(key)) in await set_aside(house, service)

    await until(there)


# ---- what the other side says


@pytest.mark.parametrize("wait", WAITS)
async def test_whatever_somebody_asks_to_wait_others_are_paged(pager: House, wait: str) -> None:
    """For a message that is no page, an hour at most is believed; before, the moment in milliseconds ended notify."""
    pager.phone.headers = {"retry-after": WAITS[wait]()}
    pager.phone.answer = lambda one: 429 if one.path == "/deputy-1" else 204
    await pager.send("POST", "/v1/people/deputy-1/contacts/0/verification", status=202)

    async def tried() -> list[Any]:
        return await pager.sql(
            "SELECT extract(epoch FROM delivery.due_at - attempt.finished_at) FROM notify.attempt "
            "JOIN notify.delivery ON delivery.id = delivery WHERE person = 'deputy-1' AND finished_at IS NOT NULL"
        )

    ((waits,),) = await until(tried)
    assert 0 < waits <= 3_601
    ticket = await open_ticket(pager)
    page = next(one for one in await rings(pager, 2) if one.path == "/architect-1")
    assert page.data["ticket"] == str(ticket.id)
    assert await set_aside(pager) == []
    assert (await pager.client.get("/readyz")).status_code == 200


async def test_a_page_is_tried_again_within_its_step(pager: House) -> None:
    """A step may be as short as a second, and no gateway makes it longer."""
    steps = (Step("architect", 9), Step("deputy", 300))
    await pager.apply(
        replace(pager.company, escalations={"standard": replace(pager.company.escalations["standard"], steps=steps)})
    )
    pager.phone.headers = {"retry-after": "3600"}
    pager.phone.answer = lambda one: 429 if one.path == "/architect-1" else 204
    await open_ticket(pager)
    await rings(pager, 1)
    ((late,),) = await pager.sql(
        "SELECT delivery.due_at <= page.due_at FROM notify.delivery JOIN notify.page ON page.id = delivery.page"
    )
    assert late


async def test_a_redirect_to_nowhere_ends_one_call(pager: House) -> None:
    """An address that httpx cannot read came out of the client as an error of its own kind."""
    pager.phone.headers = {"location": "mailto:xhttp:// #"}
    pager.phone.answer = lambda one: 301 if one.path == "/architect-1" else 204
    await open_ticket(pager)

    async def given_up() -> bool:
        pager.move(seconds=61)
        return any(one.path == "/deputy-1" for one in pager.phone.received)

    await until(given_up)
    assert await set_aside(pager) == []


async def test_a_relay_that_is_slow_at_each_command_has_no_more_time_in_all() -> None:
    """Answering everything just in time, it held a letter, and the loop of all letters, for minutes."""

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 relay\r\n")
        while await reader.readline():
            await asyncio.sleep(0.4)
            writer.write(b"250 \xff\0 well\r\n")
        writer.close()

    server = await asyncio.start_server(slow, "127.0.0.1", 0)
    smtp = Smtp("127.0.0.1", "fiilis@example.test", port=server.sockets[0].getsockname()[1], tls="none")
    mail, begun = EmailMessage(), time.monotonic()
    mail.set_content("words")
    result = await Mailer(0.6).send(mail, "r-17@example.test", smtp, key="k", at=build.NOW)
    assert (result.kind, result.detail) == ("unknown", "no answer within 0.6 s")
    assert time.monotonic() - begun < 1.5
    server.close()


# ---- rows that cannot be decided


async def test_a_page_that_cannot_be_read_keeps_nobody_else_from_being_paged(pager: House) -> None:
    """It lies in the quarantine, is told at /readyz, and is paged when it was mended and released."""
    first = await open_ticket(pager, number=1)
    await rings(pager, 1)
    (page,) = await page_in(pager, "sent")
    ((body,),) = await pager.sql("SELECT body FROM notify.page")
    await pager.sql("UPDATE notify.page SET body = $1", BAD)
    pager.move(minutes=5, seconds=1)
    await aside(pager, "pages", page["id"])
    second = await open_ticket(pager, number=2)
    await until(lambda: _rung(pager, second.id))
    assert len(await set_aside(pager)) == 1
    await pager.sql("UPDATE notify.page SET body = $1 WHERE id = $2", body, page["id"])
    await pager.sql("DELETE FROM notify.quarantine")
    await until(lambda: _rung(pager, first.id, "/deputy-1"))


async def _rung(house: House, ticket: Any, path: str = "") -> bool:
    return any(one.data.get("ticket") == str(ticket) and path in one.path for one in house.phone.received)


async def test_a_page_that_cannot_be_decided_reaches_whoever_is_behind_everybody(pager: House) -> None:
    """A step that nobody can work out wakes the catch-all; only what not even that can be done for is set aside."""
    await open_ticket(pager)
    await rings(pager, 1)
    await pager.sql("""UPDATE notify.page SET body = replace(body, '"ack_within":300.0', '"ack_within":1e300')""")
    pager.move(minutes=5, seconds=1)
    await until(lambda: _at(pager, "/duty-manager"))
    assert await set_aside(pager) == []


async def _at(house: House, path: str) -> bool:
    return any(one.path == path and one.type == "page" for one in house.phone.received)


async def test_a_lead_that_is_set_aside_is_followed_by_nobody(pager: House) -> None:
    """Pages of a storm wait for one that is sent for all: if that one cannot be, another one leads."""
    now = pager.clock.now()
    storm = [
        build.ticket(id=uuid7(), number=n, opened_at=now, dedup_key=f"acme/mood-one/{n}", touchpoint=None)
        for n in range(8)
    ]
    await pager.tell_all(TICKETS, "ticket.opened", storm)

    async def following() -> bool:
        return (await pager.sql("SELECT count(*) FROM notify.page WHERE lead IS NOT NULL"))[0][0] >= 1

    await until(following)
    await pager.stored()
    ((lead,),) = await pager.sql("SELECT DISTINCT lead FROM notify.page WHERE lead IS NOT NULL")
    await pager.sql("UPDATE notify.page SET body = $1 WHERE id = $2", BAD, lead)
    rung = len(pager.phone.received)
    pager.move(minutes=5, seconds=1)
    await aside(pager, "pages", lead)

    async def led() -> bool:
        pager.move(seconds=10)
        again = [one for one in pager.phone.received[rung:] if "tickets at once" in one.data.get("summary", "")]
        return bool(again)

    await until(led)


async def test_a_delivery_that_cannot_be_prepared_is_set_aside(pager: House) -> None:
    """Of many that are due at once, the one at fault alone."""
    await pager.send("POST", "/v1/people/deputy-1/contacts/0/verification", status=202)
    await rings(pager, 1)
    ((bad,),) = await pager.sql("SELECT id FROM notify.delivery")
    await pager.sql("UPDATE notify.notice SET body = $1", BAD)
    pager.phone.received.clear()
    now = pager.clock.now()
    await pager.sql("UPDATE notify.delivery SET state = 'pending', due_at = $1", now)
    tickets = [await open_ticket(pager, number=number) for number in range(3)]
    await aside(pager, "deliveries", bad)
    for ticket in tickets:
        await until(lambda ticket=ticket: _rung(pager, ticket.id))
    assert len(await set_aside(pager)) == 1


async def test_a_result_that_cannot_be_stored_is_set_aside_and_the_page_goes_on(pager: House) -> None:
    """What came of other calls is stored; the next person is paged by the page's own timer."""
    await pager.sql("ALTER TABLE notify.attempt ADD CONSTRAINT no_teapots CHECK (detail <> 'HTTP 418')")
    pager.phone.answer = lambda one: 418 if one.path == "/architect-1" and one.data["customer"] == "acme" else 204
    bad = await open_ticket(pager, number=1)
    other = await open_ticket(pager, number=2, customer="borealis")
    (delivery,) = (await until(lambda: _deliveries(pager, bad.id)))[0]
    await aside(pager, "deliveries", delivery)
    await until(lambda: _sent(pager, other.id))
    assert not await _sent(pager, bad.id)
    pager.move(minutes=5, seconds=1)
    await until(lambda: _rung(pager, bad.id, "/deputy-1"))
    await until(lambda: _sent(pager, bad.id))
    assert len(await set_aside(pager)) == 1


async def _deliveries(house: House, ticket: Any) -> list[Any]:
    return await house.sql(
        "SELECT delivery.id FROM notify.delivery JOIN notify.page ON page.id = delivery.page WHERE ticket = $1", ticket
    )


async def _sent(house: House, ticket: Any) -> bool:
    return bool(await house.sql("SELECT FROM notify.page WHERE ticket = $1 AND state = 'sent'", ticket))


async def test_each_other_queue_sets_its_row_aside(pager: House) -> None:
    """Letters, lines of digests, check-ins and heartbeats: one bad row each, and one beside it that is done."""
    now = pager.clock.now()
    hearts = {name: Heartbeat(3_600, "acme", "critical") for name in ("kiosk", "widget")}
    customers = {
        name: replace(one, check_in="daily", architect="architect-1") for name, one in pager.company.customers.items()
    }
    await pager.apply(replace(pager.company, heartbeats=hearts, customers=customers))

    async def planned() -> bool:
        rows = await pager.sql("SELECT FROM notify.heartbeat UNION ALL SELECT FROM notify.check_in_due")
        return len(rows) == 4

    await until(planned)
    await pager.sql("ALTER TABLE notify.page ADD CONSTRAINT no_kiosk CHECK (body NOT LIKE '%heartbeat/kiosk%')")
    goals = "INSERT INTO notify.check_in VALUES ($1, $2, $3, '', $4, $3, 'test')"
    await pager.sql(goals, uuid7(), "acme", now, BAD)
    lines = "INSERT INTO notify.digest_entry VALUES ($1, $2, 'ticket', 'acme', NULL, $3, $4)"
    entry = '{"customer":"acme","customer_name":"Acme","text":"words","at":"2026-01-01T00:00:00Z"}'
    bad_line, bad_letter = uuid7(), uuid7()
    for id_, person, body in (
        (bad_line, "deputy-1", BAD),
        (uuid7(), "deputy-1", entry),
        (uuid7(), "duty-manager", entry),
    ):
        await pager.sql(lines, id_, person, now, body)
    follow_up = FollowUpDueV1(
        id=uuid7(),
        ticket=uuid7(),
        number=1,
        opening=1,
        customer="acme",
        touchpoint=None,
        dedup_key="acme/mood-one/support",
        respondent="r-17",
        contact="r17@example.test",
        language="fi",
        survey_url="https://fiilis.example.test/s/token",
        due_at=now,
    )
    await pager.tell(TICKETS, "follow-up.due", follow_up)
    letter = "INSERT INTO notify.letter VALUES ($1, 'acme', 'r-18', $2, 1, 'pending', 0, $3, NULL, '', NULL, $4)"
    await pager.sql(letter, bad_letter, uuid7(), now, BAD)

    await aside(pager, "letters", bad_letter)
    await until(lambda: pager.sql("SELECT FROM notify.letter WHERE id = $1 AND state <> 'pending'", follow_up.id))
    await aside(pager, "digests", bad_line)

    async def told() -> bool:
        digests = {one.path for one in pager.phone.received if one.type == "digest"}
        return digests >= {"/deputy-1", "/duty-manager"}

    await until(told)
    pager.move(hours=1, seconds=5)
    await aside(pager, "heartbeats", "kiosk")
    await until(lambda: pager.sql("SELECT FROM notify.heartbeat WHERE name = 'widget' AND page IS NOT NULL"))
    pager.move(days=1)
    await aside(pager, "check-ins", "acme")
    await until(lambda: pager.sql("SELECT FROM notify.check_in_due WHERE customer = 'borealis' AND reminded > 0"))
    assert len(await set_aside(pager)) == 4
    assert (await pager.client.get("/readyz")).status_code == 200


# ---- the directory's log


@pytest.fixture
async def notify(database_url: str) -> Any:
    made = Database(database_url, "notify", pool=3)
    await migrate(made, MIGRATIONS["notify"])
    yield made
    await made.close()


async def take_over(database: Database, clock: MovableClock, *revisions: Revision) -> Quarantine:
    """Let a new process take over revisions, one after the other."""
    follower, quarantine = Follower(Kafka("127.0.0.1:9"), ()), Quarantine(database)
    taking = Revisions(Runtime(database, follower, clock, quarantine), {})
    for revision in revisions:
        follower.current = revision
        await taking.loop.once()
    return quarantine


async def kept(database: Database) -> list[tuple[str, int]]:
    async with database.transaction() as tx:
        rows = await tx.fetch("SELECT log, coalesce(number, revision) FROM directory_revision ORDER BY applied_at")
    return [(row[0], row[1]) for row in rows]


def published(number: int, log: str, clock: MovableClock, architect: str = "architect-1") -> Revision:
    phone = Phone()
    phone.port = 80
    made = company(phone)
    acme = replace(made.customers["acme"], architect=architect)
    directory = replace(made, customers={**made.customers, "acme": acme})
    clock.move(timedelta(minutes=1))
    revision = revision_of(number, directory)
    return Revision(number, directory, revision.keys, clock.now(), log=log)


async def test_a_revision_of_a_log_that_was_made_anew_is_another_one(notify: Database) -> None:
    """Its number is one that was kept before; who was responsible is asked by time, and who changed it is kept."""
    clock = MovableClock()
    first, second = published(1, "one", clock), published(2, "one", clock, "deputy-1")
    between = clock.now() + timedelta(seconds=1)
    third = published(1, "two", clock, "duty-manager")
    await take_over(notify, clock, first, second, third, third)
    await take_over(notify, clock, third)
    assert await kept(notify) == [("one", 1), ("one", 2), ("two", 1)]
    async with notify.transaction() as tx:
        then, now = await rota.revision_at(tx, between), await rota.revision_at(tx, clock.now())
        changes = [
            (one.detail["before"], one.detail["after"])
            for one in await audit.listed(tx, customers=["acme"], what="rota changed", after=None, limit=50)
            if one.detail.get("path") == "customers.acme.architect"
        ]
    assert then is not None
    assert now is not None
    assert rota.directory_of(then).customers["acme"].architect == "deputy-1"
    assert rota.directory_of(now).customers["acme"].architect == "duty-manager"
    assert changes == [("deputy-1", "duty-manager"), ("architect-1", "deputy-1")]


async def test_a_revision_that_was_kept_before_logs_were_known_is_adopted(notify: Database) -> None:
    """After the upgrade the newest is seen again, now with its log: it is the same; one of another log is not."""
    clock = MovableClock()
    known = published(7, "", clock)
    body = rota.packed(known.directory)
    old = "INSERT INTO directory_revision (revision, applied_at, author, body) VALUES ($1, $2, 'apply', $3)"
    async with notify.transaction() as tx:  # as the version before writes it, also while this one runs
        await tx.execute(f"{old} ON CONFLICT (revision) DO NOTHING", 7, known.applied_at, body)
    await take_over(notify, clock, Revision(7, known.directory, known.keys, known.applied_at, log="one"))
    assert await kept(notify) == [("one", 7)]
    async with notify.transaction() as tx:
        await tx.execute(f"{old} ON CONFLICT (revision) DO NOTHING", 7, known.applied_at, body)
        await tx.execute(f"{old} ON CONFLICT (revision) DO NOTHING", 8, clock.now(), body)
    await take_over(notify, clock, published(8, "two", clock, "duty-manager"))
    assert await kept(notify) == [("one", 7), ("", 8), ("two", 8)]


async def test_a_revision_that_cannot_be_kept_stops_no_plan(notify: Database) -> None:
    """The new heartbeats are looked after, though the directory before cannot be read to tell what changed."""
    clock = MovableClock()
    first = published(1, "one", clock)
    await take_over(notify, clock, first)
    async with notify.transaction() as tx:
        await tx.execute("UPDATE directory_revision SET body = 'no gzip'")
    follower, planned = Follower(Kafka("127.0.0.1:9"), ()), list[str]()

    async def plan(_tx: Any, directory: Any) -> None:
        planned.append(directory.customers["acme"].architect)

    taking = Revisions(Runtime(notify, follower, clock, Quarantine(notify)), {"heartbeats": plan})
    follower.current = published(2, "one", clock, "deputy-1")
    for _ in range(3):
        await taking.loop.once()
    async with notify.transaction() as tx:
        assert [(one.queue, one.key) for one in await items(tx)] == [("revisions", "one/2")]
    assert planned == ["deputy-1"]
