"""The audit of all services: where something was done, and from where; and no line that is kept can be deleted."""

from shared.database.upgrade import run_script

revision = "0010"
down_revision = "0009"

UPGRADE = """
ALTER TABLE audit ADD COLUMN service text NOT NULL DEFAULT 'notify';
ALTER TABLE audit ADD COLUMN address text;
COMMENT ON TABLE audit IS 'Who changed what, in every service, and who was refused; only ever appended.';
COMMENT ON COLUMN audit.address IS 'From where: an address, of refused keys its network, of commands the host.';

-- Retention deletes what is older than the directory keeps, which is a day at least.
CREATE FUNCTION audit_is_kept() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN
    IF OLD.at < now() - interval '1 day' THEN RETURN OLD; ELSE RAISE EXCEPTION 'the audit is only appended'; END IF; END
$$;
CREATE TRIGGER audit_is_kept BEFORE DELETE ON audit FOR EACH ROW EXECUTE FUNCTION audit_is_kept();
CREATE TRIGGER audit_is_not_emptied BEFORE TRUNCATE ON audit
    FOR EACH STATEMENT EXECUTE FUNCTION audit_is_only_appended();
"""


def upgrade() -> None:
    run_script(UPGRADE)
