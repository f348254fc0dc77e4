"""The widget in a page of another origin, and the kiosk, in a real browser: an answer is given, and lost by nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from tests.support.browser import Browser, Page, browser
from tests.support.house import House
from tests.support.wait import until

SHADOW = "document.querySelector('fiilis-survey').shadowRoot"


@pytest.fixture
async def chromium(tmp_path: Path) -> AsyncIterator[Browser]:
    async with browser(tmp_path / "browser") as made:
        yield made


@pytest.fixture
async def site(fiilis: House) -> AsyncIterator[str]:
    """Serve a customer's page, from an origin that the key allows."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        path = (await reader.readuntil(b"\r\n\r\n")).split()[1].decode()
        attributes = path.partition("?")[2].replace("&", " ").replace("%20", " ")
        script = f'<script src="{fiilis.address}/widget.js" data-key="{fiilis.public_key}" {attributes}></script>'
        body = f"<!doctype html><html lang=en><body><h1>Shop</h1><div id=here></div>{script}</body></html>".encode()
        policy = f"default-src 'none'; script-src {fiilis.address}; connect-src {fiilis.address}"
        head = f"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Security-Policy: {policy}\r\n"
        writer.write(f"{head}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    origin = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    keys = [replace(key, origins=(origin,)) if key.kind == "publishable" else key for key in fiilis.company.keys]
    await fiilis.apply(replace(fiilis.company, keys=tuple(keys)))
    yield origin
    server.close()


async def said(fiilis: House, count: int) -> list[dict[str, Any]]:
    items = await fiilis.items("/v1/customers/acme/feedback")
    return items if len(items) == count else []


async def seen(page: Page, selector: str) -> None:
    await until(lambda: page.run(f"!!document.querySelector('fiilis-survey')?.shadowRoot.querySelector('{selector}')"))


async def click(page: Page, selector: str) -> None:
    await seen(page, selector)
    await page.run(f"{SHADOW}.querySelector('{selector}').click()")


async def test_a_face_with_a_comment(chromium: Browser, fiilis: House, site: str) -> None:
    """The button opens it, a face and a few words are sent; the page's own content security policy stands."""
    page = await chromium.page()
    await page.open(f"{site}/?data-touchpoint=support&data-language=fi")
    await click(page, ".open")
    assert await page.run(f"{SHADOW}.querySelector('h2').textContent") == "Miten meni?"
    assert await page.run(f"{SHADOW}.activeElement.dataset.score") == "4", "what is open can be used by keyboard"
    await click(page, '[data-score="1"]')
    await page.run(f"{SHADOW}.querySelector('textarea').value = 'Kukaan ei <b>soittanut</b>'")
    await click(page, ".send")
    [answer] = await until(lambda: said(fiilis, 1))
    assert (answer["kind"], answer["score"], answer["touchpoint"]) == ("mood", 1, "support")
    assert answer["trust"] == "anonymous"
    assert (answer["comment"], answer["channel"], answer["language"]) == ("Kukaan ei <b>soittanut</b>", "widget", "fi")
    assert "Kiitos" in await page.run(f"{SHADOW}.textContent")
    await until(lambda: page.run("Object.keys(localStorage).filter((key) => key.startsWith('fiilis:')).length === 0"))
    assert chromium.said == []


async def test_numbers_in_the_page(chromium: Browser, fiilis: House, site: str) -> None:
    """Shown where the page wants it; who is vouched for answers as such; a page that is left sends what it has."""
    asked = {"customer": "acme", "respondent": "r-17"}
    token = (await fiilis.send("POST", "/v1/respondents", asked, status=201))["respondent_token"]
    page = await chromium.page()
    await page.open(f"{site}/?data-kind=nps&data-target=div&data-respondent-token={token}")
    await seen(page, '[data-score="10"]')
    assert await page.run(f"{SHADOW}.querySelectorAll('.scale button').length") == 11
    assert await page.run("document.querySelector('#here fiilis-survey') !== null")
    await click(page, '[data-score="3"]')
    await page.open("about:blank")
    [answer] = await until(lambda: said(fiilis, 1))
    assert (answer["kind"], answer["score"], answer["respondent"], answer["trust"]) == ("nps", 3, "r-17", "verified")


async def test_without_a_network_the_answer_waits(chromium: Browser, fiilis: House, site: str) -> None:
    """Given while the network is away, it is sent when it is back, also by a later page; it counts once."""
    page = await chromium.page()
    await page.open(site)
    await click(page, ".open")
    await page.offline(off=True)
    await click(page, '[data-score="2"]')
    await click(page, ".send")
    await until(lambda: page.run("Object.keys(localStorage).filter((key) => key.startsWith('fiilis:')).length === 1"))
    assert await fiilis.items("/v1/customers/acme/feedback") == []
    await page.offline(off=False)
    await page.open(site)
    [answer] = await until(lambda: said(fiilis, 1))
    assert answer["score"] == 2
    await until(lambda: page.run("Object.keys(localStorage).filter((key) => key.startsWith('fiilis:')).length === 0"))


async def test_a_page_that_the_key_does_not_allow(chromium: Browser, fiilis: House, site: str) -> None:
    """What is wrong can be mended: the answer waits until the directory allows the page."""
    await fiilis.apply(replace(fiilis.company, keys=fiilis.company.keys))
    page = await chromium.page()
    await page.open(site)
    await click(page, ".open")
    await click(page, '[data-score="4"]')
    await click(page, ".send")
    await until(lambda: page.run("Object.keys(localStorage).filter((key) => key.startsWith('fiilis:')).length === 1"))
    keys = [replace(key, origins=(site,)) if key.kind == "publishable" else key for key in fiilis.company.keys]
    await fiilis.apply(replace(fiilis.company, keys=tuple(keys)))
    await page.open(site)
    assert await until(lambda: said(fiilis, 1))


async def leave(page: Page, site: str, *answers: str) -> None:
    """Put answers where an earlier page would have kept them: JavaScript objects, with ids of their own."""
    await page.open(f"{site}/?data-target=div")
    await seen(page, ".scale")
    await page.run(
        f"""for (const answer of [{", ".join(answers)}]) {{
            const id = crypto.randomUUID();
            const kept = {{ id, kind: "mood", score: 4, ...answer }};
            const place = `fiilis:${{document.querySelector("script").dataset.key.slice(-12)}}:${{id}}`;
            localStorage.setItem(place, JSON.stringify(kept));
        }}"""
    )
    await page.open(f"{site}/?data-target=div&again")


async def test_what_waits_is_sent_whatever_it_is(chromium: Browser, fiilis: House, site: str) -> None:
    """A clock that is fast, a token that ran out, more than one request may carry, and one that nobody would take."""
    asked = {"customer": "acme", "respondent": "r-17", "expires": "1s"}
    token = (await fiilis.send("POST", "/v1/respondents", asked, status=201))["respondent_token"]
    fiilis.move(seconds=2)
    page = await chromium.page()
    await page.ask(
        "Page.addScriptToEvaluateOnNewDocument",
        source="const real = Date.now; Date.now = () => real() + 7200e3;",  # two hours ahead
    )
    now, ahead = "new Date().toISOString()", "new Date(Date.now() + 3600e3).toISOString()"
    before = "new Date(Date.now() - 3 * 3600e3).toISOString()"  # an hour ago, in truth
    long = "'\u20ac'.repeat(4000)"
    await leave(
        page,
        site,
        f"{{ occurred_at: {ahead}, comment: 'fast' }}",
        f"{{ occurred_at: {now}, comment: 'token', respondent_token: '{token}' }}",
        f"{{ occurred_at: {now}, score: 9, comment: 'wrong' }}",
        *(f"{{ occurred_at: {before}, comment: {long} }}" for _ in range(8)),
    )
    stored = await until(lambda: said(fiilis, 10))
    await until(lambda: page.run("Object.keys(localStorage).filter((key) => key.startsWith('fiilis:')).length === 0"))
    by = {answer["comment"][:5]: answer for answer in stored}
    assert (by["token"]["trust"], by["token"]["respondent"]) == ("anonymous", None)
    assert datetime.fromisoformat(by["fast"]["occurred_at"]) < fiilis.clock.now() + timedelta(minutes=1)
    assert datetime.fromisoformat(by["\u20ac" * 5]["occurred_at"]) < fiilis.clock.now() - timedelta(minutes=50)
    assert [line for line in chromium.said if "refused" in line and "must be from 1 to 4" in line]


async def test_several_are_refused_and_each_is_tried_alone(chromium: Browser, fiilis: House, site: str) -> None:
    """A proxy refuses a batch of which one is wrong, and one was cut in the middle of a character: two are taken."""
    page = await chromium.page()
    proxy = """
        const real = window.fetch;
        window.fetch = (url, asked) => JSON.parse(asked.body).length > 1
            ? Promise.resolve(new Response("<h1>413</h1>", { status: 413 })) : real(url, asked);
        addEventListener("fiilis:refused", (event) => { window.refused = event.detail.problem.errors[0].path; }, true);
    """
    await page.ask("Page.addScriptToEvaluateOnNewDocument", source=proxy)
    now = "new Date().toISOString()"
    await leave(
        page,
        site,
        f"{{ occurred_at: {now}, score: 9, comment: 'wrong' }}",
        f"{{ occurred_at: {now}, comment: 'good' }}",
        f"{{ occurred_at: {now}, comment: 'cut \\ud83d' }}",
    )
    stored = await until(lambda: said(fiilis, 2))
    assert {answer["comment"] for answer in stored} == {"good", "cut \ufffd"}
    await until(lambda: page.run("Object.keys(localStorage).filter((key) => key.startsWith('fiilis:')).length === 0"))
    assert await page.run("window.refused") == "score"


async def test_a_clock_that_was_never_set(chromium: Browser, fiilis: House, site: str) -> None:
    """A tablet that believes it is 1970: what is given is taken, with the time at which it arrives."""
    page = await chromium.page()
    clock = "Date.now = () => 86400e3; Date.prototype.toISOString = () => '1970-01-02T00:00:00.000Z';"
    await page.ask("Page.addScriptToEvaluateOnNewDocument", source=clock)
    await page.open(f"{site}/?data-target=div")
    await click(page, '[data-score="3"]')
    await click(page, ".send")
    [answer] = await until(lambda: said(fiilis, 1))
    assert datetime.fromisoformat(answer["occurred_at"]) > fiilis.clock.now() - timedelta(minutes=1)


async def test_escape_in_the_page_is_not_the_widgets(chromium: Browser, fiilis: House, site: str) -> None:
    page = await chromium.page()
    await page.open(f"{site}/?data-target=div")
    await click(page, '[data-score="3"]')
    escape = "new KeyboardEvent('keydown', { key: 'Escape', bubbles: true })"
    await page.run(f"{SHADOW}.querySelector('textarea').dispatchEvent({escape})")
    await click(page, ".send")
    assert await until(lambda: said(fiilis, 1))


async def test_the_kiosk(chromium: Browser, fiilis: House, tmp_path: Path) -> None:
    """Four faces, one press; pressed again at once it is still one; and it is ready for the next visitor."""
    page = await chromium.page()
    await page.open(f"{fiilis.address}/kiosk/{fiilis.public_key}?touchpoint=billing&language=sv")
    await seen(page, '[data-score="1"]')
    assert await page.run(f"[...{SHADOW}.querySelectorAll('.scale span')].map((one) => one.textContent).join()") == (
        "Mycket bra,Bra,Inte så bra,Dåligt"
    )
    await page.picture(tmp_path / "kiosk.png")
    pressed = f"{SHADOW}.querySelector('[data-score=\"2\"]')?.click(); {SHADOW}.querySelectorAll('button').length"
    assert [await page.run(pressed), await page.run(pressed)] == [0, 0], "there is nothing left to press"
    assert "Tack" in await page.run(f"{SHADOW}.textContent")
    [answer] = await until(lambda: said(fiilis, 1))
    assert (answer["score"], answer["channel"], answer["touchpoint"]) == (2, "kiosk", "billing")
    await click(page, '[data-score="4"]')
    assert await until(lambda: said(fiilis, 2))
    assert chromium.said == []


# ---- what needs no browser


async def test_what_browsers_load(fiilis: House) -> None:
    script = await fiilis.client.get("/widget.js")
    assert (script.status_code, script.headers["content-type"]) == (200, "text/javascript; charset=utf-8")
    assert script.headers["cache-control"] == "public, max-age=3600"
    assert len(script.content) < 20_000
    again = await fiilis.client.get("/widget.js", headers={"If-None-Match": script.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    page = await fiilis.client.get(f"/kiosk/{fiilis.public_key}", headers={"Accept-Language": "fi"})
    assert (page.status_code, page.headers["referrer-policy"]) == (200, "no-referrer")
    assert "script-src 'self'" in page.headers["content-security-policy"]
    assert 'lang="fi"' in page.text
    for key in ("pk_unknown", fiilis.key, "%3Cscript%3E"):
        none = await fiilis.client.get(f"/kiosk/{key}")
        assert (none.status_code, "<script" in none.text, fiilis.key in none.text) == (404, False, False)
    wrong = await fiilis.client.get(f"/kiosk/{fiilis.public_key}?touchpoint=garden")
    assert (wrong.status_code, wrong.json()["errors"][0]["path"]) == (422, "touchpoint")
    wrong = await fiilis.client.get(f"/kiosk/{fiilis.public_key}?colour=red")
    assert (wrong.status_code, wrong.json()["errors"][0]["path"]) == (422, "colour")
