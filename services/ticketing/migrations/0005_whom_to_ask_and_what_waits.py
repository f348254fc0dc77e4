"""Whom to ask is kept apart from what a ticket shows, and evidence that was added waits to be told together."""

from shared.database.upgrade import run_script

revision = "0005"
down_revision = "0004"

UPGRADE = """
ALTER TABLE shown_answer ADD COLUMN occurred_at timestamptz;
ALTER TABLE shown_answer ADD COLUMN contact text;
ALTER TABLE shown_answer ADD COLUMN language text;
COMMENT ON COLUMN shown_answer.occurred_at IS 'Null before; who knows an answer''s id need not know this.';
COMMENT ON COLUMN shown_answer.contact IS 'E-mail of the respondent, for the follow-up.';
CREATE INDEX shown_answer_to_ask ON shown_answer (ticket, occurred_at DESC) WHERE respondent IS NOT NULL;

ALTER TABLE ticket ADD COLUMN evidence_told_at timestamptz;
ALTER TABLE ticket ADD COLUMN tell_at timestamptz;
COMMENT ON COLUMN ticket.evidence_told_at IS 'When others last heard of added evidence alone.';
COMMENT ON COLUMN ticket.tell_at IS 'When they hear of what was added since.';
CREATE INDEX ticket_to_tell ON ticket (tell_at) WHERE tell_at IS NOT NULL;
"""


def upgrade() -> None:
    run_script(UPGRADE)
