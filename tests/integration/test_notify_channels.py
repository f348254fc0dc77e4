"""A page leaves by real SMTP and real HTTP: only a clear yes is success, and whatever fails, the next one is called."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.smtp import SMTP
from msgspec.structs import replace

from demo.inbox import Inbox
from shared.bus.client import Kafka
from shared.directory.model import Contact, Key, Person, Smtp
from shared.http.client import _context, shown_url
from shared.wire.signing import Signer, key_hash
from tests.support import house as houses
from tests.support.certificates import Authority
from tests.support.house import SECRET, House, company, house
from tests.support.phone import Phone, Received
from tests.support.relay import MailRelay, mail_relay
from tests.support.wait import until, until_true

SENDER = "fiilis@example.test"
_PATHS: dict[str, str] = {}
"""The last part of each webhook's address, by what is shown of it."""


@pytest.fixture
async def relay() -> AsyncIterator[MailRelay]:
    async with mail_relay() as made:
        yield made


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def mail_to(person: str) -> Contact:
    return Contact("email", f"{person}@example.test")


def call(house: House, path: str) -> Contact:
    return Contact("webhook", house.phone.url(path))


async def employ(
    house: House, *, smtp: int | None = None, customer: str = "Acme", **contacts: tuple[Contact, ...]
) -> None:
    """Apply a directory in which people have these contacts; the others keep their phone."""
    keys = (Key("ops", "secret", key_hash(house.key), scopes=("admin",)),)
    directory = company(house.phone, *keys)
    people = dict(directory.people)
    for name, of_them in contacts.items():
        id_ = name.replace("_", "-")
        people[id_] = Person(id_, id_.title(), "UTC", "en", contacts=of_them)
        _PATHS.update(
            {shown_url(c.address): str(c.address).rpartition("/")[2] for c in of_them if c.channel != "email"}
        )
    customers = {name: replace(known, name=customer) for name, known in directory.customers.items()}
    relay = None if smtp is None else Smtp("127.0.0.1", SENDER, port=smtp, tls="none")
    await house.apply(replace(directory, people=people, customers=customers, smtp=relay))


async def unhappy(house: House, **more: Any) -> None:
    said = {"kind": "mood", "score": 1, "customer": "acme", "touchpoint": "support", **more}
    assert (await house.post(said)).status_code == 202


async def attempts(house: House, count: int) -> list[dict[str, Any]]:
    """Wait until so many calls have a result; return them, as the interface shows them."""

    async def finished() -> list[dict[str, Any]]:
        pages = await house.items("/v1/pages")
        found = (await house.get(f"/v1/pages/{pages[0]['id']}"))["attempts"] if pages else []
        return found if len([a for a in found if a["finished_at"]]) >= count else []

    found = await until(finished)
    assert len(found) == count, found
    return found


def results(found: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return [(_PATHS.get(str(attempt["address"]), str(attempt["address"])), attempt["result"]) for attempt in found]


def _by_path(request: Received) -> int | None:
    name = request.path[1:]
    return int(name) if name.isdigit() else {"broken": None, "well": 204}[name]


async def received(house: House, count: int) -> list[Any]:
    """Wait until the phone has rung so many times."""

    async def rung() -> bool:
        return len(house.phone.received) >= count

    await until(rung)
    return house.phone.received


# ---- authorities of a company's own


@pytest.mark.parametrize("trusts", ["contact", "environment", "nobody"])
async def test_a_provider_with_an_authority_of_its_own(
    kafka: Kafka, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trusts: str
) -> None:
    """It is believed where the contact's `ca_file` or the usual variables say so; else the next one is called."""
    authority = Authority(tmp_path)
    if trusts == "environment":
        monkeypatch.setenv("SSL_CERT_FILE", str(authority.file))
    _context.cache_clear()
    inside = Phone()
    inside.tls = authority.server()
    await inside.start()
    try:
        async with house(kafka, database_url) as fiilis:
            contact = Contact(
                "webhook", inside.url("/inside"), ca_file=str(authority.file) if trusts == "contact" else None
            )
            await employ(fiilis, architect_1=(contact, call(fiilis, "/next")))
            await unhappy(fiilis)
            if trusts == "nobody":
                await received(fiilis, 1)
                assert inside.received == []
            else:
                await until_true(lambda: len(inside.received) == 1)
    finally:
        await inside.close()
        _context.cache_clear()


# ---- e-mail


async def test_a_page_by_mail(fiilis: House) -> None:
    """The mail says who needs what, in words, and its link is all it takes to answer."""
    inbox = Inbox(0, 0)
    await inbox.start()
    try:
        await employ(fiilis, smtp=inbox.smtp_port, customer="Päijät-Häme Oy", architect_1=(mail_to("architect-1"),))
        await unhappy(fiilis, comment="Kukaan ei\nsoittanut takaisin 🙁")

        async def came() -> bool:
            return bool(inbox.messages)

        await until(came)
        (mail,) = inbox.messages
        assert mail.to == "architect-1@example.test"
        assert mail.subject == "[critical] Päijät-Häme Oy: Mood 1 of 4 at support"
        assert "Kukaan ei soittanut takaisin 🙁" in mail.text
        (link,) = mail.links
        assert link.startswith(f"{fiilis.address}/a/")
        (attempt,) = await attempts(fiilis, 1)
        assert (attempt["channel"], attempt["address"], attempt["result"]) == ("email", mail.to, "delivered")
        assert "Taken" in (await fiilis.client.post(link)).text
        (page,) = await fiilis.items("/v1/pages")
        assert (page["state"], page["acknowledged_by"]) == ("acknowledged", "architect-1")
    finally:
        await inbox.close()


async def test_a_mail_that_is_sent_again_is_the_same_mail(fiilis: House, relay: MailRelay) -> None:
    """A relay that is busy is asked again later; the Message-ID stays, so that a mail program shows one."""
    relay.on_mail = lambda number: "451 Busy" if number < 3 else "250 Kept as 4711"
    await employ(fiilis, smtp=relay.port, architect_1=(mail_to("architect-1"),))
    await unhappy(fiilis)
    for number in (1, 2):
        await attempts(fiilis, number)
        fiilis.move(seconds=61)
    found = await attempts(fiilis, 3)
    assert [attempt["result"] for attempt in found] == ["temporary", "temporary", "delivered"]
    assert "451" in found[0]["detail"]
    assert "4711" in found[2]["receipt"]
    assert len({mail["Message-ID"] for mail in relay.mails}) == 1
    assert str(relay.mails[0]["Message-ID"]).endswith("@example.test>")
    assert relay.mails[0]["Auto-Submitted"] == "auto-generated"
    assert not fiilis.phone.received


async def test_no_line_break_becomes_a_header(fiilis: House, relay: MailRelay) -> None:
    """What a customer is called, and what its customers write, stays where it belongs."""
    name = "Acme\r\nBcc: everybody@example.test\r\n\r\n<script>"
    await employ(fiilis, smtp=relay.port, customer=name, architect_1=(mail_to("architect-1"),))
    await unhappy(fiilis, comment="Hi\r\n.\r\nRCPT TO:<everybody@example.test>\r\nBcc: everybody@example.test")
    await attempts(fiilis, 1)
    (mail,) = relay.mails
    assert relay.recipients == ["architect-1@example.test"]
    assert mail.get_all("Bcc") is None
    assert mail.get_all("To") == ["architect-1@example.test"]
    assert "Bcc: everybody@example.test" in str(mail["Subject"])
    assert mail.get_content_type() == "text/plain"


async def test_an_address_that_no_mail_can_have(fiilis: House, relay: MailRelay) -> None:
    """A contact that cannot even be written down is no reason to page nobody, or to end the service."""
    bad = (
        "",
        "no address",
        "a@example.test\r\nBcc: b@example.test",
        "ääkkönen@example.test",
        "a@" + "x" * 300 + ".test",
        "a,b@c",
    )
    relay.on_recipient = lambda address: "550 No such mailbox"
    contacts = tuple(Contact("email", address) for address in bad)
    await employ(fiilis, smtp=relay.port, architect_1=(*contacts, call(fiilis, "/architect-1")))
    await unhappy(fiilis)

    async def rung() -> bool:
        fiilis.move(seconds=1)
        return bool(fiilis.phone.received)

    await until(rung, seconds=8, every=0.1)
    assert [r.path for r in fiilis.phone.received] == ["/architect-1"]
    assert set(relay.recipients) <= set(bad), "a mail goes to the contact and to nobody else"


async def test_a_relay_that_is_away(fiilis: House) -> None:
    """It is tried again with patience, then the person's next contact is called."""
    await employ(fiilis, smtp=closed_port(), architect_1=(mail_to("architect-1"), call(fiilis, "/mobile")))
    await unhappy(fiilis)
    for number in (1, 2):
        await attempts(fiilis, number)
        assert not fiilis.phone.received
        fiilis.move(seconds=61)
    found = await attempts(fiilis, 4)
    assert [a["result"] for a in found] == ["temporary", "temporary", "temporary", "delivered"]
    assert [r.path for r in fiilis.phone.received] == ["/mobile"]


async def test_a_recipient_that_is_refused(fiilis: House, relay: MailRelay) -> None:
    """No such mailbox: the next contact at once, without waiting for anything."""
    relay.on_recipient = lambda address: "550 No such mailbox"
    await employ(fiilis, smtp=relay.port, architect_1=(mail_to("left-long-ago"), call(fiilis, "/mobile")))
    await unhappy(fiilis)
    found = await attempts(fiilis, 2)
    assert results(found) == [("left-long-ago@example.test", "permanent"), ("mobile", "delivered")]
    assert "550" in found[0]["detail"]
    assert not relay.mails


async def test_a_person_who_cannot_be_reached(fiilis: House, relay: MailRelay) -> None:
    """The next person at once: five minutes are for people who were reached."""
    relay.on_recipient = lambda address: "550 No such mailbox"
    fiilis.phone.answer = lambda received: 404 if received.path == "/gone" else 204
    await employ(fiilis, smtp=relay.port, architect_1=(mail_to("architect-1"), call(fiilis, "/gone")))
    await unhappy(fiilis)
    found = await attempts(fiilis, 3)
    assert [(a["person"], a["result"]) for a in found] == [
        ("architect-1", "permanent"),
        ("architect-1", "permanent"),
        ("deputy-1", "delivered"),
    ]
    (page,) = await fiilis.items("/v1/pages")
    assert (page["state"], page["person"]) == ("sent", "deputy-1")


async def test_a_person_without_contacts_is_skipped(fiilis: House) -> None:
    """Nor is somebody waited for who has no contact that can be called (no relay is named here, and no SMS channel)."""
    await employ(fiilis, architect_1=(), deputy_1=(mail_to("deputy-1"), Contact("sms", "+358401234567")))
    await unhappy(fiilis)
    (found, *_) = await received(fiilis, 1)
    assert found.path == "/duty-manager"


# ---- webhooks


async def test_a_webhook_says_what_the_contract_says(fiilis: House) -> None:
    """The body and the signature, by the secret that FIILIS_SECRET and the address make."""
    await unhappy(fiilis)
    (page,) = await received(fiilis, 1)
    body = json.loads(page.body)
    assert set(body) == {"type", "timestamp", "data"}
    assert body["type"] == "page"
    fields = "page ticket customer person level severity title summary acknowledge_url"
    assert set(page.data) >= set(fields.split())
    assert (page.data["customer"], page.data["person"], page.data["level"]) == ("acme", "architect-1", 1)
    page.verify(Signer([SECRET]).webhook_secret(fiilis.phone.url("/architect-1")))
    assert page.headers["content-type"] == "application/json"


async def test_a_secret_of_its_own(fiilis: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """`secret_env` signs; one that is not set, or no secret, is a broken contact and not an unsigned call."""
    secret = Signer(["another"]).webhook_secret("x")
    monkeypatch.setenv("HOOK_GOOD", secret)
    monkeypatch.setenv("HOOK_BAD", "no secret at all!")
    monkeypatch.delenv("HOOK_MISSING", raising=False)
    contacts = tuple(
        Contact("webhook", fiilis.phone.url(f"/{name.lower()}"), name)
        for name in ("HOOK_MISSING", "HOOK_BAD", "HOOK_GOOD")
    )
    await employ(fiilis, architect_1=contacts)
    await unhappy(fiilis)
    found = await attempts(fiilis, 3)
    assert results(found) == [("hook_missing", "permanent"), ("hook_bad", "permanent"), ("hook_good", "delivered")]
    (page,) = fiilis.phone.received
    page.verify(secret)


async def test_a_webhook_that_fails_is_called_again(fiilis: House) -> None:
    """500, 500, 204: three calls of one delivery, by one id, each signed afresh."""
    fiilis.phone.answer = lambda _: 500 if len(fiilis.phone.received) < 3 else 204
    await unhappy(fiilis)
    for number in (1, 2):
        found = await attempts(fiilis, number)
        assert found[-1]["result"] == "temporary"
        (page,) = await fiilis.items("/v1/pages")
        assert page["state"] == "pending", "a failed call reached nobody"
        fiilis.move(seconds=61)
    found = await attempts(fiilis, 3)
    assert [a["result"] for a in found] == ["temporary", "temporary", "delivered"]
    assert [a["detail"] for a in found] == ["HTTP 500", "HTTP 500", "HTTP 204"]
    assert {a["address"] for a in found} == {shown_url(fiilis.phone.url("/architect-1"))}
    assert "architect-1" not in found[0]["address"], "what follows the host may be a secret"
    assert len({r.headers["webhook-id"] for r in fiilis.phone.received}) == 1
    assert len({r.headers["webhook-timestamp"] for r in fiilis.phone.received}) == 3
    assert {r.path for r in fiilis.phone.received} == {"/architect-1"}


async def test_only_2xx_is_success(fiilis: House) -> None:
    """What will not be better later goes to the next contact at once; a redirect is not followed."""
    statuses = (301, 302, 303, 304, 307, 308, 400, 401, 403, 404, 410, 422)
    fiilis.phone.headers = {"location": fiilis.phone.url("/elsewhere")}
    fiilis.phone.answer = lambda received: int(received.path[1:])
    await employ(fiilis, architect_1=tuple(call(fiilis, f"/{status}") for status in (*statuses, 299)))
    await unhappy(fiilis)
    found = await attempts(fiilis, len(statuses) + 1)
    assert results(found) == [*((str(status), "permanent") for status in statuses), ("299", "delivered")]
    assert len({r.headers["webhook-id"] for r in fiilis.phone.received}) == len(statuses) + 1, "each its own delivery"


async def test_a_sign_in_page_is_no_delivery(fiilis: House) -> None:
    """A proxy that answers 200 with a page for people has told nobody anything: again, and then the next contact."""
    fiilis.phone.answer = lambda received: 200 if received.path == "/proxy" else 204
    fiilis.phone.body = b"<html><title>Sign in</title></html>"
    await employ(fiilis, architect_1=(call(fiilis, "/proxy"), call(fiilis, "/mobile")))
    await unhappy(fiilis)
    for number in (1, 2):
        await attempts(fiilis, number)
        fiilis.move(seconds=6)
    found = await attempts(fiilis, 4)
    assert results(found) == [*[("proxy", "temporary")] * 3, ("mobile", "delivered")]
    assert found[0]["detail"] == "HTTP 200: the answer is not a webhook's: a web page"


async def test_what_may_be_better_later(fiilis: House) -> None:
    """Too many requests, a gateway's error, a connection that breaks off, nobody who listens: three times, then on."""
    fiilis.phone.answer = _by_path
    failing = ("408", "425", "429", "503", "broken")
    away = Contact("webhook", f"http://127.0.0.1:{closed_port()}/away")
    contacts = (*(call(fiilis, f"/{name}") for name in failing), away, call(fiilis, "/well"))
    await employ(fiilis, architect_1=contacts)
    await unhappy(fiilis)
    for retry in range(2 * (len(failing) + 1)):
        await attempts(fiilis, retry + 1 + retry // 2)
        fiilis.move(seconds=6)  # beyond any wait before a third attempt; the deputy's turn is after 300 s
    found = await attempts(fiilis, 3 * (len(failing) + 1) + 1)
    kinds = {name: "unknown" if name == "broken" else "temporary" for name in (*failing, "away")}
    assert results(found) == [*((name, kind) for name, kind in kinds.items() for _ in range(3)), ("well", "delivered")]


async def test_a_slow_webhook(kafka: Kafka, database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for ever: it may have arrived, so it is sent again with the same id, and then the next contact."""
    monkeypatch.setenv("FIILIS_NOTIFY_CALL_SECONDS", "0.3")
    async with house(kafka, database_url) as fiilis:
        slow = await Phone().start()
        slow.delay = 30
        try:
            await employ(fiilis, architect_1=(Contact("webhook", slow.url("/slow")), call(fiilis, "/mobile")))
            await unhappy(fiilis)
            for number in (1, 2):
                found = await attempts(fiilis, number)
                assert "0.3 s" in found[-1]["detail"]
                fiilis.move(seconds=61)
            found = await attempts(fiilis, 4)
            assert results(found) == [*[("slow", "unknown")] * 3, ("mobile", "delivered")]
            assert len({r.headers["webhook-id"] for r in slow.received}) == 1
        finally:
            await slow.close()


async def test_a_private_address_is_not_called(
    kafka: Kafka, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A contact is written by people: without FIILIS_ALLOW_PRIVATE_TARGETS it cannot reach into our own network."""
    made = houses.Settings
    monkeypatch.setattr(houses, "Settings", lambda **given: made(**{**given, "allow_private_targets": ""}))
    monkeypatch.delenv("FIILIS_ALLOW_PRIVATE_TARGETS", raising=False)
    async with house(kafka, database_url) as fiilis:
        port, relay = fiilis.phone.port, MailRelay()
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: SMTP(relay, hostname="relay.test", loop=loop), "127.0.0.1", 0)
        hosts = (
            "127.0.0.1",
            "localhost",
            "[::1]",
            "[::ffff:127.0.0.1]",
            "0.0.0.0",
            "10.0.0.1",
            "169.254.169.254",
            "2130706433",
        )
        contacts = tuple(Contact("webhook", f"http://{host}:{port}/page") for host in hosts)
        schemes = tuple(
            Contact("webhook", url) for url in ("file:///page", "ftp://example.test/x", "nothing", "http://")
        )
        smtp = server.sockets[0].getsockname()[1]
        await employ(fiilis, smtp=smtp, architect_1=(*contacts, *schemes, mail_to("architect-1")))
        await unhappy(fiilis)
        found = await attempts(fiilis, len(hosts) + len(schemes) + 1)
        assert [a["result"] for a in found[:-1]] == ["permanent"] * (len(found) - 1), found
        assert (found[-1]["channel"], found[-1]["result"]) == ("email", "delivered")
        assert "FIILIS_ALLOW_PRIVATE_TARGETS" in found[0]["detail"]
        assert not fiilis.phone.received
        server.close()


async def test_retry_after_is_honoured(fiilis: House) -> None:
    """Who asks for time gets it, up to a minute: an unhappy customer does not wait an hour for a busy gateway."""
    fiilis.phone.headers = {"retry-after": "45"}
    fiilis.phone.answer = lambda _: 503 if len(fiilis.phone.received) < 3 else 204
    await unhappy(fiilis)
    for number, (asked, waits) in enumerate((("45", 45), ("3600", 60)), 1):
        await attempts(fiilis, number)
        (row,) = await fiilis.sql(
            "SELECT extract(epoch FROM delivery.due_at - attempt.finished_at) FROM notify.attempt "
            "JOIN notify.delivery ON delivery.id = delivery ORDER BY finished_at DESC LIMIT 1"
        )
        assert float(row[0]) == pytest.approx(waits, abs=0.1), asked
        fiilis.phone.headers = {"retry-after": "3600"}
        fiilis.move(seconds=waits + 1)
    found = await attempts(fiilis, 3)
    assert [a["result"] for a in found] == ["temporary", "temporary", "delivered"]


async def test_a_retry_after_that_is_none(fiilis: House) -> None:
    """It is the other side's word: whatever it says, the page is sent again, and soon."""
    headers = ("soon", "-1", "9" * 400, "\u0663", "\u00b2", "1.5", "", "Fri, 31 Dec 9999 23:59:59 GMT")

    def answer(request: Received) -> int:
        fiilis.phone.headers = {"retry-after": headers[int(request.path[1:])] if request.path[1:].isdigit() else ""}
        again = len([r for r in fiilis.phone.received if r.path == request.path]) > 1
        return 204 if request.path == "/deputy-1" else 404 if again else 503

    fiilis.phone.answer = answer
    await employ(fiilis, architect_1=tuple(call(fiilis, f"/{n}") for n in range(len(headers))))
    await unhappy(fiilis)
    for number, header in enumerate(headers):
        await attempts(fiilis, 2 * number + 1)
        fiilis.move(seconds=61 if header.startswith(("999", "Fri")) else 4)
    found = await attempts(fiilis, 2 * len(headers) + 1)
    assert found[-1]["person"] == "deputy-1"


async def test_an_answer_without_end(fiilis: House) -> None:
    """The status is what counts; nobody fills our memory with the rest."""

    async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
            while True:
                writer.write(b"10000\r\n" + bytes(0x10000) + b"\r\n")
                await writer.drain()

    server = await asyncio.start_server(endless, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        await employ(fiilis, architect_1=(Contact("webhook", f"http://127.0.0.1:{port}/endless"),))
        await unhappy(fiilis)
        assert results(await attempts(fiilis, 1)) == [("endless", "delivered")]
    finally:
        server.close()
