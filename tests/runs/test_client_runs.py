"""The Python client's runs against the real service, in both of its forms."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import pytest
from memory_client import (
    ConflictError,
    MessageCompleted,
    MessageDelta,
    RunCreated,
    RunFailedError,
    RunStopped,
    ToolRoundTripsError,
    UnprocessableEntityError,
)

from tests.client.driver import AsyncDriver, Driver, SyncDriver
from tests.client.test_agreement import RUNS, disagreements, objects_in
from tests.conftest import Service
from tests.providers.scripted import ScriptedProvider, blocks, ok, stall, status, tool_use
from tests.runs.conftest import FORMS
from tests.runs.cutting import Cutter, cutting

MODEL = FORMS["anthropic"]


@pytest.fixture
def way(service: Service) -> Iterator[Cutter]:
    with cutting(service.url) as cutter:
        yield cutter


@pytest.fixture(params=[SyncDriver, AsyncDriver], ids=["sync", "async"])
def driver(request: pytest.FixtureRequest, way: Cutter, api_key: str, provider: ScriptedProvider) -> Iterator[Driver]:
    assert provider
    driver: Driver = request.param(base_url=way.url, api_key=api_key)
    yield driver
    driver.close()


@pytest.fixture
def thread(driver: Driver) -> str:
    created: str = driver.run(lambda client: client.threads.create()).id
    return created


def roles(driver: Driver, thread: str) -> list[str]:
    return [message.role for message in driver.collect(lambda client: client.threads.messages.list(thread))]


def test_a_stream(driver: Driver, thread: str, provider: ScriptedProvider) -> None:
    provider.script(ok("One two three.", delay=0.03))
    heard = driver.collect(lambda client: client.threads.runs.stream(thread, "Count.", model=MODEL))
    assert [event.seq for event in heard] == list(range(1, len(heard) + 1))
    assert isinstance(heard[0], RunCreated)
    assert isinstance(heard[-2], MessageCompleted)
    assert isinstance(heard[-1], RunStopped)
    assert "".join(e.text for e in heard if isinstance(e, MessageDelta)) == "One two three." == heard[-1].run.text
    assert heard[-1].run.reply == heard[-2].message


def test_cut_wherever_the_stream_goes_on(
    driver: Driver, thread: str, provider: ScriptedProvider, way: Cutter, api_key: str
) -> None:
    words = " ".join(f"word{number}" for number in range(20))
    provider.script(ok(words, delay=0.02))
    way.cuts = [0, 60, 700, 1300, 900]  # before the answer, in its head, and in events
    fresh = type(driver)(base_url=way.url, api_key=api_key, max_retries=5)
    try:
        heard = fresh.collect(lambda client: client.threads.runs.stream(thread, "Count.", model=MODEL))
    finally:
        fresh.close()
    assert way.cuts == []
    assert [event.seq for event in heard] == list(range(1, len(heard) + 1))
    assert "".join(e.text for e in heard if isinstance(e, MessageDelta)) == words
    assert len(provider.asked) == 1, "the run was started once"
    assert roles(driver, thread) == ["user", "assistant"]


def test_resumed_elsewhere(driver: Driver, thread: str, provider: ScriptedProvider) -> None:
    provider.script(ok("One two three.", delay=0.03))
    heard = driver.collect(lambda client: client.threads.runs.stream(thread, "Count.", model=MODEL))
    run = heard[-1].run
    rest = driver.collect(lambda client: client.threads.runs.resume(thread, run.id, after=heard[1].seq))
    assert [event.seq for event in rest] == [event.seq for event in heard[2:]]
    assert "".join(driver.collect(lambda client: client.threads.runs.resume(thread, run.id).text_deltas)) == run.text


def test_closing_a_stream_closes_its_connection_and_not_the_run(
    driver: Driver, thread: str, provider: ScriptedProvider, way: Cutter
) -> None:
    provider.script(stall("One two three.", after=2))
    stream = driver.run(lambda client: _first_text(client, thread))
    way.wait_until_open(0)
    run = stream.run
    assert driver.run(lambda client: client.threads.runs.get(thread, run.id)).status == "in_progress"
    with pytest.raises(ConflictError) as caught:
        driver.run(lambda client: client.threads.runs.create(thread, "And?", model=MODEL))
    assert caught.value.code == "thread_busy"
    driver.run(lambda client: client.threads.runs.cancel(thread, run.id))
    ended = driver.collect(lambda client: client.threads.runs.resume(thread, run.id, after=stream.last_seq))[-1].run
    assert (ended.status, ended.reply.status) == ("cancelled", "incomplete")
    assert ended.text.startswith("One")


def _first_text(client: Any, thread: str) -> Any:
    """The stream, closed behind the first text."""
    stream = client.threads.runs.stream(thread, "Count.", model=MODEL)
    if hasattr(stream, "__iter__"):
        with stream:
            next(stream.text_deltas)
        return stream

    async def awaited() -> Any:
        async with stream:
            await anext(stream.text_deltas)
        return stream

    return awaited()


def test_a_chat(driver: Driver, thread: str, provider: ScriptedProvider) -> None:
    provider.script(ok("Hello, Ada."), ok("One two", stop_reason="max_tokens"))
    reply = driver.run(lambda client: client.chat(thread, "Hi", model=MODEL))
    assert (reply.text, reply.incomplete_reason, reply.run.status) == ("Hello, Ada.", None, "completed")
    assert (reply.message.role, reply.usage.calls) == ("assistant", 1)
    assert reply.usage.cost_usd > 0
    cut = driver.run(lambda client: client.chat(thread, "Count.", model=MODEL, max_output_tokens=2))
    assert (cut.text, cut.incomplete_reason) == ("One two", "max_output_tokens")
    listed = driver.collect(lambda client: client.threads.runs.list(thread))
    assert [run.id for run in listed] == [cut.run.id, reply.run.id]


def test_what_the_prompt_cache_saved(driver: Driver, thread: str, provider: ScriptedProvider) -> None:
    read = {"cache_read_input_tokens": 10_000, "cache_creation_input_tokens": 0, "input_tokens": 10}
    written = {"cache_read_input_tokens": 0, "cache_creation_input_tokens": 10_000, "input_tokens": 10}
    provider.script(ok(usage=written), ok(usage=read))
    first, second = (driver.run(lambda client: client.chat(thread, "Hi", model=MODEL)).usage for _ in range(2))
    assert first.saved_usd < 0 < second.saved_usd
    assert first.cost_usd == pytest.approx(second.cost_usd + second.saved_usd - first.saved_usd)
    ledger = driver.run(lambda client: client.usage.get(thread_id=thread)).totals
    assert ledger.saved_usd == pytest.approx(first.saved_usd + second.saved_usd)
    assert ledger.total_usd == pytest.approx(first.cost_usd + second.cost_usd)


def test_a_chat_that_fails(driver: Driver, thread: str, provider: ScriptedProvider) -> None:
    provider.script(status(400, message="no such model"))
    with pytest.raises(RunFailedError, match="no such model") as caught:
        driver.run(lambda client: client.chat(thread, "Hi", model=MODEL))
    assert caught.value.run.status == "failed"
    assert caught.value.code == caught.value.run.last_error.code
    assert driver.run(lambda client: client.chat(thread, model=MODEL)).text == "Hello there."  # once more


def test_functions_as_tools(driver: Driver, thread: str, provider: ScriptedProvider) -> None:
    called: list[str] = []

    def look(where: Annotated[str, "a place"]) -> list[str]:
        """Look somewhere."""
        called.append(where)
        if where == "boat":
            raise OSError("it leaks")
        return ["a rod"]

    provider.script(
        blocks(
            {"type": "tool_use", "id": "call_a", "name": "look", "input": {"where": "shed"}},
            {"type": "tool_use", "id": "call_b", "name": "look", "input": {"where": "boat"}},
            {"type": "tool_use", "id": "call_c", "name": "look", "input": {"how": "well"}},
        ),
        ok("In the shed."),
    )
    reply = driver.run(lambda client: client.chat(thread, "Where is the rod?", model=MODEL, tools=[look]))
    assert (reply.text, reply.usage.calls, sorted(called)) == ("In the shed.", 2, ["boat", "shed"])
    told = provider.asked[0].body["tools"][0]
    assert (told["description"], told["input_schema"]["required"]) == ("Look somewhere.", ["where"])
    results = provider.asked[1].body["messages"][-1]["content"]
    assert [(r["tool_use_id"], r.get("is_error", False), _text(r)) for r in results] == [
        ("call_a", False, '["a rod"]'),
        ("call_b", True, "OSError: it leaks"),
        ("call_c", True, "TypeError: missing a required argument: 'where'"),
    ]


def _text(result: dict[str, Any]) -> str:
    content = result["content"]
    return content if isinstance(content, str) else "".join(block["text"] for block in content)


def test_a_model_that_never_stops_calling(driver: Driver, thread: str, provider: ScriptedProvider) -> None:
    def look() -> str:
        return "nothing"

    provider.respond = lambda asked: tool_use("look", {}, call_id=f"call_{len(provider.asked)}")
    with pytest.raises(ToolRoundTripsError, match="more than 3 times") as caught:
        driver.run(
            lambda client: client.threads.runs.run(thread, "Look.", model=MODEL, tools=[look], max_round_trips=3)
        )
    assert (caught.value.run.status, len(provider.asked)) == ("cancelled", 4)
    provider.respond = lambda asked: ok()
    assert driver.run(lambda client: client.chat(thread, "Never mind.", model=MODEL)).text == "Hello there."


class Interrupted(BaseException):
    """As Ctrl-C."""


@pytest.mark.parametrize(
    ("output", "error"),
    [(Interrupted(), Interrupted), ("\0", UnprocessableEntityError)],
    ids=["interrupted", "refused"],
)
def test_calls_that_nobody_will_answer(
    driver: Driver, thread: str, provider: ScriptedProvider, output: Any, error: type[BaseException]
) -> None:
    def look() -> str:
        if isinstance(output, BaseException):
            raise output
        return str(output)

    provider.script(tool_use("look", {}))
    with pytest.raises(error):
        driver.run(lambda client: client.chat(thread, "Look.", model=MODEL, tools=[look]))
    assert driver.run(lambda client: client.threads.get(thread)).active_run_id is None
    (run,) = driver.collect(lambda client: client.threads.runs.list(thread))
    assert run.status == "cancelled"


def test_half_a_character(driver: Driver, thread: str, provider: ScriptedProvider) -> None:
    def look() -> str:
        return "\ud800"

    def find() -> str:
        raise OSError("\udc80")

    provider.script(
        blocks(*({"type": "tool_use", "id": n, "name": n, "input": {}} for n in ("look", "find"))), ok("So.")
    )
    assert driver.run(lambda client: client.chat(thread, "Look.", model=MODEL, tools=[look, find])).text == "So."
    assert all(result["is_error"] for result in provider.asked[1].body["messages"][-1]["content"])


def test_tools_by_hand(driver: Driver, thread: str, provider: ScriptedProvider) -> None:
    tools = [{"name": "look", "input_schema": {"type": "object"}}]
    provider.script(tool_use("look", {"where": "shed"}), ok("There."))
    run = driver.run(lambda client: client.threads.runs.create(thread, "Look.", model=MODEL, tools=tools, wait=True))
    (call,) = run.tool_calls
    assert (run.status, call.name, call.input) == ("requires_action", "look", {"where": "shed"})
    outputs = [{"tool_use_id": call.id, "content": "a rod"}]
    heard = driver.collect(lambda client: client.threads.runs.stream_tool_outputs(thread, run.id, outputs))
    assert (heard[-1].run.status, heard[-1].run.text) == ("completed", "There.")
    assert roles(driver, thread) == ["user", "assistant", "user", "assistant"]
    whole = driver.collect(lambda client: client.threads.runs.resume(thread, run.id))
    assert [event.seq for event in whole] == list(range(1, len(whole) + 1))
    assert whole[-1].seq == heard[-1].seq


def test_service_and_client_agree(driver: Driver, thread: str, provider: ScriptedProvider) -> None:
    provider.script(tool_use("look", {"where": "shed"}), ok("There."), status(400))
    tools = [{"name": "look", "input_schema": {"type": "object"}}]
    heard = driver.collect(lambda client: client.threads.runs.stream(thread, "Look.", model=MODEL, tools=tools))
    outputs = [{"tool_use_id": "toolu_1", "content": "a rod"}]
    run_id = heard[-1].run.id
    heard += driver.collect(lambda client: client.threads.runs.stream_tool_outputs(thread, run_id, outputs))
    heard.append(driver.run(lambda client: client.threads.runs.create(thread, "Hi", model=MODEL, wait=True)))
    assert heard[-1].last_error
    found = list(objects_in(heard))
    assert disagreements(found) == {}
    assert {type(one) for one in found} >= RUNS
