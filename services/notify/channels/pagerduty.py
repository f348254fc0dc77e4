"""An incident in PagerDuty (Events API v2), for teams that are paged by it already; it escalates by itself."""

from __future__ import annotations

from services.notify.channels import Notice, Result
from services.notify.channels.http import Request, fields, json_request, receipt_in, secret, unproven
from shared.directory.model import Directory, Severity
from shared.http.client import Answer

_SEVERITY: dict[Severity, str] = {
    "critical": "critical",
    "high": "error",
    "medium": "warning",
    "low": "info",
    "info": "info",
}


class PagerDuty:
    """Triggers one incident for each page, however often and for whom it is sent."""

    def ready(self, directory: Directory) -> bool:
        """Need nothing."""
        return True

    def request(self, notice: Notice) -> Request:
        """Return the event; the contact's address names the environment variable of the routing key."""
        page, url = notice.page, notice.acknowledge_url
        routing_key = secret(notice.contact.address)
        body = {
            "routing_key": routing_key,
            "event_action": "trigger",
            "dedup_key": notice.key if page is None else str(page.id),
            "client": "Fiilis",
            "payload": {
                "summary": notice.words.subject[:1024],
                "source": "fiilis",
                "severity": "info" if page is None else _SEVERITY[page.severity],
                "timestamp": notice.at,
                "custom_details": notice.words.data,
            },
            "links": [] if url is None else [{"href": url, "text": "I take it"}],
        }
        request = json_request(f"{notice.directory.pagerduty_url.rstrip('/')}/v2/enqueue", body)
        return Request(request.url, request.body, request.headers, (routing_key,))

    def answered(self, answer: Answer) -> Result:
        """Take `success` as the proof that it has the event; whom it reaches, it does not tell us."""
        status = fields(answer).get("status")
        if status != "success":
            return unproven(answer, "PagerDuty's", lasting=status == "invalid event")
        return Result("accepted", f"HTTP {answer.status}", receipt=receipt_in(answer, "dedup_key"))
