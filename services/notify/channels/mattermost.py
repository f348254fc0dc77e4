"""A message in Mattermost by an incoming webhook, with a button that takes the page."""

from __future__ import annotations

import re
from typing import Any

from services.notify.channels import Notice, Result
from services.notify.channels.http import Request, fields, is_lasting, json_request, unproven, within
from shared.directory.model import Directory
from shared.http.client import Answer

_MOST = 4_000
"""Characters; Mattermost takes 16,383."""
_MARKUP = re.compile(r"([\\`*_~\[\]<>#|])")


class Mattermost:
    """Posts to the channel of the webhook."""

    def ready(self, directory: Directory) -> bool:
        """Need nothing."""
        return True

    def request(self, notice: Notice) -> Request:
        """Return the message."""
        lines = within(notice.words.text, _MOST).splitlines()
        attachment: dict[str, Any] = {
            "fallback": notice.words.subject,
            "text": "\n".join(line if line == notice.acknowledge_url else escaped(line) for line in lines),
        }
        if notice.callback_url:
            press: dict[str, Any] = {"url": f"{notice.callback_url}/press", "context": {}}
            button = {"id": "acknowledge", "type": "button", "name": "I take it", "style": "primary"}
            attachment["actions"] = [{**button, "integration": press}]
        body = {"text": escaped(notice.words.subject), "attachments": [attachment]}
        return json_request(notice.contact.address, body)

    def answered(self, answer: Answer) -> Result:
        """Take `ok` as the proof, and nothing else."""
        if answer.body.strip() != b"ok":
            return unproven(answer, "Mattermost's", lasting=is_lasting(fields(answer).get("status_code")))
        return Result("delivered", f"HTTP {answer.status}", receipt=answer.headers.get("x-request-id"))


def escaped(text: str) -> str:
    """Return a text that Mattermost shows as it is: what customers wrote can neither call people nor hide a link."""
    # An escaped @ still mentions; a space of no width after it does not.
    return _MARKUP.sub(r"\\\1", text).replace("@", "@\u200b")
