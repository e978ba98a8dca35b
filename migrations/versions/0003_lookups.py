"""What a deletion erases, and who wrote a shared prefix, are found by index."""

from alembic import op

revision = "0003"
down_revision = "0001"
branch_labels = None
depends_on = None

STATEMENTS = (
    # An expression in a condition of its own would not do: row-level security keeps functions that might leak from an index.
    r"""
    ALTER TABLE idempotency_records
        ADD COLUMN thread_id TEXT GENERATED ALWAYS AS (substring(path from '/threads/([^/]+)/')) STORED,
        ADD COLUMN object_id TEXT GENERATED ALWAYS AS (substring(answer from '^\{"id":"([^"]+)"')) STORED
    """,
    """
    CREATE INDEX idempotency_records_project_id_thread_id_idx ON idempotency_records (project_id, thread_id)
        WHERE thread_id IS NOT NULL
    """,
    """
    CREATE INDEX idempotency_records_project_id_object_id_idx ON idempotency_records (project_id, object_id)
        WHERE object_id IS NOT NULL
    """,
    "ALTER TABLE prompts ADD COLUMN shared_digest TEXT",
    """
    CREATE INDEX prompts_project_id_shared_digest_sent_at_idx ON prompts (project_id, shared_digest, sent_at)
        WHERE status = 'sent' AND shared_digest IS NOT NULL
    """,
    "DROP INDEX IF EXISTS prompts_built_idx",  # the beginning of prompts_thread_pk_lane_key_pk_idx
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
