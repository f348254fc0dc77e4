"""Asks respondents by mail whether it was put right. A letter that cannot be sent wakes nobody."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from email.message import EmailMessage
from typing import NamedTuple

from services.notify.channels import Result
from services.notify.channels.email import Mailer
from services.notify.domain.texts import one_line
from services.notify.store import follow_up_mail as store
from services.notify.store.follow_up_mail import Letter
from shared.directory.model import Directory
from shared.errors import Transient
from shared.runtime.due import DueLoop
from shared.runtime.logs import Log, tracing
from shared.runtime.progress import STALE_SECONDS
from shared.runtime.retry import Backoff
from shared.runtime.runtime import Runtime

log = Log("notify")

_AT_ONCE = 20
_ATTEMPTS = 20
"""Some three days."""
_KEPT = timedelta(days=30)
_RETRY = Backoff(60, 21_600)
_LEASE_MARGIN = timedelta(seconds=5)


class Words(NamedTuple):
    """A letter in one language."""

    subject: str
    text: str


_WORDS = {
    "en": Words(
        "Was it put right?",
        "You told {company} about something that was not as it should be. It has been taken care of.\n\n"
        "Was it put right? One click tells us:\n\n{url}\n\n"
        "If it was not, we take it up again.\n",
    ),
    "fi": Words(
        "Tuliko asia kuntoon?",
        "Kerroit meille ({company}) asiasta, joka ei ollut kunnossa. Se on nyt hoidettu.\n\n"
        "Tuliko asia kuntoon? Vastaa yhdellä napsautuksella:\n\n{url}\n\n"
        "Jos ei tullut, otamme sen uudelleen hoitoon.\n",
    ),
    "sv": Words(
        "Blev det bra?",
        "Du berättade för oss ({company}) om något som inte var som det skulle. Det är nu åtgärdat.\n\n"
        "Blev det bra? Svara med ett klick:\n\n{url}\n\n"
        "Om det inte blev bra tar vi upp det igen.\n",
    ),
}


class FollowUpMail:
    """Sends the letters that are due."""

    def __init__(self, runtime: Runtime, mailer: Mailer, *, call_seconds: float) -> None:
        self._database = runtime.database
        self._directory = runtime.directory
        self._mailer = mailer
        self._clock = runtime.clock
        self._lease = timedelta(seconds=call_seconds) + _LEASE_MARGIN
        self._quarantine = runtime.quarantine
        within = STALE_SECONDS + call_seconds  # a turn ends with its slowest call
        self.loop = DueLoop("notify", "letters", self._work, runtime.quarantine, at_once=_AT_ONCE, within=within)

    async def _work(self, limit: int) -> int:
        revision = self._directory.current
        if revision is None:
            return 0
        async with self._database.transaction() as tx:
            claimed = await store.claim(tx, self._clock.now(), limit, self._lease)
        async with asyncio.TaskGroup() as calls:
            for letter in claimed:
                calls.create_task(self._do(letter, revision.directory))
        return len(claimed)

    async def forget(self) -> None:
        """Delete letters that were sent, or given up, long ago."""
        async with self._database.transaction() as tx:
            await store.forget(tx, self._clock.now() - _KEPT)

    async def _do(self, letter: Letter, directory: Directory) -> None:
        """Send a letter and store what came of it; what it brings out is its own."""
        try:
            with tracing(letter.traceparent):
                async with self._quarantine.containing(store.QUEUE, letter.message.id):
                    await self._store(letter, await self._send(letter, directory))
        except Transient as error:
            # The lease brings the letter back, with the same key.
            log.warning("result not stored", letter=letter.message.id, why=str(error))

    async def _send(self, letter: Letter, directory: Directory) -> Result:
        message = letter.message
        assert message.contact is not None
        words = _WORDS.get(message.language[:2].lower(), _WORDS["en"])
        mail = EmailMessage()
        mail["Subject"] = one_line(words.subject)
        mail.set_content(words.text.format(company=directory.company, url=message.survey_url))
        try:
            return await self._mailer.send(
                mail, message.contact, directory.smtp, key=str(message.id), at=self._clock.now()
            )
        except Exception as error:  # noqa: BLE001
            # The address is a respondent's: what it brings out ends this letter, and waits for nobody to release it.
            log.error("letter failed", failure=error, letter=message.id)
            return Result("permanent", f"our fault: {type(error).__name__}")

    async def _store(self, letter: Letter, result: Result) -> None:
        again = result.kind in {"temporary", "unknown"} and letter.attempt < _ATTEMPTS
        state = "sent" if result.kind == "delivered" else "pending" if again else "failed"
        wait = timedelta(seconds=max(_RETRY.delay(letter.attempt), result.retry_after or 0))
        now = self._clock.now()
        async with self._database.transaction() as tx:
            due_at = now + wait if again else None
            await store.finish(tx, letter.message.id, state, result.detail, due_at=due_at, now=now)
        say = log.info if state == "sent" else log.warning
        # Not what the relay said: it may say the respondent's address back.
        say(f"follow-up {state}", letter=letter.message.id, ticket=letter.message.ticket)
