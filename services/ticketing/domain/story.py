"""A ticket told to a person: a few kinds of blocks that each desk shows in its own markup."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from html import escape
from typing import Any
from zoneinfo import ZoneInfo

import msgspec

from services.ticketing.domain.texts import Words, words_in
from shared.directory.model import Customer, Person
from shared.wire.events import RATINGS, ClockState, EvidenceV1, PreviousTicketV1, TicketContextV1, TicketV1


@dataclass(frozen=True, slots=True)
class Heading:
    """The title of what follows."""

    text: str


@dataclass(frozen=True, slots=True)
class Paragraph:
    """A sentence or some."""

    text: str


@dataclass(frozen=True, slots=True)
class Items:
    """A list."""

    items: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Link:
    """An address to open."""

    text: str
    url: str


Block = Heading | Paragraph | Items | Link
Story = tuple[Block, ...]


# ---- in a desk's markup


def as_text(story: Story) -> str:
    """Return the story as plain text."""
    chunks: list[str] = []
    for block in story:
        match block:
            case Heading(text):
                chunks.append(" ".join(_lines(text)))
            case Paragraph(text):
                chunks.append("\n".join(_lines(text)))
            case Items(items):
                chunks.append("\n".join("- " + "\n  ".join(lines) for lines in map(_lines, items) if lines))
            case Link(text, url):
                chunks.append(_spelled(text, url))
    return "\n\n".join(filter(None, chunks))


def as_html(story: Story) -> str:
    """Return the story as HTML of p, h3, ul, li and a, everything else escaped."""
    return "".join(map(_html, story))


def _html(block: Block) -> str:
    match block:
        case Heading(text):
            title = " ".join(_lines(text))
            return f"<h3>{escape(title)}</h3>" if title else ""
        case Paragraph(text):
            return _paragraphs(_lines(text))
        case Items(items):
            listed = "".join(f"<li>{_item(lines)}</li>" for lines in map(_lines, items) if lines)
            return f"<ul>{listed}</ul>" if listed else ""
        case Link(text, url) if _is_web(url):
            return f'<p><a href="{escape(url)}">{escape(_label(text, url))}</a></p>'
        case Link(text, url):
            return _paragraphs(_lines(_spelled(text, url)))


def _item(lines: list[str]) -> str:
    return escape(lines[0]) if len(lines) == 1 else _paragraphs(lines)


def _paragraphs(lines: list[str]) -> str:
    return "".join(f"<p>{escape(line)}</p>" for line in lines)


def as_adf(story: Story) -> dict[str, Any]:
    """Return the story as a document in Atlassian Document Format, version 1."""
    return {"version": 1, "type": "doc", "content": [node for block in story for node in _adf(block)]}


def _adf(block: Block) -> list[dict[str, Any]]:
    match block:
        case Heading(text):
            title = " ".join(_lines(text))
            return [{"type": "heading", "attrs": {"level": 3}, "content": [_node(title)]}] if title else []
        case Paragraph(text):
            return _adf_paragraphs(text)
        case Items(items):
            told = filter(None, map(_adf_paragraphs, items))
            listed = [{"type": "listItem", "content": paragraphs} for paragraphs in told]
            return [{"type": "bulletList", "content": listed}] if listed else []
        case Link(text, url) if _is_web(url):
            mark = {"type": "link", "attrs": {"href": url}}
            return [{"type": "paragraph", "content": [{**_node(_label(text, url)), "marks": [mark]}]}]
        case Link(text, url):
            return _adf_paragraphs(_spelled(text, url))


def _adf_paragraphs(text: str) -> list[dict[str, Any]]:
    return [{"type": "paragraph", "content": [_node(line)]} for line in _lines(text)]


def _node(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def _lines(text: str) -> list[str]:
    """Return the lines that say something; ADF refuses a text without any, and HTML needs a paragraph for each."""
    return [line.rstrip() for line in text.splitlines() if line.strip()]


def _is_web(url: str) -> bool:
    return re.fullmatch(r"https?://[^\s\x00-\x20\x7f]+", url, re.IGNORECASE) is not None


def _label(text: str, url: str) -> str:
    return " ".join(_lines(text)) or url


def _spelled(text: str, url: str) -> str:
    return ": ".join(filter(None, (" ".join(_lines(text)), " ".join(_lines(url)))))


# ---- what is told


def tell(
    ticket: TicketV1, customer: Customer, people: Mapping[str, Person], language: str, room: int | None = None
) -> Story:
    """Return what the person who takes the ticket needs, so that the customer repeats nothing.

    Times are in the customer's zone; what is not known is left out. `room`: bytes of HTML that it may have; the oldest
    answers are left out first, then long texts are cut.
    """
    whole = _told(ticket, customer, people, language)
    if room is None or size(whole) <= room:
        return whole
    rest = Paragraph(words_in(language).rest.format(number=ticket.number))
    for longest in _LONGEST:
        for count in range(len(ticket.evidence), min(_FEWEST, len(ticket.evidence)) - 1, -1):
            fewer = msgspec.structs.replace(ticket, evidence=ticket.evidence[:count])
            told = (*_cut(_told(fewer, customer, people, language), longest), rest)
            if size(told) <= room:
                return told
    return (*_cut((Paragraph(ticket.title),), _LONGEST[-1]), rest)


def tell_of(answers: Sequence[EvidenceV1], ticket: TicketV1, customer: Customer, room: int) -> Story:
    """Return what came since the story was told, within so many bytes of HTML."""
    words, zone = words_in(customer.language), ZoneInfo(customer.timezone)
    told = Items(tuple(_answer(answer, words, zone) for answer in answers))
    story: Story = (Heading(words.added.format(zone=customer.timezone)), told)
    if size(story) <= room:
        return story
    rest = Paragraph(words.rest.format(number=ticket.number))
    return next((cut for longest in _LONGEST if size(cut := (*_cut(story, longest), rest)) <= room), (rest,))


def opening(ticket: TicketV1, language: str) -> Story:
    """Return what may be mailed to whom a ticket is on behalf of: nothing of what was said."""
    return (Paragraph(words_in(language).opening.format(number=ticket.number)),)


_LONGEST = (8_000, 2_000, 500, 120, 40)
"""Characters of one text, tried in turn where a story is too long."""
_FEWEST = 3
"""Answers that are kept, cut if need be."""


def size(story: Story) -> int:
    """Return the bytes of a story as HTML: no desk's markup that we write takes more room."""
    return len(as_html(story).encode())


def _cut(story: Story, longest: int) -> Story:
    """Return the story with each of its texts cut."""

    def cut(text: str) -> str:
        return text if len(text) <= longest else text[: longest - 1] + "…"

    return tuple(
        Items(tuple(map(cut, block.items)))
        if isinstance(block, Items)
        else block
        if isinstance(block, Link)
        else type(block)(cut(block.text))
        for block in story
    )


def _told(ticket: TicketV1, customer: Customer, people: Mapping[str, Person], language: str) -> Story:
    words, zone = words_in(language), ZoneInfo(customer.timezone)
    return (
        *_section(words.happened, Paragraph(ticket.summary or ticket.title)),
        *_section(words.customer, Items(tuple(_standing(ticket, customer, words)))),
        *_section(
            words.said.format(zone=customer.timezone),
            Items(tuple(_answer(answer, words, zone) for answer in ticket.evidence)),
        ),
        *_section(words.before, Items(tuple(_earlier(ticket.context, words, zone)))),
        *_section(words.respondent, Items(tuple(_respondent(ticket, words)))),
        *_section(words.call, Items(tuple(_responsible(customer, people, words)))),
        *_section(words.due.format(zone=customer.timezone), Items(tuple(_dues(ticket, words, zone)))),
    )


def _section(title: str, block: Paragraph | Items) -> Story:
    empty = not block.items if isinstance(block, Items) else not block.text.strip()
    return () if empty else (Heading(title), block)


def _standing(ticket: TicketV1, customer: Customer, words: Words) -> Iterator[str]:
    yield customer.name
    if ticket.touchpoint is not None:
        yield words.labelled.format(label=words.touchpoint, value=ticket.touchpoint)
    goal = ticket.context.goal
    of_mood = goal is not None and _is_of_mood(goal, ticket, customer)
    yield from _score(words.kinds["nps"], ticket.context.nps, None if of_mood else goal, words)
    yield from _score(words.kinds["mood"], ticket.context.mood, goal if of_mood else None, words)


def _is_of_mood(goal: float, ticket: TicketV1, customer: Customer) -> bool:
    """Tell which score a ticket's goal is of, as it does not say: goals of mood are 1 to 4, and few of NPS are."""
    goals = {**customer.goals, **customer.touchpoint_goals.get(ticket.touchpoint or "", {})}
    return 1 <= goal <= 4 and (goals.get("nps") != goal or goals.get("mood") == goal)


def _score(what: str, score: float | None, goal: float | None, words: Words) -> Iterator[str]:
    if score is None:
        value = None if goal is None else words.goal.format(goal=words.number(goal))
    elif goal is None:
        value = words.number(score)
    else:
        against = words.gap if score < goal else words.reached
        told = against.format(goal=words.number(goal), gap=words.number(goal - score))
        value = f"{words.number(score)} ({told})"
    if value is not None:
        yield words.labelled.format(label=words.then.format(what=what[0].upper() + what[1:]), value=value)


def _answer(answer: EvidenceV1, words: Words, zone: ZoneInfo) -> str:
    what, score = words.kinds[answer.kind], words.number(answer.score)
    if answer.kind == "kpi":
        told = f"{what} {score}"
    else:
        told = words.score.format(what=what, score=score, highest=RATINGS[answer.kind][1])
    facts = ", ".join(filter(None, (told, words.channels[answer.channel], answer.respondent)))
    line = words.labelled.format(label=words.at(answer.occurred_at.astimezone(zone)), value=facts)
    comment = (answer.comment or "").strip()
    return f"{line}\n{words.quoted.format(text=comment)}" if comment else line


def _earlier(context: TicketContextV1, words: Words, zone: ZoneInfo) -> Iterator[str]:
    """Return the earlier tickets with how they ended, then those of which only the number is known."""
    for previous in context.previous:
        yield "\n".join(_ended(previous, words, zone))
    known = {str(previous.number) for previous in context.previous}
    yield from (f"#{number}" for number in context.previous_tickets if number not in known)


def _ended(previous: PreviousTicketV1, words: Words, zone: ZoneInfo) -> Iterator[str]:
    at = words.at(previous.opened_at.astimezone(zone))
    yield words.opened.format(number=previous.number, at=at, state=words.states[previous.state])
    if previous.root_cause:
        yield words.labelled.format(label=words.cause, value=previous.root_cause)
    if previous.resolution:
        yield words.labelled.format(label=words.resolution, value=previous.resolution)


def _respondent(ticket: TicketV1, words: Words) -> Iterator[str]:
    context = ticket.context
    channel = context.respondent_channel
    contact = context.contact or next((answer.contact for answer in ticket.evidence if answer.contact), None)
    if channel:
        yield words.labelled.format(label=words.channel, value=words.channels.get(channel, channel))
    if context.language:
        yield words.labelled.format(label=words.language, value=context.language)
    if contact:
        yield words.labelled.format(label=words.contact, value=contact)


def _responsible(customer: Customer, people: Mapping[str, Person], words: Words) -> Iterator[str]:
    roles = ((words.architect, customer.architect), (words.deputy, customer.deputy))
    for role, id_ in roles:
        person = people.get(id_ or "")
        if person is not None:
            value = ", ".join(filter(None, (person.name, person.title)))
            yield words.labelled.format(label=role, value=value)


def _dues(ticket: TicketV1, words: Words, zone: ZoneInfo) -> Iterator[str]:
    if ticket.sla is None:
        return
    yield from _due(words.first_response_by, ticket.first_response_due, ticket.sla.first_response, words, zone)
    yield from _due(words.resolve_by, ticket.resolve_due, ticket.sla.resolve, words, zone)
    if ticket.resolve_left is not None:
        hours, minutes = divmod(int(ticket.resolve_left) // 60, 60)
        left = " ".join(filter(None, (f"{hours} h" if hours else "", f"{minutes} min" if minutes or not hours else "")))
        yield words.waits.format(left=left)


def _due(label: str, due: datetime | None, state: ClockState, words: Words, zone: ZoneInfo) -> Iterator[str]:
    if due is None:
        return
    how = {"met": words.met, "breached": words.breached}.get(state)
    yield f"{label} {words.at(due.astimezone(zone))}" + (f" ({how})" if how else "")
