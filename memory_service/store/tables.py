"""The tables. Every one of a project's carries `project_id`, on which row-level security decides.

Ids are unique within a project. Content is `text` holding canonical JSON, never `jsonb`, which would reorder its keys.
The policies, roles and grants are in the migrations; `migrations/schema.sql` shows the whole.
"""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import (
    ARRAY,
    BigInteger,
    CheckConstraint,
    Column,
    Computed,
    DateTime,
    ForeignKey,
    ForeignKeyConstraint,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Numeric,
    Text,
    UniqueConstraint,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlmodel import Field, SQLModel

metadata = MetaData(
    naming_convention={
        "pk": "%(table_name)s_pkey",
        "fk": "%(table_name)s_%(column_0_N_name)s_fkey",
        "uq": "%(table_name)s_%(column_0_N_name)s_key",
        "ix": "%(table_name)s_%(column_0_N_name)s_idx",
        "ck": "%(table_name)s_%(constraint_name)s_check",
    }
)


class Table(SQLModel):
    metadata = metadata


def _project() -> Any:
    return Field(sa_column=Column(BigInteger, ForeignKey("projects.pk", ondelete="CASCADE"), nullable=False))


def _threads_project() -> Any:
    """The project of what belongs to a thread: its foreign key is the thread's, so that inserts check one less."""
    return Field(sa_column=Column(BigInteger, nullable=False))


def _text(*, null: bool = False, key: bool = False) -> Any:
    return Field(sa_column=Column(Text, nullable=null, primary_key=key), default=None if null else ...)


def _integer(default: int | None = 0) -> Any:
    server_default = None if default is None else text(str(default))
    return Field(sa_column=Column(Integer, nullable=False, server_default=server_default))


def _time(*, null: bool = False) -> Any:
    return Field(sa_column=Column(DateTime(timezone=True), nullable=null), default=None if null else ...)


def _usd() -> Any:
    return Field(sa_column=Column(Numeric), default=None)


def _predicted() -> Any:
    return Field(sa_column=Column(Integer), default=None)


def _computed(expression: str) -> Any:
    return Field(sa_column=Column(Text, Computed(expression, persisted=True)), default=None)


def _thread_pk(*, key: bool = True) -> Any:
    return Field(
        sa_column=Column(BigInteger, ForeignKey("threads.pk", ondelete="CASCADE"), primary_key=key, nullable=False)
    )


class Project(Table, table=True):
    __tablename__ = "projects"
    pk: int = Field(sa_column=Column(BigInteger, Identity(always=True), primary_key=True))
    name: str = Field(sa_column=Column(Text, nullable=False, unique=True))
    created_at: datetime = _time()


class ApiKey(Table, table=True):
    """A key is shown once. `hash` is SHA-256 of it, `hint` its last four characters. Limits: see `AuthenticatedKey`."""

    __tablename__ = "api_keys"
    __table_args__ = (CheckConstraint("requests_per_minute >= 0 AND max_body_bytes > 0", name="limits"),)
    id: str = _text(key=True)
    project_id: int = _project()
    name: str = _text()
    hash: bytes = Field(sa_column=Column(LargeBinary, nullable=False, unique=True))
    hint: str = _text()
    created_at: datetime = _time()
    revoked_at: datetime | None = _time(null=True)
    requests_per_minute: int | None = Field(sa_column=Column(Integer), default=None)
    max_body_bytes: int | None = Field(sa_column=Column(BigInteger), default=None)


class Assistant(Table, table=True):
    __tablename__ = "assistants"
    __table_args__ = (UniqueConstraint("project_id", "id"), Index(None, "project_id", "created_at", "pk"))
    pk: int = Field(sa_column=Column(BigInteger, Identity(always=True), primary_key=True))
    project_id: int = _project()
    id: str = _text()
    name: str | None = _text(null=True)
    model: str | None = _text(null=True)
    provider: str | None = _text(null=True)
    instructions: str | None = _text(null=True)
    tools: str | None = _text(null=True)
    documents: str | None = _text(null=True)
    defaults: str | None = _text(null=True)
    attributes: dict[str, str] = Field(sa_column=Column("metadata", JSONB, nullable=False, server_default=text("'{}'")))
    created_at: datetime = _time()


class Thread(Table, table=True):
    """`version` moves with every change that a prompt depends on; `last_seq` with every message."""

    __tablename__ = "threads"
    __table_args__ = (
        UniqueConstraint("project_id", "id"),
        Index(None, "project_id", "created_at", "pk"),
        Index(None, "project_id", "user_id", "created_at", "pk", postgresql_where=text("user_id IS NOT NULL")),
    )
    pk: int = Field(sa_column=Column(BigInteger, Identity(always=True), primary_key=True))
    project_id: int = _project()
    id: str = _text()
    user_id: str | None = _text(null=True)
    assistant_id: str | None = _text(null=True)
    instructions: str | None = _text(null=True)
    tools: str | None = _text(null=True)
    documents: str | None = _text(null=True)
    truncation_strategy: str | None = _text(null=True)
    attributes: dict[str, str] = Field(sa_column=Column("metadata", JSONB, nullable=False, server_default=text("'{}'")))
    version: int = Field(sa_column=Column(BigInteger, nullable=False, server_default=text("0")))
    last_seq: int = _integer()
    message_count: int = _integer()
    last_role: str | None = _text(null=True)
    open_tool_use_ids: list[str] = Field(sa_column=Column(ARRAY(Text), nullable=False, server_default=text("'{}'")))
    created_at: datetime = _time()


class Message(Table, table=True):
    """A deleted message stays as a tombstone without content, so that `seq` has no gap nobody can explain.

    Counts are of the content without thinking: o200k_base tokens by script, UTF-8 bytes, image tokens by size.
    """

    __tablename__ = "messages"
    __table_args__ = (
        UniqueConstraint("project_id", "id"),
        CheckConstraint("role IN ('user', 'assistant')", name="role"),
        CheckConstraint("(content IS NULL) = (deleted_at IS NOT NULL)", name="tombstone"),
    )
    thread_pk: int = _thread_pk()
    seq: int = Field(sa_column=Column(Integer, primary_key=True, autoincrement=False))
    project_id: int = _threads_project()
    id: str = _text()
    role: str = _text()
    content: str | None = _text(null=True)
    status: str = Field(sa_column=Column(Text, nullable=False, server_default=text("'completed'")))
    revision: int = Field(sa_column=Column(Integer, nullable=False, server_default=text("1")))
    latin_tokens: int = _integer()
    other_tokens: int = _integer()
    text_bytes: int = _integer()
    image_tokens: int = _integer()
    thinking_tokens: int = _integer()
    run_id: str | None = _text(null=True)
    attributes: dict[str, str] | None = Field(sa_column=Column("metadata", JSONB(none_as_null=True)), default=None)
    created_at: datetime = _time()
    deleted_at: datetime | None = _time(null=True)


class MessageRevision(Table, table=True):
    """What a message said before it was edited, so that prompts built then can be rebuilt."""

    __tablename__ = "message_revisions"
    __table_args__ = (
        ForeignKeyConstraint(["thread_pk", "seq"], ["messages.thread_pk", "messages.seq"], ondelete="CASCADE"),
    )
    thread_pk: int = Field(sa_column=Column(BigInteger, primary_key=True, autoincrement=False))
    seq: int = Field(sa_column=Column(Integer, primary_key=True, autoincrement=False))
    until_version: int = Field(sa_column=Column(BigInteger, primary_key=True, autoincrement=False))
    project_id: int = _threads_project()
    content: str = _text()


class MessageTerms(Table, table=True):
    """The recall index of a message: `core.recall.index_entry`. Narrow, so that a whole thread's is read in one scan."""

    __tablename__ = "message_terms"
    __table_args__ = (
        ForeignKeyConstraint(["thread_pk", "seq"], ["messages.thread_pk", "messages.seq"], ondelete="CASCADE"),
    )
    thread_pk: int = Field(sa_column=Column(BigInteger, primary_key=True, autoincrement=False))
    seq: int = Field(sa_column=Column(Integer, primary_key=True, autoincrement=False))
    project_id: int = _threads_project()
    terms: bytes = Field(sa_column=Column(LargeBinary, nullable=False))


class Embedder(Table, table=True):
    """What makes vectors, for all projects; `spec` says how to open it. Each has its own table `vectors_<pk>`.

    One is active: searches use it. One may be building: its table is being filled, to become the active one.
    """

    __tablename__ = "embedders"
    __table_args__ = (
        CheckConstraint("status IN ('building', 'active', 'retired')", name="status"),
        Index(None, "status", unique=True, postgresql_where=text("status <> 'retired'")),
    )
    pk: int = Field(sa_column=Column(BigInteger, Identity(always=True), primary_key=True))
    name: str = _text()
    spec: str = _text()
    dimensions: int = _integer(None)
    status: str = _text()
    created_at: datetime = _time()
    retired_at: datetime | None = _time(null=True)


class PendingEmbedding(Table, table=True):
    """A message that waits for its vectors. Whoever sets `claim` has it until `not_before`."""

    __tablename__ = "pending_embeddings"
    __table_args__ = (
        ForeignKeyConstraint(["thread_pk", "seq"], ["messages.thread_pk", "messages.seq"], ondelete="CASCADE"),
        Index(None, "embedder_pk", "not_before"),
    )
    thread_pk: int = Field(sa_column=Column(BigInteger, primary_key=True, autoincrement=False))
    seq: int = Field(sa_column=Column(Integer, primary_key=True, autoincrement=False))
    embedder_pk: int = Field(sa_column=Column(BigInteger, ForeignKey("embedders.pk"), primary_key=True))
    project_id: int = _threads_project()
    attempts: int = _integer()
    not_before: datetime = Field(
        sa_column=Column(DateTime(timezone=True), nullable=False, server_default=text("now()"))
    )
    enqueued_at: datetime = Field(
        sa_column=Column(DateTime(timezone=True), nullable=False, server_default=text("now()"))
    )
    claim: UUID | None = Field(sa_column=Column(Uuid, nullable=True), default=None)
    last_error: str | None = _text(null=True)


class ToolUse(Table, table=True):
    """Ids of tool calls, once per thread: providers refuse a repeated one."""

    __tablename__ = "tool_uses"
    __table_args__ = (
        Index(None, "thread_pk", "seq"),
        ForeignKeyConstraint(["thread_pk", "seq"], ["messages.thread_pk", "messages.seq"], ondelete="CASCADE"),
    )
    thread_pk: int = Field(sa_column=Column(BigInteger, primary_key=True, autoincrement=False))
    tool_use_id: str = _text(key=True)
    seq: int = _integer(None)
    project_id: int = _threads_project()


class Lane(Table, table=True):
    """`state` is `core.lane.Lane` as JSON."""

    __tablename__ = "lanes"
    thread_pk: int = _thread_pk()
    key: str = _text(key=True)
    project_id: int = _threads_project()
    state: str = _text()
    updated_at: datetime = _time()


class StableText(Table, table=True):
    """The stable part of prompts (system, tools), stored once per content and thread, however many prompts share it."""

    __tablename__ = "stable_texts"
    thread_pk: int = _thread_pk()
    digest: str = _text(key=True)
    project_id: int = _threads_project()
    content: str = _text()


class Prompt(Table, table=True):
    """The plan of a prompt, from which its request is rebuilt. `volatile` is erased with the messages it quotes.

    `shared_digest` stands for what other threads' prompts may begin with too, for the same model.
    """

    __tablename__ = "prompts"
    __table_args__ = (
        UniqueConstraint("project_id", "id"),
        Index(None, "thread_pk", "pk"),
        # Few wait to be sent or abandoned, and they are looked for at each usage report.
        Index(None, "thread_pk", "lane_key", "pk", postgresql_where=text("status = 'built'")),
        Index(
            None,
            "project_id",
            "shared_digest",
            "sent_at",
            postgresql_where=text("status = 'sent' AND shared_digest IS NOT NULL"),
        ),
        CheckConstraint("status IN ('built', 'sent', 'abandoned')", name="status"),
    )
    pk: int = Field(sa_column=Column(BigInteger, Identity(always=True), primary_key=True))
    thread_pk: int = _thread_pk(key=False)
    project_id: int = _threads_project()
    id: str = _text()
    status: str = Field(sa_column=Column(Text, nullable=False, server_default=text("'built'")))
    lane_key: str = _text()
    thread_version: int = Field(sa_column=Column(BigInteger, nullable=False))
    stable_digest: str = _text()
    plan: str = _text()
    volatile: str | None = _text(null=True)
    recalled_seqs: list[int] = Field(sa_column=Column(ARRAY(Integer), nullable=False, server_default=text("'{}'")))
    usage: str | None = _text(null=True)
    reply_seq: int | None = Field(sa_column=Column(Integer), default=None)
    built_at: datetime = _time()
    sent_at: datetime | None = _time(null=True)
    shared_digest: str | None = _text(null=True)


class UsageEntry(Table, table=True):
    """One call of a model. What was billed stays: ids become null when what they name is deleted or erased.

    `cost_usd` is the input's, and null where the model has no known price. An entry of the prompt cache that lives an
    hour or longer counts as `1h`, any other as `5m`.
    """

    __tablename__ = "usage_entries"
    __table_args__ = (
        Index(None, "project_id", "called_at"),
        Index(None, "project_id", "thread_id", "called_at", postgresql_where=text("thread_id IS NOT NULL")),
        Index(None, "project_id", "user_id", "called_at", postgresql_where=text("user_id IS NOT NULL")),
        CheckConstraint("kind IN ('report', 'run', 'prewarm')", name="kind"),
    )
    pk: int = Field(sa_column=Column(BigInteger, Identity(always=True), primary_key=True))
    project_id: int = _project()
    kind: str = _text()
    called_at: datetime = _time()
    thread_id: str | None = _text(null=True)
    user_id: str | None = _text(null=True)
    prompt_id: str | None = _text(null=True)
    run_id: str | None = _text(null=True)
    provider: str = _text()
    model: str = _text()
    cache_read_tokens: int = _integer(None)
    cache_write_5m_tokens: int = _integer(None)
    cache_write_1h_tokens: int = _integer(None)
    uncached_tokens: int = _integer(None)
    output_tokens: int = _integer(None)
    cost_usd: Decimal | None = _usd()
    cost_usd_uncached: Decimal | None = _usd()
    output_usd: Decimal | None = _usd()
    predicted_cache_read_tokens: int | None = _predicted()
    predicted_cache_write_tokens: int | None = _predicted()
    predicted_uncached_tokens: int | None = _predicted()
    predicted_cost_usd: Decimal | None = _usd()
    miss_reason: str | None = _text(null=True)
    miss: str | None = _text(null=True)


class TokenEstimate(Table, table=True):
    """`state` is `core.tokens.TokenEstimate` as JSON: what a project learnt of a model's tokenizer."""

    __tablename__ = "token_estimates"
    project_id: int = Field(
        sa_column=Column(BigInteger, ForeignKey("projects.pk", ondelete="CASCADE"), primary_key=True)
    )
    provider: str = _text(key=True)
    model: str = _text(key=True)
    state: str = _text()
    updated_at: datetime = _time()


class IdempotencyRecord(Table, table=True):
    """The answer to a POST, written in the same transaction as its effect.

    `thread_id` is the thread in the path, `object_id` the object that the answer shows: what a deletion asks for.
    """

    __tablename__ = "idempotency_records"
    __table_args__ = (
        Index(None, "created_at"),
        Index(None, "project_id", "thread_id", postgresql_where=text("thread_id IS NOT NULL")),
        Index(None, "project_id", "object_id", postgresql_where=text("object_id IS NOT NULL")),
    )
    project_id: int = Field(
        sa_column=Column(BigInteger, ForeignKey("projects.pk", ondelete="CASCADE"), primary_key=True)
    )
    method: str = _text(key=True)
    path: str = _text(key=True)
    key: str = _text(key=True)
    body_hash: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    status: int = _integer(None)
    answer: str = _text()
    created_at: datetime = _time()
    thread_id: str | None = _computed("\"substring\"(path, '/threads/([^/]+)/'::text)")
    object_id: str | None = _computed('"substring"(answer, \'^\\{"id":"([^"]+)"\'::text)')


#: Tables whose rows belong to a project and are shown to it alone.
PROJECT_TABLES = tuple(sorted(name for name, table in metadata.tables.items() if "project_id" in table.columns))
