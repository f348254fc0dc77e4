"""Brokers, their advertised addresses, topics and our rights on them."""

from __future__ import annotations

from collections.abc import Iterator

from services.cli.doctor.finding import Finding, Findings, unreachable
from shared import provisioning
from shared.cluster import DESCRIBE, READ, WRITE, Cluster
from shared.kafka import Kafka
from shared.topics import TOPICS

_MESSAGE_BYTES = 1024 * 1024
_RIGHTS = {READ: "read", WRITE: "write", DESCRIBE: "describe"}


async def look(kafka: Kafka, fix: bool) -> Findings:
    """Look at the cluster; `fix` makes what is missing and sets what is wrong. Raises Transient, and Misconfigured."""
    names = list(provisioning.wanted(TOPICS))
    cluster = await kafka.describe(names)
    yield Finding("ok", "kafka", f"cluster {cluster.id} answers at {kafka.bootstrap}, {len(cluster.brokers)} brokers")
    for broker in cluster.brokers:
        host, _, port = broker.rpartition(":")
        why = await unreachable(host, int(port))
        if why is not None:
            remedy = "set the broker's advertised.listeners to an address that services reach"
            yield Finding("wrong", "kafka", f"a broker is advertised at {broker}, which is not reached: {why}", remedy)
    async with kafka.admin() as admin:
        if fix:
            await provisioning.make_missing(kafka, admin, TOPICS)
        for fault in await provisioning.faults(kafka, admin, TOPICS):
            if fix and fault.setting is not None:
                await provisioning.mend(kafka, admin, fault.topic, dict([fault.setting]))
                yield Finding("ok", "topics", f"{fault.topic}: {' is now '.join(fault.setting)}")
            else:
                yield Finding(
                    "wrong" if fault.fatal else "warning", "topics", f"{fault.topic}: {fault.what}", fault.remedy
                )
        copies = await provisioning.settings_of(kafka, admin, names, "min.insync.replicas")
        sizes = await provisioning.settings_of(kafka, admin, names, "max.message.bytes")
    for finding in _topics(await kafka.describe(names), copies, sizes):
        yield finding


def _topics(cluster: Cluster, copies: dict[str, int], sizes: dict[str, int]) -> Iterator[Finding]:
    """Judge topics' replicas, sizes and our rights."""
    for name, topic in cluster.topics.items():
        may_not = [what for operation, what in _RIGHTS.items() if not topic.may(operation)]
        if may_not:
            remedy = "grant it: each service reads, writes and describes its topics"
            yield Finding("wrong", "rights", f"{name}: this user may not {', '.join(may_not)}", remedy)
        if topic.leaderless:
            yield Finding(
                "wrong", "topics", f"{name}: {topic.leaderless} partitions have no leader", "start the brokers"
            )
        least = copies.get(name, 1)
        if topic.in_sync < least:
            what = f"{name}: a partition has {topic.in_sync} replicas in sync, and {least} are needed to write"
            yield Finding("wrong", "topics", what, "start the brokers that are away")
        if len(cluster.brokers) >= 3 and (topic.replication < 3 or least < 2):
            what = f"{name}: {topic.replication} replicas of which {least} must be in sync: one disk can lose answers"
            yield Finding("warning", "topics", what, "replication 3 and min.insync.replicas 2")
        if sizes.get(name, _MESSAGE_BYTES) < _MESSAGE_BYTES:
            what = f"{name}: takes messages of {sizes[name]:,} bytes at the most"
            yield Finding("warning", "topics", what, f"max.message.bytes={_MESSAGE_BYTES}")
