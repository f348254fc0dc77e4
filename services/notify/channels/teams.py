"""A card in Microsoft Teams, by the address of a workflow; its button opens the page."""

from __future__ import annotations

import re
from typing import Any

from services.notify.channels import Notice, Result
from services.notify.channels.http import Request, fields, is_lasting, json_request, unproven, within
from shared.directory.model import Directory
from shared.http.client import Answer

_MOST = 6_000
"""Characters; Teams takes 28 KB in all."""
_FAILURE = re.compile(rb"failed with error(?:.{0,200}?HTTP error ([0-9]{3}))?", re.IGNORECASE | re.DOTALL)
"""How a connector says with 200 that Teams took nothing, and with which status."""


class Teams:
    """Posts a card."""

    def ready(self, directory: Directory) -> bool:
        """Need nothing."""
        return True

    def request(self, notice: Notice) -> Request:
        """Return the message with one Adaptive Card."""
        lines = [
            line for line in within(notice.words.text, _MOST).splitlines() if line and line != notice.acknowledge_url
        ]
        card: dict[str, Any] = {
            "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
            "type": "AdaptiveCard",
            "version": "1.4",
            "body": [_line(notice.words.subject, weight="Bolder", size="Medium"), *(_line(line) for line in lines)],
        }
        if notice.acknowledge_url is not None:
            card["actions"] = [{"type": "Action.OpenUrl", "title": "I take it", "url": notice.acknowledge_url}]
        attachment = {"contentType": "application/vnd.microsoft.card.adaptive", "contentUrl": None, "content": card}
        return json_request(notice.contact.address, {"type": "message", "attachments": [attachment]})

    def answered(self, answer: Answer) -> Result:
        """Take 202 or the name of the workflow's run as the proof, or `1` of a connector of old.

        What went wrong behind them is told with 200, in words.
        """
        run = answer.headers.get("x-ms-workflow-run-id")
        took = answer.status == 202 or run is not None or answer.body.strip() == b"1"
        failure = _FAILURE.search(answer.body)
        if not took or failure is not None or answer.is_web_page or "error" in fields(answer):
            code = None if failure is None or failure[1] is None else int(failure[1])
            return unproven(answer, "a workflow's", lasting=is_lasting(code))
        return Result("delivered", f"HTTP {answer.status}", receipt=run)


def _line(text: str, **style: str) -> dict[str, Any]:
    # A text run, not a text block: that one reads Markdown, so a customer's words could hide a link.
    return {"type": "RichTextBlock", "inlines": [{"type": "TextRun", "text": text, **style}]}
