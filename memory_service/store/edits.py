"""Messages edited and deleted, and all that was derived from them with them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from sqlalchemy.exc import IntegrityError

from memory_service.core.canonical import dumps
from memory_service.core.messages import Tail
from memory_service.store import vectors
from memory_service.store.db import Session
from memory_service.store.idempotency import erase_message
from memory_service.store.messages import MESSAGE_COLUMNS, MessageRecord, NewMessage, add_tool_uses, explain_conflict
from memory_service.store.run_events import erase_events
from memory_service.store.session import text
from memory_service.store.threads import ThreadRecord


async def replace(
    session: Session,
    thread: ThreadRecord,
    message: MessageRecord,
    new: NewMessage,
    entry: bytes,
    metadata: Mapping[str, str],
) -> MessageRecord:
    """Give a message a new revision; the old one is kept for the prompts that showed it. Raises InvalidMessage."""
    place = {"thread_pk": thread.pk, "seq": message.seq}
    if new.content != message.content:
        await erase_events(session, thread.pk, message.id)
        await session.execute(
            text(
                "INSERT INTO message_revisions (thread_pk, seq, until_version, project_id, content)"
                " VALUES (:thread_pk, :seq, :version, :project_id, :content)"
            ),
            {
                **place,
                "version": thread.version + 1,
                "project_id": session.info["project_id"],
                "content": message.content,
            },
        )
        await session.execute(text("DELETE FROM message_terms WHERE thread_pk = :thread_pk AND seq = :seq"), place)
        await session.execute(text("DELETE FROM tool_uses WHERE thread_pk = :thread_pk AND seq = :seq"), place)
        if entry:
            await session.execute(
                text(
                    "INSERT INTO message_terms (thread_pk, project_id, seq, terms)"
                    " VALUES (:thread_pk, :project_id, :seq, :terms)"
                ),
                {**place, "project_id": session.info["project_id"], "terms": entry},
            )
        await vectors.renew(session, thread.pk, message.seq, new.vectors)
        try:
            if new.tool_use_ids:
                await add_tool_uses(session, [(thread.pk, message.seq, id_) for id_ in new.tool_use_ids])
        except IntegrityError as error:
            raise explain_conflict(error) from error
    updated = await session.execute(
        text(
            "UPDATE messages SET content = :content, revision = revision + :edited, latin_tokens = :latin,"
            " other_tokens = :other, text_bytes = :bytes, image_tokens = :images, thinking_tokens = :thinking,"
            f" metadata = CAST(:metadata AS jsonb) WHERE thread_pk = :thread_pk AND seq = :seq RETURNING {MESSAGE_COLUMNS}"
        ),
        {
            **place,
            "content": new.content,
            "edited": int(new.content != message.content),
            "latin": new.counts.latin,
            "other": new.counts.other,
            "bytes": new.counts.text_bytes,
            "images": new.counts.images,
            "thinking": new.thinking_tokens,
            "metadata": dumps(metadata) if metadata else None,
        },
    )
    return MessageRecord(*updated.one())


async def bury(session: Session, thread: ThreadRecord, message: MessageRecord, now: datetime) -> None:
    """Delete a message: a tombstone keeps its seq, and nothing keeps its text."""
    place = {"thread_pk": thread.pk, "seq": message.seq}
    await erase_message(session, thread.id, message.id)
    await erase_events(session, thread.pk, message.id)
    for statement in (
        "DELETE FROM message_terms WHERE thread_pk = :thread_pk AND seq = :seq",
        "DELETE FROM message_revisions WHERE thread_pk = :thread_pk AND seq = :seq",
        "DELETE FROM tool_uses WHERE thread_pk = :thread_pk AND seq = :seq",
        "UPDATE prompts SET volatile = NULL WHERE thread_pk = :thread_pk AND :seq = ANY (recalled_seqs)",
    ):
        await session.execute(text(statement), place)
    await vectors.forget(session, thread.pk, message.seq)
    await session.execute(
        text(
            "UPDATE messages SET content = NULL, metadata = NULL, latin_tokens = 0, other_tokens = 0, text_bytes = 0,"
            " image_tokens = 0, thinking_tokens = 0, deleted_at = :now WHERE thread_pk = :thread_pk AND seq = :seq"
        ),
        {**place, "now": now},
    )


async def set_tail(session: Session, thread_pk: int, tail: Tail, *, deleted: int) -> None:
    """What an edit or a deletion leaves of the thread's end."""
    await session.execute(
        text(
            "UPDATE threads SET version = version + 1, edited_version = version + 1,"
            " message_count = message_count - :deleted, last_role = :last_role, open_tool_use_ids = :open_ids"
            " WHERE pk = :pk"
        ),
        {
            "pk": thread_pk,
            "deleted": deleted,
            "last_role": tail.last_role,
            "open_ids": list(tail.open_tool_use_ids),
        },
    )
