"""The README of the Python client: its command installs it, and its code runs, from top to bottom, as one program."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from memory_client import MemoryClient

from tests.client.peer import Answer, running_peer
from tests.conftest import REPOSITORY, Service

CLIENT = REPOSITORY / "clients" / "python"
TEXT = (CLIENT / "README.md").read_text()
ARGUMENTS = '{"city": "Busan"}'


def _blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)


def _anthropic(*content: dict[str, Any]) -> Answer:
    usage = {"input_tokens": 30, "cache_read_input_tokens": 70, "output_tokens": 5}
    message = {"id": "msg_x", "type": "message", "role": "assistant", "model": "m", "content": content, "usage": usage}
    return Answer({**message, "stop_reason": "end_turn", "stop_sequence": None})


def _openai(**message: Any) -> Answer:
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", **message}}
    usage = {"prompt_tokens": 100, "completion_tokens": 5, "total_tokens": 105}
    completion = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "m"}
    return Answer({**completion, "choices": [choice], "usage": usage})


def _text(words: str) -> dict[str, str]:
    return {"type": "text", "text": words}


MODEL_ANSWERS = [
    _anthropic(_text("At the quadratic formula.")),
    _anthropic(_text("I look."), {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Seoul"}}),
    _anthropic(_text("Take a coat for the rain.")),
    _openai(
        content=None,
        tool_calls=[{"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": ARGUMENTS}}],
    ),
    _openai(content="There too."),
    _anthropic(_text("Hello, Ada.")),
]


def test_the_code_runs(service: Service, api_key: str, tmp_path: Path) -> None:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MEMORY_")}
    with running_peer() as models:
        models.plays(*MODEL_ANSWERS)
        ran = subprocess.run(
            [sys.executable, "-W", "error", "-c", "\n".join(_blocks("python"))],
            cwd=tmp_path,
            env={
                **clean,
                "MEMORY_BASE_URL": service.url,
                "MEMORY_API_KEY": api_key,
                "ANTHROPIC_BASE_URL": models.url,
                "ANTHROPIC_API_KEY": "unused",
                "OPENAI_BASE_URL": f"{models.url}/v1",
                "OPENAI_API_KEY": "unused",
            },
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert ran.returncode == 0, ran.stderr
        called = [request.path for request in models.received]
    assert called == ["/v1/messages"] * 3 + ["/v1/chat/completions"] * 2 + ["/v1/messages"]
    for said in ("70 2", "Take a coat for the rain.", "There too.", "Hello, Ada.", "422 prompt_too_large: "):
        assert said in ran.stdout
    assert (tmp_path / "trip.ndjson").stat().st_size > 0

    with MemoryClient(service.url, api_key) as memory:
        (trip, copy) = [thread for thread in memory.threads.list(user_id="ada") if thread.tools]
        messages = list(memory.threads.messages.list(trip.id))
        assert [message.role for message in messages] == ["user", "assistant"] * 4
        blocks = [block for message in messages for block in message.content if block["type"] != "text"]
        assert [block.get("id") or block["tool_use_id"] for block in blocks] == [
            "toolu_1",
            "toolu_1",
            "call_1",
            "call_1",
        ]
        assert blocks[-1]["content"] == "7 °C in Busan, and rain"
        assert copy.message_count == trip.message_count


def test_the_command_installs_it(tmp_path: Path) -> None:
    (command,) = _blocks("sh")
    assert command == "pip install ./clients/python\n"
    # Its one dependency is here already, and so is what builds it.
    here = ["--no-deps", "--no-build-isolation", "--disable-pip-version-check", "--quiet", "--target", str(tmp_path)]
    pip = [sys.executable, "-m", *command.split(), *here]
    subprocess.run(pip, cwd=REPOSITORY, check=True, capture_output=True, timeout=120)
    assert (tmp_path / "memory_client" / "py.typed").exists()
