"""What is remembered of customers, apart from their rows: it is written with nearly every answer."""

from shared.database.upgrade import run_script

revision = "0003"
down_revision = "0002"

UPGRADE = """
ALTER TABLE customer DROP COLUMN memory;
CREATE TABLE memory (
    customer integer PRIMARY KEY,
    body bytea NOT NULL
) WITH (fillfactor = 50);
COMMENT ON TABLE memory IS 'What the order and times of answers have told; what had been stored is learned again.';
"""


def upgrade() -> None:
    run_script(UPGRADE)
