"""On-call shifts in the calendar programs of people."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from icalendar import Calendar

from services.notify.calendar_feed import feed, feed_of_many
from services.notify.domain.rota import Shift

START = datetime(2026, 1, 5, 16, tzinfo=UTC)
MADE = datetime(2026, 1, 1, 12, tzinfo=UTC)
NIGHT = timedelta(hours=14)
NAMES = {"architect-1": "First Architect", "architect-2": "Second Architect"}
SHIFTS = [
    Shift(START, START + NIGHT, "architect-1", "layer 1"),
    Shift(START + NIGHT, START + timedelta(days=1), None, "gap"),
    Shift(START + timedelta(days=1), START + timedelta(days=1) + NIGHT, "architect-2", "override"),
]


def read(text: bytes) -> Calendar:
    found = Calendar.from_ical(text)
    assert isinstance(found, Calendar)
    assert not found.errors
    return found


def uids(text: bytes) -> list[str]:
    return [str(event["UID"]) for event in read(text).events]


def test_a_shift_is_an_event_in_utc_and_a_gap_is_none() -> None:
    first, second = read(feed("night-watch", SHIFTS, NAMES, MADE)).events
    assert first["SUMMARY"] == "On call: First Architect (night-watch)"
    assert second["SUMMARY"] == "On call: Second Architect (night-watch)"
    assert (first.start, first.end, first.stamp) == (START, START + NIGHT, MADE)
    text = feed("night-watch", SHIFTS, NAMES, MADE)
    assert b"DTSTART:20260105T160000Z\r\n" in text
    assert b"DTEND:20260106T060000Z\r\n" in text
    assert b"DTSTAMP:20260101T120000Z\r\n" in text
    assert not first.alarms.times


def test_the_calendar_says_what_it_is_and_how_often_to_look() -> None:
    text = feed("night-watch", SHIFTS, NAMES, MADE)
    for line in (
        "BEGIN:VCALENDAR",
        "VERSION:2.0",
        "PRODID:-//Fiilis//On call//EN",
        "X-WR-CALNAME:night-watch",
        "REFRESH-INTERVAL;VALUE=DURATION:PT1H",
        "METHOD:PUBLISH",
    ):
        assert f"{line}\r\n".encode() in text


def test_a_shift_is_the_same_event_in_every_rendering() -> None:
    """Or subscribers would have it twice. Another end is the same event, moved; another person is another event."""
    one = feed("night-watch", SHIFTS, NAMES, MADE)
    assert feed("night-watch", SHIFTS, NAMES, MADE) == one
    longer = [Shift(START, START + 2 * NIGHT, "architect-1", "layer 2"), *SHIFTS[2:]]
    assert uids(feed("night-watch", longer, {}, MADE + NIGHT)) == uids(one)
    assert len(set(uids(one))) == 2
    other = [Shift(START, START + NIGHT, "architect-2", "layer 1")]
    assert not {*uids(feed("night-watch", other, NAMES, MADE)), *uids(feed("day-watch", SHIFTS, NAMES, MADE))} & {
        *uids(one)
    }


def test_a_person_with_two_watches_at_once_has_both() -> None:
    """Each is the event that it is in the calendar of its schedule."""
    both = feed_of_many("architect-1", {"night-watch": SHIFTS[:1], "sales": SHIFTS[:1]}, NAMES, MADE)
    assert uids(both) == uids(feed("night-watch", SHIFTS[:1], NAMES, MADE)) + uids(
        feed("sales", SHIFTS[:1], NAMES, MADE)
    )
    assert len(set(uids(both))) == 2
    assert [str(event["SUMMARY"]).partition(" (")[2] for event in read(both).events] == ["night-watch)", "sales)"]
    assert b"X-WR-CALNAME:architect-1\r\n" in both


def test_names_with_the_signs_of_the_format_arrive_as_they_are() -> None:
    """No name ends its line and writes the next one."""
    name = 'Ää, the \\ first; "A"\nEND:VCALENDAR: 監視 ' + "long " * 40
    text = feed("night, watch;\nX-EVIL:1", SHIFTS[:1], {"architect-1": name}, MADE)
    found = read(text)
    assert found.events[0]["SUMMARY"] == f"On call: {name} (night, watch;\nX-EVIL:1)"
    assert b"\r\nX-WR-CALNAME:night\\, watch\\;\\nX-EVIL:1\r\n" in text
    assert text.count(b"END:VCALENDAR\r\n") == 1
    assert b"\r\nX-EVIL" not in text


def test_lines_end_in_crlf_and_have_at_most_75_bytes() -> None:
    """RFC 5545, section 3.1; folds never cut a letter of several bytes in two."""
    text = feed("night-watch", SHIFTS, {"architect-1": "ä" * 200, "architect-2": "監" * 100}, MADE)
    lines = text.split(b"\r\n")
    assert text.endswith(b"END:VCALENDAR\r\n")
    assert max(map(len, lines)) <= 75
    assert any(line.startswith(b" ") for line in lines)
    assert b"\n" not in text.replace(b"\r\n", b"")
    assert b"\r" not in text.replace(b"\r\n", b"")
    for line in lines:
        line.decode()


def test_who_has_no_name_is_shown_by_id_and_an_empty_rota_is_a_calendar() -> None:
    assert "architect-1" in str(read(feed("night-watch", SHIFTS, {}, MADE)).events[0]["SUMMARY"])
    assert read(feed("night-watch", [], NAMES, MADE)).events == []
