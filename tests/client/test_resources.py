"""Every method: what goes out, and what its answer becomes."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from memory_client import NOT_GIVEN, AsyncMemoryClient, MemoryClient
from memory_client._async import (
    AsyncAssistants,
    AsyncEstimates,
    AsyncMessages,
    AsyncPrompts,
    AsyncThreads,
    AsyncUsageLedger,
    AsyncUsers,
)
from memory_client._sync import Assistants, Estimates, Messages, Prompts, Threads, UsageLedger, Users

from .answers import PROMPT, hit, message, page, thread
from .driver import Driver
from .peer import Answer, Peer

ASSISTANT = {"id": "asst_1", "object": "assistant", "created_at": "2026-03-01T12:30:00Z", "model": "m"}
T, M, A, P = Answer(thread()), Answer(message()), Answer(ASSISTANT), Answer(PROMPT)
PREWARM = {"object": "prewarm", "thread_id": "thread_1", "provider": "echo", "model": "m", "prediction": {}}
W = Answer(PREWARM)
HITS = Answer({"object": "list", "data": [hit()]})
TOOLS = [{"name": "look", "input_schema": {}}]

CALLS: list[tuple[Callable[[Any], Any], Answer, str, str, Any]] = [
    (lambda c: c.threads.create(), T, "POST", "/threads", {}),
    (
        lambda c: c.threads.create(
            user_id="ada",
            assistant_id="asst_1",
            instructions="Be brief.",
            tools=TOOLS,
            documents=[{"type": "document"}],
            metadata={"a": "b"},
            truncation_strategy={"type": "auto"},
            messages=[{"role": "user", "content": "Hello"}],
        ),
        T,
        "POST",
        "/threads",
        {
            "user_id": "ada",
            "assistant_id": "asst_1",
            "instructions": "Be brief.",
            "tools": TOOLS,
            "documents": [{"type": "document"}],
            "metadata": {"a": "b"},
            "truncation_strategy": {"type": "auto"},
            "messages": [{"role": "user", "content": "Hello"}],
        },
    ),
    (lambda c: c.threads.get("thread_1"), T, "GET", "/threads/thread_1", None),
    (lambda c: c.threads.get("a/b ?#é"), T, "GET", "/threads/a%2Fb%20%3F%23%C3%A9", None),
    (lambda c: c.threads.update("thread_1"), T, "PATCH", "/threads/thread_1", {}),
    (
        lambda c: c.threads.update("thread_1", instructions=None, user_id=NOT_GIVEN, metadata={"a": None}),
        T,
        "PATCH",
        "/threads/thread_1",
        {"instructions": None, "metadata": {"a": None}},
    ),
    (lambda c: c.threads.delete("thread_1"), Answer(status=204), "DELETE", "/threads/thread_1", None),
    (lambda c: c.threads.fork("thread_1", 7), T, "POST", "/threads/thread_1/fork", {"seq": 7}),
    (lambda c: c.threads.prewarm("thread_1"), W, "POST", "/threads/thread_1/prewarm", {}),
    (
        lambda c: c.threads.prewarm("thread_1", model="m", recall=False, tools=TOOLS, idempotency_key="k"),
        W,
        "POST",
        "/threads/thread_1/prewarm",
        {"model": "m", "recall": False, "tools": TOOLS},
    ),
    (
        lambda c: c.threads.fork("thread_1", 7, user_id="bo", assistant_id=None, instructions=None, tools=TOOLS,
                                 documents=None, metadata={"a": "b"}, truncation_strategy={"type": "auto"}),
        T,
        "POST",
        "/threads/thread_1/fork",
        {"seq": 7, "user_id": "bo", "assistant_id": None, "instructions": None, "tools": TOOLS,
         "documents": None, "metadata": {"a": "b"}, "truncation_strategy": {"type": "auto"}},
    ),
    (lambda c: c.threads.search("thread_1", "x"), HITS, "GET", "/threads/thread_1/search", None),
    (
        lambda c: c.threads.messages.append("thread_1", "user", "Hello", metadata={"a": "b"}),
        Answer(page(message()).json, 201),
        "POST",
        "/threads/thread_1/messages",
        {"role": "user", "content": "Hello", "metadata": {"a": "b"}},
    ),
    (lambda c: c.threads.messages.list("thread_1"), page(), "GET", "/threads/thread_1/messages", None),
    (lambda c: c.threads.messages.get("thread_1", "m"), M, "GET", "/threads/thread_1/messages/m", None),
    (
        lambda c: c.threads.messages.update("thread_1", "msg_1", content="New"),
        M,
        "PATCH",
        "/threads/thread_1/messages/msg_1",
        {"content": "New"},
    ),
    (
        lambda c: c.threads.messages.delete("thread_1", "msg_1"),
        Answer({"deleted": True}),
        "DELETE",
        "/threads/thread_1/messages/msg_1",
        None,
    ),
    (
        lambda c: c.threads.prompts.build(
            "thread_1",
            model="m",
            provider="anthropic",
            max_prompt_tokens=1000,
            max_output_tokens=10,
            truncation_strategy={"type": "last_messages", "last_messages": 4},
            recall=False,
            context=[{"type": "text", "text": "It rains."}],
            message="Hello",
            tools=TOOLS,
            cache=False,
            dry_run=False,
            refresh=True,
        ),
        Answer(PROMPT),
        "POST",
        "/threads/thread_1/prompts",
        {
            "model": "m",
            "provider": "anthropic",
            "max_prompt_tokens": 1000,
            "max_output_tokens": 10,
            "truncation_strategy": {"type": "last_messages", "last_messages": 4},
            "recall": False,
            "context": [{"type": "text", "text": "It rains."}],
            "message": {"role": "user", "content": "Hello"},
            "tools": TOOLS,
            "cache": False,
            "dry_run": False,
            "refresh": True,
        },
    ),
    (lambda c: c.threads.prompts.build("thread_1"), Answer(PROMPT), "POST", "/threads/thread_1/prompts", {}),
    (lambda c: c.threads.prompts.list("thread_1"), page(PROMPT), "GET", "/threads/thread_1/prompts", None),
    (lambda c: c.threads.prompts.get("thread_1", "p"), P, "GET", "/threads/thread_1/prompts/p", None),
    (
        lambda c: c.threads.prompts.report_usage("thread_1", "p", usage={"input_tokens": 1}),
        Answer({}),
        "POST",
        "/threads/thread_1/prompts/p/usage",
        {"usage": {"input_tokens": 1}},
    ),
    (
        lambda c: c.assistants.create(model="m", name="n", provider="p", instructions="i", tools=TOOLS,
                                      documents=[], defaults={"cache": False}, metadata={}),
        A,
        "POST",
        "/assistants",
        {"model": "m", "provider": "p", "name": "n", "instructions": "i", "tools": TOOLS, "documents": [],
         "defaults": {"cache": False}, "metadata": {}},
    ),
    (lambda c: c.assistants.list(order="asc"), page(ASSISTANT), "GET", "/assistants", None),
    (lambda c: c.assistants.get("asst_1"), A, "GET", "/assistants/asst_1", None),
    (lambda c: c.assistants.update("asst_1", tools=None), A, "PATCH", "/assistants/asst_1", {"tools": None}),
    (lambda c: c.assistants.delete("asst_1"), Answer(status=204), "DELETE", "/assistants/asst_1", None),
    (lambda c: c.users.get("org/ada"), Answer({"id": "org/ada"}), "GET", "/users/org%2Fada", None),
    (lambda c: c.users.delete("ada"), Answer({"id": "ada", "thread_count": 2}), "DELETE", "/users/ada", None),
    (lambda c: c.estimates.list(), page(), "GET", "/estimates", None),
    (lambda c: c.estimates.delete(provider="p", model="m"), Answer({"deleted": True}), "DELETE", "/estimates", None),
    (
        lambda c: c.threads.prompts.report_usage("thread_1", "p", usage={"input_tokens": 1}, diagnostics={"a": 1}),
        Answer({}),
        "POST",
        "/threads/thread_1/prompts/p/usage",
        {"usage": {"input_tokens": 1}, "diagnostics": {"a": 1}},
    ),
    (lambda c: c.usage.get(), Answer({"object": "list", "data": []}), "GET", "/usage", None),
    (lambda c: c.search("x", "ada", 3), HITS, "POST", "/search", {"q": "x", "user_id": "ada", "limit": 3}),
]  # fmt: skip


@pytest.mark.parametrize(("call", "answer", "method", "path", "body"), CALLS)
def test_what_goes_out(
    driver: Driver, peer: Peer, call: Callable[[Any], Any], answer: Answer, method: str, path: str, body: Any
) -> None:
    peer.plays(answer)
    driver.run(call)
    request = peer.only_request
    assert (request.method, request.path) == (method, "/v1" + path)
    assert (request.json if request.body else None) == body
    assert request.headers.get("content-type") == ("application/json" if request.body else None)


def test_every_method_of_both_clients_is_called_above() -> None:
    named = {name for call, *_ in CALLS for name in call.__code__.co_names}
    for pair in ((Threads, AsyncThreads), (Messages, AsyncMessages), (Prompts, AsyncPrompts),
                 (Assistants, AsyncAssistants), (Users, AsyncUsers), (Estimates, AsyncEstimates),
                 (UsageLedger, AsyncUsageLedger), (MemoryClient, AsyncMemoryClient)):  # fmt: skip
        ours, theirs = ({name for name in vars(kind) if not name.startswith("_")} for kind in pair)
        assert ours == theirs
        elsewhere = {"export", "import_ndjson", "health", "base_url", "with_options", "close"}
        elsewhere |= {"runs", "chat"}  # test_runs.py
        assert ours - elsewhere <= named


@pytest.mark.parametrize("bad", ["", " ", ".", ".."])
def test_an_empty_id_does_not_address_the_list(driver: Driver, peer: Peer, bad: str) -> None:
    with pytest.raises(ValueError, match=r"^thread_id: '[ .]*' is not an id$"):
        driver.run(lambda client: client.threads.delete(bad))
    with pytest.raises(ValueError, match=r"^message_id: "):
        driver.run(lambda client: client.threads.messages.get("thread_1", bad))
    with pytest.raises(TypeError, match=r"^user_id is a string, not NoneType$"):
        driver.run(lambda client: client.users.delete(None))
    assert not peer.received


def test_a_thread(driver: Driver, peer: Peer) -> None:
    peer.plays(Answer(thread(user_id="ada", metadata={"a": "b"}, message_count=3, last_seq=4, of_tomorrow=[1])))
    stored = driver.run(lambda client: client.threads.get("thread_1"))
    assert stored.created_at == datetime(2026, 3, 1, 12, 30, 0, 250_000, tzinfo=UTC)
    assert (stored.user_id, stored.metadata, stored.message_count, stored.last_seq) == (
        "ada",
        {"a": "b"},
        3,
        4,
    )
    assert (stored.instructions, stored.tools, stored.active_run_id) == (None, [], None)
    assert stored.raw["of_tomorrow"] == [1]
    with pytest.raises(dataclasses.FrozenInstanceError):
        stored.user_id = "eve"


@pytest.mark.parametrize(
    ("sent", "offset"),
    [("2026-03-01T12:30:00Z", 0), ("2026-03-01T12:30:00", 0), ("2026-03-01T12:30:00+09:00", 9)],
)
def test_times_are_aware(driver: Driver, peer: Peer, sent: str, offset: int) -> None:
    peer.plays(Answer(thread(created_at=sent)))
    stored = driver.run(lambda client: client.threads.get("thread_1"))
    assert stored.created_at.utcoffset() == timedelta(hours=offset)
    assert stored.created_at.hour == 12


def test_messages_come_back_as_stored(driver: Driver, peer: Peer) -> None:
    peer.plays(Answer(page(message(1), message(2, "assistant", "Hi", token_count=None)).json, 201))
    first, second = driver.run(lambda client: client.threads.messages.append("thread_1", "user", "Hello"))
    assert (first.id, first.seq, first.role, first.token_count) == ("msg_1", 1, "user", 3)
    assert second.content == [{"type": "text", "text": "Hi"}]
    assert second.token_count is None


def test_a_prompt_explains_itself(driver: Driver, peer: Peer) -> None:
    peer.plays(Answer(PROMPT, 201))
    prompt = driver.run(lambda client: client.threads.prompts.build("thread_1", model="m"))
    assert type(prompt.request) is dict
    assert prompt.request == PROMPT["request"]
    assert (prompt.tokens.total, prompt.tokens.limit, prompt.tokens.recall) == (24, 1000, 7)
    assert prompt.tokens.raw["documents_of_tomorrow"] == 0
    assert (prompt.prediction.cost_usd, prompt.prediction.cost_usd_uncached) == (0.00012, None)
    assert (prompt.window.first_seq, prompt.window.trimmed, prompt.window.reason) == (3, True, "over_ceiling")
    assert (prompt.breakpoints[0].position, prompt.breakpoints[0].tokens_before) == ("system.0", 10)
    assert (prompt.recalled[0].message_id, prompt.recalled[0].excerpt) == ("msg_1", True)
    assert (prompt.omitted[0].last_seq, prompt.breaks[0].reason) == (2, "trimmed")


def test_a_prompt_of_which_little_is_known(driver: Driver, peer: Peer) -> None:
    peer.plays(Answer({"request": {}, "tokens": None}))
    prompt = driver.run(lambda client: client.threads.prompts.build("thread_1", dry_run=True))
    assert (prompt.id, prompt.tokens.total, prompt.window.trimmed, prompt.recalled) == ("", 0, False, [])


def test_search_hits(driver: Driver, peer: Peer) -> None:
    peer.plays(HITS, HITS)
    (found,) = driver.run(lambda client: client.threads.search("thread_1", "x & y", limit=5))
    assert peer.only_request.query == [("q", "x & y"), ("limit", "5")]
    assert (found.message_id, found.score, found.why["words"], found.message.seq) == ("msg_1", 0.5, 0.4, 1)
    assert driver.run(lambda client: client.search("x", user_id="ada")) == [found]


def test_search_hits_say_how_they_were_looked_for(driver: Driver, peer: Peer) -> None:
    recall = {"mode": "words", "reason": "embedder_unavailable", "pending": 2}
    peer.plays(Answer({"object": "list", "data": [hit()], "recall": recall}), HITS)
    found = driver.run(lambda client: client.threads.search("thread_1", "x"))
    assert (found.recall.mode, found.recall.reason, found.recall.pending) == ("words", "embedder_unavailable", 2)
    assert driver.run(lambda client: client.search("x", user_id="ada")).recall is None, "an older server"


def test_a_user(driver: Driver, peer: Peer) -> None:
    held = {"thread_count": 2, "message_count": 9, "prompt_count": 4, "first_thread_at": "2026-03-01T12:30:00Z"}
    peer.plays(Answer({"id": "ada", **held}), Answer({"id": "ada", "deleted": True, **held}))
    user = driver.run(lambda client: client.users.get("ada"))
    assert (user.id, user.thread_count, user.message_count, user.prompt_count) == ("ada", 2, 9, 4)
    assert (user.first_thread_at, user.last_thread_at) == (datetime(2026, 3, 1, 12, 30, tzinfo=UTC), None)
    erased = driver.run(lambda client: client.users.delete("ada"))
    assert (erased.id, erased.thread_count, erased.message_count, erased.prompt_count) == ("ada", 2, 9, 4)


def test_estimates(driver: Driver, peer: Peer) -> None:
    learnt = {"id": "openai/m", "provider": "openai", "model": "m", "observations": 5, "error": 0.02, "margin": 0.05}
    peer.plays(Answer({"object": "list", "data": [learnt]}), Answer({"deleted": True}))
    (estimate,) = driver.run(lambda client: client.estimates.list())
    assert (estimate.provider, estimate.model, estimate.observations) == ("openai", "m", 5)
    assert (estimate.calibrated, estimate.error, estimate.margin) == (False, 0.02, 0.05)
    driver.run(lambda client: client.estimates.delete(provider="openai", model="a/b&c"))
    assert peer.received[-1].query == [("provider", "openai"), ("model", "a/b&c")]


def test_usage(driver: Driver, peer: Peer) -> None:
    sums = {"calls": 2, "cache_read_tokens": 900, "cost_usd": 0.5, "saved_usd": None, "prediction_error": 0}
    group = {"id": "", "object": "usage", **sums}
    listed = {"object": "list", "data": [group], "first_id": "", "last_id": "", "has_more": True, "group_by": "user"}
    peer.plays(Answer({**listed, "totals": sums, "misses": {"trimmed": 1}}), Answer({"object": "list", "data": []}))
    day = datetime(2026, 3, 1, tzinfo=timezone(timedelta(hours=9)))
    found = driver.run(
        lambda client: client.usage.get(group_by="user", since=day, until="2026-04-01T00:00:00Z", after="")
    )
    assert peer.only_request.query == [
        ("group_by", "user"),
        ("since", "2026-03-01T00:00:00+09:00"),
        ("until", "2026-04-01T00:00:00Z"),
        ("after", ""),
    ]
    assert (found.data[0].id, found.data[0].calls, found.data[0].cost_usd) == ("", 2, 0.5)
    assert (found.totals.cache_read_tokens, found.totals.saved_usd, found.totals.prediction_error) == (900, None, 0.0)
    assert (found.misses, found.has_more, found.last_id, found.group_by) == ({"trimmed": 1}, True, "", "user")
    nothing = driver.run(lambda client: client.usage.get(user_id="ada"))
    assert (nothing.data, nothing.totals.calls) == ([], 0)
    with pytest.raises(ValueError, match=r"^since needs a time zone"):
        driver.run(lambda client: client.usage.get(since=datetime(2026, 3, 1)))


def test_health(driver: Driver, peer: Peer) -> None:
    peer.plays(Answer({"status": "ok", "version": "0.1.0"}))
    health = driver.run(lambda client: client.health())
    assert peer.only_request.path == "/healthz"
    assert (health.status, health.version) == ("ok", "0.1.0")


def test_methods_can_be_asked_for_help(driver: Driver) -> None:
    build = driver.client.threads.prompts.build
    assert "max_prompt_tokens" in inspect.signature(build).parameters
    assert "Build the next prompt" in build.__doc__
    assert build.__qualname__ in ("Prompts.build", "AsyncPrompts.build")
