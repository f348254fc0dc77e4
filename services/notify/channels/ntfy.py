"""A push notification by ntfy, with a button that takes the page. Whoever knows a topic can read it."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from services.notify.channels import Notice, Result
from services.notify.channels.http import (
    Request,
    Unusable,
    fields,
    is_lasting,
    json_request,
    receipt_in,
    secret,
    unproven,
)
from shared.directory.model import Directory
from shared.http.client import Answer

_MOST = 4_000
"""Bytes; what is longer than 4,096 would become an attachment."""
_PRIORITY = {"critical": 5, "high": 4}


class Ntfy:
    """Publishes to the topic that is the last part of the contact's address."""

    def ready(self, directory: Directory) -> bool:
        """Need nothing."""
        return True

    def request(self, notice: Notice) -> Request:
        """Return the publication as JSON, which goes to the server's root."""
        parts = urlsplit(notice.contact.address)
        folder, _, topic = parts.path.rstrip("/").rpartition("/")
        if not topic:
            raise Unusable("the ntfy address names no topic")
        said = notice.words.text if notice.page is None else notice.words.short
        body: dict[str, Any] = {
            "topic": topic,
            "title": notice.words.subject,
            "message": said.encode()[:_MOST].decode(errors="ignore"),
            "priority": _PRIORITY.get("" if notice.page is None else notice.page.severity, 3),
            "tags": ["rotating_light" if notice.page is not None else "memo"],
        }
        if notice.acknowledge_url is not None:
            url = notice.acknowledge_url
            press = {"action": "http", "label": "I take it", "url": url, "method": "POST", "clear": True}
            body |= {"click": url, "actions": [press]}
        name = notice.directory.ntfy_token_env
        token = None if name is None else secret(name)
        # Servers since 2.16 let a repetition replace what it repeats; older ones do not know the header.
        return json_request(f"{parts.scheme}://{parts.netloc}{folder}/", body, token=token, x_sequence_id=notice.key)

    def answered(self, answer: Answer) -> Result:
        """Take the message that it has become as the proof."""
        told = fields(answer)
        if told.get("event") != "message" or not isinstance(told.get("id"), str):
            return unproven(answer, "ntfy's", lasting=is_lasting(told.get("http")))
        return Result("delivered", f"HTTP {answer.status}", receipt=receipt_in(answer, "id"))
