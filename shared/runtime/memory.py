"""How memory is looked after."""

from __future__ import annotations

import gc


def tune_memory() -> None:
    """Let the cyclic collector run seldom.

    Reference counting frees what a batch of answers makes, some 300,000 objects at a time. With a threshold below that
    the collector walked them all for nothing, again and again: with 50,000 it was a sixth of scoring's time.
    Importing what a service needs takes a fifth less, too.
    """
    gc.set_threshold(500_000, 20, 50)
