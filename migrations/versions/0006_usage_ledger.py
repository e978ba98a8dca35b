"""The usage ledger: what each call of a model read, wrote and cost."""

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

# No foreign key to what was called for: what was billed stays when that is deleted.
TABLE = """
CREATE TABLE usage_entries (
    pk BIGINT GENERATED ALWAYS AS IDENTITY,
    project_id BIGINT NOT NULL,
    kind TEXT NOT NULL,
    called_at TIMESTAMP WITH TIME ZONE NOT NULL,
    thread_id TEXT,
    user_id TEXT,
    prompt_id TEXT,
    run_id TEXT,
    provider TEXT NOT NULL,
    model TEXT NOT NULL,
    cache_read_tokens INTEGER NOT NULL,
    cache_write_5m_tokens INTEGER NOT NULL,
    cache_write_1h_tokens INTEGER NOT NULL,
    uncached_tokens INTEGER NOT NULL,
    output_tokens INTEGER NOT NULL,
    cost_usd NUMERIC,
    cost_usd_uncached NUMERIC,
    output_usd NUMERIC,
    predicted_cache_read_tokens INTEGER,
    predicted_cache_write_tokens INTEGER,
    predicted_uncached_tokens INTEGER,
    predicted_cost_usd NUMERIC,
    miss_reason TEXT,
    miss TEXT,
    CONSTRAINT usage_entries_pkey PRIMARY KEY (pk),
    CONSTRAINT usage_entries_kind_check CHECK (kind IN ('report', 'run', 'prewarm')),
    CONSTRAINT usage_entries_project_id_fkey FOREIGN KEY(project_id) REFERENCES projects (pk) ON DELETE CASCADE
)
"""
INDEXES = (
    "CREATE INDEX usage_entries_project_id_called_at_idx ON usage_entries (project_id, called_at)",
    """
    CREATE INDEX usage_entries_project_id_thread_id_called_at_idx ON usage_entries (project_id, thread_id, called_at)
        WHERE thread_id IS NOT NULL
    """,
    """
    CREATE INDEX usage_entries_project_id_user_id_called_at_idx ON usage_entries (project_id, user_id, called_at)
        WHERE user_id IS NOT NULL
    """,
)
THIS_PROJECT = "(SELECT nullif(current_setting('memory.project_id', true), '')::bigint)"


def upgrade() -> None:
    op.execute(TABLE)
    for index in INDEXES:
        op.execute(index)
    op.execute("GRANT SELECT, INSERT, UPDATE, DELETE ON usage_entries TO memory_app, memory_worker")
    op.execute("ALTER TABLE usage_entries ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY")
    op.execute(f"CREATE POLICY project ON usage_entries TO memory_app USING (coalesce(project_id = {THIS_PROJECT}, false))")
    op.execute("CREATE POLICY every_project ON usage_entries TO memory_worker USING (true)")
