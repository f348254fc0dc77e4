"""docs/rules.md tells every type of rule, its parameters and defaults, and the built-in rules, as they are."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic_core import PydanticUndefined

from shared.rules.conditions import CONDITIONS, document_of, parameters
from shared.rules.document import Rule, built_in_rules

TEXT = (Path(__file__).parents[2] / "docs/rules.md").read_text()
ROWS = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in TEXT.splitlines() if line.startswith("| ")]
NAMED = re.compile(r"`(\w+)`(?: \(([\d.]+)?)?")


def row(word: str) -> list[str]:
    return next(cells for cells in ROWS if cells[0].startswith(f"`{word}: "))


def rule(written: dict[str, Any]) -> Rule:
    return Rule.model_validate(written, context={"touchpoints": {"billing"}})


@pytest.mark.parametrize("word", CONDITIONS)
def test_a_type_is_told_with_its_parameters_and_defaults(word: str) -> None:
    told = {name: default for name, default in NAMED.findall(row(word)[2]) if name in parameters(word)}
    assert set(told) == set(parameters(word))
    fields = {field.alias or name: field for name, field in document_of(word).model_fields.items()}
    for name, default in told.items():
        if default and fields[name].default is not PydanticUndefined:
            assert float(default) == fields[name].default, name


def test_the_built_in_rules_are_told() -> None:
    table = TEXT.partition("| name | `when` | severity |")[2].strip().splitlines()[1:]
    told = [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in table if line.startswith("| `")]
    assert [name for name, _, _ in told] == [known.name for known in built_in_rules()]
    for (name, when, severity), known in zip(told, built_in_rules(), strict=True):
        written = rule({"name": name, "when": yaml.safe_load(f"{{{when}}}"), "severity": severity})
        assert (written.when, written.severity) == (known.when, known.severity)


def test_the_example_is_one() -> None:
    example = re.search(r"```yaml\n(.*?)```", TEXT, re.DOTALL)
    assert example is not None
    assert [rule(written).name for written in yaml.safe_load(example[1])["rules"]] == [
        "mood-one",
        "billing-low",
        "burst",
    ]
