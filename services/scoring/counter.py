"""Answers, counted once each: which are new, where each is counted, and what its voter said before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from uuid import UUID

from msgspec.structs import replace

from services.scoring.domain.counting import DatedScore, NewAnswer, Series
from services.scoring.domain.customer import CustomerState
from services.scoring.domain.votes import candidates, vote_of
from services.scoring.store import answers
from shared.bus.handler import Record
from shared.database.pool import Connection
from shared.directory.follower import Follower
from shared.directory.model import REVOTE_AFTER
from shared.wire.events import FeedbackReceivedV1


async def fresh(
    tx: Connection,
    records: Sequence[Record[FeedbackReceivedV1]],
    states: Mapping[str, CustomerState],
    erased: set[tuple[UUID, int]],
) -> Sequence[Record[FeedbackReceivedV1]]:
    """Leave out what was counted before, comes twice in this batch (the first one wins), or was erased.

    `erased`: answers' ids, each with its customer's number.
    """
    ids = [record.message.id for record in records]
    known = await answers.known_ids(tx, ids)
    if not known and not erased and len(set(ids)) == len(ids):
        return records  # as nearly always
    unseen: list[Record[FeedbackReceivedV1]] = []
    for record in records:
        state = states[record.message.customer]
        key = (record.message.id, state.number)
        if key not in known and key not in erased:
            known.add(key)
            unseen.append(record)
    return unseen


def places_of(
    new: Sequence[NewAnswer], states: Mapping[str, CustomerState]
) -> tuple[list[answers.Place], list[tuple[int, int, Series]]]:
    """Return where each answer is counted, and the series that are new: they get the customer's next number."""
    added: list[tuple[int, int, Series]] = []
    places: list[answers.Place] = []
    for one in new:
        state = states[one.answer.customer]
        number = state.series.get(one.series)
        if number is None:
            number = state.series[one.series] = len(state.series)
            added.append((state.number, number, one.series))
        places.append(answers.place_of(state.number, number))
    return places, added


class Neighbours:
    """Finds what a voter said next to a new answer: one respondent counts once, by the latest answer."""

    def __init__(self, directory: Follower) -> None:
        self._directory = directory

    async def around(
        self, tx: Connection, new: Sequence[NewAnswer], places: Sequence[answers.Place]
    ) -> tuple[Sequence[NewAnswer], dict[answers.Voice, list[DatedScore]]]:
        """Return the answers with their voters, and what those said before, as far as it is next to a new answer."""
        of_devices = [n for n, one in enumerate(new) if one.voter is None and one.answer.device is not None]
        named = [
            ((place, who), one.dated) for one, place in zip(new, places, strict=True) if (who := one.voter) is not None
        ]
        around = await self._beside(tx, "respondent", named)
        if not of_devices:
            return new, around
        revision = self._directory.current
        revote_after = REVOTE_AFTER if revision is None else revision.directory.revote_after
        asked = {(places[n], vote) for n in of_devices for vote in candidates(new[n], revote_after)}
        last = await answers.latest(tx, "vote", list(asked))
        voted, votes = list(new), list[tuple[answers.Voice, DatedScore]]()
        for n in of_devices:
            one, place = new[n], places[n]
            vote = vote_of(one, revote_after, lambda vote, place=place: last.get((place, vote)))
            voted[n] = replace(one, voter=vote)
            votes.append(((place, vote), one.dated))
            last[place, vote] = max(one.dated, last.get((place, vote), one.dated))
        return voted, around | await self._beside(tx, "vote", votes)

    async def _beside(
        self, tx: Connection, by: answers.Voter, dated: Sequence[tuple[answers.Voice, DatedScore]]
    ) -> dict[answers.Voice, list[DatedScore]]:
        """Return what is stored next to some answers, of the same voices."""
        around: dict[answers.Voice, list[DatedScore]] = {voice: [] for voice, _ in dated}
        latest = await answers.latest(tx, by, list(around))
        for voice, newest in latest.items():
            around[voice].append(newest)
        # Most come in order: the latest is all that they are next to.
        late = [(voice, one) for voice, one in dated if voice in latest and one < latest[voice]]
        for voice, one in await answers.neighbours(tx, by, late):
            around[voice].append(one)
        return around
