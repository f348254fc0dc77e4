"""The demo's answers: always valid, believable, quiet where the customer is healthy, and bad where it went bad."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections import Counter
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from random import Random
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.simulation.traffic import (
    BAD_AFTER,
    PROFILES,
    RESPONDENTS,
    WAITING,
    Answer,
    Profile,
    Simulated,
    Standing,
    Traffic,
    next_answer,
)
from shared.runtime.clock import MovableClock, SystemClock

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

NOW = datetime(2026, 11, 21, 8, 0, tzinfo=UTC)
ACME = Simulated("acme", ("sales", "production", "support", "billing"))
BOREALIS = Simulated("borealis", ("support", "billing"))

profiles = st.builds(Profile, st.floats(20, 55), st.floats(3.0, 3.3))
customers = st.builds(Simulated, st.just("acme"), st.lists(st.sampled_from(ACME.touchpoints), unique=True).map(tuple))


def answers(count: int, *, profile: Profile = PROFILES[0], bad: bool = False, seed: int = 7) -> list[Answer]:
    """Return what a customer says in a while."""
    random = Random(seed)
    return [next_answer(ACME, profile, random, NOW, bad=bad) for _ in range(count)]


def nps(given: list[Answer]) -> float:
    """Return the NPS of answers."""
    scores = [answer["score"] for answer in given if answer["kind"] == "nps"]
    return 100 * (sum(score >= 9 for score in scores) - sum(score <= 6 for score in scores)) / len(scores)


def moods(given: list[Answer]) -> list[int]:
    """Return the faces among answers."""
    return [answer["score"] for answer in given if answer["kind"] == "mood"]


# ---- one answer


@given(customers, profiles, st.randoms(use_true_random=False), st.booleans(), st.datetimes(timezones=st.just(UTC)))
def test_an_answer_is_always_valid(
    customer: Simulated, profile: Profile, random: Random, bad: bool, now: datetime
) -> None:
    """A demo that posts what its own service refuses would be a poor one."""
    answer = next_answer(customer, profile, random, now, bad=bad)

    assert json.loads(json.dumps(answer)) == answer
    assert answer.keys() <= Answer.__required_keys__ | Answer.__optional_keys__
    assert str(UUID(answer["id"])) == answer["id"]
    assert answer["customer"] == customer.id
    low, high = {"nps": (0, 10), "mood": (1, 4)}[answer["kind"]]
    assert low <= answer["score"] <= high
    assert answer.get("touchpoint") in (customer.touchpoints or (None,))
    assert answer["channel"] in {"widget", "email", "kiosk", "phone"}
    assert answer["language"] in {"en", "fi"}
    at = datetime.fromisoformat(answer["occurred_at"])
    assert timedelta() <= now - at < timedelta(milliseconds=1)
    if "respondent" in answer:
        assert re.fullmatch(r"r-\d+", answer["respondent"])
        assert 1 <= int(answer["respondent"][2:]) <= RESPONDENTS
    if "comment" in answer:
        assert 0 < len(answer["comment"]) <= 200


@given(st.integers(), st.booleans())
def test_an_answer_follows_from_the_chance_alone(seed: int, bad: bool) -> None:
    """A seed tells the same story again."""
    first, second = (next_answer(ACME, PROFILES[0], Random(seed), NOW, bad=bad) for _ in range(2))

    assert first == second


def test_the_mix_is_believable() -> None:
    """Both kinds, every touchpoint and channel, few without a name, some with a comment."""
    given = answers(20_000)
    count = len(given)

    assert sum(a["kind"] == "nps" for a in given) / count == pytest.approx(0.6, abs=0.02)
    assert sum("comment" in a for a in given) / count == pytest.approx(0.15, abs=0.01)
    assert 0.05 < sum("respondent" not in a for a in given) / count < 0.25
    assert Counter(a["channel"] for a in given).keys() == {"widget", "email", "kiosk", "phone"}
    touchpoints = Counter(a.get("touchpoint") for a in given)
    assert touchpoints.keys() == set(ACME.touchpoints)
    assert min(touchpoints.values()) > count / 5
    assert len({a.get("respondent") for a in given}) == RESPONDENTS + 1
    assert all("respondent" not in a for a in given if a["channel"] == "kiosk")


def test_comments_fit_the_score() -> None:
    """Nobody praises with a 2; both languages are heard."""
    given = [a for a in answers(20_000) + answers(20_000, bad=True) if "comment" in a]
    unhappy = {a.get("comment") for a in given if a["score"] <= (6 if a["kind"] == "nps" else 2)}
    happy = {a.get("comment") for a in given if a["score"] > (6 if a["kind"] == "nps" else 2)}

    assert unhappy.isdisjoint(happy)
    assert len(unhappy) == len(happy) == 10
    assert {a["language"] for a in given} == {"en", "fi"}


def test_a_respondent_keeps_the_language() -> None:
    """One person does not change from one language to another."""
    spoken = {(a["respondent"], a["language"]) for a in answers(20_000) if "respondent" in a}

    assert len(spoken) == RESPONDENTS


@pytest.mark.parametrize("profile", PROFILES)
def test_a_healthy_customer_stands_at_its_own_level(profile: Profile) -> None:
    """The customers are told apart by their numbers."""
    given = answers(50_000, profile=profile)

    assert 20 <= profile.nps <= 55
    assert nps(given) == pytest.approx(profile.nps, abs=2)
    assert sum(moods(given)) / len(moods(given)) == pytest.approx(profile.mood, abs=0.02)


def test_a_healthy_customer_rarely_wakes_anyone() -> None:
    """Every mood of 1 is a page."""
    faces = moods(answers(200_000))

    assert 0 < faces.count(1) / len(faces) < 0.003


def test_a_bad_customer_is_bad() -> None:
    """An NPS of about -40, and mostly unhappy faces."""
    given = answers(50_000, bad=True)
    faces = Counter(moods(given))

    assert nps(given) == pytest.approx(-40, abs=2)
    assert (faces[1] + faces[2]) / faces.total() > 0.7
    assert faces[1] / faces.total() > 0.2


def test_a_bad_customer_pages_for_two_touchpoints_only() -> None:
    """A ticket for each touchpoint would hide the story in a flood."""
    unhappiest = {a.get("touchpoint") for a in answers(20_000, bad=True) if a["kind"] == "mood" and a["score"] == 1}

    assert unhappiest == {"support", "billing"}


# ---- healthy, and seen to be


@settings(deadline=None)
@given(profiles, st.integers(0, 2**32))
def test_chance_breaks_no_rule_on_a_window(profile: Profile, seed: int) -> None:
    """Bad luck among the first answers would page somebody for nothing."""
    random, standing = Random(seed), Standing()
    told: list[Answer] = []
    while len(told) < 120:
        answer = next_answer(ACME, profile, random, NOW, bad=False)
        if not standing.bears(answer, NOW):
            continue
        standing.add(answer, NOW)
        told.append(answer)
        faces = moods(told)
        assert len(faces) < 4 or sum(face <= 2 for face in faces) / len(faces) <= 0.5
        assert sum(a["kind"] == "nps" for a in told) < 10 or nps(told) >= 0


def test_yesterdays_faces_do_not_excuse_todays() -> None:
    """The burst is judged on fifteen minutes, and so is what the customer can bear."""
    standing, random = Standing(), Random(1)
    happy = next(
        a for a in iter(lambda: next_answer(ACME, PROFILES[0], random, NOW, bad=False), None) if a["score"] == 3
    )
    unhappy: Answer = {**happy, "score": 2}
    for _ in range(10):
        standing.add({**happy, "kind": "mood"}, NOW)

    assert standing.bears({**unhappy, "kind": "mood"}, NOW)
    assert not standing.bears({**unhappy, "kind": "mood"}, NOW + timedelta(minutes=16))


# ---- on the wire


class Service:
    """A service that takes answers, or does not, and remembers what it got."""

    def __init__(self) -> None:
        self.url = ""
        self.requests: list[tuple[str, list[dict[str, Any]]]] = []
        self.reply: Callable[[list[dict[str, Any]]], tuple[int, dict[str, Any]]] = taken

    @property
    def answers(self) -> list[dict[str, Any]]:
        """Return every answer that came, in order, repeats too."""
        return [answer for _, batch in self.requests for answer in batch]

    async def until(self, come: Callable[[], bool]) -> None:
        """Wait for what the traffic must do."""
        async with asyncio.timeout(20):
            while not come():
                await asyncio.sleep(0.01)

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request."""
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            length = re.search(r"content-length: (\d+)", head, re.IGNORECASE)
            assert length is not None
            batch = json.loads(await reader.readexactly(int(length[1])))
            self.requests.append((head, batch))
            status, body = self.reply(batch)
            content = json.dumps(body).encode()
            writer.write(b"HTTP/1.1 %d X\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % (status, len(content)))
            writer.write(content)
            await writer.drain()
        writer.close()


def taken(batch: list[dict[str, Any]]) -> tuple[int, dict[str, Any]]:
    """Accept every answer."""
    results = [{"id": answer["id"], "status": "accepted"} for answer in batch]
    return 202, {"accepted": len(batch), "rejected": 0, "results": results}


def refused(batch: list[dict[str, Any]]) -> tuple[int, dict[str, Any]]:
    """Reject every answer as invalid."""
    problem = {"code": "invalid", "status": 422}
    results = [{"id": answer["id"], "status": "rejected", "error": problem} for answer in batch]
    return 422, {"accepted": 0, "rejected": len(batch), "results": results}


@asynccontextmanager
async def listening() -> AsyncGenerator[Service]:
    """Run a service."""
    service = Service()
    server = await asyncio.start_server(service.handle, "127.0.0.1", 0)
    service.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield service
    finally:
        server.close()


@asynccontextmanager
async def running(traffic: Traffic) -> AsyncGenerator[None]:
    """Run traffic for a while."""
    task = asyncio.create_task(traffic.run())
    try:
        yield
        assert not task.done()
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def test_answers_are_posted_with_the_key() -> None:
    """They come in by the front door."""
    async with listening() as service:
        traffic = Traffic(service.url + "/", "sk_demo", 500, [ACME, BOREALIS], clock=SystemClock(), seed=1)
        async with running(traffic):
            await service.until(lambda: traffic.counts.accepted >= 50)

    head, _ = service.requests[0]
    assert head.startswith("POST /v1/feedback HTTP/1.1")
    assert "authorization: bearer sk_demo" in head.lower()
    assert {answer["customer"] for answer in service.answers} == {"acme", "borealis"}
    assert len({answer["id"] for answer in service.answers}) == len(service.answers)
    assert traffic.counts.rejected == 0


async def test_what_was_not_taken_is_sent_again_with_its_id() -> None:
    """A service that is away for a moment loses nothing and counts nothing twice."""
    async with listening() as service:
        service.reply = lambda _: (503, {"code": "not-durable"})
        traffic = Traffic(service.url, "sk_demo", 200, [ACME, BOREALIS], clock=SystemClock(), seed=1)
        async with running(traffic):
            await service.until(lambda: len(service.requests) >= 4)
            turned_away = {answer["id"] for answer in service.answers}
            assert traffic.counts.accepted == 0
            before = len(service.requests)
            service.reply = taken
            await service.until(lambda: turned_away <= {a["id"] for _, b in service.requests[before:] for a in b})

    assert traffic.counts.rejected == 0


async def test_what_waits_is_bounded() -> None:
    """A demo left alone with its service down does not fill the memory."""
    async with listening() as service:
        service.reply = lambda _: (503, {})
        traffic = Traffic(service.url, "sk_demo", 1e9, [ACME], clock=SystemClock(), seed=1)
        async with running(traffic):
            await service.until(lambda: len(service.requests) >= 8)
            # One hundred in the hands of each of four senders, and what waits behind them.
            assert traffic.counts.sent <= 400
            assert traffic._waiting.qsize() <= WAITING  # pyright: ignore[reportPrivateUsage]


async def test_a_refused_answer_is_an_error(caplog: pytest.LogCaptureFixture) -> None:
    """It would be our own bug, and must be seen."""
    async with listening() as service:
        service.reply = refused
        traffic = Traffic(service.url, "sk_demo", 100, [ACME], clock=SystemClock(), seed=1)
        async with running(traffic):
            await service.until(lambda: traffic.counts.rejected >= 3)

    assert any(r.levelno == logging.ERROR and r.name == "simulation" for r in caplog.records)
    assert traffic.counts.accepted == 0


async def test_the_second_customer_goes_bad_after_a_minute() -> None:
    """What the demo is there to show."""
    clock = MovableClock()
    async with listening() as service:
        traffic = Traffic(service.url, "sk_demo", 2_000, [ACME, BOREALIS], clock=clock, seed=1)
        async with running(traffic):
            await service.until(lambda: len(service.answers) >= 600)
            good = len(service.answers)
            clock.move(BAD_AFTER)
            await service.until(lambda: len(service.answers) >= good + WAITING + 1_500)

    # What was made before the clock moved may have come after it; its own time tells.
    moved = max(datetime.fromisoformat(a["occurred_at"]) for _, b in service.requests for a in b) - BAD_AFTER / 2
    early = [a for a in service.answers if datetime.fromisoformat(a["occurred_at"]) < moved]
    late = [a for a in service.answers if datetime.fromisoformat(a["occurred_at"]) >= moved]

    assert traffic.bad_customer == "borealis"
    assert score_of("borealis", early) > 5
    assert score_of("borealis", late) < -20
    assert score_of("acme", late) > 20


def score_of(customer: str, given: list[Any]) -> float:
    """Return the NPS of one customer."""
    return nps([answer for answer in given if answer["customer"] == customer])


@pytest.mark.parametrize(
    ("rate", "given", "bad"), [(0, [ACME], None), (float("nan"), [ACME], None), (1, [], None), (1, [ACME], "nobody")]
)
def test_traffic_that_cannot_be_is_refused(rate: float, given: list[Simulated], bad: str | None) -> None:
    """Before the demo starts, not a minute later."""
    with pytest.raises(ValueError, match=r"rate|customer"):
        Traffic("http://127.0.0.1:1", "sk_demo", rate, given, clock=SystemClock(), bad_customer=bad)
