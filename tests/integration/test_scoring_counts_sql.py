"""Scoring counts in SQL what a plain recount of the answers finds, as they come in order, late or replaced."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from itertools import combinations
from random import Random
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from msgspec.structs import replace

from services.scoring.domain.counting import (
    WIDTH,
    DatedScore,
    category_of,
    changes,
    hour_of,
    hour_time,
    neighbours,
    new_answer,
    series_of,
)
from services.scoring.domain.customer import CustomerState
from services.scoring.domain.plan import Plan, plan
from services.scoring.domain.votes import candidates, vote_of
from services.scoring.domain.windows import Measure
from services.scoring.store import answers, counting
from shared.database.pool import Connection
from shared.directory.model import MoodBelow, NpsBelow, NpsDrop
from shared.rules.base import SUM
from shared.wire.events import RATINGS, FeedbackReceivedV1
from tests.integration.test_store_sql import NPS
from tests.support import build

# ---- what is counted

START = build.NOW.replace(hour=4, minute=0, second=0)
FIRST = hour_of(START)
REVOTE = 2 * 3600
HOURS = 7
"""From START on, in which answers are given here."""

_RECOUNT = """
SELECT series, score, kind FROM (
    SELECT DISTINCT ON (answer.series, coalesce(respondent, vote, answer.id::text)) answer.series, score, kind
    FROM answer JOIN series ON series.customer = answer.customer AND series.number = answer.series
    WHERE answer.customer = $1 AND occurred_at >= $2 AND occurred_at < $3
    ORDER BY answer.series, coalesce(respondent, vote, answer.id::text), occurred_at DESC, received_at DESC,
        answer.id DESC
) AS latest
"""


async def tell(tx: Connection, state: CustomerState, told: Sequence[FeedbackReceivedV1]) -> None:
    """Count answers one by one, as their consumer does."""
    for answer in told:
        new = new_answer(answer)
        series = new.series
        if series not in state.series:
            state.series[series] = len(state.series)
            await answers.add_series(tx, [(state.number, state.series[series], series)])
        place = answers.place_of(state.number, state.series[series])
        others: list[DatedScore] = []
        by: answers.Voter = "respondent" if answer.device is None else "vote"
        if answer.device is not None:
            votes = [(place, vote) for vote in candidates(new, REVOTE)]
            last = await answers.latest(tx, "vote", votes)
            new = replace(new, voter=vote_of(new, REVOTE, lambda vote, place=place, last=last: last.get((place, vote))))
        if new.voter is not None:
            others = [said for _, said in await answers.neighbours(tx, by, [((place, new.voter), new.dated)])]
        made = changes(new, *neighbours(new.dated, others))
        await counting.count(tx, [(place, change) for change in made])
        await answers.store_answers(tx, [new], [place])


def made_answers(seed: int, count: int) -> list[FeedbackReceivedV1]:
    """Return answers of few respondents in a few hours, in the order in which they arrive."""
    random = Random(seed)
    told: list[FeedbackReceivedV1] = []
    for _ in range(count):
        kind = random.choice(("nps", "nps", "kpi", "mood"))
        low, high = RATINGS.get(kind, (-8, 8))
        respondent = random.choice((None, "r-1", "r-1", "r-2"))
        device = random.choice((None, "browser-1", "browser-2")) if respondent is None else None
        told.append(
            build.answer(
                random.randint(low, high) / (4 if kind == "kpi" else 1),
                kind=kind,
                metric=random.choice(("speed", "price")) if kind == "kpi" else None,
                occurred_at=_moment(random),
                respondent=respondent,
                device=device,
                trust="verified" if respondent else random.choice(("verified", "anonymous")),
                touchpoint=random.choice(("support", None)),
            )
        )
    return told


def _moment(random: Random) -> datetime:
    """Return a moment of those hours; often the first of one, or the last microsecond, which no rounding may move."""
    if random.random() < 0.3:
        return START + timedelta(hours=random.randint(1, HOURS - 1), microseconds=random.choice((0, -1)))
    return START + timedelta(microseconds=random.randrange(HOURS * 3600 * 10**6))


async def counted_hours(tx: Connection, number: int, first: int, after: int) -> dict[int, list[float]]:
    """Return the counts of a window that ended, per series that has any."""
    (sums,) = await counting.sum_hours(tx, [(number, first, after)], replaced=True)
    found: dict[int, list[float]] = {}
    for series, counts in sums:
        into = found.setdefault(series, [0.0] * WIDTH)
        found[series] = [a + b for a, b in zip(into, counts, strict=True)]
    return {series: counts for series, counts in found.items() if any(counts)}


async def recounted_hours(tx: Connection, number: int, first: int, after: int) -> dict[int, list[float]]:
    """Count the stored answers themselves: of a respondent the latest within the window."""
    found: dict[int, list[float]] = {}
    for series, score, kind in await tx.fetch(_RECOUNT, number, hour_time(first), hour_time(after)):
        counts = found.setdefault(series, [0.0] * WIDTH)
        counts[category_of(kind, score)] += 1
        counts[SUM] += score if kind == "kpi" else 0
    return {series: counts for series, counts in found.items() if any(counts)}


async def tables_of(tx: Connection, number: int) -> tuple[list[Any], list[Any]]:
    """Return buckets and what was replaced, without rows that have come back to nothing."""
    buckets = await tx.fetch("SELECT * FROM bucket WHERE customer = $1 ORDER BY hour, series", number)
    replaced = await tx.fetch(
        "SELECT hour, until, series, category, count, total FROM replaced WHERE customer = $1 ORDER BY 1, 2, 3, 4",
        number,
    )
    return [tuple(row) for row in buckets if any(row[3:])], [tuple(row) for row in replaced if any(row[4:])]


async def test_each_window_that_ended_is_what_its_answers_say(of: Any) -> None:
    """Of one respondent with answers in three hours each window holds the latest within it, whenever that came in."""
    database = await of("scoring")
    at = [START + timedelta(minutes=minutes) for minutes in (10, 130, 70, 75)]
    told = [build.answer(score, respondent="r-1", occurred_at=a) for score, a in zip((0, 10, 7, 3), at, strict=True)]
    async with database.transaction() as tx:
        (state,) = await answers.customers(tx, {"acme": 0}, build.NOW)
        await tell(tx, state, told)
        detractor, promoter = [1.0, *[0.0] * 7], [0.0, 0.0, 1.0, *[0.0] * 5]
        for first, after, wanted in (
            (0, 1, detractor),
            (1, 2, detractor),  # the seven of that hour was replaced within it
            (0, 2, detractor),
            (2, 3, promoter),
            (0, 3, promoter),
            (1, 9, promoter),
        ):
            assert await counted_hours(tx, state.number, FIRST + first, FIRST + after) == {0: wanted}
            assert await recounted_hours(tx, state.number, FIRST + first, FIRST + after) == {0: wanted}
        assert await counted_hours(tx, state.number, FIRST + 3, FIRST + 9) == {}
        (now,) = await counting.sum_hours(tx, [(state.number, FIRST, FIRST + 9)])
        assert [counts for _, counts in now if any(counts)] == [promoter], "a window that ends now holds the latest"


@pytest.mark.parametrize("seed", range(3))
async def test_the_tables_are_a_recount_of_the_answers(of: Any, seed: int) -> None:
    """In whatever order answers arrive, every window is a sum over two tables; and a rebuild finds the same ones."""
    database = await of("scoring")
    async with database.transaction() as tx:
        state, other = await answers.customers(tx, {"acme": 0, "borealis": 0}, build.NOW)
        await tell(tx, other, made_answers(seed + 100, 10))
        await tell(tx, state, made_answers(seed, 70))
        for first, after in combinations(range(FIRST, FIRST + HOURS + 1), 2):
            counted = await counted_hours(tx, state.number, first, after)
            assert counted == await recounted_hours(tx, state.number, first, after), (first - FIRST, after - FIRST)
        tables = [await tables_of(tx, one.number) for one in (state, other)]
        await counting.rebuild(tx, state.number)
        assert [await tables_of(tx, one.number) for one in (state, other)] == tables
        await counting.rebuild(tx, other.number)
        assert [await tables_of(tx, one.number) for one in (state, other)] == tables


async def test_sums_come_in_the_order_in_which_they_are_asked(of: Any) -> None:
    """A batch asks for many customers at once: none is given another's counts."""
    database = await of("scoring")
    async with database.transaction() as tx:
        states = await answers.customers(tx, {"acme": 0, "borealis": 0}, build.NOW)
        for n, state in enumerate(states):
            await tell(tx, state, [build.answer(10, occurred_at=START)])
            for _ in range(n):
                await tell(tx, state, [build.answer(0, occurred_at=START)])
        asked = [(state.number, FIRST, FIRST + after) for state in (*states, *reversed(states)) for after in (0, 1)]
        found = [sum(sum(counts) for _, counts in sums) for sums in await counting.sum_hours(tx, asked, replaced=True)]
        assert found == [0, 1, 0, 2, 0, 2, 0, 1]
        assert await counting.sum_hours(tx, []) == []


async def test_neighbours_are_those_of_the_same_respondent_and_series(of: Any) -> None:
    """Right before and right after, by when it occurred, was received, then by id."""
    database = await of("scoring")
    told = made_answers(7, 60)
    async with database.transaction() as tx:
        (state,) = await answers.customers(tx, {"acme": 0}, build.NOW)
        await tell(tx, state, told)
        same = [build.answer(n, respondent="r-9", occurred_at=START, id=UUID(int=n)) for n in (1, 2, 4)]
        later = build.answer(5, respondent="r-9", occurred_at=START, received_at=build.NOW + timedelta(seconds=1))
        await tell(tx, state, [*same, later])
        told += [*same, later]
        asked = [a for a in told if a.respondent is not None]
        asked += [build.answer(3, respondent="r-9", occurred_at=START, id=UUID(int=3))]
        last: dict[answers.Voice, DatedScore] = {}
        for answer in asked:
            voice = (answers.place_of(state.number, state.series[series_of(answer)]), str(answer.respondent))
            found = [
                said
                for of, said in await answers.neighbours(tx, "respondent", [(voice, build.dated_score(answer))])
                if of == voice
            ]
            who = (series_of(answer), answer.respondent)
            others = [build.dated_score(a) for a in told if (series_of(a), a.respondent) == who and a.id != answer.id]
            assert neighbours(build.dated_score(answer), found) == neighbours(build.dated_score(answer), others)
            assert len(found) == sum(one is not None for one in neighbours(build.dated_score(answer), others))
            last[voice] = max([build.dated_score(a) for a in told if (series_of(a), a.respondent) == who])
        assert await answers.latest(tx, "respondent", [*last, (answers.place_of(state.number, 0), "nobody")]) == last


# ---- windows in memory


def _plan(*, per_touchpoint: bool) -> Plan:
    when = NpsDrop(20, 24 * 3600), NpsBelow(0, 3 * 3600)
    of = (False, True) if per_touchpoint else (False,)
    return plan([build.rule(w, name=f"r-{n}-{own}", per_touchpoint=own) for n, w in enumerate(when) for own in of])


async def test_a_reader_sees_one_moment(of: Any) -> None:
    """While somebody reads, a touchpoint answers for the first time: the reader knows neither it nor its counts."""
    database = await of("scoring")
    rules, now = _plan(per_touchpoint=True), START + timedelta(hours=1)
    async with database.transaction() as tx:
        (owner,) = await answers.customers(tx, {"acme": 0}, build.NOW)
        await tell(tx, owner, [build.answer(3, occurred_at=START)])
    async with database.snapshot() as reading:
        state = await answers.known_customer(reading, "acme")
        assert state is not None
        async with database.transaction() as tx:
            await tell(tx, owner, [build.answer(9, touchpoint="billing", occurred_at=START)])
        await counting.move_windows(reading, [(state, rules)], now)
        assert state.hours[24 * 3600].view(NPS, None, of_touchpoint=False).all == [1, 0, 0]
        assert len(await counting.exact_counts(reading, state, START)) == 1
    async with database.snapshot() as reading:
        state = await answers.known_customer(reading, "acme")
        assert state is not None
        assert len(await counting.exact_counts(reading, state, START)) == 2
        with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
            await tell(reading, state, [build.answer(9, occurred_at=START)])


async def test_windows_are_read_and_moved(of: Any) -> None:
    """Windows that were moved along hold what those hold that are read afresh, and the exact ones what is stored."""
    database = await of("scoring")
    rules, now = _plan(per_touchpoint=True), START + timedelta(hours=HOURS)
    async with database.transaction() as tx:
        (state,) = await answers.customers(tx, {"acme": 0}, build.NOW)
        await counting.move_windows(tx, [(state, rules)], now)
        await tell(tx, state, made_answers(1, 70))
        state.hours.clear()
        state.before.clear()
        state.exact.clear()
        seen: list[float] = []
        for hours in range(58):
            await counting.move_windows(tx, [(state, rules)], now + timedelta(hours=hours))
            fresh = await answers.known_customer(tx, "acme")
            assert fresh is not None
            await counting.move_windows(tx, [(fresh, rules)], now + timedelta(hours=hours))
            one, other = _views(state), _views(fresh)
            assert one == other
            start = hour_of(now + timedelta(hours=hours)) - 24
            for window, range_ in ((state.hours, (start, start + 999)), (state.before, (start - 24, start))):
                each = await recounted_hours(tx, state.number, *range_)
                mine = [each[n] for series, n in state.series.items() if series.kind == "nps" and n in each]
                wanted = [sum(column) for column in zip([0.0] * WIDTH, *mine, strict=True)]
                assert window[24 * 3600].view(NPS, None, of_touchpoint=False).all == wanted[:3]
            seen.append(sum(sum(counts) for counts in one))
        assert len(set(seen)) > 5, "they did move"
        assert sum(state.hours[24 * 3600].view(NPS, None, of_touchpoint=False).all) == 0, "all have left by now"


def _views(state: CustomerState) -> list[list[float]]:
    """Return the counts of every window, of all answers and of verified ones alone."""
    windows = (state.hours[24 * 3600], state.before[24 * 3600], state.exact[3 * 3600])
    measures = (NPS, Measure("mood", None, "customer"), Measure("kpi", "speed", "customer"))
    views = [
        window.view(measure, touchpoint, of_touchpoint=of_touchpoint)
        for window in windows
        for measure in measures
        for touchpoint, of_touchpoint in ((None, False), (None, True), ("support", True))
    ]
    return [list(counts) for view in views for counts in (view.all, view.verified)]


async def test_a_rule_that_comes_to_judge_touchpoints_finds_them_counted(of: Any) -> None:
    """Who adds `per: touchpoint` to a rule has it from the next answer on, not from the next restart."""
    database = await of("scoring")
    async with database.transaction() as tx:
        (state,) = await answers.customers(tx, {"acme": 0}, build.NOW)
        await tell(tx, state, [build.answer(0)])
        await counting.move_windows(tx, [(state, _plan(per_touchpoint=False))], build.NOW)
        await counting.move_windows(tx, [(state, _plan(per_touchpoint=True))], build.NOW)
    assert state.hours[24 * 3600].view(NPS, "support", of_touchpoint=True).all == [1, 0, 0]


async def test_a_rule_that_comes_to_judge_another_kind_finds_it_counted(of: Any) -> None:
    """A window holds what rules look at; a rule that is added finds what was said before it."""
    database = await of("scoring")
    mood = build.rule(MoodBelow(2.5, 24 * 3600), name="mood")
    async with database.transaction() as tx:
        (state,) = await answers.customers(tx, {"acme": 0}, build.NOW)
        await tell(tx, state, [build.answer(0), build.answer(1, kind="mood")])
        for rules in (_plan(per_touchpoint=False), plan([*_plan(per_touchpoint=False).rules.values(), mood])):
            await counting.move_windows(tx, [(state, rules)], build.NOW)
    view = state.hours[24 * 3600].view(Measure("mood", None, "customer"), None, of_touchpoint=False)
    assert view.all == [1, 0, 0, 0]
