"""Brokers, their advertised addresses, topics and our rights on them."""

from __future__ import annotations

from collections.abc import Iterator

from services.cli.doctor.finding import Finding, Findings, unreachable
from shared.bus import acls, provisioning
from shared.bus.client import Kafka
from shared.bus.cluster import OPERATIONS, Cluster
from shared.wire.topics import TOPICS

_MESSAGE_BYTES = 1024 * 1024
_LOCAL = ("127.", "localhost:", "[::1]:", "::1:")


async def look(kafka: Kafka, fix: bool) -> Findings:
    """Look at the cluster; `fix` makes what is missing and sets what is wrong. Raises Transient, and Misconfigured."""
    names = list(provisioning.wanted(TOPICS))
    cluster = await kafka.describe(names)
    yield Finding("ok", "kafka", f"cluster {cluster.id} answers at {kafka.bootstrap}, {len(cluster.brokers)} brokers")
    for finding in _channel(kafka, cluster):
        yield finding
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


def _channel(kafka: Kafka, cluster: Cluster) -> Iterator[Finding]:
    """Judge how we talk to brokers that are not on this machine."""
    if all(broker.startswith(_LOCAL) for broker in cluster.brokers):
        return
    channel = kafka.security.channel
    if not channel.endswith("ssl"):
        what = f"FIILIS_KAFKA_SECURITY is {channel}: what is sent can be read on the way"
        yield Finding("warning", "kafka", what, "ssl, or sasl_ssl (docs/security.md)")
    if channel == "plaintext":
        yield Finding("warning", "kafka", "whoever reaches the brokers can publish a directory", "sasl_ssl, and rights")


def _rights(cluster: Cluster) -> Iterator[Finding]:
    """Judge our rights: those of one of the services, or of who runs commands, must be there."""
    lacking: dict[str, list[str]] = {}
    for role, rights in acls.rights().items():
        lacking[role] = [
            f"{operation} {name}"
            for right in rights
            if right.on == "topic"
            for name in right.names
            for operation in right.operations
            if name in cluster.topics and not cluster.topics[name].may(OPERATIONS[operation])
        ]
    nearest = min(lacking, key=lambda role: len(lacking[role]))
    if lacking[nearest]:
        shown = ", ".join(lacking[nearest][:5])
        what = f"this user has not all rights of any service; of {nearest} these are missing: {shown}"
        yield Finding("wrong", "rights", what, "python -m services acls prints what each needs")


def _topics(cluster: Cluster, copies: dict[str, int], sizes: dict[str, int]) -> Iterator[Finding]:
    """Judge our rights, and topics' replicas and sizes."""
    yield from _rights(cluster)
    for name, topic in cluster.topics.items():
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
