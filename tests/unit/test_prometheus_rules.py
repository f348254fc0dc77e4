"""The rules for Prometheus: each names a metric that there is and a runbook that there is, and fires when it should."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import prometheus_client
import pytest
import yaml

import shared.runtime.metrics  # noqa: F401 (declares the metrics)

ROOT = Path(__file__).parents[2]
RULES = ROOT / "deploy" / "prometheus-rules.yml"
TRIALS = Path(__file__).parent / "prometheus_rules.yml"
PROMTOOL = shutil.which("promtool")


def _rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def test_each_rule_asks_for_a_metric_that_there_is() -> None:
    """A rule on a metric that was renamed would be silent for ever."""
    declared = {
        sample
        for family in prometheus_client.REGISTRY.collect()
        for sample in (family.name, f"{family.name}_total")
        if family.name.startswith("fiilis_")
    }
    for rule in _rules():
        used = set(re.findall(r"\bfiilis_\w+", rule["expr"]))
        assert used <= declared, rule["alert"]


def test_each_rule_has_a_runbook_and_a_trial() -> None:
    """A person who is woken finds what to do; and nobody adds a rule that was never seen firing."""
    document = (ROOT / "docs" / "operations.md").read_text()
    headings = re.findall(r"^#+ (.+)$", document, re.MULTILINE)
    anchors = {re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-") for heading in headings}
    tried = {
        trial["alertname"]
        for test in yaml.safe_load(TRIALS.read_text())["tests"]
        for trial in test["alert_rule_test"]
        if trial["exp_alerts"]
    }
    for rule in _rules():
        page, _, anchor = rule["annotations"]["runbook"].partition("#")
        assert page == "docs/operations.md"
        assert anchor in anchors, rule["alert"]
        assert rule["alert"] in tried, rule["alert"]


@pytest.mark.skipif(PROMTOOL is None, reason="promtool is not installed (Debian: prometheus)")
def test_each_rule_fires_when_it_should_and_only_then() -> None:
    assert PROMTOOL is not None
    ran = subprocess.run([PROMTOOL, "test", "rules", str(TRIALS)], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
