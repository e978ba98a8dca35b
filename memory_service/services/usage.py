"""What a provider reported for a prompt: its usage, once, and the reply, once."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from memory_service.core.canonical import dumps, loads
from memory_service.core.lane import Lane, Tail
from memory_service.core.tokens import Observation, TokenCounts, TokenEstimate
from memory_service.core.usage import ReportedUsage, check_form
from memory_service.errors import Conflict
from memory_service.runtime import Runtime
from memory_service.services import ingest, ledger
from memory_service.services.estimates import teach_held
from memory_service.services.explaining import BuiltPrompt, breakpoint_ttl
from memory_service.services.holding import follow
from memory_service.services.ledger import PaidCall
from memory_service.services.rebuilding import show_stored
from memory_service.store import messages as message_store
from memory_service.store import prompts as prompt_store
from memory_service.store.db import Session
from memory_service.store.messages import MessageRecord, NewMessage
from memory_service.store.prompts import PromptRecord
from memory_service.store.threads import ThreadRecord, bump_version, get_thread


@dataclass(frozen=True, slots=True)
class Reported:
    """A prompt as it is reported, and the reply that was."""

    thread_id: str
    record: PromptRecord
    reply: MessageRecord | None

    @property
    def prompt(self) -> BuiltPrompt:
        return show_stored(self.thread_id, self.record)


@dataclass(frozen=True, slots=True)
class Known:
    """What was read behind the lock of the thread's row for what a report changes. `plan` is that of the prompt, parsed;
    `reply` came with an earlier report."""

    prompt: PromptRecord
    plan: Mapping[str, Any]
    lane: Lane | None
    estimate: TokenEstimate | None
    reply: MessageRecord | None

    def reply_seq(self, thread: ThreadRecord, reply: NewMessage | None) -> int | None:
        """Where a reply that comes with this report is to stand; None when none is to be appended."""
        return thread.last_seq + 1 if reply and self.prompt.reply_seq is None else None


async def report(
    runtime: Runtime,
    session: Session,
    thread_id: str,
    prompt_id: str,
    usage: Mapping[str, Any],
    reply: NewMessage | None,
    now: datetime,
    *,
    diagnostics: Mapping[str, Any] | None,
    commit: bool,
) -> Reported:
    """Take what the provider reported for a prompt: mark it sent, append the reply, write the ledger, teach the token
    estimate. `diagnostics` is what the provider said of its prompt cache; it is kept in the usage, as `diagnostics`. On
    request the transaction is committed with it.

    The same report again changes nothing, except that a reply may still come when none came before; another usage or
    another reply is a Conflict. A reply is never refused for being late: it was paid for, and stands where it arrived.
    Raises NotFound, InvalidInput, InvalidMessage.
    """
    thread, found, lane = await session.together(
        asyncio.gather(
            get_thread(session, thread_id, lock=True),
            prompt_store.find_prompt(session, prompt_id),
            prompt_store.lane_of(session, prompt_id),
        )
    )
    record = prompt_store.of_thread(found, thread.pk, prompt_id)
    plan = json.loads(record.plan)
    estimate = await prompt_store.get_estimate(session, plan["provider"], plan["model"], lock=True)
    known = await check(session, record, lane, estimate, usage, reply)
    seq = known.reply_seq(thread, reply)
    appended, record = await session.together(
        asyncio.gather(
            ingest.append(session, thread, [reply] if reply and seq else [], ["message."] if seq else []),
            write(runtime, session, thread, known, usage, seq, now, diagnostics=diagnostics),
        ),
        commit=commit,
    )
    follow(runtime, session, thread, appended)
    return Reported(thread.id, record, appended[0] if appended else known.reply)


async def check(
    session: Session,
    record: PromptRecord,
    lane: Lane | None,
    estimate: TokenEstimate | None,
    usage: Mapping[str, Any],
    reply: NewMessage | None,
) -> Known:
    """Whether what is reported can be, before anything of it is written: as `report` says. It reads only for a prompt that
    was reported before."""
    ReportedUsage.parse(usage)
    plan = json.loads(record.plan)
    check_form(usage, plan["provider"])
    kept = await _reply_of(session, record)
    if record.usage is not None:
        await _check_same(session, record, usage, kept, reply)
    return Known(record, plan, lane, estimate, kept)


async def write(
    runtime: Runtime,
    session: Session,
    thread: ThreadRecord,
    known: Known,
    usage: Mapping[str, Any],
    reply_seq: int | None,
    now: datetime,
    *,
    run_id: str | None = None,
    diagnostics: Mapping[str, Any] | None = None,
) -> PromptRecord:
    """Write what `check` found right, but for the reply, which the caller appends at `reply_seq` if there is one. All is
    posted."""
    record = known.prompt
    if record.usage is not None:
        return record if reply_seq is None else await prompt_store.set_reply(session, record, reply_seq)
    reported = ReportedUsage.parse(usage)
    if diagnostics is not None:
        usage = {**usage, "diagnostics": diagnostics}
    record = await prompt_store.mark_sent(session, record, dumps(usage), reply_seq, now)
    await ledger.record(session, runtime, thread, _paid_call(record.id, known.plan, usage, run_id), now)
    await _learn(runtime, session, known, reported, now)
    if reply_seq is None:
        await bump_version(session, thread.pk)
    return record


def _paid_call(prompt_id: str, plan: Mapping[str, Any], usage: Mapping[str, Any], run_id: str | None) -> PaidCall:
    return PaidCall(
        kind="report" if run_id is None else "run",
        provider=plan["provider"],
        model=plan["model"],
        usage=usage,
        ttl=breakpoint_ttl(plan),
        prediction=plan["prediction"],
        prompt_id=prompt_id,
        run_id=run_id,
    )


async def _reply_of(session: Session, record: PromptRecord) -> MessageRecord | None:
    if record.reply_seq is None:
        return None
    found = await message_store.with_seqs(session, [record.thread_pk], [record.reply_seq])
    return found[0] if found else None


async def _check_same(
    session: Session,
    record: PromptRecord,
    usage: Mapping[str, Any],
    kept: MessageRecord | None,
    reply: NewMessage | None,
) -> None:
    """Refuse a second report that contradicts the first."""
    assert record.usage
    other_usage = _counted(loads(record.usage)) != _counted(usage)
    other_reply = (
        reply is not None and kept is not None and await _first_content(session, record, kept) != reply.content
    )
    if other_usage:
        both = "`usage` and `message` differ" if other_reply else "`usage` differs"
        raise Conflict(
            f"{both} from what was reported for this prompt before; build a prompt for each request that is sent. To add "
            "a reply, send it with the usage that was reported first.",
            code="usage_already_reported",
            field="usage",
        )
    if other_reply and kept:
        raise Conflict(
            f"`message` differs from the reply that was reported for this prompt before ({kept.id}); its `usage` is the "
            "same. Edit that message to change it, or build a prompt for each request that is sent.",
            code="reply_already_reported",
            field="message",
            message_id=kept.id,
        )
    if reply is not None and record.reply_seq is not None and kept is None:
        raise Conflict(
            "The reply that was reported for this prompt (`message`) was deleted since; to have it back, append it to "
            "the thread.",
            code="reply_deleted",
            field="message",
        )


def _counted(usage: Mapping[str, Any]) -> dict[str, Any]:
    """Usage without what is only said about it."""
    return {name: value for name, value in usage.items() if name != "diagnostics"}


async def _first_content(session: Session, record: PromptRecord, kept: MessageRecord) -> str:
    """What the reply said when it was reported, whatever was edited since."""
    revisions = await message_store.revisions_at(session, record.thread_pk, record.thread_version)
    return revisions.get(kept.seq, kept.content)


async def _learn(runtime: Runtime, session: Session, known: Known, reported: ReportedUsage, now: datetime) -> None:
    """What the first report teaches: the model's token estimate, and what the provider's prompt cache holds.

    The echo provider reports predictions, from which nothing is learnt; and from what was counted when the prompt was
    built, the same was learnt then.
    """
    record, facts, tokens = known.prompt, known.plan["rebuild"], reported.input_tokens
    provider, model = facts["provider"], facts["model"]
    if provider != "echo" and tokens > 0 and tokens != facts.get("counted_tokens"):
        seen = [Observation.of(TokenCounts(**facts["counts"]), tokens)]
        await teach_held(session, runtime, provider, model, known.estimate, seen, now)
    if known.lane is not None:
        tail = Tail(**facts["tail"]) if facts["tail"] else None
        sent = known.lane.after_sent(tail, record.built_at.timestamp())
        await prompt_store.save_lane(session, record.thread_pk, record.lane_key, sent, now)
