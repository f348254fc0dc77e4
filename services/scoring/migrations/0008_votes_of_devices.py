"""Answers of one browser count once: they are one vote, as those of a respondent are one voice."""

from shared.database.upgrade import run_script

revision = "0008"
down_revision = "0007"

UPGRADE = """
ALTER TABLE answer ADD COLUMN vote text;
COMMENT ON COLUMN answer.vote IS 'Without a respondent: the device and its period. NULL: it counts by itself.';
"""


def upgrade() -> None:
    run_script(UPGRADE)
