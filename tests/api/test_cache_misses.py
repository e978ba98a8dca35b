"""A provider's prompt cache that fails: told in the report, in the ledger, in one line of the log and in a metric."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import httpx2
import pytest

from tests.conftest import Service

from .support import new_thread, ok
from .test_metrics import read as read_metrics
from .test_usage_ledger import NOON, SONNET, call, spent, usage_of

INSTRUCTIONS = "Be brief, and kind, and do not repeat what was said before. " * 600
MISSES = "memory_prompt_cache_misses_total"
LogOf = Callable[[str], list[str]]


@pytest.fixture
def canary() -> str:
    return f"canary{uuid4().hex}"


def thread_of(api: httpx2.Client, word: str = "") -> str:
    """A thread of which a first call has written about 8,000 tokens into the prompt cache."""
    thread: str = new_thread(api, instructions=f"{word}{INSTRUCTIONS}", user_id=word or None)["id"]
    call(api, usage_of(written=8_000), thread=thread)
    return thread


def again(api: httpx2.Client, thread: str, missing: int, at: float = NOON + 60, **report: Any) -> dict[str, Any]:
    """Another call, of which so many tokens fewer were read than predicted, and written instead."""

    def usage(built: dict[str, Any]) -> dict[str, Any]:
        read = built["prediction"]["cache_read_tokens"] - missing
        return usage_of(read, max(0, missing), uncached=10)

    return call(api, usage, thread=thread, at=at, report=report)


def warnings(log: list[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log if '"level": "warning"' in line]


def test_a_miss_that_nobody_foresaw(api: httpx2.Client, service: Service, canary: str, log_of: LogOf) -> None:
    thread = thread_of(api, canary)
    before, logged = read_metrics(service.url), len(service.log)
    made = again(api, thread, 5_000)
    expected = made["built"]["prediction"]["cache_read_tokens"]
    assert expected > 7_000
    reported = made["answer"]["reported"]
    assert (reported["miss_reason"], "held no more than" in reported["miss"]) == ("held_less", True)
    assert ok(api.get(f"/v1/threads/{thread}/prompts/{made['prompt']}"))["reported"] == reported
    log = log_of(api.get("/healthz").headers["x-request-id"])[logged:]
    (told,) = warnings(log)
    assert told.pop("project") > 0
    assert told.pop("time")
    assert told == {
        "level": "warning",
        "message": "the prompt cache was read far less than predicted",
        "prompt": made["prompt"],
        "run": None,
        "provider": "anthropic",
        "predicted_read_tokens": expected,
        "read_tokens": expected - 5_000,
        "input_tokens": expected + 10,
        "reason": "held_less",
    }
    assert canary not in "".join(log)
    grown = {name: value for name, value in read_metrics(service.url).items() if value != before.get(name, 0)}
    assert grown[f'{MISSES}{{provider="anthropic",reason="held_less"}}'] >= 1
    assert canary not in str(grown)
    misses = spent(api, thread_id=thread)["misses"]
    assert misses == {"first": 1, "held_less": 1}


def test_what_the_provider_says_of_it(api: httpx2.Client, service: Service, log_of: LogOf, canary: str) -> None:
    """Beside the usage, as SDKs give it; it is kept there, and is no part of what a second report must repeat."""
    diagnostics = {"cache_miss_reason": {"type": "tools_changed", "cache_missed_input_tokens": 9}}
    thread, logged = thread_of(api), len(service.log)
    made = again(api, thread, 5_000, diagnostics=diagnostics)
    answer = made["answer"]
    assert (answer["reported"]["miss_reason"], answer["usage"]["diagnostics"]) == ("tools_changed", diagnostics)
    assert answer["reported"]["miss"].endswith("the provider says tools_changed.")
    path = f"/v1/threads/{thread}/prompts/{made['prompt']}/usage"
    for usage in ({"usage": made["body"]["usage"]}, {**made["body"], "diagnostics": {}}, made["body"]):
        assert ok(api.post(path, json=usage)) == answer
    again(api, thread, 5_000, NOON + 120, diagnostics={"cache_miss_reason": {"type": canary}})
    log = log_of(api.get("/healthz").headers["x-request-id"])[logged:]
    assert [told["reason"] for told in warnings(log)] == ["tools_changed", "other"]
    assert canary not in "".join(log)
    assert canary not in str(read_metrics(service.url))
    assert spent(api)["misses"] == {"first": 1, "other": 1, "tools_changed": 1}


def test_prompts_that_race_one_another(api: httpx2.Client) -> None:
    """What the first writes can be read once its response has begun: a second later, or once it is reported."""
    thread = new_thread(api, ("user", "hi"), instructions=INSTRUCTIONS)["id"]
    path = f"/v1/threads/{thread}/prompts"

    def predicted(at: float, *, dry_run: bool = True) -> dict[str, Any]:
        body = {"model": SONNET, "dry_run": dry_run}
        built = ok(api.post(path, json=body, headers={"x-memory-now": str(at)}), 200 if dry_run else 201)
        found: dict[str, Any] = built["prediction"]
        return found | {"id": built["id"]}

    first = predicted(NOON, dry_run=False)
    racing = predicted(NOON + 0.4)
    assert (first["miss_reason"], racing["miss_reason"]) == ("first", "in_flight")
    assert racing["miss"].startswith("The prompt before was built 0.4 s ago, and its response may not have begun;")
    written = first["cache_write_tokens"]
    assert written > 4_000
    for name in ("cache_read_tokens", "cache_write_tokens", "cost_usd"):
        assert racing[name] == first[name]
    later = predicted(NOON + 1)
    assert (later["miss_reason"], later["cache_read_tokens"], later["cache_write_tokens"]) == (None, written, 0)
    report, time = {"usage": usage_of(written=written)}, {"x-memory-now": str(NOON + 0.2)}
    ok(api.post(f"{path}/{first['id']}/usage", json=report, headers=time))
    reported = predicted(NOON + 0.4)
    assert (reported["miss_reason"], reported["cache_write_tokens"]) == (None, 0)
    assert reported["cache_read_tokens"] > 4_000  # by another estimate: the report taught it


def test_what_is_no_collapse(api: httpx2.Client, service: Service, log_of: LogOf) -> None:
    """A little less than predicted; more; and little, as it was foreseen to be after a pause."""
    thread, logged = thread_of(api), len(service.log)
    some = again(api, thread, 1_500)
    assert some["answer"]["reported"]["miss_reason"] == "held_less"
    assert again(api, thread, -100, NOON + 120)["answer"]["reported"]["miss"] is None
    paused = again(api, thread, 0, NOON + 7_200)
    assert paused["built"]["prediction"]["miss_reason"] == "expired"
    assert paused["answer"]["reported"]["miss"] is None
    assert warnings(log_of(api.get("/healthz").headers["x-request-id"])[logged:]) == []
    assert spent(api)["misses"] == {"expired": 1, "first": 1, "held_less": 1}
