"""The one client for calls to the outside.

It refuses internal addresses, connects to the address that it checked, follows no redirect, and reads no more of an
answer than it was told to.
"""

from __future__ import annotations

import asyncio
import functools
import ipaddress
import itertools
import os
import re
import socket
import ssl
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from hashlib import sha256
from http.cookiejar import Cookie, CookieJar
from typing import cast
from urllib.parse import urlsplit

import httpcore
import httpx

from shared.errors import Misconfigured
from shared.http.addresses import Address, carried, is_public
from shared.runtime.sockets import OPTIONS

_ANSWER_LIMIT = 64 * 1024
_POOLS = 32
"""A pool's work for a request grows with the square of its connections: with 200 in one pool a burst of 6,000 requests
took 75 s (measured), so there are many small ones."""
_CONNECTIONS = 16
_KEPT_SECONDS = 2.0
"""Shorter than any server keeps an idle connection, so that none is closed under a request that is being sent."""
LONGEST_WAIT = 3_600.0
"""Seconds that the other side can make us wait with one answer, whatever it asks for. Some write the moment there, in
seconds or milliseconds since 1970: believed, the next try was in 2083, or no moment at all."""
_MANGLED = (httpx.InvalidURL, httpx.StreamError, OSError, UnicodeError)
"""What an answer brings out beside httpx's own errors: an address in `location` that is none (found by random answers),
a TLS record that breaks off."""
_PAGE = re.compile(
    rb"(?>\xef\xbb\xbf|\s|<\?xml[^>]*>|<!--.*?-->)*+<(?:!doctype\s+html|html|head|body|title)\b",
    re.IGNORECASE | re.DOTALL,
)


def shown_url(url: str) -> str:
    """Return an address as it may be shown: what follows the host may be a secret. The same address looks the same."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname}/...{sha256(url.encode()).hexdigest()[:6]}"


class Refused(Exception):
    """A target that the guard does not let us call; trying again cannot help."""


class Unreachable(Exception):
    """No answer: not connected, broken off, or too late. `sent` tells whether the request may have arrived."""

    def __init__(self, detail: str, *, sent: bool) -> None:
        super().__init__(detail)
        self.sent = sent


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    """As much of it as was asked for."""
    cut: bool = False
    """There was more."""

    @property
    def is_web_page(self) -> bool:
        """It is a page for people: whoever sends one to a program, such as to sign in, has taken nothing from it."""
        return _PAGE.match(self.body[:4096]) is not None

    @property
    def retry_after(self) -> float | None:
        """Seconds that the other side asks to wait, 0 to LONGEST_WAIT; None where it asks for nothing."""
        value = self.headers.get("retry-after", "")
        if value.isascii() and value.isdecimal():
            return min(float(value), LONGEST_WAIT)
        try:
            at = parsedate_to_datetime(value)
            seconds = (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() - datetime.now(UTC).timestamp()
        except (ValueError, TypeError, IndexError, OverflowError):
            return None
        return min(max(seconds, 0.0), LONGEST_WAIT)


class Guard:
    """Decides which addresses may be called: public ones, and what the setting allows besides."""

    def __init__(self, allowed: str = "") -> None:
        """Take the setting: empty, `true` for every address, or a comma list of networks and hosts."""
        self._everything = allowed.strip().lower() == "true"
        self._hosts: set[str] = set()
        self._networks: list[ipaddress.IPv4Network | ipaddress.IPv6Network] = []
        for item in filter(None, (part.strip().lower() for part in allowed.split(","))):
            if item in {"true", "false"}:
                continue
            try:
                self._networks.append(ipaddress.ip_network(item, strict=False))
            except ValueError:
                if not item.replace("-", "").replace(".", "").isalnum():
                    raise Misconfigured(
                        f"FIILIS_ALLOW_PRIVATE_TARGETS: {item!r} is neither a network nor a host name"
                    ) from None
                self._hosts.add(item)

    def allows(self, host: str, address: Address) -> bool:
        """Tell whether a call to `host`, which resolved to `address`, may be made."""
        if self._everything or host.lower() in self._hosts:
            return True
        if any(address in network for network in self._networks):
            return True
        inner = carried(address)
        return is_public(address) if inner is None else self.allows(host, inner)


class _NoCookies(CookieJar):
    """Keeps nothing: what one target sets is not another's to see."""

    def set_cookie(self, cookie: Cookie) -> None:
        """Drop it."""


class _Guarded(httpcore.AsyncNetworkBackend):
    """Opens connections to addresses that the guard allows: the one that was checked is the one connected to."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        self._inner = cast("httpcore.AsyncNetworkBackend", httpcore.AnyIOBackend())

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Connect to a host. Raises Refused or Unreachable."""
        address = await self._resolve(host, port)
        return await self._inner.connect_tcp(str(address), port, timeout, local_address, socket_options)

    async def _resolve(self, host: str, port: int) -> Address:
        try:
            found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except OSError as error:
            raise Unreachable(f"{host} does not resolve: {error}", sent=False) from None
        except UnicodeError as error:
            raise Refused(f"{host[:80]!r} can be no host's name: {error}") from None
        addresses = [ipaddress.ip_address(info[4][0]) for info in found]
        for address in addresses:
            if self._guard.allows(host, address):
                return address
        raise Refused(f"{host} is an internal address ({addresses[0]}); FIILIS_ALLOW_PRIVATE_TARGETS can allow it")

    async def sleep(self, seconds: float) -> None:
        """Wait between attempts to connect."""
        await self._inner.sleep(seconds)


class _Transport(httpx.AsyncHTTPTransport):
    """Connections by name, kept for a few seconds: a burst of pages to one provider need not connect for each."""

    def __init__(self, guard: Guard, context: ssl.SSLContext) -> None:
        super().__init__(verify=context, trust_env=False)
        # httpx lets nobody choose how to connect; what it is made of does.
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=context,
            max_connections=_CONNECTIONS,
            max_keepalive_connections=_CONNECTIONS,
            keepalive_expiry=_KEPT_SECONDS,
            socket_options=OPTIONS,
            network_backend=_Guarded(guard),
        )


_AUTHORITIES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
"""Environment variables by which other programs are told of a company's own authorities."""


@functools.cache
def _context(ca_file: str | None = None) -> ssl.SSLContext:
    """Return how others prove who they are: once for a process, since reading all authorities takes a while.

    What the environment names, and `ca_file`, is believed besides the public authorities. Raises OSError, SSLError.
    """
    context = httpx.create_ssl_context(trust_env=False)
    for file in (*filter(None, map(os.environ.get, _AUTHORITIES)), *([ca_file] if ca_file else [])):
        context.load_verify_locations(cafile=file)
    if folder := os.environ.get("SSL_CERT_DIR"):
        context.load_verify_locations(capath=folder)
    return context


class Outbound:
    """Calls the outside for desks, channels and webhooks."""

    def __init__(self, guard: Guard, ca_file: str | None = None) -> None:
        """`ca_file`: certificates of authorities that are believed besides. Raises Refused where there are none."""
        self._guard = guard
        self._trusting: dict[str, Outbound] = {}
        try:
            context = _context(ca_file)
        except (OSError, ssl.SSLError) as error:
            raise Refused(
                f"certificates of authorities cannot be read from {ca_file or 'the environment'}: {error}"
            ) from None
        self._clients = [
            httpx.AsyncClient(
                transport=_Transport(guard, context), follow_redirects=False, trust_env=False, cookies=_NoCookies()
            )
            for _ in range(_POOLS)
        ]
        self._turns = itertools.cycle(self._clients)

    def trusting(self, ca_file: str | None) -> Outbound:
        """Return a client that believes some more authorities, closed with this one. Raises Refused."""
        if ca_file is None:
            return self
        if ca_file not in self._trusting:
            self._trusting[ca_file] = Outbound(self._guard, ca_file)
        return self._trusting[ca_file]

    async def close(self) -> None:
        """Close every connection."""
        for other in self._trusting.values():
            await other.close()
        for client in self._clients:
            await client.aclose()

    async def post(self, url: str, content: bytes, headers: Mapping[str, str], *, seconds: float) -> Answer:
        """POST within so many seconds in all. Raises Refused or Unreachable."""
        return await self.request("POST", url, content, headers, seconds=seconds)

    async def request(
        self,
        method: str,
        url: str,
        content: bytes,
        headers: Mapping[str, str],
        *,
        seconds: float,
        limit: int = _ANSWER_LIMIT,
    ) -> Answer:
        """Send within so many seconds in all and read at most `limit` bytes. Raises Refused or Unreachable."""
        try:
            target = httpx.URL(url)
            nameable = bool(target.host)
        except (httpx.InvalidURL, UnicodeError) as error:  # idna's own error is a UnicodeError
            raise Refused(f"not an address: {error}") from None
        if target.scheme not in {"http", "https"} or not nameable:
            raise Refused("only http and https addresses can be called")
        try:
            async with asyncio.timeout(seconds):
                client = next(self._turns)
                request = client.build_request(method, target, content=content, headers=headers, timeout=seconds)
                return await self._send(client, request, limit)
        except TimeoutError:
            raise Unreachable(f"no answer within {seconds:g} s", sent=True) from None

    async def _send(self, client: httpx.AsyncClient, request: httpx.Request, limit: int) -> Answer:
        try:
            response = await client.send(request, stream=True)
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
            raise Unreachable(f"{type(error).__name__}: {error}", sent=False) from None
        except (httpx.HTTPError, *_MANGLED) as error:
            raise Unreachable(f"{type(error).__name__}: {error}", sent=True) from None
        try:
            body = b""
            async for chunk in response.aiter_raw(16 * 1024):
                body += chunk
                if len(body) > limit:
                    break
        except (httpx.HTTPError, *_MANGLED):
            body = b""  # the status is what counts
        finally:
            await response.aclose()
        return Answer(response.status_code, response.headers, body[:limit], cut=len(body) > limit)
