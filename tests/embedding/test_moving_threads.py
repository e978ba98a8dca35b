"""Threads that others write while a prompt is planned, which is without a lock: as long as an embedder takes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import pytest

from memory_service.errors import Conflict, NotFound
from memory_service.runtime import Runtime
from memory_service.services import prompts, rebuilding, runs
from memory_service.services.explaining import BuiltPrompt
from memory_service.services.ingest import Draft
from memory_service.services.run_spec import RunSpec
from memory_service.store import messages as message_store
from memory_service.store import prompts as prompt_store
from memory_service.store.threads import ThreadRecord, delete_thread, get_thread
from tests.embedding.conftest import Home
from tests.embedding.hashing import HashingEmbedder
from tests.embedding.running import ASKED, AT, SPEC, Server, run_of
from tests.embedding.test_queue import TEXTS

Meanwhile = Callable[[ThreadRecord], Awaitable[None]]


async def build(home: Home, runtime: Runtime, embedder: HashingEmbedder, meanwhile: Meanwhile) -> BuiltPrompt:
    thread = await home.write(runtime, *TEXTS)

    async def before(_texts: Sequence[str]) -> None:
        await meanwhile(thread)

    embedder.before = before
    asked = Draft("user", ASKED, "message.", {})
    return await prompts.build(runtime, home.project_id, thread.id, SPEC, asked, AT, dry_run=False, call=None)


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
        assert ASKED in records[-1].content
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


@pytest.mark.parametrize("message", [ASKED, None])
def test_a_run_is_stored_with_its_prompt(home: Home, message: str | None) -> None:
    """In one transaction, and as a prompt that is built when the run has begun."""
    embedder = HashingEmbedder(inline=True)

    async def use(runtime: Runtime) -> None:
        thread, same = await home.write(runtime, *TEXTS), await home.write(runtime, *TEXTS)
        run, left = await run_of(home, runtime, thread, message)
        assert left
        prompt = left.shown
        assert prompt.id
        assert [(event.seq, event.type) for event in run.begun] == [(1, "run.created"), (2, "prompt.built")]
        assert home.rows("SELECT seq, type, content FROM run_events ORDER BY seq") == [
            (event.seq, event.type, event.content) for event in run.begun
        ]
        assert prompt.id in run.begun[1].content
        rebuilt = await rebuilding.get(runtime, home.project_id, thread.id, prompt.id)
        assert (rebuilt.request, rebuilt.explanation) == (prompt.request, prompt.explanation)
        if message:
            await home.write(runtime, message, thread=same)
        built = await prompts.build(runtime, home.project_id, same.id, SPEC, None, AT, dry_run=False, call=None)
        assert built.request == prompt.request
        async with runtime.db.read_only(home.project_id) as session:
            assert left.thread == await get_thread(session, thread.id)
            assert left.prompt == await prompt_store.get_prompt(session, thread.pk, prompt.id)
            assert left.lane == await prompt_store.lane_of(session, prompt.id)
            assert left.thread.version == left.prompt.thread_version == (await get_thread(session, same.id)).version
        assert left.thread.active_run_id == run.record.id

    home.run(use, embedder)


@pytest.mark.parametrize("moves", [False, True])
def test_a_run_that_is_started_as_openai_does(home: Home, moves: bool) -> None:
    embedder = HashingEmbedder(inline=True)

    async def use(runtime: Runtime) -> None:
        thread, server = await home.write(runtime, *TEXTS), Server(runtime)

        async def meanwhile() -> None:
            if moves:
                await home.write(runtime, "Written meanwhile.", thread=thread)

        _once_asked(embedder, meanwhile)
        draft, spec = Draft("user", ASKED, "additional_messages[0].", {}), RunSpec(SPEC)
        run = await runs.start(runtime, server, home.project_id, thread.id, spec, [draft], {}, AT, None)
        (left,) = server.begun
        assert bool(left) != moves
        assert len(run.begun) == 2 - moves

    home.run(use, embedder)
    assert home.count("messages") == len(TEXTS) + 1 + moves
    assert (home.count("runs"), home.count("prompts")) == (1, 1 - moves)


@pytest.mark.parametrize("writes", ["message", "prompt"])
def test_a_thread_that_moves_while_a_run_is_planned(home: Home, writes: str) -> None:
    """What is written stands before the run's message, and the run plans its prompt when it has begun."""
    embedder = HashingEmbedder(inline=True)

    async def use(runtime: Runtime) -> None:
        thread = await home.write(runtime, *TEXTS)

        async def meanwhile() -> None:
            if writes == "message":
                await home.write(runtime, "Written meanwhile.", thread=thread)
            else:
                await prompts.build(runtime, home.project_id, thread.id, SPEC, None, AT, dry_run=False, call=None)

        _once_asked(embedder, meanwhile)
        _, left = await run_of(home, runtime, thread)
        assert left is None
        async with runtime.db.read_only(home.project_id) as session:
            records = await message_store.range_of(session, thread.pk, first_seq=len(TEXTS) + 1)
        written = ["Written meanwhile."] if writes == "message" else []
        assert [said for record in records for said in (*written, ASKED) if said in record.content] == [*written, ASKED]

    home.run(use, embedder)
    assert home.count("prompts") == (writes == "prompt")
    assert home.rows("SELECT type FROM run_events") == [("run.created",)]


def test_a_run_that_begins_while_another_is_planned(home: Home) -> None:
    embedder = HashingEmbedder(inline=True)

    async def use(runtime: Runtime) -> None:
        thread = await home.write(runtime, *TEXTS)

        async def meanwhile() -> None:
            home.rows("UPDATE threads SET active_run_id = 'run_1' WHERE pk = %s RETURNING pk", thread.pk)

        _once_asked(embedder, meanwhile)
        with pytest.raises(Conflict, match="run_1 is active"):
            await run_of(home, runtime, thread)

    home.run(use, embedder)
    assert (home.count("messages"), home.count("prompts"), home.count("runs")) == (len(TEXTS), 0, 0)


def test_a_run_whose_question_is_embedded_elsewhere(home: Home) -> None:
    """It begins, and then waits for whoever embeds."""

    async def use(runtime: Runtime) -> None:
        _, left = await run_of(home, runtime, await home.write(runtime, *TEXTS))
        assert left is None

    home.run(use, HashingEmbedder(inline=False))
    assert home.count("prompts") == 0


def test_which_embedder_is_active_is_read_beside_the_requests(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who asks may have the last connection that there is for them."""
    monkeypatch.setenv("MEMORY_DATABASE_CONNECTIONS", "1")
    embedder = HashingEmbedder(inline=True)

    async def use(runtime: Runtime) -> None:
        async def meanwhile(_thread: ThreadRecord) -> None:
            runtime.embedders._read_at -= 60  # the message took long

        await build(home, runtime, embedder, meanwhile)

    home.run(use, embedder)
    assert home.count("prompts") == 1


def _once_asked(embedder: HashingEmbedder, meanwhile: Callable[[], Awaitable[object]]) -> None:
    """When the question is looked for: the thread was read, and nothing is held. Before that, the message is embedded."""
    calls = 0

    async def before(_texts: Sequence[str]) -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            embedder.before = None
            await meanwhile()

    embedder.before = before
