"""What tickets show says when it was given, and whom to ask: of what was stored before there were such columns."""

from shared.database.upgrade import run_script

revision = "0006"
down_revision = "0005"

UPGRADE = """
UPDATE shown_answer SET occurred_at = (answer.told ->> 'occurred_at')::timestamptz, contact = answer.told ->> 'contact',
    language = answer.told ->> 'language'
FROM ticket, jsonb_array_elements(ticket.body::jsonb -> 'evidence') AS answer(told)
WHERE shown_answer.occurred_at IS NULL AND shown_answer.ticket = ticket.id
    AND shown_answer.answer = (answer.told ->> 'id')::uuid;
COMMENT ON COLUMN shown_answer.occurred_at IS 'Null: not shown any more. Who knows an answer''s id need not know this.';
"""


def upgrade() -> None:
    run_script(UPGRADE)
