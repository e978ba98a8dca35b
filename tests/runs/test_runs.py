"""Runs that go well: what is asked, kept, reported and shown."""

from __future__ import annotations

from typing import Any

import httpx2
import pytest

from tests.providers.scripted import ScriptedProvider, blocks, ok
from tests.runs.conftest import Runs


def test_a_turn(runs: Runs, provider: ScriptedProvider) -> None:
    provider.script(ok("The shed is behind the house."))
    run = runs.run("Where is the shed?", wait=True, max_output_tokens=50, parameters={"temperature": 0.5})
    assert (run["status"], run["last_error"], run["incomplete_reason"]) == ("completed", None, None)
    assert run["reply"]["content"] == [{"type": "text", "text": "The shed is behind the house."}]
    assert run["reply"]["run_id"] == run["id"]
    assert run["message_ids"] == [run["reply"]["id"]]
    assert runs.texts() == [
        ("user", "Where is the shed?", "completed"),
        ("assistant", "The shed is behind the house.", "completed"),
    ]
    assert provider.asked[0].body["temperature"] == 0.5
    assert run["usage"]["calls"] == 1
    assert run["usage"]["prompt_tokens"] == 10
    assert run["usage"]["output_tokens"] > 0
    assert run["usage"]["cost_usd"] > 0
    (prompt_id,) = run["prompt_ids"]
    prompt = runs.ask("GET", f"{runs.path}/prompts/{prompt_id}")
    assert (prompt["status"], prompt["reported"]["uncached_tokens"]) == ("sent", 10)
    assert runs.ask("GET", runs.path)["active_run_id"] is None


def test_a_run_is_answered_at_once_and_read_until_it_ends(thread: Runs, provider: ScriptedProvider) -> None:
    provider.script(ok("Slowly, slowly.", delay=0.05))
    run = thread.run()
    assert (run["status"], run["reply"]) == ("in_progress", None)
    assert thread.ask("GET", thread.path)["active_run_id"] == run["id"]
    ended = thread.until(run, "completed")
    assert ended["reply"]["content"][0]["text"] == "Slowly, slowly."
    assert [r["id"] for r in thread.ask("GET", f"{thread.path}/runs")["data"]] == [run["id"]]


def test_the_second_turn_extends_the_first(runs: Runs, provider: ScriptedProvider) -> None:
    runs.run("One?", wait=True)
    runs.run("Two?", wait=True)
    first, second = (asked.body["messages"] for asked in provider.asked)
    assert len(second) == len(first) + 2
    texts = str(second)
    assert texts.index("One?") < texts.index("Hello there.") < texts.index("Two?")


def test_thinking_is_kept_as_it_came(thread: Runs, provider: ScriptedProvider) -> None:
    thought = {"type": "thinking", "thinking": "Let me see.", "signature": "sig=="}
    provider.script(blocks(thought, {"type": "text", "text": "Yes."}))
    run = thread.run(wait=True)
    assert run["reply"]["content"] == [thought, {"type": "text", "text": "Yes."}]


def test_an_answer_with_nothing_in_it(thread: Runs, provider: ScriptedProvider) -> None:
    provider.script(blocks())
    run = thread.run(wait=True)
    assert (run["status"], run["reply"], run["message_ids"]) == ("completed", None, [])
    assert thread.run("Are you there?", wait=True)["status"] == "completed"


def test_an_answer_that_was_cut(runs: Runs, provider: ScriptedProvider) -> None:
    provider.script(ok("It all began when", stop_reason="max_tokens"))
    run = runs.run(wait=True)
    assert (run["status"], run["incomplete_reason"]) == ("incomplete", "max_output_tokens")
    assert run["reply"]["status"] == "incomplete"


def test_a_run_on_a_thread_that_has_its_question(thread: Runs, provider: ScriptedProvider) -> None:
    thread.ask("POST", f"{thread.path}/messages", {"role": "user", "content": "Well?"})
    assert thread.run(None, wait=True)["status"] == "completed"
    refused = thread.run(None, status=422)["error"]
    assert refused["code"] == "no_user_message"
    assert len(provider.asked) == 1


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"message": "Hi"}, "model"),
        ({"model": "claude-sonnet-5", "message": "Hi", "stream": True, "wait": True}, "body"),
        ({"model": "claude-sonnet-5", "message": "Hi", "parameters": {"max_tokens": 5}}, "parameters.max_tokens"),
        ({"model": "claude-sonnet-5", "message": "Hi", "run_budget": {"cost_usd": 0}}, "run_budget.cost_usd"),
        ({"model": "claude-sonnet-5", "message": "Hi", "on_busy": "wait"}, "on_busy"),
        ({"model": "claude-sonnet-5", "message": "Hi", "timeout_seconds": -1}, "timeout_seconds"),
        ({"model": "claude-sonnet-5", "message": {"role": "assistant", "content": "Hi"}}, "message.role"),
    ],
)
def test_what_is_refused(thread: Runs, provider: ScriptedProvider, body: Any, field: str) -> None:
    refused = thread.ask("POST", f"{thread.path}/runs", body, status=422)["error"]
    assert refused["details"]["field"] == field
    assert thread.messages() == []
    assert provider.asked == []


def test_of_a_run_whose_message_does_not_fit_the_thread_nothing_stays(thread: Runs) -> None:
    message = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "unheard_of", "content": "x"}]}
    body = {"model": thread.model, "message": message}
    once = {"idempotency-key": "once"}
    refused = thread.ask("POST", f"{thread.path}/runs", body, status=422, **once)["error"]
    assert refused["code"] == "orphaned_tool_result"
    assert thread.ask("GET", f"{thread.path}/runs")["data"] == thread.messages() == []
    assert thread.ask("POST", f"{thread.path}/runs", {**body, "message": "Hello?", "wait": True}, **once)["reply"]


def test_a_prompt_that_does_not_fit_fails_the_run(thread: Runs) -> None:
    run = thread.run("word " * 3_000, max_prompt_tokens=100, wait=True)
    assert (run["status"], run["last_error"]["code"]) == ("failed", "prompt_too_large")


def test_repeated_it_is_the_same_run(thread: Runs, provider: ScriptedProvider) -> None:
    body: dict[str, Any] = {"model": thread.model, "message": "Once?", "wait": True}
    first, second = (thread.ask("POST", f"{thread.path}/runs", body, **{"idempotency-key": "one"}) for _ in range(2))
    assert first == second
    assert len(provider.asked) == 1
    assert len(thread.messages()) == 2
    other = thread.ask(
        "POST", f"{thread.path}/runs", {**body, "message": "Twice?"}, status=409, **{"idempotency-key": "one"}
    )
    assert other["error"]["code"] == "idempotency_conflict"


def test_another_project_does_not_see_it(thread: Runs, other_api: httpx2.Client) -> None:
    run = thread.run(wait=True)
    for method, path in (("GET", ""), ("GET", f"/{run['id']}"), ("POST", f"/{run['id']}/cancel")):
        assert other_api.request(method, f"{thread.path}/runs{path}").status_code == 404
    body = {"tool_outputs": [{"tool_use_id": "a", "content": "b"}]}
    assert other_api.post(f"{thread.path}/runs/{run['id']}/tool_outputs", json=body).status_code == 404
    assert other_api.get(f"{thread.path}/runs/{run['id']}?stream=true").status_code == 404


def test_what_was_deleted_is_in_no_stream(thread: Runs, provider: ScriptedProvider) -> None:
    provider.script(ok("The secret word is xylophone."))
    run = thread.run(wait=True)
    thread.ask("DELETE", f"{thread.path}/messages/{run['reply']['id']}")
    assert "xylophone" not in str(thread.follow(run))
    assert thread.get(run)["reply"] is None


def test_without_a_key_the_echo_says_so(api: httpx2.Client, provider: ScriptedProvider) -> None:
    assert provider
    thread = Runs(api, "echo")
    run = thread.run("Is anybody there?", provider="echo", wait=True)
    assert run["reply"]["content"][0]["text"] == "Is anybody there?"
