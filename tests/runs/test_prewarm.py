"""Prewarming: what it writes is what the next prompt reads."""

from __future__ import annotations

from tests.providers.scripted import ScriptedProvider, ok
from tests.runs.conftest import Runs

LONG = "The boathouse has a red door, and behind it lie the rods, sorted by length. " * 200


def test_the_next_prompt_reads_what_was_written(thread: Runs, provider: ScriptedProvider) -> None:
    thread.run(LONG, wait=True)
    provider.asked.clear()
    usage = {"input_tokens": 12, "cache_creation_input_tokens": 3_900, "cache_read_input_tokens": 0}
    provider.script(ok("", usage=usage))
    warmed = thread.ask("POST", f"{thread.path}/prewarm", {"model": thread.model})
    assert warmed["usage"]["cache_creation_input_tokens"] == 3_900
    assert warmed["reported"]["cost_usd"] > 0
    (sent,) = provider.asked
    assert sent.body["max_tokens"] == 0
    assert not sent.body.get("stream")
    marked = [block for message in sent.body["messages"] for block in message["content"] if "cache_control" in block]
    assert "Hello there." in str(marked[-1])
    assert thread.texts()[-1][0] == "assistant"  # nothing was appended
    planned = thread.ask(
        "POST", f"{thread.path}/prompts", {"model": thread.model, "message": "Where are the rods?", "dry_run": True}
    )
    assert planned["breaks"] == []
    assert planned["prediction"]["cache_read_tokens"] >= warmed["prediction"]["cache_write_tokens"] > 3_000
    used = thread.ask("GET", "/v1/usage")["totals"]
    assert used["calls"] == 2


def test_a_new_thread_warms_what_it_shares(thread: Runs, provider: ScriptedProvider) -> None:
    assistant = thread.ask("POST", "/v1/assistants", {"model": thread.model, "instructions": LONG})
    made = thread.ask("POST", "/v1/threads", {"assistant_id": assistant["id"]})
    thread.ask("POST", f"/v1/threads/{made['id']}/prewarm", {})
    assert "cache_control" in provider.asked[0].body["system"][-1]


def test_not_while_a_reply_is_awaited(thread: Runs, provider: ScriptedProvider) -> None:
    thread.ask("POST", f"{thread.path}/messages", {"role": "user", "content": "Well?"})
    refused = thread.ask("POST", f"{thread.path}/prewarm", {"model": thread.model}, status=409)
    assert refused["error"]["code"] == "reply_awaited"
    assert provider.asked == []


def test_repeated_it_is_sent_once(thread: Runs, provider: ScriptedProvider) -> None:
    thread.run(wait=True)
    provider.asked.clear()
    path, body, key = f"{thread.path}/prewarm", {"model": thread.model}, {"idempotency-key": "warm"}
    first, second = (thread.api.post(path, json=body, headers=key).json() for _ in range(2))
    assert first == second
    assert len(provider.asked) == 1


def test_nobody_is_billed_by_the_echo(thread: Runs) -> None:
    thread.run(wait=True)
    before = thread.ask("GET", "/v1/usage")["totals"]["calls"]
    warmed = thread.ask("POST", f"{thread.path}/prewarm", {"model": "echo", "provider": "echo"})
    assert thread.ask("GET", "/v1/usage")["totals"]["calls"] - before <= 1
    assert warmed["reported"] is None or warmed["reported"]["cost_usd"] in (0, None)
