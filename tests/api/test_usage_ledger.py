"""What calls of models used and cost, in the ledger: each call once, added up in every way, and kept when what was
called for is gone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx2
import psycopg
import pytest
from psycopg.rows import dict_row

from .support import build, new_thread, ok, refused

SONNET, HAIKU = "claude-sonnet-5", "claude-haiku-4-5"  # 2 and 10, 1 and 5 USD a million tokens
DAY = 86_400
NOON = 1_790_000_000 // DAY * DAY + DAY // 2
AMOUNTS = ("cost_usd", "cost_usd_uncached", "saved_usd", "output_usd", "total_usd")


def usage_of(
    read: int = 0, written: int = 0, uncached: int = 0, output: int = 0, for_1h: int | None = None
) -> dict[str, Any]:
    usage: dict[str, Any] = {
        "input_tokens": uncached,
        "cache_read_input_tokens": read,
        "cache_creation_input_tokens": written,
        "output_tokens": output,
    }
    if for_1h is not None:
        split = {"ephemeral_5m_input_tokens": written - for_1h, "ephemeral_1h_input_tokens": for_1h}
        usage["cache_creation"] = split
    return usage


def call(
    api: httpx2.Client,
    usage: dict[str, Any] | Callable[[dict[str, Any]], dict[str, Any]],
    *,
    thread: str | None = None,
    user: str | None = None,
    model: str = SONNET,
    at: float = NOON,
    report: dict[str, Any] | None = None,
    **prompt: Any,
) -> dict[str, Any]:
    """Build a prompt of a thread, or of a new one, and report its usage, or what that is for this prompt."""
    thread = thread or new_thread(api, user_id=user)["id"]
    time = {"x-memory-now": str(at)}
    path = f"/v1/threads/{thread}/prompts"
    built = ok(api.post(path, json={"model": model, "message": "hi", **prompt}, headers=time), 201)
    report = {"usage": usage(built) if callable(usage) else usage, "message": "hello", **(report or {})}
    answer = ok(api.post(f"{path}/{built['id']}/usage", json=report, headers=time))
    return {"thread": thread, "prompt": built["id"], "built": built, "answer": answer, "body": report}


def spent(api: httpx2.Client, **params: Any) -> dict[str, Any]:
    found: dict[str, Any] = ok(api.get("/v1/usage", params=params))
    return found


@pytest.fixture
def entries(database: psycopg.Connection, api: httpx2.Client) -> Callable[[], list[dict[str, Any]]]:
    """The rows of the test's project, oldest first."""

    def read() -> list[dict[str, Any]]:
        thread = new_thread(api)["id"]
        query = (
            "SELECT * FROM usage_entries WHERE project_id = (SELECT project_id FROM threads WHERE id = %s) ORDER BY pk"
        )
        with database.cursor(row_factory=dict_row) as cursor:
            return cursor.execute(query, [thread]).fetchall()

    return read


def test_nothing_was_called_yet(api: httpx2.Client) -> None:
    found = spent(api)
    assert (found["object"], found["data"], found["group_by"], found["misses"]) == ("list", [], None, {})
    totals = found["totals"]
    assert (totals["calls"], totals["uncached_tokens"], totals["cost_usd"], totals["cache_read_share"]) == (
        0,
        0,
        None,
        None,
    )


def test_a_call_is_priced_and_compared(api: httpx2.Client) -> None:
    made = call(api, usage_of(read=6_000, written=1_000, uncached=3_000, output=100), user="ada")
    totals = spent(api)["totals"]
    assert (totals["calls"], totals["calls_without_price"]) == (1, 0)
    assert totals["cost_usd"] == pytest.approx((6_000 * 0.2 + 1_000 * 2.5 + 3_000 * 2) / 1e6)
    assert totals["cost_usd_uncached"] == pytest.approx(0.02)
    assert totals["saved_usd"] == pytest.approx(totals["cost_usd_uncached"] - totals["cost_usd"])
    assert totals["output_usd"] == pytest.approx(0.001)
    assert totals["total_usd"] == pytest.approx(totals["cost_usd"] + 0.001)
    assert totals["cache_read_share"] == 0.6
    predicted = made["built"]["prediction"]
    for name in ("cache_read_tokens", "cache_write_tokens", "uncached_tokens", "cost_usd"):
        assert totals[f"predicted_{name}"] == pytest.approx(predicted[name])
    assert totals["prediction_error"] == 0.6, "nothing was to be read, and 6,000 of 10,000 were"


def test_what_is_written_for_an_hour(api: httpx2.Client) -> None:
    """The provider's own split counts; without one, the lifetime of the breakpoints does."""
    call(api, usage_of(written=1_000, for_1h=400))
    totals = spent(api)["totals"]
    written = ("cache_write_tokens", "cache_write_5m_tokens", "cache_write_1h_tokens")
    assert [totals[name] for name in written] == [1_000, 600, 400]
    assert totals["cost_usd"] == pytest.approx((600 * 2.5 + 400 * 4) / 1e6)
    thread = new_thread(api, instructions="Be brief.")["id"]
    made = call(api, usage_of(written=1_000), cache={"ttl": "1h"}, model=HAIKU, thread=thread)
    marks = {mark["ttl"] for mark in made["built"]["breakpoints"]}
    totals = spent(api, model=HAIKU)["totals"]
    assert marks == {"1h"}
    assert (totals["cache_write_1h_tokens"], totals["cost_usd"]) == (1_000, pytest.approx(0.002))
    assert made["answer"]["reported"]["cost_usd"] == totals["cost_usd"]


def test_a_report_counts_once(api: httpx2.Client) -> None:
    made = call(api, usage_of(uncached=100))
    path = f"/v1/threads/{made['thread']}/prompts/{made['prompt']}/usage"
    ok(api.post(path, json=made["body"]))
    ok(api.post(path, json={"usage": made["body"]["usage"]}))
    refused(api.post(path, json={"usage": usage_of(uncached=101)}), 409, "usage_already_reported")
    assert spent(api)["totals"]["calls"] == 1


def test_a_report_that_fails_writes_nothing(api: httpx2.Client) -> None:
    thread = new_thread(api, ("user", "hi"))["id"]
    prompt = ok(build(api, thread), 201)["id"]
    bad = {"usage": usage_of(uncached=1), "message": {"content": [{"type": "text"}]}}
    refused(api.post(f"/v1/threads/{thread}/prompts/{prompt}/usage", json=bad), 422)
    assert spent(api)["totals"]["calls"] == 0


def test_models_without_a_price(api: httpx2.Client) -> None:
    """They cost nothing that is known, which is not nothing."""
    call(api, usage_of(uncached=500, output=5), model="local", provider="anthropic")
    unknown = spent(api)["totals"]
    assert (unknown["calls"], unknown["calls_without_price"], unknown["uncached_tokens"]) == (1, 1, 500)
    assert {unknown[name] for name in AMOUNTS} == {None}
    call(api, usage_of(uncached=1_000_000))
    both = spent(api)["totals"]
    assert (both["calls"], both["calls_without_price"], both["uncached_tokens"]) == (2, 1, 1_000_500)
    assert (both["cost_usd"], both["total_usd"]) == (2.0, 2.0)
    by_model = spent(api, group_by="model")["data"]
    assert [(group["id"], group["cost_usd"]) for group in by_model] == [
        (f"anthropic/{SONNET}", 2.0),
        ("anthropic/local", None),
    ]


def test_what_is_free_costs_nothing(api: httpx2.Client) -> None:
    call(api, usage_of(read=10, uncached=500, output=5), model="echo", provider="echo")
    totals = spent(api)["totals"]
    assert (totals["calls_without_price"], totals["total_usd"], totals["saved_usd"]) == (0, 0.0, 0.0)


@pytest.fixture
def five_calls(api: httpx2.Client) -> dict[str, str]:
    """Of two users and nobody, of two models, on three days. Returns their threads."""
    ada = call(api, usage_of(uncached=1_000), user="ada", at=NOON)["thread"]
    call(api, usage_of(uncached=2_000), thread=ada, at=NOON + DAY)
    eve = call(api, usage_of(uncached=4_000), user="eve", at=NOON + DAY)["thread"]
    call(api, usage_of(uncached=80_000), thread=eve, model=HAIKU, at=NOON + 3 * DAY)
    nobody = call(api, usage_of(uncached=16_000), at=NOON)["thread"]
    return {"ada": ada, "eve": eve, "nobody": nobody}


def groups(api: httpx2.Client, group_by: str, **params: Any) -> list[tuple[str, int]]:
    found = spent(api, group_by=group_by, **params)
    assert found["group_by"] == group_by
    return [(group["id"], group["uncached_tokens"]) for group in found["data"]]


def test_groups(api: httpx2.Client, five_calls: dict[str, str]) -> None:
    """Days as they came, all else by what it cost: 80,000 tokens of the cheap model are as dear as 40,000."""
    assert groups(api, "day") == [("2026-09-21", 17_000), ("2026-09-22", 6_000), ("2026-09-24", 80_000)]
    assert groups(api, "day", order="desc")[0] == ("2026-09-24", 80_000)
    assert groups(api, "model") == [(f"anthropic/{HAIKU}", 80_000), (f"anthropic/{SONNET}", 23_000)]
    assert groups(api, "user") == [("eve", 84_000), ("", 16_000), ("ada", 3_000)]
    ids = [five_calls[whose] for whose in ("eve", "nobody", "ada")]
    assert groups(api, "thread") == [(ids[0], 84_000), (ids[1], 16_000), (ids[2], 3_000)]
    for group_by in ("day", "model", "thread", "user"):
        found = spent(api, group_by=group_by)
        assert sum(group["calls"] for group in found["data"]) == found["totals"]["calls"] == 5
        assert sum(group["cost_usd"] for group in found["data"]) == pytest.approx(found["totals"]["cost_usd"])
        assert {"id", "object", *found["totals"]} == set(found["data"][0])


def test_pages_of_groups(api: httpx2.Client, five_calls: dict[str, str]) -> None:
    walked, after = [], None
    for _ in range(3):
        page = spent(api, group_by="user", limit=1, **({} if after is None else {"after": after}))
        assert page["totals"]["calls"] == 5, "of all, whatever is on the page"
        walked.append((page["first_id"], page["has_more"]))
        after = page["last_id"]
    assert walked == [("eve", True), ("", True), ("ada", False)]
    assert groups(api, "user", before="ada", limit=1) == [("", 16_000)]
    assert groups(api, "day", after="2026-09-21", limit=1) == [("2026-09-22", 6_000)]
    refused(api.get("/v1/usage", params={"group_by": "user", "after": "bob"}), 422, field="after")
    error = refused(api.get("/v1/usage", params={"group_by": "week"}), 422, field="group_by")
    assert len(error["details"]["problems"]) == 1, "whichever parts of the route read it"
    refused(api.get("/v1/usage", params={"group_by": "day", "limit": 101}), 422, field="limit")


def test_filters(api: httpx2.Client, five_calls: dict[str, str]) -> None:
    def tokens(**params: Any) -> int:
        totals = spent(api, **params)["totals"]
        assert sum(count for _, count in groups(api, "day", **params)) == totals["uncached_tokens"]
        return int(totals["uncached_tokens"])

    assert tokens() == 103_000
    assert tokens(user_id="ada") == 3_000
    assert tokens(thread_id=five_calls["eve"]) == 84_000
    assert tokens(thread_id=five_calls["eve"], model=SONNET) == 4_000
    assert tokens(model=HAIKU) == 80_000
    assert tokens(since="2026-09-22T12:00:00Z") == 86_000, "from then on"
    assert tokens(until="2026-09-22T12:00:00Z") == 17_000, "and before then"
    assert tokens(since="2026-09-22T21:00:00+09:00", until="2026-09-24T00:00:00Z", user_id="eve") == 4_000
    assert tokens(user_id="nobody at all") == 0
    for bad in ("yesterday", "2026-09-22", "2026-09-22T12:00:00"):
        refused(api.get("/v1/usage", params={"since": bad}), 422, field="since", says="such as 2026-09-30T00:00:00Z")
    refused(api.get("/v1/usage", params={"since": "1969-01-01T00:00:00Z"}), 422, field="since", says="after 1970")
    refused(api.get("/v1/usage", params={"user": "ada"}), 422)


def test_projects_do_not_see_one_another(
    api: httpx2.Client, other_api: httpx2.Client, five_calls: dict[str, str]
) -> None:
    for params in ({}, {"user_id": "ada"}, {"thread_id": five_calls["ada"]}, {"group_by": "thread"}):
        found = spent(other_api, **params)
        assert (found["totals"]["calls"], found["data"]) == (0, [])
    call(other_api, usage_of(uncached=7), user="ada")
    ok(other_api.delete("/v1/users/ada"))
    assert spent(api, user_id="ada")["totals"]["calls"] == 2
    assert spent(other_api)["totals"]["uncached_tokens"] == 7


def test_a_deleted_thread_stays_billed(
    api: httpx2.Client, five_calls: dict[str, str], entries: Callable[[], list[dict[str, Any]]]
) -> None:
    ok(api.delete(f"/v1/threads/{five_calls['ada']}"))
    assert spent(api)["totals"]["uncached_tokens"] == 103_000
    assert groups(api, "user") == [("eve", 84_000), ("", 16_000), ("ada", 3_000)], "it is still for ada that was called"
    assert ("", 3_000) in groups(api, "thread")
    for entry in entries()[:2]:
        assert (entry["thread_id"], entry["prompt_id"], entry["miss"]) == (None, None, None)
    assert entries()[2]["thread_id"] == five_calls["eve"]
    held = ok(api.get("/v1/users/ada"))
    assert (held["thread_count"], held["call_count"]) == (0, 2)


def test_an_erased_user_is_forgotten(
    api: httpx2.Client, five_calls: dict[str, str], entries: Callable[[], list[dict[str, Any]]]
) -> None:
    """In the entries of threads that are gone, and of those that were handed over to somebody else, too."""
    ok(api.delete(f"/v1/threads/{five_calls['ada']}"))
    handed = call(api, usage_of(uncached=32_000), user="ada", at=NOON)["thread"]
    ok(api.patch(f"/v1/threads/{handed}", json={"user_id": "eve"}))
    ok(api.delete("/v1/users/ada"))
    assert [entry["user_id"] for entry in entries()] == [None, None, "eve", "eve", None, None]
    assert entries()[-1]["thread_id"] is None, "eve's thread by now, and the call was for ada"
    assert groups(api, "user") == [("", 51_000), ("eve", 84_000)]
    assert ok(api.get("/v1/users/ada"))["call_count"] == 0
    ok(api.delete("/v1/users/eve"))
    for entry in entries():
        named = [entry[name] for name in ("user_id", "thread_id", "prompt_id", "run_id", "miss")]
        assert named == [None] * 5 or entry["thread_id"] == five_calls["nobody"]
    assert spent(api)["totals"]["uncached_tokens"] == 135_000, "what was billed stays"


def test_a_fork_and_an_import_bring_no_bills(api: httpx2.Client) -> None:
    made = call(api, usage_of(uncached=10), user="ada")
    ok(api.post(f"/v1/threads/{made['thread']}/fork", json={"seq": 2}), 201)
    exported = api.get(f"/v1/threads/{made['thread']}/export").content
    headers = {"content-type": "application/x-ndjson"}
    ok(api.post("/v1/import", content=exported, headers=headers), 201)
    assert spent(api)["totals"]["calls"] == 1
