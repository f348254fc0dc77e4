"""Before an apply a person reads what would change, and no secret is in it."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from shared.directory import model
from shared.directory.check import parse
from shared.directory.difference import Change, difference, render

TEXT = """\
company: {name: Example Oy}
touchpoints: [support]
people:
  ann: {name: Ann, contacts: [{email: ann@example.test}, {webhook: "https://hooks.example.test/T0/sesame"}]}
  bob: {name: Bob, contacts: [{sms: "+358401234567"}]}
escalations:
  standard: {steps: [{page: architect, ack_within: 5m}], catch_all: bob}
rules:
  - {name: nps-low, when: {nps_below: 0, window: 30d}, severity: high}
customers:
  acme: {name: Acme Oy, architect: ann, goals: {nps: 40}}
root_causes: [people]
desks: {main: {type: zammad, url: "https://desk.example.test", token_env: TOKEN}}
keys: [{id: ops, kind: secret, scopes: [admin], sha256: HASH}]
""".replace("HASH", "a" * 64)


def change(old: str, new: str) -> str:
    assert TEXT.count(old) == 1, old
    return render(difference(parse(TEXT), parse(TEXT.replace(old, new))))


def test_no_change_is_no_line() -> None:
    assert difference(parse(TEXT), parse(TEXT)) == []
    assert render([]) == ""


def test_first_apply_is_a_line_per_section() -> None:
    assert render(difference(None, parse(TEXT))).splitlines() == [
        "+ company: Example Oy",
        "+ people: 2",
        "+ customers: 1",
        "+ escalations: 1",
        "+ touchpoints: 1",
        "+ rules: 1",
        "+ keys: 1",
        "+ root_causes: 1",
        "+ desks: 1",
    ]


def test_changed_field() -> None:
    new = parse(TEXT.replace("architect: ann", "architect: bob"))
    assert difference(parse(TEXT), new) == [Change("~", "customers.acme.architect", "ann", "bob")]
    assert render(difference(parse(TEXT), new)) == "~ customers.acme.architect: ann -> bob"


def test_entry_that_came_and_went() -> None:
    with_beta = parse(TEXT.replace("root_causes", "  beta: {name: Beta AB, architect: bob}\nroot_causes"))
    assert render(difference(parse(TEXT), with_beta)) == "+ customers.beta"
    assert render(difference(with_beta, parse(TEXT))) == "- customers.beta"


def test_value_that_came_and_went() -> None:
    assert change("{nps: 40}", "{mood: 3.2}") == "+ customers.acme.goals.mood: 3.2\n- customers.acme.goals.nps: 40"
    assert change("architect: ann,", "architect: ann, deputy: bob,") == "~ customers.acme.deputy: (none) -> bob"


def test_rules_are_compared_by_name() -> None:
    assert change("nps_below: 0", "nps_below: 20") == "~ rules.nps-low.when.nps_below: 0 -> 20"
    assert change("window: 30d", "window: 12h") == "~ rules.nps-low.when.window: 30d -> 12h"
    assert change("name: nps-low", "name: nps-bad") == "+ rules.nps-bad\n- rules.nps-low"


OLD_RULE = "{nps_below: 0, window: 30d}"


def rule_change(old: str, new: str) -> str:
    declared = TEXT.replace("people:\n", "metrics: {speed: {}}\npeople:\n")
    return render(difference(parse(declared.replace(OLD_RULE, old)), parse(declared.replace(OLD_RULE, new))))


WHEN = "rules.nps-low.when"


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("{mood_at_most: 1}", "{mood_at_least: 4}", [f"~ {WHEN}: mood_at_most 1 -> mood_at_least 4"]),
        ("{mood_at_most: 1}", "{follow_up_at_most: 2}", [f"~ {WHEN}: mood_at_most 1 -> follow_up_at_most 2"]),
        (
            "{detractors_at_least: 3, window: 7d}",
            "{score_at_most: 2, kind: csat}",
            [f"~ {WHEN}: detractors_at_least 3 -> score_at_most 2"],
        ),
        (
            "{metric: speed, mean_below: 3, window: 1d}",
            "{no_feedback_for: auto}",
            [f"~ {WHEN}: metric speed -> no_feedback_for auto"],
        ),
        (
            "{shift: {}}",
            "{unhappy_share_above: 0.25, window: 15m}",
            [f"~ {WHEN}: shift 0.1 -> unhappy_share_above 0.25"],
        ),
        ("{nps_drop: 20, window: 30d}", "{nps_drop: 20, window: 31d}", [f"~ {WHEN}.window: 30d -> 31d"]),
        (
            "{metric: speed, mean_below: 3, window: 1d}",
            "{metric: speed, mean_above: 4, window: 1d}",
            [f"~ {WHEN}.mean_below: 3 -> (none)", f"~ {WHEN}.mean_above: (none) -> 4"],
        ),
        ("{mood_at_least: 4}", "{mood_at_least: 4, with_comment: true}", [f"~ {WHEN}.with_comment: false -> true"]),
        ("{shift: {}}", "{shift: {false_alarms_per_year: 1}}", [f"~ {WHEN}.false_alarms_per_year: 0.1 -> 1"]),
    ],
)
def test_what_changes_in_a_rule_of_any_type(old: str, new: str, told: list[str]) -> None:
    """Who lowers a limit, or takes another rule in its place, sees it in a line before it is in force."""
    assert rule_change(old, new).splitlines() == told


def test_a_whole_limit_is_told_without_a_point() -> None:
    assert rule_change(OLD_RULE, "{mood_at_most: 1}") == f"~ {WHEN}: nps_below 0 -> mood_at_most 1"


@pytest.mark.parametrize(
    ("new", "told"),
    [
        ("{no_feedback_for: auto}", f"~ {WHEN}.no_feedback_for: 14d -> auto"),
        ("{no_feedback_for: 21d}", f"~ {WHEN}.no_feedback_for: 14d -> 21d"),
        ("{mood_at_most: 1}", f"~ {WHEN}: no_feedback_for 14d -> mood_at_most 1"),
    ],
)
def test_silence_is_told_in_days(new: str, told: str) -> None:
    """Nobody reads 1209600."""
    assert rule_change("{no_feedback_for: 14d}", new) == told


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("{score_at_most: 3, kind: csat}", "{score_at_most: 3, kind: ces}", f"~ {WHEN}.kind: csat -> ces"),
        ("{shift: {kind: nps}}", "{shift: {kind: mood}}", f"~ {WHEN}.kind: nps -> mood"),
        ("{nps_drop: 20, window: 30d}", "{nps_drop: 25, window: 30d}", f"~ {WHEN}.nps_drop: 20 -> 25"),
    ],
)
def test_a_field_is_told_by_its_word(old: str, new: str, told: str) -> None:
    """Who reads the change looks for that word in directory.yaml."""
    assert rule_change(old, new) == told


def test_customers_first_own_rule() -> None:
    own = "goals: {nps: 40}, rules: [{name: nps-low, when: {nps_below: 20, window: 30d}, severity: high}]"
    assert change("goals: {nps: 40}", own) == "+ customers.acme.rules.nps-low"


def test_lists_are_told_whole() -> None:
    assert change("ack_within: 5m", "ack_within: 90s") == (
        "~ escalations.standard.steps: [architect 5m] -> [architect 90s]"
    )
    assert change("[people]", "[people, process]") == "~ root_causes: [people] -> [people, process]"
    assert (
        change("+358401234567", "+358407654321") == "~ people.bob.contacts: [sms +358401234567] -> [sms +358407654321]"
    )


def test_sections_for_later_have_their_own_names() -> None:
    assert change("token_env: TOKEN", "token_env: OTHER") == "~ desks.main.token_env: TOKEN -> OTHER"
    assert change("root_causes: [people]", "root_causes: [people]\nretention: 90d") == "~ retention: 400d -> 90d"
    assert change("root_causes", 'webhooks: [{url: "https://h.test/x"}]\nroot_causes') == (
        "~ webhooks: [] -> [https://h.test/...]"
    )


def test_no_hash_and_no_webhook_path_is_told() -> None:
    assert change("a" * 64, "b" * 64) == "~ keys.ops.sha256: (a secret) -> (another secret)"
    assert change("id: ops", "id: new-ops") == "+ keys.new-ops\n- keys.ops"
    assert change("/T0/sesame", "/T1/sesame") == "~ people.ann.contacts: (as it was) -> (changed)"
    assert change(', {webhook: "https://hooks.example.test/T0/sesame"}', "") == (
        "~ people.ann.contacts: [email ann@example.test, webhook https://hooks.example.test/...]"
        " -> [email ann@example.test]"
    )


def test_the_same_change_of_many_customers_is_one_line() -> None:
    """A new company touchpoint reaches every customer; a thousand equal lines would hide the one that matters."""
    acme = parse(TEXT).customers["acme"]
    many = {f"c{n}": replace(acme, id=f"c{n}") for n in range(1000)}
    old = replace(parse(TEXT), customers=many)
    moved = {id: replace(customer, touchpoints=("support", "billing")) for id, customer in many.items()}
    moved["c7"] = replace(moved["c7"], architect="bob")
    assert render(difference(old, replace(old, customers=moved))).splitlines() == [
        "~ customers.*.touchpoints: [support] -> [support, billing] (1000 entries, such as c0)",
        "~ customers.c7.architect: ann -> bob",
    ]


def test_customers_that_went_are_each_named() -> None:
    acme = parse(TEXT).customers["acme"]
    old = replace(parse(TEXT), customers={f"c{n}": replace(acme, id=f"c{n}") for n in range(9)})
    lines = render(difference(old, replace(old, customers={}))).splitlines()
    assert lines == [f"- customers.c{n}" for n in range(9)]


def test_rules_in_another_order_are_the_same() -> None:
    rules = (model.Rule("a", model.MoodAtMost(1), "high"), model.Rule("b", model.MoodAtMost(2), "low"))
    old = replace(parse(TEXT), rules=rules)
    assert difference(old, replace(old, rules=rules[::-1])) == []
