"""Clocks, whose answers a ticket shows, service desks, webhooks out, improvement actions, erasures."""

from shared.database.upgrade import run_script

revision = "0002"
down_revision = "0001"

UPGRADE = """
ALTER TABLE ticket ADD COLUMN sla text CHECK (sla IN ('met', 'running', 'warning', 'breached'));
ALTER TABLE ticket ADD COLUMN clock_due_at timestamptz;
COMMENT ON COLUMN ticket.sla IS 'The worse of its clocks.';
COMMENT ON COLUMN ticket.clock_due_at IS 'When a clock of it warns or runs out next.';
CREATE INDEX ticket_clock ON ticket (clock_due_at) WHERE clock_due_at IS NOT NULL;
CREATE INDEX ticket_over ON ticket (resolved_at) WHERE resolved_at IS NOT NULL;
ALTER TABLE timeline DROP CONSTRAINT timeline_ticket_fkey;
ALTER TABLE timeline ADD FOREIGN KEY (ticket) REFERENCES ticket ON DELETE CASCADE;
ALTER TABLE merged_alert DROP CONSTRAINT merged_alert_ticket_fkey;
ALTER TABLE merged_alert ADD FOREIGN KEY (ticket) REFERENCES ticket ON DELETE CASCADE;
CREATE INDEX merged_alert_of_ticket ON merged_alert (ticket);

CREATE TABLE shown_answer (
    answer uuid NOT NULL,
    ticket uuid NOT NULL REFERENCES ticket ON DELETE CASCADE,
    customer text NOT NULL,
    respondent text,
    PRIMARY KEY (answer, ticket)
);
CREATE INDEX shown_answer_of_ticket ON shown_answer (ticket);
CREATE INDEX shown_answer_of_respondent ON shown_answer (customer, respondent) WHERE respondent IS NOT NULL;
COMMENT ON TABLE shown_answer IS 'Which ticket an answer led to, and whose answers a ticket shows.';
INSERT INTO shown_answer (answer, ticket, customer, respondent)
SELECT (answer ->> 'id')::uuid, ticket.id, ticket.customer, answer ->> 'respondent'
FROM ticket, jsonb_array_elements(ticket.body::jsonb -> 'evidence') AS answer ON CONFLICT DO NOTHING;

CREATE TABLE desk (
    name text PRIMARY KEY,
    owner uuid,
    leased_until timestamptz,
    polled_until timestamptz,
    failures integer NOT NULL DEFAULT 0,
    closed_until timestamptz,
    error text
);
COMMENT ON COLUMN desk.owner IS 'The process that works for it now; the budget of calls is kept there.';
COMMENT ON COLUMN desk.closed_until IS 'It failed again and again and is left alone until then.';

CREATE TABLE desk_ticket (
    ticket uuid PRIMARY KEY REFERENCES ticket ON DELETE CASCADE,
    desk text NOT NULL,
    customer text NOT NULL,
    severity integer NOT NULL,
    reference text,
    label text,
    url text,
    asked_at timestamptz,
    wanted integer NOT NULL,
    pushed integer NOT NULL DEFAULT 0,
    line bigint NOT NULL DEFAULT 0,
    state text,
    assignee text,
    seen_at timestamptz,
    heard boolean NOT NULL DEFAULT false,
    erased boolean NOT NULL DEFAULT false,
    gone boolean NOT NULL DEFAULT false,
    attempts integer NOT NULL DEFAULT 0,
    due_at timestamptz,
    synced_at timestamptz,
    error text,
    CONSTRAINT pushed_to_somewhere CHECK (pushed = 0 OR reference IS NOT NULL)
);
CREATE INDEX desk_ticket_due ON desk_ticket (desk, due_at) WHERE due_at IS NOT NULL;
CREATE UNIQUE INDEX one_ticket_per_reference ON desk_ticket (desk, reference) WHERE reference IS NOT NULL;
COMMENT ON COLUMN desk_ticket.asked_at IS 'A create was sent and what came of it is not known yet.';
COMMENT ON COLUMN desk_ticket.wanted IS 'The version of the ticket that the desk is to have.';
COMMENT ON COLUMN desk_ticket.line IS 'The last line of the timeline that the desk was told.';
COMMENT ON COLUMN desk_ticket.seen_at IS 'When it had changed last, by the desk''s clock, as of the last reading.';
COMMENT ON COLUMN desk_ticket.state IS 'As the desk had it when it was last read or written: what differs is news.';

CREATE TABLE desk_remark (
    ticket uuid NOT NULL REFERENCES ticket ON DELETE CASCADE,
    remark text NOT NULL,
    PRIMARY KEY (ticket, remark)
);
COMMENT ON TABLE desk_remark IS 'Comments of the desk that the timeline has.';

CREATE TABLE webhook_delivery (
    id uuid PRIMARY KEY,
    url text NOT NULL,
    event text NOT NULL,
    customer text NOT NULL,
    ticket uuid NOT NULL REFERENCES ticket ON DELETE CASCADE,
    body text NOT NULL,
    state text NOT NULL CHECK (state IN ('pending', 'delivered', 'failed')),
    attempts integer NOT NULL DEFAULT 0,
    created_at timestamptz NOT NULL,
    due_at timestamptz,
    answered_at timestamptz,
    status integer,
    detail text NOT NULL DEFAULT '',
    CONSTRAINT pending_is_due CHECK ((state = 'pending') = (due_at IS NOT NULL))
);
CREATE INDEX webhook_delivery_due ON webhook_delivery (due_at) WHERE due_at IS NOT NULL;
CREATE INDEX webhook_delivery_newest ON webhook_delivery (created_at DESC, id DESC);
CREATE INDEX webhook_delivery_of_ticket ON webhook_delivery (ticket);

CREATE TABLE webhook_endpoint (
    url text PRIMARY KEY,
    disabled_at timestamptz NOT NULL,
    reason text NOT NULL
);
COMMENT ON TABLE webhook_endpoint IS 'Addresses that said that they are gone (410): they get nothing more.';

CREATE TABLE action (
    id uuid PRIMARY KEY,
    customer text NOT NULL,
    ticket uuid,
    due_on date NOT NULL,
    state text NOT NULL CHECK (state IN ('open', 'done', 'dropped')),
    opened_at timestamptz NOT NULL,
    body text NOT NULL
);
CREATE INDEX action_newest ON action (opened_at DESC, id DESC);
CREATE INDEX action_of_customer ON action (customer, opened_at DESC, id DESC);

CREATE TABLE score (
    customer text PRIMARY KEY,
    day text NOT NULL,
    body text NOT NULL
);
COMMENT ON TABLE score IS 'The newest daily scores of each customer, against which actions are measured.';

CREATE TABLE erasure (
    id uuid PRIMARY KEY,
    customer text NOT NULL,
    before timestamptz NOT NULL,
    done text NOT NULL,
    updated_at timestamptz NOT NULL
);
COMMENT ON TABLE erasure IS 'What each service did to forget a person; not who it was.';

CREATE TABLE erased (
    customer text NOT NULL,
    respondent text NOT NULL,
    before timestamptz NOT NULL,
    PRIMARY KEY (customer, respondent)
);
COMMENT ON TABLE erased IS 'Who is to be forgotten, as an HMAC: what comes late does not name them.';
"""


def upgrade() -> None:
    run_script(UPGRADE)
