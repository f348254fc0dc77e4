"""Figures of service by columns, webhooks by address, duplicates and erasures in desks as rows, pages by ticket."""

from shared.database.upgrade import run_script

revision = "0003"
down_revision = "0002"

UPGRADE = """
ALTER TABLE ticket ADD COLUMN opening integer NOT NULL DEFAULT 1;
ALTER TABLE ticket ADD COLUMN acknowledged_at timestamptz;
ALTER TABLE ticket ADD COLUMN named boolean NOT NULL DEFAULT false;
ALTER TABLE ticket ADD COLUMN waited boolean NOT NULL DEFAULT false;
COMMENT ON COLUMN ticket.named IS 'It shows an answer of a respondent who said who they are.';
COMMENT ON COLUMN ticket.waited IS 'It waited for somebody at least once.';
UPDATE ticket SET opening = coalesce((body::jsonb ->> 'opening')::int, 1),
    acknowledged_at = (body::jsonb ->> 'acknowledged_at')::timestamptz,
    named = EXISTS (
        SELECT FROM jsonb_array_elements(body::jsonb -> 'evidence') AS answer
        WHERE answer ->> 'respondent' IS NOT NULL
    ),
    waited = EXISTS (
        SELECT FROM timeline
        WHERE timeline.ticket = ticket.id AND what = 'state' AND detail::jsonb ->> 'after' = 'waiting'
    );

ALTER TABLE webhook_delivery ADD COLUMN secret_env text;
COMMENT ON COLUMN webhook_delivery.secret_env IS 'Which of the directory''s entries it is for, where some share a url.';
DROP INDEX webhook_delivery_due;
CREATE INDEX webhook_delivery_due ON webhook_delivery (url, due_at) WHERE due_at IS NOT NULL;

CREATE TABLE desk_duplicate (
    desk text NOT NULL,
    reference text NOT NULL,
    ticket uuid NOT NULL REFERENCES ticket ON DELETE CASCADE,
    label text NOT NULL,
    PRIMARY KEY (desk, reference)
);
CREATE INDEX desk_duplicate_of_ticket ON desk_duplicate (ticket);
COMMENT ON TABLE desk_duplicate IS 'Tickets of a desk that are one too many and still to be closed there.';

CREATE TABLE desk_erasure (
    erasure uuid NOT NULL REFERENCES erasure ON DELETE CASCADE,
    ticket uuid NOT NULL REFERENCES ticket ON DELETE CASCADE,
    desk text NOT NULL,
    rest text,
    PRIMARY KEY (erasure, ticket)
);
CREATE INDEX desk_erasure_of_ticket ON desk_erasure (ticket);
COMMENT ON TABLE desk_erasure IS 'Which tickets of desks an erasure has rewritten.';
COMMENT ON COLUMN desk_erasure.rest IS 'What the desk still has of the person, by its driver; NULL: not rewritten yet.';

ALTER TABLE seen_page ADD COLUMN ticket uuid REFERENCES ticket ON DELETE CASCADE;
CREATE INDEX seen_page_of_ticket ON seen_page (ticket);
COMMENT ON COLUMN seen_page.ticket IS 'NULL: stored before this was kept; such a row goes by the age of its id.';
"""


def upgrade() -> None:
    run_script(UPGRADE)
