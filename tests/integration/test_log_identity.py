"""A log is known by its identity: what was made anew, or cut short, under the same name stops a service loudly."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from aiokafka.admin import NewPartitions

from shared.bus import offsets
from shared.bus.client import Kafka, Outgoing, Producer
from shared.bus.consume import Consumer
from shared.bus.offsets import OffsetLost
from shared.bus.provisioning import ensure_topics
from shared.database.pool import Database
from shared.directory.follower import Follower, publish, read_newest
from shared.directory.model import Directory
from shared.errors import Misconfigured, Transient
from shared.wire.topics import DIRECTORY, FEEDBACK, TOPICS
from tests.integration.test_consume import consuming, effects, has, send
from tests.support.effects import SCHEMA, Effects, prepare
from tests.support.house import company
from tests.support.phone import Phone
from tests.support.wait import until, until_true


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    made = Database(database_url, SCHEMA)
    await prepare(made)
    yield made
    await made.close()


def directory(*, repeat: int = 2) -> Directory:
    phone = Phone()
    phone.port = 1
    return company(phone, repeat=repeat)


async def delete(kafka: Kafka, topic: str) -> None:
    async with kafka.admin() as admin:
        await admin.delete_topics([kafka.prefix + topic])

    async def gone() -> bool:
        return topic not in (await kafka.describe([topic])).topics

    await until(gone)


async def consumed(kafka: Kafka, database: Database, count: int) -> None:
    async with consuming(Consumer(kafka, database, FEEDBACK, Effects())):
        await until(lambda: has(database, count))


@pytest.mark.parametrize("records", [40, 400], ids=["shorter", "longer"])
async def test_a_topic_made_anew_stops_the_service_wherever_the_old_place_falls(
    kafka: Kafka, database: Database, records: int
) -> None:
    """Shorter than the old place it asks for what is not there, longer it would skip in silence."""
    await ensure_topics(kafka, [FEEDBACK])
    await send(kafka, 200)
    await consumed(kafka, database, 200)
    await delete(kafka, FEEDBACK.name)
    await ensure_topics(kafka, [FEEDBACK])
    await send(kafka, records)
    async with consuming(Consumer(kafka, database, FEEDBACK, Effects())) as task:
        with pytest.raises(OffsetLost, match="deleted and made anew"):
            await asyncio.wait_for(task, 20)
    assert await effects(database) == (200, 200)


async def test_a_topic_made_anew_under_a_running_consumer_stops_it(kafka: Kafka, database: Database) -> None:
    """Whoever asks the cluster all the time sees another id."""
    await ensure_topics(kafka, [FEEDBACK])
    await send(kafka, 20)
    async with consuming(Consumer(kafka, database, FEEDBACK, Effects())) as task:
        await until(lambda: has(database, 20))
        await delete(kafka, FEEDBACK.name)
        await ensure_topics(kafka, [FEEDBACK])
        kafka.topics = dict((await kafka.describe([FEEDBACK.name])).topics)
        with pytest.raises(OffsetLost, match="deleted and made anew"):
            await asyncio.wait_for(task, 30)


@pytest.mark.parametrize("column", ["next", "log_end"])
async def test_a_log_that_was_cut_short_stops_the_service(kafka: Kafka, database: Database, column: str) -> None:
    """A broker that came back with less than it had told of has lost answers."""
    await ensure_topics(kafka, [FEEDBACK])
    await send(kafka, 50)
    await consumed(kafka, database, 50)
    async with database.transaction() as tx:
        await tx.execute(f"UPDATE consumer_offset SET {column} = {column} + 100")
    async with consuming(Consumer(kafka, database, FEEDBACK, Effects())) as task:
        with pytest.raises(OffsetLost, match="cut short"):
            await asyncio.wait_for(task, 20)


async def test_what_is_lost_is_accepted_by_command(kafka: Kafka, database: Database) -> None:
    """The service then goes on with the new log from its beginning."""
    await ensure_topics(kafka, [FEEDBACK])
    await send(kafka, 200)
    await consumed(kafka, database, 200)
    await delete(kafka, FEEDBACK.name)
    await ensure_topics(kafka, [FEEDBACK])
    await send(kafka, 30)
    now = await kafka.log_state(FEEDBACK.name)
    assert now is not None
    async with database.transaction() as tx:
        await tx.execute("TRUNCATE effect")
        places = await offsets.all_places(tx)
        losses = [found for place in places if (found := offsets.loss(place, now)) is not None]
        assert {found.kind for found in losses} == {"other log"}
        await offsets.accept(tx, losses, now)
    await consumed(kafka, database, 30)
    assert await effects(database) == (30, 30)


async def test_an_offset_of_before_takes_the_logs_identity_over(kafka: Kafka, database: Database) -> None:
    """After an upgrade nothing is lost, and from then on the log is known."""
    await ensure_topics(kafka, [FEEDBACK])
    await send(kafka, 50)
    await consumed(kafka, database, 50)
    async with database.transaction() as tx:
        await tx.execute("UPDATE consumer_offset SET log = NULL, log_end = 0")
    await send(kafka, 50)
    await consumed(kafka, database, 100)
    now = await kafka.log_state(FEEDBACK.name)
    assert now is not None
    async with database.transaction() as tx:
        assert {place.log for place in await offsets.all_places(tx)} == {now.log}


async def test_a_directory_made_anew_is_not_taken_for_the_old_one(kafka: Kafka) -> None:
    """Its revision 1 is another one: a key that it does not have is good no longer."""
    await ensure_topics(kafka, TOPICS)
    assert await publish(kafka, directory(repeat=1)) == 1
    follower = Follower(kafka, ("ingest",))
    following = asyncio.create_task(follower.run())
    try:
        await until_true(lambda: follower.current is not None and not follower.ready())
        await delete(kafka, DIRECTORY.name)
        await ensure_topics(kafka, TOPICS)
        kafka.topics = dict((await kafka.describe([DIRECTORY.name])).topics)
        await until_true(lambda: "made anew and is empty" in (follower.ready() or ""), seconds=30)
        assert follower.missing() is None, "meanwhile the last one stays in use"
        assert await publish(kafka, directory(repeat=2)) == 1

        def used() -> bool:
            assert follower.current is not None
            return follower.current.directory.escalations["standard"].repeat == 2 and not follower.ready()

        await until_true(used, seconds=30)
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)


async def test_a_directory_that_cannot_be_read_leaves_the_last_one_in_use(kafka: Kafka) -> None:
    """It is said, and applying one that can be read heals it."""
    await ensure_topics(kafka, TOPICS)
    await publish(kafka, directory(repeat=1))
    follower = Follower(kafka, ("ingest",))
    following = asyncio.create_task(follower.run())
    try:
        await until_true(lambda: follower.current is not None and not follower.ready())
        producer = Producer(kafka)
        await producer.send_all([Outgoing(DIRECTORY.name, b"directory", b'{"company": 5}', [])])
        await producer.close()
        await until_true(lambda: "revision 2 of directory.v1 cannot be read" in (follower.ready() or ""))
        assert follower.current is not None
        assert follower.current.number == 1
        assert await publish(kafka, directory(repeat=2)) == 3
        await until_true(lambda: follower.ready() is None)
        newest = await read_newest(kafka)
        assert newest is not None
        assert newest.number == 3
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)


async def test_keys_are_spread_as_the_installation_has_it(kafka: Kafka) -> None:
    """Partitions that are added do not move a customer until the installation takes them over."""
    await ensure_topics(kafka, TOPICS)
    await publish(kafka, directory())
    async with kafka.admin() as admin:
        await admin.create_partitions({kafka.prefix + FEEDBACK.name: NewPartitions(12)})
    await until(lambda: _partitions(kafka, 12))
    await publish(kafka, directory(repeat=3))
    other = Kafka(kafka.bootstrap, kafka.prefix)
    await read_newest(other)
    assert other.partitions[FEEDBACK.name] == 8
    await send(other, 200)
    now = await kafka.log_state(FEEDBACK.name)
    assert now is not None
    assert [now.ends[p] for p in range(8, 12)] == [0, 0, 0, 0]
    await publish(kafka, directory(repeat=3), repartition=True)
    await read_newest(other)
    await send(other, 200)
    now = await kafka.log_state(FEEDBACK.name)
    assert now is not None
    assert sum(now.ends[p] for p in range(8, 12)) > 0


async def test_a_topic_made_since_the_last_revision_is_counted_with_the_next(kafka: Kafka) -> None:
    """An upgrade brings topics; those that were there keep the number that the installation has."""
    await ensure_topics(kafka, [DIRECTORY, FEEDBACK])
    await publish(kafka, directory())
    assert kafka.partitions == {FEEDBACK.name: 8}
    await ensure_topics(kafka, TOPICS)
    await publish(kafka, directory(repeat=3))
    assert kafka.partitions == {topic.name: topic.partitions for topic in TOPICS if topic is not DIRECTORY}


async def _partitions(kafka: Kafka, count: int) -> bool:
    return (await kafka.describe([FEEDBACK.name])).topics[FEEDBACK.name].partitions == count


async def test_fewer_partitions_than_the_installation_has_are_refused(kafka: Kafka) -> None:
    """A producer would have to put customers where nobody looks for them."""
    await ensure_topics(kafka, TOPICS)
    await publish(kafka, directory())
    kafka.partitions[FEEDBACK.name] = 16
    with pytest.raises(Misconfigured, match="8 partitions, and the installation spreads its keys over 16"):
        await ensure_topics(kafka, TOPICS)


async def test_a_topic_that_does_not_exist_is_waited_for(kafka: Kafka, database: Database) -> None:
    """An operator may be about to make it."""
    follower = Follower(kafka, ("ingest",))
    with pytest.raises(Transient, match="does not exist"):
        await follower._log_id()  # pyright: ignore[reportPrivateUsage]
