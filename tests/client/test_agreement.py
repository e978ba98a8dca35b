"""The client knows every field that the server sends, and the server sends every field that the client knows."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

import memory_client
import pytest
from memory_client import MemoryClient
from memory_client._decode import Model

from tests.conftest import Service

FILLER = "Nothing of note happened on this day, and so it went on for a good while longer than anybody expected. " * 9
TOOL = {"name": "look", "description": "Look", "input_schema": {"type": "object"}}
CALL = [{"type": "tool_use", "id": "toolu_1", "name": "look", "input": {}}]
MODELS = {
    kind
    for kind in vars(memory_client).values()
    if isinstance(kind, type) and issubclass(kind, Model) and kind is not Model
}
RUNS = {kind for kind in MODELS if kind.__module__ == "memory_client.runs"}  # tests/runs/test_client_runs.py


@pytest.fixture
def client(service: Service, api_key: str) -> Iterator[MemoryClient]:
    with MemoryClient(service.url, api_key) as client:
        yield client


def objects_in(value: Any) -> Iterator[Model]:
    """An object of the client's, and those in its fields."""
    if isinstance(value, Model):
        yield value
        for field in dataclasses.fields(value):
            if field.name != "raw":
                yield from objects_in(getattr(value, field.name))
    elif isinstance(value, list):
        for item in value:
            yield from objects_in(item)


def disagreements(found: Iterable[Model]) -> dict[str, set[str]]:
    """By type, what the server sends and the client does not know, and what the client knows and is never sent.

    `object` names the type, which is the class here.
    """
    sent: dict[type[Model], set[str]] = {}
    for one in found:
        sent.setdefault(type(one), {"object"}).update(one.raw)
    known = {kind: {field.name for field in dataclasses.fields(kind)} - {"raw"} | {"object"} for kind in sent}
    return {kind.__name__: sent[kind] ^ known[kind] for kind in sent if sent[kind] != known[kind]}


def everything(client: MemoryClient, tmp_path: Any) -> Iterator[Any]:
    """One of each kind, none of them empty."""
    assistant = client.assistants.create(model="claude-sonnet-5", instructions="Help.", tools=[TOOL])
    yield assistant
    thread = client.threads.create(user_id="ada", assistant_id=assistant.id, instructions="Be brief.")
    yield client.threads.messages.append(thread.id, "user", "The zephyrine teapot belongs to Ingeborg.")
    for day in range(12):
        client.threads.messages.append(thread.id, "user", f"Day {day}. {FILLER}")
        client.threads.messages.append(thread.id, "assistant", CALL if day == 11 else f"Noted, {day}.")
    prompts = client.threads.prompts
    small: dict[str, Any] = {"max_prompt_tokens": 2_000, "recall": {"max_tokens": 300}}
    built = prompts.build(thread.id, message="Whose is the zephyrine teapot?", **small)
    # Whatever can be there is there, or nothing is said of its fields.
    assert all([built.recalled, built.omitted, built.breakpoints, built.repairs])
    yield built
    yield prompts.report_usage(thread.id, built.id, usage={"input_tokens": 9}, message="Ingeborg's.")
    last_day = client.threads.messages.list(thread.id, order="desc").data[3]
    client.threads.messages.update(thread.id, last_day.id, content="Edited.")
    broken = prompts.build(thread.id, message="And the cup?", **small)
    assert broken.breaks
    yield broken
    yield prompts.build(thread.id, dry_run=True, max_prompt_tokens=3_000)  # in a lane of its own
    client.threads.messages.append(thread.id, "assistant", [{**CALL[0], "id": "toolu_2"}])
    client.threads.messages.append(
        thread.id, "user", [{"type": "tool_result", "tool_use_id": "toolu_2", "content": FILLER * 20}]
    )
    cut = {"type": "auto", "shorten_tool_results": True}
    shortened = prompts.build(thread.id, dry_run=True, max_prompt_tokens=1_000, truncation_strategy=cut)
    assert shortened.shortened
    yield shortened
    yield _closed_loop(client, assistant.id)
    greeted = [{"role": "user", "content": "Hello."}, {"role": "assistant", "content": "Hello?"}]
    yield client.threads.prewarm(client.threads.create(assistant_id=assistant.id, messages=greeted).id)
    yield prompts.get(thread.id, built.id)
    yield client.threads.get(thread.id)
    hits = client.threads.search(thread.id, "teapot")
    assert hits
    yield hits
    client.threads.export(thread.id).write_to(tmp_path / "thread.ndjson")
    yield client.import_ndjson(tmp_path / "thread.ndjson")
    yield client.estimates.list()
    used = client.usage.get(group_by="day")
    assert used.data
    yield used
    yield client.users.get("ada")
    yield client.users.delete("ada")
    yield client.health()


def _closed_loop(client: MemoryClient, assistant_id: str) -> Any:
    """The first prompt behind a tool loop that is dearer to rewrite than to keep."""
    thread, prompts = client.threads.create(assistant_id=assistant_id), client.threads.prompts
    client.threads.messages.append(thread.id, "user", "Look around.")
    context = [{"type": "text", "text": "It is Monday."}]
    prompts.build(thread.id, context=context)
    for step in range(4):
        use = {**CALL[0], "id": f"toolu_{step}"}
        client.threads.messages.append(thread.id, "assistant", [use])
        result = {"type": "tool_result", "tool_use_id": use["id"], "content": FILLER}
        client.threads.messages.append(thread.id, "user", [result])
    prompts.build(thread.id)
    client.threads.messages.append(thread.id, "assistant", "Done.")
    closed = prompts.build(thread.id, message="Thanks.")
    assert closed.kept
    return closed


def test_server_and_client_agree(client: MemoryClient, tmp_path: Any) -> None:
    found = list(objects_in(list(everything(client, tmp_path))))
    assert disagreements(found) == {}
    assert {type(one) for one in found} == MODELS - RUNS


def test_a_disagreement_is_noticed() -> None:
    health = {"status": "ok", "version": "1"}
    assert disagreements([memory_client.Health.from_json(health)]) == {}
    assert disagreements([memory_client.Health.from_json({**health, "new": None})]) == {"Health": {"new"}}
    assert disagreements([memory_client.Health.from_json({"status": "ok"})]) == {"Health": {"version"}}
