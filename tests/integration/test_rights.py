"""Rights on the cluster: what exists needs no right to create, and a refusal is not an outage."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiokafka.protocol.admin import CreateAclsRequest

from shared.bus import cluster
from shared.bus.client import Kafka
from shared.bus.provisioning import ensure_topics
from shared.embedded import EmbeddedKafka
from shared.errors import Misconfigured
from shared.wire.topics import FEEDBACK, TOPICS, Topic
from tests.support.wait import until

_TOPIC, _CLUSTER = 2, 4
_ALL = 2
_LITERAL = 3
_DENY, _ALLOW = 2, 3


class _Guarded(EmbeddedKafka):
    """A broker that asks who may do what; what has no rule is allowed."""

    def _settings(self) -> str:
        return super()._settings() + (
            "authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer\n"
            "allow.everyone.if.no.acl.found=true\n"
        )


@pytest.fixture
async def guarded(tmp_path: Path) -> AsyncIterator[Kafka]:
    """A cluster with rights, where topics are and no more may be made."""
    server = _Guarded(tmp_path / "kafka")
    await server.start()
    kafka = Kafka(server.bootstrap)
    await ensure_topics(kafka, TOPICS)
    await _rule(kafka, _CLUSTER, "kafka-cluster", _ALL, _ALLOW)
    await _rule(kafka, _CLUSTER, "kafka-cluster", cluster.CREATE, _DENY)
    await _rule(kafka, _TOPIC, "*", cluster.CREATE, _DENY)
    await _rule(kafka, _TOPIC, "*", _ALL, _ALLOW)
    yield kafka
    await server.stop()


async def _rule(kafka: Kafka, kind: int, name: str, operation: int, permission: int) -> None:
    async with kafka.admin() as admin:
        client: Any = admin._client
        request = CreateAclsRequest(kind, name, _LITERAL, "User:*", "*", operation, permission)
        answer: Any = await client.send(client.get_random_node(), request)
        assert [code for code, _ in answer.creation_responses] == [0], answer


async def _denied(kafka: Kafka) -> bool:
    return not (await kafka.describe([FEEDBACK.name])).topics[FEEDBACK.name].may(cluster.CREATE)


async def _refusal(kafka: Kafka, topic: Topic) -> str | None:
    """Return what a start would say, once the broker has heard of its rules."""
    try:
        await ensure_topics(kafka, [topic])
    except Misconfigured as error:
        return str(error)
    return None


async def test_rights(guarded: Kafka) -> None:
    """Services start on topics that somebody else has made; what is missing, or refused, is said in one line."""
    await until(lambda: _denied(guarded))
    await ensure_topics(guarded, TOPICS)
    missing = await _refusal(Kafka(guarded.bootstrap, "other."), FEEDBACK)
    assert missing is not None
    assert "other.feedback.v1 is missing and could not be made (TopicAuthorizationFailedError" in missing
    assert "make it with 8 partitions and retention.ms=604800000" in missing
    await _rule(guarded, _TOPIC, FEEDBACK.name, cluster.DESCRIBE, _DENY)
    refused = await until(lambda: _refusal(Kafka(guarded.bootstrap), FEEDBACK))
    assert "Kafka refuses this user: TopicAuthorizationFailedError" in (refused or "")
