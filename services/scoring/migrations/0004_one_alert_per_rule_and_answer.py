"""Two rules may tell of one answer under one dedup_key: the follow-up of a ticket, and the rule that opened it."""

from shared.database.upgrade import run_script

revision = "0004"
down_revision = "0003"

UPGRADE = """
DROP INDEX one_alert_per_answer;
CREATE UNIQUE INDEX one_alert_per_answer ON alert (dedup_key, answer, rule) WHERE answer IS NOT NULL;
"""


def upgrade() -> None:
    run_script(UPGRADE)
