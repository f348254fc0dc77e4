"""What follows a ticket: clocks, the respondent's page, the question whether it was put right, webhooks, erasure."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import AsyncIterator
from datetime import timedelta
from email.message import EmailMessage
from pathlib import Path
from typing import Any, cast

import pytest
from msgspec.structs import replace

from shared.directory.model import Desk, FollowUpAtMost, Rule, Sla, Smtp, Webhook
from shared.wire.ids import uuid7
from shared.wire.signing import Signer
from tests.support.desks.zendesk import fake_zendesk
from tests.support.house import RULES, SECRET, House
from tests.support.processes import Done, command
from tests.support.relay import MailRelay, mail_relay
from tests.support.wait import until


@pytest.fixture
async def relay() -> AsyncIterator[MailRelay]:
    async with mail_relay() as made:
        yield made


def unhappy(**more: Any) -> dict[str, Any]:
    return {"kind": "mood", "score": 1, "customer": "acme", "touchpoint": "support", **more}


async def patch(house: House, ticket: str, **changes: Any) -> dict[str, Any]:
    """Change the newest version of a ticket, as often as it takes while others change it too."""

    async def done() -> Any:
        current = await house.get(f"/v1/tickets/{ticket}")
        headers = {"Authorization": f"Bearer {house.key}", "If-Match": f'"{current["version"]}"'}
        response = await house.client.patch(f"/v1/tickets/{ticket}", json=changes, headers=headers)
        assert response.status_code in {200, 412}, response.text
        return response.json() if response.status_code == 200 else None

    return await until(done)


async def resolve(house: House, ticket: str) -> dict[str, Any]:
    return await patch(house, ticket, state="resolved", root_cause="process", resolution="Called, and mended it")


async def send(house: House, method: str, path: str, body: Any = None, status: int = 200) -> Any:
    response = await house.client.request(method, path, json=body, headers={"Authorization": f"Bearer {house.key}"})
    assert response.status_code == status, response.text
    return response.json()


# ---- the respondent


async def test_a_respondent_is_asked_and_a_bad_answer_reopens(fiilis: House, relay: MailRelay) -> None:
    """Nothing falls into a black hole: who was unhappy is asked whether it was put right, and can say no."""
    rules = (*RULES, Rule("follow-up", FollowUpAtMost(2), "high"))
    smtp = Smtp("127.0.0.1", "fiilis@example.test", port=relay.port, tls="none")
    await fiilis.apply(replace(fiilis.company, rules=rules, smtp=smtp))
    said = unhappy(comment="Nobody called", respondent="r-1", contact="r1@example.test", language="fi")
    posted = (await fiilis.post(said)).json()["results"][0]
    page = await fiilis.client.get(posted["status_url"], headers={"Accept-Language": "en"})
    assert page.status_code == 200
    assert page.headers["referrer-policy"] == "no-referrer"
    assert "Received" in page.text
    ticket = await fiilis.ticket()
    assert ticket["context"]["contact"] == "r1@example.test"
    await resolve(fiilis, ticket["id"])
    mail = cast("EmailMessage", (await until(lambda: _mails(relay, 1)))[0])
    assert mail["To"] == "r1@example.test"
    assert mail["Subject"] == "Tuliko asia kuntoon?"
    link = re.search(r"http\S+/s/\S+", mail.get_content())
    assert link is not None
    shown = await fiilis.client.get(link[0], headers={"Accept-Language": "sv"})
    assert (shown.status_code, 'lang="sv"' in shown.text) == (200, True)
    assert (await fiilis.get(f"/v1/tickets/{ticket['id']}"))["state"] == "resolved", "looking must not answer"
    done = await fiilis.client.get(posted["status_url"], headers={"Accept-Language": "en"})
    assert "aria-current" in done.text
    refused = await fiilis.client.post(link[0], data={"comment": "no face"})
    assert refused.status_code == 422
    answered = await fiilis.client.post(link[0], data={"score": "1", "comment": "Still nobody <b>called</b>"})
    assert (answered.status_code, "/t/" in answered.text) == (200, True)
    again = (await until(lambda: fiilis.items("/v1/tickets", state="open")))[0]
    assert (again["id"], again["opening"], again["dedup_key"]) == (ticket["id"], 2, "acme/mood-one/support")
    assert again["context"]["previous"][0]["resolution"] == "Called, and mended it"
    service = await fiilis.get("/v1/service", customer="acme")
    assert (service["resolved"], service["reopen_rate"], service["recovery_rate"]) == (1, 1.0, 0.0)


async def _mails(relay: MailRelay, count: int) -> list[Any]:
    return relay.mails if len(relay.mails) >= count else []


async def said(fiilis: House, count: int) -> list[dict[str, Any]]:
    items = await fiilis.items("/v1/customers/acme/feedback")
    return items if len(items) == count else []


async def test_a_survey_link_for_one_person(fiilis: House) -> None:
    """`link` prints it; looking records nothing, and it takes one answer, the person's own."""

    async def link(*options: str) -> Done:
        return await command(
            *("link", "--customer", "acme", "--respondent", "r-17", *options),
            FIILIS_KAFKA=fiilis.kafka.bootstrap,
            FIILIS_TOPIC_PREFIX=fiilis.kafka.prefix,
            FIILIS_SECRET=SECRET,
            FIILIS_PUBLIC_URL=fiilis.address,
        )

    wrong = await link("--touchpoint", "garden")
    assert (wrong.code, wrong.err) == (2, "--touchpoint: acme has no touchpoint 'garden'\n")
    url = (await link("--touchpoint", "support")).out.strip()
    assert (await fiilis.client.get(url)).status_code == 200
    for score in (4, 1):
        assert (await fiilis.client.post(url, data={"score": str(score)})).status_code == 200
    await fiilis.post({"kind": "nps", "score": 9, "customer": "acme"})
    last, first = await until(lambda: said(fiilis, 2))
    assert (last["kind"], first["kind"], first["score"]) == ("nps", "mood", 4), "one link, one answer"
    assert (first["respondent"], first["touchpoint"], first["trust"]) == ("r-17", "support", "verified")


async def test_somebody_elses_id_leads_nowhere(fiilis: House) -> None:
    """Whoever posts an answer's id, as anybody can with a public key, is not shown what became of that answer."""
    said = unhappy(id=str(uuid7()), respondent="r-1", comment="Nobody called")
    own = (await fiilis.post(said)).json()["results"][0]["status_url"]
    ticket = await fiilis.ticket()
    await resolve(fiilis, ticket["id"])
    public = {"kind": "mood", "score": 1, "touchpoint": "support", "id": said["id"]}
    guess = (await fiilis.post(public, key=fiilis.public_key)).json()["results"][0]["status_url"]
    english = {"Accept-Language": "en"}
    theirs, shown = [await fiilis.client.get(url, headers=english) for url in (own, guess)]
    assert "Called, and mended it" not in shown.text
    assert theirs.text != shown.text


async def test_an_application_vouches_for_its_users(fiilis: House) -> None:
    """Its server asks for a token, its page posts with the public key: the answer is the person's, and pages."""
    asked = {"customer": "acme", "respondent": "r-17", "touchpoint": "support", "expires": "1h"}
    made = await fiilis.send("POST", "/v1/respondents", asked, status=201)
    assert made["expires_at"].startswith((fiilis.clock.now() + timedelta(hours=1)).isoformat()[:16])
    answer = {"kind": "mood", "score": 1, "respondent_token": made["respondent_token"]}
    assert (await fiilis.post(answer, key=fiilis.public_key)).status_code == 202
    await until(lambda: fiilis.items("/v1/pages", state="sent"))
    [stored] = await until(lambda: said(fiilis, 1))
    assert (stored["respondent"], stored["touchpoint"], stored["trust"]) == ("r-17", "support", "verified")
    fiilis.move(hours=2)
    late = await fiilis.post(answer, key=fiilis.public_key)
    assert late.json()["errors"] == [{"path": "respondent_token", "detail": "has expired"}]


@pytest.mark.parametrize(
    ("wrong", "status", "path"),
    [
        ({"customer": "nobody"}, 404, None),
        ({"touchpoint": "garden"}, 422, "touchpoint"),
        ({"respondent": ""}, 422, "respondent"),
        ({"expires": "soon"}, 422, "expires"),
        ({"colour": "red"}, 422, "colour"),
    ],
)
async def test_whom_nobody_can_vouch_for(fiilis: House, wrong: dict[str, str], status: int, path: str | None) -> None:
    asked = {"customer": "acme", "respondent": "r-17", **wrong}
    told = await fiilis.send("POST", "/v1/respondents", asked, status=status)
    assert [error["path"] for error in told.get("errors", [])] == ([] if path is None else [path])
    public = {"Authorization": f"Bearer {fiilis.public_key}"}
    refused = await fiilis.client.post("/v1/respondents", json={"customer": "acme", "respondent": "r"}, headers=public)
    assert refused.status_code == 403


async def test_a_link_that_is_none(fiilis: House) -> None:
    for path in ("/t/x.y", "/s/x.y"):
        assert (await fiilis.client.get(path)).status_code == 404
    signer = Signer([SECRET])
    facts = {"customer": "acme", "answer": "0193a8f0-0000-7000-8000-00000000f001"}
    for purpose, path in (("status", "/t/"), ("survey", "/s/")):
        token = signer.sign(cast("Any", purpose), facts, expires=fiilis.clock.now())
        fiilis.move(seconds=2)
        assert (await fiilis.client.get(path + token)).status_code == 410
        other = signer.sign("acknowledge", facts, expires=fiilis.clock.now())
        assert (await fiilis.client.get(path + other)).status_code == 404


# ---- clocks


async def test_clocks_warn_and_run_out(fiilis: House) -> None:
    """Whoever promised an answer within the hour is told before it is late, and everybody when it is."""
    await fiilis.apply(replace(fiilis.company, sla={"critical": Sla(3600, 8 * 3600)}))
    await fiilis.post(unhappy())
    ticket = await fiilis.ticket()
    assert ticket["sla"] == {"first_response": "running", "resolve": "running"}
    fiilis.move(minutes=50)
    assert (await fiilis.ticket(sla="warning"))["sla"]["first_response"] == "warning"
    fiilis.move(minutes=11)
    late = await fiilis.ticket(sla="breached")
    assert late["sla"] == {"first_response": "breached", "resolve": "running"}
    metrics = (await fiilis.client.get("/metrics")).text
    assert 'fiilis_tickets_sla_breached_total{clock="first_response"}' in metrics
    waiting = await patch(fiilis, late["id"], state="waiting")
    assert waiting["resolve_due"] is None
    fiilis.move(days=3)
    going = await patch(fiilis, late["id"], state="in_progress")
    assert going["sla"]["resolve"] == "running", "the clock stood still"
    fiilis.move(hours=1)
    assert (await resolve(fiilis, late["id"]))["sla"] == {"first_response": "breached", "resolve": "met"}


# ---- webhooks


async def test_webhooks_are_signed_repeated_and_logged(fiilis: House) -> None:
    """Tools that consume tickets hear of each event, again when they failed, and can have it sent once more."""
    url = fiilis.phone.url("/tool")
    hook = Webhook(url, customers=("acme",), events=("ticket.opened", "ticket.resolved"))
    await fiilis.apply(replace(fiilis.company, webhooks=(hook,)))
    heard = fiilis.phone.received
    fiilis.phone.answer = lambda request: 500 if len(_to(heard, "/tool")) == 1 and request.path == "/tool" else 204
    await fiilis.post(unhappy())
    await until(lambda: _rung(fiilis, 1))
    fiilis.move(seconds=10)
    first, second = await until(lambda: _rung(fiilis, 2))
    first.verify(Signer([SECRET]).webhook_secret(url))
    assert first.headers["webhook-id"] == second.headers["webhook-id"]
    ticket = await fiilis.ticket()
    assert (first.data["id"], first.data["state"]) == (ticket["id"], "open")
    await resolve(fiilis, ticket["id"])
    await until(lambda: _rung(fiilis, 3))
    log = await until(lambda: fiilis.items("/v1/webhooks/deliveries", state="delivered"))
    assert {one["event"] for one in log} <= {"ticket.opened", "ticket.resolved"}
    opened = next(one for one in log if one["event"] == "ticket.opened")
    assert opened["attempts"] == 2
    await send(fiilis, "POST", f"/v1/webhooks/deliveries/{opened['id']}/replay", status=202)
    *_, replayed = await until(lambda: _rung(fiilis, 4))
    assert replayed.headers["webhook-id"] == first.headers["webhook-id"]


async def test_an_address_that_is_gone_gets_nothing_more(fiilis: House) -> None:
    await fiilis.apply(replace(fiilis.company, webhooks=(Webhook(fiilis.phone.url("/tool")),)))
    fiilis.phone.answer = lambda request: 410 if request.path == "/tool" else 204
    await fiilis.post(unhappy())
    await until(lambda: fiilis.items("/v1/webhooks/deliveries", state="failed"))
    await fiilis.post(unhappy(customer="borealis"))

    async def both() -> bool:
        return len(await fiilis.items("/v1/webhooks/deliveries", state="failed")) == 2

    await until(both)
    assert len(_to(fiilis.phone.received, "/tool")) == 1


def _to(received: list[Any], path: str) -> list[Any]:
    return [one for one in received if one.path == path]


async def _rung(house: House, count: int) -> list[Any]:
    found = _to(house.phone.received, "/tool")
    return found if len(found) >= count else []


# ---- actions


async def test_an_action_is_measured_before_and_after(fiilis: House) -> None:
    """One small concrete step, whose it is, and whether it helped."""
    await fiilis.post(*({"kind": "nps", "score": 3, "customer": "acme", "respondent": f"r-{n}"} for n in range(12)))
    ticket = await fiilis.ticket()
    fiilis.move(days=1)

    async def scored() -> Any:
        action = await send(fiilis, "POST", "/v1/actions", new, 201)
        return action if action["before"] else None

    new = {"customer": "acme", "step": "Call back within the hour", "owner": "architect-1", "due_on": "2030-01-01"}
    new |= {"ticket": ticket["id"]}
    action = await until(scored)
    assert (action["before"]["value"], action["state"]) == (-100.0, "open")
    await send(fiilis, "PATCH", f"/v1/actions/{action['id']}", {"state": "done"})
    for _ in range(2):
        fiilis.move(days=1)
        await fiilis.post(
            *({"kind": "nps", "score": 10, "customer": "acme", "respondent": f"r-{n}"} for n in range(12))
        )
    fiilis.move(days=1)

    async def measured() -> Any:
        (found,) = [one for one in await fiilis.items("/v1/actions", customer="acme") if one["id"] == action["id"]]
        return found if found["effect"] == 200.0 else None

    assert (await until(measured))["after"]["value"] == 100.0


async def test_an_action_that_nobody_can_take(fiilis: House) -> None:
    new = {"customer": "acme", "step": "Call", "owner": "nobody", "due_on": "2030-01-01"}
    assert (await send(fiilis, "POST", "/v1/actions", new, 422))["errors"][0]["path"] == "owner"
    new |= {"owner": "architect-1", "metric": "loudness"}
    assert (await send(fiilis, "POST", "/v1/actions", new, 422))["errors"][0]["path"] == "metric"
    new |= {"metric": "nps", "ticket": "0193a8f0-0000-7000-8000-00000000f001"}
    assert (await send(fiilis, "POST", "/v1/actions", new, 422))["errors"][0]["path"] == "ticket"


# ---- erasure


async def test_an_erased_person_is_nowhere(fiilis: House) -> None:
    """One request: scores, alerts, tickets, pages and letters forget who it was, however written, and there is proof.

    Also of a customer who left the directory, and of one answer that has no name.
    """
    hooks = (Webhook(fiilis.phone.url("/tool")), Webhook("http://127.0.0.1:9/away"))
    await fiilis.apply(replace(fiilis.company, webhooks=hooks))
    ahead = (fiilis.clock.now() + timedelta(minutes=4)).isoformat()
    await fiilis.post(unhappy(comment="It was me, r-17", respondent="R-17 ", contact="r17@example.test"))
    await fiilis.post(unhappy(comment="And r-17 again", respondent="r-17", occurred_at=ahead))
    nameless = unhappy(id=str(uuid7()), customer="borealis", comment="Call me: 555-0100", contact="me@example.test")
    await fiilis.post(nameless, {**nameless, "id": str(uuid7()), "comment": "It rains"})
    ticket, other = [await _with_evidence(fiilis, customer) for customer in ("acme", "borealis")]

    async def paged() -> bool:
        return {page["customer"] for page in await fiilis.items("/v1/pages", state="sent")} == {"acme", "borealis"}

    await until(paged)
    fiilis.move(seconds=5)
    await _erased(fiilis, "/v1/respondents/r-17?customer=acme")
    ticket = await fiilis.get(f"/v1/tickets/{ticket['id']}")
    assert [(a["respondent"], a["comment"], a["contact"]) for a in ticket["evidence"]] == [(None, None, None)] * 2
    assert ticket["context"]["contact"] is None

    staying = {name: one for name, one in fiilis.company.customers.items() if name != "borealis"}
    await fiilis.apply(replace(fiilis.company, webhooks=hooks, customers=staying))
    await _erased(fiilis, f"/v1/feedback/{nameless['id']}?customer=borealis")
    other = await fiilis.get(f"/v1/tickets/{other['id']}")
    assert {(a["comment"], a["contact"]) for a in other["evidence"]} == {(None, None), ("It rains", "me@example.test")}
    counted = await fiilis.sql("SELECT comment FROM scoring.answer WHERE id = $1", nameless["id"])
    assert [row["comment"] for row in counted] == [None], "the score stays"
    await send(fiilis, "DELETE", "/v1/feedback/none?customer=borealis", status=404)

    said = ("r-17", "R-17", "r17@", "555-0100")
    tables = ("ticketing.ticket", "ticketing.webhook_delivery", "ticketing.score", "notify.page", "scoring.alert")
    for table in tables:
        rows = await fiilis.sql(f"SELECT body FROM {table}")
        assert not [row for row in rows if any(part in row["body"] for part in said)], table
    assert not await fiilis.sql("SELECT 1 FROM ticketing.shown_answer WHERE respondent ILIKE 'r-17%'")


async def _with_evidence(fiilis: House, customer: str) -> dict[str, Any]:
    """Return a customer's ticket once it shows two answers."""

    async def shown() -> Any:
        found = await fiilis.items("/v1/tickets", customer=customer)
        return found[0] if found and len(found[0]["evidence"]) == 2 else None

    return await until(shown)


async def _erased(fiilis: House, path: str) -> None:
    """Ask for an erasure and wait until every service has erased something."""
    asked = await send(fiilis, "DELETE", path, status=202)

    async def whole() -> Any:
        response = await fiilis.client.get(
            f"/v1/erasures/{asked['erasure']}", headers={"Authorization": f"Bearer {fiilis.key}"}
        )
        found = response.json()
        services = [line["service"] for line in found.get("done", [])]
        return found if services == ["scoring", "ticketing", "notify"] else None

    found = await until(whole)
    assert all(line["removed"] >= 1 for line in found["done"]), found


# ---- desks


async def test_a_desk_tells_by_signed_requests(fiilis: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong signature or an old time stamp is nobody's word; a right one brings the desk's news at once."""
    async with fake_zendesk() as desk:
        for name, value in desk.environ.items():
            monkeypatch.setenv(name, value)
        desk.now = fiilis.clock.now
        entry = Desk(**desk.directory_entry(poll=86_400))
        acme = replace(fiilis.company.customers["acme"], desk="main")
        await fiilis.apply(
            replace(
                fiilis.company,
                desks={"main": entry, "mute": replace(entry, hook_secret_env=None)},
                customers={**fiilis.company.customers, "acme": acme},
            )
        )
        await fiilis.post(unhappy())
        ticket = await until(lambda: _mirrored(fiilis))
        reference = ticket["desk"]["reference"]
        assert (ticket["desk"]["type"], ticket["desk"]["error"]) == ("zendesk", None)
        desk.end(reference)

        async def tell(headers: dict[str, str], body: bytes, name: str = "main") -> tuple[int, str | None]:
            answer = await fiilis.client.post(f"/v1/desks/{name}/events", content=body, headers=headers)
            return answer.status_code, answer.json().get("code")

        assert await tell(*desk.hook(reference, secret="guessed")) == (401, "bad-signature")
        assert await tell(*desk.hook(reference, fiilis.clock.now() - timedelta(minutes=6))) == (401, "bad-signature")
        headers, _ = desk.hook(reference)
        assert await tell(headers, b"{}") == (401, "bad-signature")
        for name in ("unknown", "mute"):  # nobody is told which desks there are
            assert await tell(*desk.hook(reference), name) == (401, "bad-signature")
        assert (await fiilis.get(f"/v1/tickets/{ticket['id']}"))["state"] == "open"
        assert await tell(*desk.hook(reference)) == (202, None)
        resolved = (await until(lambda: fiilis.items("/v1/tickets", state="resolved")))[0]
        assert resolved["id"] == ticket["id"]
        shown = (await fiilis.items("/v1/desks"))[0]
        assert (shown["name"], shown["error"]) == ("main", None)


async def _mirrored(house: House) -> Any:
    found = await house.items("/v1/tickets")
    return found[0] if found and (found[0]["desk"] or {}).get("reference") else None


# ---- tools


async def test_the_example_consumer_tells_of_tickets(fiilis: House) -> None:
    """What docs/examples shows to authors of tools runs."""
    await fiilis.post(unhappy())
    ticket = await fiilis.ticket()
    example = Path(__file__).parents[2] / "docs/examples/tickets.py"
    arguments = (sys.executable, str(example), fiilis.kafka.bootstrap, fiilis.kafka.prefix)
    process = await asyncio.create_subprocess_exec(*arguments, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    try:
        line = await asyncio.wait_for(process.stdout.readline(), 30)
    finally:
        process.kill()
        await process.wait()
    assert line.decode().strip() == f"ticket.opened {ticket['number']} acme open {ticket['title']}"
