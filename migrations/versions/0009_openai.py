"""What only OpenAI's objects have: fields that the OpenAI-compatible edge shows again as they were given."""

from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for table in ("assistants", "threads", "messages"):
        op.execute(f"ALTER TABLE {table} ADD COLUMN openai TEXT")
