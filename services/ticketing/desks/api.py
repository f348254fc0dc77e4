"""What desks' drivers call with: one JSON interface at one address, its answers classified, its calls counted.

Below it, what the drivers share: reading an answer's shape, the marks that our tickets carry, when a state is reached.
"""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar
from urllib.parse import urlencode
from uuid import UUID

import msgspec

from services.ticketing.desks import NOBODYS, Failed, Gone, Remote
from services.ticketing.domain.ticket import ACTIVE
from shared.http.client import Answer, Outbound, Refused, Unreachable
from shared.runtime import metrics
from shared.runtime.logs import Log
from shared.wire.events import TicketState

log = Log("ticketing")

_SECONDS = 20.0
"""How long a desk may take."""
_LIMIT = 4 * 1024 * 1024
"""Bytes of an answer that are read."""
PAGE = 25
"""Comments that are asked for at once; fewer, where they are long."""
_MOST_REMARKS = 1_000
"""Comments that are read at once; where there are more, the oldest are left to the desk."""
_MOST_TOO_LARGE = 10


class TooLarge(Failed):
    """An answer of which only the beginning was read: fewer things are to be asked for."""


Budget = Callable[[], Awaitable[None]]
"""Waits until the desk's budget has room for one more call."""


class Api:
    """A desk's HTTP interface."""

    def __init__(self, desk: str, url: str, headers: Mapping[str, str], outbound: Outbound, budget: Budget) -> None:
        """`headers` authenticate. Raises Failed where they cannot be sent."""
        if not all(value.isascii() and value.isprintable() for value in headers.values()):
            raise Failed("permanent", "the desk's token has characters that no header can carry")
        self._desk = desk
        self.url = url.rstrip("/")
        # The outbound client reads bodies as they come, so none may come compressed.
        self._headers = {
            "accept": "application/json",
            "accept-encoding": "identity",
            "user-agent": "Fiilis",
            **headers,
        }
        words = (word for value in headers.values() for word in value.replace("=", " ").split())
        self._secrets = [word for word in words if len(word) > 7]
        self._outbound = outbound
        self._budget = budget

    async def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        query: Mapping[str, str | int] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        """Return the answer's JSON, None where it has none. Raises Gone for 404 and 410, Failed for other failures."""
        content = b"" if body is None else msgspec.json.encode(body)
        answer = await self.send(method, path, content, query=query, headers=headers)
        return self._json(answer, writes=method != "GET")

    async def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        query: Mapping[str, str | int] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        """Call what names no ticket: if it is not there, a setting is wrong and no ticket is gone."""
        try:
            return await self.call(method, path, body, query=query, headers=headers)
        except Gone as gone:
            raise Failed("permanent", f"{gone}: is the desk's url that of the API?") from None

    async def send(
        self,
        method: str,
        path: str,
        content: bytes,
        *,
        query: Mapping[str, str | int] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Return an answer that says yes, whatever else it says. Raises as `call`."""
        await self._budget()
        sent = {**self._headers, **({"content-type": "application/json"} if content else {}), **(headers or {})}
        url = f"{self.url}{path}" + (f"?{urlencode(query)}" if query else "")
        writes = method != "GET"
        try:
            answer = await self._outbound.request(method, url, content, sent, seconds=_SECONDS, limit=_LIMIT)
        except Refused as refused:
            raise self._failed("permanent", str(refused)) from None
        except Unreachable as error:
            raise self._failed("unknown" if error.sent and writes else "temporary", str(error)) from None
        if 200 <= answer.status < 300:
            metrics.DESK_REQUESTS.labels(self._desk, "ok").inc()
            return answer
        said = _said(answer)
        detail = self._masked(f"HTTP {answer.status}{': ' if said else ''}{said}")
        if answer.status in {404, 410}:
            metrics.DESK_REQUESTS.labels(self._desk, "gone").inc()
            raise Gone(detail)
        if answer.status == 429 or (answer.status == 503 and not writes):
            raise self._failed("limited", detail, answer.retry_after)
        if answer.status >= 500 or answer.status == 408:
            raise self._failed("unknown" if writes else "temporary", detail, answer.retry_after)
        if answer.status in {409, 423, 425}:  # somebody else was at it in that moment
            raise self._failed("temporary", detail, answer.retry_after, refusal=True)
        if 300 <= answer.status < 400:
            where = answer.headers.get("location", "")[:200]
            why = f"{detail}: it redirects to {where}: to sign in, or does the desk have another url?"
            raise self._failed("temporary", why)
        # Who may do nothing may do nothing with any ticket; what else is wrong is wrong with this one.
        raise self._failed("permanent", detail, refusal=answer.status not in {401, 403, 407})

    def _json(self, answer: Answer, *, writes: bool) -> Any:
        if not answer.body:
            return None
        kind = "unknown" if writes else "permanent"
        if answer.cut:
            raise TooLarge(kind, f"the answer is larger than {_LIMIT // 1024} KiB")
        try:
            return msgspec.json.decode(answer.body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            what = answer.headers.get("content-type", "no content type")
            # A page to sign in, or of maintenance, is soon over.
            kind = "temporary" if kind == "permanent" and "html" in what else kind
            raise self._failed(kind, f"the answer is not JSON but {what}: is the url that of the API?") from None

    def _failed(self, kind: Any, detail: str, retry_after: float | None = None, *, refusal: bool = False) -> Failed:
        metrics.DESK_REQUESTS.labels(self._desk, kind).inc()
        return Failed(kind, self._masked(detail), retry_after, refusal=refusal)

    def _masked(self, text: str) -> str:
        """Take out what authenticates us, in case the other side says it back."""
        for secret in self._secrets:
            text = text.replace(secret, "...")
        return text


def _said(answer: Answer) -> str:
    """Return the beginning of an error's text, on one line; pages of HTML say nothing to us."""
    if "json" not in answer.headers.get("content-type", "") and "text/plain" not in answer.headers.get(
        "content-type", ""
    ):
        return ""
    return " ".join(answer.body[:300].decode("utf-8", "replace").split())


SEES_NOTHING = "the account sees nothing"
"""Begins what is told of a desk that shows no tickets because our account is not, or not any more, who it was."""


def basic(user: str, password: str) -> dict[str, str]:
    """Return the header of HTTP Basic authentication. Raises Failed for what is neither a name nor a password."""
    if not (user + password).isprintable():
        raise Failed("permanent", "the desk's token has characters that no header can carry")
    return {"authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


def shaped(value: Any, *keys: str | int) -> Any:
    """Return what an answer has at some place. Raises Failed where the desk's answer has another shape."""
    for key in keys:
        try:
            value = value[key]
        except (KeyError, IndexError, TypeError):
            raise Failed("unknown", f"the desk's answer has no {'.'.join(map(str, keys))}") from None
    return value


T = TypeVar("T")


def told(value: Any, kind: type[T]) -> T:
    """Return what a desk told, as a type. Raises Failed where it has another shape."""
    try:
        return msgspec.convert(value, kind)
    except (msgspec.ValidationError, RecursionError) as error:
        raise Failed("unknown", f"the desk's answer has another shape: {error}") from None


def each(rows: Any, kind: type[T], remote: Callable[[T], Remote]) -> list[Remote]:
    """Return the tickets of a list, one of another shape as NOBODYS. Raises Failed where it is no list.

    One ticket that nobody can read hides no other.
    """
    found: list[Remote] = []
    for row in told(rows, list[Any]):
        try:
            one = remote(told(row, kind))
        except Failed as failed:
            log.warning("a desk's ticket cannot be read", why=failed.detail)
            one = NOBODYS
        found.append(one if one.can_be_named else NOBODYS)
    return found


def number(value: str | int) -> int:
    """Return an id that is a number. Raises Failed where it is none, or none that a desk counts to."""
    text = str(value)
    if not re.fullmatch(r"[0-9]{1,18}", text):
        raise Failed("unknown", f"the desk's answer has {text[:40]!r} for an id")
    return int(text)


def moment(text: str) -> datetime:
    """Return the time in an answer; UTC where it names no zone. Raises Failed where it is none."""
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise Failed("unknown", f"the desk's answer has {text[:40]!r} for a time") from None
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def safe(reference: str) -> str:
    """Return a reference that can stand in a path or a query. Raises Gone where no desk calls a ticket so."""
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", reference):
        raise Gone(f"no ticket is called {reference[:64]!r}")
    return reference


class Account:
    """Who our account is: asked each time for whether it is well, once for what it wrote."""

    def __init__(self, ask: Callable[[], Awaitable[str | int | None]], desk: str) -> None:
        """`ask` returns what the desk calls our account, None where it takes us for nobody."""
        self._ask = ask
        self._desk = desk
        self._known: str | None = None

    async def now(self) -> str:
        """Ask. Raises Failed where we are nobody."""
        found = await self._ask()
        if found is None:
            self._known = None
            raise Failed("permanent", f"{SEES_NOTHING}: {self._desk} takes us for nobody; has the token expired?")
        self._known = str(found)
        return self._known

    async def known(self) -> str:
        """Return who it was when it was asked last. Raises Failed where we are nobody."""
        return self._known or await self.now()


async def newest_first(
    page: Callable[[int, int], Awaitable[Sequence[T]]], id_: Callable[[T], int], after: str | None
) -> tuple[list[T], str | None, bool]:
    """Return what a list that begins with the newest has beyond an id, the oldest first.

    `page` returns so many (the second number) after leaving out so many (the first), a multiple of the second. Also
    returned: the newest id, and whether there was more than anybody reads. An answer that is too large is asked for in
    smaller pieces, and what is too large by itself is left out.
    """
    known = int(after) if after is not None else -1
    found: dict[int, T] = {}
    skip, count, more, too_large = 0, PAGE, True, 0
    while more and len(found) < _MOST_REMARKS:
        try:
            rows = await page(skip, count)
        except TooLarge as error:
            if count > 1:
                count = 1 if count <= 5 else 5  # what was left out is a multiple of each
                continue
            too_large += 1
            if too_large > _MOST_TOO_LARGE:
                raise
            log.warning("a comment is too large to be read", why=error.detail)
            skip += 1
            continue
        found |= {id_(row): row for row in rows if id_(row) > known}
        more = len(rows) >= count and min(map(id_, rows)) > known
        skip += count
    newest = max([known, *found])
    return [found[one] for one in sorted(found)], None if newest < 0 else str(newest), more


def with_given(ours: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is sent with what the directory gives besides: objects are merged, and lists joined.

    So a label or a custom field of the company's never takes the place of the one by which we find our ticket.
    """
    sent = dict(ours)
    for name, value in given.items():
        own = sent.get(name)
        if isinstance(own, dict) and isinstance(value, Mapping):
            sent[name] = with_given(own, value)  # pyright: ignore[reportUnknownArgumentType]
        elif isinstance(own, list):
            sent[name] = [*own, *(value if isinstance(value, list) else [value])]  # pyright: ignore[reportUnknownVariableType]
        else:
            sent[name] = value
    return sent


async def allowed(call: Awaitable[object]) -> bool:
    """Make a call that few accounts are allowed; return whether ours was."""
    try:
        await call
    except Failed as failed:
        if failed.kind != "permanent":
            raise
        return False
    return True


def is_own(author: str | int | None, me: str | None) -> bool | None:
    """Tell whether our account is the author; None where the desk does not say who either is."""
    return None if author in {None, ""} or not me else str(author) == me


def one_line(text: str, limit: int) -> str:
    """Return a title as desks take it: without line breaks, and cut where it is too long."""
    line = " ".join(text.split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


MARK = "fiilis"
"""What each of our tickets is tagged with."""


def mark(ticket: UUID) -> str:
    """Return what one of our tickets is tagged with; also the last line of a note that tells its story."""
    return f"{MARK}-{ticket}"


def ends_in_mark(text: str) -> bool:
    """Tell whether a text ends as our stories do."""
    return re.search(rf"{MARK}-[0-9a-f]{{8}}-[0-9a-f-]{{27}}\s*$", text) is not None


def tells_story(text: str, own: bool | None) -> bool:
    """Tell whether a note in the desk is one that we wrote to tell the story, and no answer with the story below."""
    return own is not False and ends_in_mark(text) and (own is True or not quotes(text))


def quotes(text: str) -> bool:
    """Tell whether a text has lines of another one, as mail programs mark them."""
    return any(line.lstrip().startswith(">") for line in text.splitlines())


def letters(text: str) -> str:
    """Return what remains of a text whatever markup and spacing the desk gives it."""
    return "".join(filter(str.isalnum, text))


def lines_of(markup: str) -> str:
    """Return the text of HTML, a line for each paragraph and break."""
    text = visible(re.sub(r"</p>|<br ?/?>", "\n", markup))
    return "\n".join(line.strip() for line in text.splitlines()).strip()


def visible(markup: str) -> str:
    """Return the text of HTML."""
    return html.unescape(re.sub(r"<[^>]*>", " ", markup))


def over(state: TicketState | None, wanted: TicketState | None) -> bool:
    """Tell whether the desk's ticket has ended and is not to be moved back: if it is sealed, nothing is left to do."""
    return state is not None and state not in ACTIVE and wanted not in ACTIVE


def reached(state: TicketState | None, wanted: TicketState) -> bool:
    """Tell whether the desk's ticket needs no move: it is there already, or over in another way."""
    return state == wanted or over(state, wanted)
