"""Building a prompt with recall, 8,000-token budget, in threads of 400, 10,000 and 100,000 messages.

Every prompt brings a new user message, and its usage is reported with a reply (not timed), as a chat backend does it, so
threads, lanes and windows move as they would. `client` is what the caller waits, `server` the service's own time (its
`server-timing` header), `service cpu` the mean CPU time of its process; the same without recall beside it, and what
memory that process has meanwhile. `steps` is wall time inside `services.prompts.build`, run in this process over the same
database, with a stopwatch around the functions it calls: those that share a round trip each count it. Before that it is
timed without them, in turn as it is and with `dry_run`, which writes nothing, and beside them what 100,000 additions take.
The tables are analysed before, as autovacuum does it within a minute.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from typing import Any

import uvloop

from bench.report import Report, Section, milliseconds, progress, quantile, yardstick
from bench.stack import Api, Stack, running_stack
from bench.texts import generated_texts
from memory_service.core import plan
from memory_service.core.held import HeldVectors
from memory_service.services import explaining, ingest, planning, prompts, recall
from memory_service.store import projects
from memory_service.store import prompts as prompt_store
from memory_service.store import recall as recall_store
from memory_service.store.driver import Connection

_MODEL = "claude-sonnet-5.5"
_LIMIT = 8_000
_BATCH = 1_000
_INSTRUCTIONS = "You are a planning assistant. Answer briefly, and rely on what you were told before. " * 12


@dataclass(frozen=True, slots=True)
class Size:
    messages: int
    prompts: int


def run(*, quick: bool) -> Report:
    sizes = [Size(40, 3), Size(1_000, 3)] if quick else [Size(400, 100), Size(10_000, 100), Size(100_000, 60)]
    rows, memory, alone, steps = [], [], [], []
    with running_stack() as stack:
        api = stack.connect()
        for size in sizes:
            thread_id = _fill(api, size.messages)
            stack.analyse()
            for recall in (True, False):
                progress(f"prompt: {size.prompts} prompts, {size.messages:,} messages, recall {recall}")
                row, resident = _measure(stack, api, thread_id, size, recall=recall)
                rows.append(row)
                memory.append({"messages": size.messages, "recall": recall, **resident})
            progress(f"prompt: {size.prompts} prompts, {size.messages:,} messages, in this process")
            alone += uvloop.run(_build(stack, thread_id, size))
            steps += uvloop.run(_time_steps(stack, thread_id, size))
    notes = [
        f"max_prompt_tokens {_LIMIT}, model {_MODEL}, messages of about 180 characters, a new user message each time.",
        "Every message outside the window is scored; of 16,000 passages and more vectors by their signs first.",
    ]
    sections = [
        Section("Building a prompt", rows),
        Section("Resident memory of the service, MiB", memory),
        Section("In one process, without HTTP", alone),
        Section("Where the time goes", steps),
    ]
    return Report("prompt", sections, notes)


def _fill(api: Api, count: int) -> str:
    thread_id = api.new_thread(instructions=_INSTRUCTIONS)
    texts = generated_texts(count)
    for first in range(0, count, _BATCH):
        if first % 10_000 == 0:
            progress(f"prompt: writing messages {first:,} to {min(first + 10_000, count):,} of {count:,}")
        roles = [("user", "assistant")[i % 2] for i in range(min(_BATCH, count - first))]
        messages = [{"role": role, "content": text} for role, text in zip(roles, texts, strict=False)]
        api.post(f"/v1/threads/{thread_id}/messages", {"messages": messages})
    return thread_id


def _measure(
    stack: Stack, api: Api, thread_id: str, size: Size, *, recall: bool
) -> tuple[dict[str, Any], dict[str, float]]:
    """Times, and the service's memory at the first of the prompts that are timed, in the middle and at the last."""
    client, server, reports, used, resident = [], [], [], [], []
    built: dict[str, Any] = {}
    texts = generated_texts(size.messages + 1)
    for number in range(-2, size.prompts):
        body = {
            "model": _MODEL,
            "max_prompt_tokens": _LIMIT,
            "message": {"role": "user", "content": next(texts)},
            **({} if recall else {"recall": False}),
        }
        cpu_seconds = stack.service_cpu_seconds()
        started = time.perf_counter()
        built, server_ms = api.timed_post(f"/v1/threads/{thread_id}/prompts", body)
        seconds = time.perf_counter() - started
        cpu_seconds = stack.service_cpu_seconds() - cpu_seconds
        report_ms = _report(api, thread_id, built, next(texts))
        if number >= 0:
            client.append(seconds)
            server.append(server_ms / 1000)
            reports.append(report_ms / 1000)
            used.append(cpu_seconds)
            resident.append(round(stack.service_rss_mib(), 1))
    at_server = milliseconds(server)
    row = {
        "messages": size.messages,
        "recall": recall,
        **{f"client_{name}": value for name, value in milliseconds(client).items()},
        **{f"server_{name}": value for name, value in at_server.items()},
        "service_cpu_ms": round(sum(used) / len(used) * 1000, 2),
        "usage_report_p50_ms": milliseconds(reports)["p50_ms"],
        "prompt_tokens": built["tokens"]["total"],
        "recalled": len(built["recalled"]),
        "prompts": size.prompts,
    }
    return row, {"first": resident[0], "middle": resident[len(resident) // 2], "last": resident[-1]}


def _report(api: Api, thread_id: str, built: dict[str, Any], reply: str) -> float:
    # A tokenizer of four characters a token: the service's estimate learns it.
    usage = {"input_tokens": len(json.dumps(built["request"])) // 4, "output_tokens": 40}
    body = {"usage": usage, "message": {"content": reply}}
    return api.timed_post(f"/v1/threads/{thread_id}/prompts/{built['id']}/usage", body)[1]


_STEPS: list[tuple[str, Any, str]] = [
    ("check and count the message", ingest, "prepare"),
    ("read the thread", prompts, "get_thread"),
    ("read lanes and estimate", prompt_store, "get_learnt"),
    ("read the window, where it is new", planning, "read_newest"),
    ("plan the window", plan, "plan_window"),
    ("read what recall holds, where it is new", recall, "hold"),
    ("embed the question", prompts, "ask"),
    ("weigh the words", recall, "weigh_words"),
    ("compare the vectors", HeldVectors, "similarity"),
    ("compare the likeliest exactly", recall._Comparison, "refined"),
    ("rank", recall, "best"),
    ("read what was found", recall_store, "said_at"),
    ("pack what was found", planning, "pack"),
    ("assemble", plan, "assemble"),
    ("render the request", explaining, "to_request"),
    ("append the message", ingest, "append"),
    ("store the prompt", prompt_store, "add_prompt"),
    ("store the lane", prompt_store, "save_lane"),
    ("wait for Postgres, in some of these", Connection, "wait"),
]


@asynccontextmanager
async def _builder(stack: Stack, thread_id: str) -> AsyncIterator[Callable[..., Awaitable[tuple[float, float]]]]:
    """Builds a prompt for a text; wall and CPU seconds."""
    runtime = stack.open_runtime()
    spec = planning.PromptSpec(model=_MODEL, max_prompt_tokens=_LIMIT)

    async def build(text: str, *, dry_run: bool) -> tuple[float, float]:
        message = ingest.Draft("user", text, "message.", {})
        wall, cpu = time.perf_counter(), time.process_time()
        await prompts.build(
            runtime, key.project_id, thread_id, spec, message, datetime.now(UTC), dry_run=dry_run, call=None
        )
        return time.perf_counter() - wall, time.process_time() - cpu

    try:
        key = await projects.authenticate(runtime.db, stack.key)
        assert key is not None
        yield build
    finally:
        await runtime.close()


async def _build(stack: Stack, thread_id: str, size: Size) -> list[dict[str, Any]]:
    texts = islice(generated_texts(size.messages + 3), 2 * size.prompts + 4)
    seen: dict[str, list[tuple[float, float]]] = {"dry_run": [], "appended and stored": [], "100,000 additions": []}
    async with _builder(stack, thread_id) as build:
        for number, text in enumerate(texts):
            dry_run = number % 2 == 0
            seen["dry_run" if dry_run else "appended and stored"].append(await build(text, dry_run=dry_run))
            seen["100,000 additions"].append((seconds := yardstick(), seconds))
    return [
        {
            "messages": size.messages,
            "what": what,
            **milliseconds([wall for wall, _ in times[2:]]),
            "cpu_p50_ms": round(quantile([cpu for _, cpu in times[2:]], 0.5) * 1000, 2),
        }
        for what, times in seen.items()
    ]


async def _time_steps(stack: Stack, thread_id: str, size: Size) -> list[dict[str, Any]]:
    texts = list(islice(generated_texts(size.messages + 2), size.prompts + 2))
    seen: list[dict[str, float]] = []
    async with _builder(stack, thread_id) as build:
        with _stopwatches() as spent:
            for text in texts:
                spent.clear()
                took, _ = await build(text, dry_run=False)
                seen.append({**spent, "in all": took})
    names = [name for name, _, _ in _STEPS]
    return [
        {
            "messages": size.messages,
            "step": name,
            "p50_ms": round(quantile([one.get(name, 0.0) for one in seen[2:]], 0.5) * 1000, 2),
        }
        for name in [*names, "in all"]
    ]


@contextmanager
def _stopwatches() -> Iterator[dict[str, float]]:
    """Add up the wall time of each step."""
    spent: dict[str, float] = {}
    originals = [(module, name, getattr(module, name)) for _, module, name in _STEPS]
    for (label, module, name), (_, _, function) in zip(_STEPS, originals, strict=True):
        setattr(module, name, _timed(function, label, spent))
    try:
        yield spent
    finally:
        for module, name, function in originals:
            setattr(module, name, function)


def _timed(function: Callable[..., Any], label: str, spent: dict[str, float]) -> Callable[..., Any]:
    def add(started: float) -> None:
        spent[label] = spent.get(label, 0.0) + time.perf_counter() - started

    async def awaited(result: Awaitable[Any], started: float) -> Any:
        try:
            return await result
        finally:
            add(started)

    def call(*args: Any, **kwargs: Any) -> Any:
        started = time.perf_counter()
        result = function(*args, **kwargs)
        if asyncio.iscoroutine(result):
            return awaited(result, started)
        add(started)
        return result

    return call
