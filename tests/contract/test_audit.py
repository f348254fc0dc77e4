"""Who changed what, in every service, and from where: one list, to which is only appended."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import asyncpg
import pytest
from msgspec.structs import replace

from shared.bus.client import Outgoing, Producer
from shared.bus.dead_letters import DeadLetters
from shared.directory.model import Key
from shared.runtime.audit import Actor
from shared.wire.signing import key_hash, new_key
from shared.wire.topics import ALERTS
from tests.support.house import House
from tests.support.wait import until

HERE = "127.0.0.1"


async def line(fiilis: House, what: str, count: int = 1, **asked: Any) -> dict[str, Any]:
    """Return the newest line of a kind, once there are so many."""

    async def told() -> list[dict[str, Any]] | None:
        lines = await fiilis.items("/v1/audit", what=what, **asked)
        return lines if len(lines) == count else None

    return (await until(told) or [])[0]


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


async def test_every_change_is_told_with_who_and_from_where(fiilis: House) -> None:
    """Of tickets, actions, erasures, overrides, keys and dead letters, in whichever service; and what was refused."""
    began = fiilis.clock.now()
    limited, foreign = new_key("secret"), new_key("secret")
    known = [
        Key(f"desk-of-{name}", "secret", key_hash(text), scopes=("tickets", "oncall"), customers=(name,))
        for name, text in (("acme", limited), ("borealis", foreign))
    ]
    await fiilis.apply(replace(fiilis.company, keys=(*fiilis.company.keys, *known)))

    new = {"customer": "acme", "title": "The invoice is wrong", "severity": "low"}
    ticket = await fiilis.send("POST", "/v1/tickets", new, status=201)
    changed = await fiilis.client.patch(
        f"/v1/tickets/{ticket['id']}", json={"state": "acknowledged"}, headers={**bearer(limited), "If-Match": "*"}
    )
    assert changed.status_code == 200, changed.text
    step = {"customer": "acme", "step": "Ask Ann Smith", "owner": "deputy-1", "due_on": "2030-01-01"}
    action = await fiilis.send("POST", "/v1/actions", step, status=201)
    await fiilis.send("PATCH", f"/v1/actions/{action['id']}", {"state": "done"})
    until_then = (began + timedelta(hours=1)).isoformat()
    silence = {"customer": "acme", "until": until_then, "reason": "They move house"}
    await fiilis.send("POST", "/v1/silences", silence, status=201)
    erasure = await fiilis.send("DELETE", "/v1/respondents/ann%20smith?customer=acme", status=202)
    producer = Producer(fiilis.kafka)
    await producer.send_all([Outgoing(ALERTS.dead, b"acme", b"{}", [("ce_type", b"alert.opened")])])
    await producer.close()
    assert await DeadLetters(fiilis.kafka, ALERTS).replay(lambda *_: None, Actor("command:ann", "desk-1")) == 1

    opened = await line(fiilis, "ticket opened")
    assert (opened["service"], opened["actor"], opened["address"]) == ("ticketing", "key:ops", HERE)
    assert (opened["customer"], opened["detail"]["number"]) == ("acme", ticket["number"])
    moved = await line(fiilis, "ticket changed", who="key:desk-of-acme")
    assert moved["detail"]["state"] == "open -> acknowledged"
    assert (await line(fiilis, "action opened"))["detail"]["owner"] == "deputy-1"
    assert (await line(fiilis, "action changed"))["detail"]["state"] == "open -> done"
    made = await line(fiilis, "silence made")
    assert (made["service"], made["actor"], made["address"]) == ("notify", "key:ops", HERE)
    erased = await line(fiilis, "erasure")
    assert (erased["actor"], erased["address"], erased["customer"]) == ("key:ops", HERE, "acme")
    assert erased["detail"] == {"erasure": erasure["erasure"]}
    replayed = await line(fiilis, "dead letters replayed")
    assert (replayed["actor"], replayed["address"]) == ("command:ann", "desk-1")
    assert (replayed["detail"]["topic"], replayed["detail"]["from"]) == (ALERTS.name, 0)
    applied = await fiilis.items("/v1/audit", what="configuration changed", who="apply")
    assert {one["detail"]["path"] for one in applied} >= {"keys.desk-of-acme", "keys.desk-of-borealis"}

    whole = (await fiilis.client.get("/v1/audit", params={"limit": 500}, headers=bearer(fiilis.key))).text
    for secret in ("ann smith", "Ann Smith", limited, key_hash(limited)):
        assert secret not in whole, "what a person wrote, who was erased and what opens a door are in no line"
    fiilis.move(minutes=10)
    late = await fiilis.send("POST", "/v1/silences", silence, status=201)
    asked = {"what": "silence made", "from": (began + timedelta(minutes=9)).isoformat()}
    assert [one["detail"]["silence"] for one in await fiilis.items("/v1/audit", **asked)] == [late["id"]]

    for key, seen in ((limited, {"acme"}), (foreign, set[str]())):
        lines = (await fiilis.client.get("/v1/audit", headers=bearer(key))).json()["items"]
        assert ({one["customer"] for one in lines}, {one["address"] for one in lines} - {None}) == (seen, set())
    for statement in ("UPDATE notify.audit SET actor = 'x'", "DELETE FROM notify.audit", "TRUNCATE notify.audit"):
        with pytest.raises(asyncpg.RaiseError, match="only appended"):
            await fiilis.sql(statement)


async def test_refused_keys_are_counted_and_never_told(fiilis: House) -> None:
    """Whoever tries ten thousand leaves a line a minute; of a key that we know, its id; of none a part of its text."""
    tried = [new_key("secret") for _ in range(20)]
    for key in tried:
        for path in ("/v1/tickets", "/v1/feedback"):
            assert (await fiilis.client.request("POST", path, json={}, headers=bearer(key))).status_code == 401
    assert (await fiilis.client.get("/v1/tickets", headers=bearer(fiilis.public_key))).status_code == 403
    assert (await fiilis.client.get("/v1/tickets")).status_code == 401

    async def counted() -> bool:
        fiilis.move(seconds=20)
        lines = await fiilis.items("/v1/audit", what="key refused", who="unknown")
        return sum(one["detail"]["count"] for one in lines) == 40

    await until(counted, every=0.5)
    lines = await fiilis.items("/v1/audit", what="key refused")
    assert len(lines) <= 4
    assert {one["address"] for one in lines} == {HERE}
    assert {(one["actor"], one["detail"]["reason"]) for one in lines} == {
        ("unknown", "unknown"),
        ("key:widget", "scope"),
    }
    told = str(await fiilis.sql("SELECT detail, actor FROM notify.audit"))
    assert not any(part in told for key in tried for part in (key, key[3:11], key_hash(key)))
