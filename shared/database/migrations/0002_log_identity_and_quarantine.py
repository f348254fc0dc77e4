"""A log is known by its identity, and what cannot be stored or decided is set aside."""

from shared.database.upgrade import run_script

revision = "shared_0002"
down_revision = "shared_0001"

UPGRADE = """
ALTER TABLE consumer_offset ADD COLUMN log text;
ALTER TABLE consumer_offset ADD COLUMN log_end bigint NOT NULL DEFAULT 0;
COMMENT ON COLUMN consumer_offset.log IS 'The topic''s id: a topic made anew under the same name is another log.';
COMMENT ON COLUMN consumer_offset.log_end IS 'The end of the partition when it was last seen; a log never shrinks.';

CREATE TABLE quarantine (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    queue text NOT NULL,
    key text NOT NULL,
    reason text NOT NULL,
    detail text NOT NULL,
    at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT set_aside_once UNIQUE (queue, key)
);
COMMENT ON TABLE quarantine IS 'Rows that could not be stored or decided; claims pass them by until they are released.';
COMMENT ON COLUMN quarantine.key IS 'Of the row in its queue.';

CREATE TABLE missed (
    id uuid PRIMARY KEY,
    customer text NOT NULL,
    told_at timestamptz NOT NULL
);
COMMENT ON TABLE missed IS 'What the stage before holds open and this one does not know.';
COMMENT ON COLUMN missed.told_at IS 'When the stage before has said so last.';
"""


def upgrade() -> None:
    run_script(UPGRADE)
