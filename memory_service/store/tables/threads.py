"""Assistants, threads, messages and what is derived from messages."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from sqlalchemy import (
    ARRAY,
    BigInteger,
    CheckConstraint,
    Column,
    DateTime,
    ForeignKey,
    ForeignKeyConstraint,
    Identity,
    Index,
    Integer,
    LargeBinary,
    Text,
    UniqueConstraint,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlmodel import Field

from memory_service.store.tables.base import (
    Table,
    integer_column,
    project_column,
    text_column,
    thread_pk_column,
    threads_project_column,
    time_column,
)


class Assistant(Table, table=True):
    __tablename__ = "assistants"
    __table_args__ = (UniqueConstraint("project_id", "id"), Index(None, "project_id", "created_at", "pk"))
    pk: int = Field(sa_column=Column(BigInteger, Identity(always=True), primary_key=True))
    project_id: int = project_column()
    id: str = text_column()
    name: str | None = text_column(null=True)
    model: str | None = text_column(null=True)
    provider: str | None = text_column(null=True)
    instructions: str | None = text_column(null=True)
    tools: str | None = text_column(null=True)
    documents: str | None = text_column(null=True)
    defaults: str | None = text_column(null=True)
    attributes: dict[str, str] = Field(sa_column=Column("metadata", JSONB, nullable=False, server_default=text("'{}'")))
    created_at: datetime = time_column()
    openai: str | None = text_column(null=True)


class Thread(Table, table=True):
    """`version` moves with every change that a prompt depends on; `last_seq` with every message. `edited_version` is the
    version at which a message was last changed or deleted."""

    __tablename__ = "threads"
    __table_args__ = (
        UniqueConstraint("project_id", "id"),
        Index(None, "project_id", "created_at", "pk"),
        Index(None, "project_id", "user_id", "created_at", "pk", postgresql_where=text("user_id IS NOT NULL")),
        # Those that are to be deleted as soon as they were read; hardly any, unless a process was ended.
        Index(None, "created_at", postgresql_where=text("openai = '{\"kept\": false}'")),
    )
    pk: int = Field(sa_column=Column(BigInteger, Identity(always=True), primary_key=True))
    project_id: int = project_column()
    id: str = text_column()
    user_id: str | None = text_column(null=True)
    assistant_id: str | None = text_column(null=True)
    instructions: str | None = text_column(null=True)
    tools: str | None = text_column(null=True)
    documents: str | None = text_column(null=True)
    truncation_strategy: str | None = text_column(null=True)
    attributes: dict[str, str] = Field(sa_column=Column("metadata", JSONB, nullable=False, server_default=text("'{}'")))
    version: int = Field(sa_column=Column(BigInteger, nullable=False, server_default=text("0")))
    edited_version: int = Field(sa_column=Column(BigInteger, nullable=False, server_default=text("0")))
    last_seq: int = integer_column()
    message_count: int = integer_column()
    last_role: str | None = text_column(null=True)
    open_tool_use_ids: list[str] = Field(sa_column=Column(ARRAY(Text), nullable=False, server_default=text("'{}'")))
    created_at: datetime = time_column()
    active_run_id: str | None = text_column(null=True)
    openai: str | None = text_column(null=True)


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
    thread_pk: int = thread_pk_column()
    seq: int = Field(sa_column=Column(Integer, primary_key=True, autoincrement=False))
    project_id: int = threads_project_column()
    id: str = text_column()
    role: str = text_column()
    content: str | None = text_column(null=True)
    status: str = Field(sa_column=Column(Text, nullable=False, server_default=text("'completed'")))
    revision: int = Field(sa_column=Column(Integer, nullable=False, server_default=text("1")))
    latin_tokens: int = integer_column()
    other_tokens: int = integer_column()
    text_bytes: int = integer_column()
    image_tokens: int = integer_column()
    thinking_tokens: int = integer_column()
    run_id: str | None = text_column(null=True)
    attributes: dict[str, str] | None = Field(sa_column=Column("metadata", JSONB(none_as_null=True)), default=None)
    created_at: datetime = time_column()
    deleted_at: datetime | None = time_column(null=True)
    openai: str | None = text_column(null=True)


class MessageRevision(Table, table=True):
    """What a message said before it was edited, so that prompts built then can be rebuilt."""

    __tablename__ = "message_revisions"
    __table_args__ = (
        ForeignKeyConstraint(["thread_pk", "seq"], ["messages.thread_pk", "messages.seq"], ondelete="CASCADE"),
    )
    thread_pk: int = Field(sa_column=Column(BigInteger, primary_key=True, autoincrement=False))
    seq: int = Field(sa_column=Column(Integer, primary_key=True, autoincrement=False))
    until_version: int = Field(sa_column=Column(BigInteger, primary_key=True, autoincrement=False))
    project_id: int = threads_project_column()
    content: str = text_column()


class MessageTerms(Table, table=True):
    """The recall index of a message: `core.recall.index_entry`. Narrow, so that a whole thread's is read in one scan."""

    __tablename__ = "message_terms"
    __table_args__ = (
        ForeignKeyConstraint(["thread_pk", "seq"], ["messages.thread_pk", "messages.seq"], ondelete="CASCADE"),
    )
    thread_pk: int = Field(sa_column=Column(BigInteger, primary_key=True, autoincrement=False))
    seq: int = Field(sa_column=Column(Integer, primary_key=True, autoincrement=False))
    project_id: int = threads_project_column()
    terms: bytes = Field(sa_column=Column(LargeBinary, nullable=False))


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
    project_id: int = threads_project_column()
    attempts: int = integer_column()
    not_before: datetime = Field(
        sa_column=Column(DateTime(timezone=True), nullable=False, server_default=text("now()"))
    )
    enqueued_at: datetime = Field(
        sa_column=Column(DateTime(timezone=True), nullable=False, server_default=text("now()"))
    )
    claim: UUID | None = Field(sa_column=Column(Uuid, nullable=True), default=None)
    last_error: str | None = text_column(null=True)


class ToolUse(Table, table=True):
    """Ids of tool calls, once per thread: providers refuse a repeated one."""

    __tablename__ = "tool_uses"
    __table_args__ = (
        Index(None, "thread_pk", "seq"),
        ForeignKeyConstraint(["thread_pk", "seq"], ["messages.thread_pk", "messages.seq"], ondelete="CASCADE"),
    )
    thread_pk: int = Field(sa_column=Column(BigInteger, primary_key=True, autoincrement=False))
    tool_use_id: str = text_column(key=True)
    seq: int = integer_column(None)
    project_id: int = threads_project_column()
