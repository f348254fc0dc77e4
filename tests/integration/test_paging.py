"""Who is paged, when, and what keeps a page from going out: notify alone, on real Kafka and PostgreSQL."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import timedelta
from email.message import EmailMessage
from typing import Any, cast
from uuid import UUID

import asyncpg
import pytest
from msgspec.structs import replace

from services.notify.escalator import Escalator
from services.notify.rounds.auditor import Auditor
from services.notify.store import audit, pages
from services.run import MIGRATIONS
from shared.clock import MovableClock
from shared.db import Database
from shared.directory.follower import Follower, revision_of
from shared.directory.model import Absence, Contact, Heartbeat, Layer, Person, Schedule, Smtp, Step, Watchdog
from shared.events import ScoreDailyV1, SlaV1, TicketV1
from shared.http import Guard, Outbound
from shared.ids import uuid7
from shared.kafka import Kafka
from shared.migrate import migrate
from shared.quarantine import Quarantine
from shared.security import Signer
from shared.topics import ALERTS, TICKETS
from tests.support import build
from tests.support.house import SECRET, House, company
from tests.support.phone import Phone, Received
from tests.support.relay import mail_relay
from tests.support.wait import until


async def open_ticket(house: House, **fields: Any) -> TicketV1:
    """Tell notify of a new ticket."""
    now = house.clock.now()
    number = fields.pop("number", 1042)
    ticket = build.ticket(
        id=uuid7(), number=number, opened_at=now, caused_at=now, dedup_key=f"acme/mood-one/{number}", **fields
    )
    await house.tell(TICKETS, "ticket.opened", ticket)
    return ticket


async def change(house: House, ticket: TicketV1, **fields: Any) -> TicketV1:
    changed = replace(ticket, version=ticket.version + 1, **fields)
    await house.tell(TICKETS, "ticket.updated", changed)
    return changed


async def rings(house: House, count: int) -> list[Received]:
    """Wait until the phone has rung so many times, but for the daily word about the rota."""

    async def rung() -> bool:
        return len(_calls(house)) >= count

    await until(rung)
    await house.stored()
    assert len(_calls(house)) == count, [one.path for one in _calls(house)]
    return _calls(house)


def _calls(house: House) -> list[Received]:
    return [one for one in house.phone.received if one.type != "digest" or _kinds(one) != {"preflight"}]


def _kinds(digest: Received) -> set[str]:
    return {entry["kind"] for entry in digest.data["entries"]}


def types(received: list[Received]) -> list[tuple[str, str]]:
    return [(one.path, one.type) for one in received]


async def page_in(house: House, state: str, count: int = 1) -> list[dict[str, Any]]:
    async def there() -> list[dict[str, Any]]:
        found = await house.items("/v1/pages", state=state)
        return found if len(found) == count else []

    return await until(there)


async def timeline(house: House, page: str) -> list[str]:
    return [line["what"] for line in (await house.get(f"/v1/pages/{page}"))["timeline"]]


def people(house: House, **changes: Mapping[str, Any]) -> dict[str, Person]:
    found = dict(house.company.people)
    for name, fields in changes.items():
        id_ = name.replace("_", "-")
        found[id_] = replace(found[id_], **fields)
    return found


# ---- severity and quiet


async def test_high_waits_for_the_morning_and_critical_does_not(pager: House) -> None:
    """Quiet hours are by the person's clock, and the time to answer starts when they end."""
    now = pager.clock.now()
    begin, end = now - timedelta(hours=1), now + timedelta(hours=2)
    quiet = f"{begin:%H:%M}-{end:%H:%M}"
    await pager.apply(replace(pager.company, people=people(pager, architect_1={"quiet_hours": quiet})))
    high = await open_ticket(pager, severity="high", number=1)
    (held,) = await page_in(pager, "pending")

    async def is_held() -> bool:
        return (await pager.get(f"/v1/pages/{held['id']}"))["held"] == "quiet hours"

    await until(is_held)
    await open_ticket(pager, severity="critical", number=2)
    (first,) = await rings(pager, 1)
    assert first.data["ticket"] != str(high.id)
    pager.move(hours=2, minutes=1)
    await until(lambda: _rung_for(pager, high.id))
    second = next(one for one in pager.phone.received if one.data.get("ticket") == str(high.id))
    assert second.path == "/architect-1", "the timers start at the end of the quiet hours: not the deputy yet"
    assert "held for quiet hours" in await timeline(pager, held["id"])


async def _rung_for(house: House, ticket: UUID) -> bool:
    return any(one.data.get("ticket") == str(ticket) for one in house.phone.received)


async def test_medium_is_bundled_and_low_waits_for_the_digest(pager: House) -> None:
    """What wakes nobody is one message, without an acknowledgement."""
    for number in range(3):
        await open_ticket(pager, severity="medium", number=number)
    await open_ticket(pager, severity="low", number=9)

    async def gathered() -> bool:
        lines = await pager.sql("SELECT count(*) FROM notify.digest_entry WHERE kind <> 'preflight'")
        return lines[0][0] == 4

    await until(gathered)
    pager.move(minutes=2, seconds=30)
    (message,) = await rings(pager, 1)
    assert (message.path, message.type, len(message.data["entries"])) == ("/architect-1", "digest", 3)
    assert not await pager.items("/v1/pages")
    pager.move(hours=24)
    digest = (await rings(pager, 2))[1]
    assert [entry["kind"] for entry in digest.data["entries"]] == ["ticket"]


async def test_a_silence_holds_pages_until_it_ends(pager: House) -> None:
    """Maintenance wakes nobody; what is still a problem afterwards does. Set ahead, by rule and touchpoint too."""
    ahead = (pager.clock.now() + timedelta(hours=5)).isoformat()
    until_then = (pager.clock.now() + timedelta(hours=6)).isoformat()
    later = await pager.send(
        "POST", "/v1/silences", {"customer": "acme", "from": ahead, "until": until_then, "reason": "move"}, 201
    )
    made = await pager.send(
        "POST",
        "/v1/silences",
        {"customer": "acme", "rule": "mood-one", "until": ahead, "reason": "maintenance"},
        201,
    )
    silenced = await open_ticket(pager, number=1)
    other = await open_ticket(pager, number=2, touchpoint="billing")
    other = await change(pager, other, state="cancelled")
    await until(lambda: page_in(pager, "resolved"))
    assert {one["id"] for one in await pager.items("/v1/silences")} == {made["id"], later["id"]}
    (page,) = await page_in(pager, "pending")
    await until(lambda: _held(pager, page["id"], "silence"))
    assert not pager.phone.received
    await pager.send("DELETE", f"/v1/silences/{made['id']}")
    (rung,) = await rings(pager, 1)
    assert rung.data["ticket"] == str(silenced.id)
    await pager.send("DELETE", f"/v1/silences/{made['id']}", status=409)


async def _held(house: House, page: str, why: str) -> bool:
    return (await house.get(f"/v1/pages/{page}"))["held"] == why


async def test_a_storm_is_one_page(pager: House) -> None:
    """500 tickets of one customer are one page that says so; taking it takes all; another customer's is its own."""
    now = pager.clock.now()
    tickets = [
        build.ticket(id=uuid7(), number=n, opened_at=now, dedup_key=f"acme/mood-one/{n}", touchpoint=None)
        for n in range(500)
    ]
    for number in range(5):
        await open_ticket(pager, number=1000 + number)
    await rings(pager, 5)
    await pager.tell_all(TICKETS, "ticket.opened", tickets)
    await open_ticket(pager, customer="borealis", number=2000)

    async def all_there() -> bool:
        return (await pager.sql("SELECT count(*) FROM notify.page"))[0][0] == 506

    await until(all_there)
    received = await rings(pager, 7)
    storm = next(one for one in received if "tickets at once" in one.data["summary"])
    own = next(one for one in received if one.data["customer"] == "borealis")
    assert own.data["ticket"] != storm.data["ticket"]
    assert (await pager.client.post(storm.data["acknowledge_url"])).status_code == 200
    await page_in_sql(pager, "acknowledged", 500)
    pager.move(minutes=2)
    found = await pager.sql(
        "SELECT count(*) FROM notify.delivery WHERE page IN (SELECT id FROM notify.page WHERE lead IS NOT NULL)"
    )
    assert found[0][0] == 0


async def page_in_sql(house: House, state: str, count: int) -> None:
    async def there() -> bool:
        return (await house.sql("SELECT count(*) FROM notify.page WHERE state = $1", state))[0][0] == count

    await until(there)


async def test_a_storm_goes_on_when_its_leading_ticket_is_resolved(pager: House) -> None:
    """Nobody is lost because the one page that was sent for all is over."""
    now = pager.clock.now()
    tickets = [build.ticket(id=uuid7(), number=n, opened_at=now, dedup_key=f"acme/mood-one/{n}") for n in range(20)]
    await pager.tell_all(TICKETS, "ticket.opened", tickets)
    (first,) = await rings(pager, 1)
    leading = next(ticket for ticket in tickets if str(ticket.id) == first.data["ticket"])
    await change(pager, leading, state="cancelled")
    await page_in_sql(pager, "resolved", 1)
    pager.move(minutes=1, seconds=5)
    second = (await rings(pager, 2))[1]
    assert second.path == "/architect-1"
    assert "19 tickets at once" in second.data["summary"]
    await pager.client.post(second.data["acknowledge_url"])
    await page_in_sql(pager, "acknowledged", 19)
    pager.move(hours=4, minutes=1)
    third = (await rings(pager, 3))[2]
    assert "19 tickets at once" in third.data["summary"], "forgotten together, paged as one"
    await page_in_sql(pager, "sent", 19)
    pager.move(minutes=2)
    await asyncio.sleep(1)
    await rings(pager, 3)


# ---- escalation


async def test_forgotten_work_is_paged_again(pager: House) -> None:
    """Who acknowledges and does nothing is asked again; who works on it is left alone."""
    idle, busy = await open_ticket(pager, number=1), await open_ticket(pager, number=2)
    for one in await rings(pager, 2):
        await pager.client.post(one.data["acknowledge_url"])
    await page_in(pager, "acknowledged", 2)
    idle = await change(pager, idle, state="acknowledged", assignee="architect-1")
    busy = await change(pager, busy, state="acknowledged", assignee="architect-1")

    async def seen() -> bool:
        found = await pager.sql("SELECT ticket, version FROM notify.seen_ticket")
        return {row[0]: row[1] for row in found} == {one.id: one.version for one in (idle, busy)}

    await until(seen)
    pager.move(hours=3)
    busy = await change(pager, busy, state="in_progress")
    await until(seen)
    pager.move(hours=1, minutes=1)
    again = (await rings(pager, 3))[2]
    assert (again.path, again.data["ticket"]) == ("/architect-1", str(idle.id))
    (page,) = await page_in(pager, "sent")
    assert page["ticket"] == str(idle.id)
    events = await pager.sql("SELECT what FROM notify.audit WHERE what = 'page.unacknowledged'")
    assert len(events) == 1
    await change(pager, busy, state="waiting")
    pager.move(hours=9)
    assert not [one for one in pager.phone.received[2:] if one.data.get("ticket") == str(busy.id)]


async def test_a_breached_clock_pages_the_next_person(pager: House) -> None:
    """Late is late, also where somebody has acknowledged; the same breach escalates once."""
    ticket = await open_ticket(pager)
    (first,) = await rings(pager, 1)
    await pager.client.post(first.data["acknowledge_url"])
    ticket = await change(pager, ticket, state="acknowledged", assignee="architect-1", sla=SlaV1())
    await page_in(pager, "acknowledged")
    ticket = await change(pager, ticket, sla=SlaV1(first_response="met", resolve="breached"))
    second = (await rings(pager, 2))[1]
    assert second.path == "/deputy-1"
    ticket = await change(pager, ticket, sla=SlaV1(first_response="met", resolve="breached"), severity="critical")
    await pager.client.post(second.data["acknowledge_url"])
    (page,) = await page_in(pager, "acknowledged")
    assert page["acknowledged_by"] == "deputy-1"
    assert len(pager.phone.received) == 2


async def test_by_hand_and_by_whom(pager: House) -> None:
    """Somebody at a desk can let the next person be paged, and the timeline says who wanted it."""
    await open_ticket(pager)
    await rings(pager, 1)
    (page,) = await page_in(pager, "sent")
    await pager.send("POST", f"/v1/pages/{page['id']}/escalate", status=202)
    assert (await rings(pager, 2))[1].path == "/deputy-1"

    async def told() -> list[dict[str, Any]]:
        lines = (await pager.get(f"/v1/pages/{page['id']}"))["timeline"]
        return lines if [line["what"] for line in lines].count("attempt delivered") == 2 else []

    lines = await until(told)
    assert [line["actor"] for line in lines if line["what"] == "escalated by hand"] == ["key:ops"]


async def test_who_is_away_is_not_paged(pager: House) -> None:
    """An absence passes the page on at once; the catch-all is paged whatever the calendar says."""
    day = pager.clock.now()
    away = (Absence(f"{day - timedelta(days=1):%Y-%m-%d}T00:00", f"{day + timedelta(days=2):%Y-%m-%d}T00:00"),)
    gone = people(pager, architect_1={"absences": away}, duty_manager={"absences": away})
    await pager.apply(replace(pager.company, people=gone))
    chain = (await pager.get("/v1/oncall", customer="acme"))["chain"]
    assert [link["person"] for link in chain] == ["deputy-1", "duty-manager"]
    await open_ticket(pager)
    assert (await rings(pager, 1))[0].path == "/deputy-1"
    for _ in range(2):
        pager.move(minutes=6)
    pages = await pager.items("/v1/pages")
    assert pages[0]["person"] in {"deputy-1", "duty-manager"}


# ---- the rota


def rota(house: House, **fields: Any) -> dict[str, Schedule]:
    start = f"{house.clock.now() - timedelta(days=7):%Y-%m-%dT%H:00}"
    layer = Layer("daily", start, ("architect-1", "deputy-1"), **fields)
    return {"night-watch": Schedule("night-watch", "UTC", (layer,))}


async def test_the_schedule_is_asked_when_the_step_comes(pager: House) -> None:
    """An override of the moment counts; past and future can be asked for; nothing rewrites what was."""
    escalations = {
        "standard": replace(pager.company.escalations["standard"], steps=(Step("schedule:night-watch", 300),))
    }
    await pager.apply(replace(pager.company, schedules=rota(pager), escalations=escalations))
    now = pager.clock.now()
    asked = {"customer": "acme"}
    regular = (await pager.get("/v1/oncall", **asked))["chain"][0]
    assert regular["via"] == "schedule:night-watch"
    assert regular["until"] is not None
    other = {"architect-1": "deputy-1", "deputy-1": "architect-1"}[regular["person"]]
    pager.move(minutes=10)
    made = await pager.send(
        "POST",
        "/v1/overrides",
        {"schedule": "night-watch", "person": other, "until": (now + timedelta(hours=3)).isoformat()},
        201,
    )
    assert (await pager.get("/v1/oncall", **asked))["chain"][0]["person"] == other
    assert (await pager.get("/v1/oncall", **asked, at=now.isoformat()))["chain"][0]["person"] == regular["person"]
    await open_ticket(pager)
    assert (await rings(pager, 1))[0].path == f"/{other}"
    shifts = (await pager.get("/v1/schedules/night-watch/shifts"))["items"]
    assert (shifts[0]["person"], shifts[0]["via"]) == (other, "override")
    await pager.send("DELETE", f"/v1/overrides/{made['id']}")
    assert (await pager.get("/v1/oncall", **asked))["chain"][0]["person"] == regular["person"]
    swapped = {
        "schedule": "night-watch",
        "person": other,
        "with": regular["person"],
        "until": (now + timedelta(hours=3)).isoformat(),
    }
    swap = (await pager.send("POST", "/v1/swaps", swapped, 201))["items"]
    assert (await pager.get("/v1/oncall", **asked))["chain"][0]["person"] == other, "a swap is two, and one act"
    for one in swap:
        await pager.send("DELETE", f"/v1/overrides/{one['id']}")
    wrong = await pager.send("POST", "/v1/swaps", {**swapped, "with": "nobody"}, 422)
    assert wrong["errors"][0]["path"] == "with"
    changes = await pager.items("/v1/audit", what="override made")
    assert (changes[-1]["actor"], changes[-1]["detail"]["person"]) == ("key:ops", other)


@pytest.mark.parametrize(
    ("fields", "path", "says"),
    [
        ({"schedule": "day-watch"}, "schedule", "the directory has no schedule 'day-watch'"),
        ({"person": "nobody"}, "person", "the directory has no person 'nobody'"),
        ({"until": "2020-01-01T00:00:00Z"}, "until", "is in the past"),
        ({"from": "2020-01-01T00:00:00Z"}, "from", "is in the past"),
        ({"zone": "Europe/Helsinki"}, "zone", ""),
    ],
)
async def test_an_override_that_cannot_be(pager: House, fields: dict[str, str], path: str, says: str) -> None:
    await pager.apply(replace(pager.company, schedules=rota(pager)))
    body = {
        "schedule": "night-watch",
        "person": "deputy-1",
        "until": (pager.clock.now() + timedelta(hours=1)).isoformat(),
        **fields,
    }
    problem = await pager.send("POST", "/v1/overrides", body, 422)
    assert problem["errors"][0]["path"] == path
    assert says in problem["errors"][0]["detail"]


async def test_calendars(pager: House) -> None:
    """A calendar is read with the token of its address, by that address alone."""
    await pager.apply(replace(pager.company, schedules=rota(pager)))
    (schedule,) = await pager.items("/v1/schedules")
    person = await pager.get("/v1/people/architect-1/calendar")
    for address in (schedule["calendar"], person["calendar"]):
        feed = await pager.client.get(address)
        assert feed.status_code == 200
        assert feed.headers["content-type"].startswith("text/calendar")
        assert feed.text.startswith("BEGIN:VCALENDAR\r\n")
        assert "Architect-1" in feed.text
    assert "Deputy-1" not in (await pager.client.get(person["calendar"])).text
    token = schedule["calendar"].partition("?")[2]
    for wrong in (f"/v1/people/architect-1.ics?{token}", "/v1/schedules/night-watch.ics?token=x.y"):
        assert (await pager.client.get(wrong)).status_code == 401


async def test_what_would_go_wrong_at_night_is_found_by_day(pager: House) -> None:
    """Empty shifts, people whom no page reaches, one person as the whole chain: said before it is needed."""
    day = pager.clock.now()
    away = (Absence(f"{day + timedelta(days=3):%Y-%m-%d}T00:00", f"{day + timedelta(days=8):%Y-%m-%d}T00:00"),)
    staff = people(pager, architect_1={"absences": away}, deputy_1={"absences": away, "contacts": ()})
    alone = replace(pager.company.customers["borealis"], architect="duty-manager", deputy=None)
    await pager.apply(
        replace(
            pager.company,
            people=staff,
            schedules=rota(pager),
            customers={**pager.company.customers, "borealis": alone},
        )
    )
    found = await pager.get("/v1/preflight")
    assert found["ready"] is False
    codes = {(item["code"], item["subject"]) for item in found["items"]}
    assert {
        ("empty-shift", "schedule:night-watch"),
        ("unreachable", "person:deputy-1"),
        ("unverified", "person:architect-1"),
        ("both-absent", "customer:acme"),
        ("one-person", "customer:borealis"),
    } <= codes


# ---- contacts


async def test_a_contact_is_shown_to_work(pager: House) -> None:
    """By a code that is told back, or by an answer to a page; a wrong code is counted."""
    asked = "/v1/people/architect-1/contacts/0"
    await pager.send("POST", f"{asked}/verification", status=202)
    (message,) = await rings(pager, 1)
    code = message.data["code"]
    wrong = f"{(int(code) + 1) % 1_000_000:06}"
    await pager.send("POST", f"{asked}/verify", {"code": wrong}, 422)
    assert (await pager.send("POST", f"{asked}/verify", {"code": code}))["verified_at"] is not None
    await pager.send("POST", f"{asked}/verify", {"code": code}, 422)
    await open_ticket(pager)
    await rings(pager, 2)
    pager.move(minutes=5, seconds=1)
    deputys = (await rings(pager, 3))[2]
    await pager.client.post(deputys.data["acknowledge_url"])
    (contact,) = await pager.items("/v1/people/deputy-1/contacts")
    assert contact["verified_at"] is not None
    found = (await pager.get("/v1/preflight"))["items"]
    assert [item["subject"] for item in found if item["code"] == "unverified"] == ["person:duty-manager"]


async def test_contacts_by_severity_and_delay(pager: House) -> None:
    """The second way is tried after its delay, at once when the first fails, and the loud one for what is critical."""
    url = pager.phone.url
    contacts = (
        Contact("webhook", url("/chat")),
        Contact("webhook", url("/call"), severities=("critical",), after=120),
    )
    await pager.apply(replace(pager.company, people=people(pager, architect_1={"contacts": contacts})))
    await open_ticket(pager, severity="high", number=1)
    await open_ticket(pager, severity="critical", number=2)
    assert types(await rings(pager, 2)) == [("/chat", "page")] * 2
    pager.move(minutes=2, seconds=1)
    assert types(await rings(pager, 3))[2] == ("/call", "page")
    pager.phone.answer = lambda request: 400 if request.path == "/chat" else 204
    await open_ticket(pager, severity="critical", number=3)
    assert types(await rings(pager, 5))[3:] == [("/chat", "page"), ("/call", "page")]
    pager.phone.answer = lambda request: 400 if request.path == "/call" else 204
    await open_ticket(pager, severity="critical", number=4)
    await rings(pager, 6)
    pager.move(minutes=2, seconds=1)
    await rings(pager, 7)
    pager.move(minutes=1)
    assert all(one.path in {"/chat", "/call"} for one in pager.phone.received), "who was reached has their time"


async def test_an_expired_link_mails_a_fresh_one(pager: House) -> None:
    """It goes to that person's own address, once, whoever holds the old link."""
    async with mail_relay() as relay:
        mail = (Contact("webhook", pager.phone.url("/hook")), Contact("email", "architect-1@example.test"))
        smtp = Smtp("127.0.0.1", "fiilis@example.test", port=relay.port, tls="none")
        await pager.apply(replace(pager.company, smtp=smtp, people=people(pager, architect_1={"contacts": mail})))
        await open_ticket(pager)
        (first,) = await rings(pager, 1)
        (page,) = await page_in(pager, "sent")
        facts = {"page": page["id"], "person": "architect-1"}
        old = Signer([SECRET]).sign("acknowledge", facts, expires=pager.clock.now() - timedelta(seconds=1))
        for _ in range(2):
            answer = await pager.client.post(f"/a/{old}")
            assert (answer.status_code, "has expired" in answer.text) == (410, True)

        async def mailed() -> bool:
            return bool(relay.mails)

        await until(mailed)
        assert relay.mails[0]["To"] == "architect-1@example.test"
        fresh = next(word for word in cast("EmailMessage", relay.mails[0]).get_content().split() if "/a/" in word)
        assert "Taken" in (await pager.client.post(fresh)).text
        assert "Taken" in (await pager.client.post(first.data["acknowledge_url"])).text, "used twice: says who has it"
        assert len(relay.mails) == 1


async def test_who_has_left_takes_nothing(pager: House) -> None:
    """By no door: the page says so, and goes on to the next person."""
    await open_ticket(pager)
    (first,) = await rings(pager, 1)
    link, (page,) = first.data["acknowledge_url"], await page_in(pager, "sent")
    staff = {name: known for name, known in pager.company.people.items() if name != "architect-1"}
    customers = {id_: replace(one, architect="deputy-1") for id_, one in pager.company.customers.items()}
    await pager.apply(replace(pager.company, people=staff, customers=customers))
    for answer in (await pager.client.get(link), await pager.client.post(link)):
        assert (answer.status_code, "no longer in the directory" in answer.text) == (403, True)
        assert "<button" not in answer.text
    refused = await pager.send("POST", f"/v1/pages/{page['id']}/acknowledge", {"person": "architect-1"}, status=422)
    assert refused["errors"][0]["path"] == "person"
    assert (await pager.get(f"/v1/pages/{page['id']}"))["state"] == "sent"
    pager.move(minutes=6)
    assert (await rings(pager, 2))[1].path == "/deputy-1"


# ---- before anything breaks


async def test_a_source_that_falls_silent_pages(pager: House) -> None:
    """No answers are no good news; the next sign of life ends the page."""
    await pager.apply(replace(pager.company, heartbeats={"kiosk-1": Heartbeat(900, "acme")}))
    await until(lambda: pager.sql("SELECT 1 FROM notify.heartbeat"))
    await pager.send("POST", "/v1/heartbeats/kiosk-2", status=404)
    await pager.send("POST", "/v1/heartbeats/kiosk-1")
    pager.move(minutes=14)
    await pager.send("POST", "/v1/heartbeats/kiosk-1")
    pager.move(minutes=14)
    assert not pager.phone.received
    pager.move(minutes=2)
    (page,) = await rings(pager, 1)
    assert "no sign of life from kiosk-1" in page.data["summary"]
    await pager.send("POST", "/v1/heartbeats/kiosk-1")
    await page_in(pager, "resolved")
    pager.move(minutes=16)
    await rings(pager, 2)


async def test_meetings_are_not_forgotten(pager: House) -> None:
    """The architect gets a brief before one is due, hears when it is overdue, and what was agreed on is on the next."""
    acme = replace(pager.company.customers["acme"], check_in="monthly")
    await pager.apply(replace(pager.company, customers={**pager.company.customers, "acme": acme}))
    await until(lambda: pager.sql("SELECT 1 FROM notify.check_in_due"))
    point = ScoreDailyV1(
        customer="acme", day="2026-11-22", nps=12.5, nps_responses=40, nps_goal=40, nps_gap=27.5, weakest="billing"
    )
    await pager.tell(ALERTS, "score.daily", point)
    await until(lambda: pager.sql("SELECT 1 FROM notify.standing"))
    held = (pager.clock.now() - timedelta(hours=1)).isoformat()
    said = {"customer": "acme", "held_at": held, "note": "They want a named contact", "goals": {"nps": 20}}
    await pager.send("POST", "/v1/check-ins", said, 201)
    assert (await pager.items("/v1/check-ins", customer="acme"))[0]["goals"] == {"nps": 20}
    wrong = await pager.send("POST", "/v1/check-ins", {**said, "goals": {"revenue": 1}}, 422)
    assert wrong["errors"][0]["path"] == "goals.revenue"
    pager.move(days=28)
    (brief,) = await rings(pager, 1)
    assert (brief.path, brief.type, brief.data["overdue"]) == ("/architect-1", "brief", False)
    assert brief.data["scores"]["nps_gap"] == 27.5
    assert brief.data["last_check_in"]["note"] == "They want a named contact"
    pager.move(days=4)
    overdue = (await rings(pager, 2))[1]
    assert (overdue.type, overdue.data["overdue"]) == ("overdue", True)


async def test_good_experiences_are_shared(pager: House) -> None:
    """The whole team reads what went well, once a day; nobody is woken by it, and erasure takes it out."""
    await pager.apply(replace(pager.company, team=("duty-manager",)))
    for number in range(2):
        good = build.alert(
            id=uuid7(), rule="good-experience", kind="mood_at_least", severity="info", dedup_key=f"acme/good/{number}"
        )
        await pager.tell(ALERTS, "alert.opened", good)

    async def gathered() -> bool:
        return (await pager.sql("SELECT count(*) FROM notify.digest_entry WHERE kind = 'good'"))[0][0] == 6

    await until(gathered)
    pager.move(hours=24)

    async def told() -> bool:
        return {one.path for one in pager.phone.received} == {"/architect-1", "/deputy-1", "/duty-manager"}

    await until(told)
    for one in pager.phone.received:
        assert one.type == "digest"
        assert len([entry for entry in one.data["entries"] if entry["kind"] == "good"]) == 2


# ---- what looks after all this


async def test_what_is_overdue_is_repaired_and_the_watchdog_hears_nothing(database_url: str) -> None:
    """A monitor elsewhere is called as long as paging works; a page that nobody takes up is told and taken up."""
    phone, clock = await Phone().start(), MovableClock()
    database, outbound = Database(database_url, "notify"), Outbound(Guard("true"))
    await migrate(database, MIGRATIONS["notify"])
    follower = Follower(Kafka("127.0.0.1:9"), ())
    follower.current = revision_of(1, replace(company(phone), watchdog=Watchdog(phone.url("/alive"), every=1)))
    try:
        escalator = Escalator(database, follower, {}, clock, Quarantine(database), lambda: None)
        missing: list[str | None] = [None]
        auditor = Auditor(database, follower, clock, outbound, repair=escalator.loop.once, missing=lambda: missing[0])
        await auditor.run_once()
        assert [one.path for one in phone.received] == ["/alive"]
        late = build.page(due_at=clock.now() - timedelta(minutes=5), state="sent", turn=1, level=1)
        async with database.transaction() as tx:
            await pages.save(tx, [pages.Kept(late, None)])
        await auditor.run_once()
        assert len(phone.received) == 1
        async with database.transaction() as tx:
            repaired = await pages.one(tx, late.id)
            lines = await audit.of_page(tx, late.id)
        assert repaired is not None
        assert repaired.due_at is not None
        assert repaired.due_at > clock.now()
        assert [line.what for line in lines] == ["page.exhausted"], "nobody can be reached in this test"
        await auditor.run_once()
        assert len(phone.received) == 2, "it works again"
        missing[0] = "tickets.v1 is not read"
        await auditor.run_once()
        assert len(phone.received) == 2, "a paging that hears of no ticket is not alive"
    finally:
        await outbound.close()
        await database.close()
        await phone.close()


async def test_who_changed_the_rota_and_from_what(pager: House) -> None:
    """The audit is only appended: who was responsible when, and who made it so, cannot be made different later."""
    acme = replace(pager.company.customers["acme"], architect="duty-manager")
    await pager.apply(replace(pager.company, customers={**pager.company.customers, "acme": acme}))

    async def told() -> list[dict[str, Any]]:
        lines = await pager.items("/v1/audit", what="rota changed", customer="acme")
        return [line for line in lines if line["detail"].get("path") == "customers.acme.architect"]

    (line,) = await until(told)
    assert (line["detail"]["before"], line["detail"]["after"]) == ("architect-1", "duty-manager")
    assert line["actor"] == "apply"
    with pytest.raises(asyncpg.RaiseError, match="only appended"):
        await pager.sql("UPDATE notify.audit SET actor = 'somebody else'")


async def test_the_rota_s_holes_are_in_the_daily_digest(pager: House) -> None:
    """Whoever is behind everybody reads once a day what would go wrong at night."""
    await until(lambda: pager.sql("SELECT 1 FROM notify.digest_entry WHERE kind = 'preflight'"))
    pager.move(hours=24)

    async def told() -> list[Received]:
        return pager.phone.received

    (digest,) = await until(told)
    assert (digest.path, _kinds(digest)) == ("/duty-manager", {"preflight"})


async def test_too_many_pages_are_not_repeated(pager: House) -> None:
    """Whoever is paged all night is not paged again for what they know; new problems and critical ones always are."""
    steps = (Step("architect", 60),)
    escalations = {"standard": replace(pager.company.escalations["standard"], steps=steps, repeat=50)}
    await pager.apply(replace(pager.company, escalations=escalations))
    high = await open_ticket(pager, severity="high", number=1)
    await page_in(pager, "sent")
    for round_ in range(1, 26):

        async def paged(round_: int = round_) -> bool:
            (page,) = await pager.items("/v1/pages")
            waiting = await pager.sql("SELECT 1 FROM notify.delivery WHERE state = 'pending'")
            return page["round"] >= round_ and not waiting

        await until(paged)
        pager.move(minutes=1, seconds=1)
    heard = [one for one in pager.phone.received if one.data.get("ticket") == str(high.id)]
    assert len(heard) == 20, "then it is held back for the rest of the hour"
    await open_ticket(pager, severity="high", number=2)
    await rings(pager, 21)
    await open_ticket(pager, severity="critical", number=3)
    await rings(pager, 22)
