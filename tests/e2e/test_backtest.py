"""`backtest` on a file, as somebody runs it who tunes rules: no server, each bad row named, the same as JSON."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
DIRECTORY = """
company: {name: Example Oy}
touchpoints: [support, billing]
people:
  architect-1: {name: A, contacts: [{email: a@example.test}]}
escalations: {standard: {steps: [{page: architect, ack_within: 5m}], catch_all: architect-1}}
customers:
  acme: {name: Acme, architect: architect-1}
  beta: {name: Beta, architect: architect-1}
"""


def backtest(
    tmp_path: Path, rules: str, *more: str, feedback: str | Path | None = None
) -> subprocess.CompletedProcess[str]:
    file = tmp_path / "directory.yaml"
    _ = file.write_text(DIRECTORY + rules)
    if isinstance(feedback, str):
        _ = (tmp_path / "feedback.csv").write_text(feedback)
        feedback = tmp_path / "feedback.csv"
    given = ["--feedback", str(feedback)] if feedback is not None else []
    command = [sys.executable, "-m", "services", "backtest", str(file), *given, *more]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


EXAMPLE = ROOT / "tests/examples/feedback.csv"


def test_what_rules_would_have_told(tmp_path: Path) -> None:
    """The last month of the example is bad for the first customer: the built-in rules say so."""
    done = backtest(tmp_path, "", "--days", "60", feedback=EXAMPLE)
    assert (done.returncode, done.stderr) == (0, "")
    lines = [line.split() for line in done.stdout.splitlines()]
    by_rule = {words[0]: [int(n) for n in words[1:4]] for words in lines if len(words) == 4 and words[1].isdigit()}
    assert by_rule["shift"][0] >= 1
    assert by_rule["mood-one"] == [3, 3, 3]
    assert by_rule["all"][0] == sum(numbers[0] for name, numbers in by_rule.items() if name not in ("all",))


def test_each_alert_is_a_line_of_json(tmp_path: Path) -> None:
    """Opened and cleared, in the shape that the contract names, and as many as the table counts."""
    rule = "rules: [{name: few, when: {detractors_at_least: 3, window: 7d}, severity: medium}]"
    events = [json.loads(line) for line in backtest(tmp_path, rule, "--json", feedback=EXAMPLE).stdout.splitlines()]
    assert all(set(e) == {"at", "customer", "touchpoint", "rule", "severity", "event", "reason"} for e in events)
    assert {e["event"] for e in events} == {"opened", "cleared"}
    assert all(e["reason"]["detractors"] >= 3 for e in events if e["event"] == "opened")
    table = backtest(tmp_path, rule, feedback=EXAMPLE).stdout
    opened = sum(e["event"] == "opened" for e in events)
    assert f"few {opened:>33}".split() == next(line.split()[:2] for line in table.splitlines() if "few" in line)


def test_rules_are_compared_with_others(tmp_path: Path) -> None:
    """What would change is the question that a backtest is run for."""
    today = tmp_path / "today.yaml"
    _ = today.write_text(DIRECTORY + "rules: [{name: one, when: {mood_at_most: 1}, severity: critical}]")
    wider = "rules: [{name: one, when: {mood_at_most: 2}, severity: critical}]"
    done = backtest(tmp_path, wider, "--against", str(today), "--days", "60", feedback=EXAMPLE)
    words = next(line.split() for line in done.stdout.splitlines() if line.split()[:1] == ["one"])
    assert int(words[1]) > int(words[2]) == 3


def test_a_row_that_does_not_parse_is_named_and_the_rest_goes_on(tmp_path: Path) -> None:
    rows = [
        "customer,kind,score,occurred_at,touchpoint",
        "acme,mood,1,2026-01-01T08:00:00Z,support",
        "acme,mood,9,2026-01-01T09:00:00Z,support",
        "acme,mood,x,2026-01-01T09:00:00Z,support",
        "nobody,mood,1,2026-01-01T10:00:00Z,support",
        "acme,mood,1,2026-01-01T10:00:00,support",
        "acme,mood",
        "acme,mood,2,2026-01-01T11:00:00Z,reception",
        '"acme",mood,1,2026-01-02T08:00:00Z,billing',
    ]
    done = backtest(tmp_path, "", "--days", "30", feedback="\n".join(rows))
    assert done.returncode == 0
    file = tmp_path / "feedback.csv"
    told = done.stderr.splitlines()
    assert [line.removeprefix(f"{file}:").split(":")[0] for line in told] == ["3", "4", "5", "6", "7", "8"]
    assert "score: must be from 1 to 4 for kind mood" in told[0]
    assert "unknown customer 'nobody'" in told[2]
    assert "occurred_at: needs a time zone" in told[3]
    assert "has 2 cells and the header 5" in told[4]
    assert "no touchpoint 'reception'" in told[5]
    assert ["mood-one", "2", "2", "2"] in [line.split() for line in done.stdout.splitlines()]


def test_a_file_that_cannot_be_used(tmp_path: Path) -> None:
    """Wrong input is exit code 2 and one line that says what is wrong."""
    wrong = backtest(tmp_path, "", feedback="customer,kind,score,when\n")
    assert wrong.returncode == 2
    assert "unknown column 'when', no column 'occurred_at'" in wrong.stderr.replace("\n", " ")
    assert backtest(tmp_path, "", feedback=tmp_path / "none.csv").returncode == 2
    assert backtest(tmp_path, "", feedback="customer,kind,score,occurred_at\n").returncode == 2
    assert backtest(tmp_path, "rules: [{name: a}]", feedback=EXAMPLE).returncode == 2
    unset = backtest(tmp_path, "")
    assert unset.returncode == 2
    assert "FIILIS_DATABASE_URL" in unset.stderr
