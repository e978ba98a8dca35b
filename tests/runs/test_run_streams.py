"""Following a run: every event once and in order, from wherever one begins."""

from __future__ import annotations

import asyncio
import json
from contextlib import nullcontext
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest

from memory_service.api.deps import Context
from memory_service.api.runs import events
from memory_service.config import Settings
from memory_service.services import runs as service
from memory_service.services.execution import Runner
from memory_service.services.lifecycle import OpenDatabase, open_runtime
from tests.providers.scripted import ScriptedProvider, ok, tool_use
from tests.runs.conftest import Runs


def test_the_events_of_a_turn(runs: Runs, provider: ScriptedProvider) -> None:
    provider.script(ok("One two three four five.", delay=0.03))
    with runs.stream("Count?") as stream:
        seen = list(stream)
    ids, types = [id_ for id_, _, _ in seen], [type_ for _, type_, _ in seen]
    assert ids == list(range(1, len(seen) + 1))
    assert types[:2] == ["run.created", "prompt.built"]
    assert types[-2:] == ["message.completed", "run.completed"]
    assert set(types[2:-2]) == {"message.delta"}
    assert "".join(data["text"] for _, type_, data in seen if type_ == "message.delta") == "One two three four five."
    message = seen[-2][2]["message"]
    assert {data["message_id"] for _, type_, data in seen if type_ == "message.delta"} == {message["id"]}
    assert seen[-1][2]["run"]["reply"] == message
    assert seen[1][2]["tokens"]["total"] > 0


def test_taken_up_again_after_each_event(thread: Runs, provider: ScriptedProvider) -> None:
    provider.script(ok("One two three.", delay=0.08))
    with thread.stream() as stream:
        seen = list(stream)
    run = seen[-1][2]["run"]
    assert [event[:2] for event in thread.follow(run)] == [event[:2] for event in seen]
    for at, (id_, _, _) in enumerate(seen[:-1], 1):
        assert [event[:2] for event in thread.follow(run, id_)] == [event[:2] for event in seen[at:]]
    # Nothing is behind the last: it is told once more how it ended.
    assert [type_ for _, type_, _ in thread.follow(run, seen[-1][0])] == ["run.completed"]


def test_a_client_that_leaves_does_not_end_the_run(thread: Runs, provider: ScriptedProvider) -> None:
    provider.script(ok("One two three four five six.", delay=0.1))
    with thread.stream() as stream:
        run = next(stream)[2]["run"]
    ended = thread.until(run, "completed")
    assert ended["reply"]["content"][0]["text"] == "One two three four five six."


def test_a_call_of_a_tool_in_pieces(thread: Runs, provider: ScriptedProvider) -> None:
    provider.script(tool_use("look", {"where": "shed", "n": 1.10}), ok("Found."))
    tools = [{"name": "look", "input_schema": {"type": "object"}}]
    with thread.stream("Look!", tools=tools) as stream:
        seen = list(stream)
    deltas = [data for _, type_, data in seen if type_ == "message.delta"]
    assert (deltas[0]["type"], deltas[0]["name"]) == ("tool_use", "look")
    assert "".join(delta["text"] for delta in deltas[1:]) == '{"where":"shed","n":1.1}'
    assert seen[-1][1] == "run.requires_action"
    run = seen[-1][2]["run"]
    after = thread.answer(run, {deltas[0]["id"]: "a rod"}, wait=True)
    assert after["status"] == "completed"
    again = thread.follow(run)
    assert [type_ for _, type_, _ in again].count("run.requires_action") == 1
    assert again[-1][1] == "run.completed"
    assert [id_ for id_, _, _ in again] == list(range(1, len(again) + 1))


def test_an_id_that_is_none(thread: Runs) -> None:
    run = thread.run(wait=True)
    for bad in ("x", "-1", "99999999999999999999"):
        answer = thread.api.get(f"{thread.path}/runs/{run['id']}?stream=true", headers={"last-event-id": bad})
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_header")


@pytest.mark.parametrize("has_ended", [True, False])
def test_who_is_far_behind_waits_for_no_round(thread: Runs, database_url: str, has_ended: bool) -> None:
    """Of a run that has ended all is read at once; of another, all but the first page."""
    run = thread.run(wait=True)
    with psycopg.connect(database_url, autocommit=True) as owner:
        project_id = lengthened(owner, run, pieces=20)
    assert asyncio.run(heard(database_url, project_id, run, has_ended)) == [1, 2, *range(1001, 1023)]


def lengthened(owner: psycopg.Connection[Any], run: dict[str, Any], pieces: int) -> int:
    """Whose `run` it is, which has said much before it ended: five times what is read at once."""
    found = owner.execute("SELECT pk, project_id FROM memory.runs WHERE id = %s", [run["id"]]).fetchone()
    assert found
    pk, project_id = found
    owner.execute("DELETE FROM memory.run_events WHERE run_pk = %s AND type = 'message.delta'", [pk])
    owner.execute(
        "UPDATE memory.run_events SET seq = 1000 + %s + CASE type WHEN 'message.completed' THEN 1 ELSE 2 END"
        " WHERE run_pk = %s AND type IN ('message.completed', 'run.completed')",
        [pieces, pk],
    )
    owner.execute(
        "INSERT INTO memory.run_events (run_pk, seq, project_id, type, content)"
        " SELECT %s, 1000 + n, %s, 'message.delta', %s FROM generate_series(1, %s) n",
        [pk, project_id, json.dumps({"text": "x" * 50_000}), pieces],
    )
    return int(project_id)


async def heard(database_url: str, project_id: int, run: dict[str, Any], has_ended: bool) -> list[int]:
    """The seqs that a stream tells where no rounds are made; but one that goes on has a first page from a round."""
    runtime = open_runtime(Settings(), OpenDatabase(database_url, embedded=False, described=""))
    try:
        runner = Runner(runtime, nullcontext, lambda: False)
        shown = await service.get(runtime, project_id, run["thread_id"], run["id"], with_reply=False)
        if not has_ended:
            shown = replace(shown, record=replace(shown.record, status="in_progress"))
        stream = events(Context(runtime, runner, project_id, datetime.now(UTC), None), shown, 0)
        rounds = None if has_ended else asyncio.create_task(runner.journal.run())
        first = await anext(stream)
        if rounds:
            rounds.cancel()
        return [event.seq if event else 0 for event in [first, *[event async for event in stream]]]
    finally:
        await runtime.close()
