"""POST /v1/feedback as the outside sees it, over real HTTP: what is taken, what is refused, and in which words."""

from __future__ import annotations

import asyncio
import gzip
import json
import logging
import re
import time
import tracemalloc
import zlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import httpx
import pytest
import pytest_asyncio
from msgspec.structs import replace

from shared.bus.client import Kafka
from shared.directory.model import Key, Metric
from shared.runtime import logs
from shared.wire.ids import uuid7
from shared.wire.signing import key_hash, new_key
from tests.conftest import Servers
from tests.support.house import House, company, house
from tests.support.wait import until

pytestmark = pytest.mark.asyncio(loop_scope="module")

LIMIT = 1024 * 1024
ORIGIN = "https://www.acme.example"


@dataclass(frozen=True, slots=True)
class Keys:
    """The text of every sort of key."""

    secret: str
    public: str
    other_public: str
    revoked: str
    scores: str
    acme: str


@dataclass(frozen=True, slots=True)
class Ingest:
    """The running house and its keys."""

    house: House
    keys: Keys

    async def send(
        self, body: Any = None, *, key: str | None = "", url: str = "/v1/feedback", **headers: str
    ) -> httpx.Response:
        """POST: bytes as they are, anything else as JSON; `key` None sends none."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        if key is not None:
            named["Authorization"] = f"Bearer {key or self.keys.secret}"
        content = body if isinstance(body, bytes) or hasattr(body, "__aiter__") else json.dumps(body).encode()
        return await self.house.client.post(url, content=content, headers={"Content-Type": "application/json", **named})

    async def refused(self, response: httpx.Response, status: int, code: str, *paths: str) -> dict[str, Any]:
        """Check that an answer is the problem that the contract promises; return it."""
        return problem(response, status, code, *paths, secrets=self.texts)

    @property
    def texts(self) -> list[str]:
        """Every key's text."""
        return [getattr(self.keys, name) for name in Keys.__slots__]  # type: ignore[attr-defined]

    async def stored(self) -> int:
        """Send one more answer, and return how many were counted when it was: a customer's are counted in order."""
        last = uuid7()
        assert (await self.send(nps(id=str(last)))).status_code == 202

        async def arrived() -> bool:
            return bool(await self.house.sql("SELECT FROM scoring.answer WHERE id = $1", last))

        await until(arrived)
        return (await self.house.sql("SELECT count(*) FROM scoring.answer"))[0][0]


def problem(response: httpx.Response, status: int, code: str, *paths: str, secrets: list[str]) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body = response.json()
    check_problem(body, status, code, *paths)
    assert not any(secret in response.text for secret in secrets), "a key is echoed"
    return body


def check_problem(body: dict[str, Any], status: int, code: str, *paths: str) -> None:
    assert set(body) - {"errors"} == {"type", "title", "status", "detail", "code"}
    assert isinstance(body["type"], str)
    assert isinstance(body["title"], str)
    assert body["title"]
    assert body["status"] == status
    assert body["code"] == code
    assert re.fullmatch(r"[a-z0-9][a-z0-9-]{0,62}", code)
    assert "Traceback" not in str(body)
    assert [error["path"] for error in body.get("errors", [])] == list(paths), body
    assert all(error["detail"] for error in body.get("errors", []))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def ingest(servers: Servers) -> AsyncIterator[Ingest]:
    """One house for the whole module."""
    connection = await asyncpg.connect(servers.postgres.url.replace("+asyncpg", ""))
    await connection.execute("CREATE DATABASE http_ingest")
    url = servers.postgres.url.replace("/fiilis?", "/http_ingest?")
    try:
        async with house(Kafka(servers.kafka.bootstrap, "http-ingest."), url) as made:
            keys = Keys(
                made.key,
                made.public_key,
                *(new_key("publishable") for _ in range(2)),
                *(new_key("secret") for _ in range(2)),
            )
            known = (
                Key("ops", "secret", key_hash(keys.secret), scopes=("feedback",)),
                Key("widget", "publishable", key_hash(keys.public), customers=("acme",), origins=(ORIGIN,)),
                Key("other", "publishable", key_hash(keys.other_public), customers=("borealis",)),
                Key("old", "publishable", key_hash(keys.revoked), customers=("acme",), revoked=True),
                Key("board", "secret", key_hash(keys.scores), scopes=("scores", "tickets", "oncall")),
                Key("acme", "secret", key_hash(keys.acme), customers=("acme",), scopes=("feedback",)),
            )
            directory = company(made.phone, *known)
            await made.apply(replace(directory, metrics={"first-contact-resolution": Metric("%")}, rules=()))
            yield Ingest(made, keys)
    finally:
        await connection.execute("DROP DATABASE http_ingest WITH (FORCE)")
        await connection.close()


def nps(score: Any = 9, **more: Any) -> dict[str, Any]:
    return {"kind": "nps", "score": score, "customer": "acme", **more}


def soon(**later: float) -> str:
    return (datetime.now(UTC) + timedelta(**later)).isoformat()


# ---- what is taken


async def test_a_single_answer(ingest: Ingest) -> None:
    """202 with the id, which is a UUIDv7 where the client named none."""
    before = datetime.now(UTC).timestamp() * 1000 - 1
    response = await ingest.send(nps())
    assert response.status_code == 202
    assert response.headers["content-type"] == "application/json"
    body = response.json()
    assert (body["accepted"], body["rejected"]) == (1, 0)
    (result,) = body["results"]
    assert result["status"] == "accepted"
    made = UUID(result["id"])
    assert made.version == 7
    assert before <= made.int >> 80 <= before + 5000


@pytest.mark.parametrize("id_", [str(uuid7()), str(uuid4())], ids=["v7", "v4"])
async def test_the_clients_id_is_kept(ingest: Ingest, id_: str) -> None:
    """A client that is not sure sends the same id again, and it is one answer."""
    before = await ingest.stored()
    for _ in range(2):
        (result,) = (await ingest.send(nps(id=id_))).json()["results"]
        assert result.pop("status_url").startswith("http")
        assert result == {"id": id_, "status": "accepted"}
    array = await ingest.send([nps(id=id_), nps(id=id_)])
    assert [result["id"] for result in array.json()["results"]] == [id_, id_]
    assert await ingest.stored() == before + 1 + 1


@pytest.mark.parametrize("kind", ["nps", "mood", "csat", "ces"])
async def test_every_kind_has_its_range(ingest: Ingest, kind: str) -> None:
    """Both ends are taken, one beyond is 422 naming score, and so is what is no whole number."""
    low, high = {"nps": (0, 10), "mood": (1, 4), "csat": (1, 5), "ces": (1, 7)}[kind]
    for score in (low, high, float(high)):
        assert (await ingest.send(nps(score, kind=kind))).status_code == 202, score
    for score in (low - 1, high + 1, low + 0.5, 10**400, -(10**400), 1e300):
        await ingest.refused(await ingest.send(nps(score, kind=kind)), 422, "invalid", "score")


async def test_a_key_metric(ingest: Ingest) -> None:
    """A kpi is any finite number of a metric that the directory declares."""
    kpi = {"kind": "kpi", "customer": "acme", "metric": "first-contact-resolution"}
    for score in (93.5, -1, 0, 12345678901234567890):
        assert (await ingest.send({**kpi, "score": score})).status_code == 202, score
    await ingest.refused(await ingest.send({**kpi, "score": 1, "metric": "speed"}), 422, "invalid", "metric")
    await ingest.refused(await ingest.send({"kind": "kpi", "score": 1, "customer": "acme"}), 422, "invalid", "metric")
    await ingest.refused(await ingest.send(nps(metric="first-contact-resolution")), 422, "invalid", "metric")


async def test_every_field(ingest: Ingest) -> None:
    """The contract's example."""
    whole = {
        "id": str(uuid7()),
        "customer": "acme",
        "kind": "mood",
        "score": 1,
        "touchpoint": "support",
        "respondent": "r-17",
        "comment": "Ääkköset ja 🙂",
        "occurred_at": soon(hours=-1),
        "channel": "widget",
        "language": "fi",
        "audience": "customer",
        "contact": "r17@example.test",
        "context": {"page": "/orders"},
        "backfill": False,
    }
    assert (await ingest.send(whole)).status_code == 202


async def test_text_plain_holds_json(ingest: Ingest) -> None:
    """`sendBeacon` can send only simple types, without a preflight."""
    for content_type in ("text/plain", "text/plain;charset=UTF-8", "Application/JSON; charset=utf-8"):
        response = await ingest.send(nps(), Content_Type=content_type)
        assert response.status_code == 202, content_type


async def test_an_array_tells_about_each_item(ingest: Ingest) -> None:
    """A rejected item costs its neighbours nothing, whatever is wrong with it."""
    before = await ingest.stored()
    ids = [str(uuid7()) for _ in range(4)]
    items: list[Any] = [
        nps(id=ids[0]),
        nps(11, id=ids[1]),
        "no object",
        nps(id=ids[2], customer="nobody"),
        nps(id="no uuid"),
        nps(typo=1),
        nps(id=ids[3]),
    ]
    response = await ingest.send(items)
    assert response.status_code == 202
    body = response.json()
    assert (body["accepted"], body["rejected"]) == (2, 5)
    results = body["results"]
    assert [result["status"] for result in results] == ["accepted", *["rejected"] * 5, "accepted"]
    assert [result["id"] for result in results] == [ids[0], ids[1], None, ids[2], "no uuid", None, ids[3]]
    for result, path in zip(results[1:6], ("score", "body", "customer", "id", "typo"), strict=True):
        check_problem(result["error"], 422, "invalid", path)
    assert await ingest.stored() == before + 2 + 1


async def test_an_array_with_bytes_that_are_no_text(ingest: Ingest) -> None:
    """One client's broken encoding does not lose the batch of a gateway."""
    good = json.dumps(nps()).encode()
    response = await ingest.send(
        b"[" + good + b',{"kind":"nps","score":1,"customer":"acme","comment":"\xff"},' + good + b"]"
    )
    assert response.status_code in {202, 400}, response.text
    if response.status_code == 202:
        assert response.json()["accepted"] == 2


async def test_an_array_of_which_nothing_is_good(ingest: Ingest) -> None:
    """422, still with what is wrong with each."""
    response = await ingest.send([nps(11), nps(-1)])
    assert response.status_code == 422
    body = response.json()
    assert (body["accepted"], body["rejected"]) == (0, 2)
    assert response.headers["content-type"] == "application/problem+json"
    assert (body["status"], body["code"]) == (422, "invalid")
    assert all(body[member] for member in ("type", "title", "detail"))
    for result in body["results"]:
        check_problem(result["error"], 422, "invalid", "score")


async def test_the_length_of_an_array(ingest: Ingest) -> None:
    """One to a thousand."""
    before = await ingest.stored()
    await ingest.refused(await ingest.send([]), 422, "invalid")
    await ingest.refused(await ingest.send([nps()] * 1_001), 422, "too-many-items")
    response = await ingest.send([nps()] * 1_000)
    assert response.status_code == 202
    assert response.json()["accepted"] == 1_000
    assert await ingest.stored() == before + 1_000 + 1


# ---- encodings and sizes


async def test_gzip(ingest: Ingest) -> None:
    """A gateway packs its batches."""
    response = await ingest.send(gzip.compress(json.dumps([nps()] * 500).encode()), Content_Encoding="gzip")
    assert response.status_code == 202
    assert response.json()["accepted"] == 500
    assert (await ingest.send(nps(), Content_Encoding="identity")).status_code == 202


def bomb() -> bytes:
    """Return 1 GiB of zeros as gzip, in less than the limit."""
    packer = zlib.compressobj(9, wbits=31)
    zeros = bytes(16 * LIMIT)
    first = packer.compress(zeros) + packer.flush(zlib.Z_FULL_FLUSH)
    again = packer.compress(zeros) + packer.flush(zlib.Z_FULL_FLUSH)
    packed = first + again * 63
    assert len(packed) < LIMIT
    return packed


async def test_a_gzip_bomb_costs_nothing(ingest: Ingest) -> None:
    """A megabyte that unpacks to 1 GiB is refused at once, in little memory, and answers go on."""
    packed = bomb()
    tracemalloc.start()
    try:
        begun = time.monotonic()
        response = await ingest.send(packed, Content_Encoding="gzip")
        seconds, peak = time.monotonic() - begun, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    await ingest.refused(response, 413, "too-large")
    assert seconds < 2
    assert peak < 16 * LIMIT, "of which the client and the server each hold the packed body"
    assert (await ingest.send(nps())).status_code == 202


async def test_gzip_that_is_not_whole(ingest: Ingest) -> None:
    """What is cut off, is no gzip, or goes on after its end is refused, never taken in part."""
    packed = gzip.compress(json.dumps(nps()).encode())
    for body in (packed[:-9], packed[:-4], packed[:10], b"", b"no gzip at all", json.dumps(nps()).encode()):
        await ingest.refused(await ingest.send(body, Content_Encoding="gzip"), 400, "not-gzip")
    damaged = packed[:-8] + bytes(4) + packed[-4:]
    await ingest.refused(await ingest.send(damaged, Content_Encoding="gzip"), 400, "not-gzip")


async def test_what_follows_a_gzip_stream_is_not_dropped_in_silence(ingest: Ingest) -> None:
    """gzip files may be put together: the second's answer is counted, or the request is refused, but never lost."""
    members = gzip.compress(b"[" + json.dumps(nps()).encode()), gzip.compress(b"," + json.dumps(nps()).encode() + b"]")
    response = await ingest.send(b"".join(members), Content_Encoding="gzip")
    assert response.status_code == 400 or response.json()["accepted"] == 2
    whole = gzip.compress(json.dumps(nps()).encode())
    for rest in (whole, b"rest"):
        response = await ingest.send(whole + rest, Content_Encoding="gzip")
        await ingest.refused(response, 400, response.json().get("code", "not-gzip"))


async def test_an_unknown_encoding(ingest: Ingest) -> None:
    for encoding in ("br", "deflate", "gzip, gzip", "rot13"):
        await ingest.refused(await ingest.send(nps(), Content_Encoding=encoding), 415, "unsupported-encoding")


async def test_a_wrong_content_type(ingest: Ingest) -> None:
    for content_type in (
        "application/xml",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "json",
    ):
        await ingest.refused(await ingest.send(nps(), Content_Type=content_type), 415, "unsupported-media-type")


async def test_a_body_over_a_mebibyte(ingest: Ingest) -> None:
    """413 whether it says so beforehand or not, packed or not; one of just a mebibyte is taken."""
    just = json.dumps(nps()).encode().ljust(LIMIT)
    assert (await ingest.send(just)).status_code == 202
    await ingest.refused(await ingest.send(just + b" "), 413, "too-large")
    await ingest.refused(await ingest.send(_chunks(just + b" ")), 413, "too-large")
    assert (await ingest.send(_chunks(just))).status_code == 202
    await ingest.refused(await ingest.send(gzip.compress(just + b" "), Content_Encoding="gzip"), 413, "too-large")


async def _chunks(body: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(body), 50_000):
        yield body[start : start + 50_000]


async def test_a_client_that_announces_too_much_is_told_before_it_sends(ingest: Ingest) -> None:
    """It need not send 10 GB to hear that this is too much."""
    host, port = ingest.house.address.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    head = (
        f"POST /v1/feedback HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {ingest.keys.secret}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {10**10}\r\n\r\n"
    )
    writer.write(head.encode())
    assert (await asyncio.wait_for(reader.readline(), 5)).startswith(b"HTTP/1.1 413 ")
    writer.close()


# ---- what is refused


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"   ",
        b"{",
        b'{"kind": "nps", "score": 5',
        b'{"kind": "nps" "score": 5}',
        b'{"kind": "nps", "score": NaN, "customer": "acme"}',
        b"[{}",
        b"[" * 200_000,
        b'{"kind":"nps","score":5,"customer":"acme","comment":"\xff\xfe"}',
        b"\xff\xfe",
        '{"kind": "nps"}'.encode("utf-16"),
    ],
    ids=lambda body: repr(body[:24]),
)
async def test_what_is_not_json(ingest: Ingest, body: bytes) -> None:
    """400 for broken JSON and for bytes that are not UTF-8; nothing makes the service fail."""
    await ingest.refused(await ingest.send(body), 400, "not-json")


@pytest.mark.parametrize(
    ("body", "path"),
    [
        (nps(11), "score"),
        (nps("9"), "score"),
        (nps(None), "score"),
        (nps(True), "score"),
        ({"kind": "nps", "customer": "acme"}, "score"),
        ({"score": 1, "customer": "acme"}, "kind"),
        (nps(kind="stars"), "kind"),
        (nps(kind=5), "kind"),
        (nps(customer="nobody"), "customer"),
        (nps(customer=None), "customer"),
        (nps(customer=5), "customer"),
        ({"kind": "nps", "score": 5}, "customer"),
        (nps(touchpoint="nowhere"), "touchpoint"),
        (nps(touchpoint=["support"]), "touchpoint"),
        (nps(typo=1), "typo"),
        (nps(comment="with \0 inside"), "comment"),
        (nps(comment="x" * 4_001), "comment"),
        (nps(comment=5), "comment"),
        (nps(respondent="with \0 inside"), "respondent"),
        (nps(respondent=""), "respondent"),
        (nps(respondent="x" * 201), "respondent"),
        (nps(context={"page": "\0"}), "context.page"),
        (nps(context={"page": 5}), "context"),
        (nps(context={"page": "x" * 201}), "context"),
        (nps(context={str(n): "" for n in range(21)}), "context"),
        (nps(contact="no address"), "contact"),
        (nps(occurred_at=soon(hours=1)), "occurred_at"),
        (nps(occurred_at=soon(days=-401)), "occurred_at"),
        (nps(occurred_at="2026-11-21T08:00:00"), "occurred_at"),
        (nps(occurred_at="yesterday"), "occurred_at"),
        (nps(occurred_at=1764000000), "occurred_at"),
        (nps(id="17"), "id"),
        (nps(id=17), "id"),
        (nps(id=str(UUID(int=7 << 76 | 2 << 62))), "id"),
        (nps(channel="carrier pigeon"), "channel"),
        (nps(audience="everybody"), "audience"),
        (nps(language="suomi ja ruotsi"), "language"),
        (nps(backfill="yes"), "backfill"),
        (nps(respondent_token="forged"), "respondent_token"),
        ("text", "body"),
        (5, "body"),
        (None, "body"),
    ],
    ids=lambda value: str(value)[:48],
)
async def test_an_invalid_answer_names_its_field(ingest: Ingest, body: Any, path: str) -> None:
    """422 with `errors[].path`."""
    response = await ingest.send(body)
    found = response.json().get("errors", [{}])[0].get("path", "")
    # A value inside `context` may be named more closely.
    named = found if path == "context" and found.startswith("context") else path
    await ingest.refused(response, 422, "invalid", named)


@pytest.mark.parametrize(
    "body",
    [
        b'{"\\ud800": 1, "kind": "nps", "score": 5, "customer": "acme"}',
        b'{"kind": "nps", "score": 5, "customer": "\\ud800"}',
        b'{"kind": "nps", "score": 5, "customer": "acme", "comment": "\\ud800"}',
        b'{"kind": "nps", "score": 5, "customer": "acme", "touchpoint": "\\udc00"}',
        b'{"kind": "\\ud800", "score": 5, "customer": "acme"}',
        b'[{"id": "\\ud800", "kind": "nps", "score": 5, "customer": "acme"}]',
        b'[{"id": "\\ud800\\ud800", "kind": "nps", "score": 11, "customer": "acme"}]',
        b'{"a":' * 200_000,
        b'{"context":' + b'{"a":' * 200_000,
        b'{"kind": "nps", "score": 1e999, "customer": "acme"}',
        b'{"kind": "kpi", "score": 1e999, "customer": "acme", "metric": "first-contact-resolution"}',
        b'{"kind": "kpi", "score": ' + b"9" * 5_000 + b', "customer": "acme", "metric": "first-contact-resolution"}',
    ],
    ids=lambda body: repr(body[:40]),
)
async def test_what_is_json_but_neither_text_nor_number(ingest: Ingest, body: bytes) -> None:
    """Half a surrogate pair, or a number without an end: refused, and the service can still say so."""
    response = await ingest.send(body)
    assert response.status_code in {400, 422}, response.text


@pytest.mark.parametrize(
    ("item", "path"),
    [
        (b'{"kind": "mood", "score": 1, "comment": "cut \\ud83d"}', "comment"),
        (b'{"kind": "mood", "score": 1, "context": {"page": "\\udc00"}}', "context.page"),
        (b'{"kind": "mood", "score": 1, "\\ud800": 1}', "?"),
        (b'{"kind": "mood", "score": 1, "id": "\\ud800"}', "id"),
        (b'{"kind": "mood", "score": 1, "comment": "\xed\xa0\xbd"}', None),
        (b'{"kind": "mood", "score": 1, "comment": "caf\xe9"}', None),
        (b'{"kind": "mood", "score": 1, "comment": "two\nlines"}', None),
        (b'{"kind": "mood", "score": NaN}', None),
        (b'{"kind": "mood", "score": ' + b"9" * 5000 + b"}", "score"),
        (b"7", "body"),
    ],
    ids=lambda value: repr(value)[:50],
)
async def test_one_item_that_is_no_text_stands_alone(ingest: Ingest, item: bytes, path: str | None) -> None:
    """What one device sends may not cost the answers of others that are in the same array."""
    good = b'{"kind": "mood", "score": 4, "customer": "acme"}'
    response = await ingest.send(b"[" + good + b" ,\n" + item + b", " + good + b"]")
    assert response.status_code == 202, response.text
    body = response.json()
    assert [result["status"] for result in body["results"]] == ["accepted", "rejected", "accepted"]
    error = body["results"][1]["error"]
    assert (error["errors"][0]["path"] if path else error["code"]) == (path or "not-json")


@pytest.mark.parametrize(
    "body",
    [b'[{"a": "\\ud800"}', b'[{"a": "\\ud800"}]]', b'[{"a": "\\ud800"},]', b'["\\ud800"[1]]', b"[nope]"],
    ids=repr,
)
async def test_an_array_whose_items_have_no_end(ingest: Ingest, body: bytes) -> None:
    """Where one item ends and the next begins has to be seen."""
    response = await ingest.send(body)
    assert (response.status_code, response.json()["code"]) == (400, "not-json")


async def test_several_bad_fields_are_named_at_once(ingest: Ingest) -> None:
    """Nobody likes to be told one by one."""
    response = await ingest.send(nps(11, touchpoint="nowhere", contact="no address"))
    await ingest.refused(response, 422, "invalid", "score", "touchpoint", "contact")


async def test_times(ingest: Ingest) -> None:
    """Clocks differ: up to five minutes ahead are taken, and any offset."""
    for at in (soon(minutes=4), soon(days=-399), "2026-01-01T02:00:00+02:00"):
        assert (await ingest.send(nps(occurred_at=at))).status_code == 202, at


# ---- keys


async def test_a_request_without_a_good_key(ingest: Ingest) -> None:
    """401 for none, an unknown and a revoked one; it never says which."""
    unknown = "pk_" + "x" * 43
    headers = (
        None,
        f"Bearer {unknown}",
        f"Bearer {ingest.keys.revoked}",
        "Bearer",
        f"Basic {ingest.keys.secret}",
    )
    for header in headers:
        given = {} if header is None else {"Authorization": header}
        response = await ingest.send(nps(), key=None, **given)
        await ingest.refused(response, 401, "unauthorized")
        assert response.headers["www-authenticate"] == "Bearer"
        assert unknown not in response.text
    for key in (unknown, ingest.keys.revoked):
        response = await ingest.send(nps(), key=None, url=f"/v1/feedback?key={key}")
        await ingest.refused(response, 401, "unauthorized")
        assert key not in response.text
    await ingest.refused(await ingest.send(nps(), key=None, url="/v1/feedback?key="), 401, "unauthorized")


async def test_the_scheme_is_case_insensitive(ingest: Ingest) -> None:
    response = await ingest.send(nps(), key=None, Authorization=f"bearer {ingest.keys.secret}")
    assert response.status_code == 202


async def test_a_key_is_asked_for_before_the_body_is_read(ingest: Ingest) -> None:
    """Who has no key learns nothing of what is valid."""
    await ingest.refused(await ingest.send(b"{", key=None), 401, "unauthorized")
    await ingest.refused(await ingest.send(b"{", key=ingest.keys.scores), 403, "forbidden")


async def test_a_secret_key_without_the_scope(ingest: Ingest) -> None:
    body = await ingest.refused(await ingest.send(nps(), key=ingest.keys.scores), 403, "forbidden")
    assert "feedback" in body["detail"]


async def test_a_key_in_the_address(ingest: Ingest) -> None:
    """For `sendBeacon`, which cannot set headers: publishable keys only."""
    assert (await ingest.send(nps(), key=None, url=f"/v1/feedback?key={ingest.keys.public}")).status_code == 202
    response = await ingest.send(nps(), key=None, url=f"/v1/feedback?key={ingest.keys.secret}")
    await ingest.refused(response, 403, "forbidden")


async def test_a_publishable_key_knows_its_customer(ingest: Ingest) -> None:
    """It needs none named, and takes no other."""
    assert (await ingest.send({"kind": "nps", "score": 5}, key=ingest.keys.public)).status_code == 202
    assert (await ingest.send(nps(), key=ingest.keys.public)).status_code == 202
    await ingest.refused(await ingest.send(nps(), key=ingest.keys.other_public), 403, "forbidden")
    limited = await ingest.send(nps(customer="borealis"), key=ingest.keys.acme)
    await ingest.refused(limited, 403, "forbidden")
    assert (await ingest.send({"kind": "nps", "score": 5}, key=ingest.keys.acme)).status_code == 202
    mixed = await ingest.send([nps(), nps(customer="borealis")], key=ingest.keys.public)
    assert mixed.status_code == 202
    check_problem(mixed.json()["results"][1]["error"], 403, "forbidden")


async def test_nobody_can_speak_for_somebody_else(ingest: Ingest) -> None:
    """What anybody on the internet can post names no respondent and rewrites no past."""
    for wrong, path in (
        ({"respondent": "r-17"}, "respondent"),
        ({"backfill": True}, "backfill"),
        ({"occurred_at": soon(days=-8)}, "occurred_at"),
        ({"contact": "r17@example.test"}, "contact"),
    ):
        response = await ingest.send(nps(**wrong), key=ingest.keys.public)
        await ingest.refused(response, 422, "invalid", path)
        assert (await ingest.send(nps(**wrong))).status_code == 202, "a secret key may"


async def test_trust_is_the_keys(ingest: Ingest) -> None:
    """A publishable key makes anonymous answers, a secret one verified."""
    ids = [uuid7(), uuid7()]
    await ingest.send(nps(id=str(ids[0])), key=ingest.keys.public)
    await ingest.send(nps(id=str(ids[1])))
    trust = (
        "SELECT answer.id, trust FROM scoring.answer JOIN scoring.series"
        " ON (series.customer, series.number) = (answer.customer, answer.series) WHERE answer.id = ANY($1)"
    )

    async def told() -> list[str | None]:
        found = {row["id"]: row["trust"] for row in await ingest.house.sql(trust, ids)}
        return [found.get(id_) for id_ in ids]

    await until(lambda: _equals(told, ["anonymous", "verified"]))


async def _equals(found: Any, wanted: Any) -> bool:
    return await found() == wanted


# ---- other sites, other methods


async def test_the_origin_of_a_web_page(ingest: Ingest) -> None:
    """An allowed one is echoed, without credentials, on errors too; another is 403; a missing one passes."""
    for body, status in ((nps(), 202), (nps(11), 422), (b"{", 400)):
        response = await ingest.send(body, key=ingest.keys.public, Origin=ORIGIN)
        assert response.status_code == status
        assert response.headers["access-control-allow-origin"] == ORIGIN
        assert "origin" in response.headers["vary"].lower()
        assert "access-control-allow-credentials" not in response.headers
    for other in ("https://evil.example", "null", "", ORIGIN + ".evil.example", ORIGIN.upper()):
        response = await ingest.send(nps(), key=ingest.keys.public, Origin=other)
        await ingest.refused(response, 403, "origin-not-allowed")
        assert "access-control-allow-origin" not in response.headers
    response = await ingest.send(nps(), key=ingest.keys.public)
    assert response.status_code == 202
    assert "access-control-allow-origin" not in response.headers
    response = await ingest.send(nps(), Origin="https://evil.example")
    assert response.status_code == 202
    assert "access-control-allow-origin" not in response.headers


async def test_a_preflight(ingest: Ingest) -> None:
    """Before a web page may send JSON, its browser asks; without a key."""
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization, content-type"}
    response = await ingest.house.client.options("/v1/feedback", headers={"Origin": ORIGIN, **asked})
    assert response.status_code == 204
    assert response.content == b""
    assert response.headers["access-control-allow-origin"] == ORIGIN
    assert "POST" in response.headers["access-control-allow-methods"]
    allowed = {name.strip() for name in response.headers["access-control-allow-headers"].lower().split(",")}
    assert allowed >= {"authorization", "content-type", "content-encoding"}
    assert "access-control-allow-credentials" not in response.headers
    assert "origin" in response.headers["vary"].lower()
    refused = await ingest.house.client.options("/v1/feedback", headers={"Origin": "https://evil.example", **asked})
    await ingest.refused(refused, 403, "origin-not-allowed")
    await ingest.refused(await ingest.house.client.options("/v1/feedback"), 403, "origin-not-allowed")


async def test_no_content_has_no_length(ingest: Ingest) -> None:
    """RFC 9110, section 8.6: a 204 must not carry Content-Length."""
    response = await ingest.house.client.options("/v1/feedback", headers={"Origin": ORIGIN})
    assert "content-length" not in response.headers


async def test_a_parameter_that_there_is_not(ingest: Ingest) -> None:
    """The key of a beacon is all that may stand in the address."""
    for query, names in (("bogus=1", ["bogus"]), ("key=x&v=", ["v"]), ("b=1&a=2", ["a", "b"])):
        response = await ingest.house.client.post(f"/v1/feedback?{query}", json=nps())
        await ingest.refused(response, 422, "invalid", *names)


async def test_looking_records_nothing(ingest: Ingest) -> None:
    """Mail scanners follow links: only POST records."""
    before = await ingest.stored()
    headers = {"Authorization": f"Bearer {ingest.keys.secret}", "Content-Type": "application/json"}
    for method in ("GET", "PUT", "PATCH", "DELETE"):
        response = await ingest.house.client.request(method, "/v1/feedback", headers=headers, content=json.dumps(nps()))
        await ingest.refused(response, 405, "method-not-allowed")
        assert {part.strip() for part in response.headers["allow"].split(",")} >= {"POST"}
    head = await ingest.house.client.head("/v1/feedback?kind=nps&score=5", headers=headers)
    assert head.status_code == 405
    assert head.content == b""
    assert await ingest.stored() == before + 1


# ---- secrets


async def test_no_key_is_echoed_or_logged(
    ingest: Ingest, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keys stand in headers and addresses, and nowhere else, whatever is logged."""
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", list(root.handlers))
    level = root.level
    logs.set_up(level="debug", form="json")
    for noisy in ("aiokafka", "httpx", "httpcore"):  # a peer's chatter, and our own client's
        logging.getLogger(noisy).setLevel(logging.CRITICAL)
    unknown = "sk_" + "y" * 43
    try:
        for key in (*ingest.texts, unknown):
            await _try_everything(ingest, key)
    finally:
        root.setLevel(level)
    written = "".join(capsys.readouterr())
    assert not any(key in written for key in (*ingest.texts, unknown))


async def _try_everything(ingest: Ingest, key: str) -> None:
    for body in (nps(), nps(11), b"{", [nps(), nps(11)], nps(respondent_token=key), nps(customer=key), nps(id=key)):
        by_header = await ingest.send(body, key=key)
        by_address = await ingest.send(body, key=None, url=f"/v1/feedback?key={key}")
        assert by_header.status_code < 500
        assert by_address.status_code < 500
        if body != nps(customer=key):  # what the client itself calls a customer is named
            assert key not in by_header.text + by_address.text
    await ingest.house.client.get(f"/v1/feedback?key={key}")
    for path in ("/v1/nothing", "/v1/tickets", f"/a/{key}"):
        response = await ingest.house.client.get(f"{path}?key={key}", headers={"Authorization": f"Bearer {key}"})
        assert response.status_code in {401, 403, 404, 422}
        assert key not in response.text
