"""A call that is due while its page is silenced, or its person sleeps, waits in the queue."""

from shared.database.upgrade import run_script

revision = "0007"
down_revision = "0006"

UPGRADE = """
ALTER TABLE delivery ADD COLUMN held text;
CREATE INDEX delivery_held ON delivery (held, page) WHERE held IS NOT NULL AND state = 'pending';
COMMENT ON COLUMN delivery.held IS 'What it waits for: a silence, or quiet hours.';
"""


def upgrade() -> None:
    run_script(UPGRADE)
