"""Every address of the OpenAPI document: it answers as the document says, and reading it keeps nobody waiting."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import itertools
import os
import re
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from urllib.parse import urlencode

import asyncpg
import pytest
import pytest_asyncio
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from jsonschema import Draft202012Validator
from msgspec.structs import replace
from schemathesis import APIOperation, Case, GenerationMode

from shared.bus.client import Kafka
from shared.directory.model import Gateway, Key, Layer, Schedule, Slack
from shared.wire.signing import Purpose, Signer, key_hash, new_key
from tests.conftest import Servers
from tests.support.documents import document
from tests.support.house import SECRET, House, company, house
from tests.support.services import NAMES
from tests.support.wait import until

pytestmark = pytest.mark.asyncio(loop_scope="module")

SCOPES = ("feedback", "scores", "tickets", "oncall", "admin")
ROWS = 2_000
LONGEST_TURN = 0.25
"""Seconds that nobody may keep the loop to himself."""


Made = tuple[Case, bool]
"""A request that was made up, and whether it is about what there is."""


@dataclass(slots=True)
class World:
    """A house with much in it, a key of each kind, and a name of each thing."""

    house: House
    document: dict[str, Any]
    keys: dict[str, str]
    names: dict[str, str]

    def operations(self) -> Iterator[tuple[str, str, dict[str, Any]]]:
        for path, item in self.document["paths"].items():
            for method, operation in item.items():
                yield method.upper(), path, operation

    def token(self, path: str) -> str:
        """Return the token of what an address is about."""
        named = {name: self.names[name] for name in ("page", "ticket")} | {"customer": "acme"}
        purposes: dict[str, tuple[Purpose, dict[str, str]]] = {
            "/a": ("acknowledge", {**named, "person": "architect-1"}),
            "/s": ("survey", {**named, "touchpoint": "support", "respondent": "r-1"}),
            "/t": ("status", named),
        }
        called = {**named, "person": "architect-1", "delivery": self.names["delivery"]}
        purpose, facts = purposes.get(path[:2], ("callback", called))
        if path.endswith(".ics"):
            kind = path.split("/")[2]
            name = self.names["name" if kind == "schedules" else "person"]
            purpose, facts = "calendar", {"kind": kind, "name": name}
        expires = self.house.clock.now() + timedelta(days=300)
        return Signer([SECRET]).sign(purpose, facts, expires=expires)

    def url(self, path: str) -> str:
        """Return an address about what there is."""
        known = {**self.names, "token": self.token(path)}
        return re.sub(r"\{(\w+)\}", lambda name: known[name[1]], path)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(servers: Servers, cases: Mapping[tuple[str, str], list[Made]]) -> AsyncIterator[World]:
    """One house for the whole module."""
    connection = await asyncpg.connect(servers.postgres.url.replace("+asyncpg", ""))
    await connection.execute("CREATE DATABASE every_door")
    url = servers.postgres.url.replace("/fiilis?", "/every_door?")
    try:
        async with house(Kafka(servers.kafka.bootstrap, "every-door."), url) as made:
            yield await _furnished(made)
    finally:
        await connection.execute("DROP DATABASE every_door WITH (FORCE)")
        await connection.close()


async def _furnished(made: House) -> World:
    """Return a house with many customers, a fast rota, and thousands of whatever can be listed."""
    keys = {name: new_key("secret") for name in (*SCOPES, "acme's", "unknown")} | {"publishable": made.public_key}
    os.environ["EVERY_DOOR_TOKEN"] = keys["provider's"] = "a-token-of-a-provider"
    known = [
        *(Key(scope, "secret", key_hash(keys[scope]), scopes=(scope,)) for scope in SCOPES),
        Key("limited", "secret", key_hash(keys["acme's"]), scopes=SCOPES[:-1], customers=("acme",)),
    ]
    acme = made.company.customers["acme"]
    others = {f"customer-{n}": replace(acme, id=f"customer-{n}", name=f"Customer {n}") for n in range(200)}
    begun = f"{made.clock.now() - timedelta(days=500):%Y-%m-%dT%H:%M}"
    rota = Schedule("night-watch", "UTC", (Layer("custom", begun, ("architect-1", "deputy-1"), turn=900),))
    directory = company(made.phone, *made.company.keys, *known)
    await made.apply(
        replace(
            directory,
            customers={**directory.customers, **others},
            schedules={"night-watch": rota},
            sms=Gateway("http", "EVERY_DOOR_TOKEN", made.phone.url("/sms")),
            slack=Slack("EVERY_DOOR_TOKEN", "EVERY_DOOR_TOKEN"),
        )
    )
    unhappy = {"kind": "mood", "score": 1, "customer": "acme", "touchpoint": "support", "comment": "so " * 1_300}
    await made.post(*({**unhappy, "respondent": f"r-{n}"} for n in range(20)))
    soon, then, later = (f"{made.clock.now() + timedelta(days=days):%Y-%m-%dT%H:%M:%SZ}" for days in (1, 2, 300))
    held = {"customer": "acme", "held_at": made.clock.now().isoformat(), "note": "so " * 1_300}
    await made.send("POST", "/v1/check-ins", held, 201)
    await made.send("POST", "/v1/silences", {"customer": "customer-9", "until": later, "reason": "so " * 150}, 201)
    override = {"schedule": "night-watch", "person": "deputy-1", "from": soon, "until": then}
    names = {
        "customer": "acme",
        "name": "night-watch",
        "person": "architect-1",
        "place": "0",
        "desk": "main",
        "respondent": "r-1",
        "key": made.public_key,
        "override": (await made.send("POST", "/v1/overrides", override, 201))["id"],
    }
    step = {"customer": "acme", "step": "so " * 150, "owner": "architect-1", "due_on": later[:10]}
    names["action"] = (await made.send("POST", "/v1/actions", step, 201))["id"]
    names["erasure"] = (await made.send("DELETE", "/v1/respondents/r-99?customer=acme", status=202))["erasure"]

    async def gathered() -> dict[str, Any] | None:
        tickets = await made.items("/v1/tickets")
        return tickets[0] if tickets and len(tickets[0]["evidence"]) == 20 else None

    ticket = await until(gathered)
    assert ticket is not None
    await until(lambda: made.sql("SELECT id FROM notify.delivery WHERE state = 'delivered'"))
    await until(lambda: made.sql("SELECT FROM ticketing.erasure"))
    names |= {"ticket": ticket["id"], "alert": ticket["alert"], "silence": (await made.items("/v1/silences"))[0]["id"]}
    names["page"] = (await made.items("/v1/pages"))[0]["id"]
    names["delivery"] = str((await made.sql("SELECT id FROM notify.delivery"))[0]["id"])
    await _many(made, ticket["id"])
    document = (await made.client.get("/openapi.json")).json()
    return World(made, document, keys | {"ops": made.key}, names)


async def _many(made: House, ticket: str) -> None:
    """Copy what has happened, as if it had happened for a year."""
    gone = "'state', 'cleared', 'cleared_at', now(), 'due_at', now() + interval '1 year'"
    closed = "'state', 'closed', 'resolved_at', now(), 'clock_due_at', null"
    for table, changes in {
        "scoring.answer": "'occurred_at', now() - n * interval '4 hours'",
        "scoring.alert": f"'dedup_key', 'x' || n, 'answer', gen_random_uuid(), {gone}",
        "ticketing.ticket": f"'number', 1000 + n, 'dedup_key', 'x' || n, {closed}",
        "ticketing.timeline": f"'line', 1000 + n, 'ticket', '{ticket}'::uuid",
        "ticketing.action": "'version', 1",
        "notify.page": "'ticket', gen_random_uuid(), 'state', 'resolved', 'due_at', null",
        "notify.audit": "'page', null",
        "notify.check_in": "'made_by', 'x'",
        "notify.silence": "'made_by', 'x'",
    }.items():
        # Said of each row, or one id would be made for all of them.
        each = f"'id', md5(n::text || '{table}')::uuid"
        await made.sql(
            f"INSERT INTO {table} OVERRIDING SYSTEM VALUE SELECT made.* FROM (SELECT * FROM {table} LIMIT 1) AS one,"
            f" generate_series(1, {ROWS}) AS n, jsonb_populate_record(NULL::{table},"
            f" to_jsonb(one) || jsonb_build_object({each}, {changes})) AS made"
        )
    await made.sql(
        "INSERT INTO scoring.bucket SELECT customer, hour - n, series, 1, 2, 1, 2, 0, 0, 0, 0"
        " FROM (SELECT * FROM scoring.bucket LIMIT 1) AS one, generate_series(1, 9600) AS n"
    )


# ---- reading keeps nobody waiting


class Turns:
    """How long one turn of the loop took at most: of the processor, since others may have had that."""

    def __init__(self) -> None:
        self.longest = 0.0

    async def __aenter__(self) -> Turns:
        self._task = asyncio.create_task(self._watch())
        await asyncio.sleep(0.02)
        self.longest = 0.0
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.sleep(0.02)
        self._task.cancel()

    async def _watch(self) -> None:
        while True:
            begun, used = time.perf_counter(), time.process_time()
            await asyncio.sleep(0.01)
            took = min(time.perf_counter() - begun, time.process_time() - used)
            self.longest = max(self.longest, took)


def largest(world: World, operation: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return the queries of an operation that ask for most."""
    now = world.house.clock.now()
    most: dict[str, str] = {}
    choices: list[list[tuple[str, str]]] = []
    for one in operation.get("parameters", ()):
        name, schema = one["name"], one["schema"]
        if one["in"] != "query":
            continue
        if "maximum" in schema:
            most[name] = str(schema["maximum"])
        elif name == "window":
            most[name] = "400d"
        elif name in {"from", "to"}:  # ahead, where the rota of this directory is
            most[name] = (now + timedelta(days={"from": -1, "to": 399}[name])).isoformat()
        elif name in {"since", "until"}:
            most[name] = (now + timedelta(days={"since": -399, "until": 1}[name])).isoformat()
        elif name == "at":
            choices.append([(name, (now + timedelta(days=days)).isoformat()) for days in (-399, 399)])
        elif name == "by":
            choices.append([(name, value) for value in schema["enum"]])
        elif one.get("required"):
            most[name] = world.names[name]
    return [{**most, **dict(chosen)} for chosen in itertools.product(*choices)]


def read(address: str, path: str, key: str) -> int:
    """Return the status of an answer, whose bytes nobody looks at."""
    connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=60)
    connection.request("GET", path, headers={"Authorization": f"Bearer {key}"})
    answer = connection.getresponse()
    while answer.read(65_536):
        pass
    connection.close()
    return answer.status


async def test_reading_keeps_nobody_waiting(world: World) -> None:
    """Whatever is asked for at most, by one client, an acknowledgement of another does not wait for it."""
    slow: dict[str, float] = {}
    walked = 0
    for method, path, operation in world.operations():
        if method != "GET":
            continue
        for query in largest(world, operation):
            if path.endswith(".ics"):
                query = {"token": world.token(path)}
            url = world.url(path) + (f"?{urlencode(query)}" if query else "")
            took: list[float] = []
            while len(took) < 2 and (not took or took[-1] > LONGEST_TURN):
                async with Turns() as turns:
                    status = await asyncio.to_thread(read, world.house.address, url, world.house.key)
                took.append(turns.longest)
            assert status == 200, (url, status)
            walked += 1
            if min(took) > LONGEST_TURN:
                slow[url] = min(took)
    assert walked > 30
    assert not slow, {url: f"{seconds:.2f} s" for url, seconds in slow.items()}


# ---- what the document says holds for whatever is sent

FULL = os.environ.get("FIILIS_CHAOS") == "full"
EXAMPLES = 100 if FULL else 2
"""Of good requests and of bad ones, per operation."""
KINDS = (None, "unknown", *SCOPES, "acme's", "publishable", "provider's", "ops")
SAID = {"schedule": "night-watch", "owner": "architect-1", "touchpoint": "support", "window": "30d", "if-match": "*"}
_HEADERS = {"content-type", "if-match", "accept-language"}


def can_be_wrong(said: Mapping[str, Any]) -> bool:
    """Tell whether an operation asks for anything of a certain shape; whatever stands in an address is a name."""
    bodies = said.get("requestBody", {}).get("content", {}).values()
    return any(one["in"] == "query" for one in said.get("parameters", ())) or any(one["schema"] for one in bodies)


def made_up(operation: APIOperation, said: Mapping[str, Any]) -> list[Made]:
    """Return requests of an operation, good and bad."""
    found: list[Made] = []

    def keep(case: Case, known: bool) -> None:
        found.append((case, known))

    for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
        if mode is GenerationMode.NEGATIVE and not can_be_wrong(said):
            continue
        some = settings(
            max_examples=EXAMPLES,
            database=None,
            derandomize=not FULL,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=(HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large),
        )
        with contextlib.suppress(Unsatisfiable):
            some(given(operation.as_strategy(generation_mode=mode), st.booleans())(keep))()
    return found


def prepared(made: Made, address: str, there: Mapping[str, str]) -> requests.PreparedRequest | None:
    """Return a request as it is sent, None where no client can; some are about what is there."""
    case, known = made
    for place in (case.path_parameters, case.query, case.headers, case.body) if known else ():
        if isinstance(place, dict):
            place.update({name: there[name] for name in place.keys() & there.keys()})
    told = case.as_transport_kwargs(base_url=address)
    told["headers"] = {name: value for name, value in told["headers"].items() if name.lower() in _HEADERS}
    try:
        return requests.Request(**told).prepare()
    except ValueError:
        return None


@pytest.fixture(scope="module")
def cases() -> Mapping[tuple[str, str], list[Made]]:
    """Requests of every operation, made before there is a house: that seeds the random numbers of the process."""
    told = asyncio.run(document(NAMES))
    schema = schemathesis.openapi.from_dict(told)
    return {
        (method.upper(), path): made_up(schema[path][method.upper()], said)
        for path, item in told["paths"].items()
        for method, said in item.items()
    }


def is_as_said(document: dict[str, Any], operation: dict[str, Any], answer: requests.Response) -> None:
    status, media = answer.status_code, answer.headers.get("content-type", "").partition(";")[0]
    assert status < 500 or status == 503, answer.text[:300]
    assert str(status) in operation["responses"], answer.text[:300]
    content: dict[str, Any] = operation["responses"][str(status)].get("content", {})
    assert not answer.content or media in content, media
    assert status not in {429, 503} or int(answer.headers["retry-after"]) >= 0
    if media.endswith("json"):
        told = answer.json()
        schema = {**content[media].get("schema", {}), "components": document["components"]}
        Draft202012Validator(schema).validate(told)
        if status >= 400 and media == "application/problem+json":
            assert told["status"] == status
            assert re.fullmatch("[a-z0-9-]+", told["code"])


def knock(world: World, path: str, method: str, made: Sequence[Made]) -> tuple[int, list[str]]:
    """Send requests of an operation; return how many, and which was not answered as the document says."""
    wrong: list[str] = []
    said = world.document["paths"][path][method]
    needed = {scope for one in said.get("security", ()) for scopes in one.values() for scope in scopes}
    tried = 0
    with requests.Session() as session:
        session.trust_env = False
        there = {**world.names, **SAID, "token": world.token(path)}
        sendable = filter(None, (prepared(one, world.house.address, there) for one in made))
        for number, request in enumerate(sendable):
            mighty = "provider's" if "callbacks" in path else "ops"
            for kind in KINDS if number == 0 else (mighty, "acme's") if FULL else (mighty,):
                sent = request.copy()
                if kind is not None:
                    sent.headers["Authorization"] = f"Bearer {world.keys[kind]}"
                answer = session.send(sent, timeout=20, allow_redirects=False)
                tried += 1
                try:
                    is_as_said(world.document, said, answer)
                    if number == 0 and needed and kind in {None, "unknown"}:
                        assert answer.status_code == 401
                    if number == 0 and needed and kind in SCOPES:
                        assert (answer.status_code == 403) == (kind != "admin" and kind not in needed)
                except Exception as error:  # noqa: BLE001 (each is told, with its request)
                    about = f"{method} {sent.url} {kind}: {sent.body!r:.300} -> {answer.status_code}"
                    wrong.append(f"{about}: {type(error).__name__} {error!s:.300}")
    return tried, wrong


@pytest.mark.timeout(3_600 if FULL else 120)
async def test_whatever_is_sent_the_answer_is_one_of_the_document(
    world: World, cases: Mapping[tuple[str, str], list[Made]]
) -> None:
    """With each kind of key: no 5xx but a 503, no status that it does not name, a problem with a code for a refusal."""
    wrong: list[str] = []
    tried = 0
    for method, path, _ in world.operations():
        some, found = await asyncio.to_thread(knock, world, path, method.lower(), cases[method, path])
        tried += some
        wrong += found
    assert tried > 500
    assert not wrong, "\n".join(wrong)
