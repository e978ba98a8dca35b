"""What do tool loops cost? Recorded agents are replayed call by call: tau-bench's airline agent (120 conversations, which
share 14 tools and a policy), and SWE-agent on code and puzzles (19 long loops). Each trajectory on a thread of its own, and
all of a kind one after another on one thread, so that a window has to move.

Prompts are the core's, figures predictions by Anthropic's rules (read .1, write 1.25), as in `memory-service simulate`. The
tool calls' ids repeat in the recordings; they are made unique. Every prompt is looked through for calls without results and
results without calls: `unpaired`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench import corpora
from bench.plot import Bars, save_bars
from bench.report import Report, Row, Section, progress
from memory_service.core.messages import tool_result_ids, tool_use_ids
from memory_service.core.pricing import Model, find_model
from memory_service.demo.conversation import Block, Conversation
from memory_service.demo.openai_messages import tools_of
from memory_service.demo.sources import load_conversations
from memory_service.runtime import load_models
from memory_service.simulation.policies import (
    AUTO,
    AUTO_RECALL,
    FULL,
    IN_SYSTEM,
    LAST_20,
    SLIDING,
    Played,
    Policy,
    play,
)
from memory_service.simulation.replay import Outcome
from memory_service.simulation.threads import Thread, read_threads

_MODEL = "claude-sonnet-5"
_POLICIES = (FULL, SLIDING, LAST_20, IN_SYSTEM, AUTO, AUTO_RECALL)
_SEPARATE_TOKENS, _TOGETHER_TOKENS = 32_000, 16_000
_PLOTS = Path(__file__).parents[1] / "docs" / "plots"


def run(*, quick: bool) -> Report:
    logs = corpora.data_dir() / "agentlogs"
    if not logs.is_dir():
        return Report("tools", skipped=f"no evaluation data at {logs}; set MEMORY_EVAL_DATA")
    model = find_model(load_models(), "anthropic", _MODEL)
    sections = []
    for name, found in (("tau-bench airline", tau(logs)), ("SWE-agent", swe(logs))):
        some = list(found)[: 3 if quick else None]
        for kind, conversations, limit in (
            ("a thread each", some, _SEPARATE_TOKENS),
            ("on one thread", [together(name, some)], _TOGETHER_TOKENS),
        ):
            title = f"{name}, {len(some)} trajectories {kind}, max_prompt_tokens {limit:,}"
            progress(f"tools: {title}")
            threads = read_threads(conversations)
            sections.append(Section(title, [_row(policy, threads, model, limit) for policy in _POLICIES]))
    if not quick:
        _plot(sections)
    notes = ["cost: of a call, in uncached input tokens' worth. against: over that of the sliding window."]
    return Report("tools", [_against_sliding(section) for section in sections], notes)


def tau(logs: Path) -> list[Conversation]:
    """With the agent's tools, which stand in a file of their own."""
    tools = tools_of(json.loads((logs / "tau_airline_tools.json").read_text()))
    return [replace(one, tools=tools) for one in load_conversations(logs / "tau_airline_dev.json")]


def swe(logs: Path) -> list[Conversation]:
    return [one for path in sorted((logs / "sweagent").glob("*.traj")) for one in load_conversations(path)]


def together(title: str, conversations: Sequence[Conversation]) -> Conversation:
    """One after another on one thread, under the first one's system text, each call with an id of its own."""
    lines = [
        replace(line, content=_renamed(line.content, f"t{number}_"))
        for number, conversation in enumerate(conversations)
        for line in conversation.lines
    ]
    return replace(conversations[0], title=title, lines=lines)


def _renamed(content: str | list[Block], prefix: str) -> str | list[Block]:
    if isinstance(content, str):
        return content
    names = ("id", "tool_use_id")
    return [{key: prefix + value if key in names else value for key, value in block.items()} for block in content]


def _row(policy: Policy, threads: Sequence[Thread], model: Model, limit: int) -> Row:
    outcome, unpaired = Outcome(policy, model, limit), 0
    for thread in threads:
        for played in play(thread, policy, model, limit):
            outcome.add(played, 0)
            unpaired += _is_unpaired(played)
    assert outcome.cost_usd_per_prompt is not None
    assert model.input_usd
    return {
        "policy": policy.name,
        "calls": len(outcome.prompt_tokens),
        "cache_read_share": round(outcome.cache_read_share, 3),
        "cost_of_a_call": round(outcome.cost_usd_per_prompt * 1e6 / model.input_usd),
        "tokens_p50": outcome.prompt_tokens_p50,
        "tokens_max": max(outcome.prompt_tokens),
        "over_budget": outcome.over_budget,
        "refused": outcome.refused,
        "unpaired": unpaired,
    }


def _is_unpaired(played: Played) -> bool:
    """Whether a call of the prompt has no result right behind it, or a result no call."""
    if played.prompt is None:
        return False
    runs: list[tuple[str, list[Any]]] = []
    for piece in played.prompt.layout.pieces:
        if not runs or runs[-1][0] != piece.role:
            runs.append((piece.role, []))
        runs[-1][1].append(piece.block)
    expected: set[str] = set()
    for role, blocks in runs:
        if role == "user" and set(tool_result_ids(blocks)) != expected:
            return True
        expected = set(tool_use_ids(blocks))
    return bool(expected)


def _against_sliding(section: Section) -> Section:
    costs = {row["policy"]: row["cost_of_a_call"] for row in section.rows}
    rows = [{**row, "against": round(row["cost_of_a_call"] / costs[SLIDING.name], 2)} for row in section.rows]
    return Section(section.title, rows)


def _plot(sections: Iterable[Section]) -> None:
    save_bars(
        _PLOTS / "tools.svg",
        title="Tool loops: input read from the prompt cache",
        x_label="share of the input tokens",
        groups=[
            Bars(_label(section.title), [(row["policy"], row["cache_read_share"]) for row in section.rows])
            for section in sections
        ],
    )


def _label(title: str) -> str:
    """The title without its budget, on two lines."""
    return title.rsplit(", max", 1)[0].replace(", ", "\n")
