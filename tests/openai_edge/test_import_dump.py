"""`memory-service import openai`: what was fetched from the Assistants API goes on here."""

from __future__ import annotations

import json
import random
import textwrap
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from typer.testing import CliRunner

from memory_service.api.openai.dump import Dump
from memory_service.cli import app
from memory_service.errors import InvalidInput
from tests.conftest import REPOSITORY, Service
from tests.openai_edge.conftest import DEPRECATED_API, refused, sdk
from tests.providers.scripted import ScriptedProvider, blocks, ok

pytestmark = DEPRECATED_API

ASSISTANT = {
    "id": "asst_old",
    "object": "assistant",
    "created_at": 1_700_000_000,
    "name": "Guide",
    "model": "gpt-5.4",
    "instructions": "You know the lake.",
    "tools": [
        {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}},
        {"type": "file_search"},
    ],
    "temperature": 0.5,
    "metadata": {"team": "north"},
}
THREAD = {"id": "thread_old", "object": "thread", "created_at": 1_700_000_100, "metadata": {"user": "ada"}}
RUN = {
    "id": "run_old",
    "object": "thread.run",
    "created_at": 1_700_000_201,
    "thread_id": "thread_old",
    "assistant_id": "asst_old",
    "status": "completed",
    "started_at": 1_700_000_202,
    "completed_at": 1_700_000_204,
    "model": "gpt-5.4-mini",
    "instructions": "You know the lake.",
    "tools": [{"type": "function", "function": {"name": "look"}}, {"type": "file_search"}],
    "temperature": 0.5,
    "truncation_strategy": {"type": "last_messages", "last_messages": 7},
    "metadata": {"k": "v"},
    "usage": {
        "prompt_tokens": 100,
        "completion_tokens": 20,
        "total_tokens": 120,
        "prompt_token_details": {"cached_tokens": 64},
    },
}
STEP = {
    "id": "step_old",
    "object": "thread.run.step",
    "created_at": 1_700_000_202,
    "thread_id": "thread_old",
    "run_id": "run_old",
    "completed_at": 1_700_000_203,
    "status": "completed",
    "usage": {"prompt_tokens": 60, "completion_tokens": 5, "total_tokens": 65},
    "type": "tool_calls",
    "step_details": {
        "type": "tool_calls",
        "tool_calls": [
            {
                "id": "call_1",
                "type": "function",
                "function": {"name": "look", "arguments": '{"n":1.10}', "output": "a rod"},
            },
            {"id": "call_2", "type": "code_interpreter", "code_interpreter": {}},
        ],
    },
}
WROTE = {
    "id": "step_wrote",
    "object": "thread.run.step",
    "created_at": 1_700_000_203,
    "completed_at": 1_700_000_204,
    "thread_id": "thread_old",
    "run_id": "run_old",
    "status": "completed",
    "type": "message_creation",
    "step_details": {"type": "message_creation", "message_creation": {"message_id": "msg_2"}},
}


def message(id_: str, role: str, text: str, at: int, **other: Any) -> dict[str, Any]:
    content = [{"type": "text", "text": {"value": text, "annotations": []}}]
    return {
        "id": id_,
        "object": "thread.message",
        "created_at": at,
        "thread_id": "thread_old",
        "role": role,
        "content": content,
        **other,
    }


#: As the API lists them: newest first, two of them in the same second.
MESSAGES = [
    message("msg_4", "assistant", "You are welcome.", 1_700_000_300),
    message("msg_3", "user", "Thanks.", 1_700_000_300),
    message("msg_2", "assistant", "In the shed.", 1_700_000_203, run_id="run_old", assistant_id="asst_old"),
    message("msg_1", "user", "Where is the rod?", 1_700_000_200),
]
ALL = [ASSISTANT, THREAD, *MESSAGES, RUN, STEP, WROTE]


def listed(objects: list[Any]) -> dict[str, Any]:
    return {"object": "list", "data": objects, "has_more": False}


FORMS: dict[str, Callable[[], list[str]]] = {
    "lines": lambda: ["\n".join(map(json.dumps, ALL))],
    "array": lambda: [json.dumps(ALL)],
    "lists": lambda: (
        [json.dumps(listed([o])) for o in (STEP, WROTE, RUN, THREAD, ASSISTANT)] + [json.dumps(listed(MESSAGES))]
    ),
    "one's own": lambda: [
        json.dumps({"assistants": [ASSISTANT], "threads": [{**THREAD, "messages": MESSAGES, "runs": [RUN]}]}),
        json.dumps({"steps": {"thread_old": listed([WROTE, STEP])}}),
    ],
}


def run_import(database_url: str, project: str, files: list[Path], *options: str) -> Any:
    arguments = ["import", "openai", *map(str, files), "--project", project, "--json", *options]
    return CliRunner().invoke(app, arguments, env={"MEMORY_DATABASE_URL": database_url})


def written(tmp_path: Path, contents: list[str]) -> list[Path]:
    paths = [tmp_path / f"{number}.json" for number in range(len(contents))]
    for path, content in zip(paths, contents, strict=True):
        path.write_text(content)
    return paths


@pytest.mark.parametrize("form", FORMS)
def test_it_goes_on_here(
    service: Service, database_url: str, new_named: Callable[[], tuple[str, str]], tmp_path: Path, form: str
) -> None:
    project, key = new_named()
    files = written(tmp_path, FORMS[form]())
    done = run_import(database_url, project, files)
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout.splitlines()[-1])
    assert (report["assistants"], report["threads"], report["messages"], report["runs"]) == (1, 1, 6, 1)
    assert report["left_out"]["calls of hosted tools"] == 1
    again = json.loads(run_import(database_url, project, files).stdout.splitlines()[-1])
    assert (again["threads"], again["runs"], again["messages"], again["skipped"]) == (0, 0, 0, 6)
    with openai.OpenAI(base_url=f"{service.url}/openai/v1", api_key=key) as client:
        assistant = client.beta.assistants.retrieve("asst_old")
        assert (assistant.name, assistant.temperature, len(assistant.tools)) == ("Guide", 0.5, 2)
        found = [m.content[0].text.value for m in client.beta.threads.messages.list("thread_old", order="asc")]
        assert found == ["Where is the rod?", "In the shed.", "Thanks.", "You are welcome."]
        assert client.beta.threads.retrieve("thread_old").metadata == {"user": "ada"}
        run = client.beta.threads.runs.create_and_poll(
            thread_id="thread_old",
            assistant_id="asst_old",
            tools=[],
            additional_messages=[{"role": "user", "content": "And the boat?"}],
        )
        assert run.status == "completed"
    with httpx2.Client(base_url=service.url, headers={"authorization": f"Bearer {key}"}) as native:
        messages = native.get("/v1/threads/thread_old/messages").json()["data"]
        assert [m["content"][0]["type"] for m in messages[:4]] == ["text", "tool_use", "tool_result", "text"]
        assert '{"n":1.10}' in native.get("/v1/threads/thread_old/messages").text
        assert native.get("/v1/threads/thread_old").json()["assistant_id"] == "asst_old"


@pytest.fixture
def imported(
    service: Service, database_url: str, new_named: Callable[[], tuple[str, str]], tmp_path: Path
) -> Iterator[Callable[[list[Any]], openai.OpenAI]]:
    """Imports objects into a project of their own; answers with its SDK."""
    with ExitStack() as stack:

        def into_new(objects: list[Any]) -> openai.OpenAI:
            project, key = new_named()
            done = run_import(database_url, project, written(tmp_path, [json.dumps(objects)]))
            assert done.exit_code == 0, done.output
            return stack.enter_context(sdk(service, key))

        yield into_new


def test_runs_and_their_steps_are_as_they_were(imported: Callable[[list[Any]], openai.OpenAI]) -> None:
    client = imported(ALL)
    (run,) = client.beta.threads.runs.list("thread_old")
    assert run.to_dict() == client.beta.threads.runs.retrieve("run_old", thread_id="thread_old").to_dict()
    shown = run.to_dict()
    assert {name: shown[name] for name in RUN} == {**RUN, "object": "thread.run"}
    assert (run.expires_at, run.last_error, run.incomplete_details, run.required_action) == (None,) * 4
    kept = [m for m in client.beta.threads.messages.list("thread_old") if m.run_id]
    assert [(m.id, m.run_id, m.assistant_id) for m in kept] == [("msg_2", "run_old", "asst_old")]
    calls, wrote = client.beta.threads.runs.steps.list("run_old", thread_id="thread_old", order="asc")
    assert {name: wrote.to_dict()[name] for name in WROTE} == WROTE
    told = {**STEP, "step_details": {**STEP["step_details"], "tool_calls": STEP["step_details"]["tool_calls"][:1]}}
    assert {name: calls.to_dict()[name] for name in STEP} == told
    for step in (calls, wrote):
        found = client.beta.threads.runs.steps.retrieve(step.id, run_id="run_old", thread_id="thread_old")
        assert found.to_dict() == step.to_dict()


#: Fields of runs, and what is shown of them.
ENDINGS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"status": "requires_action", "expires_at": 1_700_000_801}, {"status": "expired"}),
    ({"status": "in_progress"}, {"status": "expired", "completed_at": None}),
    ({"status": "cancelling"}, {"status": "cancelled", "cancelled_at": 1_700_000_202}),
    ({"status": "cancelled", "cancelled_at": 1_700_000_250}, {"cancelled_at": 1_700_000_250}),
    (
        {"status": "failed", "failed_at": 1_700_000_251, "last_error": {"code": "rate_limit_exceeded", "message": "x"}},
        {"failed_at": 1_700_000_251, "last_error": {"code": "rate_limit_exceeded", "message": "x"}},
    ),
    (
        {"status": "failed", "last_error": {"code": "invalid_prompt", "message": "y"}},
        {"last_error": {"code": "invalid_prompt", "message": "y"}},
    ),
    (
        {"status": "incomplete", "completed_at": 9, "incomplete_details": {"reason": "max_prompt_tokens"}},
        {"completed_at": 9, "incomplete_details": {"reason": "max_prompt_tokens"}},
    ),
]


def test_how_runs_ended(imported: Callable[[list[Any]], openai.OpenAI]) -> None:
    """None of them holds up its thread."""
    objects: list[dict[str, Any]] = [ASSISTANT]
    for number, (was, _) in enumerate(ENDINGS):
        ids = {"thread_id": f"thread_{number}"}
        call = {"id": "call_9", "type": "function", "function": {"name": "look", "arguments": "{}", "output": None}}
        waits = {"status": "in_progress", "step_details": {"type": "tool_calls", "tool_calls": [call]}}
        objects.append({**RUN, **ids, "id": f"run_{number}", "completed_at": None, **was})
        objects.append(
            {**STEP, **ids, "id": f"step_{number}", "run_id": f"run_{number}", "completed_at": None, **waits}
        )
        objects.append({**MESSAGES[-1], **ids, "id": f"msg_{number}"})
    threads = imported(objects).beta.threads
    for number, (was, shown) in enumerate(ENDINGS):
        thread_id, run_id = f"thread_{number}", f"run_{number}"
        found = threads.runs.retrieve(run_id, thread_id=thread_id).to_dict()
        assert {name: found[name] for name in shown} == shown
        assert shown.get("status", was["status"]) == found["status"]
        (step,) = threads.runs.steps.list(run_id, thread_id=thread_id).to_dict()["data"]
        assert step["status"] == {"incomplete": "cancelled"}.get(str(found["status"]), found["status"])
        assert step["step_details"]["tool_calls"][0]["function"]["output"] is None
        threads.messages.create(thread_id, role="user", content="And now?")
        refused(lambda ids=(run_id, thread_id): threads.runs.cancel(ids[0], thread_id=ids[1]))


def test_imported_runs_move_on(
    service: Service,
    database_url: str,
    imported: Callable[[list[Any]], openai.OpenAI],
    new_named: Callable[[], tuple[str, str]],
    tmp_path: Path,
) -> None:
    """By an export, with runs that were made here; nothing of them was paid here."""
    first = imported(ALL)
    with httpx2.Client(base_url=service.url, headers={"authorization": f"Bearer {first.api_key}"}) as native:
        assert native.get("/v1/usage").json()["data"] == []
    made = first.beta.threads.runs.create_and_poll(
        thread_id="thread_old",
        assistant_id="asst_old",
        tools=[],
        additional_messages=[{"role": "user", "content": "And the boat?"}],
    )
    answer = first.responses.create(model="echo", input="Hello", tools=[{"type": "function", "name": "f"}])
    with httpx2.Client(base_url=service.url, headers={"authorization": f"Bearer {first.api_key}"}) as native:
        threads = [thread["id"] for thread in native.get("/v1/threads").json()["data"]]
        exported = [native.get(f"/v1/threads/{id_}/export").content for id_ in threads]
    (tmp_path / "export.ndjson").write_bytes(b"".join(exported))
    project, key = new_named()
    arguments = ["import", str(tmp_path / "export.ndjson"), "--project", project, "--json"]
    for count in (3, 0):
        done = CliRunner().invoke(app, arguments, env={"MEMORY_DATABASE_URL": database_url})
        assert json.loads(done.stdout.splitlines()[-1])["runs"] == count, done.output
    with sdk(service, key) as second:
        for client in (first, second):
            assert [run.id for run in client.beta.threads.runs.list("thread_old")] == [made.id, "run_old"]
        for read in (
            lambda client: [run.to_dict() for run in client.beta.threads.runs.list("thread_old")],
            lambda client: [
                s.to_dict() for s in client.beta.threads.runs.steps.list("run_old", thread_id="thread_old")
            ],
            lambda client: [s.to_dict() for s in client.beta.threads.runs.steps.list(made.id, thread_id="thread_old")],
            lambda client: [m.to_dict() for m in client.beta.threads.messages.list("thread_old")],
            lambda client: client.responses.retrieve(answer.id).to_dict(),
            lambda client: [item.to_dict() for item in client.responses.input_items.list(answer.id)],
        ):
            assert read(first) == read(second)
        assert (
            second.responses.create(model="echo", input="Go on", previous_response_id=answer.id).status == "completed"
        )
    with httpx2.Client(base_url=service.url, headers={"authorization": f"Bearer {key}"}) as native:
        again = [native.get(f"/v1/threads/{id_}/export").content for id_ in threads[1:]]
        assert again == exported[1:]
        report = native.post(
            "/v1/import",
            params={"ids": "fresh"},
            content=exported[1],
            headers={"content-type": "application/x-ndjson"},
        ).json()
        assert report["runs"] == 2
    with sdk(service, key) as second:
        copy = report["renamed"]["thread_old"]
        written_by = {m.run_id for m in second.beta.threads.messages.list(copy) if m.run_id}
        assert written_by == {run.id for run in second.beta.threads.runs.list(copy)}
        steps = second.beta.threads.runs.steps.list(report["renamed"]["run_old"], thread_id=copy).data
        assert [step.type for step in steps] == ["message_creation", "tool_calls"]
        assert {run.assistant_id for run in second.beta.threads.runs.list(copy)} == {report["renamed"]["asst_old"]}


def test_a_cut_import_goes_on(
    service: Service, database_url: str, new_named: Callable[[], tuple[str, str]], tmp_path: Path
) -> None:
    """The run ends up with all its messages."""
    lines = list(_read(ALL).lines())
    for count in (3, len(lines) - 2):  # behind the run, and behind the first message it wrote
        project, key = new_named()
        for part in (lines[:count], lines):
            (tmp_path / "part.ndjson").write_bytes(b"".join(part))
            arguments = ["import", str(tmp_path / "part.ndjson"), "--project", project, "--json"]
            done = CliRunner().invoke(app, arguments, env={"MEMORY_DATABASE_URL": database_url})
            assert done.exit_code == 0, done.output
        with sdk(service, key) as client:
            steps = client.beta.threads.runs.steps.list("run_old", thread_id="thread_old", order="asc")
            assert [step.id for step in steps] == ["step_old", "step_wrote"]


def test_a_run_of_another_thread_is_not_taken_over(
    database_url: str, new_named: Callable[[], tuple[str, str]], tmp_path: Path
) -> None:
    project, _ = new_named()
    assert run_import(database_url, project, written(tmp_path, [json.dumps([ASSISTANT, THREAD, RUN])])).exit_code == 0
    moved = [{**THREAD, "id": "thread_two"}, {**RUN, "thread_id": "thread_two"}]
    done = run_import(database_url, project, written(tmp_path, [json.dumps(moved)]))
    assert done.exit_code == 1
    assert "Run run_old: There is another run" in " ".join(done.output.split())


def test_the_guide(
    client: openai.OpenAI,
    service: Service,
    database_url: str,
    provider: ScriptedProvider,
    new_named: Callable[[], tuple[str, str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its script fetches from any server of the API, this one too, and nothing is lost on the way."""
    provider.script(
        blocks(
            {"type": "text", "text": "Let me look."}, {"type": "tool_use", "id": "call_1", "name": "look", "input": {}}
        ),
        ok("In the shed."),
    )
    old = client.beta
    assistant = old.assistants.create(model="gpt-5.4", tools=[ASSISTANT["tools"][0]])  # type: ignore[index]
    asked: Any = [{"role": "user", "content": "Where?"}]
    thread = old.threads.create(messages=asked)
    waits = old.threads.runs.create_and_poll(thread_id=thread.id, assistant_id=assistant.id, poll_interval_ms=20)
    old.threads.runs.submit_tool_outputs_and_poll(
        run_id=waits.id, thread_id=thread.id, tool_outputs=[{"output": "a rod"}], poll_interval_ms=20
    )
    (tmp_path / "thread_ids.txt").write_text(f"{thread.id}\n\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENAI_BASE_URL", str(client.base_url))
    monkeypatch.setenv("OPENAI_API_KEY", client.api_key)
    guide = (REPOSITORY / "docs" / "openai-compatibility.md").read_text()
    script = textwrap.dedent(guide.partition("```python\n")[2].partition("   ```\n")[0])
    exec(compile(script, "guide", "exec"), {})
    project, key = new_named()
    assert run_import(database_url, project, [Path("dump.ndjson")]).exit_code == 0
    with sdk(service, key) as moved:
        new = moved.beta
        assert new.assistants.retrieve(assistant.id) == old.assistants.retrieve(assistant.id)
        for of in (old, new):
            said = [message.content[0].to_dict() for message in of.threads.messages.list(thread.id)]
            assert [part["text"]["value"] for part in said] == ["In the shed.", "Let me look.", "Where?"]  # type: ignore[index]
        before, after = (of.threads.runs.retrieve(waits.id, thread_id=thread.id).to_dict() for of in (old, new))
        assert before == after
        steps = [of.threads.runs.steps.list(waits.id, thread_id=thread.id).data for of in (old, new)]
        assert {step.id: step.to_dict() for step in steps[0]} == {step.id: step.to_dict() for step in steps[1]}


def test_order_does_not_matter() -> None:
    expected = list(_read(ALL).lines())
    for seed in range(20):
        others = [o for o in ALL if o["object"] != "thread.message"]
        random.Random(seed).shuffle(others)
        assert list(_read([*others[:2], *MESSAGES, *others[2:]]).lines()) == expected


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"a": 1}', '{"id": "x", "object": "file"}', '{"object": "thread.message", "id": "m"}']
)
def test_a_file_with_nothing_in_it(content: str) -> None:
    with pytest.raises(InvalidInput):
        Dump().read(content.encode())


def test_what_is_wrong_is_named(database_url: str, new_named: Callable[[], tuple[str, str]], tmp_path: Path) -> None:
    project, _ = new_named()
    bad = [ASSISTANT, THREAD, {**MESSAGES[3], "metadata": {"k": "v" * 600}}]
    done = run_import(database_url, project, written(tmp_path, [json.dumps(bad)]))
    assert done.exit_code == 1
    assert "Message msg_1 of thread thread_old" in " ".join(done.output.split())


def _read(objects: list[Any]) -> Dump:
    dump = Dump()
    dump.read(json.dumps(objects).encode())
    return dump
