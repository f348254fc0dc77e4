"""What people are told, ready for any channel. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec

from services.notify.domain.page import Page

_SHOWN = 100
"""Lines of a kind in a digest: it is to be read."""
_SHORT = 300
"""Characters of an SMS; two parts."""


class Words(msgspec.Struct, frozen=True, kw_only=True):
    """A message in the lengths that channels need."""

    subject: str
    text: str
    short: str
    """At most 300 characters, for SMS and lists; nothing that customers wrote."""
    data: dict[str, Any] = {}
    """The same for programs."""


def one_line(text: str) -> str:
    """Return a text without line breaks."""
    return " ".join(text.split())


def shortened(text: str, most: int = _SHORT) -> str:
    """Return a text cut at a number of characters."""
    line = one_line(text)
    return line if len(line) <= most else f"{line[: most - 1]}…"


@dataclass(frozen=True, slots=True)
class AnswerOptions:
    """How a person can answer a page."""

    url: str
    code: str
    level: int
    person: str
    followers: int = 0
    """Pages that this one is sent for too."""
    comments_in_short: bool = False


def page_words(page: Page, asked: AnswerOptions) -> Words:
    """Return a page in words."""
    what = page.summary
    if asked.followers:
        what = f"{asked.followers + 1} tickets at once, such as: {page.summary}"
    lines = [
        f"{page.customer_name} needs you: {what}.",
        "",
        f"Severity {page.severity}, ticket {page.ticket_number}, {_level(asked.level)}.",
        *([f"Taking it takes all {asked.followers + 1} of them."] if asked.followers else []),
        "Open this to say that you take it; otherwise the next person is paged:",
        "",
        asked.url,
    ]
    if page.evidence:
        lines += ["", "What was said:"]
        for answer in page.evidence:
            words = f": {one_line(answer.comment)}" if answer.comment else ""
            lines.append(f"- {answer.kind} {answer.score} at {answer.occurred_at:%Y-%m-%d %H:%M} UTC{words}")
    said = ""
    if asked.comments_in_short:
        comments = [one_line(answer.comment) for answer in page.evidence if answer.comment]
        said = f" “{shortened(comments[0], 80)}”" if comments else ""
    head = shortened(f"{page.customer_name} ({page.severity}): {what}", 120)
    return Words(
        subject=one_line(f"[{page.severity}] {page.customer_name}: {what}")[:200],
        text="\n".join(lines) + "\n",
        short=f"{head}{said}",
        data={
            "page": page.id,
            "ticket": page.ticket,
            "customer": page.customer,
            "person": asked.person,
            "level": asked.level,
            "severity": page.severity,
            "title": page.title,
            "summary": what,
            "acknowledge_url": asked.url,
        },
    )


def _level(level: int) -> str:
    return f"level {level}" if level else "which you had taken when it was less severe"


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """A line of a digest."""

    customer: str
    customer_name: str
    text: str
    at: datetime
    comment: str | None = None


_KINDS = {
    "ticket": ("Tickets that wait for you", "ticket", "tickets"),
    "good": ("Good experiences", "good experience", "good experiences"),
    "late": ("Late", "late", "late"),
    "preflight": ("To be mended in the rota", "gap", "gaps"),
}
"""Kinds of lines in their order: the heading, and what one and several are called."""


def digest_words(entries: Sequence[tuple[str, Entry]]) -> Words:
    """Return some lines, each of a kind, as one message."""
    lines: list[str] = []
    named: list[str] = []
    for kind, (heading, one, several) in _KINDS.items():
        of_kind = [entry for k, entry in entries if k == kind]
        if not of_kind:
            continue
        named.append(f"{len(of_kind)} {one if len(of_kind) == 1 else several}")
        lines += [*([""] if lines else []), heading, ""]
        for entry in of_kind[:_SHOWN]:
            said = f" “{shortened(entry.comment)}”" if entry.comment else ""
            lines.append(f"- {entry.customer_name}: {one_line(entry.text)}{said} ({entry.at:%Y-%m-%d %H:%M} UTC)")
        if len(of_kind) > _SHOWN:
            lines.append(f"- and {len(of_kind) - _SHOWN} more")
    subject = ", ".join(named)
    return Words(
        subject=f"Fiilis: {subject}",
        text="\n".join(lines) + "\n",
        short=shortened(f"{subject}. {entries[0][1].customer_name}: {entries[0][1].text}" if entries else subject),
        data={
            "entries": [
                {
                    "kind": kind,
                    "customer": e.customer,
                    "text": e.text,
                    "at": e.at,
                    "comment": e.comment and shortened(e.comment),
                }
                for kind, e in entries[: 4 * _SHOWN]
            ]
        },
    )


def link_words(page: Page, url: str) -> Words:
    """Return a fresh link in place of one that has expired."""
    return Words(
        subject=one_line(f"A fresh link: {page.customer_name}: {page.summary}")[:200],
        text=f"The link that you opened had expired. This one works:\n\n{url}\n",
        short=shortened(f"A fresh link for {page.customer_name}: {url}"),
        data={"page": page.id, "acknowledge_url": url},
    )


def code_words(code: str) -> Words:
    """Return the code that shows that a contact is its person's."""
    return Words(
        subject=f"Fiilis: {code} is your code",
        text=f"Your code is {code}. It shows that pages reach you here, and is good for 15 minutes.\n",
        short=f"Fiilis: your code is {code}, good for 15 minutes. Answer STOP for no more messages here.",
        data={"code": code},
    )
