"""Embedders, a table of vectors for each, and the queue of messages that wait for theirs."""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

TABLES = """
CREATE TABLE embedders (
    pk BIGINT GENERATED ALWAYS AS IDENTITY,
    name TEXT NOT NULL,
    spec TEXT NOT NULL,
    dimensions INTEGER NOT NULL,
    status TEXT NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE NOT NULL,
    retired_at TIMESTAMP WITH TIME ZONE,
    CONSTRAINT embedders_pkey PRIMARY KEY (pk),
    CONSTRAINT embedders_status_check CHECK (status IN ('building', 'active', 'retired'))
);

CREATE UNIQUE INDEX embedders_status_idx ON embedders (status) WHERE status <> 'retired';

CREATE TABLE pending_embeddings (
    thread_pk BIGINT NOT NULL,
    seq INTEGER NOT NULL,
    embedder_pk BIGINT NOT NULL,
    project_id BIGINT NOT NULL,
    attempts INTEGER DEFAULT 0 NOT NULL,
    not_before TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    enqueued_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    claim UUID,
    last_error TEXT,
    CONSTRAINT pending_embeddings_pkey PRIMARY KEY (thread_pk, seq, embedder_pk),
    CONSTRAINT pending_embeddings_thread_pk_seq_fkey FOREIGN KEY(thread_pk, seq) REFERENCES messages (thread_pk, seq) ON DELETE CASCADE,
    CONSTRAINT pending_embeddings_embedder_pk_fkey FOREIGN KEY(embedder_pk) REFERENCES embedders (pk)
);

CREATE INDEX pending_embeddings_embedder_pk_not_before_idx ON pending_embeddings (embedder_pk, not_before);
"""

# Run by the owner, for a new embedder. The signs of a vector stand in the key, so that a long thread is searched in the
# index alone; the project stands there for the policy. A vector is never compressed, and lies in its row as far as it fits.
CREATE_VECTORS = """
CREATE FUNCTION create_vectors(embedder bigint, dimensions integer) RETURNS void LANGUAGE plpgsql AS $$
DECLARE vectors text := format('memory.vectors_%s', embedder);
BEGIN
    EXECUTE format(
        'CREATE TABLE %1$s (
            thread_pk bigint NOT NULL,
            seq integer NOT NULL,
            passage integer NOT NULL,
            project_id bigint NOT NULL,
            embedding halfvec(%3$s) NOT NULL,
            signs bit(%3$s) GENERATED ALWAYS AS (binary_quantize(embedding)::bit(%3$s)) STORED,
            CONSTRAINT %2$I PRIMARY KEY (thread_pk, seq, passage) INCLUDE (project_id, signs),
            CONSTRAINT %4$I FOREIGN KEY (thread_pk, seq) REFERENCES memory.messages (thread_pk, seq) ON DELETE CASCADE
        ) WITH (autovacuum_vacuum_insert_scale_factor = 0.05)',
        vectors, format('vectors_%s_pkey', embedder), dimensions, format('vectors_%s_thread_pk_seq_fkey', embedder));
    EXECUTE format('ALTER TABLE %s ALTER embedding SET STORAGE %s', vectors,
        CASE WHEN dimensions <= 3072 THEN 'PLAIN' ELSE 'EXTERNAL' END);
    EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY', vectors);
    EXECUTE format(
        'CREATE POLICY project ON %s TO memory_app USING (coalesce(project_id = '
        '(SELECT nullif(current_setting(''memory.project_id'', true), '''')::bigint), false))', vectors);
    EXECUTE format('CREATE POLICY every_project ON %s TO memory_worker USING (true)', vectors);
    EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON %s TO memory_app, memory_worker', vectors);
    EXECUTE format('GRANT TRUNCATE ON %s TO memory_worker', vectors);
END $$
"""

# The queue first: whoever is just writing a vector has its entry locked.
FORGET_VECTORS = """
CREATE FUNCTION forget_vectors(of_thread bigint, of_seq integer) RETURNS void LANGUAGE plpgsql AS $$
DECLARE embedder bigint;
BEGIN
    DELETE FROM memory.pending_embeddings WHERE thread_pk = of_thread AND seq = of_seq;
    FOR embedder IN SELECT pk FROM memory.embedders LOOP
        EXECUTE format('DELETE FROM memory.vectors_%s WHERE thread_pk = $1 AND seq = $2', embedder)
            USING of_thread, of_seq;
    END LOOP;
END $$
"""

# What has no vector to copy yet is queued.
COPY_VECTORS = """
CREATE FUNCTION copy_vectors(source bigint, target bigint, last_seq integer) RETURNS void LANGUAGE plpgsql AS $$
DECLARE embedder bigint;
BEGIN
    FOR embedder IN SELECT pk FROM memory.embedders WHERE status <> 'retired' LOOP
        EXECUTE format(
            'INSERT INTO memory.vectors_%1$s (thread_pk, seq, passage, project_id, embedding)
                SELECT $2, seq, passage, project_id, embedding FROM memory.vectors_%1$s
                WHERE thread_pk = $1 AND seq <= $3', embedder) USING source, target, last_seq;
        EXECUTE format(
            'INSERT INTO memory.pending_embeddings (thread_pk, seq, embedder_pk, project_id)
                SELECT thread_pk, seq, $2, project_id FROM memory.message_terms m WHERE thread_pk = $1
                AND NOT EXISTS (SELECT FROM memory.vectors_%s v WHERE v.thread_pk = m.thread_pk AND v.seq = m.seq)',
            embedder) USING target, embedder;
    END LOOP;
END $$
"""

GRANTS = """
GRANT SELECT ON embedders TO memory_app, memory_worker;
GRANT INSERT, UPDATE ON embedders TO memory_worker;
GRANT SELECT, INSERT, UPDATE, DELETE ON pending_embeddings TO memory_app, memory_worker;
"""

BUILTIN = """
INSERT INTO embedders (name, spec, dimensions, status, created_at)
    VALUES ('builtin:1', '{"model":"1","provider":"builtin"}', 384, 'active', now());
SELECT create_vectors(pk, dimensions) FROM embedders;
"""

# What was written before gets its vector in the background. Policies hide rows even from the owner, unless it is a superuser.
QUEUE_ALL = """
SET LOCAL row_security = on;
SET LOCAL ROLE memory_worker;
INSERT INTO pending_embeddings (thread_pk, seq, embedder_pk, project_id)
    SELECT m.thread_pk, m.seq, e.pk, m.project_id FROM message_terms m, embedders e;
RESET ROLE;
SET LOCAL row_security = off;
"""

THIS_PROJECT = "(SELECT nullif(current_setting('memory.project_id', true), '')::bigint)"


def run(statements: str) -> None:
    for statement in statements.split(";"):
        if statement.strip():
            op.execute(statement)


def upgrade() -> None:
    run(TABLES)
    for function in (CREATE_VECTORS, FORGET_VECTORS, COPY_VECTORS):
        op.execute(function)
    run(GRANTS)
    op.execute("ALTER TABLE pending_embeddings ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY")
    op.execute(
        f"CREATE POLICY project ON pending_embeddings TO memory_app USING (coalesce(project_id = {THIS_PROJECT}, false))"
    )
    op.execute("CREATE POLICY every_project ON pending_embeddings TO memory_worker USING (true)")
    run(BUILTIN)
    run(QUEUE_ALL)
