"""`memory-service simulate`: recorded threads in, what each policy would have cost out."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from typer.testing import CliRunner, Result

from memory_service.cli import app
from memory_service.core.pricing import find_model
from memory_service.runtime import load_models

START = datetime(2026, 3, 1, 9, tzinfo=UTC)
TURNS = 40
LIMIT = "3000"
TOPICS = "harbour garden invoice bicycle orchestra glacier lantern pepper violin canyon".split()
INSTRUCTIONS = "Answer briefly, and rely on what you were told before. " * 50

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def _write(*lines: Any, name: str = "threads.ndjson") -> Path:
        path = tmp_path / name
        path.write_text("\n".join(json.dumps(line) for line in lines), encoding="utf-8")
        return path

    return _write


def thread(id_: str, *, gap: timedelta = timedelta(minutes=1), start: datetime = START) -> list[dict[str, Any]]:
    """An exported thread of small talk about a few topics, each of which comes back."""
    lines: list[dict[str, Any]] = [{"type": "thread", "id": id_, "assistant_id": "asst_1"}]
    for turn in range(TURNS):
        topic = TOPICS[turn * 7 % len(TOPICS)]
        at = start + turn * gap
        texts = [
            f"What do we know of the {topic}, number {turn}?",
            f"The {topic} is item {turn}. " + "It is well kept. " * 12,
        ]
        lines += [
            {"type": "message", "thread_id": id_, "role": role, "content": text, "created_at": at.isoformat()}
            for role, text in zip(("user", "assistant"), texts, strict=True)
        ]
    return lines


ASSISTANT = {"type": "assistant", "id": "asst_1", "instructions": INSTRUCTIONS}


def run(*arguments: str | Path) -> Result:
    return CliRunner(env={"COLUMNS": "80"}).invoke(app, ["simulate", *map(str, arguments)])


def found(*arguments: str | Path) -> dict[str, Any]:
    ran = run(*arguments, "--json")
    assert ran.exit_code == 0, ran.stderr
    assert not ran.stderr
    answer: dict[str, Any] = json.loads(ran.stdout)
    return answer


def policies(answer: dict[str, Any], model: int = 0) -> dict[str, dict[str, Any]]:
    return {row["policy"]: row for row in answer["models"][model]["policies"]}


def test_policies_are_told_apart_without_network(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a connection was made")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    answer = found(write(ASSISTANT, *thread("thread_1")), "--max-prompt-tokens", LIMIT)
    rows = policies(answer)
    assert (answer["threads"], answer["messages"], answer["prompts"], answer["turns"]) == (1, 80, 40, 40)
    full, sliding, system, ours = (
        rows[name] for name in ("full history", "sliding window", "recall in system", "auto + recall")
    )
    assert full["over_budget"] > 10
    assert full["breaks"] == 0
    assert all(row["over_budget"] == row["refused"] == 0 for name, row in rows.items() if name != "full history")
    assert sliding["breaks"] > 4 * rows["auto, 5m"]["breaks"] > 0
    assert rows["auto, 5m"]["cost_usd"] < ours["cost_usd"] < sliding["cost_usd"] < system["cost_usd"]
    assert ours["cache_read_share"] > sliding["cache_read_share"] > system["cache_read_share"]
    assert rows["sliding, uncached"]["cache_read_share"] == 0
    best = rows[answer["models"][0]["best_baseline"]]
    assert best["cost_usd"] == min(
        row["cost_usd"] for row in rows.values() if row["baseline"] and not row["over_budget"]
    )
    assert ours["cost_over_best_baseline"] == pytest.approx(ours["cost_usd"] / best["cost_usd"])


def test_cost_is_tokens_times_prices(write: Write) -> None:
    path = write(ASSISTANT, *thread("thread_1"))
    answer = found(path, "--max-prompt-tokens", LIMIT, "--model", "claude-sonnet-5-5", "--model", "gpt-5.5")
    rows = [(number, row) for number, one in enumerate(answer["models"]) for row in one["policies"]]
    for number, row in rows:
        model = find_model(load_models(), ("anthropic", "openai")[number], answer["models"][number]["model"])
        assert model.input_usd
        assert model.cache_read_usd
        write_ratio = model.write_ratio("1h" if row["policy"].endswith("1h") else "5m") or 0  # a minute apart
        dollars = row["cache_read_tokens"] * model.cache_read_usd
        dollars += (row["cache_write_tokens"] * write_ratio + row["uncached_tokens"]) * model.input_usd
        assert row["cost_usd"] == pytest.approx(dollars / 1e6)
        assert row["cost_usd_per_turn"] == pytest.approx(row["cost_usd"] / TURNS)


def test_gaps_between_messages_let_the_prompt_cache_expire(write: Write) -> None:
    rows = policies(found(write(ASSISTANT, *thread("thread_1", gap=timedelta(minutes=10)))))
    assert rows["auto, 5m"]["cache_read_share"] == 0
    assert rows["auto, 1h"]["cache_read_share"] > 0.9
    assert rows["auto"]["cost_usd"] < rows["auto, 5m"]["cost_usd"] / 2


def test_threads_of_an_assistant_share_what_they_begin_with(write: Write) -> None:
    """Cold after each turn, a thread still finds what the other one sent a moment before."""
    gap = timedelta(minutes=10)
    one, other = thread("thread_1", gap=gap), thread("thread_2", gap=gap, start=START + timedelta(minutes=1))
    alone = policies(found(write(ASSISTANT, *one)))["auto, 5m"]
    both = policies(found(write(ASSISTANT, *one, *other)))["auto, 5m"]
    assert alone["cache_read_tokens"] == 0
    assert both["cache_read_tokens"] > TURNS * len(INSTRUCTIONS) / 8


def test_conversations_with_the_same_system_message_share_it(write: Write) -> None:
    def conversation(name: str) -> dict[str, Any]:
        messages = [{"role": "system", "content": INSTRUCTIONS}]
        messages += [{"role": role, "content": f"{name} says {role}"} for role in ("user", "assistant")]
        return {"id": name, "messages": messages}

    one = policies(found(write(conversation("a"), name="one.jsonl")))["auto, 5m"]
    two = policies(found(write(conversation("a"), conversation("b"), name="two.jsonl")))["auto, 5m"]
    assert one["cache_read_tokens"] == 0
    assert two["cache_read_tokens"] > len(INSTRUCTIONS) / 8


def test_a_tool_loop_is_replayed_call_by_call(write: Write) -> None:
    messages: list[dict[str, Any]] = [{"role": "user", "content": "How warm is it in Seoul and in Busan?"}]
    for number, city in enumerate(("Seoul", "Busan")):
        function = {"name": "weather", "arguments": json.dumps({"city": city})}
        messages.append(
            {"role": "assistant", "tool_calls": [{"id": f"c{number}", "type": "function", "function": function}]}
        )
        messages.append({"role": "tool", "tool_call_id": f"c{number}", "content": "It is 21 degrees. " * 150})
    messages.append({"role": "assistant", "content": "21 degrees in both."})
    tools = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]
    answer = found(write({"messages": messages, "tools": tools}), "--max-prompt-tokens", "4000")
    assert (answer["prompts"], answer["turns"]) == (3, 1)
    assert policies(answer)["auto + recall"]["cache_read_tokens"] > 600
    assert any("created_at" in note for note in answer["notes"])


def test_what_does_not_fit_is_counted_not_hidden(write: Write) -> None:
    answer = found(write(ASSISTANT, *thread("thread_1")), "--max-prompt-tokens", "300")
    assert policies(answer)["auto, 5m"]["refused"] == TURNS
    assert any("cannot be kept within 300 tokens" in note for note in answer["notes"])


def test_the_table_fits_a_terminal_and_says_what_it_is(write: Write, tmp_path: Path) -> None:
    plot = tmp_path / "cost.svg"
    ran = run(
        write(ASSISTANT, *thread("thread_1")), "--max-prompt-tokens", LIMIT, "--plot", plot, "--model", "gpt-5.6-sol"
    )
    assert ran.exit_code == 0, ran.stderr
    assert "1 thread, 80 messages, 40 prompts in 40 turns" in ran.stdout
    assert "recall in system" in ran.stdout
    assert "Predicted by a model" in ran.stdout
    table = [line for line in ran.stdout.splitlines() if "$" in line]
    assert table
    assert all(len(line) <= 80 and "…" not in line for line in table)
    drawn = ElementTree.parse(plot).getroot()
    texts = [text.text for text in drawn.iter("{http://www.w3.org/2000/svg}text")]
    assert {"auto + recall", "sliding window", "gpt-5.6-sol, max_prompt_tokens 3,000"} <= set(texts)
    assert len(list(drawn.iter("{http://www.w3.org/2000/svg}polyline"))) == len(table)


def test_max_threads_takes_a_sample(write: Write) -> None:
    lines = [line for number in range(4) for line in thread(f"thread_{number}")]
    assert found(write(ASSISTANT, *lines), "--max-threads", "2")["threads"] == 2


@pytest.mark.parametrize(
    ("lines", "arguments", "message"),
    [
        ([{"type": "thread", "id": "t"}], [], "an export without messages"),
        ([{"role": "user", "content": "Hi"}], [], "no model was ever called"),
        ([{"role": "assistant", "content": "Hi"}, "nonsense"], [], "threads.ndjson, line 2: not a JSON object"),
        (thread("t"), ["--model", "claude-sonet-5-5"], "claude-sonnet-5-5"),
        (thread("t"), ["--model", "gpt-4o", "--max-prompt-tokens", "200000"], "takes 128,000 tokens at most"),
        (thread("t"), ["--plot", "/nowhere/cost.svg"], "Cannot write /nowhere/cost.svg"),
    ],
)
def test_what_is_wrong_is_said_in_a_sentence(
    write: Write, lines: list[Any], arguments: list[str], message: str
) -> None:
    ran = run(write(*lines), *arguments)
    assert ran.exit_code == 1
    assert message in ran.stderr
    assert "Traceback" not in ran.stderr


def test_a_message_that_the_service_would_refuse_is_named(write: Write) -> None:
    lines = thread("thread_1")
    lines[3]["content"] = [{"type": "tool_result", "tool_use_id": "c1", "content": "?"}]
    ran = run(write(*lines))
    assert ran.exit_code == 1
    assert "thread_1, message 3" in ran.stderr
    assert "answers no open tool_use" in ran.stderr


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    ran = run(tmp_path / "absent.ndjson")
    assert ran.exit_code == 1
    assert "absent.ndjson cannot be read" in ran.stderr
