"""Following a run: every event once and in order, from wherever one begins."""

from __future__ import annotations

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
