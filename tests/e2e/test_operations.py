"""The commands of operations, against a house that runs."""

from __future__ import annotations

import socket
from typing import Any

import pytest
from aiokafka.admin import NewTopic
from msgspec.structs import replace

from services.cli.environment import user
from shared.bus import provisioning
from shared.bus.client import Kafka
from shared.directory.follower import read_newest
from shared.directory.model import Desk
from shared.wire.topics import ALERTS, DIRECTORY, FEEDBACK, TOPICS
from tests.support.desks.jira import fake_jira
from tests.support.house import PARTITIONS, House, house
from tests.support.processes import Done, command
from tests.support.wait import until


async def run(fiilis: House, *arguments: str, **variables: str) -> Done:
    """Run a command as its operator would."""
    return await command(
        *arguments,
        FIILIS_KAFKA=fiilis.kafka.bootstrap,
        FIILIS_TOPIC_PREFIX=fiilis.kafka.prefix,
        FIILIS_DATABASE_URL=fiilis.database_url,
        FIILIS_SECRET="a-secret-of-a-test-with-32-characters",
        FIILIS_PUBLIC_URL="https://fiilis.example.test",
        FIILIS_ALLOW_PRIVATE_TARGETS="true",
        **variables,
    )


async def _mood(fiilis: House) -> str:
    """Let a critical mood page somebody; return its ticket."""
    assert (await fiilis.post({"customer": "acme", "kind": "mood", "score": 1})).status_code == 202
    ticket = await fiilis.ticket()
    await until(lambda: fiilis.items("/v1/pages", state="sent"))
    return ticket["id"]


async def test_what_was_set_aside_is_listed_and_released(fiilis: House) -> None:
    """With the id that the list shows, and not with another."""
    await fiilis.sql(
        "INSERT INTO notify.quarantine (queue, key, reason, detail) VALUES "
        "('deliveries', 'd-1', 'OverflowError', 'OverflowError: date value out of range \x1b[2J')"
    )
    shown = await run(fiilis, "quarantine", "list")
    assert shown.code == 0, shown.err
    [line] = [line for line in shown.out.splitlines() if line.startswith("notify-")]
    assert "deliveries d-1: OverflowError: date value out of range \\x1b[2J" in line
    id_ = line.split()[0]
    wrong = await run(fiilis, "quarantine", "release", "elsewhere-5")
    assert (wrong.code, "must be an id such as notify-12" in wrong.err) == (2, True)
    released = await run(fiilis, "quarantine", "release", id_)
    assert (released.code, released.out) == (0, "released: deliveries d-1 is tried again\n")
    assert (await run(fiilis, "quarantine", "release", id_)).code == 1
    assert (await run(fiilis, "quarantine", "list")).out == "0 set aside\n"
    line = await _audited(fiilis, "quarantine released")
    assert line["detail"] == {"service": "notify", "queue": "deliveries", "key": "d-1"}


async def test_lost_offsets_are_shown_and_accepted(fiilis: House) -> None:
    """What is skipped is said; a log that is read again from its start counts nothing twice."""
    await _mood(fiilis)
    shown = await run(fiilis, "offsets", "show")
    assert shown.code == 0, shown.out
    assert "scoring    feedback.v1/0" in shown.out
    await fiilis.sql("UPDATE scoring.consumer_offset SET log = 'another'")
    shown = await run(fiilis, "offsets", "show")
    assert shown.code == 1
    assert "LOST (other log)" in shown.out
    assert "python -m services offsets accept TOPIC" in shown.err
    assert (await run(fiilis, "offsets", "accept", "nothing.v1")).code == 2
    accepted = await run(fiilis, "offsets", "accept", FEEDBACK.name)
    assert accepted.code == 0, accepted.err
    assert f"{PARTITIONS} places accepted" in accepted.out
    assert "the new one is read whole" in accepted.out
    assert (await run(fiilis, "offsets", "show")).code == 0
    assert (await run(fiilis, "offsets", "accept", FEEDBACK.name)).out == "nothing of feedback.v1 is lost\n"
    assert (await fiilis.post({"customer": "acme", "kind": "mood", "score": 4})).status_code == 202

    async def counted() -> bool:
        return (await fiilis.get("/v1/customers/acme/scores"))["mood"]["responses"] == 2

    await until(counted)
    line = await _audited(fiilis, "lost offsets accepted", count=PARTITIONS)
    assert (line["detail"]["topic"], line["detail"]["lost"]) == (FEEDBACK.name, "other log")


async def _audited(fiilis: House, what: str, count: int = 1) -> dict[str, Any]:
    """Return the newest line that a command has left, with who ran it on which host."""

    async def told() -> list[dict[str, Any]] | None:
        lines = await fiilis.items("/v1/audit", what=what, who=f"command:{user()}")
        return lines if len(lines) >= count else None

    lines = await until(told) or []
    assert len(lines) == count
    assert {(line["service"], line["address"]) for line in lines} == {("command", socket.gethostname())}
    return lines[0]


async def test_what_the_next_stage_does_not_know_is_told_again(fiilis: House) -> None:
    """An alert whose ticket never came, a ticket whose page never came, a page that its ticket does not show."""
    ticket = await _mood(fiilis)
    told = await until(lambda: _clean(fiilis))
    assert told is not None
    assert told.out == "every open alert, ticket and page is known to the next stage\n"
    await fiilis.sql("DELETE FROM notify.page")
    await fiilis.sql("DELETE FROM notify.seen_ticket")
    fiilis.phone.received.clear()
    dry = await run(fiilis, "republish", "--dry-run")
    assert "notify does not know ticket 1 of acme" in dry.out
    assert "1 would be told again" in dry.out
    again = await run(fiilis, "republish")
    assert "1 are told again as soon as the services run" in again.out

    async def rung() -> bool:
        return any(one.data["ticket"] == ticket for one in fiilis.phone.received)

    await until(rung)
    known = "SELECT FROM ticketing.seen_page JOIN notify.page ON page.id = seen_page.page WHERE page.state = 'sent'"
    await until(lambda: fiilis.sql(known))
    await fiilis.sql("DELETE FROM ticketing.merged_alert")
    await fiilis.sql("DELETE FROM ticketing.seen_page")
    dry = await run(fiilis, "republish", "--dry-run")
    assert "ticketing does not know alert" in dry.out
    assert "ticketing does not know page" in dry.out
    await run(fiilis, "republish")
    await until(lambda: _clean(fiilis))


async def test_a_desk_is_tried_out_before_a_real_ticket_finds_out(fiilis: House) -> None:
    """What its workflow refuses is said with what to mend; the ticket of the trial is removed, or cancelled."""
    async with fake_jira() as desk:
        desk.workflow["In Progress"] = ["Resolved", "To Do"]
        desk.asks["Resolved"] = ("components",)
        revision = await read_newest(fiilis.kafka)
        assert revision is not None
        there = {"main": Desk(**desk.directory_entry(options={"waiting": "Pending"}))}
        await fiilis.apply(replace(revision.directory, desks=there))
        wrong = await run(fiilis, "desks", "test", "other", **desk.environ)
        assert (wrong.code, "no desk of the directory; it has main" in wrong.err) == (2, True)
        refused = await run(fiilis, "desks", "test", "main", **desk.environ)
        assert refused.code == 1
        assert "the transition to 'Resolved' asks for components" in " ".join(refused.err.split())
        assert "move to in_progress: shows as in_progress" in refused.out
        assert "remains, cancelled" in refused.out
        assert [one.state for one in desk.tickets.values()] == ["Canceled"] or desk.tickets

        desk.asks.clear()
        desk.lets_delete = True
        desk.tickets.clear()
        desk.workflow["In Progress"] = ["Resolved", "To Do", "Pending"]
        taken = await run(fiilis, "desks", "test", "main", **desk.environ)
        assert (taken.code, taken.err) == (0, "")
        assert taken.out.endswith("remove: ok\nmain takes every step\n")
        assert not desk.tickets
        closed = await run(fiilis, "desks", "test", "main", **dict.fromkeys(desk.environ, ""))
        assert (closed.code, "FAKE_JIRA_TOKEN is not set" in closed.err) == (1, True)


async def test_a_desks_tickets_are_tried_again_and_synced_by_command(fiilis: House) -> None:
    """Each with a line of the audit; the row is due, with nothing held."""
    desk = fake_jira()
    desk.port = 1
    revision = await read_newest(fiilis.kafka)
    assert revision is not None
    await fiilis.apply(replace(revision.directory, desks={"main": Desk(**desk.directory_entry())}))
    ticket = await _mood(fiilis)
    await fiilis.sql(
        "INSERT INTO ticketing.desk_ticket "
        "(ticket, desk, customer, severity, wanted, reference, label, error, due_at, held_until, refused) VALUES "
        f"('{ticket}', 'other', 'acme', 4, 1, '10001', 'SD-1', 'HTTP 422', '2099-01-01', '2099-01-01', '{{move}}')"
    )
    assert "no desk of the directory" in (await run(fiilis, "desks", "retry", "other")).err
    await fiilis.sql("UPDATE ticketing.desk_ticket SET desk = 'main'")
    again = await run(fiilis, "desks", "retry", "main")
    assert (again.code, again.out) == (0, "1 tickets of main are tried again as soon as ticketing runs\n")
    assert (await _audited(fiilis, "desk retried"))["detail"] == {"desk": "main", "tickets": "1"}
    assert "no ticket of a desk" in (await run(fiilis, "desks", "sync", "4711")).err
    synced = await run(fiilis, "desks", "sync", "#1")
    assert (synced.code, synced.out) == (0, "SD-1 in main is read and written as soon as ticketing runs\n")
    assert (await _audited(fiilis, "desk ticket synced"))["detail"]["ticket"] == ticket


async def _clean(fiilis: House) -> Done | None:
    done = await run(fiilis, "republish", "--dry-run")
    return done if "is known to the next stage" in done.out else None


async def test_the_doctor_finds_nothing_wrong_with_a_house_that_runs(fiilis: House) -> None:
    """And says what it looked at."""
    done = await run(fiilis, "doctor")
    assert done.code == 0, done.out
    for subject in ("kafka: cluster", "directory: revision 1", "database: PostgreSQL", "webhook of architect-1"):
        assert f"ok       {subject}" in done.out
    assert "nothing is wrong" in done.out


async def test_the_doctor_heals_what_is_ours(fiilis: House) -> None:
    """A directory that is not compacted, a retention that is too short; what it may not change it explains."""
    kafka = fiilis.kafka
    async with kafka.admin() as admin:
        await provisioning.mend(kafka, admin, DIRECTORY.name, {"cleanup.policy": "delete"})
        await provisioning.mend(kafka, admin, ALERTS.name, {"retention.ms": "60000"})
    await until(lambda: _differs(kafka))
    done = await run(fiilis, "doctor")
    assert done.code == 1
    assert "wrong    topics: directory.v1: cleanup.policy is delete, compact is needed" in done.out
    assert "warning  topics: alerts.v1: retention.ms is 60000" in done.out
    fixed = await run(fiilis, "doctor", "--fix")
    assert "directory.v1: cleanup.policy is now compact" in fixed.out
    await until(lambda: _nothing_wrong(fiilis))


async def _differs(kafka: Kafka) -> bool:
    async with kafka.admin() as admin:
        return len(await provisioning.faults(kafka, admin, TOPICS)) == 2


async def _nothing_wrong(fiilis: House) -> bool:
    return (await run(fiilis, "doctor")).code == 0


async def test_the_doctor_says_what_nothing_answers_at(kafka: Kafka, empty_database_url: str) -> None:
    """Each with its address, its cause, and what to do; nothing hides the rest."""
    done = await command(
        "doctor",
        FIILIS_KAFKA="127.0.0.1:1",
        FIILIS_DATABASE_URL=empty_database_url,
        FIILIS_SECRET="short",
    )
    assert done.code == 1
    assert "wrong    kafka: 127.0.0.1:1: Connect" in done.out
    assert "wrong    secret: FIILIS_SECRET: the 1. secret has 5 characters, and must have 32 or more" in done.out
    assert "warning  database: scoring: " in done.out
    assert "Traceback" not in done.err


async def test_a_directory_of_many_partitions_stops_a_start_with_one_line(kafka: Kafka, database_url: str) -> None:
    """`apply` could not heal it, and nobody said so."""
    async with kafka.admin() as admin:
        await admin.create_topics([NewTopic(kafka.prefix + DIRECTORY.name, 8, 1)])
    done = await command(
        "scoring",
        FIILIS_KAFKA=kafka.bootstrap,
        FIILIS_TOPIC_PREFIX=kafka.prefix,
        FIILIS_DATABASE_URL=database_url,
        FIILIS_PORT="0",
    )
    assert done.code == 2, done.err
    lines = [line for line in done.err.splitlines() if " ERROR " in line]
    assert len(lines) == 1
    assert "directory.v1: has 8 partitions, and must have one: delete it, and apply the directory again" in lines[0]


async def test_stages_compare_what_they_hold(kafka: Kafka, database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a stage holds open and the next one does not know is a figure that alarms, until it is told again."""
    monkeypatch.setenv("FIILIS_COMPARE_SECONDS", "0.3")
    async with house(kafka, database_url) as fiilis:
        await _mood(fiilis)
        await until(lambda: _missed(fiilis, "ticketing", 0))
        await until(lambda: _missed(fiilis, "notify", 0))
        await fiilis.sql("DELETE FROM ticketing.merged_alert")
        await fiilis.sql("DELETE FROM notify.page")
        await fiilis.sql("DELETE FROM notify.seen_ticket")
        await until(lambda: _missed(fiilis, "ticketing", 1))
        await until(lambda: _missed(fiilis, "notify", 1))
        assert (await run(fiilis, "republish")).code == 0
        await until(lambda: _missed(fiilis, "ticketing", 0))
        await until(lambda: _missed(fiilis, "notify", 0))


async def _missed(fiilis: House, service: str, count: int) -> bool:
    return f'fiilis_missed{{service="{service}"}} {count}.0' in (await fiilis.client.get("/metrics")).text
