"""What may go wrong in a run, and what is kept then."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest

from tests.providers.scripted import (
    Asked,
    Behaviour,
    ScriptedProvider,
    cut,
    early,
    malformed,
    ok,
    stall,
    status,
    stream_error,
)
from tests.runs.conftest import Runs


@pytest.mark.parametrize(
    ("behaviour", "code"),
    [
        (status(400, message="bad"), "provider_refused"),
        (status(401, message="who"), "provider_unauthorized"),
        (status(404, message="what"), "provider_model_unknown"),
        (status(413, message="too long"), "provider_request_too_large"),
    ],
)
def test_refused(runs: Runs, provider: ScriptedProvider, behaviour: Any, code: str) -> None:
    provider.script(behaviour)
    run = runs.run(wait=True)
    assert (run["status"], run["last_error"]["code"], run["reply"]) == ("failed", code, None)
    assert len(provider.asked) == 1
    assert runs.run("Again?", wait=True)["status"] == "completed"


@pytest.mark.parametrize("code", [429, 500, 503, 529])
def test_tried_again(runs: Runs, provider: ScriptedProvider, code: int) -> None:
    provider.script(status(code, retry_after="0"), status(code, retry_after="0"), ok("At last."))
    run = runs.run(wait=True)
    assert (run["status"], run["reply"]["content"][0]["text"]) == ("completed", "At last.")
    assert len(provider.asked) == 3


def test_not_for_ever(thread: Runs, provider: ScriptedProvider) -> None:
    provider.respond = lambda asked: status(529, retry_after="0")
    run = thread.run(wait=True)
    assert (run["status"], run["last_error"]["code"]) == ("failed", "provider_overloaded")
    assert len(provider.asked) == 5
    provider.respond = lambda asked: status(429, retry_after="3600")
    assert thread.run(wait=True)["last_error"]["code"] == "provider_rate_limited"
    assert len(provider.asked) == 6


@pytest.mark.parametrize(
    ("behaviour", "code"),
    [
        (cut("One two three.", after=2), "provider_stream_broken"),
        (early("One two three.", after=2), "provider_stream_broken"),
        (malformed("One two three.", after=2), "provider_stream_broken"),
        (stream_error("overloaded_error", after=2), "provider_overloaded"),
    ],
)
def test_it_dies_in_the_middle(runs: Runs, provider: ScriptedProvider, behaviour: Any, code: str) -> None:
    provider.script(behaviour)
    with runs.stream() as stream:
        seen = list(stream)
    run = seen[-1][2]["run"]
    assert (run["status"], run["last_error"]["code"]) == ("failed", code)
    assert len(provider.asked) == 1
    heard = "".join(data["text"] for _, type_, data in seen if type_ == "message.delta")
    assert heard.strip() == "One two"
    assert runs.texts()[-1] == ("assistant", heard, "incomplete")
    assert runs.run("Go on?", wait=True)["status"] == "completed"


def test_it_stalls(thread: Runs, provider: ScriptedProvider) -> None:
    provider.script(stall("One two three.", after=2))
    run = thread.run(wait=True, timeout_seconds=0.5)
    assert (run["status"], run["last_error"]["code"]) == ("failed", "run_timeout")
    assert thread.texts()[-1][1:] == ("One two", "incomplete")
    provider.wait_until(lambda: provider.left > 0)


def test_cancelled_while_the_model_speaks(runs: Runs, provider: ScriptedProvider) -> None:
    provider.script(stall("One two three.", after=2))
    with runs.stream() as stream:
        run = next(data["run"] for _, type_, data in stream if type_ == "run.created")
        next(data for _, type_, data in stream if type_ == "message.delta" and data["text"])
        assert runs.cancel(run)["status"] == "cancelling"
        assert list(stream)[-1][1] == "run.cancelled"
    assert runs.texts()[-1][2] == "incomplete"
    assert runs.cancel(run)["status"] == "cancelled"
    done = runs.run("Again?", wait=True)
    assert runs.cancel(done, status=409)["error"]["code"] == "run_ended"


def test_a_busy_thread(thread: Runs, provider: ScriptedProvider) -> None:
    thread.ask("POST", f"{thread.path}/messages", {"role": "user", "content": "First."})
    (first,) = thread.messages()
    provider.script(stall(after=1))
    run = thread.run()
    for method, path, body in (
        ("POST", "/runs", {"model": thread.model, "message": "Me too?"}),
        ("POST", "/messages", {"role": "user", "content": "Me too?"}),
        ("PATCH", f"/messages/{first['id']}", {"content": "No."}),
        ("DELETE", f"/messages/{first['id']}", None),
    ):
        refused = thread.ask(method, thread.path + path, body, status=409)["error"]
        assert (refused["code"], refused["details"]["run_id"]) == ("thread_busy", run["id"])
    thread.cancel(run)
    thread.until(run, "cancelled")
    assert thread.run("Now?", wait=True)["status"] == "completed"


def test_queued_in_order(thread: Runs, provider: ScriptedProvider) -> None:
    provider.respond = lambda asked: ok("Yes.", delay=0.05)
    waiting = [thread.run(f"Question {n}?", on_busy="queue") for n in range(5)]
    assert [run["status"] for run in waiting] == ["in_progress", *["queued"] * 4]
    dropped = thread.cancel(waiting[2])
    assert dropped["status"] == "cancelled"
    for run in waiting[:2] + waiting[3:]:
        thread.until(run, "completed")
    asked = [text for role, text, _ in thread.texts() if role == "user"]
    assert asked == [f"Question {n}?" for n in (0, 1, 3, 4)]
    assert [role for role, _, _ in thread.texts()] == ["user", "assistant"] * 4


def test_a_queued_message_that_is_not_valid_any_more(
    thread: Runs, provider: ScriptedProvider, database_url: str
) -> None:
    """As after an upgrade that refuses what was accepted: it fails alone, and those behind it are not held up."""
    provider.script(stall(after=1))
    active = thread.run()
    bad, good = (thread.run(text, on_busy="queue") for text in ("Bad?", "Good?"))
    with psycopg.connect(database_url) as owner:
        message = '{"content":[{"type":"text"}],"metadata":{}}'
        owner.execute("UPDATE memory.runs SET waiting_message = %s WHERE id = %s", [message, bad["id"]])
    thread.cancel(active)
    assert thread.until(bad, "failed")["last_error"]["code"] == "invalid_message"
    thread.until(good, "completed")


def test_many_at_once_leave_one(thread: Runs, provider: ScriptedProvider) -> None:
    provider.respond = lambda asked: ok("Yes.", delay=0.2)
    body = {"model": thread.model, "message": "Me?"}
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: thread.api.post(f"{thread.path}/runs", json=body), range(8)))
    assert sorted(answer.status_code for answer in answers) == [201, *[409] * 7]
    run = next(answer.json() for answer in answers if answer.status_code == 201)
    thread.until(run, "completed")
    assert len(thread.messages()) == 2
    assert len(provider.asked) == 1


def test_a_thread_that_is_deleted_meanwhile(thread: Runs, provider: ScriptedProvider) -> None:
    provider.script(ok("One two three.", delay=0.2))
    run = thread.run()
    provider.wait_until(lambda: len(provider.asked) == 1)
    thread.ask("DELETE", thread.path)
    assert thread.api.get(f"{thread.path}/runs/{run['id']}").status_code == 404
    assert Runs(thread.api).run(wait=True)["status"] == "completed"


@pytest.mark.parametrize(("more", "status", "code"), [(0, "completed", None), (1, "failed", "usage_already_reported")])
def test_its_prompt_is_reported_meanwhile(
    thread: Runs, provider: ScriptedProvider, more: int, status: str, code: str | None
) -> None:
    """What the model says is kept in any case, and what it used is counted once."""
    (first,) = thread.run(wait=True)["prompt_ids"]
    usage = thread.ask("GET", f"{thread.path}/prompts/{first}")["usage"]

    def reported(asked: Asked) -> Behaviour:
        prompt, *_ = thread.ask("GET", f"{thread.path}/prompts")["data"]
        told = {**usage, "output_tokens": usage["output_tokens"] + more}
        thread.ask("POST", f"{thread.path}/prompts/{prompt['id']}/usage", {"usage": told})
        return ok()

    provider.respond = reported
    run = thread.run("Again?", wait=True)
    assert (run["status"], run["last_error"] and run["last_error"]["code"]) == (status, code)
    assert thread.texts()[-1] == ("assistant", "Hello there.", "incomplete" if code else "completed")
    assert thread.ask("GET", f"/v1/usage?thread_id={thread.path.rpartition('/')[2]}")["totals"]["calls"] == 2
