"""Why an alert opened stays to be read when it has cleared, for another reason."""

from shared.database.upgrade import run_script

revision = "0005"
down_revision = "0004"

UPGRADE = """
ALTER TABLE alert ADD COLUMN opening text;
COMMENT ON COLUMN alert.opening IS 'The first decision as JSON; NULL: from before it was kept.';
"""


def upgrade() -> None:
    run_script(UPGRADE)
