"""The built-in embedder on what people wrote. Bounds lie a little below what was measured (see the model card)."""

from __future__ import annotations

import csv

import numpy as np
import numpy.typing as npt

from memory_service.providers.base import Vectors
from memory_service.providers.embeddings.builtin import BuiltinEmbedder
from tests.conftest import evaluation_data

_EMBEDDER = BuiltinEmbedder()


def wins(ones: Vectors, others: Vectors) -> float:
    """How often a pair scores higher than its first half with another pair's second."""
    similarities = ones @ others.T
    apart = ~np.eye(len(ones), dtype=bool)
    return float((similarities.diagonal()[:, None] > similarities)[apart].mean())


def first_is_right(queries: Vectors, documents: Vectors, gold: npt.NDArray[np.int64]) -> float:
    return float(((queries @ documents.T).argmax(axis=1) == gold).mean())


def test_korean_paraphrases_of_a_question() -> None:
    lines = (evaluation_data() / "korean" / "paraKQC_dev700.txt").read_text(encoding="utf-8").splitlines()
    vectors = _EMBEDDER.embed([line.split("\t")[2] for line in lines])
    documents, queries = vectors[::10], np.concatenate([vectors[n::10] for n in range(1, 10)])
    assert len(documents) == 700
    assert first_is_right(queries, documents, np.tile(np.arange(700), 9)) >= 0.82
    assert wins(documents, vectors[1::10]) >= 0.99


def test_korean_question_pairs() -> None:
    path = evaluation_data() / "korean" / "songys_kor_pair_train.csv"
    with path.open(encoding="utf-8-sig", newline="") as lines:
        same = [row for row in csv.DictReader(lines) if row["is_duplicate"] == "0"][:1500]
    ones, others = (_EMBEDDER.embed([row[column] for row in same]) for column in ("question1", "question2"))
    assert wins(ones, others) >= 0.96


def test_korean_sentence_pairs() -> None:
    lines = (evaluation_data() / "korean" / "KorSTS_sts-train.tsv").read_text(encoding="utf-8").split("\n")[1:]
    rows = [line.split("\t") for line in lines if line]
    ones, others = (_EMBEDDER.embed([row[column] for row in rows]) for column in (5, 6))
    scores = np.array([float(row[4]) for row in rows])
    assert np.corrcoef(np.einsum("ij,ij->i", ones, others), scores)[0, 1] >= 0.5
    alike = np.flatnonzero(scores >= 4)
    assert wins(ones[alike], others[alike]) >= 0.98


def test_english_questions_of_the_same_intent() -> None:
    path = evaluation_data() / "paraphrase" / "banking77_train.csv"
    with path.open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines))[::5]
    vectors = _EMBEDDER.embed([row["text"] for row in rows])
    intents = np.array([row["category"] for row in rows])
    similarities = vectors @ vectors.T
    np.fill_diagonal(similarities, -1)
    assert (intents[similarities.argmax(axis=1)] == intents).mean() >= 0.74
