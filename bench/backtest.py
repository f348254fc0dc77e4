"""Backtest: the seconds that a year of answers of many customers takes, from a CSV file, on one core.

Run: python -m bench.backtest
"""

from __future__ import annotations

import csv
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

ANSWERS = 2_400 if os.environ.get("BENCH_SHORT") else 2_400_000
"""200 a month of each customer, for a year."""
EACH = 2_400
TOUCHPOINTS = ("support", "billing", "sales")
SCORES, WEIGHTS = range(11), (1, 1, 1, 1, 1, 2, 3, 8, 12, 14, 12)
BEGIN = datetime(2026, 1, 1, tzinfo=UTC)

DIRECTORY = """
company: {name: Example, timezone: UTC, language: en}
touchpoints: [support, billing, sales]
people:
  one: {name: Example One, contacts: [{email: one@example.test}]}
escalations:
  standard: {steps: [{page: architect, ack_within: 5m}], catch_all: one}
customers:
"""
CUSTOMER = "  c{n}: {{name: Customer {n}, architect: one, escalation: standard}}\n"


def answers_into(file: Path) -> None:
    """Write the answers of all customers in the order in which they were given."""
    chance = random.Random(7)
    apart = timedelta(days=365) / ANSWERS
    with file.open("w", newline="") as lines:
        rows = csv.writer(lines)
        rows.writerow(("kind", "score", "customer", "touchpoint", "respondent", "occurred_at"))
        for number in range(ANSWERS):
            rows.writerow(
                (
                    "nps",
                    chance.choices(SCORES, WEIGHTS)[0],
                    f"c{chance.randrange(ANSWERS // EACH)}",
                    chance.choice(TOUCHPOINTS),
                    f"r{chance.randrange(10_000)}" if chance.random() < 0.5 else "",
                    (BEGIN + number * apart).isoformat(),
                )
            )


def main() -> None:
    """Print the seconds and the memory."""
    with tempfile.TemporaryDirectory(prefix="fiilis-bench-") as folder:
        directory, answers = Path(folder) / "directory.yaml", Path(folder) / "answers.csv"
        directory.write_text(DIRECTORY + "".join(CUSTOMER.format(n=n) for n in range(ANSWERS // EACH)))
        answers_into(answers)
        command = [sys.executable, "-m", "services", "backtest", directory, "--feedback", answers, "--days", "365"]
        begun = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        seconds = time.perf_counter() - begun
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(
        f"backtest of {ANSWERS:,} answers, {ANSWERS // EACH:,} customers, all default rules: {seconds:.1f} s "
        f"({used.ru_utime / ANSWERS * 1e6:.1f} us an answer), peak {used.ru_maxrss // 1024} MB"
    )


if __name__ == "__main__":
    main()
