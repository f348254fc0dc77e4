"""Who may do what: every route of the OpenAPI document with every kind of key, so that no new one is forgotten."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from typing import Any, cast

import httpx
import pytest
from msgspec.structs import replace

from shared.directory.model import Key, Layer, Schedule, Scope
from shared.wire.ids import uuid7
from shared.wire.signing import key_hash, new_key
from tests.support.house import House
from tests.support.wait import until

SCOPES: tuple[Scope, ...] = ("feedback", "scores", "tickets", "oncall", "admin")
PUBLIC = {
    "/healthz",
    "/readyz",
    "/metrics",
    "/widget.js",
    "/kiosk/{key}",
    "/s/{token}",
    "/a/{token}",
    "/t/{token}",
    # Others prove themselves here, by a signature or a token of ours.
    "/v1/desks/{desk}/events",
    "/v1/schedules/{name}.ics",
    "/v1/people/{person}.ics",
    "/v1/callbacks/slack",
    "/v1/callbacks/sms",
    "/v1/callbacks/{token}/receipt",
    "/v1/callbacks/{token}/key",
    "/v1/callbacks/{token}/press",
}
"""Whoever adds a route that needs no key says so here."""
SCOPE_OF = {
    "/v1/feedback": "feedback",
    "/v1/feedback/{answer}": "admin",
    "/v1/respondents": "feedback",
    "/v1/respondents/{respondent}": "admin",
    "/v1/erasures/{erasure}": "admin",
    "/v1/desks": "admin",
    "/v1/customers": "scores",
    "/v1/alerts": "scores",
    "/v1/tickets": "tickets",
    "/v1/service": "tickets",
    "/v1/actions": "tickets",
    "/v1/webhooks": "tickets",
}
"""By the longest beginning; the rest of /v1 is notify's, and needs `oncall`."""
OTHERS_NAMES = ("borealis", "Borealis")


def scope_of(path: str) -> str:
    found = [(len(start), scope) for start, scope in SCOPE_OF.items() if path.startswith(start)]
    return max(found, default=(0, "oncall"))[1]


@pytest.fixture
async def keys(fiilis: House) -> Mapping[str, str]:
    """A key of each scope, and the same limited to acme; problems of borealis, too."""
    made = {name: new_key("secret") for name in (*SCOPES, *(f"{scope} of acme" for scope in SCOPES))}
    known = [
        Key(
            name.replace(" ", "-"),
            "secret",
            key_hash(text),
            scopes=(cast("Scope", name.split()[0]),),
            customers=("acme",) if " " in name else (),
        )
        for name, text in made.items()
    ]
    night = Schedule("night-watch", "UTC", (Layer("weekly", "2026-01-05T09:00", ("architect-1",)),))
    schedules = {"night-watch": night}
    await fiilis.apply(replace(fiilis.company, keys=(*fiilis.company.keys, *known), schedules=schedules))
    return {**made, "publishable": fiilis.public_key}


async def routes(fiilis: House) -> list[tuple[str, str, dict[str, Any]]]:
    document = (await fiilis.client.get("/openapi.json")).json()
    return [
        (method.upper(), path, operation)
        for path, item in document["paths"].items()
        for method, operation in item.items()
    ]


def filled(path: str, values: Mapping[str, str]) -> str:
    return re.sub(r"\{(\w+)\}", lambda name: values.get(name[1], str(uuid7())), path)


def query(operation: dict[str, Any]) -> dict[str, str]:
    """Return what an address asks for at least, about borealis."""
    return {
        parameter["name"]: "borealis"
        for parameter in operation.get("parameters", [])
        if parameter["in"] == "query" and (parameter.get("required") or parameter["name"] == "customer")
    }


async def test_without_a_good_key_nothing_is_told(fiilis: House, keys: Mapping[str, str]) -> None:
    """401 for none and an unknown one, whatever the address names and the body is; 403 for one that may not."""
    for method, path, _ in await routes(fiilis):
        if path in PUBLIC:
            continue
        for name in ("borealis", "nowhere"):
            url = filled(path, {"customer": name, "name": name, "person": name, "respondent": name})
            unknown = {"Authorization": f"Bearer {new_key('secret')}"}
            for headers in ({}, unknown):
                answer = await fiilis.client.request(method, url, headers=headers, content=b"{no json")
                assert (answer.status_code, answer.json()["code"]) == (401, "unauthorized"), (method, path)
        right = scope_of(path)
        for kind, key in keys.items():
            scope = kind.split()[0]
            if scope in {right, "admin"} or (kind == "publishable" and path == "/v1/feedback"):
                continue
            headers = {"Authorization": f"Bearer {key}"}
            answer = await fiilis.client.request(method, filled(path, {}), headers=headers, content=b"{no json")
            assert (answer.status_code, answer.json()["code"]) == (403, "forbidden"), (method, path, kind)


async def test_a_limited_key_reads_nothing_of_others(fiilis: House, keys: Mapping[str, str]) -> None:
    """Each address that can be read, filled with what is borealis': refused, or without a word of it."""
    values = await of_borealis(fiilis)
    read = 0
    for method, path, operation in await routes(fiilis):
        if method != "GET" or path in PUBLIC:
            continue
        answers: dict[str, httpx.Response] = {}
        for kind in (scope_of(path), f"{scope_of(path)} of acme", "admin of acme"):
            headers = {"Authorization": f"Bearer {keys[kind]}"}
            asked = query(operation)
            answers[kind] = await fiilis.client.get(filled(path, values), params=asked, headers=headers)
            if " of " not in kind:
                assert answers[kind].status_code == 200, (path, answers[kind].text)
                read += 1
                continue
            without = {name: value for name, value in asked.items() if name != "customer"}
            listed = await fiilis.client.get(filled(path, values), params=without, headers=headers)
            for answer in (answers[kind], listed):
                assert answer.status_code in {200, 403, 404, 422}, (path, kind, answer.text[:300])
                if answer.status_code == 200:
                    assert not any(name in answer.text for name in OTHERS_NAMES), (path, kind, answer.text[:300])
    assert read > 20


async def of_borealis(fiilis: House) -> dict[str, str]:
    """Return names and ids of what is borealis'."""
    said = {"kind": "mood", "score": 1, "customer": "borealis", "touchpoint": "support", "respondent": "r-17"}
    assert (await fiilis.post(said)).status_code == 202
    ticket = await fiilis.ticket(customer="borealis")
    page = (await until(lambda: fiilis.items("/v1/pages", customer="borealis")))[0]
    erasure = (await fiilis.send("DELETE", "/v1/respondents/r-99?customer=borealis", status=202))["erasure"]

    async def erased() -> bool:
        headers = {"Authorization": f"Bearer {fiilis.key}"}
        return (await fiilis.client.get(f"/v1/erasures/{erasure}", headers=headers)).status_code == 200

    await until(erased)
    return {
        "customer": "borealis",
        "ticket": ticket["id"],
        "alert": ticket["alert"],
        "page": page["id"],
        "erasure": erasure,
        "person": "architect-1",
        "name": "night-watch",
    }


async def test_a_key_is_looked_at_before_the_body_is_read(fiilis: House) -> None:
    """A body that never comes keeps nobody waiting."""
    host, port = fiilis.address.removeprefix("http://").split(":")
    for path in ("/v1/feedback", "/v1/tickets", "/v1/respondents", "/v1/overrides"):
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n".encode())
        line = await asyncio.wait_for(reader.readline(), 2)
        assert line.startswith(b"HTTP/1.1 401"), (path, line)
        writer.close()


async def test_no_desk_is_told_of_without_its_secret(fiilis: House) -> None:
    for name in ("main", "nowhere"):
        answer = await fiilis.client.post(f"/v1/desks/{name}/events", content=b"{}")
        assert (answer.status_code, answer.json()["code"]) == (401, "bad-signature")
