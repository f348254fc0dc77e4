"""What is right is taken as it was said, what is wrong is refused by its name, and no bytes break the door."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, get_args
from uuid import UUID

import msgspec
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from services.ingest.domain import Posted, PostingRights, accept, parse
from shared.errors import Problem
from shared.wire.events import RATINGS, Audience, Channel, FeedbackReceivedV1, Kind
from shared.wire.ids import uuid7_at
from shared.wire.signing import Purpose, Signer
from shared.wire.topics import FEEDBACK, Decoder
from tests.support.build import NOW, ago, customer, directory, key
from tests.support.examples import examples

OPS = key()
WIDGET = key("publishable")
KNOWN = directory(
    customers={"acme": customer(touchpoints=("support", "billing")), "beta": customer("beta", touchpoints=())}
)
SECRET = PostingRights(OPS, KNOWN, NOW)
PUBLIC = PostingRights(WIDGET, KNOWN, NOW)
RATED: tuple[Kind, ...] = tuple(RATINGS)

GOOD: dict[str, Any] = {"customer": "acme", "kind": "nps", "score": 7}


def posted(item: Mapping[str, object], let: PostingRights = SECRET) -> FeedbackReceivedV1:
    return accept(parse(json.dumps(item).encode()), let)


def refused(item: Mapping[str, object] | bytes, let: PostingRights = SECRET) -> Problem:
    with pytest.raises(Problem) as caught:
        _ = accept(parse(item if isinstance(item, bytes) else json.dumps(item).encode()), let)
    # Whatever was sent, the answer to it can be sent.
    assert msgspec.json.encode(caught.value.body())
    return caught.value


def paths(problem: Problem) -> list[str]:
    return [error.path for error in problem.errors]


# ---- what is right

words = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=40)
slugs = st.from_regex(r"[a-z0-9][a-z0-9-]{0,62}", fullmatch=True)
zones = st.integers(-14 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
moments = st.datetimes(
    (NOW - timedelta(days=399)).replace(tzinfo=None), (NOW + timedelta(minutes=5)).replace(tzinfo=None)
)
times = st.builds(lambda at, zone: at.replace(tzinfo=UTC).astimezone(zone).isoformat(), moments, zones)
local = st.from_regex(r"[a-z0-9.+_-]{1,64}", fullmatch=True)
optional: dict[str, st.SearchStrategy[Any]] = {
    "id": st.uuids(version=4).map(str),
    "touchpoint": st.sampled_from(("support", "billing")),
    "respondent": words.filter(bool),
    "comment": words | st.just("ä" * 4_000),
    "occurred_at": times,
    "channel": st.sampled_from(get_args(Channel)),
    "language": st.sampled_from(("fi", "sv-FI", "zh-Hant-TW", "EN")),
    "audience": st.sampled_from(get_args(Audience)),
    "contact": local.map(lambda name: f"{name}@example.test"),
    "context": st.dictionaries(words, words, max_size=20),
    "backfill": st.booleans(),
}
ratings = st.sampled_from(RATED).flatmap(
    lambda kind: st.fixed_dictionaries({"kind": st.just(kind), "score": st.integers(*RATINGS[kind])})
)
measured = st.fixed_dictionaries(
    {
        "kind": st.just("kpi"),
        "score": st.integers(-(10**299), 10**299) | st.floats(allow_nan=False, allow_infinity=False),
        "metric": st.just("first-contact-resolution"),
    }
)
right = st.builds(
    lambda a, b: {"customer": "acme", **a, **b}, ratings | measured, st.fixed_dictionaries({}, optional=optional)
)


@examples(150)
@given(right)
def test_what_is_right_is_accepted_as_it_was_said(item: dict[str, Any]) -> None:
    """Nothing that a person said is changed on the way, and every reader can read what is published."""
    found = posted(item)
    for name, value in item.items():
        if name == "occurred_at":
            assert found.occurred_at == datetime.fromisoformat(value)
            assert found.occurred_at.utcoffset() == timedelta(0)
        elif name == "id":
            assert found.id == UUID(value)
        else:
            assert getattr(found, name) == (value if value != "" and value != {} else None), name
    for name in optional.keys() - item.keys() - {"id", "occurred_at"}:
        usual = {"channel": "api", "audience": "customer"}.get(name, getattr(Posted(kind="nps", score=1), name))
        assert getattr(found, name) == usual
    assert (found.received_at, found.trust) == (NOW, "verified")
    assert item["kind"] == "kpi" or isinstance(found.score, int)
    assert Decoder(FEEDBACK).decode("feedback.received", msgspec.json.encode(found)) == found


@given(ratings, st.dictionaries(slugs, words, max_size=3))
def test_a_page_may_post_for_its_own_customer(rating: dict[str, Any], context: dict[str, str]) -> None:
    """A widget's answer needs no customer: the key has one. It is anonymous, and says when it came."""
    found = posted({**rating, "context": context, "occurred_at": ago(days=7).isoformat()}, PUBLIC)
    assert (found.customer, found.trust, found.occurred_at) == ("acme", "anonymous", ago(days=7))
    assert found.context == (context or None)


def test_who_sends_no_id_and_no_time_gets_both() -> None:
    found = posted(GOOD)
    assert (found.id.version, found.occurred_at) == (7, NOW)
    assert posted(GOOD).id != found.id


@pytest.mark.parametrize(("kind", "low", "high"), [(kind, *RATINGS[kind]) for kind in RATED])
def test_each_kind_has_its_scale(kind: str, low: int, high: int) -> None:
    """Every score of the scale and none beside it; 7.0 is the integer 7, 7.5 is none."""
    for score in range(low, high + 1):
        assert posted({**GOOD, "kind": kind, "score": score}).score == score
    assert isinstance(posted({**GOOD, "kind": kind, "score": float(high)}).score, int)
    for score in (low - 1, high + 1, low + 0.5, -1e300, 1e300):
        assert paths(refused({**GOOD, "kind": kind, "score": score})) == ["score"]


# ---- what is wrong

KPI = {"kind": "kpi", "metric": "first-contact-resolution"}
OLD = uuid7_at(int(ago(days=401).timestamp() * 1000))


@pytest.mark.parametrize(
    ("wrong", "path"),
    [
        ({"kind": "stars"}, "kind"),
        ({"kind": "x" * 100_000}, "kind"),
        ({"kind": 7}, "kind"),
        ({"kind": None}, "kind"),
        ({"score": "7"}, "score"),
        ({"score": None}, "score"),
        ({"score": True}, "score"),
        ({"score": [7]}, "score"),
        ({"score": 10**400}, "score"),
        ({"score": -(10**400)}, "score"),
        ({**KPI, "score": 10**400}, "score"),
        ({**KPI, "score": -(10**301)}, "score"),
        ({"customer": "nobody"}, "customer"),
        ({"customer": "x" * 100_000}, "customer"),
        ({"customer": ""}, "customer"),
        ({"customer": 7}, "customer"),
        ({"id": "7"}, "id"),
        ({"id": 7}, "id"),
        ({"id": str(OLD)}, "id"),
        ({"touchpoint": "sales"}, "touchpoint"),
        ({"touchpoint": ""}, "touchpoint"),
        ({"touchpoint": "supp\0ort"}, "touchpoint"),
        ({"touchpoint": 7}, "touchpoint"),
        ({"metric": "first-contact-resolution"}, "metric"),
        ({"kind": "kpi"}, "metric"),
        ({"kind": "kpi", "metric": "weather"}, "metric"),
        ({"respondent": ""}, "respondent"),
        ({"respondent": "r" * 201}, "respondent"),
        ({"respondent": "r\0"}, "respondent"),
        ({"respondent_token": "made-up"}, "respondent_token"),
        ({"respondent_token": "t" * 2_049}, "respondent_token"),
        ({"comment": "x" * 4_001}, "comment"),
        ({"comment": "a\0b"}, "comment"),
        ({"comment": 7}, "comment"),
        ({"occurred_at": "yesterday"}, "occurred_at"),
        ({"occurred_at": 1_795_000_000}, "occurred_at"),
        ({"occurred_at": "2026-11-23T10:00:00"}, "occurred_at"),
        ({"occurred_at": (NOW + timedelta(minutes=5, seconds=1)).isoformat()}, "occurred_at"),
        ({"occurred_at": ago(days=401).isoformat()}, "occurred_at"),
        ({"occurred_at": "0001-01-01T00:00:00+23:59"}, "occurred_at"),
        ({"occurred_at": "9999-12-31T23:59:59-23:59"}, "occurred_at"),
        ({"channel": "fax"}, "channel"),
        ({"channel": "pigeon"}, "channel"),
        ({"language": "suomi!"}, "language"),
        ({"language": "fi\n"}, "language"),
        ({"audience": "public"}, "audience"),
        ({"contact": "r17"}, "contact"),
        ({"contact": "r17@"}, "contact"),
        ({"contact": "r 17@example.test"}, "contact"),
        ({"contact": "r17@example.test\n"}, "contact"),
        ({"contact": "a@b@example.test"}, "contact"),
        ({"contact": "a" * 65 + "@example.test"}, "contact"),
        ({"contact": "a@" + "b" * 260}, "contact"),
        ({"context": ["a"]}, "context"),
        ({"context": {str(n): "" for n in range(21)}}, "context"),
        ({"context": {"page": "x" * 201}}, "context[...]"),
        ({"context": {"x" * 201: "/orders"}}, "context"),
        ({"context": {"page": 7}}, "context[...]"),
        ({"context": {"page": "a\0b"}}, "context.page"),
        ({"context": {"a\0b": "/orders"}}, "context"),
        ({"backfill": "yes"}, "backfill"),
        ({"colour": "red"}, "colour"),
        ({"Score": 7}, "Score"),
    ],
    ids=lambda value: None if isinstance(value, str) else repr(value)[:40],
)
def test_what_is_wrong_is_named(wrong: dict[str, object], path: str) -> None:
    """Whoever writes an integration is told which field to look at, in one answer."""
    problem = refused({**GOOD, **wrong})
    assert (problem.status, problem.code) == (422, "invalid")
    assert paths(problem) == [path]
    assert problem.errors[0].detail
    assert len(problem.detail or "") < 1_000


@pytest.mark.parametrize(
    ("wrong", "path"),
    [
        ({"respondent": "r-17"}, "respondent"),
        ({"backfill": True}, "backfill"),
        ({"contact": "r17@example.test"}, "contact"),
        ({"occurred_at": ago(days=7, seconds=1).isoformat()}, "occurred_at"),
    ],
)
def test_a_web_page_speaks_for_nobody_else(wrong: dict[str, object], path: str) -> None:
    """A publishable key is public; what needs trust needs a secret key, which may say the same."""
    problem = refused({**GOOD, **wrong}, PUBLIC)
    assert (problem.status, paths(problem)) == (422, [path])
    assert posted({**GOOD, **wrong})


# ---- whom a token vouches for

SIGNER = Signer(["a secret"])
VOUCHED = PostingRights(WIDGET, KNOWN, NOW, SIGNER)


def signed(purpose: Purpose = "respondent", **facts: Any) -> str:
    said = {"customer": "acme", "respondent": "r-17", "touchpoint": None, **facts}
    return SIGNER.sign(purpose, said, expires=said.pop("expires", NOW + timedelta(days=1)))


@given(
    st.sampled_from(["acme", "beta"]),
    st.sampled_from([None, "support", "billing"]),
    st.sampled_from([None, "support", "billing"]),
    st.sampled_from([None, "r-17", "r-18"]),
    st.sampled_from([-60, 0, 60]),
)
def test_a_token_vouches_for_one_respondent(
    customer: str, of: str | None, touchpoint: str | None, respondent: str | None, seconds: int
) -> None:
    """What it says agrees with the answer, or the answer is refused; never is it somebody else's."""
    expires = NOW + timedelta(seconds=seconds)
    item = {
        "kind": "nps",
        "score": 7,
        "respondent_token": signed(customer=customer, touchpoint=of, expires=expires),
        **({} if touchpoint is None else {"touchpoint": touchpoint}),
        **({} if respondent is None else {"respondent": respondent}),
    }
    agrees = customer == "acme" and respondent != "r-18" and (None in (of, touchpoint) or of == touchpoint)
    if not agrees or seconds < 0:
        assert paths(refused(item, VOUCHED)) == ["respondent_token"]
        return
    found = posted(item, VOUCHED)
    assert (found.customer, found.respondent, found.trust) == ("acme", "r-17", "verified")
    assert found.touchpoint == (touchpoint or of)


@pytest.mark.parametrize(
    "token",
    [
        signed("survey"),
        signed("status"),
        signed()[:-1],
        "x" + signed(),
        Signer(["another secret"]).sign("respondent", {"customer": "acme", "respondent": "r"}, expires=NOW),
        "",
        ".",
    ],
    ids=["of a survey", "of a status page", "cut", "changed", "of somebody else", "empty", "a dot"],
)
def test_a_token_that_vouches_for_nobody(token: str) -> None:
    for let in (VOUCHED, PUBLIC, PostingRights(OPS, KNOWN, NOW, SIGNER), SECRET):
        problem = refused({**GOOD, "respondent_token": token}, let)
        assert (problem.status, paths(problem)) == (422, ["respondent_token"])


def test_a_token_beside_other_faults() -> None:
    """What is wrong besides is told too; and a token makes nobody an administrator."""
    item = {**GOOD, "score": 11, "backfill": True, "respondent_token": signed(customer="beta")}
    assert paths(refused(item, VOUCHED)) == ["score", "backfill", "respondent_token"]
    assert posted({**GOOD, "respondent_token": signed()}, PostingRights(OPS, KNOWN, NOW, SIGNER)).respondent == "r-17"


# ---- whose key it is


def test_a_key_is_for_its_customers() -> None:
    assert (refused({**GOOD, "customer": "beta"}, PUBLIC).status) == 403
    of_two = PostingRights(key(customers=("acme", "beta")), KNOWN, NOW)
    assert posted({**GOOD, "customer": "beta"}, of_two).customer == "beta"
    assert refused({**GOOD, "customer": "gamma"}, of_two).status == 403
    assert paths(refused({"kind": "nps", "score": 7}, of_two)) == ["customer"]
    assert paths(refused({"kind": "nps", "score": 7})) == ["customer"]
    gone = PostingRights(key(customers=("gamma",)), KNOWN, NOW)
    assert paths(refused({"kind": "nps", "score": 7}, gone)) == ["customer"]


def test_a_customer_without_touchpoints_has_all_of_the_company() -> None:
    assert posted({**GOOD, "customer": "beta", "touchpoint": "sales"}).touchpoint == "sales"
    assert paths(refused({**GOOD, "customer": "beta", "touchpoint": "garden"})) == ["touchpoint"]


@pytest.mark.parametrize("missing", ["kind", "score"])
def test_what_is_missing_is_named(missing: str) -> None:
    assert paths(refused({name: value for name, value in GOOD.items() if name != missing})) == [missing]


def test_all_that_is_wrong_is_told_at_once() -> None:
    """Nobody has to send an answer five times to find five mistakes."""
    wrong = {
        "score": 11,
        "touchpoint": "garden",
        "comment": "\0",
        "contact": "r17",
        "occurred_at": "2026-11-23T10:00:00",
    }
    assert set(paths(refused({**GOOD, **wrong}))) == wrong.keys()


@pytest.mark.parametrize("name", ["comment", "respondent", "contact", "context"])
def test_half_a_surrogate_pair_is_no_text(name: str) -> None:
    """What no database can keep is refused, by the parser or by name; never half taken."""
    half = "a\ud800@b"
    for escaped in ('"a\\ud800@b"', '"\\udc00"'):
        value = escaped if name != "context" else f'{{"page": {escaped}}}'
        body = f'{{"customer": "acme", "kind": "nps", "score": 7, "{name}": {value}}}'.encode()
        assert refused(body).status in {400, 422}
    item = Posted(customer="acme", kind="nps", score=7, **{name: {"page": half} if name == "context" else half})  # pyright: ignore[reportArgumentType]
    with pytest.raises(Problem) as caught:
        _ = accept(item, SECRET)
    assert paths(caught.value)[0].startswith(name)


@pytest.mark.parametrize(
    "body", [b"", b"{", b"nps", b"{'kind': 'nps'}", b"\xff", b'{"score": NaN}', b'{"score": -Infinity}']
)
def test_what_is_not_json_is_400(body: bytes) -> None:
    problem = refused(body)
    assert (problem.status, problem.code) == (400, "not-json")


@pytest.mark.parametrize("body", [b"7", b"null", b'"nps"', b"[]", b"[" * 100_000, b'{"score": 1e400, "kind": "nps"}'])
def test_json_of_another_shape_is_refused(body: bytes) -> None:
    assert refused(body).status in {400, 422}


@pytest.mark.parametrize("digits", [20, 400, 5_000, 100_000])
def test_a_number_of_any_length_is_refused_by_name(digits: int) -> None:
    """An integer of a hundred thousand digits is JSON; it costs nothing and names its field."""
    problem = refused(b'{"kind":"nps","customer":"acme","score":' + b"9" * digits + b"}")
    assert (problem.status, paths(problem)) == (422, ["score"])


# ---- anything at all

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
names = st.sampled_from((*Posted.__struct_fields__, "colour"))
bodies = (
    st.binary(max_size=80)
    | st.dictionaries(names, anything, max_size=8).map(lambda item: json.dumps(item).encode())
    | st.builds(lambda item, name, value: json.dumps({**item, name: value}).encode(), right, names, anything)
    | st.builds(
        lambda item, at, noise: (raw := json.dumps(item).encode())[: at % len(raw)] + noise + raw[at % len(raw) :],
        right,
        st.integers(0, 500),
        st.binary(min_size=1, max_size=4),
    )
)


@examples(300)
@given(bodies, st.sampled_from((SECRET, PUBLIC)))
def test_no_bytes_break_the_door(body: bytes, let: PostingRights) -> None:
    """Anybody can post anything: it is an answer that every reader can read, or a problem that can be told."""
    found = answer_to(body, let)
    if isinstance(found, Problem):
        told = msgspec.json.decode(msgspec.json.encode(found.body()))
        assert told["status"] == found.status
        assert found.status in {400, 403} or (found.status == 422 and found.errors)
    else:
        assert Decoder(FEEDBACK).decode("feedback.received", msgspec.json.encode(found)) == found
        assert math.isfinite(found.score)


def answer_to(body: bytes, let: PostingRights) -> FeedbackReceivedV1 | Problem:
    try:
        return accept(parse(body), let)
    except Problem as problem:
        return problem


@given(right, names, anything)
def test_one_wrong_field_is_the_one_that_is_named(item: dict[str, Any], name: str, value: object) -> None:
    """Whatever nonsense one field holds, no other field is blamed (but `metric`, which belongs to its kind)."""
    assume(name not in {"kind", "metric", "customer", "respondent_token"})
    found = answer_to(json.dumps({**item, name: value}).encode(), SECRET)
    if isinstance(found, Problem) and found.status != 400:
        assert {path.split(".")[0].split("[")[0] for path in paths(found)} == {name}
