"""Offsets beside the state, and the outbox."""

from shared.database.upgrade import run_script

revision = "shared_0001"
down_revision = None

UPGRADE = """
CREATE TABLE consumer_offset (
    topic text NOT NULL,
    partition integer NOT NULL,
    next bigint NOT NULL CHECK (next >= 0),
    cluster text NOT NULL,
    PRIMARY KEY (topic, partition)
);
COMMENT ON COLUMN consumer_offset.next IS 'The first offset whose record has had no effect yet.';
COMMENT ON COLUMN consumer_offset.cluster IS 'The Kafka cluster that the offset belongs to.';

CREATE TABLE outbox (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    topic text NOT NULL,
    key bytea,
    value bytea,
    headers text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);
"""


def upgrade() -> None:
    run_script(UPGRADE)
