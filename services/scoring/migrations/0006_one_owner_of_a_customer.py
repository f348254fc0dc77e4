"""One owner at a time counts for a customer, by whatever partitions its answers come; each answer has a moment."""

from shared.database.upgrade import run_script

revision = "0006"
down_revision = "0005"

UPGRADE = """
ALTER TABLE customer ADD COLUMN version bigint NOT NULL DEFAULT 0;
COMMENT ON COLUMN customer.version IS 'Moved by whoever changes what is remembered of it; other memory is stale then.';
COMMENT ON COLUMN customer.partition IS 'By which it was last counted or looked at: whose owner sweeps it.';

ALTER TABLE answer ADD CONSTRAINT answer_has_a_moment CHECK (isfinite(occurred_at) AND isfinite(received_at)) NOT VALID;
COMMENT ON CONSTRAINT answer_has_a_moment ON answer IS 'Infinity is in no hour: nothing could be counted afresh.';
"""


def upgrade() -> None:
    run_script(UPGRADE)
