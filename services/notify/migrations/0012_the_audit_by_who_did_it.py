"""An index of who did what, apart from the columns: while it is made the table can be read."""

from shared.database.upgrade import run_script

revision = "0012"
down_revision = "0011"

UPGRADE = """
CREATE INDEX audit_by_actor ON audit (actor, at DESC, id DESC);
"""


def upgrade() -> None:
    run_script(UPGRADE)
