"""What a provider reported for a prompt: its usage, once, and the reply, once."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from memory_service.core.canonical import dumps, loads
from memory_service.core.lane import Tail
from memory_service.core.tokens import Observation, TokenCounts
from memory_service.core.usage import ReportedUsage, check_form
from memory_service.errors import Conflict
from memory_service.runtime import Runtime
from memory_service.services import ingest, ledger
from memory_service.services.estimates import teach
from memory_service.services.explaining import BuiltPrompt, breakpoint_ttl
from memory_service.services.ledger import PaidCall
from memory_service.services.rebuilding import show_stored
from memory_service.store import messages as message_store
from memory_service.store import prompts as prompt_store
from memory_service.store.db import Session
from memory_service.store.messages import MessageRecord, NewMessage
from memory_service.store.prompts import PromptRecord
from memory_service.store.threads import ThreadRecord, bump_version


@dataclass(frozen=True, slots=True)
class Reported:
    """A prompt as it is reported, and the reply that was."""

    thread_id: str
    record: PromptRecord
    reply: MessageRecord | None

    @property
    def prompt(self) -> BuiltPrompt:
        return show_stored(self.thread_id, self.record)


async def report(
    runtime: Runtime,
    session: Session,
    thread: ThreadRecord,
    record: PromptRecord,
    usage: Mapping[str, Any],
    reply: NewMessage | None,
    now: datetime,
    *,
    run_id: str | None = None,
    diagnostics: Mapping[str, Any] | None = None,
) -> Reported:
    """Take what the provider reported for a prompt of a thread whose row this transaction holds: mark it sent, append the
    reply, write the ledger, teach the token estimate. `diagnostics` is what the provider said of its prompt cache; it is
    kept in the usage, as `diagnostics`.

    The same report again changes nothing, except that a reply may still come when none came before; another usage or
    another reply is a Conflict. A reply is never refused for being late: it was paid for, and stands where it arrived.
    Raises InvalidInput, InvalidMessage.
    """
    reported = ReportedUsage.parse(usage)
    if diagnostics is not None:
        usage = {**usage, "diagnostics": diagnostics}
    plan = json.loads(record.plan)
    check_form(usage, plan["provider"])
    kept = await _reply_of(session, record)
    if record.usage is not None:
        await _check_same(session, record, usage, kept, reply)
    appended = reply is not None and record.reply_seq is None
    if reply is not None and appended:
        (kept,) = await ingest.append(session, thread, [reply], ["message."])
    if record.usage is None:
        record = await prompt_store.mark_sent(session, record, dumps(usage), kept.seq if kept else None, now)
        await ledger.record(session, runtime, thread, _paid_call(record.id, plan, usage, run_id), now)
        await _learn(session, runtime, thread, record, plan["rebuild"], reported, now)
        if not appended:
            await bump_version(session, thread.pk)
    elif kept and appended:
        record = await prompt_store.set_reply(session, record, kept.seq)
    return Reported(thread.id, record, kept)


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


async def _learn(
    session: Session,
    runtime: Runtime,
    thread: ThreadRecord,
    record: PromptRecord,
    facts: Mapping[str, Any],
    reported: ReportedUsage,
    now: datetime,
) -> None:
    """What the first report teaches: the model's token estimate, and what the provider's prompt cache holds."""
    reading = prompt_store.get_lane(session, thread.pk, record.lane_key)
    teaching = _teach_estimate(session, runtime, facts, reported, now)
    lane, _ = await session.together(asyncio.gather(reading, teaching))
    if lane is not None:
        sent = lane.after_sent(Tail(**facts["tail"]) if facts["tail"] else None, record.built_at.timestamp())
        await prompt_store.save_lane(session, thread.pk, record.lane_key, sent, now)


async def _teach_estimate(
    session: Session, runtime: Runtime, facts: Mapping[str, Any], reported: ReportedUsage, now: datetime
) -> None:
    """The echo provider reports predictions, from which nothing is learnt; and from what was counted when the prompt was
    built, the same was learnt then.
    """
    provider, name = facts["provider"], facts["model"]
    tokens = reported.input_tokens
    if provider == "echo" or tokens <= 0 or tokens == facts.get("counted_tokens"):
        return
    await teach(session, runtime, provider, name, [Observation(TokenCounts(**facts["counts"]), tokens)], now)
