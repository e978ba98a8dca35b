"""What does it cost to have the answer in the prompt? Real conversations are replayed call by call, under several policies
and budgets. Then all that is known to be asked about them is asked, and the prompt is looked through for the messages that
hold the answer, whether it shows them in its window or recalls them.

LoCoMo (people over months, short messages) and BEAM 100K (an assistant with long answers). Prompts are the core's, the
costs predictions by Anthropic's rules (read .1, write 1.25), as in `memory-service simulate`; the times of LoCoMo's
sessions are real, BEAM has none. What counts as found: bench/gold.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from bench import corpora
from bench.corpora import Corpus
from bench.gold import Gold, gold_of, share_found
from bench.plot import Line as Curve
from bench.plot import save_lines
from bench.report import Report, Row, Section, progress
from bench.texts import locomo
from memory_service.core.lane import Lane
from memory_service.core.messages import Message
from memory_service.core.pricing import Model, find_model
from memory_service.core.quoting import escape
from memory_service.core.terms import passages_of
from memory_service.demo.conversation import Conversation, Line
from memory_service.providers.tokenizers import O200kCounter
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
    build,
    play,
)
from memory_service.simulation.threads import Ask, Thread, read_threads

_MODEL = "claude-sonnet-5"
_BUDGETS = {"LoCoMo": (2_000, 4_000, 8_000, 16_000), "BEAM 100K": (4_000, 8_000, 16_000, 32_000)}
_PLOTS = Path(__file__).parents[1] / "docs" / "plots"
_SYSTEM = (
    "You know the user well. Answer briefly, and rely on what was said before: names, dates, places and plans matter."
)
# A question comes a minute after the end, while everything is warm.
_ASKED_AFTER_SECONDS = 60


@dataclass(frozen=True, slots=True)
class Setting:
    """A policy, and the share of the budget that recall may take where that is not the default."""

    policy: Policy
    recall_share: float | None = None

    def recall_tokens(self, limit: int) -> int | None:
        return None if self.recall_share is None else int(limit * self.recall_share)


_SETTINGS = (
    Setting(SLIDING),
    Setting(IN_SYSTEM),
    Setting(AUTO),
    Setting(AUTO_RECALL),
    Setting(replace(AUTO_RECALL, name="auto + recall, half the budget"), 0.5),
)
# Of these there is one point: they take no budget, or never fill it.
_UNBUDGETED = (Setting(FULL), Setting(LAST_20))


@dataclass(frozen=True, slots=True)
class Asked:
    """A conversation with all that is asked about it."""

    corpus: Corpus
    thread: Thread
    passages: Sequence[tuple[int, str]]
    golds: Sequence[Sequence[Gold]]


@dataclass
class Measured:
    """`cost`: a prompt's input in uncached input tokens' worth."""

    evidence: list[float] = field(default_factory=list)
    costs: list[float] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    read_tokens: int = 0


def run(*, quick: bool) -> Report:
    if not corpora.data_dir().is_dir():
        return Report("evidence", skipped=f"no evaluation data at {corpora.data_dir()}; set MEMORY_EVAL_DATA")
    model = find_model(load_models(), "anthropic", _MODEL)
    sections = []
    for name, found in (("LoCoMo", _locomo(quick=quick)), ("BEAM 100K", _beam(quick=quick))):
        budgets = _BUDGETS[name][1:2] if quick else _BUDGETS[name]
        sections.append(Section(name, _rows(name, list(found), budgets, model)))
        if not quick:
            _plot(sections[-1])
    notes = [
        "evidence: share of the messages that answer a question which its prompt shows, at the end of the conversation. "
        "cost: of a prompt during the conversation, in uncached input tokens' worth. Budgets in Claude's tokens, 1.5 times "
        "those of o200k_base."
    ]
    return Report("evidence", sections, notes)


def _locomo(*, quick: bool) -> Iterator[Asked]:
    some = slice(1) if quick else slice(None)
    for corpus, conversation in zip(corpora.locomo()[some], locomo()[some], strict=True):
        assert len(corpus.texts) == len(conversation.lines)
        lines = conversation.lines[:120] if quick else conversation.lines
        yield _asked(corpus, replace(conversation, lines=lines, system=_SYSTEM), 15 if quick else None)


def _beam(*, quick: bool) -> Iterator[Asked]:
    for corpus in corpora.beam()[: 1 if quick else None]:
        lines = [
            Line("assistant" if role == "assistant" else "user", text)
            for role, text in zip(corpus.roles, corpus.texts, strict=True)
        ]
        yield _asked(corpus, Conversation(corpus.name, _SYSTEM, lines[: 60 if quick else None]), 5 if quick else None)


def _asked(corpus: Corpus, conversation: Conversation, questions: int | None) -> Asked:
    """With the first questions only, and of a cut conversation those whose answer is in it."""
    (thread,) = read_threads([conversation])
    passages = [(at, passage) for at, message in enumerate(thread.messages) for passage in passages_of(message.text)]
    asked = [question for question in corpus.questions if max(question.gold) < len(thread.messages)][:questions]
    counter = O200kCounter()
    golds = [gold_of(corpus, passages, question, counter) for question in asked]
    return Asked(replace(corpus, questions=asked), thread, passages, golds)


def _rows(name: str, found: Sequence[Asked], budgets: Sequence[int], model: Model) -> list[Row]:
    rows = []
    for setting, limit in [
        *((setting, budgets[-1]) for setting in _UNBUDGETED),
        *((setting, limit) for setting in _SETTINGS for limit in budgets),
    ]:
        progress(f"evidence: {name}: {setting.policy.name}, {limit:,}")
        rows.append(_row(setting, limit, found, model))
    return rows


def _row(setting: Setting, limit: int, found: Sequence[Asked], model: Model) -> Row:
    measured = Measured()
    for asked in found:
        _measure(measured, setting, limit, asked, model)
    return {
        "policy": setting.policy.name,
        "max_prompt_tokens": None if setting in _UNBUDGETED else limit,
        "evidence": round(sum(measured.evidence) / len(measured.evidence), 3),
        "cost_of_a_prompt": round(sum(measured.costs) / len(measured.costs)),
        "cache_read_share": round(measured.read_tokens / sum(measured.tokens), 3),
        "tokens_p50": sorted(measured.tokens)[len(measured.tokens) // 2],
        "tokens_max": max(measured.tokens),
        "questions": len(measured.evidence),
    }


def _measure(measured: Measured, setting: Setting, limit: int, asked: Asked, model: Model) -> None:
    thread, lane = asked.thread, None
    for played in play(thread, setting.policy, model, limit, setting.recall_tokens(limit)):
        lane = played.lane
        if played.prompt is not None:
            _take_costs(measured, played, model)
    at = thread.messages[-1].created_at.timestamp() + _ASKED_AFTER_SECONDS
    for question, gold in zip(asked.corpus.questions, asked.golds, strict=True):
        ask = Ask(len(thread.messages) + 1, at, opens_turn=True)
        shown = _shown(asked, _ask(setting, limit, asked, model, ask, question.text, lane))
        measured.evidence.append(share_found(gold, asked.passages, shown))


def _take_costs(measured: Measured, played: Played, model: Model) -> None:
    assert played.prompt is not None
    assert model.input_usd
    split = played.prompt.prediction
    usd = model.cost_usd(split.cache_read_tokens, split.cache_write_tokens, split.uncached_tokens, played.ttl or "5m")
    assert usd is not None
    measured.costs.append(usd * 1e6 / model.input_usd)
    measured.tokens.append(played.prompt.tokens.total)
    measured.read_tokens += split.cache_read_tokens


def _ask(
    setting: Setting, limit: int, asked: Asked, model: Model, ask: Ask, question: str, lane: Lane | None
) -> Played:
    """The prompt for a question at the end. It is not kept, so that each is asked of the same conversation."""
    thread, last = asked.thread, asked.thread.messages[-1]
    counts = replace(thread.counter.count(question), messages=1)
    message = Message(last.seq + 1, "question", "user", ({"type": "text", "text": question},), counts, last.created_at)
    tokens = setting.recall_tokens(limit)
    return build(thread, setting.policy, model, limit, tokens, ask, [*thread.messages, message], lane)


def _shown(asked: Asked, played: Played) -> set[int]:
    """Places in the passages that the prompt shows: in its window, recalled now, or by a turn whose recall was kept."""
    if played.window is None:
        return set()
    first = played.window.first_seq
    kept = "".join(kept.volatile.recalled_text for kept in played.window.kept)
    shown = {at for at, (message, text) in enumerate(asked.passages) if message + 1 >= first or escape(text) in kept}
    return shown | {one.candidate.hit.document for one in played.recalled}


def _plot(section: Section) -> None:
    names = list(dict.fromkeys(str(row["policy"]) for row in section.rows))
    save_lines(
        _PLOTS / f"evidence-{section.title.split()[0].lower()}.svg",
        title=f"{section.title}: evidence in the prompt against its cost",
        x_label="cost of a prompt, uncached input tokens' worth",
        y_label="share of the evidence",
        lines=[
            Curve(name, [(row["cost_of_a_prompt"], row["evidence"]) for row in section.rows if row["policy"] == name])
            for name in names
        ],
        log_x=True,
    )
