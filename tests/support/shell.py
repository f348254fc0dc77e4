"""Services that a test makes itself, run by the product's shell."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

import httpx

from shared.runtime import service
from shared.runtime.service import Service


@contextlib.asynccontextmanager
async def running(services: Sequence[Service], **options: Any) -> AsyncIterator[httpx.AsyncClient]:
    """Run services until the block ends; `options` as the shell takes them."""
    stop, listening = asyncio.Event(), asyncio.get_running_loop().create_future()
    shell = asyncio.create_task(
        service.run(services, host="127.0.0.1", port=0, stop=stop, on_listening=listening.set_result, **options)
    )
    try:
        async with httpx.AsyncClient(base_url=await listening, trust_env=False, timeout=20) as client:
            yield client
    finally:
        stop.set()
        await shell
