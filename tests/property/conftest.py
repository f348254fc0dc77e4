"""How hypothesis works here: the same examples every time in CI, others each time at a desk."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

# Two shared cores: an example that waits for the processor says nothing about the code.
_common = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("desk", _common)
settings.register_profile("ci", _common, derandomize=True, database=None)
settings.load_profile("ci" if os.environ.get("CI") else "desk")
