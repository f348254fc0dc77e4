"""What respondents read, in each language, and the faces that they choose from."""

from __future__ import annotations

from typing import NamedTuple


class Words(NamedTuple):
    """The words of one language."""

    title: str
    question: str
    follow_up: str
    choose: str
    faces: tuple[str, str, str, str]
    """From the worst."""
    comment: str
    send: str
    missing: str
    thanks: str
    follow: str
    expired: str
    unknown: str
    nps: str
    nps_ends: tuple[str, str]
    csat: str
    csat_ends: tuple[str, str]
    ces: str
    ces_ends: tuple[str, str]
    close: str


WORDS = {
    "en": Words(
        title="Your feedback",
        question="How did it go?",
        follow_up="Was it put right?",
        choose="Choose the face that fits",
        faces=("Badly", "Not so well", "Well", "Very well"),
        comment="What would you like to add? (optional)",
        send="Send",
        missing="Choose one of the faces.",
        thanks="Thank you. We have received it.",
        follow="See what happens to it",
        expired="This link has expired.",
        unknown="This link leads nowhere. It may have been cut off on its way.",
        nps="How likely are you to recommend us?",
        nps_ends=("Not at all", "Very likely"),
        csat="How satisfied are you?",
        csat_ends=("Not at all", "Very satisfied"),
        ces="How easy was it?",
        ces_ends=("Very hard", "Very easy"),
        close="Close",
    ),
    "fi": Words(
        title="Palautteesi",
        question="Miten meni?",
        follow_up="Tuliko asia kuntoon?",
        choose="Valitse sopivin kasvo",
        faces=("Huonosti", "Ei kovin hyvin", "Hyvin", "Erittäin hyvin"),
        comment="Mitä haluat lisätä? (vapaaehtoinen)",
        send="Lähetä",
        missing="Valitse yksi kasvoista.",
        thanks="Kiitos. Palautteesi on vastaanotettu.",
        follow="Katso, mitä sille tapahtuu",
        expired="Tämä linkki on vanhentunut.",
        unknown="Tämä linkki ei johda mihinkään. Se on ehkä katkennut matkalla.",
        nps="Kuinka todennäköisesti suosittelisit meitä?",
        nps_ends=("En lainkaan", "Erittäin todennäköisesti"),
        csat="Kuinka tyytyväinen olet?",
        csat_ends=("En lainkaan", "Erittäin tyytyväinen"),
        ces="Kuinka helppoa se oli?",
        ces_ends=("Erittäin vaikeaa", "Erittäin helppoa"),
        close="Sulje",
    ),
    "sv": Words(
        title="Din återkoppling",
        question="Hur gick det?",
        follow_up="Blev det bra?",
        choose="Välj det ansikte som passar",
        faces=("Dåligt", "Inte så bra", "Bra", "Mycket bra"),
        comment="Vad vill du tillägga? (frivilligt)",
        send="Skicka",
        missing="Välj ett av ansiktena.",
        thanks="Tack. Vi har tagit emot den.",
        follow="Se vad som händer med den",
        expired="Länken har gått ut.",
        unknown="Länken leder ingenstans. Den kan ha blivit kapad på vägen.",
        nps="Hur troligt är det att du rekommenderar oss?",
        nps_ends=("Inte alls", "Mycket troligt"),
        csat="Hur nöjd är du?",
        csat_ends=("Inte alls", "Mycket nöjd"),
        ces="Hur lätt var det?",
        ces_ends=("Mycket svårt", "Mycket lätt"),
        close="Stäng",
    ),
}
MOUTHS = ("M7.5 17.5q4.5-5 9 0", "M8.5 16.5q3.5-2 7 0", "M8.5 15q3.5 2 7 0", "M7.5 14q4.5 5.5 9 0")
"""Paths of an SVG, since not every device has every face among its letters; from the worst."""
