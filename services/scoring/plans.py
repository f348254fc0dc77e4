"""The rules in force for each customer, as what is done with an answer; made once per directory."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain

from services.scoring.domain.counting import SCORES_WINDOW
from services.scoring.domain.customer import CustomerState
from services.scoring.domain.plan import Plan, plan
from shared.directory.follower import Follower, Revision
from shared.rules.base import OnWindow

_NO_RULES = plan(())


class Plans:
    """Plans by the newest directory; a customer's own is kept with its state."""

    def __init__(self, directory: Follower) -> None:
        self._directory = directory
        self._company_plan: Plan | None = None
        self._longest: tuple[int, tuple[int, int]] | None = None

    def goals(self, customer: str) -> Mapping[str, float]:
        """Return a customer's goals."""
        known = self._directory.customer(customer)
        return {} if known is None else known.goals

    def of(self, state: CustomerState) -> Plan:
        """Return the plan of a customer."""
        if state.rules is None:
            state.rules = self._made(state.name)
        return state.rules

    def _made(self, customer: str) -> Plan:
        revision, known = self._directory.current, self._directory.customer(customer)
        if revision is None or known is None:
            return _NO_RULES  # it left the directory: its answers count, and break no rule
        if known.rules:
            return plan(revision.directory.rules_of(known))
        if self._company_plan is None:
            self._company_plan = plan(revision.directory.rules_of(known))
        return self._company_plan

    def forget(self) -> None:
        """Forget what was made by another directory, but for what states keep."""
        self._company_plan = None

    def longest(self, revision: Revision) -> tuple[int, int]:
        """Return how far back a window in force looks, with the one before it where that is compared, and a cooldown.

        Both in seconds.
        """
        if self._longest is None or self._longest[0] != revision.number:
            known = revision.directory
            rules = list(chain(known.rules, *(customer.rules for customer in known.customers.values())))
            windows = (rule.when for rule in rules if isinstance(rule.when, OnWindow))
            longest = max((when.seconds * (2 if when.compares else 1) for when in windows), default=0)
            cooldown = max((rule.cooldown for rule in rules), default=0)
            self._longest = revision.number, (max(longest, SCORES_WINDOW), cooldown)
        return self._longest[1]
