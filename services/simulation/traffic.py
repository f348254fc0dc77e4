"""Simulated answers that a person believes: each customer at a level of its own, and one that goes bad after a minute.

An answer that could not be taken is sent again with the same id; none is made faster than it can be sent. What the
healthy customers say rarely wakes anyone: chance alone breaks none of the rules on a window.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from http import HTTPStatus
from random import Random
from typing import Any, Literal, NoReturn, NotRequired, TypedDict
from uuid import UUID

import httpx

from shared.directory.model import Directory
from shared.runtime.clock import Clock
from shared.runtime.logs import Log
from shared.runtime.retry import Backoff

log = Log("simulation")

BAD_AFTER = timedelta(seconds=60)
WAITING = 1_000
"""Answers that are kept while the service cannot take them; then no new ones are made."""
_SENDERS = 4
_BATCH = 100
"""Answers in one request at most; one is usual, more when a rate is high or a service was away."""
_TIMEOUT_SECONDS = 10.0
_BACKOFF = Backoff(base=0.5, cap=5.0)
_LATE_SECONDS = 1.0
"""What is missed by more than this (a laptop slept, the service was away) is not caught up."""

RESPONDENTS = 400
_NPS_SHARE = 0.6
_COMMENT_SHARE = 0.15
_ANONYMOUS_SHARE = 0.08
_FINNISH_EVERY = 3
_SPOILT_SHARE = 0.7
"""Of a bad customer's answers, those about what went wrong."""
_SPOILT = ("support", "billing")
"""What goes wrong at a bad customer; its first two touchpoints where it has neither."""

_CHANNELS = {
    "nps": {"email": 50, "widget": 38, "phone": 12},
    "mood": {"widget": 55, "kiosk": 25, "email": 12, "phone": 8},
}

_PRAISE = {
    "en": (
        "Quick answer and a friendly person.",
        "Everything worked the first time.",
        "You called back when you said you would.",
        "Clear instructions, thank you.",
        "Easy to deal with, as always.",
    ),
    "fi": (
        "Nopea vastaus ja ystävällinen palvelu.",
        "Kaikki toimi kerralla.",
        "Kiitos, asia hoitui sovitusti.",
        "Selkeät ohjeet.",
        "Teidän kanssanne on helppo asioida.",
    ),
}
_COMPLAINTS = {
    "en": (
        "I have waited for an answer for three days.",
        "Nobody called me back.",
        "The same thing went wrong again.",
        "I had to explain everything to three different people.",
        "I was promised it would be ready last week.",
    ),
    "fi": (
        "Olen odottanut vastausta kolme päivää.",
        "Kukaan ei soittanut takaisin.",
        "Sama asia meni taas pieleen.",
        "Jouduin selittämään asiani kolmelle eri ihmiselle.",
        "Luvattiin valmiiksi viime viikolla.",
    ),
}


class Answer(TypedDict):
    """One answer as it is posted (contract, section 4)."""

    id: str
    customer: str
    kind: Literal["nps", "mood"]
    score: int
    touchpoint: NotRequired[str]
    channel: str
    language: str
    occurred_at: str
    respondent: NotRequired[str]
    contact: NotRequired[str]
    comment: NotRequired[str]


@dataclass(frozen=True, slots=True)
class Simulated:
    """A customer that gets answers."""

    id: str
    touchpoints: tuple[str, ...]
    """None of them: its answers name no touchpoint."""


def customers_of(directory: Directory) -> list[Simulated]:
    """Return every customer of a directory with its touchpoints."""
    return [Simulated(c.id, c.touchpoints or directory.touchpoints) for c in directory.customers.values()]


@dataclass(frozen=True, slots=True)
class Profile:
    """How content a healthy customer is."""

    nps: float
    """20..55."""
    mood: float
    """Mean of the four faces, 3.0..3.3."""


PROFILES = (Profile(44, 3.18), Profile(31, 3.1), Profile(52, 3.24), Profile(24, 3.02), Profile(36, 3.1))
"""By the customer's place in the list, again from the start when it is longer."""

_UNHAPPY_ONE = 0.002
"""Each one is a page: at 5 answers a second, one in some minutes among all."""
_UNHAPPY_TWO = 0.12
_DETRACTORS = (1, 1, 1, 2, 5, 12, 18)
"""Weights of 0..6: the mildly disappointed are the most."""
_PASSIVES = (2, 3)
_PROMOTERS = (3, 2)
_BAD_DETRACTORS = (5, 4, 6, 8, 9, 10, 8)
_BAD_NPS = (0.58, 0.24, 0.18)
"""Shares of detractors, passives and promoters: an NPS of -40."""
_BAD_MOODS = (0.38, 0.40, 0.17, 0.05)


def next_answer(customer: Simulated, profile: Profile, random: Random, now: datetime, *, bad: bool) -> Answer:
    """Return an answer of a customer, given now; the chance is all in `random`."""
    kind: Literal["nps", "mood"] = "nps" if random.random() < _NPS_SHARE else "mood"
    spoilt = [name for name in customer.touchpoints if name in _SPOILT] or customer.touchpoints[: len(_SPOILT)]
    if not customer.touchpoints:
        touchpoint = None
    elif bad and random.random() < _SPOILT_SHARE:
        touchpoint = random.choice(spoilt)
    else:
        touchpoint = random.choice(customer.touchpoints)
    score = _nps(profile, random, bad=bad) if kind == "nps" else _mood(profile, random, bad=bad)
    if kind == "mood" and score == 1 and bad and touchpoint not in spoilt and touchpoint is not None:
        # A ticket and a page for each touchpoint there is would hide the story in a flood.
        score = 2
    channel = _drawn(_CHANNELS[kind], random)
    number = random.randint(1, RESPONDENTS)
    language = "en" if number % _FINNISH_EVERY else "fi"
    answer = Answer(
        id=str(UUID(int=random.getrandbits(128), version=4)),
        customer=customer.id,
        kind=kind,
        score=score,
        channel=channel,
        language=language,
        occurred_at=now.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
    )
    if touchpoint is not None:
        answer["touchpoint"] = touchpoint
    # A kiosk does not know who presses a face.
    if channel != "kiosk" and random.random() >= _ANONYMOUS_SHARE:
        answer["respondent"] = f"r-{number}"
        if channel == "email" and _unhappy(answer):
            # Is asked, when the ticket is resolved, whether it was put right.
            answer["contact"] = f"r-{number}@{customer.id}.demo.test"
    if random.random() < _COMMENT_SHARE:
        sentences = _COMPLAINTS if _unhappy(answer) else _PRAISE
        answer["comment"] = random.choice(sentences[language])
    return answer


def _nps(profile: Profile, random: Random, *, bad: bool) -> int:
    if bad:
        shares = _BAD_NPS
    else:
        detractors = 0.22 - 0.2 * profile.nps / 100
        promoters = detractors + profile.nps / 100
        shares = (detractors, 1 - detractors - promoters, promoters)
    side = random.choices(("detractor", "passive", "promoter"), shares)[0]
    if side == "promoter":
        return random.choices((9, 10), _PROMOTERS)[0]
    if side == "passive":
        return random.choices((7, 8), _PASSIVES)[0]
    return random.choices(range(7), _BAD_DETRACTORS if bad else _DETRACTORS)[0]


def _mood(profile: Profile, random: Random, *, bad: bool) -> int:
    if bad:
        shares = _BAD_MOODS
    else:
        delighted = profile.mood - 3 + 2 * _UNHAPPY_ONE + _UNHAPPY_TWO
        shares = (_UNHAPPY_ONE, _UNHAPPY_TWO, 1 - _UNHAPPY_ONE - _UNHAPPY_TWO - delighted, delighted)
    return random.choices((1, 2, 3, 4), shares)[0]


def _drawn(weights: dict[str, int], random: Random) -> str:
    return random.choices(list(weights), list(weights.values()))[0]


def _unhappy(answer: Answer) -> bool:
    return answer["score"] <= (6 if answer["kind"] == "nps" else 2)


class Standing:
    """What a healthy customer has said so far, so that bad luck among its first few answers pages nobody.

    Of ten answers of an NPS of +24 every eighth sample is below 0; such a start says nothing and spoils the story.
    """

    LOWEST_NPS = 5.0
    MOST_UNHAPPY = 1 / 3
    """Of the faces of the window, well under the half at which a burst is one."""
    WINDOW = timedelta(minutes=15)

    def __init__(self) -> None:
        self._answers = 0
        self._balance = 0
        """Promoters less detractors."""
        self._faces: deque[tuple[datetime, bool]] = deque()

    def bears(self, answer: Answer, now: datetime) -> bool:
        """Return whether the customer still looks healthy with this answer."""
        if not _unhappy(answer):
            return True
        if answer["kind"] == "nps":
            return 100 * (self._balance - 1) / (self._answers + 1) >= self.LOWEST_NPS
        while self._faces and self._faces[0][0] <= now - self.WINDOW:
            self._faces.popleft()
        unhappy = sum(unhappy for _, unhappy in self._faces)
        return (unhappy + 1) / (len(self._faces) + 1) <= self.MOST_UNHAPPY

    def add(self, answer: Answer, now: datetime) -> None:
        """Take note of an answer that was given."""
        if answer["kind"] == "mood":
            self._faces.append((now, _unhappy(answer)))
            return
        self._answers += 1
        self._balance += (answer["score"] >= 9) - _unhappy(answer)


@dataclass(slots=True)
class Counts:
    """What became of the answers."""

    sent: int = 0
    """Each once, however often it was tried."""
    accepted: int = 0
    rejected: int = 0
    """Always 0, but for our own bugs."""


class Traffic:
    """Posts simulated answers at a rate until it is cancelled."""

    def __init__(
        self,
        base_url: str,
        key: str,
        rate: float,
        customers: Sequence[Simulated],
        *,
        clock: Clock,
        seed: int | None = None,
        bad_customer: str | None = None,
    ) -> None:
        """`rate` is answers per second; `bad_customer` is the second one when not given. Raises ValueError."""
        if not rate > 0:
            raise ValueError(f"the rate must be above 0 answers a second, not {rate}")
        if not customers:
            raise ValueError("the directory has no customer to simulate answers of")
        self.bad_customer = bad_customer or customers[min(1, len(customers) - 1)].id
        if self.bad_customer not in {customer.id for customer in customers}:
            raise ValueError(f"there is no customer {self.bad_customer!r} to go bad")
        self.counts = Counts()
        self._url = f"{base_url.rstrip('/')}/v1/feedback"
        self._key = key
        self._rate = rate
        self._customers = list(zip(customers, itertools.cycle(PROFILES), strict=False))
        self._standing = {customer.id: Standing() for customer in customers}
        self._clock = clock
        self._random = Random(seed)
        self._waiting: asyncio.Queue[Answer] = asyncio.Queue(WAITING)

    async def run(self) -> NoReturn:
        """Make and send answers for as long as this runs."""
        headers = {"Authorization": f"Bearer {self._key}"}
        # The environment's proxy is not asked: the demo talks to this machine.
        async with (
            httpx.AsyncClient(headers=headers, timeout=_TIMEOUT_SECONDS, trust_env=False) as client,
            asyncio.TaskGroup() as tasks,
        ):
            tasks.create_task(self._make(), name="traffic make")
            for number in range(_SENDERS):
                tasks.create_task(self._send_all(client), name=f"traffic send {number}")
        raise AssertionError("the traffic ended by itself")

    async def _make(self) -> NoReturn:
        loop = asyncio.get_running_loop()
        turns_bad = self._clock.now() + BAD_AFTER
        due = loop.time()
        while True:
            await self._waiting.put(self._answer(turns_bad))
            # People come independently of each other, not by a metronome.
            due = max(due, loop.time() - _LATE_SECONDS) + self._random.expovariate(self._rate)
            await asyncio.sleep(max(0.0, due - loop.time()))

    def _answer(self, turns_bad: datetime) -> Answer:
        now = self._clock.now()
        customer, profile = self._random.choice(self._customers)
        if customer.id == self.bad_customer and now >= turns_bad:
            return next_answer(customer, profile, self._random, now, bad=True)
        standing = self._standing[customer.id]
        while True:
            answer = next_answer(customer, profile, self._random, now, bad=False)
            if standing.bears(answer, now):
                standing.add(answer, now)
                return answer

    async def _send_all(self, client: httpx.AsyncClient) -> NoReturn:
        while True:
            batch = [await self._waiting.get()]
            while len(batch) < _BATCH and not self._waiting.empty():
                batch.append(self._waiting.get_nowait())
            self.counts.sent += len(batch)
            await self._send(client, batch)

    async def _send(self, client: httpx.AsyncClient, batch: Sequence[Answer]) -> None:
        for attempt in itertools.count(1):
            try:
                response = await client.post(self._url, json=batch)
            except httpx.TransportError as error:
                why, wait = repr(error), _BACKOFF.delay(attempt)
            else:
                if not _try_again(response.status_code):
                    self._count(batch, response)
                    return
                why = f"status {response.status_code}"
                wait = max(_retry_after(response), _BACKOFF.delay(attempt))
            log.debug("simulated answers wait", why=why, answers=len(batch), seconds=round(wait, 1))
            await asyncio.sleep(wait)

    def _count(self, batch: Sequence[Answer], response: httpx.Response) -> None:
        results = _results(response)
        if results is None:
            self.counts.rejected += len(batch)
            log.error(
                "simulated answers rejected", status=response.status_code, answers=len(batch), body=response.text[:500]
            )
            return
        for result in results:
            if result["status"] == "accepted":
                self.counts.accepted += 1
            else:
                self.counts.rejected += 1
                log.error("simulated answer rejected", id=result.get("id"), error=result.get("error"))


def _try_again(status: int) -> bool:
    return status == HTTPStatus.TOO_MANY_REQUESTS or status >= HTTPStatus.INTERNAL_SERVER_ERROR


def _retry_after(response: httpx.Response) -> float:
    """Return the seconds that the service asks for, 0 when it names none (a date counts as none)."""
    value = response.headers.get("Retry-After", "")
    return min(float(value), _BACKOFF.cap) if value.isdigit() else 0.0


def _results(response: httpx.Response) -> list[dict[str, Any]] | None:
    """Return what became of each answer, or None when the request was refused as a whole."""
    if response.status_code not in {HTTPStatus.ACCEPTED, HTTPStatus.UNPROCESSABLE_ENTITY}:
        return None
    try:
        return response.json().get("results")
    except ValueError:
        return None
