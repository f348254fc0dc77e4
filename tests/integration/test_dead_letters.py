"""`dead-letters list` and `replay`: what was refused is seen with its reason, and sent again once."""

from __future__ import annotations

import json

import msgspec
import pytest
from aiokafka import TopicPartition

from shared.bus.client import Kafka, Outgoing, Producer, event_headers
from shared.bus.dead_letters import DeadLetter, DeadLetters
from shared.bus.provisioning import ensure_topics
from shared.runtime.audit import Actor
from shared.wire.topics import FEEDBACK, TOPICS
from tests.support.build import answer
from tests.support.house import House, house
from tests.support.processes import Done, command
from tests.support.wait import until


async def letters(kafka: Kafka, *arguments: str) -> Done:
    """Run `dead-letters ARGUMENTS`."""
    return await command("dead-letters", *arguments, FIILIS_KAFKA=kafka.bootstrap, FIILIS_TOPIC_PREFIX=kafka.prefix)


async def replayed(kafka: Kafka) -> int:
    return await DeadLetters(kafka, FEEDBACK).replay(lambda *_: None, Actor("command:tests"))


async def listed(kafka: Kafka, *, again: bool = False) -> list[DeadLetter]:
    return [letter async for letter in DeadLetters(kafka, FEEDBACK).letters(again=again)]


async def leave(kafka: Kafka, *messages: Outgoing) -> None:
    producer = Producer(kafka)
    await producer.start()
    await producer.send_all(messages)
    await producer.close()


async def refused(kafka: Kafka, count: int) -> list[DeadLetter] | None:
    found = await listed(kafka)
    return found if len(found) == count else None


async def counted(fiilis: House, responses: int) -> bool:
    scores = await fiilis.get("/v1/customers/acme/scores")
    return scores["nps"]["responses"] == responses


async def test_what_was_refused_is_sent_again_once(kafka: Kafka, database_url: str) -> None:
    """A writer's message that this scoring does not know yet waits; a later scoring knows it, and counts it once."""
    async with house(kafka, database_url, ("ingest", "scoring")) as fiilis:
        await fiilis.post({"kind": "nps", "score": 9, "customer": "acme"})
        await until(lambda: counted(fiilis, 1))
        one = answer(9, occurred_at=fiilis.clock.now(), received_at=fiilis.clock.now())
        headers = event_headers("feedback.received", str(one.id), "ingest", one.received_at.isoformat(), None)
        unknown = [(n, b"feedback.praised" if n == "ce_type" else v) for n, v in headers]
        await leave(kafka, Outgoing(FEEDBACK.name, b"acme", msgspec.json.encode(one), unknown))
        [letter] = await until(lambda: refused(kafka, 1)) or []
        assert letter.reason == "undecodable: unknown ce_type 'feedback.praised'"
        assert (letter.service, letter.type, letter.key) == ("scoring", "feedback.praised", "acme")
        topic, partition, _ = letter.source.split("/")
        assert (topic, partition.isdigit()) == (FEEDBACK.name, True)
        told = await letters(kafka, "list", FEEDBACK.name, "--json")
        assert (told.code, told.err) == (0, "")
        shown = json.loads(told.out)
        assert (shown["reason"], json.loads(shown["value"])["id"]) == (letter.reason, str(one.id))
        told = await letters(kafka, "list", FEEDBACK.dead)
        assert f"scoring  {letter.source}  feedback.praised  acme: undecodable" in told.out
        assert "1 dead letters of feedback.v1 that were not sent again" in told.out

        # Sent again it is refused again, and waits again; what went before does not.
        done = await letters(kafka, "replay", FEEDBACK.name)
        assert (done.code, done.err) == (0, "")
        assert done.out == "1 sent again to feedback.v1; what is refused again is in feedback.v1.dead again\n"
        await until(lambda: refused(kafka, 1))
        assert len(await listed(kafka, again=True)) == 2

        # As a scoring without the fault would have left it: the same record, with a type that is known now.
        dead = [*headers, ("dead_reason", b"invalid: a fault"), ("dead_service", b"scoring")]
        await leave(kafka, Outgoing(FEEDBACK.dead, b"acme", msgspec.json.encode(one), dead))
        assert await replayed(kafka) == 2
        await until(lambda: counted(fiilis, 2))
        await until(lambda: refused(kafka, 1))
        assert await replayed(kafka) == 1, "what is no message stays refused"
        await until(lambda: refused(kafka, 1))
        assert await counted(fiilis, 2)


async def test_many_are_sent_in_batches(kafka: Kafka) -> None:
    """Every one, in the order in which they were refused, with the headers that they had."""
    await ensure_topics(kafka, TOPICS)
    headers = event_headers("feedback.received", "x", "ingest", "2026-11-22T10:00:00+00:00", None)
    await leave(
        kafka,
        *(
            Outgoing(FEEDBACK.dead, b"acme", str(number).encode(), [*headers, ("dead_service", b"scoring")])
            for number in range(1_201)
        ),
    )
    assert await replayed(kafka) == 1_201
    assert await listed(kafka) == []
    consumer = kafka.consumer(group=None)
    await consumer.start()
    try:
        topic = kafka.prefix + FEEDBACK.name
        places = [TopicPartition(topic, partition) for partition in range(FEEDBACK.partitions)]
        consumer.assign(places)
        for place in places:
            consumer.seek(place, 0)
        arrived = [await consumer.getone() for _ in range(1_201)]
    finally:
        await consumer.stop()
    assert [int(record.value or b"") for record in arrived] == list(range(1_201))
    assert {tuple(record.headers) for record in arrived} == {tuple(headers)}


async def test_what_somebody_else_wrote_is_shown_as_it_is(kafka: Kafka) -> None:
    """Nothing of it moves the cursor or becomes a picture."""
    await ensure_topics(kafka, TOPICS)
    headers = [("dead_reason", b"invalid: \x1b[2J :smile:"), ("dead_service", b"scoring")]
    await leave(kafka, Outgoing(FEEDBACK.dead, b"acme", b'"\xc3\xa4 :smile:"', headers))
    assert "invalid: \\x1b[2J :smile:" in (await letters(kafka, "list", FEEDBACK.name)).out
    told = await letters(kafka, "list", FEEDBACK.name, "--json")
    assert json.loads(told.out)["value"] == '"\u00e4 :smile:"'


@pytest.mark.parametrize("action", ["list", "replay"])
async def test_a_topic_that_is_none(kafka: Kafka, action: str) -> None:
    done = await letters(kafka, action, "feedback")
    assert (done.code, done.err) == (
        2,
        "'feedback': must be one of feedback.v1, alerts.v1, tickets.v1, pages.v1, audit.v1\n",
    )


async def test_nothing_was_refused(kafka: Kafka) -> None:
    await ensure_topics(kafka, TOPICS)
    assert await listed(kafka) == []
    assert await replayed(kafka) == 0
