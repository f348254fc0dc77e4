"""Whatever reads what comes from outside: it returns what can be kept, or refuses in the way that it says."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hmac
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
import yaml
from fastapi.exceptions import RequestValidationError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from standardwebhooks import Webhook

from services.cli import answers_csv
from services.ingest import api as ingest
from services.ingest.domain import PostingRights, accept, parse, split
from services.ingest.widget import pages as widget
from services.notify import api as notify
from services.notify.api import callbacks
from services.notify.channels.signatures import bears, signed_by_slack, signed_by_twilio
from services.scoring import api as scoring
from services.ticketing import api as ticketing
from services.ticketing.desks import BadSignature
from services.ticketing.desks.registry import build
from shared.directory import check, model, record
from shared.errors import Problem
from shared.http import cursor, failures, keys
from shared.http.client import Guard, Outbound
from shared.http.html import accepted_language
from shared.http.request_model import RequestModel
from shared.runtime.logs import parse_traceparent
from shared.wire.events import FeedbackReceivedV1
from shared.wire.signing import BadToken, ExpiredToken, Signer
from shared.wire.topics import TOPICS, Decoder, Undecodable
from tests.property.test_outside_values import DESKS
from tests.support import build as make
from tests.support.build import NOW
from tests.support.desks import FakeDesk
from tests.support.desks.zammad import FakeZammad
from tests.support.hostile import can_be_kept, instead, texts

ROOT = Path(__file__).parents[2]
SIGNER = Signer(["a-secret-of-a-test-with-32-characters"])
INTERFACE = (ingest, widget, notify, scoring, ticketing)
"""Whatever they can be asked is known once they are there."""
FEW = settings(max_examples=20, derandomize=True, database=None)


class Reader(NamedTuple):
    """Who reads JSON, of which this is a good example, and how it refuses."""

    read: Callable[[bytes], object]
    example: Any
    refuses: tuple[type[Exception], ...]
    kept: bool = True
    """What it returns is stored."""


def _item(kind: str) -> Callable[[bytes], FeedbackReceivedV1]:
    let = PostingRights(make.key(kind, customers=("acme",)), make.directory(), NOW, SIGNER)
    return lambda raw: accept(parse(raw), let)


def _items(raw: bytes) -> list[FeedbackReceivedV1]:
    found: list[FeedbackReceivedV1] = []
    for item in split(b"[%b,%b]" % (raw, raw)):
        with contextlib.suppress(Problem):
            found.append(_item("secret")(bytes(item)))
    return found


def _asked(kind: type[RequestModel]) -> Callable[[bytes], object]:
    """As the framework does it: what is refused is told, with the names that came."""

    def read(raw: bytes) -> object:
        try:
            said = json.loads(raw)
        except (ValueError, RecursionError):  # the framework's 400
            raise Problem(400, "not-json", "The body is not JSON") from None
        try:
            return kind.model_validate(said).model_dump()
        except ValidationError as error:
            told = RequestValidationError([{**one, "loc": ("body", *one["loc"])} for one in error.errors()])
            answer = asyncio.run(failures._on_validation(None, told))  # pyright: ignore[reportArgumentType, reportPrivateUsage]
            assert answer.status_code in {400, 422}
            raise Problem(422, "invalid", "") from None

    return read


def _models(of: type[RequestModel] = RequestModel) -> Iterator[type[RequestModel]]:
    for kind in of.__subclasses__():
        yield kind
        yield from _models(kind)


def _example(kind: type[RequestModel]) -> dict[str, Any]:
    """Return something for each field of what can be asked; most of it is good."""
    good = {
        "until": "2026-11-30T09:00:00Z",
        "held_at": "2026-11-30T09:00:00Z",
        "due_on": "2026-12-24",
        "code": "123456",
    }
    fields = {field.alias or name for name, field in kind.model_fields.items()}
    return {
        name: good.get(name, {"nps": 40.5} if name == "goals" else 7 if name in {"limit", "days"} else "acme")
        for name in sorted(fields)
    }


def _called(kind: Any) -> Callable[[bytes], object]:
    return lambda raw: callbacks._decoded(raw, kind)  # pyright: ignore[reportPrivateUsage]


ANSWER = {
    "id": "01a22bb1-b858-7ab2-a2ba-61ce72189bc9",
    "kind": "mood",
    "score": 1,
    "customer": "acme",
    "touchpoint": "support",
    "respondent": "r-1",
    "comment": "so",
    "occurred_at": NOW.isoformat(),
    "contact": "r@example.test",
    "context": {"page": "/"},
    "language": "fi",
    "respondent_token": "x",
}
READERS: Mapping[str, Reader] = {
    **{
        # The same services write them; what cannot be stored of one is set aside where it is stored.
        ce_type: Reader(
            lambda raw, topic=topic, ce_type=ce_type: Decoder(topic).decode(ce_type, raw),
            json.loads((ROOT / f"tests/examples/{ce_type}.v1.json").read_text()),
            (Undecodable,),
            kept=False,
        )
        for topic in TOPICS
        for ce_type in topic.messages
    },
    "an answer": Reader(_item("secret"), ANSWER, (Problem,)),
    "an anonymous answer": Reader(_item("publishable"), {**ANSWER, "device": "0123456789"}, (Problem,)),
    "answers": Reader(_items, ANSWER, (Problem,)),
    "a directory's record": Reader(
        record.decode,
        json.loads(record.encode(make.directory())),
        (msgspec.DecodeError, UnicodeDecodeError, RecursionError),
        kept=False,
    ),
    **{
        f"a callback's {kind.__name__}": Reader(_called(kind), example, (Problem,), kept=False)
        for kind, example in (
            (callbacks.Status, {"status": "delivered", "receipt": "x", "detail": "y"}),
            (callbacks.Sms, {"from": "+358401234567", "text": "1234"}),
            (callbacks.Interaction, {"actions": [{"action_id": "a", "value": "b"}], "response_url": "c"}),
        )
    },
}


@pytest.mark.parametrize("name", sorted(READERS))
def test_an_absurd_value_is_refused_or_can_be_kept(name: str) -> None:
    reader = READERS[name]

    @FEW
    @given(instead(reader.example))
    def holds(raw: bytes) -> None:
        try:
            found = reader.read(raw)
        except reader.refuses as refused:
            told = refused.body() if isinstance(refused, Problem) else str(refused)
            msgspec.json.encode(told)
            return
        assert not reader.kept or can_be_kept(found)

    holds()


@settings(FEW, max_examples=150)
@given(st.data())
def test_whatever_can_be_asked(data: st.DataObject) -> None:
    """Every query and every body of the interface: a moment is of this era, no text breaks the answer that names it."""
    kinds = sorted(_models(), key=lambda kind: f"{kind.__module__} {kind.__name__}")
    kind = data.draw(st.sampled_from(kinds))
    raw = data.draw(instead(_example(kind)))
    with contextlib.suppress(Problem):
        assert can_be_kept(_asked(kind)(raw))


@FEW
@given(instead(yaml.safe_load((ROOT / "deploy/directory.yaml").read_text())))
def test_a_directory_names_what_is_wrong(raw: bytes) -> None:
    with contextlib.suppress(check.Findings):
        record.encode(check.parse(raw.decode()))


@pytest.mark.parametrize("name", DESKS)
def test_a_request_of_a_desk(name: str) -> None:
    """Signed by the desk, whatever it says."""
    fake = DESKS[name]()
    fake.port = 80

    async def budget() -> None:
        """Wait for nothing."""

    desk = build("main", model.Desk(**fake.directory_entry()), Outbound(Guard("true")), budget, fake.environ)
    said = {
        "data": {
            "reference": "4711",
            "timestamp": NOW.isoformat(),
            "state": "open",
            "assignee": "aino@desk.example",
            "resolution": "Done",
            "comment": {"id": "1", "text": "On it", "author": "aino@desk.example"},
        }
    }
    hooked = json.loads(fake.hook("4711")[1])

    @FEW
    @given(instead(said if name == "webhook" else hooked), texts)
    def holds(raw: bytes, header: str) -> None:
        headers = _signed(fake, raw)
        with contextlib.suppress(ValueError):
            news = desk.heard(headers, raw, fake.secret, fake.now())
            assert can_be_kept([news.reference, None if news.told is None else news.told])
        with contextlib.suppress(ValueError, BadSignature):
            desk.heard(dict.fromkeys(headers, header), raw, fake.secret, fake.now())

    holds()


def _signed(fake: FakeDesk, raw: bytes) -> dict[str, str]:
    """Return the headers of a request, by each way in which a desk proves itself."""
    at, key = fake.now().astimezone(UTC), fake.secret.encode()
    stamp = at.strftime("%Y-%m-%dT%H:%M:%SZ")
    hub = "sha1" if isinstance(fake, FakeZammad) else "sha256"
    signed = {
        "X-Fiilis-Secret": fake.secret,
        "X-Hub-Signature": f"{hub}={hmac.new(key, raw, hub).hexdigest()}",
        "X-Zendesk-Webhook-Signature": base64.b64encode(hmac.digest(key, stamp.encode() + raw, "sha256")).decode(),
        "X-Zendesk-Webhook-Signature-Timestamp": stamp,
    }
    if fake.secret.startswith("whsec_"):
        signed |= {"webhook-id": "evt-1", "webhook-timestamp": str(int(at.timestamp()))}
        signed["webhook-signature"] = Webhook(fake.secret).sign("evt-1", at, raw.decode())
    return signed


@settings(FEW, max_examples=100)
@given(texts, st.integers(0, 60), st.sampled_from(("survey", "callback", "calendar", "respondent", "status")))
def test_a_token_that_is_none(text: str, place: int, purpose: Any) -> None:
    """Also one of ours in which something was changed."""
    good = SIGNER.sign("acknowledge", {"page": "x"}, expires=NOW + timedelta(days=1))
    for token in (text, good[:place] + text[:3] + good[place:], good):
        for of in (purpose, "acknowledge"):
            with contextlib.suppress(BadToken, ExpiredToken):
                assert can_be_kept(SIGNER.verify(of, token, now=NOW))


@settings(FEW, max_examples=100)
@given(texts, texts)
def test_a_cursor_that_is_none(text: str, at: str) -> None:
    made = base64.urlsafe_b64encode(f"{at} {make.ticket().id}".encode("utf-8", "replace")).decode().rstrip("=")
    for one in (text, made):
        with contextlib.suppress(Problem):
            place = cursor.decode(one)
            assert place[0].utcoffset() == timedelta(0)


@settings(FEW, max_examples=100)
@given(texts, st.binary(max_size=60))
def test_headers_and_forms(text: str, body: bytes) -> None:
    assert parse_traceparent(text) is None
    assert accepted_language(text, {"fi"}) in {None, "fi"}
    assert not bears("a-secret", text)
    assert not signed_by_slack("a-secret", text, body, text, NOW)
    form = callbacks._form(body)  # pyright: ignore[reportPrivateUsage]
    assert not signed_by_twilio("a-secret", "https://x.example", form, text)
    assert callbacks._number(text).startswith("+")  # pyright: ignore[reportPrivateUsage]
    with contextlib.suppress(Problem):
        keys._refuse_fields(body)  # pyright: ignore[reportPrivateUsage]
    with contextlib.suppress(Problem):
        keys._refuse_fields(text.encode("utf-8", "surrogatepass"))  # pyright: ignore[reportPrivateUsage]


@settings(FEW, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(st.lists(texts, min_size=4, max_size=4), st.sampled_from(("unix", "%Y-%m-%d", "%d.%m.%Y %H:%M %z", "%j", "%s")))
def test_rows_of_a_file(cells: list[str], format: str) -> None:
    """Each is an answer, or a line that says what is wrong with it; the rest of the file goes on."""
    let = PostingRights(make.key(), make.directory(), NOW)
    lines = ["customer,kind,score,occurred_at", "acme,mood,1," + NOW.isoformat()]
    lines[1:1] = [",".join('"' + cell.replace('"', '""') + '"' for cell in cells)]
    with tempfile.NamedTemporaryFile(suffix=".csv") as file:
        Path(file.name).write_bytes("\n".join(lines).encode("utf-8", "surrogatepass"))
        for mapped in (None, answers_csv.Map(times=answers_csv.Times(format=format))):
            read = answers_csv.read_csv(Path(file.name), lambda row, _: accept(answers_csv.posted(row)[0], let), mapped)
            found = list(read)
            assert all(isinstance(one, str) or can_be_kept(one) for one in found)
            assert mapped is not None or isinstance(found[-1], FeedbackReceivedV1)
