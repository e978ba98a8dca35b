"""Messages: append under the thread's row lock, read by `seq`."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any

from sqlalchemy.exc import IntegrityError
from sqlalchemy.sql.elements import TextClause

from memory_service.core.canonical import dumps
from memory_service.core.messages import Block, Tail, tool_use_ids
from memory_service.core.tokens import TokenCounts
from memory_service.errors import InvalidMessage, NotFound
from memory_service.store.db import InBinary, Session
from memory_service.store.pages import Page, PageQuery, fetch_page
from memory_service.store.session import text, unnested
from memory_service.store.vectors import ENQUEUE, INSERT_ROWS, MessageVectors, table_of, vector_rows

MESSAGE_COLUMNS = (
    "thread_pk, seq, id, role, content, status, revision, latin_tokens, other_tokens, text_bytes, image_tokens,"
    " thinking_tokens, run_id, metadata, created_at, openai"
)

# What `append` writes of a message, with the types of the arrays it is passed in.
_APPENDED = {
    "thread_pk": "bigint",
    "seq": "int",
    "id": "text",
    "role": "text",
    "content": "text",
    "status": "text",
    "latin_tokens": "int",
    "other_tokens": "int",
    "text_bytes": "int",
    "image_tokens": "int",
    "thinking_tokens": "int",
    "run_id": "text",
    "metadata": "jsonb",
    "created_at": "timestamptz",
    "openai": "text",
}
# What it changes of a thread.
_ENDS = {
    "pk": "bigint",
    "last_seq": "int",
    "added": "int",
    "last_role": "text",
    "open_ids": "json",
}


_INSERT_TOOL_USES = f"""
    INSERT INTO tool_uses (project_id, thread_pk, seq, tool_use_id) SELECT :project_id, *
    FROM {unnested({"use_thread_pk": "bigint", "use_seq": "int", "use_id": "text"})}
"""


@lru_cache
def _append(vector_table: str | None, has_uses: bool) -> TextClause:
    """One statement, because a round trip costs more than a row."""
    vector = f", vector AS ({INSERT_ROWS.format(table=vector_table)})" if vector_table else ""
    used = f", used AS ({_INSERT_TOOL_USES})" if has_uses else ""
    return text(
        f"""
        WITH new AS (
            SELECT * FROM {unnested({**_APPENDED, "terms": "bytea", "embedded_by": "bigint"})}
                AS new ({", ".join(_APPENDED)}, terms, embedded_by)
        ), message AS (
            INSERT INTO messages (project_id, {", ".join(_APPENDED)}) SELECT :project_id, {", ".join(_APPENDED)} FROM new
        ), entry AS (
            INSERT INTO message_terms (thread_pk, project_id, seq, terms)
            SELECT thread_pk, :project_id, seq, terms FROM new WHERE terms <> ''
        ), queued AS (
            {ENQUEUE.format(new="new")} AND :enqueue
        ){vector}{used}
        UPDATE threads SET last_seq = ends.last_seq, message_count = message_count + ends.added, version = version + 1,
            last_role = ends.last_role, open_tool_use_ids = ARRAY(SELECT json_array_elements_text(ends.open_ids))
        FROM {unnested({f"end_{name}": type_ for name, type_ in _ENDS.items()})} AS ends ({", ".join(_ENDS)})
        WHERE threads.pk = ends.pk
        """
    )


@dataclass(frozen=True, slots=True)
class NewMessage:
    """A message that was checked and counted. `content` and `openai` are canonical JSON, `outline` that of `core.messages`.

    `entry` is that of the recall index, for whatever seq the message will get. `vectors` are those of the text's
    passages; None leaves them to the background loop.
    """

    id: str
    role: str
    content: str
    text: str
    outline: tuple[Block, ...]
    counts: TokenCounts
    thinking_tokens: int
    metadata: Mapping[str, str]
    created_at: datetime
    run_id: str | None = None
    status: str = "completed"
    vectors: MessageVectors | None = None
    entry: bytes = b""
    openai: str | None = None

    @property
    def tool_use_ids(self) -> list[str]:
        return tool_use_ids(self.outline)


Placed = tuple[int, NewMessage, bytes]
"""A message with its seq and its entry in the recall index."""


@dataclass(frozen=True, slots=True)
class Addition:
    """What a thread is to get, in order, and how it then ends."""

    thread_pk: int
    placed: Sequence[Placed]
    tail: Tail


@dataclass(frozen=True, slots=True)
class MessageRecord:
    thread_pk: int
    seq: int
    id: str
    role: str
    content: str
    status: str
    revision: int
    latin_tokens: int
    other_tokens: int
    text_bytes: int
    image_tokens: int
    thinking_tokens: int
    run_id: str | None
    metadata: Mapping[str, str] | None
    created_at: datetime
    openai: str | None

    @property
    def counts(self) -> TokenCounts:
        return TokenCounts(1, self.latin_tokens, self.other_tokens, self.text_bytes, self.image_tokens)

    @property
    def token_count(self) -> int:
        """o200k_base tokens of the content, and image tokens by size."""
        return self.latin_tokens + self.other_tokens + self.image_tokens + self.thinking_tokens


async def append(session: Session, additions: Sequence[Addition], *, enqueue: bool = True) -> list[MessageRecord]:
    """Append to threads whose rows this transaction holds.

    Without `enqueue` the caller sees to the vectors that do not come with the messages. Raises InvalidMessage when a
    tool_use id was used in its thread before, or a message id in the project.
    """
    project_id = session.info["project_id"]
    rows = [_row(addition.thread_pk, seq, message) for addition in additions for seq, message, _ in addition.placed]
    columns: dict[str, Any] = {name: [row[name] for row in rows] for name in _APPENDED}
    columns |= {name: InBinary(columns[name]) for name in ("id", "content")}
    columns["metadata"] = [metadata and dumps(metadata) for metadata in columns["metadata"]]
    uses = [
        (addition.thread_pk, seq, id_)
        for addition in additions
        for seq, message, _ in addition.placed
        for id_ in message.tool_use_ids
    ]
    vectors = [
        (addition.thread_pk, seq, message.vectors) for addition in additions for seq, message, _ in addition.placed
    ]
    table = table_of(vectors)
    try:
        await session.execute(
            _append(table, bool(uses)),
            {
                **columns,
                **(vector_rows(vectors) if table else {}),
                **(_tool_uses(uses) if uses else {}),
                "embedded_by": [made and made.embedder.pk for *_, made in vectors],
                "enqueue": enqueue,
                "terms": InBinary(entry for addition in additions for _, _, entry in addition.placed),
                "project_id": project_id,
                "end_pk": [addition.thread_pk for addition in additions],
                "end_last_seq": [addition.placed[-1][0] for addition in additions],
                "end_added": [len(addition.placed) for addition in additions],
                "end_last_role": [addition.tail.last_role for addition in additions],
                "end_open_ids": [dumps(addition.tail.open_tool_use_ids) for addition in additions],
            },
        )
    except IntegrityError as error:
        raise explain_conflict(error) from error
    fields = MessageRecord.__slots__
    return [MessageRecord(**{name: row.get(name, 1) for name in fields}) for row in rows]


async def add_tool_uses(session: Session, uses: Sequence[tuple[int, int, str]]) -> None:
    """Note ids of tool calls with their (thread_pk, seq)."""
    await session.execute(text(_INSERT_TOOL_USES), {"project_id": session.info["project_id"], **_tool_uses(uses)})


def _tool_uses(uses: Sequence[tuple[int, int, str]]) -> dict[str, Any]:
    """Parameters of `_INSERT_TOOL_USES`."""
    return {
        "use_thread_pk": [thread_pk for thread_pk, _, _ in uses],
        "use_seq": [seq for _, seq, _ in uses],
        "use_id": InBinary(id_ for _, _, id_ in uses),
    }


def _row(thread_pk: int, seq: int, message: NewMessage) -> dict[str, Any]:
    return {
        "thread_pk": thread_pk,
        "seq": seq,
        "id": message.id,
        "role": message.role,
        "content": message.content,
        "status": message.status,
        "latin_tokens": message.counts.latin,
        "other_tokens": message.counts.other,
        "text_bytes": message.counts.text_bytes,
        "image_tokens": message.counts.images,
        "thinking_tokens": message.thinking_tokens,
        "run_id": message.run_id,
        "metadata": dict(message.metadata) or None,
        "created_at": message.created_at,
        "openai": message.openai,
    }


def explain_conflict(error: IntegrityError) -> Exception:
    """What was there already, in words, for an error of an insertion."""
    constraint = getattr(getattr(error.orig, "diag", None), "constraint_name", None)
    if constraint == "tool_uses_pkey":
        return InvalidMessage(
            "A tool_use id of this message was used before in the thread; give each call an id of its own.",
            code="duplicate_tool_use",
        )
    if constraint == "messages_project_id_id_key":
        return InvalidMessage("A message with this id exists already.", code="id_taken")
    return error


async def get_message(session: Session, thread_pk: int, id: str) -> MessageRecord:
    """Raises NotFound, for a deleted message too."""
    found = await find_message(session, thread_pk, id)
    if found is None:
        raise NotFound(f"There is no message {id[:64]!r} in this thread.", field="message_id")
    return found


async def find_message(session: Session, thread_pk: int, id: str) -> MessageRecord | None:
    """None for a deleted message too."""
    found = await session.execute(
        text(
            f"SELECT {MESSAGE_COLUMNS} FROM messages WHERE project_id = :project_id AND id = :id"
            " AND thread_pk = :thread_pk AND deleted_at IS NULL"
        ),
        {"project_id": session.info["project_id"], "id": id, "thread_pk": thread_pk},
    )
    row = found.first()
    return MessageRecord(**row._asdict()) if row else None


async def list_messages(
    session: Session,
    thread_pk: int,
    query: PageQuery,
    *,
    run_id: str | None = None,
    without: Collection[str] = (),
) -> Page[MessageRecord]:
    """Those that a run wrote, with `run_id`; and not those that have no blocks but of the types in `without`."""
    where = "thread_pk = :thread_pk AND deleted_at IS NULL" + (" AND run_id = :run_id" if run_id is not None else "")
    if without:
        assert "text" not in without
        where += (  # nearly all begin with text, and need not be read for it
            """ AND (starts_with(content, '[{"type":"text",') OR EXISTS (SELECT FROM json_array_elements(content::json)"""
            " AS block WHERE block ->> 'type' <> ALL (CAST(:without AS text[]))))"
        )
    rows, has_more = await fetch_page(
        session,
        query,
        columns=MESSAGE_COLUMNS,
        table="messages",
        key=("seq",),
        where=where,
        cursor_where="thread_pk = :thread_pk",
        parameters={"thread_pk": thread_pk, "run_id": run_id, "without": list(without)},
    )
    return Page(tuple(MessageRecord(**row._asdict()) for row in rows), has_more)


async def range_of(
    session: Session,
    thread_pk: int,
    *,
    first_seq: int = 1,
    last_seq: int | None = None,
    limit: int | None = None,
) -> list[MessageRecord]:
    """Messages with first_seq <= seq <= last_seq in order; with `limit`, the newest that many of them."""
    rows = await session.rows(
        text(
            f"SELECT {MESSAGE_COLUMNS} FROM messages WHERE thread_pk = :thread_pk AND seq >= :first_seq"
            + (" AND seq <= :last_seq" if last_seq is not None else "")
            + " AND deleted_at IS NULL ORDER BY seq "
            + ("DESC LIMIT :limit" if limit is not None else "ASC")
        ),
        {"thread_pk": thread_pk, "first_seq": first_seq, "last_seq": last_seq, "limit": limit},
    )
    found = [MessageRecord(*row) for row in rows]
    return found[::-1] if limit is not None else found


async def of_run(session: Session, thread_pk: int, run_id: str, message_ids: Collection[str]) -> list[MessageRecord]:
    """What a run wrote, in order: the messages of these ids, and what stands between and next to them."""
    rows = await session.execute(
        text(
            f"SELECT {MESSAGE_COLUMNS} FROM messages, (SELECT min(seq) AS first_seq, max(seq) AS last_seq FROM messages"
            " WHERE project_id = :project_id AND id = ANY (:ids)) AS written"
            " WHERE thread_pk = :thread_pk AND seq BETWEEN first_seq AND last_seq + 1 AND run_id = :run_id"
            " AND deleted_at IS NULL ORDER BY seq"
        ),
        {
            "project_id": session.info["project_id"],
            "ids": list(message_ids),
            "thread_pk": thread_pk,
            "run_id": run_id,
        },
    )
    return [MessageRecord(*row) for row in rows]


async def with_seqs(session: Session, thread_pks: Sequence[int], seqs: Sequence[int]) -> list[MessageRecord]:
    """The messages at (thread_pks[i], seqs[i]), in no particular order."""
    rows = await session.rows(
        text(
            f"SELECT {', '.join('m.' + column.strip() for column in MESSAGE_COLUMNS.split(','))}"
            " FROM unnest(CAST(:thread_pks AS bigint[]), CAST(:seqs AS int[])) AS wanted (thread_pk, seq)"
            " JOIN messages m ON m.thread_pk = wanted.thread_pk AND m.seq = wanted.seq WHERE m.deleted_at IS NULL"
        ),
        {"thread_pks": list(thread_pks), "seqs": list(seqs)},
    )
    return [MessageRecord(*row) for row in rows]


async def revisions_at(session: Session, thread_pk: int, version: int) -> dict[int, str]:
    """For messages edited after thread version `version`: seq → what they said at that version."""
    rows = await session.execute(
        text(
            "SELECT DISTINCT ON (seq) seq, content FROM message_revisions"
            " WHERE thread_pk = :thread_pk AND until_version > :version ORDER BY seq, until_version"
        ),
        {"thread_pk": thread_pk, "version": version},
    )
    return {row.seq: row.content for row in rows}


async def taken_ids(session: Session, ids: Sequence[str]) -> set[str]:
    """Which of these message ids exist in the project, deleted ones included."""
    rows = await session.execute(
        text("SELECT id FROM messages WHERE project_id = :project_id AND id = ANY (:ids)"),
        {"project_id": session.info["project_id"], "ids": list(ids)},
    )
    return {row[0] for row in rows}


async def held_at(
    session: Session, thread_pks: Sequence[int], seqs: Sequence[int]
) -> dict[tuple[int, int], tuple[str, str | None]]:
    """(thread_pks[i], seqs[i]) → id and content of the message that is there; a deleted one has no content."""
    rows = await session.execute(
        text(
            "SELECT m.thread_pk, m.seq, m.id, m.content"
            " FROM unnest(CAST(:thread_pks AS bigint[]), CAST(:seqs AS int[])) AS wanted (thread_pk, seq)"
            " JOIN messages m ON m.thread_pk = wanted.thread_pk AND m.seq = wanted.seq"
        ),
        {"thread_pks": list(thread_pks), "seqs": list(seqs)},
    )
    return {(row.thread_pk, row.seq): (row.id, row.content) for row in rows}
