"""A real browser without a window: Chromium, spoken to through its debugging pipe."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import json
import os
import shutil
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

_NAMES = ("chromium", "chromium-browser", "google-chrome")
PROGRAM = next((found for name in _NAMES if (found := shutil.which(name))), "")
_START = "import os, sys; i, o, *run = sys.argv[1:]; os.dup2(int(i), 3); os.dup2(int(o), 4); os.execv(run[0], run)"
"""The browser reads from its descriptor 3 and writes to 4."""


class Page:
    """One tab."""

    def __init__(self, browser: Browser, session: str) -> None:
        self._browser = browser
        self._session = session

    async def ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call the tab's debugger."""
        return await self._browser.ask(method, self._session, **parameters)

    async def open(self, url: str) -> None:
        """Go to an address."""
        found = await self.ask("Page.navigate", url=url)
        assert "errorText" not in found, found

    async def run(self, script: str) -> Any:
        """Return what an expression is, once it is no promise."""
        found = await self.ask("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    async def offline(self, *, off: bool) -> None:
        """Take the network away, or give it back."""
        conditions = {"offline": off, "latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
        await self.ask("Network.enable")
        await self.ask("Network.emulateNetworkConditions", **conditions)

    async def picture(self, file: Path) -> None:
        """Write what is seen."""
        _ = file.write_bytes(base64.b64decode((await self.ask("Page.captureScreenshot"))["data"]))


class Browser:
    """A browser that was started."""

    def __init__(self, out: int, into: asyncio.StreamReader) -> None:
        self._out = out
        self._into = into
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self.said: list[str] = []
        """What pages logged."""
        self.listening = asyncio.create_task(self._listen())

    async def ask(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        """Call the debugger."""
        number = next(self._numbers)
        message: dict[str, Any] = {"id": number, "method": method, "params": parameters}
        if session is not None:
            message["sessionId"] = session
        answered = self._waiting[number] = asyncio.get_running_loop().create_future()
        _ = os.write(self._out, json.dumps(message).encode() + b"\0")
        return await asyncio.wait_for(answered, 30)

    async def page(self) -> Page:
        """Open a tab."""
        target = (await self.ask("Target.createTarget", url="about:blank"))["targetId"]
        session = (await self.ask("Target.attachToTarget", targetId=target, flatten=True))["sessionId"]
        page = Page(self, session)
        await page.ask("Runtime.enable")
        await page.ask("Log.enable")
        await page.ask("Page.enable")  # scripts for new documents run only then
        return page

    async def _listen(self) -> None:
        while True:
            message = json.loads((await self._into.readuntil(b"\0"))[:-1])
            waiting = self._waiting.pop(message.get("id", 0), None)
            if waiting is not None and not waiting.done():
                if "error" in message:
                    waiting.set_exception(AssertionError(message["error"]))
                else:
                    waiting.set_result(message["result"])
            elif message.get("method") == "Log.entryAdded":
                self.said.append(message["params"]["entry"]["text"])
            elif message.get("method") == "Runtime.consoleAPICalled":
                told = message["params"]
                self.said.append(" ".join([told["type"], *(str(one.get("value")) for one in told["args"])]))


@contextlib.asynccontextmanager
async def browser(folder: Path) -> AsyncIterator[Browser]:
    """Start a browser, or skip the test where there is none."""
    if not PROGRAM:
        pytest.skip("no Chromium here")
    theirs_in, ours_out = os.pipe()
    ours_in, theirs_out = os.pipe()
    options = ("--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", _START, str(theirs_in), str(theirs_out), PROGRAM, *options),
        f"--user-data-dir={folder}",
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
        pass_fds=(theirs_in, theirs_out),
    )
    os.close(theirs_in)
    os.close(theirs_out)
    into = asyncio.StreamReader(limit=2**26)
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(into), os.fdopen(ours_in, "rb")
    )
    made = Browser(ours_out, into)
    try:
        yield made
    finally:
        made.listening.cancel()
        process.kill()
        await process.wait()
        transport.close()
        os.close(ours_out)
