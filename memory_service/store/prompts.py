"""Prompts and what building them remembers: lanes, stable texts, token estimates."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import lru_cache

from memory_service.core.canonical import dumps_own
from memory_service.core.lane import MAX_LANES, Lane
from memory_service.core.tokens import TokenEstimate
from memory_service.errors import NotFound
from memory_service.store.db import Session
from memory_service.store.pages import Page, PageQuery, fetch_page
from memory_service.store.session import text

_PROMPT = (
    "pk, id, thread_pk, status, lane_key, thread_version, stable_digest, plan, volatile, recalled_seqs, usage,"
    " reply_seq, built_at, sent_at"
)


@dataclass(frozen=True, slots=True)
class EstimateRecord:
    provider: str
    model: str
    estimate: TokenEstimate
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class PromptRecord:
    """`plan`, `volatile` and `usage` are JSON; `volatile` is None once a message it quotes was deleted."""

    pk: int
    id: str
    thread_pk: int
    status: str
    lane_key: str
    thread_version: int
    stable_digest: str
    plan: str
    volatile: str | None
    recalled_seqs: Sequence[int]
    usage: str | None
    reply_seq: int | None
    built_at: datetime
    sent_at: datetime | None


async def lane_of(session: Session, prompt_id: str) -> Lane | None:
    """The lane that a prompt was built in."""
    state = await session.scalar(
        text(
            "SELECT l.state FROM prompts p JOIN lanes l ON l.thread_pk = p.thread_pk AND l.key = p.lane_key"
            " WHERE p.project_id = :project_id AND p.id = :id"
        ),
        {"project_id": session.info["project_id"], "id": prompt_id},
    )
    return None if state is None else Lane.from_json(json.loads(state))


async def get_learnt(
    session: Session, thread_id: str, provider: str, model: str
) -> tuple[dict[str, Lane], TokenEstimate | None]:
    """All lanes of a thread by their keys, newest first; and what was learnt of a model's tokens."""
    rows = await session.rows(
        text(
            "SELECT lane.key, lane.state, estimate.state FROM (SELECT) AS one"
            " LEFT JOIN lanes lane ON lane.thread_pk ="
            " (SELECT pk FROM threads WHERE project_id = :project_id AND id = :thread_id)"
            " LEFT JOIN token_estimates estimate"
            " ON estimate.project_id = :project_id AND estimate.provider = :provider AND estimate.model = :model"
            " ORDER BY lane.updated_at DESC, lane.key"
        ),
        {
            "thread_id": thread_id,
            "project_id": session.info["project_id"],
            "provider": provider,
            "model": model,
        },
    )
    lanes = {key: Lane.from_json(json.loads(state)) for key, state, _ in rows if key is not None}
    learnt = rows[0][2]
    return lanes, None if learnt is None else _estimate(learnt)


async def save_lane(session: Session, thread_pk: int, key: str, lane: Lane, now: datetime) -> None:
    """Store a lane; a thread keeps its newest MAX_LANES."""
    await session.post(
        text(
            # The DELETE does not see what the INSERT did.
            "WITH saved AS (INSERT INTO lanes (thread_pk, key, project_id, state, updated_at)"
            " VALUES (:thread_pk, :key, :project_id, :state, :now)"
            " ON CONFLICT (thread_pk, key) DO UPDATE SET state = excluded.state, updated_at = excluded.updated_at)"
            " DELETE FROM lanes WHERE thread_pk = :thread_pk AND key IN (SELECT key FROM lanes"
            " WHERE thread_pk = :thread_pk AND key <> :key ORDER BY updated_at DESC, key OFFSET :others)"
        ),
        {
            "thread_pk": thread_pk,
            "key": key,
            "project_id": session.info["project_id"],
            "state": dumps_own(lane),
            "now": now,
            "others": MAX_LANES - 1,
        },
    )


async def mark_edited(session: Session, thread_pk: int, seq: int, *, deleted: bool) -> None:
    """Tell every lane of a thread that message `seq` changed, or is gone."""
    rows = await session.execute(
        text("SELECT key, state FROM lanes WHERE thread_pk = :thread_pk"), {"thread_pk": thread_pk}
    )
    for key, state in rows:
        await session.post(
            text("UPDATE lanes SET state = :state WHERE thread_pk = :thread_pk AND key = :key"),
            {
                "thread_pk": thread_pk,
                "key": key,
                "state": dumps_own(Lane.from_json(json.loads(state)).after_edit(seq, deleted=deleted)),
            },
        )


async def get_stable_text(session: Session, thread_pk: int, digest: str) -> str:
    content = await session.scalar(
        text("SELECT content FROM stable_texts WHERE thread_pk = :thread_pk AND digest = :digest"),
        {"thread_pk": thread_pk, "digest": digest},
    )
    assert content is not None
    return str(content)


async def add_prompt(
    session: Session,
    *,
    id: str,
    thread_pk: int,
    lane_key: str,
    stable_digest: str,
    stable_text: str,
    plan: str,
    volatile: str,
    shared_digest: str | None,
    recalled_seqs: Sequence[int],
    now: datetime,
) -> PromptRecord:
    """Store a prompt, and its stable text unless the thread has it. The thread's version moves, and is the prompt's."""
    added = await session.execute(
        text(
            "WITH thread AS (UPDATE threads SET version = version + 1 WHERE pk = :thread_pk RETURNING version),"
            " stable AS (INSERT INTO stable_texts (thread_pk, digest, project_id, content)"
            " VALUES (:thread_pk, :stable_digest, :project_id, :stable_text) ON CONFLICT (thread_pk, digest) DO NOTHING)"
            " INSERT INTO prompts (id, thread_pk, project_id, lane_key, thread_version, stable_digest, plan, volatile,"
            " shared_digest, recalled_seqs, built_at) SELECT :id, :thread_pk, :project_id, :lane_key, version,"
            " :stable_digest, :plan, :volatile, :shared_digest, CAST(:recalled_seqs AS int[]), :now FROM thread"
            " RETURNING pk, thread_version"
        ),
        {
            "id": id,
            "thread_pk": thread_pk,
            "project_id": session.info["project_id"],
            "lane_key": lane_key,
            "stable_digest": stable_digest,
            "stable_text": stable_text,
            "plan": plan,
            "volatile": volatile,
            "shared_digest": shared_digest,
            "recalled_seqs": list(recalled_seqs),
            "now": now,
        },
    )
    pk, version = added.one()
    return PromptRecord(
        pk=pk,
        id=id,
        thread_pk=thread_pk,
        status="built",
        lane_key=lane_key,
        thread_version=version,
        stable_digest=stable_digest,
        plan=plan,
        volatile=volatile,
        recalled_seqs=list(recalled_seqs),
        usage=None,
        reply_seq=None,
        built_at=now,
        sent_at=None,
    )


async def shared_sent_at(session: Session, shared_digest: str) -> datetime | None:
    """When a prompt with this shared part was last sent by any thread of the project."""
    sent_at: datetime | None = await session.scalar(
        text(
            "SELECT max(sent_at) FROM prompts"
            " WHERE project_id = :project_id AND shared_digest = :shared_digest AND status = 'sent'"
        ),
        {"project_id": session.info["project_id"], "shared_digest": shared_digest},
    )
    return sent_at


async def get_prompt(session: Session, thread_pk: int, id: str) -> PromptRecord:
    """Raises NotFound."""
    return of_thread(await find_prompt(session, id), thread_pk, id)


async def find_prompt(session: Session, id: str) -> PromptRecord | None:
    """For who does not know the thread's pk yet."""
    found = await session.execute(
        text(f"SELECT {_PROMPT} FROM prompts WHERE project_id = :project_id AND id = :id"),
        {"project_id": session.info["project_id"], "id": id},
    )
    row = found.first()
    return PromptRecord(*row) if row else None


def of_thread(found: PromptRecord | None, thread_pk: int, id: str) -> PromptRecord:
    """Raises NotFound when it is of another thread, or of none."""
    if found is None or found.thread_pk != thread_pk:
        raise NotFound(f"There is no prompt {id[:64]!r} in this thread.", field="prompt_id")
    return found


async def volatile_of(session: Session, thread_pk: int, ids: Sequence[str]) -> dict[str, str]:
    """The volatile texts (JSON) of some prompts, by id; those that were deleted are not among them."""
    if not ids:
        return {}
    rows = await session.execute(
        text(
            "SELECT id, volatile FROM prompts WHERE project_id = :project_id AND id = ANY (CAST(:ids AS text[]))"
            " AND thread_pk = :thread_pk AND volatile IS NOT NULL"
        ),
        {"project_id": session.info["project_id"], "ids": list(ids), "thread_pk": thread_pk},
    )
    return {row.id: row.volatile for row in rows}


async def list_prompts(session: Session, thread_pk: int, query: PageQuery) -> Page[PromptRecord]:
    rows, has_more = await fetch_page(
        session,
        query,
        columns=_PROMPT,
        table="prompts",
        key=("pk",),
        where="thread_pk = :thread_pk",
        parameters={"thread_pk": thread_pk},
    )
    return Page(tuple(PromptRecord(*row) for row in rows), has_more)


async def prompts_after(session: Session, thread_pk: int, pk: int, limit: int) -> list[PromptRecord]:
    """The oldest prompts of a thread behind one."""
    rows = await session.execute(
        text(f"SELECT {_PROMPT} FROM prompts WHERE thread_pk = :thread_pk AND pk > :pk ORDER BY pk LIMIT :limit"),
        {"thread_pk": thread_pk, "pk": pk, "limit": limit},
    )
    return [PromptRecord(*row) for row in rows]


async def reported(session: Session, ids: Sequence[str]) -> dict[int, str]:
    """Of these prompts the usage that was reported, by the seq of the reply."""
    found = await session.execute(
        text(
            "SELECT reply_seq, usage FROM prompts WHERE project_id = :project_id AND id = ANY (:ids)"
            " AND reply_seq IS NOT NULL AND usage IS NOT NULL"
        ),
        {"project_id": session.info["project_id"], "ids": list(ids)},
    )
    return {row.reply_seq: row.usage for row in found}


async def mark_sent(
    session: Session, prompt: PromptRecord, usage: str, reply_seq: int | None, now: datetime
) -> PromptRecord:
    """Note that a prompt reached the provider; older ones of its lane that did not are abandoned."""
    await session.post(
        text(
            "WITH sent AS (UPDATE prompts SET status = 'sent', usage = :usage, reply_seq = :reply_seq, sent_at = :now"
            " WHERE pk = :pk)"
            " UPDATE prompts SET status = 'abandoned'"
            " WHERE thread_pk = :thread_pk AND lane_key = :lane_key AND status = 'built' AND pk < :pk"
        ),
        {
            "pk": prompt.pk,
            "usage": usage,
            "reply_seq": reply_seq,
            "now": now,
            "thread_pk": prompt.thread_pk,
            "lane_key": prompt.lane_key,
        },
    )
    return replace(prompt, status="sent", usage=usage, reply_seq=reply_seq, sent_at=now)


async def set_reply(session: Session, prompt: PromptRecord, reply_seq: int) -> PromptRecord:
    await session.post(
        text("UPDATE prompts SET reply_seq = :reply_seq WHERE pk = :pk"), {"pk": prompt.pk, "reply_seq": reply_seq}
    )
    return replace(prompt, reply_seq=reply_seq)


async def get_estimate(session: Session, provider: str, model: str, *, lock: bool = False) -> TokenEstimate | None:
    state = await session.scalar(
        text(
            "SELECT state FROM token_estimates WHERE project_id = :project_id AND provider = :provider AND model = :model"
            + (" FOR UPDATE" if lock else "")
        ),
        {"project_id": session.info["project_id"], "provider": provider, "model": model},
    )
    return None if state is None else _estimate(state)


@lru_cache(maxsize=256)
def _estimate(state: str) -> TokenEstimate:
    return TokenEstimate.from_json(json.loads(state))


async def expect_estimate(session: Session, provider: str, model: str, estimate: TokenEstimate) -> None:
    """Hold what was learnt of a model's tokens, as `lock` does, if it is still this; otherwise the transaction raises
    ThreadMoved."""
    await session.post(
        text(
            "SELECT expect((SELECT state = :state FROM token_estimates"
            " WHERE project_id = :project_id AND provider = :provider AND model = :model FOR UPDATE))"
        ),
        {
            "project_id": session.info["project_id"],
            "provider": provider,
            "model": model,
            "state": _estimate_state(estimate),
        },
    )


@lru_cache(maxsize=256)
def _estimate_state(estimate: TokenEstimate) -> str:
    return dumps_own(estimate.to_json())


async def save_estimate(session: Session, provider: str, model: str, estimate: TokenEstimate, now: datetime) -> None:
    await session.post(
        text(
            "INSERT INTO token_estimates (project_id, provider, model, state, updated_at)"
            " VALUES (:project_id, :provider, :model, :state, :now)"
            " ON CONFLICT (project_id, provider, model) DO UPDATE SET state = excluded.state,"
            " updated_at = excluded.updated_at"
        ),
        {
            "project_id": session.info["project_id"],
            "provider": provider,
            "model": model,
            "state": _estimate_state(estimate),
            "now": now,
        },
    )


async def list_estimates(session: Session) -> list[EstimateRecord]:
    """What a project learnt, by provider and model."""
    rows = await session.execute(
        text(
            "SELECT provider, model, state, updated_at FROM token_estimates WHERE project_id = :project_id"
            " ORDER BY provider, model"
        ),
        {"project_id": session.info["project_id"]},
    )
    return [
        EstimateRecord(row.provider, row.model, TokenEstimate.from_json(json.loads(row.state)), row.updated_at)
        for row in rows
    ]


async def delete_estimate(session: Session, provider: str, model: str) -> None:
    """Raises NotFound."""
    deleted = await session.scalar(
        text(
            "DELETE FROM token_estimates WHERE project_id = :project_id AND provider = :provider AND model = :model"
            " RETURNING 1"
        ),
        {"project_id": session.info["project_id"], "provider": provider, "model": model},
    )
    if deleted is None:
        raise NotFound(f"Nothing was learnt of model {model!r} of provider {provider!r}.", field="model")
