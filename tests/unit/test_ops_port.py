"""Where figures are told: not where everybody asks."""

from __future__ import annotations

import pytest

from services.registry import ServiceName
from services.run import ops_port_of
from shared.runtime.settings import Settings
from tests.support.services import NAMES


@pytest.mark.parametrize(
    ("names", "host", "port", "given", "expected"),
    [
        (("ingest",), "127.0.0.1", 8001, None, 9001),
        (("notify",), "0.0.0.0", 8004, None, 9004),
        (("notify",), "127.0.0.1", 0, None, 0),
        (("notify",), "127.0.0.1", 65_000, None, 0),
        (("notify",), "127.0.0.1", 8004, 9999, 9999),
        (("notify",), "127.0.0.1", 8004, 8004, None),
        (NAMES, "127.0.0.1", 8080, None, None),
        (NAMES, "127.8.9.1", 8080, None, None),
        (NAMES, "::1", 8080, None, None),
        (NAMES, "localhost", 8080, None, None),
        (NAMES, "0.0.0.0", 8080, None, 9080),
        (NAMES, "::", 8080, None, 9080),
        (NAMES, "fiilis.example.test", 8080, None, 9080),
        (NAMES, "127.0.0.1", 8080, 9000, 9000),
    ],
)
def test_the_port_of_operations(
    names: tuple[ServiceName, ...], host: str, port: int, given: int | None, expected: int | None
) -> None:
    assert ops_port_of(names, Settings(host=host, ops_port=given), port) == expected
