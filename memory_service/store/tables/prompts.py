"""What is built and executed on a thread: lanes, prompts, runs."""

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
    Identity,
    Index,
    Integer,
    Text,
    UniqueConstraint,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlmodel import Field

from memory_service.store.tables.base import (
    Table,
    text_column,
    thread_pk_column,
    threads_project_column,
    time_column,
)


class Lane(Table, table=True):
    """`state` is `core.lane.Lane` as JSON."""

    __tablename__ = "lanes"
    thread_pk: int = thread_pk_column()
    key: str = text_column(key=True)
    project_id: int = threads_project_column()
    state: str = text_column()
    updated_at: datetime = time_column()


class StableText(Table, table=True):
    """The stable part of prompts (system, tools), stored once per content and thread, however many prompts share it."""

    __tablename__ = "stable_texts"
    thread_pk: int = thread_pk_column()
    digest: str = text_column(key=True)
    project_id: int = threads_project_column()
    content: str = text_column()


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
    thread_pk: int = thread_pk_column(key=False)
    project_id: int = threads_project_column()
    id: str = text_column()
    status: str = Field(sa_column=Column(Text, nullable=False, server_default=text("'built'")))
    lane_key: str = text_column()
    thread_version: int = Field(sa_column=Column(BigInteger, nullable=False))
    stable_digest: str = text_column()
    plan: str = text_column()
    volatile: str | None = text_column(null=True)
    recalled_seqs: list[int] = Field(sa_column=Column(ARRAY(Integer), nullable=False, server_default=text("'{}'")))
    usage: str | None = text_column(null=True)
    reply_seq: int | None = Field(sa_column=Column(Integer), default=None)
    built_at: datetime = time_column()
    sent_at: datetime | None = time_column(null=True)
    shared_digest: str | None = text_column(null=True)


class Run(Table, table=True):
    """One execution of a model on a thread. `spec` is `core.runs.RunSpec` as JSON, `waiting_message` what a queued run will
    append, `spent` and `required_action` are JSON as well; `owner` is the process that works on it, while one does."""

    __tablename__ = "runs"
    __table_args__ = (
        UniqueConstraint("project_id", "id"),
        Index(None, "thread_pk", "pk"),
        # One at a time, whatever the services do.
        Index(
            None,
            "thread_pk",
            unique=True,
            postgresql_where=text("status IN ('in_progress', 'requires_action', 'cancelling')"),
        ),
        Index(
            None,
            "status",
            postgresql_where=text("status IN ('queued', 'in_progress', 'requires_action', 'cancelling')"),
        ),
        CheckConstraint(
            "status IN ('queued', 'in_progress', 'requires_action', 'cancelling', 'cancelled', 'completed', 'incomplete',"
            " 'failed', 'expired')",
            name="status",
        ),
    )
    pk: int = Field(sa_column=Column(BigInteger, Identity(always=True), primary_key=True))
    project_id: int = threads_project_column()
    thread_pk: int = thread_pk_column(key=False)
    id: str = text_column()
    status: str = text_column()
    provider: str = text_column()
    model: str = text_column()
    spec: str = text_column()
    waiting_message: str | None = text_column(null=True)
    owner: UUID | None = Field(sa_column=Column(Uuid, nullable=True), default=None)
    spent: str = Field(sa_column=Column(Text, nullable=False, server_default=text("'{}'")))
    prompt_ids: list[str] = Field(sa_column=Column(ARRAY(Text), nullable=False, server_default=text("'{}'")))
    message_ids: list[str] = Field(sa_column=Column(ARRAY(Text), nullable=False, server_default=text("'{}'")))
    required_action: str | None = text_column(null=True)
    last_error: str | None = text_column(null=True)
    incomplete_reason: str | None = text_column(null=True)
    provider_reply_id: str | None = text_column(null=True)
    attributes: dict[str, str] = Field(sa_column=Column("metadata", JSONB, nullable=False, server_default=text("'{}'")))
    created_at: datetime = time_column()
    started_at: datetime | None = time_column(null=True)
    expires_at: datetime | None = time_column(null=True)
    ended_at: datetime | None = time_column(null=True)


class RunEvent(Table, table=True):
    """What happened in a run, for whoever reads its stream, from whichever process; `content` is JSON."""

    __tablename__ = "run_events"
    run_pk: int = Field(
        sa_column=Column(BigInteger, ForeignKey("runs.pk", ondelete="CASCADE"), primary_key=True, nullable=False)
    )
    seq: int = Field(sa_column=Column(Integer, primary_key=True, autoincrement=False))
    project_id: int = threads_project_column()
    type: str = text_column()
    content: str = text_column()
    created_at: datetime = Field(
        sa_column=Column(DateTime(timezone=True), nullable=False, server_default=text("now()"))
    )
