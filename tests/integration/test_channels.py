"""A page leaves by every provider, is taken from there, and whatever the provider does, somebody is reached."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from msgspec.structs import replace

from shared.bus.client import Kafka
from shared.directory.model import Contact, Directory
from shared.wire.events import TicketV1
from shared.wire.signing import Signer
from tests.integration.test_paging import change, open_ticket, people, timeline
from tests.support import build
from tests.support.house import SECRET, House, house
from tests.support.providers import FakeProvider, Reply, Trouble
from tests.support.providers.chats import FakeMattermost, FakeSlack, FakeTeams
from tests.support.providers.gateways import NUMBER, FakeGateway, FakeTwilio
from tests.support.providers.pushes import FakeNtfy, FakePagerDuty
from tests.support.wait import until

PROVIDERS: dict[str, Callable[[], FakeProvider]] = {
    "sms": FakeTwilio,
    "sms over http": FakeGateway,
    "voice": lambda: FakeTwilio("voice"),
    "slack": FakeSlack,
    "teams": FakeTeams,
    "mattermost": FakeMattermost,
    "ntfy": FakeNtfy,
    "pagerduty": FakePagerDuty,
}
COMMENT = "Kukaan ei soittanut takaisin"


@pytest.fixture
async def pager(kafka: Kafka, database_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[House]:
    """Notify alone; providers have a second to answer."""
    monkeypatch.setenv("FIILIS_NOTIFY_CALL_SECONDS", "1")
    for provider in (FakeTwilio, FakeGateway, FakeSlack, FakeNtfy, FakePagerDuty):
        for name, value in provider.environ.items():
            monkeypatch.setenv(name, value)
    async with house(kafka, database_url, ("notify",)) as made:
        yield made


@contextlib.asynccontextmanager
async def reached_by(pager: House, provider: FakeProvider, *more: Contact, **fields: Any) -> AsyncIterator[Any]:
    """Have the architect reached by a provider, and then by the phone."""
    async with provider:
        await pager.apply(employed(pager, provider, *more, **fields))
        yield provider


def employed(pager: House, provider: FakeProvider, *more: Contact, **fields: Any) -> Directory:
    contacts = (provider.contact(), *more, Contact("webhook", pager.phone.url("/next")))
    directory = replace(pager.company, people=people(pager, architect_1={"contacts": contacts}))
    return replace(provider.applied_to(directory), **fields)


async def page_of(pager: House, ticket: TicketV1, attempts: int) -> dict[str, Any]:
    """Wait until so many calls for a ticket have a result; return its page."""

    async def finished() -> dict[str, Any]:
        found = [one for one in await pager.items("/v1/pages") if one["ticket"] == str(ticket.id)]
        page = await pager.get(f"/v1/pages/{found[0]['id']}") if found else {"attempts": []}
        return page if len([one for one in page["attempts"] if one["finished_at"]]) >= attempts else {}

    page = await until(finished)
    assert len(page["attempts"]) == attempts, page["attempts"]
    return page


def results(page: dict[str, Any]) -> list[tuple[str, str]]:
    return [(one["channel"], one["result"]) for one in page["attempts"]]


async def arrived(provider: FakeProvider, count: int = 1) -> str:
    """Wait until so much came to the phone; return the newest."""

    async def there() -> bool:
        return len(provider.received) >= count

    await until(there)
    assert len(provider.received) == count
    return provider.received[-1]


async def taken(pager: House, ticket: TicketV1, by: str = "architect-1") -> None:
    async def acknowledged() -> bool:
        found = [one for one in await pager.items("/v1/pages") if one["ticket"] == str(ticket.id)]
        return bool(found) and found[0]["state"] == "acknowledged" and found[0]["acknowledged_by"] == by

    await until(acknowledged)


async def unhappy(pager: House, **fields: Any) -> TicketV1:
    return await open_ticket(pager, evidence=[build.evidence(comment=COMMENT)], **fields)


def sms_address(pager: House) -> str:
    return f"{pager.address}/v1/callbacks/sms"


# ---- whatever a provider does


@pytest.mark.parametrize("name", PROVIDERS)
async def test_what_a_provider_does_is_classified_and_somebody_is_reached(pager: House, name: str) -> None:
    """Only a clear yes is success: a busy one is asked again with the same key, after one that refuses comes the next
    contact, and where nobody knows what arrived, it is sent again."""
    provider = PROVIDERS[name]()
    channel, good = provider.channel, (provider.channel, provider.result)
    to_phone = ("webhook", "delivered")
    numbers = iter(range(1, 100))
    async with reached_by(pager, provider):

        async def paged(trouble: Trouble | None, *, first: int, moves: float, then: int) -> dict[str, Any]:
            number = next(numbers)
            provider.trouble = trouble
            ticket = await open_ticket(pager, number=number, customer=("acme", "borealis")[number % 2])
            if first != then:
                await page_of(pager, ticket, first)
                pager.move(seconds=moves)
            page = await page_of(pager, ticket, then)
            provider.trouble = None
            await change(pager, ticket, state="cancelled")
            await until(lambda: _is(pager, page["id"], "resolved"))
            return page

        assert results(await paged(None, first=1, moves=0, then=1)) == [good]

        page = await paged(Trouble("broken", times=1), first=1, moves=4, then=2)
        assert results(page) == [(channel, "temporary"), good]
        assert "HTTP 500" in page["attempts"][0]["detail"]

        page = await paged(Trouble("limited", times=1), first=1, moves=46, then=2)
        assert results(page) == [(channel, "temporary"), good]
        started, finished = page["attempts"][1]["started_at"], page["attempts"][0]["finished_at"]
        assert datetime.fromisoformat(started) - datetime.fromisoformat(finished) >= timedelta(seconds=45)

        page = await paged(Trouble("refuses", times=1), first=2, moves=0, then=2)
        assert results(page) == [(channel, "permanent"), to_phone]

        for what in ("drops", "lost", "hang"):
            before = len(provider.received)
            page = await paged(Trouble(what, times=1), first=1, moves=4, then=2)
            assert results(page) == [(channel, "unknown"), good]
            assert len({one["delivery"] for one in page["attempts"]}) == 1
            if what == "drops":
                assert len(provider.received) == before + 1
            elif provider.keys:
                assert provider.keys[-1] == provider.keys[-2]
                assert len(provider.received) == before + 1, "the key let the provider see that it was the same"

        provider.trouble = Trouble("echo", times=1)
        ticket = await open_ticket(pager, number=next(numbers))
        page = await page_of(pager, ticket, 2)
        assert results(page) == [(channel, "permanent"), to_phone]
        assert provider.token not in str(page), "an answer that repeats our secrets is not where they get out"
        await change(pager, ticket, state="cancelled")

        provider.go_away()
        ticket = await open_ticket(pager, number=next(numbers), customer="borealis")
        for attempts in (1, 2):
            await page_of(pager, ticket, attempts)
            pager.move(seconds=8)
        page = await page_of(pager, ticket, 4)
        assert results(page) == [(channel, "temporary")] * 3 + [to_phone]


@pytest.mark.parametrize("name", PROVIDERS)
async def test_a_sign_in_page_is_no_delivery(pager: House, name: str) -> None:
    """What answers with 200 need not be the provider: a proxy that wants a password has told nobody anything."""
    provider = PROVIDERS[name]()
    async with reached_by(pager, provider):
        provider.trouble = Trouble("html", times=1)
        ticket = await open_ticket(pager, number=1)
        page = await page_of(pager, ticket, 1)
        assert (page["state"], page["attempts"][0]["result"]) == ("pending", "temporary")
        assert page["attempts"][0]["detail"].startswith("HTTP 200")
        pager.move(seconds=4)
        page = await page_of(pager, ticket, 2)
        assert results(page)[1] == (provider.channel, provider.result)


async def test_teams_says_no_with_status_200(pager: House) -> None:
    """A connector tells in words what went wrong behind it: what lasts calls the next contact at once."""
    said = (
        "Webhook message delivery failed with error: Microsoft Teams endpoint returned HTTP error {} with ContextId x."
    )
    async with reached_by(pager, FakeTeams()) as teams:
        teams.says = Reply(200, said.format(404).encode())
        page = await page_of(pager, await open_ticket(pager, number=1), 2)
        assert results(page) == [("teams", "permanent"), ("webhook", "delivered")]
        assert "HTTP error 404" in page["attempts"][0]["detail"]
        teams.says = Reply(200, said.format(429).encode())
        ticket = await open_ticket(pager, number=2)
        assert results(await page_of(pager, ticket, 1)) == [("teams", "temporary")]
        teams.says = None
        pager.move(seconds=3)
        assert results(await page_of(pager, ticket, 2)) == [("teams", "temporary"), ("teams", "delivered")]


async def _is(pager: House, page: str, state: str) -> bool:
    return (await pager.get(f"/v1/pages/{page}"))["state"] == state


@pytest.mark.parametrize("name", ["sms", "sms over http", "voice", "slack", "ntfy", "pagerduty"])
async def test_a_secret_that_is_not_set_is_named(pager: House, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever looks for the reason finds the variable; the person is called by the next contact."""
    provider = PROVIDERS[name]()
    for variable in provider.environ:
        monkeypatch.delenv(variable)
    async with reached_by(pager, provider):
        page = await page_of(pager, await open_ticket(pager), 2)
        assert results(page) == [(provider.channel, "permanent"), ("webhook", "delivered")]
        assert page["attempts"][0]["detail"].startswith("environment variable FAKE_")
        assert not provider.calls


# ---- SMS


async def test_a_page_by_sms_is_taken_by_its_code(pager: House) -> None:
    """The code in the answer takes the page, and shows that the number is the person's."""
    async with reached_by(pager, FakeTwilio()) as twilio:
        ticket = await unhappy(pager)
        text = await arrived(twilio)
        assert text.startswith("Acme (critical): Mood 1 of 4 at support")
        assert COMMENT not in text, "what customers write stays out of SMS"
        assert f"{pager.address}/a/" in text
        (message,) = twilio.messages
        wrong = f"{(int(message.code) + 1) % 10_000:04}"
        assert "No page has this code." in (await twilio.reply(sms_address(pager), wrong)).text
        page = await page_of(pager, ticket, 1)
        assert (page["state"], page["attempts"][0]["receipt"]) == ("sent", message.sid)
        answer = await twilio.reply(sms_address(pager), f" {message.code}. ")
        assert answer.headers["content-type"].startswith("text/xml")
        assert "<Message>Architect-1 takes it: Acme, ticket 1042. Nobody else is paged.</Message>" in answer.text
        await taken(pager, ticket)
        assert "Architect-1 takes it" in (await twilio.reply(sms_address(pager), message.code)).text
        (contact, _) = await pager.items("/v1/people/architect-1/contacts")
        assert contact["verified_at"] is not None
        assert "contact verified" in [line["what"] for line in await pager.items("/v1/audit")]


async def test_ok_is_enough_where_one_page_waits(pager: House) -> None:
    """Who has several is asked which; who has none is told so; and an automatic reply gets no answer then."""
    async with reached_by(pager, FakeTwilio()) as twilio:
        assert "No page waits for you." in (await twilio.reply(sms_address(pager), "OK")).text
        assert "<Message>" not in (await twilio.reply(sms_address(pager), "I am driving.")).text
        first = await open_ticket(pager, number=1)
        await arrived(twilio, 1)
        said = (await twilio.reply(sms_address(pager), "I am driving.")).text
        assert f"Reply {twilio.messages[0].code} to take it." in said
        second = await open_ticket(pager, number=2, customer="borealis")
        await arrived(twilio, 2)
        assert "2 pages wait for you." in (await twilio.reply(sms_address(pager), "ok")).text
        await twilio.reply(sms_address(pager), twilio.messages[1].code)
        await taken(pager, second)
        assert "ticket 1." in (await twilio.reply(sms_address(pager), "Yes!")).text
        await taken(pager, first)
        assert "<Message>" not in (await twilio.reply(sms_address(pager), "ok", "+358409999999")).text


async def test_comments_are_in_sms_only_where_the_directory_says_so(pager: House) -> None:
    async with reached_by(pager, FakeTwilio(), comments_in_sms=True) as twilio:
        await unhappy(pager)
        assert COMMENT in await arrived(twilio)


async def test_a_receipt_of_failure_calls_the_next_contact_at_once(pager: House) -> None:
    """Accepted is not delivered: when the network says no, nobody waits for the step to end. Once."""
    async with reached_by(pager, FakeTwilio()) as twilio:
        ticket = await open_ticket(pager)
        page = await page_of(pager, ticket, 1)
        assert results(page) == [("sms", "accepted")]
        (message,) = twilio.messages
        assert (await twilio.status(message, "sent")).status_code == 200
        assert results(await page_of(pager, ticket, 1)) == [("sms", "accepted")]
        for _ in range(2):
            assert (await twilio.status(message, "undelivered", ErrorCode="30005")).status_code == 200
            page = await page_of(pager, ticket, 2)
            assert results(page) == [("sms", "permanent"), ("webhook", "delivered")]
        assert page["attempts"][0]["detail"] == "undelivered error 30005"
        assert pager.phone.received[-1].path == "/next"
        assert (await timeline(pager, page["id"])).count("receipt permanent") == 1
        stranger = replace_sid(message, "SM" + "f" * 32)
        assert (await twilio.status(stranger, "failed")).status_code == 200
        assert len((await page_of(pager, ticket, 2))["attempts"]) == 2


def replace_sid(message: Any, sid: str) -> Any:
    return type(message)(sid, message.to, message.text, message.callback)


async def test_a_receipt_of_failure_at_the_last_contact_pages_the_next_person(pager: House) -> None:
    async with FakeTwilio() as twilio:
        only = {"contacts": (twilio.contact(),)}
        await pager.apply(twilio.applied_to(replace(pager.company, people=people(pager, architect_1=only))))
        ticket = await open_ticket(pager)
        await page_of(pager, ticket, 1)
        await twilio.status(twilio.messages[0], "failed")
        page = await page_of(pager, ticket, 2)
        assert [one["person"] for one in page["attempts"]] == ["architect-1", "deputy-1"]
        assert "nobody reached" in await timeline(pager, page["id"])


async def test_a_late_receipt_of_failure_does_not_call_who_is_not_paged_any_more(pager: House) -> None:
    """The page went on to the deputy, or somebody took it: the architect's other phone stays silent."""
    async with reached_by(pager, FakeTwilio()) as twilio:
        ticket = await open_ticket(pager, number=1)
        await page_of(pager, ticket, 1)
        pager.move(minutes=5, seconds=1)
        await page_of(pager, ticket, 2)
        await twilio.status(twilio.messages[0], "undelivered")
        other = await open_ticket(pager, number=2)
        await page_of(pager, other, 1)
        await twilio.reply(sms_address(pager), twilio.messages[1].code)
        await taken(pager, other)
        await twilio.status(twilio.messages[1], "undelivered")
        assert results(await page_of(pager, ticket, 2)) == [("sms", "permanent"), ("webhook", "delivered")]
        assert results(await page_of(pager, other, 1)) == [("sms", "permanent")]
        waiting = await pager.sql("SELECT count(*) FROM notify.delivery WHERE state = 'pending'")
        assert waiting[0][0] == 0


async def test_a_receipt_that_comes_before_the_answer_to_the_call(pager: House) -> None:
    """The network says no while Twilio still answers us: that it was accepted is no news then."""
    async with reached_by(pager, FakeTwilio()) as twilio:
        twilio.may_answer.clear()
        ticket = await open_ticket(pager)
        await arrived(twilio)
        await twilio.status(twilio.messages[0], "failed")
        twilio.may_answer.set()
        page = await page_of(pager, ticket, 2)
        assert results(page) == [("sms", "permanent"), ("webhook", "delivered")]
        await until(lambda: _said(pager, page["id"], "attempt accepted"))
        assert results(await page_of(pager, ticket, 2)) == [("sms", "permanent"), ("webhook", "delivered")]


async def _said(pager: House, page: str, what: str) -> bool:
    return what in await timeline(pager, page)


async def test_a_receipt_of_delivery_ends_a_call_that_nobody_knew_of(pager: House) -> None:
    """Twilio took it and did not answer in time. It has no idempotency key: its receipt is what saves a second SMS."""
    async with reached_by(pager, FakeTwilio()) as twilio:
        twilio.trouble = Trouble("hang", times=1)
        ticket = await open_ticket(pager)
        assert results(await page_of(pager, ticket, 1)) == [("sms", "unknown")]
        (message,) = twilio.messages
        await twilio.status(message, "delivered")
        page = await page_of(pager, ticket, 1)
        assert results(page) == [("sms", "delivered")]
        assert (page["state"], page["attempts"][0]["receipt"]) == ("sent", message.sid)
        pager.move(seconds=60)
        await pager.send("POST", f"/v1/pages/{page['id']}/acknowledge", {"person": "architect-1"})
        assert len(twilio.messages) == 1


async def test_stop_is_heard_and_shown_and_start_undoes_it(pager: House) -> None:
    """Who answers STOP gets no SMS; pre-flight says who cannot be reached; START makes it as it was."""
    async with FakeTwilio() as twilio:
        only = {"contacts": (twilio.contact(),)}
        named = people(pager, architect_1=only, deputy_1={"contacts": (Contact("voice", NUMBER), *only["contacts"])})
        await pager.apply(twilio.applied_to(replace(pager.company, people=named)))
        assert "START" in (await twilio.reply(sms_address(pager), "Stop")).text
        for person, place in (("architect-1", 0), ("deputy-1", 1)):
            contact = (await pager.items(f"/v1/people/{person}/contacts"))[place]
            assert contact["stopped_at"] is not None
        found = await pager.items("/v1/preflight")
        assert ("unreachable", "person:architect-1") in [(one["code"], one["subject"]) for one in found]
        assert "contact stopped" in [line["what"] for line in await pager.items("/v1/audit")]
        ticket = await open_ticket(pager, number=1)
        page = await page_of(pager, ticket, 1)
        assert [one["person"] for one in page["attempts"]] == ["duty-manager"]
        assert not twilio.messages
        await change(pager, ticket, state="cancelled")

        assert "come here again" in (await twilio.reply(sms_address(pager), "START")).text
        assert (await pager.items("/v1/people/architect-1/contacts"))[0]["stopped_at"] is None
        ticket = await open_ticket(pager, number=2)
        assert results(await page_of(pager, ticket, 1)) == [("sms", "accepted")]
        await twilio.reply(sms_address(pager), "QUIT")
        assert "come here again" in (await twilio.reply(sms_address(pager), "yes")).text
        assert (await pager.get(f"/v1/pages/{(await page_of(pager, ticket, 1))['id']}"))["state"] == "sent"


async def test_a_number_that_opted_out_at_the_provider_is_not_asked_again(pager: House) -> None:
    async with reached_by(pager, FakeTwilio()) as twilio:
        twilio.opted_out.add(NUMBER)
        page = await page_of(pager, await open_ticket(pager), 2)
        assert results(page) == [("sms", "permanent"), ("webhook", "delivered")]
        assert "21610" in page["attempts"][0]["detail"]


async def test_another_gateway_takes_a_template_and_calls_back_with_json(pager: House) -> None:
    """Anything that takes one JSON object will do; what it tells and receives comes back the same way."""
    async with reached_by(pager, FakeGateway()) as gateway:
        ticket = await open_ticket(pager)
        page = await page_of(pager, ticket, 1)
        (told,) = gateway.requests
        assert (told["recipient"], told["from"]) == (NUMBER, "Fiilis")
        assert page["attempts"][0]["receipt"] == f"m-{told['ref']}"
        known = {"status": "delivered", "receipt": f"m-{told['ref']}"}
        assert (await gateway.tell(told["dlr"], **known)).status_code == 200
        assert results(await page_of(pager, ticket, 1)) == [("sms", "delivered")]
        code = told["body"].partition("Reply ")[2][:4]
        sent = {"from": NUMBER.replace("+", "00"), "text": code}
        address = sms_address(pager)
        assert (await gateway.client.post(address, json=sent)).status_code == 401
        assert "Architect-1 takes it" in (await gateway.tell(address, **sent)).json()["text"]
        await taken(pager, ticket)
        for body, status in ((b"{", 400), (b"[]", 422), (b'{"status": 7}', 422), (b"x" * 70_000, 413)):
            assert (await gateway.client.post(told["dlr"], content=body)).status_code == status


# ---- calls


async def test_a_page_by_voice_is_taken_by_a_key(pager: House) -> None:
    """The call reads what happened, without what customers wrote; 1 takes it, another key says so and asks again."""
    async with reached_by(pager, FakeTwilio("voice")) as twilio:
        ticket = await unhappy(pager)
        twiml = await arrived(twilio)
        assert "Acme (critical): Mood 1 of 4 at support Press 1 to take it." in twiml
        assert COMMENT not in twiml
        (call,) = twilio.messages
        other = await twilio.press(call, "9")
        assert "That was another key." in other.text
        assert "<Gather" in other.text
        page = await page_of(pager, ticket, 1)
        assert page["state"] == "sent"
        assert "Architect-1 takes it" in (await twilio.press(call, "1")).text
        await taken(pager, ticket)


@pytest.mark.parametrize("status", ["busy", "no-answer", "failed", "canceled"])
async def test_a_call_that_nobody_takes_is_followed_by_the_next_contact(pager: House, status: str) -> None:
    async with reached_by(pager, FakeTwilio("voice")) as twilio:
        ticket = await open_ticket(pager)
        await page_of(pager, ticket, 1)
        await twilio.status(twilio.messages[0], status)
        assert results(await page_of(pager, ticket, 2)) == [("voice", "permanent"), ("webhook", "delivered")]


async def test_a_code_is_read_digit_by_digit(pager: House) -> None:
    async with reached_by(pager, FakeTwilio("voice")) as twilio:
        await pager.send("POST", "/v1/people/architect-1/contacts/0/verification", status=202)
        twiml = await arrived(twilio)
        digits = twiml.partition("your code is ")[2].partition(",")[0]
        assert len(digits.split(" ")) == 6
        assert "<Gather" not in twiml
        code = digits.replace(" ", "")
        await pager.send("POST", "/v1/people/architect-1/contacts/0/verify", {"code": code})


# ---- who may call back


async def test_a_callback_that_the_provider_did_not_sign_is_refused(pager: House) -> None:
    """Whoever guesses an address can neither take a page nor have somebody left alone."""
    async with reached_by(pager, FakeTwilio()) as twilio:
        ticket = await open_ticket(pager)
        page = await page_of(pager, ticket, 1)
        (message,) = twilio.messages
        code = message.code
        bad = [
            await twilio.status(message, "undelivered", token="wrong"),
            await twilio.reply(sms_address(pager), code, token="wrong"),
            await twilio.reply(sms_address(pager), "STOP", token=""),
            await twilio.client.post(sms_address(pager), data={"From": NUMBER, "Body": code}),
            await twilio.client.post(message.callback, data={"MessageSid": message.sid, "MessageStatus": "failed"}),
        ]
        assert [_problem(one) for one in bad] == [(401, "bad-signature")] * len(bad)
        assert all(twilio.token not in one.text for one in bad)
        changed = await twilio.client.post(
            sms_address(pager),
            data={"From": NUMBER, "Body": "STOP"},
            headers={"x-twilio-signature": "RSOYDt4T1cUTdK1PDd93/VVr8B8="},
        )
        assert changed.status_code == 401
        assert results(await page_of(pager, ticket, 1)) == [("sms", "accepted")]
        assert (await pager.get(f"/v1/pages/{page['id']}"))["state"] == "sent"


async def test_a_call_that_nobody_signed_takes_nothing(pager: House) -> None:
    async with reached_by(pager, FakeTwilio("voice")) as twilio:
        ticket = await open_ticket(pager)
        page = await page_of(pager, ticket, 1)
        assert _problem(await twilio.press(twilio.messages[0], "1", token="wrong")) == (401, "bad-signature")
        assert await _is(pager, page["id"], "sent")
        assert _problem(await twilio.reply(sms_address(pager), "STOP")) == (404, "not-found"), "there is no SMS gateway"


async def test_an_address_that_is_too_old_or_not_ours(pager: House) -> None:
    """410 and 404, whatever was called back; a token for another purpose is none."""
    async with reached_by(pager, FakeTwilio()) as twilio:
        await page_of(pager, await open_ticket(pager), 1)
        address = twilio.messages[0].callback or ""
        token = address.split("/")[-2]
        facts = {"page": "0" * 32, "person": "architect-1", "delivery": "0" * 32}
        link = Signer([SECRET]).sign("acknowledge", facts, expires=datetime(2100, 1, 1, tzinfo=UTC))
        for tail in ("receipt", "key", "press"):
            for wrong in (f"{token}x", "x", link, "x" * 3000):
                answer = await twilio.post(address.replace(f"{token}/receipt", f"{wrong}/{tail}"), {})
                assert _problem(answer) == (404, "not-found")
        pager.move(days=8)
        for tail in ("receipt", "key", "press"):
            answer = await twilio.post(address.replace("/receipt", f"/{tail}"), {"MessageStatus": "failed"})
            assert _problem(answer) == (410, "expired")


def _problem(answer: httpx.Response) -> tuple[int, str]:
    assert answer.headers["content-type"] == "application/problem+json", answer.text
    return answer.status_code, answer.json()["code"]


# ---- chats


async def test_a_page_in_slack_is_taken_by_its_button(pager: House) -> None:
    """One press takes it, and the message says so: to the address that Slack gave, since it reads no answer."""
    async with reached_by(pager, FakeSlack()) as slack:
        ticket = await open_ticket(
            pager, evidence=[build.evidence(comment="<!channel> & <https://evil.test|here> " + "&" * 4000)]
        )
        text = await arrived(slack)
        assert "Mood 1 of 4 at support" in text
        assert "&lt;!channel&gt; &amp; &lt;https" in text
        page = await page_of(pager, ticket, 1)
        assert page["attempts"][0]["receipt"] == "1764000000.000001"
        (message,) = slack.messages
        now = pager.clock.now().timestamp()
        for refused in (
            await slack.press(pager.address, message, now, secret="wrong"),
            await slack.press(pager.address, message, now - 301),
            await slack.press(pager.address, message, now + 301),
        ):
            assert _problem(refused) == (401, "bad-signature")
        assert _problem(await slack.press(pager.address, message, now, value="x")) == (404, "not-found")
        answer = await slack.press(pager.address, message, now)
        assert answer.json()["replace_original"] is True
        assert "Architect-1 takes it" in answer.json()["text"]
        await taken(pager, ticket)
        await until(lambda: _replaced(slack))
        assert "Architect-1 takes it" in slack.replaced[0]["text"]


async def test_a_button_of_somebody_who_has_left(pager: House) -> None:
    """Slack is a door like the link: who is not in the directory any more takes nothing."""
    async with reached_by(pager, FakeSlack()) as slack:
        ticket = await open_ticket(pager)
        await arrived(slack)
        page = await page_of(pager, ticket, 1)
        (message,) = slack.messages
        await pager.apply(without(employed(pager, slack), "architect-1"))
        answer = await slack.press(pager.address, message, pager.clock.now().timestamp())
        assert "no longer in the directory" in answer.json()["text"]
        assert (await pager.get(f"/v1/pages/{page['id']}"))["state"] == "sent"


def without(company: Directory, person: str) -> Directory:
    """Return a company that somebody has left."""
    people = {name: known for name, known in company.people.items() if name != person}
    customers = {id_: replace(one, architect="deputy-1") for id_, one in company.customers.items()}
    return replace(company, people=people, customers=customers)


async def _replaced(slack: FakeSlack) -> bool:
    return bool(slack.replaced)


async def test_slack_without_a_signing_secret_gets_a_link(pager: House) -> None:
    """Nobody could tell its presses from anybody's: the button opens the page instead."""
    async with reached_by(pager, FakeSlack(buttons=False)) as slack:
        ticket = await open_ticket(pager)
        await arrived(slack)
        button = slack.messages[0]["blocks"][-1]["elements"][0]
        assert "value" not in button
        assert _problem(await slack.press(pager.address, slack.messages[0], 0.0, value="x")) == (404, "not-found")
        assert (await pager.client.post(button["url"])).status_code == 200
        await taken(pager, ticket)


async def test_slack_says_no_with_status_200(pager: House) -> None:
    """`ok: false` is a failure: what lasts calls the next contact at once, what passes is tried again."""
    async with reached_by(pager, FakeSlack()) as slack:
        slack.error = "channel_not_found"
        page = await page_of(pager, await open_ticket(pager, number=1), 2)
        assert results(page) == [("slack", "permanent"), ("webhook", "delivered")]
        assert "channel_not_found" in page["attempts"][0]["detail"]
        slack.error = "ratelimited"
        ticket = await open_ticket(pager, number=2)
        await page_of(pager, ticket, 1)
        slack.error, slack.trouble = None, Trouble("html", times=1)
        pager.move(seconds=3)
        await page_of(pager, ticket, 2)
        pager.move(seconds=6)
        page = await page_of(pager, ticket, 3)
        assert results(page) == [("slack", "temporary"), ("slack", "temporary"), ("slack", "delivered")]
        assert "not Slack's" in page["attempts"][1]["detail"]


async def test_an_old_button_in_slack_says_so(pager: House) -> None:
    async with reached_by(pager, FakeSlack()) as slack:
        await page_of(pager, await open_ticket(pager), 1)
        pager.move(days=8)
        answer = await slack.press(pager.address, slack.messages[0], pager.clock.now().timestamp())
        assert "expired" in answer.json()["text"]


async def test_a_page_in_teams_has_a_link(pager: House) -> None:
    """A workflow tells us no presses: the card's button opens the page. What customers wrote is no markup."""
    async with reached_by(pager, FakeTeams()) as teams:
        ticket = await open_ticket(pager, evidence=[build.evidence(comment="[here](https://evil.test)")])
        assert "[here](https://evil.test)" in await arrived(teams)
        page = await page_of(pager, ticket, 1)
        assert page["attempts"][0]["receipt"] == "run-1"
        (card,) = teams.cards
        assert {part["type"] for part in card["body"]} == {"RichTextBlock"}
        (action,) = card["actions"]
        assert action["type"] == "Action.OpenUrl"
        assert (await pager.client.get(action["url"])).status_code == 200
        assert (await pager.client.post(action["url"])).status_code == 200
        await taken(pager, ticket)


async def test_a_page_in_mattermost_is_taken_by_its_button(pager: House) -> None:
    async with reached_by(pager, FakeMattermost()) as mattermost:
        ticket = await open_ticket(pager, evidence=[build.evidence(comment="@channel [here](https://evil.test)")])
        text = await arrived(mattermost)
        assert "@channel" not in text
        assert f"\n{pager.address}/a/" in text
        answer = await mattermost.press(mattermost.posts[0])
        assert "Architect-1 takes it" in answer.json()["update"]["message"]
        assert answer.json()["update"]["props"] == {}
        await taken(pager, ticket)
        again = await mattermost.press(mattermost.posts[0])
        assert "Architect-1 takes it" in again.json()["ephemeral_text"]


async def test_a_button_of_a_page_that_is_over_says_so(pager: House) -> None:
    async with reached_by(pager, FakeMattermost()) as mattermost:
        ticket = await open_ticket(pager)
        page = await page_of(pager, ticket, 1)
        await change(pager, ticket, state="resolved")
        await until(lambda: _is(pager, page["id"], "resolved"))
        answer = await mattermost.press(mattermost.posts[0])
        assert answer.status_code == 200
        assert "nobody needs to answer" in answer.json()["ephemeral_text"]


# ---- push


async def test_a_page_by_ntfy_is_taken_by_its_button(pager: House) -> None:
    """The topic is the last part of the address; a critical page is as loud as can be."""
    async with reached_by(pager, FakeNtfy()) as ntfy:
        ticket = await unhappy(pager)
        assert COMMENT not in await arrived(ntfy), "whoever knows a topic can read it"
        (notification,) = ntfy.notifications
        assert (notification["topic"], notification["priority"]) == ("duty-7f3a", 5)
        assert notification["click"].startswith(f"{pager.address}/a/")
        assert (await ntfy.press(notification)).status_code == 200
        await taken(pager, ticket)
        page = await page_of(pager, ticket, 1)
        assert page["attempts"][0]["receipt"] == "n1"
        await open_ticket(pager, number=2, severity="high")
        await arrived(ntfy, 2)
        assert ntfy.notifications[1]["priority"] == 4


async def test_a_page_is_one_incident_in_pagerduty(pager: House) -> None:
    """Also when it is sent again in the next round; its link takes it here."""
    async with reached_by(pager, FakePagerDuty()) as pagerduty:
        ticket = await open_ticket(pager)
        page = await page_of(pager, ticket, 1)
        (event,) = pagerduty.events
        assert (event["dedup_key"], event["payload"]["severity"]) == (page["id"], "critical")
        assert event["payload"]["custom_details"]["ticket"] == str(ticket.id)
        assert results(page) == [("pagerduty", "accepted")]
        for attempts in (2, 3):
            pager.move(minutes=5, seconds=1)
            await page_of(pager, ticket, attempts)
        assert len(pagerduty.events) == 2
        assert len(pagerduty.received) == 1
        assert (await pager.client.post(event["links"][0]["href"])).status_code == 200
        await taken(pager, ticket)
