"""Who calls, behind proxies that we trust: `Forwarded` (RFC 7239) and `X-Forwarded-For`, from nobody else."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import MutableMapping, Sequence
from functools import lru_cache
from typing import Any

from shared.errors import Misconfigured
from shared.http.addresses import is_public
from shared.runtime.logs import Log

log = Log("shared.http.proxies")

_PAIR = re.compile(
    rb"""[ \t]*+ (?: ([^\s=";,]++) = (?: "((?:[^"\\]|\\.)*+)" | ([^\s";,]++) ) )?+ [ \t]*+ ([;,]|\Z)""", re.VERBOSE
)
"""A pair of the header, and what follows it."""
_Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_HEADERS = {b"forwarded", b"x-forwarded-for"}
_MOST = 20
"""Addresses of one request that are looked at."""
_NETWORK_OF = 64
"""Bits of an IPv6 address that one customer of a provider has at least."""


class Proxies:
    """The networks whose word on who calls is taken."""

    def __init__(self, networks: str) -> None:
        """Take the setting, a comma list. Raises Misconfigured."""
        try:
            self._networks = [
                ipaddress.ip_network(part.strip(), strict=False) for part in networks.split(",") if part.strip()
            ]
        except ValueError as error:
            raise Misconfigured(f"FIILIS_TRUSTED_PROXIES: {error}") from None
        self._told = False

    def unveil(self, scope: MutableMapping[str, Any]) -> None:
        """Put the address of who calls into a request's scope, in place of the proxy's; None where nobody can tell.

        An address inside that passes a request on is a proxy that nobody has named: what it says may be made up, and
        all who call through it are not one caller.
        """
        client = scope.get("client")
        if client is None:
            return
        if not self._trusted(client[0]):
            if _is_inside(client[0]) and any(name in _HEADERS for name, _ in scope["headers"]):
                scope["client"] = None
                self._tell(client[0])
            return
        # A proxy that writes one of the headers may pass on the other as the client made it up: then they differ.
        callers = {self._caller(chain[-_MOST:]) for chain in _chains(scope)}
        if len(callers) == 1 and (caller := callers.pop()) is not None:
            scope["client"] = (str(caller), 0)

    def _tell(self, address: str) -> None:
        if not self._told:
            self._told = True
            log.warning("a proxy is not in FIILIS_TRUSTED_PROXIES: no address is limited", proxy=address)

    def _caller(self, chain: Sequence[str]) -> _Address | None:
        """Return who calls, of the addresses that proxies name, the farthest first; None where nobody can tell."""
        caller: _Address | None = None
        # From the nearest on: the first that is not ours is who calls; what stands before it is hearsay.
        for address in reversed(chain):
            parsed = parsed_address(address)
            if parsed is None:
                break
            caller = parsed
            if not self._ours(parsed):
                break
        return caller

    def _trusted(self, address: str) -> bool:
        parsed = parsed_address(address) if self._networks else None
        return parsed is not None and self._ours(parsed)

    def _ours(self, address: _Address) -> bool:
        return any(address in network for network in self._networks)


@lru_cache(maxsize=1_000)
def _is_inside(address: str) -> bool:
    parsed = parsed_address(address)
    return parsed is not None and not is_public(parsed)


def parsed_address(address: str) -> _Address | None:
    """Return an address, of IPv4 as such also where it came in one of IPv6; None for another text."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return None
    if isinstance(parsed, ipaddress.IPv6Address):
        return None if parsed.scope_id else parsed.ipv4_mapped or parsed
    return parsed


def network_of(address: str | None) -> str | None:
    """Return what counts as one address: of IPv6 the network that a household has."""
    parsed = None if address is None else parsed_address(address.partition("%")[0])
    if isinstance(parsed, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((parsed, _NETWORK_OF), strict=False))
    return None if parsed is None else str(parsed)


def _chains(scope: MutableMapping[str, Any]) -> list[list[str]]:
    """Return whom the proxies name, the farthest first, by each of the headers that there are."""
    headers: list[tuple[bytes, bytes]] = scope["headers"]
    found: list[list[str]] = []
    for name, read in ((b"forwarded", _forwarded), (b"x-forwarded-for", _older)):
        value = b",".join(value for header, value in headers if header == name)
        if value:
            found.append(read(value))
    return found


def _forwarded(value: bytes) -> list[str]:
    """Return the `for` of each element; nothing where the header is not as it must be: a quote may have hidden some."""
    chain: list[str] = []
    node, at, pairs = "", 0, 0
    while (pair := _PAIR.match(value, at)) is not None:
        name, quoted, plain, end = pair.groups()
        if name is not None:
            pairs += 1
            if name.lower() == b"for":
                node = _bare((plain if quoted is None else quoted).decode("latin-1"))
        if end != b";":
            if pairs:
                chain.append(node)
            node, pairs = "", 0
        if not end:
            return chain
        at = pair.end()
    return []


def _older(value: bytes) -> list[str]:
    return [_bare(part.strip().decode("latin-1")) for part in value.split(b",") if part.strip()]


def _bare(node: str) -> str:
    """Return a node's address without brackets and port."""
    if node.startswith("["):
        return node[1:].partition("]")[0]
    return node.partition(":")[0] if node.count(":") == 1 else node
