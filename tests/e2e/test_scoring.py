"""What scoring knows, shows and forgets, through the running services: rules of every family, days, people."""

from __future__ import annotations

import csv
import io
from datetime import timedelta
from typing import Any
from urllib.parse import quote

import httpx
from msgspec.structs import replace

from shared.directory.model import (
    DetractorsAtLeast,
    Metric,
    MetricMean,
    MoodAtLeast,
    NoFeedbackFor,
    NpsDrop,
    Rule,
    Shift,
)
from tests.support.house import House
from tests.support.wait import until

DAY = 86400


async def having(fiilis: House, *rules: Rule) -> None:
    """Put these rules in force, and a key metric."""
    metrics = {"first-contact-resolution": Metric("%", "up")}
    await fiilis.apply(replace(fiilis.company, rules=rules, metrics=metrics))


def answer(fiilis: House, score: float, *, days: float = 0, **more: object) -> dict[str, Any]:
    at = fiilis.clock.now() - timedelta(days=days)
    said = {"kind": "nps", "score": score, "customer": "acme", "touchpoint": "support", "occurred_at": at.isoformat()}
    return {**said, **more}


async def ask(fiilis: House, method: str, path: str, **more: Any) -> httpx.Response:
    return await fiilis.client.request(method, path, headers={"Authorization": f"Bearer {fiilis.key}"}, **more)


async def counted(fiilis: House, responses: int, **params: Any) -> dict[str, Any]:
    """Wait until so many NPS answers are counted."""

    async def there() -> dict[str, Any] | None:
        scores = await fiilis.get("/v1/customers/acme/scores", **params)
        return scores if scores["nps"]["responses"] == responses else None

    found = await until(there)
    assert found is not None
    return found


async def alerts(fiilis: House, rule: str, state: str = "open") -> list[dict[str, Any]]:
    found = await fiilis.items("/v1/alerts", state=state)
    return [alert for alert in found if alert["rule"] == rule]


async def test_a_drop_is_judged_against_the_window_before(fiilis: House) -> None:
    """Who answered in both windows counts in each by the answer given there: the window before is not falsified."""
    await having(fiilis, Rule("drop", NpsDrop(20, 30 * DAY, min_responses=15), "high"))
    people = [f"r-{n}" for n in range(20)]
    await fiilis.post(*(answer(fiilis, 10, days=40, respondent=person, backfill=True) for person in people))
    await counted(fiilis, 20, window="60d")
    await fiilis.post(*(answer(fiilis, 2, respondent=person) for person in people))
    (alert,) = await until(lambda: alerts(fiilis, "drop"))
    reason = (await fiilis.get(f"/v1/alerts/{alert['id']}"))["reason"]
    assert (reason["nps_before"], reason["responses_before"], reason["nps"]) == (100, 20, -100)
    assert reason["z"] > reason["z_needed"]


async def test_key_metrics_have_means_goals_and_rules(fiilis: House) -> None:
    """The customer's own figure is measured, compared with its goal, and alerts on the wrong side."""
    limit = MetricMean("first-contact-resolution", 7 * DAY, mean_below=90, min_responses=3)
    await having(fiilis, Rule("fcr", limit, "high"))
    kpi: dict[str, Any] = {"kind": "kpi", "metric": "first-contact-resolution"}
    await fiilis.post(*(answer(fiilis, score, **kpi) for score in (91, 80.5, 85.25)))
    (alert,) = await until(lambda: alerts(fiilis, "fcr"))
    assert alert["reason"]["mean"] == 85.5833
    assert alert["summary"].startswith("first-contact-resolution 85.5833 on average from 3 answers in 7 days, below 90")
    assert set(alert["sentences"]) == {"en", "fi"}
    shown = (await fiilis.get("/v1/customers/acme/scores"))["metrics"]["first-contact-resolution"]
    assert (shown["mean"], shown["responses"]) == (85.5833, 3)
    await fiilis.post(*(answer(fiilis, 100, **kpi) for _ in range(3)))
    await until(lambda: alerts(fiilis, "fcr", "cleared"))


async def test_silence_is_heard_and_ends_with_an_answer(fiilis: House) -> None:
    """Nobody has to answer for an alert to open; one answer ends it, and one silence is one alert."""
    await having(fiilis, Rule("quiet", NoFeedbackFor(14 * DAY), "low"))
    await fiilis.post(answer(fiilis, 9))
    await counted(fiilis, 1)
    fiilis.move(days=13)
    assert await alerts(fiilis, "quiet") == []
    fiilis.move(days=2)
    (alert,) = await until(lambda: alerts(fiilis, "quiet"))
    assert alert["dedup_key"] == "acme/quiet/*"
    fiilis.move(days=3)
    await fiilis.post(answer(fiilis, 9))
    (ended,) = await until(lambda: alerts(fiilis, "quiet", "cleared"))
    assert ended["id"] == alert["id"]


async def test_a_shift_is_found_and_explained(fiilis: House) -> None:
    """Two weeks of answers that are worse than the customer's own usual ones alert, though the score is still fine."""
    await having(fiilis, Rule("shift", Shift(), "high"))
    for week in range(12):
        usual = [10, 9, 9, 8, 10, 9, 6, 9, 10, 8] * 3
        await fiilis.post(*(answer(fiilis, score) for score in usual))
        await counted(fiilis, 30 * (week + 1), window="400d")
        fiilis.move(days=7)
    assert await alerts(fiilis, "shift") == []
    await fiilis.post(*(answer(fiilis, score) for score in [3, 9, 2, 5, 8, 6, 1, 4, 6, 3] * 2))
    (alert,) = await until(lambda: alerts(fiilis, "shift"))
    assert alert["reason"]["since_nps"] < alert["reason"]["baseline_nps"]
    assert "has become worse" in alert["summary"]
    near = {r["rule"]: r for r in (await fiilis.get("/v1/customers/acme/rules"))["items"]}
    assert near["shift"]["alert"] == alert["id"]


async def test_a_good_experience_is_recorded_and_opens_no_ticket(fiilis: House) -> None:
    await having(fiilis, Rule("good", MoodAtLeast(4, with_comment=True), "info"))
    await fiilis.post(answer(fiilis, 4, kind="mood"), answer(fiilis, 4, kind="mood", comment="Kiitos!"))
    (alert,) = await until(lambda: alerts(fiilis, "good"))
    assert [shown["comment"] for shown in alert["evidence"]] == ["Kiitos!"]
    assert await fiilis.items("/v1/tickets") == []


async def test_each_rule_says_how_near_it_is(fiilis: House) -> None:
    """An architect sees why nothing happened, not only that nothing did."""
    await having(
        fiilis,
        Rule("detractors", DetractorsAtLeast(3, 7 * DAY), "high"),
        Rule("drop", NpsDrop(20, 30 * DAY), "high"),
        Rule("quiet", NoFeedbackFor("auto"), "low"),
    )
    first = (await fiilis.get("/v1/customers/acme/rules"))["items"][0]
    assert first["why_not"] == "needs 3 more detractors"
    await fiilis.post(answer(fiilis, 3), answer(fiilis, 9))
    await counted(fiilis, 2)
    near = {rule["rule"]: rule["why_not"] for rule in (await fiilis.get("/v1/customers/acme/rules"))["items"]}
    assert near["detractors"] == "needs 2 more detractors"
    assert near["drop"] == "the window before needs 15 more answers"
    assert near["quiet"] == "needs more answers to know the rate"


async def test_a_day_is_never_rewritten(fiilis: House) -> None:
    """What was known that day stays, also when an answer of that day comes late; the score itself counts it."""
    await fiilis.post(*(answer(fiilis, 10) for _ in range(4)))
    await counted(fiilis, 4)
    today = fiilis.clock.now().date().isoformat()
    fiilis.move(days=1)

    async def told() -> Any:
        items = (await fiilis.get("/v1/customers/acme/trend", days=3))["items"]
        return next((item for item in items if item["day"] == today and item["nps_responses"] == 4), None)

    async def stored() -> bool:
        return bool(await fiilis.sql("SELECT 1 FROM scoring.daily"))

    await until(stored)
    assert (await until(told))["nps"] == 100
    await fiilis.post(answer(fiilis, 0, days=1))
    await counted(fiilis, 5)
    assert (await until(told))["nps_gap"] == -60
    week = (await fiilis.get("/v1/customers/acme/trend", days=3, window="7d"))["items"]
    assert next(item for item in week if item["day"] == today)["nps_responses"] == 5, "not stored, so counted now"


async def test_answers_are_listed_exported_and_grouped(fiilis: House) -> None:
    """The raw answers are the customer's: page by page, as a file, and by the way they came."""
    said = [answer(fiilis, n % 11, days=n / 100, channel="email" if n % 2 else "kiosk") for n in range(7)]
    await fiilis.post(*said, answer(fiilis, 4, kind="mood", comment="=1+1", channel="desk"))
    await counted(fiilis, 7)
    first = await fiilis.get("/v1/customers/acme/feedback", limit=3, kind="nps")
    rest = await fiilis.get("/v1/customers/acme/feedback", limit=10, kind="nps", cursor=first["next"])
    assert [a["score"] for a in (*first["items"], *rest["items"])] == [n % 11 for n in range(7)]
    assert rest["next"] is None
    exported = await ask(fiilis, "GET", "/v1/customers/acme/export.csv", params={"kind": "mood"})
    assert exported.headers["content-type"].startswith("text/csv")
    (row,) = csv.DictReader(io.StringIO(exported.text))
    assert (row["score"], row["comment"]) == ("4", "'=1+1"), "a spreadsheet must not run what a respondent wrote"
    by = (await fiilis.get("/v1/customers/acme/scores", by="channel"))["channels"]
    assert [(c["channel"], c["nps"]["responses"]) for c in by] == [("email", 3), ("kiosk", 4), ("desk", 0)], (
        "weakest first"
    )


async def test_a_person_is_forgotten(fiilis: House) -> None:
    """Name and words go from answers and alerts, the score stays, and what comes late is dropped."""
    told: dict[str, Any] = {"kind": "mood", "respondent": "r-17", "comment": "Call me at home"}
    await fiilis.post(answer(fiilis, 1, **told), answer(fiilis, 2, respondent="r-17"))
    await counted(fiilis, 1)
    await until(lambda: alerts(fiilis, "mood-one"))
    response = await ask(fiilis, "DELETE", "/v1/respondents/r-17", params={"customer": "acme"})
    assert response.status_code == 202

    async def gone() -> bool:
        return not any(a["respondent"] == "r-17" for a in await fiilis.items("/v1/customers/acme/feedback"))

    await until(gone)
    everything = str(await fiilis.get("/v1/customers/acme/feedback")) + str(await fiilis.get("/v1/alerts"))
    assert "Call me" not in everything
    assert "r-17" not in everything
    assert (await counted(fiilis, 1))["mood"]["responses"] == 1
    await fiilis.post(answer(fiilis, 9, days=0.1, respondent="r-17"), answer(fiilis, 10, respondent="r-18"))
    assert (await counted(fiilis, 2))["nps"]["promoters"] == 1


async def test_a_name_with_quotes_is_forgotten_too(fiilis: House) -> None:
    """Alerts are kept as JSON, where such a name is written otherwise."""
    odd = 'r-"17\\ä'
    await fiilis.post(answer(fiilis, 1, kind="mood", respondent=odd, comment="Call me at home"))
    await until(lambda: alerts(fiilis, "mood-one"))
    path = f"/v1/respondents/{quote(odd)}"
    assert (await ask(fiilis, "DELETE", path, params={"customer": "acme"})).status_code == 202

    async def gone() -> bool:
        return not any(a["respondent"] == odd for a in await fiilis.items("/v1/customers/acme/feedback"))

    await until(gone)
    assert "Call me" not in str(await fiilis.get("/v1/alerts"))
