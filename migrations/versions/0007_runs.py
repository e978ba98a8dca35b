"""Runs, what happens in them, and which processes execute them."""

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

TABLES = """
ALTER TABLE threads ADD COLUMN active_run_id TEXT;

CREATE TABLE runs (
    pk BIGINT GENERATED ALWAYS AS IDENTITY,
    project_id BIGINT NOT NULL,
    thread_pk BIGINT NOT NULL,
    id TEXT NOT NULL,
    status TEXT NOT NULL,
    provider TEXT NOT NULL,
    model TEXT NOT NULL,
    spec TEXT NOT NULL,
    waiting_message TEXT,
    owner UUID,
    spent TEXT DEFAULT '{}' NOT NULL,
    prompt_ids TEXT[] DEFAULT '{}' NOT NULL,
    message_ids TEXT[] DEFAULT '{}' NOT NULL,
    required_action TEXT,
    last_error TEXT,
    incomplete_reason TEXT,
    provider_reply_id TEXT,
    metadata JSONB DEFAULT '{}' NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE NOT NULL,
    started_at TIMESTAMP WITH TIME ZONE,
    expires_at TIMESTAMP WITH TIME ZONE,
    ended_at TIMESTAMP WITH TIME ZONE,
    CONSTRAINT runs_pkey PRIMARY KEY (pk),
    CONSTRAINT runs_project_id_id_key UNIQUE (project_id, id),
    CONSTRAINT runs_thread_pk_fkey FOREIGN KEY(thread_pk) REFERENCES threads (pk) ON DELETE CASCADE,
    CONSTRAINT runs_status_check CHECK (status IN ('queued', 'in_progress', 'requires_action', 'cancelling', 'cancelled', 'completed', 'incomplete', 'failed', 'expired'))
);

CREATE INDEX runs_thread_pk_pk_idx ON runs (thread_pk, pk);

CREATE UNIQUE INDEX runs_thread_pk_idx ON runs (thread_pk) WHERE status IN ('in_progress', 'requires_action', 'cancelling');

CREATE INDEX runs_status_idx ON runs (status) WHERE status IN ('queued', 'in_progress', 'requires_action', 'cancelling');

CREATE TABLE run_events (
    run_pk BIGINT NOT NULL,
    seq INTEGER NOT NULL,
    project_id BIGINT NOT NULL,
    type TEXT NOT NULL,
    content TEXT NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    CONSTRAINT run_events_pkey PRIMARY KEY (run_pk, seq),
    CONSTRAINT run_events_run_pk_fkey FOREIGN KEY(run_pk) REFERENCES runs (pk) ON DELETE CASCADE
);

CREATE TABLE servers (
    id UUID NOT NULL,
    beat_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    CONSTRAINT servers_pkey PRIMARY KEY (id)
);
"""

THIS_PROJECT = "(SELECT nullif(current_setting('memory.project_id', true), '')::bigint)"


def upgrade() -> None:
    for statement in TABLES.split(";\n"):
        if statement.strip():
            op.execute(statement)
    for table in ("runs", "run_events"):
        op.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON {table} TO memory_app, memory_worker")
        op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY")
        op.execute(
            f"CREATE POLICY project ON {table} TO memory_app USING (coalesce(project_id = {THIS_PROJECT}, false))"
        )
        op.execute(f"CREATE POLICY every_project ON {table} TO memory_worker USING (true)")
    op.execute("GRANT SELECT ON servers TO memory_app")
    op.execute("GRANT SELECT, INSERT, UPDATE, DELETE ON servers TO memory_worker")
