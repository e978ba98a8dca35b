"""What is not of a thread: projects, keys, what was answered and learnt, what was billed."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    DateTime,
    ForeignKey,
    Identity,
    Index,
    Integer,
    LargeBinary,
    Numeric,
    Text,
    Uuid,
    text,
)
from sqlmodel import Field

from memory_service.store.tables.base import (
    Table,
    computed_column,
    integer_column,
    project_column,
    text_column,
    time_column,
)


def _usd() -> Any:
    return Field(sa_column=Column(Numeric), default=None)


def _predicted() -> Any:
    return Field(sa_column=Column(Integer), default=None)


class Project(Table, table=True):
    __tablename__ = "projects"
    pk: int = Field(sa_column=Column(BigInteger, Identity(always=True), primary_key=True))
    name: str = Field(sa_column=Column(Text, nullable=False, unique=True))
    created_at: datetime = time_column()


class ApiKey(Table, table=True):
    """A key is shown once. `hash` is SHA-256 of it, `hint` its last four characters. Limits: see `AuthenticatedKey`."""

    __tablename__ = "api_keys"
    __table_args__ = (CheckConstraint("requests_per_minute >= 0 AND max_body_bytes > 0", name="limits"),)
    id: str = text_column(key=True)
    project_id: int = project_column()
    name: str = text_column()
    hash: bytes = Field(sa_column=Column(LargeBinary, nullable=False, unique=True))
    hint: str = text_column()
    created_at: datetime = time_column()
    revoked_at: datetime | None = time_column(null=True)
    requests_per_minute: int | None = Field(sa_column=Column(Integer), default=None)
    max_body_bytes: int | None = Field(sa_column=Column(BigInteger), default=None)


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
    method: str = text_column(key=True)
    path: str = text_column(key=True)
    key: str = text_column(key=True)
    body_hash: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    status: int = integer_column(None)
    answer: str = text_column()
    created_at: datetime = time_column()
    thread_id: str | None = computed_column("\"substring\"(path, '/threads/([^/]+)/'::text)")
    object_id: str | None = computed_column('"substring"(answer, \'^\\{"id":"([^"]+)"\'::text)')


class TokenEstimate(Table, table=True):
    """`state` is `core.tokens.TokenEstimate` as JSON: what a project learnt of a model's tokenizer."""

    __tablename__ = "token_estimates"
    project_id: int = Field(
        sa_column=Column(BigInteger, ForeignKey("projects.pk", ondelete="CASCADE"), primary_key=True)
    )
    provider: str = text_column(key=True)
    model: str = text_column(key=True)
    state: str = text_column()
    updated_at: datetime = time_column()


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
    project_id: int = project_column()
    kind: str = text_column()
    called_at: datetime = time_column()
    thread_id: str | None = text_column(null=True)
    user_id: str | None = text_column(null=True)
    prompt_id: str | None = text_column(null=True)
    run_id: str | None = text_column(null=True)
    provider: str = text_column()
    model: str = text_column()
    cache_read_tokens: int = integer_column(None)
    cache_write_5m_tokens: int = integer_column(None)
    cache_write_1h_tokens: int = integer_column(None)
    uncached_tokens: int = integer_column(None)
    output_tokens: int = integer_column(None)
    cost_usd: Decimal | None = _usd()
    cost_usd_uncached: Decimal | None = _usd()
    output_usd: Decimal | None = _usd()
    predicted_cache_read_tokens: int | None = _predicted()
    predicted_cache_write_tokens: int | None = _predicted()
    predicted_uncached_tokens: int | None = _predicted()
    predicted_cost_usd: Decimal | None = _usd()
    miss_reason: str | None = text_column(null=True)
    miss: str | None = text_column(null=True)


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
    name: str = text_column()
    spec: str = text_column()
    dimensions: int = integer_column(None)
    status: str = text_column()
    created_at: datetime = time_column()
    retired_at: datetime | None = time_column(null=True)


class Server(Table, table=True):
    """A process that executes runs. It writes `beat_at` while it lives."""

    __tablename__ = "servers"
    id: UUID = Field(sa_column=Column(Uuid, primary_key=True))
    beat_at: datetime = Field(sa_column=Column(DateTime(timezone=True), nullable=False, server_default=text("now()")))
