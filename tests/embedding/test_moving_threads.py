"""Threads that others write while a prompt is planned, which is without a lock: as long as an embedder takes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import nullcontext
from datetime import timedelta
from typing import Any

import pytest

from memory_service.errors import Conflict, NotFound
from memory_service.runtime import Runtime
from memory_service.services import prompts, runs
from memory_service.services.execution import Runner
from memory_service.services.explaining import BuiltPrompt
from memory_service.services.ingest import Draft
from memory_service.services.planning import Known, PromptSpec
from memory_service.services.run_spec import RunSpec
from memory_service.store import messages as message_store
from memory_service.store.threads import ThreadRecord, delete_thread, get_thread
from tests.embedding.conftest import NOW, Home
from tests.embedding.hashing import HashingEmbedder
from tests.embedding.test_queue import TEXTS

Meanwhile = Callable[[ThreadRecord], Awaitable[None]]


SPEC = PromptSpec(model="claude-sonnet-5", max_prompt_tokens=300)


async def build(home: Home, runtime: Runtime, embedder: HashingEmbedder, meanwhile: Meanwhile) -> BuiltPrompt:
    thread = await home.write(runtime, *TEXTS)

    async def before(_texts: Sequence[str]) -> None:
        await meanwhile(thread)

    embedder.before = before
    return await build_of(home, runtime, thread)


async def build_of(home: Home, runtime: Runtime, thread: ThreadRecord, known: Known | None = None) -> BuiltPrompt:
    asked = Draft("user", "Where is the lantern?", "message.", {})
    at = NOW + timedelta(minutes=1)
    return await prompts.build(
        runtime, home.project_id, thread.id, SPEC, asked, at, dry_run=False, call=None, known=known
    )


@pytest.mark.parametrize("writes", [1, 2, 9])
def test_what_is_written_meanwhile_is_in_the_prompt(home: Home, writes: int) -> None:
    """However often that happens: in the end it is planned with the thread held."""
    embedder, written = HashingEmbedder(), 0

    async def use(runtime: Runtime) -> None:
        async def meanwhile(thread: ThreadRecord) -> None:
            nonlocal written
            if written < writes:
                written += 1
                await home.write(runtime, f"Written meanwhile, {written}.", thread=thread)

        built = await build(home, runtime, embedder, meanwhile)
        async with runtime.db.read_only(home.project_id) as session:
            records = await message_store.range_of(session, built_in(home))
        assert [record.seq for record in records] == list(range(1, len(TEXTS) + written + 2))
        assert "Where is the lantern?" in records[-1].content
        assert built.request
        shown = str(built.request["messages"])
        assert all(f"Written meanwhile, {number}." in shown for number in range(1, written + 1))

    home.run(use, embedder)
    assert 0 < written <= writes


def built_in(home: Home) -> int:
    ((pk,),) = home.rows("SELECT thread_pk FROM prompts")
    return int(pk)


def test_a_run_that_begins_meanwhile(home: Home) -> None:
    """The message is refused, as it would have been had the run been there before."""
    embedder = HashingEmbedder()

    async def use(runtime: Runtime) -> None:
        async def meanwhile(thread: ThreadRecord) -> None:
            home.rows("UPDATE threads SET active_run_id = 'run_1' WHERE pk = %s RETURNING pk", thread.pk)

        with pytest.raises(Conflict, match="run_1 is active"):
            await build(home, runtime, embedder, meanwhile)

    home.run(use, embedder)
    assert (home.count("messages"), home.count("prompts")) == (len(TEXTS), 0)


def test_a_thread_that_is_deleted_meanwhile(home: Home) -> None:
    embedder = HashingEmbedder()

    async def use(runtime: Runtime) -> None:
        async def meanwhile(thread: ThreadRecord) -> None:
            async with runtime.db.transaction(home.project_id) as session:
                await delete_thread(session, thread.id)

        with pytest.raises(NotFound):
            await build(home, runtime, embedder, meanwhile)

    home.run(use, embedder)
    assert home.count("prompts") == 0


def test_what_is_known_and_not_so_any_more(home: Home) -> None:
    embedder = HashingEmbedder(inline=True)

    async def use(runtime: Runtime) -> None:
        before = await home.write(runtime, *TEXTS)
        await home.write(runtime, "Written meanwhile.", thread=before)
        built = await build_of(home, runtime, before, Known(before, ({}, None)))
        assert built.request
        assert "Written meanwhile." in str(built.request["messages"])

    home.run(use, embedder)


@pytest.mark.parametrize("message", ["And who found it?", None])
def test_what_a_run_knows_of_its_thread_is_how_the_thread_is(home: Home, message: str | None) -> None:
    """Otherwise every run would plan its prompt twice."""
    begun: list[Known | None] = []

    class Listening(Runner):
        def start(self, *_arguments: Any, **_options: Any) -> None:
            begun.append(_arguments[-1])

    async def use(runtime: Runtime) -> None:
        thread = await home.write(runtime, *TEXTS)
        runner = Listening(runtime, nullcontext, lambda: False)
        draft = Draft("user", message, "message.", {}) if message else None
        spec = RunSpec(SPEC)
        running = asyncio.create_task(runner.run())
        try:
            await runs.create(runtime, runner, home.project_id, thread.id, spec, draft, {}, "refuse", NOW, None)
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
        async with runtime.db.read_only(home.project_id) as session:
            thread = await get_thread(session, thread.id)
        (known,) = begun
        assert known
        assert known.thread == thread

    home.run(use, HashingEmbedder(inline=True))
