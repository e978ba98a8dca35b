"""Threads, messages, prompts, and the roles and policies that keep projects apart."""

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

TABLES = """
CREATE TABLE projects (
    pk BIGINT GENERATED ALWAYS AS IDENTITY,
    name TEXT NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE NOT NULL,
    CONSTRAINT projects_pkey PRIMARY KEY (pk),
    CONSTRAINT projects_name_key UNIQUE (name)
);

CREATE TABLE api_keys (
    id TEXT NOT NULL,
    project_id BIGINT NOT NULL,
    name TEXT NOT NULL,
    hash BYTEA NOT NULL,
    hint TEXT NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE NOT NULL,
    revoked_at TIMESTAMP WITH TIME ZONE,
    CONSTRAINT api_keys_pkey PRIMARY KEY (id),
    CONSTRAINT api_keys_project_id_fkey FOREIGN KEY(project_id) REFERENCES projects (pk) ON DELETE CASCADE,
    CONSTRAINT api_keys_hash_key UNIQUE (hash)
);

CREATE TABLE assistants (
    pk BIGINT GENERATED ALWAYS AS IDENTITY,
    project_id BIGINT NOT NULL,
    id TEXT NOT NULL,
    name TEXT,
    model TEXT,
    provider TEXT,
    instructions TEXT,
    tools TEXT,
    documents TEXT,
    defaults TEXT,
    metadata JSONB DEFAULT '{}' NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE NOT NULL,
    CONSTRAINT assistants_pkey PRIMARY KEY (pk),
    CONSTRAINT assistants_project_id_id_key UNIQUE (project_id, id),
    CONSTRAINT assistants_project_id_fkey FOREIGN KEY(project_id) REFERENCES projects (pk) ON DELETE CASCADE
);

CREATE INDEX assistants_project_id_created_at_pk_idx ON assistants (project_id, created_at, pk);

CREATE TABLE idempotency_records (
    project_id BIGINT NOT NULL,
    method TEXT NOT NULL,
    path TEXT NOT NULL,
    key TEXT NOT NULL,
    body_hash BYTEA NOT NULL,
    status INTEGER NOT NULL,
    answer TEXT NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE NOT NULL,
    CONSTRAINT idempotency_records_pkey PRIMARY KEY (project_id, method, path, key),
    CONSTRAINT idempotency_records_project_id_fkey FOREIGN KEY(project_id) REFERENCES projects (pk) ON DELETE CASCADE
);

CREATE INDEX idempotency_records_created_at_idx ON idempotency_records (created_at);

CREATE TABLE threads (
    pk BIGINT GENERATED ALWAYS AS IDENTITY,
    project_id BIGINT NOT NULL,
    id TEXT NOT NULL,
    user_id TEXT,
    assistant_id TEXT,
    instructions TEXT,
    tools TEXT,
    documents TEXT,
    truncation_strategy TEXT,
    metadata JSONB DEFAULT '{}' NOT NULL,
    version BIGINT DEFAULT 0 NOT NULL,
    last_seq INTEGER DEFAULT 0 NOT NULL,
    message_count INTEGER DEFAULT 0 NOT NULL,
    last_role TEXT,
    open_tool_use_ids TEXT[] DEFAULT '{}' NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE NOT NULL,
    CONSTRAINT threads_pkey PRIMARY KEY (pk),
    CONSTRAINT threads_project_id_id_key UNIQUE (project_id, id),
    CONSTRAINT threads_project_id_fkey FOREIGN KEY(project_id) REFERENCES projects (pk) ON DELETE CASCADE
);

CREATE INDEX threads_project_id_created_at_pk_idx ON threads (project_id, created_at, pk);

CREATE INDEX threads_project_id_user_id_created_at_pk_idx ON threads (project_id, user_id, created_at, pk) WHERE user_id IS NOT NULL;

CREATE TABLE token_estimates (
    project_id BIGINT NOT NULL,
    provider TEXT NOT NULL,
    model TEXT NOT NULL,
    state TEXT NOT NULL,
    updated_at TIMESTAMP WITH TIME ZONE NOT NULL,
    CONSTRAINT token_estimates_pkey PRIMARY KEY (project_id, provider, model),
    CONSTRAINT token_estimates_project_id_fkey FOREIGN KEY(project_id) REFERENCES projects (pk) ON DELETE CASCADE
);

CREATE TABLE lanes (
    thread_pk BIGINT NOT NULL,
    key TEXT NOT NULL,
    project_id BIGINT NOT NULL,
    state TEXT NOT NULL,
    updated_at TIMESTAMP WITH TIME ZONE NOT NULL,
    CONSTRAINT lanes_pkey PRIMARY KEY (thread_pk, key),
    CONSTRAINT lanes_thread_pk_fkey FOREIGN KEY(thread_pk) REFERENCES threads (pk) ON DELETE CASCADE
);

CREATE TABLE messages (
    thread_pk BIGINT NOT NULL,
    seq INTEGER NOT NULL,
    project_id BIGINT NOT NULL,
    id TEXT NOT NULL,
    role TEXT NOT NULL,
    content TEXT,
    status TEXT DEFAULT 'completed' NOT NULL,
    revision INTEGER DEFAULT 1 NOT NULL,
    latin_tokens INTEGER DEFAULT 0 NOT NULL,
    other_tokens INTEGER DEFAULT 0 NOT NULL,
    text_bytes INTEGER DEFAULT 0 NOT NULL,
    image_tokens INTEGER DEFAULT 0 NOT NULL,
    thinking_tokens INTEGER DEFAULT 0 NOT NULL,
    run_id TEXT,
    metadata JSONB,
    created_at TIMESTAMP WITH TIME ZONE NOT NULL,
    deleted_at TIMESTAMP WITH TIME ZONE,
    CONSTRAINT messages_pkey PRIMARY KEY (thread_pk, seq),
    CONSTRAINT messages_project_id_id_key UNIQUE (project_id, id),
    CONSTRAINT messages_role_check CHECK (role IN ('user', 'assistant')),
    CONSTRAINT messages_tombstone_check CHECK ((content IS NULL) = (deleted_at IS NOT NULL)),
    CONSTRAINT messages_thread_pk_fkey FOREIGN KEY(thread_pk) REFERENCES threads (pk) ON DELETE CASCADE
);

CREATE TABLE prompts (
    pk BIGINT GENERATED ALWAYS AS IDENTITY,
    thread_pk BIGINT NOT NULL,
    project_id BIGINT NOT NULL,
    id TEXT NOT NULL,
    status TEXT DEFAULT 'built' NOT NULL,
    lane_key TEXT NOT NULL,
    thread_version BIGINT NOT NULL,
    stable_digest TEXT NOT NULL,
    plan TEXT NOT NULL,
    volatile TEXT,
    recalled_seqs INTEGER[] DEFAULT '{}' NOT NULL,
    usage TEXT,
    reply_seq INTEGER,
    built_at TIMESTAMP WITH TIME ZONE NOT NULL,
    sent_at TIMESTAMP WITH TIME ZONE,
    CONSTRAINT prompts_pkey PRIMARY KEY (pk),
    CONSTRAINT prompts_project_id_id_key UNIQUE (project_id, id),
    CONSTRAINT prompts_status_check CHECK (status IN ('built', 'sent', 'abandoned')),
    CONSTRAINT prompts_thread_pk_fkey FOREIGN KEY(thread_pk) REFERENCES threads (pk) ON DELETE CASCADE
);

CREATE INDEX prompts_built_idx ON prompts (thread_pk, lane_key) WHERE status = 'built';

CREATE INDEX prompts_thread_pk_pk_idx ON prompts (thread_pk, pk);

CREATE INDEX prompts_thread_pk_lane_key_pk_idx ON prompts (thread_pk, lane_key, pk) WHERE status = 'built';

CREATE TABLE stable_texts (
    thread_pk BIGINT NOT NULL,
    digest TEXT NOT NULL,
    project_id BIGINT NOT NULL,
    content TEXT NOT NULL,
    CONSTRAINT stable_texts_pkey PRIMARY KEY (thread_pk, digest),
    CONSTRAINT stable_texts_thread_pk_fkey FOREIGN KEY(thread_pk) REFERENCES threads (pk) ON DELETE CASCADE
);

CREATE TABLE message_revisions (
    thread_pk BIGINT NOT NULL,
    seq INTEGER NOT NULL,
    until_version BIGINT NOT NULL,
    project_id BIGINT NOT NULL,
    content TEXT NOT NULL,
    CONSTRAINT message_revisions_pkey PRIMARY KEY (thread_pk, seq, until_version),
    CONSTRAINT message_revisions_thread_pk_seq_fkey FOREIGN KEY(thread_pk, seq) REFERENCES messages (thread_pk, seq) ON DELETE CASCADE
);

CREATE TABLE message_terms (
    thread_pk BIGINT NOT NULL,
    seq INTEGER NOT NULL,
    project_id BIGINT NOT NULL,
    terms BYTEA NOT NULL,
    CONSTRAINT message_terms_pkey PRIMARY KEY (thread_pk, seq),
    CONSTRAINT message_terms_thread_pk_seq_fkey FOREIGN KEY(thread_pk, seq) REFERENCES messages (thread_pk, seq) ON DELETE CASCADE
);

CREATE TABLE tool_uses (
    thread_pk BIGINT NOT NULL,
    tool_use_id TEXT NOT NULL,
    seq INTEGER NOT NULL,
    project_id BIGINT NOT NULL,
    CONSTRAINT tool_uses_pkey PRIMARY KEY (thread_pk, tool_use_id),
    CONSTRAINT tool_uses_thread_pk_seq_fkey FOREIGN KEY(thread_pk, seq) REFERENCES messages (thread_pk, seq) ON DELETE CASCADE
);
"""

# Roles belong to the whole cluster, so another database may have made them already.
ROLES = """
DO $$
DECLARE role_name text;
BEGIN
    FOREACH role_name IN ARRAY ARRAY['memory_app', 'memory_worker'] LOOP
        BEGIN
            IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = role_name) THEN
                EXECUTE format('CREATE ROLE %I NOLOGIN', role_name);
            END IF;
        EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL;
        END;
        IF NOT (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) THEN
            BEGIN
                EXECUTE format('GRANT %I TO %I', role_name, current_user);
            EXCEPTION WHEN insufficient_privilege THEN
                -- From Postgres 16 on a member may be one who cannot SET ROLE.
                IF NOT pg_has_role(current_user, role_name,
                    CASE WHEN current_setting('server_version_num')::int >= 160000 THEN 'SET' ELSE 'MEMBER' END)
                THEN RAISE; END IF;
            END;
        END IF;
    END LOOP;
END $$;
"""

GRANTS = """
GRANT USAGE ON SCHEMA memory TO memory_app, memory_worker;
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA memory TO memory_app, memory_worker;
REVOKE INSERT, UPDATE, DELETE ON alembic_version, projects, api_keys FROM memory_app;
REVOKE INSERT, UPDATE, DELETE ON alembic_version FROM memory_worker;
"""

# Authentication knows a key before it knows a project. As one function it is one round trip; it has no rights of its own.
PROJECT_OF_KEY = """
CREATE FUNCTION project_of_key(sought bytea) RETURNS bigint LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('memory.key_hash', encode(sought, 'hex'), true);
    RETURN (SELECT project_id FROM memory.api_keys WHERE hash = sought AND revoked_at IS NULL);
END $$
"""

PROJECT_TABLES = (
    "assistants", "idempotency_records", "lanes", "message_revisions", "message_terms", "messages", "prompts",
    "stable_texts", "threads", "token_estimates", "tool_uses",
)
# In a subquery, so that the setting is read once for a statement and not once for a row.
THIS_PROJECT = "(SELECT nullif(current_setting('memory.project_id', true), '')::bigint)"
THIS_KEY = "(SELECT decode(nullif(current_setting('memory.key_hash', true), ''), 'hex'))"


def protect(table: str, condition: str) -> None:
    op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
    op.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")
    op.execute(f"CREATE POLICY project ON {table} TO memory_app USING ({condition})")
    op.execute(f"CREATE POLICY every_project ON {table} TO memory_worker USING (true)")


def upgrade() -> None:
    op.execute("CREATE EXTENSION IF NOT EXISTS vector WITH SCHEMA public")
    for statement in TABLES.split(";"):
        if statement.strip():
            op.execute(statement)
    op.execute(PROJECT_OF_KEY)
    op.execute(ROLES)
    for statement in GRANTS.split(";"):
        if statement.strip():
            op.execute(statement)
    for table in PROJECT_TABLES:
        # Within coalesce it is no condition that an index could serve. The planner takes each project for an average one:
        # it would read all of a large project by (project_id, id) and sort it, instead of a page of one thread in order.
        protect(table, f"coalesce(project_id = {THIS_PROJECT}, false)")
    protect("projects", f"pk = {THIS_PROJECT}")
    protect("api_keys", f"project_id = {THIS_PROJECT} OR hash = {THIS_KEY}")
