"""One event is one line, with its trace, whatever it is about."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest

from shared.runtime.logs import Log, current_traceparent, new_traceparent, parse_traceparent, set_up, tracing

TRACE = "0193f0c1d2e3747586978899aabbccdd"
TRACEPARENT = f"00-{TRACE}-00f067aa0ba902b7-01"
log = Log("scoring")


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    """Give the process its logging back."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def json_lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, object]]:
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def test_json_line_has_the_event_its_fields_and_its_trace(capsys: pytest.CaptureFixture[str]) -> None:
    """Who searches for one answer's trace finds what every service did with it."""
    set_up(level="info", form="json")
    with tracing(TRACEPARENT):
        log.info("alert opened", problem="acme/mood-one/support", severity="critical", answers=3, note="ä")
    (line,) = json_lines(capsys)
    time = line.pop("time")
    assert isinstance(time, str)
    assert time.endswith("Z")
    assert line == {
        "level": "info",
        "logger": "scoring",
        "event": "alert opened",
        "problem": "acme/mood-one/support",
        "severity": "critical",
        "answers": 3,
        "note": "ä",
        "trace": TRACE,
    }


def test_text_line_has_them_too(capsys: pytest.CaptureFixture[str]) -> None:
    set_up(level="info", form="text")
    with tracing(TRACEPARENT):
        log.warning("page temporary", person="architect-1")
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    for part in ("WARNING", "scoring: page temporary", "person=architect-1", f"trace={TRACE}"):
        assert part in line


def test_a_trace_ends_with_its_block(capsys: pytest.CaptureFixture[str]) -> None:
    set_up(level="info", form="json")
    with tracing(TRACEPARENT):
        with tracing(None):
            assert current_traceparent() is None
            log.info("outside")
        assert current_traceparent() == TRACEPARENT
    log.info("after")
    assert ["trace" in line for line in json_lines(capsys)] == [False, False]


@pytest.mark.parametrize("form", ["json", "text"])
def test_an_event_is_one_line_whatever_its_fields_hold(form: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A name with a line break writes no line of its own into our logs."""
    set_up(level="info", form=form)  # pyright: ignore[reportArgumentType]
    log.info("page sent", person="eve\n2026-11-23T10:00:00Z ERROR scoring: all is lost", detail="a\r\nb")
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize("name", ["time", "level", "logger"])
def test_a_field_does_not_hide_how_bad_a_line_is(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A page's `level` is a field of an event; who watches for ERROR lines looks at the line's own level."""
    set_up(level="info", form="json")
    log.error("page exhausted", **{name: 3})  # pyright: ignore[reportArgumentType]
    (line,) = json_lines(capsys)
    assert (line["level"], line["logger"]) == ("error", "scoring")
    assert isinstance(line["time"], str)


def test_a_failure_is_part_of_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    """What went wrong and where, in the same JSON object, so that no tool loses it."""
    set_up(level="info", form="json")
    try:
        raise ValueError("no such partition")
    except ValueError as failure:
        log.error("consumer stopped", failure=failure)
    (line,) = json_lines(capsys)
    assert line["level"] == "error"
    assert "ValueError: no such partition" in str(line["failure"])
    assert "test_logs.py" in str(line["failure"])


def test_the_level_is_a_setting(capsys: pytest.CaptureFixture[str]) -> None:
    set_up(level="warning", form="json")
    log.debug("a")
    log.info("b")
    log.warning("c")
    logging.getLogger("aiokafka.consumer").info("noise")
    assert [line["event"] for line in json_lines(capsys)] == ["c"]


def test_other_libraries_lines_have_the_same_form(capsys: pytest.CaptureFixture[str]) -> None:
    set_up(level="info", form="json")
    logging.getLogger("uvicorn.error").info("Started %s", "server")
    assert json_lines(capsys)[0]["event"] == "Started server"


@pytest.mark.parametrize(
    "wrong",
    [
        None,
        "",
        "00",
        TRACEPARENT[:-1],
        TRACEPARENT + "-01",
        TRACEPARENT.upper(),
        TRACEPARENT + "\n",
        TRACEPARENT.replace(TRACE, "0" * 32),
        TRACEPARENT.replace("00f067aa0ba902b7", "0" * 16),
        "ff" + TRACEPARENT[2:],
    ],
)
def test_a_bad_traceparent_is_none(wrong: str | None) -> None:
    """W3C Trace Context: what is not valid is ignored, and a trace of our own begins."""
    assert parse_traceparent(wrong) is None


def test_a_good_one_is_kept_and_ours_are_good() -> None:
    assert parse_traceparent(TRACEPARENT) == TRACEPARENT
    ours = new_traceparent(TRACE)
    assert parse_traceparent(ours) == ours
    assert ours[3:35] == TRACE
    assert new_traceparent(TRACE) != ours
