"""A key may have limits of its own; the tool calls of a message are found by index."""

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

# One value, so that it stays one round trip without a transaction.
FIND_KEY = """
CREATE FUNCTION find_key(sought bytea) RETURNS text[] LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('memory.key_hash', encode(sought, 'hex'), true);
    RETURN (SELECT ARRAY[id, project_id::text, requests_per_minute::text, max_body_bytes::text]
        FROM memory.api_keys WHERE hash = sought AND revoked_at IS NULL);
END $$
"""


def upgrade() -> None:
    op.execute(
        """
        ALTER TABLE api_keys
            ADD COLUMN requests_per_minute INTEGER,
            ADD COLUMN max_body_bytes BIGINT,
            ADD CONSTRAINT api_keys_limits_check CHECK (requests_per_minute >= 0 AND max_body_bytes > 0)
        """
    )
    op.execute(FIND_KEY)
    op.execute("DROP FUNCTION project_of_key")
    # Each message that is deleted looks for its own; without an index through all of its thread's.
    op.execute("CREATE INDEX tool_uses_thread_pk_seq_idx ON tool_uses (thread_pk, seq)")
