"""The tables. Every one of a project's carries `project_id`, on which row-level security decides.

Ids are unique within a project. Content is `text` holding canonical JSON, never `jsonb`, which would reorder its keys.
The policies, roles and grants are in the migrations; `migrations/schema.sql` shows the whole.
"""

from __future__ import annotations

from memory_service.store.tables.base import Table, metadata
from memory_service.store.tables.projects import (
    ApiKey,
    Embedder,
    IdempotencyRecord,
    Project,
    Server,
    TokenEstimate,
    UsageEntry,
)
from memory_service.store.tables.prompts import Lane, Prompt, Run, RunEvent, StableText
from memory_service.store.tables.threads import (
    Assistant,
    Message,
    MessageRevision,
    MessageTerms,
    PendingEmbedding,
    Thread,
    ToolUse,
)

__all__ = [
    "PROJECT_TABLES",
    "ApiKey",
    "Assistant",
    "Embedder",
    "IdempotencyRecord",
    "Lane",
    "Message",
    "MessageRevision",
    "MessageTerms",
    "PendingEmbedding",
    "Project",
    "Prompt",
    "Run",
    "RunEvent",
    "Server",
    "StableText",
    "Table",
    "Thread",
    "TokenEstimate",
    "ToolUse",
    "UsageEntry",
    "metadata",
]

#: Tables whose rows belong to a project and are shown to it alone.
PROJECT_TABLES = tuple(sorted(name for name, table in metadata.tables.items() if "project_id" in table.columns))
