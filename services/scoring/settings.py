"""Every setting that scoring has besides the common ones."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from shared.runtime.settings import Environment


class ScoringSettings(Environment):
    """What scoring alone is told."""

    scoring_batch: int = Field(default=8_000, ge=1, le=20_000)
    """Answers in one transaction at most; with 50,000 customers 8,000 were a tenth faster than 2,000."""
    scoring_workers: int = Field(default=2, ge=1, le=64)
    """Consumers in this process: while one waits for PostgreSQL, the other counts."""
    scoring_customers: int = Field(default=100_000, ge=1)
    """Customers whose windows are kept in memory (4 to 5 KB each); the others are read again when they answer."""
    scoring_sweep_seconds: float = Field(default=1.0, gt=0)
    """How often alerts that are due by time alone are looked for."""
    scoring_erasure: Literal["keep-counts", "remove-counts"] = "keep-counts"
    """What becomes of scores when a respondent is erased: the answers stay counted as somebody's, or go too."""
