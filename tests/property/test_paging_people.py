"""Who is there to be paged, and what would go wrong before it does."""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from typing import get_args

from hypothesis import example, given
from hypothesis import strategies as st
from msgspec.structs import replace

from services.notify.domain.chain import Presence, full_chain
from services.notify.domain.hold import Silence
from services.notify.domain.page import (
    next_turn,
    start,
)
from services.notify.domain.preflight import AHEAD, Code, Finding, SettingCode, preflight
from services.notify.domain.rota import Override, on_call, shifts
from shared.directory.model import Absence, Contact, Desk, Directory, Layer, Person, Schedule, Smtp, Step, Webhook
from shared.wire.ids import uuid7
from tests.property.test_paging_decisions import DAY, HOUR, ZONES, wall
from tests.support import build
from tests.support.build import NOW, customer, directory, person, ticket

# ---- who is there

NAMES = ("architect-1", "architect-2", "night-1", "night-2", "duty-manager")
TARGETS = ("architect", "deputy", "person:night-1", "person:gone", "schedule:night-watch")
absences = st.dictionaries(
    st.sampled_from(NAMES), st.tuples(st.integers(-3, 3), st.integers(1, 3)), max_size=len(NAMES)
)


def away(first: int, days: int) -> tuple[Absence, ...]:
    begin = datetime(2026, 11, 23) + DAY * first  # noqa: DTZ001 (the person's clock)
    return (Absence(f"{begin:%Y-%m-%dT%H:%M}", f"{begin + DAY * days:%Y-%m-%dT%H:%M}"),)


def is_away(absent: dict[str, tuple[int, int]], who: str) -> bool:
    first, days = absent.get(who, (1, 0))
    return first <= 0 < first + days


def override(who: str, start: timedelta, until: timedelta) -> Override:
    return Override(uuid7(), "night-watch", who, NOW + start, NOW + until, None, NOW)


@given(absences, st.lists(st.sampled_from(TARGETS), max_size=5), st.sampled_from((None, *NAMES)), st.integers(1, 3))
def test_who_is_away_is_passed_over_and_the_catch_all_never(
    absent: dict[str, tuple[int, int]], targets: list[str], swapped: str | None, repeat: int
) -> None:
    """A holiday is a holiday; whom an override names said so on purpose, and behind everybody there is nobody else."""
    people = {name: person(name, absences=away(*absent[name]) if name in absent else ()) for name in NAMES}
    layer = Layer("daily", "2026-11-01T00:00", ("night-1",))
    known = directory(
        people=people,
        schedules={"night-watch": Schedule("night-watch", "UTC", (layer,))},
        escalations={
            "standard": build.escalation(steps=tuple(Step(one, 60.0) for one in targets), repeat=repeat),
        },
    )
    overrides = {"night-watch": [override(swapped, -HOUR, HOUR)]} if swapped is not None else {}
    presence = Presence(known, overrides, NOW)
    named = {"architect": "architect-1", "deputy": "architect-2", "person:night-1": "night-1"}
    expected: list[str] = []
    for target in targets:
        if target == "schedule:night-watch" and swapped is not None:
            expected.append(swapped)
        elif target == "schedule:night-watch" and not is_away(absent, "night-1"):
            expected.append("night-1")
        elif target in named and not is_away(absent, named[target]):
            expected.append(named[target])
    assert [link.person for link in full_chain(known, known.customers["acme"], presence)] == [
        *expected,
        "duty-manager",
    ]
    running = start(ticket(), known, known.customers["acme"], NOW)
    paged: list[str | None] = []
    for _ in range(len(expected) * repeat + 2):
        outcome = next_turn(running, presence.finds, NOW)
        paged.append(outcome.pages)
        running = outcome.page
    assert paged == [*expected * repeat, "duty-manager", "duty-manager"]


@given(st.lists(st.tuples(st.sampled_from(NAMES), st.integers(-4, 3), st.integers(1, 5)), max_size=4))
def test_a_schedules_step_finds_whom_its_overrides_name(planned: list[tuple[str, int, int]]) -> None:
    """Swaps of the last minute count when the step comes: who is paged is who the calendar shows."""
    rota = Schedule("night-watch", "UTC", (Layer("daily", "2026-11-01T00:00", ("night-1", "night-2")),))
    known = directory(people={name: person(name) for name in NAMES}, schedules={"night-watch": rota})
    overrides = [override(who, HOUR * first, HOUR * (first + hours)) for who, first, hours in planned]
    presence = Presence(known, {"night-watch": overrides}, NOW)
    step = build.turn(None, via="schedule:night-watch")
    in_force = {who for who, first, hours in planned if first <= 0 < first + hours}
    assert presence.finds(step) in (in_force or {"night-1", "night-2"})
    assert presence.finds(step) == on_call(rota, known.people, overrides, NOW).person
    assert presence.finds(build.turn(None, via="schedule:gone")) is None


# ---- before it is needed

OFFICE = "Mon-Fri 09:00-17:00"
rotas = st.builds(
    lambda rotation, every, people, restrict, zone: Schedule(
        "night-watch", zone, (Layer(rotation, "2026-11-02T09:00", people, every=every, restrict=restrict),)
    ),
    st.sampled_from(("hourly", "daily", "weekly")),
    st.integers(1, 5),
    st.permutations(("night-1", "night-2", "night-3")).map(tuple),
    st.sampled_from(((), (OFFICE,), ("18:00-08:00", "Sat-Sun 08:00-18:00"))),
    st.sampled_from(ZONES),
)
STAFF = ("architect-1", "architect-2", "duty-manager", "night-1", "night-2", "night-3")


def staffed(rota: Schedule, **fields: object) -> Directory:
    """Return a company in which nothing is wrong."""
    return directory(
        **{
            "people": {name: person(name) for name in STAFF},
            "schedules": {rota.name: rota},
            "escalations": {"standard": build.escalation(steps=(Step("architect", 60), Step("deputy", 60)))},
            **fields,
        }
    )


def found_in(
    known: Directory, *, reachable: Collection[str] = STAFF, verified: Collection[str] = STAFF
) -> list[Finding]:
    return preflight(known, {}, reachable=reachable, verified=verified, now=NOW)


def gone(*names: str) -> dict[str, Person]:
    """Return the staff, some of whom are away at the start of December."""
    off = (Absence("2026-12-01T00:00", "2026-12-09T00:00"),)
    return {name: person(name, absences=off if name in names else ()) for name in STAFF}


@given(rotas)
def test_a_company_where_all_is_well_has_nothing_to_mend(rota: Schedule) -> None:
    """A check that cries wolf is not read; nights that no layer is meant for are no gap."""
    assert found_in(staffed(rota)) == []


def ended(rota: Schedule) -> Schedule:
    return replace(rota, layers=tuple(replace(one, until="2026-12-04T00:00") for one in rota.layers))


@example(
    Schedule(
        "night-watch",
        "America/New_York",
        (Layer("weekly", "2026-11-02T09:00", ("night-1", "night-2", "night-3"), restrict=("Mon-Fri 09:00-17:00",)),),
    )
)
@given(rotas)
def test_each_defect_is_named_by_its_own_word(rota: Schedule) -> None:
    """Who reads the report knows what to mend: one thing that is wrong is one sort of finding."""
    alone = replace(rota, layers=tuple(replace(one, people=("night-1",)) for one in rota.layers))
    boss = customer(architect="duty-manager", deputy=None)
    well = staffed(rota)
    on = next(one.person for one in shifts(rota, well.people, (), NOW, NOW + AHEAD) if one.person is not None)
    defects: dict[Code, list[Finding]] = {
        "gap": found_in(staffed(ended(rota))),
        "empty-shift": found_in(staffed(alone, people=gone("night-1"))),
        "both-absent": found_in(staffed(rota, people=gone("architect-1", "architect-2"))),
        "one-person": found_in(staffed(rota, customers={"acme": boss})),
        "unreachable": found_in(well, reachable={*STAFF} - {on}),
        "unverified": found_in(well, verified={*STAFF} - {"architect-2"}),
    }
    assert set(defects) == set(get_args(Code))
    assert {code: {one.code for one in found} for code, found in defects.items()} == {code: {code} for code in defects}
    assert {one.subject for one in defects["unreachable"]} == {f"person:{on}"}
    assert all(one.subject == "schedule:night-watch" for one in defects["gap"] + defects["empty-shift"])
    assert all(one.start is not None and one.end is not None and one.start < one.end for one in defects["empty-shift"])


def quiet(customer: str | None = None, rule: str | None = None, **lasts: float) -> Silence:
    return Silence(uuid7(), customer, None, rule, "move", NOW, NOW + timedelta(**lasts), NOW, "key:ops")


def test_each_setting_that_does_nothing_is_named_by_its_own_word() -> None:
    """What is written down and has no effect is found by day, each by its own word and where it is."""
    layer = Layer("daily", "2026-11-02T00:00", tuple("abcdefg"), restrict=("Mon-Fri 08:00-16:00",))
    office = Schedule("office", "Europe/Helsinki", (layer,))
    staff = {name: person(name) for name in (*STAFF, *"abcdefg")}
    empty = Schedule("empty", "UTC", (replace(layer, people=("left",), restrict=()),))
    steps = (Step("architect", 60), Step("deputy", 60), Step("schedule:empty", 60))
    nobody = staffed(
        empty,
        escalations={"standard": build.escalation(steps=steps)},
        customers={"acme": customer(), "borealis": customer("borealis", deputy=None)},
    )
    well = staffed(office, people=staff)
    hooked = person("night-1", contacts=(Contact("webhook", "https://x.test", "HOOK"), Contact("pagerduty", "ROUTE")))
    secret = staffed(
        office,
        people={**staff, "night-1": hooked},
        desks={"main": Desk("zammad", "https://desk.test", "DESK", hook_secret_env="DESK_HOOK")},
        smtp=Smtp("smtp.test", "fiilis@example.test", password_env="MAIL"),
        webhooks=(Webhook("https://told.test/x", "TOLD"),),
    )
    unset = {"HOOK", "ROUTE", "DESK", "DESK_HOOK", "MAIL", "TOLD", "OF_NOBODY"}
    everybody = {"reachable": staff, "verified": staff, "now": NOW}
    silences = [quiet(days=7), quiet("acme", "mood-one", days=8), quiet("acme", "mood-two", days=1), quiet(days=30)]
    defects: dict[SettingCode, list[Finding]] = {
        "unset": preflight(secret, {}, unset=unset, **everybody),
        "empty-step": found_in(nobody),
        "never-on-call": preflight(well, {}, **everybody),
        "long-silence": preflight(well, {}, silences=[silences[1], silences[3]], **everybody),
        "unknown-rule": preflight(well, {}, silences=silences[::2], **everybody),
    }
    assert set(defects) == set(get_args(SettingCode))
    named = {code: [(one.subject, one.detail) for one in found if one.code == code] for code, found in defects.items()}
    assert {subject for subject, _ in named["unset"]} == {
        "person:night-1",
        "desk:main",
        "channel:smtp",
        "webhook:told.test",
    }
    assert {detail.split()[2] for _, detail in named["unset"]} == unset - {"OF_NOBODY"}
    assert named["empty-step"] == [
        ("escalation:standard", "step 3 (schedule:empty) finds nobody for customer:acme, customer:borealis"),
        ("escalation:standard", "step 2 (deputy) finds nobody for customer:borealis"),
    ]
    assert [subject for subject, _ in named["never-on-call"]] == ["person:f", "person:g"]
    assert [subject for subject, _ in named["long-silence"]] == [f"silence:{silences[n].id}" for n in (1, 3)]
    assert [subject for subject, _ in named["unknown-rule"]] == [f"silence:{silences[2].id}"]


@given(rotas, st.booleans())
def test_hours_in_which_only_the_catch_all_is_left_are_told(rota: Schedule, architect_too: bool) -> None:
    """A schedule may be meant for the night alone; an escalation of nothing else has nobody by day."""
    steps = (Step("schedule:night-watch", 60), *([Step("architect", 60)] if architect_too else []))
    known = staffed(rota, escalations={"standard": build.escalation(steps=steps)})
    holes = [one for one in shifts(rota, known.people, (), NOW, NOW + AHEAD) if one.person is None]
    found = [one for one in found_in(known) if one.subject == "escalation:standard"]
    assert len(found) == (1 if holes and not architect_too else 0)
    for one in found:
        assert (one.code, one.start, one.end) == ("gap", holes[0].start, holes[0].end)
        assert (f"{len(holes)} times" in one.detail) == (len(holes) > 1)


@given(st.sampled_from(ZONES), st.sets(st.sampled_from(("night-1", "night-2", "night-3"))), st.integers(1, 5))
def test_nobody_is_missed_outside_office_hours(zone: str, absent: set[str], every: int) -> None:
    """What is reported are exactly the hours in which somebody should be there and is not."""
    layer = Layer("daily", "2026-11-02T09:00", ("night-1", "night-2", "night-3"), every=every, restrict=(OFFICE,))
    known = staffed(Schedule("night-watch", zone, (layer,)), people=gone(*absent))
    found = found_in(known)
    at = NOW.replace(minute=30, second=0)
    while (at := at + 5 * HOUR) < NOW + AHEAD:
        shown = wall(zone, at)
        office = shown.weekday() < 5 and 9 <= shown.hour < 17
        nobody = on_call(known.schedules["night-watch"], known.people, (), at).person is None
        reported = any(one.start <= at < one.end for one in found if one.start is not None and one.end is not None)
        assert reported == (office and nobody)


def test_a_gap_right_after_an_absence_is_a_gap() -> None:
    """A rota that ends while its last person is away leaves two things to mend, not one."""
    layer = Layer("weekly", "2026-11-02T09:00", ("night-1",), until="2026-12-09T00:00")
    rota = Schedule("night-watch", "Europe/Helsinki", (layer,))
    found = found_in(staffed(rota, people=gone("night-1")))
    assert {one.code for one in found} == {"empty-shift", "gap"}
    covered = sum(((one.end or NOW) - (one.start or NOW) for one in found), timedelta())
    assert covered == NOW + AHEAD - datetime(2026, 11, 30, 22, tzinfo=UTC)
