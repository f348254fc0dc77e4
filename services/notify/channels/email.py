"""E-mail by SMTP: plain text that a phone shows at a glance, with one link to answer."""

from __future__ import annotations

import asyncio
import os
import re
from datetime import datetime
from email.message import EmailMessage
from email.utils import format_datetime

import aiosmtplib

from services.notify.channels import Notice, Result
from shared.directory.model import Directory, Smtp

_ADDRESS = re.compile(r"[^@\s,;<>\"()]{1,64}@[^@\s,;<>\"()]{1,189}")


class EmailChannel:
    """Mails what a person is told."""

    def __init__(self, mailer: Mailer) -> None:
        self._mailer = mailer

    def ready(self, directory: Directory) -> bool:
        """Need a relay."""
        return directory.smtp is not None

    async def send(self, notice: Notice) -> Result:
        """Hand a mail to the relay."""
        mail = EmailMessage()
        mail["Subject"] = notice.words.subject
        if notice.page is not None:
            mail["X-Fiilis-Page"] = str(notice.page.id)
        mail.set_content(notice.words.text)
        return await self._mailer.send(
            mail, notice.contact.address, notice.directory.smtp, key=notice.key, at=notice.at
        )


class Mailer:
    """Hands mails to the relay that the directory names."""

    def __init__(self, seconds: float) -> None:
        """`seconds`: how long the relay may take."""
        self._seconds = seconds

    async def send(self, mail: EmailMessage, address: str, smtp: Smtp | None, *, key: str, at: datetime) -> Result:
        """Hand a mail to the relay. `key` is the same on every attempt, so that a mail program shows a repeat once."""
        if smtp is None:
            return Result("permanent", "the directory has no channels.smtp")
        try:
            user, password = _secret(smtp.user_env), _secret(smtp.password_env)
        except KeyError as missing:
            return Result("permanent", f"environment variable {missing.args[0]} is not set")
        if not _ADDRESS.fullmatch(address):
            return Result("permanent", "the contact is not one e-mail address")
        try:
            mail["From"] = smtp.sender
            mail["To"] = address
            mail["Date"] = format_datetime(at)
            mail["Message-ID"] = f"<{key}@{smtp.sender.rpartition('@')[2]}>"
            mail["Auto-Submitted"] = "auto-generated"
            # In all: a relay that answers each command in time could otherwise hold us for as many times as there are.
            async with asyncio.timeout(self._seconds):
                _, answer = await aiosmtplib.send(
                    mail,
                    recipients=[address],
                    hostname=smtp.host,
                    port=smtp.port,
                    username=user,
                    password=password,
                    use_tls=smtp.tls == "implicit",
                    start_tls=smtp.tls == "starttls",
                    cert_bundle=smtp.ca_file,
                    timeout=self._seconds,
                )
        except (aiosmtplib.SMTPRecipientsRefused, aiosmtplib.SMTPResponseException) as error:
            return _refused(error)
        except aiosmtplib.SMTPConnectError as error:
            return Result("temporary", f"no connection to {smtp.host}:{smtp.port}: {error}")
        except TimeoutError:
            return Result("unknown", f"no answer within {self._seconds:g} s")
        except OSError as error:
            return Result("temporary", f"no connection to {smtp.host}:{smtp.port}: {error}")
        except ValueError as error:  # a part that no mail can have
            return Result("permanent", f"the mail cannot be written: {error}")
        except aiosmtplib.SMTPException as error:
            return Result("unknown", f"{type(error).__name__}: {error}")
        return Result("delivered", "accepted by the relay", receipt=answer[:200])


def _secret(name: str | None) -> str | None:
    return None if name is None else os.environ[name]


def _refused(error: aiosmtplib.SMTPRecipientsRefused | aiosmtplib.SMTPResponseException) -> Result:
    first = error.recipients[0] if isinstance(error, aiosmtplib.SMTPRecipientsRefused) else error
    return Result("temporary" if 400 <= first.code < 500 else "permanent", f"{first.code} {first.message}")
