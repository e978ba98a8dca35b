"""What runs cost over calling the model oneself, and how they do in numbers.

The model is a local server that speaks Anthropic's protocol and answers at once, or slowly. `direct` is the official SDK,
streaming, with the very request of the run; `run` is `POST …/runs` with `stream`, read to its end. Both are timed in turn,
on the same conversation as it grows.

Then many runs at a time, on ten database connections: the model's first word comes after a second, the others slowly, so
that all are under way together. The time to the first piece of text is measured by each client; what the provider itself
took stands beside it, measured by as many direct calls that begin in the same rhythm.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import httpx2
from anthropic import AsyncAnthropic

from bench.report import Report, Row, Section, milliseconds, progress, yardstick
from bench.stack import Stack, running_stack
from tests.providers.scripted import ScriptedProvider, ok, scripted

_MODEL = "claude-sonnet-5"
_REPLY = "That is a long story, and I will gladly tell it: it began with a boat, a rod and a very old dog."
_CONNECTIONS = 10


def run(*, quick: bool) -> Report:
    turns, many, seconds = (6, 12, 3.0) if quick else (200, 200, 20.0)
    gc.freeze()  # of this process's pauses nothing shall be told
    with scripted() as provider:
        env = {
            "ANTHROPIC_API_KEY": "bench",
            "ANTHROPIC_BASE_URL": provider.url,
            "MEMORY_COUNT_TOKENS": "off",
            "MEMORY_DATABASE_CONNECTIONS": str(_CONNECTIONS),
        }
        with running_stack(env) as stack:
            overhead = asyncio.run(_overhead(stack, provider, turns))
            crowd = asyncio.run(_crowd(stack, provider, many, seconds))
    notes = [
        "A run stores the question, builds the prompt, streams through the database, and stores reply and usage.",
        f"Many at a time: {many} runs begin over {seconds / 2:g} s, and each takes at least {seconds:g} s.",
    ]
    return Report(
        "runs", [Section("A turn", overhead), Section("Many at a time, on ten database connections", crowd)], notes
    )


@asynccontextmanager
async def _client(stack: Stack) -> AsyncIterator[httpx2.AsyncClient]:
    limits = httpx2.Limits(max_connections=None)
    url = f"http://{stack.target.host}:{stack.target.port}"
    headers = {"authorization": f"Bearer {stack.key}"}
    async with httpx2.AsyncClient(base_url=url, headers=headers, limits=limits, timeout=300) as client:
        yield client


async def _overhead(stack: Stack, provider: ScriptedProvider, turns: int) -> list[Row]:
    provider.respond = lambda _: ok(_REPLY)
    runs, first_texts, direct, additions = [], [], [], []
    async with _client(stack) as client, AsyncAnthropic(api_key="bench", base_url=provider.url) as model:
        thread = (await client.post("/v1/threads", json={})).json()["id"]
        for turn in range(turns):
            if turn % 20 == 0:
                progress(f"runs: turn {turn} of {turns}")
            first, took = await _run(client, thread, f"And what came after chapter {turn}, in the old story?")
            runs.append(took)
            first_texts.append(first)
            request = {k: v for k, v in provider.asked[-1].body.items() if k != "stream"}
            provider.asked.clear()
            direct.append((await _direct(model, request))[1])
            provider.asked.clear()
            additions.append(yardstick())
    over = [run - alone for run, alone in zip(runs, direct, strict=True)]
    rows = [("direct", direct), ("run, first text", first_texts), ("run, to its end", runs), ("run over direct", over)]
    rows.append(("100,000 additions", additions))
    return [{"what": what, **milliseconds(times)} for what, times in rows]


async def _run(client: httpx2.AsyncClient, thread: str, message: str) -> tuple[float, float]:
    """Seconds to the first piece of text, and to the end."""
    began, first = time.perf_counter(), 0.0
    body = {"model": _MODEL, "message": message, "stream": True}
    async with client.stream("POST", f"/v1/threads/{thread}/runs", json=body) as answer:
        answer.raise_for_status()
        async for line in answer.aiter_lines():
            if line == "event: message.delta" and not first:
                first = time.perf_counter() - began
            if line.startswith("event: run.") and "created" not in line and "completed" not in line:
                raise RuntimeError(f"the run did not complete: {line}")
    return first, time.perf_counter() - began


async def _direct(model: AsyncAnthropic, request: dict[str, Any]) -> tuple[float, float]:
    began, first = time.perf_counter(), 0.0
    async with model.messages.stream(**request) as stream:
        async for _ in stream.text_stream:
            first = first or time.perf_counter() - began
    return first, time.perf_counter() - began


async def _crowd(stack: Stack, provider: ScriptedProvider, many: int, seconds: float) -> list[Row]:
    words = len(_REPLY.split())
    provider.respond = lambda _: replace(ok(_REPLY), delay_seconds=seconds / words)
    request = {"model": _MODEL, "max_tokens": 100, "messages": [{"role": "user", "content": "Hello?"}]}
    async with _client(stack) as client, AsyncAnthropic(api_key="bench", base_url=provider.url, max_retries=0) as model:
        progress(f"runs: {many} direct calls at a time")
        alone = await _staggered(many, seconds / 2, lambda: _direct(model, request))
        created = [await client.post("/v1/threads", json={}) for _ in range(many)]
        threads = iter([answer.json()["id"] for answer in created])
        progress(f"runs: {many} runs at a time")
        crowd = await _staggered(many, seconds / 2, lambda: _run(client, next(threads), "Hello?"))
    rows: list[Row] = []
    for what, found in (("direct", alone), ("run", crowd)):
        times = milliseconds([first for first, _ in found])
        rows.append({"what": what, "completed": len(found), **{f"first_text_{key}": v for key, v in times.items()}})
    rows.append(
        {
            "what": "run over direct",
            "completed": None,
            **{key: round(rows[1][key] - rows[0][key], 1) for key in rows[0] if key.startswith("first_text_")},
        }
    )
    return rows


async def _staggered(
    many: int, seconds: float, call: Callable[[], Awaitable[tuple[float, float]]]
) -> list[tuple[float, float]]:
    async def one(number: int) -> tuple[float, float]:
        await asyncio.sleep(number * seconds / many)
        return await call()

    return list(await asyncio.gather(*(one(number) for number in range(many))))
