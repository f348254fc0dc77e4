"""Shifts as a calendar that other programs subscribe to (RFC 5545). Pure: the same shifts give the same bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid5

from icalendar import TRANSP, Calendar, Event, vDuration, vText

from services.notify.domain.rota import Shift

_SHIFTS = UUID("5b0c1d5e-6f0a-5c39-9a57-0c3f3d6f8f2e")
"""Namespace of the UIDs. Another one would double every shift in the calendars that keep what they once read."""
_REFRESH = timedelta(hours=1)
"""How often calendar programs should look; most do so less often, whatever they are told."""


def feed(name: str, shifts: Sequence[Shift], names: Mapping[str, str], made_at: datetime) -> bytes:
    """Return a schedule's calendar, an event for each shift; `names` by person.

    An event keeps its UID while schedule, person and start stay. So begin the shifts where one begins: a first one that
    is cut at a moment that moves on, such as now, would be another event in every rendering.
    """
    return feed_of_many(name, {name: shifts}, names, made_at)


def feed_of_many(
    name: str, shifts: Mapping[str, Sequence[Shift]], names: Mapping[str, str], made_at: datetime
) -> bytes:
    """Return the calendar of several schedules, such as a person's; `shifts` by schedule.

    A shift is the same event here as in its schedule's own calendar, and another one than that of another schedule.
    """
    calendar = Calendar.new(prodid="-//Fiilis//On call//EN", uid=_id(name), method="PUBLISH")
    # Set by type: `add` escapes nothing in a property that the library does not know, and leaves out VALUE.
    calendar["X-WR-CALNAME"] = vText(name)
    calendar["REFRESH-INTERVAL"] = vDuration(_REFRESH, params={"VALUE": "DURATION"})
    for schedule, own in shifts.items():
        for shift in own:
            if shift.person is not None:
                shown = names.get(shift.person, shift.person)
                calendar.add_component(_event(schedule, shift, shift.person, shown, made_at))
    return calendar.to_ical()


def _event(schedule: str, shift: Shift, person: str, shown: str, made_at: datetime) -> Event:
    start = shift.start.astimezone(UTC)
    return Event.new(
        uid=_id(f"{schedule}/{person}/{start.isoformat()}"),
        stamp=made_at.astimezone(UTC),
        start=start,
        end=shift.end.astimezone(UTC),
        summary=f"On call: {shown} ({schedule})",
        transparency=TRANSP.TRANSPARENT,  # who is on call is free for meetings
    )


def _id(text: str) -> str:
    return f"{uuid5(_SHIFTS, text)}@fiilis"
