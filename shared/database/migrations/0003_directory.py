"""The newest directory is kept beside the service's own state: it starts with it while Kafka is away."""

from shared.database.upgrade import run_script

revision = "shared_0003"
down_revision = "shared_0002"

UPGRADE = """
CREATE TABLE directory (
    one boolean PRIMARY KEY DEFAULT true CONSTRAINT one_row CHECK (one),
    log text NOT NULL,
    revision bigint NOT NULL,
    value bytea NOT NULL,
    applied_at timestamptz,
    author text NOT NULL,
    partitions text NOT NULL
);
COMMENT ON TABLE directory IS 'The newest directory that this service has seen; it starts with it while Kafka is away.';
COMMENT ON COLUMN directory.log IS 'The id of the topic that it was read from.';
COMMENT ON COLUMN directory.value IS 'gzip of the record.';
COMMENT ON COLUMN directory.partitions IS 'JSON: over how many partitions the keys of each topic are spread.';
"""


def upgrade() -> None:
    run_script(UPGRADE)
