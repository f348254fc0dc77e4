"""The demo's inbox: what is mailed to it is seen, as text, with its links, and no more than the newest 500."""

from __future__ import annotations

import asyncio
import socket
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from email.message import EmailMessage
from typing import TYPE_CHECKING, Any

import aiosmtplib
import httpx
import pytest

from demo.inbox import HOST, KEPT, SIZE_LIMIT, Inbox, find_links, read_mail
from shared.errors import Misconfigured

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

NOW = datetime(2026, 11, 21, 8, 0, tzinfo=UTC)
ACKNOWLEDGE = "http://127.0.0.1:8080/a/eyJwIjoi.MTIz-_x"


@asynccontextmanager
async def inbox() -> AsyncGenerator[tuple[Inbox, httpx.AsyncClient]]:
    """Run an inbox on free ports, with a browser's view of it."""
    one = Inbox(0, 0)
    await one.start()
    try:
        async with httpx.AsyncClient(base_url=one.address, trust_env=False) as browser:
            yield one, browser
    finally:
        await one.close()


def mail(subject: str = "Acme Oy: mood 1", text: str = f"Please look.\n\nAcknowledge: {ACKNOWLEDGE}\n") -> EmailMessage:
    """Return a mail as notify sends one."""
    message = EmailMessage()
    message["From"] = "fiilis@demo.test"
    message["To"] = "architect-1@demo.test"
    message["Subject"] = subject
    message.set_content(text)
    return message


async def send(to: Inbox, *messages: EmailMessage) -> None:
    """Deliver mails, as any SMTP client does."""
    async with aiosmtplib.SMTP(hostname=HOST, port=to.smtp_port, start_tls=False) as client:
        for message in messages:
            await client.send_message(message)


async def test_a_mail_is_seen_with_its_link() -> None:
    """The link that stops the escalation can be clicked, and found by a script."""
    async with inbox() as (one, browser):
        before = datetime.now(UTC).replace(microsecond=0)
        await send(one, mail("Käyttökatko 😟 " + "pitkä otsikko " * 10))
        page = await browser.get("/")
        listed: list[dict[str, Any]] = (await browser.get("/messages")).json()

    assert page.status_code == 200
    assert f'<a href="{ACKNOWLEDGE}"' in page.text
    assert "architect-1@demo.test" in page.text
    assert "Käyttökatko 😟" in page.text
    (only,) = listed
    assert only.keys() == {"to", "subject", "received_at", "text", "links"}
    assert only["to"] == "architect-1@demo.test"
    assert only["subject"].startswith("Käyttökatko 😟 pitkä otsikko")
    assert only["text"] == f"Please look.\n\nAcknowledge: {ACKNOWLEDGE}"
    assert only["links"] == [ACKNOWLEDGE]
    assert only["received_at"].endswith("Z")
    assert before <= datetime.fromisoformat(only["received_at"]) <= datetime.now(UTC)


async def test_the_newest_is_first_and_all_can_be_dropped() -> None:
    """Whoever looks sees what has just come."""
    async with inbox() as (one, browser):
        await send(one, mail("first"), mail("second"))
        listed = (await browser.get("/messages")).json()
        page = (await browser.get("/")).text
        gone = await browser.delete("/messages")
        left = (await browser.get("/messages")).json()
        empty = (await browser.get("/")).text

    assert [message["subject"] for message in listed] == ["second", "first"]
    assert page.index("second") < page.index("first</h2>")
    assert gone.status_code == 204
    assert left == []
    assert "No mail yet" in empty


async def test_a_mail_brings_no_markup_to_the_page() -> None:
    """A customer's comment is in the mail, and anybody may be a customer."""
    evil = "<script>alert(1)</script>"
    text = f"{evil} <img src=x onerror=alert(1)> javascript:alert(1) https://evil.test/\"onmouseover='x'<b>\n"
    async with inbox() as (one, browser):
        await send(one, mail(f"A&B {evil}", text))
        page = await browser.get("/")

    assert "<script" not in page.text
    assert "<img" not in page.text
    assert "<b>" not in page.text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page.text
    assert "A&amp;B" in page.text
    assert 'href="javascript' not in page.text
    assert '<a href="https://evil.test/" target' in page.text
    rules = page.headers["content-security-policy"]
    assert "default-src 'none'" in rules
    assert "unsafe" not in rules
    assert page.headers["referrer-policy"] == "no-referrer"


async def test_the_page_renews_itself_unless_paused() -> None:
    """Without a script; and whoever reads slowly can stop it."""
    async with inbox() as (_, browser):
        live, paused = [(await browser.get(path)).text for path in ("/", "/?refresh=off")]

    assert '<meta http-equiv="refresh" content="3">' in live
    assert 'http-equiv="refresh"' not in paused


async def test_the_newest_500_are_kept() -> None:
    """A demo that is left running for a weekend does not fill the memory."""
    async with inbox() as (one, browser):
        await send(one, *(mail(f"number {number}", "x") for number in range(KEPT + 5)))
        listed = (await browser.get("/messages")).json()

    assert len(one.messages) == len(listed) == KEPT
    assert listed[0]["subject"] == f"number {KEPT + 4}"
    assert listed[-1]["subject"] == "number 5"


async def test_a_mail_over_the_limit_is_refused() -> None:
    """The sender is told, and the next mail comes through."""
    async with inbox() as (one, _):
        with pytest.raises(aiosmtplib.SMTPException):
            await send(one, mail(text="word " * (SIZE_LIMIT // 4)))
        await send(one, mail("small"))

    assert [message.subject for message in one.messages] == ["small"]


async def test_another_sites_name_does_not_lead_here() -> None:
    """Acknowledge links are secrets; a page elsewhere whose name resolves to this machine must not read them."""
    async with inbox() as (_, browser):
        answer = await browser.get("/messages", headers={"Host": "evil.test"})

    assert answer.status_code == 400


async def test_it_closes_while_a_sender_holds_on() -> None:
    """Ctrl-C ends the demo at once, whoever is still connected."""
    one = Inbox(0, 0)
    await one.start()
    async with asyncio.timeout(10):
        reader, writer = await asyncio.open_connection(HOST, one.smtp_port)
        assert (await reader.readline()).startswith(b"220 ")
        await one.close()
        assert await reader.read() == b""
        writer.close()
    with socket.create_server((HOST, one.smtp_port)):
        pass


async def test_a_taken_port_is_named_and_nothing_stays_open() -> None:
    """The demo says which port to free."""
    with socket.create_server((HOST, 0)) as other:
        taken = other.getsockname()[1]
        one = Inbox(0, taken)
        with pytest.raises(Misconfigured, match=f"{taken}"):
            await one.start()
        await one.close()
    with pytest.raises(OSError, match=r"refused|Connect call failed"):
        await asyncio.open_connection(HOST, one.smtp_port)


@pytest.mark.parametrize(
    ("text", "links"),
    [
        ("see https://a.test/x.", ("https://a.test/x",)),
        ("(https://a.test/x), and http://b.test?q=1&r=2!", ("https://a.test/x", "http://b.test?q=1&r=2")),
        ("<https://a.test> https://a.test", ("https://a.test",)),
        ("https:// http://[ ftp://a.test javascript://a.test mailto:a@b.test", ()),
    ],
)
def test_links_are_found(text: str, links: tuple[str, ...]) -> None:
    """As a person would mark them, without the sentence around them."""
    assert find_links(text) == links


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", ""),
        (b"no header at all", ""),
        (b"Content-Type: text/plain; charset=nonsense\r\n\r\nhei \xff", "hei \ufffd"),
        (b"Content-Type: text/html\r\n\r\n<p>hei</p>", "<p>hei</p>"),
        (b"Content-Type: multipart/mixed\r\n\r\nbroken", ""),
        (b"Subject: =?utf-8?q?=ff?=\r\n\r\nhei", "hei"),
        (b"Content-Type: application/octet-stream\r\n\r\nhei", ""),
    ],
)
def test_a_badly_made_mail_is_kept(content: bytes, text: str) -> None:
    """The inbox shows what there is to see."""
    message = read_mail(content, "a@demo.test", NOW)

    assert message.text.replace("no header at all", "") == text
    message.subject.encode()
