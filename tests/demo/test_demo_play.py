"""The whole demo, as the command runs it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from memory_service.demo.engine import Engine
from tests.conftest import evaluation_data


def _demo(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-m", "memory_service", "demo", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def _played(*arguments: str) -> dict[str, Any]:
    ran = _demo("--json", *arguments)
    assert ran.returncode == 0, ran.stderr
    played: dict[str, Any] = json.loads(ran.stdout)
    return played


def _needs_engine() -> None:
    if not Engine.available():
        pytest.skip("xllamacpp is not installed; `make engine` installs it where a wheel exists")


def test_tool_calling_conversation_plays() -> None:
    _needs_engine()
    played = _played("--from", str(evaluation_data() / "agentlogs" / "tau_airline_dev.json"))
    assert played["cache_read_share"] > 0.7


def test_own_export_plays(tmp_path: Path) -> None:
    lines = [{"type": "thread", "id": "t", "created_at": "2026-01-01T00:00:00Z"}]
    for seq in range(1, 7):
        role = "user" if seq % 2 else "assistant"
        content = [{"type": "text", "text": f"message {seq} about the red house"}]
        lines.append(
            {"type": "message", "seq": seq, "role": role, "content": content, "created_at": f"2026-01-0{seq}T00:00:00Z"}
        )
    path = tmp_path / "thread.ndjson"
    path.write_text("\n".join(map(json.dumps, lines)))
    assert len(_played("--from", str(path))["prompt_tokens"]) == 3


def test_what_cannot_be_played_is_explained(tmp_path: Path) -> None:
    missing = _demo("--from", str(tmp_path / "nothing.json"))
    assert missing.returncode == 1
    assert "Traceback" not in missing.stderr
    assert "No such file" in missing.stderr


def test_budget_too_small_is_explained() -> None:
    _needs_engine()
    ran = _demo("--max-prompt-tokens", "256")
    assert ran.returncode == 1
    assert "Traceback" not in ran.stderr
    assert "prompt_too_large" in ran.stderr
