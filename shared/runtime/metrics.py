"""Every metric of the product, declared once with its unit and meaning."""

from __future__ import annotations

from typing import ClassVar

from prometheus_client import Counter, Gauge, Histogram

_SECONDS = (0.005, 0.01, 0.02, 0.04, 0.08, 0.12, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600, 14_400, 86_400)
_REQUEST_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)

FEEDBACK = Counter("fiilis_feedback", "Answers posted, by what became of them.", ["kind", "result"])
FEEDBACK_SECONDS = Histogram("fiilis_feedback_seconds", "Duration of a feedback request.", buckets=_REQUEST_SECONDS)

CONSUMER_LAG = Gauge("fiilis_consumer_lag_records", "Records not yet handled.", ["service", "topic"])
CONSUMER_OLDEST = Gauge("fiilis_consumer_oldest_seconds", "Age of the record being handled.", ["service", "topic"])
WORKER_PROGRESS_AGE = Gauge(
    "fiilis_worker_progress_age_seconds", "Since a worker last did its work, or found none.", ["service", "worker"]
)
WORKER_LATE = Gauge(
    "fiilis_worker_progress_late_seconds",
    "By which a worker's sign of life is late; 0 while it is well.",
    ["service", "worker"],
)
WORKER_FAILING = Gauge(
    "fiilis_worker_failing", "1 while a periodic job fails at its own content.", ["service", "worker"]
)
QUARANTINED = Gauge("fiilis_quarantined", "Rows and results that could not be stored or decided.", ["service"])
MISSED = Gauge("fiilis_missed", "What the stage before holds open and this one does not know.", ["service"])
RECORDS = Counter("fiilis_records", "Records handled, by result.", ["service", "topic", "result"])
DEAD_LETTERS = Counter("fiilis_dead_letters", "Records refused for ever.", ["service", "topic", "reason"])


class ConsumerFigures:
    """What one consumer of a topic tells; several in a process share gauges: lags add up, the oldest counts."""

    _told: ClassVar[dict[tuple[str, str], dict[int, tuple[int, float]]]] = {}

    def __init__(self, service: str, topic: str) -> None:
        self._labels = (service, topic)

    def tell(self, lag: int, oldest: float) -> None:
        """Set this consumer's part: records behind, and seconds since the record that is being handled was sent."""
        told = self._told.setdefault(self._labels, {})
        told[id(self)] = (lag, oldest)
        CONSUMER_LAG.labels(*self._labels).set(sum(lag for lag, _ in told.values()))
        CONSUMER_OLDEST.labels(*self._labels).set(max(oldest for _, oldest in told.values()))


SPOOL_RECORDS = Gauge("fiilis_spool_records", "Accepted answers that wait in PostgreSQL while Kafka is away.")
OUTBOX_RECORDS = Gauge("fiilis_outbox_records", "Messages not yet acknowledged by Kafka.", ["service"])
OUTBOX_OLDEST = Gauge("fiilis_outbox_oldest_seconds", "Age of the oldest of them.", ["service"])

NPS = Gauge("fiilis_nps", "Rolling 30-day NPS.", ["customer"])
NPS_RESPONSES = Gauge("fiilis_nps_responses", "Answers in the rolling 30-day NPS.", ["customer"])
MOOD = Gauge("fiilis_mood", "Rolling 30-day mean mood (1-4).", ["customer"])
ALERTS_OPEN = Gauge("fiilis_alerts_open", "Alerts that are open.", ["severity"])
ALERTS = Counter("fiilis_alerts", "Alerts opened.", ["rule", "severity"])

TICKETS_OPEN = Gauge("fiilis_tickets_open", "Tickets that are not resolved, closed or cancelled.", ["severity"])
BREACH_TO_TICKET = Histogram("fiilis_breach_to_ticket_seconds", "From the alert to its ticket.", buckets=_SECONDS)
SLA_BREACHED = Counter("fiilis_tickets_sla_breached", "Clocks of tickets that ran out.", ["clock"])
DESK_REQUESTS = Counter("fiilis_desk_requests", "Calls to service desks, by result.", ["desk", "result"])
DESK_OPEN = Gauge("fiilis_desk_circuit_open", "1 while a desk is left alone because it fails.", ["desk"])
DESK_WAITING = Gauge("fiilis_desk_waiting_tickets", "Tickets that a desk does not have as they are yet.", ["desk"])
WEBHOOK_ATTEMPTS = Counter("fiilis_webhook_attempts", "Calls of webhooks out, by result.", ["result"])

PAGES = Counter("fiilis_pages", "Pages started.", ["severity"])
PAGE_ATTEMPTS = Counter("fiilis_page_attempts", "Calls to a channel, by result.", ["channel", "result"])
PAGE_OLDEST = Gauge("fiilis_page_oldest_unacknowledged_seconds", "Age of the oldest page that nobody answered.")
PAGES_EXHAUSTED = Counter("fiilis_pages_exhausted", "Pages whose every round went unanswered.")
UNREACHABLE = Gauge("fiilis_unreachable_people", "People in charge of something without a usable contact.")
ONCALL_GAP = Gauge("fiilis_oncall_gap_seconds", "Time within 30 days in which nobody is on call.", ["schedule"])
PREFLIGHT = Gauge("fiilis_preflight_findings", "What should be mended before it is needed.", ["code"])
PAGES_OVERDUE = Gauge("fiilis_pages_overdue", "Pages and deliveries that nobody has taken up in time.")
PAGES_REPAIRED = Counter("fiilis_pages_repaired", "Overdue pages that were sent to the catch-all.")
WATCHDOG = Counter("fiilis_watchdog_calls", "Calls of the outgoing heartbeat, by result.", ["result"])
FEEDBACK_TO_PAGE = Histogram(
    "fiilis_feedback_to_page_seconds", "From receiving the answer to the first delivered page.", buckets=_SECONDS
)
PAGE_TO_ACKNOWLEDGE = Histogram(
    "fiilis_page_to_acknowledge_seconds", "From the start of a page to its acknowledgement.", buckets=_SECONDS
)

REFUSED_KEYS = Counter("fiilis_refused_keys", "Keys that were refused, by why.", ["reason"])
RATE_LIMITED = Counter("fiilis_rate_limited", "Answers refused because too many came, by whose they are.", ["by"])

DIRECTORY_REVISION = Gauge("fiilis_directory_revision", "Revision of the directory in use.", ["service"])
