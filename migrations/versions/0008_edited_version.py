"""Which version of a thread changed or deleted messages, so that what was read of older ones can be held."""

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("ALTER TABLE threads ADD COLUMN edited_version BIGINT DEFAULT 0 NOT NULL")
