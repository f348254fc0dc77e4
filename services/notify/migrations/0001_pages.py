"""Pages, deliveries to contacts, and every attempt at them."""

from shared.database.upgrade import run_script

revision = "0001"
down_revision = None

UPGRADE = """
CREATE TABLE page (
    id uuid PRIMARY KEY,
    version integer NOT NULL,
    ticket uuid NOT NULL,
    opening integer NOT NULL,
    customer text NOT NULL,
    severity text NOT NULL,
    state text NOT NULL CHECK (state IN ('pending', 'sent', 'acknowledged', 'resolved', 'exhausted')),
    opened_at timestamptz NOT NULL,
    due_at timestamptz,
    traceparent text,
    body text NOT NULL,
    CONSTRAINT one_page_per_opening UNIQUE (ticket, opening),
    CONSTRAINT waiting_page_has_a_due_moment CHECK ((due_at IS NOT NULL) = (state IN ('pending', 'sent', 'exhausted')))
);
CREATE INDEX page_due ON page (due_at) WHERE due_at IS NOT NULL;
CREATE INDEX page_newest ON page (opened_at DESC, id DESC);
COMMENT ON COLUMN page.due_at IS 'When the next person is paged unless somebody answers.';

CREATE TABLE delivery (
    id uuid PRIMARY KEY,
    page uuid NOT NULL REFERENCES page,
    turn integer NOT NULL,
    level integer NOT NULL,
    round integer NOT NULL,
    person text NOT NULL,
    contact integer NOT NULL,
    state text NOT NULL CHECK (state IN ('pending', 'delivered', 'failed', 'cancelled')),
    attempts integer NOT NULL,
    due_at timestamptz NOT NULL,
    CONSTRAINT one_delivery_per_contact UNIQUE (page, turn, contact)
);
CREATE INDEX delivery_due ON delivery (due_at) WHERE state = 'pending';
COMMENT ON COLUMN delivery.id IS 'The idempotency key of every attempt.';
COMMENT ON COLUMN delivery.contact IS 'Place of the contact in the person''s list, from 0.';

CREATE TABLE attempt (
    id uuid PRIMARY KEY,
    delivery uuid NOT NULL REFERENCES delivery,
    page uuid NOT NULL REFERENCES page,
    channel text NOT NULL,
    address text NOT NULL,
    started_at timestamptz NOT NULL,
    finished_at timestamptz,
    result text,
    receipt text,
    detail text,
    CONSTRAINT finished_has_a_result CHECK ((finished_at IS NULL) = (result IS NULL))
);
CREATE INDEX attempt_of_page ON attempt (page, started_at);
CREATE INDEX attempt_of_delivery ON attempt (delivery);
COMMENT ON TABLE attempt IS 'The intent is stored before the call, the result after it.';

CREATE TABLE seen_ticket (
    ticket uuid PRIMARY KEY,
    version integer NOT NULL
);
COMMENT ON TABLE seen_ticket IS 'The newest version of each ticket that was acted on.';
"""


def upgrade() -> None:
    run_script(UPGRADE)
