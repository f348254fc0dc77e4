"""A respondent sees what became of their feedback, in their language, and nothing that is internal."""

from __future__ import annotations

import re
from datetime import timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import get_args

import pytest

from services.ticketing import pages
from services.ticketing.domain.status import Status, StepName, steps
from services.ticketing.domain.texts import words_in
from shared.directory.model import Person
from shared.http.html import style
from shared.wire.events import DeskV1, PreviousTicketV1, SlaV1, TicketContextV1, TicketState, TicketV1
from tests.support.build import NOW, ago, evidence, person, ticket

LANGUAGES = ("en", "fi", "sv")
ARCHITECT = person(name="First Architect", title="Customer experience architect")
TAKEN = ticket(state="in_progress", acknowledged_at=ago(minutes=20))
STATES: tuple[TicketState, ...] = get_args(TicketState)


def in_state(state: TicketState) -> TicketV1:
    taken = None if state in {"open", "cancelled"} else ago(minutes=20)
    return ticket(state=state, acknowledged_at=taken, resolved_at=NOW if state in {"resolved", "closed"} else None)


def shown(
    status: Status | None = None, language: str = "en", of: Person | None = ARCHITECT, company: str = "Ex Oy"
) -> str:
    status = status or steps(TAKEN, ago(hours=1))
    return pages.page(status, company=company, customer_zone="Europe/Helsinki", person=of, language=language)


class Outline(HTMLParser):
    """What a screen reader goes by."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.path: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.heard: list[tuple[str, str]] = []
        self.feed(html)
        self.close()
        assert self.path == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in {"meta", "link"}:  # they have no end
            self.path.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.path.pop() == tag

    def handle_data(self, data: str) -> None:
        if data.strip() and self.path[-1] != "style":
            self.heard.append((self.path[-1], data.strip()))

    def all(self, tag: str) -> list[str]:
        return [text for at, text in self.heard if at == tag]


# ---- steps


@pytest.mark.parametrize(
    ("state", "current"),
    [
        ("open", "received"),
        ("acknowledged", "handled"),
        ("in_progress", "handled"),
        ("waiting", "handled"),
        ("resolved", "done"),
        ("closed", "done"),
        ("cancelled", "done"),
    ],
)
def test_the_step_that_a_ticket_is_at(state: TicketState, current: StepName) -> None:
    """Assigned is not yet handled; it is when a person answers."""
    status = steps(in_state(state), ago(hours=1))
    assert status.current == current
    reached = [step.reached for step in status.steps]
    assert reached == sorted(reached, reverse=True)
    assert (status.assignee is not None) == (current != "received")


def test_when_each_step_was_reached() -> None:
    found = steps(in_state("closed"), ago(hours=1))
    assert [(step.name, step.at) for step in found.steps] == [
        ("received", ago(hours=1)),
        ("handled", ago(minutes=20)),
        ("done", NOW),
    ]
    again = ticket(state="open", opening=2)
    assert [step.at for step in steps(again, None).steps] == [None, None, None]
    assert steps(again, None).current == "received"


def test_an_answer_that_asked_for_nobody_was_received() -> None:
    assert steps(None, NOW).current == "received"
    assert steps(None, NOW).assignee is None
    assert steps(None, None).current is None


# ---- the page


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("language", LANGUAGES)
def test_the_page_reads_well_without_seeing_it(language: str, state: TicketState) -> None:
    """Its language is said, headings go down one by one, and the step it is at is told in words."""
    status, words = steps(in_state(state), ago(hours=1)), words_in(language).page
    found = Outline(shown(status, language))
    assert found.tags[0] == ("html", {"lang": language})
    assert [tag for tag, _ in found.tags if re.fullmatch("h[1-6]", tag)] == ["h1", "h2", "h3", "h3", "h3"]
    assert found.all("title") == [f"{words.heading} · Ex Oy"]
    assert found.all("h1") == [words.heading]
    assert found.all("h3") == [words.received, words.handled, words.done]
    items = [attrs for tag, attrs in found.tags if tag == "li"]
    place = ["received", "handled", "done"].index(status.current or "")
    assert [attrs.get("aria-current") for attrs in items] == ["step" if n == place else None for n in range(3)]
    marks = [text for text in found.all("p") if text in {words.now, words.past, words.later}]
    assert marks == [*[words.past] * place, words.now, *[words.later] * (2 - place)]
    assert not {"script", "img", "form", "iframe", "style"} & {tag for tag, _ in found.tags}
    assert [attrs for tag, attrs in found.tags if tag == "link"] == [{"rel": "stylesheet", "href": "style.css"}]
    assert (words.noted in found.all("p")) == (state == "open")


@pytest.mark.parametrize(("language", "code"), [("fi-FI", "fi"), ("sv-SE", "sv"), ("de", "en"), ("en-GB", "en")])
def test_the_language_that_is_said_is_the_one_that_is_spoken(language: str, code: str) -> None:
    assert shown(language=language) == shown(language=code)
    assert f'<html lang="{code}">' in shown(language=language)


@pytest.mark.parametrize(
    ("language", "lines"),
    [
        ("en", ("What happened to your feedback", "Handled by First Architect", "2026-11-23 12:00 (Europe/Helsinki)")),
        (
            "fi",
            ("Mitä palautteellesi tapahtui", "Käsittelijä: First Architect", "23.11.2026 klo 12.00 (Europe/Helsinki)"),
        ),
        (
            "sv",
            (
                "Vad som hände med din återkoppling",
                "Handläggare: First Architect",
                "2026-11-23 kl. 12.00 (Europe/Helsinki)",
            ),
        ),
    ],
)
def test_who_has_it_and_since_when(language: str, lines: tuple[str, ...]) -> None:
    heard = [text for _, text in Outline(shown(language=language)).heard]
    assert [heard.count(line) for line in lines] == [1, 1, 1]


def test_nobody_is_named_before_they_took_it() -> None:
    """The architect of an open ticket may not know of it yet."""
    assert "First Architect" not in shown(steps(ticket(), NOW))
    assert "First Architect" in shown(steps(in_state("resolved"), NOW))
    assert "Handled by" not in shown(of=None)


def test_an_answer_on_its_way_says_so() -> None:
    """The link is given before the answer was read; whoever is quick sees no step reached."""
    found = Outline(shown(steps(None, None)))
    assert words_in("en").page.on_the_way in found.all("p")
    assert not [attrs for tag, attrs in found.tags if "aria-current" in attrs or tag == "time"]


def test_names_are_no_markup() -> None:
    html = shown(of=person(name="<script>alert(1)</script> {x}"), company='Ex & "Oy" <b>')
    assert "<script" not in html
    assert "Handled by &lt;script&gt;alert(1)&lt;/script&gt; {x}" in html
    assert "Ex &amp; &#34;Oy&#34; &lt;b&gt;" in html


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("state", STATES)
def test_nothing_internal_is_shown(language: str, state: TicketState) -> None:
    """No severity, no scores or words of others, no cause, no resolution, no numbers and addresses of ours."""
    taken = None if state in {"open", "cancelled"} else ago(minutes=20)
    of = ticket(
        number=987654,
        state=state,
        severity="critical",
        title="TITLE",
        summary="SUMMARY",
        touchpoint="TOUCHPOINT",
        assignee="ASSIGNEE",
        acknowledged_at=taken,
        resolved_at=NOW if state in {"resolved", "closed"} else None,
        root_cause="ROOT-CAUSE",
        resolution="RESOLUTION",
        evidence=[evidence(comment="COMMENT", respondent="RESPONDENT", contact="CONTACT")],
        context=TicketContextV1(
            nps=-77.7,
            mood=1.77,
            goal=66.6,
            previous_tickets=["876543"],
            contact="CONTACT",
            previous=[PreviousTicketV1(number=876543, opened_at=ago(days=400), state="closed", resolution="BEFORE")],
        ),
        first_response_due=NOW + timedelta(days=800),
        resolve_due=NOW + timedelta(days=900),
        sla=SlaV1(first_response="breached"),
        desk=DeskV1(type="DESK", reference="REFERENCE", url="https://desk.example.test", error="ERROR"),
        status_page="https://example.test/t/TOKEN",
    )
    html = shown(steps(of, ago(hours=1)), language)
    inside = (
        *("TITLE", "SUMMARY", "TOUCHPOINT", "ASSIGNEE", "ROOT-CAUSE", "RESOLUTION", "COMMENT", "RESPONDENT", "CONTACT"),
        *("-77.7", "1.77", "66.6", "987654", "876543", "BEFORE", "DESK", "REFERENCE", "desk.example", "ERROR", "TOKEN"),
        *("critical", "breached", "2025-", "2029-", "2028-", "acme", str(of.id), of.dedup_key),
        *("architect-1@example.test", "Customer experience architect"),
    )
    assert [word for word in inside if word in html] == []


# ---- its look


def luminance(colour: str) -> float:
    digits = colour * 2 if len(colour) == 3 else colour
    channels = [int(digits[n : n + 2], 16) / 255 for n in (0, 2, 4)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_its_colours_can_be_read_by_day_and_by_night() -> None:
    """WCAG 2.2 asks for 4.5 to 1 between words and what is behind them."""
    schemes = re.findall(r":root \{(.*?)\}", style()[0].decode())
    assert len(schemes) == 2
    for scheme in schemes:
        colours = dict(re.findall(r"--([a-z-]+): #([0-9a-f]+)", scheme))
        assert contrast(colours["deed-ink"], colours["deed"]) >= 4.5
        for ink in ("ink", "soft", "deed", "bad"):
            for behind in ("card", "paper"):
                assert contrast(colours[ink], colours[behind]) >= 4.5


def test_it_fits_a_small_phone() -> None:
    """Nothing has a width of its own, and a long word breaks."""
    html = Path(pages.__file__).with_name("templates").joinpath("status.html").read_text()
    assert 'content="width=device-width, initial-scale=1"' in html
    css = style()[0].decode()
    assert "overflow-wrap: anywhere" in css
    assert re.findall(r"[ ;{](?:min-)?width: *[0-9.]+(?:px|rem|em)", css) == []
