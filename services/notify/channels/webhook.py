"""A page as a signed request (Standard Webhooks 1.0)."""

from __future__ import annotations

import msgspec

from services.notify.channels import Notice, Result
from shared.http import Outbound, Refused, Unreachable
from shared.security import Signer
from shared.webhooks import NoSecret, signed_headers, signing_secret


class WebhookChannel:
    """POSTs a page to the contact's address. Only 2xx is success."""

    def __init__(self, outbound: Outbound, signer: Signer, seconds: float) -> None:
        """`seconds`: how long the other side may take."""
        self._outbound = outbound
        self._signer = signer
        self._seconds = seconds

    async def send(self, notice: Notice) -> Result:
        """Call the contact's address once."""
        url, page, at = notice.contact.address, notice.page, notice.at
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
        try:
            secret = signing_secret(url, notice.contact.secret_env, self._signer)
        except NoSecret as missing:
            return Result("permanent", str(missing))
        headers = signed_headers(secret, notice.key, at, body)
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
