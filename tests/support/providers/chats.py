"""Chats: Slack, Microsoft Teams, Mattermost."""

from __future__ import annotations

import json
from typing import Any, ClassVar
from urllib.parse import urlencode

import httpx
from msgspec.structs import replace

from services.notify.channels.signatures import slack_signature
from shared.directory.model import Contact, Directory, Slack
from tests.support.providers import Call, FakeProvider, Reply

ROOM = "C0123456789"


class FakeSlack(FakeProvider):
    """Says no with status 200, and replaces a message only where it told us to."""

    channel = "slack"
    secret = "signing-secret"
    environ: ClassVar[dict[str, str]] = {"FAKE_SLACK_TOKEN": FakeProvider.token, "FAKE_SLACK_SECRET": secret}

    def __init__(self, *, buttons: bool = True) -> None:
        super().__init__()
        self.buttons = buttons
        self.error: str | None = None
        self.messages: list[dict[str, Any]] = []
        self.replaced: list[dict[str, Any]] = []

    def applied_to(self, directory: Directory) -> Directory:
        return replace(
            directory, slack=Slack("FAKE_SLACK_TOKEN", "FAKE_SLACK_SECRET" if self.buttons else None, self.url)
        )

    def contact(self) -> Contact:
        return Contact("slack", ROOM)

    def take(self, call: Call) -> Reply:
        if call.path.startswith("/actions/"):
            self.replaced.append(call.json)
            return Reply(200, b"ok")
        if call.path != "/api/chat.postMessage" or call.headers.get("authorization") != f"Bearer {self.token}":
            return Reply(200, {"ok": False, "error": "invalid_auth"})
        if self.error is not None:
            return Reply(200, {"ok": False, "error": self.error})
        told = call.json
        if told["channel"] != ROOM:
            return Reply(200, {"ok": False, "error": "channel_not_found"})
        if any(len(block["text"]["text"]) > 3000 for block in told["blocks"] if block["type"] == "section"):
            return Reply(200, {"ok": False, "error": "invalid_blocks"})
        if told["client_msg_id"] not in self.keys:
            self.phone[ROOM].append(told["blocks"][0]["text"]["text"])
            self.messages.append(told)
        self.keys.append(told["client_msg_id"])
        return Reply(200, {"ok": True, "channel": ROOM, "ts": f"1764000000.{len(self.messages):06}"})

    async def press(
        self, base: str, message: dict[str, Any], at: float, *, secret: str | None = None, value: str | None = None
    ) -> httpx.Response:
        """Tell of a press of the message's button."""
        button = message["blocks"][-1]["elements"][0]
        action = {"type": "button", "action_id": button["action_id"], "value": value or button.get("value")}
        payload = {
            "type": "block_actions",
            "user": {"id": "U1"},
            "actions": [action],
            "response_url": f"{self.url}/actions/1",
        }
        body = urlencode({"payload": json.dumps(payload)}).encode()
        stamp = str(int(at))
        headers = {
            "content-type": "application/x-www-form-urlencoded",
            "x-slack-request-timestamp": stamp,
            "x-slack-signature": slack_signature(secret or self.secret, stamp, body),
        }
        return await self.client.post(f"{base}/v1/callbacks/slack", content=body, headers=headers)


class FakeTeams(FakeProvider):
    """A workflow: 202 and nothing else."""

    channel = "teams"

    def __init__(self) -> None:
        super().__init__()
        self.cards: list[dict[str, Any]] = []
        self.says: Reply | None = None
        """An answer instead of doing anything."""

    def contact(self) -> Contact:
        return Contact("teams", f"{self.url}/workflows/1/triggers/manual/paths/invoke?sig=s3cret")

    def take(self, call: Call) -> Reply:
        if self.says is not None:
            return self.says
        told = call.json
        (attachment,) = told["attachments"]
        card = attachment["content"]
        if (told["type"], attachment["contentType"]) != ("message", "application/vnd.microsoft.card.adaptive"):
            return Reply(400, {"error": {"code": "InvalidBody", "message": "no card"}})
        assert (card["type"], card["version"]) == ("AdaptiveCard", "1.4")
        self.cards.append(card)
        self.phone["channel"].append("\n".join(part["inlines"][0]["text"] for part in card["body"]))
        return Reply(202, b"", {"x-ms-workflow-run-id": f"run-{len(self.cards)}"})


class FakeMattermost(FakeProvider):
    """An incoming webhook with a button."""

    channel = "mattermost"

    def __init__(self) -> None:
        super().__init__()
        self.posts: list[dict[str, Any]] = []

    def contact(self) -> Contact:
        return Contact("mattermost", f"{self.url}/hooks/abc")

    def take(self, call: Call) -> Reply:
        told = call.json
        self.posts.append(told)
        self.phone["channel"].append(f"{told['text']}\n{told['attachments'][0]['text']}")
        return Reply(200, b"ok", {"content-type": "text/plain"})

    async def press(self, post: dict[str, Any]) -> httpx.Response:
        """Tell of a press of the post's button."""
        integration = post["attachments"][0]["actions"][0]["integration"]
        told = {"user_id": "u1", "post_id": "p1", "channel_id": "c1", "context": integration["context"]}
        return await self.client.post(integration["url"], json=told)
