"""What is told without a page: digests, meetings with customers, and in which words."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from services.notify.domain.chain import chain, stand_in
from services.notify.domain.check_in import PERIODS, Due, Reminder, first_look, look
from services.notify.domain.check_in import due_at as check_in_due
from services.notify.domain.digest import BUNDLE, Role, addressee, due_at, responsible, told_at
from services.notify.domain.page import (
    Finds,
    next_turn,
)
from services.notify.domain.rota import quiet_until
from services.notify.domain.texts import AnswerOptions, Entry, digest_words, page_words
from shared.directory.model import Step
from shared.wire.events import Severity
from tests.property.test_paging_decisions import (
    DAY,
    MINUTE,
    PAGED,
    ZONES,
    clocks,
    hours_of_quiet,
    is_quiet,
    minutes,
    moments,
    wall,
)
from tests.property.test_paging_people import NAMES, absences, away, is_away
from tests.support import build
from tests.support.build import NOW, customer, directory, evidence, page, person

# ---- digests


@given(st.sampled_from(ZONES), hours_of_quiet, moments)
def test_medium_is_told_soon_but_not_at_night(zone: str, quiet: str, now: datetime) -> None:
    """Two minutes, so that what comes together is one message; never in the hours that somebody asked to be quiet."""
    reader = person(timezone=zone, quiet_hours=quiet)
    told = due_at(reader, "medium", now)
    assert now + BUNDLE <= told <= now + BUNDLE + timedelta(hours=25)
    # An hour that comes twice in autumn counts the first time.
    if wall(zone, told).fold == 0:
        assert not is_quiet(quiet, wall(zone, told))
    soon = wall(zone, now + BUNDLE)
    if soon.fold == 0 and not is_quiet(quiet, soon):
        assert told == now + BUNDLE
    assert due_at(replace(reader, quiet_hours=None), "medium", now) == now + BUNDLE


@given(st.sampled_from(ZONES), clocks, moments, st.sampled_from(("low", "info")), hours_of_quiet)
def test_low_is_told_at_the_persons_own_hour(
    zone: str, digest_at: str, now: datetime, severity: Severity, quiet: str
) -> None:
    """Every local day has one digest, at that hour by the clock on the wall, also when clocks change."""
    reader = person(timezone=zone, digest_at=digest_at, quiet_hours=quiet)
    told = due_at(reader, severity, now)
    assert now < told <= now + timedelta(hours=25)
    shown, before = wall(zone, told), wall(zone, told - MINUTE)
    at, after, then = minutes(digest_at), minutes(f"{before:%H:%M}"), minutes(f"{shown:%H:%M}")
    assert 0 < (at - after) % 1440 <= (then - after) % 1440, "the clock comes to it in this minute, or jumps over it"
    for n in range(1, int((told - now) / MINUTE)):
        earlier = wall(zone, now + MINUTE * n)
        assert earlier.hour * 60 + earlier.minute != at or earlier.fold == 1, "it was missed"
    following = due_at(reader, severity, told)
    assert wall(zone, following).date() - shown.date() == DAY


@given(
    absences,
    st.sampled_from(NAMES),
    st.sampled_from(("architect-1", "architect-2")),
    st.sampled_from((None, "responsible", "team", "behind everybody")),
    st.sampled_from(("acme", "left-long-ago")),
    st.sets(st.sampled_from(NAMES)),
)
def test_a_line_is_told_to_whoever_is_responsible_then(
    absent: dict[str, tuple[int, int]], gathered: str, architect: str, role: Role | None, of: str, mates: set[str]
) -> None:
    """The directory may have become another one since: nobody reads of a customer that is no more theirs."""
    people = {name: person(name, absences=away(*absent[name]) if name in absent else ()) for name in NAMES}
    known = directory(people=people, customers={"acme": customer(architect=architect, deputy=None)}, team=tuple(mates))
    found = addressee(role, gathered, of, known, NOW)
    in_charge = responsible(known, stand_in(known, of) or customer(), NOW)
    if role == "behind everybody":
        assert (found is None) == (gathered != "duty-manager")
    elif role is None or (role == "team" and gathered in {*mates, architect if of == "acme" else "duty-manager"}):
        assert found is people[gathered]
    else:
        assert found is in_charge
    assert found is not None or role == "behind everybody"
    left = replace(known, people={name: one for name, one in people.items() if name != "night-1"})
    assert addressee(None, "night-1", of, left, NOW) is responsible(left, stand_in(left, of) or customer(), NOW)


@given(st.sampled_from(ZONES), hours_of_quiet, moments, st.integers(0, 2000), st.booleans())
def test_what_is_late_is_not_told_at_night(zone: str, quiet: str, due: datetime, late: int, same: bool) -> None:
    """Quiet hours count when it is sent, not only when it was gathered; a digest at night was asked for by somebody."""
    reader, now = person(timezone=zone, quiet_hours=quiet), due + MINUTE * late
    told = told_at(reader, "architect-1" if same else "architect-2", due, now)
    assert told >= now
    if same and quiet_until(reader, due) is not None:
        assert told == now
    else:
        assert quiet_until(reader, told) is None


@given(absences, st.sampled_from(("architect-1", "gone")), st.sampled_from(("architect-2", "gone", None)))
def test_somebody_is_told_of_every_customer(
    absent: dict[str, tuple[int, int]], architect: str, deputy: str | None
) -> None:
    """The architect, in their absence the deputy, at last whoever is behind everybody; never nobody."""
    people = {name: person(name, absences=away(*absent[name]) if name in absent else ()) for name in NAMES}
    acme = customer(architect=architect, deputy=deputy)
    known = directory(people=people, customers={"acme": acme})
    found = responsible(known, acme, NOW)
    assert found is not None
    named = [name for name in (architect, deputy, "duty-manager") if name in people]
    assert found.id == next((name for name in named if not is_away(absent, name)), named[0])


# ---- meetings with customers


@dataclass
class Year:
    """Looks at a customer's check-ins as the round does: when they are due, and somewhat late."""

    due: Due
    check_in: str
    told: list[tuple[datetime, datetime, Reminder]] = field(default_factory=list)
    """When, of which period, and what."""

    def pass_time(self, now: datetime, until: datetime, late: timedelta) -> None:
        while now < until:
            now += timedelta(hours=6)
            if self.due.look_at + late <= now:
                since = self.due.since
                self.due, reminder = look(self.due, self.check_in, now)
                assert self.due.since == since
                assert self.due.look_at > now, "it would be looked at again and again"
                if reminder is not None:
                    self.told.append((now, since, reminder))

    def of(self, since: datetime, kind: str) -> list[datetime]:
        return [at for at, of, reminder in self.told if of == since and reminder.kind == kind]


def planned(since: datetime, check_in: str) -> Due:
    return Due("acme", since, first_look(since, check_in), 0)


periods = st.sampled_from(tuple(PERIODS))


@given(periods, st.lists(st.integers(1, 200), max_size=5), st.integers(0, 30))
def test_one_brief_before_each_meeting_and_a_word_a_week_after(check_in: str, gaps: list[int], late: int) -> None:
    """Enough to remember by and too little to be ignored; a meeting that was held ends it until the next period."""
    now, delay = NOW, timedelta(hours=late)
    year = Year(planned(now, check_in), check_in)
    slack = delay + timedelta(hours=6)
    for days in [*gaps, 400]:
        since, until = now, now + DAY * days
        year.pass_time(now, until, delay)
        briefs, overdue = year.of(since, "brief"), year.of(since, "overdue")
        assert (
            len(briefs) == (until >= first_look(since, check_in) + slack) or until < first_look(since, check_in) + slack
        )
        assert len(briefs) <= 1
        assert all(at >= first_look(since, check_in) for at in briefs)
        assert all(at > check_in_due(since, check_in) for at in overdue)
        assert all(b - a >= timedelta(days=7) for a, b in pairwise(overdue))
        if until > check_in_due(since, check_in) + DAY + 2 * slack:
            assert overdue, "an overdue meeting is told"
        now = until
        year.due = planned(now, check_in)  # held
    assert all(reminder.due_at == check_in_due(since, check_in) for _, since, reminder in year.told)


@given(st.lists(st.tuples(periods, st.integers(1, 120)), min_size=2, max_size=6))
def test_a_period_that_the_directory_changes(changes: list[tuple[str, int]]) -> None:
    """Meetings more or less often: still one brief, nothing overdue before its day, and not more than once a week."""
    now = since = NOW
    year = Year(planned(now, changes[0][0]), changes[0][0])
    for check_in, days in changes:
        year.check_in, begun = check_in, len(year.told)
        year.pass_time(now, now + DAY * days, timedelta())
        for at, _, reminder in year.told[begun:]:
            earliest = first_look if reminder.kind == "brief" else check_in_due
            assert at >= earliest(since, check_in)
            assert reminder.due_at == check_in_due(since, check_in)
        now += DAY * days
    overdue = year.of(since, "overdue")
    assert len(year.of(since, "brief")) <= 1
    assert all(b - a >= timedelta(days=7) for a, b in pairwise(overdue))
    assert year.due.look_at <= max(now, check_in_due(since, max(PERIODS, key=lambda one: PERIODS[one]))) + 8 * DAY


# ---- in words

SAID = "Nobody ever called"
texts = st.text(max_size=400)


@given(texts, texts, st.integers(0, 500), st.integers(0, 3), st.booleans(), st.sampled_from(PAGED))
def test_a_page_in_words(
    name: str, summary: str, followers: int, answers: int, allowed: bool, severity: Severity
) -> None:
    """An SMS is an SMS and a subject one line; what a customer wrote is in neither, unless the company said so."""
    running = page(
        customer_name=name,
        summary=summary,
        severity=severity,
        evidence=[evidence(comment=f"{SAID}\n{'!' * 500}") for _ in range(answers)],
    )
    url = "https://fiilis.example.test/a/" + "t" * 300
    asked = AnswerOptions(url, "4711", 1, "architect-1", followers=followers, comments_in_short=allowed)
    words = page_words(running, asked)
    assert len(words.short) <= 300
    assert len(words.subject) <= 200
    assert len(words.subject.splitlines()) == len(words.short.splitlines()) == 1
    assert (SAID in words.short) == (allowed and answers > 0)
    assert SAID not in words.subject
    assert SAID not in str(words.data)
    assert words.text.count(SAID) == answers
    assert url in words.text.splitlines()
    assert (f"{followers + 1} tickets at once" in words.subject) == (followers > 0) or len(name) > 100


entries = st.builds(
    lambda kind, text, name, comment, minutes: (
        kind,
        Entry(customer="acme", customer_name=name, text=text, at=NOW + MINUTE * minutes, comment=comment),
    ),
    st.sampled_from(("ticket", "good", "late", "preflight")),
    texts,
    texts,
    st.one_of(st.none(), st.just(f"{SAID}\nback")),
    st.integers(0, 1000),
)


@given(st.lists(entries, min_size=1, max_size=12))
def test_a_digest_mentions_everything(told: list[tuple[str, Entry]]) -> None:
    """Whoever reads it once a day misses nothing; the phone's list shows how much there is, and no customer's words."""
    words = digest_words(told)
    lines = words.text.splitlines()
    assert len([line for line in lines if line.startswith("- ")]) == len(told)
    for _, entry in told:
        said = [" ".join(text.split()) for text in (entry.text, entry.comment or "")]
        assert any(all(text in line for text in said) and f"{entry.at:%Y-%m-%d %H:%M}" in line for line in lines)
    counts = [int(word) for word in words.subject.split() if word.isdigit()]
    assert sum(counts) == len(told)
    assert len(words.subject) <= 200
    assert len(words.short) <= 300
    assert SAID not in words.short + words.subject
    assert len(words.data["entries"]) == len(told)


def test_an_escalations_snapshot_asks_schedules_when_the_step_comes() -> None:
    """The page knows which schedule, not who: a night is handed over while a page runs."""
    known = directory(escalations={"standard": build.escalation(steps=(Step("schedule:night-watch", 60.0),))})
    (step,) = chain(known, known.customers["acme"])
    assert (step.person, step.schedule) == (None, "night-watch")
    asked: list[str | None] = []

    def both(step: build.EscalationStep) -> str | None:
        asked.append(step.schedule)
        return "architect-2"

    found: Finds = both
    assert next_turn(page(steps=[step]), found, NOW).pages == "architect-2"
    assert asked == ["night-watch"]
