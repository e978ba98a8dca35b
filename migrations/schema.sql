-- What the migrations make. Written by `python -m tests.store.schema`; a test compares.

CREATE SCHEMA memory;

CREATE FUNCTION memory.copy_vectors(source bigint, target bigint, last_seq integer) RETURNS void
    LANGUAGE plpgsql
    AS $_$
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
END $_$;

CREATE FUNCTION memory.create_vectors(embedder bigint, dimensions integer) RETURNS void
    LANGUAGE plpgsql
    AS $_$
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
END $_$;

CREATE FUNCTION memory.expect(is_so boolean) RETURNS void
    LANGUAGE plpgsql
    AS $$
        BEGIN
            IF is_so IS NOT TRUE THEN
                RAISE EXCEPTION 'not as expected' USING ERRCODE = 'MM001';
            END IF;
        END $$;

CREATE FUNCTION memory.expect_thread(of_pk bigint, of_version bigint, of_run text) RETURNS void
    LANGUAGE plpgsql
    AS $$
        BEGIN
            PERFORM FROM memory.threads
            WHERE pk = of_pk AND version = of_version AND active_run_id IS NOT DISTINCT FROM of_run FOR UPDATE;
            IF NOT FOUND THEN
                RAISE EXCEPTION 'the thread moved' USING ERRCODE = 'MM001';
            END IF;
        END $$;

CREATE FUNCTION memory.find_key(sought bytea) RETURNS text[]
    LANGUAGE plpgsql
    AS $$
BEGIN
    PERFORM set_config('memory.key_hash', encode(sought, 'hex'), true);
    RETURN (SELECT ARRAY[id, project_id::text, requests_per_minute::text, max_body_bytes::text]
        FROM memory.api_keys WHERE hash = sought AND revoked_at IS NULL);
END $$;

CREATE FUNCTION memory.forget_vectors(of_thread bigint, of_seq integer) RETURNS void
    LANGUAGE plpgsql
    AS $_$
DECLARE embedder bigint;
BEGIN
    DELETE FROM memory.pending_embeddings WHERE thread_pk = of_thread AND seq = of_seq;
    FOR embedder IN SELECT pk FROM memory.embedders LOOP
        EXECUTE format('DELETE FROM memory.vectors_%s WHERE thread_pk = $1 AND seq = $2', embedder)
            USING of_thread, of_seq;
    END LOOP;
END $_$;

CREATE TABLE memory.alembic_version (
    version_num character varying(32) NOT NULL
);

CREATE TABLE memory.api_keys (
    id text NOT NULL,
    project_id bigint NOT NULL,
    name text NOT NULL,
    hash bytea NOT NULL,
    hint text NOT NULL,
    created_at timestamp with time zone NOT NULL,
    revoked_at timestamp with time zone,
    requests_per_minute integer,
    max_body_bytes bigint,
    CONSTRAINT api_keys_limits_check CHECK (((requests_per_minute >= 0) AND (max_body_bytes > 0)))
);

ALTER TABLE ONLY memory.api_keys FORCE ROW LEVEL SECURITY;

CREATE TABLE memory.assistants (
    pk bigint NOT NULL,
    project_id bigint NOT NULL,
    id text NOT NULL,
    name text,
    model text,
    provider text,
    instructions text,
    tools text,
    documents text,
    defaults text,
    metadata jsonb DEFAULT '{}'::jsonb NOT NULL,
    created_at timestamp with time zone NOT NULL,
    openai text
);

ALTER TABLE ONLY memory.assistants FORCE ROW LEVEL SECURITY;

ALTER TABLE memory.assistants ALTER COLUMN pk ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME memory.assistants_pk_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE memory.embedders (
    pk bigint NOT NULL,
    name text NOT NULL,
    spec text NOT NULL,
    dimensions integer NOT NULL,
    status text NOT NULL,
    created_at timestamp with time zone NOT NULL,
    retired_at timestamp with time zone,
    CONSTRAINT embedders_status_check CHECK ((status = ANY (ARRAY['building'::text, 'active'::text, 'retired'::text])))
);

ALTER TABLE memory.embedders ALTER COLUMN pk ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME memory.embedders_pk_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE memory.idempotency_records (
    project_id bigint NOT NULL,
    method text NOT NULL,
    path text NOT NULL,
    key text NOT NULL,
    body_hash bytea NOT NULL,
    status integer NOT NULL,
    answer text NOT NULL,
    created_at timestamp with time zone NOT NULL,
    thread_id text GENERATED ALWAYS AS ("substring"(path, '/threads/([^/]+)/'::text)) STORED,
    object_id text GENERATED ALWAYS AS ("substring"(answer, '^\{"id":"([^"]+)"'::text)) STORED
);

ALTER TABLE ONLY memory.idempotency_records FORCE ROW LEVEL SECURITY;

CREATE TABLE memory.lanes (
    thread_pk bigint NOT NULL,
    key text NOT NULL,
    project_id bigint NOT NULL,
    state text NOT NULL,
    updated_at timestamp with time zone NOT NULL
);

ALTER TABLE ONLY memory.lanes FORCE ROW LEVEL SECURITY;

CREATE TABLE memory.message_revisions (
    thread_pk bigint NOT NULL,
    seq integer NOT NULL,
    until_version bigint NOT NULL,
    project_id bigint NOT NULL,
    content text NOT NULL
);

ALTER TABLE ONLY memory.message_revisions FORCE ROW LEVEL SECURITY;

CREATE TABLE memory.message_terms (
    thread_pk bigint NOT NULL,
    seq integer NOT NULL,
    project_id bigint NOT NULL,
    terms bytea NOT NULL
);

ALTER TABLE ONLY memory.message_terms FORCE ROW LEVEL SECURITY;

CREATE TABLE memory.messages (
    thread_pk bigint NOT NULL,
    seq integer NOT NULL,
    project_id bigint NOT NULL,
    id text NOT NULL,
    role text NOT NULL,
    content text,
    status text DEFAULT 'completed'::text NOT NULL,
    revision integer DEFAULT 1 NOT NULL,
    latin_tokens integer DEFAULT 0 NOT NULL,
    other_tokens integer DEFAULT 0 NOT NULL,
    text_bytes integer DEFAULT 0 NOT NULL,
    image_tokens integer DEFAULT 0 NOT NULL,
    thinking_tokens integer DEFAULT 0 NOT NULL,
    run_id text,
    metadata jsonb,
    created_at timestamp with time zone NOT NULL,
    deleted_at timestamp with time zone,
    openai text,
    CONSTRAINT messages_role_check CHECK ((role = ANY (ARRAY['user'::text, 'assistant'::text]))),
    CONSTRAINT messages_tombstone_check CHECK (((content IS NULL) = (deleted_at IS NOT NULL)))
);

ALTER TABLE ONLY memory.messages FORCE ROW LEVEL SECURITY;

CREATE TABLE memory.pending_embeddings (
    thread_pk bigint NOT NULL,
    seq integer NOT NULL,
    embedder_pk bigint NOT NULL,
    project_id bigint NOT NULL,
    attempts integer DEFAULT 0 NOT NULL,
    not_before timestamp with time zone DEFAULT now() NOT NULL,
    enqueued_at timestamp with time zone DEFAULT now() NOT NULL,
    claim uuid,
    last_error text
);

ALTER TABLE ONLY memory.pending_embeddings FORCE ROW LEVEL SECURITY;

CREATE TABLE memory.projects (
    pk bigint NOT NULL,
    name text NOT NULL,
    created_at timestamp with time zone NOT NULL
);

ALTER TABLE ONLY memory.projects FORCE ROW LEVEL SECURITY;

ALTER TABLE memory.projects ALTER COLUMN pk ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME memory.projects_pk_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE memory.prompts (
    pk bigint NOT NULL,
    thread_pk bigint NOT NULL,
    project_id bigint NOT NULL,
    id text NOT NULL,
    status text DEFAULT 'built'::text NOT NULL,
    lane_key text NOT NULL,
    thread_version bigint NOT NULL,
    stable_digest text NOT NULL,
    plan text NOT NULL,
    volatile text,
    recalled_seqs integer[] DEFAULT '{}'::integer[] NOT NULL,
    usage text,
    reply_seq integer,
    built_at timestamp with time zone NOT NULL,
    sent_at timestamp with time zone,
    shared_digest text,
    CONSTRAINT prompts_status_check CHECK ((status = ANY (ARRAY['built'::text, 'sent'::text, 'abandoned'::text])))
);

ALTER TABLE ONLY memory.prompts FORCE ROW LEVEL SECURITY;

ALTER TABLE memory.prompts ALTER COLUMN pk ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME memory.prompts_pk_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE memory.run_events (
    run_pk bigint NOT NULL,
    seq integer NOT NULL,
    project_id bigint NOT NULL,
    type text NOT NULL,
    content text NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL
);

ALTER TABLE ONLY memory.run_events FORCE ROW LEVEL SECURITY;

CREATE TABLE memory.runs (
    pk bigint NOT NULL,
    project_id bigint NOT NULL,
    thread_pk bigint NOT NULL,
    id text NOT NULL,
    status text NOT NULL,
    provider text NOT NULL,
    model text NOT NULL,
    spec text NOT NULL,
    waiting_message text,
    owner uuid,
    spent text DEFAULT '{}'::text NOT NULL,
    prompt_ids text[] DEFAULT '{}'::text[] NOT NULL,
    message_ids text[] DEFAULT '{}'::text[] NOT NULL,
    required_action text,
    last_error text,
    incomplete_reason text,
    provider_reply_id text,
    metadata jsonb DEFAULT '{}'::jsonb NOT NULL,
    created_at timestamp with time zone NOT NULL,
    started_at timestamp with time zone,
    expires_at timestamp with time zone,
    ended_at timestamp with time zone,
    CONSTRAINT runs_status_check CHECK ((status = ANY (ARRAY['queued'::text, 'in_progress'::text, 'requires_action'::text, 'cancelling'::text, 'cancelled'::text, 'completed'::text, 'incomplete'::text, 'failed'::text, 'expired'::text])))
);

ALTER TABLE ONLY memory.runs FORCE ROW LEVEL SECURITY;

ALTER TABLE memory.runs ALTER COLUMN pk ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME memory.runs_pk_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE memory.servers (
    id uuid NOT NULL,
    beat_at timestamp with time zone DEFAULT now() NOT NULL
);

CREATE TABLE memory.stable_texts (
    thread_pk bigint NOT NULL,
    digest text NOT NULL,
    project_id bigint NOT NULL,
    content text NOT NULL
);

ALTER TABLE ONLY memory.stable_texts FORCE ROW LEVEL SECURITY;

CREATE TABLE memory.threads (
    pk bigint NOT NULL,
    project_id bigint NOT NULL,
    id text NOT NULL,
    user_id text,
    assistant_id text,
    instructions text,
    tools text,
    documents text,
    truncation_strategy text,
    metadata jsonb DEFAULT '{}'::jsonb NOT NULL,
    version bigint DEFAULT 0 NOT NULL,
    last_seq integer DEFAULT 0 NOT NULL,
    message_count integer DEFAULT 0 NOT NULL,
    last_role text,
    open_tool_use_ids text[] DEFAULT '{}'::text[] NOT NULL,
    created_at timestamp with time zone NOT NULL,
    active_run_id text,
    edited_version bigint DEFAULT 0 NOT NULL,
    openai text
);

ALTER TABLE ONLY memory.threads FORCE ROW LEVEL SECURITY;

ALTER TABLE memory.threads ALTER COLUMN pk ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME memory.threads_pk_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE memory.token_estimates (
    project_id bigint NOT NULL,
    provider text NOT NULL,
    model text NOT NULL,
    state text NOT NULL,
    updated_at timestamp with time zone NOT NULL
);

ALTER TABLE ONLY memory.token_estimates FORCE ROW LEVEL SECURITY;

CREATE TABLE memory.tool_uses (
    thread_pk bigint NOT NULL,
    tool_use_id text NOT NULL,
    seq integer NOT NULL,
    project_id bigint NOT NULL
);

ALTER TABLE ONLY memory.tool_uses FORCE ROW LEVEL SECURITY;

CREATE TABLE memory.usage_entries (
    pk bigint NOT NULL,
    project_id bigint NOT NULL,
    kind text NOT NULL,
    called_at timestamp with time zone NOT NULL,
    thread_id text,
    user_id text,
    prompt_id text,
    run_id text,
    provider text NOT NULL,
    model text NOT NULL,
    cache_read_tokens integer NOT NULL,
    cache_write_5m_tokens integer NOT NULL,
    cache_write_1h_tokens integer NOT NULL,
    uncached_tokens integer NOT NULL,
    output_tokens integer NOT NULL,
    cost_usd numeric,
    cost_usd_uncached numeric,
    output_usd numeric,
    predicted_cache_read_tokens integer,
    predicted_cache_write_tokens integer,
    predicted_uncached_tokens integer,
    predicted_cost_usd numeric,
    miss_reason text,
    miss text,
    CONSTRAINT usage_entries_kind_check CHECK ((kind = ANY (ARRAY['report'::text, 'run'::text, 'prewarm'::text])))
);

ALTER TABLE ONLY memory.usage_entries FORCE ROW LEVEL SECURITY;

ALTER TABLE memory.usage_entries ALTER COLUMN pk ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME memory.usage_entries_pk_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE memory.vectors_1 (
    thread_pk bigint NOT NULL,
    seq integer NOT NULL,
    passage integer NOT NULL,
    project_id bigint NOT NULL,
    embedding public.halfvec(384) NOT NULL,
    signs bit(384) GENERATED ALWAYS AS ((public.binary_quantize(embedding))::bit(384)) STORED
)
WITH (autovacuum_vacuum_insert_scale_factor='0.05');
ALTER TABLE ONLY memory.vectors_1 ALTER COLUMN embedding SET STORAGE PLAIN;

ALTER TABLE ONLY memory.vectors_1 FORCE ROW LEVEL SECURITY;

ALTER TABLE ONLY memory.alembic_version
    ADD CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num);

ALTER TABLE ONLY memory.api_keys
    ADD CONSTRAINT api_keys_hash_key UNIQUE (hash);

ALTER TABLE ONLY memory.api_keys
    ADD CONSTRAINT api_keys_pkey PRIMARY KEY (id);

ALTER TABLE ONLY memory.assistants
    ADD CONSTRAINT assistants_pkey PRIMARY KEY (pk);

ALTER TABLE ONLY memory.assistants
    ADD CONSTRAINT assistants_project_id_id_key UNIQUE (project_id, id);

ALTER TABLE ONLY memory.embedders
    ADD CONSTRAINT embedders_pkey PRIMARY KEY (pk);

ALTER TABLE ONLY memory.idempotency_records
    ADD CONSTRAINT idempotency_records_pkey PRIMARY KEY (project_id, method, path, key);

ALTER TABLE ONLY memory.lanes
    ADD CONSTRAINT lanes_pkey PRIMARY KEY (thread_pk, key);

ALTER TABLE ONLY memory.message_revisions
    ADD CONSTRAINT message_revisions_pkey PRIMARY KEY (thread_pk, seq, until_version);

ALTER TABLE ONLY memory.message_terms
    ADD CONSTRAINT message_terms_pkey PRIMARY KEY (thread_pk, seq);

ALTER TABLE ONLY memory.messages
    ADD CONSTRAINT messages_pkey PRIMARY KEY (thread_pk, seq);

ALTER TABLE ONLY memory.messages
    ADD CONSTRAINT messages_project_id_id_key UNIQUE (project_id, id);

ALTER TABLE ONLY memory.pending_embeddings
    ADD CONSTRAINT pending_embeddings_pkey PRIMARY KEY (thread_pk, seq, embedder_pk);

ALTER TABLE ONLY memory.projects
    ADD CONSTRAINT projects_name_key UNIQUE (name);

ALTER TABLE ONLY memory.projects
    ADD CONSTRAINT projects_pkey PRIMARY KEY (pk);

ALTER TABLE ONLY memory.prompts
    ADD CONSTRAINT prompts_pkey PRIMARY KEY (pk);

ALTER TABLE ONLY memory.prompts
    ADD CONSTRAINT prompts_project_id_id_key UNIQUE (project_id, id);

ALTER TABLE ONLY memory.run_events
    ADD CONSTRAINT run_events_pkey PRIMARY KEY (run_pk, seq);

ALTER TABLE ONLY memory.runs
    ADD CONSTRAINT runs_pkey PRIMARY KEY (pk);

ALTER TABLE ONLY memory.runs
    ADD CONSTRAINT runs_project_id_id_key UNIQUE (project_id, id);

ALTER TABLE ONLY memory.servers
    ADD CONSTRAINT servers_pkey PRIMARY KEY (id);

ALTER TABLE ONLY memory.stable_texts
    ADD CONSTRAINT stable_texts_pkey PRIMARY KEY (thread_pk, digest);

ALTER TABLE ONLY memory.threads
    ADD CONSTRAINT threads_pkey PRIMARY KEY (pk);

ALTER TABLE ONLY memory.threads
    ADD CONSTRAINT threads_project_id_id_key UNIQUE (project_id, id);

ALTER TABLE ONLY memory.token_estimates
    ADD CONSTRAINT token_estimates_pkey PRIMARY KEY (project_id, provider, model);

ALTER TABLE ONLY memory.tool_uses
    ADD CONSTRAINT tool_uses_pkey PRIMARY KEY (thread_pk, tool_use_id);

ALTER TABLE ONLY memory.usage_entries
    ADD CONSTRAINT usage_entries_pkey PRIMARY KEY (pk);

ALTER TABLE ONLY memory.vectors_1
    ADD CONSTRAINT vectors_1_pkey PRIMARY KEY (thread_pk, seq, passage) INCLUDE (project_id, signs);

CREATE INDEX assistants_project_id_created_at_pk_idx ON memory.assistants USING btree (project_id, created_at, pk);

CREATE UNIQUE INDEX embedders_status_idx ON memory.embedders USING btree (status) WHERE (status <> 'retired'::text);

CREATE INDEX idempotency_records_created_at_idx ON memory.idempotency_records USING btree (created_at);

CREATE INDEX idempotency_records_project_id_object_id_idx ON memory.idempotency_records USING btree (project_id, object_id) WHERE (object_id IS NOT NULL);

CREATE INDEX idempotency_records_project_id_thread_id_idx ON memory.idempotency_records USING btree (project_id, thread_id) WHERE (thread_id IS NOT NULL);

CREATE INDEX pending_embeddings_embedder_pk_not_before_idx ON memory.pending_embeddings USING btree (embedder_pk, not_before);

CREATE INDEX prompts_project_id_shared_digest_sent_at_idx ON memory.prompts USING btree (project_id, shared_digest, sent_at) WHERE ((status = 'sent'::text) AND (shared_digest IS NOT NULL));

CREATE INDEX prompts_thread_pk_lane_key_pk_idx ON memory.prompts USING btree (thread_pk, lane_key, pk) WHERE (status = 'built'::text);

CREATE INDEX prompts_thread_pk_pk_idx ON memory.prompts USING btree (thread_pk, pk);

CREATE INDEX runs_status_idx ON memory.runs USING btree (status) WHERE (status = ANY (ARRAY['queued'::text, 'in_progress'::text, 'requires_action'::text, 'cancelling'::text]));

CREATE UNIQUE INDEX runs_thread_pk_idx ON memory.runs USING btree (thread_pk) WHERE (status = ANY (ARRAY['in_progress'::text, 'requires_action'::text, 'cancelling'::text]));

CREATE INDEX runs_thread_pk_pk_idx ON memory.runs USING btree (thread_pk, pk);

CREATE INDEX threads_created_at_idx ON memory.threads USING btree (created_at) WHERE (openai = '{"kept": false}'::text);

CREATE INDEX threads_project_id_created_at_pk_idx ON memory.threads USING btree (project_id, created_at, pk);

CREATE INDEX threads_project_id_user_id_created_at_pk_idx ON memory.threads USING btree (project_id, user_id, created_at, pk) WHERE (user_id IS NOT NULL);

CREATE INDEX tool_uses_thread_pk_seq_idx ON memory.tool_uses USING btree (thread_pk, seq);

CREATE INDEX usage_entries_project_id_called_at_idx ON memory.usage_entries USING btree (project_id, called_at);

CREATE INDEX usage_entries_project_id_thread_id_called_at_idx ON memory.usage_entries USING btree (project_id, thread_id, called_at) WHERE (thread_id IS NOT NULL);

CREATE INDEX usage_entries_project_id_user_id_called_at_idx ON memory.usage_entries USING btree (project_id, user_id, called_at) WHERE (user_id IS NOT NULL);

ALTER TABLE ONLY memory.api_keys
    ADD CONSTRAINT api_keys_project_id_fkey FOREIGN KEY (project_id) REFERENCES memory.projects(pk) ON DELETE CASCADE;

ALTER TABLE ONLY memory.assistants
    ADD CONSTRAINT assistants_project_id_fkey FOREIGN KEY (project_id) REFERENCES memory.projects(pk) ON DELETE CASCADE;

ALTER TABLE ONLY memory.idempotency_records
    ADD CONSTRAINT idempotency_records_project_id_fkey FOREIGN KEY (project_id) REFERENCES memory.projects(pk) ON DELETE CASCADE;

ALTER TABLE ONLY memory.lanes
    ADD CONSTRAINT lanes_thread_pk_fkey FOREIGN KEY (thread_pk) REFERENCES memory.threads(pk) ON DELETE CASCADE;

ALTER TABLE ONLY memory.message_revisions
    ADD CONSTRAINT message_revisions_thread_pk_seq_fkey FOREIGN KEY (thread_pk, seq) REFERENCES memory.messages(thread_pk, seq) ON DELETE CASCADE;

ALTER TABLE ONLY memory.message_terms
    ADD CONSTRAINT message_terms_thread_pk_seq_fkey FOREIGN KEY (thread_pk, seq) REFERENCES memory.messages(thread_pk, seq) ON DELETE CASCADE;

ALTER TABLE ONLY memory.messages
    ADD CONSTRAINT messages_thread_pk_fkey FOREIGN KEY (thread_pk) REFERENCES memory.threads(pk) ON DELETE CASCADE;

ALTER TABLE ONLY memory.pending_embeddings
    ADD CONSTRAINT pending_embeddings_embedder_pk_fkey FOREIGN KEY (embedder_pk) REFERENCES memory.embedders(pk);

ALTER TABLE ONLY memory.pending_embeddings
    ADD CONSTRAINT pending_embeddings_thread_pk_seq_fkey FOREIGN KEY (thread_pk, seq) REFERENCES memory.messages(thread_pk, seq) ON DELETE CASCADE;

ALTER TABLE ONLY memory.prompts
    ADD CONSTRAINT prompts_thread_pk_fkey FOREIGN KEY (thread_pk) REFERENCES memory.threads(pk) ON DELETE CASCADE;

ALTER TABLE ONLY memory.run_events
    ADD CONSTRAINT run_events_run_pk_fkey FOREIGN KEY (run_pk) REFERENCES memory.runs(pk) ON DELETE CASCADE;

ALTER TABLE ONLY memory.runs
    ADD CONSTRAINT runs_thread_pk_fkey FOREIGN KEY (thread_pk) REFERENCES memory.threads(pk) ON DELETE CASCADE;

ALTER TABLE ONLY memory.stable_texts
    ADD CONSTRAINT stable_texts_thread_pk_fkey FOREIGN KEY (thread_pk) REFERENCES memory.threads(pk) ON DELETE CASCADE;

ALTER TABLE ONLY memory.threads
    ADD CONSTRAINT threads_project_id_fkey FOREIGN KEY (project_id) REFERENCES memory.projects(pk) ON DELETE CASCADE;

ALTER TABLE ONLY memory.token_estimates
    ADD CONSTRAINT token_estimates_project_id_fkey FOREIGN KEY (project_id) REFERENCES memory.projects(pk) ON DELETE CASCADE;

ALTER TABLE ONLY memory.tool_uses
    ADD CONSTRAINT tool_uses_thread_pk_seq_fkey FOREIGN KEY (thread_pk, seq) REFERENCES memory.messages(thread_pk, seq) ON DELETE CASCADE;

ALTER TABLE ONLY memory.usage_entries
    ADD CONSTRAINT usage_entries_project_id_fkey FOREIGN KEY (project_id) REFERENCES memory.projects(pk) ON DELETE CASCADE;

ALTER TABLE ONLY memory.vectors_1
    ADD CONSTRAINT vectors_1_thread_pk_seq_fkey FOREIGN KEY (thread_pk, seq) REFERENCES memory.messages(thread_pk, seq) ON DELETE CASCADE;

ALTER TABLE memory.api_keys ENABLE ROW LEVEL SECURITY;

ALTER TABLE memory.assistants ENABLE ROW LEVEL SECURITY;

CREATE POLICY every_project ON memory.api_keys TO memory_worker USING (true);

CREATE POLICY every_project ON memory.assistants TO memory_worker USING (true);

CREATE POLICY every_project ON memory.idempotency_records TO memory_worker USING (true);

CREATE POLICY every_project ON memory.lanes TO memory_worker USING (true);

CREATE POLICY every_project ON memory.message_revisions TO memory_worker USING (true);

CREATE POLICY every_project ON memory.message_terms TO memory_worker USING (true);

CREATE POLICY every_project ON memory.messages TO memory_worker USING (true);

CREATE POLICY every_project ON memory.pending_embeddings TO memory_worker USING (true);

CREATE POLICY every_project ON memory.projects TO memory_worker USING (true);

CREATE POLICY every_project ON memory.prompts TO memory_worker USING (true);

CREATE POLICY every_project ON memory.run_events TO memory_worker USING (true);

CREATE POLICY every_project ON memory.runs TO memory_worker USING (true);

CREATE POLICY every_project ON memory.stable_texts TO memory_worker USING (true);

CREATE POLICY every_project ON memory.threads TO memory_worker USING (true);

CREATE POLICY every_project ON memory.token_estimates TO memory_worker USING (true);

CREATE POLICY every_project ON memory.tool_uses TO memory_worker USING (true);

CREATE POLICY every_project ON memory.usage_entries TO memory_worker USING (true);

CREATE POLICY every_project ON memory.vectors_1 TO memory_worker USING (true);

ALTER TABLE memory.idempotency_records ENABLE ROW LEVEL SECURITY;

ALTER TABLE memory.lanes ENABLE ROW LEVEL SECURITY;

ALTER TABLE memory.message_revisions ENABLE ROW LEVEL SECURITY;

ALTER TABLE memory.message_terms ENABLE ROW LEVEL SECURITY;

ALTER TABLE memory.messages ENABLE ROW LEVEL SECURITY;

ALTER TABLE memory.pending_embeddings ENABLE ROW LEVEL SECURITY;

CREATE POLICY project ON memory.api_keys TO memory_app USING (((project_id = ( SELECT (NULLIF(current_setting('memory.project_id'::text, true), ''::text))::bigint AS "nullif")) OR (hash = ( SELECT decode(NULLIF(current_setting('memory.key_hash'::text, true), ''::text), 'hex'::text) AS decode))));

CREATE POLICY project ON memory.assistants TO memory_app USING (COALESCE((project_id = ( SELECT (NULLIF(current_setting('memory.project_id'::text, true), ''::text))::bigint AS "nullif")), false));

CREATE POLICY project ON memory.idempotency_records TO memory_app USING (COALESCE((project_id = ( SELECT (NULLIF(current_setting('memory.project_id'::text, true), ''::text))::bigint AS "nullif")), false));

CREATE POLICY project ON memory.lanes TO memory_app USING (COALESCE((project_id = ( SELECT (NULLIF(current_setting('memory.project_id'::text, true), ''::text))::bigint AS "nullif")), false));

CREATE POLICY project ON memory.message_revisions TO memory_app USING (COALESCE((project_id = ( SELECT (NULLIF(current_setting('memory.project_id'::text, true), ''::text))::bigint AS "nullif")), false));

CREATE POLICY project ON memory.message_terms TO memory_app USING (COALESCE((project_id = ( SELECT (NULLIF(current_setting('memory.project_id'::text, true), ''::text))::bigint AS "nullif")), false));

CREATE POLICY project ON memory.messages TO memory_app USING (COALESCE((project_id = ( SELECT (NULLIF(current_setting('memory.project_id'::text, true), ''::text))::bigint AS "nullif")), false));

CREATE POLICY project ON memory.pending_embeddings TO memory_app USING (COALESCE((project_id = ( SELECT (NULLIF(current_setting('memory.project_id'::text, true), ''::text))::bigint AS "nullif")), false));

CREATE POLICY project ON memory.projects TO memory_app USING ((pk = ( SELECT (NULLIF(current_setting('memory.project_id'::text, true), ''::text))::bigint AS "nullif")));

CREATE POLICY project ON memory.prompts TO memory_app USING (COALESCE((project_id = ( SELECT (NULLIF(current_setting('memory.project_id'::text, true), ''::text))::bigint AS "nullif")), false));

CREATE POLICY project ON memory.run_events TO memory_app USING (COALESCE((project_id = ( SELECT (NULLIF(current_setting('memory.project_id'::text, true), ''::text))::bigint AS "nullif")), false));

CREATE POLICY project ON memory.runs TO memory_app USING (COALESCE((project_id = ( SELECT (NULLIF(current_setting('memory.project_id'::text, true), ''::text))::bigint AS "nullif")), false));

CREATE POLICY project ON memory.stable_texts TO memory_app USING (COALESCE((project_id = ( SELECT (NULLIF(current_setting('memory.project_id'::text, true), ''::text))::bigint AS "nullif")), false));

CREATE POLICY project ON memory.threads TO memory_app USING (COALESCE((project_id = ( SELECT (NULLIF(current_setting('memory.project_id'::text, true), ''::text))::bigint AS "nullif")), false));

CREATE POLICY project ON memory.token_estimates TO memory_app USING (COALESCE((project_id = ( SELECT (NULLIF(current_setting('memory.project_id'::text, true), ''::text))::bigint AS "nullif")), false));

CREATE POLICY project ON memory.tool_uses TO memory_app USING (COALESCE((project_id = ( SELECT (NULLIF(current_setting('memory.project_id'::text, true), ''::text))::bigint AS "nullif")), false));

CREATE POLICY project ON memory.usage_entries TO memory_app USING (COALESCE((project_id = ( SELECT (NULLIF(current_setting('memory.project_id'::text, true), ''::text))::bigint AS "nullif")), false));

CREATE POLICY project ON memory.vectors_1 TO memory_app USING (COALESCE((project_id = ( SELECT (NULLIF(current_setting('memory.project_id'::text, true), ''::text))::bigint AS "nullif")), false));

ALTER TABLE memory.projects ENABLE ROW LEVEL SECURITY;

ALTER TABLE memory.prompts ENABLE ROW LEVEL SECURITY;

ALTER TABLE memory.run_events ENABLE ROW LEVEL SECURITY;

ALTER TABLE memory.runs ENABLE ROW LEVEL SECURITY;

ALTER TABLE memory.stable_texts ENABLE ROW LEVEL SECURITY;

ALTER TABLE memory.threads ENABLE ROW LEVEL SECURITY;

ALTER TABLE memory.token_estimates ENABLE ROW LEVEL SECURITY;

ALTER TABLE memory.tool_uses ENABLE ROW LEVEL SECURITY;

ALTER TABLE memory.usage_entries ENABLE ROW LEVEL SECURITY;

ALTER TABLE memory.vectors_1 ENABLE ROW LEVEL SECURITY;

GRANT USAGE ON SCHEMA memory TO memory_app;
GRANT USAGE ON SCHEMA memory TO memory_worker;

GRANT SELECT ON TABLE memory.alembic_version TO memory_app;
GRANT SELECT ON TABLE memory.alembic_version TO memory_worker;

GRANT SELECT ON TABLE memory.api_keys TO memory_app;
GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE memory.api_keys TO memory_worker;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE memory.assistants TO memory_app;
GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE memory.assistants TO memory_worker;

GRANT SELECT ON TABLE memory.embedders TO memory_app;
GRANT SELECT,INSERT,UPDATE ON TABLE memory.embedders TO memory_worker;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE memory.idempotency_records TO memory_app;
GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE memory.idempotency_records TO memory_worker;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE memory.lanes TO memory_app;
GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE memory.lanes TO memory_worker;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE memory.message_revisions TO memory_app;
GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE memory.message_revisions TO memory_worker;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE memory.message_terms TO memory_app;
GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE memory.message_terms TO memory_worker;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE memory.messages TO memory_app;
GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE memory.messages TO memory_worker;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE memory.pending_embeddings TO memory_app;
GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE memory.pending_embeddings TO memory_worker;

GRANT SELECT ON TABLE memory.projects TO memory_app;
GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE memory.projects TO memory_worker;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE memory.prompts TO memory_app;
GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE memory.prompts TO memory_worker;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE memory.run_events TO memory_app;
GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE memory.run_events TO memory_worker;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE memory.runs TO memory_app;
GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE memory.runs TO memory_worker;

GRANT SELECT ON TABLE memory.servers TO memory_app;
GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE memory.servers TO memory_worker;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE memory.stable_texts TO memory_app;
GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE memory.stable_texts TO memory_worker;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE memory.threads TO memory_app;
GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE memory.threads TO memory_worker;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE memory.token_estimates TO memory_app;
GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE memory.token_estimates TO memory_worker;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE memory.tool_uses TO memory_app;
GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE memory.tool_uses TO memory_worker;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE memory.usage_entries TO memory_app;
GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE memory.usage_entries TO memory_worker;

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE memory.vectors_1 TO memory_app;
GRANT SELECT,INSERT,DELETE,TRUNCATE,UPDATE ON TABLE memory.vectors_1 TO memory_worker;
