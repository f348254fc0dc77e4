"""Tickets, what alerts were merged into them, and their timeline."""

from shared.database.upgrade import run_script

revision = "0001"
down_revision = None

UPGRADE = """
CREATE SEQUENCE ticket_number;

CREATE TABLE ticket (
    id uuid PRIMARY KEY,
    number bigint NOT NULL UNIQUE,
    version integer NOT NULL,
    customer text NOT NULL,
    state text NOT NULL CHECK (state IN
        ('open', 'acknowledged', 'in_progress', 'waiting', 'resolved', 'closed', 'cancelled')),
    severity text NOT NULL CHECK (severity IN ('critical', 'high', 'medium', 'low')),
    assignee text,
    dedup_key text NOT NULL,
    opened_at timestamptz NOT NULL,
    resolved_at timestamptz,
    body text NOT NULL,
    CONSTRAINT resolved_has_a_time CHECK (state NOT IN ('resolved', 'closed') OR resolved_at IS NOT NULL)
);
CREATE UNIQUE INDEX one_open_ticket ON ticket (dedup_key)
    WHERE state IN ('open', 'acknowledged', 'in_progress', 'waiting');
CREATE INDEX ticket_of_problem ON ticket (dedup_key, opened_at DESC);
CREATE INDEX ticket_newest ON ticket (opened_at DESC, id DESC);
CREATE INDEX ticket_of_customer ON ticket (customer, opened_at DESC, id DESC);
COMMENT ON COLUMN ticket.body IS 'The newest message as JSON.';

CREATE TABLE merged_alert (
    alert uuid PRIMARY KEY,
    version integer NOT NULL,
    ticket uuid NOT NULL REFERENCES ticket
);
COMMENT ON TABLE merged_alert IS 'The newest version of each alert that a ticket has taken in.';

CREATE TABLE seen_page (
    page uuid PRIMARY KEY,
    version integer NOT NULL
);
COMMENT ON TABLE seen_page IS 'The newest version of each page that its ticket''s timeline has.';

CREATE TABLE timeline (
    line bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    ticket uuid NOT NULL REFERENCES ticket,
    at timestamptz NOT NULL,
    actor text NOT NULL,
    what text NOT NULL,
    detail text NOT NULL
);
CREATE INDEX timeline_of_ticket ON timeline (ticket, line);
"""


def upgrade() -> None:
    run_script(UPGRADE)
