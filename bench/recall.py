"""Is what was said long ago found again? Evidence recall: the share of the messages that answer a question which a ranking
brings back, among its best few or within a budget, averaged over the questions.

The rankings are the product's own functions, on the index and the vectors that it stores. How it is counted:

- LoCoMo: messages, against a budget in characters / 4 of their text, as the published baselines count.
- BEAM: passages as the prompt would quote them, against a budget in o200k_base tokens, quotation marks included. A long
  message counts as found when half of it is there or, above 200 tokens, its passage with the most words of the answer.
- MADial: memories that a dialogue so far should bring to mind. paraKQC: a Korean sentence, asked for by its paraphrases.
  Each is a thread of its own: what stands beside it has nothing to do with it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from bench import corpora
from bench.corpora import Corpus, Question
from bench.gold import Gold, gold_of, share_found
from bench.plot import Line, save_lines
from bench.report import Report, Row, Section, progress
from memory_service.core.quoting import Quote
from memory_service.core.recall import Hit, index_entry, rank
from memory_service.core.similarity import common_of
from memory_service.core.terms import passages_of
from memory_service.providers.base import Embedder, Vectors
from memory_service.providers.embeddings.registry import EmbedderSpec, open_embedder
from memory_service.providers.tokenizers import O200kCounter

RANKINGS = ("words", "vectors", "both")
_BEST = (5, 10, 20)
_BUDGETS = (500, 1_000, 2_000, 4_000, 8_000)
_RANKED = 1_000
_PLOTS = Path(__file__).parents[1] / "docs" / "plots"


@dataclass(frozen=True, slots=True)
class Indexed:
    """A corpus as the service would have stored it."""

    corpus: Corpus
    index: bytes
    passages: Sequence[tuple[int, str]]  # message, text
    vectors: Vectors
    queries: Sequence[Vectors]

    def hits(self, number: int, ranking: str) -> list[Hit]:
        similarity = (self.vectors @ (self.queries[number] - common_of(self.vectors))).astype(np.float64)
        if ranking == "vectors":
            order = np.argsort(-similarity, kind="stable")[:_RANKED]
            return [Hit(int(place), 0, 0, float(similarity[place])) for place in order]
        text = self.corpus.questions[number].text
        return rank(self.index, text, _RANKED, None if ranking == "words" else similarity)


def run(*, quick: bool, embedder: str = "builtin") -> Report:
    if not corpora.data_dir().is_dir():
        return Report("recall", skipped=f"no evaluation data at {corpora.data_dir()}; set MEMORY_EVAL_DATA")
    return asyncio.run(_run(EmbedderSpec.parse(embedder), quick))


async def _run(spec: EmbedderSpec, quick: bool) -> Report:
    embedder = await open_embedder(spec)
    some = slice(1) if quick else slice(None)
    every = 20 if quick else 1
    locomo = await _read("LoCoMo", corpora.locomo()[some], embedder)
    beam = await _read("BEAM", corpora.beam()[some], embedder)
    madial = await _read("MADial", corpora.madial(), embedder)
    parakqc = await _read("paraKQC", corpora.parakqc(every), embedder)
    await embedder.close()
    counter = O200kCounter()
    sections = [
        Section("LoCoMo", [locomo_row(locomo, ranking) for ranking in RANKINGS]),
        Section("BEAM 100K", [beam_row(beam, ranking, counter) for ranking in RANKINGS]),
        Section("Other", [other_row(madial, parakqc, ranking) for ranking in RANKINGS]),
    ]
    if not quick and spec.provider == "builtin":
        _plot(sections)
    asked = [sum(len(one.corpus.questions) for one in indexed) for indexed in (locomo, beam)]
    notes = [
        f"{asked[0]:,} questions of LoCoMo, {asked[1]} of BEAM; vectors by {spec.provider}:{Path(spec.model).name}."
    ]
    return Report("recall", sections, notes)


async def _read(name: str, found: Sequence[Corpus], embedder: Embedder) -> list[Indexed]:
    progress(f"recall: {name}: {len(found)} conversations")
    return [await indexed(corpus, embedder) for corpus in found]


async def indexed(corpus: Corpus, embedder: Embedder) -> Indexed:
    index = b"".join(
        index_entry(seq if corpus.is_thread else 1, role, text)
        for seq, (role, text) in enumerate(zip(corpus.roles, corpus.texts, strict=True), start=1)
    )
    passages = [(at, passage) for at, text in enumerate(corpus.texts) for passage in passages_of(text)]
    vectors = await embedder.embed_passages([text for _, text in passages])
    queries = [await embedder.embed_query(question.text) for question in corpus.questions]
    return Indexed(corpus, index, passages, vectors, queries)


def _mean(values: Sequence[float]) -> float:
    return round(float(np.mean(values)), 3) if values else 0.0


def _share(gold: frozenset[int], found: set[int]) -> float:
    return len(gold & found) / len(gold)


def _asked(indexed: Sequence[Indexed], ranking: str) -> list[tuple[Indexed, Question, list[Hit]]]:
    return [(one, question, one.hits(n, ranking)) for one in indexed for n, question in enumerate(one.corpus.questions)]


def locomo_row(indexed: Sequence[Indexed], ranking: str) -> Row:
    asked = _asked(indexed, ranking)
    return {
        "ranking": ranking,
        **{f"@{k}": _mean([_share(q.gold, _first(one, hits, k)) for one, q, hits in asked]) for k in _BEST},
        **{
            f"{budget:,}": _mean([_share(q.gold, _within(one, hits, budget)) for one, q, hits in asked])
            for budget in _BUDGETS[:-1]
        },
    }


def _first(one: Indexed, hits: Sequence[Hit], count: int) -> set[int]:
    return set(list(dict.fromkeys(one.passages[hit.document][0] for hit in hits))[:count])


def _within(one: Indexed, hits: Sequence[Hit], budget: float) -> set[int]:
    found: set[int] = set()
    for hit in hits:
        message, text = one.passages[hit.document]
        budget -= len(text) / 4
        if budget < 0:
            break
        found.add(message)
    return found


def beam_row(indexed: Sequence[Indexed], ranking: str, counter: O200kCounter) -> Row:
    asked = _asked(indexed, ranking)
    costs = {id(one): _costs(one, counter) for one in indexed}
    gold = {id(q): gold_of(one.corpus, one.passages, q, counter) for one, q, _ in asked}

    def at(budget: int) -> float:
        return _mean([_found(one, gold[id(q)], hits, costs[id(one)], budget) for one, q, hits in asked])

    return {"ranking": ranking, **{f"{budget:,}": at(budget) for budget in _BUDGETS[1:]}}


def _costs(one: Indexed, counter: O200kCounter) -> list[int]:
    """Tokens of each passage as the prompt quotes it."""
    now = datetime(2026, 1, 1, tzinfo=UTC)
    quoted = (Quote.of("", one.corpus.roles[message], text, True, now).rendered for message, text in one.passages)
    return [(counts := counter.count(text)).latin + counts.other for text in quoted]


def _found(one: Indexed, gold: Sequence[Gold], hits: Sequence[Hit], costs: Sequence[int], budget: int) -> float:
    shown: set[int] = set()
    for hit in hits:
        budget -= costs[hit.document]
        if budget < 0:
            break
        shown.add(hit.document)
    return share_found(gold, one.passages, shown)


def other_row(madial: Sequence[Indexed], parakqc: Sequence[Indexed], ranking: str) -> Row:
    return {
        "ranking": ranking,
        "MADial_@5": _mean([_share(q.gold, _first(one, hits, 5)) for one, q, hits in _asked(madial, ranking)]),
        "paraKQC_@1": _mean([_share(q.gold, _first(one, hits, 1)) for one, q, hits in _asked(parakqc, ranking)]),
    }


def _plot(sections: Sequence[Section]) -> None:
    for section, name in zip(sections[:2], ("recall-locomo", "recall-beam"), strict=True):
        budgets = [key for key in section.rows[0] if key.replace(",", "").isdigit()]
        save_lines(
            _PLOTS / f"{name}.svg",
            title=f"{section.title}: evidence found",
            x_label="budget for recalled messages, tokens",
            y_label="share of the evidence",
            lines=[
                Line(str(row["ranking"]), [(float(b.replace(",", "")), float(row[b])) for b in budgets])
                for row in section.rows
            ],
        )
