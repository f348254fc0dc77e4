"""The rota and what changes it, pages that are held or lead others, notices that are no pages, and the audit."""

from shared.database.upgrade import run_script

revision = "0003"
down_revision = "0002"

UPGRADE = """
ALTER TABLE page DROP CONSTRAINT waiting_page_has_a_due_moment;
ALTER TABLE page ADD CONSTRAINT waiting_page_has_a_due_moment CHECK (
    CASE WHEN state IN ('pending', 'sent', 'exhausted') THEN due_at IS NOT NULL
    WHEN state = 'resolved' THEN due_at IS NULL ELSE true END
);
ALTER TABLE page ADD COLUMN lead uuid REFERENCES page ON DELETE SET NULL;
ALTER TABLE page ADD COLUMN held text;
CREATE INDEX page_lead ON page (lead) WHERE lead IS NOT NULL;
CREATE INDEX page_by_state ON page (state, opened_at DESC, id DESC);
CREATE INDEX page_recent ON page (customer, opened_at);
CREATE INDEX page_waiting ON page (opened_at) WHERE state IN ('pending', 'sent', 'exhausted');
COMMENT ON COLUMN page.due_at IS 'When the next person is paged; of an acknowledged one, when it is forgotten.';
COMMENT ON COLUMN page.lead IS 'The page that is sent for this one too, because there are many at once.';

ALTER TABLE seen_ticket ADD COLUMN late integer NOT NULL DEFAULT 0;
ALTER TABLE seen_ticket ADD COLUMN seen_at timestamptz NOT NULL DEFAULT now();
CREATE INDEX seen_ticket_oldest ON seen_ticket (seen_at);
COMMENT ON COLUMN seen_ticket.late IS 'Clocks that had run out.';

CREATE TABLE notice (
    id uuid PRIMARY KEY,
    person text NOT NULL,
    kind text NOT NULL,
    made_at timestamptz NOT NULL,
    body text NOT NULL
);
COMMENT ON TABLE notice IS 'What a person is told that is no page: a digest, a brief, a code, a fresh link.';

ALTER TABLE delivery DROP CONSTRAINT delivery_page_fkey;
ALTER TABLE delivery ADD CONSTRAINT delivery_page_fkey FOREIGN KEY (page) REFERENCES page ON DELETE CASCADE;
ALTER TABLE delivery ALTER COLUMN page DROP NOT NULL;
ALTER TABLE delivery ADD COLUMN notice uuid REFERENCES notice ON DELETE CASCADE;
ALTER TABLE delivery ADD COLUMN made_at timestamptz NOT NULL DEFAULT now();
ALTER TABLE delivery ADD COLUMN code text;
ALTER TABLE delivery ADD CONSTRAINT of_a_page_or_a_notice CHECK ((page IS NULL) <> (notice IS NULL));
ALTER TABLE delivery ADD CONSTRAINT one_delivery_of_a_notice_per_contact UNIQUE (notice, contact);
CREATE INDEX delivery_of_person ON delivery (person, made_at);
COMMENT ON COLUMN delivery.code IS 'What is answered by SMS to take the page.';

ALTER TABLE attempt DROP CONSTRAINT attempt_page_fkey;
ALTER TABLE attempt ADD CONSTRAINT attempt_page_fkey FOREIGN KEY (page) REFERENCES page ON DELETE CASCADE;
ALTER TABLE attempt ALTER COLUMN page DROP NOT NULL;
ALTER TABLE attempt DROP CONSTRAINT attempt_delivery_fkey;
ALTER TABLE attempt ADD CONSTRAINT attempt_delivery_fkey FOREIGN KEY (delivery) REFERENCES delivery ON DELETE CASCADE;
CREATE INDEX attempt_of_address ON attempt (address, started_at DESC);

CREATE TABLE digest_entry (
    id uuid PRIMARY KEY,
    person text NOT NULL,
    kind text NOT NULL,
    customer text NOT NULL,
    respondent text,
    due_at timestamptz NOT NULL,
    body text NOT NULL
);
CREATE INDEX digest_entry_due ON digest_entry (due_at);
CREATE INDEX digest_entry_of_person ON digest_entry (person, due_at);
CREATE INDEX digest_entry_of_respondent ON digest_entry (customer, respondent) WHERE respondent IS NOT NULL;
COMMENT ON TABLE digest_entry IS 'A line of a message that is not sent yet; deleted when it is put into one.';

CREATE TABLE override (
    id uuid PRIMARY KEY,
    schedule text NOT NULL,
    person text NOT NULL,
    replaces text,
    start_at timestamptz NOT NULL,
    until timestamptz NOT NULL,
    made_at timestamptz NOT NULL,
    made_by text NOT NULL,
    CONSTRAINT override_ends_after_it_starts CHECK (start_at <= until)
);
CREATE INDEX override_of_schedule ON override (schedule, until);
COMMENT ON COLUMN override.until IS 'One that was taken back ends where it was; it never did not happen.';

CREATE TABLE silence (
    id uuid PRIMARY KEY,
    customer text,
    touchpoint text,
    rule text,
    reason text NOT NULL,
    start_at timestamptz NOT NULL,
    until timestamptz NOT NULL,
    made_at timestamptz NOT NULL,
    made_by text NOT NULL,
    CONSTRAINT silence_ends_after_it_starts CHECK (start_at <= until)
);
CREATE INDEX silence_until ON silence (until);

CREATE TABLE directory_revision (
    revision bigint PRIMARY KEY,
    applied_at timestamptz NOT NULL,
    author text NOT NULL,
    body bytea NOT NULL
);
CREATE INDEX directory_revision_applied ON directory_revision (applied_at);
COMMENT ON TABLE directory_revision IS 'Who was responsible at any time in the past.';

CREATE TABLE contact (
    person text NOT NULL,
    channel text NOT NULL,
    address text NOT NULL,
    verified_at timestamptz,
    stopped_at timestamptz,
    code text,
    code_until timestamptz,
    tries integer NOT NULL DEFAULT 0,
    PRIMARY KEY (person, channel, address)
);
COMMENT ON COLUMN contact.code IS 'Hash of the code that was sent to verify it.';
COMMENT ON COLUMN contact.stopped_at IS 'When the person answered STOP: it is not called any more.';

CREATE TABLE heartbeat (
    name text PRIMARY KEY,
    beaten_at timestamptz,
    due_at timestamptz NOT NULL,
    silences integer NOT NULL DEFAULT 0,
    page uuid REFERENCES page ON DELETE SET NULL
);
CREATE INDEX heartbeat_due ON heartbeat (due_at);
COMMENT ON COLUMN heartbeat.due_at IS 'When it pages, unless a sign of life comes.';

CREATE TABLE standing (
    customer text PRIMARY KEY,
    day text NOT NULL,
    body text NOT NULL
);
COMMENT ON TABLE standing IS 'The newest daily scores of each customer, for briefs.';

CREATE TABLE check_in (
    id uuid PRIMARY KEY,
    customer text NOT NULL,
    held_at timestamptz NOT NULL,
    note text NOT NULL,
    goals text NOT NULL,
    made_at timestamptz NOT NULL,
    made_by text NOT NULL
);
CREATE INDEX check_in_of_customer ON check_in (customer, held_at DESC, id DESC);

CREATE TABLE check_in_due (
    customer text PRIMARY KEY,
    since timestamptz NOT NULL,
    look_at timestamptz NOT NULL,
    reminded integer NOT NULL DEFAULT 0
);
CREATE INDEX check_in_due_look ON check_in_due (look_at);
COMMENT ON COLUMN check_in_due.since IS 'The last one, or when they were agreed on.';

CREATE TABLE audit (
    id uuid PRIMARY KEY,
    at timestamptz NOT NULL,
    actor text NOT NULL,
    what text NOT NULL,
    page uuid,
    customer text,
    detail text NOT NULL
);
CREATE INDEX audit_of_page ON audit (page, id) WHERE page IS NOT NULL;
CREATE INDEX audit_newest ON audit (at DESC, id DESC);
CREATE INDEX audit_of_customer ON audit (customer, at DESC, id DESC) WHERE customer IS NOT NULL;
CREATE INDEX audit_by_what ON audit (what, at DESC, id DESC);
COMMENT ON TABLE audit IS 'Who was paged, who answered, who changed the rota and how; only ever appended.';

CREATE FUNCTION audit_is_only_appended() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN RAISE EXCEPTION 'the audit is only appended'; END $$;
CREATE TRIGGER audit_is_only_appended BEFORE UPDATE ON audit FOR EACH ROW EXECUTE FUNCTION audit_is_only_appended();
"""


def upgrade() -> None:
    run_script(UPGRADE)
