"""Bounded polls for what cannot be awaited."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from shared.errors import Transient

T = TypeVar("T")


async def until(ask: Callable[[], Awaitable[T]], *, seconds: float = 20, every: float = 0.02) -> T:
    """Return the first truthy answer; fail with the last one when the time is over.

    A Transient is an answer, too: it says to ask again.
    """
    end = time.monotonic() + seconds
    while True:
        try:
            answer = await ask()
        except Transient:
            if time.monotonic() > end:
                raise
            await asyncio.sleep(every)
            continue
        if answer:
            return answer
        if time.monotonic() > end:
            raise AssertionError(f"not within {seconds} s; the last answer was {answer!r}")
        await asyncio.sleep(every)


async def until_true(ask: Callable[[], bool], *, seconds: float = 20) -> None:
    """Wait until something that needs no asking around holds."""

    async def answer() -> bool:
        return ask()

    await until(answer, seconds=seconds)
