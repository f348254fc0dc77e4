"""What a desk has of a ticket is known step by step; its ticket may be another one, or the next of several."""

from shared.database.upgrade import run_script

revision = "0007"
down_revision = "0006"

UPGRADE = """
ALTER TABLE desk_ticket ADD COLUMN told_state text;
ALTER TABLE desk_ticket ADD COLUMN fields text;
ALTER TABLE desk_ticket ADD COLUMN story text;
ALTER TABLE desk_ticket ADD COLUMN answers uuid[] NOT NULL DEFAULT '{}';
ALTER TABLE desk_ticket ADD COLUMN unread boolean NOT NULL DEFAULT false;
ALTER TABLE desk_ticket ADD COLUMN remarks_upto text;
ALTER TABLE desk_ticket ADD COLUMN held_until timestamptz;
ALTER TABLE desk_ticket ADD COLUMN refused text[] NOT NULL DEFAULT '{}';
ALTER TABLE desk_ticket ADD COLUMN followed_at timestamptz;
ALTER TABLE desk_ticket ADD COLUMN sealed boolean NOT NULL DEFAULT false;
ALTER TABLE desk_ticket ADD COLUMN ended_at timestamptz;
ALTER TABLE desk_ticket ADD COLUMN rests boolean NOT NULL DEFAULT false;
COMMENT ON COLUMN desk_ticket.told_state IS 'The ticket''s state that the desk was told last, or told us.';
COMMENT ON COLUMN desk_ticket.fields IS 'Digest of the title and severity that it has.';
COMMENT ON COLUMN desk_ticket.story IS 'Digest of the story that it has; NULL: none.';
COMMENT ON COLUMN desk_ticket.answers IS 'Answers of the ticket that it was told of.';
COMMENT ON COLUMN desk_ticket.unread IS 'It may have comments that were not read.';
COMMENT ON COLUMN desk_ticket.remarks_upto IS 'Up to where its comments were read, as its driver counts.';
COMMENT ON COLUMN desk_ticket.held_until IS 'What failed waits until then; all of it, or the steps in refused.';
COMMENT ON COLUMN desk_ticket.refused IS 'Steps that the desk refuses until somebody has mended what it told.';
COMMENT ON COLUMN desk_ticket.followed_at IS 'Since then ours is part of this ticket, which is not ours.';
COMMENT ON COLUMN desk_ticket.sealed IS 'The desk will never open it again.';
COMMENT ON COLUMN desk_ticket.rests IS 'The desk is told nothing until the ticket changes again.';
COMMENT ON COLUMN desk_ticket.ended_at IS 'When it was first seen to be over, since it was last open.';
UPDATE desk_ticket SET told_state = ticket.body::jsonb ->> 'state', story = 'told',
    answers = ARRAY(
        SELECT (answer ->> 'id')::uuid FROM jsonb_array_elements(ticket.body::jsonb -> 'evidence') AS answer
    ),
    held_until = CASE WHEN desk_ticket.error IS NOT NULL THEN due_at END
FROM ticket WHERE ticket.id = desk_ticket.ticket AND reference IS NOT NULL AND pushed = wanted;
UPDATE desk_ticket SET rests = true WHERE reference IS NULL AND due_at IS NULL;
UPDATE desk_ticket SET unread = true WHERE heard;
UPDATE desk_ticket SET story = 'told' WHERE reference IS NOT NULL AND story IS NULL;

CREATE TABLE desk_reference (
    desk text NOT NULL,
    reference text NOT NULL,
    ticket uuid NOT NULL REFERENCES ticket ON DELETE CASCADE,
    label text NOT NULL,
    url text NOT NULL,
    until timestamptz NOT NULL,
    why text NOT NULL CHECK (why IN ('closed', 'merged')),
    PRIMARY KEY (ticket, desk, reference)
);
COMMENT ON TABLE desk_reference IS 'Tickets of a desk that were ours before the one that is.';
"""


def upgrade() -> None:
    run_script(UPGRADE)
