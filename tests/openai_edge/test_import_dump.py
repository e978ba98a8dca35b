"""`memory-service import openai`: what was fetched from the Assistants API goes on here."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from typer.testing import CliRunner

from memory_service.api.openai.dump import Dump
from memory_service.cli import app
from memory_service.errors import InvalidInput
from tests.conftest import Service
from tests.openai_edge.conftest import DEPRECATED_API

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
}
STEP = {
    "id": "step_old",
    "object": "thread.run.step",
    "created_at": 1_700_000_202,
    "thread_id": "thread_old",
    "run_id": "run_old",
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
ALL = [ASSISTANT, THREAD, *MESSAGES, RUN, STEP]


def listed(objects: list[Any]) -> dict[str, Any]:
    return {"object": "list", "data": objects, "has_more": False}


FORMS: dict[str, Callable[[], list[str]]] = {
    "lines": lambda: ["\n".join(map(json.dumps, ALL))],
    "array": lambda: [json.dumps(ALL)],
    "lists": lambda: [json.dumps(listed([o])) for o in (STEP, RUN, THREAD, ASSISTANT)] + [json.dumps(listed(MESSAGES))],
    "one's own": lambda: [
        json.dumps({"assistants": [ASSISTANT], "threads": [{**THREAD, "messages": MESSAGES, "runs": [RUN]}]}),
        json.dumps({"steps": {"thread_old": listed([STEP])}}),
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
    assert (again["threads"], again["messages"], again["skipped"]) == (0, 0, 6)
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
