"""Whom a line of a digest is for, besides who that was when it was gathered: that is asked again when it is sent."""

from shared.database.upgrade import run_script

revision = "0009"
down_revision = "0008"

UPGRADE = """
ALTER TABLE digest_entry ADD COLUMN role text;
COMMENT ON COLUMN digest_entry.role IS 'NULL: gathered by a process that asks only once, for the person.';
"""


def upgrade() -> None:
    run_script(UPGRADE)
