"""Who took turns when, of each revision, beside the whole directory: shifts of the past are read from many of them."""

from shared.database.upgrade import run_script

revision = "0008"
down_revision = "0007"

UPGRADE = """
ALTER TABLE directory_revision ADD COLUMN rota bytea;
COMMENT ON COLUMN directory_revision.rota IS 'Schedules and people alone; NULL: kept by a process that keeps all only.';
"""


def upgrade() -> None:
    run_script(UPGRADE)
