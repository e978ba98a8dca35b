"""Runs as products of OpenAI's SDK use them, on a service that asks a scripted provider."""

from __future__ import annotations

import json
from typing import Any

import httpx2
import openai
import pytest
from openai import AssistantEventHandler, OpenAI
from openai.types.beta import Assistant, Thread
from openai.types.beta.threads import Run

from tests.openai_edge.conftest import DEPRECATED_API, refused
from tests.providers.scripted import ScriptedProvider, blocks, ok, stall, status, tool_use

pytestmark = DEPRECATED_API
FORMS = {"anthropic": "claude-sonnet-5", "openai": "gpt-5.4"}
LOOK: Any = {
    "type": "function",
    "function": {
        "name": "look",
        "description": "Look somewhere.",
        "parameters": {"type": "object", "properties": {"where": {"type": "string"}}},
    },
}


@pytest.fixture(params=FORMS)
def model(request: pytest.FixtureRequest) -> str:
    return FORMS[request.param]


@pytest.fixture
def assistant(client: OpenAI) -> Assistant:
    return client.beta.assistants.create(model=FORMS["openai"], instructions="Be brief.")


@pytest.fixture
def thread(client: OpenAI) -> Thread:
    return client.beta.threads.create(messages=[{"role": "user", "content": "Hello?"}])


def polled(client: OpenAI, thread: Thread, assistant: Assistant, **fields: Any) -> Run:
    return client.beta.threads.runs.create_and_poll(
        thread_id=thread.id, assistant_id=assistant.id, poll_interval_ms=20, **fields
    )


def texts(client: OpenAI, thread: Thread) -> list[str]:
    """Of all messages, the newest first."""
    found = client.beta.threads.messages.list(thread.id)
    return ["".join(part.text.value for part in m.content if part.type == "text") for m in found]


def system_of(provider: ScriptedProvider) -> str:
    body = provider.asked[-1].body
    system = body.get("system") or body["messages"][0]["content"]
    return "\n".join(block["text"] for block in system)


def shown_to(provider: ScriptedProvider) -> str:
    return json.dumps(provider.asked[-1].body["messages"])


def test_a_conversation(client: OpenAI, provider: ScriptedProvider, model: str, thread: Thread) -> None:
    provider.script(ok("Hello there."), ok("A fine day."))
    assistant = client.beta.assistants.create(model=model, instructions="Be brief.", temperature=0.5)
    run = client.beta.threads.runs.create(thread_id=thread.id, assistant_id=assistant.id)
    assert run.status == "queued"
    ended = client.beta.threads.runs.poll(run.id, thread_id=thread.id, poll_interval_ms=20)
    assert ended.status == "completed", ended
    assert (ended.assistant_id, ended.instructions, ended.model) == (assistant.id, "Be brief.", model)
    assert ended.completed_at
    assert not ended.expires_at
    assert provider.asked[-1].body["temperature"] == 0.5
    assert system_of(provider) == "Be brief."
    client.beta.threads.messages.create(thread.id, role="user", content="And now?")
    assert polled(client, thread, assistant).status == "completed"
    assert texts(client, thread) == ["A fine day.", "And now?", "Hello there.", "Hello?"]
    newest = client.beta.threads.messages.list(thread.id, run_id=run.id).data
    assert [(m.role, m.assistant_id, m.run_id, m.status) for m in newest] == [
        ("assistant", assistant.id, run.id, "completed")
    ]


def test_create_thread_run_and_poll(client: OpenAI, provider: ScriptedProvider, assistant: Assistant) -> None:
    provider.script(ok("Hello there."))
    run = client.beta.threads.create_and_run_poll(
        assistant_id=assistant.id,
        thread={"messages": [{"role": "user", "content": "Hello?"}], "metadata": {"k": "v"}},
        poll_interval_ms=20,
    )
    thread = client.beta.threads.retrieve(run.thread_id)
    assert (run.status, thread.metadata) == ("completed", {"k": "v"})
    assert texts(client, thread) == ["Hello there.", "Hello?"]


def test_a_thread_that_asks_nothing(client: OpenAI, assistant: Assistant) -> None:
    run = client.beta.threads.create_and_run_poll(assistant_id=assistant.id, poll_interval_ms=20)
    assert run.status == "failed"
    assert run.last_error
    assert run.last_error.code == "invalid_prompt"


class Heard(AssistantEventHandler):
    def __init__(self) -> None:
        super().__init__()
        self.events: list[str] = []
        self.said = ""
        self.ended: list[str] = []

    def on_event(self, event: Any) -> None:
        self.events.append(event.event)

    def on_text_delta(self, delta: Any, snapshot: Any) -> None:
        self.said += delta.value

    def on_message_done(self, message: Any) -> None:
        self.ended.append(message.content[0].text.value)


def test_streaming(client: OpenAI, provider: ScriptedProvider, model: str, thread: Thread) -> None:
    provider.script(ok("One two three."))
    assistant = client.beta.assistants.create(model=model)
    heard = Heard()
    with client.beta.threads.runs.stream(thread_id=thread.id, assistant_id=assistant.id, event_handler=heard) as stream:
        stream.until_done()
        final = stream.get_final_run()
        steps = stream.get_final_run_steps()
        messages = stream.get_final_messages()
    assert (final.status, heard.said, heard.ended) == ("completed", "One two three.", ["One two three."])
    assert [step.type for step in steps] == ["message_creation"]
    (part,) = messages[0].content
    assert part.type == "text"
    assert part.text.value == "One two three."
    once = [name for name in heard.events if name != "thread.message.delta"]
    assert once == [
        "thread.run.created",
        "thread.run.queued",
        "thread.run.in_progress",
        "thread.run.step.created",
        "thread.run.step.in_progress",
        "thread.message.created",
        "thread.message.in_progress",
        "thread.message.completed",
        "thread.run.step.completed",
        "thread.run.completed",
    ]


def test_a_stream_ends_with_done(edge: httpx2.Client, assistant: Assistant, thread: Thread) -> None:
    body = {"assistant_id": assistant.id, "stream": True}
    answer = edge.post(f"/threads/{thread.id}/runs", json=body)
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.text.endswith("event: done\ndata: [DONE]\n\n")


def test_streaming_a_thread_and_its_run(client: OpenAI, provider: ScriptedProvider, assistant: Assistant) -> None:
    provider.script(ok("One two three."))
    with client.beta.threads.create_and_run_stream(
        assistant_id=assistant.id, thread={"messages": [{"role": "user", "content": "Count."}]}
    ) as stream:
        names = [event.event for event in stream]
    assert names[0] == "thread.created"
    assert names[-1] == "thread.run.completed"


def _calls() -> Any:
    return blocks(
        {"type": "text", "text": "Let me look."},
        {"type": "tool_use", "id": "call_a", "name": "look", "input": '{"where": "shed", "depth": 1.50}'},
        {"type": "tool_use", "id": "call_b", "name": "look", "input": '{"where": "boat"}'},
    )


OUTPUTS: Any = [{"tool_call_id": "call_b", "output": "the rod"}, {"tool_call_id": "call_a", "output": ""}]


def test_tools(client: OpenAI, provider: ScriptedProvider, model: str, thread: Thread) -> None:
    provider.script(_calls(), ok("In the boat."))
    assistant = client.beta.assistants.create(model=model, tools=[LOOK])
    run = polled(client, thread, assistant)
    assert run.status == "requires_action", run
    assert run.required_action
    calls = run.required_action.submit_tool_outputs.tool_calls
    assert [(call.id, call.function.name, call.function.arguments) for call in calls] == [
        ("call_a", "look", '{"where":"shed","depth":1.50}'),
        ("call_b", "look", '{"where":"boat"}'),
    ]
    missing = refused(
        lambda: client.beta.threads.runs.submit_tool_outputs(run.id, thread_id=thread.id, tool_outputs=OUTPUTS[:1])
    )
    assert missing.status_code == 400
    assert "'call_a'" in missing.message
    nameless: Any = [{"output": "x"}, {"output": "y"}]
    unclear = refused(
        lambda: client.beta.threads.runs.submit_tool_outputs(run.id, thread_id=thread.id, tool_outputs=nameless)
    )
    assert (unclear.status_code, unclear.param) == (400, "tool_outputs[0].tool_call_id")
    ended = client.beta.threads.runs.submit_tool_outputs_and_poll(
        run_id=run.id, thread_id=thread.id, tool_outputs=OUTPUTS, poll_interval_ms=20
    )
    assert (ended.status, ended.required_action) == ("completed", None)
    assert texts(client, thread) == ["In the boat.", "Let me look.", "Hello?"]
    steps = client.beta.threads.runs.steps.list(run.id, thread_id=thread.id, order="asc").data
    assert [(step.type, step.status) for step in steps] == [
        ("message_creation", "completed"),
        ("tool_calls", "completed"),
        ("message_creation", "completed"),
    ]
    assert ended.usage
    counted = [step.usage for step in steps if step.usage]
    assert len(counted) == 2, "one for each call of the model"
    assert sum(usage.prompt_tokens for usage in counted) == ended.usage.prompt_tokens > 0
    assert sum(usage.completion_tokens for usage in counted) == ended.usage.completion_tokens > 0
    details = steps[1].step_details
    assert details.type == "tool_calls"
    assert [call.to_dict()["function"] for call in details.tool_calls] == [
        {"name": "look", "arguments": '{"where":"shed","depth":1.50}', "output": ""},
        {"name": "look", "arguments": '{"where":"boat"}', "output": "the rod"},
    ]
    again = client.beta.threads.runs.steps.retrieve(steps[1].id, thread_id=thread.id, run_id=run.id)
    assert again == steps[1]
    paged = list(client.beta.threads.runs.steps.list(run.id, thread_id=thread.id, limit=1))
    assert [step.id for step in paged] == [step.id for step in steps[::-1]]


def test_the_only_call_needs_no_name(client: OpenAI, provider: ScriptedProvider, thread: Thread) -> None:
    provider.script(tool_use("look", {}), ok("In the boat."))
    assistant = client.beta.assistants.create(model=FORMS["openai"], tools=[LOOK])
    run = polled(client, thread, assistant)
    ended = client.beta.threads.runs.submit_tool_outputs_and_poll(
        run_id=run.id, thread_id=thread.id, tool_outputs=[{"output": "the rod"}], poll_interval_ms=20
    )
    assert ended.status == "completed"
    assert "the rod" in shown_to(provider)


def test_tools_in_streams(client: OpenAI, provider: ScriptedProvider, model: str, thread: Thread) -> None:
    provider.script(_calls(), ok("In the boat."))
    assistant = client.beta.assistants.create(model=model, tools=[LOOK])
    with client.beta.threads.runs.stream(thread_id=thread.id, assistant_id=assistant.id) as stream:
        names = [event.event for event in stream]
        run = stream.get_final_run()
        called = stream.get_final_run_steps()[-1].step_details
    assert (names[-1], run.status) == ("thread.run.requires_action", "requires_action")
    assert called.type == "tool_calls"
    first = called.tool_calls[0]
    assert first.type == "function"
    assert json.loads(first.function.arguments) == {"where": "shed", "depth": 1.5}
    with client.beta.threads.runs.submit_tool_outputs_stream(
        run_id=run.id, thread_id=thread.id, tool_outputs=OUTPUTS
    ) as stream:
        names = [event.event for event in stream]
        assert stream.get_final_run().status == "completed"
    assert names[:3] == ["thread.run.step.completed", "thread.run.queued", "thread.run.in_progress"]


def test_locks_are_400_and_in_openais_words(client: OpenAI, provider: ScriptedProvider, thread: Thread) -> None:
    provider.script(tool_use("look", {}))
    assistant = client.beta.assistants.create(model=FORMS["openai"], tools=[LOOK])
    run = polled(client, thread, assistant)
    for call, told in (
        (
            lambda: client.beta.threads.messages.create(thread.id, role="user", content="Wait."),
            f"Can't add messages to {thread.id} while a run {run.id} is active.",
        ),
        (
            lambda: client.beta.threads.runs.create(thread.id, assistant_id=assistant.id),
            f"Thread {thread.id} already has an active run {run.id}.",
        ),
    ):
        error = refused(call)
        assert isinstance(error, openai.BadRequestError)
        assert isinstance(error.body, dict)
        assert error.body == {"message": told, "type": "invalid_request_error", "param": None, "code": None}


def test_cancelling(client: OpenAI, provider: ScriptedProvider, assistant: Assistant, thread: Thread) -> None:
    provider.script(stall("One two three.", after=2))
    run = client.beta.threads.runs.create(thread.id, assistant_id=assistant.id)
    provider.wait_until(lambda: provider.connections > 0 and len(provider.asked) == 1)
    assert client.beta.threads.runs.cancel(run.id, thread_id=thread.id).status == "cancelling"
    ended = client.beta.threads.runs.poll(run.id, thread_id=thread.id, poll_interval_ms=20)
    assert ended.status == "cancelled"
    assert ended.cancelled_at
    error = refused(lambda: client.beta.threads.runs.cancel(run.id, thread_id=thread.id))
    assert error.status_code == 400
    assert "Cannot cancel run with status 'cancelled'." in str(error)
    late = refused(
        lambda: client.beta.threads.runs.submit_tool_outputs(run.id, thread_id=thread.id, tool_outputs=OUTPUTS)
    )
    assert 'Runs in status "cancelled" do not accept tool outputs.' in str(late)


def test_what_went_wrong(client: OpenAI, provider: ScriptedProvider, assistant: Assistant, thread: Thread) -> None:
    provider.respond = lambda asked: status(429, retry_after="3600")
    run = polled(client, thread, assistant)
    assert run.last_error
    assert (run.status, run.last_error.code) == ("failed", "rate_limit_exceeded")
    provider.respond = lambda asked: status(400)
    run = polled(client, thread, assistant)
    assert run.last_error
    assert (run.last_error.code, bool(run.failed_at)) == ("invalid_prompt", True)


def test_instructions_of_a_run(client: OpenAI, provider: ScriptedProvider, model: str, thread: Thread) -> None:
    assistant = client.beta.assistants.create(model=model, instructions="Be brief.")
    run = polled(client, thread, assistant, instructions="Be long.", additional_instructions="And kind.")
    assert system_of(provider) == "Be long.\nAnd kind."
    assert run.instructions == "Be long.\nAnd kind."
    client.beta.threads.messages.create(thread.id, role="user", content="And now?")
    polled(client, thread, assistant, additional_instructions="And kind.")
    assert system_of(provider) == "Be brief.\nAnd kind."
    client.beta.threads.messages.create(thread.id, role="user", content="And now?")
    polled(client, thread, assistant)
    assert system_of(provider) == "Be brief."


def test_a_run_brings_messages(client: OpenAI, provider: ScriptedProvider, assistant: Assistant) -> None:
    thread = client.beta.threads.create()
    given: Any = [
        {"role": "user", "content": "One?"},
        {"role": "assistant", "content": "1"},
        {"role": "user", "content": "Two?"},
    ]
    provider.script(ok("2"))
    polled(client, thread, assistant, additional_messages=given)
    assert texts(client, thread) == ["2", "Two?", "1", "One?"]


def test_what_is_chosen_reaches_the_model(client: OpenAI, provider: ScriptedProvider, thread: Thread) -> None:
    assistant = client.beta.assistants.create(model=FORMS["openai"], tools=[LOOK], top_p=0.5, reasoning_effort="low")
    chosen: Any = {
        "temperature": 0.25,
        "tool_choice": {"type": "function", "function": {"name": "look"}},
        "parallel_tool_calls": False,
        "response_format": {"type": "json_schema", "json_schema": {"name": "place", "schema": {"type": "object"}}},
    }
    run = polled(client, thread, assistant, **chosen)
    sent = provider.asked[-1].body
    assert {name: sent[name] for name in chosen} == chosen
    assert (sent["top_p"], sent["reasoning_effort"]) == (0.5, "low")
    shown = run.to_dict()
    assert {name: shown[name] for name in chosen} == chosen
    assert sent["tools"] == [LOOK]


@pytest.mark.parametrize(
    ("choice", "parallel", "sent"),
    [
        ("required", True, {"type": "any"}),
        ("none", False, {"type": "none"}),
        ("auto", False, {"type": "auto", "disable_parallel_tool_use": True}),
        ({"type": "function", "function": {"name": "look"}}, None, {"type": "tool", "name": "look"}),
        ("auto", True, None),
    ],
)
def test_choice_of_tools_in_anthropics_form(
    client: OpenAI, provider: ScriptedProvider, thread: Thread, choice: Any, parallel: Any, sent: Any
) -> None:
    assistant = client.beta.assistants.create(model=FORMS["anthropic"], tools=[LOOK])
    polled(client, thread, assistant, tool_choice=choice, parallel_tool_calls=parallel)
    assert provider.asked[-1].body.get("tool_choice") == sent


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [{"type": "file_search"}]}, "tools"),
        ({"tools": [LOOK], "tool_choice": {"type": "code_interpreter"}}, "tools"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"temperature": 1.5}, "temperature"),
        ({"tool_choice": {"type": "function"}, "tools": [LOOK]}, "tool_choice"),
        ({"max_prompt_tokens": 255}, "max_prompt_tokens"),
        ({"truncation_strategy": {"type": "last_messages"}}, "truncation_strategy"),
        ({"assistant_id": "asst_none"}, "assistant_id"),
    ],
)
def test_what_no_run_can_do_is_refused(client: OpenAI, thread: Thread, fields: Any, param: str) -> None:
    assistant = client.beta.assistants.create(model=FORMS["anthropic"])
    error = refused(
        lambda: client.beta.threads.runs.create(**{"thread_id": thread.id, "assistant_id": assistant.id, **fields})
    )
    assert (error.status_code, error.param) == (404 if param == "assistant_id" else 400, param)


def test_a_repeated_request_has_no_second_effect(edge: httpx2.Client, client: OpenAI, assistant: Assistant) -> None:
    body = {"assistant_id": assistant.id, "thread": {"messages": [{"role": "user", "content": "Hello?"}]}}
    first, second = (edge.post("/threads/runs", json=body, headers={"idempotency-key": "k"}).json() for _ in range(2))
    assert first["id"] == second["id"]
    assert len(client.get("/threads", cast_to=dict[str, Any])["data"]) == 1
    again = edge.post("/threads/runs", json={**body, "model": "x"}, headers={"idempotency-key": "k"})
    assert again.status_code == 400


def test_metadata_of_a_run(client: OpenAI, assistant: Assistant, thread: Thread) -> None:
    run = polled(client, thread, assistant, metadata={"k": "v"})
    assert run.metadata == {"k": "v"}
    assert client.beta.threads.runs.update(run.id, thread_id=thread.id, metadata={"l": "w"}).metadata == {"l": "w"}
    assert client.beta.threads.runs.retrieve(run.id, thread_id=thread.id).metadata == {"l": "w"}


def test_runs_are_the_same_here_and_there(
    client: OpenAI, api: httpx2.Client, provider: ScriptedProvider, assistant: Assistant, thread: Thread
) -> None:
    run = polled(client, thread, assistant)
    native = api.get(f"/v1/threads/{thread.id}/runs/{run.id}").json()
    assert (native["status"], native["model"]) == ("completed", assistant.model)
    body = {"model": FORMS["openai"], "message": "And now?", "wait": True, "tools": [{"name": "x", "input_schema": {}}]}
    made = api.post(f"/v1/threads/{thread.id}/runs", json=body).json()
    assert [r.id for r in client.beta.threads.runs.list(thread.id)] == [made["id"], run.id]
    shown = client.beta.threads.runs.retrieve(made["id"], thread_id=thread.id)
    assert (shown.status, shown.tools[0].to_dict()) == (
        "completed",
        {"type": "function", "function": {"name": "x", "parameters": {}}},
    )
    assert len(client.beta.threads.runs.steps.list(made["id"], thread_id=thread.id).data) == 1


def test_projects_see_no_runs_of_each_other(
    client: OpenAI, other_client: OpenAI, assistant: Assistant, thread: Thread
) -> None:
    run = polled(client, thread, assistant)
    theirs = other_client.beta.threads.create(messages=[{"role": "user", "content": "Hi."}])
    for call in (
        lambda: other_client.beta.threads.runs.retrieve(run.id, thread_id=thread.id),
        lambda: other_client.beta.threads.runs.retrieve(run.id, thread_id=theirs.id),
        lambda: other_client.beta.threads.runs.create(theirs.id, assistant_id=assistant.id),
        lambda: other_client.beta.threads.messages.list(thread.id),
        lambda: other_client.beta.threads.runs.steps.list(run.id, thread_id=theirs.id),
    ):
        assert refused(call).status_code == 404
