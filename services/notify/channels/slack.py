"""A message of a Slack app, with a button that takes the page."""

from __future__ import annotations

import re
from typing import Any

from services.notify.channels import Notice, Result
from services.notify.channels.http import Request, Unusable, fields, json_request, printable, secret, within
from shared.directory.model import Directory
from shared.http.client import Answer

ACTION = "acknowledge"
_MOST = 2_900
"""Characters of a section; Slack takes 3,000."""
_LASTING = frozenset(
    {
        "access_denied",
        "account_inactive",
        "as_user_not_supported",
        "cannot_dm_bot",
        "channel_not_found",
        "ekm_access_denied",
        "invalid_arguments",
        "invalid_auth",
        "invalid_blocks",
        "is_archived",
        "messages_tab_disabled",
        "missing_scope",
        "msg_too_long",
        "no_permission",
        "not_allowed_token_type",
        "not_authed",
        "not_in_channel",
        "org_login_required",
        "restricted_action",
        "team_access_not_granted",
        "token_expired",
        "token_revoked",
        "user_not_found",
    }
)
"""Errors that another try does not mend."""


class Slack:
    """Posts to a channel or a person."""

    def ready(self, directory: Directory) -> bool:
        """Need an app."""
        return directory.slack is not None

    def request(self, notice: Notice) -> Request:
        """Return the call of chat.postMessage."""
        app = notice.directory.slack
        if app is None:
            raise Unusable("the directory has no channels.slack")
        blocks: list[dict[str, Any]] = [{"type": "section", "text": _text(notice)}]
        if notice.acknowledge_url is not None:
            button = _button(notice.acknowledge_url, presses=app.signing_secret_env is not None)
            blocks.append({"type": "actions", "elements": [button]})
        body = {
            "channel": notice.contact.address,
            "text": escaped(notice.words.subject),
            "blocks": blocks,
            "client_msg_id": notice.key,
            "unfurl_links": False,
        }
        return json_request(f"{app.url.rstrip('/')}/api/chat.postMessage", body, token=secret(app.token_env))

    def answered(self, answer: Answer) -> Result:
        """Take `ok` as the proof: Slack says no with status 200 too."""
        told = fields(answer)
        if told.get("ok") is True:
            return Result("delivered", "posted", receipt=printable(str(told.get("ts", "")))[:200] or None)
        error = printable(str(told.get("error", "the answer is not Slack's")))[:200]
        kind = "permanent" if error in _LASTING else "temporary"
        return Result(kind, f"HTTP {answer.status}: {error}", retry_after=answer.retry_after)


def escaped(text: str) -> str:
    """Return a text that Slack shows as it is: what customers wrote cannot call a channel or hide a link."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _text(notice: Notice) -> dict[str, Any]:
    text = re.sub(r"&[a-z]*…$", "…", within(escaped(notice.words.text), _MOST - 2))
    if notice.acknowledge_url is not None:
        text = text.replace(notice.acknowledge_url, f"<{notice.acknowledge_url}>")
    return {"type": "mrkdwn", "text": text, "verbatim": True}


def _button(url: str, *, presses: bool) -> dict[str, Any]:
    button: dict[str, Any] = {
        "type": "button",
        "action_id": ACTION,
        "style": "primary",
        "text": {"type": "plain_text", "text": "I take it"},
    }
    return {**button, "value": url.rpartition("/")[2]} if presses else {**button, "action_id": "open", "url": url}
