"""Who is to be forgotten is known by keys of the service's own, which outlive the secrets that they are sealed with."""

from shared.database.upgrade import run_script

revision = "0007"
down_revision = "0006"

UPGRADE = """
CREATE TABLE erasure_key (
    secret text PRIMARY KEY,
    sealed text NOT NULL,
    made_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
COMMENT ON TABLE erasure_key IS 'The same keys, once for each secret that opens them.';
COMMENT ON COLUMN erasure_key.secret IS 'Its fingerprint.';
"""


def upgrade() -> None:
    run_script(UPGRADE)
