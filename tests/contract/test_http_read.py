"""What scoring, ticketing and notify show and take over HTTP: lists, filters, cursors, rights, links and errors."""

from __future__ import annotations

import base64
import re
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import httpx
import pytest
import pytest_asyncio
from msgspec.structs import replace

from shared.bus.client import Kafka
from shared.directory.model import Key
from shared.wire.ids import uuid7
from shared.wire.signing import key_hash, new_key
from tests.conftest import Servers
from tests.support.house import House, company, house
from tests.support.wait import until

pytestmark = pytest.mark.asyncio(loop_scope="module")

COMMENT = """<script>alert("1")</script> & <b>'bold'</b>"""
SCOPES = ("admin", "feedback", "scores", "tickets", "oncall")
NOWHERE = str(uuid7())


@dataclass(slots=True)
class World:
    """A running house in which something has happened at three customers."""

    house: House
    keys: dict[str, str]

    async def ask(self, method: str, path: str, *, key: str | None = "ops", **more: Any) -> httpx.Response:
        """Send a request with a key, by its name; None sends none."""
        headers = more.pop("headers", {})
        if key is not None:
            headers = {"Authorization": f"Bearer {self.keys[key]}", **headers}
        return await self.house.client.request(method, path, headers=headers, **more)

    async def get(self, path: str, *, key: str = "ops", **params: Any) -> Any:
        """Return the JSON of an address."""
        response = await self.ask("GET", path, key=key, params=params)
        assert response.status_code == 200, response.text
        return response.json()

    async def refused(self, response: httpx.Response, status: int, code: str, *paths: str) -> dict[str, Any]:
        """Check that an answer is the problem that the contract promises."""
        assert response.status_code == status, response.text
        assert response.headers["content-type"] == "application/problem+json"
        body = response.json()
        assert set(body) - {"errors"} == {"type", "title", "status", "detail", "code"}
        assert body["title"]
        assert body["detail"]
        assert (body["status"], body["code"]) == (status, code)
        assert [error["path"] for error in body.get("errors", [])] == list(paths), body
        assert not any(key in response.text for key in self.keys.values())
        return body

    async def by_hand(self, customer: str, title: str = "Called by phone", **more: Any) -> dict[str, Any]:
        """Open a ticket."""
        response = await self.ask("POST", "/v1/tickets", json={"customer": customer, "title": title, **more})
        assert response.status_code == 201, response.text
        return response.json()

    async def patch(self, ticket: dict[str, Any], **changes: Any) -> httpx.Response:
        """Change a ticket as it was read."""
        headers = {"If-Match": f'"{ticket["version"]}"'}
        return await self.ask("PATCH", f"/v1/tickets/{ticket['id']}", json=changes, headers=headers)


def answer(kind: str, score: int, customer: str, **more: Any) -> dict[str, Any]:
    return {"kind": kind, "score": score, "customer": customer, "touchpoint": "support", **more}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(servers: Servers) -> AsyncIterator[World]:
    """One house for the whole module."""
    connection = await asyncpg.connect(servers.postgres.url.replace("+asyncpg", ""))
    await connection.execute("CREATE DATABASE http_read")
    url = servers.postgres.url.replace("/fiilis?", "/http_read?")
    try:
        async with house(Kafka(servers.kafka.bootstrap, "http-read."), url) as made:
            keys = {name: new_key("secret") for name in (*SCOPES, "acme", "gone")} | {"ops": made.key}
            keys["widget"] = made.public_key
            known = (
                *(Key(name, "secret", key_hash(keys[name]), scopes=(name,)) for name in SCOPES),
                Key("ops", "secret", key_hash(keys["ops"]), scopes=SCOPES),
                Key("acme", "secret", key_hash(keys["acme"]), customers=("acme",), scopes=SCOPES[1:]),
                Key("widget", "publishable", key_hash(keys["widget"]), customers=("acme",)),
            )
            directory = company(made.phone, *known)
            cedar = replace(directory.customers["acme"], id="cedar", name="Cedar", goals={"nps": 40, "mood": 3.2})
            await made.apply(replace(directory, customers={**directory.customers, "cedar": cedar}))
            world = World(made, keys)
            await _happen(world)
            yield world
    finally:
        await connection.execute("DROP DATABASE http_read WITH (FORCE)")
        await connection.close()


async def _happen(world: World) -> None:
    """Unhappy faces at acme and borealis, and the contract's example of an NPS at cedar."""
    post = world.house.post
    await post(answer("mood", 1, "acme", comment=COMMENT), answer("mood", 1, "acme", touchpoint="billing"))
    await post(answer("mood", 1, "borealis"))
    scores = [10] * 10 + [8] * 15 + [3] * 10
    await post(
        *(answer("nps", score, "cedar") for score in scores), *(answer("nps", 0, "cedar", touchpoint="billing"),) * 5
    )
    moods = [3] * 7 + [4] * 7 + [2] * 5
    await post(*(answer("mood", score, "cedar", occurred_at=_ago(hours=2)) for score in moods))
    await post(answer("nps", 10, "cedar", audience="employee"))

    async def paged() -> bool:
        customers = {received.data["customer"] for received in world.house.phone.received}
        return customers == {"acme", "borealis", "cedar"} and len(world.house.phone.received) == 4

    await until(paged)
    await until(lambda: _counted(world))


async def _counted(world: World) -> bool:
    scores = await world.get("/v1/customers/cedar/scores")
    return scores["nps"]["responses"] == 40 and scores["mood"]["responses"] == 19


def _ago(**time: float) -> str:
    return (datetime.now(UTC) - timedelta(**time)).isoformat()


async def _all(world: World, path: str, *, limit: int, key: str = "ops", **params: Any) -> list[list[dict[str, Any]]]:
    """Follow the cursors to the end; return the pages."""
    pages: list[list[dict[str, Any]]] = []
    cursor: dict[str, str] = {}
    while True:
        page = await world.get(path, key=key, limit=limit, **params, **cursor)
        assert set(page) == {"items", "next"}
        pages.append(page["items"])
        if page["next"] is None:
            return pages
        assert len(page["items"]) == limit
        assert len(pages) < 100
        cursor = {"cursor": page["next"]}


def _ids(pages: Sequence[Sequence[dict[str, Any]]]) -> list[str]:
    return [item["id"] for page in pages for item in page]


# ---- customers and scores


async def test_customers(world: World) -> None:
    """Each with its 30-day figures; cursors go through all of them, in order."""
    customers = (await world.get("/v1/customers"))["items"]
    assert [customer["id"] for customer in customers] == ["acme", "borealis", "cedar"]
    cedar = customers[2]
    assert (cedar["name"], cedar["nps"]["score"], cedar["open_alerts"]) == ("Cedar", -12.5, 1)
    assert customers[0]["open_alerts"] == 2
    assert customers[0]["nps"]["score"] is None, "no response is no score"
    assert _ids(await _all(world, "/v1/customers", limit=1)) == ["acme", "borealis", "cedar"]
    assert [len(page) for page in await _all(world, "/v1/customers", limit=2)] == [2, 1]


async def test_scores_are_those_of_the_contract(world: World) -> None:
    """The contract's example, to the decimal."""
    scores = await world.get("/v1/customers/cedar/scores")
    assert scores["customer"] == "cedar"
    assert scores["window"]["length"] == "30d"
    expected = {
        "score": -12.5,
        "responses": 40,
        "promoters": 10,
        "passives": 15,
        "detractors": 15,
        "margin": 23.2,
        "low": -34.8,
        "high": 11.6,
        "goal": 40,
        "gap": 52.5,
    }
    assert {name: scores["nps"][name] for name in expected} == expected
    assert scores["mood"]["counts"] == {"1": 0, "2": 5, "3": 7, "4": 7}
    assert scores["mood"]["average"] == pytest.approx(3.1, abs=0.01)
    assert [touchpoint["touchpoint"] for touchpoint in scores["touchpoints"]] == ["billing", "support"], "weakest first"


async def test_a_window_may_be_short_or_long(world: World) -> None:
    """Durations as everywhere; a day or more starts on the hour."""
    for window, seconds in (("90s", 90), ("15m", 900), ("12h", 43200), ("1d", 86400), ("400d", 400 * 86400)):
        found = (await world.get("/v1/customers/cedar/scores", window=window))["window"]
        start, end = (datetime.fromisoformat(found[name].replace("Z", "+00:00")) for name in ("start", "end"))
        assert found["length"] == window
        assert timedelta(seconds=seconds) <= end - start < timedelta(seconds=seconds + 3600)
        if seconds >= 86400:
            assert (start.minute, start.second, start.microsecond) == (0, 0, 0)
    moods = [(await world.get("/v1/customers/cedar/scores", window=w))["mood"]["responses"] for w in ("1h", "3h", "1d")]
    assert moods == [0, 19, 19]


@pytest.mark.parametrize("window", ["", "0d", "30", "d", "30D", "-1d", "1.5h", "401d", "9" * 15 + "d", "30d;", "１d"])
async def test_a_window_that_is_none(world: World, window: str) -> None:
    response = await world.ask("GET", "/v1/customers/cedar/scores", params={"window": window})
    await world.refused(response, 422, "invalid", "window")


async def test_scores_of_one_touchpoint_or_audience(world: World) -> None:
    billing = await world.get("/v1/customers/cedar/scores", touchpoint="billing")
    assert (billing["nps"]["score"], billing["nps"]["responses"]) == (-100, 5)
    assert [touchpoint["touchpoint"] for touchpoint in billing["touchpoints"]] == ["billing"]
    employees = await world.get("/v1/customers/cedar/scores", audience="employee")
    assert (employees["nps"]["score"], employees["nps"]["responses"]) == (100, 1)
    short = await world.get("/v1/customers/cedar/scores", audience="employee", window="1h")
    assert short["nps"]["responses"] == 1
    for wrong in ({"touchpoint": "nowhere"}, {"audience": "everybody"}):
        response = await world.ask("GET", "/v1/customers/cedar/scores", params=wrong)
        await world.refused(response, 422, "invalid", *wrong)
    await world.refused(await world.ask("GET", "/v1/customers/nobody/scores"), 404, "not-found")


# ---- alerts


async def test_alerts(world: World) -> None:
    """Newest first, by state and customer, page by page, and one with its numbers."""
    alerts = (await world.get("/v1/alerts"))["items"]
    assert sorted(alert["dedup_key"] for alert in alerts) == [
        "acme/mood-one/billing",
        "acme/mood-one/support",
        "borealis/mood-one/support",
        "cedar/nps-low/*",
    ]
    assert [a["opened_at"] for a in alerts] == sorted((a["opened_at"] for a in alerts), reverse=True)
    pages = await _all(world, "/v1/alerts", limit=1)
    assert _ids(pages) == [alert["id"] for alert in alerts]
    assert len((await world.get("/v1/alerts", customer="acme"))["items"]) == 2
    assert len((await world.get("/v1/alerts", state="open"))["items"]) == 4
    assert (await world.get("/v1/alerts", state="cleared")) == {"items": [], "next": None}
    one = await world.get(f"/v1/alerts/{alerts[0]['id']}")
    opened = one.pop("opened")
    assert one == alerts[0]
    assert opened == {name: one[name] for name in ("summary", "sentences", "reason", "scores")}, "it is still open"
    support = next(alert for alert in alerts if alert["dedup_key"] == "acme/mood-one/support")
    fields = (
        "id version customer touchpoint rule kind severity state opened_at cleared_at caused_at summary reason scores"
    )
    assert set(support) >= {*fields.split(), "evidence", "dedup_key", "trust"}
    assert [evidence["comment"] for evidence in support["evidence"]] == [COMMENT]
    await world.refused(await world.ask("GET", "/v1/alerts", params={"state": "sleeping"}), 422, "invalid", "state")
    await world.refused(await world.ask("GET", "/v1/alerts", params={"customer": "nobody"}), 404, "not-found")
    for id_ in (NOWHERE, "17", "x" * 100):
        await world.refused(await world.ask("GET", f"/v1/alerts/{id_}"), 404, "not-found")


# ---- tickets


async def test_a_ticket_by_hand(world: World) -> None:
    """201 with the whole ticket; the customer's architect is its assignee."""
    ticket = await world.by_hand("acme", "Called: invoice is wrong", touchpoint="billing")
    expected = {"customer": "acme", "title": "Called: invoice is wrong", "state": "open", "severity": "medium"}
    assert {name: ticket[name] for name in expected} == expected
    assert (ticket["touchpoint"], ticket["assignee"], ticket["version"]) == ("billing", "architect-1", 1)
    read = await world.ask("GET", f"/v1/tickets/{ticket['id']}")
    assert read.json() == ticket
    assert read.headers["etag"] == '"1"'
    line = (await world.get(f"/v1/tickets/{ticket['id']}/timeline"))["items"][0]
    assert (line["what"], line["actor"]) == ("opened", "key:ops")


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({"customer": "acme"}, "title"),
        ({"title": "x"}, "customer"),
        ({"customer": "acme", "title": ""}, "title"),
        ({"customer": "acme", "title": "x" * 201}, "title"),
        ({"customer": "acme", "title": "a\0b"}, "title"),
        ({"customer": "acme", "title": "x", "severity": "info"}, "severity"),
        ({"customer": "acme", "title": "x", "touchpoint": "nowhere"}, "touchpoint"),
        ({"customer": "acme", "title": "x", "typo": 1}, "typo"),
        ({"customer": 5, "title": "x"}, "customer"),
    ],
    ids=str,
)
async def test_a_ticket_by_hand_that_is_wrong(world: World, body: dict[str, Any], path: str) -> None:
    await world.refused(await world.ask("POST", "/v1/tickets", json=body), 422, "invalid", path)


async def test_a_ticket_by_hand_of_nobody(world: World) -> None:
    response = await world.ask("POST", "/v1/tickets", json={"customer": "nobody", "title": "x"})
    await world.refused(response, 404, "not-found")


async def test_tickets_by_page(world: World) -> None:
    """Cursors go through every ticket once, newest first, even while others are opened."""
    for number in range(10):
        await world.by_hand("borealis", f"Ticket {number}")
    before = [t["id"] for t in (await world.get("/v1/tickets", limit=500))["items"]]
    assert len(before) >= 14
    pages = await _all(world, "/v1/tickets", limit=4)
    assert len(pages) > 3
    assert _ids(pages) == before
    first = await world.get("/v1/tickets", limit=4)
    new = await world.by_hand("borealis", "Opened meanwhile")
    second = await world.get("/v1/tickets", limit=4, cursor=first["next"])
    assert new["id"] not in [t["id"] for t in second["items"]]
    assert [t["id"] for t in (*first["items"], *second["items"])] == before[:8]
    exact = await world.get("/v1/tickets", limit=len(before) + 1)
    assert exact["next"] is None, "the last page says that it is"


async def test_tickets_by_filter(world: World) -> None:
    """Several states and severities by comma; filters narrow together."""
    one, two, three = [await world.by_hand("cedar", f"Filter {n}", severity="low") for n in range(3)]
    assert (await world.patch(one, state="acknowledged", assignee="deputy-1")).status_code == 200
    assert (await world.patch(two, state="cancelled")).status_code == 200

    async def found(**params: Any) -> set[str]:
        items = (await world.get("/v1/tickets", customer="cedar", severity="low", limit=500, **params))["items"]
        return {item["id"] for item in items}

    assert await found() == {one["id"], two["id"], three["id"]}
    assert await found(state="open") == {three["id"]}
    assert await found(state="open,acknowledged") == {one["id"], three["id"]}
    assert await found(state="open, cancelled") == {two["id"], three["id"]}
    assert await found(assignee="deputy-1") == {one["id"]}
    assert await found(assignee="deputy-1", state="open") == set()
    both = (await world.get("/v1/tickets", severity="critical,high", limit=500))["items"]
    assert {ticket["severity"] for ticket in both} == {"critical", "high"}
    for wrong in ({"state": "asleep"}, {"state": "open,asleep"}, {"severity": "awful"}):
        response = await world.ask("GET", "/v1/tickets", params=wrong)
        await world.refused(response, 422, "invalid", *wrong)
    response = await world.ask("GET", "/v1/tickets", params={"customer": "nobody"})
    await world.refused(response, 404, "not-found")


async def test_what_no_person_is_called(world: World) -> None:
    """A NUL in a filter finds nobody, or is refused; it never reaches PostgreSQL, which cannot hold it."""
    for path in (
        "/v1/tickets?assignee=%00",
        "/v1/tickets?customer=%00",
        "/v1/pages?customer=%00",
        "/v1/oncall?customer=%00",
    ):
        response = await world.ask("GET", path)
        assert response.status_code in {200, 400, 404, 422}, f"{path}: {response.text}"


async def test_comments_and_the_timeline(world: World) -> None:
    """Everything that happened, oldest first, page by page."""
    ticket = await world.by_hand("cedar")
    path = f"/v1/tickets/{ticket['id']}"
    for number in range(5):
        response = await world.ask("POST", f"{path}/comments", json={"text": f"Comment {number} – ääkköset 🙂"})
        assert response.status_code == 201
        assert response.json()["detail"]["text"] == f"Comment {number} – ääkköset 🙂"
    lines = (await world.get(f"{path}/timeline"))["items"]
    assert [line["what"] for line in lines] == ["opened", *["comment"] * 5]
    pages = await _all(world, f"{path}/timeline", limit=2)
    assert [line for page in pages for line in page] == lines
    assert [len(page) for page in pages] == [2, 2, 2]
    for body, name in (
        ({"text": ""}, "text"),
        ({"text": "a\0b"}, "text"),
        ({"text": "x" * 4001}, "text"),
        ({}, "text"),
    ):
        await world.refused(await world.ask("POST", f"{path}/comments", json=body), 422, "invalid", name)
    response = await world.ask("POST", f"{path}/comments", json={"text": "x", "author": "me"})
    await world.refused(response, 422, "invalid", "author")


async def test_changing_a_ticket(world: World) -> None:
    """Unknown fields and unknown people are named; nothing of a refused change is kept."""
    ticket = await world.by_hand("cedar")
    for changes, path in (
        ({"priority": "high"}, "priority"),
        ({"assignee": "nobody"}, "assignee"),
        ({"severity": "info"}, "severity"),
        ({"state": "asleep"}, "state"),
        ({"state": "resolved", "root_cause": "the moon", "resolution": "none"}, "root_cause"),
        ({"resolution": "a\0b"}, "resolution"),
        ({"assignee": 5}, "assignee"),
    ):
        await world.refused(await world.patch(ticket, **changes), 422, "invalid", path)
    response = await world.ask("PATCH", f"/v1/tickets/{ticket['id']}", json={"state": "acknowledged"})
    await world.refused(response, 428, "if-match-missing")
    stale = await world.patch({**ticket, "version": 7}, state="acknowledged")
    await world.refused(stale, 412, "stale")
    assert stale.headers["etag"] == '"1"'
    assert await world.get(f"/v1/tickets/{ticket['id']}") == ticket
    for number, header in enumerate(("*", 'W/"2"', '"7", "3"'), 1):
        response = await world.ask(
            "PATCH",
            f"/v1/tickets/{ticket['id']}",
            json={"severity": ("low", "medium", "low")[number - 1]},
            headers={"If-Match": header},
        )
        assert (response.status_code, response.headers["etag"]) == (200, f'"{number + 1}"')


@pytest.mark.parametrize("body", [b"{", b"\xff", b"", b"[]", b"null", b'"text"'], ids=repr)
async def test_a_change_that_is_no_object(world: World, body: bytes) -> None:
    """400 for what is not JSON, 422 for what is no object."""
    headers = {"If-Match": "*", "Content-Type": "application/json"}
    response = await world.ask("PATCH", f"/v1/tickets/{NOWHERE}", content=body, headers=headers)
    assert response.headers["content-type"] == "application/problem+json"
    assert response.status_code == (400 if body in {b"{", b"\xff"} else 422)


@pytest.mark.parametrize(
    "body", [b'{"\\ud800": 1}', b'{"assignee": "\\ud800"}', b'{"resolution": "\\ud800"}'], ids=repr
)
async def test_half_a_surrogate_pair(world: World, body: bytes) -> None:
    """JSON can hold what is no text: it is refused, and the service can still say so."""
    headers = {"If-Match": "*", "Content-Type": "application/json"}
    response = await world.ask("PATCH", f"/v1/tickets/{NOWHERE}", content=body, headers=headers)
    assert response.status_code in {400, 422}, response.text
    response = await world.ask("POST", "/v1/tickets", content=body, headers=headers)
    assert response.status_code in {400, 422}, response.text


async def test_a_body_over_a_mebibyte(world: World) -> None:
    ticket = await world.by_hand("cedar")
    response = await world.patch(ticket, resolution="x" * (1024 * 1024))
    await world.refused(response, 413, "too-large")
    assert await world.get(f"/v1/tickets/{ticket['id']}") == ticket


async def test_a_ticket_that_is_not_there(world: World) -> None:
    headers = {"If-Match": "*"}
    for id_ in (NOWHERE, "17", "x" * 100):
        for method, path in (("GET", ""), ("PATCH", ""), ("POST", "/comments"), ("GET", "/timeline")):
            body = {"text": "x"} if path == "/comments" else {} if method == "PATCH" else None
            response = await world.ask(method, f"/v1/tickets/{id_}{path}", json=body, headers=headers)
            await world.refused(response, 404, "not-found")


# ---- on call and pages


async def test_oncall(world: World) -> None:
    """Everybody who would be paged, in order; never empty."""
    found = await world.get("/v1/oncall", customer="acme")
    assert found["customer"] == "acme"
    assert [(link["level"], link["person"], link["via"]) for link in found["chain"]] == [
        (1, "architect-1", "architect"),
        (2, "deputy-1", "deputy"),
        (3, "duty-manager", "catch_all"),
    ]
    assert all(link["contacts"] == ["webhook"] and "until" in link for link in found["chain"])
    at = await world.get("/v1/oncall", customer="acme", at="2027-01-01T02:00:00+02:00")
    assert at["at"] == "2027-01-01T00:00:00Z"
    assert at["chain"]


@pytest.mark.parametrize("at", ["", "now", "2027-01-01T00:00:00", "2027-13-01T00:00:00Z", "0001-01-01T00:00:00+14:00"])
async def test_oncall_at_no_moment(world: World, at: str) -> None:
    """A moment needs its offset, and to be one that there is."""
    response = await world.ask("GET", "/v1/oncall", params={"customer": "acme", "at": at})
    await world.refused(response, 422, "invalid", "at")


async def test_oncall_of_nobody(world: World) -> None:
    response = await world.ask("GET", "/v1/oncall")
    await world.refused(response, 422, "invalid", "customer")
    response = await world.ask("GET", "/v1/oncall", params={"customer": "nobody"})
    await world.refused(response, 404, "not-found")


async def test_pages(world: World) -> None:
    """Newest first, by state and customer; one with every attempt."""
    pages = (await world.get("/v1/pages"))["items"]
    assert len(pages) == 4
    assert _ids(await _all(world, "/v1/pages", limit=1)) == [page["id"] for page in pages]
    (borealis,) = (await world.get("/v1/pages", customer="borealis"))["items"]
    one = await world.get(f"/v1/pages/{borealis['id']}")
    assert {name: one[name] for name in borealis} == borealis
    (attempt,) = one["attempts"]
    assert (attempt["channel"], attempt["person"], attempt["result"]) == ("webhook", "architect-1", "delivered")
    assert attempt["started_at"] <= attempt["finished_at"]
    await world.refused(await world.ask("GET", "/v1/pages", params={"state": "lost"}), 422, "invalid", "state")
    await world.refused(await world.ask("GET", "/v1/pages", params={"customer": "nobody"}), 404, "not-found")
    for id_ in (NOWHERE, "17", "x" * 100):
        await world.refused(await world.ask("GET", f"/v1/pages/{id_}"), 404, "not-found")


async def test_acknowledging_a_page(world: World) -> None:
    """By a person of the directory; twice is harmless, and the first stays."""
    (page,) = (await world.get("/v1/pages", customer="borealis"))["items"]
    path = f"/v1/pages/{page['id']}/acknowledge"
    for body, name in (({"person": "nobody"}, "person"), ({}, "person"), ({"person": "deputy-1", "at": "now"}, "at")):
        await world.refused(await world.ask("POST", path, json=body), 422, "invalid", name)
    assert (await world.get(f"/v1/pages/{page['id']}"))["state"] == "sent"
    done = [
        await world.ask("POST", path, json={"person": person}) for person in ("deputy-1", "deputy-1", "architect-1")
    ]
    assert [response.status_code for response in done] == [200] * 3
    assert {response.json()["acknowledged_by"] for response in done} == {"deputy-1"}
    assert len({response.json()["version"] for response in done}) == 1
    assert [p["id"] for p in (await world.get("/v1/pages", state="acknowledged", customer="borealis"))["items"]] == [
        page["id"]
    ]
    ticket = (await until(lambda: _items(world, "/v1/tickets", customer="borealis", state="acknowledged")))[0]
    assert ticket["assignee"] == "deputy-1"
    missing = await world.ask("POST", f"/v1/pages/{NOWHERE}/acknowledge", json={"person": "deputy-1"})
    await world.refused(missing, 404, "not-found")


async def _items(world: World, path: str, **params: Any) -> list[dict[str, Any]]:
    return (await world.get(path, **params))["items"]


# ---- rights


ENDPOINTS = (
    ("scores", "GET", "/v1/customers", None),
    ("scores", "GET", "/v1/customers/borealis/scores", None),
    ("scores", "GET", "/v1/alerts", None),
    ("scores", "GET", "/v1/alerts/{alert}", None),
    ("tickets", "GET", "/v1/tickets", None),
    ("tickets", "POST", "/v1/tickets", {"customer": "borealis", "title": "x"}),
    ("tickets", "GET", "/v1/tickets/{ticket}", None),
    ("tickets", "PATCH", "/v1/tickets/{ticket}", {}),
    ("tickets", "POST", "/v1/tickets/{ticket}/comments", {"text": "x"}),
    ("tickets", "GET", "/v1/tickets/{ticket}/timeline", None),
    ("oncall", "GET", "/v1/oncall?customer=borealis", None),
    ("oncall", "GET", "/v1/pages", None),
    ("oncall", "GET", "/v1/pages/{page}", None),
    ("oncall", "POST", "/v1/pages/{page}/acknowledge", {"person": "deputy-1"}),
)
LISTS = {"/v1/customers", "/v1/alerts", "/v1/tickets", "/v1/pages"}


async def _of_borealis(world: World) -> dict[str, str]:
    """Return an id of each sort, of a customer that the key `acme` may not see."""
    names = ("alert", "ticket", "page")
    return {name: (await _items(world, f"/v1/{name}s", customer="borealis"))[0]["id"] for name in names}


@pytest.mark.parametrize(("scope", "method", "path", "body"), ENDPOINTS, ids=lambda value: str(value))
async def test_every_endpoint_asks_for_its_scope(world: World, scope: str, method: str, path: str, body: Any) -> None:
    """401 without a key, 403 without its scope and with a publishable one; `admin` has all."""
    path = path.format(**await _of_borealis(world))
    headers = {"If-Match": "*"}
    for key in (None, "gone"):
        response = await world.ask(method, path, key=key, json=body, headers=headers)
        await world.refused(response, 401, "unauthorized")
        assert response.headers["www-authenticate"] == "Bearer"
    for key in ("widget", *(name for name in SCOPES if name not in {scope, "admin"})):
        response = await world.ask(method, path, key=key, json=body, headers=headers)
        problem = await world.refused(response, 403, "forbidden")
        assert scope in problem["detail"]
    for key in (scope, "admin"):
        response = await world.ask(method, path, key=key, json=body, headers=headers)
        assert response.status_code in {200, 201}, response.text


@pytest.mark.parametrize(("scope", "method", "path", "body"), ENDPOINTS, ids=lambda value: str(value))
async def test_a_key_limited_to_a_customer_sees_no_other(
    world: World, scope: str, method: str, path: str, body: Any
) -> None:
    """404, as if there were nothing; lists hold its own only."""
    of_borealis = await _of_borealis(world)
    before = await world.get(f"/v1/tickets/{of_borealis['ticket']}")
    response = await world.ask(method, path.format(**of_borealis), key="acme", json=body, headers={"If-Match": "*"})
    if path in LISTS and method == "GET":
        assert response.status_code == 200
        items = response.json()["items"]
        assert items
        assert {item.get("customer", item["id"]) for item in items} == {"acme"}
        if path != "/v1/customers":
            asked = await world.ask(method, path, key="acme", params={"customer": "borealis"})
            await world.refused(asked, 404, "not-found")
    else:
        await world.refused(response, 404, "not-found")
    assert await world.get(f"/v1/tickets/{of_borealis['ticket']}") == before


# ---- what is common to all


@pytest.mark.parametrize(
    "path",
    [
        "/v1/customers",
        "/v1/customers/acme/scores",
        "/v1/alerts",
        "/v1/tickets",
        "/v1/tickets/{ticket}",
        "/v1/tickets/{ticket}/timeline",
        "/v1/oncall?customer=acme",
        "/v1/pages",
    ],
)
async def test_an_unknown_parameter_is_named(world: World, path: str) -> None:
    """A misspelt filter that is ignored would show everything."""
    path = path.format(**await _of_borealis(world))
    response = await world.ask("GET", f"{path}{'&' if '?' in path else '?'}custommer=acme")
    await world.refused(response, 422, "invalid", "custommer")


PAGED = ["customers", "alerts", "tickets", "pages", "tickets/{ticket}/timeline", "overrides", "silences", "check-ins"]


@pytest.mark.parametrize("path", [f"/v1/{of}" for of in PAGED])
async def test_limits_and_cursors_that_are_none(world: World, path: str) -> None:
    path = path.format(**await _of_borealis(world))
    for limit in ("0", "501", "-1", "many", ""):
        await world.refused(await world.ask("GET", path, params={"limit": limit}), 422, "invalid", "limit")
    assert (await world.ask("GET", path, params={"limit": "500"})).status_code == 200
    if path == "/v1/customers":
        return  # its cursor is the last customer's id
    for text in ("x", "ä", "a" * 201, _cursor("2026-11-21T08:00:00"), _cursor("0001-01-01T00:00:00+14:00"), "' OR 1=1"):
        await world.refused(await world.ask("GET", path, params={"cursor": text}), 422, "invalid", "cursor")


def _cursor(at: str) -> str:
    return base64.urlsafe_b64encode(f"{at} {NOWHERE}".encode()).decode().rstrip("=")


async def test_silences_page_by_page(world: World) -> None:
    """In the order in which they begin, each once, however many begin together."""
    begin = world.house.clock.now() + timedelta(days=30)
    made: list[str] = []
    for day in (2, 1, 1, 3, 1):
        at = begin + timedelta(days=day)
        said = {
            "customer": "acme",
            "from": at.isoformat(),
            "until": (at + timedelta(hours=1)).isoformat(),
            "reason": "x",
        }
        made.append((await world.ask("POST", "/v1/silences", json=said)).json()["id"])
    listed = await _all(world, "/v1/silences", limit=1)
    assert sorted(_ids(listed)) == sorted(made)
    begins = [one["from"] for page in listed for one in page]
    assert begins == sorted(begins)
    for id_ in made:
        assert (await world.ask("DELETE", f"/v1/silences/{id_}")).status_code == 200
    assert (await world.get("/v1/silences")) == {"items": [], "next": None}


async def test_a_field_where_there_is_none_is_named(world: World) -> None:
    """What takes no body refuses one that says something, before it does anything."""
    page = (await world.get("/v1/pages"))["items"][0]
    path = f"/v1/pages/{page['id']}/escalate"
    await world.refused(await world.ask("POST", path, json={"to": "deputy"}), 422, "invalid", "to")
    await world.refused(await world.ask("POST", path, content=b"now"), 422, "invalid", "body")
    assert (await world.get(f"/v1/pages/{page['id']}"))["version"] == page["version"]
    for said in (b"", b" ", b"{}"):
        response = await world.ask("POST", "/v1/heartbeats/none", content=said)
        await world.refused(response, 404, "not-found")


@pytest.mark.parametrize("content_type", ["application/xml", "text/csv", "text/plain", "multipart/form-data", "json"])
async def test_a_body_that_is_not_json_is_refused_as_such(world: World, content_type: str) -> None:
    for method, path in (
        ("POST", "/v1/tickets"),
        ("PATCH", f"/v1/tickets/{NOWHERE}"),
        ("POST", "/v1/silences"),
        ("POST", "/v1/check-ins"),
    ):
        headers = {"content-type": content_type}
        response = await world.ask(method, path, content=b'{"customer": "acme"}', headers=headers)
        await world.refused(response, 415, "unsupported-media-type")


async def test_a_body_may_be_deep(world: World) -> None:
    """What is nested a thousand times is wrong, and costs no more than that."""
    said = b'{"customer": "acme", "title": ' + b"[" * 700 + b"]" * 700 + b"}"
    response = await world.ask("POST", "/v1/tickets", content=said, headers={"content-type": "application/json"})
    await world.refused(response, 422, "invalid", "title")
    response = await world.ask("POST", "/v1/tickets", content=b'{"customer": "nobody"}')
    await world.refused(response, 422, "invalid", "title")


@pytest.mark.parametrize(
    ("path", "said", "field"),
    [
        ("/v1/check-ins", {"customer": "acme", "held_at": "2026-01-01T10:00:00Z", "note": "a\0b"}, "note"),
        ("/v1/silences", {"until": "2027-01-01T10:00:00Z", "reason": "\0"}, "reason"),
        ("/v1/silences", {"until": "2027-01-01T10:00:00Z", "reason": "x", "rule": "a\0"}, "rule"),
        ("/v1/tickets", {"customer": "acme", "title": "a\0"}, "title"),
        (f"/v1/tickets/{NOWHERE}/comments", {"text": "a\0"}, "text"),
        ("/v1/actions", {"customer": "acme", "step": "a\0", "owner": "architect-1", "due_on": "2027-01-01"}, "step"),
        ("/v1/tickets", {"customer": "acme", "title": {"a": [["x\0"]]}}, "title"),
        ("/v1/silences", {"until": "9999-12-31T23:59:59-12:00", "reason": "x"}, "until"),
        ("/v1/silences", {"until": "0001-01-01T00:00:00+14:00", "reason": "x"}, "until"),
    ],
)
async def test_what_cannot_be_kept_is_named(world: World, path: str, said: dict[str, Any], field: str) -> None:
    """PostgreSQL holds no NUL, and not every moment that can be written has another zone, or a day after."""
    await world.refused(await world.ask("POST", path, json=said), 422, "invalid", field)


async def test_goals_of_a_check_in_lie_on_the_scale(world: World) -> None:
    said = {
        "customer": "acme",
        "held_at": "2026-01-01T10:00:00Z",
        "note": "Quarter",
        "goals": {"mood": 9, "nps": 1e308},
    }
    response = await world.ask("POST", "/v1/check-ins", json=said)
    await world.refused(response, 422, "invalid", "goals.nps", "goals.mood")


async def test_moments_of_no_era(world: World) -> None:
    for path in ("/v1/oncall?customer=acme&at=", "/v1/schedules/none/shifts?from="):
        response = await world.ask("GET", f"{path}9999-12-30T00:00:00Z")
        await world.refused(response, 422, "invalid", path.rpartition("&")[2].rpartition("?")[2].strip("="))


async def test_a_respondent_of_any_name_can_be_erased(world: World) -> None:
    for name in ("a/b", "..", "a b?c#d", "ä/", "//"):
        quoted = "".join(f"%{byte:02X}" for byte in name.encode())
        response = await world.ask("DELETE", f"/v1/respondents/{quoted}?customer=acme")
        assert response.status_code == 202, (name, response.text)
    refused = await world.ask("POST", "/v1/respondents/a%2Fb")
    await world.refused(refused, 405, "method-not-allowed")
    assert refused.headers["allow"] == "DELETE"


async def test_health_figures_and_documentation(world: World) -> None:
    """For those who run it: no key needed, nothing of a customer shown."""
    assert (await world.ask("GET", "/healthz", key=None)).json() == {"status": "ok"}
    ready = await world.ask("GET", "/readyz", key=None)
    assert (ready.status_code, ready.json()) == (200, {"status": "ok", "missing": {}})
    for path in ("/healthz", "/readyz"):
        assert (await world.ask("HEAD", path, key=None)).status_code == 200
    metrics = await world.ask("GET", "/metrics", key=None)
    assert metrics.headers["content-type"].startswith("text/plain")
    for name in ("fiilis_feedback_total", "fiilis_pages_total", "fiilis_feedback_to_page_seconds_bucket"):
        assert re.search(rf"^{name}\b", metrics.text, re.MULTILINE), name
    assert "text/html" in (await world.ask("GET", "/docs", key=None)).headers["content-type"]


async def test_the_interface_is_described(world: World) -> None:
    """/openapi.json is a union of all services, the door of the answers included."""
    described = (await world.ask("GET", "/openapi.json", key=None)).json()
    paths = set(described["paths"])
    assert paths >= {"/v1/customers", "/v1/alerts", "/v1/tickets", "/v1/pages", "/v1/oncall", "/a/{token}"}
    assert "/v1/feedback" in paths
    assert "Problem" in described["components"]["schemas"]
    assert "HTTPValidationError" not in str(described)
    made = {path for path, item in described["paths"].items() if "201" in item.get("post", {}).get("responses", {})}
    assert made >= {"/v1/tickets", "/v1/silences", "/v1/overrides", "/v1/check-ins", "/v1/actions"}


async def test_an_address_that_there_is_not(world: World) -> None:
    for path in ("/", "/v1", "/v1/nothing", "/v1/tickets/1/2/3/4", "/v2/tickets", "/favicon.ico"):
        for key in ("ops", None):
            await world.refused(await world.ask("GET", path, key=key), 404, "not-found")


async def test_a_method_that_there_is_not(world: World) -> None:
    """405 with the methods that there are."""
    for method, path, allowed in (
        ("DELETE", "/v1/pages", {"GET"}),
        ("POST", "/v1/alerts", {"GET"}),
        ("PUT", f"/v1/tickets/{NOWHERE}/comments", {"POST"}),
    ):
        response = await world.ask(method, path)
        await world.refused(response, 405, "method-not-allowed")
        assert {part.strip() for part in response.headers["allow"].split(",")} >= allowed


async def test_all_methods_of_an_address_are_allowed(world: World) -> None:
    """RFC 9110, section 15.5.6: Allow lists every method that the address takes."""
    for path, allowed in (("/v1/tickets", {"GET", "POST"}), (f"/v1/tickets/{NOWHERE}", {"GET", "PATCH"})):
        response = await world.ask("DELETE", path)
        assert {part.strip() for part in response.headers["allow"].split(",")} >= allowed


# ---- the link in a page


def _link(world: World, customer: str, touchpoint: str = "support") -> str:
    found = [
        r.data for r in world.house.phone.received if r.data["customer"] == customer and touchpoint in r.data["summary"]
    ]
    return found[0]["acknowledge_url"]


def _guarded(response: httpx.Response) -> None:
    assert response.headers["content-type"].startswith("text/html")
    assert response.headers["referrer-policy"] == "no-referrer"
    assert response.headers["cache-control"] == "no-store"
    assert response.headers["x-content-type-options"] == "nosniff"
    rules = response.headers["content-security-policy"]
    assert "default-src 'none'" in rules
    assert "frame-ancestors 'none'" in rules
    assert "script" not in rules


async def test_a_link_is_shown_and_acknowledges_only_by_its_button(world: World) -> None:
    """Mail scanners follow links, browsers look ahead: only POST acknowledges, and twice is harmless."""
    link = _link(world, "acme")
    assert link.startswith(world.house.address + "/a/")
    for method in ("GET", "GET", "HEAD", "OPTIONS", "PUT"):
        response = await world.ask(method, link, key=None)
        assert response.status_code == (200 if method == "GET" else 405)
    shown = await world.ask("GET", link, key=None)
    _guarded(shown)
    assert "I take it" in shown.text
    assert '<form method="post">' in shown.text
    states = [page["state"] for page in await _items(world, "/v1/pages", customer="acme")]
    assert states == ["sent", "sent"], "looking must not acknowledge"

    first, second = [await world.ask("POST", link, key=None) for _ in range(2)]
    for response in (first, second):
        assert response.status_code == 200
        assert "Taken" in response.text
        assert "architect-1" in response.text
        assert "I take it" not in response.text
        _guarded(response)
    (page,) = await _items(world, "/v1/pages", customer="acme", state="acknowledged")
    assert page["acknowledged_by"] == "architect-1"
    assert "Taken" in (await world.ask("GET", link, key=None)).text
    ticket = (await until(lambda: _items(world, "/v1/tickets", customer="acme", state="acknowledged")))[0]
    lines = [line["what"] for line in await _items(world, f"/v1/tickets/{ticket['id']}/timeline")]
    assert lines.count("page acknowledged") == 1


async def test_what_a_customer_wrote_is_text_on_the_page(world: World) -> None:
    """Anybody can write a comment; nobody may write our page."""
    shown = (await world.ask("GET", _link(world, "acme"), key=None)).text
    assert "<script" not in shown
    assert "<b>" not in shown
    assert "&lt;script&gt;alert(" in shown


async def test_a_link_that_is_not_ours(world: World) -> None:
    """404 for a token that was cut, changed or made up; as a page for a person, and nothing is acknowledged."""
    link = _link(world, "cedar", "NPS")
    token = link.rpartition("/")[2]
    body, _, signature = token.rpartition(".")
    other = ("A" if body[3] != "A" else "B") + body[4:]
    for wrong in (
        token[:-1],
        token + "x",
        f"{body[:3]}{other}.{signature}",
        signature,
        "x",
        "a" * 3000,
        f"{token}.{token}",
    ):
        for method in ("GET", "POST"):
            response = await world.ask(method, f"/a/{wrong}", key=None)
            assert response.status_code == 404, wrong
            _guarded(response)
            assert len(wrong) < 10 or wrong not in response.text
    assert [page["state"] for page in await _items(world, "/v1/pages", customer="cedar")] == ["sent"]


async def test_a_link_of_a_resolved_ticket(world: World) -> None:
    """It says that nobody needs to answer any more."""
    link = _link(world, "acme", "billing")
    (ticket,) = [
        t for t in await _items(world, "/v1/tickets", customer="acme") if t["dedup_key"] == "acme/mood-one/billing"
    ]
    done = await world.patch(ticket, state="resolved", root_cause="process", resolution="Called back")
    assert done.status_code == 200
    await until(lambda: _items(world, "/v1/pages", customer="acme", state="resolved"))
    shown = await world.ask("GET", link, key=None)
    assert shown.status_code == 200
    assert "I take it" not in shown.text
    late = await world.ask("POST", link, key=None)
    assert late.status_code == 409
    _guarded(late)
    (page,) = await _items(world, "/v1/pages", customer="acme", state="resolved")
    response = await world.ask("POST", f"/v1/pages/{page['id']}/acknowledge", json={"person": "deputy-1"})
    await world.refused(response, 409, "resolved")


async def test_a_link_is_good_for_a_week(world: World) -> None:
    """Then it says so, and takes nothing. (The last test: it moves the clock.)"""
    link = _link(world, "cedar", "NPS")
    world.house.move(days=6.9)
    assert (await world.ask("GET", link, key=None)).status_code == 200
    world.house.move(days=1.1)
    for method in ("GET", "POST"):
        response = await world.ask(method, link, key=None)
        assert response.status_code == 410
        assert "expired" in response.text
        _guarded(response)
    assert not await _items(world, "/v1/pages", customer="cedar", state="acknowledged")
