"""Topics as the registry has them: looked at before anything is made, only what is missing is made.

A topic that exists is not yet right: a directory that is not compacted is lost after its retention, and one with eight
partitions has eight truths. What is wrong is told with what to do about it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import TopicAlreadyExistsError, for_code

from shared.bus.client import Kafka
from shared.bus.cluster import Cluster, TopicState
from shared.errors import Misconfigured, Transient
from shared.runtime.logs import Log
from shared.wire.topics import DAY_MS, DIRECTORY, Topic

log = Log("shared.bus.provisioning")

_DEAD_RETENTION_MS = 30 * DAY_MS
_SEEN_SECONDS = 15.0
"""For brokers to show topics that the controller has made."""
_WAITS = {7, 14, 15, 16, 38, 41}
"""Codes of what passes by itself: time-outs, another controller, too few brokers for the replicas until they are up."""


@dataclass(frozen=True, slots=True)
class TopicFault:
    """How a topic differs from the registry."""

    topic: str
    what: str
    remedy: str
    fatal: bool = False
    """The installation cannot work with it."""
    setting: tuple[str, str] | None = None
    """The topic's setting that mends it, which `doctor --fix` may make."""

    def __str__(self) -> str:
        return f"{self.topic}: {self.what}: {self.remedy}"


def wanted(topics: Iterable[Topic]) -> dict[str, tuple[int, dict[str, str]]]:
    """Return each topic, those of dead letters too, with its partitions and settings."""
    found: dict[str, tuple[int, dict[str, str]]] = {}
    for topic in topics:
        retention = {"retention.ms": str(topic.retention_ms)}
        found[topic.name] = (topic.partitions, {**retention, **topic.settings})
        if topic.messages:
            found[topic.dead] = (1, {"retention.ms": str(_DEAD_RETENTION_MS)})
    return found


async def ensure_topics(kafka: Kafka, topics: Iterable[Topic]) -> None:
    """Create the topics that are missing. Raises Transient, and Misconfigured for what we may not or cannot work with.

    One that exists needs no right to create.
    """
    asked = wanted(topics)
    async with kafka.admin() as admin:
        cluster = await make_missing(kafka, admin, topics)
        there = {name: one for name, one in asked.items() if name in cluster.topics}
        for fault in await _faults(kafka, admin, cluster, there):
            if fault.fatal:
                raise Misconfigured(f"Kafka's topic {fault}")


async def make_missing(kafka: Kafka, admin: AIOKafkaAdminClient, topics: Iterable[Topic]) -> Cluster:
    """Create the topics that are missing; return the cluster as it was before. Raises Transient, and Misconfigured."""
    asked = wanted(topics)
    cluster = await kafka.describe_by(admin, asked)
    missing = {name: one for name, one in asked.items() if name not in cluster.topics}
    if missing:
        await _create(kafka, admin, missing)
        await _seen(kafka, admin, missing)
    return cluster


async def _seen(kafka: Kafka, admin: AIOKafkaAdminClient, made: Collection[str]) -> None:
    """Wait until the brokers show what the controller has made, with a leader for each partition. Raises Transient.

    The controller answers before they do: whoever asks at once is told that there is no such topic.
    """
    try:
        async with asyncio.timeout(_SEEN_SECONDS):
            while True:
                topics = (await kafka.describe_by(admin, made)).topics
                unseen = [name for name in made if name not in topics or topics[name].leaderless]
                if not unseen:
                    return
                await asyncio.sleep(0.1)
    except TimeoutError:
        raise Transient(
            f"{kafka.bootstrap}: topics that were made do not appear or have no leader", of="Kafka"
        ) from None


async def faults(kafka: Kafka, admin: AIOKafkaAdminClient, topics: Iterable[Topic]) -> list[TopicFault]:
    """Return how the cluster's topics differ from the registry. Raises Transient."""
    asked = wanted(topics)
    cluster = await kafka.describe_by(admin, asked)
    missing = [
        TopicFault(name, "does not exist", "python -m services doctor --fix makes it", fatal=True)
        for name in asked
        if name not in cluster.topics
    ]
    there = {name: asked[name] for name in asked if name in cluster.topics}
    return missing + await _faults(kafka, admin, cluster, there)


async def mend(kafka: Kafka, admin: AIOKafkaAdminClient, topic: str, mended: Mapping[str, str]) -> None:
    """Set some of a topic's settings; the others stay. Raises Transient, and Misconfigured without the right."""
    present = await _settings(kafka, admin, [topic], changed=True)
    resource = ConfigResource(ConfigResourceType.TOPIC, kafka.prefix + topic, {**present.get(topic, {}), **mended})
    with kafka.errors():
        answers: Sequence[Any] = await admin.alter_configs([resource])
    for answer in answers:
        for code, message, *_ in answer.resources:
            if code:
                raise Misconfigured(f"Kafka's topic {topic}: {for_code(code).__name__}: {message}")


async def settings_of(kafka: Kafka, admin: AIOKafkaAdminClient, topics: Sequence[str], setting: str) -> dict[str, int]:
    """Return a numeric setting of each topic, as far as it is told. Raises Transient."""
    present = await _settings(kafka, admin, topics)
    return {name: int(found[setting]) for name, found in present.items() if found.get(setting, "").isdecimal()}


async def _create(kafka: Kafka, admin: AIOKafkaAdminClient, asked: Mapping[str, tuple[int, dict[str, str]]]) -> None:
    with kafka.errors():
        answer: Any = await admin.create_topics(
            [_new_topic(kafka.prefix + name, partitions, settings) for name, (partitions, settings) in asked.items()]
        )
    for name, code, message in answer.topic_errors:
        if code in {0, TopicAlreadyExistsError.errno}:
            continue
        said = f"{for_code(code).__name__}: {message or 'no reason given'}"
        if code in _WAITS:
            raise Transient(f"{kafka.bootstrap}: topic {name}: {said}", of="Kafka")
        partitions, settings = asked[name.removeprefix(kafka.prefix)]
        shown = ", ".join(f"{key}={value}" for key, value in settings.items())
        raise Misconfigured(
            f"Kafka's topic {name} is missing and could not be made ({said}): make it with {partitions} partitions and "
            f"{shown}, or let this user create topics"
        )


async def _faults(
    kafka: Kafka, admin: AIOKafkaAdminClient, cluster: Cluster, asked: Mapping[str, tuple[int, dict[str, str]]]
) -> list[TopicFault]:
    present = await _settings(kafka, admin, list(asked))
    found: list[TopicFault] = []
    for name, (_, settings) in asked.items():
        state = cluster.topics.get(name)
        if state is not None:
            found += _partition_faults(kafka, state, name)
        for setting, value in settings.items():
            there = present.get(name, {}).get(setting)
            if there is not None and not _fits(setting, there, value):
                compacts = name == DIRECTORY.name and setting == "cleanup.policy"
                found.append(
                    TopicFault(
                        name,
                        f"{setting} is {there}, {value} is needed",
                        "python -m services doctor --fix sets it",
                        fatal=compacts,
                        setting=(setting, value),
                    )
                )
    return found


def _partition_faults(kafka: Kafka, state: TopicState, name: str) -> list[TopicFault]:
    if name == DIRECTORY.name and state.partitions != 1:
        remedy = "delete it, and apply the directory again"
        return [TopicFault(name, f"has {state.partitions} partitions, and must have one", remedy, fatal=True)]
    spread = kafka.partitions.get(name)
    if spread is not None and state.partitions < spread:
        what = f"has {state.partitions} partitions, and the installation spreads its keys over {spread}"
        return [TopicFault(name, what, "see 'Partitions' in docs/operations.md", fatal=True)]
    if spread is not None and state.partitions > spread:
        what = f"has {state.partitions} partitions, of which the installation uses {spread}"
        return [TopicFault(name, what, "to use them all see 'Partitions' in docs/operations.md")]
    return []


def _fits(setting: str, there: str, value: str) -> bool:
    """Tell whether a setting is as it is needed, or more."""
    if setting == "cleanup.policy":
        return there == value
    if setting in {"retention.ms", "max.message.bytes"}:
        try:
            present, needed = int(there), int(value)
        except ValueError:
            return False
        return present < 0 or (needed >= 0 and present >= needed)
    return there == value


async def _settings(
    kafka: Kafka, admin: AIOKafkaAdminClient, topics: Sequence[str], *, changed: bool = False
) -> dict[str, dict[str, str]]:
    """Return topics' settings, `changed`: only those set on the topic itself; nothing where we may not ask."""
    if not topics:
        return {}
    resources = [ConfigResource(ConfigResourceType.TOPIC, kafka.prefix + topic) for topic in topics]
    with kafka.errors():
        answers: Sequence[Any] = await admin.describe_configs(resources)
    found: dict[str, dict[str, str]] = {}
    for answer in answers:
        for code, _, _, name, entries in answer.resources:
            if code:
                log.debug("settings not told", topic=name, why=for_code(code).__name__)
                continue
            of_topic = 1  # Kafka's DYNAMIC_TOPIC_CONFIG
            found[name.removeprefix(kafka.prefix)] = {
                entry[0]: entry[1] for entry in entries if not changed or entry[3] == of_topic
            }
    return found


def _new_topic(name: str, partitions: int, settings: dict[str, str]) -> NewTopic:
    topic = NewTopic(name, partitions, 1, topic_configs=settings)
    topic.replication_factor = -1  # the broker's default; aiokafka's constructor refuses to say so
    return topic
