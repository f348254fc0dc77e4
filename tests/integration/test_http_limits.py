"""What a client may send, how slowly, and how many there may be: each bound is told, and holds the process up."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import requests
from fastapi import APIRouter, Request

from shared.http.server import Limits
from shared.runtime.service import Service
from tests.support.shell import running
from tests.support.wait import until, until_true

MIB = 1024 * 1024
QUICK = Limits(connections=20, requests=4, header_seconds=1, body_seconds=1.5, idle_seconds=2)


def fake() -> tuple[Service, list[Request], asyncio.Event]:
    """Return a service that reads bodies, refuses unread ones, and keeps some waiting until it is told to go on."""
    router, waiting, go_on = APIRouter(), list[Request](), asyncio.Event()

    @router.post("/read")
    async def read(request: Request) -> int:  # pyright: ignore[reportUnusedFunction]
        return len(await request.body())

    @router.post("/unread")
    async def unread() -> int:  # pyright: ignore[reportUnusedFunction]
        return 0

    @router.get("/wait")
    async def wait(request: Request) -> int:  # pyright: ignore[reportUnusedFunction]
        waiting.append(request)
        await go_on.wait()
        return 0

    return Service("fake", router=router), waiting, go_on


@contextlib.asynccontextmanager
async def ready(made: Service, limits: Limits) -> AsyncIterator[str]:
    """Run a service and return its address once it answers."""
    started = asyncio.Event()
    async with running([made], limits=limits, on_ready=lambda _: started.set()) as client:
        await asyncio.wait_for(started.wait(), 10)
        yield str(client.base_url).rstrip("/")


@pytest.fixture
async def address() -> AsyncIterator[str]:
    async with ready(fake()[0], QUICK) as made:
        yield made


async def raw(address: str, *parts: bytes, pause: float = 0.0, seconds: float = 15.0) -> bytes:
    """Send bytes, and return everything that comes back until the server closes."""
    host, port = address.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))

    async def send() -> None:
        for part in parts:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(pause)

    sending = asyncio.create_task(send())
    try:
        async with asyncio.timeout(seconds):
            return await reader.read()
    finally:
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
        writer.close()


def problem(answer: bytes) -> tuple[int, dict[str, Any]]:
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"application/problem+json" in head.lower(), answer[:300]
    return int(head.split()[1]), json.loads(body)


# ---- sizes


@pytest.mark.parametrize("size", [MIB + 2, 20 * MIB])
@pytest.mark.parametrize("path", ["/read", "/unread", "/nowhere"])
async def test_every_client_sees_why_its_body_was_refused(address: str, path: str, size: int) -> None:
    """The rest is read and dropped: a connection that closes while a client sends shows it a broken pipe."""
    body, url = b"x" * size, address + path
    expected = {"/read": 413, "/unread": 200, "/nowhere": 404}[path]

    def with_urllib() -> int:
        try:
            with urllib.request.urlopen(urllib.request.Request(url, body, method="POST"), timeout=20) as answered:
                return answered.status
        except urllib.error.HTTPError as error:
            return error.code

    session = requests.Session()
    session.trust_env = False
    for _ in range(3):
        assert await asyncio.to_thread(with_urllib) == expected
        assert (await asyncio.to_thread(session.post, url, data=body, timeout=20)).status_code == expected
        async with httpx.AsyncClient(trust_env=False, timeout=20) as client:
            assert (await client.post(url, content=body)).status_code == expected


async def test_a_body_without_end_is_cut_off(address: str) -> None:
    """What is dropped has a bound, too."""
    chunk = b"%x\r\n%b\r\n" % (MIB, b"x" * MIB)
    head = b"POST /unread HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    with contextlib.suppress(ConnectionError):
        answer = await raw(address, head, *[chunk] * 200)
        assert answer.startswith(b"HTTP/1.1 200")


async def test_a_client_that_waits_for_leave_is_refused_at_once(address: str) -> None:
    begun = time.monotonic()
    head = b"POST /nowhere HTTP/1.1\r\nHost: x\r\nContent-Length: 90000000\r\nConnection: close\r\n"
    assert problem(await raw(address, head + b"Expect: 100-continue\r\n\r\n"))[0] == 404
    assert time.monotonic() - begun < 1


async def test_what_was_not_sent_is_not_taken_for_the_body(address: str) -> None:
    """Who waits for leave and is refused may send the next request at once: the connection is to close instead."""
    head = b"POST /nowhere HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\nExpect: 100-continue\r\n\r\n"
    answer = await raw(address, head)
    assert answer.startswith(b"HTTP/1.1 404")
    assert b"\r\nconnection: close\r\n" in answer


async def test_an_answer_is_not_written_into_another() -> None:
    """What cannot be read behind a request whose answer is under way, or has begun, ends the connection after it."""
    made, waiting, go_on = fake()
    whole = b"GET /wait HTTP/1.1\r\nHost: x\r\n\r\n"
    chunked = b" HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    following = (
        b"\x16\x03\x01\x02\r\n",
        b"POST /read" + chunked + b"zz\r\n",
        b"GET /healthz?" + b"q" * 9000 + b" HTTP/1.1\r\n\r\n",
        b"POST /read" + chunked + b"1\r\nx\r\n0\r\n" + b"X-Filler: %b\r\n" % (b"v" * 70_000),
    )
    async with ready(made, QUICK) as address:
        asked = [asyncio.create_task(raw(address, whole, wrong, pause=0.1)) for wrong in following]
        await until_true(lambda: len(waiting) == len(following))
        await asyncio.sleep(2)
        assert not any(one.done() for one in asked)
        go_on.set()
        for answer in await asyncio.gather(*asked):
            assert answer.startswith(b"HTTP/1.1 200")
            _, _, rest = answer.partition(b"\r\n\r\n")
            assert rest == b"0" or rest.startswith(b"0HTTP/1.1 4"), answer
        started = await raw(address, b"POST /unread" + chunked, b"1\r\nx\r\n", b"zz\r\n", pause=0.2)
        assert started.startswith(b"HTTP/1.1 200")
        assert started.endswith(b"0")
        assert started.count(b"HTTP/1.1") == 1
        status, _ = problem(await raw(address, b"POST /read" + chunked, b"zz\r\n", pause=0.2))
        assert status == 400


async def test_pipelined_requests_have_a_deadline_each() -> None:
    """The time of a body begins when it is its turn; who is answered behind another is not taken for idle."""
    made, waiting, go_on = fake()
    whole, closing = b"GET /wait HTTP/1.1\r\nHost: x\r\n\r\n", b"Connection: close\r\n\r\n"
    half = b"POST /read HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nhalf"
    async with ready(made, QUICK) as address:
        two = asyncio.create_task(raw(address, whole + whole.removesuffix(b"\r\n") + closing))
        late = asyncio.create_task(raw(address, whole + half))
        await until_true(lambda: len(waiting) == 2)
        await asyncio.sleep(QUICK.body_seconds + 1.5)
        assert not late.done(), "it waits for the answer before it"
        go_on.set()
        answers = await late
        assert [answers.count(line) for line in (b"HTTP/1.1 200", b"HTTP/1.1 408")] == [1, 1]
        assert (await two).count(b"HTTP/1.1 200") == 2


async def test_requests_that_wait_for_an_answer_are_bounded() -> None:
    """Thousands fit into what is read at once: those that may wait are answered, and then the connection ends."""
    made, waiting, go_on = fake()
    whole = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
    async with ready(made, QUICK) as address:
        host, port = address.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(whole.replace(b"healthz", b"wait"))
        await until_true(lambda: len(waiting) == 1)
        writer.write(whole * 10_000)
        await asyncio.sleep(0.5)
        go_on.set()
        answers = b""
        with contextlib.suppress(ConnectionResetError):  # what was not read any more is thrown away
            while part := await asyncio.wait_for(reader.read(65_536), 10):
                answers += part
        assert 1 <= answers.count(b"HTTP/1.1 200") <= 1 + 16
        writer.close()


async def test_who_answers_a_pipelined_request_is_not_idle() -> None:
    made, waiting, go_on = fake()
    whole = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
    async with ready(made, QUICK) as address:
        asked = asyncio.create_task(raw(address, whole + whole.replace(b"healthz", b"wait")))
        await until_true(lambda: len(waiting) == 1)
        await asyncio.sleep(QUICK.idle_seconds + 1.5)
        go_on.set()
        assert (await asked).count(b"HTTP/1.1 200") == 2


async def test_headers_and_address_are_bounded(address: str) -> None:
    """In one piece or in many, whole or without end: 64 KiB of headers, 8 KiB of address."""
    begin = b"GET /healthz HTTP/1.1\r\nHost: x\r\n"
    many = b"".join(b"X-%d: %b\r\n" % (n, b"v" * 1000) for n in range(70))
    assert problem(await raw(address, begin + many + b"\r\n"))[0] == 431
    assert problem(await raw(address, begin + b"X: ", *[b"v" * 65536] * 64))[0] == 431
    assert problem(await raw(address, begin, *[b"X-Filler: %b\r\n" % (b"v" * 4000)] * 64))[0] == 431
    assert problem(await raw(address, b"GET /healthz?" + b"q" * 9000 + b" HTTP/1.1\r\nHost: x\r\n\r\n"))[0] == 414
    status, body = problem(await raw(address, b"GET /", *[b"q" * 65536] * 256))
    assert (status, body["code"]) == (414, "url-too-long")
    fits = begin + b"".join(b"X-%d: %b\r\n" % (n, b"v" * 1000) for n in range(60)) + b"Connection: close\r\n\r\n"
    assert (await raw(address, fits)).startswith(b"HTTP/1.1 200")


async def test_trailers_are_bounded_and_no_headers(address: str) -> None:
    """What follows a chunked body: nobody reads it, and it may not choose who calls."""
    head = b"POST /read HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n1\r\nx\r\n0\r\n"
    assert (await raw(address, head + b"X-Forwarded-For: 192.0.2.1\r\n\r\n")).startswith(b"HTTP/1.1 200")
    begun = time.monotonic()
    answer = await raw(address, head, *[b"X-Filler: %b\r\n" % (b"v" * 4000)] * 64)
    assert problem(answer)[0] == 431
    assert time.monotonic() - begun < 5


async def test_what_is_not_http_is_refused(address: str) -> None:
    assert problem(await raw(address, b"\x16\x03\x01\x02\x00\x01\x00"))[0] == 400
    smuggled = b"POST /read HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    assert problem(await raw(address, smuggled))[0] == 400


async def test_an_upgrade_that_we_do_not_speak_is_answered_as_it_is(address: str) -> None:
    head = b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    assert (await raw(address, head)).startswith(b"HTTP/1.1 200")


# ---- time


async def test_half_a_request_is_ended(address: str) -> None:
    """Half a header, half a body, and nothing at all: none stays open for ever."""
    begun = time.monotonic()
    half_head, half_body, nothing = await asyncio.gather(
        raw(address, b"GET /healthz HTTP/1.1\r\nHo"),
        raw(address, b"POST /read HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nhalf"),
        raw(address),
    )
    assert problem(half_head)[0] == 408
    assert problem(half_body)[0] == 408
    assert nothing == b""
    assert time.monotonic() - begun < 8


async def test_one_byte_at_a_time_does_not_help(address: str) -> None:
    drip = [bytes([byte]) for byte in b"X-Drip: " + b"v" * 500]
    assert problem(await raw(address, b"GET /healthz HTTP/1.1\r\n", *drip, pause=0.05))[0] == 408
    body = [b"1\r\nx\r\n"] * 500
    head = b"POST /read HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert problem(await raw(address, head, *body, pause=0.05))[0] == 408


async def test_blank_lines_do_not_keep_a_connection(address: str) -> None:
    assert await raw(address, *[b"\r\n"] * 500, pause=0.05, seconds=10) == b""


# ---- numbers


async def test_connections_are_bounded(address: str) -> None:
    """The newest gets the place of one that is idle."""
    host, port = address.removeprefix("http://").split(":")
    opened = [await asyncio.open_connection(host, int(port)) for _ in range(QUICK.connections + 10)]
    async with httpx.AsyncClient(base_url=address, trust_env=False) as client:
        assert (await client.get("/healthz")).status_code == 200
    for _, writer in opened:
        writer.close()


async def test_one_address_cannot_hold_all_connections(address: str) -> None:
    """Of who holds most, what has not asked yet gives way to somebody else."""
    host, port = address.removeprefix("http://").split(":")
    held = [socket.create_connection((host, int(port))) for _ in range(QUICK.connections)]
    for one in held:
        one.sendall(b"GET /healthz HTTP/1.1\r\n")
    await asyncio.sleep(0.2)
    loop = asyncio.get_running_loop()
    for _ in range(5):
        other = socket.socket()
        other.bind(("127.0.0.2", 0))
        await loop.run_in_executor(None, other.connect, (host, int(port)))
        other.settimeout(5)
        other.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert (await loop.run_in_executor(None, other.recv, 100)).startswith(b"HTTP/1.1 200")
        other.close()
    for one in held:
        one.close()


async def test_what_is_refused_is_bounded_too() -> None:
    """Busy connections stay; of the newest each is answered, and the one before makes room."""
    made, waiting, go_on = fake()
    async with ready(made, Limits(connections=3, requests=50)) as address:
        host, port = address.removeprefix("http://").split(":")
        busy = [socket.create_connection((host, int(port))) for _ in range(3)]
        for one in busy:
            one.sendall(b"GET /wait HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        await until_true(lambda: len(waiting) == 3)
        told: list[bytes] = []
        refused: list[socket.socket] = []
        for _ in range(10):
            one = socket.create_connection((host, int(port)))
            one.settimeout(5)
            one.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            told.append(await asyncio.to_thread(one.recv, 1000))
            refused.append(one)
        assert {answer[:12] for answer in told} <= {b"HTTP/1.1 503", b"HTTP/1.1 200"}
        go_on.set()
        for one in busy:
            assert (await asyncio.to_thread(one.recv, 100)).startswith(b"HTTP/1.1 200")
        for one in (*busy, *refused):
            one.close()


async def test_a_body_that_is_dropped_holds_no_place() -> None:
    """Who was answered already and still sends keeps nobody out."""
    limits = Limits(connections=50, requests=2)
    async with ready(fake()[0], limits) as address, httpx.AsyncClient(base_url=address, trust_env=False) as client:
        half = b"POST /unread HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nhalf"
        sending = [asyncio.create_task(raw(address, half, seconds=30)) for _ in range(5)]
        await asyncio.sleep(0.5)
        assert not any(one.done() for one in sending)
        assert (await client.post("/read", content=b"x")).status_code == 200
        assert all(answer.startswith(b"HTTP/1.1 200") for answer in await asyncio.gather(*sending))


async def test_requests_under_way_are_bounded() -> None:
    """One more is told 503 at once; health is answered all the same."""
    made, waiting, go_on = fake()
    limits = Limits(connections=20, requests=4)
    async with ready(made, limits) as address, httpx.AsyncClient(base_url=address, trust_env=False) as client:
        under_way = [asyncio.create_task(client.get("/wait")) for _ in range(4)]
        await until_true(lambda: len(waiting) == 4)

        async def refused() -> bool:
            answer = await client.post("/read", content=b"x" * 1000)
            return answer.status_code == 503 and answer.json()["code"] == "too-busy" and "retry-after" in answer.headers

        await until(refused)
        assert (await client.get("/healthz")).status_code == 200
        go_on.set()
        assert {(await one).status_code for one in under_way} == {200}
        assert (await client.post("/read", content=b"x")).status_code == 200


async def test_where_all_connections_are_busy_the_newest_is_told() -> None:
    made, waiting, go_on = fake()
    limits = Limits(connections=3, requests=50)
    async with ready(made, limits) as address:
        host, port = address.removeprefix("http://").split(":")
        busy: list[socket.socket] = []
        for _ in range(3):
            one = socket.create_connection((host, int(port)))
            one.sendall(b"GET /wait HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            busy.append(one)
        await until_true(lambda: len(waiting) == 3)
        status, body = problem(await raw(address, b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"))
        assert (status, body["code"]) == (503, "too-busy")
        go_on.set()
        for one in busy:
            assert (await asyncio.to_thread(one.recv, 100)).startswith(b"HTTP/1.1 200")
            one.close()
