"""Letters that ask respondents whether it was put right."""

from shared.database.upgrade import run_script

revision = "0002"
down_revision = "0001"

UPGRADE = """
CREATE TABLE letter (
    id uuid PRIMARY KEY,
    customer text NOT NULL,
    respondent text,
    ticket uuid NOT NULL,
    opening integer NOT NULL,
    state text NOT NULL CHECK (state IN ('pending', 'sent', 'failed')),
    attempts integer NOT NULL DEFAULT 0,
    due_at timestamptz,
    finished_at timestamptz,
    detail text NOT NULL DEFAULT '',
    traceparent text,
    body text NOT NULL,
    CONSTRAINT pending_is_due CHECK ((state = 'pending') = (due_at IS NOT NULL))
);
CREATE INDEX letter_due ON letter (due_at) WHERE due_at IS NOT NULL;
CREATE INDEX letter_of_respondent ON letter (customer, respondent) WHERE respondent IS NOT NULL;
CREATE INDEX page_of_customer ON page (customer);
COMMENT ON TABLE letter IS 'Questions to respondents whether it was put right; the id keeps a repeat the same mail.';
"""


def upgrade() -> None:
    run_script(UPGRADE)
