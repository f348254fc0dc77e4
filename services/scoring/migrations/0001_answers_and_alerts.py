"""Series, answers, hourly buckets, alerts."""

from shared.database.upgrade import run_script

revision = "0001"
down_revision = None

UPGRADE = """
CREATE TABLE series (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    customer text NOT NULL,
    touchpoint text,
    audience text NOT NULL,
    kind text NOT NULL,
    trust text NOT NULL,
    CONSTRAINT one_series UNIQUE NULLS NOT DISTINCT (customer, audience, kind, touchpoint, trust)
);
COMMENT ON TABLE series IS 'What is counted apart; a customer''s figures are sums over its series.';

CREATE TABLE answer (
    id uuid NOT NULL,
    customer text NOT NULL,
    series integer NOT NULL,
    score double precision NOT NULL,
    occurred_at timestamptz NOT NULL,
    received_at timestamptz NOT NULL,
    respondent text,
    metric text,
    comment text,
    channel text NOT NULL,
    language text,
    contact text,
    context text,
    backfill boolean NOT NULL,
    CONSTRAINT answer_counts_once PRIMARY KEY (id, customer)
);
COMMENT ON CONSTRAINT answer_counts_once ON answer IS 'The id first, in the order of time: the index grows at its end.';
CREATE INDEX answer_of_series ON answer (series, occurred_at);
CREATE INDEX answer_of_respondent ON answer (series, respondent, occurred_at) WHERE respondent IS NOT NULL;

CREATE TABLE bucket (
    series integer NOT NULL,
    hour integer NOT NULL,
    c1 integer NOT NULL,
    c2 integer NOT NULL,
    c3 integer NOT NULL,
    c4 integer NOT NULL,
    c5 integer NOT NULL,
    c6 integer NOT NULL,
    c7 integer NOT NULL,
    PRIMARY KEY (series, hour)
) WITH (fillfactor = 70);
COMMENT ON COLUMN bucket.hour IS 'Whole UTC hours since 1970.';
COMMENT ON COLUMN bucket.c1 IS 'Answers that count, per category from the worst; of a respondent only the latest.';

CREATE TABLE alert (
    id uuid PRIMARY KEY,
    version integer NOT NULL,
    customer text NOT NULL,
    partition integer NOT NULL,
    rule text NOT NULL,
    kind text NOT NULL,
    touchpoint text,
    dedup_key text NOT NULL,
    state text NOT NULL CHECK (state IN ('open', 'cleared')),
    severity text NOT NULL,
    trust text NOT NULL,
    opened_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    cleared_at timestamptz,
    caused_at timestamptz NOT NULL,
    due_at timestamptz NOT NULL,
    answer uuid,
    pending boolean NOT NULL,
    traceparent text,
    body text NOT NULL,
    CONSTRAINT cleared_has_a_time CHECK ((state = 'cleared') = (cleared_at IS NOT NULL))
);
CREATE UNIQUE INDEX one_open_alert ON alert (dedup_key) WHERE state = 'open' AND answer IS NULL;
CREATE UNIQUE INDEX one_alert_per_answer ON alert (dedup_key, answer) WHERE answer IS NOT NULL;
CREATE INDEX alert_due ON alert (due_at) WHERE state = 'open';
CREATE INDEX alert_open_of_customer ON alert (customer) WHERE state = 'open';
CREATE INDEX alert_cleared_of_customer ON alert (customer, cleared_at) WHERE state = 'cleared';
CREATE INDEX alert_newest ON alert (opened_at DESC, id DESC);
COMMENT ON COLUMN alert.body IS 'The newest message as JSON.';
"""


def upgrade() -> None:
    run_script(UPGRADE)
