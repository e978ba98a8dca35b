"""The end of a run is written on what its beginning left, in one round trip, if that is still so."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest

from memory_service.core.tokens import Observation, TokenCounts
from memory_service.runtime import Runtime
from memory_service.services import prompts
from memory_service.services.calling import Left
from memory_service.services.estimates import teach
from memory_service.services.lifecycle import create_key
from memory_service.services.runs import ShownRun
from memory_service.store import prompts as prompt_store
from memory_service.store import threads as thread_store
from memory_service.store.projects import authenticate
from memory_service.store.threads import ThreadRecord, delete_thread
from tests.embedding.conftest import NOW, Home
from tests.embedding.hashing import HashingEmbedder
from tests.embedding.running import AT, SPEC, Server, end_of, job_of, run_of
from tests.embedding.test_queue import TEXTS

MODEL = ("anthropic", "claude-sonnet-5")
LATER = AT + timedelta(seconds=1)


async def turn(home: Home, runtime: Runtime, thread: ThreadRecord, *, known: bool = True) -> None:
    server = Server(runtime)
    run, left = await run_of(home, runtime, thread, server=server)
    assert left
    assert await end_of(runtime, server, job_of(home, server, run, left, known=known))


def test_it_is_the_same_as_if_all_were_read(home: Home) -> None:
    """After three turns, in two projects. The first end in a process reads what was learnt of the model all the same."""

    async def use(runtime: Runtime) -> None:
        other = Home(home.url, "", 0)
        _, other.key = await create_key(home.url, "q", "k", NOW)
        found = await authenticate(runtime.db, other.key)
        assert found
        other.project_id = found.project_id
        for project, known in ((home, True), (other, False)):
            thread = await project.write(runtime, *TEXTS)
            for _ in range(3):
                await turn(project, runtime, thread, known=known)

    home.run(use, HashingEmbedder(inline=True))
    for query in (
        "SELECT version, last_seq, message_count, last_role, active_run_id FROM threads",
        "SELECT seq, role, content, status FROM messages",
        "SELECT status, thread_version, plan, volatile, recalled_seqs, usage, reply_seq, sent_at FROM prompts",
        "SELECT key, state, updated_at FROM lanes",
        "SELECT state, updated_at FROM token_estimates",
        "SELECT kind, called_at, cache_read_tokens, uncached_tokens, cost_usd, miss_reason FROM usage_entries",
        "SELECT status, provider_reply_id, cardinality(prompt_ids), cardinality(message_ids) FROM runs",
        "SELECT seq, type FROM run_events",
    ):
        known, read = ([_without_ids(row) for row in _of_project(home, query, nth)] for nth in (0, 1))
        assert known
        assert known == read


def _of_project(home: Home, query: str, nth: int) -> list[Any]:
    of = "project_id = (SELECT pk FROM projects ORDER BY pk LIMIT 1 OFFSET %s)"
    return home.rows(f"{query} WHERE {of} ORDER BY 1, 2", nth)


def _without_ids(row: Any) -> str:
    return re.sub(r"(prompt|msg|run|thread|usr|user)_[0-9a-z]{20,}", r"\1", str(row))


def test_what_is_known_is_not_read(home: Home) -> None:
    """Of the second end on: what the first left of the model's tokens is known then."""

    async def use(runtime: Runtime) -> None:
        thread, server = await home.write(runtime, *TEXTS), Server(runtime)
        await turn(home, runtime, thread)
        run, left = await run_of(home, runtime, thread, server=server)
        assert left
        home.rows("UPDATE prompts SET plan = 'unreadable' WHERE id = %s RETURNING 1", left.prompt.id)
        assert await end_of(runtime, server, job_of(home, server, run, left))

    home.run(use, HashingEmbedder(inline=True))


Meanwhile = Callable[[Home, Runtime, ThreadRecord, ShownRun], Awaitable[object]]


async def _another_prompt(home: Home, runtime: Runtime, thread: ThreadRecord, _run: ShownRun) -> None:
    await prompts.build(runtime, home.project_id, thread.id, SPEC, None, LATER, dry_run=False, call=None)


async def _renamed(home: Home, runtime: Runtime, thread: ThreadRecord, _run: ShownRun) -> None:
    async with runtime.db.transaction(home.project_id) as session:
        await thread_store.update_thread(session, thread.pk, fields={"user_id": "bob"}, metadata={})


@pytest.mark.parametrize("meanwhile", [_another_prompt, _renamed])
def test_a_thread_that_moved_meanwhile(home: Home, meanwhile: Meanwhile) -> None:
    async def use(runtime: Runtime) -> None:
        server, thread, run, left = await _second_turn(home, runtime)
        await meanwhile(home, runtime, thread, run)
        assert await end_of(runtime, server, job_of(home, server, run, left))

    home.run(use, HashingEmbedder(inline=True))
    assert home.rows("SELECT status FROM runs ORDER BY pk") == [("completed",)] * 2
    assert home.rows("SELECT count(*) FROM messages WHERE role = 'assistant'") == [(2,)]
    assert home.rows("SELECT user_id FROM usage_entries ORDER BY pk")[-1] == (
        ("bob",) if meanwhile is _renamed else ("ada",)
    )
    last_at = LATER if meanwhile is _another_prompt else AT
    assert home.rows("SELECT (state::json ->> 'last_at')::float FROM lanes") == [(last_at.timestamp(),)]


async def _second_turn(home: Home, runtime: Runtime) -> tuple[Server, ThreadRecord, ShownRun, Left]:
    """Under way. Its end need read nothing."""
    thread, server = await home.write(runtime, *TEXTS), Server(runtime)
    await turn(home, runtime, thread)
    run, left = await run_of(home, runtime, thread, server=server)
    assert left
    assert runtime.estimates.find(home.project_id, *MODEL)
    return server, thread, run, left


def test_what_another_process_learns_meanwhile(home: Home) -> None:
    """Stays learnt; and where others write, what is learnt is read, until nobody else does."""

    async def use(runtime: Runtime) -> None:
        another = home.runtime(HashingEmbedder(inline=True))
        server, thread, run, left = await _second_turn(home, runtime)
        async with another.db.transaction(home.project_id) as session:
            counts = TokenCounts(messages=3, latin=30, text_bytes=120)
            await teach(session, another, *MODEL, [Observation.of(counts, 45)], AT)
        await another.close()
        assert await end_of(runtime, server, job_of(home, server, run, left))
        assert runtime.estimates.find(home.project_id, *MODEL) is None
        await turn(home, runtime, thread)
        async with runtime.db.read_only(home.project_id) as session:
            learnt = await prompt_store.get_estimate(session, *MODEL)
        assert learnt
        assert learnt.observations == 4
        assert runtime.estimates.find(home.project_id, *MODEL) == learnt

    home.run(use, HashingEmbedder(inline=True))


def test_a_run_that_is_cancelled_meanwhile_waits_for_no_tools(home: Home) -> None:
    async def use(runtime: Runtime) -> None:
        server, _, run, left = await _second_turn(home, runtime)
        home.rows("UPDATE runs SET status = 'cancelling' WHERE pk = %s RETURNING 1", run.record.pk)
        call = {"type": "tool_use", "id": "call_1", "name": "look", "input": {}}
        assert await end_of(runtime, server, job_of(home, server, run, left), "requires_action", **call)

    home.run(use, HashingEmbedder(inline=True))
    assert home.rows("SELECT status FROM runs ORDER BY pk")[-1] == ("cancelled",)


@pytest.mark.parametrize("owner", ["NULL", "gen_random_uuid()"])
def test_a_run_that_is_another_servers_by_then(home: Home, owner: str) -> None:
    async def use(runtime: Runtime) -> None:
        server, _, run, left = await _second_turn(home, runtime)
        home.rows(f"UPDATE runs SET owner = {owner} WHERE pk = %s RETURNING 1", run.record.pk)
        assert await end_of(runtime, server, job_of(home, server, run, left)) is None

    home.run(use, HashingEmbedder(inline=True))
    assert home.rows("SELECT status FROM runs ORDER BY pk")[-1] == ("in_progress",)
    assert home.rows("SELECT count(*) FROM messages WHERE role = 'assistant'") == [(1,)]


def test_a_thread_that_is_deleted_and_an_end_that_was_written(home: Home) -> None:
    """Whose answer was not heard, say."""

    async def use(runtime: Runtime) -> None:
        server, thread, run, left = await _second_turn(home, runtime)
        job = job_of(home, server, run, left)
        assert await end_of(runtime, server, job)
        assert await end_of(runtime, server, job) is None
        assert home.rows("SELECT count(*) FROM messages WHERE role = 'assistant'") == [(2,)]
        run, again = await run_of(home, runtime, thread, server=server)
        assert again
        async with runtime.db.transaction(home.project_id) as session:
            await delete_thread(session, thread.id)
        assert await end_of(runtime, server, job_of(home, server, run, again)) is None

    home.run(use, HashingEmbedder(inline=True))
    assert home.rows("SELECT count(*) FROM usage_entries") == [(2,)]
