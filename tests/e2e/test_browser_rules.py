"""What browsers are told with every answer, and what pages are made of: nothing inline, nothing from elsewhere."""

from __future__ import annotations

import asyncio
import re
from datetime import timedelta
from typing import Any

import httpx
import pytest

from services.run import run_services
from shared.bus.client import Kafka
from shared.runtime.settings import Settings
from shared.wire.signing import Signer
from tests.support.house import SECRET, House
from tests.support.wait import until

SAFE = {"x-content-type-options": "nosniff", "referrer-policy": "no-referrer"}


async def pages(fiilis: House) -> dict[str, str]:
    """Return the address of each kind of page, and of the same without a good token."""
    signer, expires = Signer([SECRET]), fiilis.clock.now() + timedelta(days=1)
    assert (await fiilis.post({"customer": "acme", "kind": "mood", "score": 1, "respondent": "r-1"})).status_code == 202
    ticket = await fiilis.ticket()
    [page] = await until(lambda: fiilis.items("/v1/pages", state="sent"))
    facts: dict[str, dict[str, Any]] = {
        "/s/": {"customer": "acme", "respondent": "r-1", "touchpoint": "support"},
        "/t/": {"customer": "acme", "ticket": ticket["id"], "at": 0},
        "/a/": {"page": page["id"], "person": "architect-1", "turn": 1},
    }
    purposes: dict[str, Any] = {"/s/": "survey", "/t/": "status", "/a/": "acknowledge"}
    good = {folder: folder + signer.sign(purposes[folder], facts[folder], expires=expires) for folder in facts}
    wrong = {f"{folder} wrong": f"{folder}guessed" for folder in facts}
    kiosk = {"/kiosk/": f"/kiosk/{fiilis.public_key}", "/kiosk/ wrong": "/kiosk/pk_none"}
    return {**good, **wrong, **kiosk, "/docs": "/docs"}


async def test_pages_have_nothing_inline(fiilis: House) -> None:
    """One stylesheet, served by us; no style, script or handler in the page, and no word of 'unsafe' in its policy."""
    for name, address in (await pages(fiilis)).items():
        answer = await fiilis.client.get(address)
        assert answer.headers["content-type"].startswith("text/html"), (name, answer.status_code, answer.text)
        policy = answer.headers["content-security-policy"]
        assert "unsafe" not in policy, name
        assert policy.startswith("default-src 'none'"), name
        assert "style-src 'self'" in policy, name
        assert "frame-ancestors 'none'" in policy, name
        assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?! src=)|https?://(?!127\.0\.0\.1)", answer.text), name
        [href] = re.findall(r'<link rel="stylesheet" href="([^"]+)">', answer.text)
        style = await fiilis.client.get(httpx.URL(fiilis.address + address).join(href))
        assert (style.status_code, style.headers["content-type"]) == (200, "text/css; charset=utf-8"), name
        known = {"If-None-Match": style.headers["etag"]}
        assert (await fiilis.client.get(str(style.url), headers=known)).status_code == 304
        assert answer.headers["cache-control"] == "no-store", name


async def test_every_answer_is_safe(fiilis: House) -> None:
    """Also a refusal, one of the hot path, and one of a path that is nobody's; what may be kept says so itself."""
    key = {"Authorization": f"Bearer {fiilis.key}"}
    for method, path, headers in (
        ("GET", "/v1/customers", key),
        ("GET", "/v1/customers", {}),
        ("GET", "/v1/customers/acme/export.csv", key),
        ("GET", "/v1/oncall?customer=acme", key),
        ("POST", "/v1/feedback", {}),
        ("GET", "/v1/feedback", {}),
        ("GET", "/nowhere", {}),
        ("GET", "/healthz", {}),
        ("GET", "/openapi.json", {}),
        ("GET", "/v1/customers?%00", key),
        ("GET", "/healthz", {"x": "a" * 70_000}),  # refused before it reaches the application
    ):
        answer = await fiilis.client.request(method, path, headers=headers)
        told = (method, path, answer.status_code)
        assert {name: answer.headers.get(name) for name in SAFE} == SAFE, told
        assert answer.headers["cache-control"] == "no-store", told
        assert "default-src 'none'" in answer.headers["content-security-policy"], told
        assert "strict-transport-security" not in answer.headers
    widget = await fiilis.client.get("/widget.js")
    assert widget.headers["cache-control"] == "public, max-age=3600"
    assert len(widget.headers.get_list("x-content-type-options")) == 1


async def test_https_by_a_setting(kafka: Kafka, database_url: str) -> None:
    """Whoever serves by HTTPS alone says so; on a port of its own there is the reference, too."""
    settings = Settings(
        kafka=kafka.bootstrap,
        topic_prefix=kafka.prefix,
        database_url=database_url,
        secret=SECRET,
        hsts_seconds=31536000,
    )
    settings = settings.model_copy(update={"ops_port": _free_port()})
    stop, listening = asyncio.Event(), asyncio.get_running_loop().create_future()
    running = asyncio.create_task(
        run_services(["scoring"], settings, port=0, stop=stop, on_ready=lambda _: None, besides=lambda _: ())
    )
    try:
        async with httpx.AsyncClient(trust_env=False) as client:

            async def served() -> httpx.Response | None:
                try:
                    return await client.get(f"http://127.0.0.1:{settings.ops_port}/docs")
                except httpx.TransportError:
                    return None

            page = await until(served)
            assert page is not None
            assert "GET /v1/customers/{customer}/scores" in page.text
            assert (await client.get(f"http://127.0.0.1:{settings.ops_port}/openapi.json")).json()["paths"]
            assert (await client.get(f"http://127.0.0.1:{settings.ops_port}/docs/style.css")).status_code == 200
    finally:
        listening.cancel()
        stop.set()
        await running


def _free_port() -> int:
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.mark.parametrize("seconds", [0, 31536000])
async def test_hsts(seconds: int) -> None:
    """By default nothing is said: a demo on plain HTTP must stay reachable."""
    from starlette.responses import PlainTextResponse

    from shared.http.headers import Headers

    transport = httpx.ASGITransport(Headers(PlainTextResponse("x"), hsts_seconds=seconds))
    async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
        said = (await client.get("/")).headers.get("strict-transport-security")
    assert said == (f"max-age={seconds}" if seconds else None)
