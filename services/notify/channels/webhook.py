"""A page as a signed request (Standard Webhooks 1.0)."""

from __future__ import annotations

import msgspec

from services.notify.channels import Notice, Result
from services.notify.channels.http import Request, Unusable, unproven
from shared.directory.model import Directory
from shared.http.client import Answer
from shared.http.webhooks import NoSecret, signed_headers, signing_secrets
from shared.wire.signing import Signer


class Webhook:
    """POSTs a page to the contact's address."""

    def __init__(self, signer: Signer) -> None:
        self._signer = signer

    def ready(self, directory: Directory) -> bool:
        """Need nothing."""
        return True

    def request(self, notice: Notice) -> Request:
        """Return the page, signed."""
        url = notice.contact.address
        body = msgspec.json.encode({"type": notice.kind, "timestamp": notice.at, "data": notice.words.data})
        try:
            secrets = signing_secrets(url, notice.contact.secret_env, self._signer)
        except NoSecret as missing:
            raise Unusable(str(missing)) from None
        return Request(url, body, signed_headers(secrets, notice.key, notice.at, body), tuple(secrets))

    def answered(self, answer: Answer) -> Result:
        """Take 2xx as the proof, as Standard Webhooks has it, but no page for people, such as to sign in."""
        if answer.is_web_page:
            return unproven(answer, "a webhook's")
        return Result("delivered", f"HTTP {answer.status}", receipt=answer.headers.get("x-request-id"))
