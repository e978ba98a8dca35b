"""Ranking passages by words and by vectors: the query is embedded first, in no transaction; then all is read in one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from memory_service.core.corpus import Floats, Ints, count_documents
from memory_service.core.recall import Hit, Words, best, best_documents, weigh_words
from memory_service.core.similarity import align, calibrate, common_part, sample, typical
from memory_service.errors import EmbedderUnavailable
from memory_service.providers.base import Vectors
from memory_service.runtime import Runtime
from memory_service.services.holding import decode, hold
from memory_service.store import vectors as vector_store
from memory_service.store.db import Session
from memory_service.store.embedders import EmbedderRecord
from memory_service.store.recall import ThreadIndex
from memory_service.store.threads import ThreadRecord
from memory_service.store.vectors import ThreadSimilarities

# From here on the signs of all vectors are compared, and only the best by words and signs exactly.
_EXACT_PASSAGES = 10_000
_CANDIDATES = 400


@dataclass(frozen=True, slots=True)
class Question:
    """What is looked for. Without a vector only words are compared, and `reason` says why."""

    text: str
    embedder: EmbedderRecord | None = None
    vector: Vectors | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Ranking:
    """Passages, best first, and how they were found.

    `pending` is how many of those ranked have no vector yet; when none has one, when the query could not be embedded or
    when there was nothing to search, vectors were not compared (`mode` "words"), and `reason` says why.
    """

    hits: list[Hit]
    mode: str = "words"
    reason: str | None = None
    pending: int = 0

    @property
    def explanation(self) -> dict[str, object]:
        return {"mode": self.mode, "reason": self.reason, "pending": self.pending}


async def ask(runtime: Runtime, text: str) -> Question:
    """Embed a query. Not to be called within a transaction: the embedder may be far away."""
    active = await runtime.embedders.active()
    if active.embedder is None:
        return Question(text, reason="embedder_unavailable")
    try:
        vector = await active.embedder.embed_query(text)
    except EmbedderUnavailable as error:
        if error.is_retryable:  # otherwise it is this query that it does not take
            runtime.embedders.refuse(active.record, error)
        return Question(text, reason="embedder_unavailable")
    if not vector.any():
        return Question(text, reason="query_has_no_vector")
    return Question(text, active.record, vector)


async def rank_threads(
    session: Session,
    threads: Sequence[ThreadIndex],
    question: Question,
    limit: int,
    before_seq: int | None = None,
    *,
    one_a_message: bool = False,
) -> Ranking:
    """The best passages of some threads as one corpus, so that scores of different threads can be compared.

    On request only the best passage of each message.
    """
    words = weigh_words(await decode(b"".join(thread.index for thread in threads)), question.text)
    similarity = None
    if len(words) and question.vector is not None and question.embedder is not None:
        comparison = _Comparison(session, threads, words, question.embedder, question.vector, before_seq)
        await comparison.leave_common_out()
        similarity = await (comparison.exact() if len(words) <= _EXACT_PASSAGES else comparison.two_stage())
    return _ranking(words, question, similarity, partial(best, limit=limit, one_a_message=one_a_message))


async def rank_thread(
    runtime: Runtime,
    session: Session,
    thread: ThreadRecord,
    question: Question,
    limit: int,
    before_seq: int,
    *,
    one_a_message: bool = False,
    only_relevant: bool = False,
) -> Ranking:
    """As `rank_threads`, of one thread, before a seq, and with what is held of it.

    On request only what is worth showing.
    """
    held = await hold(runtime, session, thread, before_seq, question.embedder)
    words = weigh_words(held.corpus, question.text)
    similarity = None
    if len(words) and held.vectors and question.vector is not None and question.embedder is not None:
        vector = held.vectors.asked(question.vector)
        similarity = held.vectors.similarity(vector)
        if held.vectors.are_signs:
            one = [ThreadIndex(thread.pk, thread.id, b"")]
            comparison = _Comparison(session, one, words, question.embedder, vector, before_seq)
            similarity = await comparison.refined(similarity)
    pick_best = partial(best, limit=limit, one_a_message=one_a_message, only_relevant=only_relevant)
    return _ranking(words, question, similarity, pick_best)


def _ranking(
    words: Words, question: Question, similarity: Floats | None, pick_best: Callable[..., list[Hit]]
) -> Ranking:
    if not len(words):
        return Ranking([], reason="nothing_to_search")
    if similarity is None:
        return Ranking(pick_best(words), reason=question.reason)
    pending = int(np.isnan(similarity).sum())
    if pending == len(words):
        return Ranking(pick_best(words), reason="pending", pending=pending)
    return Ranking(pick_best(words, similarity=similarity), "hybrid", "pending" if pending else None, pending)


@dataclass(slots=True)
class _Comparison:
    """The passages of some threads, compared with a query; results in the order of the word index."""

    session: Session
    threads: Sequence[ThreadIndex]
    words: Words
    embedder: EmbedderRecord
    query: Vectors
    before_seq: int | None
    _pks: list[int] = field(init=False)
    _counts: list[int] = field(init=False)

    def __post_init__(self) -> None:
        self._pks = [thread.thread_pk for thread in self.threads]
        one = len(self.threads) == 1
        self._counts = [len(self.words)] if one else [count_documents(thread.index) for thread in self.threads]

    async def leave_common_out(self) -> None:
        """Ask without what all passages have in common."""
        at = self._placed(typical(len(self.words)))
        mean, count = await vector_store.mean_at(self.session, self.embedder, *at)
        self.query = self.query - common_part(mean, count)

    async def exact(self) -> Floats:
        return self._aligned(
            await vector_store.similarities(self.session, self.embedder, self._pks, self.query, self.before_seq)
        )

    async def two_stage(self) -> Floats:
        return await self.refined(
            self._aligned(
                await vector_store.sign_similarities(
                    self.session, self.embedder, self._pks, self.query, self.before_seq
                )
            )
        )

    async def refined(self, estimate: Floats) -> Floats:
        """Estimates by signs; exact for what is likely to be among the best, and for the neighbours it is shown with."""
        sampled = sample(len(estimate))
        documents = best_documents(self.words, _CANDIDATES, estimate)
        near = np.concatenate([documents - 1, documents, documents + 1])
        places = np.union1d(sampled, near[(near >= 0) & (near < len(estimate))])
        exact = await vector_store.similarities_at(self.session, self.embedder, self.query, *self._placed(places))
        similarity = calibrate(estimate, sampled, exact[np.searchsorted(places, sampled)])
        similarity[places] = exact
        return similarity

    def _placed(self, documents: Ints) -> tuple[Ints, Ints, Ints]:
        pks, corpus = np.repeat(self._pks, self._counts), self.words.corpus
        return pks[documents], corpus.seq[documents], corpus.passage[documents]

    def _aligned(self, found: Sequence[ThreadSimilarities]) -> Floats:
        by_thread = {part.thread_pk: part for part in found}
        return np.concatenate(list(self._parts(by_thread)))

    def _parts(self, found: dict[int, ThreadSimilarities]) -> Iterator[Floats]:
        start = 0
        for thread_pk, count in zip(self._pks, self._counts, strict=True):
            end = start + count
            part = found.get(thread_pk)
            if part is None:
                yield np.full(end - start, np.nan)
            else:
                seq, passage = self.words.corpus.seq[start:end], self.words.corpus.passage[start:end]
                yield align(seq, passage, part.seq, part.passage, part.similarity)
            start = end
