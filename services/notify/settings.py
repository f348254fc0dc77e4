"""Every setting that notify has besides the common ones."""

from __future__ import annotations

from pydantic import Field

from shared.runtime.settings import Environment


class NotifySettings(Environment):
    """What notify alone is told."""

    notify_calls: int = Field(default=400, ge=1)
    """Calls to channels under way at once."""
    notify_call_seconds: float = Field(default=10, gt=0)
    """How long a channel may take to answer."""
    notify_attempts: int = Field(default=3, ge=1)
    """Attempts at a contact before the person's next contact is tried."""
    notify_link_days: float = Field(default=7, gt=0)
    """How long an acknowledge link works."""
