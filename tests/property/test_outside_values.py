"""What comes from outside, however absurd, is bounded where it enters: an answer ends one call, and nothing else."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit
from uuid import uuid4

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.notify.channels import REACHED, Result, refused
from services.notify.channels.registry import providers
from services.ticketing.desks import Desk, Draft, Failed, Gone, Remark, Remote
from services.ticketing.desks.registry import build
from services.ticketing.desks.signatures import reference_in
from services.ticketing.domain.change_cursor import ChangeCursor
from services.ticketing.domain.story import Paragraph
from shared.directory import model
from shared.http.client import LONGEST_WAIT, Answer, Guard, Outbound
from shared.wire.signing import Signer
from tests.support.build import NOW
from tests.support.desks import Call, FakeDesk
from tests.support.desks.freshservice import fake_freshservice
from tests.support.desks.glpi import fake_glpi
from tests.support.desks.jira import fake_jira
from tests.support.desks.redmine import fake_redmine
from tests.support.desks.rt import fake_rt
from tests.support.desks.servicenow import fake_servicenow
from tests.support.desks.webhook import fake_webhook
from tests.support.desks.zammad import fake_zammad
from tests.support.desks.zendesk import fake_zendesk
from tests.support.hostile import ABSURD

PROVIDERS = providers(Signer(["a-test-secret"]))
NAMES = ("ok", "ts", "error", "errors", "sid", "id", "message_id", "dedup_key", "code", "message")
DESKS: Mapping[str, Callable[[], FakeDesk]] = {
    "freshservice": fake_freshservice,
    "glpi": fake_glpi,
    "jira": fake_jira,
    "redmine": fake_redmine,
    "rt": fake_rt,
    "servicenow": fake_servicenow,
    "webhook": fake_webhook,
    "zammad": fake_zammad,
    "zendesk": fake_zendesk,
}

absurd = st.sampled_from(ABSURD)
said = st.text(max_size=30) | st.integers().map(str) | st.sampled_from([one for one in ABSURD if isinstance(one, str)])
deep = b"[" * 100_000
bodies = (
    st.binary(max_size=50)
    | st.just(deep)
    | st.just(b'{"id": "\\ud800"}')
    | st.just(b'{"id": 1e999}')
    | st.dictionaries(st.sampled_from(NAMES), absurd, max_size=4).map(lambda told: json.dumps(told).encode())
)


def can_be_stored(text: str, most: int) -> bool:
    """As PostgreSQL can, and a log line."""
    return "\0" not in text and len(text) <= most and text.encode() is not None


# ---- what carries a page


@given(said)
def test_who_asks_for_time_gets_an_hour_at_most(value: str) -> None:
    asked = Answer(429, {"retry-after": value}, b"").retry_after
    assert asked is None or 0 <= asked <= LONGEST_WAIT


@given(st.sampled_from(sorted(PROVIDERS)), st.integers(100, 999), bodies, said, said)
def test_an_answer_of_a_provider_is_a_result(name: str, status: int, body: bytes, header: str, wait: str) -> None:
    """One that can be stored and told, whatever the provider says: our fault is no reason to call the next person."""
    answer = Answer(status, {"x-request-id": header, "x-ms-workflow-run-id": header, "retry-after": wait}, body)
    result = PROVIDERS[name].answered(answer) if 200 <= status < 300 else refused(answer, header)
    if 200 <= status < 300 and name == "webhook":
        assert result.kind in REACHED
    assert result.kind not in REACHED or 200 <= status < 300, (
        "each says itself what proves it: tests/unit/test_proof.py"
    )
    assert can_be_stored(result.detail, 500)
    assert result.detail.isprintable()
    assert result.receipt is None or (can_be_stored(result.receipt, 200) and result.receipt.isprintable())


@given(st.text(alphabet=st.characters(), max_size=600), st.none() | st.text(alphabet=st.characters(), max_size=300))
def test_a_result_can_be_stored(detail: str, receipt: str | None) -> None:
    """Also what an SMTP relay said, whose bytes need be no text (lone surrogates stand for them)."""
    result = Result("unknown", detail, receipt)
    assert can_be_stored(result.detail, 500)
    assert result.receipt is None or can_be_stored(result.receipt, 200)


# ---- desks


class Odd(Outbound):
    """A client whose desk gives one absurd value in each of its answers."""

    def __init__(self, fake: FakeDesk, place: int, value: Any) -> None:
        super().__init__(Guard("true"))
        self.fake = fake
        self.place = place
        self.value = value
        self.odd = False

    async def request(
        self, method: str, url: str, content: bytes, headers: Mapping[str, str], *, seconds: float, limit: int = 65_536
    ) -> Answer:
        parts = urlsplit(url)
        asked = Call(method, unquote(parts.path), dict(parse_qsl(parts.query)), dict(headers), content)
        try:
            reply = self.fake.answer(asked)
        except (KeyError, ValueError, TypeError):  # the fake is asked for what it never had
            return Answer(404, {}, b"")
        if isinstance(reply.body, bytes):
            return Answer(reply.status, reply.headers, reply.body)
        body = reply.body
        if self.odd and body is not None:
            body = json.loads(json.dumps(body))
            places = list(_places(body))
            if places:
                inside, key = places[self.place % len(places)]
                inside[key] = self.value
        return Answer(reply.status, {"content-type": "application/json"}, json.dumps(body).encode()[:limit])


def _places(value: Any) -> Any:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, one in inner:
        yield value, key
        yield from _places(one)


def _is_bounded(remote: Remote) -> bool:
    kept = [remote.assignee or "", remote.resolution or ""]
    at = remote.changed_at
    return all(can_be_stored(text, 4_000) for text in kept) and (at is None or 1970 <= at.astimezone(UTC).year <= 2200)


def _is_kept(remark: Remark) -> bool:
    texts = (can_be_stored(remark.id, 200), can_be_stored(remark.author, 320), "\0" not in remark.text)
    return all(texts) and 1970 <= remark.at.astimezone(UTC).year <= 2200


@pytest.mark.parametrize("name", DESKS)
@given(st.integers(0, 200), absurd)
def test_an_odd_answer_of_a_desk_fails_one_call(name: str, place: int, value: Any) -> None:
    """Every method says in a classified way what came of it, and what it returns can be stored."""

    async def ask() -> None:
        fake = DESKS[name]()
        fake.port = 80
        outbound = Odd(fake, place, value)

        async def budget() -> None:
            """Wait for nothing."""

        settings = model.Desk(**fake.directory_entry())
        desk: Desk = build("main", settings, outbound, budget, fake.environ)
        draft = Draft(uuid4(), 42, "NPS fell", (Paragraph("NPS fell to -12."),), (), "high", "open", "acme")
        made = await desk.create(draft)
        if name != "webhook":
            fake.comment(made.reference, "On it", "aino@desk.example")
            fake.take(made.reference, "aino@desk.example")
        outbound.odd = True
        since = datetime.now(UTC) - timedelta(minutes=1)
        remotes: list[Remote] = [
            *(await _classified(desk.changed(since)) or ()),
            *(await _classified(desk.find(draft.ticket)) or ()),
            *([one] if (one := await _classified(desk.read(made.reference))) else ()),
            *([one] if (one := await _classified(desk.create(another(draft)))) else ()),
        ]
        assert all(_is_bounded(one) for one in remotes)
        read = await _classified(desk.remarks(made.reference, None))
        assert read is None or all(_is_kept(one) for one in read.items)
        assert read is None or read.upto is None or can_be_stored(read.upto, 200)
        await _classified(desk.move(made.reference, draft, "resolved"))
        await _classified(desk.describe(made.reference, draft))
        await _classified(desk.tell(made.reference, draft, draft.story))
        await _classified(desk.remark(made.reference, draft, "Done."))
        await _classified(desk.redact(made.reference, draft))
        await outbound.close()

    asyncio.run(ask())


def another(draft: Draft) -> Draft:
    return replace(draft, ticket=uuid4())


async def _classified(call: Awaitable[Any]) -> Any:
    try:
        return await call
    except (Failed, Gone) as failed:
        why = str(failed)
    assert can_be_stored(why, 1_000)
    assert why.isprintable()
    return None


@pytest.mark.parametrize("name", [name for name in DESKS if name not in {"webhook"}])
@given(absurd)
def test_one_ticket_that_nobody_can_read_hides_no_other(name: str, value: Any) -> None:
    """Of what changed in a desk each is read by itself."""

    async def ask() -> None:
        fake = DESKS[name]()
        fake.port = 80
        outbound = Odd(fake, 0, None)

        async def budget() -> None:
            """Wait for nothing."""

        desk = build("main", model.Desk(**fake.directory_entry()), outbound, budget, fake.environ)
        made = [
            await desk.create(Draft(uuid4(), n, "NPS fell", (Paragraph("-12"),), (), "high", "open", "acme"))
            for n in range(3)
        ]
        asked = outbound.request

        async def odd(*args: Any, **kwargs: Any) -> Answer:
            answer = await asked(*args, **kwargs)
            body = json.loads(answer.body)
            rows = body if isinstance(body, list) else next((body[key] for key in _LISTS if key in body), ())
            if len(rows) > 1:
                rows[1] = value
            return Answer(answer.status, answer.headers, json.dumps(body).encode())

        outbound.request = odd
        found = await desk.changed(datetime.now(UTC) - timedelta(minutes=1))
        assert len(found) == 3, "it counts, or more would be thought to be all"
        references = {one.reference for one in found}
        assert len(references & {one.reference for one in made}) >= 2
        await outbound.close()

    asyncio.run(ask())


_LISTS = ("issues", "items", "result", "results", "tickets")


@given(
    st.lists(st.tuples(st.text(max_size=3), st.none() | st.datetimes(timezones=st.just(UTC))), min_size=1, max_size=6),
    st.integers(1, 6),
)
def test_the_next_look_at_a_desk_begins_at_no_time_to_come(changed: list[Any], most: int) -> None:
    """A desk's clock that is years ahead hides nothing that changes until then."""
    cursor = ChangeCursor(NOW - timedelta(hours=1))
    for _ in range(20):
        begin = cursor.look(changed, most, NOW)
        if begin is not None:
            assert begin <= NOW
            return
        if cursor.skip:
            changed = []


@given(absurd, st.binary(max_size=40))
def test_a_request_of_a_desk_names_a_ticket_or_is_refused(value: Any, body: bytes) -> None:
    for sent in (body, deep, json.dumps({"id": value}).encode(), json.dumps({"id": [value]}).encode()):
        with contextlib.suppress(ValueError):
            assert can_be_stored(reference_in(sent, ("id",), ("data", "id")), 200)


def test_what_the_wire_cannot_say() -> None:
    """Why no lone surrogate comes out of JSON."""
    with pytest.raises(msgspec.DecodeError):
        msgspec.json.decode(b'"\\ud800"')
