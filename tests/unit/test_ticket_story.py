"""Who takes a ticket reads all of it in their own language and desk, so that the customer repeats nothing."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from html.parser import HTMLParser
from typing import Any, get_args

import pytest

from services.ticketing.domain.story import (
    Block,
    Heading,
    Items,
    Link,
    Paragraph,
    Story,
    as_adf,
    as_html,
    as_text,
    tell,
)
from services.ticketing.domain.texts import Words, words_in
from shared.wire.events import Channel, Kind, PreviousTicketV1, SlaV1, TicketContextV1, TicketState, TicketV1
from tests.support.build import NOW, ago, customer, evidence, person, ticket

PEOPLE = {
    "architect-1": person("architect-1", name="First Architect", title="Customer experience architect"),
    "architect-2": person("architect-2", name="Second Architect"),
}
FULL = ticket(
    evidence=[
        evidence(1, comment="Nobody called back.\n\nAnd the bill is <b>wrong</b> & late."),
        evidence(3, kind="nps", channel="email", respondent=None, comment=None, occurred_at=ago(days=1, hours=13)),
        evidence(93.14159, kind="kpi", channel="api", respondent=None, comment=None),
    ],
    context=TicketContextV1(
        nps=-12.5,
        mood=2.9,
        goal=3.2,
        previous_tickets=["1017", "988"],
        respondent_channel="widget",
        language="fi",
        contact="r17@example.test",
        previous=[
            PreviousTicketV1(
                number=1017,
                opened_at=ago(days=30),
                state="resolved",
                root_cause="process/handover",
                resolution="Called back and apologised.",
            )
        ],
    ),
    first_response_due=NOW + timedelta(hours=1),
    resolve_due=NOW + timedelta(hours=8),
    sla=SlaV1(first_response="met", resolve="warning"),
)
BY_HAND = ticket(
    title="Call Acme about the invoice", summary="Call Acme about the invoice", touchpoint=None, alert=None
)
LANGUAGES = ("en", "fi", "sv")
AWKWARD: Story = (
    Heading("A <heading>\nover lines"),
    Paragraph("One & two\n\n  \nthree"),
    Items(("plain", "first\nsecond <script>", " ", "")),
    Items(()),
    Items((" ",)),
    Paragraph(""),
    Heading(" "),
    Link('A "link"', 'https://example.test/a?b=1&c="x"'),
    Link("", "http://example.test/"),
    Link("No link", "javascript:alert(1)"),
    Link("Nor this", "https://example.test/\nonclick=1"),
    Link("Nor this", "https://example.test/ onclick=1"),
)


def told(of: TicketV1 = FULL, language: str = "en", **fields: Any) -> str:
    return as_text(tell(of, customer(**fields), PEOPLE, language))


# ---- renderings


class Markup(HTMLParser):
    """Reads what a browser would see, and refuses tags that are not closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open.append(tag)
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        assert self.open
        self.words.append(data)


def texts(node: Any) -> Iterator[str]:
    if node["type"] == "text":
        yield node["text"]
    for child in node.get("content", ()):
        yield from texts(child)


INSIDE = {
    "doc": {"heading", "paragraph", "bulletList"},
    "heading": {"text"},
    "paragraph": {"text"},
    "bulletList": {"listItem"},
    "listItem": {"paragraph"},
}
"""What may stand where in Atlassian Document Format, of what we use."""


def assert_adf(node: dict[str, Any]) -> None:
    if node["type"] == "text":
        assert set(node) <= {"type", "text", "marks"}
        assert node["text"]
        assert "\n" not in node["text"]
        for mark in node.get("marks", ()):
            assert mark["type"] == "link"
            assert mark["attrs"]["href"].startswith(("http://", "https://"))
        return
    allowed = {"doc": {"version"}, "heading": {"attrs"}}.get(node["type"], set())
    assert set(node) == {"type", "content"} | allowed
    assert node["content"] or node["type"] == "doc"
    for child in node["content"]:
        assert child["type"] in INSIDE[node["type"]]
        assert_adf(child)


@pytest.mark.parametrize(
    "story", [AWKWARD, *((block,) for block in AWKWARD), (), *(tell(FULL, customer(), PEOPLE, x) for x in LANGUAGES)]
)
def test_every_markup_is_sound_and_says_the_same(story: tuple[Block, ...]) -> None:
    """What a desk refuses never gets to a person; what one desk shows, each shows."""
    html, adf = Markup(as_html(story)), as_adf(story)
    assert {tag for tag, _ in html.seen} <= {"p", "h3", "ul", "li", "a"}
    assert_adf(adf)
    assert adf["version"] == 1
    shown = list(texts(adf))
    assert html.words == shown
    text = as_text(story)
    assert all(line in text for line in shown)


def test_what_a_respondent_wrote_is_no_markup() -> None:
    html = as_html(AWKWARD)
    assert "<h3>A &lt;heading&gt; over lines</h3>" in html
    assert "<p>One &amp; two</p><p>three</p>" in html
    assert "<ul><li>plain</li><li><p>first</p><p>second &lt;script&gt;</p></li></ul>" in html
    assert "<script" not in html


def test_only_web_addresses_become_links() -> None:
    """A desk's page runs no script of a respondent."""
    address = 'https://example.test/a?b=1&c="x"'
    html = as_html(AWKWARD)
    found = [(tag, attrs) for tag, attrs in Markup(html).seen if tag == "a"]
    assert found == [("a", {"href": address}), ("a", {"href": "http://example.test/"})]
    assert '<p><a href="http://example.test/">http://example.test/</a></p>' in html
    assert "<p>No link: javascript:alert(1)</p>" in html
    nodes = [node for block in as_adf(AWKWARD)["content"] for node in block["content"]]
    links = [node["marks"][0]["attrs"]["href"] for node in nodes if "marks" in node]
    assert links == [address, "http://example.test/"]


def test_plain_text_is_readable() -> None:
    assert as_text(AWKWARD[:3]) == ("A <heading> over lines\n\nOne & two\nthree\n\n- plain\n- first\n  second <script>")
    assert as_text(AWKWARD[7:8]) == 'A "link": https://example.test/a?b=1&c="x"'
    assert as_text(()) == ""


# ---- what is told


def test_the_whole_story_in_english() -> None:
    """All of it, in the customer's time; the comment to its last word."""
    assert (
        told()
        == """\
What happened

Mood 1 of 4 at support

Customer

- Acme Oy
- Touchpoint: support
- NPS then: -12.5
- Mood then: 2.9 (goal 3.2, gap 0.3)

What was said (times in Europe/Helsinki)

- 2026-11-23 12:20: mood 1 of 4, web page, r-17
  “Nobody called back.
  And the bill is <b>wrong</b> & late.”
- 2026-11-21 23:20: NPS 3 of 10, e-mail
- 2026-11-23 12:20: key metric 93.14, API

Earlier tickets of the same problem

- #1017, opened 2026-10-24 13:20, resolved
  Root cause: process/handover
  What was done: Called back and apologised.
- #988

How to reach the respondent

- Channel: web page
- Language: fi
- Contact: r17@example.test

Whom to call

- Architect: First Architect, Customer experience architect
- Deputy: Second Architect

By when (times in Europe/Helsinki)

- First response by 2026-11-23 13:20 (done in time)
- Resolved by 2026-11-23 20:20"""
    )


@pytest.mark.parametrize(
    ("language", "lines"),
    [
        (
            "fi",
            (
                "- Tunnelma silloin: 2,9 (tavoite 3,2, puuttuu 0,3)",
                "- 21.11.2026 klo 23.20: NPS 3/10, sähköposti",
                "- #1017, avattu 24.10.2026 klo 13.20, ratkaistu",
                "- Ensimmäinen vastaus viimeistään 23.11.2026 klo 13.20 (hoidettu ajoissa)",
            ),
        ),
        (
            "sv",
            (
                "- Stämning då: 2,9 (mål 3,2, 0,3 kvar till målet)",
                "- 2026-11-21 kl. 23.20: NPS 3 av 10, e-post",
                "- #1017, öppnat 2026-10-24 kl. 13.20, löst",
                "- Första svar senast 2026-11-23 kl. 13.20 (klart i tid)",
            ),
        ),
    ],
)
def test_the_story_in_other_languages(language: str, lines: tuple[str, ...]) -> None:
    """Our words change, with how dates and numbers are written; what people said stays as they said it."""
    found = told(language=language)
    assert [line for line in lines if line not in found.splitlines()] == []
    for kept in ("Nobody called back.", "Acme Oy", "r17@example.test", "First Architect", "process/handover"):
        assert kept in found
    headings = [block.text for block in tell(FULL, customer(), PEOPLE, language) if isinstance(block, Heading)]
    english = [block.text for block in tell(FULL, customer(), PEOPLE, "en") if isinstance(block, Heading)]
    assert len(headings) == len(english) == 7
    assert not set(headings) & set(english)


@pytest.mark.parametrize(
    ("language", "code"),
    [
        ("fi-FI", "fi"),
        ("FI", "fi"),
        ("sv_SE", "sv"),
        ("sv", "sv"),
        ("en-GB", "en"),
        ("de", "en"),
        ("fil", "en"),
        ("", "en"),
    ],
)
def test_a_region_changes_no_words_and_an_unknown_language_is_english(language: str, code: str) -> None:
    assert words_in(language).code == code
    assert told(language=language) == told(language=code)


@pytest.mark.parametrize("words", [words_in(language) for language in LANGUAGES], ids=LANGUAGES)
def test_every_language_has_a_word_for_everything(words: Words) -> None:
    assert set(words.kinds) == set(get_args(Kind))
    assert set(words.channels) == set(get_args(Channel))
    assert set(words.states) == set(get_args(TicketState))


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_ticket_by_hand_tells_what_there_is(language: str) -> None:
    """No empty headings: only what it is about, whose it is, and whom to call."""
    words = words_in(language)
    story = tell(BY_HAND, customer(deputy=None), PEOPLE, language)
    assert [block.text for block in story if isinstance(block, Heading)] == [
        words.happened,
        words.customer,
        words.call,
    ]
    assert story[1] == Paragraph("Call Acme about the invoice")
    assert story[3] == Items(("Acme Oy",))


def test_a_ticket_without_any_text_and_people_is_still_told() -> None:
    bare = ticket(title="", summary="", touchpoint=None)
    assert as_text(tell(bare, customer(), {}, "en")) == "Customer\n\n- Acme Oy"
    assert "Call Acme" in told(ticket(title="Call Acme", summary=""))


@pytest.mark.parametrize(
    ("scores", "goals", "lines"),
    [
        # The ticket does not say which score its goal is of.
        ({"nps": 20.0, "goal": 40.0}, {}, ["NPS then: 20 (goal 40, gap 20)"]),
        ({"nps": 45.04, "goal": 40.0}, {}, ["NPS then: 45.04 (goal 40, reached)"]),
        ({"nps": -0.001}, {}, ["NPS then: 0"]),
        ({"mood": 2.857142, "goal": 3.0}, {}, ["Mood then: 2.86 (goal 3, gap 0.14)"]),
        ({"nps": 1.0, "mood": 3.5, "goal": 3.0}, {}, ["NPS then: 1", "Mood then: 3.5 (goal 3, reached)"]),
        ({"nps": 1.0, "mood": 3.5, "goal": 3.0}, {"nps": 3.0}, ["NPS then: 1 (goal 3, gap 2)", "Mood then: 3.5"]),
        ({"nps": 1.0, "goal": 3.0}, {"nps": 3.0, "mood": 3.0}, ["NPS then: 1", "Mood then: goal 3"]),
        ({"goal": 40.0}, {}, ["NPS then: goal 40"]),
        ({}, {}, []),
    ],
)
def test_where_the_customer_stood(scores: dict[str, float], goals: dict[str, float], lines: list[str]) -> None:
    of = ticket(context=TicketContextV1(**scores))  # pyright: ignore[reportArgumentType]
    standing = tell(of, customer(goals={}, touchpoint_goals={"support": goals}), {}, "en")[3]
    assert standing == Items(("Acme Oy", "Touchpoint: support", *lines))


def test_the_contact_may_be_an_older_answers() -> None:
    of = ticket(evidence=[evidence(), evidence(contact="old@example.test")])
    assert "- Contact: old@example.test" in told(of).splitlines()


def test_a_channel_of_a_newer_writer_is_told_as_it_is() -> None:
    assert "- Channel: chat" in told(ticket(context=TicketContextV1(respondent_channel="chat"))).splitlines()


@pytest.mark.parametrize(
    ("left", "shown"), [(12000.0, "3 h 20 min"), (7200.0, "2 h"), (59.0, "0 min"), (150.0, "2 min"), (0.0, "0 min")]
)
def test_a_clock_that_stands_still_says_what_is_left(left: float, shown: str) -> None:
    of = ticket(
        state="waiting", resolve_left=left, sla=SlaV1(first_response="breached"), first_response_due=ago(hours=1)
    )
    found = told(of)
    assert f"- The time to resolve it stands still while the ticket waits; {shown} of working time left" in found
    assert "- First response by 2026-11-23 11:20 (late)" in found


def test_times_are_the_customers() -> None:
    found = told(timezone="Asia/Kathmandu")
    assert "What was said (times in Asia/Kathmandu)" in found
    assert "- 2026-11-23 16:05: mood 1 of 4" in found
