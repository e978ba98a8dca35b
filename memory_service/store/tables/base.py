"""The metadata of all tables, and the columns that many of them have."""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    Computed,
    DateTime,
    ForeignKey,
    Integer,
    MetaData,
    Text,
    text,
)
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


def project_column() -> Any:
    return Field(sa_column=Column(BigInteger, ForeignKey("projects.pk", ondelete="CASCADE"), nullable=False))


def threads_project_column() -> Any:
    """The project of what belongs to a thread: its foreign key is the thread's, so that inserts check one less."""
    return Field(sa_column=Column(BigInteger, nullable=False))


def text_column(*, null: bool = False, key: bool = False) -> Any:
    return Field(sa_column=Column(Text, nullable=null, primary_key=key), default=None if null else ...)


def integer_column(default: int | None = 0) -> Any:
    server_default = None if default is None else text(str(default))
    return Field(sa_column=Column(Integer, nullable=False, server_default=server_default))


def time_column(*, null: bool = False) -> Any:
    return Field(sa_column=Column(DateTime(timezone=True), nullable=null), default=None if null else ...)


def computed_column(expression: str) -> Any:
    return Field(sa_column=Column(Text, Computed(expression, persisted=True)), default=None)


def thread_pk_column(*, key: bool = True) -> Any:
    return Field(
        sa_column=Column(BigInteger, ForeignKey("threads.pk", ondelete="CASCADE"), primary_key=key, nullable=False)
    )
