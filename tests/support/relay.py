"""A runnable fake of the company's mail relay."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from email import message_from_bytes, policy
from email.message import Message
from typing import Any

from aiosmtpd.smtp import SMTP, Envelope, Session


class MailRelay:
    """A runnable mail relay that keeps what it was given and answers as it is told."""

    def __init__(self) -> None:
        self.mails: list[Message] = []
        self.on_recipient: Callable[[str], str] = lambda _: "250 OK"
        self.on_mail: Callable[[int], str] = lambda _: "250 Kept"
        self.recipients: list[str] = []
        self.port = 0

    async def handle_RCPT(self, server: SMTP, session: Session, envelope: Envelope, address: str, options: Any) -> str:
        self.recipients.append(address)
        answer = self.on_recipient(address)
        if answer.startswith("2"):
            envelope.rcpt_tos.append(address)
        return answer

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        self.mails.append(message_from_bytes(envelope.original_content or b"", policy=policy.default))
        return self.on_mail(len(self.mails))


@contextlib.asynccontextmanager
async def mail_relay() -> AsyncIterator[MailRelay]:
    """Run it."""
    made, loop = MailRelay(), asyncio.get_running_loop()
    server = await loop.create_server(lambda: SMTP(made, hostname="relay.test", loop=loop), "127.0.0.1", 0)
    made.port = server.sockets[0].getsockname()[1]
    yield made
    server.close()
