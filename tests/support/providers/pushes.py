"""Push: ntfy and PagerDuty."""

from __future__ import annotations

from typing import Any, ClassVar

import httpx
from msgspec.structs import replace

from shared.directory.model import Contact, Directory
from tests.support.providers import Call, FakeProvider, Reply


class FakeNtfy(FakeProvider):
    """Publishes JSON that is sent to its root; a repetition replaces what it repeats."""

    channel = "ntfy"
    environ: ClassVar[dict[str, str]] = {"FAKE_NTFY_TOKEN": FakeProvider.token}

    def __init__(self) -> None:
        super().__init__()
        self.notifications: list[dict[str, Any]] = []

    def applied_to(self, directory: Directory) -> Directory:
        return replace(directory, ntfy_token_env="FAKE_NTFY_TOKEN")

    def contact(self) -> Contact:
        return Contact("ntfy", f"{self.url}/duty-7f3a")

    def take(self, call: Call) -> Reply:
        if call.headers.get("authorization") != f"Bearer {self.token}":
            return Reply(403, {"code": 40301, "http": 403, "error": "forbidden"})
        told = call.json
        if call.path != "/" or not told["topic"]:
            return Reply(404, {"code": 40401, "http": 404, "error": "page not found"})
        key = call.headers["x-sequence-id"]
        if key not in self.keys:
            self.phone[told["topic"]].append(told["message"])
            self.notifications.append(told)
        self.keys.append(key)
        return Reply(200, {"id": f"n{len(self.keys)}", "event": "message", "topic": told["topic"]})

    async def press(self, notification: dict[str, Any]) -> httpx.Response:
        """Do what the notification's button does."""
        (action,) = notification["actions"]
        return await self.client.request(action["method"], action["url"])


class FakePagerDuty(FakeProvider):
    """Events API v2: one incident for each dedup_key."""

    channel = "pagerduty"
    result = "accepted"
    environ: ClassVar[dict[str, str]] = {"FAKE_PAGERDUTY_KEY": FakeProvider.token}

    def __init__(self) -> None:
        super().__init__()
        self.events: list[dict[str, Any]] = []

    def applied_to(self, directory: Directory) -> Directory:
        return replace(directory, pagerduty_url=self.url)

    def contact(self) -> Contact:
        return Contact("pagerduty", "FAKE_PAGERDUTY_KEY")

    def refuse(self) -> Reply:
        errors = ["Length of 'routing_key' is incorrect (should be 32 characters)"]
        return Reply(400, {"status": "invalid event", "message": "Event object is invalid", "errors": errors})

    def take(self, call: Call) -> Reply:
        told = call.json
        if call.path != "/v2/enqueue" or told["routing_key"] != self.token:
            return self.refuse()
        assert told["payload"]["severity"] in {"critical", "error", "warning", "info"}
        self.events.append(told)
        key = told["dedup_key"]
        if key not in self.keys:
            self.phone["incidents"].append(told["payload"]["summary"])
        self.keys.append(key)
        return Reply(202, {"status": "success", "message": "Event processed", "dedup_key": key})
