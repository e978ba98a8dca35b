"""An index of the threads that nobody wanted kept, so that those which were left are found."""

from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("CREATE INDEX threads_created_at_idx ON threads (created_at) WHERE openai = '{\"kept\": false}'")
