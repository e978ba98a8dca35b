"""How long until the first token? Conversations are replayed against llama.cpp with a generated model that is big enough
for reading the prompt to take most of the time, by three prompt builders with the same budget, each with an engine of its
own: this service, a sliding window, and the same search's hits in the system prompt before a sliding window (see cache.py).

LoCoMo, people chatting, and tau-bench, an agent calling tools. One token is one byte. Measured are calls with a full
budget: before that no builder has to leave anything out. Until then the service calls a tiny model, from whose reports it
learns the tokenizer. What it predicts to be read from the prompt cache is held against what the engine reports.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

from bench import corpora
from bench.cache import Answered, Budget, Builder, RecallInSystem, Service, SlidingWindow, Turn, ask, connect, turns_of
from bench.report import Report, Row, Section, milliseconds, progress
from bench.stack import Api, running_stack
from bench.texts import locomo
from bench.tools import tau, together
from memory_service.demo.conversation import Conversation
from memory_service.demo.engine import Engine, Size

_SIZE = Size(heads=2, layers=2)
_CONTEXT_TOKENS = 32_768
_WARM_UP = 2  # calls that are not measured: an engine has read nothing before


@dataclass(frozen=True, slots=True)
class Case:
    """`before`: how many calls it takes until the budget is full; `calls`: how many are made from then on."""

    conversation: Conversation
    budget: Budget
    before: int
    calls: int


def run(*, quick: bool) -> Report:
    if not Engine.available():
        return Report("ttft", skipped="xllamacpp and gguf are not installed: pip install 'memory-service[engine]'")
    if not corpora.data_dir().is_dir():
        return Report("ttft", skipped=f"no evaluation data at {corpora.data_dir()}; set MEMORY_EVAL_DATA")
    sections = []
    with running_stack() as stack:
        for case in _cases(quick=quick):
            played = _play(case, Size() if quick else _SIZE, stack.connect())
            title = f"{case.conversation.title}, {case.calls} calls of {case.budget.prompt_tokens:,} tokens at most"
            sections.append(Section(title, _rows(played, case)))
    return Report("ttft", sections, [_verdict(section) for section in sections])


def _cases(*, quick: bool) -> list[Case]:
    chat, agent = locomo("conv-26")[0], tau(corpora.data_dir() / "agentlogs")
    if quick:
        return [
            Case(chat, Budget(1_400, 150), 8, 6),
            Case(
                replace(together("tau-bench airline", agent[:2]), tools=agent[0].tools[:1]), Budget(14_000, 500), 0, 5
            ),
        ]
    return [
        Case(chat, Budget(12_288, 1_500), 60, 50),
        Case(together("tau-bench airline", agent[:12]), Budget(24_576, 1_500), 40, 50),
    ]


def _play(case: Case, size: Size, api: Api) -> dict[str, list[Answered]]:
    turns = list(turns_of(case.conversation))
    before, asked = turns[: case.before], turns[case.before : case.before + case.calls]
    system = case.conversation.system or "You are an old friend of the user's. Answer briefly."
    tools = case.conversation.tools
    with ExitStack() as resources:
        service = Service(api, case.budget, system=system, tools=tools)
        sliding = SlidingWindow(case.budget, system=system, tools=tools)
        in_system = RecallInSystem(case.budget, system=system, tools=tools, service=service)
        builders: list[Builder] = [service, sliding, in_system]
        _learn(service, before)
        for builder in builders[1:]:
            builder.tell([line for turn in before for line in (*turn.before, turn.user, turn.reply)])
        clients = [connect(resources.enter_context(Engine(n_ctx=_CONTEXT_TOKENS, size=size))) for _ in builders]
        answered: dict[str, list[Answered]] = {builder.name: [] for builder in builders}
        for number, turn in enumerate(asked):
            if number % 10 == 0:
                progress(f"ttft: {case.conversation.title}: call {number + 1} of {len(asked)}")
            for builder, client in zip(builders, clients, strict=True):
                answered[builder.name].append(ask(client, builder, turn))
    return answered


def _learn(service: Service, turns: Sequence[Turn]) -> None:
    with Engine(n_ctx=_CONTEXT_TOKENS) as engine:
        client = connect(engine)
        for turn in turns:
            ask(client, service, turn)


def _rows(played: dict[str, list[Answered]], case: Case) -> list[Row]:
    measured = {name: answered[_WARM_UP:] for name, answered in played.items()}
    ours = _mean_ms(next(iter(measured.values())))
    return [
        {
            "prompts": name,
            "mean_ms": round(_mean_ms(answered)),
            **milliseconds([one.seconds for one in answered]),
            "against_ours": round(_mean_ms(answered) / ours, 1),
            "cache_read_share": round(_read(answered) / sum(one.prompt_tokens for one in answered), 3),
            "predicted_over_read": _agreement(answered),
            "largest_prompt": max(one.prompt_tokens for one in answered),
            "over_budget": sum(one.prompt_tokens > case.budget.prompt_tokens for one in answered),
        }
        for name, answered in measured.items()
    ]


def _mean_ms(answered: Sequence[Answered]) -> float:
    return 1000 * sum(one.seconds for one in answered) / len(answered)


def _read(answered: Sequence[Answered]) -> int:
    return sum(one.read_tokens for one in answered)


def _agreement(answered: Sequence[Answered]) -> float | None:
    predicted = [one.predicted_read_tokens for one in answered if one.predicted_read_tokens is not None]
    return round(sum(predicted) / _read(answered), 3) if predicted else None


def _verdict(section: Section) -> str:
    rows: Sequence[Any] = section.rows
    return (
        f"{section.title}: the first token took {rows[1]['against_ours']} times as long with a sliding window, and "
        f"{rows[2]['against_ours']} times with recall in the system prompt."
    )
