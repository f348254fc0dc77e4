"""The OpenAPI document of services, without any server."""

from __future__ import annotations

from typing import Any

from services.registry import SERVICES, ServiceName
from services.run import Address
from shared.http.app import build_app
from shared.runtime.clock import SystemClock
from shared.runtime.process import parts
from shared.runtime.settings import Settings

NOWHERE = Settings(kafka="127.0.0.1:1", database_url="postgresql://u@127.0.0.1:1/x", secret="of-a-test " * 4)


async def document(names: tuple[ServiceName, ...]) -> dict[str, Any]:
    """Return it."""
    made, address = parts(NOWHERE, SystemClock(), names), Address("")
    return build_app([SERVICES[name].build(NOWHERE, made, address) for name in names], ops_elsewhere=False).openapi()
