"""A database address that is none: said in one line that shows nothing of it."""

from __future__ import annotations

import pytest

from shared.db import Server
from shared.errors import Misconfigured


@pytest.mark.parametrize("password", ["pa/ss", "pa#ss", "pa?ss", "p[a]ss"])
async def test_a_password_is_not_shown(password: str) -> None:
    """Characters that divide an address must be written otherwise, which is said."""
    with pytest.raises(Misconfigured, match="must be written as %2F") as refused:
        await Server(f"postgresql://fiilis:{password}@127.0.0.1:1/fiilis", "scoring").connect()
    assert "ss@" not in str(refused.value)
    assert "pa" not in str(refused.value).replace("password", "")


@pytest.mark.parametrize("url", ["fiilis", "mysql://a/b", "http://127.0.0.1"])
def test_another_kind_of_address_is_refused(url: str) -> None:
    """Before anything is connected to."""
    with pytest.raises(Misconfigured, match=r"FIILIS_DATABASE_URL .*must be postgresql://"):
        Server(url, "scoring")
