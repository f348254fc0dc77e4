"""The directory as it was, by the log that it was read from: numbers begin again in a topic that was made anew."""

from shared.database.upgrade import run_script

revision = "0004"
down_revision = "0003"

UPGRADE = """
ALTER TABLE directory_revision ADD COLUMN log text NOT NULL DEFAULT '';
ALTER TABLE directory_revision ADD COLUMN number bigint;
CREATE UNIQUE INDEX one_revision_of_a_log ON directory_revision (log, coalesce(number, revision));
COMMENT ON COLUMN directory_revision.log IS 'The topic''s id; empty: kept before topics of one name were told apart.';
COMMENT ON COLUMN directory_revision.number IS 'Of the log; NULL: kept by a process that numbers by the first log.';
"""


def upgrade() -> None:
    run_script(UPGRADE)
