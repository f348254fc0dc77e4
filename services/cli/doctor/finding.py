"""What the doctor finds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Literal

from services.cli.terminal import printable

Level = Literal["ok", "warning", "wrong"]

CONNECT_SECONDS = 8.0


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    level: Level
    subject: str
    what: str
    remedy: str = ""

    def line(self) -> str:
        """Return it as a person reads it."""
        return printable(
            f"{self.level:<8} {self.subject}: {self.what}" + (f"  -> {self.remedy}" if self.remedy else "")
        )


Findings = AsyncIterator[Finding]


async def unreachable(host: str, port: int) -> str | None:
    """Return why a host cannot be connected to, None when it can."""
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            _, writer = await asyncio.open_connection(host, port)
        writer.close()
    except TimeoutError:
        return f"no answer within {CONNECT_SECONDS:g} s"
    except OSError as error:
        return str(error)
    return None
