"""The whole house in one process for a test: four services on real servers, a clock to move, phones to answer."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import httpx
from prometheus_client import generate_latest

from services.registry import ServiceName
from services.run import run_services
from services.scoring.settings import ScoringSettings
from shared.bus.client import Kafka, Producer, cloud_event
from shared.bus.provisioning import ensure_topics
from shared.directory.follower import publish
from shared.directory.model import (
    Contact,
    Customer,
    Directory,
    Escalation,
    Key,
    MoodAtMost,
    NpsBelow,
    Person,
    Rule,
    Step,
    UnhappyShareAbove,
)
from shared.runtime.clock import MovableClock
from shared.runtime.settings import Environment, Settings
from shared.wire.ids import uuid7
from shared.wire.signing import key_hash, new_key
from shared.wire.topics import TOPICS, Topic
from tests.support.phone import Phone
from tests.support.services import NAMES
from tests.support.wait import until

SECRET = "a-secret-of-a-test-with-32-characters"
RULES = (
    Rule("mood-one", MoodAtMost(1), "critical"),
    Rule("nps-low", NpsBelow(0, 30 * 86400, min_responses=10, certainty="simple"), "high"),
    Rule("unhappy-burst", UnhappyShareAbove(0.5, 900, min_responses=4), "high"),
)


PARTITIONS = 2
"""Of each topic at the most: every test makes its own, and one broker carries those of all."""
_TOPICS = [replace(topic, partitions=min(topic.partitions, PARTITIONS)) for topic in TOPICS]


_OWN: dict[ServiceName, Environment] = {"scoring": ScoringSettings(scoring_sweep_seconds=0.1, scoring_workers=1)}
"""A second consumer of the group would have each start wait for a second rebalance."""


def _client(address: str = "") -> httpx.AsyncClient:
    # In the clear: to read all authorities of the world takes longer than many a test.
    return httpx.AsyncClient(base_url=address, timeout=10, trust_env=False, verify=False)


@dataclass(slots=True)
class House:
    """What a test holds in its hands."""

    kafka: Kafka
    database_url: str
    clock: MovableClock
    phone: Phone
    company: Directory
    """As it was at the start."""
    address: str = ""
    key: str = ""
    public_key: str = ""
    client: httpx.AsyncClient = field(default_factory=_client)

    async def post(self, *items: dict[str, Any], key: str | None = None) -> httpx.Response:
        """Post answers: one as an object, several as an array."""
        body: Any = items[0] if len(items) == 1 else list(items)
        return await self.client.post("/v1/feedback", json=body, headers=_bearer(key or self.key))

    async def get(self, path: str, **params: Any) -> Any:
        """Return the JSON of an address."""
        response = await self.client.get(path, params=params, headers=_bearer(self.key))
        assert response.status_code == 200, response.text
        return response.json()

    async def ticket(self, **params: Any) -> dict[str, Any]:
        """Wait for the newest ticket."""
        return (await until(lambda: self.items("/v1/tickets", **params)))[0]

    async def items(self, path: str, **params: Any) -> list[dict[str, Any]]:
        """Return the items of a list."""
        return (await self.get(path, **params))["items"]

    async def tell(self, topic: Topic, type: str, message: Any) -> None:
        """Publish a message as the service that owns the topic would."""
        await self.tell_all(topic, type, [message])

    async def tell_all(self, topic: Topic, type: str, messages: Sequence[Any]) -> None:
        """Publish messages, all at once."""
        now, producer = self.clock.now(), Producer(self.kafka)
        try:
            await producer.start()
            await producer.send_all(
                [cloud_event(topic, type, key=m.customer, id=str(uuid7()), at=now, message=m) for m in messages]
            )
        finally:
            await producer.close()

    async def send(self, method: str, path: str, body: Any = None, status: int = 200) -> Any:
        """Call an address with the key; return the JSON of the answer."""
        response = await self.client.request(method, path, json=body, headers=_bearer(self.key))
        assert response.status_code == status, response.text
        return response.json()

    def move(self, **by: float) -> None:
        """Move the clock of every service."""
        self.clock.move(timedelta(**by))

    async def stored(self) -> None:
        """Wait until what came of every call is stored: a clock that moves on before that ends its lease."""
        await until(lambda: self.sql("SELECT WHERE NOT EXISTS (SELECT FROM notify.attempt WHERE finished_at IS NULL)"))

    async def sql(self, statement: str, *arguments: Any) -> list[Any]:
        """Look into the database."""
        connection = await asyncpg.connect(self.database_url.replace("+asyncpg", ""))
        try:
            return await connection.fetch(statement, *arguments)
        finally:
            await connection.close()

    async def apply(self, directory: Directory) -> None:
        """Publish a directory and wait until it is in use."""
        revision = await publish(self.kafka, directory)

        async def used() -> bool:
            return f'fiilis_directory_revision{{service="notify"}} {float(revision)}' in generate_latest().decode()

        await until(used)


def _bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def company(phone: Phone, *keys: Key, repeat: int = 2) -> Directory:
    """Return a small company whose people are reached at the phone."""

    far = f"{datetime.now(UTC) + timedelta(hours=12):%H:%M}"  # the day's digest falls into no test by chance

    def person(name: str) -> Person:
        contacts = (Contact("webhook", phone.url(f"/{name}")),)
        return Person(name, name.title(), "UTC", "en", digest_at=far, contacts=contacts)

    people = {name: person(name) for name in ("architect-1", "deputy-1", "duty-manager")}
    touchpoints = ("support", "billing")
    return Directory(
        company="Example",
        timezone="UTC",
        language="en",
        people=people,
        escalations={
            "standard": Escalation("standard", (Step("architect", 300), Step("deputy", 300)), "duty-manager", repeat)
        },
        touchpoints=touchpoints,
        customers={
            name: Customer(
                name, name.title(), "architect-1", "standard", "UTC", "en", "deputy-1", touchpoints, goals={"nps": 40}
            )
            for name in ("acme", "borealis")
        },
        rules=RULES,
        keys=keys,
        root_causes=("process", "people"),
    )


@contextlib.asynccontextmanager
async def house(
    kafka: Kafka, database_url: str, names: Sequence[ServiceName] = NAMES, *, ca_file: str | None = None
) -> AsyncIterator[House]:
    """Run the house, or some rooms of it, until the test ends; whatever ends a task fails the test."""
    phone = await Phone().start()
    key, public_key = new_key("secret"), new_key("publishable")
    keys = (
        Key("ops", "secret", key_hash(key), scopes=("admin", "feedback", "scores", "tickets", "oncall")),
        Key(
            "widget",
            "publishable",
            key_hash(public_key),
            customers=("acme",),
            origins=("https://www.acme.example",),
        ),
    )
    made = House(kafka, database_url, MovableClock(), phone, company(phone, *keys), key=key, public_key=public_key)
    await ensure_topics(kafka, _TOPICS)
    await publish(kafka, made.company)
    settings = Settings(
        kafka=kafka.bootstrap,
        kafka_security=kafka.security.channel,
        kafka_sasl_mechanism=kafka.security.mechanism,
        kafka_sasl_username=kafka.security.username,
        kafka_sasl_password=kafka.security.password,
        kafka_ca_file=ca_file,
        topic_prefix=kafka.prefix,
        database_url=database_url,
        database_pool=3,  # a new session costs PostgreSQL 15 ms of a processor
        secret=SECRET,
        allow_private_targets="true",
    )
    stop, ready = asyncio.Event(), asyncio.get_running_loop().create_future()
    running = asyncio.create_task(
        run_services(names, settings, port=0, stop=stop, own=_OWN, clock=made.clock, on_ready=ready.set_result)
    )
    try:
        await asyncio.wait({running, ready}, timeout=30, return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            running.result()
        made.address = ready.result()
        made.client = _client(made.address)
        yield made
    finally:
        stop.set()
        try:
            await running
        finally:
            await made.client.aclose()
            await phone.close()
