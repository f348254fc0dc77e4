"""The whole way in one process: an answer becomes a score, an alert, a ticket and a page that somebody answers."""

from __future__ import annotations

import json
import logging
from datetime import timedelta
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from shared.bus.client import Producer, cloud_event
from shared.directory.model import KeyLimits, Webhook
from shared.runtime import logs
from shared.wire.events import AlertV1
from shared.wire.ids import uuid7
from shared.wire.signing import Signer
from shared.wire.topics import ALERTS
from tests.support.house import SECRET, House
from tests.support.wait import until


def mood(score: int, **more: Any) -> dict[str, Any]:
    return {"kind": "mood", "score": score, "customer": "acme", "touchpoint": "support", **more}


def nps(score: int, **more: Any) -> dict[str, Any]:
    return {"kind": "nps", "score": score, "customer": "acme", "touchpoint": "support", **more}


async def test_a_mood_of_one_reaches_the_architect(fiilis: House) -> None:
    """One click reaches a person, with the whole context, and the answer is acknowledged by one click."""
    response = await fiilis.post(mood(1, comment="Nobody called back", respondent="r-1", language="fi"))
    assert response.status_code == 202
    ticket = await fiilis.ticket()
    assert (ticket["state"], ticket["severity"], ticket["assignee"]) == ("open", "critical", "architect-1")
    assert ticket["dedup_key"] == "acme/mood-one/support"
    assert [answer["comment"] for answer in ticket["evidence"]] == ["Nobody called back"]
    assert ticket["context"]["language"] == "fi"
    page = await _paged(fiilis, 1)
    assert page.path == "/architect-1"
    assert page.data["ticket"] == ticket["id"]
    page.verify(Signer([SECRET]).webhook_secret(fiilis.phone.url("/architect-1")))

    link = page.data["acknowledge_url"]
    shown = await fiilis.client.get(link)
    assert shown.status_code == 200
    assert "I take it" in shown.text
    assert shown.headers["referrer-policy"] == "no-referrer"
    assert (await fiilis.get("/v1/tickets"))["items"][0]["state"] == "open", "looking must not acknowledge"
    assert "Taken" in (await fiilis.client.post(link)).text
    acknowledged = await until(lambda: fiilis.items("/v1/tickets", state="acknowledged"))
    assert acknowledged[0]["assignee"] == "architect-1"

    fiilis.move(hours=2)
    await until(lambda: _timeline_has(fiilis, ticket["id"], "page acknowledged"))
    assert len(fiilis.phone.received) == 1, "nobody is paged after the acknowledgement"


async def test_a_page_escalates_until_somebody_answers(fiilis: House) -> None:
    """Architect, deputy, again, then the catch-all for ever: exhausted is an alarm, not an end."""
    await fiilis.post(mood(1))
    await _paged(fiilis, 1)
    for number in range(2, 7):
        fiilis.move(seconds=301)
        await _paged(fiilis, number)
    paths = [received.path for received in fiilis.phone.received]
    assert paths == ["/architect-1", "/deputy-1", "/architect-1", "/deputy-1", "/duty-manager", "/duty-manager"]
    assert len({received.headers["webhook-id"] for received in fiilis.phone.received}) == 6
    page = (await fiilis.items("/v1/pages"))[0]
    assert page["state"] == "exhausted"
    found = await fiilis.get(f"/v1/pages/{page['id']}")
    assert [attempt["result"] for attempt in found["attempts"]] == ["delivered"] * 6
    done = await fiilis.client.post(
        f"/v1/pages/{page['id']}/acknowledge",
        json={"person": "duty-manager"},
        headers={"Authorization": f"Bearer {fiilis.key}"},
    )
    assert done.json()["state"] == "acknowledged"
    assert (await until(lambda: fiilis.items("/v1/tickets", state="acknowledged")))[0]["assignee"] == "duty-manager"


async def test_a_burst_of_low_nps_opens_one_ticket(fiilis: House) -> None:
    """One person's voice is not the whole truth: ten different ones are, and they make one ticket."""
    await fiilis.post(*(nps(2, respondent="loud") for _ in range(20)))
    await until(lambda: _responses(fiilis, 1))
    assert await fiilis.items("/v1/alerts") == []
    await fiilis.post(*(nps(3, respondent=f"r-{n}", comment=f"slow {n}") for n in range(12)))
    ticket = await fiilis.ticket()
    assert ticket["severity"] == "high"
    assert ticket["dedup_key"] == "acme/nps-low/*"
    await until(lambda: _responses(fiilis, 13))
    scores = await fiilis.get("/v1/customers/acme/scores")
    assert scores["nps"]["detractors"] == 13
    assert scores["nps"]["gap"] == 140.0
    alert = (await fiilis.items("/v1/alerts", state="open"))[0]
    assert alert["reason"]["responses"] >= 10
    assert len(await fiilis.items("/v1/tickets")) == 1


async def test_one_browser_counts_once_and_one_person_wakes_once(fiilis: House) -> None:
    """What a public key lets in: the latest of a browser counts, and who says it again does not page again."""
    for score in (0, 3, 9):
        posted = {"kind": "nps", "score": score, "touchpoint": "billing", "device": "browser-of-r-1"}
        assert (await fiilis.post(posted, key=fiilis.public_key)).status_code == 202
    await fiilis.post(nps(9, device="browser-of-r-1"), nps(9), key=fiilis.key)

    async def counted() -> Any:
        scores = await fiilis.get("/v1/customers/acme/scores")
        return scores["nps"] if scores["nps"]["responses"] >= 3 else None

    counts = await until(counted)
    assert (counts["responses"], counts["promoters"], counts["detractors"]) == (3, 3, 0)
    assert len(await fiilis.items("/v1/customers/acme/feedback")) == 5, "and every answer is kept"

    asked = {"customer": "acme", "respondent": "r-17"}
    token = (await fiilis.send("POST", "/v1/respondents", asked, status=201))["respondent_token"]
    unhappy = {"kind": "mood", "score": 1, "touchpoint": "support", "respondent_token": token}
    await fiilis.post(unhappy, key=fiilis.public_key)
    await _paged(fiilis, 1)
    ticket = await fiilis.ticket()
    done = {"state": "resolved", "root_cause": "process", "resolution": "Called back"}
    headers = {"Authorization": f"Bearer {fiilis.key}", "If-Match": f'"{ticket["version"]}"'}
    assert (await fiilis.client.patch(f"/v1/tickets/{ticket['id']}", json=done, headers=headers)).status_code == 200
    await fiilis.post({**unhappy, "comment": "Nobody did"}, key=fiilis.public_key)
    reopened = await until(lambda: fiilis.items("/v1/tickets", state="open"))
    assert reopened[0]["severity"] == "medium"
    assert reopened[0]["evidence"][0]["comment"] == "Nobody did"
    assert not [one for one in fiilis.phone.received[1:] if "acknowledge_url" in one.data]


async def test_an_alert_clears_by_the_passing_of_time(fiilis: House) -> None:
    """A window that slides past its bad answers clears the alert without any new answer; the ticket stays."""
    await fiilis.post(*(nps(1, respondent=f"r-{n}") for n in range(10)))
    await fiilis.ticket()
    fiilis.move(days=32)
    cleared = await until(lambda: fiilis.items("/v1/alerts", state="cleared"))
    assert cleared[0]["rule"] == "nps-low"
    ticket = await fiilis.ticket()
    assert ticket["state"] == "open"
    await until(lambda: _timeline_has(fiilis, ticket["id"], "alert cleared"))


async def test_unhappy_faces_in_a_quarter_of_an_hour(fiilis: House) -> None:
    """More than half unhappy of at least four within fifteen minutes, counted to the second."""
    await fiilis.post(mood(2, respondent="a"), mood(2, respondent="b"), mood(4, respondent="c"))
    fiilis.move(minutes=16)
    later = {"d": 2, "e": 3, "f": 4, "g": 2}
    await fiilis.post(*(mood(score, respondent=respondent) for respondent, score in later.items()))
    await until(lambda: _mood_responses(fiilis, 7))
    assert await fiilis.items("/v1/alerts") == []
    await fiilis.post(mood(2, respondent="h"))
    assert (await fiilis.ticket())["dedup_key"] == "acme/unhappy-burst/*"


async def test_the_same_answer_counts_once(fiilis: House) -> None:
    """Accepted means counted, once: a retry with the same id changes nothing."""
    answer = nps(3, id=str(uuid7()))
    for _ in range(3):
        assert (await fiilis.post(answer)).status_code == 202
    await fiilis.post(nps(10, respondent="last"))
    await until(lambda: _responses(fiilis, 2))
    assert (await fiilis.get("/v1/customers/acme/scores"))["nps"]["responses"] == 2


async def test_an_anonymous_answer_wakes_nobody(fiilis: House) -> None:
    """What anybody on the internet can post opens a ticket, but pages no one."""
    await fiilis.post({"kind": "mood", "score": 1, "touchpoint": "support"}, key=fiilis.public_key)
    ticket = await fiilis.ticket()
    assert ticket["severity"] == "medium"
    await fiilis.post(mood(1, customer="borealis"))
    await _paged(fiilis, 1)
    assert [received.data["customer"] for received in fiilis.phone.received] == ["borealis"]


async def test_a_flood_of_a_public_key_is_refused(fiilis: House) -> None:
    """Each item of an array counts; a key has limits of its own; a known application is not held by them."""
    keys = [replace(key, limits=KeyLimits(60, 20)) if key.kind == "publishable" else key for key in fiilis.company.keys]
    await fiilis.apply(replace(fiilis.company, keys=tuple(keys)))
    answer = {"kind": "nps", "score": 10, "touchpoint": "support"}
    assert (await fiilis.post(*[answer] * 15, key=fiilis.public_key)).status_code == 202
    refused = await fiilis.post(*[answer] * 10, key=fiilis.public_key)
    assert (refused.status_code, refused.json()["code"]) == (429, "too-many")
    assert refused.headers["ratelimit-policy"] == '"key";q=20;w=20'
    assert refused.headers["ratelimit"].startswith('"key";r=5;t=')
    assert int(refused.headers["retry-after"]) == 5
    fiilis.move(seconds=5)
    assert (await fiilis.post(*[answer] * 10, key=fiilis.public_key)).status_code == 202
    assert (await fiilis.post(*[{**answer, "customer": "acme"}] * 500)).status_code == 202


async def test_keys_begin_and_expire(fiilis: House) -> None:
    """401 before and after, as for a key that nobody knows."""
    begins, ends = fiilis.clock.now() + timedelta(hours=1), fiilis.clock.now() + timedelta(hours=2)
    keys = [
        replace(key, not_before=begins, expires=ends) if key.kind == "publishable" else key
        for key in fiilis.company.keys
    ]
    await fiilis.apply(replace(fiilis.company, keys=tuple(keys)))
    answer = {"kind": "nps", "score": 10, "touchpoint": "support"}
    found: list[int] = []
    for _ in range(3):
        found.append((await fiilis.post(answer, key=fiilis.public_key)).status_code)
        fiilis.move(hours=1, seconds=1)
    assert found == [401, 202, 401]


async def test_a_flood_is_one_update(fiilis: House) -> None:
    """Somebody known is unhappy, then anybody posts 150 times: told together; who is known stays to be seen."""
    hook = fiilis.phone.url("/desk")
    await fiilis.apply(replace(fiilis.company, webhooks=(Webhook(hook),)))
    await fiilis.post(mood(1, respondent="r-1", contact="r1@example.test", comment="Nobody called"))
    ticket = await fiilis.ticket()

    def of() -> list[Any]:
        told = [one.data for one in fiilis.phone.received if one.path == "/desk"]
        return [data for data in told if data["id"] == ticket["id"]]

    async def shown(count: int) -> dict[str, Any]:
        found = await fiilis.get(f"/v1/tickets/{ticket['id']}")
        return found if len(found["evidence"]) == count else {}

    flood = [{"kind": "mood", "score": 1, "touchpoint": "support"}] * 150
    assert (await fiilis.post(*flood, key=fiilis.public_key)).json()["accepted"] == 150
    flooded = await until(lambda: shown(20))
    assert "Nobody called" in [answer["comment"] for answer in flooded["evidence"]]
    assert flooded["answer"] == flooded["evidence"][-1]["id"]
    # Kafka may bring them in some pieces, and each is a change; others hear of the first, and then of all together.
    assert flooded["version"] < 10
    assert len(of()) <= 2
    fiilis.move(seconds=31)
    await fiilis.post(mood(1, respondent="r-2"))

    async def told() -> bool:
        return "r-2" in str(of()[-1]["evidence"])

    await until(told)
    assert len(of()) <= 4


async def test_a_handled_ticket_that_turns_critical_is_open_again_and_paged(fiilis: House) -> None:
    """Somebody took what a stranger said; when a known customer says the same they are woken, and then the chain."""
    await fiilis.post({"kind": "mood", "score": 1, "touchpoint": "support"}, key=fiilis.public_key)
    ticket = await fiilis.ticket()
    headers = {"Authorization": f"Bearer {fiilis.key}", "If-Match": f'"{ticket["version"]}"'}
    body = {"state": "in_progress", "assignee": "deputy-1"}
    taken = await fiilis.client.patch(f"/v1/tickets/{ticket['id']}", json=body, headers=headers)
    assert (taken.status_code, taken.json()["severity"]) == (200, "medium")
    await fiilis.post(mood(1, respondent="r-1", comment="Still nobody"))
    first = await _paged(fiilis, 1)
    assert (first.path, first.data["ticket"], first.data["severity"]) == ("/deputy-1", ticket["id"], "critical")
    (again,) = await fiilis.items("/v1/tickets", state="open")
    assert (again["id"], again["severity"], again["assignee"]) == (ticket["id"], "critical", "deputy-1")
    await until(lambda: fiilis.items("/v1/pages", state="sent"))
    fiilis.move(minutes=5, seconds=1)
    second = await _paged(fiilis, 2)
    assert second.path == "/architect-1"
    await fiilis.client.post(second.data["acknowledge_url"])
    (acknowledged,) = await until(lambda: fiilis.items("/v1/tickets", state="acknowledged"))
    assert (acknowledged["assignee"], acknowledged["acknowledged_severity"]) == ("architect-1", "critical")


async def test_a_resolved_ticket_stops_its_pages_and_reopens(fiilis: House) -> None:
    """Resolving needs a cause and what was done; the same problem within a week opens the same ticket again."""
    await fiilis.post(mood(1))
    ticket = await fiilis.ticket()
    await _paged(fiilis, 1)
    path, headers = f"/v1/tickets/{ticket['id']}", {"Authorization": f"Bearer {fiilis.key}"}
    refused = await fiilis.client.patch(path, json={"state": "resolved"}, headers={**headers, "If-Match": '"1"'})
    assert refused.status_code == 422
    assert {e["path"] for e in refused.json()["errors"]} == {"root_cause", "resolution"}
    assert (await fiilis.client.patch(path, json={"state": "resolved"}, headers=headers)).status_code == 428
    body = {"state": "resolved", "root_cause": "process", "resolution": "Called back and explained"}
    resolved = await fiilis.client.patch(path, json=body, headers={**headers, "If-Match": '"1"'})
    assert resolved.status_code == 200
    assert resolved.json()["version"] == 2
    assert (await fiilis.client.patch(path, json=body, headers={**headers, "If-Match": '"1"'})).status_code == 412
    no_way = await fiilis.client.patch(path, json={"state": "waiting"}, headers={**headers, "If-Match": '"2"'})
    assert no_way.status_code == 409
    assert "closed, open" in no_way.json()["detail"]
    await until(lambda: fiilis.items("/v1/pages", state="resolved"))
    fiilis.move(minutes=30)
    await fiilis.post(mood(1, comment="again"))
    await _paged(fiilis, 2)
    again = await fiilis.ticket()
    assert (again["id"], again["state"], again["opening"]) == (ticket["id"], "open", 2)
    assert len(fiilis.phone.received) == 2


async def test_the_end_of_an_old_alert_does_not_hide_the_open_ticket(fiilis: House) -> None:
    """An alert that belongs to a cancelled ticket clears there; the problem's open ticket takes what comes next."""
    await fiilis.post(mood(1, comment="first"))
    first = await fiilis.ticket()
    headers = {"Authorization": f"Bearer {fiilis.key}", "If-Match": "*"}
    path = f"/v1/tickets/{first['id']}"
    assert (await fiilis.client.patch(path, json={"state": "cancelled"}, headers=headers)).status_code == 200
    fiilis.move(hours=1)
    await fiilis.post(mood(1, comment="second"))
    second = await until(lambda: fiilis.items("/v1/tickets", state="open"))
    cleared = (await fiilis.items("/v1/alerts"))[-1]
    # The old alert's end and a new one reach ticketing in one batch.
    third = {**cleared, "id": str(uuid7()), "version": 1}
    end = {**cleared, "version": 2, "state": "cleared", "cleared_at": cleared["opened_at"]}
    producer = Producer(fiilis.kafka)
    await producer.send_all(
        [
            cloud_event(
                ALERTS,
                event,
                key="acme",
                id=str(uuid7()),
                at=fiilis.clock.now(),
                message=msgspec.convert(alert, AlertV1),
            )
            for event, alert in (("alert.cleared", end), ("alert.opened", third))
        ]
    )
    await producer.close()
    await until(lambda: _timeline_has(fiilis, first["id"], "alert cleared"))
    await until(lambda: _merged(fiilis, third["id"]))
    assert [t["id"] for t in await fiilis.items("/v1/tickets", state="open")] == [second[0]["id"]]


async def test_one_trace_follows_an_answer_through_every_service(
    fiilis: House, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer's id is the trace on the log lines of scoring, ticketing and notify."""
    monkeypatch.setattr(logging.getLogger(), "handlers", list(logging.getLogger().handlers))
    logs.set_up(level="info", form="json")
    id_ = uuid7()
    await fiilis.post(mood(1, id=str(id_)))
    await _paged(fiilis, 1)
    await until(lambda: fiilis.items("/v1/pages", state="sent"))
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    events = {line["event"] for line in lines if line.get("trace") == id_.hex}
    assert events >= {"alert opened", "ticket.opened", "page delivered"}


async def _paged(fiilis: House, count: int) -> Any:
    def pages() -> list[Any]:
        return [one for one in fiilis.phone.received if "acknowledge_url" in one.data]  # a digest needs no answer

    async def paged() -> bool:
        return len(pages()) >= count

    await until(paged)
    await fiilis.stored()
    assert len(pages()) == count
    return pages()[-1]


async def _responses(fiilis: House, count: int) -> bool:
    return (await fiilis.get("/v1/customers/acme/scores"))["nps"]["responses"] == count


async def _mood_responses(fiilis: House, count: int) -> bool:
    return (await fiilis.get("/v1/customers/acme/scores"))["mood"]["responses"] == count


async def _merged(fiilis: House, alert: str) -> bool:
    return bool(await fiilis.sql("SELECT 1 FROM ticketing.merged_alert WHERE alert = $1", alert))


async def _timeline_has(fiilis: House, ticket: str, what: str) -> bool:
    return any(line["what"] == what for line in await fiilis.items(f"/v1/tickets/{ticket}/timeline"))
