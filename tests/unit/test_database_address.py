"""A database address that is none: said in one line that shows nothing of it."""

from __future__ import annotations

import ssl
from pathlib import Path

import asyncpg
import pytest

from shared.database.address import address, refused_by_tls
from shared.database.pool import Server
from shared.errors import Misconfigured
from tests.support.certificates import NEEDED, Authority


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


FULL = "postgresql://fiilis:geheim@db/fiilis?sslmode=verify-full"


@pytest.mark.parametrize(
    ("url", "said"),
    [
        (
            "postgresql://db/fiilis?sslmode=full",
            "sslmode=full: must be one of disable, allow, prefer",
        ),
        (f"{FULL}&sslrootcert=/no/ca.pem", "sslrootcert: cannot read /no/ca.pem: No such file"),
        (f"{FULL}&sslrootcert={__file__}", "sslrootcert: .* holds no certificates"),
        (f"{FULL}&sslrootcert=system&sslkey={__file__}", "sslkey is given, and no sslcert"),
        (f"{FULL}&sslrootcert=system&sslcert={__file__}", "no certificate and its key"),
        ("postgresql://db/fiilis?sslmode=require&sslrootcert=system", "sslrootcert=system needs sslmode=verify-full"),
        (
            f"postgresql://db/fiilis?sslmode=disable&sslcert={__file__}",
            "sslcert is given, and sslmode=disable",
        ),
        (
            f"{FULL}&sslrootcert=system&channel_binding=require",
            "channel_binding=require of libpq is not to be",
        ),
        (f"{FULL}&sslrootcert=system&require_auth=scram-sha-256", "require_auth=.* is not to be had here"),
    ],
)
def test_what_is_wrong_with_tls_is_named(url: str, said: str) -> None:
    """It was an outage that is waited for, or an address that is none; and of the other setting the name was wrong."""
    for setting in ("FIILIS_DATABASE_URL", "FIILIS_MIGRATION_URL"):
        with pytest.raises(Misconfigured, match=said) as refused:
            Server(url, "scoring", setting=setting)
        assert str(refused.value).startswith(setting)
        assert "\n" not in str(refused.value)
        assert "geheim" not in str(refused.value)


def test_without_an_authority_nothing_can_be_verified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless there is one where libpq looks for it."""
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(Misconfigured, match="sslmode=verify-full needs sslrootcert"):
        address(FULL, "FIILIS_DATABASE_URL")
    (tmp_path / ".postgresql").mkdir()
    (tmp_path / ".postgresql" / "root.crt").touch()
    assert address(FULL, "FIILIS_DATABASE_URL") == (FULL, None)


def test_names_of_libpq_that_we_decide_ourselves_are_passed_by() -> None:
    """The driver would ask the server for them as for its own settings, which refuses them."""
    url = "postgresql://a,b:5433/fiilis?connect_timeout=5&keepalives=1&application_name=x&gssencmode=prefer&options=-cjit%3Doff"
    assert address(url, "FIILIS_DATABASE_URL") == ("postgresql://a,b:5433/fiilis?options=-cjit%3Doff", None)
    assert address("postgresql://db/fiilis?sslrootcert=&sslcrl=", "FIILIS_DATABASE_URL")[1] is None
    socket = "postgresql://fiilis@/fiilis?host=/run/a%20b"
    assert address(socket, "FIILIS_DATABASE_URL") == (socket, None)


@NEEDED
def test_the_systems_own_authorities(tmp_path: Path) -> None:
    """As libpq 16 has it; with a certificate of ours."""
    certificate, key = Authority(tmp_path).certificate("client")
    url = f"{FULL}&sslrootcert=system&sslcert={certificate}&sslkey={key}"
    plain, tls = address(url, "FIILIS_DATABASE_URL")
    assert plain == "postgresql://fiilis:geheim@db/fiilis"
    assert tls is not None
    assert tls.check_hostname


def test_a_certificate_of_ours_that_is_refused() -> None:
    """In TLS 1.3 the server says so after the client has begun to speak, and the driver that it was closed."""
    closed = asyncpg.ConnectionDoesNotExistError("connection was closed in the middle of operation")
    assert refused_by_tls(closed) is None
    closed.__cause__ = ssl.SSLError(1, "[SSL: TLSV13_ALERT_CERTIFICATE_REQUIRED] tlsv13 alert certificate required")
    assert "certificate required" in str(refused_by_tls(closed))
