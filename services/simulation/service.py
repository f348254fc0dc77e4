"""The simulated traffic as a part of the process that it posts to, with a key that is good in that process only."""

from __future__ import annotations

import asyncio

from services.simulation.traffic import Traffic, customers_of
from shared.directory.model import Key
from shared.runtime.process import Parts
from shared.runtime.service import Service
from shared.wire.signing import key_hash, new_key


class Simulation:
    """Posts simulated answers once the address is known."""

    def __init__(self, rate: float) -> None:
        """`rate`: answers a second."""
        self._rate = rate
        self._text = new_key("secret")
        self._address: asyncio.Future[str] | None = None
        self.key = Key(id="simulated-traffic", kind="secret", sha256=key_hash(self._text), scopes=("feedback",))

    def ready(self, address: str) -> None:
        """Take the address to post to; traffic starts."""
        if self._address is not None:
            self._address.set_result(address)

    def service(self, parts: Parts) -> Service:
        """Return the part of the process that posts."""

        async def run() -> None:
            self._address = asyncio.get_running_loop().create_future()
            address = await self._address
            revision = parts.access.revision
            customers = customers_of(revision.directory)
            await Traffic(address, self._text, self._rate, customers, clock=parts.clock).run()

        return Service(name="simulation", tasks={"traffic": run})
