"""Customers by number, key metrics, answers that were replaced, daily scores; buckets by customer and hour."""

import sqlalchemy as sa
from alembic import op

from shared.bus.client import partition_of
from shared.database.upgrade import run_script
from shared.wire.topics import PARTITIONS

revision = "0002"
down_revision = "0001"

UPGRADE = """
CREATE TABLE customer (
    number integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL CONSTRAINT one_customer UNIQUE,
    partition integer NOT NULL,
    due_at timestamptz NOT NULL,
    memory bytea
) WITH (fillfactor = 70);
CREATE INDEX customer_due ON customer (due_at);
COMMENT ON COLUMN customer.memory IS 'What the order and times of answers have told; NULL: nothing yet.';
COMMENT ON COLUMN customer.due_at IS 'When to look at it without an answer.';

INSERT INTO customer (name, partition, due_at)
SELECT DISTINCT customer, -1, now() FROM series ORDER BY customer;

ALTER TABLE series RENAME TO old_series;
ALTER TABLE answer RENAME TO old_answer;
ALTER TABLE bucket RENAME TO old_bucket;
ALTER TABLE old_series DROP CONSTRAINT one_series;
ALTER TABLE old_answer DROP CONSTRAINT answer_counts_once;
ALTER TABLE old_bucket DROP CONSTRAINT bucket_pkey;
DROP INDEX answer_of_series, answer_of_respondent;

CREATE TABLE series (
    customer integer NOT NULL,
    number smallint NOT NULL,
    touchpoint text,
    audience text NOT NULL,
    kind text NOT NULL,
    trust text NOT NULL,
    metric text,
    CONSTRAINT series_is_numbered PRIMARY KEY (customer, number),
    CONSTRAINT one_series UNIQUE NULLS NOT DISTINCT (customer, kind, audience, touchpoint, trust, metric),
    CONSTRAINT metrics_are_kpi CHECK ((kind = 'kpi') = (metric IS NOT NULL))
);
COMMENT ON TABLE series IS 'What is counted apart; a customer''s figures are sums over its series.';

CREATE TABLE answer (
    id uuid NOT NULL,
    customer integer NOT NULL,
    series smallint NOT NULL,
    score double precision NOT NULL,
    occurred_at timestamptz NOT NULL,
    received_at timestamptz NOT NULL,
    respondent text,
    comment text,
    channel text NOT NULL,
    language text,
    contact text,
    context text,
    backfill boolean NOT NULL,
    follow_up text
);

CREATE TABLE bucket (
    customer integer NOT NULL,
    hour integer NOT NULL,
    series smallint NOT NULL,
    c1 integer NOT NULL,
    c2 integer NOT NULL,
    c3 integer NOT NULL,
    c4 integer NOT NULL,
    c5 integer NOT NULL,
    c6 integer NOT NULL,
    c7 integer NOT NULL,
    total double precision NOT NULL
) WITH (fillfactor = 70);
COMMENT ON TABLE bucket IS 'Answers of an hour that count in windows that end now: of a respondent only the latest.';
COMMENT ON COLUMN bucket.hour IS 'Whole UTC hours since 1970.';
COMMENT ON COLUMN bucket.c1 IS 'Answers per category from the worst.';
COMMENT ON COLUMN bucket.total IS 'Sum of the scores of a key metric.';

CREATE TABLE replaced (
    customer integer NOT NULL,
    hour integer NOT NULL,
    until integer NOT NULL,
    series smallint NOT NULL,
    category smallint NOT NULL,
    count integer NOT NULL,
    total double precision NOT NULL,
    PRIMARY KEY (customer, hour, until, series, category)
);
COMMENT ON TABLE replaced IS 'Answers whose respondent has answered again: they count in windows that ended by then.';
COMMENT ON COLUMN replaced.until IS 'The hour of the answer that took its place.';

CREATE TEMPORARY TABLE moved ON COMMIT DROP AS
SELECT old.id, old.metric, customer.number AS customer,
    (row_number() OVER (PARTITION BY customer.number ORDER BY old.id, old.metric) - 1)::smallint AS series
FROM (
    SELECT id, customer, NULL AS metric FROM old_series WHERE kind <> 'kpi'
    UNION ALL
    SELECT DISTINCT old_series.id, old_series.customer, metric
    FROM old_series JOIN old_answer ON old_answer.series = old_series.id WHERE kind = 'kpi'
) AS old
JOIN customer ON customer.name = old.customer;
INSERT INTO series (customer, number, touchpoint, audience, kind, trust, metric)
SELECT moved.customer, moved.series, touchpoint, audience, kind, trust, metric FROM moved JOIN old_series USING (id);
INSERT INTO answer (id, customer, series, score, occurred_at, received_at, respondent, comment, channel, language,
    contact, context, backfill)
SELECT old_answer.id, moved.customer, moved.series, score, occurred_at, received_at, respondent, comment, channel,
    language, contact, context, backfill
FROM old_answer JOIN moved ON moved.id = old_answer.series AND moved.metric IS NOT DISTINCT FROM old_answer.metric;
CREATE TEMPORARY TABLE said ON COMMIT DROP AS
SELECT answer.customer, series, kind, (floor(extract(epoch FROM occurred_at))::bigint / 3600)::int AS hour,
    CASE kind WHEN 'nps' THEN CASE WHEN score <= 6 THEN 0 WHEN score <= 8 THEN 1 ELSE 2 END
        WHEN 'kpi' THEN 0 ELSE score::int - 1 END AS category,
    CASE kind WHEN 'kpi' THEN score ELSE 0 END AS amount,
    CASE WHEN respondent IS NOT NULL THEN lead((floor(extract(epoch FROM occurred_at))::bigint / 3600)::int) OVER (
        PARTITION BY answer.customer, series, respondent ORDER BY occurred_at, received_at, id) END AS until
FROM answer JOIN series ON series.customer = answer.customer AND series.number = answer.series;
INSERT INTO bucket
SELECT customer, hour, series, count(*) FILTER (WHERE category = 0), count(*) FILTER (WHERE category = 1),
    count(*) FILTER (WHERE category = 2), count(*) FILTER (WHERE category = 3), count(*) FILTER (WHERE category = 4),
    count(*) FILTER (WHERE category = 5), count(*) FILTER (WHERE category = 6), sum(amount)
FROM said WHERE until IS NULL GROUP BY customer, hour, series;
INSERT INTO replaced
SELECT customer, hour, until, series, category, count(*), sum(amount)
FROM said WHERE until > hour GROUP BY customer, hour, until, series, category;

ALTER TABLE answer ADD CONSTRAINT answer_counts_once PRIMARY KEY (id, customer);
COMMENT ON CONSTRAINT answer_counts_once ON answer IS 'The id first, in the order of time: the index grows at its end.';
CREATE INDEX answer_of_series ON answer (customer, series, occurred_at);
CREATE INDEX answer_of_respondent ON answer (customer, series, respondent, occurred_at) WHERE respondent IS NOT NULL;
ALTER TABLE bucket ADD CONSTRAINT one_bucket PRIMARY KEY (customer, hour, series);
DROP TABLE old_bucket, old_answer, old_series;

CREATE TABLE daily (
    customer integer NOT NULL,
    day integer NOT NULL,
    body text NOT NULL,
    PRIMARY KEY (customer, day)
);
COMMENT ON TABLE daily IS 'What was known of a customer when a day ended; never rewritten.';
COMMENT ON COLUMN daily.day IS 'Whole UTC days since 1970.';

CREATE TABLE erased (
    customer integer NOT NULL,
    respondent text NOT NULL,
    before timestamptz NOT NULL,
    PRIMARY KEY (customer, respondent)
);
COMMENT ON TABLE erased IS 'Who is to be forgotten, as an HMAC: what was said before is dropped when it comes late.';

CREATE TABLE company (
    kind text PRIMARY KEY,
    detractors double precision NOT NULL,
    passives double precision NOT NULL,
    promoters double precision NOT NULL,
    measured_at timestamptz NOT NULL
);
COMMENT ON TABLE company IS 'Shares of answers over a sample of customers, for those of short history.';
"""


def upgrade() -> None:
    run_script(UPGRADE)
    for (name,) in op.get_bind().execute(sa.text("SELECT name FROM customer")).fetchall():
        partition = partition_of(name.encode(), PARTITIONS)
        op.execute(sa.text("UPDATE customer SET partition = :p WHERE name = :n").bindparams(p=partition, n=name))
