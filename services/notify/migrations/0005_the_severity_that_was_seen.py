"""The severity of a ticket when it was last acted on: one that rose since is told of again."""

from shared.database.upgrade import run_script

revision = "0005"
down_revision = "0004"

UPGRADE = """
ALTER TABLE seen_ticket ADD COLUMN severity text;
COMMENT ON COLUMN seen_ticket.severity IS 'NULL: seen by a process that does not keep it.';
"""


def upgrade() -> None:
    run_script(UPGRADE)
