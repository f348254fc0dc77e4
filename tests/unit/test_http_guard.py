"""Calls go to the outside only, to the address that was checked, and no answer can hurt us."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from ipaddress import ip_address

import pytest

from shared.errors import Misconfigured
from shared.http.client import _POOLS as POOLS  # pyright: ignore[reportPrivateUsage]
from shared.http.client import Answer, Guard, Outbound, Refused, Unreachable

INTERNAL = [
    "127.0.0.1",
    "127.255.255.254",
    "0.0.0.0",
    "0.1.2.3",
    "10.0.0.1",
    "172.16.0.1",
    "172.31.255.255",
    "192.168.1.1",
    "169.254.169.254",
    "100.64.0.1",
    "100.127.255.255",
    "198.18.0.1",
    "192.0.2.1",
    "224.0.0.1",
    "239.255.255.255",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "fe80::1",
    "fc00::1",
    "fd12:3456::1",
    "ff02::1",
    "2001:db8::1",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "::ffff:169.254.169.254",
    "::ffff:100.64.0.1",
    "::ffff:224.0.0.1",
    "::ffff:0.0.0.0",
]
DISGUISED = ["64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "2002:a00:1::1", "::7f00:1", "fec0::1"]
PUBLIC = ["1.1.1.1", "93.184.215.14", "172.32.0.1", "100.128.0.1", "2606:4700:4700::1111", "::ffff:1.1.1.1"]


# ---- which addresses


@pytest.mark.parametrize("address", INTERNAL)
@pytest.mark.parametrize("setting", ["", " ", "false"])
def test_internal_addresses_are_refused(address: str, setting: str) -> None:
    """A webhook that somebody configured cannot reach our own network, the cloud's metadata, or ourselves."""
    assert not Guard(setting).allows("hooks.example.test", ip_address(address))


@pytest.mark.parametrize("address", DISGUISED)
def test_internal_addresses_in_disguise_are_refused(address: str) -> None:
    """NAT64, 6to4 and the old forms carry an internal IPv4 address inside one that looks public."""
    assert not Guard().allows("hooks.example.test", ip_address(address))


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_are_called(address: str) -> None:
    assert Guard().allows("hooks.example.test", ip_address(address))


@pytest.mark.parametrize("setting", ["true", "TRUE", " true "])
def test_the_demo_allows_everything(setting: str) -> None:
    assert all(Guard(setting).allows("anything", ip_address(address)) for address in (*INTERNAL, *PUBLIC))


def test_a_list_allows_what_it_names() -> None:
    """Networks and hosts, and nothing beside them; a mapped address is its IPv4 address."""
    guard = Guard("10.1.0.0/16, desk.internal ,127.0.0.1, fd00:1::/64")
    assert guard.allows("x", ip_address("10.1.2.3"))
    assert guard.allows("x", ip_address("::ffff:10.1.2.3"))
    assert guard.allows("x", ip_address("127.0.0.1"))
    assert guard.allows("x", ip_address("fd00:1::5"))
    assert guard.allows("DESK.internal", ip_address("192.168.1.1"))
    assert guard.allows("x", ip_address("1.1.1.1"))
    for host, address in (
        ("x", "10.2.0.1"),
        ("x", "127.0.0.2"),
        ("x", "fd00:2::5"),
        ("evil.desk.internal", "192.168.1.1"),
        ("desk.internal.evil.example", "192.168.1.1"),
    ):
        assert not guard.allows(host, ip_address(address)), (host, address)


@pytest.mark.parametrize("setting", ["10.0.0.0/33", "desk.internal/", "true;false", "http://desk.internal"])
def test_a_list_that_cannot_be_read_stops_the_start(setting: str) -> None:
    """Better no start than a guard that allows something else than was meant."""
    with pytest.raises(Misconfigured, match="FIILIS_ALLOW_PRIVATE_TARGETS"):
        _ = Guard(setting)


# ---- calls

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


@dataclass
class Desk:
    """A server on 127.0.0.1 that answers every request with the same bytes and keeps what it was asked."""

    answer: bytes | None
    """None: it takes the request and never answers."""
    endless: bytes = b""
    """Sent again and again behind the answer."""
    breaks_off: bool = False
    """It closes the connection behind the answer."""
    port: int = 0
    asked: list[bytes] = field(default_factory=list[bytes])
    connections: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook?a=1"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0] or 0)
                self.asked.append(head + await reader.readexactly(length))
                if self.answer is None:
                    _ = await reader.read()
                    break
                writer.write(self.answer)
                await writer.drain()
                if self.breaks_off:
                    break
                while self.endless:
                    writer.write(self.endless)
                    await writer.drain()
        writer.close()


@asynccontextmanager
async def desk(answer: bytes | None = OK, *, endless: bytes = b"", breaks_off: bool = False) -> AsyncIterator[Desk]:
    found = Desk(answer, endless, breaks_off)
    server = await asyncio.start_server(found.serve, "127.0.0.1")
    found.port = server.sockets[0].getsockname()[1]
    try:
        yield found
    finally:
        server.close()


@asynccontextmanager
async def outbound(setting: str = "") -> AsyncIterator[Outbound]:
    found = Outbound(Guard(setting))
    try:
        yield found
    finally:
        await found.close()


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "127.1", "2130706433", "0x7f.1", "localhost", "[::ffff:127.0.0.1]", "a:b@127.0.0.1", "0.0.0.0"],
)
async def test_ourselves_are_never_called(host: str) -> None:
    """By whatever name: the resolved address is what counts, and no connection is made."""
    async with desk() as it, outbound() as client:
        with pytest.raises(Refused):
            _ = await client.post(f"http://{host}:{it.port}/", b"{}", {}, seconds=5)
        assert it.asked == []


async def test_what_the_setting_allows_is_called() -> None:
    async with desk(b"HTTP/1.1 201 Created\r\nx-request-id: 7\r\ncontent-length: 2\r\n\r\nok") as it:
        for setting in ("true", "127.0.0.0/8", "127.0.0.1"):
            async with outbound(setting) as client:
                answer = await client.post(it.url, b'{"a":1}', {"webhook-id": "w-1"}, seconds=5)
            assert (answer.status, answer.body, answer.headers["x-request-id"]) == (201, b"ok", "7")
        head, _, body = it.asked[0].partition(b"\r\n\r\n")
        assert head.startswith(b"POST /hook?a=1 HTTP/1.1\r\n")
        assert b"\r\nwebhook-id: w-1" in head
        assert body == b'{"a":1}'


async def test_the_other_side_sees_the_name_that_was_called() -> None:
    """We connect to the address that was checked; who serves many names still sees which one was meant."""
    async with desk() as it, outbound("127.1") as client:
        _ = await client.post(f"http://127.1:{it.port}/", b"", {}, seconds=5)
        assert f"\r\nhost: 127.1:{it.port}\r\n".encode() in it.asked[0].lower()


@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_redirects_are_not_followed(status: int) -> None:
    """The guard's answer is about one address; a redirect would lead around it."""
    async with desk() as other:
        redirect = f"HTTP/1.1 {status} Found\r\nlocation: {other.url}\r\ncontent-length: 0\r\n\r\n".encode()
        async with desk(redirect) as it, outbound("true") as client:
            answer = await client.post(it.url, b"", {}, seconds=5)
            assert answer.status == status
            assert len(it.asked) == 1
        assert other.asked == []


async def test_no_more_of_an_answer_is_read_than_64_kib() -> None:
    """Whoever answers without end costs neither memory nor time."""
    async with desk(b"HTTP/1.1 200 OK\r\n\r\n", endless=b"x" * 10_000) as it, outbound("true") as client:
        answer = await client.post(it.url, b"", {}, seconds=20)
        assert answer.status == 200
        assert answer.body == b"x" * 65_536


async def test_a_connection_is_kept_for_its_name_alone() -> None:
    """Another name on the same address is another server, whose certificate nobody has checked on that connection."""
    async with desk() as it, outbound("true") as client:
        for _ in range(2):
            for host in ("127.0.0.1", "localhost"):
                for _ in range(POOLS):
                    _ = await client.post(f"http://{host}:{it.port}/", b"", {}, seconds=5)
        assert (len(it.asked), it.connections) == (4 * POOLS, 2 * POOLS)


async def test_one_answer_leaves_nothing_for_another_call() -> None:
    """What one desk sets as a cookie is not sent to whom else lives at the same address."""
    async with desk(b"HTTP/1.1 200 OK\r\nset-cookie: session=acme\r\ncontent-length: 0\r\n\r\n") as it:
        async with outbound("true") as client:
            for _ in range(2):
                _ = await client.post(it.url, b"", {}, seconds=5)
        assert len(it.asked) == 2
        assert b"acme" not in it.asked[1]


async def test_who_never_answers_may_have_got_it() -> None:
    """After the time is over it is unknown whether the page arrived: it must be looked up, not blindly repeated."""
    async with desk(answer=None) as it, outbound("true") as client:
        with pytest.raises(Unreachable, match=r"within 0\.2 s") as caught:
            _ = await client.post(it.url, b"", {}, seconds=0.2)
        assert caught.value.sent
        assert len(it.asked) == 1


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 20", b"SMTP ready\r\n"])
async def test_who_breaks_off_may_have_got_it(answer: bytes) -> None:
    async with desk(answer, breaks_off=True) as it, outbound("true") as client:
        with pytest.raises(Unreachable) as caught:
            _ = await client.post(it.url, b"", {}, seconds=5)
        assert caught.value.sent


async def test_who_does_not_listen_got_nothing() -> None:
    """Refused connection: it can be sent again without asking."""
    async with desk() as it:
        url = it.url
    async with outbound("true") as client:
        with pytest.raises(Unreachable) as caught:
            _ = await client.post(url, b"", {}, seconds=5)
        assert not caught.value.sent


async def test_a_name_that_does_not_resolve_got_nothing() -> None:
    async with outbound("true") as client:
        with pytest.raises(Unreachable) as caught:
            _ = await client.post("http://nowhere.invalid/", b"", {}, seconds=30)
        assert not caught.value.sent


@pytest.mark.parametrize(
    "url",
    [
        "",
        "hooks",
        "/hook",
        "ftp://hooks.example.test/",
        "file:///etc/passwd",
        "http://",
        "http:///hook",
        "http://[::1",
        "http://a\0b/",
        "http://\ud800.example/",
    ],
)
async def test_what_is_no_address_is_refused(url: str) -> None:
    """A mistake in the directory is told as one; it is not tried again."""
    async with outbound("true") as client:
        with pytest.raises(Refused):
            _ = await client.post(url, b"", {}, seconds=5)


@pytest.mark.parametrize("host", ["a" * 64 + ".example", "a..example", "xn--", "-.example"])
async def test_a_name_that_can_be_no_name_is_refused_or_not_found(host: str) -> None:
    """A host that cannot even be asked for stops one contact, never the service that pages everybody."""
    async with outbound("true") as client:
        with pytest.raises((Refused, Unreachable)):
            _ = await client.post(f"http://{host}/", b"", {}, seconds=30)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("120", 120),
        ("0", 0),
        ("", None),
        ("-1", None),
        ("soon", None),
        ("1.5", None),
        ("²", None),
        ("3600", 3600),
        ("3601", 3600),
        ("1789000000", 3600),
        ("1789000000000", 3600),
        ("9" * 400, 3600),
        ("9" * 9_000, 3600),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 3600),
        ("Fri, 31 Dec 9999 23:59:59 -9999999999", None),
        ("Fri, 31 Dec 99999 23:59:59 GMT", None),
        ("Mon, 00 Jan 0000 00:00:00 GMT", None),
    ],
)
def test_retry_after_is_believed_up_to_an_hour(value: str, seconds: float | None) -> None:
    """Whatever somebody writes there (a moment in seconds or milliseconds, too), it is a wait that ends, or nothing."""
    assert Answer(503, {"retry-after": value}, b"").retry_after == seconds


def test_retry_after_may_be_a_date() -> None:
    """RFC 9110 knows three forms."""
    at = datetime.now(UTC) + timedelta(seconds=90)
    for form in (format_datetime(at, usegmt=True), f"{at:%A, %d-%b-%y %H:%M:%S} GMT", f"{at:%a %b %e %H:%M:%S %Y}"):
        asked = Answer(429, {"retry-after": form}, b"").retry_after
        assert asked is not None, form
        assert 85 < asked <= 90, form


def test_no_retry_after_is_none() -> None:
    assert Answer(503, {}, b"").retry_after is None


SPECIAL = [
    # The registries' newest, which Python's tables have by its version; and metadata that stands at public addresses.
    *("192.0.0.9", "192.0.0.10", "192.0.0.192", "192.31.196.1", "192.52.193.1", "192.88.99.1", "192.175.48.1"),
    *("168.63.129.16", "100.100.100.200", "169.254.170.2", "203.0.113.9", "198.51.100.9"),
    *("100::1", "100:0:0:1::1", "2001::1", "2001:1::1", "2001:2::1", "2001:3::1", "2001:4:112::1", "2001:20::1"),
    *("2001:30::1", "2620:4f:8000::1", "3fff::1", "5f00::1", "4000::1", "fd00:ec2::254", "64:ff9b:1::a00:1"),
    *("::ffff:168.63.129.16", "64:ff9b::a83f:8110", "2002:a83f:8110::1", "::ffff:0:a00:1"),
    *("2001:0:4136:e378:8000:63bf:3fff:fdd2", "2606:4700::5efe:10.0.0.1", "2606:4700::200:5efe:a9fe:a9fe"),
]


@pytest.mark.parametrize("address", SPECIAL)
def test_special_addresses_are_refused_by_our_own_tables(address: str) -> None:
    """Not by those of Python, which say of some of these that they are global, by its version."""
    assert not Guard().allows("hooks.example.test", ip_address(address))


@pytest.mark.parametrize(
    "address", ["2002:101:101::1", "64:ff9b::101:101", "2a00:1450:4010::5efe:1.1.1.1", "2001:200::1"]
)
def test_what_leads_to_a_public_address_is_called(address: str) -> None:
    assert Guard().allows("hooks.example.test", ip_address(address))


def test_tables_do_not_ask_python(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever its `is_global` says."""
    for kind in (type(ip_address("1.1.1.1")), type(ip_address("::1"))):
        monkeypatch.setattr(kind, "is_global", property(lambda _: True))
    assert not any(Guard().allows("x", ip_address(address)) for address in (*INTERNAL, *DISGUISED, *SPECIAL))
