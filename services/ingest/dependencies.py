"""What ingest's doors work with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

from services.ingest.limits import Buckets, Limits
from services.ingest.publishing import Publishing
from shared.directory.access import Access
from shared.http.keys import provided
from shared.runtime.clock import Clock
from shared.wire.events import FeedbackReceivedV1
from shared.wire.signing import Signer


@dataclass(frozen=True, slots=True)
class Dependencies:
    """Made once per process; a route asks for them by `Deps`."""

    access: Access
    publishing: Publishing
    clock: Clock
    signer: Signer | None
    """None: there is no secret, and nothing is signed."""
    status_url: Callable[[FeedbackReceivedV1], str | None]
    """The page of an answer's respondent; None: there is no secret."""
    limits: Limits
    buckets: Buckets


Deps = Annotated[Dependencies, provided(Dependencies)]
