"""Which answer a line of a digest is of: it may be erased by itself."""

from shared.database.upgrade import run_script

revision = "0011"
down_revision = "0010"

UPGRADE = """
ALTER TABLE digest_entry ADD COLUMN answer uuid;
"""


def upgrade() -> None:
    run_script(UPGRADE)
