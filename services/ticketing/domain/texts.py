"""The words of stories and status pages, in each language that there is a table for; English for every other."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from shared.wire.events import Kind, TicketState


@dataclass(frozen=True, slots=True)
class PageWords:
    """What the respondent's own page says."""

    heading: str
    thanks: str
    on_the_way: str
    noted: str
    """Said until a person takes it; many answers ask for none."""
    progress: str
    """What the list of steps is."""
    received: str
    handled: str
    done: str
    by: str
    past: str
    now: str
    later: str
    expired: str
    unknown: str


@dataclass(frozen=True, slots=True)
class Words:
    """What the story of a ticket says. In braces: what is filled in."""

    code: str
    """The language itself, as HTML's `lang` has it."""
    moment: str
    decimal: str
    """Separates a number's fraction."""
    quoted: str
    labelled: str
    score: str
    kinds: Mapping[Kind, str]
    channels: Mapping[str, str]
    states: Mapping[TicketState, str]

    happened: str
    customer: str
    touchpoint: str
    then: str
    goal: str
    gap: str
    reached: str

    said: str
    added: str
    """Heads the answers that came since a desk was told the story."""
    rest: str
    """Said where a desk has no room for all of a story."""
    opening: str
    """All that a desk may mail to whom a ticket is on behalf of."""
    before: str
    opened: str
    cause: str
    resolution: str

    respondent: str
    channel: str
    language: str
    contact: str

    call: str
    architect: str
    deputy: str

    due: str
    first_response_by: str
    resolve_by: str
    waits: str
    met: str
    breached: str

    page: PageWords

    def at(self, moment: datetime) -> str:
        """Return a local time as people write it."""
        return self.moment.format(moment)

    def number(self, value: float) -> str:
        """Return a number with at most two decimals."""
        # Adding zero makes -0.0 a plain zero.
        shown = f"{round(value, 2) + 0.0:.2f}".rstrip("0").rstrip(".")
        return shown.replace(".", self.decimal)


_EN = Words(
    code="en",
    moment="{0:%Y-%m-%d %H:%M}",
    decimal=".",
    quoted="“{text}”",
    labelled="{label}: {value}",
    score="{what} {score} of {highest}",
    kinds={"nps": "NPS", "mood": "mood", "csat": "CSAT", "ces": "CES", "kpi": "key metric"},
    channels={
        "widget": "web page",
        "email": "e-mail",
        "kiosk": "kiosk",
        "phone": "phone",
        "meeting": "meeting",
        "desk": "service desk",
        "import": "import",
        "api": "API",
    },
    states={
        "open": "open",
        "acknowledged": "acknowledged",
        "in_progress": "in progress",
        "waiting": "waiting",
        "resolved": "resolved",
        "closed": "closed",
        "cancelled": "cancelled",
    },
    happened="What happened",
    customer="Customer",
    touchpoint="Touchpoint",
    then="{what} then",
    goal="goal {goal}",
    gap="goal {goal}, gap {gap}",
    reached="goal {goal}, reached",
    said="What was said (times in {zone})",
    added="What was said since (times in {zone})",
    rest="This is shortened; all of it is in Fiilis, ticket {number}.",
    opening="We are looking into feedback that we were given. Our reference is {number}.",
    before="Earlier tickets of the same problem",
    opened="#{number}, opened {at}, {state}",
    cause="Root cause",
    resolution="What was done",
    respondent="How to reach the respondent",
    channel="Channel",
    language="Language",
    contact="Contact",
    call="Whom to call",
    architect="Architect",
    deputy="Deputy",
    due="By when (times in {zone})",
    first_response_by="First response by",
    resolve_by="Resolved by",
    waits="The time to resolve it stands still while the ticket waits; {left} of working time left",
    met="done in time",
    breached="late",
    page=PageWords(
        heading="What happened to your feedback",
        thanks="Thank you for telling us.",
        on_the_way="Your feedback is on its way to us. Look again in a few minutes.",
        noted="When somebody takes it up, you see it here.",
        progress="How far it is",
        received="Received",
        handled="Being handled",
        done="Done",
        by="Handled by {name}",
        past="Completed",
        now="It is here now",
        later="Not yet",
        expired="This link has expired.",
        unknown="This link leads nowhere. It may have been cut off on its way.",
    ),
)

_FI = Words(
    code="fi",
    moment="{0.day}.{0.month}.{0.year} klo {0.hour}.{0.minute:02}",
    decimal=",",
    quoted="”{text}”",
    labelled="{label}: {value}",
    score="{what} {score}/{highest}",
    kinds={"nps": "NPS", "mood": "tunnelma", "csat": "CSAT", "ces": "CES", "kpi": "mittari"},
    channels={
        "widget": "verkkosivu",
        "email": "sähköposti",
        "kiosk": "palautepiste",
        "phone": "puhelin",
        "meeting": "tapaaminen",
        "desk": "palvelupiste",
        "import": "tuotu tiedostosta",
        "api": "rajapinta",
    },
    states={
        "open": "avoin",
        "acknowledged": "kuitattu",
        "in_progress": "työn alla",
        "waiting": "odottaa",
        "resolved": "ratkaistu",
        "closed": "suljettu",
        "cancelled": "peruttu",
    },
    happened="Mitä tapahtui",
    customer="Asiakas",
    touchpoint="Kosketuspiste",
    then="{what} silloin",
    goal="tavoite {goal}",
    gap="tavoite {goal}, puuttuu {gap}",
    reached="tavoite {goal}, saavutettu",
    said="Mitä sanottiin (ajat: {zone})",
    added="Mitä sen jälkeen on sanottu (ajat: {zone})",
    rest="Tämä on lyhennetty; kaikki on Fiiliksessä, tiketissä {number}.",
    opening="Selvitämme palautetta, jonka olemme saaneet. Viitteemme on {number}.",
    before="Saman ongelman aiemmat tiketit",
    opened="#{number}, avattu {at}, {state}",
    cause="Juurisyy",
    resolution="Mitä tehtiin",
    respondent="Miten vastaajan tavoittaa",
    channel="Kanava",
    language="Kieli",
    contact="Yhteystieto",
    call="Kenelle soittaa",
    architect="Arkkitehti",
    deputy="Varahenkilö",
    due="Mihin mennessä (ajat: {zone})",
    first_response_by="Ensimmäinen vastaus viimeistään",
    resolve_by="Ratkaisu viimeistään",
    waits="Ratkaisuaika ei kulu, kun tiketti odottaa; työaikaa on jäljellä {left}",
    met="hoidettu ajoissa",
    breached="myöhässä",
    page=PageWords(
        heading="Mitä palautteellesi tapahtui",
        thanks="Kiitos, että kerroit meille.",
        on_the_way="Palautteesi on matkalla meille. Katso uudelleen muutaman minuutin kuluttua.",
        noted="Kun joku ottaa sen hoitaakseen, näet sen täällä.",
        progress="Missä vaiheessa se on",
        received="Vastaanotettu",
        handled="Käsittelyssä",
        done="Valmis",
        by="Käsittelijä: {name}",
        past="Tehty",
        now="Tässä vaiheessa nyt",
        later="Ei vielä",
        expired="Tämä linkki on vanhentunut.",
        unknown="Tämä linkki ei johda mihinkään. Se on ehkä katkennut matkalla.",
    ),
)

_SV = Words(
    code="sv",
    moment="{0:%Y-%m-%d} kl. {0:%H.%M}",
    decimal=",",
    quoted="”{text}”",
    labelled="{label}: {value}",
    score="{what} {score} av {highest}",
    kinds={"nps": "NPS", "mood": "stämning", "csat": "CSAT", "ces": "CES", "kpi": "nyckeltal"},
    channels={
        "widget": "webbsida",
        "email": "e-post",
        "kiosk": "kiosk",
        "phone": "telefon",
        "meeting": "möte",
        "desk": "servicedesk",
        "import": "import",
        "api": "API",
    },
    states={
        "open": "öppet",
        "acknowledged": "kvitterat",
        "in_progress": "pågår",
        "waiting": "väntar",
        "resolved": "löst",
        "closed": "stängt",
        "cancelled": "avbrutet",
    },
    happened="Vad som hände",
    customer="Kund",
    touchpoint="Kontaktpunkt",
    then="{what} då",
    goal="mål {goal}",
    gap="mål {goal}, {gap} kvar till målet",
    reached="mål {goal}, uppnått",
    said="Vad som sades (tider: {zone})",
    added="Vad som har sagts sedan dess (tider: {zone})",
    rest="Detta är förkortat; allt finns i Fiilis, ärende {number}.",
    opening="Vi undersöker återkoppling som vi har fått. Vår referens är {number}.",
    before="Tidigare ärenden om samma problem",
    opened="#{number}, öppnat {at}, {state}",
    cause="Grundorsak",
    resolution="Vad som gjordes",
    respondent="Så når du respondenten",
    channel="Kanal",
    language="Språk",
    contact="Kontakt",
    call="Vem du kan ringa",
    architect="Arkitekt",
    deputy="Ställföreträdare",
    due="Tidsgränser (tider: {zone})",
    first_response_by="Första svar senast",
    resolve_by="Löst senast",
    waits="Lösningstiden står stilla medan ärendet väntar; {left} arbetstid återstår",
    met="klart i tid",
    breached="försenat",
    page=PageWords(
        heading="Vad som hände med din återkoppling",
        thanks="Tack för att du berättade.",
        on_the_way="Din återkoppling är på väg till oss. Titta igen om några minuter.",
        noted="När någon tar hand om den ser du det här.",
        progress="Hur långt den har kommit",
        received="Mottagen",
        handled="Under behandling",
        done="Klar",
        by="Handläggare: {name}",
        past="Avklarat",
        now="Här är den nu",
        later="Inte ännu",
        expired="Länken har gått ut.",
        unknown="Länken leder ingenstans. Den kan ha blivit kapad på vägen.",
    ),
)

_TABLES: Mapping[str, Words] = {words.code: words for words in (_EN, _FI, _SV)}

LANGUAGES = frozenset(_TABLES)


def words_in(language: str) -> Words:
    """Return the words in a language such as `fi` or `fi-FI`."""
    return _TABLES.get(re.split("[-_]", language.lower(), maxsplit=1)[0], _EN)
