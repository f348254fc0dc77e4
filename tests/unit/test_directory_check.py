"""A person who edits directory.yaml is told everything that is wrong, each with its line and what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from shared.directory import model
from shared.directory.check import Findings, parse, parse_file
from shared.rules.conditions import CONDITIONS

ROOT = Path(__file__).parents[2]
HASH = "0" * 63

GOOD = """\
company: {name: Example Oy, timezone: Europe/Helsinki, language: fi}
touchpoints: [support, billing]
metrics: {resolved: {unit: "%"}}
people:
  ann: {name: Ann, contacts: [{email: ann@example.test}]}
  bob: {name: Bob, timezone: Asia/Tokyo, language: ja, contacts: [{sms: "+358401234567"}]}
  eve: {name: Eve}
escalations:
  standard:
    steps: [{page: architect, ack_within: 5m}, {page: bob, ack_within: 90s}, {page: catch_all, ack_within: 1h}]
    catch_all: bob
rules:
  - {name: mood-one, when: {mood_at_most: 1}, severity: critical}
  - {name: burst, when: {unhappy_share_above: 0.5, window: 15m}, severity: high, per: touchpoint}
customers:
  acme:
    name: Acme Oy
    architect: ann
    deputy: eve
    touchpoints: [support]
    goals: {nps: 40, resolved: 95}
schedules: {night: {layers: [{rotation: weekly, start: "2026-01-05T09:00", people: [ann]}]}}
desks: {main: {type: zammad, url: "https://desk.example.test", token_env: TOKEN}}
webhooks: [{url: "https://hook.example.test", customers: [acme]}]
channels: {smtp: {host: 127.0.0.1, port: 1025, tls: none, sender: fiilis@example.test}}
keys:
  - {id: web, kind: publishable, customer: acme, sha256: "HASH1"}
  - {id: ops, kind: secret, scopes: [scores], sha256: "HASH2"}
""".replace("HASH", HASH)


def findings(text: str) -> list[str]:
    with pytest.raises(Findings) as caught:
        _ = parse(text)
    return [finding.render("f.yaml") for finding in caught.value.findings]


def edited(old: str, new: str) -> str:
    assert GOOD.count(old) == 1, old
    return GOOD.replace(old, new)


def test_the_example_has_the_whole_contract_and_passes() -> None:
    directory = parse_file(ROOT / "deploy/directory.yaml")
    acme = directory.customers["acme"]
    assert acme.rules[0].when == model.NpsBelow(20, 30 * 86400, 10, "simple")
    assert acme.goals == {"nps": 40, "mood": 3.2, "first-contact-resolution": 95}
    assert directory.escalations["standard"].steps[2] == model.Step("schedule:night-watch", 300)
    assert directory.sla == {"critical": model.Sla(3600, 28800), "high": model.Sla(14400, 259200)}


def test_root_causes_are_a_tree() -> None:
    tree = parse(GOOD + "root_causes: [people, {process: [handover, {tools: [crm]}]}]\n")
    assert tree.root_causes == ("people", "process", "process/handover", "process/tools", "process/tools/crm")


def test_the_demo_passes() -> None:
    assert len(parse_file(ROOT / "demo/directory.yaml").customers) == 5


def test_defaults_are_filled_in() -> None:
    directory = parse(GOOD)
    acme, ann, bob = directory.customers["acme"], directory.people["ann"], directory.people["bob"]
    assert (acme.escalation, acme.timezone, acme.language) == ("standard", "Europe/Helsinki", "fi")
    assert (ann.timezone, ann.language, bob.timezone, bob.language) == ("Europe/Helsinki", "fi", "Asia/Tokyo", "ja")
    assert directory.escalations["standard"].steps[1] == model.Step("person:bob", 90)
    assert directory.rules[1].per_touchpoint
    assert directory.rules[1].when == model.UnhappyShareAbove(0.5, 900)
    assert [key.customers for key in directory.keys] == [("acme",), ()]
    assert directory.retention == 400 * 86400
    night = model.Schedule("night", "Europe/Helsinki", (model.Layer("weekly", "2026-01-05T09:00", ("ann",)),))
    assert directory.schedules == {"night": night}


def test_least_directory_has_the_built_in_rules_and_utc() -> None:
    directory = parse("company: {name: Example Oy}")
    assert (directory.timezone, directory.language, directory.schedules) == ("UTC", "en", {})
    assert directory.rules == (
        model.Rule("mood-one", model.MoodAtMost(1), "critical"),
        model.Rule("nps-low", model.NpsBelow(0, 30 * 86400, 10, "strict", confidence=0.999), "high"),
        model.Rule("shift", model.Shift(0.1, "nps"), "high"),
        model.Rule("silence", model.NoFeedbackFor("auto"), "low"),
        model.Rule("good-experience", model.MoodAtLeast(4, with_comment=True), "info"),
        model.Rule("follow-up", model.FollowUpAtMost(2), "high"),
    )


def test_no_rules_means_none() -> None:
    assert parse("{company: {name: Example Oy}, rules: []}").rules == ()


DAY = 86400

OF_EACH_TYPE = {
    "mood_at_most: 2": model.MoodAtMost(2),
    "nps_below: -20.5, window: 12h": model.NpsBelow(-20.5, DAY // 2, 10, "strict", 5.0),
    "nps_below: 0, window: 30d, min_responses: 3, certainty: simple, clear_margin: 0": model.NpsBelow(
        0, 30 * DAY, 3, "simple", 0
    ),
    "nps_drop: 20, window: 30d": model.NpsDrop(20, 30 * DAY, 0.95, 15, 5.0),
    "nps_drop: 20, window: 200d, confidence: 0.5, min_responses: 1, clear_margin: 19": model.NpsDrop(
        20, 200 * DAY, 0.5, 1, 19
    ),
    "mood_below: 2.5, window: 7d": model.MoodBelow(2.5, 7 * DAY, 4, 0.1),
    "unhappy_share_above: 0, window: 1s": model.UnhappyShareAbove(0, 1, 4, 0.05),
    "detractors_at_least: 3, window: 400d": model.DetractorsAtLeast(3, 400 * DAY),
    "score_at_most: 3, kind: csat": model.ScoreAtMost(3, "csat"),
    "score_at_most: 0, kind: nps": model.ScoreAtMost(0, "nps"),
    "score_at_most: 6, kind: ces": model.ScoreAtMost(6, "ces"),
    "metric: resolved, mean_below: 90, window: 30d": model.MetricMean("resolved", 30 * DAY, mean_below=90),
    "metric: resolved, mean_above: -0.5, window: 1h, min_responses: 1, clear_margin: 2": model.MetricMean(
        "resolved", 3600, None, -0.5, 1, 2
    ),
    "no_feedback_for: 14d": model.NoFeedbackFor(14 * DAY),
    "no_feedback_for: auto": model.NoFeedbackFor("auto"),
    "shift: {}": model.Shift(0.1, "nps"),
    "shift: {false_alarms_per_year: 12, kind: mood}": model.Shift(12, "mood"),
    "mood_at_least: 3": model.MoodAtLeast(3, with_comment=False),
    "mood_at_least: 4, with_comment: true": model.MoodAtLeast(4, with_comment=True),
    "follow_up_at_most: 2": model.FollowUpAtMost(2),
}


@pytest.mark.parametrize("when", OF_EACH_TYPE)
def test_every_type_of_rule_is_read_with_its_defaults(when: str) -> None:
    """What stands in the contract's table is what the services judge by."""
    (rule, _) = parse(edited("mood_at_most: 1", when)).rules
    assert rule.when == OF_EACH_TYPE[when]


def test_no_type_of_rule_is_left_out_here() -> None:
    """A new type brings its example; the table above stays the whole of it."""
    assert {condition.word for condition in OF_EACH_TYPE.values()} == set(CONDITIONS)


def test_customer_without_touchpoints_has_all() -> None:
    assert parse(edited("    touchpoints: [support]\n", "")).customers["acme"].touchpoints == ("support", "billing")


def test_yaml_words_of_old_are_text() -> None:
    """Norway and Norwegian are not False, and a clock is not a number in base 60."""
    acme = parse(edited("name: Acme Oy", "name: 12:30\n    holidays: NO\n    language: no")).customers["acme"]
    assert (acme.name, acme.holidays, acme.language) == ("12:30", "NO", "no")


def test_alias_shares_what_it_names() -> None:
    text = edited("[{email: ann@example.test}]", "&mail [{email: ann@example.test}]").replace(
        "eve: {name: Eve}", "eve: {name: Eve, contacts: *mail}"
    )
    assert parse(text).people["eve"].contacts == parse(text).people["ann"].contacts


DECLARED_RULES = (
    "known are mood_at_most, nps_below, nps_drop, mood_below, unhappy_share_above, detractors_at_least, score_at_most, "
    "metric, no_feedback_for, shift, mood_at_least, follow_up_at_most"
)
SLUG = "must be a slug: a-z, 0-9 and '-', at most 63, not '-' first"
ADD_PERSON = "add it under people or correct the name"
ADD_TOUCHPOINT = "add it under touchpoints or correct the name"
ADD_CUSTOMER = "add it under customers or correct the name"
STANDARD = "escalations.standard"
STEPS = "escalations.standard.steps"
CONTACT = "people.ann.contacts[0]"
LAYER = "schedules.night.layers[0]"
URL = "must be an address that starts with https:// or http://"
OWN = "each needs its own"
PAGES = "it must be architect, deputy, catch_all, schedule:NAME or a person's id"
SAME = "must end at another time than it starts: 'Mon 16:00-16:00'; all day is 00:00-24:00"
END = "must end after it starts"
METRICS = "it must be nps, mood or one declared under metrics"
ZONES = "it must be an IANA name such as Europe/Helsinki"
DURATION = "must be a duration"
NOT_ARCHITECT = "name another person or remove the deputy"
BURST = "unhappy_share_above"
TAKES = "it takes window, min_responses, clear_margin"
TAGS = "tags have no meaning here"
ACME = "customers.acme"
MOOD = "mood_at_most"
NOTHING = "it takes nothing else"
SEVERITIES = "must be 'critical', 'high', 'medium', 'low' or 'info'"
SCOPES = "must be 'feedback', 'scores', 'tickets', 'oncall' or 'admin'"
HOURS = "must be hours such as"
OTHER = "choose another"
LEAST = "must be greater than or equal to"
MOST = "must be less than or equal to"
BOTH = "has both touchpoint and per: touchpoint"
NO_SECRET = "secret_env belongs to a webhook; remove it"
UNREACHED = "cannot be reached; add a contact under people.eve.contacts"
ADD_ESCALATION = "add it under escalations or correct the name"
ADD_DESK = "add it under desks or correct the name"
NO_SCOPES = "a publishable key can only post feedback; remove its scopes"
ONE_CUSTOMER = "a publishable key has exactly one customer; write customer: ID"
NEEDS_SCOPES = "a secret key needs scopes, from feedback, scores, tickets, oncall, admin"
NO_CYCLE = "an escalation cannot go on with another, which could come back to it; write its steps here"
WAYS = "email, webhook, sms, voice, slack, teams, mattermost, ntfy, pagerduty"
TYPO = "unknown field; correct its name or remove it"


@pytest.mark.parametrize(
    ("old", "new", "finding"),
    [
        # fields
        ("name: Example Oy, ", "", "1: company.name: is required"),
        ("Europe/Helsinki", "Europe", f"1: company.timezone: unknown time zone 'Europe'; {ZONES}"),
        ("language: fi", "language: Finnish", "1: company.language: must be a language such as fi or pt-BR"),
        ("language: fi", "colour: red", f"1: company.colour: {TYPO}"),
        ("company: {", "compani: {}\ncompany: {", f"1: compani: {TYPO}"),
        ("[support, billing]", "support", "2: touchpoints: must be a list"),
        ("[support, billing]", "[support, Billing]", f"2: touchpoints[1]: {SLUG}"),
        ("[support, billing]", "[support, support]", "2: touchpoints: names support more than once"),
        ("resolved: {unit", "nps: {}, resolved: {unit", f"3: metrics.nps: 'nps' is measured already; {OTHER} name"),
        ("  eve:", "  Eve: {name: Eve}\n  eve:", f"7: people.Eve: {SLUG}"),
        ("  eve:", "  deputy: {name: D}\n  eve:", f"7: people.deputy: 'deputy' is a role in escalations; {OTHER} id"),
        ("{name: Eve}", "[]", "7: people.eve: must be a mapping"),
        ("{name: Eve}", "{name: 7}", "7: people.eve.name: must be text; put it in quotes"),
        ("{name: Eve}", '{name: "Eve\\nBcc: x"}', "7: people.eve.name: must be one line of 1 to 200 characters"),
        ("{name: Eve}", "{name: Eve, quiet_hours: 22-07}", f"7: people.eve.quiet_hours: {HOURS} 22:00-07:00"),
        ("{name: Eve}", '{name: Eve, quiet_hours: "07:00-07:00"}', f"7: people.eve.quiet_hours: {END}: '07:00-07:00'"),
        ("{name: Eve}", "{name: Eve, photo: eve.jpg}", f"7: people.eve.photo: {URL}"),
        ("ann@example.test", "ann", "5: people.ann.contacts[0].email: must be an e-mail address"),
        ("{email: ann@example.test}", "{webhook: ftp://x}", f"5: {CONTACT}.webhook: {URL}"),
        ("{email: ann@example.test}", "{}", f"5: {CONTACT}: must have exactly one of {WAYS}"),
        ("{email: ann@example.test}", "{email: a@b.test, secret_env: A}", f"5: {CONTACT}: {NO_SECRET}"),
        ('"+358401234567"', "+358401234567", "6: people.bob.contacts[0].sms: must be text; put it in quotes"),
        ('"+358401234567"', "040 1234567", "6: people.bob.contacts[0].sms: must be a number such as +358401234567"),
        # escalations
        ("ack_within: 5m", "ack_within: 5", f"10: {STEPS}[0].ack_within: {DURATION} such as 90s, 15m, 12h or 30d"),
        ("ack_within: 5m", "ack_within: 0s", f"10: {STEPS}[0].ack_within: {DURATION} from 1s to 3650d"),
        ("page: bob", "page: boss", f"10: {STEPS}[1].page: unknown person 'boss'; {PAGES}"),
        ("page: bob", "page: schedule:day", f"10: {STEPS}[1].page: unknown schedule 'day'; add it under schedules"),
        ("page: bob", "page: escalation:standard", f"10: {STEPS}[1].page: {NO_CYCLE}"),
        ("    catch_all: bob\n", "", "9: escalations.standard.catch_all: is required"),
        ("catch_all: bob", "catch_all: boss", f"11: {STANDARD}.catch_all: unknown person 'boss'; {ADD_PERSON}"),
        ("catch_all: bob", "catch_all: eve", f"11: {STANDARD}.catch_all: 'eve' {UNREACHED}"),
        ("catch_all: bob", "catch_all: bob\n    repeat: 0", f"12: {STANDARD}.repeat: {LEAST} 1, not 0"),
        # rules
        (
            "mood_at_most: 1",
            "nps_rise: 20, window: 30d",
            f"13: rules[0].when: unknown rule: nps_rise, window; {DECLARED_RULES}",
        ),
        ("{mood_at_most: 1}", "mood", f"13: rules[0].when: unknown rule: mood; {DECLARED_RULES}"),
        ("mood_at_most: 1", "mood_at_most: 5", f"13: rules[0].when.{MOOD}: {MOST} 4, not 5"),
        ("most: 1", "most: 1, window: 1d", f"13: rules[0].when.window: {MOOD} takes no 'window'; {NOTHING}"),
        ("15m", "15m, certainty: strict", f"14: rules[1].when.certainty: {BURST} takes no 'certainty'; {TAKES}"),
        (", window: 15m}", "}", "14: rules[1].when.window: is required"),
        ("window: 15m}", "window: 401d}", "14: rules[1].when.window: a window must be at most 400d"),
        ("window: 15m}", "window: 1441m}", "14: rules[1].when.window: a window of a day or more must be whole hours"),
        ("0.5", "50", f"14: rules[1].when.{BURST}: must be less than 1, not 50"),
        ("name: burst", "name: mood-one", f"14: rules[1].name: 'mood-one' is used by rules[0] already; {OWN}"),
        ("critical", "urgent", f"13: rules[0].severity: {SEVERITIES}, not 'urgent'"),
        (
            "critical",
            "low, touchpoint: sales",
            f"13: rules[0].touchpoint: unknown touchpoint 'sales'; {ADD_TOUCHPOINT}",
        ),
        ("per: touchpoint", "touchpoint: billing, per: touchpoint", f"14: rules[1]: {BOTH}; keep one"),
        ("per: touchpoint", "enabled: yes", "14: rules[1].enabled: must be true or false"),
        # customers
        ("architect: ann", "architect: boss", f"18: {ACME}.architect: unknown person 'boss'; {ADD_PERSON}"),
        ("    architect: ann\n", "", f"16: {ACME}.architect: is required"),
        ("architect: ann\n    deputy: eve", "architect: eve", f"18: {ACME}.architect: 'eve' {UNREACHED}"),
        ("deputy: eve", "deputy: boss", f"19: {ACME}.deputy: unknown person 'boss'; {ADD_PERSON}"),
        ("deputy: eve", "deputy: ann", f"19: {ACME}.deputy: 'ann' is the architect already; {NOT_ARCHITECT}"),
        ("deputy: eve", "escalation: fast", f"19: {ACME}.escalation: unknown escalation 'fast'; {ADD_ESCALATION}"),
        ("deputy: eve", "desk: other", f"19: {ACME}.desk: unknown desk 'other'; {ADD_DESK}"),
        ("deputy: eve", "business_hours: 8-16", f"19: {ACME}.business_hours[0]: {HOURS} Mon-Fri 08:00-16:00"),
        ("deputy: eve", "business_hours: Mon 16:00-16:00", f"19: {ACME}.business_hours[0]: {SAME}"),
        ("deputy: eve", "closed: [2026-02-30]", f"19: {ACME}.closed[0]: must be a date such as 2026-12-31"),
        ("[support]", "[sales]", f"20: {ACME}.touchpoints[0]: unknown touchpoint 'sales'; {ADD_TOUCHPOINT}"),
        ("touchpoints: [support]", "touchpoints: []", f"20: {ACME}.touchpoints: must have at least one entry"),
        ("nps: 40", "nps: 101", f"21: {ACME}.goals.nps: must be from -100 to 100, not 101.0"),
        ("nps: 40", "mood: 5", f"21: {ACME}.goals.mood: must be from 1 to 4, not 5.0"),
        ("nps: 40", "speed: 5", f"21: {ACME}.goals.speed: unknown metric 'speed'; {METRICS}"),
        # sections for later
        ("people: [ann]", "people: [boss]", f"22: {LAYER}.people[0]: unknown person 'boss'; {ADD_PERSON}"),
        (
            "people: [ann]",
            "people: [ann], turn: 36h",
            f"22: {LAYER}: a custom rotation has turn, such as 36h; the others have every",
        ),
        (
            "people: [ann]",
            'people: [ann], restrict: "Mon 9-17"',
            f"22: {LAYER}.restrict[0]: {HOURS} 18:00-08:00, Mon-Fri 18:00-08:00 or holidays 00:00-24:00",
        ),
        (
            "{name: Eve}",
            '{name: Eve, absences: [{from: "2026-12-24", until: "2026-12-20"}]}',
            f"7: people.eve.absences[0]: {END}",
        ),
        ("{smtp:", "{sms: {token_env: T}, smtp:", "25: channels.sms: a twilio gateway needs account_env and sender"),
        ("2026-01-05T09:00", "Monday", f"22: {LAYER}.start: must be a local time such as 2026-01-05T09:00"),
        ("token_env: TOKEN", "token: sesame", f"23: desks.main.token: {TYPO}"),
        (
            "customers: [acme]",
            "customers: [beta]",
            f"24: webhooks[0].customers[0]: unknown customer 'beta'; {ADD_CUSTOMER}",
        ),
        ("port: 1025", "port: 70000", f"25: channels.smtp.port: {MOST} 65535, not 70000"),
        # keys
        ("customer: acme", "customer: beta", f"27: keys[0].customer: unknown customer 'beta'; {ADD_CUSTOMER}"),
        ("customer: acme, ", "", f"27: keys[0]: {ONE_CUSTOMER}"),
        ("customer: acme", "customer: acme, scopes: [scores]", f"27: keys[0]: {NO_SCOPES}"),
        ("scopes: [scores], ", "", f"28: keys[1]: {NEEDS_SCOPES}"),
        ("scopes: [scores]", "scopes: [all]", f"28: keys[1].scopes[0]: {SCOPES}, not 'all'"),
        ("scopes: [scores]", "customers: [], scopes: [scores]", "28: keys[1].customers: must have at least one entry"),
        ("id: ops", "id: web", "28: keys[1].id: 'web' is used by keys[0] already; each needs its own"),
        (HASH + "2", HASH + "1", "28: keys[1].sha256: the same hash is used by keys[0] already; each needs its own"),
        (HASH + "2", "sk_live", "28: keys[1].sha256: must be the SHA-256 of the key: 64 digits 0-9a-f; see 'keys new'"),
        # YAML
        ("deputy: eve", "name: Again", f"19: {ACME}.name: is here a second time; remove one"),
        ("deputy: eve", "<<: x", f"19: {ACME}.<<: merge keys are not supported; repeat the fields"),
        ("deputy: eve", "deputy: !!str eve", f"19: {ACME}.deputy: remove the tag tag:yaml.org,2002:str: {TAGS}"),
        ("deputy: eve", "deputy: *eve", f"19: {ACME}.deputy: alias *eve has no complete anchor before it"),
    ],
)
def test_error(old: str, new: str, finding: str) -> None:
    assert f"f.yaml:{finding}" in findings(edited(old, new))


NEVER = "which is never"
LEFT_OUT = "is required"
WINDOW_MOST = "a window must be at most 400d"
A_DURATION = "must be a duration such as 90s, 15m, 12h or 30d"
DROP_TAKES = "it takes window, confidence, min_responses, clear_margin"
SCORE_ALONE = "has no meaning with certainty: simple, which looks at the score alone"
ONE_LIMIT = "needs exactly one of mean_below, mean_above"
SHIFT_FORM = "shift takes a mapping such as {false_alarms_per_year: 0.1}, and nothing beside it"
ADD_METRIC = "unknown metric 'speed'; add it under metrics or correct the name"
ABOVE_ZERO = "must be greater than 0"
BUDGET = "false_alarms_per_year"


@pytest.mark.parametrize(
    ("when", "field", "why"),
    [
        # what could never fire, or never clear
        ("nps_below: -100, window: 30d", "nps_below", "NPS is never under -100, so the rule could never fire"),
        ("nps_below: 97, window: 30d", "clear_margin", f"an alert would clear above 102, {NEVER}"),
        ("nps_below: 0, window: 30d, clear_margin: 100", "clear_margin", f"an alert would clear above 100, {NEVER}"),
        (
            "nps_drop: 20, window: 23h",
            "window",
            "must be at least 1d, since the window before it is kept in whole hours",
        ),
        (
            "nps_drop: 20, window: 201d",
            "window",
            "must be at most 200d, so that it and the window before it fit into 400d",
        ),
        ("mood_below: 1, window: 1d", "mood_below", "mood is never under 1, so the rule could never fire"),
        ("mood_below: 3.95, window: 1d", "clear_margin", f"an alert would clear above 4.05, {NEVER}"),
        ("mood_below: 4, window: 1d, clear_margin: 0", "clear_margin", f"an alert would clear above 4, {NEVER}"),
        ("score_at_most: 0, kind: csat", "score_at_most", "must be from 1 to 4 for kind csat, not 0"),
        ("score_at_most: 5, kind: csat", "score_at_most", "must be from 1 to 4 for kind csat, not 5"),
        ("score_at_most: 10, kind: nps", "score_at_most", "must be from 0 to 9 for kind nps, not 10"),
        ("score_at_most: 7, kind: ces", "score_at_most", "must be from 1 to 6 for kind ces, not 7"),
        ("score_at_most: 4, kind: mood", "score_at_most", "must be from 1 to 3 for kind mood, not 4"),
        # limits
        ("nps_below: 101, window: 30d", "nps_below", f"{MOST} 100, not 101"),
        ("nps_below: -101, window: 30d", "nps_below", f"{LEAST} -100, not -101"),
        ("nps_below: low, window: 30d", "nps_below", "must be a number"),
        ("nps_below: 0, window: 30d, clear_margin: -1", "clear_margin", f"{LEAST} 0, not -1"),
        ("nps_below: 0, window: 30d, min_responses: 0", "min_responses", f"{LEAST} 1, not 0"),
        ("nps_below: 0, window: 30d, min_responses: 1.5", "min_responses", "must be a whole number"),
        ("nps_below: 0, window: 30d, certainty: wild", "certainty", "must be 'strict' or 'simple', not 'wild'"),
        ("nps_drop: 0, window: 30d", "nps_drop", f"{ABOVE_ZERO}, not 0"),
        ("nps_drop: 201, window: 30d", "nps_drop", f"{MOST} 200, not 201"),
        ("nps_drop: 20, window: 30d, confidence: 1", "confidence", f"{MOST} 0.999999, not 1"),
        ("nps_drop: 20, window: 30d, confidence: 95", "confidence", f"{MOST} 0.999999, not 95"),
        ("nps_drop: 20, window: 30d, confidence: 0.4", "confidence", f"{LEAST} 0.5, not 0.4"),
        ("mood_below: 4.1, window: 1d", "mood_below", f"{MOST} 4, not 4.1"),
        ("mood_below: 0.9, window: 1d", "mood_below", f"{LEAST} 1, not 0.9"),
        ("unhappy_share_above: 1, window: 1d", "unhappy_share_above", "must be less than 1, not 1"),
        ("unhappy_share_above: -0.1, window: 1d", "unhappy_share_above", f"{LEAST} 0, not -0.1"),
        ("detractors_at_least: 0, window: 7d", "detractors_at_least", f"{LEAST} 1, not 0"),
        ("detractors_at_least: 2.5, window: 7d", "detractors_at_least", "must be a whole number"),
        ("score_at_most: 11, kind: nps", "score_at_most", f"{MOST} 10, not 11"),
        ("score_at_most: 3, kind: kpi", "kind", "must be 'nps', 'mood', 'csat' or 'ces', not 'kpi'"),
        ("mood_at_least: 5", "mood_at_least", f"{MOST} 4, not 5"),
        ("mood_at_least: 4, with_comment: 1", "with_comment", "must be true or false"),
        ("follow_up_at_most: 5", "follow_up_at_most", f"{MOST} 4, not 5"),
        ("follow_up_at_most: 0", "follow_up_at_most", f"{LEAST} 1, not 0"),
        ("metric: resolved, mean_above: high, window: 1d", "mean_above", "must be a number"),
        ("metric: resolved, mean_above: 9, window: 1d, clear_margin: -1", "clear_margin", f"{LEAST} 0, not -1"),
        *[(f"{start}, window: 401d", "window", WINDOW_MOST) for start in ("nps_below: 0", "nps_drop: 20")],
        *[(f"{start}, window: 401d", "window", WINDOW_MOST) for start in ("mood_below: 2", "detractors_at_least: 3")],
        ("metric: resolved, mean_below: 9, window: 401d", "window", WINDOW_MOST),
        # what is missing, or has no meaning there
        *[(start, "window", LEFT_OUT) for start in ("nps_below: 0", "nps_drop: 20", "mood_below: 2")],
        *[(start, "window", LEFT_OUT) for start in ("detractors_at_least: 3", "metric: resolved, mean_below: 9")],
        ("score_at_most: 3", "kind", LEFT_OUT),
        ("metric: speed, mean_below: 9, window: 1d", "metric", ADD_METRIC),
        ("metric: resolved, window: 1d", "metric", ONE_LIMIT),
        ("metric: resolved, mean_below: 9, mean_above: 9, window: 1d", "metric", ONE_LIMIT),
        ("no_feedback_for: often", "no_feedback_for", f"{A_DURATION}, or auto"),
        ("no_feedback_for: 14", "no_feedback_for", f"{A_DURATION}, or auto"),
        ("no_feedback_for: 0d", "no_feedback_for", "must be a duration from 1s to 3650d, or auto"),
        ("no_feedback_for: auto, window: 1d", "window", f"no_feedback_for takes no 'window'; {NOTHING}"),
        ("mood_at_most: 1, kind: mood", "kind", f"{MOOD} takes no 'kind'; {NOTHING}"),
        ("nps_below: 0, window: 30d, certainty: simple, confidence: 0.9", "confidence", SCORE_ALONE),
        ("nps_below: 0, window: 30d, confidence: 1.0", "confidence", f"{MOST} 0.999999, not 1.0"),
        ("nps_drop: 20, window: 1d, certainty: strict", "certainty", f"nps_drop takes no 'certainty'; {DROP_TAKES}"),
        ("score_at_most: 3, kind: csat, window: 1d", "window", "score_at_most takes no 'window'; it takes kind"),
        ("shift: 0.1", "", SHIFT_FORM),
        ("shift: {}, window: 1d", "", SHIFT_FORM),
    ],
)
def test_a_rule_that_makes_no_sense_is_refused(when: str, field: str, why: str) -> None:
    """Who writes a rule that could never fire, or never clear, learns it before the day on which it should have."""
    place = "rules[0].when" + (f".{field}" if field else "")
    assert findings(edited("mood_at_most: 1", when)) == [f"f.yaml:13: {place}: {why}"]


@pytest.mark.parametrize(
    ("inner", "field", "why"),
    [
        ("{false_alarms_per_year: 0}", BUDGET, f"{ABOVE_ZERO}, not 0"),
        ("{false_alarms_per_year: 13}", BUDGET, f"{MOST} 12, not 13"),
        ("{false_alarms_per_year: few}", BUDGET, "must be a number"),
        ("{kind: csat}", "kind", "must be 'nps' or 'mood', not 'csat'"),
        ("{budget: 1}", "budget", f"shift takes no 'budget'; it takes {BUDGET}, kind"),
    ],
)
def test_a_wrong_budget_of_a_shift_is_refused(inner: str, field: str, why: str) -> None:
    """More than one false alarm a month is no alarm any more, and none at all is no detector."""
    assert findings(edited("mood_at_most: 1", f"shift: {inner}")) == [f"f.yaml:13: rules[0].when.shift.{field}: {why}"]


def test_a_wrong_field_of_a_shift_has_its_own_line() -> None:
    """In a rule that is written over several lines the finding is where the mistake is."""
    text = (
        "company: {name: Example Oy}\n"
        "rules:\n"
        "  - name: shift\n"
        "    severity: high\n"
        "    when:\n"
        "      shift:\n"
        "        kind: nps\n"
        "        false_alarms_per_year: 99\n"
    )
    assert findings(text) == [f"f.yaml:8: rules[0].when.shift.false_alarms_per_year: {MOST} 12, not 99"]


@pytest.mark.parametrize("margin", ["20", "30"])
def test_a_drop_that_would_clear_only_by_a_rise_is_refused(margin: str) -> None:
    """Such an alert would outlive the drop: when both windows are equally bad it is over."""
    (found,) = findings(edited("mood_at_most: 1", f"nps_drop: 20, window: 30d, clear_margin: {margin}"))
    assert found.startswith("f.yaml:13: rules[0].when.clear_margin: must be under 20")


def test_all_that_contradicts_in_a_rule_is_told_at_once() -> None:
    """Two corrections need one reading."""
    both = findings(edited("mood_at_most: 1", "nps_below: -100, window: 30d, clear_margin: 200"))
    assert [found.split(": ")[1] for found in both] == ["rules[0].when.clear_margin", "rules[0].when.nps_below"]


def test_a_customers_rule_is_checked_where_it_stands() -> None:
    own = "rules:\n      - {name: a, when: {mood_at_most: 1}, severity: low}\n"
    own += "      - {name: b, when: {nps_below: -100, window: 1d}, severity: low}"
    assert findings(edited("deputy: eve", own)) == [
        "f.yaml:21: customers.acme.rules[1].when.nps_below: NPS is never under -100, so the rule could never fire"
    ]


def test_silence_has_no_oldest_answer() -> None:
    """`max_age` asks how old an answer may be that opens an alert; silence has none."""
    text = edited("{mood_at_most: 1}", "{no_feedback_for: 14d}, max_age: 2d")
    assert findings(text) == ["f.yaml:13: rules[0]: max_age has no meaning for silence; remove it"]


def test_a_single_mistake_is_a_single_finding() -> None:
    assert findings(edited("deputy: eve", "deputy: boss")) == [
        "f.yaml:19: customers.acme.deputy: unknown person 'boss'; add it under people or correct the name"
    ]


def test_everything_wrong_is_told_at_once_by_line() -> None:
    text = (
        edited("deputy: eve", "deputy: boss")
        .replace("customer: acme", "customer: beta")
        .replace("name: burst", "name: mood-one")
        .replace("name: Ann, ", "")
        .replace("touchpoints: [support]", "name: Acme again")
    )
    assert [finding.split(": ")[:2] for finding in findings(text)] == [
        ["f.yaml:5", "people.ann.name"],
        ["f.yaml:14", "rules[1].name"],
        ["f.yaml:19", "customers.acme.deputy"],
        ["f.yaml:20", "customers.acme.name"],
        ["f.yaml:27", "keys[0].customer"],
    ]


def test_customer_rules_have_names_of_their_own() -> None:
    rule = "{name: a, when: {mood_at_most: 1}, severity: low}"
    assert findings(edited("deputy: eve", f"rules: [{rule}, {rule}]")) == [
        "f.yaml:19: customers.acme.rules[1].name: 'a' is used by customers.acme.rules[0] already; each needs its own"
    ]


def test_customers_need_an_escalation() -> None:
    text = GOOD.split("escalations:")[0] + "customers:" + GOOD.split("\ncustomers:")[1]
    assert findings(text) == [
        "f.yaml:1: escalations: there are customers, so at least one escalation is required",
    ]


def test_an_escalation_needs_steps() -> None:
    assert findings(GOOD.replace("    steps: [", "    steps: []\n    # [")) == [
        "f.yaml:10: escalations.standard.steps: must have at least one entry"
    ]


def test_retention_is_at_least_a_day() -> None:
    assert findings(GOOD + "retention: 1h\n") == ["f.yaml:29: retention: must be at least 1d"]


def test_error_behind_an_alias_has_the_line_of_the_alias() -> None:
    text = "company: {name: &bad [x]}\ntouchpoints:\n  - *bad\n"
    assert [finding.split(": ")[0] for finding in findings(text)] == ["f.yaml:1", "f.yaml:3"]


@pytest.mark.parametrize(
    ("text", "finding"),
    [
        ("", "1: file: is empty; start with company: {name: ...}"),
        ("# nothing\n", "1: file: is empty; start with company: {name: ...}"),
        ("- a", "1: file: must be a mapping of sections such as company and customers"),
        ("company:\n  name: [x\n", "3: file: is not YAML: did not find expected ',' or ']'"),
        ("company: {name: x}\n---\nrules: []\n", "2: file: a second document starts here; keep one in a file"),
        ("company: {name: x}\nrules: \x07\n", "2: file: holds a character that YAML does not allow; remove it"),
        ("company: {name: x}\nrules: \udcff\n", "2: file: is not UTF-8 text; save it as UTF-8"),
        ("? {a: b}\n: c\n", "1: file: a key must be plain text"),
        ("a: &a [*a]", "1: a[0]: alias *a has no complete anchor before it"),
    ],
)
def test_file_that_cannot_be_read(text: str, finding: str) -> None:
    assert findings(text) == [f"f.yaml:{finding}"]


def test_alias_bomb_is_refused() -> None:
    bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 20)
    )
    assert findings(bomb) == ["f.yaml:5: a4[7]: aliases stand for over 100000 values; write them out"]


def test_deep_nesting_is_refused() -> None:
    assert findings("- " * 50_000 + "x")[0].endswith("is nested more than 20 levels deep")


def test_file_over_the_limit_is_refused(tmp_path: Path) -> None:
    large = tmp_path / "large.yaml"
    with large.open("wb") as file:
        _ = file.truncate(32 * 1024 * 1024 + 1)
    with pytest.raises(Findings, match="is larger than 32 MiB; split the directory by company"):
        _ = parse_file(large)


def test_file_that_is_not_utf_8_is_refused_with_its_line(tmp_path: Path) -> None:
    latin = tmp_path / "latin.yaml"
    _ = latin.write_bytes("company:\n  name: Ämpäri\n".encode("latin-1"))
    with pytest.raises(Findings, match=r"directory.yaml:2: file: is not UTF-8 text"):
        _ = parse_file(latin)


def test_no_secret_is_echoed() -> None:
    text = edited(HASH + "2", "sk_live_sesame").replace("token_env: TOKEN", "token_env: 'open sesame'")
    assert "sesame" not in "\n".join(findings(text))
