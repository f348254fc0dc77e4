"""Who calls, behind proxies: whatever a client writes into a header, only a trusted proxy's own word is believed."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import Misconfigured
from shared.http.addresses import is_public
from shared.http.proxies import Proxies, parsed_address

OURS = "10.0.0.0/8, 192.168.7.1, fd00::/8"
PROXY = "10.0.0.9"

addresses = st.ip_addresses().map(str)
strangers = st.ip_addresses(v=4, network="203.0.113.0/24").map(str)
others = st.lists(st.tuples(st.sampled_from([b"forwarded", b"x-forwarded-for", b"via"]), st.binary(max_size=60)))
hearsay = st.text('for=";,\\:. 16[]_x', max_size=40)


def caller(*headers: tuple[str, str] | tuple[bytes, bytes], networks: str = OURS, peer: str = PROXY) -> str | None:
    """Return the address that a request is said to come from; None where nobody can tell."""
    raw = [(n if isinstance(n, bytes) else n.encode(), v if isinstance(v, bytes) else v.encode()) for n, v in headers]
    scope: dict[str, Any] = {"client": (peer, 4711), "headers": raw}
    Proxies(networks).unveil(scope)
    return None if scope["client"] is None else scope["client"][0]


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("for=203.0.113.7", "203.0.113.7"),
        ("for=203.0.113.7:8080", "203.0.113.7"),
        ('for="203.0.113.7:8080";proto=https', "203.0.113.7"),
        ('For="[2001:db8:cafe::17]:4711"', "2001:db8:cafe::17"),
        ('FOR="[2001:DB8::17]"', "2001:db8::17"),
        ("proto=https;by=10.0.0.9;for=203.0.113.7;host=voice.example", "203.0.113.7"),
        ("for=198.51.100.1, for=203.0.113.7, for=10.1.1.1", "203.0.113.7"),
        ('for=198.51.100.1,for="[fd00::5]:1" , for=192.168.7.1', "198.51.100.1"),
        ("for=10.2.2.2, for=10.1.1.1", "10.2.2.2"),
        ('for="[::ffff:203.0.113.7]"', "203.0.113.7"),
    ],
)
def test_the_forwarded_header(value: str, said: str) -> None:
    """RFC 7239: the nearest hop that is not ours is who calls."""
    assert caller(("forwarded", value)) == said


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("203.0.113.7", "203.0.113.7"),
        ("198.51.100.1, 203.0.113.7", "203.0.113.7"),
        ("198.51.100.1, 203.0.113.7,10.1.1.1 ", "203.0.113.7"),
        ("2001:db8::17", "2001:db8::17"),
        ("[2001:db8::17]:80", "2001:db8::17"),
        ("203.0.113.7:4711", "203.0.113.7"),
    ],
)
def test_the_older_header(value: str, said: str) -> None:
    """What stands left of the first stranger is hearsay."""
    assert caller(("x-forwarded-for", value)) == said


@pytest.mark.parametrize(
    "value",
    [
        "for=_hidden",
        'for="_SEVKISEK:80"',
        "for=unknown",
        "for=198.51.100.1, for=unknown",
        "proto=https",
        "for=198.51.100.1, by=10.0.0.9",
        'for="[fe80::1%eth0]"',
        'for="203.0.113.7',
        'for=198.51.100.1;x=", for="[2001:db8::17]:80"',
        "for=203.0.113.7 for=198.51.100.1",
    ],
)
def test_a_hop_that_is_not_named(value: str) -> None:
    """Whoever is behind a nameless hop could have said anything: the proxy's address stays."""
    assert caller(("forwarded", value)) == PROXY


@pytest.mark.parametrize(
    "host", ["for=198.51.100.1", ", for=198.51.100.1", r"\", for=198.51.100.1", ";for=198.51.100.1"]
)
def test_a_name_that_looks_like_a_hop(host: str) -> None:
    """A client chooses the Host that a proxy quotes."""
    assert caller(("forwarded", f'for=203.0.113.7;host="{host}"')) == "203.0.113.7"


def test_a_header_that_the_proxy_only_passes_on() -> None:
    """One that writes X-Forwarded-For sends a client's own Forwarded along: where they differ, neither is believed."""
    older = ("x-forwarded-for", "203.0.113.7")
    assert caller(("forwarded", "for=198.51.100.1"), older) == PROXY
    assert caller(("forwarded", "for=203.0.113.7"), older) == "203.0.113.7"


@given(strangers, st.lists(hearsay, max_size=4))
def test_nobody_speaks_for_the_one_before(stranger: str, before: list[str]) -> None:
    """Whatever a client sends along, it is known by the address that the proxy saw."""
    for name, hop in (("x-forwarded-for", stranger), ("forwarded", f"for={stranger}")):
        sent = [(name.encode(), one.encode("latin-1")) for one in before]
        # Of a broken Forwarded nothing is believed.
        assert caller(*sent, (name, hop)) in {stranger, PROXY}
        if name == "x-forwarded-for":
            assert caller(*sent, (name, hop)) == stranger


@given(addresses, others)
def test_nothing_is_believed_without_trust(peer: str, headers: list[tuple[bytes, bytes]]) -> None:
    """Neither where no proxies are named, nor from anybody else; behind an unnamed one inside nobody is known."""
    named = (b"forwarded", b"for=198.51.100.1")
    parsed = parsed_address(peer)
    assert parsed is not None
    alone = peer if is_public(parsed) else None
    assert caller(*headers, named, networks="", peer=peer) == alone
    assert caller(*headers, named, networks="192.0.2.77", peer=peer) == alone
    assert caller((b"via", b"for=198.51.100.1"), networks="", peer=peer) == peer


@given(others)
def test_garbage_is_no_address(headers: list[tuple[bytes, bytes]]) -> None:
    """It never fails a request, and who calls is always an address."""
    found = caller(*headers)
    assert found is not None
    assert str(ip_address(found)) == found


@given(st.lists(addresses, min_size=1, max_size=30))
def test_both_headers_say_the_same(hops: list[str]) -> None:
    """Who calls depends on the hops, not on how they are written."""
    written = ", ".join(f"[{hop}]:80" if ":" in hop else f"{hop}:80" for hop in hops)
    quoted = ", ".join(f'for="[{hop}]:80"' if ":" in hop else f"for={hop}" for hop in hops)
    assert caller(("x-forwarded-for", written)) == caller(("forwarded", quoted))


def test_a_peer_without_an_address() -> None:
    """A Unix socket's has none."""
    scope: dict[str, Any] = {"client": None, "headers": [(b"forwarded", b"for=203.0.113.7")]}
    Proxies(OURS).unveil(scope)
    assert scope["client"] is None


@pytest.mark.parametrize("wrong", ["10.0.0.0/33", "proxy.example", "10.0.0.1;10.0.0.2", "10.0.0.0/8,nonsense"])
def test_a_wrong_setting_is_named(wrong: str) -> None:
    """The message says which one to change."""
    with pytest.raises(Misconfigured, match="FIILIS_TRUSTED_PROXIES"):
        Proxies(wrong)
