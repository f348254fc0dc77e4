"""SQL of the way of the answers: what a batch reads and writes, each in one statement for the whole batch."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Collection, Iterable, Mapping, Sequence
from datetime import datetime
from operator import attrgetter
from typing import Any, Literal
from uuid import UUID

import asyncpg
import msgspec

from services.scoring.domain.counting import DatedScore, NewAnswer, Series, series
from services.scoring.domain.customer import CustomerState, Memory
from services.scoring.store.common import ints, text
from shared.database.pool import Connection
from shared.errors import Transient
from shared.runtime.quarantine import not_held

_CUSTOMERS = "SELECT name, number, partition, due_at, version FROM customer WHERE name = ANY($1::text[])"
# Held until the transaction ends, so that what was read is not stale when it is saved: of two owners who both have much
# to count, one would otherwise lose each time that it tries again. The order keeps them from waiting for each other.
_CUSTOMERS_TO_COUNT = _CUSTOMERS + " ORDER BY number FOR NO KEY UPDATE"
# Two owners may meet a customer at once for the first time: the second one waits for the first, and has its row.
_NEW_CUSTOMERS = """
INSERT INTO customer (name, partition, due_at)
SELECT name, partition, $3 FROM unnest($1::text[], $2::int[]) AS new(name, partition) ORDER BY name
ON CONFLICT (name) DO UPDATE SET partition = excluded.partition
RETURNING name, number, partition, due_at, version
"""
# Apart from the rows: where those had to be waited for, what one statement reads beside them is from before the wait.
_REMEMBERED = """
SELECT asked.number, memory.body, EXISTS (SELECT FROM erased WHERE erased.customer = asked.number)
FROM unnest($1::int[]) AS asked(number) LEFT JOIN memory ON memory.customer = asked.number
"""
_SAVE = """
WITH moved AS (
    UPDATE customer
    SET version = seen.version + 1, due_at = coalesce(seen.due_at, customer.due_at), partition = seen.partition
    FROM unnest($1::text::int[], $2::text::bigint[], $3::text::timestamptz[], $4::text::int[])
        AS seen(number, version, due_at, partition)
    WHERE customer.number = seen.number AND customer.version = seen.version
    RETURNING customer.number
), kept AS (
    INSERT INTO memory (customer, body) SELECT * FROM unnest($5::text::int[], $6::bytea[]) AS seen(customer, body)
    WHERE (SELECT count(*) FROM moved) = $7
    ON CONFLICT (customer) DO UPDATE SET body = excluded.body
)
SELECT count(*) FROM moved
"""
_IN_STEP = """
SELECT count(*) FROM customer JOIN unnest($1::int[], $2::bigint[]) AS remembered(number, version)
    ON customer.number = remembered.number AND customer.version = remembered.version
"""
_MOVE = "UPDATE customer SET version = version + 1 WHERE number = $1 RETURNING version"
# The partition is that by which a customer was counted or looked at last. While its answers come by two of them, it may
# be swept before those that wait in the other one are counted: silence may be told early, and clears with the next one.
_DUE_CUSTOMERS = f"""
SELECT name, partition FROM customer
WHERE due_at <= $1 AND partition = ANY($2::int[]) AND {not_held("customers", "customer.name")}
ORDER BY due_at LIMIT $3
"""
_KNOWN = """
SELECT id, customer FROM answer WHERE id = ANY($1::uuid[])
"""
_SERIES = """
SELECT customer, number, touchpoint, audience, kind, trust, metric FROM series WHERE customer = ANY($1::int[])
"""
Voter = Literal["respondent", "vote"]
"""The column of those whose answers count once."""


def _latest(by: Voter) -> str:
    return f"""
SELECT asked.number::int, said.occurred_at, said.received_at, said.id, said.score
FROM unnest($1::text::bigint[], $2::text[]) WITH ORDINALITY AS asked(place, voter, number)
CROSS JOIN LATERAL (
    SELECT occurred_at, received_at, id, score FROM answer
    WHERE answer.customer = (asked.place >> 16)::int AND answer.series = (asked.place & 65535)::int
        AND answer.{by} = asked.voter
    ORDER BY occurred_at DESC, received_at DESC, id DESC LIMIT 1
) AS said
"""


def _neighbours(by: Voter) -> str:
    return f"""
SELECT asked.place::int, said.occurred_at, said.received_at, said.id, said.score
FROM unnest($1::text::bigint[], $2::text[], $3::timestamptz[], $4::timestamptz[], $5::uuid[])
    WITH ORDINALITY AS asked(at, voter, occurred_at, received_at, id, place)
CROSS JOIN LATERAL (
    (SELECT occurred_at, received_at, id, score FROM answer
    WHERE answer.customer = (asked.at >> 16)::int AND answer.series = (asked.at & 65535)::int
        AND answer.{by} = asked.voter
        AND (answer.occurred_at, answer.received_at, answer.id) < (asked.occurred_at, asked.received_at, asked.id)
    ORDER BY occurred_at DESC, received_at DESC, id DESC LIMIT 1)
    UNION ALL
    (SELECT occurred_at, received_at, id, score FROM answer
    WHERE answer.customer = (asked.at >> 16)::int AND answer.series = (asked.at & 65535)::int
        AND answer.{by} = asked.voter
        AND (answer.occurred_at, answer.received_at, answer.id) > (asked.occurred_at, asked.received_at, asked.id)
    ORDER BY occurred_at, received_at, id LIMIT 1)
) AS said
"""


_LATEST: dict[Voter, str] = {"respondent": _latest("respondent"), "vote": _latest("vote")}
_NEIGHBOURS: dict[Voter, str] = {"respondent": _neighbours("respondent"), "vote": _neighbours("vote")}
_ADD_SERIES = """
INSERT INTO series (customer, number, touchpoint, audience, kind, trust, metric)
SELECT * FROM unnest($1::int[], $2::smallint[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[])
"""
_STORE = """
INSERT INTO answer (id, customer, series, score, occurred_at, received_at, respondent, comment, channel, language,
    contact, context, backfill, follow_up, vote)
SELECT * FROM unnest($1::uuid[], $2::text::int[], $3::text::smallint[], $4::float8[], $5::timestamptz[],
    $6::timestamptz[], $7::text[], $8::text[], $9::text[], $10::text[], $11::text[], $12::text[], $13::bool[],
    $14::text[], $15::text[])
"""

_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(Memory).decode


# ---- customers and series


class StaleCustomer(Transient):
    """Somebody else went on with a customer: what is remembered of it is old, and has to be read again.

    Owning a partition is not owning a customer: while two producers count a topic's partitions differently, its answers
    stand in two of them.
    """

    def __init__(self, stale: int, of: int) -> None:
        super().__init__(
            f"{stale} of {of} customers were changed by another owner since they were read; they are read again",
            of="the other owner of a customer",
        )


async def customers(tx: Connection, partitions: Mapping[str, int], due_at: datetime) -> list[CustomerState]:
    """Return some customers with their series, for who counts for them; those that are new are due at `due_at`."""
    rows = await tx.fetch(_CUSTOMERS_TO_COUNT, list(partitions))
    if len(rows) < len(partitions):
        known = {row["name"] for row in rows}
        new = [name for name in partitions if name not in known]
        rows += await tx.fetch(_NEW_CUSTOMERS, new, [partitions[name] for name in new], due_at)
    states = await _states(tx, rows)
    for state in states:
        state.partition = partitions[state.name]
    return states


async def known_customer(tx: Connection, customer: str) -> CustomerState | None:
    """Return a customer as it is stored, with its series; None when it has never answered.

    Whoever goes on to read what was counted reads it in the same snapshot: a series may be added at any moment.
    """
    return next(iter(await _states(tx, await tx.fetch(_CUSTOMERS, [customer]))), None)


async def _states(tx: Connection, rows: Sequence[Any]) -> list[CustomerState]:
    states: dict[int, CustomerState] = {}
    for name, number, partition, due_at, version in rows:
        states[number] = CustomerState(name, partition, number, due_at, stored_due_at=due_at, version=version)
    for number, series_number, *of in await tx.fetch(_SERIES, list(states)):
        states[number].series[series(*of)] = series_number
    for number, memory, forgets in await tx.fetch(_REMEMBERED, list(states)):
        states[number].forgets = forgets
        if memory is not None:
            states[number].recall(_unpack(memory))
    return list(states.values())


async def save_customers(tx: Connection, states: Collection[CustomerState]) -> None:
    """Store what is remembered of customers, and when to look at them again; nobody else counts for them from here on.

    Raises StaleCustomer when somebody else did so since they were read. Whoever writes anything else of them does so
    after this: then no answer, series or alert of another owner is in the way.
    """
    if not states:
        return
    saved = sorted(states, key=attrgetter("number"))
    kept = [state for state in saved if state.pulses or state.detectors]
    moved = await tx.fetchval(
        _SAVE,
        ints(s.number for s in saved),
        ints(s.version for s in saved),
        _moments(None if s.due_at == s.stored_due_at else s.due_at for s in saved),
        ints(s.partition for s in saved),
        ints(s.number for s in kept),
        [_pack(s.memory()) for s in kept],
        len(saved),
    )
    if moved < len(saved):
        raise StaleCustomer(len(saved) - moved, len(saved))
    for state in saved:
        state.version += 1
        state.stored_due_at = state.due_at


def _moments(moments: Iterable[datetime | None]) -> str:
    """Return an array as its text, as `ints` does; hardly any customer of a batch is due at another moment now."""
    return f"{{{','.join('NULL' if moment is None else moment.isoformat() for moment in moments)}}}"


@contextlib.asynccontextmanager
async def in_step(tx: Connection, states: Collection[CustomerState]) -> AsyncGenerator[None]:
    """Work with what is remembered. Raises StaleCustomer for a fault where some of it is old: that may be all of it."""
    try:
        yield
    except (Transient, asyncpg.PostgresError):
        raise
    except Exception:
        fresh = await tx.fetchval(_IN_STEP, [s.number for s in states], [s.version for s in states])
        if fresh < len(states):
            raise StaleCustomer(len(states) - fresh, len(states)) from None
        raise


async def move(tx: Connection, customer: int) -> int:
    """Make all that is remembered of a customer stale, for who changes what was counted; return its new version.

    Whoever counts for it meanwhile is waited for, and who would do so next waits.
    """
    return await tx.fetchval(_MOVE, customer)


async def due_customers(tx: Connection, now: datetime, partitions: Sequence[int], limit: int) -> dict[str, int]:
    """Return customers to look at by time alone, with their partitions."""
    return {row[0]: row[1] for row in await tx.fetch(_DUE_CUSTOMERS, now, partitions, limit)}


async def known_ids(tx: Connection, ids: Sequence[UUID]) -> set[tuple[UUID, int]]:
    """Return which of these were counted before, each with its customer's number."""
    return {(row[0], row[1]) for row in await tx.fetch(_KNOWN, ids)}


async def add_series(tx: Connection, new: Sequence[tuple[int, int, Series]]) -> None:
    """Create series: customer, number and what is counted."""
    if new:
        await tx.execute(
            _ADD_SERIES,
            [customer for customer, _, _ in new],
            [number for _, number, _ in new],
            [series.touchpoint for _, _, series in new],
            [series.audience for _, _, series in new],
            [series.kind for _, _, series in new],
            [series.trust for _, _, series in new],
            [series.metric for _, _, series in new],
        )


# ---- answers

Place = int
"""A customer's number, and in the lower 16 bits a series' number."""


def place_of(customer: int, series: int) -> Place:
    """Return the place of a customer's series, by their numbers."""
    return customer << 16 | series


Voice = tuple[Place, str]
"""A respondent, or a vote of a device, in a series."""


async def latest(tx: Connection, by: Voter, voices: Sequence[Voice]) -> dict[Voice, DatedScore]:
    """Return the latest stored answer of those who have one."""
    if not voices:
        return {}
    rows = await tx.fetch(_LATEST[by], ints(place for place, _ in voices), [who for _, who in voices])
    return {voices[number - 1]: DatedScore(*dated) for number, *dated in rows}


async def neighbours(
    tx: Connection, by: Voter, asked: Sequence[tuple[Voice, DatedScore]]
) -> list[tuple[Voice, DatedScore]]:
    """Return for some answers the stored ones right before and right after them, of the same voice."""
    if not asked:
        return []
    rows = await tx.fetch(
        _NEIGHBOURS[by],
        ints(place for (place, _), _ in asked),
        [who for (_, who), _ in asked],
        [dated.occurred_at for _, dated in asked],
        [dated.received_at for _, dated in asked],
        [dated.id for _, dated in asked],
    )
    return [(asked[number - 1][0], DatedScore(*dated)) for number, *dated in rows]


async def store_answers(tx: Connection, new: Sequence[NewAnswer], places: Sequence[Place]) -> None:
    """Store new answers.

    Not by COPY, which costs half: a server that waits for more of it minds no time limit, and would hold a customer's
    row for as long as a connection that went dead in the middle lasts.
    """
    told = [one.answer for one in new]
    await tx.execute(
        _STORE,
        [a.id for a in told],
        ints(place >> 16 for place in places),
        ints(place & 65535 for place in places),
        [a.score for a in told],
        [a.occurred_at for a in told],
        [a.received_at for a in told],
        [a.respondent for a in told],
        [a.comment for a in told],
        [a.channel for a in told],
        [a.language for a in told],
        [a.contact for a in told],
        [None if a.context is None else text(a.context) for a in told],
        [a.backfill for a in told],
        [a.follow_up for a in told],
        [one.voter if one.answer.respondent is None else None for one in new],
    )
