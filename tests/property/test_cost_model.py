"""The numbers of the model conversation, as a check of health: a bug in the layout shows here first."""

from __future__ import annotations

import pytest

from tests.property.cost_model import play


@pytest.mark.parametrize(("recall", "read_share"), [(False, 0.90), (True, 0.84)])
def test_a_long_conversation_is_read_from_the_prompt_cache(recall: bool, read_share: float) -> None:
    outcome = play(250, recall=recall)
    assert outcome.read_share >= read_share
    assert outcome.agreement == pytest.approx(1, abs=0.01), "the prediction and the rules disagree"
    assert outcome.trims > 5


def test_recall_costs_little_over_the_lower_bound() -> None:
    outcome = play(250, recall=True)
    assert outcome.over_lower_bound <= 1.45
    assert outcome.cost <= 0.24 * outcome.uncached
