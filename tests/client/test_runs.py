"""Runs over the wire, as both clients send and hear them. tests/runs/test_client_runs.py has the real service."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from memory_client import (
    APIConnectionError,
    APIResponseValidationError,
    ConflictError,
    MessageDelta,
    PromptBuilt,
    RunCreated,
    RunFailedError,
    RunStopped,
)
from memory_client._async import AsyncRuns
from memory_client._async_results import AsyncRunStream
from memory_client._endpoints.runs import RunFields
from memory_client._sync import Runs
from memory_client._sync_results import RunStream

from memory_service.api.run_wire import RunCreate

from .answers import TIME, message, page
from .driver import Driver
from .peer import Answer, Drop, Peer, error

PATH = "/v1/threads/thread_1/runs"


def run(status: str = "completed", text: str = "One two.", **fields: Any) -> dict[str, Any]:
    reply = message(2, "assistant", text)
    return {"id": "run_1", "thread_id": "thread_1", "status": status, "created_at": TIME, "reply": reply, **fields}


def sse(id_: int | None, event: str, data: Any) -> bytes:
    name = f"id: {id_}\n" if id_ else ""
    return f"event: {event}\ndata: {json.dumps(data)}\n{name}\n".encode()


def delta(id_: int, text: str, type_: str = "text") -> bytes:
    return sse(id_, "message.delta", {"message_id": "msg_2", "index": 0, "type": type_, "text": text})


CREATED = sse(1, "run.created", {"run": run("in_progress")})
PROMPT = sse(2, "prompt.built", {"prompt_id": "prompt_1", "tokens": {"total": 7}})
ENDED = sse(6, "run.completed", {"run": run()})
EVENTS = (
    CREATED + PROMPT + b": keep-alive\n\n" + delta(3, "hm", "thinking") + delta(4, "One ") + delta(5, "two.") + ENDED
)
STREAM = {"content-type": "text/event-stream"}


def answer(body: bytes) -> Answer:
    return Answer(body=body, headers=STREAM)


def test_a_run_is_created_with_all_its_fields(driver: Driver, peer: Peer) -> None:
    fields: dict[str, Any] = {
        "model": "m", "provider": "anthropic", "max_prompt_tokens": 1000, "max_output_tokens": 10,
        "truncation_strategy": {"type": "auto"}, "recall": False, "context": [], "cache": False,
        "parameters": {"temperature": 0}, "run_budget": {"cost_usd": 1}, "timeout_seconds": 5, "tool_timeout_seconds": 6,
        "on_busy": "queue", "metadata": {"a": "b"},
    }  # fmt: skip
    assert fields.keys() == RunFields.__annotations__.keys()
    assert RunCreate.model_fields.keys() == fields.keys() | {"message", "tools", "stream", "wait"}
    peer.plays(Answer(run("in_progress"), 201))
    tools = [{"name": "look", "input_schema": {}}]
    started = driver.run(lambda client: client.threads.runs.create("thread_1", "Hi", tools=tools, **fields))
    assert (started.id, started.status, started.usage.calls) == ("run_1", "in_progress", 0)
    sent = peer.only_request
    assert (sent.method, sent.path) == ("POST", PATH)
    assert sent.json == {"message": {"role": "user", "content": "Hi"}, "tools": tools, **fields}


def test_a_field_that_is_none(driver: Driver, peer: Peer) -> None:
    with pytest.raises(TypeError, match="a run takes no 'modle'"):
        driver.run(lambda client: client.threads.runs.create("thread_1", "Hi", modle="m"))
    assert not peer.received


def test_the_other_calls(driver: Driver, peer: Peer) -> None:
    peer.plays(Answer(run()), page(run()), Answer(run("cancelled")), Answer(run("in_progress")))
    assert driver.run(lambda client: client.threads.runs.get("thread_1", "run_1")).text == "One two."
    assert driver.run(lambda client: client.threads.runs.list("thread_1", limit=3)).data[0].id == "run_1"
    assert driver.run(lambda client: client.threads.runs.cancel("thread_1", "run_1")).status == "cancelled"
    outputs = [{"tool_use_id": "call_1", "content": "x"}]
    driver.run(lambda client: client.threads.runs.submit_tool_outputs("thread_1", "run_1", outputs))
    assert [(r.method, r.path.removeprefix(PATH)) for r in peer.received] == [
        ("GET", "/run_1"), ("GET", ""), ("POST", "/run_1/cancel"), ("POST", "/run_1/tool_outputs")
    ]  # fmt: skip
    assert peer.received[1].query == [("limit", "3")]
    assert peer.received[3].json == {"tool_outputs": outputs}


def test_a_busy_thread_is_not_tried_again(driver: Driver, peer: Peer) -> None:
    peer.plays(error(409, "thread_busy"), Answer(run(), 201))
    with pytest.raises(ConflictError) as caught:
        driver.run(lambda client: client.threads.runs.create("thread_1", "Hi"))
    assert caught.value.code == "thread_busy"
    assert len(peer.received) == 1


def test_events_are_typed(driver: Driver, peer: Peer) -> None:
    peer.plays(answer(EVENTS))
    heard = driver.collect(lambda client: client.threads.runs.stream("thread_1", "Hi"))
    assert [type(event) for event in heard] == [RunCreated, PromptBuilt, *[MessageDelta] * 3, RunStopped]
    assert [event.seq for event in heard] == [1, 2, 3, 4, 5, 6]
    assert (heard[1].tokens.total, heard[2].type, heard[3].text) == (7, "thinking", "One ")
    assert (heard[-1].event, heard[-1].run.reply.seq) == ("run.completed", 2)
    assert peer.only_request.json == {"message": {"role": "user", "content": "Hi"}, "stream": True}


def test_the_text_alone(driver: Driver, peer: Peer) -> None:
    peer.plays(answer(EVENTS))
    assert driver.collect(lambda client: client.threads.runs.stream("thread_1", "Hi").text_deltas) == ["One ", "two."]


def test_an_event_of_a_later_server_is_passed_over(driver: Driver, peer: Peer) -> None:
    unknown = sse(2, "run.applauded", {"by": "all"})
    peer.plays(answer(CREATED + unknown), answer(ENDED))
    heard = driver.collect(lambda client: client.threads.runs.stream("thread_1", "Hi"))
    assert [event.seq for event in heard] == [1, 6]
    assert peer.received[1].headers["last-event-id"] == "2"


# In front of each end of an event, behind it, and within.
BREAKS = sorted(
    {at + more for at in range(len(EVENTS) - 20) if EVENTS[at : at + 2] == b"\n\n" for more in (0, 1, 2, 20)}
)


@pytest.mark.parametrize("at", [0, 1, *BREAKS])
def test_broken_anywhere_nothing_is_missed_and_nothing_twice(driver: Driver, peer: Peer, at: int) -> None:
    heard_before = EVENTS[:at].rpartition(b"\n\n")[0] + b"\n\n"
    last = heard_before.count(b"id: ")
    rest = EVENTS if not last else b"".join(e + b"\n\n" for e in EVENTS.split(b"\n\n")[:-1] if _id(e) > last)
    peer.plays(answer(EVENTS[:at]), answer(rest))
    heard = driver.collect(lambda client: client.threads.runs.stream("thread_1", "Hi"))
    assert [event.seq for event in heard] == [1, 2, 3, 4, 5, 6]
    first, *second = peer.received
    if last == 0:
        assert (second[0].method, second[0].key, second[0].body) == ("POST", first.key, first.body)
    elif last < 6:
        assert (second[0].path, second[0].query) == (f"{PATH}/run_1", [("stream", "true")])
        assert second[0].headers["last-event-id"] == str(last)


def _id(event: bytes) -> int:
    return int(event.partition(b"id: ")[2] or 0)


@pytest.mark.usefixtures("short_backoff")
def test_a_stream_that_breaks_over_and_over(new_driver: Callable[..., Driver], peer: Peer) -> None:
    progress = [answer(delta(seq, "x")) for seq in range(2, 8)]
    peer.plays(answer(CREATED), *progress, *[Drop(after=b": keep-alive\n\n")] * 3, answer(ENDED))
    stream: list[Any] = []
    driver = new_driver(max_retries=2)
    with pytest.raises(APIConnectionError):
        driver.collect(lambda client: _noted(stream, client.threads.runs.stream("thread_1", "Hi")))
    assert len(peer.received) == 1 + 6 + 2, "what brings something new counts for nothing"
    assert (stream[0].last_seq, stream[0].run.id) == (7, "run_1")


def _noted(where: list[Any], stream: Any) -> Any:
    where.append(stream)
    return stream


def test_a_stream_that_makes_no_sense(driver: Driver, peer: Peer) -> None:
    for bad in (b"data: {\n\n", b"data: \xff\n\n", sse(1, "run.created", {"run": {}}), b"id: x\ndata: {}\n\n"):
        peer.plays(answer(bad))
        with pytest.raises(APIResponseValidationError):
            driver.collect(lambda client: client.threads.runs.stream("thread_1", "Hi"))


def test_resumed_behind_an_event(driver: Driver, peer: Peer) -> None:
    peer.plays(answer(ENDED), answer(sse(None, "run.completed", {"run": run()})))
    (last,) = driver.collect(lambda client: client.threads.runs.resume("thread_1", "run_1", after=5))
    assert peer.only_request.headers["last-event-id"] == "5"
    (again,) = driver.collect(lambda client: client.threads.runs.resume("thread_1", "run_1"))
    assert (last.seq, again.seq, again.run.status) == (6, None, "completed")
    assert "last-event-id" not in peer.received[1].headers


def test_waiting_follows_the_run(driver: Driver, peer: Peer) -> None:
    """A connection on which nothing comes for minutes is cut by somebody: events, and keep-alives, keep it open."""
    peer.plays(answer(EVENTS), answer(ENDED))
    assert driver.run(lambda client: client.threads.runs.create("thread_1", "Hi", wait=True)).text == "One two."
    assert peer.only_request.json["stream"] is True
    done = driver.run(lambda client: client.threads.runs.submit_tool_outputs("thread_1", "run_1", [], wait=True))
    assert (done.status, peer.received[1].path) == ("completed", f"{PATH}/run_1/tool_outputs")


def test_a_run_that_waited_for_tools_and_went_on(driver: Driver, peer: Peer) -> None:
    waited = sse(2, "run.requires_action", {"run": run("in_progress")})
    peer.plays(answer(CREATED + waited), answer(ENDED))
    heard = driver.collect(lambda client: client.threads.runs.resume("thread_1", "run_1"))
    assert [event.seq for event in heard] == [1, 2, 6]


def test_chat(driver: Driver, peer: Peer) -> None:
    used = {"cost_usd": 0.25, "prompt_tokens": 9}
    peer.plays(answer(sse(1, "run.incomplete", {"run": run("incomplete", usage=used, incomplete_reason="cost_usd")})))
    reply = driver.run(lambda client: client.chat("thread_1", "Hi", model="m"))
    assert (str(reply), reply.text, reply.message.seq, reply.incomplete_reason) == (
        "One two.",
        "One two.",
        2,
        "cost_usd",
    )
    assert (reply.run.id, reply.usage.cost_usd, reply.usage.prompt_tokens) == ("run_1", 0.25, 9)


@pytest.mark.parametrize(
    ("fields", "code", "text"),
    [
        ({"status": "failed", "last_error": {"code": "provider_error", "message": "No."}}, "provider_error", "No."),
        ({"status": "cancelled"}, "cancelled", "the run is cancelled"),
        (
            {
                "status": "requires_action",
                "required_action": {"type": "tool_outputs", "tool_calls": [{"id": "1", "name": "look", "input": {}}]},
            },
            "requires_action",
            "it waits for tools: look",
        ),
    ],
)
def test_a_chat_without_a_reply(driver: Driver, peer: Peer, fields: dict[str, Any], code: str, text: str) -> None:
    peer.plays(answer(sse(1, f"run.{fields['status']}", {"run": run(**fields)})))
    with pytest.raises(RunFailedError) as caught:
        driver.run(lambda client: client.chat("thread_1", "Hi"))
    assert (caught.value.code, caught.value.message, caught.value.run.id) == (code, text, "run_1")
    assert str(caught.value) == f"{code}: {text} (run_id=run_1)"


def test_both_clients_have_the_same() -> None:
    for pair in ((Runs, AsyncRuns), (RunStream, AsyncRunStream)):
        ours, theirs = ({name for name in vars(kind) if not name.startswith("_")} for kind in pair)
        assert ours == theirs
