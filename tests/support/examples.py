"""How many examples a property is tried with, and which."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

FULL = os.environ.get("FIILIS_CHAOS") == "full"

# Two shared cores: an example that waits for the processor says nothing about the code.
_common = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("long", _common, max_examples=200)
# The same each time: what a change has broken is told apart from what was never tried before.
settings.register_profile("short", _common, max_examples=30, derandomize=True, database=None)
settings.load_profile("long" if FULL else "short")


def examples(count: int) -> settings:
    """Return the settings of a property with so many examples in the long form, and a quarter in the short one."""
    return settings(max_examples=count if FULL else count // 4)
