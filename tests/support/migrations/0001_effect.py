"""What the effects handler writes."""

from shared.database.upgrade import run_script

revision = "0001"
down_revision = None


def upgrade() -> None:
    run_script("CREATE TABLE effect (partition integer NOT NULL, record bigint NOT NULL);\n")
