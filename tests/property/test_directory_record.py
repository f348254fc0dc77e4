"""What `apply` publishes is what every service reads, and no text can break the check."""

from __future__ import annotations

import os
from typing import TypeVar

import msgspec
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from shared.directory import model
from shared.directory.check import Findings, parse
from shared.directory.difference import difference, render
from shared.directory.record import RecordTooLarge, decode, encode
from shared.rules.conditions import CONDITIONS, parameters

T = TypeVar("T")

words = st.text(st.characters(codec="utf-8"), max_size=20)
slugs = st.from_regex(r"[a-z0-9][a-z0-9-]{0,8}", fullmatch=True)
seconds = st.integers(1, 10**8)
numbers = st.floats(-100, 100)
severities = st.sampled_from(model.SEVERITIES)
json = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | numbers | words,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(words, inner, max_size=2),
    max_leaves=8,
)


def several(of: st.SearchStrategy[T]) -> st.SearchStrategy[tuple[T, ...]]:
    return st.lists(of, max_size=2).map(tuple)


shares = st.floats(0, 1, exclude_max=True)
counts = st.integers(1, 10**6)
of_type: dict[type[model.Condition], st.SearchStrategy[model.Condition]] = {
    model.MoodAtMost: st.builds(model.MoodAtMost, st.integers(1, 4)),
    model.NpsBelow: st.builds(model.NpsBelow, numbers, seconds, counts, st.sampled_from(["strict", "simple"]), numbers),
    model.NpsDrop: st.builds(model.NpsDrop, numbers, seconds, shares, counts, numbers),
    model.MoodBelow: st.builds(model.MoodBelow, numbers, seconds, counts, numbers),
    model.UnhappyShareAbove: st.builds(model.UnhappyShareAbove, numbers, seconds, counts, numbers),
    model.DetractorsAtLeast: st.builds(model.DetractorsAtLeast, counts, seconds),
    model.ScoreAtMost: st.builds(
        model.ScoreAtMost, st.integers(0, 10), st.sampled_from(["nps", "mood", "csat", "ces"])
    ),
    model.MetricMean: st.builds(
        model.MetricMean, slugs, seconds, st.none() | numbers, st.none() | numbers, counts, numbers
    ),
    model.NoFeedbackFor: st.builds(model.NoFeedbackFor, st.just("auto") | seconds),
    model.Shift: st.builds(model.Shift, shares, st.sampled_from(["nps", "mood"])),
    model.MoodAtLeast: st.builds(model.MoodAtLeast, st.integers(1, 4), st.booleans()),
    model.FollowUpAtMost: st.builds(model.FollowUpAtMost, st.integers(1, 4)),
}
conditions = st.one_of(*of_type.values())
rules = st.builds(
    model.Rule,
    name=slugs,
    when=conditions,
    severity=severities,
    touchpoint=st.none() | slugs,
    per_touchpoint=st.booleans(),
    audience=st.sampled_from(["customer", "employee"]),
    trust=st.sampled_from(["verified", "any"]),
    max_age=seconds,
    cooldown=seconds,
    enabled=st.booleans(),
)
contacts = st.builds(model.Contact, st.sampled_from(["email", "webhook", "sms"]), words, st.none() | words)
people = st.builds(model.Person, slugs, words, words, words, st.none() | words, contacts=several(contacts))
steps = st.builds(model.Step, words, st.floats(0.1, 1e6))
escalations = st.builds(model.Escalation, slugs, several(steps), slugs, st.integers(1, 9))
customers = st.builds(
    model.Customer,
    id=slugs,
    name=words,
    architect=slugs,
    escalation=slugs,
    timezone=words,
    language=words,
    deputy=st.none() | slugs,
    touchpoints=several(slugs),
    goals=st.dictionaries(slugs, numbers, max_size=2),
    touchpoint_goals=st.dictionaries(slugs, st.dictionaries(slugs, numbers, max_size=2), max_size=2),
    rules=several(rules),
)
keys = st.builds(
    model.Key,
    id=slugs,
    kind=st.sampled_from(["publishable", "secret"]),
    sha256=st.from_regex("[0-9a-f]{64}", fullmatch=True),
    customers=several(slugs),
    scopes=several(st.sampled_from(["feedback", "scores", "tickets", "oncall", "admin"])),
    revoked=st.booleans(),
)
layers = st.builds(
    model.Layer, st.sampled_from(["hourly", "daily", "weekly"]), words, several(slugs), st.integers(1, 9)
)
schedules = st.builds(model.Schedule, slugs, words, several(layers), st.none() | words)
directories = st.builds(
    model.Directory,
    company=words,
    timezone=words,
    language=words,
    people=st.dictionaries(slugs, people, max_size=2),
    customers=st.dictionaries(slugs, customers, max_size=2),
    escalations=st.dictionaries(slugs, escalations, max_size=2),
    touchpoints=several(slugs),
    metrics=st.dictionaries(slugs, st.builds(model.Metric, words, st.sampled_from(["up", "down"])), max_size=2),
    rules=several(rules),
    keys=several(keys),
    root_causes=several(words),
    retention=seconds,
    smtp=st.none() | st.builds(model.Smtp, words, words, st.integers(1, 65535)),
    schedules=st.dictionaries(slugs, schedules, max_size=2),
    heartbeats=st.dictionaries(slugs, st.builds(model.Heartbeat, st.integers(1, 9999), slugs), max_size=2),
    watchdog=st.none() | st.builds(model.Watchdog, words),
)


@given(directories)
def test_record_round_trip(directory: model.Directory) -> None:
    assert decode(encode(directory)) == directory


@given(st.lists(conditions, min_size=1, max_size=4))
def test_a_rule_of_every_type_comes_out_as_it_went_in(of: list[model.Condition]) -> None:
    """A rule that a service reads as another type, or with another limit, would judge what nobody asked for."""
    told = tuple(model.Rule(f"r-{n}", when, "low") for n, when in enumerate(of))
    read = decode(encode(model.Directory("Example Oy", "UTC", "en", {}, {}, {}, rules=told))).rules
    assert [(type(rule.when), rule.when) for rule in read] == [(type(when), when) for when in of]


def test_every_type_of_rule_is_tried_here() -> None:
    """A type that is added to the directory is added above."""
    assert set(of_type) == set(CONDITIONS.values())


@given(directories)
def test_no_difference_to_itself(directory: model.Directory) -> None:
    assert difference(directory, directory) == []
    assert difference(directory, decode(encode(directory))) == []


@given(directories, directories)
def test_any_difference_can_be_told_without_a_hash(old: model.Directory, new: model.Directory) -> None:
    told = render(difference(old, new)) + render(difference(None, new))
    assert not any(key.sha256 in told for key in (*old.keys, *new.keys))


sections = st.sampled_from(["company", "touchpoints", "metrics", "people", "schedules", "escalations", "rules"])
more_sections = st.sampled_from(["customers", "sla", "retention", "webhooks", "desks", "channels", "keys", "when"])


@given(st.dictionaries(sections | more_sections | words, json | st.lists(json), max_size=4))
def test_wrong_document_is_findings_and_nothing_else(data: dict[str, object]) -> None:
    with pytest.raises(Findings) as caught:
        _ = parse(yaml.safe_dump(data, allow_unicode=True))
    assert caught.value.findings


fields = st.sampled_from(sorted({"window", "kind", *CONDITIONS, *(f for word in CONDITIONS for f in parameters(word))}))
limits = json | st.sampled_from(["1d", "30d", "auto", "csat", "speed", "strict", -100, 0, 1, 4, {}, {"kind": "mood"}])


@given(st.sampled_from(sorted(CONDITIONS)), limits, st.dictionaries(fields, limits, max_size=4), st.booleans())
def test_any_rule_is_taken_or_refused_with_its_place(
    word: str, first: object, more: dict[str, object], of_customer: bool
) -> None:
    """Whatever stands under `when`, it is a rule that can be published, or findings that name it."""
    when = {word: first} | {name: value for name, value in more.items() if name != word}
    rule = {"name": "a", "severity": "low", "when": when}
    ann = {"name": "Ann", "contacts": [{"email": "ann@example.test"}]}
    data = {
        "company": {"name": "Example Oy"},
        "metrics": {"speed": {}},
        "people": {"ann": ann},
        "escalations": {"standard": {"steps": [{"page": "ann", "ack_within": "5m"}], "catch_all": "ann"}},
        "customers": {"acme": {"name": "Acme", "architect": "ann", "rules": [rule] if of_customer else []}},
        "rules": [] if of_customer else [rule],
    }
    read, places = None, [""]
    try:
        read = parse(yaml.safe_dump(data, allow_unicode=True, sort_keys=False))
    except Findings as refused:
        places = [finding.path for finding in refused.findings]
    if read is None:
        start = ("customers.acme." if of_customer else "") + "rules[0].when"
        assert all(place.startswith(start) for place in places), places
        return
    (taken,) = read.rules_of(read.customers["acme"])
    assert taken.when.word == word
    assert decode(encode(read)) == read


@given(st.text(st.sampled_from("ab:-[]{}&*!|>'\"#%@?,~ \n\t\r\0\udc80é<")))
def test_wrong_text_is_findings_and_nothing_else(text: str) -> None:
    with pytest.raises(Findings) as caught:
        _ = parse(text)
    assert caught.value.findings


def test_record_of_a_newer_writer_is_read() -> None:
    directory = model.Directory("Example Oy", "UTC", "en", {}, {}, {})
    assert decode(encode(directory)[:-1] + b',"new_section":{"a":1}}') == directory


def test_what_is_no_directory_is_refused() -> None:
    with pytest.raises(msgspec.DecodeError):
        _ = decode(b'{"company":7}')


def test_too_large_a_record_is_refused_and_compression_counts() -> None:
    directory = model.Directory("Example Oy", "UTC", "en", {}, {}, {})
    assert encode(replace(directory, root_causes=("x" * 40_000_000,)))
    noise = tuple(os.urandom(1000).hex() for _ in range(20_000))
    with pytest.raises(RecordTooLarge, match=r"fit into one record .* split it by company"):
        _ = encode(replace(directory, root_causes=noise))
