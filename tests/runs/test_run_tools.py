"""Runs that wait for tools, and the bounds of a run."""

from __future__ import annotations

from typing import Any

from tests.providers.scripted import ScriptedProvider, blocks, ok, tool_use
from tests.runs.conftest import Runs

TOOLS = [{"name": "look", "description": "Look somewhere.", "input_schema": {"type": "object"}}]


def _two_calls() -> Any:
    return blocks(
        {"type": "text", "text": "Let me look."},
        {"type": "tool_use", "id": "call_a", "name": "look", "input": {"where": "shed"}},
        {"type": "tool_use", "id": "call_b", "name": "look", "input": {"where": "boat"}},
    )


def test_calls_side_by_side(runs: Runs, provider: ScriptedProvider) -> None:
    provider.script(_two_calls(), ok("In the boat."))
    run = runs.run("Where is the rod?", tools=TOOLS, wait=True)
    assert run["status"] == "requires_action"
    assert run["required_action"]["tool_calls"] == [
        {"id": "call_a", "name": "look", "input": {"where": "shed"}},
        {"id": "call_b", "name": "look", "input": {"where": "boat"}},
    ]
    assert run["expires_at"]
    assert runs.ask("GET", runs.path)["active_run_id"] == run["id"]
    ended = runs.answer(run, {"call_a": "nothing", "call_b": "the rod"}, wait=True)
    assert (ended["status"], ended["reply"]["content"][0]["text"]) == ("completed", "In the boat.")
    assert ended["usage"]["calls"] == 2
    assert [m["role"] for m in runs.messages()] == ["user", "assistant", "user", "assistant"]
    assert len(ended["prompt_ids"]) == 2


def test_outputs_that_do_not_fit_the_calls(thread: Runs, provider: ScriptedProvider) -> None:
    provider.script(_two_calls())
    run = thread.run(tools=TOOLS, wait=True)
    for outputs, details in (
        ({"call_a": "x"}, {"field": "tool_outputs", "missing": ["call_b"]}),
        ({"call_a": "x", "call_b": "y", "call_c": "z"}, {"field": "tool_outputs[2].tool_use_id"}),
    ):
        assert thread.answer(run, outputs, status=422)["error"]["details"] == details
        assert thread.get(run)["status"] == "requires_action"
    assert thread.answer(run, {"call_a": "x", "call_b": "y"}, wait=True)["status"] == "completed"
    late = thread.answer(run, {"call_a": "x", "call_b": "y"}, status=409)
    assert late["error"]["code"] == "run_not_waiting"


def test_nobody_answers(thread: Runs, provider: ScriptedProvider) -> None:
    provider.script(_two_calls())
    run = thread.run(tools=TOOLS, wait=True, tool_timeout_seconds=0.1)
    assert thread.until(run, "expired")["required_action"] is None
    results = thread.messages()[-1]["content"]
    assert [(r["tool_use_id"], r["is_error"]) for r in results] == [("call_a", True), ("call_b", True)]
    assert thread.run("Never mind.", tools=TOOLS, wait=True)["status"] == "completed"


def test_cancelled_while_it_waits(thread: Runs, provider: ScriptedProvider) -> None:
    provider.script(_two_calls())
    run = thread.run(tools=TOOLS, wait=True)
    assert thread.cancel(run)["status"] == "cancelled"
    assert thread.cancel(run)["status"] == "cancelled"
    assert thread.run("Never mind.", tools=TOOLS, wait=True)["status"] == "completed"


def test_a_loop_ends_at_the_budget(thread: Runs, provider: ScriptedProvider) -> None:
    provider.respond = lambda asked: tool_use("look", {}, call_id=f"call_{len(provider.asked)}")
    run = thread.run(tools=TOOLS, wait=True, run_budget={"completion_tokens": 3})
    while run["status"] == "requires_action":
        run = thread.answer(run, {call["id"]: "nothing" for call in run["required_action"]["tool_calls"]}, wait=True)
    assert (run["status"], run["incomplete_reason"]) == ("incomplete", "completion_tokens")
    assert 1 < run["usage"]["calls"] <= 3
    assert thread.run("Go on.", wait=True, run_budget={"prompt_tokens": 5})["incomplete_reason"] == "prompt_tokens"
    assert thread.run("Go on.", wait=True, run_budget={"cost_usd": 1e-9})["incomplete_reason"] == "cost_usd"


def test_a_cut_reply_with_calls_leaves_a_thread_that_goes_on(thread: Runs, provider: ScriptedProvider) -> None:
    provider.script(tool_use("look", {}, stop_reason="max_tokens"))
    assert thread.run(tools=TOOLS, wait=True)["status"] == "incomplete"
    assert thread.run("Go on.", wait=True)["status"] == "completed"


def test_a_call_with_an_id_that_was_used(thread: Runs, provider: ScriptedProvider) -> None:
    for _ in range(2):
        provider.script(blocks({"type": "text", "text": "Wait."}, *_two_calls().blocks[1:]), ok())
        run = thread.run(tools=TOOLS, wait=True)
        if run["status"] == "requires_action":
            thread.answer(run, {"call_a": "x", "call_b": "y"}, wait=True)
    assert (run["status"], run["last_error"]["code"]) == ("failed", "duplicate_tool_use")
    assert run["reply"]["content"] == [{"type": "text", "text": "Wait."}]
    assert thread.run("Go on.", wait=True)["status"] == "completed"
