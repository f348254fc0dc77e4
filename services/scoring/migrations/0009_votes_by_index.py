"""An index of votes, apart from their column: while it is made the table can be read."""

from shared.database.upgrade import run_script

revision = "0009"
down_revision = "0008"

UPGRADE = """
CREATE INDEX answer_of_vote ON answer (customer, series, vote, occurred_at) WHERE vote IS NOT NULL;
"""


def upgrade() -> None:
    run_script(UPGRADE)
