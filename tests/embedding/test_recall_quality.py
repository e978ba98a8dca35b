"""What is looked for is found, on conversations that nobody here wrote. `python -m bench recall` shows the whole tables."""

from __future__ import annotations

import pytest

from bench import corpora
from bench.recall import indexed, locomo_row, other_row
from memory_service.providers.embeddings.builtin import BuiltinEmbedder
from tests.conftest import evaluation_data

# Evidence found among the best 5, 10, 20 and within 1,000, 2,000, 4,000 tokens by a sum of z-scores of BM25 and static
# vectors over turns and windows of three, as published with the evaluation data.
LOCOMO_FLOOR = {"@5": 0.645, "@10": 0.739, "@20": 0.811, "1,000": 0.826, "2,000": 0.875, "4,000": 0.914}
KOREAN_FLOOR = 0.85


@pytest.fixture(scope="module")
def embedder() -> BuiltinEmbedder:
    evaluation_data()
    return BuiltinEmbedder()


def test_evidence_in_long_conversations_is_found(embedder: BuiltinEmbedder) -> None:
    row = locomo_row([indexed(corpus, embedder) for corpus in corpora.locomo()], "both")
    assert {key: row[key] for key, floor in LOCOMO_FLOOR.items() if row[key] < floor} == {}


def test_korean_paraphrases_are_found(embedder: BuiltinEmbedder) -> None:
    korean = [indexed(corpus, embedder) for corpus in corpora.parakqc(every=7)]
    assert other_row([], korean, "both")["paraKQC_@1"] >= KOREAN_FLOOR
