"""What stands in a topic can be read: today's messages, those of newer writers, and by whoever has our schemas."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from shared.directory import record
from shared.directory.check import parse_file
from shared.wire.topics import ALERTS, FEEDBACK, TOPICS, Decoder, Topic, Undecodable
from tests.support import schemas
from tests.support.examples import examples

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "tests/examples"
OF_TOPIC: dict[str, Topic] = {ce_type: topic for topic in TOPICS for ce_type in topic.messages}
EACH = pytest.mark.parametrize("ce_type", sorted(OF_TOPIC))


def example(ce_type: str) -> dict[str, Any]:
    return json.loads((EXAMPLES / f"{ce_type}.v1.json").read_text(encoding="utf-8"))


def decoded(ce_type: str, body: object) -> msgspec.Struct:
    return Decoder(OF_TOPIC[ce_type]).decode(ce_type, json.dumps(body).encode())


def required(ce_type: str) -> list[str]:
    message = OF_TOPIC[ce_type].messages[ce_type]
    return [field.name for field in msgspec.structs.fields(message) if field.required]


@EACH
def test_the_stored_example_is_a_message_of_its_topic(ce_type: str) -> None:
    """Read and written again it is the same: nothing that stands in a topic is lost or renamed."""
    message = decoded(ce_type, example(ce_type))
    assert type(message) is OF_TOPIC[ce_type].messages[ce_type]
    assert json.loads(msgspec.json.encode(message)) == example(ce_type)


@EACH
def test_the_example_shows_every_field(ce_type: str) -> None:
    assert list(example(ce_type)) == list(OF_TOPIC[ce_type].messages[ce_type].__struct_fields__)


@EACH
def test_the_example_fits_the_committed_schema(ce_type: str) -> None:
    """Who reads our topics in another language checks them with this."""
    schema = json.loads((schemas.FOLDER / f"{ce_type}.json").read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.Draft202012Validator(schema).validate(example(ce_type))
    for field in required(ce_type):
        lacking = {name: value for name, value in example(ce_type).items() if name != field}
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.Draft202012Validator(schema).validate(lacking)


def test_the_committed_schemas_are_those_of_the_messages() -> None:
    """A change of a message shows in review as a change of its schema; `make schemas` writes them."""
    committed = {path.name: path.read_text(encoding="utf-8") for path in schemas.FOLDER.glob("*.json")}
    assert committed == {f"{ce_type}.json": schemas.schema(ce_type, message) for ce_type, message in schemas.messages()}


def test_every_message_has_an_example_and_nothing_else_has() -> None:
    assert {path.name for path in EXAMPLES.glob("*.json")} == {f"{ce_type}.v1.json" for ce_type in OF_TOPIC}


def test_one_type_means_one_message() -> None:
    """No two topics share a `ce_type` for different things, and each topic has one writer but the audit."""
    for topic in TOPICS:
        assert topic.dead == f"{topic.name}.dead"
        # respondent.erased goes the way of the answers, through every topic, as the same message
        assert all(OF_TOPIC[ce_type].messages[ce_type] is message for ce_type, message in topic.messages.items())
    assert len({topic.name for topic in TOPICS}) == len({topic.owner for topic in TOPICS}) == len(TOPICS)
    assert [topic.name for topic in TOPICS if topic.writers != (topic.owner,)] == ["audit.v1"]


@EACH
def test_a_field_of_a_newer_writer_is_ignored(ce_type: str) -> None:
    """Services are updated one after the other: the old reader goes on."""
    newer = {**example(ce_type), "added_in_v1_7": {"anything": [1, None]}}
    assert decoded(ce_type, newer) == decoded(ce_type, example(ce_type))


@pytest.mark.parametrize(("ce_type", "name"), [("alert.opened", "scores"), ("ticket.opened", "context")])
def test_so_is_one_inside(ce_type: str, name: str) -> None:
    body = example(ce_type)
    newer = {**body, name: {**body[name], "added": 1}, "evidence": [{**e, "added": 1} for e in body["evidence"]]}
    assert decoded(ce_type, newer) == decoded(ce_type, body)


@EACH
def test_a_field_of_an_older_writer_has_a_default(ce_type: str) -> None:
    """What is not required was added later, or may be: a record without it is still read."""
    older = {name: value for name, value in example(ce_type).items() if name in required(ce_type)}
    assert decoded(ce_type, older)


@EACH
def test_without_a_required_field_it_is_no_message(ce_type: str) -> None:
    """It goes to the dead letters and says which field lacks."""
    for field in required(ce_type):
        lacking = {name: value for name, value in example(ce_type).items() if name != field}
        with pytest.raises(Undecodable, match=f"`{field}`"):
            _ = decoded(ce_type, lacking)


def test_what_belongs_to_another_topic_is_no_message() -> None:
    body = json.dumps(example("alert.opened")).encode()
    with pytest.raises(Undecodable, match=r"unknown ce_type 'alert\.opened'"):
        _ = Decoder(FEEDBACK).decode("alert.opened", body)
    with pytest.raises(Undecodable, match="no value"):
        _ = Decoder(ALERTS).decode("alert.opened", None)


bodies = st.binary(max_size=60) | st.builds(
    lambda raw, at, noise: raw[: at % len(raw)] + noise + raw[at % len(raw) :],
    st.sampled_from([(EXAMPLES / f"{ce_type}.v1.json").read_bytes() for ce_type in sorted(OF_TOPIC)]),
    st.integers(0, 2_000),
    st.binary(max_size=4),
)


@examples(200)
@given(st.sampled_from(sorted(OF_TOPIC)) | st.text(max_size=8), bodies)
def test_no_bytes_break_a_reader(ce_type: str, body: bytes) -> None:
    """Whatever a record holds, it is a message or a dead letter; it never stops the consumer."""
    topic = OF_TOPIC.get(ce_type, FEEDBACK)
    try:
        message = Decoder(topic).decode(ce_type, body)
    except Undecodable:
        return
    assert type(message) is topic.messages[ce_type]


@pytest.mark.parametrize("body", [b'{"added":' + b"[" * 100_000, b'{"added":' + b'{"a":' * 100_000, b"[" * 100_000])
def test_depth_does_not_break_a_reader(body: bytes) -> None:
    with pytest.raises(Undecodable):
        _ = Decoder(FEEDBACK).decode("feedback.received", body)


def test_the_example_directory_is_published_as_it_was_checked() -> None:
    """What `apply` writes for the example is what every service reads."""
    checked = parse_file(ROOT / "deploy/directory.yaml")
    assert record.decode(record.encode(checked)) == checked
    written = yaml.safe_load((ROOT / "deploy/directory.yaml").read_text(encoding="utf-8"))
    assert checked.customers.keys() == written["customers"].keys()
    assert checked.people.keys() == written["people"].keys()
