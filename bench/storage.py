"""Bytes on disk for a byte of text: growth of `pg_total_relation_size` (rows, indexes, TOAST) over the UTF-8 bytes of the
messages' text, after the LoCoMo conversations (generated text where they are absent) were appended message by message.

Three runs, each in threads of its own: without an Idempotency-Key; with one, as the Python client sends (the records
are deleted after 24 hours); and with a prompt built and its usage reported for every user message.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import psycopg

from bench.report import Report, Section, progress
from bench.stack import Api, Stack, running_stack
from bench.texts import generated_conversation, locomo
from memory_service.demo.conversation import Conversation

_MODEL = "claude-sonnet-5.5"
_LIMIT = 8_000


def run(*, quick: bool) -> Report:
    everything = [generated_conversation(60)] if quick else locomo() or [generated_conversation(4_000)]
    some = everything[: 1 if quick else 2]
    with running_stack() as stack:
        plain = _growth(stack, "messages only", everything, _append)
        repeatable = _growth(stack, "messages, with Idempotency-Key", everything, _append_repeatably)
        prompted = _growth(stack, "messages, and a prompt for each turn", some, _append_with_prompts)
    runs = [plain, repeatable, prompted]
    tables = sorted({name for one in runs for name in one["tables"]})
    by_table = [
        {"table": name, **{one["run"]: round(one["tables"].get(name, 0) / one["text_bytes"], 2) for one in runs}}
        for name in tables
    ]
    totals = [
        {
            "run": one["run"],
            "messages": one["messages"],
            "text_bytes": one["text_bytes"],
            "stored_bytes": sum(one["tables"].values()),
            "ratio": round(sum(one["tables"].values()) / one["text_bytes"], 2),
            "bytes_per_message": round(sum(one["tables"].values()) / one["messages"]),
        }
        for one in runs
    ]
    source = "LoCoMo" if locomo() and not quick else "generated"
    notes = [f"{source} text, {totals[0]['text_bytes'] // totals[0]['messages']} bytes a message."]
    return Report(
        "storage", [Section("Stored bytes for a byte of text", totals), Section("The same by table", by_table)], notes
    )


def _growth(stack: Stack, name: str, conversations: Sequence[Conversation], play: Any) -> dict[str, Any]:
    before = _sizes(stack)
    api = stack.connect()
    for conversation in conversations:
        progress(f"storage: {name}: {conversation.title}, {len(conversation.lines)} messages")
        play(api, conversation)
    api.close()
    after = _sizes(stack)
    lines = [line for conversation in conversations for line in conversation.lines]
    return {
        "run": name,
        "messages": len(lines),
        "text_bytes": sum(len(str(line.content).encode()) for line in lines),
        "tables": {table: size - before[table] for table, size in after.items() if size > before[table]},
    }


def _sizes(stack: Stack) -> dict[str, int]:
    stack.analyse()
    with psycopg.connect(stack.postgres.uri) as connection:
        rows = connection.execute(
            "SELECT relname, pg_total_relation_size(oid) FROM pg_class"
            " WHERE relnamespace = 'memory'::regnamespace AND relkind = 'r'"
        ).fetchall()
    return {str(name): int(size) for name, size in rows}


def _append(api: Api, conversation: Conversation) -> None:
    path = f"/v1/threads/{api.new_thread()}/messages"
    for line in conversation.lines:
        api.post(path, {"role": line.role, "content": line.content})


def _append_repeatably(api: Api, conversation: Conversation) -> None:
    thread_id = api.new_thread()
    for number, line in enumerate(conversation.lines):
        body = {"role": line.role, "content": line.content}
        api.post(f"/v1/threads/{thread_id}/messages", body, idempotency_key=f"{thread_id}-{number:036}")


def _append_with_prompts(api: Api, conversation: Conversation) -> None:
    path = f"/v1/threads/{api.new_thread()}"
    prompt: dict[str, Any] | None = None
    for line in conversation.lines:
        message = {"role": line.role, "content": line.content}
        if line.role == "user":
            prompt = api.post(f"{path}/prompts", {"model": _MODEL, "max_prompt_tokens": _LIMIT, "message": message})
        elif prompt is not None:
            usage = {"input_tokens": prompt["tokens"]["total"] * 4 // 5, "output_tokens": 40}
            api.post(f"{path}/prompts/{prompt['id']}/usage", {"usage": usage, "message": {"content": line.content}})
            prompt = None
        else:
            api.post(f"{path}/messages", message)
