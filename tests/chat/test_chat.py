"""The example backend against the real service and a real model server."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from memory_client import MemoryClient

from memory_service.demo.engine import Engine
from tests.conftest import REPOSITORY, Service, ended


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    if not Engine.available():
        pytest.skip("xllamacpp is not installed; `make engine` installs it where a wheel exists")
    with Engine() as running:
        yield running


@pytest.fixture
def chat(service: Service, api_key: str, engine: Engine) -> Iterator[str]:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(128)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        process = subprocess.Popen(
            [sys.executable, "-m", "uvicorn", "app:app", "--fd", str(listener.fileno()), "--log-level", "warning"],
            cwd=REPOSITORY / "clients" / "chat",
            pass_fds=[listener.fileno()],
            env={
                **os.environ,
                "MEMORY_BASE_URL": service.url,
                "MEMORY_API_KEY": api_key,
                "ANTHROPIC_BASE_URL": engine.base_url,
                "ANTHROPIC_API_KEY": "unused",
                "CHAT_MODEL": engine.model_name,
                "CHAT_MAX_OUTPUT_TOKENS": "64",
            },
        )
        try:
            yield url
        finally:
            process.terminate()
            assert ended(process, 30) in (0, -15)


def _say(client: httpx2.Client, thread_id: str, text: str | None) -> list[dict[str, Any]]:
    with client.stream("POST", f"/api/threads/{thread_id}/messages", json={"text": text}) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        return [json.loads(line[6:]) for line in answer.iter_lines() if line]


def test_a_conversation_streams_and_reads_from_the_prompt_cache(chat: str) -> None:
    with httpx2.Client(base_url=chat, timeout=60) as client:
        assert "<title>Chat</title>" in client.get("/").text
        thread_id = client.post("/api/threads").json()["id"]
        first = _say(client, thread_id, "Hello, I am Mina and I move to Seoul on 12 October.")
        second = _say(client, thread_id, "When do I move?")
        messages = client.get(f"/api/threads/{thread_id}/messages").json()

    for events in (first, second):
        assert [e["type"] for e in events[:-1]] == ["text"] * (len(events) - 1)
        assert events[-1]["type"] == "done"
    assert len(first) > 2, "the reply did not stream"
    assert second[-1]["read_from_cache"] > first[-1]["prompt_tokens"] / 2
    assert [m["role"] for m in messages] == ["user", "assistant"] * 2
    assert messages[1]["text"] == "".join(e.get("text", "") for e in first)


def test_other_users_see_nothing(chat: str) -> None:
    with httpx2.Client(base_url=chat, timeout=60) as owner, httpx2.Client(base_url=chat, timeout=60) as stranger:
        thread_id = owner.post("/api/threads").json()["id"]
        assert [t["id"] for t in owner.get("/api/threads").json()] == [thread_id]
        assert stranger.get("/api/threads").json() == []
        assert stranger.get(f"/api/threads/{thread_id}/messages").status_code == 404
        assert stranger.post(f"/api/threads/{thread_id}/messages", json={"text": "hi"}).status_code == 404


def test_a_reader_who_leaves_does_not_lose_the_reply(chat: str, service: Service, api_key: str) -> None:
    with httpx2.Client(base_url=chat, timeout=60) as client, MemoryClient(service.url, api_key) as memory:
        thread_id = client.post("/api/threads").json()["id"]
        with client.stream("POST", f"/api/threads/{thread_id}/messages", json={"text": "Tell me a story."}) as answer:
            next(answer.iter_lines())
        deadline = time.monotonic() + 60
        while memory.threads.get(thread_id).message_count < 2:
            assert time.monotonic() < deadline, "the reply was lost"
            time.sleep(0.02)
        prompts = memory.threads.prompts.list(thread_id).data
        assert [p.status for p in prompts] == ["sent"]


def test_a_failing_model_is_reported_and_the_turn_can_be_taken_again(
    chat: str, service: Service, api_key: str, engine: Engine
) -> None:
    with httpx2.Client(base_url=chat, timeout=60) as client, MemoryClient(service.url, api_key) as memory:
        thread_id = client.post("/api/threads").json()["id"]
        # Larger than the engine's context, though not larger than the budget: the engine refuses it.
        memory.threads.messages.append(thread_id, "user", "word " * 16_000)
        failed = _say(client, thread_id, None)
        assert [e["type"] for e in failed] == ["error"]
        assert "BadRequestError" in failed[0]["message"]
        memory.threads.messages.update(thread_id, memory.threads.messages.list(thread_id).data[0].id, content="short")
        assert _say(client, thread_id, None)[-1]["type"] == "done"
