"""A page as a signed request (Standard Webhooks 1.0)."""

from __future__ import annotations

import binascii
import os
from datetime import UTC

import msgspec
from standardwebhooks import Webhook

from services.notify.channels import Notice, Result
from shared.http import Outbound, Refused, Unreachable
from shared.security import Signer


class WebhookChannel:
    """POSTs a page to the contact's address. Only 2xx is success."""

    def __init__(self, outbound: Outbound, signer: Signer, seconds: float) -> None:
        """`seconds`: how long the other side may take."""
        self._outbound = outbound
        self._signer = signer
        self._seconds = seconds

    async def send(self, notice: Notice) -> Result:
        """Call the contact's address once."""
        url, page, at = notice.contact.address, notice.page, notice.at.astimezone(UTC)
        body = msgspec.json.encode(
            {
                "type": "page",
                "timestamp": at,
                "data": {
                    "page": page.id,
                    "ticket": page.ticket,
                    "customer": page.customer,
                    "person": notice.person.id,
                    "level": notice.level,
                    "severity": page.severity,
                    "title": page.title,
                    "summary": page.summary,
                    "acknowledge_url": notice.acknowledge_url,
                },
            }
        )
        secret_env = notice.contact.secret_env
        secret = self._signer.webhook_secret(url) if secret_env is None else os.environ.get(secret_env)
        if not secret:
            return Result("permanent", f"environment variable {secret_env} is not set")
        try:
            signature = Webhook(secret).sign(notice.key, at, body.decode())
        except (ValueError, binascii.Error):
            return Result("permanent", f"environment variable {secret_env} is no webhook secret (whsec_...)")
        headers = {
            "content-type": "application/json",
            "user-agent": "Fiilis",
            "webhook-id": notice.key,
            "webhook-timestamp": str(int(at.timestamp())),
            "webhook-signature": signature,
        }
        try:
            answer = await self._outbound.post(url, body, headers, seconds=self._seconds)
        except Refused as refused:
            return Result("permanent", str(refused))
        except Unreachable as error:
            return Result("unknown" if error.sent else "temporary", str(error))
        if 200 <= answer.status < 300:
            return Result("delivered", f"HTTP {answer.status}", receipt=answer.headers.get("x-request-id"))
        lasting = 300 <= answer.status < 500 and answer.status not in {408, 425, 429}
        return Result("permanent" if lasting else "temporary", f"HTTP {answer.status}", retry_after=answer.retry_after)
