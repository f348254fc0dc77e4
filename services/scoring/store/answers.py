"""SQL of the way of the answers: what a batch reads and writes, each in one statement for the whole batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from services.scoring.domain.counting import Arrival, Said, Series, series
from services.scoring.domain.customer import CustomerState, Memory
from services.scoring.store.common import ints, text
from shared.db import Connection

_CUSTOMERS = """
SELECT name, number, partition, due_at, memory.body AS memory
FROM customer LEFT JOIN memory ON memory.customer = customer.number WHERE name = ANY($1::text[])
"""
_NEW_CUSTOMERS = """
INSERT INTO customer (name, partition, due_at)
SELECT name, partition, $3 FROM unnest($1::text[], $2::int[]) AS new(name, partition)
RETURNING name, number, partition, due_at, NULL::bytea AS memory
"""
_REMEMBER = """
INSERT INTO memory (customer, body) SELECT * FROM unnest($1::text::int[], $2::bytea[]) AS seen(customer, body)
ON CONFLICT (customer) DO UPDATE SET body = excluded.body
"""
_SAVE_DUE = """
UPDATE customer SET due_at = seen.due_at, partition = seen.partition
FROM unnest($1::int[], $2::timestamptz[], $3::int[]) AS seen(number, due_at, partition)
WHERE customer.number = seen.number
"""
_DUE_CUSTOMERS = """
SELECT name, partition FROM customer WHERE due_at <= $1 AND partition = ANY($2::int[]) ORDER BY due_at LIMIT $3
"""
_KNOWN = """
SELECT id, customer FROM answer WHERE id = ANY($1::uuid[])
"""
_SERIES = """
SELECT customer, number, touchpoint, audience, kind, trust, metric FROM series WHERE customer = ANY($1::int[])
"""
_LATEST = """
SELECT asked.number::int, said.occurred_at, said.received_at, said.id, said.score
FROM unnest($1::text::bigint[], $2::text[]) WITH ORDINALITY AS asked(place, respondent, number)
CROSS JOIN LATERAL (
    SELECT occurred_at, received_at, id, score FROM answer
    WHERE answer.customer = (asked.place >> 16)::int AND answer.series = (asked.place & 65535)::int
        AND answer.respondent = asked.respondent
    ORDER BY occurred_at DESC, received_at DESC, id DESC LIMIT 1
) AS said
"""
_NEIGHBOURS = """
SELECT asked.place::int, said.occurred_at, said.received_at, said.id, said.score
FROM unnest($1::text::bigint[], $2::text[], $3::timestamptz[], $4::timestamptz[], $5::uuid[])
    WITH ORDINALITY AS asked(at, respondent, occurred_at, received_at, id, place)
CROSS JOIN LATERAL (
    (SELECT occurred_at, received_at, id, score FROM answer
    WHERE answer.customer = (asked.at >> 16)::int AND answer.series = (asked.at & 65535)::int
        AND answer.respondent = asked.respondent
        AND (answer.occurred_at, answer.received_at, answer.id) < (asked.occurred_at, asked.received_at, asked.id)
    ORDER BY occurred_at DESC, received_at DESC, id DESC LIMIT 1)
    UNION ALL
    (SELECT occurred_at, received_at, id, score FROM answer
    WHERE answer.customer = (asked.at >> 16)::int AND answer.series = (asked.at & 65535)::int
        AND answer.respondent = asked.respondent
        AND (answer.occurred_at, answer.received_at, answer.id) > (asked.occurred_at, asked.received_at, asked.id)
    ORDER BY occurred_at, received_at, id LIMIT 1)
) AS said
"""
_FORGETTING = """
SELECT number FROM unnest($1::int[]) AS asked(number) WHERE EXISTS (SELECT FROM erased WHERE erased.customer = number)
"""

_SERIES_COLUMNS = ["customer", "number", *Series._fields]
_ANSWER_COLUMNS = [
    "id",
    "customer",
    "series",
    "score",
    "occurred_at",
    "received_at",
    "respondent",
    "comment",
    "channel",
    "language",
    "contact",
    "context",
    "backfill",
    "follow_up",
]

_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(Memory).decode


# ---- customers and series


async def customers(tx: Connection, partitions: Mapping[str, int], due_at: datetime) -> list[CustomerState]:
    """Return some customers with their series; those that are new are due first at `due_at`."""
    rows = await tx.fetch(_CUSTOMERS, list(partitions))
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
    for name, number, partition, due_at, memory in rows:
        state = states[number] = CustomerState(name, partition, number, due_at, stored=(due_at, partition))
        if memory is not None:
            state.recall(_unpack(memory))
    for number, series_number, *of in await tx.fetch(_SERIES, list(states)):
        states[number].series[series(*of)] = series_number
    for (number,) in await tx.fetch(_FORGETTING, list(states)):
        states[number].forgets = True
    return list(states.values())


async def save_customers(tx: Connection, states: Sequence[CustomerState]) -> None:
    """Store what is remembered of customers, and when to look at them again."""
    kept = [state for state in states if state.pulses or state.detectors]
    if kept:
        await tx.execute(_REMEMBER, ints(s.number for s in kept), [_pack(s.memory()) for s in kept])
    moved = [state for state in states if state.stored != (state.due_at, state.partition)]
    if moved:
        await tx.execute(_SAVE_DUE, [s.number for s in moved], [s.due_at for s in moved], [s.partition for s in moved])
        for state in moved:
            state.stored = state.due_at, state.partition


async def due_customers(tx: Connection, now: datetime, partitions: Sequence[int], limit: int) -> dict[str, int]:
    """Return customers to look at by time alone, with their partitions."""
    return {row[0]: row[1] for row in await tx.fetch(_DUE_CUSTOMERS, now, partitions, limit)}


async def known_ids(tx: Connection, ids: Sequence[UUID]) -> set[tuple[UUID, int]]:
    """Return which of these were counted before, each with its customer's number."""
    return {(row[0], row[1]) for row in await tx.fetch(_KNOWN, ids)}


async def add_series(tx: Connection, new: Sequence[tuple[int, int, Series]]) -> None:
    """Create series: customer, number and what is counted."""
    if new:
        records = [(customer, number, *series) for customer, number, series in new]
        await tx.copy_records_to_table("series", columns=_SERIES_COLUMNS, records=records)


# ---- answers

Place = int
"""A customer's number, and in the lower 16 bits a series' number."""


def place_of(customer: int, series: int) -> Place:
    """Return the place of a customer's series, by their numbers."""
    return customer << 16 | series


Voice = tuple[Place, str]
"""A respondent in a series."""


async def latest(tx: Connection, voices: Sequence[Voice]) -> dict[Voice, Said]:
    """Return the latest stored answer of those respondents who have one."""
    if not voices:
        return {}
    rows = await tx.fetch(_LATEST, ints(place for place, _ in voices), [who for _, who in voices])
    return {voices[number - 1]: Said(*said) for number, *said in rows}


async def neighbours(tx: Connection, asked: Sequence[tuple[Voice, Said]]) -> list[tuple[Voice, Said]]:
    """Return for answers of respondents the stored ones right before and right after them."""
    if not asked:
        return []
    rows = await tx.fetch(
        _NEIGHBOURS,
        ints(place for (place, _), _ in asked),
        [who for (_, who), _ in asked],
        [said.occurred_at for _, said in asked],
        [said.received_at for _, said in asked],
        [said.id for _, said in asked],
    )
    return [(asked[number - 1][0], Said(*said)) for number, *said in rows]


async def store_answers(tx: Connection, new: Sequence[Arrival], places: Sequence[Place]) -> None:
    """Store new answers. COPY costs half of an INSERT with unnest."""
    await tx.copy_records_to_table(
        "answer",
        columns=_ANSWER_COLUMNS,
        records=[
            (
                a.id,
                place >> 16,
                place & 65535,
                a.score,
                a.occurred_at,
                a.received_at,
                a.respondent,
                a.comment,
                a.channel,
                a.language,
                a.contact,
                None if a.context is None else text(a.context),
                a.backfill,
                a.follow_up,
            )
            for a, place in zip([one.answer for one in new], places, strict=True)
        ],
    )
