"""The services by name, and the folders of their migrations."""

from __future__ import annotations

from services.registry import SERVICES

NAMES = tuple(SERVICES)
MIGRATIONS = {name: spec.migrations for name, spec in SERVICES.items() if spec.migrations is not None}
