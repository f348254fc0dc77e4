"""A contact that is called is known by its channel and address: its place in the list changes with an edit."""

from shared.database.upgrade import run_script

revision = "0006"
down_revision = "0005"

UPGRADE = """
ALTER TABLE delivery ADD COLUMN channel text;
ALTER TABLE delivery ADD COLUMN address text;
ALTER TABLE delivery ADD COLUMN nth integer;
ALTER TABLE delivery ADD CONSTRAINT a_way_is_whole CHECK ((channel IS NULL) = (address IS NULL)
    AND (channel IS NULL) = (nth IS NULL));
CREATE UNIQUE INDEX one_delivery_per_way ON delivery (page, turn, channel, md5(address), nth);
CREATE UNIQUE INDEX one_delivery_of_a_notice_per_way ON delivery (notice, channel, md5(address), nth);
COMMENT ON COLUMN delivery.contact IS 'Its number in the turn; without a channel, its place in the list, from 0.';
COMMENT ON COLUMN delivery.channel IS 'NULL: stored by a process that knows contacts by their place.';
"""


def upgrade() -> None:
    run_script(UPGRADE)
